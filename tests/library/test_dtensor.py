"""Two processes on gloo: the op and the layers on a `DTensor`, and models with tensor and sequence parallelism."""

import os

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint

import sparseout
from sparseout import LockedSparseout, Sparseout
from sparseout.op.moments import NORMS

PLACEMENTS = {"replicated": Replicate(), "rows": Shard(0), "columns": Shard(1)}
FULL = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
SCALES = [1.0, "rms", "matched"]


class Block(nn.Module):
    """A transformer block without attention, with layers on inputs sharded by sequence, sharded by feature and not sharded."""

    def __init__(self, scale):
        super().__init__()
        settings = {"p": 0.5, "q": 1.5, "scale": scale}
        self.norm, self.first = nn.LayerNorm(8), LockedSparseout(batch_first=True, **settings)
        self.up, self.second = nn.Linear(8, 16), Sparseout(**settings)
        self.down, self.third = nn.Linear(16, 8), Sparseout(**settings)

    def forward(self, x):
        return self.third(self.down(self.second(self.up(self.first(self.norm(x))).relu())))


def parallel(mesh, scale):
    torch.manual_seed(0)
    plan = {
        "norm": SequenceParallel(),
        "first": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1), use_local_output=False),
        "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
        "third": SequenceParallel(use_local_output=True),
    }
    return parallelize_module(Block(scale), mesh, plan)


def train(mesh, rank, scale, again):
    """Return the full weights after three steps, and each layer's running scale on this rank."""
    model = parallel(mesh, scale)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(3):
        torch.manual_seed(10 + step)
        x = torch.randn(2, 4, 8).chunk(2, 1)[rank]
        y = checkpoint(model, x, use_reentrant=False) if again else model(x)
        y.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in model.state_dict().items()}
    return {name: value.clone() for name, value in state.items()}


def part(full, mesh, placement):
    """Return `full` as a `DTensor` with this rank's shard, without communication."""
    whole = placement == Replicate()
    return DTensor.from_local(full if whole else full.chunk(mesh.size(), placement.dim)[mesh.get_rank()], mesh, [placement])


