"""`check_swap` finds the layers and the dropout calls that run, and leaves no trace."""

import random

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseout
from sparseout import Sparseout, Sparseout1d, check_swap


class Functional(nn.Module):
    """Calls `function` on its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Dropout(0.1), nn.Dropout(0.2)

    def forward(self, x):
        return self.used(x)


def attend(x, dropout_p):
    return F.scaled_dot_product_attention(x, x, x, None, dropout_p)


X = torch.ones(4, 6, 8)


def test_a_layer_that_is_never_called_is_named():
    checked = check_swap(sparseout.swap_dropout(nn.Sequential(Unused(), Unused()), 1.5).model, X)
    assert checked.ran == ("0.used", "1.used")
    assert checked.never_ran == ("0.unused", "1.unused")
    assert not checked.ok
    assert str(checked).splitlines() == ["2 of 4 Sparseout layers ran", "  0.unused: never ran", "  1.unused: never ran"]


def test_a_model_without_sparseout_is_not_ok():
    assert not check_swap(nn.Linear(8, 8), X).ok
    assert check_swap(Sparseout(), X).ok


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (lambda: Functional(lambda x: F.dropout(x, 0.3)), [("0", "dropout", 0.3)]),
        (lambda: Functional(F.dropout), [("0", "dropout", 0.5)]),
        (lambda: Functional(lambda x: F.dropout(input=x, p=0.3, inplace=False)), [("0", "dropout", 0.3)]),
        (lambda: Functional(lambda x: F.dropout(x, 0.3, training=False)), []),
        (lambda: Functional(lambda x: F.dropout(x, 0.3, False)), []),
        (lambda: Functional(lambda x: F.dropout(x, 0.0)), []),
        (lambda: Functional(lambda x: F.dropout1d(x, 0.3)), [("0", "dropout1d", 0.3)]),
        (lambda: Functional(lambda x: F.dropout2d(x[None], 0.3)), [("0", "dropout2d", 0.3)]),
        (lambda: Functional(lambda x: F.dropout3d(x[None, None], 0.3)), [("0", "dropout3d", 0.3)]),
        (lambda: Functional(lambda x: F.alpha_dropout(x, 0.3)), []),
        (lambda: Functional(lambda x: F.alpha_dropout(x, 0.3, True)), [("0", "alpha_dropout", 0.3)]),
        (lambda: Functional(lambda x: F.feature_alpha_dropout(x, 0.3, True)), [("0", "feature_alpha_dropout", 0.3)]),
        (lambda: Functional(lambda x: torch.dropout(x, 0.3, train=True)), [("0", "dropout", 0.3)]),
        (lambda: Functional(lambda x: torch.dropout(x, 0.3, False)), []),
        (lambda: Functional(lambda x: torch.dropout_(x.clone(), 0.3, True)), [("0", "dropout", 0.3)]),
        (lambda: Functional(lambda x: torch.feature_dropout(x, 0.3, True)), [("0", "feature_dropout", 0.3)]),
        (lambda: Functional(lambda x: torch.native_dropout(x, 0.3, None)), [("0", "native_dropout", 0.3)]),
        (lambda: Functional(lambda x: torch.ops.aten.dropout(x, 0.3, True)), [("0", "dropout", 0.3)]),
        (lambda: Functional(lambda x: torch.ops.aten.dropout.default(x, 0.3, True)), [("0", "dropout", 0.3)]),
        (lambda: Functional(lambda x: attend(x, 0.3)), [("0", "scaled_dot_product_attention", 0.3)]),
        (lambda: Functional(lambda x: attend(x, 0.0)), []),
        (lambda: nn.Dropout(0.3), [("0", "dropout", 0.3)]),
        (lambda: nn.LSTM(8, 8, 2, dropout=0.3), [("0", "lstm", 0.3)]),
        (lambda: nn.GRU(8, 8, 2, dropout=0.3), [("0", "gru", 0.3)]),
        (lambda: nn.RNN(8, 8, 2, dropout=0.3), [("0", "rnn_tanh", 0.3)]),
        (lambda: nn.LSTM(8, 8, dropout=0.3), []),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, 8, dropout=0.3),
            [("0.self_attn", "multi_head_attention_forward", 0.3)]
            + [(f"0.{name}", "dropout", 0.3) for name in ("dropout1", "dropout", "dropout2")],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last recurrent layer")
def test_dropout_that_still_runs_is_found(module, found):
    model = nn.Sequential(module()).eval()
    checked = check_swap(model, X)
    assert list(checked.dropout) == found
    assert check_swap(nn.Sequential(Sparseout(), model[0]), X).ok != bool(found)
    for name, function, p in found:
        assert f"  {name}: still calls {function} with p={p}" in str(checked).splitlines()


def test_dropout_in_a_packed_sequence_is_found():
    packed = nn.utils.rnn.pack_sequence([X[0]])
    assert check_swap(nn.LSTM(8, 8, 2, dropout=0.3), (packed,)).dropout == (("", "lstm", 0.3),)


def test_a_call_that_repeats_is_named_once():
    model = Functional(lambda x: F.dropout(F.dropout(x, 0.3), 0.3))
    checked = check_swap(model, X)
    assert checked.dropout == (("", "dropout", 0.3),)
    assert "  the model: still calls dropout with p=0.3" in str(checked).splitlines()


def test_a_swap_that_interprets_a_3d_input_differently_is_named():
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Dropout2d(0.1))
    assert check_swap(sparseout.swap_dropout(model, 1.5).model, X).reinterpreted == ("1",)
    assert check_swap(sparseout.swap_dropout(model, 1.5, mapping={nn.Dropout2d: Sparseout1d}).model, X).ok
    image = sparseout.swap_dropout(nn.Sequential(nn.Dropout2d(0.1)), 1.5).model
    assert check_swap(image, X[None]).ok


def test_both_interpretations_of_a_shape_are_shown():
    model = sparseout.swap_dropout(nn.Sequential(nn.Dropout2d(0.0)), 1.5, scale="rms", p=1.0).model
    before = model[0].running_rms.clone()
    assert str(check_swap(model, X)).splitlines() == [
        "1 of 1 Sparseout layers ran",
        "  0: Dropout2d shared draws along dimension 2 of a 3-d input, Sparseout2d along dimensions 1, 2",
    ]
    assert (model[0].p, model[0].replaced[0].p) == (1.0, 0.0)
    assert torch.equal(model[0].running_rms, before)


class OtherShapes(sparseout.Sparseout3d):
    """Accepts every shape, and shares draws along all dimensions except the first two."""

    def _shared_dims_of(self, input):
        return tuple(range(2, input.dim()))


@pytest.mark.filterwarnings("ignore:dropout")
@pytest.mark.parametrize(
    ("kind", "dims", "reading"),
    [
        (nn.Dropout1d, 2, "Dropout1d shared draws along dimension 1 of a 2-d input, OtherShapes along none"),
        (nn.Dropout1d, 3, None),
        (nn.Dropout2d, 2, None),
        (nn.Dropout2d, 3, None),
        (nn.Dropout2d, 5, None),
        (nn.Dropout3d, 3, "Dropout3d shared draws along dimensions 1, 2 of a 3-d input, OtherShapes along dimension 2"),
        (nn.Dropout3d, 4, "Dropout3d shared draws along dimensions 1, 2, 3 of a 4-d input, OtherShapes along dimensions 2, 3"),
        (nn.Dropout3d, 5, None),
    ],
)
def test_interpretations_are_compared_for_each_number_of_dimensions(kind, dims, reading):
    model = sparseout.swap_dropout(nn.Sequential(kind(0.1)), 1.5, mapping={kind: OtherShapes}).model
    checked = check_swap(model, torch.ones((2,) * dims))
    assert checked.readings == (() if reading is None else (reading,))
    assert checked.ok == (reading is None)


@pytest.mark.filterwarnings("default")
def test_a_compiled_model_is_checked():
    model = sparseout.swap_dropout(Unused(), 1.5).model
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    checked = check_swap(compiled, X)
    assert checked.ran == ("_orig_mod.used",)
    assert checked.never_ran == ("_orig_mod.unused",)


# Traces


class Everything(nn.Module):
    """Draws from every generator, and has buffers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.drop = Sparseout(generator=torch.Generator().manual_seed(1))
        self.frozen = nn.Dropout(0.1).eval()
        self.register_buffer("rebound", torch.zeros(2))
        self.fails = False

    def forward(self, x):
        self.rebound = self.rebound + 1
        random.random(), numpy.random.rand(), torch.rand(1)
        if self.fails:
            raise RuntimeError("as it should")
        return self.drop(self.norm(x))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_and_the_random_states_are_restored(fails, training):
    model = Everything().train(training)
    model.frozen.eval()
    model.fails = fails
    modes = [module.training for module in model.modules()]
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}

    def states():
        python, (_, numpys, place, *_) = random.getstate(), numpy.random.get_state()
        return python, numpys.tolist(), place, torch.get_rng_state().tolist(), model.drop.generator.get_state().tolist()

    before = states()
    if fails:
        with pytest.raises(RuntimeError, match="as it should"):
            check_swap(model, X)
    else:
        assert check_swap(model, X).ran == ("drop",)
    assert states() == before
    assert [module.training for module in model.modules()] == modes
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_example_is_a_tensor_a_tuple_a_dict_or_a_batch():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = Sparseout()

        def forward(self, a, *, b=None):
            return self.drop(a if b is None else a + b)

    for example in (X, (X,), {"a": X, "b": X}, [X, torch.arange(4)]):
        assert check_swap(Two(), example).ok
    words = "example must be a tensor, a tuple or dict of arguments, or a batch of a DataLoader, got int"
    with pytest.raises(TypeError, match=words):
        check_swap(Two(), 7)
    with pytest.raises(TypeError, match="model must be"):
        check_swap(X, X)


def test_a_lazy_model_is_refused_and_stays_lazy():
    model = nn.Sequential(nn.LazyLinear(3), Sparseout())
    with pytest.raises(ValueError, match="model must have no uninitialized lazy modules, got"):
        check_swap(model, X)
    assert isinstance(model[0], nn.LazyLinear)
    model(X)
    assert check_swap(model, X).ok
