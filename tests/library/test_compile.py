"""The op under `torch.compile` and as operators: equal to eager mode, without recompilation for another p or q."""

import contextlib

import pytest
import torch
from tolerances import RTOL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import sparseout
from sparseout.native import library
from sparseout.op import backends, reference
from sparseout.op.autograd import FusedSparseout
from sparseout.op.settings import Settings

pytestmark = pytest.mark.filterwarnings("default")  # torch's compiler warns about itself

GRADIENTS = ["detached", "exact"]
BACKENDS = ["aot_eager", "inductor"]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def value_and_grad(function, x, seed=0):
    torch.manual_seed(seed)
    x.grad = None
    y = function(x)
    y.square().sum().backward()
    return y.detach(), x.grad


def double(number):
    return torch.tensor(number, dtype=torch.float64)


class Counter:
    """A compiler that counts its graphs."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "settings", [{}, {"q": 1.0, "gradient": "exact"}, {"shared_dims": (1,), "q": 3.0}, {"inplace": True, "q": 1.5}]
)
def test_compiled_equals_eager(backend, settings):
    def op(x):
        return sparseout.sparseout(torch.sin(x), **settings) * 2

    compiled = torch.compile(op, fullgraph=True, dynamic=True, backend=backend)
    for size in (7, 40):
        x = torch.randn(6, size, generator=torch.Generator().manual_seed(1), requires_grad=True)
        for ours, theirs in zip(value_and_grad(compiled, x), value_and_grad(op, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=RTOL[x.dtype], atol=1e-6)


def test_a_new_p_or_q_compiles_nothing_anew():
    for kind in (float, double):
        counter = Counter()
        compiled = torch.compile(sparseout.sparseout, fullgraph=True, dynamic=True, backend=counter)
        for i in range(30):
            x = torch.full((20 + i,), 4.0)
            torch.manual_seed(i)
            y = compiled(x, kind(0.02 * i + 0.1), kind(0.1 * i + 0.5))
            torch.manual_seed(i)
            torch.testing.assert_close(y, sparseout.sparseout(x, 0.02 * i + 0.1, 0.1 * i + 0.5))
        assert counter.graphs <= 2
        torch._dynamo.reset()


def test_a_generator_is_refused_and_never_ignored():
    x = torch.ones(50)
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]

    def op(generator):
        return sparseout.sparseout(x, generator=generator)

    refused = (
        contextlib.nullcontext() if torch.__version__ >= "2.7" else pytest.raises(ValueError, match="generator must be None")
    )
    with refused:
        assert torch.equal(torch.compile(op, backend="eager")(generators[0]), op(generators[1]))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(op, backend="eager", fullgraph=True)(generators[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_mask(backend, use_reentrant):
    def op(x):
        return checkpoint(lambda x: sparseout.sparseout(x, 0.5, 1.5), x, use_reentrant=use_reentrant)

    x = torch.ones(64, requires_grad=True)
    y, grad = value_and_grad(torch.compile(op, backend=backend), x)
    torch.testing.assert_close((y, grad), value_and_grad(op, x))
    assert torch.equal(y != 0, grad != 0)


def test_transforms_inside_a_compiled_function_are_right_or_raise():
    x = torch.randn(20)

    def op(x):
        return sparseout.sparseout(x, 0.5, 1.5)

    def push(x):
        return torch.func.jvp(op, (x,), (torch.ones_like(x),))[1]

    def pull(x):
        return torch.func.grad(lambda x: op(x).sum())(x)

    torch.manual_seed(0)
    expected = push(x)
    torch.manual_seed(0)
    assert torch.equal(torch.compile(push, backend="eager")(x), expected)
    for randomness in ("same", "different"):
        y = torch.compile(torch.func.vmap(op, randomness=randomness), backend="eager")(torch.ones(4, 50))
        assert bool((y == y[0]).all()) == (randomness == "same")
    with pytest.raises(RuntimeError, match="randomness"):
        torch.compile(torch.func.vmap(op), backend="eager")(torch.ones(4, 50))
    for transform in (push, pull):
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(transform, backend="eager", fullgraph=True)(x)


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_what_records_operators_sees_the_op():
    x = torch.ones(10, requires_grad=True)
    eager = value_and_grad(lambda x: sparseout.sparseout(x, 0.5, 1.5), x)
    with Recorder() as recorder:
        recorded = value_and_grad(lambda x: sparseout.sparseout(x, 0.5, 1.5), x)
    torch.testing.assert_close(recorded, eager)
    assert {"sparseout.draw.default", "sparseout.forward.default", "sparseout.backward.default"} <= set(recorder.names)


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "sliced": lambda x: x[:, ::2],
    "expanded": lambda x: x[:, :1].expand(3, 4, 5),
}


@pytest.mark.parametrize(
    ("layout", "dtype", "gradient", "dims"),
    [
        ("contiguous", torch.float32, "exact", []),
        ("transposed", torch.bfloat16, "detached", []),
        ("sliced", torch.float64, "detached", [1]),
        ("expanded", torch.float32, "detached", []),
    ],
)
def test_the_operators_pass_opcheck(layout, dtype, gradient, dims):
    x = LAYOUTS[layout](torch.randn(3, 4, 5).to(dtype)).detach().requires_grad_()
    arguments = (x, torch.tensor([3]), double(0.4), double(1.7), double(1.0), gradient, 1e-6, dims, None)
    torch.library.opcheck(torch.ops.sparseout.draw, (x,), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(torch.ops.sparseout.forward, arguments)
    torch.library.opcheck(torch.ops.sparseout.backward, (torch.ones_like(x).requires_grad_(), *arguments))


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("q", [1.0, 1.7, 2.0, 3.0])
def test_the_operators_derivatives_to_second_order(gradient, q):
    x = (torch.randn(12, dtype=torch.float64) + 2).requires_grad_()
    weight = torch.randn(12, dtype=torch.float64)
    seed = torch.tensor([11])

    def second(op):
        (grad,) = torch.autograd.grad((op(x) * weight * x).sum(), x, create_graph=True)
        return grad.detach(), torch.autograd.grad(grad.square().sum(), x)[0]

    def operator(x):
        return torch.ops.sparseout.forward(x, seed, double(0.4), double(q), double(1.0), gradient, 1e-6, [], None)

    def eager(x):
        drawn = seed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sparseout.op.functional._draw_integer", lambda generator: int(drawn))
            return sparseout.sparseout(x, 0.4, q, gradient=gradient)

    torch.testing.assert_close(second(operator), second(eager), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("p", "q"), [(0.5, 1.0), (0.3, 1.7), (0.3, 2.0), (0.0, 1.5), (1.0, 1.5), (0.5, 0.0)])
def test_the_expression_that_a_gpus_compiler_sees_is_the_reference(dtype, gradient, p, q):
    x = torch.randn(5, 70).to(dtype)
    x[0, :3] = 0
    weight = torch.randn(5, 70).to(dtype)
    for dims in ((), (1,)):
        leaf = x.clone().requires_grad_()
        y = FusedSparseout.apply(leaf, torch.tensor([-9]), double(p), double(q), double(1.0), gradient, 1e-4, dims)
        (grad,) = torch.autograd.grad(y, leaf, weight)
        expected = (
            reference.forward(x, -9, Settings(p, q, shared_dims=dims)),
            reference.backward(weight, x, -9, Settings(p, q, 1.0, gradient, 1e-4, dims)),
        )
        torch.testing.assert_close((y.detach(), grad), expected, rtol=RTOL[dtype], atol=RTOL[dtype])


def test_the_expression_compiles_without_a_break():
    def op(x, p, q):
        return FusedSparseout.apply(torch.relu(x), seed, p, q, double(1.0), "detached", 1e-6, ())

    seed = torch.tensor([4])
    x = torch.randn(300, requires_grad=True)
    compiled = torch.compile(op, fullgraph=True)
    for p, q in ((0.5, 1.5), (0.2, 2.0)):
        ours, theirs = (value_and_grad(lambda x, f=f, p=p, q=q: f(x, double(p), double(q)), x) for f in (compiled, op))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_kernel_runs_inside_a_compiled_function(monkeypatch):
    calls = []
    forward = backends.cpu.forward
    monkeypatch.setattr(backends.cpu, "forward", lambda *arguments: calls.append(1) or forward(*arguments))
    compiled = torch.compile(sparseout.sparseout, fullgraph=True, backend="aot_eager")
    compiled(torch.ones(30), 0.5, 1.5)
    assert bool(calls) == (library.LIBRARY is not None)
