"""The other regularizers: each formula in float64, its gradient, its limits and the law of its noise."""

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparseout import regularizers as R

X = torch.tensor([[0.5, -2.0, 0.0, 1.5], [3.0, 0.25, -1.0, 0.75], [-0.5, 0.0, 2.0, 4.0]], dtype=torch.float64)


def rows(**changes):
    generator = torch.Generator().manual_seed(changes.pop("seed", 0))
    return torch.randn(5, 7, dtype=torch.float64, generator=generator)


PENALTIES = {
    "l1": (R.l1, lambda x: numpy.abs(x).sum(1).mean()),
    "transformed_l1": (lambda x: R.transformed_l1(x, 0.5), lambda x: (1.5 * abs(x) / (0.5 + abs(x))).sum(1).mean()),
    "hoyer_square": (R.hoyer_square, lambda x: (abs(x).sum(1) ** 2 / (x**2).sum(1)).mean()),
    "decov": (R.decov, lambda x: (numpy.cov(x.T, bias=True) ** 2 * (1 - numpy.eye(x.shape[1]))).sum() / 2),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_its_formula_and_its_gradient_is_exact(name):
    penalty, formula = PENALTIES[name]
    assert penalty(X).item() == pytest.approx(formula(X.numpy()), rel=1e-14)
    assert torch.autograd.gradcheck(penalty, (rows().requires_grad_(),))


def test_the_kl_penalty_is_its_formula_and_its_gradient_is_exact():
    x, rho = torch.rand(6, 3, dtype=torch.float64) * 0.8 + 0.1, 0.2
    r = x.mean(0).numpy()
    expected = (rho * numpy.log(rho / r) + (1 - rho) * numpy.log((1 - rho) / (1 - r))).sum()
    assert R.kl_target(x, rho).item() == pytest.approx(expected, rel=1e-13)
    assert R.kl_target(torch.full((4, 3), rho, dtype=torch.float64), rho).item() == pytest.approx(0, abs=1e-15)
    assert torch.autograd.gradcheck(lambda x: R.kl_target(x, rho), (x.requires_grad_(),))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_the_kl_penalty_refuses_units_that_are_not_bounded(wrong):
    with pytest.raises(ValueError, match=r"input must lie in \[0, 1\], got values from"):
        R.kl_target(torch.tensor([[0.5, wrong]]))


def test_the_clustering_penalty_is_its_formula_and_moves_its_centres():
    centres = torch.tensor([[0.0, -1.0, 0.0, 1.0], [2.0, 0.0, 0.5, 2.0]], dtype=torch.float64)
    value, nearest = R.parsimonious(X, centres)
    distances = ((X[:, None] - centres) ** 2).sum(2)
    assert nearest.tolist() == distances.argmin(1).tolist()
    assert value.item() == pytest.approx(distances.min(1).values.sum().item() / 2 / X.numel())
    assert torch.autograd.gradcheck(lambda x: R.parsimonious(x, centres)[0], (X.clone().requires_grad_(),))
    layer = R.Parsimonious(1.0, units=4, clusters=2, decay=0.25)
    layer(X.float())
    start, members = X[[0, 2]].float(), [[0, 1], [2]]
    assert R.parsimonious(X.float(), start)[1].tolist() == [0, 0, 1]
    for centre, old, which in zip(layer.centres, start, members, strict=True):
        torch.testing.assert_close(centre, 0.75 * X[which].float().mean(0) + 0.25 * old)


def test_a_reader_closes_the_escape_by_scale():
    torch.manual_seed(0)
    encoder, reader = nn.Linear(6, 5), nn.Linear(5, 3)
    x = encoder(torch.randn(9, 6)).relu()
    for layer, invariant in ((R.L1(1.0, reader=reader), True), (R.TransformedL1(1.0, reader=reader), True), (R.L1(1.0), False)):
        before = layer.value(x).item()
        with torch.no_grad():
            reader.weight.div_(4)
        after = layer.value(4 * x).item()
        with torch.no_grad():
            reader.weight.mul_(4)
        assert (after == pytest.approx(before, rel=1e-5)) == invariant
    assert R.hoyer_square(4 * x).item() == pytest.approx(R.hoyer_square(x).item())
    norms = reader.weight.norm(dim=0)
    assert R.L1(1.0, reader=reader).value(x).item() == pytest.approx((x * norms).sum(1).mean().item())
    conv = nn.Conv2d(4, 3, 3)
    assert R.L1(1.0, dim=1, reader=conv).value(torch.rand(2, 4, 5, 5)).isfinite()
    assert not [*R.L1(1.0, reader=reader).parameters()]
    with pytest.raises(TypeError, match="reader must be an nn.Linear"):
        R.L1(1.0, reader=nn.ReLU())


@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans())
def test_k_winners_are_the_largest_and_exactly_k(seed, k, ties):
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed))
    x = (x * 2).round() if ties else x
    y = R.k_winners(x, k)
    for before, after in zip(x, y, strict=True):
        kept = after[after != 0]
        assert len(kept) <= k
        assert sorted(kept.tolist()) == sorted(value for value in before.topk(k).values.tolist() if value)
        assert set(after.tolist()) <= {*before.tolist(), 0.0}


