"""Tensors without plain memory: the op works on them or raises a clear TypeError, and never reads a pointer."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._vmap_internals import _vmap
from torch.autograd import forward_ad
from torch.masked import masked_tensor
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._pytree import tree_map

import sparseout
from sparseout import Sparseout
from sparseout.op.backends import is_plain

pytestmark = pytest.mark.filterwarnings("default")  # torch warns that some of these kinds are prototypes

ONES = torch.ones(3, 4)


class Wrapper(torch.Tensor):
    """A tensor without memory, which forwards each operation to the tensor inside."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        inner = tree_map(lambda value: value.inner if isinstance(value, Wrapper) else value, (args, kwargs or {}))
        result = function(*inner[0], **inner[1])
        return tree_map(lambda value: cls(value) if isinstance(value, torch.Tensor) else value, result)


class Refusing(Wrapper):
    """A wrapper that supports no operation."""

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(f"no {function}")


class Labelled(torch.Tensor):
    """A subclass with its own memory, which differs from a tensor only in `__torch_function__`."""


class Duck:
    """An object that is not a tensor, but that torch's functions accept."""

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return cls(function(*(value.inner if isinstance(value, cls) else value for value in args), **(kwargs or {})))


def fake(*shape):
    with FakeTensorMode():
        return torch.ones(shape)


def freed():
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


def escaped(transform):
    kept = []
    transform(lambda x: (kept.append(x), x.sum())[1])(torch.ones(3))
    return kept[0]


def legacy_batched():
    seen = []
    _vmap(lambda x: seen.append(is_plain(x)) or x)(ONES)
    return seen[0]


COMPLEX = torch.complex(torch.ones(3), torch.ones(3))


@pytest.mark.parametrize(
    ("kind", "plain"),
    {
        "tensor": (lambda: ONES, True),
        "transposed": (lambda: ONES.t(), True),
        "expanded": (lambda: torch.ones(1).expand(5), True),
        "empty": (lambda: torch.ones(0, 3), True),
        "parameter": (lambda: nn.Parameter(ONES), True),
        "buffer": (lambda: nn.Buffer(ONES), True),
        "zeros": (lambda: torch._efficientzerotensor((3, 4)), False),
        "functional": (lambda: torch._to_functional_tensor(ONES), False),
        "meta": (lambda: ONES.to("meta"), False),
        "empty meta": (lambda: torch.ones(0, device="meta"), False),
        "negative": (lambda: COMPLEX.conj().imag, False),
        "conjugate": (lambda: COMPLEX.conj(), False),
        "sparse": (lambda: ONES.to_sparse(), False),
        "csr": (lambda: ONES.to_sparse_csr(), False),
        "mkldnn": (lambda: ONES.to_mkldnn(), False),
        "nested": (lambda: torch.nested.nested_tensor([ONES, ONES]), False),
        "jagged": (lambda: torch.nested.nested_tensor([ONES, ONES], layout=torch.jagged), False),
        "quantized": (lambda: torch.quantize_per_tensor(ONES, 0.1, 0, torch.qint8), False),
        "freed": (freed, False),
        "uninitialized": (nn.UninitializedParameter, False),
        "fake": (lambda: fake(3, 4), False),
        "two tensors": (lambda: TwoTensor(ONES, ONES), False),
        "masked": (lambda: masked_tensor(ONES, ONES > 0), False),
        "wrapper": (lambda: Wrapper(ONES), False),
        "labelled": (lambda: ONES.as_subclass(Labelled), False),
        "escaped from vmap": (lambda: escaped(torch.vmap), False),
        "escaped from grad": (lambda: escaped(torch.func.grad), False),
    }.values(),
    ids=lambda value: None,
)
def test_plain_is_what_has_its_elements_in_memory_as_its_strides_say(kind, plain):
    assert is_plain(kind()) is plain


def test_nothing_is_plain_inside_a_transform():
    assert not legacy_batched()
    with forward_ad.dual_level():
        assert not is_plain(forward_ad.make_dual(ONES, ONES))
    seen = []
    torch.func.grad(lambda x: (seen.append(is_plain(ONES)), x.sum())[1])(ONES)
    assert seen == [False]


def drawn(function, *arguments, **settings):
    torch.manual_seed(0)
    return function(*arguments, **settings)


