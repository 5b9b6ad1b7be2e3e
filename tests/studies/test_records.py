"""Files are written whole, a folder that holds something else is left alone, and the view of a study is sorted."""

import json
import os
import time

import pytest
from made import write_run

from sparseout.errors import UserError
from sparseout.records.files import write_atomic
from sparseout.records.json_lines import to_json
from sparseout.studies.autoencoder import AutoencoderConfig
from sparseout.training.folders import StudyFolder


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def crash(_):
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", crash)
        with pytest.raises(OSError, match="power"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_json_has_no_nan():
    assert json.loads(to_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (2, None)}})) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": [2, None]},
    }


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(UserError, match="--out must be a new folder, an empty one, or this study's: .* holds something else"):
        StudyFolder(tmp_path, "autoencoder")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_another_study_is_refused(tmp_path):
    StudyFolder(tmp_path / "out", "image").open()
    with pytest.raises(UserError, match="of the study 'autoencoder': .* holds the study 'image'"):
        StudyFolder(tmp_path / "out", "autoencoder")


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="--out must be a folder, got the file"):
        StudyFolder(tmp_path / "out", "autoencoder")


def test_a_study_opens_its_own_folder_again(tmp_path):
    folder = StudyFolder(tmp_path / "new" / "out", "autoencoder")
    assert not (tmp_path / "new").exists()
    folder.open()
    StudyFolder(tmp_path / "new" / "out", "autoencoder").open()


def test_results_are_the_summaries_sorted_by_run(tmp_path):
    folder = StudyFolder(tmp_path, "autoencoder")
    configs = [AutoencoderConfig(seed=seed) for seed in range(3)]
    for config in configs:
        write_run(tmp_path, config)
    (tmp_path / "unfinished").mkdir()
    folder.write_results()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == sorted(config.run for config in configs)


def test_a_broken_summary_is_left_out_by_name(tmp_path):
    folder = StudyFolder(tmp_path, "autoencoder")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{")
    assert folder.summaries() == []
    assert folder.left_out == {"run": f"{tmp_path}/run/summary.json cannot be read as JSON: Input data was truncated"}


def test_opening_a_run_removes_stale_parts_and_keeps_files_being_written(tmp_path):
    run = StudyFolder(tmp_path, "autoencoder").run(AutoencoderConfig())
    run.open()
    for name, age in (("old", 3600), ("new", 0)):
        part = run.path / f".weights.safetensors.{name}.part"
        part.touch()
        os.utime(part, (time.time() - age,) * 2)
    run.open()
    assert sorted(path.name for path in run.path.iterdir()) == [".weights.safetensors.new.part", "config.json"]
