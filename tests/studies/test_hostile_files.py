"""Whatever the files of a command hold, it ends in a line that names the file, and one bad run's folder stops no other."""

import html
import json
import shutil
from pathlib import Path

import pytest
import torch
from made import summary, write_run, write_study
from safetensors.torch import save_file

from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.probe import read_history
from sparseout.records import schema
from sparseout.records.json_lines import lines
from sparseout.runs.options import location
from sparseout.studies.autoencoder import AutoencoderConfig
from sparseout.studies.glm import approximation, convergence, prediction, shrinkage
from sparseout.training.checkpoint import save_checkpoint
from sparseout.training.folders import StudyFolder

DEEP = 3000
GARBAGE = {
    "empty": b"",
    "blank": b"\n",
    "half": b'{"run": "0123',
    "words": b"nonsense",
    "deep list": b"[" * DEEP + b"]" * DEEP,
    "deep object": b'{"run":' * DEEP + b"1" + b"}" * DEEP,
    "no UTF-8": b'{"run": "\xff\xfe"}',
    "UTF-16": '{"run": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"run": "x"}',
    "NUL": b'{"run": "\0"}',
    "only NUL": b"\0" * 64,
    "a key twice": b'{"run": "x", "run": "y"}',
    "1e400": b'{"seconds": 1e400}',
    "5,000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "NaN": b'{"q": NaN}',
    "Infinity": b'{"q": -Infinity}',
    "null": b"null",
    "true": b"true",
    "a number": b"3",
    "a word": b'"x"',
    "a list": b"[]",
    "an object": b"{}",
    "a list of objects": b"[{}]",
    "a surrogate": b'{"run": "\\ud800"}',
}
# Values in the place of a field, as JSON; the last three are no JSON that a float holds.
VALUES = ["null", "[]", "{}", '"x"', "-1", "1e308", "true", "NaN", "1e400", "9" * 5000]


def run(capsys, *arguments):
    """The exit code of a command that ends in lines, and what it printed."""
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def config(seed, **settings):
    return AutoencoderConfig(seed=seed, hidden_size=4, epochs=1, **settings)


def driven():
    """A run with a target, which has every field."""
    found = config(0, target_sparsity=0.5, target_warmup=3, scale="rms")
    course = {"q": [1.5] * 65, "measured": [0.5] * 65}
    control = {"achieved": 0.5, "q": 1.5, "settled": 0.2, "out_of_reach": False, "course": course}
    return summary(found, control=control, valid_loss=0.2, best_epoch=1, perplexity=1.2, accuracy=0.5)


def fields(record, place=()):
    for name, value in record.items():
        yield (*place, name)
        if isinstance(value, dict):
            yield from fields(value, (*place, name))


def changed(record, place, value):
    """JSON of `record` with `value`, which is JSON, in one place; None takes the field away."""
    record = json.loads(json.dumps(record))
    inner = record
    for name in place[:-1]:
        inner = inner[name]
    if value is None:
        del inner[place[-1]]
        return json.dumps(record)
    inner[place[-1]] = "here"
    return json.dumps(record).replace('"here"', value)


@pytest.mark.parametrize("place", list(fields(driven())), ids=".".join)
def test_a_field_of_another_type_leaves_its_run_out_by_name(place, tmp_path, capsys):
    """Each field of a summary, missing and with each of the values; the runs beside it are listed."""
    write_study(tmp_path, [config(seed) for seed in range(2)])
    names = {}
    for number, value in enumerate([None, *VALUES]):
        made = config(0, target_sparsity=0.5, target_warmup=3 + number, scale="rms")
        settings = {**made.to_dict(), "run": made.run}
        record = driven() | {name: settings[name] for name in ("run", "target_warmup")}
        folder = tmp_path / made.folder
        folder.mkdir()
        names[folder.name] = (value, record)
        (folder / "summary.json").write_text(changed(record, place, value))
    code, out, err = run(capsys, "results", tmp_path, "--runs")
    assert code == 0
    for seed in range(2):
        assert config(seed).run in out
    for name, (value, record) in names.items():
        lines = [line for line in err.splitlines() if name in line]
        assert len(lines) == (record["run"] not in out), f"{value} is neither listed nor left out once"
        assert all(line.startswith(f"sparseout: left out: {tmp_path / name}") and "summary.json" in line for line in lines[:1])
        if value in ("[]", "{}", "NaN", "1e400", "9" * 5000):
            assert lines, f"{value} was believed"
    assert len(err.splitlines()) <= len(names)
    assert run(capsys, "results", tmp_path)[0] == 0
    if place == ("seconds",):  # of which the estimate is made
        assert run(capsys, "study", "autoencoder", "--out", tmp_path, "--dry-run")[0] == 0


