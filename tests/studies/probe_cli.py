"""`sparseout probe` as a function, and a pickle that would betray its execution."""

from pathlib import Path

from sparseout.cli.main import main


def probe(capsys, *arguments):
    code = main(["probe", *map(str, arguments)])
    return code, *capsys.readouterr()


def refused(capsys, *arguments):
    """Run a command that must fail, and return its one-line message."""
    code, _, err = probe(capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1), err
    return err.removeprefix("sparseout: ").rstrip()


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def copied(folder, to):
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to
