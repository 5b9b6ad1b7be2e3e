"""The scale: the unit in which `|x|` is measured, a constant of both gradients, without effect on Dropout."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from test_compile import Counter
from tolerances import DTYPES, RTOL

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout2d
from sparseout.native import library
from sparseout.op import cpu, reference
from sparseout.op.settings import Settings

BACKENDS = ["reference", pytest.param("cpu", marks=pytest.mark.skipif(library.LIBRARY is None, reason=library.MISSING))]
kernel_alone = pytest.mark.skipif(library.LIBRARY is None, reason=library.MISSING)
GRADIENTS = ["detached", "exact"]
QS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]) | st.floats(0, 5)
UNITS = st.floats(-5, 5).map(math.exp)
SEEDS = st.integers(0, 2**31)
LAYOUTS = {
    "one": (lambda x: x[:1, 0, 0], ()),
    "odd": (lambda x: x.reshape(-1)[:1023], ()),
    "strided": (lambda x: x.transpose(0, 2)[:, ::2], ()),
    "shared": (lambda x: x, (1,)),
    "channels": (lambda x: x.transpose(0, 1), (0, 2)),
}


def values(shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step(x, seed=0, **settings):
    """Return the output of a seeded call and the gradient of its sum."""
    x = x.detach().clone().requires_grad_()
    torch.manual_seed(seed)
    y = sparseout.sparseout(x, **settings)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach(), grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(q=QS, p=st.floats(0, 0.9), c=UNITS, s=UNITS, seed=SEEDS)
def test_other_units_change_nothing_but_the_unit(dtype, gradient, backend, q, p, c, s, seed):
    settings = {"q": q, "p": p, "gradient": gradient, "eps": 1e-3, "backend": backend}
    x = values(301, dtype, seed)
    scaled = (c * x.double()).to(dtype)
    power, largest = (x.double().abs() / s) ** (q / 2), torch.finfo(dtype).max / 16
    assume(max((c * s * power).max(), (s * power).max(), power.max(), scaled.abs().max()) < largest)
    # Subnormal numbers have no relative accuracy.
    normal = scaled.abs() > torch.finfo(dtype).smallest_normal
    y, grad = step(x, seed, scale=s, **settings)
    theirs, their_grad = step(scaled, seed, scale=c * s, **settings)
    noise = max(p / (1 - p), 1)
    size = torch.maximum(x.double().abs(), s * power * noise) + torch.finfo(dtype).smallest_normal / min(c, 1) / RTOL[dtype]
    assert ((theirs.double() - c * y.double()).abs() <= 2 * RTOL[dtype] * c * size)[normal].all()
    factor = 1 + max(q / 2, 1) * noise * (x.double().abs() / s + 1e-3) ** (q / 2 - 1)
    assert ((their_grad.double() - grad.double()).abs() <= 4 * RTOL[dtype] * factor)[normal].all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(q=QS, p=st.floats(0, 1), s=st.floats(0, math.inf, exclude_min=True, exclude_max=True), seed=SEEDS)
def test_dropout_knows_no_scale_and_1_is_none(dtype, backend, q, p, s, seed):
    x = values((7, 33), dtype, seed)
    for norm, scale in ((2.0, s), (q, 1.0)):
        settings = {"p": p, "q": norm, "backend": backend}
        one, other = step(x, seed, scale=scale, **settings), step(x, seed, **settings)
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@kernel_alone
@pytest.mark.parametrize("used", range(len(library.AVAILABLE)), ids=library.AVAILABLE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("s", [1e-6, 0.2, 5, 1e6])
def test_the_kernel_is_the_reference_in_any_unit(monkeypatch, s, dtype, layout, used):
    monkeypatch.setattr(cpu, "used", used)
    lay_out, dims = LAYOUTS[layout]
    x, weight = (lay_out(values((13, 14, 67), dtype, seed)) for seed in (1, 2))
    wide, wide_weight = x.double(), weight.double()
    for q in (0.5, 1, 1.5, 2.5, 3, 4):
        y = cpu.forward(x, 5, Settings(0.4, q, scale=s, shared_dims=dims))
        size = torch.maximum(wide.abs(), s * (wide.abs() / s) ** (q / 2))
        assert (
            (y.double() - reference.forward(wide, 5, Settings(0.4, q, scale=s, shared_dims=dims))).abs() <= RTOL[dtype] * size
        ).all(), q
        for gradient in GRADIENTS:
            ours = cpu.backward(weight, x, 5, Settings(0.4, q, s, gradient, 1e-3, dims))
            exact = reference.backward(wide_weight, wide, 5, Settings(0.4, q, s, gradient, 1e-3, dims))
            size = 1 + max(1, q / 2) * (wide.abs() / s + 1e-3) ** (q / 2 - 1)
            assert ((ours.double() - exact).abs() <= RTOL[dtype] * wide_weight.abs() * size).all(), (q, gradient)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("q", [0.5, 1.0, 1.7, 2.0, 3.0])
@pytest.mark.parametrize("s", [0.2, 30.0])
def test_the_exact_gradient_is_the_derivative(s, q, backend):
    x = (values((4, 3), torch.float64).abs() + 0.3).mul_(s).requires_grad_()

    def op(x):
        torch.manual_seed(3)
        return sparseout.sparseout(x, 0.4, q, scale=s, gradient="exact", eps=1e-12, backend=backend)

    assert torch.autograd.gradcheck(op, x, eps=1e-6 * s)
    assert torch.autograd.gradgradcheck(op, x, eps=1e-6 * s, rtol=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    q=QS,
    p=st.floats(0, 1),
    s=st.sampled_from([5e-324, 1e-308, 1e-45, 1e-38, 1e-20, 1e20, 3e38, 1.7e308]),
    as_tensor=st.booleans(),
)
def test_no_finite_number_becomes_nan(dtype, gradient, backend, q, p, s, as_tensor):
    finfo = torch.finfo(dtype)
    x = torch.tensor([0.0, -0.0, finfo.smallest_normal, finfo.tiny / 4, 1e-5, 1.0, -3.0, finfo.max, finfo.min], dtype=dtype)
    scale = torch.tensor(s, dtype=torch.float64) if as_tensor else s
    for result in step(x.repeat(9), p=p, q=q, scale=scale, gradient=gradient, backend=backend):
        assert not result.isnan().any()


@pytest.mark.parametrize(
    "make", [lambda scale: sparseout.sparseout(torch.ones(3), scale=scale), lambda scale: Sparseout(scale=scale)]
)
@pytest.mark.parametrize(
    ("scale", "error", "got"),
    [
        (0.0, ValueError, r"0\.0"),
        (-1, ValueError, "-1"),
        (math.nan, ValueError, "nan"),
        (math.inf, ValueError, "inf"),
        (True, TypeError, "True of type bool"),
        ("mean", TypeError, "'mean' of type str"),
        (None, TypeError, "None"),
        (torch.ones(2), TypeError, "tensor"),
        (torch.tensor(-2.0), ValueError, r"-2\.0"),
    ],
)
def test_a_bad_scale_is_named(make, scale, error, got):
    with pytest.raises(error, match=f"scale must be .*a positive finite number, got {got}") as raised:
        make(scale)
    assert "\n" not in str(raised.value)


def test_the_op_has_no_running_scale():
    with pytest.raises(TypeError, match="scale must be a positive finite number, got 'rms'"):
        sparseout.sparseout(torch.ones(3), scale="rms")


@pytest.mark.parametrize(("kind", "shape"), [(Sparseout, (4, 3)), (Sparseout2d, (2, 3, 5, 5)), (LockedSparseout, (7, 2, 3))])
def test_a_layers_scale_is_the_functions_and_may_be_set(kind, shape):
    layer, x = kind(0.4, 1.5, scale=3), values(shape)
    assert "scale=3" in repr(layer)
    for s in (3, 0.2):
        layer.scale = s
        torch.manual_seed(0)
        y = layer(x)
        torch.manual_seed(0)
        assert torch.equal(y, sparseout.sparseout(x, 0.4, 1.5, scale=s, shared_dims=layer.shared_dims))
        assert not layer.state_dict()
    with pytest.raises(ValueError, match="scale must be 'rms', 'matched' or a positive finite number, got 0"):
        layer.scale = 0
    assert layer.scale == 0.2


@pytest.mark.filterwarnings("default")  # torch's compiler warns about itself
@pytest.mark.parametrize("whole", [False, True], ids=["tensor", "layer"])
def test_a_new_scale_compiles_nothing_anew(whole):
    torch._dynamo.reset()
    counter, layer, x = Counter(), Sparseout(0.4, 1.5), values((6, 5)).requires_grad_()
    op = layer if whole else lambda x, s: sparseout.sparseout(x, 0.4, 1.5, scale=s)
    compiled = torch.compile(op, fullgraph=True, backend=counter)
    for s in (0.3, 7.0):
        layer.scale = s
        arguments = (x,) if whole else (x, torch.tensor(s, dtype=torch.float64))
        torch.manual_seed(2)
        y = compiled(*arguments)
        (grad,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close((y.detach(), grad), step(x, 2, p=0.4, q=1.5, scale=s))
    assert counter.graphs == 1
    torch._dynamo.reset()
