"""Sums over the vectors seen, from which every measure follows: the sums of two parts add up to those of the whole."""

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

# Bins of |x|, eight an octave from 2^-64 to 2^64 and equally wide within it: a float64's exponent and the first three bits of its
# mantissa. Below them lies the first bin; above them, with Inf and NaN, the last.
OCTAVES = 64
BINS_AN_OCTAVE = 8
BINS = 2 * OCTAVES * BINS_AN_OCTAVE + 2
_MANTISSA_BITS_LEFT = 49
_BINS_BELOW = (1023 - OCTAVES) * BINS_AN_OCTAVE - 1

# Zeros, squares, Hoyer sparseness, all-zero vectors, vectors with a NaN or Inf: what every probe sums.
BASIC = ("zeros", "squares", "hoyer", "zero_vectors", "nonfinite")

# Elements worked on at a time: few enough to stay in the cache while they are read several times.
BLOCK = 2**18

_Basic = ctypes.c_double * len(BASIC)
_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


@dataclasses.dataclass(frozen=True)
class Parts:
    """Which sums are taken beside those of `zeros`, `hoyer` and `rms`.

    Attributes:
        mean: of the signed values.
        fourth: fourth powers, and treves_rolls: first and second, and gini: ranks; of each vector.
        units: of each unit over the vectors.
        thresholds: magnitudes below which elements are counted.
        histogram: count magnitudes by bins.
    """

    mean: bool = False
    treves_rolls: bool = False
    fourth: bool = False
    gini: bool = False
    units: bool = False
    thresholds: tuple[float, ...] = ()
    histogram: bool = False


class Sums:
    """What is kept of a layer's activations: numbers, as many for ten vectors as for a million.

    Attributes:
        vectors, elements: how many were seen.
        singles: vectors of one unit, which have no Hoyer sparseness.
        units: of each vector; None once vectors differ, which ends the sums by unit.
        compiled: those of `BASIC` that the compiled code took: plain numbers, which cost less to add than tensors.
        totals: other float64 sums over all vectors or elements, by name; `"basic"` has those of `BASIC`.
        by_unit: float64 sums over the vectors, of shape `(units,)`, by name.
    """

    def __init__(self) -> None:
        self.vectors = self.elements = self.singles = 0
        self.units: int | None = None
        self.compiled = [0.0] * len(BASIC)
        self.totals: dict[str, Tensor] = {}
        self.by_unit: dict[str, Tensor] = {}

    @property
    def basic(self) -> dict[str, float]:
        """The sums of `BASIC`."""
        others = self.totals["basic"].tolist() if "basic" in self.totals else [0.0] * len(BASIC)
        return {name: a + b for name, a, b in zip(BASIC, self.compiled, others, strict=True)}

    def add(self, other: Sums) -> None:
        """Take the vectors of `other` into account."""
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
        """The same sums on the CPU."""
        moved = Sums()
        moved.add(self)
        moved.totals = {name: total.cpu() for name, total in self.totals.items()}
        moved.by_unit = {name: sums.cpu() for name, sums in self.by_unit.items()}
        return moved


