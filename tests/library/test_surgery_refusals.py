"""What surgery refuses: one line that names the argument, before anything is changed."""

import math

import pytest
import torch
from test_surgery import LockedDropout, tree
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout, surgery


class Exact(Sparseout):
    def __init__(self, p, q, inplace):
        super().__init__(p, q, inplace, gradient="exact")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"q": -1}, ValueError, "q must be a finite norm of at least 0, got -1"),
        ({"p": 1.5}, ValueError, "p must be a drop probability"),
        ({"q": math.nan}, ValueError, "q must be"),
        ({"model": torch.ones(2)}, TypeError, r"model must be a torch\.nn\.Module, got Tensor"),
        ({"model": nn.Dropout()}, ValueError, "model must hold the dropout to be swapped, got a Dropout itself"),
        ({"where": 5}, TypeError, "where must be a name pattern or a function of name and module, got 5"),
        ({"mapping": [nn.Dropout]}, TypeError, "mapping must be a dict .* got list"),
        ({"mapping": {"Dropout": Sparseout}}, TypeError, "mapping must lead from classes .* got 'Dropout'"),
        ({"mapping": {nn.Dropout: nn.ReLU}}, TypeError, "mapping must lead from classes"),
        ({"mapping": {nn.Dropout: 3}}, TypeError, "mapping must lead from classes"),
        ({"mapping": {LockedDropout: LockedSparseout}}, ValueError, "p must be given, because LockedDropout has no attribute p"),
        ({"scale": 0}, ValueError, "scale must be 'rms' or a positive finite number, got 0"),
        ({"scale": "mean"}, TypeError, "scale must be 'rms' or a positive finite number, got 'mean'"),
        (
            {"scale": "rms", "mapping": {LockedDropout: Exact}, "p": 0.5},
            ValueError,
            "gradient must be 'detached' with scale='rms'",
        ),
        ({"mapping": {LockedDropout: lambda old: nn.ReLU()}}, TypeError, "mapping must lead to layers of Sparseout, got ReLU"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_bad_swap_is_refused_before_anything_is_changed(arguments, error, message, inplace):
    model = nn.Sequential(nn.Dropout(), LockedDropout(0.1))
    before = tree(model)
    with pytest.raises(error, match=message):
        sparseout.swap_dropout(**{"model": model, "q": 1.5, "inplace": inplace, **arguments})
    assert tree(model) == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "ReLU"}, TypeError, "kind must be a class of modules or a tuple of them, got 'ReLU'"),
        ({"kind": (nn.ReLU, torch.relu)}, TypeError, "kind must be"),
        ({"q": -1}, ValueError, "q must be"),
        ({"p": None}, TypeError, "p must be"),
        ({"where": 5}, TypeError, "where must be"),
        ({"scale": -1.0}, ValueError, "scale must be 'rms' or a positive finite number, got -1.0"),
        ({"model": None}, TypeError, "model must be"),
    ],
)
def test_a_bad_insertion_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sparseout.insert_after(**{"model": nn.Sequential(nn.ReLU()), "kind": nn.ReLU, "q": 1.0, "p": 0.1, **arguments})


def with_change(**changed):
    change = {"name": "0", "old": "torch.nn.modules.dropout.Dropout", "new": {"layer": "Sparseout", "p": 0.5, "q": 1.0}}
    return {"action": "swap", "changes": [{**change, **changed}]}


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({}, "report must be .* wrong at: 'action'"),
        (5, "report must be"),
        ({"action": "explode", "changes": []}, "report must be .* action must be one of 'swap', 'insert', got 'explode'"),
        (with_change(new={"layer": "os.system", "p": 0.5}), "report must be .* wrong at: 'os.system'"),
        (with_change(new={"layer": "Sparseout", "p": 7}), "report must be .* wrong at: p must be"),
        (with_change(new={"layer": "Sparseout", "command": 7}), "report must be .* 'command'"),
        (with_change(name="9"), "report does not fit model: it changed a .*Dropout at '9', and there is nothing"),
        (with_change(name="1"), "report does not fit model: .* there is a torch.nn.modules.activation.ReLU"),
        (
            {**with_change(name="1", old="torch.nn.modules.activation.ReLU"), "action": "insert"},
            "'1' has an inserted layer already",
        ),
    ],
)
def test_a_report_that_does_not_fit_is_refused_before_anything_is_changed(report, message):
    model = nn.Sequential(nn.Dropout(), nn.ReLU())
    sparseout.insert_after(model, nn.ReLU, q=1.0, p=0.1, inplace=True)
    before = tree(model)
    with pytest.raises(ValueError, match=message):
        surgery.apply_report(model, report, inplace=True)
    assert tree(model) == before
