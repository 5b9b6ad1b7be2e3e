"""Each `sparseout` command that a page shows is one that the command line accepts; nothing is run."""

import shlex
from pathlib import Path

import pytest
import tyro

from sparseout.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/tutorials").glob("*.md"))]
OF_A_READER = ("photos:STUDY", "finetune:STUDY")  # modules that test_your_study_page.py and test_finetune_example.py run


def commands(text):
    """Return the arguments of each command that is a line of code."""
    lines, fenced = [], False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        if fenced or line.startswith("    "):
            words = shlex.split(line, comments=True) if "sparseout " in line and "'" not in line.split("#")[0] else []
            start = next((place for place, word in enumerate(words) if word == "sparseout"), len(words))
            if start == 0 or words[start - 1] == "-m" or words[:1] == ["srun"]:
                lines.append(words[start + 1 :])
    return [words for words in lines if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_accepted(page, monkeypatch, capsys):
    parse = tyro.extras.SubcommandApp.cli

    def only_parse(self, **options):
        parse(self, **options)
        return lambda: 0

    monkeypatch.setattr(tyro.extras.SubcommandApp, "cli", only_parse)
    for words in commands(page.read_text()):
        if not set(words) & set(OF_A_READER):
            assert main(words) == 0, (words, capsys.readouterr().err)


def test_commands_are_found():
    assert sum(len(commands(page.read_text())) for page in PAGES) > 40
    assert commands("    torchrun -m sparseout study image # x\n\nsparseout study language") == [["study", "image"]]


def test_a_wrong_flag_is_not_accepted(capsys):
    with pytest.raises(SystemExit):
        main(["study", "autoencoder", "--no-such-flag"])
    assert "no-such-flag" in capsys.readouterr().err
