"""Models with Sparseout under autocast, checkpointing and the transforms of `torch.func`."""

import copy

import pytest
import torch
from small import seeded
from torch import nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import sparseout
from sparseout import Sparseout


def build(q=1.5, p=0.5, gradient="detached", features=6):
    """Return a model with swapped and inserted layers, with the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Dropout(p), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
    model = sparseout.insert_after(sparseout.swap_dropout(model, q).model, nn.GELU, q=q, p=p).model
    for layer in (model[2], model[4].sparseout):
        layer.gradient = gradient
    return model


def gradients(model, run, x):
    """Return the results of a step: the output, and the gradients of the input and of the parameters."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(5)
    y = run(x)
    y.square().sum().backward()
    return [y, *(leaf.grad for leaf in (x, *model.parameters()))]


X = torch.randn(4, 6, generator=seeded(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_a_half_precision_layer_with_the_same_mask(dtype):
    model = build().eval()
    model[2].train()
    seen = []
    model[2].register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    full = gradients(model, model, X)
    with torch.autocast("cpu", dtype=dtype):
        half = gradients(model, model, X)
    assert [output.dtype for _, output in seen] == [torch.float32, dtype]
    dropped = [(output / input.double().abs().clamp_min(1e-9) * input.sign()) < 1 for input, output in seen]
    assert torch.equal(*dropped)
    for ours, expected in zip(half, full, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("q", [1.5, 2.0])
def test_checkpointing_recomputes_the_same_masks(use_reentrant, q):
    model = build(q)
    plain = gradients(model, model, X)
    for run in (
        lambda x: checkpoint(model, x, use_reentrant=use_reentrant),
        lambda x: checkpoint_sequential(model, 3, x, use_reentrant=use_reentrant),
    ):
        for ours, expected in zip(gradients(model, run, X), plain, strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_the_backward_mask_of_a_checkpoint_is_its_forward_mask(use_reentrant):
    layers = nn.Sequential(Sparseout(0.5), Sparseout(0.5))
    ones = torch.ones(1000, requires_grad=True)
    y = checkpoint(layers, ones, use_reentrant=use_reentrant)
    y.sum().backward()
    assert set(y.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(ones.grad, y)


def test_functional_call_is_the_call():
    model = build()
    other = {name: parameter.detach() + 0.1 for name, parameter in model.named_parameters()}
    changed = copy.deepcopy(model)
    changed.load_state_dict(other)
    assert set(other) == set(changed.state_dict())
    torch.manual_seed(3)
    expected = changed(X)
    torch.manual_seed(3)
    assert torch.equal(functional_call(model, other, (X,)), expected)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_an_ensemble_draws_as_its_randomness_says(randomness):
    models = [build() for _ in range(5)]
    parameters, buffers = stack_module_state(models)

    def run(parameters, buffers):
        return functional_call(models[0], (parameters, buffers), (X,))

    y = vmap(run, randomness=randomness)(parameters, buffers)
    assert all(torch.equal(first, y[0]) == (randomness == "same") for first in y[1:])


def test_a_model_under_vmap_must_be_told_how_to_draw():
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(build())(X)
    assert vmap(build().eval())(X).shape == (4, 3)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_gradients_per_sample(randomness):
    model = nn.Sequential(Sparseout(0.5, 2.0), nn.Linear(300, 1, bias=False))
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return functional_call(model, parameters, (x,)).sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0), randomness=randomness)(parameters, torch.ones(6, 300))["1.weight"][:, 0]
    assert set(per_sample.unique().tolist()) == {0.0, 2.0}
    assert all(torch.equal(row, per_sample[0]) == (randomness == "same") for row in per_sample[1:])


def fixed(model, x):
    """Return a function that calls the model with the same masks every time."""
    model[2].generator, model[4].sparseout.generator = seeded(7), seeded(8)
    return model(x)


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, 3.0])
def test_every_way_to_the_jacobian_gives_the_same(gradient, q):
    model = build(q, gradient=gradient).double()
    x, tangent, cotangent = X[0].double(), X[1].double(), X[2, :3].double()

    def run(x):
        return fixed(model, x)

    jacobian = jacrev(run, chunk_size=1)(x)
    torch.testing.assert_close(jvp(run, (x,), (tangent,))[1], jacobian @ tangent)
    torch.testing.assert_close(vjp(run, x)[1](cotangent)[0], cotangent @ jacobian)
    torch.testing.assert_close(jacfwd(run, randomness="same")(x), jacobian)
    assert jacobian.abs().sum() > 0


@pytest.mark.parametrize("q", [1.5, 3.0])
def test_the_exact_hessian_is_the_derivative_of_the_gradient(q):
    model = build(q, gradient="exact").double()
    for layer in (model[2], model[4].sparseout):
        layer.eps = 1e-12
    x, direction = X[0].double(), torch.randn(6, dtype=torch.float64, generator=seeded(2))

    def loss(x):
        return fixed(model, x).square().sum()

    step = 1e-5
    difference = (grad(loss)(x + step * direction) - grad(loss)(x - step * direction)) / (2 * step)
    torch.testing.assert_close(jacfwd(jacrev(loss), randomness="same")(x) @ direction, difference, rtol=1e-4, atol=1e-4)