@pytest.mark.parametrize("file", ["summary.json", "config.json", "failure.json"])
def test_garbage_in_a_runs_file_leaves_that_run_out_by_name(file, tmp_path, capsys):
    """All kinds of garbage at once, each in a run's folder of its own, and a folder in the file's place."""
    write_study(tmp_path, [config(0)])
    damaged = [*GARBAGE.values(), None]
    for seed, content in enumerate(damaged, 1):
        folder = write_run(tmp_path, config(seed))
        if file == "failure.json":
            shutil.rmtree(folder)
            folder.mkdir()
        (folder / file).unlink(missing_ok=True)
        (folder / file).write_bytes(content) if content is not None else (folder / file).mkdir()
    arguments = ["--hidden-size", "4", "--epochs", "1", "--q", "2", "--seed", *range(len(damaged) + 1)]
    dry = run(capsys, "study", "autoencoder", "--out", tmp_path, "--dry-run", *arguments)
    for code, out, err in (run(capsys, "results", tmp_path, "--runs"), *([dry] if file != "failure.json" else [])):
        assert code == 0
        assert config(0).run in out
        lines = err.splitlines()
        assert len(lines) == len(damaged)
        for seed in range(1, len(damaged) + 1):
            (line,) = (line for line in lines if config(seed).folder in line)
            assert line.startswith("sparseout: left out: ")
            assert file in line
    if file != "failure.json":
        assert f"{len(damaged) + 1} runs: 1 complete, 0 to do, {len(damaged)} left out" in dry[1]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_in_a_studys_mark_is_refused_by_name(kind, tmp_path, capsys):
    write_study(tmp_path, [config(0)])
    (tmp_path / "study.json").write_bytes(GARBAGE[kind])
    others = [["study", "autoencoder", "--out", tmp_path, "--dry-run"], ["evaluate", tmp_path]]
    for command in (["results", tmp_path], *(others if kind in ("empty", "deep list", "an object") else ())):
        code, out, err = run(capsys, *command)
        assert (code, out) == (2, "")
        assert err.startswith(f"sparseout: {tmp_path / 'study.json'}")
        assert err.count("\n") == 1


def test_garbage_in_a_view_leaves_its_lines_out_by_number(tmp_path, capsys):
    """A results.jsonl without its study: each bad line, a run that is there twice, and one whose settings were edited."""
    good = [summary(config(seed)) for seed in range(2)]
    bad = [content.replace(b"\n", b"") for content in GARBAGE.values()]
    bad += [json.dumps(good[0]).encode(), json.dumps({**good[0], "lr": 0.5}).encode(), json.dumps(good[1])[:300].encode()]
    content = b"\n".join([json.dumps(good[0]).encode(), *bad, json.dumps(good[1]).encode()])
    (tmp_path / "results.jsonl").write_bytes(content)
    code, out, err = run(capsys, "results", tmp_path, "--runs")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == [record["run"] for record in good]
    numbers = [int(line.split(", line ")[1].split()[0].strip(":")) for line in err.splitlines()]
    assert numbers == [number for number, line in enumerate(content.split(b"\n"), 1) if 1 < number <= 1 + len(bad)]
    assert f"run: {good[0]['run']} has an earlier line" in err
    assert "was edited: run is" in err


