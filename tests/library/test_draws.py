"""The draws of the op and its memory: layouts, shared dimensions, the in-place form, generators and saved tensors."""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_functional import DTYPES, GRADIENTS, QS, RTOL, drawn_mask, seeded, signed

import sparseout

# Layouts, sharing and the in-place form


def layouts(x):
    channels_last = x.to(memory_format=torch.channels_last)
    padded = torch.zeros(x.shape[0], x.shape[1], x.shape[2], 2 * x.shape[3])
    padded[..., ::2] = x
    return {
        "contiguous": x,
        "channels_last": channels_last,
        "transposed": x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "sliced": padded[..., ::2],
    }


@pytest.mark.parametrize("q", [1.5, 2.0])
@pytest.mark.parametrize("shared_dims", [(), (2, 3), (1,)])
def test_the_memory_layout_changes_nothing(q, shared_dims):
    x = signed(4, 3, 5, 6, dtype=torch.float32)
    results = {}
    for name, laid_out in layouts(x).items():
        laid_out = laid_out.detach().requires_grad_()
        y = sparseout.sparseout(laid_out, 0.5, q, shared_dims=shared_dims, generator=seeded())
        if name != "sliced":
            assert y.stride() == laid_out.stride()
        (grad,) = torch.autograd.grad(y, laid_out, x)
        results[name] = (y, grad)
    for y, grad in results.values():
        torch.testing.assert_close(y, results["contiguous"][0], rtol=RTOL[x.dtype], atol=RTOL[x.dtype])
        torch.testing.assert_close(grad, results["contiguous"][1], rtol=RTOL[x.dtype], atol=RTOL[x.dtype])


def test_expanded_input_gets_a_draw_an_element():
    x = torch.ones(1, 1).expand(50, 40)
    y = sparseout.sparseout(x, 0.5, generator=seeded())
    assert torch.equal(y != 0, drawn_mask((50, 40), 0.5))


@given(dtype=st.sampled_from(DTYPES), q=st.sampled_from(QS))
def test_the_mask_is_the_same_in_every_dtype(dtype, q):
    x = torch.full((257,), 4.0)
    kept = sparseout.sparseout(x.to(dtype), 0.5, q, generator=seeded()) > 4
    assert torch.equal(kept, drawn_mask(x.shape, 0.5))


@pytest.mark.parametrize(
    ("shared_dims", "same"), [((2, 3), (2, 3)), ((-1, -2), (2, 3)), ((1,), (1,)), (-3, (1,)), ((0, 1, 2, 3), (0, 1, 2, 3))]
)
def test_shared_dims_share_one_draw(shared_dims, same):
    y = sparseout.sparseout(torch.ones(6, 5, 4, 3), 0.5, shared_dims=shared_dims, generator=seeded())
    first = y
    for dim in same:
        first = first.narrow(dim, 0, 1)
    assert torch.equal(y, first.expand_as(y))
    assert torch.equal(first != 0, drawn_mask((6, 5, 4, 3), 0.5, same))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_in_place_equals_out_of_place(dtype, q, gradient):
    results = []
    for inplace in (False, True):
        x = signed(31, 3, dtype=dtype).requires_grad_()
        hidden = x.clone()
        y = sparseout.sparseout(hidden, 0.5, q, True, inplace, gradient=gradient, generator=seeded())
        assert (y is hidden) == inplace
        (grad,) = torch.autograd.grad(y.float().square().sum(), x)
        results.append((y, grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_in_place_without_gradients():
    x = signed(9)
    expected = sparseout.sparseout(x, 0.5, 1.0, generator=seeded())
    assert sparseout.sparseout(x, 0.5, 1.0, inplace=True, generator=seeded()) is x
    assert torch.equal(x, expected)


# The seed and the saved tensors


def test_a_training_call_advances_the_generator_once_and_evaluation_never():
    x = torch.ones(3)
    for p in (0.0, 0.5, 1.0):
        for q in (1.0, 2.0):
            torch.manual_seed(1)
            sparseout.sparseout(x, p, q)
            after = torch.get_rng_state()
            torch.manual_seed(1)
            torch.randint(2**63 - 1, (1,))
            assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    sparseout.sparseout(x, training=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_leaves_the_default_one_alone():
    x = torch.ones(100)
    before = torch.get_rng_state()
    first = sparseout.sparseout(x, generator=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(sparseout.sparseout(x, generator=seeded(3)), first)
    assert not torch.equal(sparseout.sparseout(x, generator=seeded(4)), first)


def test_fork_rng_and_checkpointing_give_the_same_mask():
    x = torch.ones(100)
    torch.manual_seed(0)
    with torch.random.fork_rng():
        first = sparseout.sparseout(x)
    assert torch.equal(sparseout.sparseout(x), first)
    for use_reentrant in (False, True):
        ones = torch.ones(100, requires_grad=True)
        y = torch.utils.checkpoint.checkpoint(sparseout.sparseout, ones, use_reentrant=use_reentrant)
        y.sum().backward()
        assert torch.equal(ones.grad, y.detach())


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_q_2_keeps_the_seed_and_any_other_q_the_input_too(q, dtype):
    x = signed(1000, dtype=dtype).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sparseout.sparseout(x, 0.5, q)
    beside_the_input = [t for t in kept if t.data_ptr() != x.data_ptr()]
    assert len(kept) - len(beside_the_input) == (q != 2)
    assert sum(t.nbytes for t in beside_the_input) <= 16


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_draws_as_its_randomness_says(randomness):
    x = torch.ones(4, 200)
    y = torch.func.vmap(lambda row: sparseout.sparseout(row, 0.5, 1.5), randomness=randomness)(x)
    assert bool((y == y[0]).all()) == (randomness == "same")
    assert set(y.unique().tolist()) == {0.0, 2.0}


def test_vmap_refuses_to_draw_unless_told_how():
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(sparseout.sparseout)(torch.ones(4, 5))


def test_numbers_of_any_real_type_are_accepted():
    x = torch.ones(5)
    for number in (numpy.float64(0.5), numpy.float32(0.5), 0.5):
        assert torch.equal(sparseout.sparseout(x, number, generator=seeded()), sparseout.sparseout(x, generator=seeded()))
    sparseout.sparseout(x, 1, numpy.int64(3))


def test_the_authors_positional_call():
    x = signed(20)
    named = sparseout.sparseout(x, p=0.3, q=1.5, training=True, inplace=False, generator=seeded())
    assert torch.equal(sparseout.sparseout(x, 0.3, 1.5, True, False, generator=seeded()), named)
