"""Surgery can be undone to the object, and changed models keep their hooks, compile and can be copied."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import COPIES
from surgery_models import ACTIVATIONS, models, tree
from torch import nn

import sparseout
from sparseout.surgery.edit import HOOK_ATTRIBUTES


@given(model=models(), data=st.data())
def test_restore_returns_every_object(model, data):
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


# Hooks


def test_hooks_keep_working_after_a_swap_and_after_restore():
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


def test_hook_attributes_are_complete():
    assert set(HOOK_ATTRIBUTES) == {name for name in vars(nn.Module()) if "hook" in name}


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


# Compiled models


CHANGES = {
    "swap": lambda model, **where: sparseout.swap_dropout(model, 2.0, p=1.0, **where),
    "insert": lambda model, **where: sparseout.insert_after(model, nn.ReLU, q=2.0, p=1.0, **where),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("way", ["torch.compile", "compile"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_compiled_model_runs_with_the_change_and_after_restore(way, change):
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


# Copies and files


class Stateful(nn.Module):
    """A module with its own `__getstate__` and `__setstate__`."""

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
    """A module with its own `__reduce__`."""

    def __reduce__(self):
        return Reduced, ()


class Slotted(nn.ReLU):
    """A module with its own `__getnewargs__`."""

    def __new__(cls, *args):
        return super().__new__(cls)

    def __getnewargs__(self):
        return (1,)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("scale", [1.0, "rms", "matched"])
def test_copies_of_a_changed_model_are_complete(copied, restored, scale):
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
