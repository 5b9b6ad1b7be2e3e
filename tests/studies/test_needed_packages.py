"""The extra `studies` is all that a study needs."""

import subprocess
import sys

NOT_NEEDED = (
    "datasets",
    "pandas",
    "pyarrow",
    "statsmodels",
    "transformers",
    "ray",
    "triton",
    "playwright",
    "hypothesis",
    "onnx",
    "pytest",
)
PROGRAM = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *path: None if name in {names!r} else find(name, *path)
from sparseout.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_the_autoencoder_on_the_digits_needs_no_other_extra(tmp_path):
    flags = ["--dataset", "digits", "--q", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--device", "cpu"]
    command = [sys.executable, "-c", PROGRAM.format(names=NOT_NEEDED), "study", "autoencoder", *flags, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (tmp_path / "report.html").exists()
