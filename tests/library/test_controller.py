"""The controller against plants that answer as networks do: a slow lag of unknown slope, with noise and drift."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseout.target.controller import Controller

SAMPLES = 400


def run(slope: float, lag: float, noise: float, drift: float, target: float, seed: int = 0) -> tuple[list[float], Controller]:
    """What a plant `lag dh/dt = 0.45 + slope (2 - q) - h`, which begins away from its balance, does under the controller."""
    draws, controller = random.Random(seed), Controller(2.0, 0.3, 4.0)
    h, path = 0.45 + drift, []
    for sample in range(SAMPLES):
        balance = 0.45 + slope * (2 - controller.dial) + drift * math.exp(-sample / 30)
        h += (balance - h) / (lag * (1 + sample / SAMPLES))
        path.append(h)
        controller.observe(h + draws.gauss(0, noise))
        controller.steer(target)
    return path, controller


@settings(max_examples=60, deadline=None)
@given(
    slope=st.floats(0.05, 0.3),
    lag=st.floats(2, 40),
    noise=st.floats(0, 0.005),
    drift=st.floats(-0.15, 0.15),
    way=st.floats(-0.8, 0.8),
)
def test_a_target_within_the_reach_of_q_is_reached_and_held(slope, lag, noise, drift, way):
    target = 0.45 + slope * (1.7 if way > 0 else 2) * way
    path, _ = run(slope, lag, noise, drift, target)
    assert max(abs(h - target) for h in path[-SAMPLES // 5 :]) < 0.02


@pytest.mark.parametrize("target", [0.05, 0.95])
def test_a_target_beyond_the_reach_of_q_leaves_it_at_its_bound_and_does_not_wind_up(target):
    _, controller = run(0.1, 10, 0.002, 0.1, target)
    assert controller.dial == (0.3 if target > 0.5 else 4.0)
    assert controller.at_bound > SAMPLES / 2
    for _ in range(60):  # the target comes within reach: the dial leaves the bound within a few samples
        controller.observe(0.62 if target > 0.5 else 0.25)
        controller.steer(0.45)
    assert 0.3 < controller.dial < 4.0 or controller.dial == (4.0 if target > 0.5 else 0.3)


def test_a_controller_goes_on_from_its_fields():
    _, controller = run(0.1, 10, 0.002, 0.1, 0.5)
    copy = Controller(**dataclasses.asdict(controller))
    for each in (controller, copy):
        each.observe(0.47)
        each.steer(0.5)
    assert copy == controller
