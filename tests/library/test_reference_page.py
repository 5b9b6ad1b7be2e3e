"""The API reference names every public thing, with its signature and what its docstring says first."""

import inspect
import re
from pathlib import Path

import pytest

import sparseout
from sparseout import control, glm, metrics, probe, schedule, surgery

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
MODULES = {
    "sparseout": sparseout,
    "sparseout.glm": glm,
    "sparseout.probe": probe,
    "sparseout.schedule": schedule,
    "sparseout.surgery": surgery,
    "sparseout.metrics": metrics,
    "sparseout.control": control,
}


def public(module):
    """The functions and classes that a module offers, but for those that `sparseout` itself offers too."""
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    things = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {
        name: thing
        for name, thing in things.items()
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and (module is sparseout or name not in sparseout.__all__)
    }


def entry(name, thing):
    parameters = inspect.signature(thing).parameters.values()
    signature = inspect.Signature([each.replace(annotation=inspect.Parameter.empty) for each in parameters])
    return f"- `{name}{signature}`: {inspect.getdoc(thing).splitlines()[0]}"


def sections():
    text = PAGE.read_text()
    parts = re.split(r"^## `(.*)`$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("module", MODULES)
def test_the_page_says_what_the_code_says(module):
    if module == "sparseout.glm":
        pytest.importorskip("sklearn")
    expected = [entry(name, thing) for name, thing in public(MODULES[module]).items()]
    assert sorted(re.findall(r"^- .*$", sections()[module], flags=re.MULTILINE)) == sorted(expected)


def test_every_public_name_of_the_package_is_on_the_page():
    modules = {f"sparseout.{name}" for name in sparseout.__all__ if inspect.ismodule(getattr(sparseout, name))}
    assert modules <= set(MODULES) == set(sections())
