"""The reports of a SparsityTarget: NaN is never reached, and a layer whose q is at a bound comes with advice that fits."""

import math
import re
import warnings

import pytest
import torch
from small import network, take
from torch import nn

from sparseout import Sparseout, SparsityTarget
from sparseout.control import LayerReport, TargetReport

# Not measured


def is_not_measured(target, layer="2"):
    report = target.report()
    entry = report[layer]
    assert (entry.state, entry.reached, report.reached) == ("not measured", False, False)
    assert not entry.out_of_reach
    assert math.isnan(entry.measured)
    assert re.search(r"not measured +0.3 +- ", repr(report))
    assert "not measured" in str(entry)


def test_nothing_is_measured_before_the_first_step():
    is_not_measured(SparsityTarget(network(), 0.3))


@pytest.mark.parametrize("mean", [False, True])
def test_a_layer_that_never_ran_is_not_measured(mean):
    model = network()
    target = SparsityTarget(model, 0.3, mean=mean, every=1, layers="5")
    with pytest.warns(UserWarning, match="no controlled layer ran in training mode before the first step"):
        target.step()
    for _ in range(20):
        model[:3](torch.randn(4, 4))
        target.step()
    is_not_measured(target, "mean" if mean else "5")
    assert model[5].q == 2.0


@pytest.mark.parametrize(
    ("width", "factor", "rows"),
    [(1, 1, 16), (8, math.nan, 16), (8, math.inf, 16), (8, 1, 0)],
    ids=["one unit", "nan", "inf", "empty"],
)
@pytest.mark.filterwarnings("ignore:no controlled layer ran")
def test_a_value_that_is_not_finite_is_not_measured(width, factor, rows):
    model = network(nn.Identity, width)
    target = SparsityTarget(model, 0.3, every=1)
    take(model, target, 5, factor, rows)
    is_not_measured(target)
    assert [model[i].q for i in (2, 5)] == [2.0, 2.0]


def test_a_report_with_an_unmeasured_layer_is_not_reached():
    model = network()
    target = SparsityTarget(model, 0.3, every=1)
    for _ in range(3):
        model[:3](torch.randn(16, 4))
        target.step()
    measured = target.report()["2"].measured
    target.target = measured
    report = target.report()
    assert (report["2"].reached, report["5"].reached, report.reached) == (True, False, False)


def test_a_network_that_becomes_nan_is_not_measured():
    model = network()
    target = SparsityTarget(model, 0.3, every=1)
    take(model, target, 5)
    target.target = target.report()["2"].measured
    assert target.report()["2"].state == "reached"
    q = model[2].q
    take(model, target, 1, math.nan)
    entry = target.report()["2"]
    assert (entry.state, entry.reached) == ("not measured", False)
    assert model[2].q == q
    take(model, target)
    assert math.isfinite(target.report()["2"].measured)


def test_a_value_that_is_not_finite_leaves_the_controllers_as_they_were():
    model = network()
    target = SparsityTarget(model, 0.3, every=1)
    take(model, target, 5)
    before = target.state_dict()["controllers"]["2"]
    take(model, target, 1, math.nan)
    after = target.state_dict()["controllers"]["2"]
    assert after == {**before, "finite": False}


def test_an_evaluation_that_is_not_finite_corrects_nothing():
    model = network()
    target = SparsityTarget(model, 0.3, every=1, loader=[torch.full((64, 4), math.nan)])
    take(model, target, 15)
    assert not any(target.state_dict()["bias"].values())
    assert all(math.isfinite(entry.measured) for entry in target.report().layers)


def test_an_expert_without_tokens_is_not_measured_after_a_horizon():
    model = network()
    target = SparsityTarget(model, 0.3, every=1)
    take(model, target, 5)
    for absent, measured in ((5, True), (8, False)):
        for _ in range(absent):
            model[:3](torch.randn(16, 4))
            target.step()
        assert math.isfinite(target.report()["5"].measured) is measured
    assert math.isfinite(target.report()["2"].measured)
    take(model, target)
    assert math.isfinite(target.report()["5"].measured)


# Zeros


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid])
@pytest.mark.parametrize("mean", [False, True])
def test_a_layer_without_zeros_is_named_once_at_the_first_step(activation, mean):
    model = network(activation)
    target = SparsityTarget(model, 0.3, measure="zeros", mean=mean, every=1)
    with pytest.warns(UserWarning, match="use measure='hoyer'") as caught:
        take(model, target)
    assert [re.match(r"the fraction of zeros in (\d) is 0: use measure='hoyer'", str(each.message))[1] for each in caught] == [
        "2",
        "5",
    ]
    assert caught[0].filename.endswith("small.py")  # where step() is called
    take(model, target, 20)


def test_a_layer_with_zeros_causes_no_warning():
    model = network()
    take(model, SparsityTarget(model, 0.3, measure="zeros", every=1), 3)
    model = network(nn.Tanh)
    take(model, SparsityTarget(model, 0.3, every=1), 3)


