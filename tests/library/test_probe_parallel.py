"""Tensor-parallel ranks each find what one process finds in the whole values, and together count it once."""

import pytest
import torch
import torch.multiprocessing
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from sparseout import Probe


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.LayerNorm(6), nn.Dropout(0.0)
        self.up, self.act, self.drop, self.down = nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 6)

    def forward(self, x, attention_mask=None):
        return self.out(self.down(self.drop(self.act(self.up(self.norm(x))))))


PLANS = {
    "local tensors": {"up": ColwiseParallel(), "down": RowwiseParallel()},
    "DTensors": {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel(use_local_output=False)},
    "sequence": {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
        "out": SequenceParallel(),
    },
}
UNEVEN = "is a DTensor whose shape differs between the ranks"
LAYERS = ["norm", "act", "drop", "out"]
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])


class Own(nn.Module):
    """A value of this rank's own."""

    def __init__(self):
        super().__init__()
        self.up, self.act = nn.Linear(6, 16), nn.ReLU()

    def forward(self, x):
        self.up(x)
        return self.act(x + distributed.get_rank())


def in_parallel(rank, world, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tp",))
    x = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))

    def block():
        torch.manual_seed(0)
        return Block()

    with Probe(alone := block(), LAYERS, measures="all") as probe:
        for _ in range(2):
            alone(x, attention_mask=MASK)
    expected = probe.summary()
    assert expected["act"].vectors == 18

    for name, plan in PLANS.items():
        model = parallelize_module(block(), mesh, plan)
        given = distribute_tensor(x, mesh, [Shard(1)]) if name == "sequence" else x
        with Probe(model, LAYERS, measures="all") as probe:
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    model(given, attention_mask=MASK)
        for found in (probe.summary(), probe.gather()):
            assert not found.unseen, (name, found.unseen)
            assert found.forwards == expected.forwards, name
            assert len(found.layers) == len(LAYERS)
            for layer in LAYERS:
                assert (found[layer].vectors, found[layer].units) == (18, expected[layer].units), (name, layer)
                assert (found[layer].padding, found[layer].histogram) == (18, expected[layer].histogram), (name, layer)
                torch.testing.assert_close(found[layer].measures(), expected[layer].measures(), rtol=1e-6, atol=1e-6)
    assert DTensor.to_local.__qualname__ == "DTensor.to_local"
    assert not hasattr(DTensor.to_local, "__wrapped__")

    model = parallelize_module(block(), mesh, PLANS["sequence"])
    with Probe(
        model, LAYERS
    ) as probe:  # torch takes the five positions, three and two on the ranks, for six on one rank and four on the other
        model(distribute_tensor(x[:, :5], mesh, [Shard(1)]))
    assert {layer: UNEVEN in why for layer, why in probe.summary().unseen.items()} == {"out": True}
    assert probe.gather()["act"].vectors == 15

    relu = nn.ReLU()
    with Probe(relu, "") as probe:
        relu(x)
    expected = probe.summary()[""]
    for placement in (Shard(0), Shard(1), Shard(2), Replicate(), Partial()):
        value = distribute_tensor(x, mesh, [Replicate() if placement.is_partial() else placement])
        if placement.is_partial():
            value = DTensor.from_local(x / 2, mesh, [placement])
        with Probe(relu, "") as probe:
            relu(value)
        for found in (probe.summary()[""], probe.gather()[""]):
            assert (found.vectors, found.units) == (18, 6), placement
            torch.testing.assert_close(found.measures(), expected.measures())

    model = parallelize_module(Own(), mesh, {"up": ColwiseParallel()})
    with Probe(model) as probe:
        model(x)
    assert probe.summary().unseen == {"act": "its output is a part of a tensor-parallel value, and which part is not known"}
    distributed.destroy_process_group()


@pytest.mark.slow
def test_tensor_parallel_ranks_agree_with_one_process_and_count_once(tmp_path):
    torch.multiprocessing.spawn(in_parallel, (2, tmp_path), nprocs=2)
