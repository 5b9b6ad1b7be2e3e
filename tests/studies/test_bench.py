"""The benchmark of the op: timing in turns, and the contenders. No test asserts a time."""

import functools
import itertools
import math
import os
import shutil
import types

import pytest
import torch
import torch.nn.functional as F
from clock import Time
from hypothesis import given
from hypothesis import strategies as st

import sparseout
from sparseout.bench import op
from sparseout.bench.timing import Spread, alternate
from sparseout.op import backends, reference
from sparseout.op.settings import Settings

CPU = torch.device("cpu")
needs_a_cpp_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


def turns(time, seconds, **limits):
    """The contenders a, b and c, each a second long: the order in which they were called, and their samples."""
    called = []

    def contender(name):
        def take():
            called.append(name)
            time.now += 1
            return time.now

        return take

    return called, alternate({name: contender(name) for name in "abc"}, seconds, now=time, **limits)


def test_contenders_take_turns_in_orders_that_change():
    called, samples = turns(Time(), 60.0)
    rounds = [called[i : i + 3] for i in range(0, len(called), 3)]
    assert len(rounds) == 20
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) == 6
    for position in range(20):
        assert sorted(samples[name][position] for name in "abc") == [3 * position + turn for turn in (1, 2, 3)]


def test_rounds_are_at_least_and_at_most_as_many_as_asked_for():
    assert len(turns(Time(), 0.0)[0]) == 3 * 3
    assert len(turns(Time(), 0.0, at_least=5)[0]) == 3 * 5
    assert len(turns(Time(), math.inf, at_most=7)[0]) == 3 * 7


@given(st.lists(st.floats(1, 100), min_size=2, max_size=30), st.floats(0.1, 10))
def test_a_ratio_within_rounds_is_untouched_by_drift(drift, ratio):
    spread = Spread.of_ratios([ratio * slow for slow in drift], drift)
    assert (spread.low, spread.median, spread.high) == pytest.approx((ratio, ratio, ratio))


def test_the_spread_is_the_median_and_the_quartiles():
    assert Spread.of([9.0, 1.0, 5.0, 3.0, 100.0]) == Spread(5.0, 3.0, 9.0)
    assert Spread.of([1.0, 3.0]) == Spread(2.0, 1.5, 2.5)


def test_each_pass_is_timed_alone():
    time = Time()

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            time.now += 5
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            time.now += 7
            return grad

    recorded = []

    def function(x):
        recorded.append(torch.is_grad_enabled())
        return Slow.apply(x)

    x = torch.zeros(3, requires_grad=True)
    assert op.sample(function, x, torch.ones(3), 4, time) == {"forward": 20, "backward": 28, "both": 48}
    assert recorded == [True] + [False] * 4 + [True] * 4


def test_rows_from_made_up_times(monkeypatch):
    def times(scale):
        return [{"forward": scale * slow, "backward": 2 * scale * slow, "both": 3 * scale * slow} for slow in (1e-3, 2e-3, 4e-3)]

    made_up = {op.Contender("sparseout", 2.0): times(0.25)}
    monkeypatch.setattr(
        op, "alternate", lambda samples, _: {contender: made_up.get(contender, times(1)) for contender in samples}
    )
    monkeypatch.setattr(op, "_compiled", lambda q: F.relu)
    rows = {(row["contender"], row["q"], row["pass"]): row for row in op.measure("bfloat16", 2**20, [2.0], CPU, 1.0)}
    assert set(rows) == {(c.name, c.q, each) for c in op.contenders(torch.bfloat16, 2**20, [2.0]) for each in op.TENSORS_MOVED}
    ours = rows["sparseout", 2.0, "both"]
    assert ours["ns_per_element"] == pytest.approx(1.5e6 / 2**20)
    assert (ours["ns_iqr_low"], ours["ns_iqr_high"]) == pytest.approx((1.125e6 / 2**20, 2.25e6 / 2**20))
    assert [ours[name] for name in ("ratio_to_dropout", "ratio_iqr_low", "ratio_iqr_high")] == [0.25, 0.25, 0.25]
    assert ours["gigabytes_per_second"] == pytest.approx(4 * 2 * 2**20 / 1.5e-3 / 1e9)
    assert rows["sparseout", 2.0, "forward"]["gigabytes_per_second"] == pytest.approx(2 * 2 * 2**20 / 0.5e-3 / 1e9)
    assert ours["rounds"] == 3


