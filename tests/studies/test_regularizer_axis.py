"""The axis `regularizer` of the studies: layers, settings with an effect, records, resumption, and targets."""

import dataclasses
import json
from typing import get_args

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from interrupted import interrupted_after
from rich.console import Console
from torch import nn

from sparseout import regularizers
from sparseout.cli.main import main
from sparseout.records.identity import TARGET_FIELDS, unused_settings
from sparseout.records.methods import METHOD_SETTINGS, METHODS, Regularizer
from sparseout.records.schema import read_summary
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies import image, language
from sparseout.studies.autoencoder import STUDY, Autoencoder, AutoencoderConfig, AutoencoderLearner
from sparseout.studies.data import mnist
from sparseout.training.folders import read_lines
from sparseout.training.regularizer import regularizer_layer

pytestmark = pytest.mark.usefixtures("no_report", "one_thread")

LAYERS = {
    "l1": regularizers.L1,
    "transformed_l1": regularizers.TransformedL1,
    "hoyer_square": regularizers.HoyerSquare,
    "decov": regularizers.DeCov,
    "k_winners": regularizers.KWinners,
    "batch_k_winners": regularizers.BatchKWinners,
    "lifetime_winners": regularizers.LifetimeWinners,
    "hard_concrete": regularizers.HardConcrete,
    "standout": regularizers.Standout,
}
FIELDS = {field.name: field.default for field in dataclasses.fields(AutoencoderConfig)}
OTHER = {"gradient": "exact", "scale": "rms", "target_measure": "zeros", "target_q_max": 3.5}
OPTIONAL = sorted((METHOD_SETTINGS | {*TARGET_FIELDS}) & set(FIELDS) - {"target_sparsity"})
SMALL = {"epochs": 2, "batch_size": 50, "hidden_size": 16}


def run(out, study=STUDY, checkpoint_minutes=10.0, **settings):
    axes = {name: (value,) for name, value in settings.items()}
    options = RunOptions(out, None, "cpu", checkpoint_minutes, False)
    (record,), failures = execute(study, study.grid(axes), options, SweepOptions(), Console(quiet=True))
    assert not failures
    return record, read_lines(next(out.glob("*/metrics.jsonl")))


def test_the_table_names_every_regularizer_and_only_settings():
    assert get_args(Regularizer) == tuple(METHODS) == ("sparseout", "dropout", "none", *LAYERS)
    assert {field.name for field in dataclasses.fields(language.LanguageConfig)} >= METHOD_SETTINGS
    for method in METHODS.values():
        assert method.dial is None or method.dial in method.settings


def test_the_layer_of_each_regularizer_has_its_settings():
    settings = {"strength": 0.5, "transformed_l1_a": 2.0, "k": 0.25, "boost_strength": 1.5}
    settings |= {"standout_alpha": 0.5, "standout_beta": -1.0}
    for name, kind in LAYERS.items():
        layer = regularizer_layer(AutoencoderConfig(regularizer=name, **settings), 8, dim=1)
        assert type(layer) is kind
        found = {"transformed_l1_a": "a", "standout_alpha": "alpha", "standout_beta": "beta"}
        for setting in METHODS[name].settings:
            assert getattr(layer, found.get(setting, setting)) == settings[setting]
        assert getattr(layer, "dim", 1) == 1
        start = regularizer_layer(AutoencoderConfig(regularizer=name, target_sparsity=0.5, **settings), 8)
        assert getattr(start, start.dial.name) == start.dial.warmup_value


@given(st.sampled_from(list(METHODS)), st.sampled_from(OPTIONAL), st.booleans())
def test_a_setting_changes_the_name_if_and_only_if_it_has_an_effect(regularizer, name, has_target):
    base = {"regularizer": regularizer, "target_sparsity": 0.5 if has_target else 0.0}
    other = OTHER.get(name, 0.25 if isinstance(FIELDS[name], float) else 7)
    one = AutoencoderConfig(**base)
    if has_target and regularizer == "sparseout" and name == "gradient":
        with pytest.raises(ValueError, match="gradient must be 'detached' with target_sparsity"):
            AutoencoderConfig(**base, gradient="exact")
        return
    changed = AutoencoderConfig(**{**base, name: other})
    unused = unused_settings(regularizer, has_target and METHODS[regularizer].dial is not None)
    assert (changed.run == one.run) == (name in unused)
    assert (changed.normalised() == one.normalised()) == (name in unused)
    assert (name in changed.to_dict()) == (name not in unused)
    assert changed.normalised().to_dict() == changed.to_dict()


