"""What several ranks find adds up to what one process finds in all batches."""

import torch
import torch.multiprocessing
from torch import distributed, nn

from sparseout import Probe
from sparseout.probe import Summary, read_history

BATCHES = (5, 3, 7, 1)


def run(rank, world, folder, batches):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
    x = [torch.randn(batch, 6, generator=torch.Generator().manual_seed(batch)) for batch in batches]
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    with Probe(model, measures="all") as probe:
        for batch in x[rank::world]:
            model(batch)
    summary = probe.gather()
    assert summary.layers == probe.gather().layers
    (folder / f"{world}-{rank}.json").write_text(summary.to_json())
    probe.log(1, folder / f"{world}.jsonl")
    if world > 1:
        distributed.destroy_process_group()


def test_two_ranks(tmp_path):
    run(0, 1, tmp_path, BATCHES)
    torch.multiprocessing.spawn(run, (2, tmp_path, BATCHES), nprocs=2)
    alone, first, second = (Summary.read(tmp_path / name) for name in ("1-0.json", "2-0.json", "2-1.json"))
    assert first.layers == second.layers
    assert first.forwards == {"train": {"seen": 4, "measured": 4}}
    for name, value in alone["1"].measures().items():
        torch.testing.assert_close(first["1"].measures()[name], value, rtol=1e-12, atol=1e-12)
    assert first["1"].histogram == alone["1"].histogram
    assert len(read_history(tmp_path / "2.jsonl")) == 1
