"""Memory layouts: values and masks do not depend on the strides of the input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import DTYPES, RTOL

import sparseout
from sparseout.native import library
from sparseout.op import cpu, reference
from sparseout.op.settings import Settings

kernel_alone = pytest.mark.skipif(library.LIBRARY is None, reason=library.MISSING)


@st.composite
def laid_out(draw, dtype):
    """Draw a permuted, sliced, offset or expanded tensor of any shape, and some of its dimensions."""
    shape = draw(st.lists(st.integers(1, 7) | st.sampled_from([33, 64, 130]), max_size=4).filter(lambda s: math.prod(s) < 30_000))
    steps = [draw(st.integers(1, 2)) for _ in shape]
    order = draw(st.permutations(range(len(shape))))
    stored = [shape[dim] * steps[dim] for dim in order]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = torch.randn([draw(st.integers(1, 2)), *stored], generator=generator, dtype=torch.float64).to(dtype)[-1]
    x = x.permute([order.index(dim) for dim in range(len(shape))])
    for dim, step in enumerate(steps):
        x = x.narrow(dim, 0, 1).expand(x.shape) if draw(st.integers(0, 5)) == 0 else x
        x = x[(slice(None),) * dim + (slice(None, None, step),)]
    return x, tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape)))))) if shape else ())


@kernel_alone
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used", range(len(library.AVAILABLE)))
@given(data=st.data(), q=st.sampled_from([1.0, 1.7, 2.0, 3.0]), gradient=st.sampled_from(["detached", "exact"]))
def test_the_kernel_is_the_reference_in_every_layout(used, dtype, data, q, gradient):
    x, dims = data.draw(laid_out(dtype))
    weight = torch.randn(x.shape, dtype=torch.float64).to(dtype)
    order = data.draw(st.permutations(range(x.dim())))
    weight = weight.permute(order).contiguous().permute([order.index(dim) for dim in range(x.dim())])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "used", used)
        y = cpu.forward(x, 77, Settings(0.4, q, shared_dims=dims))
        grad = cpu.backward(weight, x, 77, Settings(0.4, q, 1.0, gradient, 1e-3, dims))
    assert y.stride() == torch.empty_like(x).stride()
    wide, wide_weight = x.double(), weight.double()
    torch.testing.assert_close(
        y.double(), reference.forward(wide, 77, Settings(0.4, q, shared_dims=dims)), rtol=RTOL[dtype], atol=RTOL[dtype]
    )
    exact = reference.backward(wide_weight, wide, 77, Settings(0.4, q, 1.0, gradient, 1e-3, dims))
    torch.testing.assert_close(grad.double(), exact, rtol=RTOL[dtype], atol=50 * RTOL[dtype])


@kernel_alone
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_mask_for_all_threads_and_layouts(dtype, threads):
    shape = (2, 34, 65, 67)
    kept = reference.keep_mask(shape, 0.3, -5)
    four = torch.full(shape, 4.0, dtype=dtype)
    wider = torch.full((3, 34, 65, 70), 4.0, dtype=dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layouts = {
            "contiguous": four,
            "transposed": four.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
            "channels-last": four.to(memory_format=torch.channels_last),
            "expanded": four[:, :1, :, :1].expand(shape),
            "sliced": wider[1:, :, :, 3:],
        }
        for name, x in layouts.items():
            for q in (1.5, 1.7, 2.0):
                assert torch.equal(cpu.forward(x, -5, Settings(0.3, q)) > 4, kept), (name, q)
                ones = torch.ones(shape, dtype=dtype)
                assert torch.equal(cpu.backward(ones, x, -5, Settings(0.3, q)) > 1, kept), (
                    name,
                    q,
                )
    finally:
        torch.set_num_threads(before)


@kernel_alone
@pytest.mark.parametrize("dims", [(2, 3), (1,), (0, 2), (3,), (0, 1, 2, 3)])
def test_shared_dims_share_in_every_layout(dims):
    x = torch.full((3, 40, 9, 35), 4.0)
    kept = reference.keep_mask(x.shape, 0.5, 6, dims).expand(x.shape)
    for laid in (x, x.to(memory_format=torch.channels_last), x.transpose(1, 3).contiguous().transpose(1, 3)):
        assert torch.equal(cpu.forward(laid, 6, Settings(0.5, 1.5, shared_dims=dims)) > 4, kept)


@kernel_alone
@pytest.mark.parametrize("used", range(len(library.AVAILABLE)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_channels_that_are_last_in_memory(used, dtype, monkeypatch):
    monkeypatch.setattr(cpu, "used", used)
    x = torch.randn(2, 301, 11, 35, dtype=torch.float64).to(dtype)
    laid = x.to(memory_format=torch.channels_last)
    for q in (1.0, 1.7, 2.0):
        for settings in (Settings(0.4, q), Settings(1.0, q)):
            torch.testing.assert_close(
                cpu.forward(laid, 7, settings), cpu.forward(x, 7, settings), rtol=RTOL[dtype], atol=RTOL[dtype]
            )
            ours, contiguous = (cpu.backward(grad, grad, 7, settings) for grad in (laid, x))
            torch.testing.assert_close(ours, contiguous, rtol=RTOL[dtype], atol=50 * RTOL[dtype])


@kernel_alone
@pytest.mark.parametrize("used", range(len(library.AVAILABLE)))
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 32, 32),
        (2, 16, 8, 8),
        (1, 17, 33, 40),
        (2, 64, 7, 7),
        (1, 100, 1, 5),
        (1, 128, 130, 131),
        (3, 257, 3, 3),
        (2, 512, 10, 10),
        (1, 600, 8, 16),
    ],
)
def test_the_mask_of_any_number_of_channels_and_positions(shape, p, used, monkeypatch):
    """Tiles are cut by rows, by columns or not at all, and their words start anywhere in a block."""
    monkeypatch.setattr(cpu, "used", used)
    x = torch.full(shape, 4.0)
    laid = x.to(memory_format=torch.channels_last)
    for dims in ((), (2,), (0, 3)):
        kept = reference.keep_mask(shape, p, 11, dims).expand(shape)
        y = cpu.forward(laid, 11, Settings(p, 1.5, shared_dims=dims))
        assert torch.equal(y > 2, kept), dims
        assert torch.equal(y, cpu.forward(x, 11, Settings(p, 1.5, shared_dims=dims))), dims


def test_an_output_has_the_layout_of_its_input():
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = sparseout.sparseout(x, 0.5, 1.5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad.is_contiguous(memory_format=torch.channels_last)


@kernel_alone
@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    count = 2**31 + 2**12
    x = torch.ones(1, dtype=torch.bfloat16).expand(count)
    tail = cpu.forward(x, 8, Settings(0.5, 2.0))[-8192:].clone()
    words = reference.philox([torch.arange(2**29 - 1024, 2**29 + 1024), 0, 0, 0], [8, 0])
    kept = torch.stack([word.reshape(-1, 8) for word in words], dim=1).reshape(-1) >= 2**31
    assert torch.equal(tail != 0, kept)
    tall = torch.ones(1, 1, dtype=torch.bfloat16).expand(count // 4096, 4096).t()
    assert torch.equal(cpu.forward(tall, 8, Settings(0.5, 2.0)).reshape(-1)[-8192:], tail)