@pytest.mark.parametrize("name", LAYERS)
def test_an_autoencoder_with_each_regularizer(name, tmp_path):
    record, history = run(tmp_path, regularizer=name, strength=1e-4, **SMALL)
    assert read_summary(json.dumps(record).encode(), "summary") == record
    assert {*METHODS[name].settings} == METHOD_SETTINGS & set(record)
    assert record["test_loss"] < history[0]["train_loss"] < 0.75
    assert 0 < record["hoyer"] < 1


@pytest.mark.parametrize("name", LAYERS)
def test_a_classifier_with_each_regularizer(name):
    config = image.ImageConfig(regularizer=name, train_images=70, batch_size=32, epochs=1)
    data = image.load(config, None)
    network = image.model(config, data)
    assert [type(network.get_submodule(layer)) for layer in network.regularised_layers] == [LAYERS[name]] * 3
    learner = image.ImageLearner(config, data, network, Accelerator(cpu=True))
    learner.network.train()
    for step in range(learner.start_epoch(1)):
        learner.update(step)
    assert 0 < learner.results()["hoyer"] < 1
    assert [layer["units"] for layer in learner.results()["layers"].values()] == [16, 32, 64]


@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"standout"}))
def test_a_language_model_with_each_regularizer(name, corpus):
    config = language.LanguageConfig(
        regularizer=name, noise_layers="output", num_layers=2, hidden_size=8, embedding_size=6, batch_size=4, bptt=10, epochs=1
    )
    assert "p_hidden" in config.to_dict()  # of the locked dropout on the other layers
    assert "p" not in config.to_dict()
    network = language.model(config, corpus)
    assert isinstance(network.layers[1].noise, LAYERS[name])
    learner = language.LanguageLearner(config, corpus, network, Accelerator(cpu=True))
    learner.network.train()
    for step in range(min(3, learner.start_epoch(1))):
        learner.update(step)
    learner.evaluate()
    assert 0 < learner.results()["layers"]["layers.1.noise"]["hoyer"] <= 1


def test_winners_are_chosen_by_magnitude():
    x = torch.tensor([[1.0, -5.0, 2.0, -0.5], [4.0, 0.5, -1.0, 3.0]])
    for name, expected in {
        "k_winners": [[0.0, -5.0, 2.0, 0.0], [4.0, 0.0, 0.0, 3.0]],
        "batch_k_winners": [[0.0, -5.0, 2.0, 0.0], [4.0, 0.0, 0.0, 3.0]],
        "lifetime_winners": [[0.0, -5.0, 2.0, 0.0], [4.0, 0.0, 0.0, 3.0]],
    }.items():
        layer = regularizer_layer(AutoencoderConfig(regularizer=name, k=0.5), 4)
        assert layer(x).tolist() == expected
        assert layer(x.relu()).tolist() == regularizers.__dict__[name](x.relu(), 0.5).tolist()
    layer = regularizer_layer(AutoencoderConfig(regularizer="batch_k_winners", k=0.25), 4)
    layer(x)
    assert layer.eval()(torch.tensor([[-6.0, 3.9, 4.0, 0.0]])).tolist() == [[-6.0, 0.0, 4.0, 0.0]]


def test_the_output_of_winners_is_measured(tmp_path):
    record, _ = run(tmp_path, regularizer="k_winners", k=0.25, **SMALL)
    (layer,) = record["layers"].values()
    assert record["zeros"] >= 0.75
    assert layer["profile"][0] == 1
    assert layer["profile"][20:] == [0.0] * 45


