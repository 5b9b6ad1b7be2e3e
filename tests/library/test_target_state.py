"""The state of a SparsityTarget: reading it checks every field, and an argument overrides a saved value."""

import contextlib
import copy
import json
import math
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import network, take

from sparseout import SparsityTarget

MISSING = object()


def trained(steps=30, **arguments):
    model = network()
    target = SparsityTarget(model, **{"target": 0.6, "every": 2, "warmup": 4, "ramp": 10} | arguments)
    take(model, target, steps)
    return model, target


STATE = trained()[1].state_dict()
LOADED = trained(0)


def changed(path, value):
    state = copy.deepcopy(STATE)
    *parents, last = path
    part = state
    for key in parents:
        part = part[key]
    if value is MISSING:
        del part[last]
    else:
        part[last] = value
    return state


def paths(part, path=()):
    """The path of each item in the state, at any depth."""
    for key, value in part.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths(value, (*path, key))


PATHS = list(paths(STATE))
NESTED = []
for _ in range(3000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("controllers", "2", "output"), "x", "a number in [0.3, 4] at ['controllers']['2']['output'], got 'x'"),
        (("controllers", "2", "output"), math.nan, "at ['controllers']['2']['output'], got nan"),
        (("controllers", "2", "output"), 4.5, "at ['controllers']['2']['output'], got 4.5"),
        (("controllers", "2", "output"), True, "at ['controllers']['2']['output'], got True"),
        (("controllers", "2", "output"), torch.tensor([1.0, 2.0]), "at ['controllers']['2']['output'], got "),
        (("controllers", "2", "smoothed"), math.inf, "at ['controllers']['2']['smoothed'], got inf"),
        (("controllers", "2", "trend"), 1e300, "at ['controllers']['2']['trend'], got 1e+300"),
        (("controllers", "2", "gain"), 9.0, "a number in [0.5, 8] at ['controllers']['2']['gain'], got 9.0"),
        (("controllers", "2", "error_sign"), 2, "-1, 0 or 1 at ['controllers']['2']['error_sign'], got 2"),
        (("controllers", "2", "samples"), -1, "an integer in [0, 2**53] at ['controllers']['2']['samples'], got -1"),
        (("controllers", "2", "samples"), 10**400, "an integer in [0, 2**53] at ['controllers']['2']['samples'], got 1000"),
        (("controllers", "2", "samples"), 0, "NaN, because there is no sample, at ['controllers']['2']['smoothed'], got 0."),
        (("controllers", "2", "finite"), 1, "True or False at ['controllers']['2']['finite'], got 1"),
        (("controllers", "2", "low"), 0.3, "no unknown items, got 'low' at ['controllers']['2']"),
        (("controllers", "2", "output"), MISSING, "an item 'output' at ['controllers']['2'], got none"),
        (("controllers", "2"), [1], "a mapping at ['controllers']['2'], got [1]"),
        (("controllers", "5"), MISSING, "an item '5' at ['controllers'], got none"),
        (("controllers", "7"), {}, "no unknown items, got '7' at ['controllers']"),
        (("targets", "2"), 7, "a sparsity in (0, 1) at ['targets']['2'], got 7"),
        (("requested", "2"), None, "a sparsity in (0, 1) at ['requested']['2'], got None"),
        (("targets",), {"0": 0.5}, "for ['2', '5'], got one for ['0']"),
        (("targets",), 7, "a mapping at ['targets'], got 7"),
        (("bias", "5"), "0", "at ['bias']['5'], got '0'"),
        (("ramp_start", "0"), 0.5, "no unknown items, got '0' at ['ramp_start']"),
        (("ramp_start",), None, "a mapping at ['ramp_start'], got None"),
        (("rms", "2"), -1.0, "at ['rms']['2'], got -1.0"),
        (("warned",), "2", "a list of names of controlled layers at ['warned'], got '2'"),
        (("warned",), ["9"] * 100_000, "a list of names of controlled layers at ['warned'], got ['9', '9',"),
        (("warned",), [{}], "a list of names of controlled layers at ['warned'], got [{}]"),
        (("steps",), 1.5, "an integer in [0, 2**53] at ['steps'], got 1.5"),
        (("steps",), NESTED, "an integer in [0, 2**53] at ['steps'], got [[["),
        (("loss", "mean"), 1.0, "NaN, because there is no sample, at ['loss']['mean'], got 1.0"),
        (("loss", "before"), "x", "at ['loss']['before'], got 'x'"),
        (("loss", "readings"), -1, "an integer in [0, 2**53] at ['loss']['readings'], got -1"),
        (("loss",), MISSING, "an item 'loss', got none"),
        (("settings", "every"), 0, "an integer in [1, 2**53] at ['settings']['every'], got 0"),
        (("settings", "measure"), ["hoyer"], "at ['settings']['measure'], got ['hoyer']"),
        (("settings", "mean"), 0, "True or False at ['settings']['mean'], got 0"),
        (("settings", "bounds"), [4.0, 0.3], "[low, high] with low < high at ['settings']['bounds'], got [4.0, 0.3]"),
        (("settings", "bounds"), "ab", "[low, high] at ['settings']['bounds'], got 'ab'"),
        (("settings", "p"), [0.1, math.nan], "a number in [0, 1] at ['settings']['p'][1], got nan"),
        (("settings", "seed"), 1, "no unknown items, got 'seed' at ['settings']"),
        (("settings",), MISSING, "an item 'settings', got none"),
        (("extra",), 1, "no unknown items, got 'extra'"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_changes(path, value, words):
    model, target = trained(9)
    before, q = target.state_dict(), model[2].q
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        target.load_state_dict(changed(path, value))
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
    assert (target.state_dict(), model[2].q) == (before, q)


@pytest.mark.parametrize("state", [None, 7, "x", [], [STATE], {}, {"targets": STATE}])
def test_other_objects_raise(state):
    with pytest.raises(ValueError, match=r"state_dict must (be a mapping, got|have an item 'settings', got none)"):
        trained(0)[1].load_state_dict(state)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([math.nan, math.inf, -1, 10**400, 1e308, -0.0, 2**60]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from(["2", "output"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(PATHS), value=anything)
@pytest.mark.filterwarnings("ignore:this SparsityTarget continues with its own")
def test_no_value_of_a_field_gives_a_layer_an_invalid_q(path, value):
    model, target = LOADED
    target.load_state_dict(STATE)
    state = changed(path, value)
    with contextlib.suppress(ValueError):
        target.load_state_dict(state)
    take(model, target, 2)
    for layer in (model[2], model[5]):
        assert 0.3 <= layer.q <= 4


def test_a_state_survives_json_unchanged():
    for target in (trained(0)[1], trained(30, mean=True)[1], trained(30, p=(0.1, 0.9), bounds=(1.9, 2.1))[1]):
        state = target.state_dict()
        target.load_state_dict(json.loads(json.dumps(state)))
        assert repr(target.state_dict()) == repr(state)


# Arguments that differ


def loaded(saved, **arguments):
    """Load `saved` into a SparsityTarget with `arguments`; return the model, the target and the warnings' texts."""
    model, target = trained(0, **arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target.load_state_dict(json.loads(json.dumps(saved)))
    assert all(each.filename == __file__ for each in caught)
    return model, target, [str(each.message) for each in caught]


def test_another_target_overrides_the_saved_one_with_a_warning():
    _, target, words = loaded(STATE, target={"2": 0.6, "5": 0.7})
    assert words == ["this SparsityTarget continues with its own target={'5': 0.7} (saved: {'5': 0.6})"]
    assert target.target == {"2": 0.6, "5": 0.7}
    assert target.report()["5"].target == 0.7
    assert target.steps == 30
    _, again, words = loaded(target.state_dict(), target={"2": 0.6, "5": 0.7})
    assert (again.target, words) == (target.target, [])


def test_a_target_set_in_training_is_restored_if_the_argument_is_the_same():
    _, target = trained()
    target.target = 0.7
    saved = target.state_dict()
    _, same, words = loaded(saved)
    assert (same.target, words) == ({"2": 0.7, "5": 0.7}, [])
    assert same.state_dict() == saved
    _, set_at_once, words = loaded(saved, target=0.7)
    assert (set_at_once.target, words) == ({"2": 0.7, "5": 0.7}, [])
    _, other, words = loaded(saved, target=(0.6, 0.5))
    assert other.target == {"2": 0.7, "5": 0.5}
    assert words == ["this SparsityTarget continues with its own target={'5': 0.5} (saved: {'5': 0.7})"]


def test_a_changed_target_may_be_out_of_reach_again():
    state = changed(("warned",), ["2", "5"])
    _, target, _ = loaded(state, target={"2": 0.6, "5": 0.7})
    assert target.state_dict()["warned"] == ["2"]


def test_the_measure_and_the_mean_must_be_the_saved_ones():
    for arguments, words in (
        ({"measure": "zeros"}, "state_dict must have measure='zeros', got measure='hoyer'"),
        ({"mean": True}, "state_dict must be for ['mean'], got one for ['2', '5']"),
    ):
        _, target = trained(0, **arguments)
        before = repr(target.state_dict())
        with pytest.raises(ValueError, match=re.escape(words)):
            target.load_state_dict(STATE)
        assert repr(target.state_dict()) == before


def test_a_layer_named_mean_is_not_the_mean():
    model = torch.nn.Sequential()
    model.add_module("mean", network()[2])
    saved = SparsityTarget(model, 0.6).state_dict()
    with pytest.raises(ValueError, match="state_dict must have mean=True, got mean=False"):
        SparsityTarget(model, 0.6, mean=True).load_state_dict(saved)


def test_other_arguments_override_the_saved_ones_with_a_warning():
    _, target, words = loaded(STATE, every=3, warmup=0, ramp=5)
    assert words == ["this SparsityTarget continues with its own every=3 (saved: 2), warmup=0 (saved: 4), ramp=5 (saved: 10)"]
    assert target.every == 3


@pytest.mark.parametrize(
    ("saved", "arguments", "output", "q", "p"),
    [
        (0.3, {"bounds": (1.0, 4.0)}, 1.0, 1.0, 0.5),
        (4.0, {"bounds": (0.3, 3.0)}, 3.0, 3.0, 0.5),
        (2.5, {"bounds": (1.0, 3.0)}, 2.5, 2.5, 0.5),
        (0.3, {"bounds": (1.0, 4.0), "p": (0.1, 0.9)}, 1.0, 1.0, 0.5),
        (0.3, {"bounds": (0.0, 4.0)}, 0.3, 0.3, 0.5),
    ],
)
def test_an_output_is_clipped_to_other_bounds(saved, arguments, output, q, p):
    model, target, words = loaded(changed(("controllers", "2", "output"), saved), **arguments)
    assert "bounds=(" in words[0]
    assert (target.state_dict()["controllers"]["2"]["output"], model[2].q, model[2].p) == (output, q, p)
    again = SparsityTarget(network(), 0.6, every=2, warmup=4, ramp=10, **arguments)
    again.load_state_dict(target.state_dict())  # a state saved with the new bounds fits them


def test_the_fraction_of_the_range_of_p_is_kept_within_other_bounds_of_q():
    _, target = trained(0, p=(0.1, 0.9))
    state = target.state_dict()
    state["controllers"]["2"]["output"] = 0.3 - 0.25  # a quarter of the way from 0.5 to 0.9
    for arguments, q, p in (
        ({"bounds": (1.0, 3.0), "p": (0.1, 0.9)}, 1.0, 0.6),
        ({"bounds": (0.3, 4.0), "p": None}, 0.3, 0.5),
        ({"bounds": (0.3, 4.0), "p": (0.1, 0.7)}, 0.3, 0.55),
    ):
        model, _, words = loaded(state, **arguments)
        assert "saved: None" in words[0] or "saved: (0.1, 0.9)" in words[0]
        assert (model[2].q, model[2].p) == (q, pytest.approx(p))
