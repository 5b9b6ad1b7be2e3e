"""The layers that a probe selects by default and on request, and the dimensions of their units."""

import pytest
from torch import nn

import sparseout
from sparseout.probe.selection import select_layers


class ModelWithParts(nn.Module):
    """A convolutional stem, a linear head, and layers that belong to one of them by their order of registration."""

    def __init__(self):
        super().__init__()
        self.first = nn.ReLU()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d())
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8, 8), nn.GELU(), sparseout.Sparseout())
        self.rnn = nn.LSTM(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.sound = nn.Sequential(nn.Conv1d(8, 8, 3), nn.Tanh())


MODEL = ModelWithParts()


def names(layers, unit_dim=None):
    return [layer.name for layer in select_layers(MODEL, layers, unit_dim)]


def test_activations_dropouts_and_recurrent_layers_are_the_default():
    assert names(None) == ["first", "stem.2", "stem.3", "head.1", "head.3", "head.4", "rnn", "sound.1"]


def test_activations_of_other_libraries_are_known_by_name():
    class QuickGELU(nn.Module):
        pass

    class GatedReLUBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

    model = nn.Sequential(QuickGELU(), GatedReLUBlock())
    assert [layer.name for layer in select_layers(model, None, None)] == ["0"]


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("head.3", ["head.3"]),
        ("stem.*", ["stem.0", "stem.1", "stem.2", "stem.3"]),
        (nn.Linear, ["head.2", "attention.out_proj"]),
        ([nn.Conv2d, "rnn"], ["stem.0", "rnn"]),
        (lambda name, module: isinstance(module, nn.ReLU) and name != "first", ["stem.2"]),
        ("", [""]),
        (["stem.2", nn.ReLU, "stem.?"], ["first", "stem.0", "stem.1", "stem.2", "stem.3"]),
    ],
)
def test_layers_by_name_type_and_predicate(layers, chosen):
    assert names(layers) == chosen


def test_the_clean_input_of_noise_and_the_output_of_all_else():
    values = {layer.name: layer.value for layer in select_layers(MODEL, None, None)}
    assert {name for name, value in values.items() if value == "clean input"} == {"stem.3", "head.1", "head.4"}


@pytest.mark.parametrize(
    ("layer", "ndim", "dims"),
    [
        ("first", 4, (-3,)),
        ("stem.0", 4, (-3,)),
        ("stem.2", 4, (-3,)),
        ("stem.3", 4, (-3,)),
        ("stem.2", 2, (-1,)),
        ("head.1", 4, (-1,)),
        ("head.3", 2, (-1,)),
        ("head.3", 4, (-1,)),
        ("rnn", 3, (-1,)),
        ("sound.1", 3, (-2,)),
        ("sound.1", 2, (-1,)),
    ],
)
def test_the_dimension_of_the_units(layer, ndim, dims):
    (chosen,) = select_layers(MODEL, layer, None)
    assert chosen.dims(ndim) == dims


def test_the_dimension_of_the_units_can_be_set():
    by_pattern = {layer.name: layer.dims(4) for layer in select_layers(MODEL, None, {"stem.*": (1, 2, 3), "first": 1})}
    assert (by_pattern["stem.2"], by_pattern["first"], by_pattern["head.3"]) == ((1, 2, 3), (1,), (-1,))
    assert {layer.dims(4) for layer in select_layers(MODEL, None, 0)} == {(0,)}
    assert {layer.units for layer in select_layers(MODEL, None, (1, 2))} == {"dimension 1, 2"}


@pytest.mark.parametrize(
    ("layers", "unit_dim", "error", "message"),
    [
        ("head.relu", None, ValueError, r"layers='head.relu' matches no module: the closest names are 'head.\d'"),
        ("zzz", None, ValueError, "layers='zzz' matches no module$"),
        (nn.ELU, None, ValueError, "layers=ELU matches no module: the closest names are '.*LU'"),
        (lambda name, module: False, None, ValueError, "layers=<lambda> matches no module"),
        (3, None, TypeError, "layers must be names, types or predicates"),
        ([3], None, TypeError, r"layers must be names, types or predicates of \(name, module\), got 3"),
        ([], None, ValueError, "layers must name at least one layer"),
        (None, "last", TypeError, "unit_dim must be integers"),
        (None, (), TypeError, "unit_dim must be integers"),
        (None, {"stems.*": 1}, ValueError, r"unit_dim='stems.\*' matches no module"),
        (None, {"stem.*": True}, TypeError, "unit_dim must be integers"),
    ],
)
def test_bad_input_is_named(layers, unit_dim, error, message):
    with pytest.raises(error, match=message):
        select_layers(MODEL, layers, unit_dim)


def test_a_model_without_default_layers_gets_its_types_listed():
    with pytest.raises(ValueError, match=r"select layers with layers=, of the types Linear, Sequential"):
        select_layers(nn.Sequential(nn.Linear(2, 2)), None, None)
