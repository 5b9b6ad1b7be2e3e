"""`swap_dropout` replaces every dropout and nothing else, and names the modules that it cannot replace."""

import functools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from surgery_models import ACTIVATIONS, KINDS, LearntDropout, LockedDropout, Marker, Unusual, keys, models, tree
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d


@given(model=models(), q=st.floats(0, 4), p=st.none() | st.floats(0, 1), inplace=st.booleans())
def test_swap_replaces_every_dropout_and_nothing_else(model, q, p, inplace):
    before, original = tree(model), dict(model.named_modules(remove_duplicate=False))
    report = sparseout.swap_dropout(model, q, p=p, inplace=inplace)
    assert report.uncalled == ()
    assert (report.model is model) == inplace
    assert inplace or tree(model) == before
    assert keys(report.model) == keys(model)
    after = dict(report.model.named_modules(remove_duplicate=False))
    assert list(after) == list(original)
    for name, old in original.items():
        new = after[name]
        if isinstance(old, tuple(KINDS)):
            kind = next(KINDS[each] for each in type(old).__mro__ if each in KINDS)
            assert type(new) is kind
            assert (new.p, new.q, new.inplace, new.training) == (old.p if p is None else p, q, old.inplace, old.training)
        else:
            assert type(new) is type(old)
        assert [other for other, module in after.items() if module is new] == [n for n, m in original.items() if m is old]
    expected = {name for name, old in original.items() if isinstance(old, tuple(KINDS))}
    assert {name for name, *_ in report.changes} == expected
    assert all(after[name] is new and type(old) is type(original[name]) for name, old, new in report.changes)


@given(model=models())
def test_a_second_change_changes_nothing(model):
    sparseout.swap_dropout(model, 1.5, inplace=True)
    sparseout.insert_after(model, ACTIVATIONS, q=1.0, p=0.1, inplace=True)
    before, representation = tree(model), repr(model)
    with pytest.warns(UserWarning, match="the model is unchanged, because .*the model has no dropout module, but already"):
        again = sparseout.swap_dropout(model, 1.0, inplace=True)
    with pytest.warns(UserWarning, match="unchanged, because every nn.ReLU or nn.PReLU in the model already has a layer"):
        sparseout.insert_after(model, ACTIVATIONS, q=2.0, p=0.2, inplace=True)
    assert not again.changes
    assert (tree(model), repr(model)) == (before, representation)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("a.*", ["a.0", "a.1"]),
        ("*.0", ["a.0", "b.0"]),
        (lambda name, module: isinstance(module, nn.Dropout) and module.p > 0.15, ["a.1", "b.0"]),
        (lambda name, module: name == "b.0", ["b.0"]),
    ],
)
def test_where_selects_by_pattern_and_by_predicate(where, names):
    model = nn.ModuleDict({"a": nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.2)), "b": nn.Sequential(nn.Dropout(0.3))})
    assert [change.name for change in sparseout.swap_dropout(model, 1.5, where=where).changes] == names
    model = nn.ModuleDict({"a": nn.Sequential(nn.ReLU(), nn.ReLU()), "b": nn.Sequential(nn.ReLU())})
    if isinstance(where, str):
        assert [change.name for change in sparseout.insert_after(model, nn.ReLU, q=1.0, p=0.1, where=where).changes] == names


def test_where_can_select_one_of_several_names():
    drop = nn.Dropout(0.1)
    model = nn.ModuleDict({"a": drop, "b": drop})
    report = sparseout.swap_dropout(model, 1.5, where="b", inplace=True)
    assert model["a"] is drop
    assert isinstance(model["b"], Sparseout)
    assert sparseout.restore(model)["b"] is drop
    assert [change.name for change in report.changes] == ["b"]


def test_mapping_adds_classes():
    model = nn.Sequential(LockedDropout(0.3), Unusual(0.2), nn.Dropout(0.1), nn.AlphaDropout(0.4))
    mapping = {
        LockedDropout: lambda old: LockedSparseout(old.dropout, 1.5, batch_first=True),
        Unusual: Sparseout1d,
        nn.AlphaDropout: Sparseout,
    }
    changed = sparseout.swap_dropout(model, 1.5, mapping=mapping).model
    assert repr(list(changed)) == (
        "[LockedSparseout(p=0.3, q=1.5, batch_first=True), Sparseout1d(p=0.2, q=1.5), Sparseout(p=0.1, q=1.5), "
        "Sparseout(p=0.4, q=1.5)]"
    )
    report = sparseout.swap_dropout(model, 1.5, p=0.7, mapping={LockedDropout: LockedSparseout}, where="0")
    assert repr(report.model[0]) == "LockedSparseout(p=0.7, q=1.5)"


