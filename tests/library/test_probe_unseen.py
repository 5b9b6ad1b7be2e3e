"""Activations called as functions, values of every kind, and values that cannot be measured."""

import pytest
import torch
import torch.nn.functional as F
from probed import inputs, mlp
from torch import nn

from sparseout import Probe


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.act = nn.ReLU()
        self.unused = nn.Dropout()

    def forward(self, x):
        x = self.act(self.linear(x))
        x = F.dropout(F.gelu(self.linear(x)), training=self.training)
        return torch.sigmoid(x) + x.relu_()


def test_activations_called_as_functions_are_named():
    model = nn.Sequential(Functional())
    with Probe(model) as probe:
        model(inputs())
    assert probe.summary().unseen == {
        "0.unused": "never called",
        "0": "calls dropout, gelu, relu, sigmoid without a module",
    }
    assert "not measured: 0: calls dropout, gelu, relu, sigmoid without a module" in str(probe.summary())


@pytest.mark.parametrize("activation", ["relu", nn.GELU()])
@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_transformer(activation, training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    with Probe(model) as probe, torch.no_grad():
        model(torch.randn(3, 5, 8))
    summary = probe.summary()
    seen = {record.layer for record in summary.layers}
    carried = ("dropout", "dropout1", "dropout2", *(() if activation == "relu" else ("activation",)))
    assert seen == {f"layers.{i}.{name}" for i in (0, 1) for name in carried}
    functional = {"layers.0": "calls relu without a module", "layers.1": "calls relu without a module"}
    assert functional.items() <= summary.unseen.items() or activation != "relu"
    assert all("multi_head_attention_forward" in summary.unseen[f"layers.{i}.self_attn"] for i in (0, 1))


def test_modules_that_carry_a_function_are_not_called_unseen():
    model = mlp(nn.Dropout(), nn.Tanh())
    with Probe(model, layers="1") as probe:
        model(inputs())
    assert probe.summary().unseen == {}


class Odd(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


@pytest.mark.parametrize(
    "value", [None, "text", torch.ones(3, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.ones(3, device="meta"), {}]
)
def test_a_value_that_cannot_be_measured_is_named(value):
    model = nn.Sequential(Odd(value))
    with Probe(model, layers="0") as probe:
        model(inputs())
    assert probe.summary().unseen == {"0": "its output is not a dense, real tensor"}


@pytest.mark.parametrize(
    ("value", "vectors"),
    [
        (torch.tensor(2.0), 1),
        (torch.ones(4), 1),
        ({"last_hidden_state": torch.ones(2, 3, 4), "cache": None}, 6),
        ([None, (torch.ones(2, 4),)], 2),
        (torch.ones(0, 4), 0),
    ],
)
def test_values_of_many_kinds(value, vectors):
    model = nn.Sequential(Odd(value))
    with Probe(model, layers="0") as probe:
        model(inputs())
    assert sum(record.vectors for record in probe.summary().layers) == vectors
