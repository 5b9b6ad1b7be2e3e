"""`SparsityTarget` controls any layer that has a dial, by the same code."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparseout
from sparseout import SparsityTarget, regularizers
from sparseout.dial import Dial

datasets = pytest.importorskip("sklearn.datasets")

LAYERS = {
    "Sparseout": lambda: sparseout.Sparseout(0.5),
    "L1": lambda: regularizers.L1(1e-4),
    "TransformedL1": lambda: regularizers.TransformedL1(1e-4),
    "HoyerSquare": lambda: regularizers.HoyerSquare(1e-4),
    "KWinners": lambda: regularizers.KWinners(0.9),
    "BatchKWinners": lambda: regularizers.BatchKWinners(0.9),
}


class Training:
    """An autoencoder of 8 x 8 digits, with a layer after its ReLU."""

    data = torch.tensor(datasets.load_digits().data / 16, dtype=torch.float32)

    def __init__(self, layer, size=1.0):
        torch.manual_seed(0)
        self.size = size  # factor of the loss
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), layer, nn.Linear(128, 64))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 3e-3, fused=True)
        self.penalised = isinstance(layer, regularizers.Penalty)
        self.steps = 0

    def run(self, target, steps):
        for _ in range(steps):
            batch = self.data[self.steps % 16 :: 16]
            loss = self.size * F.binary_cross_entropy_with_logits(self.model(batch), batch)
            loss = loss + sparseout.penalty(self.model) if self.penalised else loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            target.step()
            self.steps += 1

    def hoyer(self):
        with torch.no_grad():
            hidden = self.model.eval()[:3](self.data)
        return sparseout.metrics.hoyer(hidden).mean().item()


@pytest.mark.parametrize("name", LAYERS)
def test_a_target_is_reached_by_the_dial_of_any_layer(name):
    training = Training(LAYERS[name]())
    target = SparsityTarget(training.model, 0.7, every=4)
    training.run(target, 1000)
    (entry,) = target.report().layers
    assert entry.state == "reached"
    assert entry.name == training.model[2].dial.name
    assert training.hoyer() == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("name", ["L1", "HoyerSquare"])
@pytest.mark.parametrize("size", [0.01, 100.0])
def test_a_strength_is_found_whatever_the_size_of_the_loss(name, size):
    """The strength that a target needs is proportional to the loss, and starts at 1e-8."""
    training = Training(getattr(regularizers, name)(1e-8), size)
    target = SparsityTarget(training.model, 0.6, every=4)
    measured = []
    for _ in range(20):
        training.run(target, 40)
        measured.append(target.report().layers[0].measured)
    assert max(measured) < 0.7  # a unit that a penalty switched off may not come back
    assert target.report().reached
    assert training.hoyer() == pytest.approx(0.6, abs=0.03)


def test_a_dial_of_ones_own_is_enough():
    class AboveQuantile(nn.Module):
        """`x` where it is above the quantile of its vector, else 0."""

        dial = Dial("quantile", 0.0, 1.0, sparser="up", step=0.15)
        quantile = 0.0

        def forward(self, x):
            return torch.where(x > x.detach().quantile(self.quantile, -1, keepdim=True), x, 0)

    training = Training(AboveQuantile())
    target = SparsityTarget(training.model, 0.8, measure="zeros", every=4)
    training.run(target, 600)
    (entry,) = target.report().layers
    assert (entry.state, entry.name, entry.p) == ("reached", "quantile", None)
    assert "quantile" in repr(target.report()).splitlines()[0]


def test_a_dial_that_moves_nothing_is_called_saturated():
    class Idle(nn.Module):
        """A layer whose number has no effect."""

        dial = Dial("idle", 0.0, 1.0, sparser="up", step=0.1)
        idle = 0.5

        def forward(self, x):
            return x

    training = Training(Idle())
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0
    target = SparsityTarget(training.model, 0.9, every=1)
    with pytest.warns(
        UserWarning, match=r"idle in \[0, 1\] reached .*, where it is saturated: it has not moved; choose another regularizer"
    ):
        training.run(target, 300)
    (entry,) = target.report().layers
    assert (entry.state, entry.responds) == ("out of reach", False)


def test_a_state_resumes_to_the_bit():
    whole, parts = (Training(regularizers.L1(1e-4)) for _ in range(2))
    target = SparsityTarget(whole.model, 0.6, every=4)
    whole.run(target, 200)
    first = SparsityTarget(parts.model, 0.6, every=4)
    parts.run(first, 120)
    state = first.state_dict()
    first.stop()
    again = SparsityTarget(parts.model, 0.6, every=4)
    again.load_state_dict(state)
    parts.run(again, 80)
    assert again.state_dict() == target.state_dict()
    assert parts.model[2].strength == whole.model[2].strength != 1e-4


def test_a_warm_up_has_the_number_that_acts_least():
    for layer, name, number in ((regularizers.L1(0.1), "strength", 1e-8), (regularizers.KWinners(0.2), "k", 1.0)):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), layer)
        SparsityTarget(model, 0.5, warmup=10)
        assert getattr(layer, name) == pytest.approx(number)


@pytest.mark.parametrize(
    ("layers", "arguments", "message"),
    [
        ([regularizers.L1(0.1)], {"p": (0.1, 0.9)}, "p must be None, because 0 is a L1, not a Sparseout layer"),
        ([regularizers.L1(0.1), sparseout.Sparseout()], {"mean": True}, "layers must have the same dial with mean=True"),
        ([regularizers.L1(0.1)], {"bounds": (-1.0, 1.0)}, "bounds must be values of strength in 0, got"),
        ([regularizers.KWinners(0.1)], {"bounds": (0.5, 2.0)}, "bounds must be values of k in 0, got"),
        ([sparseout.Sparseout()], {"bounds": (-1.0, 2.0)}, "bounds must be values of q in 0, got"),
    ],
)
def test_what_a_dial_cannot_do_is_named(layers, arguments, message):
    model = nn.Sequential(*layers)
    before = [getattr(layer, layer.dial.name) for layer in layers]
    with pytest.raises(ValueError, match=message):
        SparsityTarget(model, 0.5, **arguments)
    assert [getattr(layer, layer.dial.name) for layer in layers] == before
