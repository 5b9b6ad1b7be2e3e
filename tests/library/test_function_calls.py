"""The watched functions have the signatures of torch's own, and each call is attributed to the innermost module of the model."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparseout.function_calls import ACTIVATIONS, DROPOUTS, FunctionCalls


@pytest.mark.parametrize("name", [name for name in DROPOUTS if inspect.isfunction(getattr(F, name, None))])
def test_the_positions_and_defaults_are_those_of_torch(name):
    parameters = inspect.signature(getattr(F, name)).parameters
    known = DROPOUTS[name]
    p = next(parameters[key] for key in ("p", "dropout_p") if key in parameters)
    assert list(parameters)[known.p_position] == p.name
    assert p.default in (known.p, inspect.Parameter.empty)
    assert list(parameters)[known.training_position] == "training"
    assert parameters["training"].default is known.training


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_is_a_function_of_torch(name):
    assert callable(getattr(F, name, None) or getattr(torch, name))


class Inner(nn.Module):
    def forward(self, x):
        return self.helper(x)

    def helper(self, x):
        return F.dropout(x, 0.25)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.hidden = Inner(), [Inner()]

    def forward(self, x):
        return self.hidden[0](self.inner(x).relu_())


def test_a_call_belongs_to_the_innermost_module_of_the_model():
    model, calls = Outer(), []
    names = {module: name for name, module in model.named_modules()}

    def seen(module, function, args, kwargs):
        calls.append((names[module], function, DROPOUTS[function].read(args, kwargs)[0] if function in DROPOUTS else None))

    with FunctionCalls({"dropout", "relu"}, names, seen):
        model(torch.ones(3))
        F.dropout(torch.ones(3))
    assert calls == [("inner", "dropout", 0.25), ("", "relu", None), ("", "dropout", 0.25)]
