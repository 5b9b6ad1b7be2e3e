"""Invalid arguments of surgery: an error of one line names the argument, and the model is unchanged."""

import math

import pytest
import torch
from surgery_models import LockedDropout, tree
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
        ({"model": nn.Dropout()}, ValueError, "model must contain the dropout modules, got a Dropout itself"),
        ({"where": 5}, TypeError, "where must be a pattern of names or a function of name and module, got 5"),
        ({"mapping": [nn.Dropout]}, TypeError, "mapping must be a dict .* got list"),
        ({"mapping": {"Dropout": Sparseout}}, TypeError, "mapping must be a dict .* got 'Dropout'"),
        ({"mapping": {nn.Dropout: nn.ReLU}}, TypeError, "mapping must be a dict from module classes to layers"),
        ({"mapping": {nn.Dropout: 3}}, TypeError, "mapping must be a dict from module classes to layers"),
        ({"mapping": {LockedDropout: LockedSparseout}}, ValueError, "p must be a number, because LockedDropout has no p"),
        ({"scale": 0}, ValueError, "scale must be 'rms', 'matched' or a positive finite number, got 0"),
        ({"scale": "mean"}, TypeError, "scale must be 'rms', 'matched' or a positive finite number, got 'mean'"),
        (
            {"scale": "rms", "mapping": {LockedDropout: Exact}, "p": 0.5},
            ValueError,
            "gradient must be 'detached' with scale='rms'",
        ),
        ({"mapping": {LockedDropout: lambda old: nn.ReLU()}}, TypeError, "mapping must give Sparseout layers, got ReLU"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_an_invalid_swap_raises_and_changes_nothing(arguments, error, message, inplace):
    model = nn.Sequential(nn.Dropout(), LockedDropout(0.1))
    before = tree(model)
    with pytest.raises(error, match=message):
        sparseout.swap_dropout(**{"model": model, "q": 1.5, "inplace": inplace, **arguments})
    assert tree(model) == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "ReLU"}, TypeError, "kind must be a module class or a tuple of module classes, got 'ReLU'"),
        ({"kind": (nn.ReLU, torch.relu)}, TypeError, "kind must be"),
        ({"q": -1}, ValueError, "q must be"),
        ({"p": None}, TypeError, "p must be"),
        ({"where": 5}, TypeError, "where must be"),
        ({"scale": -1.0}, ValueError, "scale must be 'rms', 'matched' or a positive finite number, got -1.0"),
        ({"model": None}, TypeError, "model must be"),
    ],
)
def test_an_invalid_insertion_raises(arguments, error, message):
    with pytest.raises(error, match=message):
        sparseout.insert_after(**{"model": nn.Sequential(nn.ReLU()), "kind": nn.ReLU, "q": 1.0, "p": 0.1, **arguments})


def with_change(**changed):
    change = {"name": "0", "old": "torch.nn.modules.dropout.Dropout", "new": {"layer": "Sparseout", "p": 0.5, "q": 1.0}}
    return {"action": "swap", "changes": [{**change, **changed}]}


def with_settings(**settings):
    return with_change(new={"layer": "Sparseout", "p": 0.5, **settings})


