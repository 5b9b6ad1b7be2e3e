"""`insert_after` adds a layer to each activation and changes nothing else."""

import copy
import functools
import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from surgery_models import ACTIVATIONS, keys, models, tree
from torch import nn

import sparseout
from sparseout import regularizers


class SwiGLU(nn.Module):
    def forward(self, x):
        return nn.functional.silu(x)


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


def test_one_activation_called_twice_draws_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x), self.act(x)

    first, second = sparseout.insert_after(Twice(), nn.ReLU, q=2.0, p=0.5).model(torch.ones(100))
    assert not torch.equal(first, second)


def test_an_activation_can_be_the_model():
    assert [change.name for change in sparseout.insert_after(nn.ReLU(), nn.ReLU, q=1.0, p=0.1).changes] == [""]


def test_activations_without_an_insertion_are_named():
    model = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Sequential(nn.GELU()), nn.ReLU())
    model[0].sparseout = "mine"
    model[3].forward = functools.partial(nn.ReLU.forward, model[3])
    report = sparseout.insert_after(model, (nn.ReLU, nn.Sequential), q=1.0, p=0.1)
    assert [change.name for change in report.changes] == ["1"]
    assert dict(report.unreachable) == {
        "": "Sequential is a container: pass the class of its last module",
        "0": "ReLU has its own attribute 'sparseout'",
        "2": "Sequential is a container: pass the class of its last module",
        "3": "this ReLU has a forward of its own",
    }


FACTORIES = {
    "L1": lambda activation: regularizers.L1(0.1),
    "KWinners": lambda activation: regularizers.KWinners(0.25),
    "HardConcrete": lambda activation: regularizers.HardConcrete(0.1, units=8),
    "Standout": lambda activation: regularizers.Standout(),
}


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_gives_the_layer_of_each_activation_and_restore_removes_it(name):
    model, x = small(), torch.randn(5, 4)
    seen = []
    report = sparseout.insert_after(model, nn.ReLU, lambda activation: seen.append(activation) or FACTORIES[name](activation))
    assert seen == [model[1], model[3]]
    assert [change.name for change in report.changes] == ["1", "3"]
    torch.manual_seed(1)
    found = report.model(x)
    torch.manual_seed(1)
    first, second = (change.new for change in report.changes)
    assert torch.equal(found, model[4](second(model[3](model[2](first(model[1](model[0](x))))))))
    assert type(report.model[1].get_submodule("sparseout")).__name__ == name in repr(report)
    assert report.to_dict()["changes"][0]["new"]["layer"] == name
    assert repr(sparseout.surgery.apply_report(small(), json.loads(json.dumps(report.to_dict()))).model) == repr(report.model)
    assert torch.equal(sparseout.restore(report.model)(x), model(x))


def test_the_reader_of_a_copied_model_is_in_the_copy():
    model = small()
    report = sparseout.insert_after(model, nn.ReLU, lambda activation: regularizers.L1(0.1, reader=model[2]), where="1")
    assert report.changes[0].new._reader == (report.model[2],)
    assert sparseout.penalty(report.model).item() == 0
    report.model(torch.randn(3, 4))
    sparseout.penalty(report.model).backward()
    assert report.model[2].weight.grad is not None
    assert model[2].weight.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "q and p must be numbers if no factory is given, got q=None and p=None"),
        ({"q": 1.0}, "q and p must be numbers if no factory is given, got q=1.0 and p=None"),
        ({"factory": FACTORIES["L1"], "q": 1.0}, "must not be given with a factory"),
        ({"factory": lambda activation: None}, "factory must return a torch.nn.Module, got None"),
    ],
)
def test_a_factory_or_q_and_p_are_needed(arguments, message):
    with pytest.raises(TypeError, match=message):
        sparseout.insert_after(small(), nn.ReLU, **arguments)
