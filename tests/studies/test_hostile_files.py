"""A command ends in a line that names the damaged file, and a damaged run does not affect the others."""

import html
import json
import shutil

import pytest
import torch
from garbage import GARBAGE, run
from made import summary, write_run, write_study
from safetensors.torch import save_file

from sparseout.cli.main import main
from sparseout.runs.options import location
from sparseout.studies.autoencoder import AutoencoderConfig
from sparseout.training.checkpoint import save_checkpoint
from sparseout.training.folders import StudyFolder

# Values in the place of a field, as JSON; the last three are not JSON that a float can hold.
VALUES = ["null", "[]", "{}", '"x"', "-1", "1e308", "true", "NaN", "1e400", "9" * 5000]


def config(seed, **settings):
    return AutoencoderConfig(seed=seed, hidden_size=4, epochs=1, **settings)


def run_with_target():
    """A run with a target, which has every field."""
    found = config(0, target_sparsity=0.5, target_warmup=3, scale="rms")
    course = {"value": [1.5] * 65, "measured": [0.5] * 65}
    control = {"achieved": 0.5, "dial": "q", "value": 1.5, "settled": 0.2, "out_of_reach": False, "course": course}
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


@pytest.mark.parametrize("place", list(fields(run_with_target())), ids=".".join)
def test_a_field_of_another_type_leaves_its_run_out_by_name(place, tmp_path, capsys):
    """Each field of a summary is removed or replaced by each value; the other runs are still listed."""
    write_study(tmp_path, [config(seed) for seed in range(2)])
    names = {}
    for number, value in enumerate([None, *VALUES]):
        made = config(0, target_sparsity=0.5, target_warmup=3 + number, scale="rms")
        settings = {**made.to_dict(), "run": made.run}
        record = run_with_target() | {name: settings[name] for name in ("run", "target_warmup")}
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
    """A results.jsonl without its study: each bad line, a duplicate run, and one whose settings were edited."""
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


def test_a_sweep_names_damaged_runs_and_runs_the_others(trained, tmp_path, capsys):
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


def test_names_in_a_store_are_not_patterns():
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


TWICE = {
    "plain": '"test_loss": 0.1, {}',
    "blanks before a colon": '"test_loss" : 0.1, {}',
    "an escaped name": '"test_los\\u0073": 0.1, {}',
    "a colon in an escape": '"test_loss": 0.1, "note": "\\u003a", {}',
    "nested": '"more": {{"a": 1, "a": 2}}, {}',
}


@pytest.mark.parametrize("how", TWICE)
def test_a_duplicate_key_leaves_its_run_out(how, tmp_path):
    """Neither value of a duplicate key is used."""
    folder = write_run(tmp_path, config(0))
    (tmp_path / "study.json").write_text('{"study": "autoencoder"}')
    record = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text("{" + TWICE[how].format(record[1:]))
    study = StudyFolder(tmp_path, "autoencoder")
    assert study.summaries() == []
    assert "duplicate key" in study.left_out[folder.name]
