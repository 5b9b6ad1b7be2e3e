"""Properties that PyTorch's tests require of dropout, for Sparseout over many dtypes, shapes and memory layouts."""

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from small import seeded
from tolerances import DTYPES, RTOL
from torch.autograd import forward_ad

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.op import reference

PS = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])
QS = st.sampled_from([0.5, 1.0, 1.5, 2.0, 2.5, 3.0]) | st.floats(0, 4)
GRADIENTS = st.sampled_from(["detached", "exact"])
LAYERS = (Sparseout, Sparseout1d, Sparseout2d, Sparseout3d, LockedSparseout)


def normal(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed)).to(dtype)


@st.composite
def inputs(draw, dtypes=DTYPES, least=0):
    """Draw a tensor of any layout: a permuted slice with offset and steps, possibly 0-d or empty."""
    shape = draw(st.lists(st.integers(least, 6) | st.just(17), min_size=0, max_size=4))
    assume(math.prod(shape) < 5000)
    steps = [draw(st.sampled_from([1, 1, 2])) for _ in shape]
    base = normal(*(size * step + 1 for size, step in zip(shape, steps, strict=True)), dtype=draw(st.sampled_from(dtypes)))
    index = tuple(slice(1, 1 + size * step, step) for size, step in zip(shape, steps, strict=True))
    return base[index].permute(draw(st.permutations(range(len(shape)))))


@st.composite
def calls(draw, **settings):
    """Draw an input and the other arguments of a call."""
    x = draw(inputs(**settings))
    shared = draw(st.lists(st.sampled_from(range(-x.dim(), x.dim())), max_size=2)) if x.dim() else []
    shared = tuple({dim % x.dim(): dim for dim in shared}.values())
    return x, {"p": draw(PS), "q": draw(QS), "shared_dims": shared, "gradient": draw(GRADIENTS)}


def call(x, arguments, seed=0, **more):
    return sparseout.sparseout(x, **arguments, generator=seeded(seed), **more)


# Layouts


@given(given=calls())
def test_any_layout_gives_what_a_contiguous_tensor_gives(given):
    x, arguments = given
    weight = normal(*x.shape, dtype=x.dtype, seed=2)
    results = []
    for laid_out in (x.detach(), x.detach().contiguous()):
        laid_out = laid_out.requires_grad_()
        y = call(laid_out, arguments)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        results.append((y, *torch.autograd.grad(y, laid_out, weight)))
    for ours, contiguous in zip(*results, strict=True):
        torch.testing.assert_close(ours, contiguous, rtol=RTOL[x.dtype], atol=RTOL[x.dtype], equal_nan=True)


