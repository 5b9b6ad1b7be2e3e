"""`SkipZerosLinear` is an `nn.Linear` in its values, gradients, checkpoints and copies."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn

from sparseout.inference import SkipZerosLinear, kernel, restore
from sparseout.inference.layer import convert


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(40, 30).eval()


@pytest.fixture
def x():
    return torch.randn(5, 40, generator=torch.Generator().manual_seed(1)).relu()


def skipping(linear, dtype=torch.float32, **settings):
    return convert(copy.deepcopy(linear), dtype=dtype, **settings)


@pytest.fixture
def skipped(monkeypatch):
    """The number of rows of each product that skipped zeros."""
    rows, compiled = [], kernel._compiled
    monkeypatch.setattr(kernel, "_compiled", lambda input, *rest: (rows.append(len(input)), compiled(input, *rest))[1])
    return rows


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_its_output_is_the_linear_layers(linear, x, mode, skipped):
    layer = skipping(linear)
    with mode():
        assert torch.allclose(layer(x), linear(x), rtol=1e-5, atol=1e-6)
    assert skipped == [5]


def test_its_gradients_are_the_linear_layers(linear, x):
    layer, ours, theirs = skipping(linear), x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(ours).square().sum().backward()
    linear(theirs).square().sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    for name, parameter in linear.named_parameters():
        assert torch.allclose(parameter.grad, layer.get_parameter(name).grad, atol=1e-5)


def test_training_mode_and_large_batches_are_dense(linear, x, skipped):
    layer = skipping(linear, max_batch=4)
    assert torch.allclose(layer(x), linear(x), atol=1e-6)
    assert torch.allclose(layer.train()(x[:4]), linear(x[:4]), atol=1e-6)
    assert skipped == []


def test_a_cutoff_counts_small_inputs_as_zero_for_any_batch(linear, x):
    cut = x.masked_fill(x <= 0.7, 0)
    for limit in (None, 0):
        assert torch.allclose(skipping(linear, cutoff=0.7, max_batch=limit)(x), linear(cut), atol=1e-6)


def test_bfloat16_weights_are_rounded_and_sums_are_not(linear, x):
    layer, rounded = skipping(linear, torch.bfloat16), copy.deepcopy(linear).bfloat16().float()
    rounded.bias.data = linear.bias.data
    for limit in (None, 0):
        layer.max_batch = limit
        assert torch.allclose(layer(x), rounded(x), rtol=1e-5, atol=1e-6)
    assert layer.state_dict()["weight"].dtype == torch.float32
    assert torch.equal(restore(nn.Sequential(layer))[0].weight, rounded.weight)


def test_a_bfloat16_model_stays_one(linear, x):
    linear, x = linear.bfloat16(), x.bfloat16()
    layer = skipping(linear, torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer(x), linear(x), rtol=2e-2, atol=2e-2)
    assert layer.state_dict()["weight"].dtype == torch.bfloat16


def test_checkpoints_go_both_ways(linear, x):
    layer = skipping(linear)
    saved = layer.state_dict()
    assert saved.keys() == linear.state_dict().keys()
    assert all(
        torch.equal(value, saved[key]) and value.stride() == saved[key].stride() for key, value in linear.state_dict().items()
    )
    other = nn.Linear(40, 30).eval()
    for assign in (False, True):
        layer.load_state_dict(other.state_dict(), assign=assign)
        assert layer.weight.t().is_contiguous()
        assert torch.allclose(layer(x), other(x), atol=1e-6)


def reloaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), reloaded])
def test_a_copy_skips_too(linear, x, twin, skipped):
    layer = twin(skipping(linear, cutoff=0.1, max_batch=6))
    assert (layer.cutoff, layer.max_batch) == (0.1, 6)
    assert torch.allclose(layer(x), linear(x.masked_fill(x <= 0.1, 0)), atol=1e-6)
    assert skipped == [5]


def test_other_dtypes_and_unreadable_tensors_get_the_dense_product(linear, x, skipped):
    layer = skipping(linear)
    mapped = torch.func.vmap(lambda row: torch.func.functional_call(layer, dict(layer.named_parameters()), row))(x)
    assert torch.allclose(mapped, linear(x), atol=1e-6)
    assert torch.allclose(layer.double()(x.double()), linear.double()(x.double()))
    assert skipped == []


def test_a_shape_that_does_not_fit_raises_as_in_the_linear_layer(linear):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        skipping(linear)(torch.ones(5, 41))


def test_restore_gives_back_the_same_linear_layer(linear, x):
    model = nn.Sequential(copy.deepcopy(linear))
    layer, weight = model[0], model[0].weight
    convert(layer, dtype=torch.float32, cutoff=0.5, max_batch=2)
    assert restore(model) is model
    assert type(model[0]) is nn.Linear
    assert model[0] is layer
    assert model[0].weight is weight
    assert vars(layer).keys() == vars(linear).keys()
    assert torch.equal(model(x), linear(x))
    with pytest.warns(UserWarning, match="restore changed nothing"):
        restore(model)
    with pytest.raises(TypeError, match="model"):
        restore("model")


def test_it_compiles_without_graph_breaks(linear, x):
    layer = skipping(linear)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (x, x[:3]):
        assert torch.allclose(compiled(batch), linear(batch), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_it_exports_and_traces(linear, x):
    layer = skipping(linear)
    exported = torch.export.export(layer, (x,))
    assert "sparseout.skip_zeros" in str(exported.graph)
    assert torch.allclose(exported.module()(x), linear(x), atol=1e-6)
    assert torch.allclose(torch.jit.trace(layer, (x,))(x), linear(x), atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_the_operator_is_registered_correctly(linear, x, bias):
    arguments = (x.requires_grad_(), linear.weight.detach().t().contiguous().t().requires_grad_())
    torch.library.opcheck(torch.ops.sparseout.skip_zeros.default, (*arguments, linear.bias if bias else None, 0.0, None))


def test_threads_may_share_a_layer(linear, x):
    layer, results = skipping(linear), []
    work = [threading.Thread(target=lambda: results.append(layer(x).detach())) for _ in range(4)]
    for each in work:
        each.start()
    for each in work:
        each.join()
    assert len(results) == 4
    assert all(torch.equal(each, results[0]) for each in results)


def test_its_description_names_its_settings():
    layer = SkipZerosLinear(4, 3)
    assert "max_batch=None, weights=float32" in repr(layer)
    assert layer.weight.t().is_contiguous()
