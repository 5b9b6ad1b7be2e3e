"""Forward passes of a transformer with and without a probe."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseout.bench.op import Row
from sparseout.bench.timing import Clock, Spread, alternate, load, spread_columns
from sparseout.probe import Probe

BATCH, TOKENS, WIDTH = 16, 128, 384
NONE = "none"
PROBES: dict[str, dict[str, Any]] = {
    "basic": {"measures": "basic"},
    "histogram": {"measures": "basic", "histogram": True},
    "all": {"measures": "all"},
    "sampled": {"measures": "all", "every": 8},
}
MODES = ("train", "eval")
COLUMNS = (
    *("mode", "probe", "every", *spread_columns("milliseconds", "ms")),
    *(*spread_columns("ratio_to_none", "none"), "rounds", "load"),
)


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


def transformer(layers: int = 6, width: int = WIDTH, heads: int = 12) -> nn.Module:
    """Return a transformer of the size of all-MiniLM-L6-v2, without its embedding."""
    return nn.Sequential(*(Block(width, heads) for _ in range(layers)))


class ForwardPass:
    """A forward pass of `model` on `x` without autograd, timed as a mean over the probe's sampling interval."""

    def __init__(self, model: nn.Module, x: Tensor, probe: str) -> None:
        self.model, self.x, self.clock = model, x, Clock(x.device)
        self.probe = Probe(model, **PROBES[probe]) if probe != NONE else None
        self.every = self.probe.settings.every if self.probe else 1

    @torch.no_grad()
    def __call__(self) -> float:
        """Return the seconds per pass, without the time to attach the hooks."""
        if self.probe:
            self.probe.start()
        start = self.clock.mark()
        for _ in range(self.every):
            self.model(self.x)
        seconds = self.clock.seconds(start, self.clock.mark())
        if self.probe:
            self.probe.stop()
        return seconds / self.every


def measure(mode: str, names: tuple[str, ...], device: torch.device, seconds: float, layers: int = 6) -> list[Row]:
    """Time the transformer in `mode`, without a probe and with each of `names`, for about `seconds`; return a row for each."""
    model = transformer(layers).to(device).train(mode == "train")
    x = torch.randn(BATCH, TOKENS, WIDTH, device=device)
    passes = {name: ForwardPass(model, x, name) for name in (NONE, *names)}
    for each in passes.values():
        each()  # a probe's first pass also searches for functional calls
    times = alternate(passes, seconds)
    return [
        {
            **{"mode": mode, "probe": name, "every": passes[name].every, "rounds": len(taken), "load": load()},
            **Spread.of([1e3 * time for time in taken]).columns("milliseconds", "ms"),
            **Spread.of_ratios(taken, times[NONE]).columns("ratio_to_none", "none"),
        }
        for name, taken in times.items()
    ]
