"""`scale="rms"` and `"matched"`: a layer's running scale is its only state, updated after each use."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.op import backends
from sparseout.op.moments import NORMS
from sparseout.op.running_rms import sample

KINDS = [
    (Sparseout, (4, 3)),
    (Sparseout1d, (4, 3, 5)),
    (Sparseout2d, (4, 3, 5, 6)),
    (Sparseout3d, (4, 3, 2, 5, 6)),
    (LockedSparseout, (7, 2, 3)),
]


@pytest.fixture(params=["default", "reference"], autouse=True)
def _backend(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(backends, "ASKED", "reference")


@pytest.fixture(params=["rms", "matched"])
def scale(request):
    return request.param


def batch(size, seed=1, shape=(20, 9)):
    """Return a batch with root mean square `size`."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x * (size / x.square().mean().sqrt())


def rms(x):
    return x.double().square().mean().sqrt().item()


def seeded(op, *arguments, **settings):
    torch.manual_seed(3)
    return op(*arguments, **settings)


@pytest.mark.parametrize(("kind", "shape"), KINDS)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_first_batch_has_its_own_and_later_ones_what_was_learnt(kind, shape, inplace, scale):
    layer = kind(0.4, 1.5, inplace, scale=scale)
    square = power = None
    for i, size in enumerate([0.03, 4.0, 0.5]):
        x = batch(size, i, shape)
        own = x.double().abs().pow(1.5).mean().item()
        s = size if square is None else math.sqrt(square)
        if scale == "matched":
            s = (s**2 / (own if power is None else power)) ** 2
        expected = seeded(sparseout.sparseout, x, 0.4, 1.5, scale=s, shared_dims=layer.shared_dims)
        leaf = x.clone().requires_grad_()
        y = seeded(layer, leaf * 1)
        torch.testing.assert_close(y.detach(), expected, rtol=1e-5, atol=1e-6 * size)
        square = size**2 if square is None else 0.9 * square + 0.1 * size**2
        power = own if power is None else 0.9 * power + 0.1 * own
        assert layer.running_rms.item() == pytest.approx(math.sqrt(square), rel=1e-5)
        before = layer.running_rms.clone()
        y.sum().backward()
        assert torch.equal(layer.running_rms, before)


def test_q_means_the_same_at_any_magnitude(scale):
    for q in (1.0, 3.0):
        small, large = (Sparseout(0.5, q, scale=scale) for _ in range(2))
        for i in range(5):
            x = batch(1.0, i)
            y, other = seeded(small, x / 1024), seeded(large, x * 1024)
            torch.testing.assert_close(y * 2**20, other, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_batch_without_a_scale_counts_for_nothing(bad, scale):
    layer = Sparseout(0.4, 1.5, scale=scale)
    x = torch.zeros(20, 9)
    x[3, 4] = bad
    layer(x)
    assert layer.running_rms == 0
    for size in (0.3, 2.0):
        layer(batch(size))
        known = layer.running_rms.item()
        layer(x)
        assert layer.running_rms.item() == known > 0
    layer(torch.ones(0, 9))
    assert layer.running_rms.item() == known


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_and_layout_is_measured(dtype, scale):
    for x in (batch(3.0).to(dtype).t(), batch(3.0, shape=(40, 9)).to(dtype)[::2, 1:], batch(3.0, shape=(1,)).to(dtype)[0]):
        layer = Sparseout(0.4, 1.5, scale=scale)
        layer(x)
        assert layer.running_rms.dtype == torch.float32
        assert layer.running_rms.item() == pytest.approx(rms(x), rel=1e-5)


LARGE = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t(),
    "sliced": lambda x: torch.cat([x, 9 * x], dim=1)[:, :256],
    "expanded": lambda x: x[:, None].expand(-1, 3, -1),
    "half": lambda x: x.half(),
}


@pytest.mark.parametrize("layout", LARGE)
def test_the_sample_of_a_large_batch_sees_all_of_its_units(layout, scale):
    units = torch.where(
        torch.arange(256) % 16 == 0, 8.0, 0.1
    )  # a sample with a power of two as its step would see all of these, or none
    layer, x = Sparseout(0.4, 1.5, scale=scale), batch(1.0, shape=(512, 256)) * units
    layer(LARGE[layout](x))
    assert layer.running_rms.item() == pytest.approx(rms(x), rel=0.1)
    assert 2731 <= sample(x).numel() <= 5461


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_the_state_dict_holds_it_and_brings_it_back(kind, shape, scale):
    assert not kind().state_dict()
    layer, other = (kind(0.4, 1.5, scale=scale) for _ in range(2))
    for i in range(3):
        layer(batch(0.3, i, shape))
    keys = ["running_rms", "running_moments"][: 1 + (scale == "matched")]
    assert list(layer.state_dict()) == keys
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.running_rms, layer.running_rms)
    x = batch(0.2, 9, shape)
    for _ in range(2):
        assert torch.equal(seeded(layer, x), seeded(other, x))
        assert torch.equal(other.running_rms, layer.running_rms)
    layer.scale = 2.0
    assert not layer.state_dict()
    layer.scale = scale
    assert list(layer.state_dict()) == keys
    assert not any(value.any() for value in layer.state_dict().values())


@pytest.mark.parametrize("make", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"])
def test_a_copy_learns_on_its_own(make, scale):
    layer = Sparseout(0.4, 1.5, scale=scale)
    layer(batch(0.3))
    other, before = make(layer), layer.running_rms.clone()
    assert other.scale == scale
    assert torch.equal(other.running_rms, before)
    other(batch(5.0))
    assert torch.equal(layer.running_rms, before)
    assert not torch.equal(other.running_rms, before)


def test_evaluation_changes_nothing(scale):
    layer, x = Sparseout(0.4, 1.5, scale=scale).eval(), batch(0.3)
    assert layer(x) is x
    assert layer.running_rms == 0
    layer.train()(x)
    before = layer.running_rms.clone()
    assert layer.eval()(x * 9).equal(x * 9)
    assert torch.equal(layer.running_rms, before)


def first_step(layer, x):
    x = x.clone().requires_grad_()
    y = seeded(layer, x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), x), layer.running_rms]


