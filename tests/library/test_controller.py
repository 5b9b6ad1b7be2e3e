"""The controller on plants that respond like networks: a slow lag of unknown slope, with noise and drift."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparseout.control.controller import Controller

SAMPLES = 400


@dataclasses.dataclass
class Plant:
    """`lag dh/dt = 0.45 + slope (2 - q) - h`, for the `q` of `delay` samples ago.

    The balance starts at an offset of `drift`, which decays, and changes by `creep` over all samples, ever more slowly. `h` also
    does a random walk of scale `wander`, like the weights under an optimizer.
    """

    slope: float
    lag: float
    noise: float
    drift: float
    creep: float = 0.0
    wander: float = 0.0
    delay: int = 0

    def run(self, target: float) -> tuple[list[float], Controller]:
        """Return the path of `h` under a controller that sees noisy samples, and the controller."""
        draws, controller = random.Random(0), Controller(2.0, 0.3, 4.0)
        h, wandering, path, outputs = 0.45 + self.drift, 0.0, [], [2.0] * (self.delay + 1)
        for sample in range(SAMPLES):
            balance = 0.45 + self.slope * (2 - outputs[-1 - self.delay]) + self.drift * math.exp(-sample / 30)
            balance += self.creep * math.log1p(20 * sample / SAMPLES) / math.log(21)
            h += (balance - h) / (self.lag * (1 + sample / SAMPLES))
            wandering = 0.93 * wandering + self.wander * draws.gauss(0, math.sqrt(1 - 0.93**2))
            path.append(h + wandering)
            controller.observe(path[-1] + draws.gauss(0, self.noise))
            controller.update(target)
            outputs.append(controller.output)
        return path, controller


# Without a limit on the gain these oscillate, or stay on one side of their targets.
SWINGING = Plant(slope=0.3, lag=2, noise=0.0005, drift=-0.2, delay=5)
SWAYING = Plant(slope=0.3, lag=12, noise=0.002, drift=-0.1, wander=0.002, delay=5)


@settings(max_examples=100, deadline=None)
@given(
    plant=st.builds(
        Plant,
        slope=st.floats(0.05, 0.3),
        lag=st.floats(2, 40),
        noise=st.floats(0, 0.005),
        drift=st.floats(-0.3, 0.15),
        creep=st.floats(-0.1, 0.1),
        wander=st.floats(0, 0.002),
        delay=st.integers(0, 5),
    ),
    distance=st.floats(-0.8, 0.8),
)
@example(plant=SWINGING, distance=0.8)
@example(plant=SWAYING, distance=0.8)
def test_a_target_within_the_reach_of_q_is_reached_and_held(plant, distance):
    target = 0.45 + plant.creep + plant.slope * (1.7 if distance > 0 else 2) * distance
    path, _ = plant.run(target)
    assert max(abs(h - target) for h in path[-SAMPLES // 5 :]) < 0.02


def test_steps_grow_while_an_error_persists():
    controller, outputs = Controller(2.0, 0.3, 100.0), []
    for _ in range(100):
        controller.observe(0.47)
        controller.update(0.45)
        outputs.append(controller.output)
    assert outputs[-1] - outputs[-2] > 2 * (outputs[1] - outputs[0])


@pytest.mark.parametrize("target", [0.05, 0.95])
def test_a_target_beyond_the_reach_of_q_leaves_it_at_its_bound_and_does_not_wind_up(target):
    _, controller = Plant(slope=0.1, lag=10, noise=0.002, drift=0.1).run(target)
    assert controller.output == (0.3 if target > 0.5 else 4.0)
    assert controller.at_bound > SAMPLES / 2
    for _ in range(60):  # the target comes within reach: the output leaves the bound within a few samples
        controller.observe(0.62 if target > 0.5 else 0.25)
        controller.update(0.45)
    assert 0.3 < controller.output < 4.0 or controller.output == (4.0 if target > 0.5 else 0.3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measurement_that_is_not_finite_changes_no_other_field(value):
    _, controller = Plant(slope=0.1, lag=10, noise=0.002, drift=0.1).run(0.5)
    before = dataclasses.asdict(controller)
    assert not controller.observe(value)
    assert dataclasses.asdict(controller) == {**before, "finite": False}
    assert math.isnan(controller.measured)
    assert controller.observe(0.5)
    assert controller.measured == controller.smoothed


def test_after_a_horizon_without_a_measurement_the_value_is_nan():
    controller = Controller(2.0, 0.3, 4.0)
    assert math.isnan(controller.measured)
    controller.observe(0.5)
    for _ in range(12):
        assert not controller.observe(None)
        assert controller.measured == 0.5
    controller.observe(None)
    assert math.isnan(controller.measured)
    assert (controller.samples, controller.smoothed) == (1, 0.5)


def test_only_consecutive_samples_count_as_time_at_a_bound():
    controller, counts = Controller(0.5, 0.3, 4.0), []
    for target in (*[0.9] * 50, 0.1, *[0.9] * 5):
        controller.observe(0.5)
        controller.update(target)
        counts.append(controller.at_bound)
    assert counts == [*range(1, 51), 0, 0, 0, 1, 2, 3]


def test_a_controller_continues_from_its_fields():
    _, controller = Plant(slope=0.1, lag=10, noise=0.002, drift=0.1).run(0.5)
    copy = Controller(**dataclasses.asdict(controller))
    for each in (controller, copy):
        each.observe(0.47)
        each.update(0.5)
    assert copy == controller


@pytest.mark.parametrize("change", [0.0, 0.05, 0.2])
def test_the_drift_is_estimated_despite_noise(change):
    """A value `change log(samples)` drifts by about `change` whenever the number of samples grows by the factor e."""
    draws, controller = random.Random(0), Controller(2.0, 0.3, 4.0)
    for sample in range(1, SAMPLES):
        controller.observe(0.3 + change * math.log(sample) + draws.gauss(0, 0.01))
        if sample > SAMPLES / 4:
            assert controller.drift == pytest.approx(change, rel=0.35, abs=0.02)


def test_a_shift_leaves_the_drift_as_it_is():
    controller = Controller(2.0, 0.3, 4.0)
    for sample in range(1, SAMPLES):
        controller.observe(0.3 + 0.1 * math.log(sample))
    drift, trend, before = controller.drift, controller.trend, controller.lag_corrected
    controller.shift(0.05)
    assert (controller.drift, controller.trend) == (pytest.approx(drift), trend)
    assert controller.lag_corrected == pytest.approx(before + 0.05)
    assert controller.lag_corrected == pytest.approx(0.35 + 0.1 * math.log(SAMPLES - 1), abs=0.001)


@dataclasses.dataclass
class Idle:
    """`lag dh/dt = 0.4 + slope * max(0, edge - q) - h`: above `edge`, the `q` of this plant has no effect.

    The range of `q` is that of a penalty's strength, and it starts at the end without effect.
    """

    edge: float
    slope: float
    lag: float
    noise: float

    def run(self, rise: float, samples: int = 200) -> tuple[list[float], Controller]:
        """Return the path of `h` toward `0.4 + rise`, and the controller."""
        draws, controller, h, path = random.Random(0), Controller(13.0, -7.0, 13.0, idles=True), 0.4, []
        for _ in range(samples):
            h += (min(0.98, 0.4 + self.slope * max(0.0, self.edge - controller.output)) - h) / self.lag
            path.append(h)
            controller.observe(h + draws.gauss(0, self.noise))
            controller.update(0.4 + rise)
        return path, controller


@settings(max_examples=100, deadline=None)
@given(
    plant=st.builds(Idle, edge=st.floats(2, 12), slope=st.floats(0.08, 0.2), lag=st.floats(2, 30), noise=st.floats(0, 0.005)),
    rise=st.floats(0.04, 0.4),
)
def test_a_number_without_effect_at_first_is_found_in_the_first_half_without_a_large_overshoot(plant, rise):
    path, _ = plant.run(rise)
    assert max(abs(h - 0.4 - rise) for h in path[len(path) // 2 :]) < 0.02
    assert max(path) - 0.4 - rise < 0.04


def test_a_search_moves_at_constant_speed_and_steps_back_at_its_end():
    controller, outputs = Controller(60.0, 0.0, 60.0, idles=True), []
    for sample in range(40):
        controller.observe(0.4 if sample < 30 else 0.44)
        controller.update(0.45)
        outputs.append(controller.output)
    moves = [after - before for before, after in itertools.pairwise(outputs)]
    assert moves[12:29] == pytest.approx([-1.0] * 17)
    assert moves[29] > 3.0
    assert (controller.searches, controller.gain) == (False, 2.0)


def test_a_search_begins_again_at_the_bound_without_effect():
    controller = Controller(20.0, 0.0, 60.0, idles=True, searches=False)
    for _ in range(200):
        controller.observe(0.5)
        controller.update(0.3)
    assert (controller.output, controller.searches) == (60.0, True)


def test_a_number_with_an_effect_everywhere_is_not_searched_for():
    paths = []
    for searches in (True, False):
        controller = Controller(60.0, 0.0, 60.0, searches=searches)
        for _ in range(40):
            controller.observe(0.4)
            controller.update(0.45)
        paths.append(controller.output)
    assert paths[0] == paths[1]
