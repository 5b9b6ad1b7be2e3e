"""`scale="rms"`: a layer's own running root mean square, its one state, updated after use and once a step."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.op import backends
from sparseout.op.running_rms import no_recent_calls, sample

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


def batch(size, seed=1, shape=(20, 9)):
    """A batch whose root mean square is `size`."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x * (size / x.square().mean().sqrt())


def rms(x):
    return x.double().square().mean().sqrt().item()


def seeded(op, *arguments, **settings):
    torch.manual_seed(3)
    return op(*arguments, **settings)


@pytest.mark.parametrize(("kind", "shape"), KINDS)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_first_batch_has_its_own_and_later_ones_what_was_learnt(kind, shape, inplace):
    layer = kind(0.4, 1.5, inplace, scale="rms")
    square = None
    for i, size in enumerate([0.03, 4.0, 0.5]):
        x = batch(size, i, shape)
        scale = size if square is None else math.sqrt(square)
        expected = seeded(sparseout.sparseout, x, 0.4, 1.5, scale=scale, shared_dims=layer.shared_dims)
        leaf = x.clone().requires_grad_()
        y = seeded(layer, leaf * 1)
        torch.testing.assert_close(y.detach(), expected, rtol=1e-5, atol=1e-6 * size)
        square = size**2 if square is None else 0.9 * square + 0.1 * size**2
        assert layer.running_rms.item() == pytest.approx(math.sqrt(square), rel=1e-5)
        before = layer.running_rms.clone()
        y.sum().backward()
        assert torch.equal(layer.running_rms, before)


