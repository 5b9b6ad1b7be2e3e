"""A probe does not change the model's results, keeps no activations, and leaves no hooks behind."""

import copy
import gc
import weakref

import pytest
import torch
from probed import hooks, inputs, mlp
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparseout import Probe


def test_the_models_numbers_and_gradients_are_the_same():
    results = []
    for probing in (False, True):
        model = mlp(nn.Dropout())
        torch.manual_seed(1)
        x = inputs().requires_grad_()
        probe = Probe(model, measures="all")
        if probing:
            probe.start()
        model(x).square().sum().backward()
        results.append([x.grad, *(parameter.grad for parameter in model.parameters()), torch.rand(3)])
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("stopped", ["context", "stop", "deletion"])
def test_hooks_come_off(stopped):
    model = mlp()
    if stopped == "context":
        with Probe(model) as probe:
            assert hooks(model) > 0
    else:
        probe = Probe(model).start()
        assert hooks(model) > 0
        if stopped == "stop":
            probe.stop()
            probe.stop()
        else:
            del probe
            gc.collect()
    assert hooks(model) == 0


class Raises(nn.Module):
    def forward(self, x):
        raise KeyError("the model's own")


@pytest.mark.parametrize("training", [True, False])
def test_hooks_come_off_when_the_model_raises(training):
    model = mlp(Raises()).train(training)
    with pytest.raises(KeyError, match="the model's own"), Probe(model) as probe:
        model(inputs())
    assert hooks(model) == 0
    assert probe.summary()["1"].vectors == 5
    assert not torch.overrides._get_current_function_mode_stack()
    with probe:
        with pytest.raises(KeyError):
            model(inputs())
        with pytest.raises(KeyError):
            model(inputs())
    assert probe.summary()["1"].vectors == 15
    assert probe.summary().forwards[probe.summary().layers[0].mode] == {"seen": 3, "measured": 3}


def test_an_error_in_a_hook_names_the_layer_and_ends_the_probe():
    model = mlp(nn.Dropout())
    with (
        pytest.raises(RuntimeError, match=r"probing 1 \(ReLU\) failed: unit_dim must name .* of shape \(5, 16\)"),
        Probe(model, unit_dim={"1": 2}),
    ):
        model(inputs())
    assert hooks(model) == 0
    assert not torch.overrides._get_current_function_mode_stack()
    model(inputs())


def test_probes_nest_and_contexts_may_be_entered_again():
    model = mlp()
    outer, inner = Probe(model), Probe(model)
    with outer:
        model(inputs(1))
        with inner, outer:
            model(inputs(2))
        model(inputs(4))
    model(inputs(8))
    with outer:
        model(inputs(16))
    assert outer.summary()["1"].vectors == 1 + 2 + 4 + 16
    assert inner.summary()["1"].vectors == 2
    assert hooks(model) == 0


class Stops(nn.Module):
    def forward(self, x):
        self.probe.stop()
        return x


def test_a_probe_may_be_stopped_by_the_model_it_watches():
    model = mlp(Stops(), nn.Tanh())
    model[2].probe = Probe(model).start()
    model(inputs())
    assert hooks(model) == 0
    assert not torch.overrides._get_current_function_mode_stack()
    assert model[2].probe.summary().unseen == {"3": "never called"}


def test_no_activation_is_kept():
    model = mlp(nn.Tanh())
    kept = []
    model[1].register_forward_hook(lambda module, args, output: kept.append(weakref.ref(output)))
    with Probe(model, measures="all"):
        for _ in range(3):
            model(inputs())
        gc.collect()
        assert [reference() for reference in kept] == [None] * 3


def test_memory_is_the_same_after_ten_batches_and_a_thousand():
    def held():
        gc.collect()
        return sum(item.numel() * item.element_size() for item in gc.get_objects() if type(item) is torch.Tensor)

    model = mlp(nn.Tanh()).eval()
    with Probe(model, measures="all", calls="apart") as probe, torch.no_grad():
        sizes = []
        for count in (10, 990):
            for i in range(count):
                model(inputs(8, seed=i))
            sizes.append(held())
    assert sizes[0] == sizes[1]
    assert probe.summary().layers[0].vectors == 8000


def test_copies_of_the_model_are_not_the_model():
    model = mlp()
    with Probe(model) as probe:
        copy.deepcopy(model)(inputs())
        model(inputs(2))
    assert probe.summary()["1"].vectors == 2


@pytest.mark.parametrize("outside", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("measures", ["basic", "all"])
def test_inference_mode_may_come_and_go(outside, measures):
    model = mlp(nn.Dropout())
    with Probe(model, measures=measures) as probe:
        for _ in range(2):
            with torch.inference_mode():
                model(inputs(400))
            with outside():
                model(inputs(400))
    assert probe.summary()["1"].vectors == 1600


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoints_second_pass_is_not_counted(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = mlp()

        def forward(self, x):
            return checkpoint(self.part, x, use_reentrant=use_reentrant)

    model = Checkpointed()
    with Probe(model) as probe:
        model(inputs().requires_grad_()).sum().backward()
    assert probe.summary()["part.1"].vectors == 5


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_around_the_model_is_one_forward_pass(use_reentrant):
    model = mlp()
    with Probe(model) as probe:
        checkpoint(model, inputs().requires_grad_(), use_reentrant=use_reentrant).sum().backward()
    assert probe.summary().forwards == {"train": {"seen": 1, "measured": 1}}


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("warm", [True, False])
def test_a_compiled_model_runs_eagerly_while_it_is_probed(in_place, warm):
    model = mlp(nn.Dropout()).eval()
    if in_place:
        model.compile(backend="eager")
        compiled = model
    else:
        compiled = torch.compile(model, backend="eager")
    if warm:
        compiled(inputs())
    with Probe(compiled) as probe:
        compiled(inputs())
        compiled(inputs())
    assert [record.vectors for record in probe.summary().layers] == [10, 10]
    assert hooks(model) == 0
    torch._dynamo.reset()


@pytest.mark.parametrize("measures", ["basic", "all"])
def test_a_default_device_of_the_users_own(measures):
    model = mlp()
    x = inputs(400)
    with Probe(model, measures=measures) as probe, torch.device("meta"):
        model(x)
    assert probe.summary()["1"].vectors == 400


def test_reset_forgets():
    model = mlp()
    with Probe(model) as probe:
        model(inputs())
        probe.reset()
        model(inputs(2))
    assert probe.summary()["1"].vectors == 2
    assert probe.summary().forwards == {"train": {"seen": 1, "measured": 1}}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "gpt2"}, TypeError, "model must be a torch.nn.Module, got str"),
        ({"measures": "most"}, ValueError, "measures must be one of 'basic', 'all', got 'most'"),
        ({"measures": ["hoyer", "entropy"]}, ValueError, "measures must be one of 'zeros', .*, got 'entropy'"),
        ({"thresholds": [0.1, -1]}, ValueError, "thresholds must be positive finite numbers, got -1"),
        ({"thresholds": [0.0]}, ValueError, "thresholds must be positive finite numbers, got 0.0"),
        ({"every": 0}, ValueError, "every must be an integer of at least 1, got 0"),
        ({"every": 1.5}, ValueError, "every must be an integer of at least 1, got 1.5"),
        ({"calls": "both"}, ValueError, "calls must be one of 'together', 'apart', got 'both'"),
    ],
)
def test_bad_input_is_named_before_a_hook_is_set(arguments, error, message):
    model = mlp()
    with pytest.raises(error, match=message):
        Probe(**{"model": model, **arguments})
    assert hooks(model) == 0
