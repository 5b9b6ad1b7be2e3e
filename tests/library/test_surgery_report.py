"""The report of surgery can be saved and applied to a fresh model, with the settings of its layers."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from surgery_models import ACTIVATIONS, models, tree
from torch import nn

import sparseout
from sparseout import surgery


@given(model=models(), q=st.floats(0, 4), insert=st.booleans())
def test_a_report_can_be_saved_and_applied_to_a_fresh_model(model, q, insert):
    fresh = copy.deepcopy(model)
    report = sparseout.insert_after(model, ACTIVATIONS, q=q, p=1 / 3) if insert else sparseout.swap_dropout(model, q)
    record = report.to_dict()
    assert json.loads(json.dumps(record)) == record
    for source in (report, json.loads(json.dumps(record))):
        applied = surgery.apply_report(fresh, source)
        assert repr(applied.model) == repr(report.model)
        assert [change.name for change in applied.changes] == [change.name for change in report.changes]
        assert applied.to_dict()["changes"] == record["changes"]
        assert set(tree(applied.model).values()).isdisjoint(tree(report.model).values())


@pytest.mark.parametrize("scale", [0.25, "rms", "matched"])
@pytest.mark.parametrize("action", ["swap", "insert"])
def test_the_new_layers_have_the_scale(action, scale):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout(0.1), nn.Sequential(nn.ReLU(), nn.Dropout1d(0.3)))
    before = set(model.state_dict())
    if action == "swap":
        report = sparseout.swap_dropout(model, 1.5, scale=scale)
    else:
        report = sparseout.insert_after(model, nn.ReLU, q=1.5, p=0.1, scale=scale)
    assert [new.scale for *_, new in report.changes] == [scale] * 2
    assert repr(report).count(f"scale={scale!r}") == 2
    assert [change["new"]["scale"] for change in report.to_dict()["changes"]] == [scale] * 2
    applied = surgery.apply_report(model, json.loads(json.dumps(report.to_dict()))).model
    assert repr(applied) == repr(report.model)
    kept = {"rms": ["running_rms"], "matched": ["running_rms", "running_moments"]}.get(scale, [])
    added = {f"{name}{'' if action == 'swap' else '.sparseout'}.{key}" for name, *_ in report.changes for key in kept}
    assert set(report.model.state_dict()) == set(applied.state_dict()) == before | added
    assert set(sparseout.restore(applied).state_dict()) == before


@given(q=st.floats(0, 4), p=st.floats(0, 1), scale=st.sampled_from([0.5, "rms", "matched"]))
def test_a_record_saved_with_the_weights_restores_the_settings(q, p, scale):
    fresh = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2))
    report = sparseout.swap_dropout(fresh, 2.0)
    layer = report.model[1]
    layer.q, layer.p, layer.scale = q, p, scale
    report.model(torch.randn(2, 4))
    record, weights = json.loads(json.dumps(report.to_dict())), report.model.state_dict()
    again = surgery.apply_report(fresh, record).model
    again.load_state_dict(weights)
    assert (again[1].q, again[1].p, again[1].scale) == (q, p, scale)
    assert again.state_dict().keys() == weights.keys()


def test_a_report_without_changes_warns():
    model = nn.Sequential(nn.Dropout(0.1))
    with pytest.warns(UserWarning, match="the model is unchanged, because report lists no changes$"):
        surgery.apply_report(model, {"action": "swap", "changes": []})