def test_a_view_that_is_a_folder_is_refused(tmp_path, capsys):
    (tmp_path / "results.jsonl").mkdir()
    assert run(capsys, "results", tmp_path)[::2] == (
        2,
        f"sparseout: {tmp_path} must be the folder of a study, with its study.json or its results.jsonl\n",
    )


EPOCH = b'{"epoch": 1, "test_loss": 1.5, "seconds": 4.0}\n'
EPOCHS = {
    **GARBAGE,
    "half a line": EPOCH + b'{"epoch": 2, "test_lo',
    "another epoch": EPOCH + EPOCH,
    "a word for a number": EPOCH.replace(b"1.5", b'"x"'),
    "time that ran back": EPOCH.replace(b"4.0", b"-4.0"),
}


def test_garbage_in_a_runs_epochs_leaves_its_history_out_by_name(tmp_path):
    kinds = [kind for kind in EPOCHS if kind != "empty"]
    for seed, kind in enumerate(kinds):
        folder = write_run(tmp_path, config(seed))
        (folder / "metrics.jsonl").write_bytes(EPOCHS[kind])
    (tmp_path / "study.json").write_text('{"study": "autoencoder"}')
    histories = StudyFolder(tmp_path, "autoencoder").histories()
    assert all(histories[config(seed).run] == [] for seed in range(len(kinds)))
    assert set(histories.left_out) == {config(seed).folder for seed in range(len(kinds))}
    for folder, reason in histories.left_out.items():
        assert f"{tmp_path / folder / 'metrics.jsonl'}, line " in reason


NAMES = ("q", "seed", "hidden_size", "dataset", "noise", "scale")
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of two runs that were trained."""
    out = tmp_path_factory.mktemp("trained")
    flags = ["--q", "1", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--out", str(out)]
    assert main(["study", "autoencoder", *flags]) == 0
    return out


def weights(**tensors):
    def write(path):
        save_file(tensors, path)

    return write


RUN_FILES = {
    **{("weights.safetensors", kind): GARBAGE[kind] for kind in ("empty", "half", "deep list", "no UTF-8", "only NUL", "1e400")},
    ("weights.safetensors", "a pickle"): lambda path: torch.save({"noise": torch.zeros(1)}, path),
    ("weights.safetensors", "of nothing"): weights(x=torch.zeros(1)),
    ("weights.safetensors", "a folder"): None,
    ("weights.safetensors", "a header of 2^60 bytes"): (2**60).to_bytes(8, "little") + b"{}",
    **{("config.json", kind): GARBAGE[kind] for kind in ("empty", "deep list", "a key twice", "an object", "a list")},
    **{("summary.json", kind): GARBAGE[kind] for kind in ("empty", "deep list", "a key twice", "an object", "a list")},
}


@pytest.mark.parametrize(("file", "kind"), RUN_FILES)
def test_a_damaged_run_is_refused_by_name_and_the_study_is_evaluated_without_it(file, kind, trained, tmp_path, capsys):
    study = shutil.copytree(trained, tmp_path / "study")
    (bad,), (good,) = study.glob("q1-*"), study.glob("q2-*")
    content = RUN_FILES[file, kind]
    (bad / file).unlink()
    if content is None:
        (bad / file).mkdir()
    else:
        content(bad / file) if callable(content) else (bad / file).write_bytes(content)
    others = [["probe", f"run:{bad}"], ["sample", bad]] if kind in ("empty", "a folder", "a pickle") else []
    for command in (["evaluate", bad], *others):
        code, _, err = run(capsys, *command)
        assert code == 2
        assert err.startswith(f"sparseout: {bad}")
        assert file in err
        assert err.count("\n") == 1
    code, out, err = run(capsys, "evaluate", study, "--json")
    assert (code, [json.loads(line)["run"] for line in out.splitlines()]) == (0, [good.name.rsplit("-", 1)[1]])
    assert err.startswith(f"sparseout: left out: {bad}")
    assert err.count("\n") == 1


def test_a_sweep_names_what_is_damaged_and_runs_the_others(trained, tmp_path, capsys):
    """Of four runs one has a damaged summary, one another run's folder in its place, one a checkpoint that is none."""
    out = shutil.copytree(trained, tmp_path / "study")
    configs = {q: AutoencoderConfig(q=q, hidden_size=4, epochs=1) for q in (1.0, 2.0, 3.0, 4.0, 5.0)}
    (out / configs[1.0].folder / "summary.json").write_bytes(b"{")
    (out / configs[2.0].folder).rename(out / configs[3.0].folder)
    (out / configs[4.0].folder).mkdir()
    save_checkpoint(out / configs[4.0].folder / "checkpoint.safetensors", configs[4.0].run, {"at": {"epoch": []}, "learner": 3})
    (out / "backup of q5").mkdir()
    (out / "backup of q5" / "summary.json").write_text(json.dumps(summary(configs[5.0])))
    flags = ["--seed", "0", "--hidden-size", "4", "--epochs", "1", "--out", out, "--device", "cpu"]
    code, printed, err = run(capsys, "study", "autoencoder", "--q", *map(int, configs), *flags)
    assert code == 1
    assert f"Failed: {configs[1.0].folder}: {out / configs[1.0].folder / 'summary.json'} cannot be read as JSON" in printed
    assert f"Failed: {configs[3.0].folder}: {out / configs[3.0].folder} holds the run {configs[2.0].run}, whose folder" in printed
    assert f"Failed: {configs[4.0].folder}: {out / configs[4.0].folder / 'checkpoint.safetensors'} cannot be resumed" in printed
    assert "3 runs failed." in printed
    assert err.splitlines() == [
        f"sparseout: left out: {out / 'backup of q5'} holds the run {configs[5.0].run}, whose folder is called "
        f"{configs[5.0].folder}: rename it, or delete it"
    ]
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sorted(record["q"] for record in records) == [2.0, 5.0]
    page = html.unescape((out / "report.html").read_text())
    for name in (configs[1.0].folder, configs[3.0].folder, "backup of q5"):
        assert f"<li>{out / name}" in page, f"the page says nothing of {name}"


