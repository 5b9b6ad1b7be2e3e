"""The command as a user runs it: real processes, which are really killed."""

import json
import signal
import subprocess
import sys
import time

import pytest
from made import published_numbers, summary

from sparseout.cli.main import main
from sparseout.studies.autoencoder import AutoencoderConfig

FAST = ["--q", "1", "2", "--seed", "0", "1", "--hidden-size", "32", "--epochs", "40"]


def start(*arguments, **options):
    command = [sys.executable, "-c", "from sparseout.cli.main import main; raise SystemExit(main())", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_epochs(out, count):
    """Wait until the study is in its second run or later, and that run has `count` epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        histories = list(out.glob("*/metrics.jsonl"))
        if len(histories) >= 2 and len(max(histories, key=lambda path: path.stat().st_mtime).read_text().splitlines()) >= count:
            return
        time.sleep(0.005)
    pytest.fail("the study made no progress")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    code, printed, err = run("study", "autoencoder", *FAST, "--out", out)
    assert code == 0, err
    return out, printed


def test_the_table_and_where_the_report_is(uninterrupted):
    out, printed = uninterrupted
    header = next(line for line in printed.splitlines() if "Hoyer" in line)
    for column in ("q", "seeds", "test loss", "Hoyer ± std", "zeros", "RMS", "seconds"):
        assert column in header
    assert str(out / "report.html") in printed


def test_killed_twice_it_ends_with_the_same_numbers(uninterrupted, tmp_path):
    out = tmp_path / "out"
    for epochs in (10, 20):
        process = start("study", "autoencoder", *FAST, "--out", out)
        wait_for_epochs(out, epochs)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not (out / "report.html").exists()
    assert list(out.glob("*/checkpoint.safetensors"))
    code, _, err = run("study", "autoencoder", *FAST, "--out", out)
    assert code == 0, err
    assert published_numbers(out) == published_numbers(uninterrupted[0])


def test_ctrl_c_keeps_complete_runs_and_says_how_to_resume(tmp_path):
    out = tmp_path / "out"
    # A test run in the background ignores the signal, and so would its children.
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start("study", "autoencoder", *FAST, "--out", out, **heed)
    wait_for_epochs(out, 5)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 4 runs are complete" in printed
    assert "The same command resumes the others." in " ".join(printed.split())
    assert "Traceback" not in err
    assert len(published_numbers(out)) >= 1


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path):
    rows = [summary(AutoencoderConfig(seed=seed)) for seed in range(5000)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = f"{sys.executable} -m sparseout results {tmp_path} --runs | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run ")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sparseout 0.")


@pytest.mark.parametrize("arguments", [["--help"], ["study", "--help"], ["study", "autoencoder", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "usage: sparseout" in capsys.readouterr().out


def test_help_names_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--version" in capsys.readouterr().out


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        main(["study", "autoencoder", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "--q FLOAT ...",
        "2 is Dropout",
        "--data-dir DIR",
        "--gradient detached|exact ...",
        "units of the hidden layer",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--q", "-1"], "sparseout: q must be a finite norm of at least 0, got -1.0"),
        (["--p", "1.5"], "sparseout: p must be a drop probability in [0, 1], got 1.5"),
        (["--dataset", "cifar"], "sparseout: dataset must be one of 'digits', 'mnist', got 'cifar'"),
        (["--q"], "sparseout: q needs at least one value"),
        (["--device", "abacus"], "sparseout: device 'abacus' cannot be used: "),
        (
            ["--dataset", "mnist", "--data-dir", "nowhere"],
            "sparseout: --data-dir must hold train*.parquet or mnist/train*.parquet",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(flags, message, tmp_path, capsys):
    assert main(["study", "autoencoder", *flags, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.glob("out/*/config.json"))


def test_a_folder_that_holds_something_else(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(["study", "autoencoder", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("sparseout: --out must be a new folder")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("flags", [["--q", "two"], ["--epochs", "1.5"], ["--colour", "red"]])
def test_flags_that_cannot_be_parsed(flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["study", "autoencoder", *flags, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_prints_the_line_that_installs_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["study", "--help"]) == 2
    assert capsys.readouterr().err == "sparseout: this command needs tyro: pip install 'sparseout[studies]'\n"


def test_a_run_that_diverged_is_in_the_table_and_the_report(tmp_path, capsys):
    flags = ["--q", "2", "--seed", "0", "--hidden-size", "8", "--epochs", "1", "--lr", "1e30", "--device", "cpu"]
    assert main(["study", "autoencoder", *flags, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results.jsonl").read_text())["test_loss"] is None
    assert (tmp_path / "report.html").exists()
    assert "Report: " in capsys.readouterr().out