def test_q_means_the_same_at_any_magnitude():
    for q in (1.0, 3.0):
        small, large = (Sparseout(0.5, q, scale="rms") for _ in range(2))
        for i in range(5):
            x = batch(1.0, i)
            y, other = seeded(small, x / 1024), seeded(large, x * 1024)
            torch.testing.assert_close(y * 2**20, other, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_batch_without_a_scale_counts_for_nothing(bad):
    layer = Sparseout(0.4, 1.5, scale="rms")
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
def test_every_dtype_and_layout_is_measured(dtype):
    for x in (batch(3.0).to(dtype).t(), batch(3.0, shape=(40, 9)).to(dtype)[::2, 1:], batch(3.0, shape=(1,)).to(dtype)[0]):
        layer = Sparseout(0.4, 1.5, scale="rms")
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
def test_the_sample_of_a_large_batch_sees_all_of_its_units(layout):
    units = torch.where(torch.arange(256) % 16 == 0, 8.0, 0.1)  # a step of a power of two would see these alone, or none
    layer, x = Sparseout(0.4, 1.5, scale="rms"), batch(1.0, shape=(512, 256)) * units
    layer(LARGE[layout](x))
    assert layer.running_rms.item() == pytest.approx(rms(x), rel=0.1)
    assert 2731 <= sample(x).numel() <= 5461


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_the_state_dict_holds_it_and_brings_it_back(kind, shape):
    assert not kind().state_dict()
    layer, other = (kind(0.4, 1.5, scale="rms") for _ in range(2))
    for i in range(3):
        layer(batch(0.3, i, shape))
    assert list(layer.state_dict()) == ["running_rms"]
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
    layer.scale = "rms"
    assert layer.state_dict() == {"running_rms": 0}


@pytest.mark.parametrize("make", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"])
def test_a_copy_learns_on_its_own(make):
    layer = Sparseout(0.4, 1.5, scale="rms")
    layer(batch(0.3))
    other, before = make(layer), layer.running_rms.clone()
    assert other.scale == "rms"
    assert torch.equal(other.running_rms, before)
    other(batch(5.0))
    assert torch.equal(layer.running_rms, before)
    assert not torch.equal(other.running_rms, before)


def test_evaluation_changes_nothing():
    layer, x = Sparseout(0.4, 1.5, scale="rms").eval(), batch(0.3)
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
    """The layer's next step is that of a layer that has learned nothing, bit for bit."""
    for ours, fresh in zip(first_step(layer, x), first_step(Sparseout(layer.p, layer.q, scale="rms"), x), strict=True):
        assert torch.equal(ours, fresh)


RUBBISH = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.5e37, -1e-30]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_counts_as_none(rubbish):
    layer, x = Sparseout(0.4, 1.5, scale="rms"), batch(0.3)
    layer.running_rms.fill_(rubbish)
    assert_as_new(layer, x)
    layer.running_rms.fill_(rubbish)
    y = torch.func.vmap(layer, randomness="same")(x)
    assert y.isfinite().all()
    layer.running_rms.fill_(rubbish)
    with torch.no_grad():
        assert torch.equal(seeded(layer, x), seeded(Sparseout(0.4, 1.5, scale="rms"), x))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("rubbish", RUBBISH[:1] + RUBBISH[5:6])
def test_rubbish_counts_as_none_in_a_compiled_layer(rubbish):
    torch._dynamo.reset()
    layer, x = Sparseout(0.4, 1.5, scale="rms"), batch(0.3)
    layer.running_rms.fill_(rubbish)
    results = first_step(torch.compile(layer, backend="aot_eager"), x)
    for ours, fresh in zip(results, first_step(Sparseout(0.4, 1.5, scale="rms"), x), strict=True):
        torch.testing.assert_close(ours, fresh)
    torch._dynamo.reset()


@pytest.fixture
def unwritten(monkeypatch):
    """Memory that nobody wrote holds a number that could be a scale."""

    def poisoned(make):
        def made(*arguments, **settings):
            tensor = make(*arguments, **settings)
            return tensor.fill_(6e27) if tensor.is_floating_point() and not tensor.is_meta else tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def made_on_meta():
    with torch.device("meta"):
        return nn.Sequential(Sparseout(0.4, 1.5, scale="rms"))


def trained():
    model = nn.Sequential(Sparseout(0.4, 1.5, scale="rms"))
    model(batch(7.0))
    return model


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize("make", [made_on_meta, trained, lambda: trained().to("meta")], ids=["meta", "trained", "moved to meta"])
def test_memory_that_nobody_wrote_is_no_scale(make):
    assert_as_new(make().to_empty(device="cpu")[0], batch(0.3))


def test_a_layer_left_on_meta_learns_where_its_input_is():
    model = made_on_meta()
    model.load_state_dict({}, strict=False, assign=True)
    assert_as_new(model[0], batch(0.3))
    other = made_on_meta()
    other.load_state_dict(trained().state_dict(), assign=True)
    assert torch.equal(other[0].running_rms, trained()[0].running_rms)


@pytest.mark.parametrize("move", [nn.Module.double, nn.Module.bfloat16, nn.Module.share_memory, lambda model: model.to("cpu")])
def test_a_conversion_keeps_what_was_learned(move):
    expected, model = trained()[0].running_rms, move(trained())
    torch.testing.assert_close(model[0].running_rms.float(), expected, rtol=4e-3, atol=0)
    assert model[0].running_rms > 6


def test_reset_parameters_forgets_it():
    layer = trained()[0]
    layer.reset_parameters()
    assert_as_new(layer, batch(0.3))
    Sparseout().reset_parameters()


def test_a_call_without_gradients_uses_what_was_learned_and_learns_nothing():
    """Such as Monte Carlo dropout at test time, whose predictions must not depend on their order."""
    layer, x = trained()[0], batch(0.3)
    before = layer.running_rms.clone()
    expected = seeded(sparseout.sparseout, x, 0.4, 1.5, scale=before)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            for _ in range(2):
                torch.testing.assert_close(seeded(layer, x), expected)
        assert torch.equal(layer.running_rms, before)
    new = Sparseout(0.4, 1.5, scale="rms")
    with torch.no_grad():
        new(x)
    assert new.running_rms == 0
    new(x)  # records gradients, although the input asks for none
    assert new.running_rms > 0


@pytest.mark.filterwarnings("default")
def test_a_compiled_call_without_gradients_learns_nothing():
    torch._dynamo.reset()
    layer = trained()[0]
    before = layer.running_rms.clone()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled(batch(0.3))
    assert torch.equal(layer.running_rms, before)
    compiled(batch(0.3))
    assert not torch.equal(layer.running_rms, before)
    torch._dynamo.reset()


def network():
    layers = [nn.Linear(9, 9), Sparseout(0.4, 1.0, scale="rms"), nn.Tanh(), nn.Linear(9, 9), Sparseout(0.4, 3.0, scale="rms")]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(layer.apply(_reset) for layer in layers))


def _reset(layer):
    if isinstance(layer, nn.Linear):
        layer.reset_parameters()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
def test_checkpointing_changes_neither_gradients_nor_what_is_learnt(known, use_reentrant):
    results = []
    for run in (lambda model, x: model(x), lambda model, x: checkpoint(model, x, use_reentrant=use_reentrant)):
        model = network()
        if known:
            model(batch(30.0))
        inputs = [batch(size, 7).requires_grad_() for size in (0.2, 5.0)]
        torch.manual_seed(4)
        # Both batches are seen before either is computed again.
        sum(run(model, x).square().sum() for x in inputs).backward()
        results.append([leaf.grad for leaf in (*inputs, *model.parameters())] + [model[1].running_rms, model[4].running_rms])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_two_networks_with_one_seed_are_recomputed_each_with_its_own(use_reentrant):
    grads = []
    for run in (lambda layer, x: layer(x), lambda layer, x: checkpoint(layer, x, use_reentrant=use_reentrant)):
        inputs = [batch(size).requires_grad_() for size in (0.1, 10.0)]
        outputs = [seeded(run, Sparseout(0.4, 1.0, scale="rms"), x * 1) for x in inputs]
        sum(y.sum() for y in outputs).backward()
        grads.append([x.grad for x in inputs])
    torch.testing.assert_close(*grads)


