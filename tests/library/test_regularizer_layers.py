"""Every regularizer in a model that trains: copies, resumption to the bit, checkpointing, compilation, two processes."""

import copy
import os
import pickle

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import sparseout
from sparseout import regularizers as R

D = 6
LAYERS = {
    "Sparseout": lambda: sparseout.Sparseout(0.5, 1.5),
    "L1": lambda: R.L1(0.1),
    "TransformedL1": lambda: R.TransformedL1(0.1),
    "HoyerSquare": lambda: R.HoyerSquare(0.1),
    "DeCov": lambda: R.DeCov(0.1),
    "KLTarget": lambda: R.KLTarget(0.1),
    "Parsimonious": lambda: R.Parsimonious(0.1, units=D, clusters=3),
    "KWinners": lambda: R.KWinners(0.5),
    "boosted KWinners": lambda: R.KWinners(0.5, boost_strength=1.0, units=D),
    "BatchKWinners": lambda: R.BatchKWinners(0.5),
    "LifetimeWinners": lambda: R.LifetimeWinners(0.5),
    "HardConcrete": lambda: R.HardConcrete(0.1, units=D),
    "Standout": lambda: R.Standout(),
    "Bridgeout": lambda: R.Bridgeout(D, D, q=1.5),
    "Shakeout": lambda: R.Shakeout(D, D),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def model_of(name):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, D), nn.Sigmoid(), LAYERS[name](), nn.Linear(D, 2))


def batch(step):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def loss_of(model, output):
    has_penalty = any(isinstance(layer, R.Penalty) for layer in model.modules())
    return output.square().mean() + (sparseout.penalty(model) if has_penalty else 0)


def train(model, steps, optimizer=None, run=None):
    """Train, with the default generator seeded for each step; return the losses and the optimizer."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    loss_of(model, torch.zeros(()))
    for step in steps:
        torch.manual_seed(100 + step)
        loss = loss_of(model, (run or model)(batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, optimizer


def check_same(one, other):
    for a, b in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1]), a[0]


@every_layer
def test_copies_train_alike_and_leave_the_original_alone(name):
    model = model_of(name)
    train(model, range(2))
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    before = copy.deepcopy(model.state_dict())
    for other in others:
        train(other, range(2, 4))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    train(model, range(2, 4))
    for other in others:
        check_same(model, other)


@every_layer
def test_a_run_resumes_to_the_bit(name):
    whole = model_of(name)
    losses, _ = train(whole, range(6))
    first = model_of(name)
    _, optimizer = train(first, range(3))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    again = model_of(name)
    again.load_state_dict(saved[0])
    optimizer = torch.optim.Adam(again.parameters(), 0.05)
    optimizer.load_state_dict(saved[1])
    assert train(again, range(3, 6), optimizer)[0] == losses[3:]
    check_same(whole, again)


@every_layer
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_checkpointing_changes_nothing(name, reentrant):
    plain, ours = model_of(name), model_of(name)
    losses, _ = train(plain, range(3))

    def run(x):
        return ours[3](checkpoint(ours[:3], x.requires_grad_(), use_reentrant=reentrant))

    found, _ = train(ours, range(3), run=run)
    assert found == pytest.approx(losses, rel=1e-6)
    for a, b in zip(plain.state_dict().values(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


@every_layer
def test_a_compiled_model_trains_as_the_model_does(name):
    plain, ours = model_of(name), model_of(name)
    losses, _ = train(plain, range(2))
    torch.compiler.reset()
    compiled = torch.compile(ours, backend="aot_eager")
    found, _ = train(compiled, range(2))
    assert found == pytest.approx(losses, rel=1e-5)


@every_layer
def test_evaluation_is_deterministic_and_has_no_term(name):
    model = model_of(name)
    train(model, range(2))
    model.eval()
    x = batch(0)
    assert torch.equal(model(x), model(x))
    if any(isinstance(layer, R.Penalty) for layer in model.modules()):
        assert sparseout.penalty(model).item() == 0


def test_every_layer_has_a_dial_that_can_be_moved():
    for name in set(LAYERS) - {"Sparseout"}:
        layer = LAYERS[name]()
        dial = layer.dial
        for number in (dial.low, dial.high):
            setattr(layer, dial.name, number)
            assert getattr(layer, dial.name) == number
            assert dial.value(dial.position(number)) == pytest.approx(number)
        sparser = dial.high if dial.sparser == "up" else dial.low
        assert dial.position(sparser) == min(map(dial.position, (dial.low, dial.high)))


NAMES = ["L1", "HoyerSquare", "boosted KWinners", "HardConcrete", "Bridgeout"]


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name in NAMES:
        model = DistributedDataParallel(model_of(name))
        loss_of(model, torch.zeros(()))
        torch.manual_seed(50 + rank)
        loss_of(model, model(batch(rank))).backward()
        results[name] = [each.grad for each in model.parameters()]
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # the groups' threads may abort an interpreter that ends


def test_two_processes_average_the_terms(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in NAMES:
        expected = []
        for rank in (0, 1):
            model = model_of(name)
            loss_of(model, torch.zeros(()))
            torch.manual_seed(50 + rank)
            loss_of(model, model(batch(rank))).backward()
            expected.append([each.grad for each in model.parameters()])
        for ours, other, *parts in zip(*(each[name] for each in found), *expected, strict=True):
            assert torch.equal(ours, other)
            torch.testing.assert_close(ours, sum(parts) / 2)