def test_unreachable_dropout_is_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))
        one_layer = nn.LSTM(2, 2, dropout=0.1)
    replaced = nn.Dropout(0.1)
    replaced.forward = functools.partial(nn.Dropout.forward, replaced)
    model = nn.ModuleDict(
        {
            "fine": nn.Dropout(0.5),
            "lstm": nn.LSTM(2, 2, 2, dropout=0.1),
            "one_layer": one_layer,
            "encoder": nn.TransformerEncoder(
                nn.TransformerEncoderLayer(4, 2, 4, dropout=0.2, batch_first=True), 1, enable_nested_tensor=False
            ),
            "attention_without": nn.MultiheadAttention(4, 2),
            "alpha": nn.AlphaDropout(),
            "unusual": Unusual(),
            "learnt": LearntDropout(),
            "scripted": scripted,
            "replaced": replaced,
            "compiled": torch.compile(nn.Dropout(0.3), backend="eager"),
        }
    )
    model["learnt"].__class__ = type("LearntDropout", (LearntDropout, nn.Dropout), {"forward": nn.Dropout.forward})
    report = sparseout.swap_dropout(model, 1.5)
    assert dict(report.unreachable) == {
        "lstm": "LSTM applies dropout between its layers inside a single call of torch",
        "encoder.layers.0.self_attn": "MultiheadAttention applies dropout to attention weights inside a single call of torch",
        "alpha": "AlphaDropout preserves the mean and variance of SELU, and Sparseout does not",
        "unusual": "Unusual overrides the forward of Dropout: add it to mapping",
        "learnt": "LearntDropout holds modules, parameters or buffers, which a swap would lose",
        "scripted.1": "torch.jit compiled it: change the model before you compile it",
        "replaced": "this Dropout has a forward of its own",
        "compiled._orig_mod": "this Dropout is a compiled module: change the model before you compile it",
    }
    assert [change.name for change in report.changes] == [
        "fine",
        *(f"encoder.layers.0.{name}" for name in ("dropout", "dropout1", "dropout2")),
    ]
    for name, reason in report.unreachable:
        assert f"  {name}: {reason}" in str(report).splitlines()
    assert sparseout.swap_dropout(model, 1.5, where="fine").unreachable == ()
    with pytest.warns(UserWarning, match="unchanged, because lstm: LSTM applies dropout .*; where='lstm' selects no dropout"):
        sparseout.swap_dropout(model, 1.5, where="lstm")
    scripted_activation = torch.jit.script(nn.Sequential(nn.ReLU()))
    with pytest.warns(UserWarning, match="0: torch.jit compiled it"):
        sparseout.insert_after(scripted_activation, nn.ReLU, q=1.0, p=0.1, inplace=True)


def test_no_change_is_a_warning_at_the_callers_line():
    for change in (
        lambda model: sparseout.swap_dropout(model, 1.5),
        lambda model: sparseout.insert_after(model, nn.GELU, q=1.5, p=0.1),
        sparseout.restore,
    ):
        with pytest.warns(UserWarning, match="changed") as caught:
            change(nn.Sequential(nn.Linear(2, 2)))
        assert caught[0].filename == __file__


@pytest.mark.parametrize("scale", ["rms", "matched"])
def test_a_running_scale_lies_where_the_model_does(scale):
    for report in (
        sparseout.swap_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).to("meta"), 1.5, scale=scale),
        sparseout.insert_after(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).to("meta"), nn.ReLU, q=1.5, p=0.5, scale=scale),
    ):
        assert {tensor.device.type for tensor in report.model.state_dict().values()} == {"meta"}


def test_a_user_layer_class_needs_no_scale_argument():
    class Plain(Sparseout):
        def __init__(self, p, q, inplace):
            super().__init__(p, q, inplace)

    model = nn.Sequential(LockedDropout(0.2), Marker(0.3))
    mapping = {Marker: Plain, LockedDropout: lambda old: LockedSparseout(old.dropout, 1.0, scale=3.0)}
    report = sparseout.swap_dropout(model, 1.5, scale="rms", mapping=mapping)
    assert [layer.scale for layer in report.model] == [3.0, "rms"]


def test_monte_carlo_dropout_must_include_sparseout():
    model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.0))
    model = sparseout.swap_dropout(model, 1.5).model.eval()
    x = torch.randn(3, 4)
    for found, draws in ((nn.Dropout, False), ((nn.Dropout, Sparseout), True)):
        for module in model.modules():
            if isinstance(module, found):
                module.train()
        assert torch.equal(model(x), model(x)) != draws
    assert [module.training for module in model] == [False, False, True, True, False]
