"""The page about studies of one's own: its code is a study, and its commands run."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image

from sparseout.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "your-study.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A current folder with the page's files, and with images: bright ones, and dark ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (code, _, _), (sweep,) = blocks("python"), blocks("toml")
    Path("photos.py").write_text(code)
    Path("photos.toml").write_text(sweep)
    draws = numpy.random.default_rng(0)
    for name, brightness in (("day", 160), ("night", 60)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(25):
            pixels = draws.normal(brightness, 40, (40, 48, 3)).clip(0, 255).astype(numpy.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    yield tmp_path
    sys.modules.pop("photos", None)


def test_the_code_is_short():
    code, *_ = blocks("python")
    assert sum(bool(line.strip()) for line in code.splitlines()) < 70
    lines = re.sub(r'""".*?"""', "", code, flags=re.DOTALL).splitlines()
    assert sum(bool(line.strip()) for line in lines) < 60


@pytest.mark.slow
def test_the_commands_of_the_page_run(photos, capsys):
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "sparseout"
        assert main(arguments) == 0, command
    for folder, count in (("photos", 6), ("targets", 2), ("regularizers", 3), ("sweep", 4)):
        records = [json.loads(line) for line in (photos / "runs" / folder / "results.jsonl").read_text().splitlines()]
        assert len(records) == count
        assert all(record["accuracy"] > 0.9 for record in records if record["regularizer"] == "sparseout"), folder
    assert capsys.readouterr().out.count("none") >= 6  # no difference from the records


def test_the_score_of_the_page_is_recorded_and_compared(photos, capsys):
    code, better, scores = blocks("python")
    first = next(line for line in code.splitlines(keepends=True) if line.lstrip().startswith("study: ClassVar"))
    code = code.replace(first, first + better)
    Path("photos.py").write_text(code[: code.index("STUDY = ")] + scores)
    assert main(["study", "photos:STUDY", "--data-dir", "images", "--q", "2", "--seed", "0", "--epochs", "2"]) == 0
    (record,) = [json.loads(line) for line in Path("runs/photos/results.jsonl").read_text().splitlines()]
    assert record["scores"] == {"f1": "higher"}
    assert 0 <= record["f1"] <= 1
    capsys.readouterr()
    assert main(["results", "runs/photos", "--score", "f1"]) == 0
    assert " f1 " in capsys.readouterr().out.splitlines()[0]