def test_small_sizes_are_repeated_within_a_sample(monkeypatch):
    seen = []
    monkeypatch.setattr(op, "sample", lambda function, x, grad, repeats, clock: seen.append(repeats) or dict.fromkeys("fb", 1.0))
    monkeypatch.setattr(op, "TENSORS_MOVED", {"f": 2})
    monkeypatch.setattr(op, "contenders", lambda *_: [op.DROPOUT])
    (row,) = op.measure("float32", 2**12, [2.0], CPU, 0.0)
    assert seen == [1, 32, 32, 32]
    assert row["ns_per_element"] == pytest.approx(1e9 / 2**17)


@given(q=st.floats(0, 6), seed=st.integers(0, 2**63 - 1))
def test_the_expression_is_the_reference_for_a_given_mask(q, seed):
    x = torch.linspace(-3, 3, 1000, dtype=torch.float64).requires_grad_()

    def draw(x, p):
        return reference.keep_mask(x.shape, p, seed).double() / (1 - p) - 1

    y = op.expression(x, q, draw)
    torch.testing.assert_close(y, reference.forward(x, seed, Settings(op.P, q)), rtol=1e-3, atol=1e-5)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(x))
    torch.testing.assert_close(slope, reference.backward(torch.ones_like(x), x, seed, Settings(op.P, q, eps=op.EPS)))


@pytest.mark.parametrize("draw", [op.bernoulli_noise, op.uniform_noise])
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_plain_noise_has_the_mean_and_variance(draw, p):
    torch.manual_seed(0)
    noise = draw(torch.empty(200_000, dtype=torch.float64), p)
    assert len(noise.unique()) == 2
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.var() == pytest.approx(p / (1 - p), rel=0.02)


@pytest.mark.parametrize("name", ["sparseout", "authors", "expression", pytest.param("compiled", marks=needs_a_cpp_compiler)])
@pytest.mark.parametrize("q", [1.7, 2.0])
def test_every_contender_adds_or_takes_away_the_same_noise(name, q):
    x = torch.linspace(0.5, 3, 4096).requires_grad_()
    y = op.op(op.Contender(name, q))(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(x))
    for result, base, factor in ((y, x, x ** (q / 2)), (slope, torch.ones_like(x), x ** ((q - 2) / 2))):
        signs = ((result - base) / factor).detach()
        torch.testing.assert_close(signs.abs(), torch.ones_like(signs), rtol=1e-4, atol=0)
        assert signs.mean() == pytest.approx(0, abs=0.1)
    if q == 2:
        dropped = op.op(op.DROPOUT)(x)
        assert set(((dropped == 0) | (dropped == 2 * x)).tolist()) == {True}


def test_the_yardsticks():
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    for name, expected, slope in (("relu", [0.0, 2.0], [0.0, 3.0]), ("copy_", [-1.0, 2.0], [3.0, 3.0])):
        y = op.op(op.Contender(name))(x)
        assert y.tolist() == expected
        assert y.data_ptr() != x.data_ptr()
        assert torch.autograd.grad(y, x, torch.tensor([3.0, 3.0]))[0].tolist() == slope


def test_the_special_inputs_and_layers_of_sparseout(monkeypatch):
    seen = {}

    def sample(function, x, grad, repeats, clock):
        seen[function] = x, grad
        return dict.fromkeys(op.TENSORS_MOVED, 1.0)

    monkeypatch.setattr(op, "sample", sample)
    monkeypatch.setattr(op, "contenders", lambda *_: [op.DROPOUT, op.Contender(op.RMS, 1.5), op.Contender(op.CHANNELS_LAST, 1.5)])
    op.measure("float32", 4096, [1.5], CPU, 0.0)
    (flat, _), (of_rms, _), (images, grad) = seen.values()
    assert flat is of_rms
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()
    assert grad.stride() == images.stride()
    assert torch.equal(images.reshape(-1), flat)
    _, layer, _ = seen
    assert (layer.q, layer.scale) == (1.5, "rms")


@pytest.mark.parametrize("q", [1.5, 2.0])
def test_the_kernel_alone_computes_what_the_op_does(q):
    x, grad = torch.randn(1000, requires_grad=True), torch.randn(1000)
    torch.manual_seed(0)
    forward, backward = op.kernel_passes(q, x, grad)
    torch.manual_seed(0)
    y = sparseout.sparseout(x, op.P, q)
    with torch.no_grad():
        assert torch.equal(forward(), y)
        assert torch.equal(backward(), torch.autograd.grad(y, x, grad)[0])
    assert not forward().requires_grad