def test_k_winners_pass_the_gradient_of_the_winners_alone():
    x = rows().requires_grad_()
    y = R.k_winners(x, 3)
    y.backward(torch.full_like(y, 2.0))
    assert torch.equal(x.grad, 2.0 * (y != 0))
    assert torch.autograd.gradgradcheck(lambda x: R.k_winners(x, 3).square(), (rows().requires_grad_(),))
    assert R.k_winners(x, 7) is x  # k = d is the identity
    assert R.k_winners(x, 1.0) is x
    assert (R.k_winners(x, 0.3) != 0).sum(1).tolist() == [2] * 5
    images = torch.rand(2, 6, 3, 4) + 1
    assert ((R.k_winners(images, 2, dim=1) != 0).sum(1) == 2).all()


def test_boosting_lets_units_win_that_won_rarely():
    torch.manual_seed(0)
    layer, plain = (R.KWinners(2, boost_strength=b, units=8) if b else R.KWinners(2) for b in (4.0, 0.0))
    scale = torch.linspace(1, 1.5, 8)
    won = torch.zeros(2, 8)
    for step in range(300):
        x = torch.rand(16, 8) * scale
        for i, each in enumerate((layer, plain)):
            won[i] += (each(x) > 0).sum(0) * (step >= 100)
    assert won[0].std() < won[1].std() / 3
    assert layer.vectors.item() == 4800
    torch.testing.assert_close(layer.duty_cycle.sum(), torch.tensor(2.0))
    before = layer.duty_cycle.clone()
    layer.eval()(torch.rand(16, 8))
    assert torch.equal(before, layer.duty_cycle)
    with pytest.raises(ValueError, match="units must be given with boost_strength"):
        R.KWinners(2, boost_strength=1.0)


def test_batch_and_lifetime_winners():
    x = rows(seed=3)
    y = R.batch_k_winners(x, 2)
    assert (y != 0).sum() == 10
    assert y[y != 0].min() >= x[y == 0].max()
    z = R.lifetime_winners(x, 0.4)
    assert ((z != 0).sum(0) == 2).all()
    assert torch.equal(R.lifetime_winners(x.t(), 0.4, dim=0), z.t())
    layer = R.BatchKWinners(2)
    first = layer(x)
    assert layer.threshold.item() == pytest.approx(first[first != 0].min().item(), rel=1e-6)
    layer.eval()
    assert torch.equal(layer(x[:1]), torch.where(x[:1] >= layer.threshold, x[:1], 0.0))
    assert torch.equal(R.LifetimeWinners(1).eval()(x), x)


def draws_of(noisy, count, *shape):
    torch.manual_seed(1)
    return torch.stack([noisy().detach() for _ in range(count)])


