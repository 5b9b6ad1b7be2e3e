"""What `make release-check` runs: every check of a release, and a table with the result and the seconds of each, then the
files in dist/ with their tags and sizes.

Checks that are named on the command line run alone. The output of each check is in `build/release-check/NAME.log`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "build" / "release-check"
BIN = Path(sys.executable).parent
PYTEST = f"{BIN}/python -m pytest -q -n 2 --dist loadfile"
CHECKS = {
    "lint": f"{BIN}/ruff check && {BIN}/ruff format --check",
    "types": f"{BIN}/mypy",
    "version": "",  # see `version_problems`
    "citation": f"{BIN}/cffconvert --validate",
    "pyproject": f"{BIN}/validate-pyproject pyproject.toml",
    "workflows": f"{BIN}/zizmor --offline --persona=pedantic .github",
    "docs": "make docs",
    "tests": PYTEST,
    "wheels": "make wheels",
    "twine": f"{BIN}/twine check --strict dist/*",
    "wheel-contents": f"{BIN}/check-wheel-contents dist/*.whl",
    "distcheck": f"{BIN}/pydistcheck dist/*",
    "installed": f"{PYTEST} -m slow tests/release",
}


def version() -> str:
    """Return the version, which stands in one place."""
    return re.findall(r'^__version__ = "(.+)"$', (ROOT / "src/sparseout/__init__.py").read_text(), re.MULTILINE)[0]


def version_problems(tag: str | None) -> list[str]:
    """Return what disagrees with the version: the citation, the changelog, and the tag if there is one."""
    found, problems = version(), []
    citation = (ROOT / "CITATION.cff").read_text()
    if f"\nversion: {found}\n" not in citation:
        problems.append(f"CITATION.cff must have the line 'version: {found}'")
    if not re.search(rf"^## {re.escape(found)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE):
        problems.append(f"CHANGELOG.md must have a section '## {found}'")
    if tag is not None and tag != f"v{found}":
        problems.append(f"the tag must be v{found}, got {tag}")
    return problems


def run(name: str, tag: str | None) -> bool:
    """Run a check, write its output to its log, and return whether it passed."""
    log = LOGS / f"{name}.log"
    if name == "version":
        problems = version_problems(tag)
        log.write_text("".join(f"{problem}\n" for problem in problems))
        return not problems
    with log.open("w") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(CHECKS[name], shell=True, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
    return done.returncode == 0


def main() -> int:
    """Run the checks and return the exit code: 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", help="the tag of the release, such as v0.1.0")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(CHECKS)}; default: all")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(CHECKS)
    if unknown:
        parser.error(f"a check must be one of {', '.join(CHECKS)}, got {', '.join(sorted(unknown))}")
    LOGS.mkdir(parents=True, exist_ok=True)
    failed = []
    print(f"sparseout {version()}\n\n{'check':16}{'result':10}{'seconds':>8}")
    for name in arguments.names or CHECKS:
        start = time.perf_counter()
        passed = run(name, arguments.tag)
        print(f"{name:16}{'passed' if passed else 'FAILED':10}{time.perf_counter() - start:8.1f}", flush=True)
        if not passed:
            failed.append(name)
    for file in sorted((ROOT / "dist").glob("*")):
        print(f"\n{file.name}: {file.stat().st_size / 1e6:.2f} MB", end="")
    print()
    for name in failed:
        log = LOGS / f"{name}.log"
        print(f"\n{log.relative_to(ROOT)}:", *log.read_text().splitlines()[-15:], sep="\n")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
