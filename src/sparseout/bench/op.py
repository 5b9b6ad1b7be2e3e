"""The op beside Dropout, plain torch and the least that moving its data costs: one cell a dtype and size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseout.bench.timing import Clock, Spread, alternate, load
from sparseout.op.functional import sparseout

P = 0.5
EPS = 1e-6
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
SIZES = tuple(2**power for power in (12, 15, 18, 20, 24, 26))
QS = (1.0, 1.5, 1.7, 2.0, 2.5, 3.0)
# The tensors that any implementation reads and writes: x and y forward, their gradients backward.
TENSORS_MOVED = {"forward": 2, "backward": 2, "both": 4}
COLUMNS = (
    *("contender", "dtype", "elements", "q", "pass", "ns_per_element", "ns_iqr_low", "ns_iqr_high"),
    *("ratio_to_dropout", "ratio_iqr_low", "ratio_iqr_high", "gigabytes_per_second", "bytes_kept", "rounds", "load", "note"),
)
_TENSORS_AT_PEAK = 8

Op = Callable[[Tensor], Tensor]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Contender:
    """An op of one tensor under a name, at a `q` if it has one."""

    name: str
    q: float | None = None


DROPOUT = Contender("F.dropout")
WITHOUT_Q: dict[str, Op] = {
    "F.dropout": lambda x: F.dropout(x, P),
    "relu": F.relu,
    "copy_": lambda x: _Copy.apply(x),
}


def bernoulli_noise(x: Tensor, p: float) -> Tensor:
    """`n = m / (1 - p) - 1` as the authors draw it, in place on a fresh tensor."""
    return torch.empty_like(x).bernoulli_(1 - p).div_(1 - p).sub_(1)


def uniform_noise(x: Tensor, p: float) -> Tensor:
    """The same noise from uniform numbers: torch draws these faster on a CPU, and Inductor fuses them alone."""
    return (torch.rand_like(x) >= p).to(x.dtype).div(1 - p).sub(1)


def expression(x: Tensor, q: float, draw: Callable[[Tensor, float], Tensor]) -> Tensor:
    """`y = x (1 + (|x| + eps)^((q-2)/2) n)`, the factor a constant: detached Sparseout as the authors write it."""
    return x * (1 + (x.detach().abs() + EPS).pow((q - 2) / 2) * draw(x, P))


def op(contender: Contender) -> Op:
    """What `contender` computes; a compiled one compiles when it is called."""
    q = contender.q
    if q is None:
        return WITHOUT_Q[contender.name]
    if contender.name == "compiled":
        return _compiled(q)
    with_q: dict[str, Op] = {
        "sparseout": lambda x: sparseout(x, P, q),
        "authors": lambda x: expression(x, q, bernoulli_noise),
        "expression": lambda x: expression(x, q, uniform_noise),
    }
    return with_q[contender.name]


def contenders(dtype: torch.dtype, elements: int, qs: Sequence[float]) -> list[Contender]:
    """Who takes part in a cell. The default `qs` are thinned, so that all cells take minutes: see the command's help."""
    ours, plain = tuple(qs), tuple(qs)
    if ours == QS:
        full = dtype == torch.float32
        ours = QS if full else (1.7, 2.0)
        plain = QS if full and elements <= 2**20 else (1.7,)
    result = [Contender(name) for name in WITHOUT_Q]
    result += [Contender("sparseout", q) for q in ours]
    result += [Contender(name, q) for name in ("authors", "expression", "compiled") for q in plain]
    return list(dict.fromkeys(result))


def measure(dtype: str, elements: int, qs: Sequence[float], device: torch.device, seconds: float) -> list[Row]:
    """A row for each contender and pass of one cell: forward without autograd, then backward alone, and both through it."""
    cell = contenders(DTYPES[dtype], elements, qs)
    common = {"dtype": dtype, "elements": elements}
    needed, available = _TENSORS_AT_PEAK * elements * DTYPES[dtype].itemsize, available_memory(device)
    if needed > available:
        note = f"skipped: needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available"
        return [row for contender in cell for row in _rows(contender, common, note=note)]
    x = torch.randn(elements, dtype=DTYPES[dtype], device=device).requires_grad_()
    grad = torch.ones_like(x, requires_grad=False)
    clock, repeats = Clock(device), max(1, 2**17 // elements)
    samples, kept, notes = {}, {}, {}
    torch.compiler.reset()
    for contender in cell:
        try:
            function = op(contender)
            sample(function, x, grad, 1, clock)
        except RuntimeError as error:
            if contender.name != "compiled":
                raise
            notes[contender] = f"skipped: torch.compile failed: {str(error).strip().splitlines()[0]}"
            continue
        kept[contender] = bytes_kept(function, x)
        samples[contender] = lambda function=function: sample(function, x, grad, repeats, clock)
    times = alternate(samples, seconds)
    rows: list[Row] = []
    for contender in cell:
        if contender in notes:
            rows += _rows(contender, common, note=notes[contender])
        else:
            measured = {**common, "bytes_kept": kept[contender], "rounds": len(times[contender]), "load": load()}
            rows += _rows(contender, measured, times[contender], times[DROPOUT], repeats)
    return rows


def sample(function: Op, x: Tensor, grad: Tensor, repeats: int, clock: Clock) -> dict[str, float]:
    """Seconds of `repeats` calls, by pass. Outputs are fresh, and freeing them is part of the time, as in a training step."""
    with torch.no_grad():
        start = clock.mark()
        for _ in range(repeats):
            function(x)
        forward = clock.seconds(start, clock.mark())
    marks = []
    for _ in range(repeats):
        start = clock.mark()
        y = function(x)
        middle = clock.mark()
        torch.autograd.grad(y, x, grad)
        del y
        marks.append((start, middle, clock.mark()))
    backward = sum(clock.seconds(middle, end) for _, middle, end in marks)
    both = sum(clock.seconds(start, end) for start, _, end in marks)
    return {"forward": forward, "backward": backward, "both": both}


def bytes_kept(function: Op, x: Tensor) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass, the input too where it is one; shared memory once."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(x)
    return sum(kept.values())


def available_memory(device: torch.device) -> float:
    """Bytes that can still be allocated; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return math.inf


def _rows(
    contender: Contender,
    measured: Row,
    times: Sequence[dict[str, float]] = (),
    dropout: Sequence[dict[str, float]] = (),
    repeats: int = 1,
    note: str = "",
) -> Iterator[Row]:
    """A row for each pass; without times, with their reason as its note."""
    for name, tensors in TENSORS_MOVED.items():
        row = {"contender": contender.name, "q": contender.q, "pass": name, **measured, "note": note}
        if times:
            elements = measured["elements"] * repeats
            each = Spread.of([1e9 * seconds[name] / elements for seconds in times])
            ratio = Spread.of_ratios([seconds[name] for seconds in times], [seconds[name] for seconds in dropout])
            row |= each.columns("ns_per_element", "ns") | ratio.columns("ratio_to_dropout", "ratio")
            row["gigabytes_per_second"] = tensors * DTYPES[measured["dtype"]].itemsize / each.median
        yield row


def _compiled(q: float) -> Op:
    # A traced graph is a function of its own. With one function for all q, torch.compile would check the guards of the other
    # q in each call, and give up after eight of them.
    graph = torch.fx.symbolic_trace(lambda x: expression(x, q, uniform_noise))
    compiled: Op = torch.compile(graph.forward, dynamic=False)
    return compiled


class _Copy(torch.autograd.Function):
    """One copy forward and one backward, both into fresh memory: what moving the data costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.empty_like(x).copy_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.empty_like(grad).copy_(grad)
