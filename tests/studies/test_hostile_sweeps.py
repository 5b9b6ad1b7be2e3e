"""A sweep file that cannot be read ends the command in one line that names the file."""

import pytest
from garbage import DEEP, GARBAGE, run

NAMES = ("q", "seed", "hidden_size", "dataset", "regularizer", "scale")
WRONG = ("[[1]]", "{a = 1}", "[{a = 1}]", "1979-05-27", "0x" + "f" * 5000, "1e400", "nan", '""', "[true, []]")
TABLES = [f'study = "autoencoder"\n{name} = {value}\n' for name in NAMES for value in WRONG]
SWEEPS = [
    *(text.encode() for text in TABLES),
    *(f"study = {value}".encode() for value in ('["autoencoder"]', "{}", "3", "nan", '"x"', "[[]]", "1979-05-27")),
    *(f'study = "autoencoder"\npreset = {value}'.encode() for value in ('["quick"]', "{}", "3", '"x"', "[[]]")),
    b'study = "autoencoder"\nq = ' + b"[" * DEEP + b"]" * DEEP,
    b'study = "autoencoder"\n[q' + b".a" * DEEP + b"]\nb = 1",
    b'study = "autoencoder"\nq = 1\nq = 2',
    b'study = "autoencoder"\nq = ' + b"9" * 5000,
    b'study = "autoencoder"\nseed = ' + b"9" * 30,
    b'study = "autoencoder"\n"" = 3',
    b'study = "autoencoder"\n"a\\nb" = 3',
    b'study = "autoencoder"\n[[q]]\na = 1',
    b'study = "autoencoder"\n"\xff" = 3',
    b'study = "autoencoder"\0',
    *(content for kind, content in GARBAGE.items()),
]


@pytest.mark.parametrize("content", SWEEPS, ids=range(len(SWEEPS)))
def test_garbage_in_a_sweeps_file_is_refused_by_name(content, tmp_path, capsys):
    file = tmp_path / "sweep.toml"
    file.write_bytes(content)
    code, out, err = run(capsys, "sweep", file, "--out", tmp_path / "out", "--dry-run")
    assert (code, out) == (2, "")
    assert err.startswith(f"sparseout: {file}")
    assert err.count("\n") == 1
    assert len(err) < 500 + len(str(file))


def test_a_grid_of_more_runs_than_any_machine_has_is_refused_at_once(tmp_path, capsys):
    file = tmp_path / "sweep.toml"
    axis = ", ".join(map(str, range(1, 201)))
    file.write_text(f'study = "autoencoder"\nq = 1\nseed = [{axis}]\nhidden_size = [{axis}]\nepochs = [{axis}]\n')
    code, _, err = run(capsys, "sweep", file, "--dry-run", "--out", tmp_path / "out")
    assert (code, err) == (2, f"sparseout: {file}: a sweep takes at most 1,000,000 runs, got 8,000,000\n")
