"""What probing costs: a transformer's forward pass with a probe, over one without. `python -m sparseout.probing.cost` runs it."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from sparseout.probe import Probe
from sparseout.probe.tables import rich_table
from sparseout.report.files import write_whole
from sparseout.studies.records import provenance

EVERY = 16
CONTENDERS: dict[str, dict[str, Any]] = {
    "basic": {"measures": "basic"},
    "basic and histogram": {"measures": "basic", "histogram": True},
    "all": {"measures": "all"},
    f"all, every={EVERY}": {"measures": "all", "every": EVERY},
}


class Block(nn.Module):
    """`y = x + dropout(attention(norm(x)))`, then `y + dropout(W2 gelu(W1 norm(y)))`.

    Shape:
        Input and output: `(batch, tokens, width)`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.attention_dropout, self.mlp_dropout = nn.Dropout(0.1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attention_dropout(self.out(attended))
        y: Tensor = x + self.mlp_dropout(self.down(self.act(self.up(self.mlp_norm(x)))))
        return y


def transformer(layers: int = 6, width: int = 384, heads: int = 12) -> nn.Module:
    """A transformer of the size of all-MiniLM-L6-v2, without its embedding."""
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width, heads) for _ in range(layers)))


def measure(model: nn.Module, x: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Time forward passes of `model` on `x` in turns: without a probe, then with each contender in turn, round after round.

    Returns:
        For each contender, in training and in evaluation: the quartiles of its time over the plain time of the same round, and
        the median plain time in seconds.
    """
    rows = []
    for mode in ("train", "eval"):
        model.train(mode == "train")
        probes = {name: Probe(model, **settings) for name, settings in CONTENDERS.items()}
        for probe in probes.values():
            with probe:  # whose first pass also looks for functions
                model(x)
        ratios: dict[str, list[float]] = {name: [] for name in probes}
        plain = []
        for _ in track(range(rounds), description=mode, transient=True):
            plain.append(_seconds(model, x, 1))
            for name, probe in probes.items():
                with probe:
                    ratios[name].append(_seconds(model, x, probe.settings.every) / plain[-1])
        for name, values in ratios.items():
            low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
            rows.append(
                {"mode": mode, "probe": name, "ratio": middle, "low": low, "high": high, "plain": statistics.median(plain)}
            )
    return rows


@torch.no_grad()
def _seconds(model: nn.Module, x: Tensor, passes: int) -> float:
    """Mean time of a forward pass."""
    start = time.perf_counter()
    for _ in range(passes):
        model(x)
    return (time.perf_counter() - start) / passes


def main(
    rounds: Annotated[int, tyro.conf.arg(metavar="INT")] = 15,
    batch: Annotated[int, tyro.conf.arg(metavar="INT")] = 16,
    tokens: Annotated[int, tyro.conf.arg(metavar="INT")] = 128,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """Time a forward pass of a transformer of 6 layers and width 384 with a probe, over one without.

    Args:
        rounds: turns of each contender
        batch: samples
        tokens: of each sample
        out: JSON file for the numbers and their provenance
    """
    rows = measure(transformer(), torch.randn(batch, tokens, 384), rounds)
    shown = [[row["mode"], row["probe"], *(f"{row[name]:.3f}" for name in ("ratio", "low", "high"))] for row in rows]
    header = ["mode", "probe", "time / plain", "lower quartile", "upper quartile"]
    Console().print(rich_table(header, shown, caption=f"A plain pass takes {1000 * rows[-1]['plain']:.0f} ms in evaluation."))
    if out:
        command = shlex.join(["python", "-m", "sparseout.probing.cost", *sys.argv[1:]])
        origin = {**provenance(command, torch.device("cpu")), "threads": torch.get_num_threads()}
        write_whole(out, (json.dumps({"rows": rows, "provenance": origin}, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
