"""Importing the library is light, and its files import one way: from the op toward the studies."""

import ast
import subprocess
import sys
from pathlib import Path

import sparseout

PACKAGE = Path(sparseout.__file__).parent
# A later line may import an earlier one.
ORDER = [
    "checks",
    "extras",
    "batches",
    "reference",
    "kernels",
    "derivatives",
    "expression",
    "operators",
    "running",
    "dtensor",
    "functional",
    "layers",
    "structured",
    "schedule",
    "metrics",
    "surgery",
    "errors",
    "records",
    "probe",
    "target",
    "glm",
    "report",
    "studies",
    "probing",
    "bench",
    "cli",
    "__main__",
]
EXTRAS = {
    "accelerate",
    "datasets",
    "docstring_parser",
    "fsspec",
    "jinja2",
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
    "statsmodels",
    "transformers",
    "triton",
    "tyro",
    "upath",
}


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sparseout":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "sparseout"]
        for name in names:
            yield name.split(".")[1] if "." in name else "__init__"


def test_imports_run_one_way():
    for path in PACKAGE.rglob("*.py"):
        part = part_of(path)
        if part == "__init__":
            continue
        assert part in ORDER, f"{path.name} has no place in the order"
        for imported in imported_parts(path):
            if imported in ORDER:
                assert ORDER.index(imported) <= ORDER.index(part), f"{path} imports {imported}"


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
