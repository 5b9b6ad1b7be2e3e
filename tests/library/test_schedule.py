"""Schedules follow their equations at every step, and restore their state."""

import io
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout2d, schedule

PS, QS, STEPS = st.floats(0, 1), st.floats(0, 8), st.integers(1, 30)
FRACTIONS = {
    schedule.Linear: lambda t: t,
    schedule.Cosine: lambda t: (1 - math.cos(math.pi * t)) / 2,
}


def walk(one, layers):
    """Return `(p, q)` of each layer at each step, until one step after the end."""
    values = [[(layer.p, layer.q) for layer in layers]]
    for _ in range(one.steps + 1):
        one.step()
        values.append([(layer.p, layer.q) for layer in layers])
    return values


@pytest.mark.parametrize("kind", FRACTIONS)
@given(own=st.lists(st.tuples(PS, QS), min_size=1, max_size=3), p=PS, q=QS, steps=STEPS)
def test_each_layer_goes_from_its_own_value_to_the_end(kind, own, p, q, steps):
    layers = [Sparseout(*values) for values in own]
    for step, values in enumerate(walk(kind(nn.Sequential(*layers), steps, p=p, q=q), layers)):
        fraction = FRACTIONS[kind](min(step / steps, 1))
        for (seen_p, seen_q), (own_p, own_q) in zip(values, own, strict=True):
            assert seen_p == pytest.approx(own_p + (p - own_p) * fraction, rel=1e-12, abs=1e-15)
            assert seen_q == pytest.approx(own_q + (q - own_q) * fraction, rel=1e-12, abs=1e-15)
    assert values == [(p, q)] * len(layers)


@pytest.mark.parametrize("kind", FRACTIONS)
@given(ends=st.tuples(QS, QS), steps=STEPS)
def test_a_pair_is_a_start_and_an_end_and_the_rest_is_left_alone(kind, ends, steps):
    layer = Sparseout(0.3, 5.0)
    values = walk(kind(layer, steps, q=ends), [layer])
    assert values[0] == [(0.3, ends[0])]
    assert values[-1] == values[-2] == [(0.3, ends[1])]
    rising = sorted(ends) == list(ends)
    assert [q for ((_, q),) in values] == sorted((q for ((_, q),) in values), reverse=not rising)


@given(own=st.lists(st.tuples(PS, QS), min_size=1, max_size=3), start=PS, steps=STEPS)
def test_a_warm_up_goes_to_each_layers_own_value(own, start, steps):
    layers = [Sparseout(*values) for values in own]
    values = walk(schedule.WarmUp(layers, steps, p=start), layers)
    assert values[0] == [(start, q) for _, q in own]
    assert values[-1] == values[-2] == own
    for step, at in enumerate(values[:-1]):
        for (seen, _), (p, _) in zip(at, own, strict=True):
            assert seen == pytest.approx(start + (p - start) * step / steps, rel=1e-12, abs=1e-15)


def test_a_warm_up_starts_without_noise_unless_told():
    layer = Sparseout(0.4, 1.5)
    schedule.WarmUp(layer, 10)
    assert (layer.p, layer.q) == (0.0, 1.5)
    layer = Sparseout(0.4, 1.5)
    schedule.WarmUp(layer, 10, p=None, q=2.0)
    assert (layer.p, layer.q) == (0.4, 2.0)


def test_every_kind_of_layer_is_found_once_wherever_it_is():
    shared = LockedSparseout()
    inner = nn.Sequential(nn.ReLU(), shared, Sparseout2d())
    swapped = sparseout.swap_dropout(nn.Sequential(nn.Dropout()), 2.0).model
    inserted = sparseout.insert_after(nn.Sequential(nn.GELU()), nn.GELU, q=2.0, p=0.5).model
    model = nn.Sequential(shared, inner, swapped, inserted)
    expected = [shared, inner[2], swapped[0], inserted[0].sparseout]
    assert schedule.Linear(model, 5, q=1.0).layers == expected
    assert schedule.Linear([inner, shared], 5, q=1.0).layers == expected[:2]
    assert schedule.Linear((part for part in (swapped, inserted)), 5, q=1.0).layers == expected[2:]


