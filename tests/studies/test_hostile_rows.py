"""A bad row of an experiment, or a bad line of a probe's history, is refused by its number."""

import json
from pathlib import Path

import pytest
from garbage import GARBAGE, run

from sparseout.errors import UserError
from sparseout.probe import read_history
from sparseout.records import schema
from sparseout.records.json_lines import lines
from sparseout.studies.glm import approximation, convergence, prediction, shrinkage

GLM = ('{"part": "counts"}', '{"part": ["counts"]}', '{"part": "x"}', "[]", '{"part": "counts", "data": 3}')


@pytest.mark.parametrize("line", [*GLM, *(GARBAGE[kind].decode() for kind in ("half", "deep list", "a key twice", "NaN"))])
def test_garbage_in_an_experiments_rows_is_refused_by_name(line, tmp_path, capsys, monkeypatch):
    """Rows that are not JSON, belong to an unknown part, or lack a field of the figure."""
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
    with pytest.raises(ValueError, match="line 2: not a line of a probe's history"):
        read_history(tmp_path / "history.jsonl")
