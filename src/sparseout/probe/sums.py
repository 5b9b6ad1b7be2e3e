"""Sums over vectors, from which every measure follows. The sums of two batches add up to the sums of both."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
import operator

import torch
from torch import Tensor

from sparseout.native.library import LIBRARY
from sparseout.op.backends import is_plain

# Bins of |x| from 2^-64 to 2^64, eight of equal width per octave: the bin of a float64 follows from its exponent and the
# first three bits of its mantissa. The first bin holds all smaller values; the last holds all larger ones, Inf and NaN.
OCTAVES = 64
BINS_PER_OCTAVE = 8
BINS = 2 * OCTAVES * BINS_PER_OCTAVE + 2
_DROPPED_MANTISSA_BITS = 49
_BINS_BELOW = (1023 - OCTAVES) * BINS_PER_OCTAVE - 1

# The sums that every probe takes: zeros, squares, Hoyer sparseness, all-zero vectors, and vectors with NaN or Inf.
BASIC = ("zeros", "squares", "hoyer", "zero_vectors", "nonfinite")

# Elements per block: few enough to stay in the cache while they are read several times.
BLOCK = 2**18

_Basic = ctypes.c_double * len(BASIC)
_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


@dataclasses.dataclass(frozen=True)
class ExtraSums:
    """Which sums are taken besides the basic ones.

    Attributes:
        mean: the sum of the signed values.
        treves_rolls: the Treves-Rolls sparseness of each vector.
        fourth: the kurtosis and participation ratio of each vector, from fourth powers.
        gini: the Gini index of each vector, from ranks.
        units: sums for each unit over the vectors.
        thresholds: magnitudes below which elements are counted.
        histogram: whether magnitudes are counted by bin.
    """

    mean: bool = False
    treves_rolls: bool = False
    fourth: bool = False
    gini: bool = False
    units: bool = False
    thresholds: tuple[float, ...] = ()
    histogram: bool = False


class Sums:
    """The sums over a layer's activations, of a size that does not grow with the number of vectors.

    Attributes:
        vectors, elements: the number of vectors and of elements.
        singles: the number of vectors with a single unit, which have no Hoyer sparseness.
        units: the number of units per vector; None once vectors differ, which ends the sums by unit.
        compiled: the part of the basic sums taken by compiled code, as plain numbers, which are cheaper to add than tensors.
        totals: float64 sums over all vectors or elements, by name; `"basic"` holds the basic sums taken by torch.
        by_unit: float64 sums over the vectors, each of shape `(units,)`, by name.
    """

    def __init__(self) -> None:
        self.vectors = self.elements = self.singles = 0
        self.units: int | None = None
        self.compiled = [0.0] * len(BASIC)
        self.totals: dict[str, Tensor] = {}
        self.by_unit: dict[str, Tensor] = {}

    @property
    def basic(self) -> dict[str, float]:
        """The basic sums, by name."""
        others = self.totals["basic"].tolist() if "basic" in self.totals else [0.0] * len(BASIC)
        return {name: a + b for name, a, b in zip(BASIC, self.compiled, others, strict=True)}

    def add(self, other: Sums) -> None:
        """Add the sums over other vectors."""
        if not other.vectors:
            return
        self.units = other.units if not self.vectors or self.units == other.units else None
        for name, by in other.totals.items():
            _increase(self.totals, name, by)
        for name, by in other.by_unit.items() if self.units else ():
            _increase(self.by_unit, name, by)
        if not self.units:
            self.by_unit.clear()
        self.compiled = list(map(operator.add, self.compiled, other.compiled))
        self.vectors += other.vectors
        self.elements += other.elements
        self.singles += other.singles

    def cpu(self) -> Sums:
        """Return a copy on the CPU."""
        moved = Sums()
        moved.add(self)
        moved.totals = {name: total.cpu() for name, total in self.totals.items()}
        moved.by_unit = {name: sums.cpu() for name, sums in self.by_unit.items()}
        return moved


class Summer:
    """Takes sums in float64, in reusable workspaces. On the CPU, compiled code takes the basic sums in a single pass."""

    def __init__(self, extra: ExtraSums) -> None:
        self._extra = extra
        self._compiled = extra == ExtraSums() and LIBRARY is not None
        self._buffers: dict[torch.device, Tensor] = {}

    def sums(self, vectors: Tensor) -> Sums:
        """Return the sums over `vectors`, of shape `(..., units)`."""
        if vectors.device.type == "mps":  # MPS has no float64
            vectors = vectors.cpu()
        sums = Sums()
        if not vectors.numel():
            return sums
        sums.units = vectors.shape[-1]
        sums.elements = vectors.numel()
        sums.vectors = sums.elements // sums.units
        if self._compiled and vectors.is_cpu and is_plain(vectors):
            contiguous = vectors.dtype in _KINDS and vectors.is_contiguous()
            for block in [vectors] if contiguous else _blocks(vectors):
                _add_compiled(block, sums)
            sums.singles = sums.vectors if sums.units == 1 else 0
            return sums
        with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode could not be written outside it
            rows = [self._add_block(block, sums) for block in _blocks(vectors)]
            self._add_vectors({name: torch.cat([row[name] for row in rows]) for name in rows[0]}, sums)
        return sums

    def _add_block(self, block: Tensor, sums: Sums) -> dict[str, Tensor]:
        """Add the sums over elements and over vectors of a block `(vectors, units)`, and return the sums of each vector."""
        extra = self._extra
        magnitudes, other = self._workspaces(block)
        magnitudes.copy_(block)
        rows = {"norm": torch.linalg.vector_norm(magnitudes, dim=-1)}
        if extra.mean:
            _increase(sums.totals, "sum", magnitudes.sum())
        rows["absolute"] = magnitudes.abs_().sum(-1)
        if extra.units or extra.fourth:
            torch.mul(magnitudes, magnitudes, out=other)
        if extra.units:
            _increase(sums.by_unit, "absolute", magnitudes.sum(0))
            _increase(sums.by_unit, "squares", other.sum(0))
        if extra.fourth:
            rows["fourth"] = torch.linalg.vector_norm(other, dim=-1).square_()
        if extra.thresholds:
            below = [torch.lt(magnitudes, threshold, out=other).sum() for threshold in extra.thresholds]
            _increase(sums.totals, "below", torch.stack(below))
        if extra.histogram:
            _increase(sums.totals, "histogram", _histogram(magnitudes))
        zeros = torch.eq(magnitudes, 0, out=other).sum(0)
        _increase(sums.totals, "zeros", zeros.sum())
        if extra.units:
            _increase(sums.by_unit, "zeros", zeros)
        if extra.gini:
            rows["ranked"] = _ranked(magnitudes)
        return rows

    def _add_vectors(self, rows: dict[str, Tensor], sums: Sums) -> None:
        """Add the sums over the vectors of measures that each vector has."""
        extra, totals, units, count = self._extra, sums.totals, sums.elements // sums.vectors, sums.vectors
        absolute, norm, root = rows["absolute"], rows["norm"], math.sqrt(units)
        empty = absolute == 0
        ratio = (absolute / norm).clamp_(1, root).masked_fill_(empty, 1)
        sums.singles = count if units == 1 else 0
        hoyer = (count * root - ratio.sum()) / (root - 1) if units > 1 else torch.zeros_like(ratio[0])
        totals["basic"] = torch.stack(
            [totals.pop("zeros"), norm.dot(norm), hoyer, empty.sum().double(), (~norm.isfinite()).sum().double()]
        )
        if extra.treves_rolls:
            totals["treves_rolls"] = (1 - ratio.square() / units).masked_fill_(empty, 1).sum()
        if extra.fourth:
            kurtosis = (rows["fourth"] / norm.square().square_()).masked_fill_(empty, 1)
            totals["kurtosis"] = kurtosis.sum()
            totals["participation_ratio"] = kurtosis.reciprocal_().sum()
        if extra.gini:
            totals["gini"] = (1 - 2 * rows["ranked"] / absolute).clamp_(0, 1).masked_fill_(empty, 1).sum()

    def _workspaces(self, block: Tensor) -> Tensor:
        """Return two float64 workspaces with the shape of `block` and arbitrary content."""
        device, size = block.device, block.numel()
        if device not in self._buffers or self._buffers[device].shape[1] < size:
            self._buffers[device] = torch.empty(2, max(BLOCK, size), dtype=torch.float64, device=device)
        return self._buffers[device][:, :size].view(2, *block.shape)


def _add_compiled(block: Tensor, sums: Sums) -> None:
    """Add the basic sums of a block `(..., units)` with compiled code."""
    block = (block if block.dtype in _KINDS else block.float()).contiguous()
    units = block.shape[-1]
    part = _Basic(*sums.compiled)
    assert LIBRARY is not None
    LIBRARY.sparseout_basic_sums(
        _KINDS[block.dtype], block.data_ptr(), block.numel() // units, units, torch.get_num_threads(), part
    )
    sums.compiled = list(part)


def _blocks(vectors: Tensor) -> list[Tensor]:
    """Split `vectors` into matrices `(vectors, units)` of about `BLOCK` elements each, copied only if necessary."""
    units = vectors.shape[-1]
    if vectors.is_contiguous() or vectors.dim() == 1:
        vectors = vectors.reshape(-1, units)
    return [block.reshape(-1, units) for block in vectors.split(max(1, BLOCK // vectors[0].numel()))]


def _increase(sums: dict[str, Tensor], name: str, by: Tensor) -> None:
    sums[name] = sums[name] + by.to(sums[name].device) if name in sums else by


def _histogram(magnitudes: Tensor) -> Tensor:
    bins = (magnitudes.view(torch.int64) >> _DROPPED_MANTISSA_BITS).sub_(_BINS_BELOW).clamp_(0, BINS - 1)
    return torch.bincount(bins.view(-1), minlength=BINS).double()


def _ranked(magnitudes: Tensor) -> Tensor:
    """Return `sum_k c_(k) (d - k + 1/2) / d` for each vector, with magnitudes `c_(k)` in ascending order. May sort in place."""
    if magnitudes.is_cpu and is_plain(magnitudes) and _has_numpy():
        magnitudes.numpy().sort(-1)  # several times faster than torch, which also sorts indices
    else:
        magnitudes = magnitudes.sort(-1).values
    units = magnitudes.shape[-1]
    weights = torch.arange(units, 0, -1, dtype=magnitudes.dtype, device=magnitudes.device) - 0.5
    return magnitudes @ (weights / units)


@functools.cache
def _has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True
