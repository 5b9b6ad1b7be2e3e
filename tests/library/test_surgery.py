"""Surgery changes what it says and nothing else, says what it cannot change, and can be undone to the object."""

import copy
import functools
import io
import json
import pickle
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d, Sparseout3d, surgery

KINDS = {nn.Dropout: Sparseout, nn.Dropout1d: Sparseout1d, nn.Dropout2d: Sparseout2d, nn.Dropout3d: Sparseout3d}
ACTIVATIONS = (nn.ReLU, nn.PReLU)


class Unusual(nn.Dropout):
    def forward(self, input):
        return super().forward(input) + 1


class Marker(nn.Dropout):
    pass


class LockedDropout(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout

    def forward(self, x):
        return x


class LearntDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(0.5))


class SwiGLU(nn.Module):
    def forward(self, x):
        return nn.functional.silu(x)


class Stateful(nn.Module):
    """Has a state of its own to be pickled by."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return x * self.slope

    def __getstate__(self):
        return {**self.__dict__, "slope": str(self.slope)}

    def __setstate__(self, state):
        super().__setstate__({**state, "slope": float(state["slope"])})


class Reduced(nn.ReLU):
    """Is pickled by its arguments."""

    def __reduce__(self):
        return Reduced, ()


class Slotted(nn.ReLU):
    """Is built with arguments that pickling gets from it."""

    def __new__(cls, *args):
        return super().__new__(cls)

    def __getnewargs__(self):
        return (1,)


@st.composite
def models(draw):
    """Nested models in which modules may go by several names."""
    kinds = draw(st.lists(st.sampled_from([*KINDS, Marker]), min_size=1, max_size=4))
    pool = [kind(draw(st.floats(0, 1)), draw(st.booleans())) for kind in kinds]
    pool += [nn.Linear(2, 2), nn.ReLU(), nn.PReLU(), nn.BatchNorm1d(2), nn.AlphaDropout(0.1), nn.LSTM(2, 2, 2, dropout=0.1)]
    for _ in range(draw(st.integers(1, 3))):
        chosen = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4))
        pool.append(nn.Sequential(*chosen) if draw(st.booleans()) else nn.ModuleDict({f"m{i}": m for i, m in enumerate(chosen)}))
    model = nn.Sequential(*pool, nn.Sequential(*draw(st.permutations(pool))))
    return model.train(draw(st.booleans()))


def tree(model):
    """Each name with the object that it stands for."""
    return {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}


def keys(model):
    return [(key, value.shape) for key, value in model.state_dict().items()]


# Swapping


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


@given(model=models(), data=st.data())
def test_restore_brings_every_object_back(model, data):
    before, representation = tree(model), repr(model)
    kinds, modes = [type(module) for module in model.modules()], [module.training for module in model.modules()]
    sparseout.swap_dropout(model, 1.5, inplace=True)
    sparseout.insert_after(model, ACTIVATIONS, q=1.0, p=0.1, inplace=True)
    copied = data.draw(st.sampled_from([copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]))(model)
    for changed in (copied, model):
        assert sparseout.restore(changed) is changed
        assert repr(changed) == representation
        assert [module.training for module in changed.modules()] == modes
        assert [type(module) for module in changed.modules()] == kinds
    assert tree(model) == before
    assert not set(tree(copied).values()) & set(before.values())


@given(model=models())
def test_changing_twice_changes_nothing_more(model):
    sparseout.swap_dropout(model, 1.5, inplace=True)
    sparseout.insert_after(model, ACTIVATIONS, q=1.0, p=0.1, inplace=True)
    before, representation = tree(model), repr(model)
    with pytest.warns(UserWarning, match="the model was not changed: nothing to swap.*no dropout module in the model, which has"):
        again = sparseout.swap_dropout(model, 1.0, inplace=True)
    with pytest.warns(UserWarning, match="nothing to insert; each nn.ReLU or nn.PReLU of the model has a layer"):
        sparseout.insert_after(model, ACTIVATIONS, q=2.0, p=0.2, inplace=True)
    assert not again.changes
    assert (tree(model), repr(model)) == (before, representation)


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


def test_where_may_select_one_of_the_names_of_a_module():
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


def test_what_cannot_be_reached_is_named():
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
        "lstm": "LSTM drops out between its layers in one call of torch",
        "encoder.layers.0.self_attn": "MultiheadAttention drops attention weights in one call of torch",
        "alpha": "AlphaDropout keeps the mean and variance of SELU, which Sparseout does not: left alone",
        "unusual": "Unusual has a forward other than Dropout's: name it in mapping",
        "learnt": "LearntDropout holds modules, parameters or buffers, which a swap would lose",
        "scripted.1": "compiled by torch.jit: change the model before compiling it",
        "replaced": "the forward of this Dropout was replaced",
        "compiled._orig_mod": "this Dropout was compiled by itself: change the model before compiling it",
    }
    assert [change.name for change in report.changes] == [
        "fine",
        *(f"encoder.layers.0.{name}" for name in ("dropout", "dropout1", "dropout2")),
    ]
    for name, reason in report.unreachable:
        assert f"  {name}: {reason}" in str(report).splitlines()
    assert sparseout.swap_dropout(model, 1.5, where="fine").unreachable == ()
    with pytest.warns(UserWarning, match="nothing to swap but lstm: LSTM drops out"):
        sparseout.swap_dropout(model, 1.5, where="lstm")
    scripted_activation = torch.jit.script(nn.Sequential(nn.ReLU()))
    with pytest.warns(UserWarning, match="nothing to insert but 0: compiled by torch.jit"):
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


# Hooks


def test_hooks_go_on_working_through_a_swap_and_back():
    model = nn.Sequential(nn.Dropout(0.0))
    seen = []
    handles = {
        "pre": model[0].register_forward_pre_hook(lambda module, args: seen.append("pre")),
        "post": model[0].register_forward_hook(lambda module, args, kwargs, output: seen.append("post"), with_kwargs=True),
        "back": model[0].register_full_backward_hook(lambda module, *_: seen.append("back")),
    }

    def run():
        seen.clear()
        model(torch.ones(2, requires_grad=True)).sum().backward()
        return seen

    sparseout.swap_dropout(model, 1.5, inplace=True)
    assert run() == ["pre", "post", "back"]
    handles.pop("pre").remove()
    assert run() == ["post", "back"]
    model[0].register_forward_hook(lambda *_: seen.append("late"))
    sparseout.restore(model)
    assert run() == ["post", "late", "back"]
    handles["post"].remove()
    assert run() == ["late", "back"]


def test_a_swap_moves_the_hooks_and_no_other_attribute():
    class Addressed(nn.Dropout):
        pass

    model = nn.Sequential(Addressed(0.2))
    model[0].webhook_url, model[0].hooked = "https://example.org", True
    sparseout.swap_dropout(model, 1.5, inplace=True)
    assert not {"webhook_url", "hooked"} & set(vars(model[0]))
    model[0].my_hooks = []
    sparseout.restore(model)
    assert model[0].webhook_url == "https://example.org"
    assert "my_hooks" not in vars(model[0])


# Insertion


@given(model=models(), q=st.floats(0, 4), p=st.floats(0, 1), inplace=st.booleans())
def test_insertion_adds_a_layer_to_each_activation_and_nothing_else(model, q, p, inplace):
    before, original = tree(model), dict(model.named_modules(remove_duplicate=False))
    kinds = {name: type(module) for name, module in original.items()}
    report = sparseout.insert_after(model, ACTIVATIONS, q=q, p=p, inplace=inplace)
    assert (report.model is model) == inplace
    assert inplace or tree(model) == before
    assert keys(report.model) == keys(model)
    after = dict(report.model.named_modules(remove_duplicate=False))
    activations = [name for name, old in original.items() if isinstance(old, ACTIVATIONS)]
    assert set(after) == {*original, *(f"{name}.sparseout" for name in activations)}
    for name, kind in kinds.items():
        assert isinstance(after[name], kind)
        assert (type(after[name]) is kind) == (name not in activations)
        assert repr(after[name]).startswith(f"{kind.__name__}(")
    assert {change.name for change in report.changes} == set(activations)
    for name, old, new in report.changes:
        assert after[name] is old
        assert after[f"{name}.sparseout"] is new
        assert (new.p, new.q, new.training) == (p, q, original[name].training)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.PReLU, nn.GELU, SwiGLU])
def test_an_inserted_layer_acts_on_the_activation(kind):
    model = nn.Sequential(nn.Linear(5, 50), kind())
    x = torch.randn(3, 5)
    changed = sparseout.insert_after(model, kind, q=1.5, p=0.5).model
    torch.manual_seed(0)
    expected = sparseout.sparseout(model(x), 0.5, 1.5)
    for trained in (changed, copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):
        torch.manual_seed(0)
        assert torch.equal(trained(x), expected)
        assert torch.equal(trained.eval()(x), model(x))
    changed[1].sparseout.p = 1.0
    assert torch.equal(changed.train()(x), torch.zeros(3, 50))


def test_an_activation_keeps_its_hooks():
    model = nn.Sequential(nn.ReLU())
    seen = []
    handle = model[0].register_forward_hook(lambda module, args, output: seen.append((*args, output)))
    for change in (lambda: sparseout.insert_after(model, nn.ReLU, q=2.0, p=1.0, inplace=True), lambda: sparseout.restore(model)):
        change()
        x = torch.ones(3)
        y = model(x)
        assert all(ours is theirs for ours, theirs in zip(seen.pop(), (x, y), strict=True))
    handle.remove()
    model(x)
    assert not seen


def test_one_activation_called_twice_draws_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x), self.act(x)

    first, second = sparseout.insert_after(Twice(), nn.ReLU, q=2.0, p=0.5).model(torch.ones(100))
    assert not torch.equal(first, second)


def test_an_activation_may_be_the_model():
    assert [change.name for change in sparseout.insert_after(nn.ReLU(), nn.ReLU, q=1.0, p=0.1).changes] == [""]


def test_where_no_layer_can_be_inserted_is_named():
    model = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Sequential(nn.GELU()), nn.ReLU())
    model[0].sparseout = "mine"
    model[3].forward = functools.partial(nn.ReLU.forward, model[3])
    report = sparseout.insert_after(model, (nn.ReLU, nn.Sequential), q=1.0, p=0.1)
    assert [change.name for change in report.changes] == ["1"]
    assert dict(report.unreachable) == {
        "": "Sequential is a sequence: name the class of its last module",
        "0": "ReLU has an attribute 'sparseout' of its own",
        "2": "Sequential is a sequence: name the class of its last module",
        "3": "the forward of this ReLU was replaced",
    }


# Compiled models


CHANGES = {
    "swap": lambda model, **where: sparseout.swap_dropout(model, 2.0, p=1.0, **where),
    "insert": lambda model, **where: sparseout.insert_after(model, nn.ReLU, q=2.0, p=1.0, **where),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("way", ["torch.compile", "compile"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_was_compiled_and_run_sees_the_change_and_its_undoing(way, change):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.0))
    compiled = torch.compile(model, backend="eager") if way == "torch.compile" else model
    if way == "compile":
        model.compile(backend="eager")
    x = torch.ones(2, 3)
    clean = compiled(x)
    zeros = torch.zeros_like(clean)
    assert CHANGES[change](compiled, inplace=True).model is compiled
    assert torch.equal(compiled(x), zeros)
    sparseout.restore(compiled)
    assert torch.equal(compiled(x), clean)
    assert torch.equal(CHANGES[change](compiled).model(x), zeros)
    assert torch.equal(compiled(x), clean)


@pytest.mark.parametrize("scale", [0.25, "rms"])
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
    added = {f"{name}{'' if action == 'swap' else '.sparseout'}.running_rms" for name, *_ in report.changes}
    assert set(report.model.state_dict()) == set(applied.state_dict()) == before | (added if scale == "rms" else set())
    assert set(sparseout.restore(applied).state_dict()) == before


def test_a_running_scale_lies_where_the_model_does():
    for report in (
        sparseout.swap_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).to("meta"), 1.5, scale="rms"),
        sparseout.insert_after(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).to("meta"), nn.ReLU, q=1.5, p=0.5, scale="rms"),
    ):
        assert {tensor.device.type for tensor in report.model.state_dict().values()} == {"meta"}


def test_a_layer_of_ones_own_need_not_know_the_scale():
    class Plain(Sparseout):
        def __init__(self, p, q, inplace):
            super().__init__(p, q, inplace)

    model = nn.Sequential(LockedDropout(0.2), Marker(0.3))
    mapping = {Marker: Plain, LockedDropout: lambda old: LockedSparseout(old.dropout, 1.0, scale=3.0)}
    report = sparseout.swap_dropout(model, 1.5, scale="rms", mapping=mapping)
    assert [layer.scale for layer in report.model] == [3.0, "rms"]


# What a person may have meant


class GELUActivation(nn.Module):
    pass


class DropPath(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop_prob = 0.1


def block(activation, dropout):
    return nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(2, 2), activation), "decoder": nn.Sequential(dropout)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: sparseout.insert_after(model, nn.GELU, q=1.0, p=0.1),
            r"nothing to insert; no nn.GELU in the model; closest: GELUActivation \(test_surgery\), e.g. encoder.1$",
        ),
        (
            lambda model: sparseout.insert_after(model, nn.Softmax, q=1.0, p=0.1),
            "no nn.Softmax in the model, nor a class of a similar name; its classes that hold no modules: "
            "Linear, GELUActivation, Dropout$",
        ),
        (
            lambda model: sparseout.insert_after(model, GELUActivation, q=1.0, p=0.1, where="decoder.*"),
            r"where='decoder.\*' selects no test_surgery.GELUActivation, but decoder.0; "
            "test_surgery.GELUActivation in the model: encoder.1$",
        ),
        (
            lambda model: sparseout.insert_after(model, GELUActivation, q=1.0, p=0.1, where="encodr.1"),
            "where='encodr.1' fits no name in the model; closest: encoder.1$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where="decodr.0"),
            "nothing to swap; where='decodr.0' fits no name in the model; closest: decoder.0$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where="blocks.*"),
            r"where='blocks.\*' fits no name in the model; dropout module in the model: decoder.0$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where="encoder.*"),
            r"where='encoder.\*' selects no dropout module, but encoder.0, encoder.1; dropout module in the model: decoder.0$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where=lambda name, module: False),
            "where selects no dropout module; dropout module in the model: decoder.0$",
        ),
    ],
)
def test_what_fits_nothing_gets_the_closest_that_there_is(change, message):
    model = block(GELUActivation(), nn.Dropout())
    with pytest.warns(UserWarning, match=message):
        change(model)


@pytest.mark.parametrize(
    ("dropout", "message"),
    [
        (
            DropPath(),
            r"no dropout module in the model; closest: DropPath \(test_surgery\), e.g. decoder.0: mapping= takes further classes",
        ),
        (
            nn.Identity(),
            "no dropout module in the model; check_swap shows dropout that is called as a function, and insert_after",
        ),
    ],
)
def test_a_model_without_dropout_is_told_what_it_has_instead(dropout, message):
    with pytest.warns(UserWarning, match=f"nothing to swap; {message}"):
        sparseout.swap_dropout(block(nn.ReLU(), dropout), 1.5)


# Code that looks for dropout by its class


def test_the_recipe_of_monte_carlo_dropout_names_both_classes():
    model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.0))
    model = sparseout.swap_dropout(model, 1.5).model.eval()
    x = torch.randn(3, 4)
    for found, draws in ((nn.Dropout, False), ((nn.Dropout, Sparseout), True)):
        for module in model.modules():
            if isinstance(module, found):
                module.train()
        assert torch.equal(model(x), model(x)) != draws
    assert [module.training for module in model] == [False, False, True, True, False]


@given(q=st.floats(0, 4), p=st.floats(0, 1), scale=st.sampled_from([0.5, "rms"]))
def test_a_record_beside_the_weights_brings_back_settings_that_changed_while_training(q, p, scale):
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


# Copies and files


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: through_a_file(model)],
    ids=["deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("scale", [1.0, "rms"])
def test_a_changed_model_is_copied_whole(copied, restored, scale):
    model = nn.Sequential(nn.Linear(4, 4), Stateful(2.0), nn.Dropout(0.2), nn.Dropout1d(0.3), Reduced(), Slotted()).eval()
    expected = repr(model)
    sparseout.swap_dropout(model, 1.5, scale=scale, inplace=True)
    sparseout.insert_after(model, (Stateful, Reduced, Slotted), q=1.0, p=0.5, scale=scale, inplace=True)
    if restored:
        sparseout.restore(model)
    again = copied(model)
    assert repr(again) == repr(model)
    x = torch.randn(3, 4)
    for one, other in ((model.eval(), again.eval()), (model.train(), again.train())):
        outputs = []
        for each in (one, other):
            torch.manual_seed(1)
            outputs.append(each(x))
        assert torch.equal(*outputs)
    if not restored:
        again[2].p = 0.9
        assert model[2].p == 0.2
        sparseout.restore(again)
    assert repr(again) == expected


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)
