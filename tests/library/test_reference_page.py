"""The API reference lists every public name, with its signature and the first line of its docstring.

Run this file to rewrite the entries of the page.
"""

import inspect
import re
from pathlib import Path

import pytest

import sparseout
from sparseout import control, glm, inference, metrics, probe, regularizers, schedule, surgery

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
MODULES = {
    "sparseout": sparseout,
    "sparseout.glm": glm,
    "sparseout.probe": probe,
    "sparseout.schedule": schedule,
    "sparseout.surgery": surgery,
    "sparseout.metrics": metrics,
    "sparseout.control": control,
    "sparseout.regularizers": regularizers,
    "sparseout.inference": inference,
}
SECTION = re.compile(r"^## `(.*)`$", re.MULTILINE)


def public_objects(module):
    """Return the public functions and classes of a module, without those that `sparseout` itself exports."""
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    objects = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {
        name: value
        for name, value in objects.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and (module is sparseout or name not in sparseout.__all__)
    }


def entry(name, value):
    parameters = inspect.signature(value).parameters.values()
    signature = inspect.Signature([each.replace(annotation=inspect.Parameter.empty) for each in parameters])
    return f"- `{name}{signature}`: {inspect.getdoc(value).splitlines()[0]}"


def entries(module):
    return sorted(entry(name, value) for name, value in public_objects(MODULES[module]).items())


def sections():
    _, *parts = SECTION.split(PAGE.read_text())
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rewrite():
    """Replace the entries of each section, and keep the text above them."""
    head, *parts = SECTION.split(PAGE.read_text())
    text = head
    for module, section in zip(parts[::2], parts[1::2], strict=True):
        introduction = section.split("\n- ")[0].strip()
        text += f"## `{module}`\n\n{introduction}\n\n" + "\n".join(entries(module)) + "\n\n"
    PAGE.write_text(text.rstrip() + "\n")


@pytest.mark.parametrize("module", MODULES)
def test_the_entries_match_the_signatures_and_docstrings(module):
    if module == "sparseout.glm":
        pytest.importorskip("sklearn")
    assert sorted(re.findall(r"^- .*$", sections()[module], flags=re.MULTILINE)) == entries(module)


def test_every_public_module_has_a_section():
    modules = {f"sparseout.{name}" for name in sparseout.__all__ if inspect.ismodule(getattr(sparseout, name))}
    assert modules <= set(MODULES) == set(sections())


if __name__ == "__main__":
    rewrite()
