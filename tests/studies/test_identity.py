"""A run is what its settings hash to: not what its folder is called, nor what somebody wrote into it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from made import summary, write_run, write_study

from sparseout.cli.main import main
from sparseout.records.identity import folder_of, run_of
from sparseout.records.schema import read_summary
from sparseout.studies.autoencoder import AutoencoderConfig
from sparseout.studies.image import ImageConfig
from sparseout.training.folders import StudyFolder

RESULTS = Path(__file__).parents[2] / "results"


def run(capsys, *arguments):
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def config(seed=0, **settings):
    return AutoencoderConfig(seed=seed, hidden_size=4, epochs=1, **settings)


def view(out):
    study = StudyFolder(out, "autoencoder")
    return sorted((record["q"], record["seed"]) for record in study.summaries()), study.left_out


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("results.jsonl")), ids=lambda path: path.parent.name)
def test_each_published_record_is_what_its_run_says(path):
    """Runs' hashes are unchanged, those of before a setting existed among them, and the schema takes all of their fields."""
    lines = path.read_bytes().splitlines()
    assert {json.loads(line)["run"] for line in lines} == {read_summary(line, path)["run"] for line in lines}


def test_a_copy_inside_a_study_adds_no_seed(tmp_path, capsys):
    folders = write_study(tmp_path, [config(seed) for seed in range(3)])
    for name in ("backup of q2", folders[0].name + " (copy)", folders[0].name.replace("seed0", "seed7")):
        shutil.copytree(folders[0], tmp_path / name)
    seen, left_out = view(tmp_path)
    assert seen == [(2.0, 0), (2.0, 1), (2.0, 2)]
    assert len(left_out) == 3
    code, out, err = run(capsys, "results", tmp_path)
    assert code == 0
    assert re.search(r"^nn.Dropout|^q 2 +3 ", out, re.MULTILINE)
    assert "3 runs of 3" in out
    assert err.count("whose folder is called") == 3


def test_a_folder_with_another_runs_name_is_neither_of_them(tmp_path):
    first, second = write_study(tmp_path, [config(0), config(1)])
    shutil.rmtree(second)
    first.rename(second)
    assert view(tmp_path) == (
        [],
        {second.name: f"{second} holds the run {config(0).run}, whose folder is called {first.name}: rename it, or delete it"},
    )


def test_two_folders_whose_files_were_exchanged_are_left_out(tmp_path):
    first, second = write_study(tmp_path, [config(0), config(1)])
    (first / "config.json").rename(tmp_path / "kept")
    (second / "config.json").rename(first / "config.json")
    (tmp_path / "kept").rename(second / "config.json")
    seen, left_out = view(tmp_path)
    assert seen == []
    assert all("holds two runs: config.json is of " in reason for reason in left_out.values())


@pytest.mark.parametrize("file", ["config.json", "summary.json"])
@pytest.mark.parametrize("rehashed", [False, True])
def test_settings_that_were_edited_are_left_out(file, rehashed, tmp_path):
    """With the run's hash as it was, or with that of the edited settings."""
    (folder,) = write_study(tmp_path, [config(0)])
    record = json.loads((folder / file).read_text()) | {"lr": 0.5} | ({"run": config(0, lr=0.5).run} if rehashed else {})
    (folder / file).write_text(json.dumps(record))
    seen, left_out = view(tmp_path)
    assert seen == []
    assert ("holds two runs" if rehashed else f"{file} was edited: run is") in left_out[folder.name]


def test_a_run_of_another_study_is_left_out(tmp_path):
    write_study(tmp_path, [config(0)])
    folder = write_run(tmp_path, ImageConfig(), accuracy=0.5)
    seen, left_out = view(tmp_path)
    assert seen == [(2.0, 0)]
    assert left_out == {folder.name: f"{folder} holds a run of the study 'image'"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run."""
    out = tmp_path_factory.mktemp("trained")
    flags = ["--q", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--out", str(out)]
    assert main(["study", "autoencoder", *flags]) == 0
    return next(out.glob("q2-*"))


def edit(folder, file, **changes):
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))


def exchange_weights(folder):
    other = folder.parent.parent / "other"
    flags = ["--q", "2", "--seed", "1", "--hidden-size", "4", "--epochs", "1", "--out", str(other)]
    assert main(["study", "autoencoder", *flags]) == 0
    shutil.copy(next(other.glob("*/weights.safetensors")), folder / "weights.safetensors")


EDITS = {
    "renamed": (lambda folder: folder.rename(folder.with_name("the best")), "holds the run .* whose folder is called"),
    "one setting": (lambda folder: edit(folder, "config.json", lr=0.5), "config.json was edited: run is"),
    "a setting and its hash": (
        lambda folder: edit(folder, "config.json", lr=0.5, run=config(0, lr=0.5).run),
        "holds two runs: config.json is of",
    ),
    "another's summary": (
        lambda folder: (folder / "summary.json").write_text(json.dumps(summary(config(1)))),
        "holds two runs: config.json is of",
    ),
    "another's weights": (exchange_weights, "has the weights of the run"),
}


@pytest.mark.parametrize("how", EDITS)
def test_a_trained_run_that_is_not_what_it_says_is_refused(how, trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "study" / trained.name)
    change, message = EDITS[how]
    made = change(folder)
    folder = made if how == "renamed" else folder
    capsys.readouterr()
    for command in (["evaluate", folder], ["probe", f"run:{folder}"], ["sample", folder]):
        code, out, err = run(capsys, *command)
        assert (code, out) == (2, "")
        assert re.search(message, err)
        assert err.count("\n") == 1


def test_a_run_is_found_through_a_link_and_from_inside_its_folder(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "best").symlink_to(trained)
    assert run(capsys, "evaluate", tmp_path / "best")[0] == 0
    monkeypatch.chdir(trained)
    assert run(capsys, "evaluate", ".")[0] == 0


def test_a_setting_that_came_after_a_run_has_its_default(trained, tmp_path, capsys):
    """A run of a version that had no `precision`: its hash has none either."""
    settings = {name: value for name, value in config(0).to_dict().items() if name != "precision"}
    folder = shutil.copytree(trained, tmp_path / folder_of(settings))
    record = json.loads((folder / "summary.json").read_text())
    del record["precision"]
    (folder / "summary.json").write_text(json.dumps(record | {"run": run_of(settings)}))
    (folder / "config.json").write_text(json.dumps({**settings, "run": run_of(settings)}))
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights.replace(record["run"].encode(), run_of(settings).encode()))
    assert run(capsys, "evaluate", folder)[::2] == (0, "")


@pytest.mark.parametrize("name", ["[red]x[/red]", ":smile:", "[/]", "a [bold]"])
def test_names_are_printed_as_they_are(name, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.parent, tmp_path / name)
    flags = ["--q", "2", "--seed", "0", "--hidden-size", "4", "--epochs", "1", "--out", name]
    code, out, _ = run(capsys, "study", "autoencoder", *flags)
    assert code == 0
    assert f"Report: {name}/report.html\nFigure: {name}/sparsity.png\n" in out
    assert run(capsys, "results", name)[1].endswith(f"1 runs of 1 in {name}.\n")
    assert f"1 runs: {name}.csv\n" in run(capsys, "results", name, "--csv", f"{name}.csv")[1]
    folder = tmp_path / name / config(3).folder
    folder.mkdir()
    failure = {"run": config(3).run, "reason": f"ValueError: {name}", "command": name, "traceback": ""}
    (folder / "failure.json").write_text(json.dumps(failure))
    assert run(capsys, "results", name)[1].endswith(f"Failed: {config(3).run}: ValueError: {name}\n  {name}\n")
