"""`sparseout results`: conditions, exports, and files that other tools read in one line."""

import json

import pandas
import pytest

from sparseout.cli.main import main

FLAGS = ["--q", "1", "2", "--seed", "0", "1", "--hidden-size", "4", "--epochs", "1", "--batch-size", "1437", "--device", "cpu"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of four runs."""
    out = tmp_path_factory.mktemp("study")
    assert main(["study", "autoencoder", *FLAGS, "--out", str(out)]) == 0
    return out


def runs_of(study):
    return [json.loads(line)["run"] for line in (study / "results.jsonl").read_text().splitlines()]


def test_results_filter_and_export(study, tmp_path, capsys):
    assert main(["results", str(study), "--filter", "q=1", "seed=0,1", "--runs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2
    files = tmp_path / "a.csv", tmp_path / "a.parquet"
    assert main(["results", str(study), "--csv", str(files[0]), "--parquet", str(files[1])]) == 0
    for rows in (pandas.read_csv(files[0], dtype={"run": str}), pandas.read_parquet(files[1])):
        assert sorted(rows["run"]) == sorted(runs_of(study))
        assert rows["layers.noise.hoyer"].notna().all()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("sed=1", "--filter must name a setting, got 'sed': did you mean seed?"),
        ("seed", "--filter must be NAME=VALUE, got 'seed'"),
    ],
)
def test_a_condition_that_cannot_be_met(study, condition, message, capsys):
    assert main(["results", str(study), "--filter", condition]) == 2
    assert capsys.readouterr().err == f"sparseout: {message}\n"


def test_results_of_a_folder_without_any(tmp_path, capsys):
    assert main(["results", str(tmp_path)]) == 2
    assert "must be the folder of a study, with its study.json or its results.jsonl" in capsys.readouterr().err


def test_other_tools_read_the_results_in_one_line(study):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    file = str(study / "results.jsonl")
    runs = runs_of(study)
    assert list(pandas.read_json(file, lines=True, dtype={"run": str})["run"]) == runs
    assert polars.read_ndjson(file)["run"].to_list() == runs
    assert [run for (run,) in duckdb.sql(f"SELECT run FROM '{file}'").fetchall()] == runs
