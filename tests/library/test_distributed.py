"""Two processes on gloo: data-parallel and sharded training draw by each rank's seed and average the gradients."""

import copy
import os

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

import sparseout

STEPS = 3
WAYS = ["ddp", "fsdp", "fully_shard"]
if torch.__version__.startswith("2.6."):
    WAYS.remove("fully_shard")  # needs a GPU in this version
ONES = torch.ones(64, 8)


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    return sparseout.swap_dropout(model, 1.5).model


def batch(rank, step):
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * rank + step))


def wrapped(way):
    """Return the model as each of two processes trains it."""
    model = build()
    if way == "ddp":
        return DistributedDataParallel(model)
    if way == "fsdp":
        return FullyShardedDataParallel(model, auto_wrap_policy=ModuleWrapPolicy({nn.Linear}), device_id=torch.device("cpu"))
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=mesh)
    return model


def train(model, rank, seed, target=None):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(seed)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(batch(rank, step)).square().sum().backward()
        optimizer.step()
        if target:
            target.step()


def full(model):
    """Return the full parameters by name."""
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in model.state_dict().items()}


def mask(seed):
    """Return the forward and backward masks of one step of a data-parallel model."""
    with torch.no_grad():
        through = nn.Linear(8, 8, bias=False)
        through.weight.copy_(torch.eye(8))
    model = DistributedDataParallel(nn.Sequential(through, sparseout.Sparseout(0.5)))
    x = ONES.clone().requires_grad_()
    torch.manual_seed(seed)
    y = model(x)
    y.sum().backward()
    return y.detach() / 2, x.grad / 2


def running(rank):
    """Return the scale before each step of a data-parallel model, and after the last step."""
    model, scales = build(), []
    model[2].scale = "matched"
    model[2].register_forward_pre_hook(lambda layer, _: scales.append(layer.running_rms.clone()))
    train(DistributedDataParallel(model), rank, 10 + rank)
    return {"before": torch.stack(scales), "after": model[2].running_rms, **model.state_dict()}


def driven(way, rank):
    """Return the `q` that a target set, and the measured sparsity."""
    model = wrapped(way)
    target = sparseout.SparsityTarget(model, 0.6, every=1)
    train(model, rank, 10 + rank, target)
    (reach,) = target.report().layers
    return reach.value, reach.measured


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {"alike": mask(5), "apart": mask(5 + rank), "running": running(rank)}
    for name, seed in (("again", 10 + rank), ("other", 20 + rank)):
        model = build()
        train(DistributedDataParallel(model), rank, seed)
        results[name] = full(model)
    for way in WAYS:
        model = wrapped(way)
        train(model, rank, 10 + rank)
        results[way] = full(model.module if way == "ddp" else model)
        results[f"{way}, driven"] = driven(way, rank)
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # threads of the process groups may abort a normal exit


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def expected():
    """Train in one process with the draws of each rank, and average the gradients."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    states = []
    for rank in (0, 1):
        torch.manual_seed(10 + rank)
        states.append(torch.get_rng_state())
    for step in range(STEPS):
        replicas = [copy.deepcopy(model) for _ in states]
        for rank, replica in enumerate(replicas):
            torch.set_rng_state(states[rank])
            replica(batch(rank, step)).square().sum().backward()
            states[rank] = torch.get_rng_state()
        for parameter, *copies in zip(model.parameters(), *(replica.parameters() for replica in replicas), strict=True):
            parameter.grad = sum(other.grad for other in copies) / len(copies)
        optimizer.step()
    return model.state_dict()


def test_ranks_seeded_alike_draw_alike_and_others_do_not(ranks):
    assert torch.equal(ranks[0]["alike"][0], ranks[1]["alike"][0])
    assert not torch.equal(ranks[0]["apart"][0], ranks[1]["apart"][0])
    assert torch.equal(ranks[0]["apart"][0], ranks[0]["alike"][0])


def test_the_backward_mask_of_a_data_parallel_model_is_its_forward_mask(ranks):
    for rank in ranks:
        for forward, backward in (rank["alike"], rank["apart"]):
            assert set(forward.unique().tolist()) == {0.0, 1.0}
            assert torch.equal(forward, backward)


def test_data_parallel_training_is_reproducible(ranks):
    for name, parameter in ranks[0]["ddp"].items():
        assert torch.equal(parameter, ranks[1]["ddp"][name])
        assert torch.equal(parameter, ranks[0]["again"][name])
        assert not torch.equal(parameter, ranks[0]["other"][name])


def test_ranks_measure_in_the_unit_of_the_first(ranks):
    first, second = (rank["running"] for rank in ranks)
    assert torch.equal(first["before"], second["before"])
    assert first["before"][0] == 0
    assert (first["before"][1:] > 0).all()
    assert first["after"] != second["after"]  # each rank learns from its own batch; the next step starts with a broadcast
    assert torch.equal(first["3.weight"], second["3.weight"])


@pytest.mark.parametrize("way", WAYS)
def test_a_target_sets_one_q_on_all_ranks(ranks, way):
    q, measured = ranks[0][f"{way}, driven"]
    assert ranks[1][f"{way}, driven"] == (q, measured)
    assert q != 1.5
    assert (q, measured) == pytest.approx(ranks[0]["ddp, driven"])


@pytest.mark.parametrize("way", WAYS)
def test_training_on_two_processes_averages_the_gradients_of_each_ones_draws(ranks, expected, way):
    assert list(ranks[0][way]) == list(expected)
    for name, parameter in expected.items():
        torch.testing.assert_close(ranks[0][way][name], parameter)
