"""A command that a signal, a full disk or a read-only folder stops prints one line, loses nothing and leaves nothing behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparseout.cli.main import main
from sparseout.records import files
from sparseout.runs import executors
from sparseout.runs.options import RunOptions
from sparseout.studies.autoencoder import STUDY, AutoencoderConfig
from sparseout.training.folders import StudyFolder

STUDY_FLAGS = ["--q", "1", "2", "--seed", "0", "1", "--hidden-size", "64", "--epochs", "400", "--device", "cpu"]


def start(*arguments, command=("-m", "sparseout")):
    def heed():  # a test in the background ignores Ctrl-C, and so would its children
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    words = [sys.executable, *command, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def alive(process):
    """The processes of its group that have not ended."""
    listed = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()[1:]]
    return [int(pid) for pid, group, state in rows if int(group) == process.pid and "Z" not in state]


def wait_until(found):
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


COMMANDS = [
    ["-m", "sparseout"],
    ["-W", "ignore", "-m", "sparseout"],
    ["-c", "from sparseout.cli.main import main; raise SystemExit(main())"],
    [str(Path(sys.executable).with_name("sparseout"))],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_ctrl_c_while_torch_is_imported_is_one_line(command, tmp_path):
    if not command[0].startswith("-") and not Path(command[0]).exists():
        pytest.skip("the command is not installed beside this Python")
    process = start("study", "autoencoder", "--out", tmp_path / "out", command=command)
    with open(f"/proc/{process.pid}/maps") as maps:
        wait_until(lambda: maps.seek(0) or "libtorch_cpu" in maps.read())
    process.send_signal(signal.SIGINT)
    printed, error = process.communicate(timeout=60)
    assert (process.returncode, printed, error) == (130, "", "sparseout: stopped\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["the children start", "the runs train"])
def test_ctrl_c_with_several_jobs_is_one_line_and_no_failure(when, tmp_path):
    out = tmp_path / "out"
    process = start("study", "autoencoder", *STUDY_FLAGS, "--out", out, "--jobs", "2")
    wait_until(lambda: len(alive(process)) == 3 if when == "the children start" else any(out.glob("*/metrics.jsonl")))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes
    printed, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (130, "")
    assert printed.splitlines()[-1].startswith("Stopped: 0 of 4 runs are complete in ")
    assert alive(process) == []
    assert not list(out.rglob("failure.json"))
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_children_end_with_a_process_that_is_terminated(tmp_path):
    process = start("study", "autoencoder", *STUDY_FLAGS, "--out", tmp_path / "out", "--jobs", "2")
    wait_until(lambda: any(tmp_path.glob("out/*/metrics.jsonl")))
    process.terminate()
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (-signal.SIGTERM, "")
    wait_until(lambda: not alive(process))
    assert not list(tmp_path.rglob("failure.json"))


def children_are(monkeypatch, code):
    """Let each child of a sweep execute `code` instead of its run."""
    monkeypatch.setattr(executors, "child_command", lambda config, options: [sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("import os; os.kill(os.getpid(), 9)", "died of signal 9, as when memory runs out"),
        ("import os; os.kill(os.getpid(), 15)", "died of signal 15"),
        ("raise SystemExit('no such device')", "ended with exit code 1: no such device"),
    ],
)
def test_a_child_that_dies_fails_its_run_and_the_reason_is_recorded(code, end, tmp_path, monkeypatch):
    children_are(monkeypatch, code)
    folder = StudyFolder(tmp_path, "autoencoder")
    folder.open()
    (config,) = STUDY.grid({"seed": (0,), "q": (2.0,)})
    _, (running, started, ended, failure) = executors.in_processes([config], RunOptions(tmp_path), 1, lambda *_: None)
    assert (running, started, ended) == (0, None, config)
    assert re.fullmatch(rf"its process \(\d+\) {end}", failure.reason)
    (record,) = folder.failures()
    assert (record["reason"], record["command"]) == (failure.reason, failure.command)


def test_a_childs_warnings_and_its_reason_are_passed_on(tmp_path, monkeypatch, capsys):
    print_both = "import sys; print('sparseout: warning: slow', 'no data', sep='\\n', file=sys.stderr); sys.exit(3)"
    children_are(monkeypatch, print_both)
    (config,) = STUDY.grid({"seed": (0,), "q": (2.0,)})
    _, event = executors.in_processes([config], RunOptions(tmp_path), 1, lambda *_: None)
    assert (event.failure.reason, capsys.readouterr().err) == ("no data", "sparseout: warning: slow\n")


def test_a_child_that_receives_ctrl_c_interrupts_the_sweep(tmp_path, monkeypatch):
    children_are(monkeypatch, "raise SystemExit(130)")
    events = executors.in_processes(STUDY.grid({"seed": (0, 1, 2)}), RunOptions(tmp_path), 2, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        list(events)
    assert not list(tmp_path.rglob("failure.json"))


def test_closing_the_events_ends_the_children_and_records_no_failure(tmp_path, monkeypatch):
    children_are(monkeypatch, "import time; time.sleep(600)")
    before = children()
    events = executors.in_processes(STUDY.grid({"seed": (0, 1, 2)}), RunOptions(tmp_path), 2, lambda *_: None)
    assert [next(events).running for _ in range(2)] == [1, 2]
    assert len(children() - before) == 2
    events.close()
    assert not children() - before
    assert not list(tmp_path.rglob("failure.json"))


def children():
    found = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=False)
    return set(found.stdout.split())


def test_a_child_ends_when_its_standard_input_closes(tmp_path):
    """As it does when the parent ends, however that happens."""
    code = "from sparseout.runs import executors, run; import time; executors.run_one = lambda *_: time.sleep(600)\n"
    child = subprocess.Popen([sys.executable, "-c", f"{code}executors.run_as_child(None, None, None)"], stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.1)
    child.stdin.close()
    assert child.wait(60) == 1


def test_ctrl_c_before_a_sweep_begins_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyFolder, "complete", interrupt)
    assert main(["study", "autoencoder", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "sparseout: stopped\n"


@contextlib.contextmanager
def small_disk(folder, size):
    """A disk of its own at `folder`."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        yield lambda option: subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


