"""The op compared with Dropout, plain torch and a copy of its data, for each dtype and size."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseout.bench.timing import Clock, Spread, alternate, load, spread_columns
from sparseout.layers import Sparseout
from sparseout.op import backends
from sparseout.op.functional import check_call, draw_seed, sparseout
from sparseout.op.reference import is_multiplicative

P = 0.5
EPS = 1e-6
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
SIZES = tuple(2**power for power in (12, 16, 18, 20, 24, 26))
QS = (1.0, 1.5, 1.7, 2.0, 2.5, 3.0)
# Tensors that any implementation reads and writes: x and y forward, their gradients backward.
TENSORS_MOVED = {"forward": 2, "backward": 2, "both": 4}
COLUMNS = (
    *("contender", "dtype", "elements", "q", "pass", *spread_columns("ns_per_element", "ns")),
    *(*spread_columns("ratio_to_dropout", "ratio"), "gigabytes_per_second", "bytes_kept", "rounds", "load", "note"),
)
_TENSORS_AT_PEAK = 10

Op = Callable[[Tensor], Tensor]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Contender:
    """An op of one tensor: its name, and its `q` if it has one."""

    name: str
    q: float | None = None


DROPOUT = Contender("F.dropout")
CHANNELS_LAST, RMS, KERNEL = "sparseout, channels_last", "sparseout, rms", "sparseout, kernel alone"
IMAGE = (16, 8, 8)  # channels, height and width of the input of `CHANNELS_LAST`
WITHOUT_Q: dict[str, Op] = {
    "F.dropout": lambda x: F.dropout(x, P),
    "relu": F.relu,
    "copy_": lambda x: _Copy.apply(x),
}


def bernoulli_noise(x: Tensor, p: float) -> Tensor:
    """Draw `n = m / (1 - p) - 1` as the authors' code does, in place on a new tensor."""
    return torch.empty_like(x).bernoulli_(1 - p).div_(1 - p).sub_(1)


def uniform_noise(x: Tensor, p: float) -> Tensor:
    """Draw the same noise from uniform numbers, which torch draws faster on a CPU and which Inductor can fuse."""
    return (torch.rand_like(x) >= p).to(x.dtype).div(1 - p).sub(1)


def expression(x: Tensor, q: float, draw: Callable[[Tensor, float], Tensor]) -> Tensor:
    """`y = x (1 + (|x| + eps)^((q-2)/2) n)` with a detached factor: Sparseout as in the authors' code of 2019.

    That code is signed and detached. Their code of 2020, in a filter-pruning repository, is unsigned and exact, and at `q = 2`
    it is not Dropout for negative activations.
    """
    return x * (1 + (x.detach().abs() + EPS).pow((q - 2) / 2) * draw(x, P))


def op(contender: Contender) -> Op:
    """Return the function of `contender`. A compiled one compiles in its first call."""
    q = contender.q
    if q is None:
        return WITHOUT_Q[contender.name]
    if contender.name == "compiled":
        return _compiled(q)
    with_q: dict[str, Op] = {
        "sparseout": lambda x: sparseout(x, P, q),
        CHANNELS_LAST: lambda x: sparseout(x, P, q),
        RMS: Sparseout(P, q, scale="rms"),
        "authors": lambda x: expression(x, q, bernoulli_noise),
        "expression": lambda x: expression(x, q, uniform_noise),
    }
    return with_q[contender.name]


def contenders(dtype: torch.dtype, elements: int, qs: Sequence[float]) -> list[Contender]:
    """Return the contenders for a dtype and size. Only some of the default `qs` run everywhere: see the command's help."""
    ours, plain, special = tuple(qs), tuple(qs), tuple(qs)
    if ours == QS:
        full = dtype == torch.float32
        ours = QS if full else (1.7, 2.0)
        plain = QS if full and elements <= 2**20 else (1.7,)
        special = (1.5, 2.0) if full else ()
    result = [Contender(name) for name in WITHOUT_Q]
    result += [Contender("sparseout", q) for q in ours]
    result += [Contender(RMS, q) for q in special]
    result += [Contender(KERNEL, q) for q in special]
    result += [Contender(CHANNELS_LAST, q) for q in special if elements % math.prod(IMAGE) == 0]
    result += [Contender(name, q) for name in ("authors", "expression", "compiled") for q in plain]
    return list(dict.fromkeys(result))


def cases(dtypes: Iterable[str], sizes: Iterable[int]) -> list[tuple[str, int]]:
    """Return the dtypes and sizes to measure. Of the default sizes, the largest is measured in float32 alone.

    >>> cases(["float64"], [8, 4, 8])
    [('float64', 4), ('float64', 8)]
    """
    chosen = sorted(set(sizes))
    others = chosen[:-1] if tuple(chosen) == SIZES else chosen
    return [(dtype, elements) for dtype in dict.fromkeys(dtypes) for elements in (chosen if dtype == "float32" else others)]