@pytest.mark.parametrize("q", [1.5, 2.0])
def test_zeros_that_have_no_memory_stay_zeros(q):
    y = sparseout.sparseout(torch._efficientzerotensor((4, 6)), 0.5, q)
    assert torch.equal(y, torch.zeros(4, 6))
    x = torch.randn(4, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(sparseout.sparseout(x, 0.5, q), x, torch._efficientzerotensor((4, 6)))
    assert torch.equal(grad, torch.zeros(4, 6))


def test_a_functional_tensor_takes_the_noise_of_the_tensor_in_it():
    y = drawn(sparseout.sparseout, torch._to_functional_tensor(ONES), 0.5, 1.5)
    torch._sync(y)
    torch.testing.assert_close(torch._from_functional_tensor(y), drawn(sparseout.sparseout, ONES, 0.5, 1.5))


@pytest.mark.parametrize("scale", [1.0, "rms", "matched"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_fake_tensor_gives_a_fake_tensor_and_draws_and_learns_nothing(scale, inside):
    layer, x = Sparseout(0.5, 1.5, scale=scale), fake(3, 4).requires_grad_()
    before = torch.get_rng_state()
    if inside:
        with x.fake_mode:
            y = layer(x)
    else:
        y = layer(x)
    y.sum().backward()
    assert isinstance(y, FakeTensor)
    assert isinstance(x.grad, FakeTensor)
    assert y.shape == x.grad.shape == (3, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert scale == 1.0 or (type(layer.running_rms) is torch.Tensor and layer.running_rms == 0)


@pytest.mark.parametrize("scale", [1.0, "rms", "matched"])
@pytest.mark.parametrize("wrap", [Wrapper, lambda x: TwoTensor(x, x.clone())], ids=["wrapper", "two tensors"])
def test_a_wrapper_gives_a_wrapper_of_the_numbers_of_its_tensor(wrap, scale):
    expected = drawn(Sparseout(0.5, 1.5, scale=scale), ONES)
    for inplace in (False, True):
        x = wrap(ONES.clone())
        y = drawn(Sparseout(0.5, 1.5, inplace, scale=scale), x)
        assert type(y) is type(x)
        assert (y is x) == inplace
        for name in set(vars(y)) & {"inner", "a", "b"}:
            torch.testing.assert_close(getattr(y, name), expected)


def test_the_gradient_of_two_tensors_is_that_of_each():
    x = TwoTensor(ONES, 4 * ONES).requires_grad_()
    drawn(sparseout.sparseout, x, 0.5, 1.5).sum().backward()
    for value, grad in ((ONES, x.grad.a), (4 * ONES, x.grad.b)):
        value = value.clone().requires_grad_()
        drawn(sparseout.sparseout, value, 0.5, 1.5).sum().backward()
        torch.testing.assert_close(grad, value.grad)


@pytest.mark.parametrize("q", [1.5, 2.0])
def test_a_gradient_that_has_no_plain_memory_is_taken(q):
    x = ONES.clone().requires_grad_()
    y = drawn(sparseout.sparseout, x, 0.5, q)
    (expected,) = torch.autograd.grad(y, x, ONES, retain_graph=True)
    (grad,) = torch.autograd.grad(y, x, Wrapper(ONES), retain_graph=True)
    torch.testing.assert_close(grad.inner, expected)
    (grad,) = torch.autograd.grad(y, x, torch.complex(ONES, -ONES).conj().imag)
    torch.testing.assert_close(grad, expected)


def test_a_subclass_with_memory_gives_its_own_kind():
    for training in (True, False):
        x = ONES.as_subclass(Labelled)
        y = drawn(sparseout.sparseout, x, 0.5, 2.0, training)
        assert type(y) is type(nn.functional.dropout(x)) is Labelled
        assert set(y.unique().tolist()) == ({0.0, 2.0} if training else {1.0})
    x = ONES.as_subclass(Labelled).requires_grad_()
    y = Sparseout(0.5, 2.0, scale="rms")(x)
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_what_is_no_tensor_but_has_torch_function_is_asked():
    y = sparseout.sparseout(Duck(ONES), 0.5, 2.0)
    assert isinstance(y, Duck)
    assert set(y.inner.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda: Refusing(ONES), "input is a Refusing, which does not support Sparseout: apply it to the plain tensor inside"),
        (freed, "input must have memory, got a tensor whose storage was freed"),
        (lambda: torch.nested.nested_tensor([ONES, ONES], layout=torch.jagged), "input must be a dense tensor, got a nested one"),
        (lambda: ONES.to_mkldnn(), "input must be a dense tensor, got a _mkldnn one"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_one_line(kind, message):
    with pytest.raises(TypeError, match=message) as raised:
        sparseout.sparseout(kind(), 0.5, 1.5)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("offset", [0, 5])
def test_an_input_that_is_freed_before_the_backward_pass_is_an_error(backend, gradient, offset):
    leaf = torch.ones(4096)[offset:].requires_grad_()
    y = sparseout.sparseout(leaf, 0.5, 1.5, gradient=gradient, backend=backend)
    y.grad_fn.saved_tensors[-1].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="input must keep its memory until the backward pass, but its storage was freed"):
        y.sum().backward()


def test_a_masked_tensor_keeps_its_mask():
    mask = torch.tensor([True, False, True, True])
    y = sparseout.sparseout(masked_tensor(torch.ones(4), mask), 0.5, 2.0)
    assert torch.equal(y.get_mask(), mask)
    assert set(y.get_data()[mask].tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize(
    "kind",
    [
        lambda: Wrapper(ONES),
        lambda: TwoTensor(ONES, ONES),
        lambda: fake(3, 4),
        lambda: torch._efficientzerotensor((3, 4)),
        freed,
    ],
)
def test_insisting_on_the_kernel_is_refused_for_what_it_cannot_read(kind):
    with pytest.raises(ValueError, match="backend is 'cpu', which cannot be used here: input "):
        sparseout.sparseout(kind(), 0.5, 1.5, backend="cpu")
