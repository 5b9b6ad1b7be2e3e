"""The GPU kernel equals the reference: the same mask bit for bit, and values within rounding, for any strides.

Where there is no GPU, Triton's interpreter runs the kernel on the CPU. It truncates to bfloat16 where a GPU rounds, and
does not show what the compiler makes of the kernel, which has a file of its own.
"""

import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import DTYPES, RTOL

from sparseout.op import gpu, reference

pytest.importorskip("triton", minversion="3.3", reason="triton 3.3 is not installed")
from sparseout.op.settings import Settings

# The interpreter uses NumPy, which warns of overflows.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SPECIAL_QS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
QS = st.sampled_from(SPECIAL_QS) | st.floats(0, 8)
PS = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0, 1e-12, 1 - 1e-12])
SEEDS = st.integers(-(2**63), 2**63 - 1)
GRADIENTS = st.sampled_from(["detached", "exact"])
THOROUGH = settings.default.max_examples > 20
examples = settings(max_examples=50 if THOROUGH else 5)  # Triton's interpreter takes 10 to 50 ms per example


def values(shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def forward(input, p, q, seed, shared_dims=(), scale=1.0):
    return gpu.forward(input, torch.tensor([seed], device=DEVICE), Settings(p, q, scale, shared_dims=shared_dims))


def backward(grad, input, p, q, seed, gradient="detached", eps=1e-6, shared_dims=(), scale=1.0):
    return gpu.backward(grad, input, torch.tensor([seed], device=DEVICE), Settings(p, q, scale, gradient, eps, shared_dims))


def rounded(exact, dtype):
    """Return a float32 or float64 in a narrower dtype, rounded as the kernel rounds."""
    if dtype == torch.bfloat16 and INTERPRETED:
        return (exact.view(torch.int32) & -(2**16)).view(torch.float32).to(dtype)
    return exact.to(dtype)


@st.composite
def layouts(draw, shape, dtype, seed):
    """Draw a tensor of any strides: dimensions in any order in memory, with gaps, and expanded."""
    order = draw(st.permutations(range(len(shape))))
    gaps = draw(st.lists(st.sampled_from([1, 1, 2]), min_size=len(shape), max_size=len(shape)))
    expanded = draw(st.lists(st.sampled_from([False, False, True]), min_size=len(shape), max_size=len(shape)))
    sizes = [1 if wide else size for size, wide in zip(shape, expanded, strict=True)]
    memory = values([sizes[dim] * gaps[dim] for dim in order], dtype, seed)[tuple(slice(None, None, gaps[dim]) for dim in order)]
    return memory.permute([order.index(dim) for dim in range(len(shape))]).expand(shape)


@st.composite
def problems(draw, dtype):
    """Draw an input, a gradient and shared dimensions."""
    shape = draw(st.lists(st.integers(0, 9), max_size=4) | st.integers(2000, 5000).map(lambda size: [size]))
    shared_dims = tuple(draw(st.sets(st.integers(0, len(shape) - 1)))) if shape else ()
    return draw(layouts(shape, dtype, 1)), draw(layouts(shape, dtype, 2)), shared_dims


def named_layouts():
    x = torch.full((3, 4, 7, 40), 4.0, device=DEVICE)
    return {
        "contiguous": x,
        "transposed": x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
        "channels-last": x.to(memory_format=torch.channels_last),
        "expanded": x[:, :1, :, :1].expand(x.shape),
        "sliced": torch.cat([x, -x], dim=3)[..., :40],
        "strided": torch.stack([x, -x], dim=4)[..., 0],
        "unaligned": torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
    }


@pytest.mark.parametrize("layout", named_layouts())
@examples
@given(
    dtype=st.sampled_from(DTYPES),
    p=PS,
    q=QS,
    seed=SEEDS,
    shared_dims=st.sampled_from([(), (2, 3), (1,), (0, 3), (0, 1, 2, 3)]),
)
def test_the_mask_is_the_references_in_any_layout(layout, dtype, p, q, seed, shared_dims):
    x = named_layouts()[layout].to(dtype)
    kept = reference.keep_mask(x.shape, p, seed, shared_dims).expand(x.shape)
    y = forward(x, p, q, seed, shared_dims)
    assert y.stride() == torch.empty_like(x).stride()
    assert torch.equal((y >= 4).cpu(), kept)
    for grad in (x, x.contiguous()):
        assert torch.equal((backward(grad, x, p, q, seed, shared_dims=shared_dims) >= 4).cpu(), kept)


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(data=st.data(), p=PS, q=QS, seed=SEEDS)
def test_forward_is_the_references(dtype, data, p, q, seed):
    x, _, shared_dims = data.draw(problems(dtype))
    ours = forward(x, p, q, seed, shared_dims)
    assert ours.dtype == dtype
    assert ours.stride() == torch.empty_like(x).stride()
    if reference.is_multiplicative(p, q):
        wide = x if dtype == torch.float64 else x.float()
        assert torch.equal(ours, rounded(reference.forward(wide, seed, Settings(p, q, shared_dims=shared_dims)), dtype))
    else:
        exact = reference.forward(x.double(), seed, Settings(p, q, shared_dims=shared_dims))
        largest = torch.maximum(x.double().abs(), x.double().abs() ** (q / 2) * max(p / (1 - p), 1))
        close(ours, exact, largest)


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(data=st.data(), p=PS, q=QS, seed=SEEDS, gradient=GRADIENTS, eps=st.floats(1e-6, 1))
def test_backward_is_the_references(dtype, data, p, q, seed, gradient, eps):
    x, grad, shared_dims = data.draw(problems(dtype))
    ours = backward(grad, x, p, q, seed, gradient, eps, shared_dims)
    assert ours.dtype == dtype
    assert ours.stride() == torch.empty_like(grad).stride()
    if reference.is_multiplicative(p, q):
        wide = grad if dtype == torch.float64 else grad.float()
        assert torch.equal(
            ours,
            rounded(reference.backward(wide, None, seed, Settings(p, q, 1.0, gradient, eps, shared_dims)), dtype),
        )
        assert torch.equal(ours, backward(grad, None, p, q, seed, gradient, eps, shared_dims))
    else:
        exact = reference.backward(grad.double(), x.double(), seed, Settings(p, q, 1.0, gradient, eps, shared_dims))
        power = (x.double().abs() + eps) ** ((q - 2) / 2) * max(1, q / 2) * max(p / (1 - p), 1)
        close(ours, exact, grad.double().abs() * (1 + power))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@examples
@given(p=PS, q=st.just(2.0) | st.floats(0, 8), seed=SEEDS)
def test_dropout_is_the_references_to_the_bit(dtype, p, q, seed):
    x = values(100, dtype)
    p = p if q == 2 else round(p)
    assert torch.equal(forward(x, p, q, seed), reference.forward(x, seed, Settings(p, q)))


# A running scale is a float32 tensor on the device, and a fixed scale is a number.
PLACES = {
    "host": lambda s: s,
    "device": lambda s: torch.tensor(s, dtype=torch.float32, device=DEVICE),
    "device in float64": lambda s: torch.tensor(s, dtype=torch.float64, device=DEVICE),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@examples
@given(
    data=st.data(),
    p=st.floats(0, 0.99),
    q=st.sampled_from(SPECIAL_QS) | st.floats(0, 4),
    s=st.floats(-6, 6).map(lambda digits: 10**digits),
    gradient=GRADIENTS,
)
def test_any_unit_is_the_references(dtype, place, data, p, q, s, gradient):
    x, grad, shared_dims = data.draw(problems(dtype))
    scale = PLACES[place](s)
    s = float(scale)
    x = (x.double() * s).to(dtype)
    ours, theirs = (
        forward(x, p, q, 3, shared_dims, scale),
        reference.forward(x.double(), 3, Settings(p, q, scale=s, shared_dims=shared_dims)),
    )
    size = x.double().abs() / s
    close(ours / s, theirs / s, torch.maximum(size, size ** (q / 2) * max(p / (1 - p), 1)))
    ours = backward(grad, x, p, q, 3, gradient, 1e-3, shared_dims, scale)
    theirs = reference.backward(grad.double(), x.double(), 3, Settings(p, q, s, gradient, 1e-3, shared_dims))
    power = (size + 1e-3) ** ((q - 2) / 2) * max(1, q / 2) * max(p / (1 - p), 1)
    close(ours, theirs, grad.double().abs() * (1 + power))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(p=PS, q=QS, gradient=GRADIENTS, s=st.sampled_from([5e-324, 1e-45, 1e-38, 1e-20, 1e20, 3e38, 1.7e308]))
def test_no_unit_makes_nan_of_a_finite_number(dtype, place, p, q, gradient, s):
    limits = torch.finfo(dtype)
    x = torch.tensor([0.0, -0.0, limits.tiny, 1e-5, 1.0, -3.0, limits.max, limits.min], device=DEVICE, dtype=dtype).repeat(9)
    scale = PLACES[place](min(s, 3e38) if place == "device" else s)
    assert not forward(x, p, q, 1, (), scale).isnan().any()
    for grad in (torch.zeros_like(x), torch.ones_like(x)):
        assert not backward(grad, x, p, q, 1, gradient, 1e-6, (), scale).isnan().any()


def close(ours, exact, largest):
    """Assert that `ours` errs by a few ulp of the largest term or of the smallest normal number, or that both are infinite."""
    limits, infinite = torch.finfo(ours.dtype), ours.isinf()
    assert ((ours.double() - exact).abs() <= RTOL[ours.dtype] * (largest + limits.smallest_normal))[~infinite].all()
    assert (exact.abs() >= limits.max * (1 - RTOL[ours.dtype]))[infinite].all()
    assert torch.equal(ours.sign()[infinite], exact.sign()[infinite].to(ours.dtype))


@pytest.mark.parametrize("q", [*SPECIAL_QS, 0.3, 1.1, 1.7, 1.9, 2.2, 3.3, 4.4])
@pytest.mark.parametrize(("dtype", "smallest"), [(torch.float32, -45), (torch.float64, -323)])
def test_any_exponent_errs_by_at_most_6_ulp(dtype, smallest, q, monkeypatch):
    monkeypatch.setattr(gpu, "_BLOCK", 2**14)
    x = torch.logspace(smallest, 12, 15_001 if THOROUGH else 2_001, dtype=torch.float64, device=DEVICE).to(dtype)
    x = torch.cat([x, -x])
    limits, ones = torch.finfo(dtype), torch.ones_like(x)
    largest = torch.maximum(x.double().abs(), x.double().abs() ** (q / 2))
    error = forward(x, 0.5, q, 3) - reference.forward(x.double(), 3, Settings(0.5, q))
    assert (error.abs() <= 6 * limits.eps * largest.clamp_min(limits.tiny)).all()
    largest = ((x.double().abs() + 1e-6) ** ((q - 2) / 2)).clamp_min(1)
    error = backward(ones, x, 0.5, q, 3) - reference.backward(ones.double(), x.double(), 3, Settings(0.5, q))
    assert (error.abs() <= 6 * limits.eps * largest).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@examples
@given(scale=st.floats(0.5, 1, exclude_max=True))
def test_every_half_precision_number_is_scaled_as_the_reference_scales_it(dtype, scale):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(DEVICE)
    normal = every.abs() >= torch.finfo(dtype).tiny  # the interpreter treats subnormal bfloat16 numbers as 0
    every = every[every.isfinite() & (normal if INTERPRETED else True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_BLOCK", 2**14)
        ours = forward(every, 1 - scale, 2.0, 9)
    assert torch.equal(ours, rounded(reference.forward(every.float(), 9, Settings(1 - scale, 2.0)), dtype))


def finite(dtype):
    largest = torch.finfo(dtype).max
    return st.lists(st.floats(-largest, largest) | st.sampled_from([0.0, -0.0, largest, 1e-42]), min_size=1, max_size=8)


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(
    data=st.data(),
    p=PS,
    q=st.floats(0, 50) | st.sampled_from([0.0, 5e-324, 1e10, 1e300, 1.7e308]),
    gradient=GRADIENTS,
    eps=st.floats(1e-6, 1) | st.sampled_from([5e-324, 1e-300, 1e-42]),
)
def test_finite_input_never_gives_nan(dtype, data, p, q, gradient, eps):
    x = torch.tensor(data.draw(finite(dtype)), dtype=torch.float64).to(DEVICE, dtype).nan_to_num()
    assert not forward(x, p, q, 1).isnan().any()
    for grad in (torch.zeros_like(x), torch.ones_like(x)):
        assert not backward(grad, x, p, q, 1, gradient, eps).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@examples
@given(
    p=PS,
    q=st.sampled_from([*SPECIAL_QS, 1e10, 1e30]) | st.floats(1e-30, 8),
    gradient=GRADIENTS,
    eps=st.sampled_from([1e-6, 1e-60]),
)
def test_the_ends_of_the_range_are_the_references(dtype, p, q, gradient, eps):
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0]).to(DEVICE, dtype).repeat(20)
    pairs = [(forward(x, p, q, 5), reference.forward(x, 5, Settings(p, q)))]
    for grad in (x, torch.ones_like(x)):
        theirs = reference.backward(grad, x, 5, Settings(p, q, 1.0, gradient, eps))
        pairs.append((backward(grad, x, p, q, 5, gradient, eps), theirs))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=RTOL[dtype], atol=RTOL[dtype], equal_nan=True)


@examples
@given(data=st.data(), q=st.sampled_from([1.7, 2.0]), seed=SEEDS)
def test_offsets_of_64_bits_are_those_of_32(data, q, seed):
    x, grad, shared_dims = data.draw(problems(torch.float32))
    with pytest.MonkeyPatch.context() as patch:
        narrow = forward(x, 0.5, q, seed, shared_dims), backward(grad, x, 0.5, q, seed, shared_dims=shared_dims)
        patch.setattr(gpu, "_NARROW", 0)
        wide = forward(x, 0.5, q, seed, shared_dims), backward(grad, x, 0.5, q, seed, shared_dims=shared_dims)
    assert all(map(torch.equal, narrow, wide))
