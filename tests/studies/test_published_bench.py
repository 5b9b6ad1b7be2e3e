"""Each file of `results/bench` has its provenance, and `make bench` repeats every measurement, one part after another."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.name for path in (ROOT / "results" / "bench").iterdir())
FLAG = {"op": "--sizes", "steps": "--models", "awd_lstm": "--models", "target": "--targets", "probe": "--probes"}
FLAG |= {"methods": "--methods", "glm": "--samples", "inference": "--inference"}
PARTS = ["op", "awd-lstm", "target", "probe", "methods", "glm", "inference"]


def commands(target):
    """Return the commands of a target of make, without the creation of the environment."""
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [
        line for line in done.stdout.replace("\\\n", " ").splitlines() if "results/bench" in line or "sparseout bench" in line
    ]


def written(lines):
    """Return the names of the files that commands copy to results/bench."""
    copies = [re.fullmatch(r"cp (.*) results/bench", line) for line in lines]
    files = {Path(file).name for copy in copies if copy for file in copy[1].split()}
    loops = [re.match(r"for part in (.*?);.* results/bench/\$part-provenance\.json", line) for line in lines]
    return files | {f"{part}-provenance.json" for loop in loops if loop for part in loop[1].split()}


def measured(line):
    """Return the parts that a command of the benchmark measures: those whose flag is absent or has a value."""
    words = shlex.split(line)
    empty = {word for word, after in zip(words, [*words[1:], "--"], strict=True) if word[:2] == after[:2] == "--"}
    return {part for part, flag in FLAG.items() if flag not in empty or words.count(flag) > 1}


@pytest.mark.parametrize("part", FLAG)
def test_a_file_of_the_benchmark_has_the_provenance_of_a_command_that_measures_it(part):
    assert f"{part}.csv" in PUBLISHED
    found = json.loads((ROOT / "results" / "bench" / f"{part}-provenance.json").read_text())
    assert part in measured(found["command"])
    assert found["commit"]


def test_the_parts_of_make_bench_are_the_published_files():
    assert "rm " not in "".join(commands("bench"))
    files = [written(commands(f"bench-{part}")) for part in PARTS]
    assert sorted(name for each in files for name in each) == PUBLISHED
    assert written(commands("bench")) == set(PUBLISHED)


@pytest.mark.parametrize("name", PARTS)
def test_a_target_measures_what_it_publishes(name):
    lines = commands(f"bench-{name}")
    (command,) = (line for line in lines if "sparseout bench" in line)
    parts = {file.removesuffix(".csv") for file in written(lines) if file.endswith(".csv")}
    assert {FLAG[part] for part in parts} == {FLAG[part] for part in measured(command)}