def test_the_kernel_alone_is_timed_without_the_first_call_of_each_pass():
    ticks = itertools.count()
    clock = types.SimpleNamespace(mark=lambda: next(ticks), seconds=lambda start, end: end - start)
    found = op.kernel_sample(lambda: next(ticks), lambda: [next(ticks), next(ticks)], 3, clock)
    assert found == {"forward": 4, "backward": 7, "both": 11}


def test_an_input_without_a_kernel_is_noted(monkeypatch):
    monkeypatch.setattr(backends, "ASKED", "reference")
    monkeypatch.setattr(op, "contenders", lambda *_: [op.DROPOUT, op.Contender(op.KERNEL, 1.5)])
    rows = {row["contender"]: row for row in op.measure("float32", 64, [1.5], CPU, 0.0)}
    assert rows[op.KERNEL]["note"] == "skipped: no kernel reads this input"


def test_bytes_kept_for_backward():
    x = torch.randn(1000, dtype=torch.float32, requires_grad=True)

    def kept(name, q=None):
        return op.bytes_kept(op.op(op.Contender(name, q)), x)

    assert kept("F.dropout") == 4000  # its mask, which it keeps in the input's dtype on a CPU
    assert kept("copy_") == 0
    assert kept("relu") == 4000
    assert kept("authors", 1.7) == 4000
    assert op.bytes_kept(lambda x: x * x.view(10, 100).view(-1), x) == 4000  # one memory, kept twice
    assert kept("sparseout", 2.0) <= 16
    assert 4000 <= kept("sparseout", 1.7) <= 4016


def test_the_default_grid_is_thinned_and_others_are_whole():
    def qs(name, dtype, elements, asked=op.QS):
        return tuple(each.q for each in op.contenders(dtype, elements, asked) if each.name == name)

    assert qs("sparseout", torch.float32, 2**26) == op.QS
    assert qs("sparseout", torch.float16, 2**12) == (1.7, 2.0)
    assert qs("compiled", torch.float32, 2**20) == op.QS
    assert qs("compiled", torch.float32, 2**24) == (1.7,)
    assert qs("authors", torch.float64, 2**12) == (1.7,)
    for name in (op.RMS, op.CHANNELS_LAST, op.KERNEL):
        assert qs(name, torch.float32, 2**12) == (1.5, 2.0)
        assert qs(name, torch.float16, 2**12) == ()
    assert qs(op.CHANNELS_LAST, torch.float32, 1000, asked=(2.0,)) == ()
    for name in ("sparseout", op.RMS, op.CHANNELS_LAST, op.KERNEL, "authors", "expression", "compiled"):
        assert qs(name, torch.float64, 2**26, asked=(0.5, 3.0, 0.5)) == (0.5, 3.0)
    assert qs("F.dropout", torch.float32, 2**12) == (None,)


def test_what_does_not_fit_is_skipped_and_noted(monkeypatch):
    monkeypatch.setattr(op, "available_memory", lambda device: 1e9)
    rows = op.measure("float64", 2**26, [1.7], CPU, 1.0)
    assert {row["note"] for row in rows} == {"skipped: needs about 5.4 GB of memory, 1.0 GB are available"}
    assert not any("rounds" in row for row in rows)


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="the system does not say")
def test_available_memory():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert total / 100 < op.available_memory(CPU) <= total


def test_without_a_compiler_the_compiled_expression_is_skipped_and_noted():
    import torch._inductor.config as inductor

    q = 1.23456  # of no other test: a graph in the cache needs no compiler
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        rows = op.measure("float32", 4096, [q], CPU, 0.0)
    notes = {row["contender"]: row["note"] for row in rows}
    assert notes.pop("compiled").startswith("skipped: torch.compile failed: InvalidCxxCompiler: No working C++ compiler found")
    assert set(notes.values()) == {""}


def test_the_compiled_expressions_of_all_q_have_graphs_of_their_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    x = torch.ones(8, requires_grad=True)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):  # with autograd and without
        for q in op.QS:
            compiled = op.op(op.Contender("compiled", q))
            for wanted in (True, False, True):
                with torch.set_grad_enabled(wanted):
                    assert compiled(x).shape == (8,)
