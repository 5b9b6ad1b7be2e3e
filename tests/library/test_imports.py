"""The import of the library is fast, and its files import in one direction, from the studies to the op."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparseout

PACKAGE = Path(sparseout.__file__).parent
# A part may import itself and earlier parts.
ORDER = [
    *("errors", "checks", "extras", "user_code", "notebook", "progress", "torch_internals", "batches", "native", "op", "dial"),
    *("layers", "structured", "schedule"),
    *("metrics", "random_states"),
    *("activations", "function_calls"),
    *("regularizers", "surgery", "glm", "records", "probe", "control", "inference"),
    *("report", "training", "studies", "runs", "bench", "cli"),
]
NEVER = {"report": {"probe", "control"}}  # exceptions: imports that the order would allow
EXTRAS = {
    "accelerate",
    "datasets",
    "docstring_parser",
    "fsspec",
    "IPython",
    "jinja2",
    "lightning",
    "matplotlib",
    "msgspec",
    "onnx",
    "pandas",
    "plotly",
    "pyarrow",
    "ray",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "transformers",
    "triton",
    "tyro",
    "upath",
}
START = "cli.interrupt"  # imported before anything else, so it imports nothing


def modules():
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


NAMES = {name for name, _ in modules()}


def imports_of(path):
    """Yield the package's modules that a file imports anywhere: at its top, in a function, or for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("sparseout."):
            for alias in node.names:
                full = f"{node.module}.{alias.name}".removeprefix("sparseout.")
                yield full if full in NAMES else full.rpartition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.partition(".")[0] == "sparseout")


GRAPH = {name: set(imports_of(path)) - {name} for name, path in modules()}


@pytest.mark.parametrize("name", sorted(NAMES - {"", "__main__"}))
def test_a_file_imports_only_what_lies_below_it(name):
    part = name.partition(".")[0]
    for imported in GRAPH[name] - {""}:
        below = imported.partition(".")[0]
        assert ORDER.index(below) <= ORDER.index(part), f"{name} imports {imported}"
        assert below not in NEVER.get(part, ()), f"{name} imports {imported}"


def test_no_file_imports_itself_through_others():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for imported in sorted(GRAPH[name] - {""}):  # the package itself is imported only for its version
                visit(imported)
            done.add(path.pop())

    for name in sorted(NAMES - {""}):
        visit(name)


def test_the_package_is_imported_for_its_version_and_its_folder_alone():
    uses = [name for name, imported in GRAPH.items() if "" in imported]
    assert set(uses) <= {"cli.main", "records.provenance", "probe.probe"}


def test_what_handles_ctrl_c_imports_nothing_of_the_package():
    assert GRAPH[START] == set()


def test_importing_the_library_needs_torch_alone():
    program = (
        f"import sys, torch; before = set(sys.modules); import sparseout; print(*({EXTRAS!r} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_the_library_draws_nothing():
    program = "import torch; s = torch.get_rng_state(); import sparseout; print(torch.equal(s, torch.get_rng_state()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
