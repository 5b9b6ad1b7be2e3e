"""A running scale in calls that are recomputed or compiled, and the operator that measures it there."""

import copy
import pickle

import pytest
import torch
from test_running_scale import _backend, batch, scale, seeded  # noqa: F401 - fixtures
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparseout import Sparseout
from sparseout.op.running_rms import no_recent_calls


def network(scale):  # noqa: F811
    layers = [nn.Linear(9, 9), Sparseout(0.4, 1.0, scale=scale), nn.Tanh(), nn.Linear(9, 9), Sparseout(0.4, 3.0, scale=scale)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(layer.apply(_reset) for layer in layers))


def _reset(layer):
    if isinstance(layer, nn.Linear):
        layer.reset_parameters()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
def test_checkpointing_changes_neither_gradients_nor_what_is_learnt(known, use_reentrant, scale):  # noqa: F811
    results = []
    for run in (lambda model, x: model(x), lambda model, x: checkpoint(model, x, use_reentrant=use_reentrant)):
        model = network(scale)
        if known:
            model(batch(30.0))
        inputs = [batch(size, 7).requires_grad_() for size in (0.2, 5.0)]
        torch.manual_seed(4)
        # Both forward passes run before either is recomputed.
        sum(run(model, x).square().sum() for x in inputs).backward()
        results.append([leaf.grad for leaf in (*inputs, *model.parameters())] + [model[1].running_rms, model[4].running_rms])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_two_networks_with_one_seed_are_recomputed_each_with_its_own(use_reentrant, scale):  # noqa: F811
    grads = []
    for run in (lambda layer, x: layer(x), lambda layer, x: checkpoint(layer, x, use_reentrant=use_reentrant)):
        inputs = [batch(size).requires_grad_() for size in (0.1, 10.0)]
        outputs = [seeded(run, Sparseout(0.4, 1.0, scale=scale), x * 1) for x in inputs]
        sum(y.sum() for y in outputs).backward()
        grads.append([x.grad for x in inputs])
    torch.testing.assert_close(*grads)


@pytest.mark.filterwarnings("default")  # torch's compiler warns about itself
def test_a_compiled_layer_learns_the_same(scale):  # noqa: F811
    torch._dynamo.reset()
    eager, layer = (Sparseout(0.4, 1.5, scale=scale) for _ in range(2))
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
def test_a_compiled_layer_in_a_checkpoint_has_the_gradients_of_none(compiler, use_reentrant, scale):  # noqa: F811
    torch._dynamo.reset()
    results = []
    for run in (lambda op, x: op(x), lambda op, x: checkpoint(op, x, use_reentrant=use_reentrant)):
        layer = Sparseout(0.4, 1.0, scale=scale)
        compiled = torch.compile(layer, backend=compiler)
        inputs = [batch(size).requires_grad_() for size in (0.1, 10.0)]
        torch.manual_seed(3)
        sum(run(compiled, x * 1).sum() for x in inputs).backward()
        results.append([*(x.grad for x in inputs), layer.running_rms])
    torch.testing.assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_in_a_compiled_function_has_the_gradients_of_none(scale):  # noqa: F811
    results = []
    for run in (lambda op, x: op(x), lambda op, x: checkpoint(op, x, use_reentrant=False)):
        torch._dynamo.reset()
        layer, grads = Sparseout(0.4, 1.0, scale=scale), []
        compiled = torch.compile(lambda x, layer=layer, run=run: run(lambda x: layer(x).sin(), x), backend="aot_eager")
        torch.manual_seed(3)
        for size in (0.1, 10.0):
            x = batch(size).requires_grad_()
            grads.extend(torch.autograd.grad(compiled(x).sum(), x))
        results.append([*grads, layer.running_rms])
    torch.testing.assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("make", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"])
def test_a_copy_remembers_no_calls_of_its_original(make, scale):  # noqa: F811
    layer, x = Sparseout(0.4, 1.5, scale=scale), batch(0.3).requires_grad_()
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