class Summer:
    """Takes sums in float64, in workspaces that are allocated once. On the CPU compiled code takes the basic ones in one pass."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._compiled = parts == Parts() and LIBRARY is not None
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def sums(self, vectors: Tensor) -> Sums:
        """The sums of `vectors`, of shape `(..., units)`."""
        if vectors.device.type == "mps":  # which has no float64
            vectors = vectors.cpu()
        sums = Sums()
        if not vectors.numel():
            return sums
        sums.units = vectors.shape[-1]
        sums.elements = vectors.numel()
        sums.vectors = sums.elements // sums.units
        if self._compiled and vectors.is_cpu and is_plain(vectors):
            at_once = vectors.dtype in _KINDS and vectors.is_contiguous()
            for block in [vectors] if at_once else _blocks(vectors):
                _add_compiled(block, sums)
            sums.singles = sums.vectors if sums.units == 1 else 0
            return sums
        with torch.inference_mode(False), torch.no_grad():  # the workspaces are written in every mode
            rows = [self._add_block(block, sums) for block in _blocks(vectors)]
            self._add_vectors({name: torch.cat([row[name] for row in rows]) for name in rows[0]}, sums)
        return sums

    def _add_block(self, block: Tensor, sums: Sums) -> dict[str, Tensor]:
        """Add the sums over the elements and the units of a block `(vectors, units)`, and return those of each vector."""
        parts = self._parts
        magnitudes, other = self._workspaces(block, torch.float64)
        magnitudes.copy_(block)
        rows = {"norm": torch.linalg.vector_norm(magnitudes, dim=-1)}
        if parts.mean:
            _increase(sums.totals, "sum", magnitudes.sum())
        rows["absolute"] = magnitudes.abs_().sum(-1)
        if parts.units or parts.fourth:
            torch.mul(magnitudes, magnitudes, out=other)
        if parts.units:
            _increase(sums.by_unit, "absolute", magnitudes.sum(0))
            _increase(sums.by_unit, "squares", other.sum(0))
        if parts.fourth:
            rows["fourth"] = torch.linalg.vector_norm(other, dim=-1).square_()
        if parts.thresholds:
            below = [torch.lt(magnitudes, threshold, out=other).sum() for threshold in parts.thresholds]
            _increase(sums.totals, "below", torch.stack(below))
        if parts.histogram:
            _increase(sums.totals, "histogram", _histogram(magnitudes))
        zeros = torch.eq(magnitudes, 0, out=other).sum(0)
        _increase(sums.totals, "zeros", zeros.sum())
        if parts.units:
            _increase(sums.by_unit, "zeros", zeros)
        if parts.gini:
            rows["ranked"] = _ranked(magnitudes)
        return rows

    def _add_vectors(self, rows: dict[str, Tensor], sums: Sums) -> None:
        """Add the sums of what each vector has one of."""
        parts, totals, units, count = self._parts, sums.totals, sums.elements // sums.vectors, sums.vectors
        absolute, norm, root = rows["absolute"], rows["norm"], math.sqrt(units)
        empty = absolute == 0
        ratio = (absolute / norm).clamp_(1, root).masked_fill_(empty, 1)
        sums.singles = count if units == 1 else 0
        hoyer = (count * root - ratio.sum()) / (root - 1) if units > 1 else torch.zeros_like(ratio[0])
        totals["basic"] = torch.stack(
            [totals.pop("zeros"), norm.dot(norm), hoyer, empty.sum().double(), (~norm.isfinite()).sum().double()]
        )
        if parts.treves_rolls:
            totals["treves_rolls"] = (1 - ratio.square() / units).masked_fill_(empty, 1).sum()
        if parts.fourth:
            kurtosis = (rows["fourth"] / norm.square().square_()).masked_fill_(empty, 1)
            totals["kurtosis"] = kurtosis.sum()
            totals["participation_ratio"] = kurtosis.reciprocal_().sum()
        if parts.gini:
            totals["gini"] = (1 - 2 * rows["ranked"] / absolute).clamp_(0, 1).masked_fill_(empty, 1).sum()

    def _workspaces(self, block: Tensor, dtype: torch.dtype) -> Tensor:
        """Two tensors like `block` in `dtype`, which hold whatever was last left there."""
        key = (block.device, dtype)
        if key not in self._buffers or self._buffers[key].shape[1] < block.numel():
            self._buffers[key] = torch.empty(2, max(BLOCK, block.numel()), dtype=dtype, device=block.device)
        return self._buffers[key][:, : block.numel()].view(2, *block.shape)


def _add_compiled(block: Tensor, sums: Sums) -> None:
    """Add the basic sums of a block `(..., units)` by the compiled code."""
    block = (block if block.dtype in _KINDS else block.float()).contiguous()
    units = block.shape[-1]
    part = _Basic(*sums.compiled)
    assert LIBRARY is not None
    LIBRARY.sparseout_basic_sums(
        _KINDS[block.dtype], block.data_ptr(), block.numel() // units, units, torch.get_num_threads(), part
    )
    sums.compiled = list(part)


def _blocks(vectors: Tensor) -> list[Tensor]:
    """`vectors` as matrices `(vectors, units)` of about `BLOCK` elements each, copied one at a time where they must be."""
    units = vectors.shape[-1]
    if vectors.is_contiguous() or vectors.dim() == 1:
        vectors = vectors.reshape(-1, units)
    return [block.reshape(-1, units) for block in vectors.split(max(1, BLOCK // vectors[0].numel()))]


def _increase(sums: dict[str, Tensor], name: str, by: Tensor) -> None:
    sums[name] = sums[name] + by.to(sums[name].device) if name in sums else by


def _histogram(magnitudes: Tensor) -> Tensor:
    bins = (magnitudes.view(torch.int64) >> _MANTISSA_BITS_LEFT).sub_(_BINS_BELOW).clamp_(0, BINS - 1)
    return torch.bincount(bins.view(-1), minlength=BINS).double()


def _ranked(magnitudes: Tensor) -> Tensor:
    """`sum_k c_(k) (d - k + 1/2) / d` of each vector over its ascending magnitudes, which may be left in that order."""
    if magnitudes.is_cpu and is_plain(magnitudes) and _has_numpy():
        magnitudes.numpy().sort(-1)  # several times faster than torch's, which moves indices too
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