def measure(dtype: str, elements: int, qs: Sequence[float], device: torch.device, seconds: float) -> list[Row]:
    """Time the contenders for a dtype and size, and return a row for each of them and each pass.

    The passes are forward without autograd, backward alone, and both with autograd.
    """
    competing = contenders(DTYPES[dtype], elements, qs)
    common = {"dtype": dtype, "elements": elements}
    needed, available = _TENSORS_AT_PEAK * elements * DTYPES[dtype].itemsize, available_memory(device)
    if needed > available:
        note = f"skipped: needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available"
        return [row for contender in competing for row in _rows(contender, common, note=note)]
    x = torch.randn(elements, dtype=DTYPES[dtype], device=device).requires_grad_()
    grad = torch.ones_like(x, requires_grad=False)
    images = _channels_last(x, grad) if any(contender.name == CHANNELS_LAST for contender in competing) else (x, grad)
    inputs = {contender: images if contender.name == CHANNELS_LAST else (x, grad) for contender in competing}
    clock, repeats = Clock(device), max(1, 2**17 // elements)
    samples, kept, notes = {}, {}, {}
    torch.compiler.reset()
    for contender in competing:
        if contender.name == KERNEL:
            passes = kernel_passes(contender.q, x, grad)
            if passes is None:
                notes[contender] = "skipped: no kernel reads this input"
            else:
                samples[contender] = functools.partial(kernel_sample, *passes, repeats, clock)
            continue
        try:
            function = op(contender)
            sample(function, *inputs[contender], 1, clock)
        except RuntimeError as error:
            if contender.name != "compiled":
                raise
            notes[contender] = f"skipped: torch.compile failed: {str(error).strip().splitlines()[0]}"
            continue
        kept[contender] = bytes_kept(function, inputs[contender][0])
        samples[contender] = functools.partial(sample, function, *inputs[contender], repeats, clock)
    times = alternate(samples, seconds)
    rows: list[Row] = []
    for contender in competing:
        if contender in notes:
            rows += _rows(contender, common, note=notes[contender])
        else:
            measured = {**common, "bytes_kept": kept.get(contender), "rounds": len(times[contender]), "load": load()}
            rows += _rows(contender, measured, times[contender], times[DROPOUT], repeats)
    return rows


def sample(function: Op, x: Tensor, grad: Tensor, repeats: int, clock: Clock) -> dict[str, float]:
    """Return the seconds of `repeats` calls, by pass. The time includes allocating and freeing outputs, as in a training step.

    A call that is not timed comes first: its outputs leave memory that was in use a moment before, as the previous step does in
    training. The host of a virtual machine may take back memory that is free for a second, and returns it slowly.
    """
    torch.autograd.grad(function(x), x, grad)
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


def kernel_passes(q: float | None, x: Tensor, grad: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]] | None:
    """Return the two passes of a call without its checks, its seed and autograd; None if the reference computes the call."""
    assert q is not None
    settings, kernel = check_call(x, P, q, 1.0, "detached", EPS, (), None)
    if kernel is None:
        return None
    seed, values = draw_seed(x, None, kernel), x.detach()
    kept = None if is_multiplicative(P, q) else values
    return (
        lambda: backends.forward(values, seed, settings, kernel),
        lambda: backends.backward(grad, kept, seed, settings, kernel),
    )


@torch.no_grad()
def kernel_sample(forward: Callable[[], Tensor], backward: Callable[[], Tensor], repeats: int, clock: Clock) -> dict[str, float]:
    """Return the seconds of `repeats` calls of each pass, after a call that is not timed, as in `sample`."""
    seconds = {}
    for name, function in (("forward", forward), ("backward", backward)):
        function()
        start = clock.mark()
        for _ in range(repeats):
            function()
        seconds[name] = clock.seconds(start, clock.mark())
    return {**seconds, "both": seconds["forward"] + seconds["backward"]}


def bytes_kept(function: Op, x: Tensor) -> int:
    """Return the bytes that autograd keeps for the backward pass, including the input if it is kept."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(x)
    return sum(kept.values())


def available_memory(device: torch.device) -> float:
    """Return the bytes that can still be allocated, or infinity if the system does not report it."""
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
    """Yield a row for each pass. Without `times`, the `note` gives the reason."""
    for name, tensors in TENSORS_MOVED.items():
        row = {"contender": contender.name, "q": contender.q, "pass": name, **measured, "note": note}
        if times:
            elements = measured["elements"] * repeats
            each = Spread.of([1e9 * seconds[name] / elements for seconds in times])
            ratio = Spread.of_ratios([seconds[name] for seconds in times], [seconds[name] for seconds in dropout])
            row |= each.columns("ns_per_element", "ns") | ratio.columns("ratio_to_dropout", "ratio")
            row["gigabytes_per_second"] = tensors * DTYPES[measured["dtype"]].itemsize / each.median
        yield row


def _channels_last(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return images with the values of `x`, and their gradient, both with the channels last in memory."""
    images, slopes = (values.detach().view(-1, *IMAGE).contiguous(memory_format=torch.channels_last) for values in (x, grad))
    return images.requires_grad_(), slopes


def _compiled(q: float) -> Op:
    def calculate(x: Tensor) -> Tensor:
        return expression(x, q, uniform_noise)

    # torch.compile keeps its graphs with the code object. With one object for all q, it would check the guards of the other q in
    # each call, and give up after eight graphs.
    own = types.FunctionType(calculate.__code__.replace(), globals(), closure=calculate.__closure__)
    compiled: Op = torch.compile(own, dynamic=False)
    return compiled


class _Copy(torch.autograd.Function):
    """A copy into new memory forward and backward: the cost of moving the data."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.empty_like(x).copy_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.empty_like(grad).copy_(grad)
