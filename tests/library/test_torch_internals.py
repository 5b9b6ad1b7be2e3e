"""Each private name of torch answers as its function says."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._vmap_internals import _vmap
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from sparseout import torch_internals as internals

ONES = torch.ones(3)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def inside(question, transform):
    """Its answer in a function that `transform` calls."""
    answers = []

    def function(x):
        answers.append(question())
        return x.sum()

    transform(function)
    return answers[0]


def dual(function):
    with forward_ad.dual_level():
        function(forward_ad.make_dual(ONES, ONES))


def dispatched(function):
    with Mode():
        function(ONES)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize(
    ("question", "transform"),
    [
        (internals.is_functorch_active, lambda f: torch.func.grad(f)(ONES)),
        (internals.is_functorch_active, lambda f: torch.func.vmap(f)(ONES)),
        (internals.is_transforming, lambda f: torch.func.vmap(f)(ONES)),
        (internals.is_transforming, dual),
        (internals.is_tracing, lambda f: torch.jit.trace(f, ONES, check_trace=False)),
        (internals.is_exporting, lambda f: torch.export.export(Call(f), (ONES,), strict=False)),
        (internals.is_dispatch_mode_active, dispatched),
        (internals.is_proxy_mode_active, lambda f: make_fx(f)(ONES)),
        (internals.is_in_autograd_function, lambda f: checkpoint(f, ONES.clone().requires_grad_(), use_reentrant=True)),
        (internals.may_be_recomputed, lambda f: checkpoint(f, ONES.clone().requires_grad_(), use_reentrant=True)),
        (internals.may_be_recomputed, lambda f: checkpoint(f, ONES.clone().requires_grad_(), use_reentrant=False)),
        (internals.may_be_recomputed, lambda f: saving_elsewhere(f)),
    ],
)
def test_a_question_is_true_inside_and_false_outside(question, transform):
    if question is internals.is_exporting and not hasattr(torch.compiler, "is_exporting"):
        pytest.skip("torch 2.6 cannot tell")
    always = question is internals.may_be_recomputed and torch.__version__ < "2.8"
    assert question() is always
    assert inside(question, transform) is True
    assert question() is always


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def saving_elsewhere(function):
    with save_on_cpu():
        function(ONES)


def test_no_grad_is_no_autograd_function():
    with torch.no_grad():
        assert not internals.is_in_autograd_function()
    with torch.inference_mode():
        assert not internals.is_in_autograd_function()


def test_forward_mode_is_a_transform_but_not_of_functorch():
    assert inside(internals.is_functorch_active, dual) is False


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_computes_again_in_the_backward_pass(use_reentrant):
    answers = []

    def function(x):
        answers.append(internals.is_in_backward_pass())
        return x.square()

    checkpoint(function, ONES.clone().requires_grad_(), use_reentrant=use_reentrant).sum().backward()
    assert answers == [False, True]


def test_kinds_of_tensors_are_told_apart():
    with FakeTensorMode():
        assert internals.is_fake(torch.ones(3))
    assert not internals.is_fake(ONES)
    assert inside_legacy_vmap() is True
    assert not internals.is_legacy_batched(ONES)
    assert internals.is_view((ONES * 1).view(3, 1))
    assert not internals.is_view(ONES * 1)
    assert not internals.is_async_collective(ONES)


def inside_legacy_vmap():
    answers = []
    _vmap(lambda x: answers.append(internals.is_legacy_batched(x)) or x)(torch.ones(3, 4))
    return answers[0]


@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x[5:], lambda x: x.view(2, 5).t()], ids=["whole", "offset", "transposed"]
)
def test_a_freed_storage_is_found_through_any_view(view):
    base = torch.ones(10)
    tensor = view(base)
    assert not internals.is_freed(tensor)
    base.untyped_storage().resize_(0)
    assert internals.is_freed(tensor)


def test_tensors_that_never_had_a_storage_were_not_freed():
    for tensor in (torch.ones(0), ONES.to("meta"), torch._efficientzerotensor((3,)), torch._to_functional_tensor(ONES)):
        assert not internals.is_freed(tensor)


def test_writes_are_counted():
    x = torch.ones(3)
    before = internals.version_of(x)
    x.add_(1)
    assert internals.version_of(x) == before + 1
    with torch.inference_mode():
        assert internals.version_of(torch.ones(3)) is None


def test_a_compiled_module_is_unwrapped():
    model = nn.Linear(2, 2)
    assert internals.uncompiled(torch.compile(model)) is model
    assert internals.uncompiled(model) is model


def test_a_module_knows_whether_it_runs():
    seen = []
    model = nn.Sequential(nn.ReLU())
    other = copy.deepcopy(model)
    model[0].register_forward_hook(lambda *_: seen.extend(internals.is_running(each) for each in (model, model[0], other)))
    model(ONES)
    assert seen == [True, True, False]
    assert not internals.is_running(model)


def test_a_direct_apply_differentiates_as_apply_does():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None

    x = ONES.clone().requires_grad_()
    for apply in (Double.apply, internals.direct_apply(Double)):
        y = apply(x, 2)
        assert torch.equal(y, 2 * ONES)
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], 2 * ONES)


def test_dispatch_modes_and_torch_functions_can_be_switched_off():
    class Loud(torch.Tensor):
        calls = 0

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls += 1
            return super().__torch_function__(function, types, args, kwargs or {})

    loud = ONES.as_subclass(Loud)
    loud + 1
    assert Loud.calls == 1
    with internals.without_torch_function():
        loud + 1
    assert Loud.calls == 1
    with Mode(), internals.without_dispatch_modes():
        assert not internals.is_dispatch_mode_active()
    with internals.without_dispatch_modes():
        pass
