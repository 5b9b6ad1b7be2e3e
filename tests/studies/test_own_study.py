"""A study in a stranger's package: named on the command line and in a sweep file, trained, killed, resumed, evaluated."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import stranger
from made import published_numbers

from sparseout.cli.main import main
from sparseout.runs.executors import SweepOptions
from sparseout.runs.load import load_run
from sparseout.runs.options import RunOptions
from sparseout.studies.registry import RESERVED, STUDIES, find_study

NAME = "lab.rings:STUDY"


def run(*arguments):
    return main([*map(str, arguments), "--device", "cpu"])


def refused(capsys, *arguments):
    """The one line of a command that refuses its arguments."""
    capsys.readouterr()
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as ended:
        code = ended.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    return line.removeprefix("sparseout: ")


def summaries(out):
    return [json.loads(path.read_text()) for path in sorted(out.glob("*/summary.json"))]


def test_a_run_its_records_and_its_commands(here, capsys):
    assert run("study", NAME, "--seed", 0, 1, "--note", "two rings", "--square", "True") == 0
    out = here / "runs/rings"
    records = summaries(out)
    assert [(record["q"], record["seed"]) for record in records] == [(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1)]
    for record in records:
        assert {record["study"], record["note"]} == {"rings", "two rings"}
        assert record["square"] is True
        assert record["provenance"]["command"].startswith(f"sparseout study {NAME} --q ")
        assert record["layers"]["noise"]["units"] == 16
        assert record["best_epoch"] in (1, 2)
        assert record["accuracy"] == pytest.approx(round(200 * record["accuracy"]) / 200)
    assert json.loads((out / "study.json").read_text()) == {"study": "rings"}
    assert "rings" in (out / "report.html").read_text()
    assert run("study", NAME, "--q", 1, "--out", "again", "--note", "two rings", "--square", "True") == 0
    assert summaries(here / "again")[0]["test_loss"] == records[0]["test_loss"]
    capsys.readouterr()
    assert main(["results", str(out)]) == 0
    assert "4 runs of 4" in capsys.readouterr().out
    assert run("evaluate", out, "--study", NAME) == 0
    assert capsys.readouterr().out.count("none") == 4
    folder = next(out.glob("q1*"))
    assert run("probe", f"run:{folder}", "--study", NAME) == 0
    assert load_run(folder, own=find_study(NAME)).config.note == "two rings"


def test_a_folder_imports_nothing(here, capsys):
    assert run("study", NAME, "--q", 1, "--epochs", 1) == 0
    Path("lab/rings.py").write_text("raise RuntimeError('imported')")
    del sys.modules["lab.rings"]
    folder = next(here.glob("runs/rings/q1*"))
    for command in (["evaluate", "runs/rings"], ["evaluate", folder], ["probe", f"run:{folder}"], ["sample", folder]):
        assert refused(capsys, *command).endswith(f"got 'rings': --study {NAME} imports a study of your own")
    assert main(["results", "runs/rings"]) == 0
    assert refused(capsys, "evaluate", folder, "--study", NAME).startswith(
        "lab.rings cannot be imported: RuntimeError: imported ("
    )
    assert refused(capsys, "probe", f"{NAME}", "--study", NAME) == f"--study is for run:FOLDER, got '{NAME}'"


def test_a_target_and_a_regularizer(here):
    flags = ["--epochs", 20, "--hidden-size", 64]
    assert run("study", NAME, *flags, "--target-sparsity", 0.35, 0.65, "--out", "target") == 0
    dense, sparse = summaries(here / "target")
    assert dense["control"]["value"] > 2 > sparse["control"]["value"]
    assert dense["control"]["achieved"] == dense["hoyer"] < sparse["hoyer"]
    assert run("study", NAME, *flags, "--regularizer", "l1", "none", "--strength", 0.05, "--out", "l1") == 0
    l1, none = summaries(here / "l1")
    assert (l1["regularizer"], none["regularizer"]) == ("l1", "none")
    assert l1["rms"] < none["rms"]


def test_a_sweep_file_with_a_tune_stage(here, capsys):
    Path("sweep.toml").write_text(
        f'study = "{NAME}"\nq = 2.0\nseed = [0]\nepochs = 1\n[tune]\nscore = "valid_loss"\nseed = [5]\np = [0.2, 0.5]\n'
    )
    assert run("sweep", "sweep.toml", "--dry-run") == 0
    assert "2 runs: 0 complete, 2 to do" in capsys.readouterr().out
    assert run("sweep", "sweep.toml") == 0
    (record,) = summaries(here / "runs/sweep")
    tuned = summaries(here / "runs/sweep/tune")
    assert record["p"] == min(tuned, key=lambda each: each["valid_loss"])["p"]
    Path("sweep.toml").write_text(f'study = "{NAME}"\nhidden_sise = 2')
    assert refused(capsys, "sweep", "sweep.toml").endswith(
        "hidden_sise is not a setting of this study: did you mean hidden_size?"
    )


CONFIG = "class RingConfig(Config):"
FIELD = "    hidden_size: int = 16\n"
REFUSED = {
    "no module": ("lab.ring:STUDY", "", "", "no module named 'lab.ring': a study of your own is named module:OBJECT"),
    "no package": ("lib.rings:STUDY", "", "", "no module named 'lib': a study of your own is named module:OBJECT"),
    "no object": ("lab.rings:STUDI", "", "", "lab.rings has no 'STUDI': did you mean STUDY?"),
    "no study": ("lab.rings:loss", "", "", "lab.rings:loss must be a sparseout.training.Study, got an object of type function"),
    "import": (
        NAME,
        "\nimport dataclasses",
        "import nowhere",
        "lab.rings cannot be imported: ModuleNotFoundError: ",
    ),
    "syntax": (NAME, "\nimport dataclasses", "def", "lab.rings cannot be imported: SyntaxError: invalid syntax"),
    "exit": (NAME, "\nimport dataclasses", "raise SystemExit(1)", "lab.rings cannot be imported: SystemExit: 1"),
    "taken": (NAME, '"rings"', '"image"', f"{NAME}: RingConfig.study must differ from the built-in studies autoencoder, image,"),
    "unnamed": (NAME, ' = "rings"', "", f"{NAME}: RingConfig.study must be the study's name"),
    "path": (NAME, '"rings"', '"../rings"', f"{NAME}: RingConfig.study must be the study's name"),
    "type": (NAME, FIELD, "    sizes: list = ()\n", f"{NAME}: the setting 'sizes' must be a float, int, bool, str or a Literal"),
    "default": (
        NAME,
        FIELD,
        '    hidden_size: int = "16"\n',
        f"{NAME}: the setting 'hidden_size' must have a default of type int",
    ),
    "flag": (NAME, FIELD, "    jobs: int = 16\n", f"{NAME}: a setting must not be called 'jobs'"),
    "result": (NAME, FIELD, "    hoyer: float = 0.5\n", f"{NAME}: a setting must not be called 'hoyer'"),
    "range": (NAME, "hidden_size: int = 16", "hidden_size: int = 0", f"{NAME}: the defaults of RingConfig must be a run: "),
    "preset": (NAME, '{"q": (1.0, 2.0)}', '{"r": 1}', f"{NAME}: preset 'quick' must change settings alone, got 'r'"),
    "presets": (NAME, '{"quick": {"q": (1.0, 2.0)}}', "{}", f"{NAME}: presets must have at least one preset"),
    "undecorated": (
        NAME,
        "@dataclasses.dataclass(frozen=True)\n",
        "",
        "lab.rings: RingConfig must have the decorator @dataclasses",
    ),
    "epochs": (
        NAME,
        "    epochs: int = 2\n",
        "",
        "lab.rings: RingConfig must have a setting epochs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_study_that_cannot_run_is_one_line(case, here, capsys):
    name, old, new, message = REFUSED[case]
    assert old in stranger.RINGS
    Path("lab/rings.py").write_text(stranger.RINGS.replace(old, new + ("\n" if old.startswith("\n") else ""), 1))
    assert refused(capsys, "study", name).startswith(message)
    Path("sweep.toml").write_text(f'study = "{name}"')
    assert refused(capsys, "sweep", "sweep.toml").startswith(f"sweep.toml: {message}")
    assert not Path("runs").exists()


FAILING = {
    "data": ("return Data(*(", "return list((", "load must return a sparseout.training.Data, got an object of type list"),
    "layers": ('("noise",)', "()", "Net.regularised_layers must be a tuple of the names of its layers"),
    "other layers": ('("noise",)', '("nose",)', "Net.regularised_layers must name layers of the network, got 'nose'"),
    "mean": (
        "F.cross_entropy(logits, label)",
        'F.cross_entropy(logits, label, reduction="none")',
        "the loss function must return a",
    ),
    "scores": ('"accuracy":', '"f1":', "the loss function must return a tensor, or a mapping with 'loss' and perhaps 'accuracy'"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_run_that_cannot_train_fails_with_one_line(case, here, capsys):
    old, new, message = FAILING[case]
    Path("lab/rings.py").write_text(stranger.RINGS.replace(old, new, 1))
    try:
        assert run("study", NAME, "--q", 1) == (2 if case == "data" else 1)
    finally:
        printed = capsys.readouterr()
    text = printed.err if case == "data" else printed.out
    assert message in text
    assert "Traceback" not in text
    assert not list(here.glob("runs/rings/*/summary.json"))


def test_a_value_out_of_range_is_one_line(here, capsys):
    assert refused(capsys, "study", NAME, "--lr", "nan") == "lr must be a finite number, got nan"
    assert refused(capsys, "study", NAME, "--hidden-size", "0").startswith("hidden_size must be an integer of at least 1")
    assert refused(capsys, "study", NAME, "--activation", "gelu") == "activation must be one of 'relu', 'tanh', got 'gelu'"


def test_no_setting_can_have_the_name_of_an_option():
    options = {field.name for kind in (RunOptions, SweepOptions) for field in dataclasses.fields(kind)}
    assert options <= RESERVED
    settings = {field.name for study in STUDIES.values() for field in dataclasses.fields(study.config)}
    assert not settings & RESERVED


def started(*arguments):
    words = [sys.executable, "-m", "sparseout", *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(here):
    arguments = ["study", NAME, "--q", 1, "--epochs", 100, "--keep", "best", "--target-sparsity", 0.5]
    process = started(*arguments, "--checkpoint-minutes", 0, "--out", "killed")
    deadline = time.monotonic() + 300
    while not any(len(file.read_text().splitlines()) > 5 for file in here.glob("killed/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not summaries(here / "killed")
    assert next(here.glob("killed/*/checkpoint.safetensors")).exists()
    assert run(*arguments, "--out", "killed") == 0
    assert run(*arguments, "--out", "alone") == 0
    assert published_numbers(here / "killed") == published_numbers(here / "alone")


@pytest.mark.slow
def test_a_sweep_in_several_processes_has_the_numbers_of_one(here):
    Path("sweep.toml").write_text(f'study = "{NAME}"\nq = [1, 2]\nseed = [0, 1]\n')
    script = Path(sys.executable).with_name("sparseout")  # the command does not put the current folder on the path by itself
    program = [script] if script.exists() else [sys.executable, "-m", "sparseout"]
    done = subprocess.run(
        [*program, "sweep", "sweep.toml", "--jobs", "2", "--device", "cpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert run("sweep", "sweep.toml", "--out", "alone") == 0
    assert len(summaries(here / "alone")) == 4
    assert published_numbers(here / "runs/sweep") == published_numbers(here / "alone")


def test_a_task_of_a_cluster_finds_the_study_from_another_folder(here, monkeypatch, tmp_path_factory):
    from sparseout.runs.ray import _run_named

    monkeypatch.chdir(tmp_path_factory.mktemp("worker"))
    settings = {"q": 1.5, "epochs": 1, "hidden_size": 4}
    options = RunOptions(here / "cluster", device="cpu")
    latest = types.SimpleNamespace(report=types.SimpleNamespace(remote=lambda *report: None))
    assert _run_named(NAME, settings, options, str(here), latest) is None
    (record,) = summaries(here / "cluster")
    assert (record["study"], record["hidden_size"]) == ("rings", 4)