@pytest.mark.parametrize("q", [1.5, 2.0])
@pytest.mark.parametrize("dims", [3, 4, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_every_permutation_and_offset_keeps_its_strides(q, dims, shared):
    for order in itertools.permutations(range(dims)):
        base = normal(1 + math.prod(range(2, 2 + dims)), dtype=torch.float32)
        x = base[1:].view(*range(2, 2 + dims)).permute(order)
        shared_dims = (order.index(1), order.index(2)) if shared else ()
        y = sparseout.sparseout(x, 0.5, q, shared_dims=shared_dims, generator=seeded())
        expected = sparseout.sparseout(x.contiguous(), 0.5, q, shared_dims=shared_dims, generator=seeded())
        assert y.stride() == x.stride() == F.dropout(x).stride()
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q", [1.5, 2.0])
def test_channels_last_stays_channels_last_forward_and_backward(shape, dtype, q):
    memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = normal(*shape, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    y = sparseout.sparseout(x, 0.5, q, generator=seeded())
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.is_contiguous(memory_format=memory_format)
    assert grad.is_contiguous(memory_format=memory_format)


@given(given=calls())
def test_in_place_equals_out_of_place_and_touches_nothing_else(given):
    x, arguments = given
    memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    expected = memory.clone()
    expected.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(call(x, arguments))
    assert call(x, arguments, inplace=True) is x
    assert torch.equal(memory.nan_to_num(), expected.nan_to_num())


# Gradients


@given(given=calls(least=1))
def test_the_backward_mask_is_the_forward_mask(given):
    x, arguments = given
    ones = torch.ones_like(x, requires_grad=True)
    y = call(ones, {**arguments, "gradient": "detached"})
    (grad,) = torch.autograd.grad(y, ones, torch.ones_like(y))
    assert torch.equal(y < 0.5, grad < 0.5)
    if reference.is_multiplicative(arguments["p"], arguments["q"]):
        assert torch.equal(y, grad)


@given(given=calls(dtypes=(torch.float32, torch.float64)))
def test_forward_mode_is_backward_mode(given):
    x, arguments = given
    x = x.detach().requires_grad_()
    tangent = normal(*x.shape, dtype=x.dtype, seed=3)
    (expected,) = torch.autograd.grad(call(x, arguments), x, tangent)
    x = x.detach()
    value, product = torch.func.jvp(lambda x: call(x, arguments), (x,), (tangent,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(call(forward_ad.make_dual(x, tangent), arguments))
    assert dual.tangent is not None
    for ours in (product, dual.tangent):
        torch.testing.assert_close(ours, expected, rtol=RTOL[x.dtype], atol=RTOL[x.dtype])
    for ours in (value, dual.primal):
        torch.testing.assert_close(ours, call(x, arguments), rtol=RTOL[x.dtype], atol=RTOL[x.dtype])


@pytest.mark.filterwarnings("ignore:Please use `torch.vmap` instead:FutureWarning")  # from gradcheck in older versions
@given(q=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]), data=st.data())
def test_exact_gradients_of_shared_draws_and_strides_are_the_derivative(q, data):
    x = data.draw(inputs(dtypes=(torch.float64,), least=1))
    assume(x.numel() <= 24)
    shared = data.draw(st.sampled_from([(), *((dim,) for dim in range(x.dim()))]))
    x = (x + x.sign()).detach().requires_grad_()

    def op(x):
        return sparseout.sparseout(x, 0.4, q, gradient="exact", eps=1e-15, shared_dims=shared, generator=seeded())

    assert torch.autograd.gradcheck(op, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(op, x)


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_the_mean_of_output_and_gradient(gradient, dtype, q, p):
    count, at = 2**16, 0.75
    x = torch.full((count,), at, dtype=dtype, requires_grad=True)
    y = sparseout.sparseout(x, p, q, gradient=gradient, eps=1e-4, generator=seeded(4))
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    deviation = math.sqrt(p / (1 - p) / count)
    factor = (q / 2 if gradient == "exact" else 1) * (at + 1e-4) ** ((q - 2) / 2)
    for result, mean, spread in ((y, at, at ** (q / 2)), (grad, 1.0, factor)):
        rounding = RTOL[dtype] * max(mean, spread / (1 - p))
        assert abs(result.double().mean().item() - mean) < 5 * spread * deviation + rounding


# The mask


def correlation(a, b):
    """Return the correlation of two masks in units of its standard deviation."""
    count, first, second, both = a.numel(), a.sum().item(), b.sum().item(), (a & b).sum().item()
    return (both * count - first * second) / math.sqrt(first * (count - first) * second * (count - second)) * math.sqrt(count)


def masks(shape, p, calls=1, seed=0, **settings):
    generator = seeded(seed)
    return [sparseout.sparseout(torch.ones(shape), p, generator=generator, **settings) != 0 for _ in range(calls)]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_at_any_lag_are_uncorrelated(p):
    (mask,) = masks((2**16,), p)
    lags = [*range(1, 70), 127, 128, 255, 256, 1024, 4096]
    scores = [correlation(mask[:-lag], mask[lag:]) for lag in lags]
    assert max(map(abs, scores)) < 4.5
    assert sum(score**2 for score in scores) < 2 * len(lags)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shared_dims", [(), (2, 3)])
def test_neighbours_in_every_dimension_are_uncorrelated(p, shared_dims):
    (mask,) = masks((24, 16, 10, 10), p, shared_dims=shared_dims)
    for dim in range(4):
        if dim not in shared_dims:
            size = mask.shape[dim] - 1
            first, second = mask.narrow(dim, 0, size), mask.narrow(dim, 1, size)
            if shared_dims:
                first, second = first[..., 0, 0], second[..., 0, 0]
            assert abs(correlation(first, second)) < 4.5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_calls_are_uncorrelated(p):
    drawn = masks((5000,), p, calls=24)
    scores = [correlation(a, b) for a, b in itertools.combinations(drawn, 2)]
    assert max(map(abs, scores)) < 4.5
    shifted = [correlation(a[1:], b[:-1]) for a, b in itertools.pairwise(drawn)]
    assert max(map(abs, shifted)) < 4.5


def test_neighbouring_seeds_are_uncorrelated():
    drawn = [masks((5000,), 0.5, seed=seed)[0] for seed in range(24)]
    assert max(abs(correlation(a, b)) for a, b in itertools.combinations(drawn, 2)) < 4.5


# Whole channels


@pytest.mark.parametrize(
    ("layer", "shape", "shared"),
    [
        (Sparseout1d, (16, 32, 5), (2,)),
        (Sparseout2d, (16, 32, 5, 4), (2, 3)),
        (Sparseout3d, (16, 32, 5, 4, 3), (2, 3, 4)),
        (LockedSparseout, (5, 16, 32), (0,)),
    ],
)
@given(p=st.floats(0.05, 0.95), q=QS)
def test_whole_channels_share_one_fate(layer, shape, shared, p, q):
    x = normal(*shape)
    y = layer(p, q, generator=seeded())(x)
    noise = (y - x) / (x.sign() * x.abs() ** (q / 2))
    kept = noise.amin(shared) > 0
    expected = torch.where(kept, p / (1 - p), -1.0).double()
    torch.testing.assert_close(noise.amin(shared), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(noise.amax(shared), expected, rtol=1e-6, atol=1e-6)
    if q == 2:
        assert torch.equal((y == 0).all(shared), (y == 0).any(shared))
        assert torch.equal((y == 0).any(shared), ~kept)
    assert abs(kept.double().mean().item() - (1 - p)) < 6 * math.sqrt(p * (1 - p) / kept.numel())


# Errors

DTYPES_OF_TORCH = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
OTHER_DTYPES = sorted((dtype for dtype in DTYPES_OF_TORCH - set(DTYPES) if not re.match(r"torch\.(q|bits)", str(dtype))), key=str)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_every_other_dtype_is_refused_with_what_to_do(layer, training):
    for dtype in OTHER_DTYPES:
        x = torch.empty((1,) * (3 if layer in (Sparseout1d, LockedSparseout) else 4), dtype=dtype, device="meta")
        with pytest.raises(TypeError, match=rf"input must be .*, got {str(dtype)[6:]}: convert it first, .*input\.float\(\)"):
            layer().train(training)(x)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("training", [True, False])
def test_every_other_layout_is_refused_with_what_to_do(training):
    x = torch.eye(4)
    others = [x.to_sparse(), x.to_sparse_csr(), x.to_sparse_csc(), x.to_sparse_bsr((2, 2)), x.to_sparse_bsc((2, 2))]
    others += [torch.nested.nested_tensor([x, x[:2]]), torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged)]
    for other in others:
        with pytest.raises(TypeError, match="input must be a dense tensor, got a .* one: apply sparseout to its values"):
            Sparseout().train(training)(other)