def draws(mesh, placement, seed):
    """Return the output for ones and the gradient, for this rank and for the full tensor."""
    torch.manual_seed(seed)
    x = part(torch.ones(8, 8), mesh, placement).requires_grad_()
    y = sparseout.sparseout(x, 0.5, 2.0)
    y.sum().backward()
    assert isinstance(y, DTensor)
    assert y.placements == x.grad.placements == (placement,)
    return {"here": y.to_local().detach(), "whole": y.full_tensor().detach(), "grad": x.grad.full_tensor()}


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh, results = init_device_mesh("cpu", (2,)), {}
    for name, placement in PLACEMENTS.items():
        results[f"{name}, alike"] = draws(mesh, placement, 5)
        results[f"{name}, apart"] = draws(mesh, placement, 5 + rank)
        layer = Sparseout(0.5, 1.5, scale="matched")
        layer(distribute_tensor(FULL, mesh, [placement]))
        results[f"{name}, scale"], results[f"{name}, moments"] = layer.running_rms, layer.running_moments
    shared = sparseout.sparseout(distribute_tensor(torch.ones(4, 6), mesh, [Shard(0)]), 0.5, 2.0, shared_dims=(0,))
    results["shared"] = shared.full_tensor()
    uneven = distribute_tensor(torch.ones(1, 6), mesh, [Shard(0)]).clone()
    for scale in SCALES:
        written = Sparseout(0.5, 2.0, True, scale=scale)(uneven)
        assert written is uneven
    results["uneven"] = written.full_tensor()
    partial = DTensor.from_local(torch.ones(4, 6), mesh, [Partial()])
    reduced = sparseout.sparseout(partial, 0.5, 2.0)
    results["partial"], results["reduced"] = reduced.to_local(), reduced.placements == (Replicate(),)
    own = torch.Generator().manual_seed(rank)
    results["generator"] = sparseout.sparseout(distribute_tensor(torch.ones(40), mesh, [Replicate()]), generator=own).to_local()
    results["evaluation"] = sparseout.sparseout(partial, training=False) is partial
    try:
        sparseout.sparseout(partial, backend="cpu")
    except ValueError as error:
        results["refusal"] = str(error)
    for scale in SCALES:
        for again in (False, True):
            results[f"trained, {scale}, {again}"] = train(mesh, rank, scale, again)
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # threads of the process groups may abort a normal exit


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(params=[0, 3])
def mesh(request):
    """Return one rank's view of a mesh of four processes, whose group sends nothing."""
    distributed.init_process_group("fake", store=FakeStore(), rank=request.param, world_size=4)
    yield init_device_mesh("cpu", (4,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_dtensor_gives_a_dtensor_of_the_same_placements_and_only_shards_have_seeds_of_their_own(mesh, placement):
    seen = draws(mesh, PLACEMENTS[placement], 5)["here"]
    torch.manual_seed(5)
    expected = sparseout.sparseout(torch.ones(seen.shape), 0.5, 2.0)
    assert torch.equal(seen, expected) == (placement == "replicated" or mesh.get_rank() == 0)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_a_compiled_layer_gives_what_the_layer_gives(mesh, scale):
    torch._dynamo.reset()
    outcomes = []
    for compiled in (False, True):
        layer, x = Sparseout(0.5, 1.5, scale=scale), part(FULL, mesh, Shard(0)).requires_grad_()
        torch.manual_seed(5)
        y = (torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer)(x)
        y.sum().backward()
        outcomes.append((y.to_local().detach(), x.grad.to_local()))
    torch.testing.assert_close(*outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["alike", "apart"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_shards_draw_independently_and_replicas_alike(ranks, placement, seeds):
    first, second = (rank[f"{placement}, {seeds}"] for rank in ranks)
    assert torch.equal(first["here"], second["here"]) == (placement == "replicated")
    assert torch.equal(first["whole"], second["whole"])
    assert set(first["whole"].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(first["grad"], first["whole"])


@pytest.mark.slow
def test_a_replicated_tensor_draws_as_the_first_ranks_tensor(ranks):
    torch.manual_seed(5)
    expected = sparseout.sparseout(torch.ones(8, 8), 0.5, 2.0)
    assert torch.equal(ranks[1]["replicated, apart"]["here"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_running_scale_of_a_sharded_input_is_that_of_the_full_tensor(ranks, placement):
    for rank in ranks:
        torch.testing.assert_close(rank[f"{placement}, scale"], FULL.square().mean().sqrt())
        moments = torch.stack([(FULL.abs() / FULL.square().mean().sqrt()).pow(norm or 1e-30).mean() for norm in NORMS])
        torch.testing.assert_close(rank[f"{placement}, moments"], moments)
    for key in ("scale", "moments"):
        assert torch.equal(*(rank[f"{placement}, {key}"] for rank in ranks))


@pytest.mark.slow
def test_one_draw_is_shared_across_the_shards_of_a_shared_dimension(ranks):
    assert set(ranks[0]["shared"].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(ranks[0]["shared"], ranks[0]["shared"][:1].expand(4, 6))


@pytest.mark.slow
def test_a_rank_whose_shard_is_empty_takes_part(ranks):
    assert ranks[0]["uneven"].shape == (1, 6)
    assert set(ranks[0]["uneven"].unique().tolist()) <= {0.0, 2.0 ** len(SCALES)}  # written in place once for each scale


@pytest.mark.slow
def test_a_partial_sum_is_reduced_before_it_is_perturbed(ranks):
    assert ranks[0]["reduced"]
    assert set(ranks[0]["partial"].unique().tolist()) == {0.0, 4.0}
    assert torch.equal(ranks[0]["partial"], ranks[1]["partial"])


@pytest.mark.slow
def test_replicas_agree_with_a_generator_of_each_ranks_own(ranks):
    assert torch.equal(ranks[0]["generator"], ranks[1]["generator"])


@pytest.mark.slow
def test_evaluation_is_the_identity_and_the_kernel_cannot_be_insisted_on(ranks):
    assert ranks[0]["evaluation"]
    assert ranks[0]["refusal"] == "backend is 'cpu', which cannot be used here: input is a DTensor, not a plain torch.Tensor"


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_a_parallel_model_trains_alike_on_all_ranks_and_under_checkpointing(ranks, scale):
    plain, again = (ranks[0][f"trained, {scale}, {recomputed}"] for recomputed in (False, True))
    for name, value in plain.items():
        assert value.isfinite().all()
        assert torch.equal(value, ranks[1][f"trained, {scale}, False"][name]), name
        torch.testing.assert_close(value, again[name])
    assert sum(name.endswith("running_rms") and bool(value > 0) for name, value in plain.items()) == (0 if scale == 1.0 else 3)