def assert_as_new(layer, x):
    """Assert that the layer's next step equals the first step of a new layer, bit for bit."""
    for ours, fresh in zip(first_step(layer, x), first_step(Sparseout(layer.p, layer.q, scale=layer.scale), x), strict=True):
        assert torch.equal(ours, fresh)


RUBBISH = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.5e37, -1e-30]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_counts_as_none(rubbish, scale):
    layer, x = Sparseout(0.4, 1.5, scale=scale), batch(0.3)
    layer.running_rms.fill_(rubbish)
    assert_as_new(layer, x)
    layer.running_rms.fill_(rubbish)
    y = torch.func.vmap(layer, randomness="same")(x)
    assert y.isfinite().all()
    layer.running_rms.fill_(rubbish)
    with torch.no_grad():
        assert torch.equal(seeded(layer, x), seeded(Sparseout(0.4, 1.5, scale=scale), x))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("rubbish", RUBBISH[:1] + RUBBISH[5:6])
def test_rubbish_counts_as_none_in_a_compiled_layer(rubbish, scale):
    torch._dynamo.reset()
    layer, x = Sparseout(0.4, 1.5, scale=scale), batch(0.3)
    layer.running_rms.fill_(rubbish)
    results = first_step(torch.compile(layer, backend="aot_eager"), x)
    for ours, fresh in zip(results, first_step(Sparseout(0.4, 1.5, scale=scale), x), strict=True):
        torch.testing.assert_close(ours, fresh)
    torch._dynamo.reset()


@pytest.fixture
def unwritten(monkeypatch):
    """Fill uninitialised memory with a number that could be a scale."""

    def poisoned(make):
        def made(*arguments, **settings):
            tensor = make(*arguments, **settings)
            return tensor.fill_(6e27) if tensor.is_floating_point() and not tensor.is_meta else tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def made_on_meta(scale):
    with torch.device("meta"):
        return nn.Sequential(Sparseout(0.4, 1.5, scale=scale))


def trained(scale):
    model = nn.Sequential(Sparseout(0.4, 1.5, scale=scale))
    model(batch(7.0))
    return model


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize(
    "make", [made_on_meta, trained, lambda scale: trained(scale).to("meta")], ids=["meta", "trained", "moved to meta"]
)
def test_memory_that_nobody_wrote_is_no_scale(make, scale):
    assert_as_new(make(scale).to_empty(device="cpu")[0], batch(0.3))


def test_a_layer_left_on_meta_learns_where_its_input_is(scale):
    model = made_on_meta(scale)
    model.load_state_dict({}, strict=False, assign=True)
    assert_as_new(model[0], batch(0.3))
    other = made_on_meta(scale)
    other.load_state_dict(trained(scale).state_dict(), assign=True)
    assert torch.equal(other[0].running_rms, trained(scale)[0].running_rms)


@pytest.mark.parametrize("move", [nn.Module.double, nn.Module.bfloat16, nn.Module.share_memory, lambda model: model.to("cpu")])
def test_a_conversion_keeps_what_was_learned(move, scale):
    expected, model = trained(scale)[0].running_rms, move(trained(scale))
    torch.testing.assert_close(model[0].running_rms.float(), expected, rtol=4e-3, atol=0)
    assert model[0].running_rms > 6


def test_reset_parameters_forgets_it(scale):
    layer = trained(scale)[0]
    layer.reset_parameters()
    assert_as_new(layer, batch(0.3))
    Sparseout().reset_parameters()


def test_a_call_without_gradients_uses_what_was_learned_and_learns_nothing(scale):
    """The predictions of Monte Carlo dropout at test time must not depend on their order."""
    layer, x = trained(scale)[0], batch(0.3)
    before = layer.running_rms.clone()
    s = before if scale == "rms" else before * layer.running_moments[NORMS.index(1.5)] ** -2
    expected = seeded(sparseout.sparseout, x, 0.4, 1.5, scale=s)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            for _ in range(2):
                torch.testing.assert_close(seeded(layer, x), expected)
        assert torch.equal(layer.running_rms, before)
    new = Sparseout(0.4, 1.5, scale=scale)
    with torch.no_grad():
        new(x)
    assert new.running_rms == 0
    new(x)  # records gradients, although the input requires none
    assert new.running_rms > 0


@pytest.mark.filterwarnings("default")
def test_a_compiled_call_without_gradients_learns_nothing(scale):
    torch._dynamo.reset()
    layer = trained(scale)[0]
    before = layer.running_rms.clone()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled(batch(0.3))
    assert torch.equal(layer.running_rms, before)
    compiled(batch(0.3))
    assert not torch.equal(layer.running_rms, before)
    torch._dynamo.reset()


def test_the_exact_gradient_is_refused_by_name(scale):
    message = rf"gradient must be 'detached' with scale='{scale}', got 'exact': at q = 3 a few units would grow without bound"
    with pytest.raises(ValueError, match=message):
        Sparseout(scale=scale, gradient="exact")
    layer = Sparseout(gradient="exact")
    with pytest.raises(ValueError, match=message):
        layer.scale = scale
    assert layer.scale == 1
    layer = Sparseout(scale=scale)
    layer.gradient = "exact"
    with pytest.raises(ValueError, match=message):
        layer(torch.ones(3))
