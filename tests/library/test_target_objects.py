"""A model with a SparsityTarget is saved, copied, exported, compiled and controlled again."""

import copy
import gc
import math
import pickle
import warnings
import weakref

import pytest
import torch
from small import COPIES, network, take
from torch import nn

from sparseout import Sparseout, SparsityTarget

X = torch.randn(16, 4)


def attached(steps=4):
    """A model whose next step is measured."""
    model = network()
    target = SparsityTarget(model, 0.6, every=2)
    take(model, target, steps)
    assert model[2]._forward_pre_hooks
    return model, target


def goes_on(model, target):
    """Whether the target measures and controls the model like one that was left alone."""
    twin, other = attached()
    for each, its_target in ((model, target), (twin, other)):
        take(each, its_target, 3)
    return target.state_dict() == other.state_dict() and model[2].q == twin[2].q


# Saved, copied, exported and compiled with the hooks of a measured step on the model


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_keeps_its_q_and_is_not_measured(copied):
    model, target = attached()
    q = model[2].q
    twin = copied(model)
    assert twin[2].q == q != 2.0
    twin(100 * X)
    take(twin, SparsityTarget(twin, 0.6, every=1), 0)  # another can control the copy
    assert goes_on(model, target)
    assert model[2].q != q
    assert twin[2].q == q


def test_it_is_exported_in_training_mode():
    model, target = attached()
    graph = torch.export.export(model.train(), (X,)).graph
    assert "sparseout" in str(graph)
    assert goes_on(model, target)


def test_it_is_compiled_as_one_graph():
    model, target = attached()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(X).shape == (16, 8)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        target.step()
    target.stop()
    target = SparsityTarget(compiled, 0.6, every=2)
    before = model[2].q
    for _ in range(4):
        compiled(X)
        target.step()
    assert model[2].q != before
    assert math.isfinite(target.report()["2"].measured)


def test_a_first_step_without_a_forward_pass_is_named():
    target = SparsityTarget(network(), 0.6)
    with pytest.warns(UserWarning, match="no controlled layer ran in training mode .* after the model is compiled") as caught:
        target.step()
    assert caught[0].filename == __file__
    model = network().eval()
    target = SparsityTarget(model, 0.6)
    with pytest.warns(UserWarning, match="in training mode"):
        take(model, target)
    take(model, target, 20)  # warns only once


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, pickle.dumps])
def test_a_target_cannot_be_copied_or_pickled(copied):
    with pytest.raises(TypeError, match=r"a SparsityTarget cannot be copied or pickled: .* save its state_dict\(\)"):
        copied(attached()[1])


# One SparsityTarget per layer


def test_a_second_target_for_a_layer_raises_and_changes_nothing():
    model = network()
    target = SparsityTarget(model, {"5": 0.6})
    model[2].q = 1.3
    for again, layer in ((model, "5"), (nn.Sequential(model[2], model[5]), "1"), (model[5], "the model")):
        with pytest.raises(ValueError, match=rf"but {layer} already has one: call stop\(\) on that one, or delete it"):
            SparsityTarget(again, 0.5, warmup=9, bounds=(3.0, 4.0))
    assert (model[2].q, model[5].q) == (1.3, 2.0)
    other = SparsityTarget(model, {"2": 0.5})  # which has no SparsityTarget
    assert (other.layers, target.layers) == (("2",), ("5",))


def test_stop_lets_another_take_over():
    model = network()
    first = SparsityTarget(model, 0.6)
    first.stop()
    second = SparsityTarget(model, 0.6)
    first.stop()
    with pytest.raises(ValueError, match="already has one"):
        SparsityTarget(model, 0.6)
    second.stop()
    SparsityTarget(model, 0.6)


def test_deleting_a_target_lets_another_take_over_at_once():
    model = network()
    gc.disable()
    try:
        target = SparsityTarget(model, 0.6, every=1, loader=[(X, X)])
        take(model, target, 3)
        dead = weakref.ref(target)
        del target
        assert dead() is None
        SparsityTarget(model, 0.6)
    finally:
        gc.enable()


def test_nothing_keeps_a_deleted_model_alive():
    model = network()
    dead = weakref.ref(model[2])
    target = SparsityTarget(model, 0.6)
    target.stop()
    del model, target
    gc.collect()
    assert dead() is None


def test_a_notebook_cell_can_run_again_after_stop():
    model = network()
    cell = "target = SparsityTarget(model, 0.6)"
    names = {"SparsityTarget": SparsityTarget, "model": model}
    exec(cell, names)
    with pytest.raises(ValueError, match=r"layers must have no other SparsityTarget, but 2 already has one"):
        exec(cell, names)
    exec("target.stop()\n" + cell, names)
    assert names["target"].steps == 0


def test_a_stopped_target_stays_stopped_until_a_state_is_loaded():
    model, target = attached()
    state, q = target.state_dict(), model[2].q
    target.stop()
    take(model, target, 5)
    assert (target.state_dict(), model[2].q) == (state, q)
    assert not model[2]._forward_pre_hooks
    other = SparsityTarget(model, 0.6)
    with pytest.raises(ValueError, match="already has one"):
        target.load_state_dict(state)
    other.stop()
    target.load_state_dict(state)
    assert goes_on(model, target)


def test_a_layer_with_two_names_is_controlled_once():
    layer = Sparseout()
    target = SparsityTarget(nn.Sequential(nn.Linear(4, 4), layer, layer), 0.6)
    assert target.layers == ("1",)
