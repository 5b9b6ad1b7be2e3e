"""Measures of batches equal those of all vectors at once, and measure a layer's clean input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparseout
from sparseout import metrics
from sparseout.training.evaluation import RANKS, SAMPLE, Profile, measuring


class Net(nn.Module):
    def __init__(self, noise=None):
        super().__init__()
        self.act = nn.ReLU()
        self.noise = noise or sparseout.Sparseout(0.5, 1.0)

    def forward(self, x):
        return self.noise(self.act(x))


@given(batch_size=st.integers(1, 40), noise=st.sampled_from([None, nn.Dropout(0.5), nn.Identity()]))
def test_the_batch_split_changes_nothing(batch_size, noise):
    x = torch.randn(37, 50, generator=torch.Generator().manual_seed(0))
    x[3] = -1
    net = Net(noise).eval()
    with measuring(net, ["noise"], profile=True) as measures:
        for batch in x.split(batch_size):
            net(batch)
    results = measures.results()
    everything = x.relu().double()
    (layer,) = results["layers"].values()
    assert results["hoyer"] == pytest.approx(metrics.hoyer(everything).mean().item(), rel=1e-6)
    assert results["zeros"] == pytest.approx((everything == 0).double().mean().item(), rel=1e-12)
    assert results["rms"] == pytest.approx(everything.square().mean().sqrt().item(), rel=1e-6)
    assert (layer["vectors"], layer["zero_vectors"], layer["units"]) == (37, 1, 50)
    ranked = everything.sort(-1, descending=True).values
    first = (ranked / ranked[:, :1].clamp_min(1e-30)).mean(0)
    assert (layer["profile"][0], layer["profile"][-1]) == pytest.approx((first[0].item(), first[-1].item()), abs=1e-5)


def test_the_profile_ranks_each_vector_by_itself():
    x = torch.zeros(2, RANKS)
    x[0, 5], x[1, 40] = 3.0, -7.0
    x[1, 0] = 3.5
    profile = Profile()
    profile.add(x)
    assert profile.result()[:3] == [1.0, 0.25, 0.0]


def test_of_a_large_batch_the_profile_takes_some_vectors_spread_over_it():
    x = torch.zeros(10 * SAMPLE, 2)
    x[:, 0] = 1.0
    x[5 * SAMPLE :, 1] = 0.5
    profile = Profile()
    profile.add(x)
    assert profile.vectors == SAMPLE
    assert profile.result()[-1] == 0.25


def test_the_units_of_a_map_are_its_channels():
    x = torch.zeros(2, 4, 3, 3)
    x[:, 1] = 2.0
    net = Net().eval()
    profile = Profile()
    profile.add(x)
    assert profile.result()[0] == 1.0
    assert profile.result()[-1] == 0.0
    assert profile.vectors == 18
    with measuring(nn.Sequential(nn.Conv2d(3, 4, 1), net), ["1.noise"]) as measures:
        measures.probe._model(torch.randn(2, 3, 5, 5))
    (layer,) = measures.results()["layers"].values()
    assert (layer["units"], layer["vectors"]) == (4, 50)


def test_time_steps_are_vectors():
    net = Net().eval()
    with measuring(net, ["noise"]) as measures:
        net(torch.ones(2, 3, 4))
    assert measures.results()["layers"]["noise"]["vectors"] == 6


def test_it_is_the_clean_input_that_is_measured_and_means_are_over_layers():
    model = nn.Sequential(Net(), Net())
    x = torch.linspace(-1, 1, 20)[None]
    with measuring(model, ["0.noise", "1.noise"]) as measures:
        model.train()(x)
    results = measures.results()
    assert results["layers"]["0.noise"]["zeros"] == 0.5
    assert results["zeros"] == (0.5 + results["layers"]["1.noise"]["zeros"]) / 2
    assert not model[0].noise._forward_pre_hooks


def test_hooks_come_off_when_the_model_raises():
    model = nn.Sequential(Net(), nn.Linear(2, 2))
    with pytest.raises(RuntimeError), measuring(model, ["0.noise"], profile=True):
        model(torch.ones(1, 3))
    assert not model[0].noise._forward_pre_hooks