def check_moments(draws, mean, variance):
    """Mean and variance within four standard errors, for each output."""
    count = len(draws)
    assert ((draws.mean(0) - mean).abs() <= 4 * (variance / count).sqrt() + 1e-12).all()
    spread = ((draws - mean) ** 2).std(0) / math.sqrt(count)
    assert (((draws - mean) ** 2).mean(0) - variance).abs().le(4 * spread + 1e-12).all()


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("draws", ["sample", "batch"])
def test_bridgeout_has_the_mean_and_the_variance_of_its_law(q, draws):
    x, w, p = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[0.7, -0.3, 0.2], [-1.2, 0.1, 0.4]]), 0.3
    seen = draws_of(lambda: R.bridgeout(x, w, None, p, q, draws=draws)[0], 4000)
    check_moments(seen, (x @ w.t())[0], p / (1 - p) * (x**2 @ (w.abs() ** q).t())[0])


def test_bridgeout_draws_for_each_sample_and_at_q_2_drops_weights():
    x, w = torch.ones(6, 4), torch.rand(3, 4) + 1
    torch.manual_seed(0)
    assert len(R.bridgeout(x, w, p=0.5).unique(dim=0)) == 6
    assert len(R.bridgeout(x, w, p=0.5, draws="batch").unique(dim=0)) == 1
    one = R.bridgeout(torch.eye(4), w, p=0.5).t() / w  # each column is a unit's weights: DropConnect's masks
    assert set(one.round(decimals=4).unique().tolist()) <= {0.0, 2.0}
    x, w = (each.double().requires_grad_() for each in (x, w))

    def seeded(x, w):
        return R.bridgeout(x, w, None, 0.4, 1.5, generator=torch.Generator().manual_seed(3))

    assert torch.autograd.gradcheck(seeded, (x, w), eps=1e-7, atol=1e-4)


def test_shakeout_has_the_mean_and_the_variance_of_its_law():
    x, w, p, c = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[0.7, -0.3, 0.0], [-1.2, 0.1, 0.4]]), 0.4, 0.25
    seen = draws_of(lambda: R.shakeout(x, w, None, p, c)[0], 4000)
    check_moments(seen, (x @ w.t())[0], p / (1 - p) * (x**2 @ torch.where(w != 0, w.abs() + c, 0.0).square().t())[0])


def test_shakeout_has_its_published_gradient_and_without_c_is_dropout_on_its_inputs():
    x, w = torch.rand(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    p, c = 0.5, 0.3

    def generator():
        return torch.Generator().manual_seed(5)

    r = R.shakeout(torch.ones(5, 4).double().diag_embed().reshape(-1, 4), torch.eye(4).double(), None, p, 0.0)
    assert set(r.unique().tolist()) <= {0.0, 2.0}
    out = R.shakeout(x, w, None, p, c, generator=generator())
    delta = torch.randn_like(out)
    out.backward(delta)
    import sparseout

    r = sparseout.sparseout(torch.ones_like(x), p, 2.0, generator=generator())
    inner = r[:, None] + c * (r[:, None] - 1) * (1 - w.detach().tanh() ** 2)
    torch.testing.assert_close(w.grad, (delta[:, :, None] * x[:, None] * inner).sum(0))
    torch.testing.assert_close(out, F.linear(x * r, w) + c * F.linear(x * (r - 1), w.sign()))


def test_hard_concrete_gates_open_as_often_as_the_penalty_says():
    torch.manual_seed(0)
    layer = R.HardConcrete(0.5, units=4)
    with torch.no_grad():
        layer.log_alpha.copy_(torch.tensor([-2.0, 0.0, 1.0, 3.0]))
    gates = R.hard_concrete(layer.log_alpha.detach(), samples=20000)
    expected = layer.open_probability().detach()
    error = (expected * (1 - expected) / 20000).sqrt()
    assert ((gates != 0).float().mean(0) - expected).abs().le(4 * error).all()
    assert ((gates >= 0) & (gates <= 1)).all()
    layer(torch.ones(2, 4))
    assert layer.terms[0].item() == pytest.approx(0.5 * expected.sum().item())
    log_alpha = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    for training in (True, False):
        assert torch.autograd.gradcheck(
            lambda a, training=training: R.hard_concrete(a, training, generator=torch.Generator().manual_seed(2)), (log_alpha,)
        )
    layer.eval()
    torch.testing.assert_close(layer(torch.ones(1, 4))[0], R.hard_concrete(layer.log_alpha, False))
    assert len(R.HardConcrete(0.1, 3, per_sample=True)(torch.ones(50, 3)).unique(dim=0)) > 1


def test_standout_draws_with_its_probability_and_has_the_same_mean_in_evaluation():
    a = torch.linspace(-1, 3, 9)
    seen = draws_of(lambda: R.standout(a, 0.7, -0.5), 6000)
    probability = (0.7 * a - 0.5).sigmoid()
    check_moments(seen, R.standout(a, 0.7, -0.5, training=False), probability * (1 - probability) * a.relu() ** 2)
    x = rows().requires_grad_()
    y = R.standout(x)
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0).double())


