"""Typos on the command line: one line names the closest flag or command, and the usage is that of the command alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseout.cli.main import main
from sparseout.cli.mistakes import explain

COMMANDS = {"probe": (), "study": ("autoencoder", "image"), "results": ()}
HELP = "usage: sparseout X [-h]\n\nText.\n│ --score NAME  the score │\n│ --tensorboard, --no-tensorboard │\n"


def printed(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    return err.splitlines()


@pytest.mark.parametrize(
    ("command", "message", "usage"),
    [
        (
            "study autoencoder --epohcs 3",
            "unknown option --epohcs: did you mean --epochs?",
            "study autoencoder [-h] [AUTOENCODER",
        ),
        (
            "study autoencoder --epohcs=3",
            "unknown option --epohcs: did you mean --epochs?",
            "study autoencoder [-h] [AUTOENCODER",
        ),
        ("study autoencoder --zzz 3 --q 2", "unknown option --zzz", "study autoencoder [-h]"),
        (
            "study autoencoder --sed 1 --epohcs 3",
            "unknown option --sed: did you mean --seed?; unknown option --epohcs: did you mean --epochs?",
            "study autoencoder [-h]",
        ),
        ("study autoencoder extra", "Unrecognized options: extra", "study autoencoder [-h]"),
        ("study autoencodr", "unknown command autoencodr: did you mean autoencoder?", "study [-h] {autoencoder,image,"),
        ("study --q 2", "unknown option --q", "study [-h] {autoencoder,image,"),
        ("stud", "unknown command stud: did you mean study?", "[-h] {probe,study,sweep,"),
        ("--versoin", "unknown option --versoin: did you mean --version?", "[-h] {probe,study,sweep,"),
        ("results x --scor f1", "unknown option --scor: did you mean --score?", "results [-h] [RESULTS OPTIONS]"),
        ("probe --hmtl x", "unknown option --hmtl: did you mean --html?", "probe [-h] [PROBE OPTIONS] TARGET"),
    ],
)
def test_a_typo(command, message, usage, capsys):
    first, second = printed(capsys, *command.split())
    assert first == f"sparseout: {message}"
    assert second.startswith(f"usage: sparseout {usage}")


@pytest.mark.usefixtures("here")
def test_a_typo_in_a_study_of_the_user(capsys):
    first, second = printed(capsys, "study", "lab.rings:STUDY", "--hiden-size", "3")
    assert first == "sparseout: unknown option --hiden-size: did you mean --hidden-size?"
    assert second.startswith("usage: sparseout study lab.rings:STUDY [-h] [")


@given(
    arguments=st.lists(st.one_of(st.sampled_from(["study", "image", "probe", "--score", "--scor", "--"]), st.text()), max_size=4)
)
def test_any_command_line_is_explained_in_at_most_two_lines(arguments):
    message, *usage = explain("+-- Error --+\n| Unrecognized options |\n", arguments, COMMANDS, lambda words: HELP)
    assert message
    assert usage == ["usage: sparseout X [-h]"]


def test_a_known_flag_is_no_mistake_whatever_its_spelling():
    for flag in ("--score", "--tensorboard", "--no-tensorboard", "--no_tensorboard", "--score=x"):
        assert explain("+-- Error --+\n| Missing value |\n", ["results", flag], COMMANDS, lambda words: HELP) == ["Missing value"]
