"""Summaries as data, as text, over time, and in comparison."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from sparseout import Probe
from sparseout.probe import MEASURE_TITLES, LayerRecord, Summary, read_history


def probed(model=None, measures="all", **settings):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4), nn.Tanh())
    with Probe(model, measures=measures, **settings) as probe:
        model(torch.randn(50, 6))
    return probe.summary()


def test_json_holds_all_of_it():
    summary = probed()
    text = summary.to_json()
    assert "\n" not in text
    assert Summary.from_json(text) == summary
    assert json.loads(text) == json.loads(json.dumps(summary.to_dict()))


def test_json_has_no_nan():
    model = nn.Sequential(nn.Linear(6, 1), nn.ReLU())
    with Probe(model, measures="all") as probe:
        model(torch.full((2, 6), torch.nan))
    data = json.loads(probe.summary().to_json())
    assert (data["layers"][0]["hoyer"], data["layers"][0]["rms"]) == (None, None)
    assert Summary.from_json(probe.summary().to_json()) == probe.summary()


BROKEN = ["", "{}", "[]", "null", '{"format": "other"}', probed().to_json()[:-20], probed().to_json().replace('"layer":', '"l":')]


@pytest.mark.parametrize("text", BROKEN)
def test_content_other_than_a_summary_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="not a probe's summary in JSON"):
        Summary.from_json(text)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match="summary.json: not a probe's summary in JSON"):
        Summary.read(tmp_path / "summary.json")


def test_a_record_has_every_measure_that_there_is():
    fields = {field.name for field in dataclasses.fields(LayerRecord)}
    assert set(MEASURE_TITLES) <= fields
    assert all(getattr(probed()["1"], name) is not None for name in MEASURE_TITLES)
    assert {name for name in MEASURE_TITLES if getattr(probed(measures=["gini", "std"])["1"], name) is not None} == {
        "gini",
        "std",
    }


def test_a_layer_with_a_single_record_is_found_by_its_name():
    summary = probed()
    assert summary["3"].type == "Tanh"
    with pytest.raises(KeyError, match="'2' has 0 records of 2"):
        summary["2"]


def test_the_text_has_the_numbers_and_the_remarks():
    summary = probed(measures="basic")
    first, second, *_ = str(summary).splitlines()
    assert first.split() == ["layer", "type", "units", "vectors", "zeros", "hoyer", "rms"]
    record = summary["1"]
    assert second.split() == ["1", "ReLU", "16", "50", *(f"{v:.3g}" for v in (record.zeros, record.hoyer, record.rms))]
    assert str(summary).endswith("train: 1 of 1 forward passes measured")


def test_provenance():
    provenance = probed().provenance
    assert provenance["torch"] == torch.__version__
    assert set(provenance) == {"sparseout", "torch", "python", "device", "date"}


def test_a_comparison_has_the_difference_of_each_measure():
    before = probed()
    after = probed(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4), nn.Sigmoid()))
    comparison = before.compare(after)
    for row in comparison.differences():
        old, new = before[row["layer"]].measures(), after[row["layer"]].measures()
        assert set(row["measures"]) == {name for name in old if old[name] is not None and new[name] is not None}
        for name, (first, second, difference) in row["measures"].items():
            assert (first, second, difference) == (old[name], new[name], new[name] - old[name])
    assert [row["layer"] for row in comparison.differences()] == ["1", "3"]
    line = next(line for line in str(comparison).splitlines() if line.startswith("3"))
    assert f"{before['3'].hoyer:.3g} → {after['3'].hoyer:.3g} ({after['3'].hoyer - before['3'].hoyer:+.2g})" in line
    assert json.loads(comparison.to_json())["differences"] == comparison.differences()


def test_a_comparison_in_both_modes_names_the_mode():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    with Probe(model) as probe:
        for training in (True, False):
            model.train(training)(torch.randn(5, 6))
    header, train, evaluation, *_ = str(probe.summary().compare(probe.summary())).splitlines()
    assert header.split()[:2] == ["layer", "mode"]
    assert (train.split()[:2], evaluation.split()[:2]) == (["1", "train"], ["1", "eval"])


def test_layers_that_one_side_lacks_are_named():
    comparison = probed().compare(probed(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.ELU())))
    assert (comparison.only_before, comparison.only_after) == (["3"], ["2"])
    assert [before.layer for before, _ in comparison.pairs] == ["1"]
    assert str(comparison).endswith("only before: 3\nonly after: 2")


def test_a_history_is_a_line_of_json_a_step(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
    path = tmp_path / "probe.jsonl"
    records = []
    with Probe(model) as probe:
        for step in (10, 20):
            model(torch.randn(5, 6))
            records.append(probe.log(step, path)["1"])
    assert [record.vectors for record in records] == [5, 5]
    lines = read_history(path)
    assert [line["step"] for line in lines] == [10, 20]
    assert [line["layers"][0]["hoyer"] for line in lines] == [record.hoyer for record in records]
    assert lines[0]["layers"][0]["layer"] == "1"


def test_a_history_is_written_to_the_working_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Probe(nn.Sequential(nn.ReLU())).log(1)
    assert read_history(tmp_path / "probe.jsonl") == [{"step": 1, "layers": []}]


def test_a_broken_line_of_a_history_is_named(tmp_path):
    path = tmp_path / "probe.jsonl"
    path.write_text('{"step": 1, "layers": []}\n{"step": 2, "lay')
    with pytest.raises(ValueError, match=r"probe.jsonl, line 2: not a line of a probe's history"):
        read_history(path)


def test_pandas_is_imported_when_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pandas"):
        probed().to_pandas()


@pytest.mark.parametrize("missing", ["rich", "pandas"])
def test_a_bare_installation_names_the_extra(missing, monkeypatch):
    before = probed()
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    what, extra = ("table", "report") if missing == "rich" else ("to_pandas", "data")
    for call in (getattr(before, what), getattr(before.compare(before), what)):
        with pytest.raises(ModuleNotFoundError, match=rf"^{what}\(\) needs {missing}.*: pip install 'sparseout\[{extra}\]'$"):
            call()


def test_the_report_names_its_missing_extra():
    program = "import sys; sys.modules.update(dict.fromkeys(['upath', 'jinja2', 'plotly'])); import sparseout.report"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sparseout.errors.MissingPackageError: sparseout.report needs ")
    assert last.endswith(": pip install 'sparseout[report]'")


def test_nan_is_no_value():
    nothing = torch.full((5, 6), torch.nan)
    with Probe(model := nn.Sequential(nn.ReLU()), measures="all") as probe:
        model(nothing)
    record = probe.summary()["0"]
    assert set(record.measures().values()) == {None}
    assert (record.vectors, record.nonfinite_vectors) == (5, 5)
    with Probe(model, measures="all") as probe:
        model(torch.cat([nothing[:1], torch.ones(3, 6)]))
    record = probe.summary()["0"]
    assert (record.std, record.mean, record.hoyer, record.kurtosis) == (None,) * 4
    comparison = probed(nn.Sequential(nn.ReLU())).compare(probe.summary())
    assert comparison.remarks()[-1] == "after: 0: 1 of 4 vectors with NaN or Inf"


def test_a_layer_called_without_a_vector_is_reported():
    with Probe(model := nn.Sequential(nn.ReLU())) as probe:
        model(torch.ones(0, 6))
    assert probe.summary().unseen == {"0": "called without a vector"}