def test_the_page_says_which_epochs_are_left_out(trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "<b>study")
    (run_folder,) = out.glob("q1-*")
    flags = ["--q", "1", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--out", str(out)]
    assert main(["study", "autoencoder", *flags]) == 0
    assert "left-out" not in (out / "report.html").read_text()
    (run_folder / "metrics.jsonl").write_text("[]\n")
    assert main(["study", "autoencoder", *flags]) == 0
    assert f"<li>{html.escape(str(run_folder / 'metrics.jsonl'))}, line 1: Expected" in (out / "report.html").read_text()


def test_names_in_a_store_are_no_patterns():
    out = location("memory://bucket[1]/a*b")
    found = config(0)
    for name, content in (("summary.json", summary(found)), ("config.json", {**found.to_dict(), "run": found.run})):
        (out / found.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (out / found.folder / name).write_bytes(json.dumps(content).encode())
    (out / "backup [1]").mkdir()
    (out / "backup [1]" / "summary.json").write_bytes(json.dumps(summary(found)).encode())
    (out / "study.json").write_bytes(b'{"study": "autoencoder"}')
    study = StudyFolder(out, "autoencoder")
    assert [record["run"] for record in study.summaries()] == [found.run]
    assert list(study.left_out) == ["backup [1]"]


GLM = ('{"part": "counts"}', '{"part": ["counts"]}', '{"part": "x"}', "[]", '{"part": "counts", "data": 3}')


@pytest.mark.parametrize("line", [*GLM, *(GARBAGE[kind].decode() for kind in ("half", "deep list", "a key twice", "NaN"))])
def test_garbage_in_an_experiments_rows_is_refused_by_name(line, tmp_path, capsys, monkeypatch):
    """Rows that are no JSON, of a part that there is not, or without what the figure shows."""
    monkeypatch.setattr(approximation, "parts", lambda: {"counts": list})
    row = {"part": "counts", "data": "counts", "family": "poisson", "p": 0.5, "t": 1, "quadratic": 1, "exact": 1}
    (tmp_path / "approximation.jsonl").write_text(f"{json.dumps(row)}\n{line}\n")
    code, _, err = run(capsys, "theorem", "--experiments", "approximation", "--out", tmp_path)
    assert code == 2
    assert err.startswith(f"sparseout: {tmp_path / 'approximation.jsonl'}, line 2")
    assert err.count("\n") == 1
    assert "Error" not in err


EXPERIMENTS = (approximation, convergence, prediction, shrinkage)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_published_rows_of_an_experiment_are_its_rows(experiment):
    name = experiment.__name__.rpartition(".")[2]
    published = list(lines(Path(__file__).parents[2] / "results" / "glm" / f"{name}.jsonl"))
    assert {schema.read(line, experiment.Row, at)["part"] for at, line in published} == set(experiment.parts())
    for field in experiment.Row.__struct_fields__:
        holder = next((at, json.loads(line)) for at, line in published if field in json.loads(line))
        with pytest.raises(UserError, match=rf"line \d+: {field}: expected"):
            schema.read(json.dumps({**holder[1], field: []}).encode(), experiment.Row, holder[0])


@pytest.mark.parametrize("content", ['{"shrinkage": 3}', "[]", '{"shrinkage": {}}', "{"])
def test_garbage_in_an_experiments_provenance_is_refused_by_name(content, tmp_path, capsys):
    (tmp_path / "provenance.json").write_text(content)
    code, _, err = run(capsys, "theorem", "--experiments", "shrinkage", "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"sparseout: {tmp_path / 'provenance.json'}")


HISTORY = [
    *('{"step": "x", "layers": []}', '{"step": true, "layers": []}', '{"step": 1}', '{"step": 1, "layers": 3}'),
    *('{"step": 1, "layers": [{"layer": "a", "zeros": "x"}]}', '{"step": 1, "layers": [{"zeros": 0.5}]}', '{"step": 1, "layers'),
    '{"step": 1, "layers": [{"layer": "a", "zeros": 1e400}]}',
]


@pytest.mark.parametrize(
    "line", [*(text.encode() for text in HISTORY), *GARBAGE.values()], ids=range(len(HISTORY) + len(GARBAGE))
)
def test_garbage_in_a_probes_history_is_refused_by_its_line(line, tmp_path):
    good = b'{"step": 0, "layers": [{"layer": "a", "mode": "train", "call": null, "zeros": 0.5}]}\n'
    (tmp_path / "history.jsonl").write_bytes(good + (line.strip(b"\n") or b" ") + b"\n")
    with pytest.raises(ValueError, match="line 2: this is no line of a probe's history"):
        read_history(tmp_path / "history.jsonl")


def test_a_grid_of_more_runs_than_any_machine_has_is_refused_at_once(tmp_path, capsys):
    file = tmp_path / "sweep.toml"
    axis = ", ".join(map(str, range(1, 201)))
    file.write_text(f'study = "autoencoder"\nq = 1\nseed = [{axis}]\nhidden_size = [{axis}]\nepochs = [{axis}]\n')
    code, _, err = run(capsys, "sweep", file, "--dry-run", "--out", tmp_path / "out")
    assert (code, err) == (2, f"sparseout: {file}: a sweep takes at most 1,000,000 runs, got 8,000,000\n")


TWICE = {
    "plain": '"test_loss": 0.1, {}',
    "blanks before a colon": '"test_loss" : 0.1, {}',
    "an escaped name": '"test_los\\u0073": 0.1, {}',
    "a colon in an escape": '"test_loss": 0.1, "note": "\\u003a", {}',
    "nested": '"more": {{"a": 1, "a": 2}}, {}',
}


@pytest.mark.parametrize("how", TWICE)
def test_a_key_that_is_there_twice_leaves_its_run_out(how, tmp_path):
    """In a record that is right but for that: neither of its two values is believed."""
    folder = write_run(tmp_path, config(0))
    (tmp_path / "study.json").write_text('{"study": "autoencoder"}')
    record = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text("{" + TWICE[how].format(record[1:]))
    study = StudyFolder(tmp_path, "autoencoder")
    assert study.summaries() == []
    assert "is there twice" in study.left_out[folder.name]
