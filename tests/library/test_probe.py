"""A probe sees what a model does, changes nothing of it, and leaves nothing behind."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import sparseout
from sparseout import Probe, metrics


def mlp(*after):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), *after)


def hooks(model):
    return sum(len(found) for module in model.modules() for found in (module._forward_hooks, module._forward_pre_hooks))


def inputs(count=5, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_it_measures_the_output_of_an_activation():
    model, x = mlp(), inputs()
    with Probe(model, measures="all") as probe:
        y = model(x)
    record = probe.summary()["1"]
    assert (record.vectors, record.units, record.calls, record.unit_dim, record.mode) == (5, 16, 1, (-1,), "train")
    assert record.hoyer == pytest.approx(metrics.hoyer(y.double()).mean().item(), rel=1e-6)
    assert record.zeros == (y == 0).double().mean()
    assert hooks(model) == 0


@pytest.mark.parametrize("noise", [nn.Dropout(0.5), sparseout.Sparseout(0.5, 1.0), nn.Dropout(0.5, inplace=True)])
def test_it_measures_the_clean_input_of_noise(noise):
    model = mlp(noise)
    with Probe(model) as probe:
        model(inputs())
    layers = probe.summary()
    assert layers["2"].value == "clean input"
    assert (layers["2"].zeros, layers["2"].rms) == (layers["1"].zeros, layers["1"].rms)


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


def test_train_and_eval_are_counted_apart():
    model = mlp(nn.Dropout())
    with Probe(model) as probe:
        model(inputs(3))
        model.eval()
        model(inputs(4))
        model(inputs(5))
    assert [(r.layer, r.mode, r.vectors) for r in probe.summary().layers] == [
        ("1", "train", 3),
        ("1", "eval", 9),
        ("2", "train", 3),
        ("2", "eval", 9),
    ]
    assert probe.summary().forwards == {"train": {"seen": 1, "measured": 1}, "eval": {"seen": 2, "measured": 2}}


def test_channels_are_the_units_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4), nn.Tanh())
    x = torch.randn(2, 3, 8, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        with Probe(model) as probe:
            y = model[1](model[0](x.to(memory_format=layout)))
            model(x.to(memory_format=layout))
        summary = probe.summary()
        assert (summary["1"].units, summary["1"].vectors, summary["1"].unit_dim) == (8, 2 * 2 * 36, (-3,))
        assert summary["1"].hoyer == pytest.approx(metrics.hoyer(y.double(), 1).mean().item(), rel=1e-6)
        assert (summary["4"].units, summary["4"].vectors) == (4, 2)


def test_a_map_can_be_flattened():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    with Probe(model, unit_dim=(1, 2, 3)) as probe:
        y = model(torch.randn(2, 3, 8, 8))
    assert (probe.summary()["1"].units, probe.summary()["1"].vectors) == (8 * 36, 2)
    assert probe.summary()["1"].hoyer == pytest.approx(metrics.hoyer(y.double(), (1, 2, 3)).mean().item(), rel=1e-6)


class Recurrent(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_outputs_of_recurrent_layers_are_tuples(kind):
    model = Recurrent(kind(6, 16, batch_first=True))
    with Probe(model, measures="all") as probe:
        y, _ = model(torch.randn(3, 7, 6))
    record = probe.summary()["rnn"]
    assert (record.vectors, record.units) == (21, 16)
    assert record.hoyer == pytest.approx(metrics.hoyer(y.double()).mean().item(), rel=1e-6)


def test_a_packed_sequence_has_no_padding():
    model = Recurrent(nn.LSTM(6, 16, batch_first=True))
    with Probe(model) as probe:
        model(pack_padded_sequence(torch.randn(3, 7, 6), torch.tensor([7, 4, 2]), batch_first=True))
    assert probe.summary()["rnn"].vectors == 13


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(6, 16)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0]


def test_calls_in_a_forward_pass_are_counted_together_or_apart():
    x = torch.randn(3, 4, 6)
    model = Cell()
    with Probe(model) as together, Probe(model, calls="apart") as apart:
        model(x)
        model(x)
    record = together.summary()["cell"]
    assert (record.call, record.calls, record.vectors) == (None, 8, 24)
    assert "cell: 8 calls in 2 forward passes, counted together" in together.summary().remarks()
    assert apart.summary().remarks() == ["train: 2 of 2 forward passes measured"]
    assert [(r.call, r.calls, r.vectors, r.name) for r in apart.summary().layers] == [
        (i, 2, 6, f"cell #{i}") for i in (1, 2, 3, 4)
    ]
    hidden = model.cell(x[:, 0])[0].double()
    assert apart.summary().layers[0].hoyer == pytest.approx(metrics.hoyer(hidden).mean().item(), rel=1e-6)


@pytest.mark.parametrize("every", [2, 3])
def test_one_forward_pass_in_so_many(every):
    model = mlp(nn.Dropout())
    with Probe(model, every=every) as probe:
        for i in range(7):
            model.train(i % 2 == 0)
            model(inputs(i + 1))
    train, evaluation = [1, 3, 5, 7][::every], [2, 4, 6][::every]
    summary = probe.summary()
    assert [r.vectors for r in summary.layers] == [sum(train), sum(evaluation)] * 2
    assert summary.forwards == {
        "train": {"seen": 4, "measured": len(train)},
        "eval": {"seen": 3, "measured": len(evaluation)},
    }
    assert summary.settings.every == every
    assert f"train: {len(train)} of 4 forward passes measured" in str(summary)


def test_a_part_that_is_called_by_itself_is_measured_and_sampled_too():
    model = nn.Sequential(mlp(), nn.Tanh())
    with Probe(model, every=2) as probe:
        for _ in range(5):
            model[0](inputs(2))
    assert probe.summary()["0.1"].vectors == 6
    assert probe.summary().unseen == {"1": "never called"}


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.act = nn.ReLU()
        self.unused = nn.Dropout()

    def forward(self, x):
        x = self.act(self.linear(x))
        x = F.dropout(F.gelu(self.linear(x)), training=self.training)
        return torch.sigmoid(x) + x.relu_()


def test_activations_that_no_module_carries_are_named():
    model = nn.Sequential(Functional())
    with Probe(model) as probe:
        model(inputs())
    assert probe.summary().unseen == {
        "0.unused": "never called",
        "0": "calls dropout, gelu, relu, sigmoid without a module",
    }
    assert "not seen: 0: calls dropout, gelu, relu, sigmoid without a module" in str(probe.summary())


@pytest.mark.parametrize("activation", ["relu", nn.GELU()])
@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_transformer(activation, training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    with Probe(model) as probe, torch.no_grad():
        model(torch.randn(3, 5, 8))
    summary = probe.summary()
    seen = {record.layer for record in summary.layers}
    carried = ("dropout", "dropout1", "dropout2", *(() if activation == "relu" else ("activation",)))
    assert seen == {f"layers.{i}.{name}" for i in (0, 1) for name in carried}
    functional = {"layers.0": "calls relu without a module", "layers.1": "calls relu without a module"}
    assert functional.items() <= summary.unseen.items() or activation != "relu"
    assert all("multi_head_attention_forward" in summary.unseen[f"layers.{i}.self_attn"] for i in (0, 1))


def test_modules_that_carry_a_function_are_not_called_unseen():
    model = mlp(nn.Dropout(), nn.Tanh())
    with Probe(model, layers="1") as probe:
        model(inputs())
    assert probe.summary().unseen == {}


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


def test_an_input_that_changed_in_place_is_measured_again():
    class Doubles(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    model = mlp(Doubles(), nn.Dropout())
    with Probe(model) as probe, torch.no_grad():
        model(inputs())
    assert probe.summary()["3"].rms == pytest.approx(2 * probe.summary()["1"].rms)


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


def test_half_precision_and_float64_models():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = mlp().to(dtype)
        with Probe(model, measures="all") as probe:
            y = model(inputs().to(dtype))
        assert probe.summary()["1"].gini == pytest.approx(metrics.gini(y.double()).mean().item(), rel=1e-6)


@pytest.mark.parametrize("measures", ["basic", "all"])
def test_a_default_device_of_the_users_own(measures):
    model = mlp()
    x = inputs(400)
    with Probe(model, measures=measures) as probe, torch.device("meta"):
        model(x)
    assert probe.summary()["1"].vectors == 400


def test_autocast():
    model = mlp()
    with Probe(model, measures="all") as probe, torch.autocast("cpu", torch.bfloat16):
        y = model(inputs())
    assert y.dtype == torch.bfloat16
    assert probe.summary()["1"].gini == pytest.approx(metrics.gini(y.double()).mean().item(), rel=1e-6)


class Odd(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


@pytest.mark.parametrize(
    "value", [None, "text", torch.ones(3, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.ones(3, device="meta"), {}]
)
def test_what_cannot_be_measured_is_named(value):
    model = nn.Sequential(Odd(value))
    with Probe(model, layers="0") as probe:
        model(inputs())
    assert probe.summary().unseen == {"0": "its output is no dense, real tensor"}


@pytest.mark.parametrize(
    ("value", "vectors"),
    [
        (torch.tensor(2.0), 1),
        (torch.ones(4), 1),
        ({"last_hidden_state": torch.ones(2, 3, 4), "cache": None}, 6),
        ([None, (torch.ones(2, 4),)], 2),
        (torch.ones(0, 4), 0),
    ],
)
def test_values_of_many_kinds(value, vectors):
    model = nn.Sequential(Odd(value))
    with Probe(model, layers="0") as probe:
        model(inputs())
    assert sum(record.vectors for record in probe.summary().layers) == vectors


def test_a_clean_input_may_be_given_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise = nn.Dropout()

        def forward(self, x):
            return self.noise(input=x)

    model = Named()
    with Probe(model) as probe:
        model(inputs())
    assert probe.summary()["noise"].vectors == 5


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


def test_thresholds_and_the_histogram_may_be_asked_for_alone():
    model = mlp()
    with Probe(model, thresholds=[0.5, 0.1]) as plain, Probe(model, thresholds=[0.5], histogram=True) as curve:
        y = model(inputs())
    assert plain.summary()["1"].near_zero == {"0.1": (y < 0.1).double().mean(), "0.5": (y < 0.5).double().mean()}
    assert plain.summary()["1"].near_zero_rms == {}
    assert plain.summary()["1"].histogram is None
    assert set(curve.summary()["1"].near_zero_rms) == {"0.5"}
    with Probe(model, measures="all", thresholds=(), histogram=False) as neither:
        model(inputs())
    assert (neither.summary()["1"].near_zero, neither.summary()["1"].histogram) == ({}, None)