NEW = r"report\['changes'\]\[0\]\['new'\]"


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({}, r"report\['action'\] must be one of 'swap', 'insert', 'insert_before', got None"),
        (5, "report must be a SwapReport or the result of its to_dict.., got 5"),
        ([with_change()], "report must be a SwapReport or the result of its to_dict"),
        (None, "report must be"),
        (
            {"action": "explode", "changes": []},
            r"report\['action'\] must be one of 'swap', 'insert', 'insert_before', got 'explode'",
        ),
        ({"action": ["swap"], "changes": []}, r"report\['action'\] must be"),
        ({"action": "swap"}, r"report\['changes'\] must be a list of changes, got None"),
        ({"action": "swap", "changes": {"0": 1}}, r"report\['changes'\] must be a list"),
        ({"action": "swap", "changes": "01"}, r"report\['changes'\] must be a list"),
        (
            {"action": "swap", "changes": [None]},
            r"report\['changes'\]\[0\] must be a dict with 'name', 'old' and 'new', got None",
        ),
        ({"action": "swap", "changes": [{}]}, r"report\['changes'\]\[0\]\['name'\] must be a string, got None"),
        (with_change(name=0), r"report\['changes'\]\[0\]\['name'\] must be a string, got 0"),
        (with_change(name=["0"]), r"report\['changes'\]\[0\]\['name'\] must be a string"),
        (with_change(old=None), r"report\['changes'\]\[0\]\['old'\] must be a string, got None"),
        (with_change(new=[1]), f"{NEW} must be a dict with 'layer' and the settings of the layer, got "),
        (with_change(new={"p": 0.5}), rf"{NEW}\['layer'\] must be one of 'Sparseout', .*, got None"),
        (with_settings(layer="os.system"), rf"{NEW}\['layer'\] must be one of 'Sparseout', .*, got 'os.system'"),
        (with_settings(layer=["Sparseout"]), rf"{NEW}\['layer'\] must be one of"),
        (with_settings(p=7), f"{NEW} must hold valid settings of Sparseout: p must be a drop probability in .*, got 7"),
        (with_settings(p=math.nan), f"{NEW} .*: p must be a drop probability in .*, got nan"),
        (with_settings(p="0.5"), f"{NEW} .*: p must be .*, got '0.5'"),
        (with_settings(q=None), f"{NEW} .*: q must be .*, got None"),
        (with_settings(scale=math.inf), f"{NEW} .*: scale must be"),
        (with_settings(gradient="steep"), f"{NEW} .*: gradient must be"),
        (with_settings(eps=0), f"{NEW} .*: eps must be"),
        (with_settings(shared_dims=["a"]), f"{NEW} .*: shared_dims must be integers"),
        (with_settings(shared_dims={}), f"{NEW} .*: shared_dims must be integers"),
        (with_settings(inplace="yes"), rf"{NEW}\['inplace'\] must be a bool, got 'yes'"),
        (with_settings(generator=5), f"{NEW} must not hold a generator"),
        (with_settings(command=7), f"{NEW} must hold settings of Sparseout, p, q, .*, got 'command'"),
        (
            {"action": "swap", "changes": with_change()["changes"] * 2},
            r"report\['changes'\]\[1\]\['name'\] must be unique, got '0' again",
        ),
        (with_change(name="9"), "report must fit model, but it changes .*Dropout at '9', and model has nothing there"),
        (with_change(name="1"), "report must fit model, .* model has torch.nn.modules.activation.ReLU there"),
        (
            {**with_change(name="1", old="torch.nn.modules.activation.ReLU"), "action": "insert"},
            "'1' already has an inserted layer",
        ),
        (
            {**with_change(name="3", old="torch.nn.modules.activation.ReLU"), "action": "insert"},
            "'3' has its own attribute 'sparseout'",
        ),
        (with_change(name="2", old="torch.nn.modules.linear.Linear"), "a swap at '2' would lose the contents of .*Linear"),
        (with_change(name="", old="torch.nn.modules.container.Sequential"), "a swap at '' would lose"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_an_invalid_report_raises_and_changes_nothing(report, message, inplace):
    model = nn.Sequential(nn.Dropout(), nn.ReLU(), nn.Linear(1, 1), nn.ReLU())
    sparseout.insert_after(model, nn.ReLU, q=1.0, p=0.1, where="1", inplace=True)
    model[3].sparseout = "mine"
    before = tree(model)
    with pytest.raises(ValueError, match=message) as caught:
        surgery.apply_report(model, report, inplace=inplace)
    assert "\n" not in str(caught.value)
    assert tree(model) == before


def test_a_record_with_one_invalid_change_changes_nothing():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    record = sparseout.swap_dropout(model, 1.5).to_dict()
    record["changes"][1]["new"]["p"] = -1
    before = tree(model)
    with pytest.raises(ValueError, match=r"report\['changes'\]\[1\]\['new'\]"):
        surgery.apply_report(model, record, inplace=True)
    assert tree(model) == before
