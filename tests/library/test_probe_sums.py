"""Sums by batch or by rank give the same measures as all vectors at once."""

import itertools

import pytest
import torch
from forked import in_both
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import DTYPES

from sparseout import metrics
from sparseout.probe import sums as sums_module
from sparseout.probe.measures import check_settings, extra_sums, measures_of
from sparseout.probe.sums import Summer, Sums
from sparseout.records.layer_record import MEASURE_TITLES

ALL = check_settings("all", None, None, 1, "together")
BASIC = check_settings("basic", None, None, 1, "together")


KINDS = {
    "signed": lambda x: x,
    "relu": lambda x: x.relu(),
    "gelu": lambda x: torch.nn.functional.gelu(x),
    "flat": lambda x: 1 + x / 1000,
    "offset": lambda x: 50 + x,
    "constant": lambda x: torch.full_like(x, -0.3),
    "sparse": lambda x: x * (x > 1.5),
    "silent vectors": lambda x: x.relu() * (torch.arange(len(x))[:, None] % 2),
    "a silent unit": lambda x: x * (torch.arange(x.shape[1]) > 0),
    "tiny": lambda x: x * 1e-25,
    "huge": lambda x: x * 1e25,
    "silent": lambda x: torch.zeros_like(x),
}


def activations(kind, vectors, units, seed=0):
    return KINDS[kind](torch.randn(vectors, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def at_once(x, names=tuple(MEASURE_TITLES)):
    """The measures of all vectors `(vectors, units)` by the formulas, in float64."""
    x = x.double()
    formulas = {
        "zeros": lambda: (x == 0).double().mean(),
        "hoyer": lambda: metrics.hoyer(x).mean(),
        "rms": lambda: x.square().mean().sqrt(),
        "gini": lambda: metrics.gini(x).mean(),
        "treves_rolls": lambda: metrics.treves_rolls(x).mean(),
        "kurtosis": lambda: metrics.kurtosis(x).mean(),
        "participation_ratio": lambda: metrics.participation_ratio(x).mean(),
        "lifetime": lambda: metrics.lifetime_sparseness(x).mean(),
        "dead": lambda: metrics.dead_units(x).double().mean(),
        "always_on": lambda: (x != 0).all(0).double().mean(),
        "mean": lambda: x.mean(),
        "std": lambda: x.std(correction=0),
    }
    return {name: formulas[name]().item() for name in names}


def assert_close(found, expected):
    """To 1e-6 relative; a standard deviation far below the mean is a difference of squares, good to 1e-7 of the RMS."""
    floors = {"rms": 0, "mean": 1e-12 * expected["rms"], "std": 1e-7 * expected["rms"]}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=floors.get(name, 1e-12)), name


def streamed(x, chosen, split):
    summer, sums = Summer(extra_sums(chosen)), Sums()
    for batch in x.split(split):
        sums.add(summer.sums(batch))
    return measures_of(sums, chosen)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(vectors=st.integers(1, 40), units=st.integers(2, 40), split=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_batch_split_changes_nothing(kind, vectors, units, split, seed):
    x = activations(kind, vectors, units, seed).float()
    found = streamed(x, ALL, split)
    assert_close(found, at_once(x))
    magnitudes = x.double().abs()
    assert found["near_zero"] == {f"{t:g}": (magnitudes < t).double().mean().item() for t in (1e-3, 1e-2, 1e-1)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chosen", [ALL, BASIC], ids=["all", "basic"])
@pytest.mark.parametrize("kind", ["signed", "relu", "gelu", "flat", "silent vectors"])
def test_large_batches_in_every_dtype(kind, chosen, dtype):
    x = activations(kind, 600, 384).to(dtype)
    assert x.numel() >= 2**15
    found = streamed(x, chosen, 250)
    assert_close(found, at_once(x, chosen.measures))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", [3, 400])
def test_the_basic_sums_by_compiled_code_and_without(kind, compiled, dtype, vectors, monkeypatch):
    if not compiled:
        monkeypatch.setattr(sums_module, "LIBRARY", None)
    x = activations(kind, vectors, 384).to(dtype)
    if x.isfinite().all():
        assert_close(streamed(x, BASIC, 250), at_once(x, BASIC.measures))


@pytest.mark.skipif(sums_module.LIBRARY is None, reason="there is no compiled code")
def test_basic_measures_are_taken_by_the_compiled_code(monkeypatch):
    monkeypatch.setattr(Summer, "_add_block", None)
    streamed(activations("relu", 400, 384), BASIC, 250)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads):
    x = activations("gelu", 401, 385)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_close(streamed(x, BASIC, 300), at_once(x, BASIC.measures))
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sums_module.LIBRARY is None, reason="there is no compiled code")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_threads():
    x = torch.ones(2**10, 2**8)
    assert in_both(lambda: Summer(extra_sums(BASIC)).sums(x).basic["squares"]) == (2**18, 2**18)


@given(parts=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_sums_of_ranks_are_those_of_the_whole(parts):
    x = activations("relu", sum(parts), 7)
    ranks = [Sums() for _ in parts]
    summer = Summer(extra_sums(ALL))
    for rank, part in zip(ranks, x.split(parts), strict=True):
        for batch in part.split(2):
            rank.add(summer.sums(batch))
    total = Sums()
    for rank in ranks:
        total.add(rank)
    assert (total.vectors, total.elements) == (sum(parts), 7 * sum(parts))
    if sum(parts):
        found = measures_of(total, ALL)
        assert_close(found, at_once(x))


@pytest.mark.parametrize("first", [True, False])
def test_sums_of_compiled_code_and_of_torch_add_up(first, monkeypatch):
    """As for a model that moves to a device without compiled code."""
    x, sums = activations("gelu", 20, 7).float(), Sums()
    summers = [Summer(extra_sums(BASIC))]
    with monkeypatch.context() as patched:
        patched.setattr(sums_module, "LIBRARY", None)
        summers.append(Summer(extra_sums(BASIC)))
    for summer, part in zip(summers if first else summers[::-1], x.split(11), strict=True):
        sums.add(summer.sums(part))
    assert_close(measures_of(sums, BASIC), at_once(x, BASIC.measures))


def test_adding_leaves_the_part_alone():
    summer = Summer(extra_sums(ALL))
    part = summer.sums(torch.ones(3, 4))
    total = Sums()
    total.add(part)
    total.add(part)
    assert (part.vectors, part.basic["squares"], total.basic["squares"]) == (3, 12, 24)
    assert torch.equal(part.by_unit["absolute"], torch.full((4,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(5, 6, 7), (7,), (2, 3, 4, 5)])
def test_leading_dimensions_are_vectors(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = streamed(x, ALL, len(x))
    assert_close(found, at_once(x.reshape(-1, shape[-1])))


@pytest.mark.parametrize("layout", ["transposed", "strided", "channels last"])
def test_memory_layout_changes_nothing(layout):
    x = torch.randn(6, 8, 9, 10, generator=torch.Generator().manual_seed(0)).relu()
    last = {
        "transposed": x.movedim(1, -1),
        "strided": torch.empty(12, 9, 10, 16)[::2, :, :, ::2].copy_(x.movedim(1, -1)),
        "channels last": x.to(memory_format=torch.channels_last).movedim(1, -1),
    }[layout]
    found = streamed(last, ALL, 4)
    assert_close(found, at_once(x.movedim(1, -1).reshape(-1, 8)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("chosen", [ALL, BASIC], ids=["all", "basic"])
def test_integers_count_as_numbers(dtype, chosen):
    x = (torch.arange(300 * 200).reshape(300, 200) % 7 // 3).to(dtype)
    assert streamed(x, chosen, 300)["zeros"] == at_once(x)["zeros"]


def test_vectors_of_one_unit_have_no_hoyer_sparseness():
    one, summer = Summer(extra_sums(ALL)).sums(torch.ones(3, 1)), Summer(extra_sums(ALL))
    assert one.singles == 3
    assert measures_of(one, ALL)["hoyer"] is None
    assert measures_of(one, ALL)["zeros"] == 0
    one.add(summer.sums(torch.eye(4)))
    assert measures_of(one, ALL)["hoyer"] == 1


def test_vectors_of_several_lengths_have_no_measures_of_units():
    sums, summer = Sums(), Summer(extra_sums(ALL))
    parts = [torch.eye(3), torch.ones(2, 5), torch.eye(3)]
    for part in parts:
        sums.add(summer.sums(part))
    found = measures_of(sums, ALL)
    assert sums.units is None
    assert found["lifetime"] is None
    assert found["dead"] is None
    assert found["hoyer"] == pytest.approx(6 / 8)
    assert found["rms"] == pytest.approx((16 / 28) ** 0.5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("vectors", [4, 400])
@pytest.mark.parametrize("chosen", [ALL, BASIC], ids=["all", "basic"])
def test_nonfinite_vectors_are_counted_and_hide_no_zeros(value, vectors, chosen):
    x = activations("relu", vectors, 384).float()
    x[1, 2], x[3, 4], x[3, 5] = value, value, value
    sums = Summer(extra_sums(chosen)).sums(x)
    assert sums.basic["nonfinite"] == 2
    found = measures_of(sums, chosen)
    assert found["zeros"] == (x == 0).double().mean()
    assert found["hoyer"] is None
    assert found["rms"] is None


def test_negative_values_are_not_near_zero_and_zeros_are_zeros():
    found = streamed(torch.tensor([[-5.0, -1e-9, 0.0, 3.0]]), ALL, 1)
    assert found["zeros"] == 0.25
    assert found["near_zero"] == {"0.001": 0.5, "0.01": 0.5, "0.1": 0.5}
    assert found["near_zero_rms"]["0.1"] == 0.5


def test_sparsity_is_along_the_units_and_not_along_the_batch():
    x = torch.tensor([[0.0, 1.0, 1.0, 1.0]]).repeat(50, 1)
    found = streamed(x, ALL, 7)
    assert found["hoyer"] == pytest.approx(metrics.hoyer(x[0]).item())
    assert (found["dead"], found["always_on"]) == (0.25, 0.75)
    assert found["lifetime"] == 0.25  # a dead unit scores 1, one that never varies 0


@given(exponent=st.floats(-30, 30), seed=st.integers(0, 99))
def test_the_curve_relative_to_the_rms_lies_between_the_exact_ones_at_the_bins_edges(exponent, seed):
    x = activations("gelu", 50, 20, seed) * 2**exponent
    found = streamed(x, ALL, 7)
    rms = x.square().mean().sqrt()
    edges = torch.tensor(found["histogram"].edges, dtype=torch.float64)
    for t, value in found["near_zero_rms"].items():
        at = float(t) * rms
        low, high = edges[edges <= at], edges[edges > at]
        below = (x.abs() < low[-1]).double().mean() if len(low) else (x == 0).double().mean()
        above = (x.abs() < high[0]).double().mean() if len(high) else 1
        assert below <= value <= above


@given(values=st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=50))
def test_the_histogram_counts_every_magnitude_once(values):
    x = torch.tensor([values], dtype=torch.float64)
    histogram = streamed(x, ALL, 1)["histogram"]
    edges, magnitudes = histogram.edges, x.abs()
    expected = [((magnitudes >= low) & (magnitudes < high)).sum() for low, high in itertools.pairwise(edges)]
    assert list(histogram.counts) == expected
    assert histogram.below == (magnitudes < 2.0**-64).sum()
    assert sum(histogram.counts) + histogram.below + histogram.above == len(values)
    assert histogram.above == (magnitudes >= 2.0**64).sum()


def test_memory_does_not_grow():
    def kept(batches):
        summer, sums = Summer(extra_sums(ALL)), Sums()
        for i in range(batches):
            sums.add(summer.sums(activations("relu", 8, 16, i)))
        tensors = [*sums.totals.values(), *sums.by_unit.values(), *summer._buffers.values()]
        return sum(tensor.numel() for tensor in tensors)

    assert kept(10) == kept(1000)


@pytest.mark.parametrize("chosen", [ALL, BASIC], ids=["all", "basic"])
def test_no_pointer_is_read_from_a_tensor_that_is_not_plain(chosen, monkeypatch):
    x = activations("signed", 4, 6)
    expected = measures_of(Summer(extra_sums(chosen)).sums(x), check_settings(chosen.measures, None, False, 1, "together"))
    monkeypatch.setattr(sums_module, "is_plain", lambda tensor: False)
    monkeypatch.setattr(sums_module, "_add_compiled", None)
    monkeypatch.setattr(sums_module, "_has_numpy", None)
    assert_close(measures_of(Summer(extra_sums(chosen)).sums(x), chosen), expected)
