"""Invalid flags: one line names the flag, its value and the allowed values; the exit code is 2 and nothing is written."""

import contextlib
import re

import pytest
import torch
from small_language import learner

from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.studies.autoencoder import AutoencoderConfig
from sparseout.studies.language import LanguageConfig
from sparseout.studies.registry import STUDIES
from sparseout.training import network_check
from sparseout.training.precision import check_precision


def refused(capsys, *arguments):
    """The one line."""
    try:
        code = main(list(arguments))
    except SystemExit as ended:
        code = ended.code
    printed, error = capsys.readouterr()
    assert (code, printed, error.count("\n")) == (2, "", 1), error
    return error.removeprefix("sparseout: ").rstrip()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "0"], "jobs must be an integer of at least 1, got 0"),
        (["--jobs", "1000000000"], "jobs must be an integer of at most 1024, got 1000000000"),
        (["--checkpoint-minutes", "nan"], "checkpoint_minutes must be a finite number of at least 0, got nan"),
        (["--checkpoint-minutes", "inf"], "checkpoint_minutes must be a finite number of at least 0, got inf"),
        (["--checkpoint-minutes=-1"], "checkpoint_minutes must be a finite number of at least 0, got -1.0"),
        (["--threads", "1000000000"], "threads must be an integer of at most 1024, got 1000000000"),
        (["--p", "nan"], "p must be a drop probability in [0, 1], got nan"),
        (["--seed", "-1"], "seed must be an integer in [0, 2^63 - 1], got -1"),
        (["--ray", ""], "ray must be 'auto' or HOST:PORT, got ''"),
        (["--device", "meta"], "device 'meta' cannot be used: Tensor.item() cannot be called on meta tensors"),
        (["--device", "cpu:7"], "device 'cpu:7' cannot be used: there is only cpu"),
        (["--device", ""], "device '' cannot be used: Device string must not be empty"),
        (["--preset", "[]"], "preset must be one of 'quick', got '[]'"),
        (["--q", "x"], "Error parsing --q: Could not find valid parse for arguments: ['x'] (--q FLOAT ...)"),
        (["--epochs", "1e3"], "Error parsing --epochs: Could not find valid parse for arguments: ['1e3'] (--epochs INT ...)"),
        (["--data-dir", __file__], f"--data-dir must be a folder, got the file {__file__}"),
    ],
)
def test_a_flag_of_a_study(flags, message, tmp_path, capsys):
    assert refused(capsys, "study", "autoencoder", "--out", str(tmp_path / "out"), *flags) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "--out must have a value, got ''"),
        ("a" * 300, f"{'a' * 300} cannot be used: File name too long"),
        ("a\0b", "--out must have no NUL character, got 'a\\x00b'"),
        (f"{__file__}/out", f"--out must be a folder that can be written: {__file__}/out: {__file__} is a file"),
        ("memory://", "memory:// cannot be used: it names no folder"),
    ],
)
def test_an_output_folder_that_cannot_be(out, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "study", "autoencoder", "--out", out) == message
    assert not list(tmp_path.iterdir())