def test_the_exact_gradient_is_refused_by_name():
    message = r"gradient must be 'detached' with scale='rms', got 'exact': at q = 3 a few units would grow without bound"
    with pytest.raises(ValueError, match=message):
        Sparseout(scale="rms", gradient="exact")
    layer = Sparseout(gradient="exact")
    with pytest.raises(ValueError, match=message):
        layer.scale = "rms"
    assert layer.scale == 1
    layer = Sparseout(scale="rms")
    layer.gradient = "exact"
    with pytest.raises(ValueError, match=message):
        layer(torch.ones(3))


@pytest.mark.filterwarnings("default")  # torch's compiler warns about itself
def test_a_compiled_layer_learns_the_same():
    torch._dynamo.reset()
    eager, layer = (Sparseout(0.4, 1.5, scale="rms") for _ in range(2))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for i in range(3):
        x = batch(0.3 * (i + 1), i).requires_grad_()
        results = []
        for op in (eager, compiled):
            y = seeded(op, x)
            results.append((y.detach(), *torch.autograd.grad(y.sum(), x)))
        torch.testing.assert_close(*results)
        torch.testing.assert_close(layer.running_rms, eager.running_rms)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_a_compiled_layer_in_a_checkpoint_has_the_gradients_of_none(compiler, use_reentrant):
    torch._dynamo.reset()
    results = []
    for run in (lambda op, x: op(x), lambda op, x: checkpoint(op, x, use_reentrant=use_reentrant)):
        layer = Sparseout(0.4, 1.0, scale="rms")
        compiled = torch.compile(layer, backend=compiler)
        inputs = [batch(size).requires_grad_() for size in (0.1, 10.0)]
        torch.manual_seed(3)
        sum(run(compiled, x * 1).sum() for x in inputs).backward()
        results.append([*(x.grad for x in inputs), layer.running_rms])
    torch.testing.assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_in_a_compiled_function_has_the_gradients_of_none():
    results = []
    for run in (lambda op, x: op(x), lambda op, x: checkpoint(op, x, use_reentrant=False)):
        torch._dynamo.reset()
        layer, grads = Sparseout(0.4, 1.0, scale="rms"), []
        compiled = torch.compile(lambda x, layer=layer, run=run: run(lambda x: layer(x).sin(), x), backend="aot_eager")
        torch.manual_seed(3)
        for size in (0.1, 10.0):
            x = batch(size).requires_grad_()
            grads.extend(torch.autograd.grad(compiled(x).sum(), x))
        results.append([*grads, layer.running_rms])
    torch.testing.assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("make", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"])
def test_a_copy_remembers_no_calls_of_its_original(make):
    layer, x = Sparseout(0.4, 1.5, scale="rms"), batch(0.3).requires_grad_()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert (layer._recent_calls[0] >= 0).sum() == 1
    assert (make(layer)._recent_calls[0] == -1).all()


def measure(x, value, seed):
    return torch.ops.sparseout.running_rms(x, value, *no_recent_calls(value.device), seed, True)


SEED = torch.zeros(1, dtype=torch.int64)
ONE = torch.ones(())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3).long(), ONE, SEED), TypeError, "input must be float16, .*, got int64"),
        ((torch.ones(3, dtype=torch.complex64), ONE, SEED), TypeError, "input must be float16, .*, got complex64"),
        ((torch.ones(3).to_sparse(), ONE, SEED), TypeError, "input must be a dense tensor, got a sparse_coo one"),
        ((torch.ones(3), ONE.long(), SEED), TypeError, "value must be float16, .*, got int64"),
        ((torch.ones(3), torch.ones(2), SEED), ValueError, r"value must be a 0-d tensor, got one of shape \(2,\)"),
        ((torch.ones(3), ONE, SEED.int()), TypeError, r"seed must be int64 of shape \(1,\), got int32 of shape \(1,\)"),
        (
            (torch.ones(3), ONE, torch.zeros(2).long()),
            TypeError,
            r"seed must be int64 of shape \(1,\), got int64 of shape \(2,\)",
        ),
        ((torch.ones(3), ONE.to("meta"), SEED), ValueError, "value must be on the device of input, cpu, got one on meta"),
        ((torch.ones(3, device="meta"), ONE, SEED), ValueError, "value must be on the device of input, meta, got one on cpu"),
        ((torch.ones(3), ONE, SEED.to("meta")), ValueError, "seed must be on the device of input, cpu, got one on meta"),
    ],
)
def test_the_operator_refuses_what_it_cannot_measure(arguments, error, message):
    with pytest.raises(error, match=message):
        measure(*arguments)
    assert ONE == 1


def test_the_operator_takes_empty_scalar_and_meta_tensors():
    for x, known, after in ((torch.ones(0, 3), 2.0, 2.0), (torch.ones(0), 0.0, 0.0), (torch.tensor(3.0), 0.0, 3.0)):
        value = torch.tensor(known)
        assert measure(x, value, SEED) == (known or after or 1.0)
        assert value == after
    found = measure(torch.ones(3, device="meta"), ONE.to("meta"), SEED.to("meta"))
    assert (found.shape, found.device.type) == ((), "meta")
