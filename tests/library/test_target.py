"""SparsityTarget on small networks in training."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn

import sparseout
from sparseout import Probe, Sparseout, SparsityTarget
from sparseout.control.controller import Controller


class Trained:
    """An autoencoder of random images that trains on one batch per step."""

    def __init__(self, noises: int = 2, p: float = 0.5, seed: int = 0) -> None:
        torch.manual_seed(seed)
        widths = [64, *[96] * noises]
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            parts += [nn.Linear(inputs, outputs), nn.ReLU(), Sparseout(p)]
        self.model = nn.Sequential(*parts, nn.Linear(96, 64))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 2e-3, fused=True)
        self.data = (torch.randn(1024, 24) @ torch.randn(24, 64)).div(5)
        self.steps = 0

    def step(self, target: SparsityTarget | None = None, steps: int = 1) -> None:
        for _ in range(steps):
            torch.manual_seed(self.steps)
            batch = self.data[self.steps % 16 :: 16]
            self.optimizer.zero_grad()
            F.mse_loss(self.model(batch), batch).backward()
            self.optimizer.step()
            self.steps += 1
            if target is not None:
                target.step()

    def measured(self) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad(), Probe(self.model, Sparseout) as probe:
            self.model(self.data)
        self.model.train()
        return {record.layer: record.hoyer for record in probe.summary().layers}


def test_different_targets_for_different_layers_are_reached_together():
    trained = Trained()
    target = SparsityTarget(trained.model, {"2": 0.42, "5": 0.6}, loader=[trained.data])
    trained.step(target, 1200)
    assert trained.measured() == pytest.approx({"2": 0.42, "5": 0.6}, abs=0.02)
    assert target.report().reached
    assert trained.model[2].q != trained.model[5].q


def test_the_mean_is_controlled_by_one_q():
    trained = Trained()
    target = SparsityTarget(trained.model, 0.5, mean=True, loader=[trained.data])
    trained.step(target, 800)
    found = trained.measured()
    assert sum(found.values()) / 2 == pytest.approx(0.5, abs=0.02)
    assert trained.model[2].q == trained.model[5].q
    assert target.report()["mean"].state == "reached"


@pytest.mark.parametrize(("measure", "wanted"), [("zeros", 0.6), ("gini", 0.7)])
def test_other_measures_can_be_controlled(measure, wanted):
    trained = Trained(noises=1)
    target = SparsityTarget(trained.model, wanted, measure=measure)
    trained.step(target, 1000)
    with torch.no_grad(), Probe(trained.model.eval(), Sparseout, measures=[measure]) as probe:
        trained.model(trained.data)
    assert getattr(probe.summary()["2"], measure) == pytest.approx(wanted, abs=0.02)


def test_a_run_resumes_from_its_checkpoint_to_the_same_numbers():
    whole = Trained()
    target = SparsityTarget(whole.model, (0.42, 0.6), every=4, warmup=50, ramp=100, loader=[whole.data])
    whole.step(target, 203)
    saved = json.loads(json.dumps(target.state_dict()))
    weights, optimizer = ({**each.state_dict()} for each in (whole.model, whole.optimizer))
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    optimizer = json.loads(json.dumps(optimizer, default=lambda tensor: {"tensor": tensor.tolist()}))

    resumed = Trained()
    resumed.steps = whole.steps
    resumed.model.load_state_dict(weights)
    for state in optimizer["state"].values():
        state.update({name: torch.tensor(value["tensor"]) for name, value in state.items() if isinstance(value, dict)})
    optimizer["state"] = {int(number): state for number, state in optimizer["state"].items()}
    resumed.optimizer.load_state_dict(optimizer)
    again = SparsityTarget(resumed.model, (0.42, 0.6), every=4, warmup=50, ramp=100, loader=[resumed.data])
    again.load_state_dict(saved)
    whole.step(target, 120)
    resumed.step(again, 120)
    assert again.state_dict() == target.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert [resumed.model[i].q for i in (2, 5)] == [whole.model[i].q for i in (2, 5)] != [2.0, 2.0]


def test_a_target_out_of_reach_causes_one_warning_per_layer():
    trained = Trained(noises=1, p=0.1)
    target = SparsityTarget(trained.model, 0.97, every=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained.step(target, 800)
    reach = target.report()["2"]
    assert reach.out_of_reach
    assert trained.model[2].q == 0.3
    (warning,) = caught
    assert warning.filename == __file__
    for words in ("hoyer target 0.97 in 2 is out of reach: q in [0.3, 4] reached", "raise p (now 0.1)"):
        assert words in str(warning.message)
    assert str(reach) in repr(target.report())
    assert all(torch.isfinite(parameter).all() for parameter in trained.model.parameters())


def test_p_moves_while_q_is_at_its_bound():
    trained = Trained(noises=1, p=0.1)
    target = SparsityTarget(trained.model, 0.7, p=(0.0, 0.9))
    trained.step(target, 1800)
    assert (trained.model[2].q, trained.model[2].p > 0.1) == (0.3, True)
    assert trained.measured()["2"] == pytest.approx(0.7, abs=0.02)


def test_the_layers_are_dropout_in_the_warm_up_and_the_setpoint_moves_along_the_ramp(monkeypatch):
    trained = Trained(noises=1)
    trained.model[2].q = 1.0
    target = SparsityTarget(trained.model, 0.55, every=1, warmup=30, ramp=200)
    for _ in range(30):
        assert trained.model[2].q == 2.0
        trained.step(target)
    setpoints = []
    update = Controller.update
    monkeypatch.setattr(Controller, "update", lambda self, setpoint: setpoints.append(setpoint) or update(self, setpoint))
    start = target.report()["2"].measured
    trained.step(target, 201)
    assert setpoints[0] == pytest.approx(start, abs=0.02)
    assert setpoints[100] == pytest.approx((setpoints[0] + 0.55) / 2)
    assert setpoints[200] == 0.55
    assert trained.model[2].q < 2


@pytest.mark.parametrize("scale", ["rms", "matched"])
def test_layers_with_a_running_scale_reach_the_target(scale):
    trained = Trained(noises=1)
    trained.model[2].scale = scale
    target = SparsityTarget(trained.model, 0.6)
    trained.step(target, 1500)
    assert trained.measured()["2"] == pytest.approx(0.6, abs=0.02)
    assert (trained.model[2].scale, trained.model[2].q != 2.0) == (scale, True)
    assert 0 < trained.model[2].running_rms != 1


def test_only_every_nth_step_is_measured():
    trained = Trained(noises=1)
    target = SparsityTarget(trained.model, 0.5, every=3)
    watched = []
    for _ in range(7):
        watched.append(bool(trained.model[2]._forward_pre_hooks))
        trained.step(target)
    assert watched == [True, False, False, True, False, False, True]


def test_after_stop_the_model_has_no_hooks():
    trained = Trained(noises=1)
    target = SparsityTarget(trained.model, 0.5, every=2)
    trained.step(target, 8)
    q = trained.model[2].q
    assert trained.model[2]._forward_pre_hooks
    target.stop()
    assert pickle.loads(pickle.dumps(trained.model))[2].q == trained.model[2].q == q != 2.0


def test_an_evaluation_restores_the_modes_and_the_generator():
    trained = Trained()
    trained.model[0].eval()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(trained.data), batch_size=100, shuffle=False)
    target = SparsityTarget(trained.model, 0.5, every=1, loader=loader)
    torch.manual_seed(0)
    trained.model(trained.data[:64])
    before = torch.get_rng_state()
    target.step()
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in trained.model] == [False] + [True] * 6
    assert any(target.state_dict()["bias"].values())


def test_a_target_can_change_during_training():
    trained = Trained(noises=1)
    target = SparsityTarget(trained.model, 0.5)
    target.target = {"2": 0.6}
    assert target.target == {"2": 0.6}
    with pytest.raises(ValueError, match="target"):
        target.target = 1.5


LAYER = nn.Sequential(nn.Linear(4, 4), Sparseout())


@pytest.mark.parametrize(
    ("model", "target", "arguments", "words"),
    [
        (LAYER, 1.0, {}, "target must be a sparsity in (0, 1), got 1.0"),
        (LAYER, {"9": 0.5}, {}, "target['9'] must match one of the layers, '1'"),
        (LAYER, {}, {}, "target must name at least one layer, got an empty mapping"),
        (LAYER, 0.5, {"measure": "rms"}, "measure must be one of 'hoyer', 'zeros', 'gini', got 'rms'"),
        (LAYER, 0.5, {"layers": "0"}, "layers must have a dial, such as Sparseout layers, got 0 of type Linear"),
        (LAYER, 0.5, {"bounds": (3.0, 1.0)}, "bounds must be (low, high) with low < high, got (3.0, 1.0)"),
        (LAYER, 0.5, {"p": (0.6, 0.9)}, "p must be bounds that hold p=0.5 of 1, got (0.6, 0.9)"),
        (LAYER, 0.5, {"every": 0}, "every must be an integer of at least 1, got 0"),
        (nn.Sequential(Sparseout(gradient="exact")), 0.5, {}, "gradient must be 'detached' to control q, got 'exact' in 0"),
        (nn.Linear(2, 2), 0.5, {}, "model must have a layer with a dial, such as Sparseout, got a"),
    ],
)
def test_invalid_arguments_raise_one_line(model, target, arguments, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        SparsityTarget(model, target, **arguments)
    assert words in str(caught.value)


def test_a_state_of_other_layers_raises_and_changes_nothing():
    target, other = SparsityTarget(LAYER, 0.5), SparsityTarget(nn.Sequential(Sparseout()), 0.5)
    before = target.state_dict()
    for state in (other.state_dict(), {}, {**before, "steps": "x"}):
        with pytest.raises(ValueError, match="state_dict must"):
            target.load_state_dict(state)
    assert target.state_dict() == before


def two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    trained = Trained(noises=1)
    trained.data = trained.data[rank::2] * (1 + rank)  # each process measures other values
    target = SparsityTarget(trained.model, 0.55, every=2, loader=[trained.data])
    for _ in range(20):
        batch = trained.data[:64]
        trained.model(batch)
        target.step()
    torch.save({"q": trained.model[2].q, "measured": target.report()["2"].measured}, f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # the threads of the process group may abort a normal exit


def test_all_processes_hold_the_same_q(tmp_path):
    torch.multiprocessing.spawn(two_processes, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    assert first["q"] != 2.0


def test_it_is_public():
    assert sparseout.SparsityTarget is SparsityTarget