def test_a_folder_called_like_markup_is_shown_as_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--q", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--batch-size", "1437", "--device", "cpu"]
    assert main(["study", "autoencoder", *flags, "--out", "[red]x[/red] :smile:"]) == 0
    assert "Report: [red]x[/red] :smile:/report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("study", "flags", "sizes"),
    [
        (
            "autoencoder",
            ["--hidden-size", "1000000000"],
            "hidden_size=1000000000 needs about 1,032 GB for weights and gradients: cpu has ",
        ),
        ("autoencoder", ["--hidden-size", "2147483647"], "hidden_size=2147483647 needs about "),
        ("image", ["--width", "2147483647"], "depth=10, width=2147483647 needs more memory than any machine has: "),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_made(study, flags, sizes, tmp_path, capsys):
    error = refused(capsys, "study", study, *flags, "--out", str(tmp_path / "out"))
    assert error.startswith(f"a network with {sizes}")
    assert not (tmp_path / "out").exists()


def test_a_language_model_that_does_not_fit(corpus):
    sizes = "num_layers=3, hidden_size=1000000, embedding_size=400 needs about "
    with pytest.raises(UserError, match=f"^a network with {sizes}"):
        network_check.check_network(STUDIES["language"], LanguageConfig(hidden_size=10**6), corpus, torch.device("cpu"))


def test_a_network_fits_up_to_the_memory_that_there_is(monkeypatch):
    study, config = STUDIES["autoencoder"], AutoencoderConfig(hidden_size=16)
    data = study.load(config, None)
    needed = 8 * (64 * 16 + 16 + 16 * 64 + 64)
    monkeypatch.setattr(network_check, "_memory", lambda _: needed)
    network_check.check_network(study, config, data, torch.device("cpu"))
    monkeypatch.setattr(network_check, "_memory", lambda _: needed - 1)
    with pytest.raises(UserError, match="hidden_size=16 needs about 0 GB"):
        network_check.check_network(study, config, data, torch.device("cpu"))


@pytest.fixture
def no_bfloat16_lstm(monkeypatch):
    """A CPU without AVX-512."""
    run = torch.nn.LSTM.forward

    def forward(self, *arguments):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive.")
        return run(self, *arguments)

    monkeypatch.setattr(torch.nn.LSTM, "forward", forward)


@pytest.mark.usefixtures("no_bfloat16_lstm")
def test_an_lstm_in_bfloat16_is_refused_before_anything_is_made_where_it_cannot_run(corpus, tmp_path, capsys):
    message = (
        "precision must be 'fp32' here, got 'bf16': PyTorch has no LSTM in bfloat16 for this processor (an x86 CPU needs AVX-512)"
    )
    assert refused(capsys, "study", "language", "--precision", "bf16", "--out", str(tmp_path / "out")) == message
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=re.escape(message)):  # as in a worker of a cluster
        learner(corpus, precision="bf16")
    learner(corpus, precision="fp32")


