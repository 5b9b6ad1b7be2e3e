"""`--known FILE`: a run whose record stands in a named file is not run again."""

import json

import pytest
import torch
from made import write_study

import sparseout
from sparseout.cli.main import main
from sparseout.studies.autoencoder import STUDY, AutoencoderLearner

SWEEP = 'study = "autoencoder"\nq = [1, 2]\nseed = [0, 1]\nhidden_size = 16\nepochs = 1\n'
CONFIGS = STUDY.grid({"q": (1.0, 2.0), "seed": (0, 1), "hidden_size": (16,), "epochs": (1,)})
HERE = {"sparseout": sparseout.__version__, "torch": str(torch.__version__)}


@pytest.fixture
def file(tmp_path):
    """A file with the records of all runs but the last; no training would give their scores."""
    folder = tmp_path / "elsewhere"
    records = []
    for run in write_study(folder, CONFIGS[:3]):
        records.append(json.loads((run / "summary.json").read_text()))
        records[-1]["provenance"] |= {**HERE, "date": "long ago", "trained_by": [{**HERE, "cores": 3}]}
    write(folder / "results.jsonl", records)
    return folder / "results.jsonl"


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def read(path):
    return {record["run"]: record for record in map(json.loads, path.read_text().splitlines())}


@pytest.fixture
def sweep(tmp_path, no_report):
    """Call the command on the sweep, with flags."""
    (tmp_path / "sweep.toml").write_text(SWEEP)
    command = ["sweep", str(tmp_path / "sweep.toml"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    return lambda *flags: main([*command, *map(str, flags)])


def test_a_known_run_is_not_run_again_and_keeps_its_provenance(file, sweep, tmp_path, monkeypatch):
    update, trained = AutoencoderLearner.update, set()

    def count(self, step):
        trained.add(self.config.run)
        return update(self, step)

    monkeypatch.setattr(AutoencoderLearner, "update", count)
    assert sweep("--known", file) == 0
    assert trained == {CONFIGS[3].run}
    found, known = read(tmp_path / "out" / "results.jsonl"), read(file)
    assert len(found) == 4
    assert {run: found[run] for run in known} == known
    monkeypatch.setattr(AutoencoderLearner, "update", None)
    assert sweep() == 0  # the record stands in the folder now
    assert read(tmp_path / "out" / "results.jsonl") == found


def test_several_files_and_a_plan(file, sweep, tmp_path, capsys):
    records = list(read(file).values())
    write(tmp_path / "one.jsonl", records[:1])
    write(tmp_path / "two.jsonl", records)  # the first one too: the same result twice is one
    assert sweep("--known", tmp_path / "one.jsonl", "--known", tmp_path / "two.jsonl", "--dry-run") == 0
    assert "4 runs: 0 complete, 1 to do, 3 known, about 5 s one after another" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_complete_here_is_not_replaced(file, sweep, tmp_path):
    assert sweep("--known", file) == 0
    write(file, [record | {"test_loss": 0.1} for record in read(file).values()])
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    assert sweep("--known", file) == 0
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("place", ["provenance", "trained_by"])
@pytest.mark.parametrize("package", ["sparseout", "torch"])
def test_a_record_of_another_version_is_refused_unless_it_is_allowed(package, place, file, sweep, tmp_path, capsys):
    records = list(read(file).values())
    origin = records[1]["provenance"]
    (origin if place == "provenance" else origin["trained_by"][0])[package] = "0.0.1"
    write(file, records)
    assert sweep("--known", file) == 2
    printed = capsys.readouterr().err
    assert f"line 2: the run {records[1]['run']} is of {package} 0.0.1, and this is sparseout {HERE['sparseout']} and" in printed
    assert printed.endswith(": --known-any-version takes it over\n")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert sweep("--known", file, "--known-any-version") == 0
    assert read(tmp_path / "out" / "results.jsonl")[records[1]["run"]] == records[1]


def test_a_record_of_a_run_that_is_not_of_the_sweep_may_have_any_version(file, sweep, tmp_path):
    records = list(read(file).values())
    (other,) = STUDY.grid({"q": (3.0,), "seed": (0,)})
    (folder,) = write_study(tmp_path / "more", [other])
    write(file, [*records, json.loads((folder / "summary.json").read_text())])
    assert sweep("--known", file) == 0
    assert other.run not in read(tmp_path / "out" / "results.jsonl")


def test_a_damaged_or_edited_record_is_refused(file, sweep, tmp_path, capsys):
    text = file.read_text()
    for damaged, message in (
        (text.replace('"epochs": 1', '"epochs": 2', 1), "line 1 was edited: run is "),
        (text[:-30], "line 3 cannot be read as JSON"),
        (text.replace('"hoyer": 0.5', '"hoyer": 7', 1), "line 1: hoyer: expected `float` <= "),
    ):
        assert damaged != text
        file.write_text(damaged)
        assert sweep("--known", file) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_two_results_of_one_run_are_refused(file, sweep, tmp_path, capsys):
    first, *_ = read(file).values()
    write(tmp_path / "other.jsonl", [first | {"test_loss": 0.1}])
    assert sweep("--known", file, "--known", tmp_path / "other.jsonl") == 2
    assert f"line 1: the run {first['run']} has another record with other results" in capsys.readouterr().err


def test_a_missing_file_is_refused(sweep, tmp_path, capsys):
    assert sweep("--known", tmp_path / "absent.jsonl") == 2
    assert "absent.jsonl cannot be read: No such file" in capsys.readouterr().err


def test_the_tuning_runs_can_be_known_too(tmp_path, no_report, monkeypatch, capsys):
    from sparseout.runs.spec import read_spec
    from sparseout.studies.image import ImageLearner

    text = 'study = "image"\nq = 2\nseed = [0, 1]\nepochs = 1\nvalid_images = 32\n'
    (tmp_path / "sweep.toml").write_text(f'{text}[tune]\nscore = "valid_loss"\nseed = [7]\np = [0.1, 0.3, 0.5]\n')
    tuning = read_spec(tmp_path / "sweep.toml").tuning
    configs = [*tuning.configs, *(config for config in tuning.possible_tests if config.p == 0.3)]
    records = []
    for config, run in zip(configs, write_study(tmp_path / "elsewhere", configs), strict=True):
        records.append(json.loads((run / "summary.json").read_text()) | {"valid_loss": abs(config.p - 0.3), "accuracy": 0.5})
        records[-1]["provenance"] |= HERE
    write(tmp_path / "known.jsonl", records)
    monkeypatch.setattr(ImageLearner, "update", None)
    out = tmp_path / "out"
    assert main(["sweep", str(tmp_path / "sweep.toml"), "--out", str(out), "--known", str(tmp_path / "known.jsonl")]) == 0
    assert len(read(out / "tune" / "results.jsonl")) == 3
    assert {record["p"] for record in read(out / "results.jsonl").values()} == {0.3}
    assert "at the edge" not in capsys.readouterr().out
