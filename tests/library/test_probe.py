"""The values that a probe measures for each kind of layer, and the sampling of forward passes."""

import pytest
import torch
from probed import hooks, inputs, mlp
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import sparseout
from sparseout import Probe, metrics


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
def test_every_nth_forward_pass_is_measured(every):
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


def test_an_input_that_changed_in_place_is_measured_again():
    class Doubles(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    model = mlp(Doubles(), nn.Dropout())
    with Probe(model) as probe, torch.no_grad():
        model(inputs())
    assert probe.summary()["3"].rms == pytest.approx(2 * probe.summary()["1"].rms)


def test_half_precision_and_float64_models():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = mlp().to(dtype)
        with Probe(model, measures="all") as probe:
            y = model(inputs().to(dtype))
        assert probe.summary()["1"].gini == pytest.approx(metrics.gini(y.double()).mean().item(), rel=1e-6)


def test_autocast():
    model = mlp()
    with Probe(model, measures="all") as probe, torch.autocast("cpu", torch.bfloat16):
        y = model(inputs())
    assert y.dtype == torch.bfloat16
    assert probe.summary()["1"].gini == pytest.approx(metrics.gini(y.double()).mean().item(), rel=1e-6)


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