def test_the_check_of_the_precision_draws_no_random_number(corpus):
    network, state = learner(corpus).network, torch.get_rng_state()
    with contextlib.suppress(UserError):
        check_precision(LanguageConfig(precision="bf16"), network, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("no_bfloat16_lstm")
def test_a_network_without_an_lstm_trains_in_bfloat16_all_the_same(tmp_path):
    assert main(["study", "autoencoder", "--precision", "bf16", "--q", "2", "--epochs", "1", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "x:y", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (
            ["probe", "x:y", "--every", "nan"],
            "Error parsing --every: invalid literal for int() with base 10: 'nan' (--every INT)",
        ),
        (["probe", "x:y", "--device", "cpu:7"], "device 'cpu:7' cannot be used: there is only cpu"),
        (["bench", "--seconds", "nan"], "seconds must be a number in [0, 86400], which is a day, got nan"),
        (["bench", "--sizes", "1" + "0" * 30], f"sizes must be integers in [1, 2^40], got {10**30}"),
        (["sample", "nowhere", "--temperature", "nan"], "temperature must be a positive number, got nan"),
        (["sample", "nowhere", "--seed", "-1"], "seed must be an integer of at least 0, got -1"),
        (
            ["evaluate", "nowhere", "--device", "meta"],
            "device 'meta' cannot be used: Tensor.item() cannot be called on meta tensors",
        ),
        (["results", ""], "the folder must have a name, or be a URL, got ''"),
    ],
)
def test_a_flag_of_another_command(arguments, message, capsys):
    assert refused(capsys, *arguments) == message


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of one run."""
    out = tmp_path_factory.mktemp("trained")
    flags = ["--q", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--out", str(out)]
    assert main(["study", "autoencoder", *flags]) == 0
    return out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bench --sizes 0", "sizes must be integers in [1, 2^40], got 0"),
        ("bench --samples 1099511627777", "samples must be integers in [100, 2^40], got 1099511627777"),
        ("bench --seconds inf", "seconds must be a number in [0, 86400], which is a day, got inf"),
        ("bench --out ''", "--out must have a value, got ''"),
        ("bench --device privateuseone", "device 'privateuseone' cannot be used: No module named 'torch.privateuseone'"),
        ("study glm --out ''", "--out must have a value, got ''"),
        ("theorem --experiments", "experiments needs at least one name"),
        ("study autoencoder --data-dir ''", "--data-dir must have a value, got ''"),
        ("study autoencoder --ray nonsense", "ray must be 'auto' or HOST:PORT, got 'nonsense'"),
        ("study autoencoder --ray s3://x/y", "ray must be 'auto' or HOST:PORT, got 's3://x/y'"),
        ("study autoencoder --out FILE/x --dry-run", "--out must be a folder that can be written: FILE/x: FILE is a file"),
        ("evaluate STUDY --data-dir FILE", "--data-dir must be a folder, got the file FILE"),
        ("evaluate STUDY --data-dir=", "--data-dir must have a value, got ''"),
        ("results STUDY --score ''", "score must be one of 'test_loss' here, got ''"),
        ("results STUDY --csv ''", "--csv must have a value, got ''"),
        ("results STUDY --filter q=2 ''", "--filter must have a value, got ''"),
        ("results STUDY --csv /proc/x", "--csv cannot be written: /proc/x: No such file or directory"),
        ("results STUDY --parquet STUDY", "--parquet must be a file, got the folder STUDY"),
        ("results STUDY --csv x --parquet ./x", "--parquet must be another file than --csv, got x for both"),
        ("probe run:RUN --layers ''", "--layers must have a value, got ''"),
        ("probe run:RUN --html ''", "--html must have a value, got ''"),
        ("probe run:RUN --html /proc/x", "--html cannot be written: /proc/x: No such file or directory"),
        ("probe run:RUN --json FILE/x", "--json cannot be written: FILE/x: Not a directory"),
        ("probe run:RUN --json x --html x", "--json must be another file than --html, got x for both"),
        (f"probe run:RUN --batches {10**30}", f"--batches must be at most 2147483647, got {10**30}"),
        (f"probe run:RUN --every {10**30}", f"--every must be at most 2147483647, got {10**30}"),
        (f"probe run:RUN --batch-size {10**30}", f"--batch-size must be at most 2147483647, got {10**30}"),
        (":f", "TARGET must be hf:NAME_OR_FOLDER, package.module:factory or run:FOLDER, got ':f'"),
        (".x:f", "TARGET must be hf:NAME_OR_FOLDER, package.module:factory or run:FOLDER, got '.x:f'"),
        ("probe run:\udcff", "the command must be in UTF-8, got 'run:\\udcff'"),
        ("probe m:f --html \udcff", "--html must be in UTF-8, got '\\udcff'"),
        ("study autoencoder --out=\udcff", "--out must be in UTF-8, got '--out=\\udcff'"),
    ],
)
def test_a_value_that_no_flag_allows(command, message, trained, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("x")
    (run,) = trained.glob("q2-*")
    monkeypatch.chdir(tmp_path)
    names = {"FILE": str(tmp_path / "file"), "STUDY": str(trained), "RUN": str(run)}
    for name, place in names.items():
        command, message = command.replace(name, place), message.replace(name, place)
    words = command.split(" ") if " " in command else ["probe", command]
    assert refused(capsys, *("" if word == "''" else word for word in words)) == message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", ["raise SystemExit", "def make(): raise SystemExit(0)"])
def test_a_factory_that_exits_is_no_success(code, tmp_path, capsys, monkeypatch):
    (tmp_path / "exiting.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "exiting", raising=False)
    assert "SystemExit" in refused(capsys, "probe", "exiting:make")


def test_a_file_system_that_fails_in_its_own_way_is_named(capsys):
    line = refused(capsys, "study", "autoencoder", "--out", "github://x")
    assert line.startswith("github://x cannot be used: ")


@pytest.mark.parametrize("name", ["results.jsonl", "report.html", "sparsity.png"])
def test_a_folder_in_a_files_place_is_found_before_anything_is_trained(name, tmp_path, capsys):
    (tmp_path / "study.json").write_text('{"study": "autoencoder"}')
    (tmp_path / name).mkdir()
    flags = ["--q", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path)]
    line = refused(capsys, "study", "autoencoder", *flags)
    assert line == f"--out must be a folder that can be written: {tmp_path / name} is a folder, not a file"
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", name}


@pytest.mark.parametrize("name", ["provenance.json", "shrinkage.jsonl", "shrinkage.png"])
def test_a_folder_in_the_place_of_an_experiments_file(name, tmp_path, capsys):
    (tmp_path / name).mkdir()
    line = refused(capsys, "theorem", "--experiments", "shrinkage", "--out", str(tmp_path))
    assert line == f"--out ({name}) must be a file, got the folder {tmp_path / name}"
    assert [path.name for path in tmp_path.iterdir()] == [name]
