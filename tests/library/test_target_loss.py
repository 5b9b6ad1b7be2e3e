"""The report of a `SparsityTarget` has the training loss, and what it was before the ramp."""

import json
import math

import pytest
import torch
from small import network, take

from sparseout import SparsityTarget
from sparseout.control import RunningLoss


def run(target, model, losses):
    for loss in losses:
        model(torch.randn(4, 4))
        target.step(loss)


def test_the_report_has_the_mean_loss_and_that_of_the_warmup():
    model = network()
    target = SparsityTarget(model, 0.3, every=2, warmup=8, ramp=4)
    run(target, model, [2.0, 9.0, 4.0, 9.0, 3.0])
    assert target.report().loss == RunningLoss(mean=3.0, before=3.0, readings=3, at=4)
    run(target, model, [9.0, 3.0, 9.0, 3.0, 9.0])
    assert target.report().loss.before == 3.0
    run(target, model, [6.0] * 6)
    report = target.report()
    assert report.loss.mean > 3.0 == report.loss.before
    assert repr(report).splitlines()[-1] == f"loss {report.loss.mean:.4g}, 3 before the ramp"


def test_the_loss_of_a_step_without_warmup_has_nothing_before():
    model = network()
    target = SparsityTarget(model, 0.3)
    run(target, model, [2.5])
    assert "\nloss 2.5" in repr(target.report())
    assert "before" not in repr(target.report())


def test_a_report_without_a_loss_has_none():
    model = network()
    target = SparsityTarget(model, 0.3)
    take(model, target, 3)
    assert math.isnan(target.report().loss.mean)
    assert "loss" not in repr(target.report())


def test_a_tensor_is_read_once_per_sample_without_a_warning():
    reads = []

    class Watched(torch.Tensor):
        def __float__(self):
            reads.append(1)
            return 1.5

    model = network()
    target = SparsityTarget(model, 0.3, every=4)
    run(target, model, [torch.tensor(1.5, requires_grad=True).mul(1).as_subclass(Watched)] * 8)
    assert len(reads) == 2
    assert target.report().loss.mean == 1.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_said_and_spoils_no_mean(bad):
    model = network()
    target = SparsityTarget(model, 0.3, every=1)
    run(target, model, [2.0, bad])
    assert "loss not finite" in repr(target.report())
    run(target, model, [2.0])
    assert "\nloss 2" in repr(target.report())


def test_an_old_loss_is_forgotten_within_the_horizon():
    loss = RunningLoss()
    for step in range(0, 2000, 8):
        loss.read(5.0 if step < 1000 else 1.0, step, in_warmup=False)
    assert loss.mean == pytest.approx(1.0, abs=1e-3)
    loss.read(3.0, 3000, in_warmup=False)  # the mean of a log over all steps since
    assert loss.mean == 3.0


def test_a_resumed_target_continues_the_loss():
    model = network()
    target = SparsityTarget(model, 0.3, every=1, warmup=2)
    run(target, model, [2.0, 4.0, 6.0, 1.0])
    state = json.loads(json.dumps(target.state_dict()))
    target.stop()
    again = SparsityTarget(model, 0.3, every=1, warmup=2)
    again.load_state_dict(state)
    assert again.report().loss == target.report().loss
    run(target, model, [3.0])
    again.step(3.0)
    assert again.report().loss.before == 4.0


def test_a_report_keeps_the_loss_of_its_time():
    model = network()
    target = SparsityTarget(model, 0.3, every=1)
    run(target, model, [2.0])
    report = target.report()
    run(target, model, [4.0])
    assert report.loss.mean == 2.0