LAYERS = {
    "L1": lambda d: R.L1(0.1),
    "TransformedL1": lambda d: R.TransformedL1(0.1),
    "HoyerSquare": lambda d: R.HoyerSquare(0.1),
    "DeCov": lambda d: R.DeCov(0.1),
    "KLTarget": lambda d: nn.Sequential(nn.Sigmoid(), R.KLTarget(0.1)),
    "Parsimonious": lambda d: R.Parsimonious(0.1, units=d, clusters=3),
    "KWinners": lambda d: R.KWinners(0.5),
    "KWinners boosted": lambda d: R.KWinners(0.5, boost_strength=1.0, units=d),
    "BatchKWinners": lambda d: R.BatchKWinners(0.5),
    "LifetimeWinners": lambda d: R.LifetimeWinners(0.5),
    "HardConcrete": lambda d: R.HardConcrete(0.1, units=d),
    "Standout": lambda d: R.Standout(),
    "Bridgeout": lambda d: R.Bridgeout(d, 3, q=1.5),
    "Shakeout": lambda d: R.Shakeout(d, 3),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [torch.zeros(4, 6), torch.zeros(0, 6), torch.ones(3, 1), torch.full((2, 6), 3e4)])
@pytest.mark.parametrize("name", LAYERS)
def test_extreme_batches_give_no_nan(name, batch, dtype):
    torch.manual_seed(0)
    layer = LAYERS[name](batch.shape[1])
    layer = layer.to(dtype) if name in ("Bridgeout", "Shakeout", "HardConcrete") else layer
    x = batch.to(dtype, copy=True).requires_grad_()
    for training in (True, False):
        y = layer.train(training)(x)
        assert y.dtype == dtype
        terms = [term for module in layer.modules() if isinstance(module, R.Penalty) for term in module.terms]
        assert not any(term.isnan() for term in terms)
        sum([y.sum(), *terms]).backward()
        assert not y.isnan().any()
        assert not x.grad.isnan().any()
        assert all(not each.grad.isnan().any() for each in layer.parameters() if each.grad is not None)


WRONG = [
    (lambda: R.L1(-1.0), "strength must be a finite number of at least 0, got -1.0"),
    (lambda: R.L1(math.nan), "strength must be"),
    (lambda: R.L1(1.0, dim=1.5), "dim must be an integer, got 1.5"),
    (lambda: R.L1(1.0, dim=3)(torch.ones(2, 2)), "input must have the dimension dim=3"),
    (lambda: R.KLTarget(1.0, rho=1.0), "rho must be a mean activation in"),
    (lambda: R.TransformedL1(1.0, a=0.0), "a must be a positive finite number, got 0.0"),
    (lambda: R.KWinners(0), "k must be at least 1, or a fraction"),
    (lambda: R.KWinners(1.5), "k must be an integer of at least 1 or a fraction"),
    (lambda: R.KWinners(2, k_eval=0.0), "k_eval must be"),
    (lambda: R.LifetimeWinners(1)(torch.ones(3)), "input must have a batch"),
    (lambda: R.Shakeout(2, 2, p=1.0), "p must be a drop probability in"),
    (lambda: R.Shakeout(2, 2, c=-1.0), "c must be"),
    (lambda: R.Bridgeout(2, 2, draws="each"), "draws must be one of 'sample', 'batch', got 'each'"),
    (lambda: R.HardConcrete(0.1, units=0), "units must be an integer of at least 1, got 0"),
    (lambda: R.Standout(beta=math.inf), "beta must be a finite number"),
    (lambda: R.Parsimonious(0.1, units=4, clusters=0), "clusters must be"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_a_wrong_argument_is_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(")):
        make()
