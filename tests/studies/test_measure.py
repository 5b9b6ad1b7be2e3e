"""Measures taken batch by batch equal those of all vectors at once, and are those of a layer's clean input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparseout
from sparseout import metrics
from sparseout.studies.measure import PROFILE, LayerMeasures, measuring, results


@given(batch_size=st.integers(1, 40))
def test_the_batch_split_changes_nothing(batch_size):
    x = torch.randn(37, 50, generator=torch.Generator().manual_seed(0)).relu()
    x[3] = 0
    measures = LayerMeasures()
    for batch in x.split(batch_size):
        measures.add(batch)
    result = measures.result()
    everything = x.double()
    assert result["hoyer"] == pytest.approx(metrics.hoyer(everything).mean().item(), rel=1e-12)
    assert result["zeros"] == pytest.approx((everything == 0).double().mean().item(), rel=1e-12)
    assert result["rms"] == pytest.approx(everything.square().mean().sqrt().item(), rel=1e-12)
    assert (result["vectors"], result["zero_vectors"], result["units"]) == (37, 1, 50)


def test_the_profile_ranks_each_vector_by_itself():
    x = torch.zeros(2, PROFILE)
    x[0, 5], x[1, 40] = 3.0, -7.0
    x[1, 0] = 3.5
    measures = LayerMeasures()
    measures.add(x)
    assert measures.result()["profile"][:3] == [1.0, 0.25, 0.0]


def test_time_steps_are_vectors():
    measures = LayerMeasures()
    measures.add(torch.ones(2, 3, 4))
    assert measures.result()["vectors"] == 6


def test_it_is_the_clean_input_that_is_measured():
    model = nn.Sequential(nn.ReLU(), sparseout.Sparseout(0.5, 1.0))
    x = torch.linspace(-1, 1, 20)[None]
    with measuring(model, ["1"]) as layers:
        model.train()(x)
    assert results(layers)["layers"]["1"]["zeros"] == 0.5
    assert results(layers)["zeros"] == 0.5
    assert not model[1]._forward_pre_hooks


def test_hooks_come_off_when_the_model_raises():
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    with pytest.raises(RuntimeError), measuring(model, ["0"]):
        model(torch.ones(1, 3))
    assert not model[0]._forward_pre_hooks
