"""Checks an installed sparseout, and prints as JSON what it found. Run it with the interpreter that it is installed for.

It exits with 1 if the results are wrong or more than one OpenMP runtime is loaded; with `--kernel`, also if there is no kernel.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import torch

import sparseout
from sparseout.native.library import LIBRARY
from sparseout.op.backends import choose

OPENMP = re.compile(r"/lib(?:gomp|i?omp\d*)[^/]*\.(?:so|dylib)[^/]*$")


def openmp_runtimes():
    """Return the OpenMP runtimes in this process, or None where the system has no list of mapped files."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    files = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted({str(Path(file).resolve()) for file in files if OPENMP.search(file)})


def main():
    """Print the report and return the exit code."""
    x = torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))
    y, reference = (
        sparseout.sparseout(x, 0.5, 1.5, generator=torch.Generator().manual_seed(1), backend=backend)
        for backend in (None, "reference")
    )
    report = {
        "file": sparseout.__file__,
        "compiler": shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"),
        "has_kernel": LIBRARY is not None,
        "used": choose(x),
        "agrees": torch.allclose(y, reference, rtol=1e-5, atol=1e-6),
        "openmp": openmp_runtimes(),
        "backends": repr(sparseout.backends()).splitlines(),
    }
    print(json.dumps(report))
    correct = report["agrees"] and len(report["openmp"] or ()) <= 1
    return int(not correct or ("--kernel" in sys.argv and report["used"] != "cpu"))


if __name__ == "__main__":
    raise SystemExit(main())