def test_the_penalty_is_in_the_objective_and_not_in_the_loss():
    images = mnist.load("digits", None)
    config = AutoencoderConfig(regularizer="l1", strength=0.5, hidden_size=8, batch_size=50)
    torch.manual_seed(0)
    network = Autoencoder(64, 8, regularizer_layer(config, 8))
    weights = [weight.detach().clone() for weight in network.parameters()]
    learner = AutoencoderLearner(config, images, network, Accelerator(cpu=True))
    learner.start_epoch(1)
    learner.optimizer.step = lambda: None
    total, items = learner.update(0)
    found = [weight.grad.clone() for weight in network.parameters()]
    batch = images.train[learner.batches[0]]
    hidden = network.encoder(batch)
    loss = nn.functional.binary_cross_entropy_with_logits(network.decoder(hidden), batch)
    expected = torch.autograd.grad(loss + 0.5 * hidden.abs().sum(-1).mean(), list(network.parameters()))
    torch.testing.assert_close(found, list(expected))
    assert total / items == pytest.approx(loss.item())
    assert all(map(torch.equal, weights, network.parameters()))


def test_gates_leave_the_initial_weights_as_they_are():
    images = mnist.load("digits", None)
    states = []
    for name in ("none", "hard_concrete"):
        torch.manual_seed(0)
        states.append(STUDY.model(AutoencoderConfig(regularizer=name), images).state_dict())
    none, gates = states
    assert gates.keys() - none.keys() == {"noise.log_alpha"}
    assert all(torch.equal(none[weight], gates[weight]) for weight in none)


@pytest.mark.parametrize(
    "settings",
    [
        {"regularizer": "l1", "strength": 0.01},
        {"regularizer": "k_winners", "k": 0.25, "boost_strength": 1.0},
        {"regularizer": "hard_concrete", "strength": 0.001},
        {"regularizer": "batch_k_winners", "target_sparsity": 0.6},
    ],
    ids=lambda settings: settings["regularizer"],
)
def test_a_resumed_run_is_bit_identical(settings, tmp_path):
    expected, history = run(tmp_path / "whole", **SMALL, **settings)
    with interrupted_after(37, AutoencoderLearner):
        run(tmp_path / "killed", checkpoint_minutes=0.0, **SMALL, **settings)
    resumed, resumed_history = run(tmp_path / "killed", **SMALL, **settings)
    for record in (expected, resumed, *history, *resumed_history):
        record.pop("seconds")
    expected.pop("provenance"), resumed.pop("provenance")
    assert resumed == expected
    assert resumed_history == history


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dial"), [("l1", "strength"), ("k_winners", "k")])
def test_a_target_is_reached_and_settles_in_the_first_half(name, dial, tmp_path):
    record, history = run(tmp_path, regularizer=name, target_sparsity=0.65, epochs=200, batch_size=100, target_q_min=1.0)
    control = record["control"]
    assert control["achieved"] == record["hoyer"] == pytest.approx(0.65, abs=0.02)
    assert control["settled"] <= 0.5
    assert not control["out_of_reach"]
    assert control["dial"] == dial
    assert history[-1][dial] == control["value"] == pytest.approx(control["course"]["value"][-1], rel=0.05)
    assert not {"q", dial, "target_q_min", "p"} & set(record)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["autoencoder", "--regularizer", "l2"], "regularizer must be one of 'sparseout', 'dropout', 'none', 'l1',"),
        (["autoencoder", "--k", "0"], "k must be a fraction in (0, 1], got 0.0"),
        (["autoencoder", "--k", "1.5"], "k must be a fraction in (0, 1], got 1.5"),
        (["autoencoder", "--strength", "-1"], "strength must be a number of at least 0, got -1.0"),
        (["autoencoder", "--transformed-l1-a", "0"], "transformed_l1_a must be a positive number, got 0.0"),
        (["autoencoder", "--boost-strength", "-1"], "boost_strength must be a number of at least 0, got -1.0"),
        (["autoencoder", "--standout-beta", "nan"], "standout_beta must be a finite number, got nan"),
        (["language", "--regularizer", "standout"], "regularizer must not be 'standout' in the study 'language'"),
        (["image", "--regularizer", "standout", "--placement", "after-conv1"], "placement must be 'before-conv2' with"),
        (["glm", "--regularizer", "l1"], "regularizer must be 'sparseout' or 'none' in the study 'glm', got 'l1'"),
    ],
)
def test_a_bad_value_is_one_line(flags, message, tmp_path, capsys):
    assert main(["study", *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
