"""The terms of penalty layers: counted once with checkpointing, copies, compilation, autocast and several passes."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import sparseout
from sparseout import penalty
from sparseout.regularizers import L1, HardConcrete, HoyerSquare, KLTarget, Parsimonious, TransformedL1

KINDS = {
    "L1": lambda: L1(0.3),
    "TransformedL1": lambda: TransformedL1(0.3),
    "HoyerSquare": lambda: HoyerSquare(0.3),
    "KLTarget": lambda: nn.Sequential(nn.Sigmoid(), KLTarget(0.3)),
    "Parsimonious": lambda: Parsimonious(0.3, units=6, clusters=3),
    "HardConcrete": lambda: HardConcrete(0.3, units=6),
}
BATCH = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def model_of(kind="L1", seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), KINDS[kind](), nn.Linear(6, 2))


def gradients(model, run, batch=BATCH):
    penalty(model)
    torch.manual_seed(1)
    model.zero_grad()
    loss = run(model, batch).square().mean() + penalty(model)
    loss.backward()
    return loss.item(), [each.grad.clone() for each in model.parameters()]


def plain(model, batch):
    return model(batch)


def checkpointed(reentrant):
    def run(model, batch):
        batch = batch.clone().requires_grad_()
        hidden = checkpoint(model[:3], batch, use_reentrant=reentrant)
        return model[3](hidden)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_term_of_the_last_pass_is_added_once(kind):
    model = model_of(kind)
    _, expected = gradients(model, plain)
    penalty(model)
    model(BATCH)  # a pass whose term must not stay
    model = model if kind != "Parsimonious" else model_of(kind)  # its centres have moved
    loss, again = gradients(model, plain)
    assert loss > 0
    for a, b in zip(expected, again, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        assert penalty(model).item() > 0
        model(BATCH)
        assert penalty(model).item() == 0
    model.eval()(BATCH)
    assert penalty(model).item() == 0


@pytest.mark.parametrize("reentrant", [False, True], ids=["plain checkpoint", "reentrant checkpoint"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_counts_no_term_twice_and_loses_none(kind, reentrant):
    model = model_of(kind)
    wanted, expected = gradients(copy.deepcopy(model), plain)
    found, ours = gradients(model, lambda model, batch: checkpointed(reentrant)(model, batch))
    assert found == pytest.approx(wanted, rel=1e-6)
    for a, b in zip(expected, ours, strict=True):
        torch.testing.assert_close(a, b)
    for layer in model.modules():
        if isinstance(layer, sparseout.regularizers.Penalty):
            assert len(layer.terms) == 1


def test_reentrant_checkpoints_of_a_shared_layer_are_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), L1(0.1))

        def forward(self, x):
            for _ in range(2):
                x = checkpoint(self.block, x, use_reentrant=True)
            return x

    model = Twice()
    penalty(model)
    output = model(BATCH.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        (output.sum() + penalty(model)).backward()


def test_a_layer_that_runs_several_times_in_a_pass_has_a_term_for_each_call():
    layer = L1(0.5)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(2 * self.layer(x))

    model = Twice()
    penalty(model)
    for _ in range(3):
        model(torch.ones(2, 4))
        assert penalty(model).item() == pytest.approx(0.5 * (4 + 8))
    unread = Twice()
    unread.layer = L1(0.5)
    unread(torch.ones(2, 4))
    with pytest.raises(RuntimeError, match=r"ran 2 times before the first penalty\(model\)"):
        penalty(unread)
    unread(torch.ones(2, 4))
    assert penalty(unread).item() == pytest.approx(0.5 * (4 + 8))


def test_a_term_that_nobody_reads_is_reported():
    layer = L1(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(99):
            layer(BATCH)
    with pytest.warns(UserWarning, match=r"L1 ran 100 times in training and its term was never read"):
        layer(BATCH)
    with pytest.raises(ValueError, match="model must have a layer with a penalty, got a Linear without one"):
        penalty(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["L1", "HoyerSquare", "HardConcrete"])
def test_accumulated_gradients_are_the_mean_over_the_parts(kind):
    model = model_of(kind)
    penalty(model)
    torch.manual_seed(1)
    (model(BATCH).mean() + penalty(model)).backward()
    whole = [each.grad.clone() for each in model.parameters()]
    if kind == "HardConcrete":  # each part draws gates of its own
        return
    model.zero_grad()
    for part in BATCH.split(4):
        ((model(part).mean() + penalty(model)) / 2).backward()
    for a, b in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_start_without_terms_and_go_on_alike(kind):
    model = model_of(kind)
    gradients(model, plain)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert penalty(other).item() == 0
        for a, b in zip(gradients(copy.deepcopy(model), plain)[1], gradients(other, plain)[1], strict=True):
            torch.testing.assert_close(a, b)
    other = model_of(kind, seed=3)
    other.load_state_dict(model.state_dict())


def test_autocast_computes_the_term_in_float32():
    model = nn.Sequential(nn.Linear(4, 6), L1(0.1))
    penalty(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(BATCH)
        term = penalty(model)
    assert term.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model[0](BATCH)
    assert term.item() == pytest.approx(0.1 * hidden.float().abs().sum(1).mean().item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["L1", "HoyerSquare"])
def test_a_compiled_model_has_the_same_term_and_does_not_recompile_for_a_strength(kind):
    model = model_of(kind)
    expected = gradients(copy.deepcopy(model), plain)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter)
    found = gradients(compiled, plain)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for a, b in zip(expected[1], found[1], strict=True):
        torch.testing.assert_close(a, b)
    frames = counter.frame_count
    for strength in (0.6, 0.9):
        model[2].strength = strength
        compiled(BATCH)
        assert penalty(compiled).item() == pytest.approx(strength / 0.3 * gradients_term(kind), rel=1e-5)
    assert counter.frame_count == frames


def gradients_term(kind):
    model = model_of(kind)
    model(BATCH)
    return penalty(model).item()
