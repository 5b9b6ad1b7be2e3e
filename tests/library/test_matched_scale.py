"""`scale="matched"`: the variance of the noise over a layer is Dropout's for every `q`."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_running_scale import batch, seeded
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout
from sparseout.native import library
from sparseout.op import backends
from sparseout.op.matched_scale import MatchedScale
from sparseout.op.moments import NORMS, TWO, moments_of, shape_factor, update, weights_of
from sparseout.op.running_rms import MOMENTUM, no_recent_calls, sample

QS = st.sampled_from(NORMS[:10]) | st.floats(0.5, 4.0)
BAD = st.sampled_from([None, math.nan, math.inf, 0.0])
SHAPES = {
    "normal": torch.randn,
    "rectified": lambda *size: torch.randn(*size).relu(),
    "sparse": lambda *size: torch.randn(*size) * (torch.rand(*size) < 0.1),
    "heavy-tailed": lambda *size: torch.randn(*size) / torch.randn(*size).square().add(torch.randn(*size).square()).add(1.0),
    "log-normal": lambda *size: torch.randn(*size).mul(1.5).exp(),
    "saturated": lambda *size: torch.tanh(3 * torch.randn(*size)),
    "two scales": lambda *size: torch.randn(*size) * torch.where(torch.rand(*size) < 0.1, 1.0, 0.01),
    "swish": lambda *size: nn.functional.silu(3 * torch.randn(*size)),
    "constant": torch.ones,
}


def noise_power(layer, x):
    """Return the sum of the squared noise. At `p = 0.5`, `n` is 1 or -1, so this is its variance whatever the mask is."""
    assert layer.p == 0.5
    return (layer(x) - x).double().square().sum().item()


@pytest.mark.parametrize("shape", SHAPES)
@given(q=QS, size=st.sampled_from([1e-3, 1.0, 50.0]), seed=st.integers(0, 1000))
def test_the_variance_of_the_first_batch_is_that_of_dropout(shape, q, size, seed):
    torch.manual_seed(seed)
    x = size * SHAPES[shape](40, 100)
    layer = Sparseout(0.5, q, scale="matched")
    assert noise_power(layer, x) == pytest.approx(x.double().square().sum().item(), rel=0.02)


@pytest.mark.parametrize("shape", ["normal", "rectified", "sparse", "saturated", "swish"])
@pytest.mark.parametrize("kind", [Sparseout, LockedSparseout])
def test_the_variance_over_small_batches_is_that_of_dropout_whenever_q_changes(shape, kind):
    torch.manual_seed(0)
    layer, pool = kind(0.5, scale="matched"), SHAPES[shape](200, 6, 3, 20)
    layer(pool[-1])
    for q in (0.5, 1.0, 1.7, 2.0, 3.0, 4.0):
        layer.q, ours, dropout = q, 0.0, 0.0
        for x in pool:
            ours, dropout = ours + noise_power(layer, x), dropout + x.double().square().sum().item()
        assert ours == pytest.approx(dropout, rel=0.03)


@given(q=st.floats(0, 8), seed=st.integers(0, 1000))
def test_the_running_moments_are_running_means_of_powers(q, seed):
    torch.manual_seed(seed)
    layer, means = Sparseout(0.5, 1.0, scale="matched"), None
    for size in (3.0, 0.2, 1.0):
        x = size * torch.randn(500)
        powers = x.double().abs()[:, None].pow(torch.tensor(NORMS, dtype=torch.float64)).mean(0)
        means = powers if means is None else (1 - MOMENTUM) * means + MOMENTUM * powers
        layer(x)
    s = means[TWO].sqrt()
    torch.testing.assert_close(layer.running_rms.double(), s, rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.running_moments.double(), means / s ** torch.tensor(NORMS), rtol=1e-5, atol=0)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_at_q_2_it_is_dropout_bit_for_bit(p):
    for x in (batch(0.3), batch(4.0, shape=(40, 500))):
        outcomes = []
        for op in (Sparseout(p, 2.0, scale="matched"), Sparseout(p, 2.0, scale="rms"), Sparseout(p, 2.0)):
            leaf = x.clone().requires_grad_()
            y = seeded(op, leaf)
            outcomes.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
        for ours, other in zip(outcomes[0] * 2, outcomes[1] + outcomes[2], strict=True):
            assert torch.equal(ours, other)


@pytest.mark.parametrize("q", [0.0, 0.7, 1.5, 3.0, 9.0, 1e6])
def test_p_0_is_the_identity_and_p_1_gives_zeros_and_nothing_is_nan(q):
    for x in (batch(0.3), torch.zeros(9), torch.tensor([1e-30, 1.0, 1e30])):
        assert torch.equal(Sparseout(0.0, q, scale="matched")(x), x)
        assert torch.equal(Sparseout(1.0, q, scale="matched")(x), torch.zeros_like(x))
        assert not Sparseout(0.5, q, scale="matched")(x).isnan().any()


def test_at_q_0_units_that_are_zero_count_for_nothing():
    x = torch.zeros(100)
    x[:20] = torch.linspace(1, 3, 20)
    layer = Sparseout(0.5, 0.0, scale="matched")
    y = layer(x)
    assert torch.equal(y[20:], torch.zeros(80))
    size = x[:20].square().mean().sqrt()  # the root mean square of the units that are not zero
    torch.testing.assert_close((y - x)[:20].abs(), size.expand(20))


@given(q=st.floats(0, 12), data=st.lists(st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=1))
def test_the_scale_lies_among_the_magnitudes_and_rises_with_q(q, data):
    x = torch.tensor(data)
    if not x.any():
        return
    scales = []
    for norm in (q, q + 1):
        moments = moments_of(x)
        size = moments[TWO].clone()
        moments[TWO] = 1.0
        scales.append((size * shape_factor(moments, norm)).item())
    nonzero = x[x != 0].abs()
    assert 0.97 * nonzero.min() <= scales[0] <= 1.03 * scales[1]
    assert scales[1] <= 1.03 * math.sqrt(len(x)) * nonzero.max()


def test_the_weights_are_continuous_where_they_are_used():
    moments = moments_of(torch.randn(4000, generator=torch.Generator().manual_seed(0)))
    moments[TWO] = 1.0
    for q in torch.linspace(0, 8, 161).tolist():
        near = [shape_factor(moments, max(q + step, 0.0)).item() for step in (-1e-9, 0.0, 1e-9)]
        assert near[0] == pytest.approx(near[1], rel=0.01) == pytest.approx(near[2], rel=0.01)
        assert all(math.isfinite(weight) for weight in weights_of(q))


@pytest.mark.skipif(library.LIBRARY is None, reason=library.MISSING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("known", ["nothing", "the root mean square", "all"])
@given(q=st.floats(0, 9), count=st.integers(0, 3000), step=st.integers(1, 3), learns=st.booleans(), bad=BAD)
def test_compiled_code_computes_what_the_reference_does(dtype, known, q, count, step, learns, bad):
    torch.manual_seed(count)
    x = torch.randn(3 * count + 1).to(dtype)[::step][:count]
    if bad is not None:
        x = torch.full_like(x, bad)
    value = torch.tensor(0.0 if known == "nothing" else 0.7)
    moments = torch.linspace(0.4, 9.0, len(NORMS)) if known == "all" else torch.zeros(len(NORMS))
    compiled = MatchedScale(value.clone(), moments.clone(), *no_recent_calls(value.device))
    with torch.set_grad_enabled(learns), pytest.MonkeyPatch.context() as patch:
        ours = compiled._number(x, q)
        patch.setattr(backends, "ASKED", "reference")
        scale, *after = update(value, moments, moments_of(sample(x)), MOMENTUM, q)
    assert ours == pytest.approx(scale.item(), rel=2e-5)
    for found, expected in zip((compiled.value, compiled.moments), after if learns else (value, moments), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-30)


def test_a_state_dict_with_the_root_mean_square_alone_loads_and_says_so():
    old, layer = nn.Sequential(Sparseout(0.5, 1.5, scale="rms")), nn.Sequential(Sparseout(0.5, 1.5, scale="matched"))
    old(batch(3.0))
    layer(batch(9.0))
    with pytest.warns(UserWarning, match="0.running_moments is not in the state_dict, .*: the next batch sets it"):
        layer.load_state_dict(old.state_dict())
    assert torch.equal(layer[0].running_rms, old[0].running_rms)
    assert not layer[0].running_moments.any()
    x = batch(0.5)
    s = old[0].running_rms.double()
    s = s * (x.double().abs() / x.double().square().mean().sqrt()).pow(1.5).mean() ** -2
    torch.testing.assert_close(seeded(layer, x), seeded(sparseout.sparseout, x, 0.5, 1.5, scale=s.item()))
    assert layer[0].running_moments.all()
    with pytest.raises(RuntimeError, match="Missing key.*running_rms.*running_moments"):
        layer.load_state_dict({})


def test_a_change_of_the_scale_keeps_the_root_mean_square():
    layer = Sparseout(0.5, 1.5, scale="rms")
    layer(batch(3.0))
    before = layer.running_rms.clone()
    layer.scale = "matched"
    assert torch.equal(layer.running_rms, before)
    assert not layer.running_moments.any()
    layer.scale = "rms"
    assert list(layer.state_dict()) == ["running_rms"]


@pytest.mark.filterwarnings("default")
def test_new_values_of_p_and_q_recompile_nothing():
    torch._dynamo.reset()
    eager, layer, graphs = *(Sparseout(0.5, 1.5, scale="matched") for _ in range(2)), []
    compiled = torch.compile(layer, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    for p, q in ((0.5, 1.5), (0.3, 1.0), (0.3, 2.0), (0.7, 3.3)):
        layer.p = eager.p = p
        layer.q = eager.q = q
        torch.testing.assert_close(seeded(compiled, batch(0.5)), seeded(eager, batch(0.5)))
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("q", [1.3, 2.0])
def test_transforms_use_what_was_learned(q):
    layer, x = Sparseout(0.5, q, scale="matched"), batch(0.3)
    layer(batch(2.0))
    before = [buffer.clone() for buffer in layer.buffers()]
    with torch.no_grad():
        expected = seeded(layer, x)
    (grad,) = torch.autograd.grad(seeded(layer, x.requires_grad_()).sum(), x)
    layer.load_state_dict(dict(zip(("running_rms", "running_moments"), before, strict=True)))
    torch.testing.assert_close(seeded(torch.func.grad(lambda x: layer(x).sum()), x.detach()), grad)
    torch.testing.assert_close(seeded(torch.func.jvp, layer, (x.detach(),), (torch.ones_like(x),))[0], expected)
    for buffer, old in zip(layer.buffers(), before, strict=True):
        assert torch.equal(buffer, old)


BATCH, VALUE, MOMENTS, SEED = torch.ones(12).double(), torch.ones(()), torch.ones(12), torch.zeros(1, dtype=torch.int64)
Q = torch.tensor(1.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3), VALUE, MOMENTS, SEED), ValueError, r"batch must be of shape \(12,\), got \(3,\)"),
        ((BATCH, VALUE, torch.ones(3), SEED), ValueError, r"moments must be of shape \(12,\), got \(3,\)"),
        ((BATCH, torch.ones(2), MOMENTS, SEED), ValueError, r"value must be a 0-d tensor, got one of shape \(2,\)"),
        ((BATCH, VALUE, MOMENTS, SEED.int()), TypeError, r"seed must be int64 of shape \(1,\), got int32"),
    ],
)
def test_the_operator_refuses_what_it_cannot_use(arguments, error, message):
    batch, value, moments, seed = arguments
    with pytest.raises(error, match=message):
        torch.ops.sparseout.matched_scale(batch, value, moments, *no_recent_calls(value.device), Q, seed, True)


def test_the_operators_pass_opcheck():
    torch.library.opcheck(torch.ops.sparseout.moments, (torch.randn(30),), test_utils=("test_schema", "test_faketensor"))
    arguments = (BATCH, VALUE.clone(), MOMENTS.clone(), *no_recent_calls(VALUE.device), Q, SEED, True)
    torch.library.opcheck(torch.ops.sparseout.matched_scale, arguments, test_utils=("test_schema", "test_faketensor"))