ONE = ["study", "autoencoder", "--q", "2", "--seed", "0", "--hidden-size", "64", "--epochs", "1", "--device", "cpu"]


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, capsys):
    with small_disk(tmp_path / "disk", "64k") as remount:
        out = tmp_path / "disk" / "out"
        assert main([*ONE, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"sparseout: {out}/")
        assert error.endswith(": No space left on device\n")
        assert error.count("\n") == 1
        assert not list(out.rglob("*.part"))
        remount("size=20m")
        assert main([*ONE, "--out", str(out)]) == 0
        assert not list(out.rglob("failure.json"))


def test_a_read_only_folder_is_one_line(tmp_path, capsys):
    with small_disk(tmp_path / "disk", "1m") as remount:
        remount("ro")
        for arguments in (
            [*ONE, "--out", f"{tmp_path}/disk/out"],
            ["theorem", "--experiments", "convergence", "--out", f"{tmp_path}/disk/out"],
            ["bench", "--sizes", "64", "--out", f"{tmp_path}/disk/out"],
        ):
            assert main(arguments) == 2
            error = capsys.readouterr().err
            wanted = "sparseout: --out must be a folder that can be written: "
            assert error == f"{wanted}{tmp_path}/disk/out: Read-only file system\n"


def test_an_exception_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    for error in (OSError("no number"), RuntimeError("a bug"), ValueError("a bug")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(StudyFolder, "complete", fail)
        with pytest.raises(type(error)):
            main([*ONE, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_a_lack_of_memory_is_one_line(error, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(StudyFolder, "complete", fail)
    assert main([*ONE, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("sparseout: there is not enough memory: ")


WRITER = """
import importlib.util, os, pathlib, signal, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])  # alone, without torch
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
os.fsync = lambda _: {}
files.write_atomic(pathlib.Path(sys.argv[2]), b"half")
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def written_half(path, end, **options):
    """A process that writes `path` and does `end` when the bytes are written, before the file is whole."""
    return subprocess.Popen([sys.executable, "-c", WRITER.format(end), files.__file__, str(path)], text=True, **options)


def test_what_a_killed_process_left_half_written_goes_at_once(tmp_path):
    run = StudyFolder(tmp_path, "autoencoder").run(AutoencoderConfig())
    run.open()
    written_half(run.path / "weights.safetensors", KILLED).wait()
    written_half(tmp_path / "report.html", KILLED).wait()
    assert len(list(tmp_path.rglob("*.part"))) == 2
    run.open()
    files.write_atomic(tmp_path / "report.html", b"whole")
    assert not list(tmp_path.rglob("*.part"))


def test_what_a_living_process_writes_stays(tmp_path):
    path = tmp_path / "report.html"
    writer = written_half(path, "(print('written', flush=True), signal.pause())", stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == "written\n"
        files.write_atomic(path, b"whole")
        files.remove_stale_parts(tmp_path)
        assert len(list(tmp_path.glob(".report.html.*.part"))) == 1
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    files.remove_stale_parts(tmp_path)
    assert not list(tmp_path.glob(".*.part"))


def test_a_later_process_of_the_same_number_is_another(tmp_path):
    own = f"{files._machine()}-{os.getpid()}"
    left = tmp_path / f".report.html.{own}-1-abcdefgh.part"
    mine = tmp_path / f".report.html.{own}-{files._started(os.getpid())}-abcdefgh.part"
    elsewhere = tmp_path / f".report.html.00000000-{os.getpid()}-1-abcdefgh.part"
    for part in (left, mine, elsewhere):
        part.touch()
    files.remove_stale_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere])


def test_a_study_folder_that_was_begun_and_killed_is_no_other_folder(tmp_path):
    written_half(tmp_path / "study.json", KILLED).wait()
    StudyFolder(tmp_path, "autoencoder").open()
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def published_record():
    file = Path(__file__).parents[2] / "results" / "autoencoder-mnist" / "results.jsonl"
    return file.read_text().splitlines(keepends=True)[0]


def test_a_terminal_without_umlauts_of_20_columns_and_no_home(tmp_path):
    environment = {"PYTHONIOENCODING": "ascii", "COLUMNS": "20", "HOME": "/nowhere"}
    folder = tmp_path / "größe"
    folder.mkdir()
    (folder / "results.jsonl").write_text(published_record())
    command = [sys.executable, "-m", "sparseout", "results", str(folder), "--csv", str(folder / "runs.csv")]
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"1 runs: ")


def test_a_closed_standard_output_is_no_traceback(tmp_path):
    (tmp_path / "results.jsonl").write_text(published_record())
    script = f"{sys.executable} -m sparseout results {tmp_path} --csv {tmp_path}/runs.csv >&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "runs.csv").exists()