# At its bound

AT_BOUND = {
    "layer": "2",
    "label": "2",
    "measure": "hoyer",
    "target": 0.7,
    "measured": 0.4,
    "name": "q",
    "value": 0.3,
    "p": 0.5,
    "out_of_reach": False,
    "responds": True,
    "bounds": (0.3, 4.0),
    "at_bound": True,
    "rms": 1.0,
    "scale": 1.0,
    "p_bounds": None,
}


def test_a_layer_at_its_bound_is_named_before_it_is_out_of_reach():
    model = network()
    target = SparsityTarget(model, {"2": 0.95}, every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take(model, target, 60)
    entry = target.report()["2"]
    assert (entry.state, entry.value, entry.reached) == ("at its bound", 0.3, False)
    assert entry.rms == pytest.approx(0.4, abs=0.2)
    assert str(entry) in repr(target.report())
    assert re.match(r"hoyer target 0.95 in 2: q = 0.3 is at its bound, with 0.\d{3} measured; ", str(entry))
    target.target = entry.measured
    assert target.report()["2"].state == "reached"


def test_a_target_within_the_range_of_p_is_on_its_way():
    model = network()
    target = SparsityTarget(model, {"2": 0.95}, every=1, p=(0.1, 0.9))
    while model[2].q > 0.3 or model[2].p == 0.5:
        take(model, target)
    assert model[2].p < 0.9
    assert target.report()["2"].state == "on its way"


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "raise p (now 0.5) or control it with p=(low, high), widen the bounds of q, train longer, or choose another target"),
        ({"out_of_reach": True}, "raise p (now 0.5) or control it with p=(low, high), widen the bounds of q, train longer,"),
        ({"bounds": (0.0, 4.0), "value": 0.0}, "raise p (now 0.5) or control it with p=(low, high), train longer, or choose"),
        ({"p_bounds": (0.1, 0.9), "p": 0.9}, "raise the upper bound of p (now 0.9), widen the bounds of q,"),
        ({"target": 0.2, "value": 4.0}, "lower p (now 0.5) or control it with p=(low, high), widen the bounds of q,"),
        ({"target": 0.2, "value": 4.0, "p_bounds": (0.1, 0.9), "p": 0.1}, "lower the lower bound of p (now 0.1), widen"),
        (
            {"rms": 0.1},
            "its activations are small (RMS 0.1), so noise with q = 0.3 is as strong as Dropout with p = 0.98 "
            "and prevents learning: use scale='matched', or raise the lower bound of q",
        ),
        (
            {"rms": 10, "target": 0.2, "value": 4.0},
            "its activations are large (RMS 10), so noise with q = 4 is as strong as Dropout",
        ),
        ({"rms": 10, "target": 0.2, "value": 4.0}, "use scale='matched', or lower the upper bound of q"),
        (
            {"rms": 10},
            "large (RMS 10), so noise with q = 0.3 is as weak as Dropout with p = 0.02: use scale='matched', or raise p",
        ),
        ({"rms": 0.1, "target": 0.2, "value": 4.0}, "is as weak as Dropout with p = 0.0099: use scale='matched', or lower p"),
        ({"rms": 0.1, "scale": "rms"}, "raise p (now 0.5) or control it with p=(low, high), widen"),
        ({"rms": 0.1, "scale": 0.1}, "raise p (now 0.5) or control it with p=(low, high), widen"),
        ({"rms": 10, "scale": 100.0}, "use scale='matched', or raise the lower bound of q"),
        ({"rms": 0.0}, "raise p (now 0.5) or control it with p=(low, high), widen"),
        ({"rms": math.nan}, "raise p (now 0.5) or control it with p=(low, high), widen"),
        ({"rms": 0.1, "p": 1.0}, "as strong as Dropout with p = 1 and"),
        ({"measure": "zeros", "measured": 0.0}, "its activations are never exactly 0, as after Tanh, GELU or SiLU: use"),
    ],
)
def test_the_advice_fits_the_cause(changes, advice):
    assert advice in str(LayerReport(**AT_BOUND | changes))


def test_the_advice_of_a_real_layer_with_small_activations():
    model = network(nn.Tanh, 64)
    with torch.no_grad():
        model[0].weight.mul_(0.05), model[0].bias.mul_(0.05)
    target = SparsityTarget(model, {"2": 0.95}, every=1)
    take(model, target, 60)
    assert "its activations are small (RMS 0.0" in str(target.report()["2"])
    assert "widen the bounds" not in repr(target.report())


def test_a_new_target_can_be_out_of_reach_again():
    target = SparsityTarget(nn.Sequential(Sparseout(), Sparseout()), 0.5)
    target.load_state_dict({**target.state_dict(), "warned": ["0", "1"]})
    target.target = {"0": 0.5, "1": 0.6}
    assert target.state_dict()["warned"] == ["0"]


def test_a_report_without_misses_is_reached():
    assert TargetReport((LayerReport(**AT_BOUND | {"measured": 0.69}),)).reached