@pytest.mark.parametrize("kind", [*FRACTIONS, schedule.WarmUp])
@pytest.mark.parametrize("driven", [{"p": 0.25}, {"q": 3.0, "p": None}, {"p": 0.25, "q": 0.5}])
@given(steps=STEPS, taken=st.integers(0, 40), own=st.lists(st.tuples(PS, QS), min_size=2, max_size=2))
def test_a_state_brings_a_schedule_and_its_layers_back(kind, driven, steps, taken, own):
    layers, fresh = [Sparseout(*values) for values in own], [Sparseout(0.9, 9.0), Sparseout(0.8, 8.0)]
    first, second = kind(layers, steps, **driven), kind(fresh, 7, **driven)
    for _ in range(taken):
        first.step()
    state = first.state_dict()
    assert json.loads(json.dumps(state)) == state
    second.load_state_dict(json.loads(json.dumps(state)))
    for _ in range(3):
        for name in (name for name, value in driven.items() if value is not None):
            assert [getattr(layer, name) for layer in fresh] == [getattr(layer, name) for layer in layers]
        assert second.state_dict() == first.state_dict()
        first.step()
        second.step()


def test_a_state_is_saved_as_data_alone():
    file = io.BytesIO()
    state = schedule.Linear(Sparseout(), 5, q=1.0).state_dict()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be an integer of at least 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps must be an integer of at least 1, got 2.5"),
        ({"steps": True}, TypeError, "steps must be"),
        ({"q": None}, ValueError, "p or q must be given"),
        ({"q": -1}, ValueError, "q must be .* got -1"),
        ({"q": (1.0, math.nan)}, ValueError, "q must be .* got nan"),
        ({"q": (1.0, 2.0, 3.0)}, TypeError, "q must be"),
        ({"p": (0.5, 1.5)}, ValueError, "p must be .* got 1.5"),
        ({"p": "0.5"}, TypeError, "p must be .* got '0.5'"),
        ({"layers": nn.Linear(2, 2)}, ValueError, "layers must contain a Sparseout layer, got none"),
        ({"layers": []}, ValueError, "layers must contain"),
        ({"layers": [5]}, TypeError, "layers must be a model or modules, got int"),
    ],
)
def test_a_bad_schedule_is_refused_and_changes_nothing(arguments, error, message):
    layer = Sparseout(0.3, 1.5)
    with pytest.raises(error, match=message):
        schedule.Linear(**{"layers": [layer], "steps": 5, "q": (0.0, 1.0), **arguments})
    assert (layer.p, layer.q) == (0.3, 1.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "error at: steps must be"),
        ({"step_count": -1}, "error at: step_count must be"),
        ({"ends": {"p": [[0.0, 2.0]]}}, "error at: p must be"),
        ({"ends": {"r": [[0.0, 2.0]]}}, "error at: 'r'"),
        ({"ends": [[0.0, 2.0]]}, "error at"),
        ({"ends": {"q": [[0.0]]}}, "error at"),
        ({"ends": {"q": [[0.0, 1.0]] * 2}}, "layer counts of this schedule, {'q': 1}, got {'q': 2}"),
        ({"ends": {"p": [[0.0, 1.0]]}}, "layer counts of this schedule, {'q': 1}, got {'p': 1}"),
    ],
)
def test_a_bad_state_is_refused_and_changes_nothing(changed, message):
    layer = Sparseout(0.3, 1.5)
    one = schedule.Linear(layer, 5, q=1.0)
    before = one.state_dict()
    with pytest.raises(ValueError, match=message):
        one.load_state_dict({**before, **changed})
    assert one.state_dict() == before
    assert layer.q == 1.5
