"""A run's name is a hash of all settings that change its numbers."""

import dataclasses
import math
import re
import shlex
from typing import get_type_hints

import pytest
from torch import nn

import sparseout
from sparseout.cli import study
from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.studies.autoencoder import STUDY, AutoencoderConfig
from sparseout.studies.language import LanguageConfig
from sparseout.studies.registry import STUDIES
from sparseout.training.regularizer import regularizer_layer

CHANGED = {
    "q": 1.5,
    "p": 0.25,
    "seed": 7,
    "gradient": "exact",
    "regularizer": "none",
    "threads": 2,
    "precision": "bf16",
    "target_sparsity": 0.6,
    "scale": "rms",
    "dataset": "mnist",
    "hidden_size": 64,
    "epochs": 3,
    "batch_size": 32,
    "lr": 0.01,
    "valid_images": 50,
}


TARGET_FIELDS = {"target_measure": "zeros", "target_q_min": 1.0, "target_q_max": 3.0, "target_warmup": 8, "target_ramp": 16}


READ = {  # settings that only some regularizers read
    "strength": ("l1", 0.5),
    "transformed_l1_a": ("transformed_l1", 2.0),
    "k": ("k_winners", 0.5),
    "boost_strength": ("k_winners", 1.0),
    "standout_alpha": ("standout", 2.0),
    "standout_beta": ("standout", -1.0),
}


def test_every_setting_changes_the_name():
    assert {*CHANGED, *TARGET_FIELDS, *READ, "keep"} == {field.name for field in dataclasses.fields(AutoencoderConfig)}
    names = {AutoencoderConfig(**{name: value}).run for name, value in CHANGED.items()} | {AutoencoderConfig().run}
    names |= {AutoencoderConfig(target_sparsity=0.6, **{name: value}).run for name, value in TARGET_FIELDS.items()}
    names |= {AutoencoderConfig(regularizer=of, **{name: value}).run for name, (of, value) in READ.items()}
    names |= {AutoencoderConfig(regularizer=of).run for of, _ in READ.values()}
    names.add(AutoencoderConfig(valid_images=50, keep="best").run)
    assert len(names) == len(CHANGED) + 1 + len(TARGET_FIELDS) + len(READ) + 5


def test_what_a_target_ignores_is_not_in_the_name():
    assert AutoencoderConfig(q=1.5, **TARGET_FIELDS).run == AutoencoderConfig(q=1.5).run
    assert AutoencoderConfig(target_sparsity=0.6, q=1).run == AutoencoderConfig(target_sparsity=0.6).run
    for noise in ("none", "dropout"):
        assert (
            AutoencoderConfig(regularizer=noise, target_sparsity=0.6, scale="rms").run == AutoencoderConfig(regularizer=noise).run
        )
    assert not {"target_sparsity", "scale", *TARGET_FIELDS} & set(AutoencoderConfig().to_dict())
    assert AutoencoderConfig(target_sparsity=0.6, target_measure="zeros").folder.startswith("zeros0.6-p0.5-seed0-")


def test_the_name_is_the_same_in_every_process_and_version():
    assert AutoencoderConfig().run == "b5517647239b"


def test_what_the_noise_ignores_is_not_in_the_name():
    assert AutoencoderConfig(regularizer="none", p=0.3, q=1).run == AutoencoderConfig(regularizer="none").run
    assert AutoencoderConfig(regularizer="dropout", q=1, gradient="exact").run == AutoencoderConfig(regularizer="dropout").run
    assert AutoencoderConfig(regularizer="dropout", p=0.3).run != AutoencoderConfig(regularizer="dropout").run


def test_integers_and_floats_of_one_value_are_one_run():
    assert AutoencoderConfig(q=2, p=0, lr=1).run == AutoencoderConfig(q=2.0, p=0.0, lr=1.0).run


def test_normalised_settings_are_those_of_the_record():
    config = AutoencoderConfig(regularizer="dropout", q=1, gradient="exact", target_sparsity=0.5)
    normalised = config.normalised()
    assert (normalised.q, normalised.gradient, normalised.target_sparsity, normalised.p) == (2.0, "detached", 0.0, 0.5)
    assert not {"q", "gradient", "target_sparsity"} & set(normalised.to_dict())
    assert normalised == normalised.normalised()
    assert normalised.to_dict() == config.to_dict()


def test_a_run_with_a_target_starts_as_dropout():
    assert regularizer_layer(AutoencoderConfig(q=1.0, target_sparsity=0.5), 8).q == 2


def test_the_generators_of_a_run_differ_and_do_not_depend_on_q():
    purposes = ("initialisation", "order", "noise")
    seeds = [AutoencoderConfig(q=q, seed=seed).seed_of(purpose) for q in (1, 2) for seed in (0, 1) for purpose in purposes]
    assert seeds[:6] == seeds[6:]
    assert len(set(seeds)) == 6


def test_the_noise_layer():
    layer = regularizer_layer(AutoencoderConfig(q=1.5, p=0.25, gradient="exact"), 8)
    assert isinstance(layer, sparseout.Sparseout)
    assert (layer.q, layer.p, layer.gradient) == (1.5, 0.25, "exact")
    assert (layer.scale, regularizer_layer(AutoencoderConfig(scale="rms"), 8).scale) == (1.0, "rms")
    for scale in ("rms", "matched"):
        assert {layer.scale for layer in LanguageConfig(scale=scale).noises()} == {scale}
    assert isinstance(regularizer_layer(AutoencoderConfig(regularizer="none"), 8), nn.Identity)
    assert isinstance(regularizer_layer(AutoencoderConfig(regularizer="dropout"), 8), nn.Dropout)


def test_the_grid_has_each_combination_once():
    grid = STUDY.grid({"q": (1, 2), "seed": (0, 1), "regularizer": ("sparseout", "none")})
    assert len(grid) == len({config.run for config in grid}) == 6
    with pytest.raises(UserError, match="q needs at least one value"):
        STUDY.grid({"q": ()})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"q": -1}, "q must be a finite norm of at least 0, got -1"),
        ({"p": 1.5}, r"p must be a drop probability in \[0, 1\], got 1.5"),
        ({"seed": -1}, r"seed must be an integer in \[0, 2\^63 - 1\], got -1"),
        ({"seed": 0.5}, "seed must be an integer, got 0.5"),
        ({"gradient": "x"}, "gradient must be one of 'detached', 'exact', got 'x'"),
        ({"regularizer": "x"}, "regularizer must be one of 'sparseout', 'dropout', 'none', 'l1'"),
        ({"dataset": "x"}, "dataset must be one of 'digits', 'mnist', got 'x'"),
        ({"target_warmup": -1}, "target_warmup must be an integer of at least 0, got -1"),
        ({"target_ramp": 0.5}, "target_ramp must be an integer, got 0.5"),
        ({"threads": 0}, "threads must be an integer of at least 1, got 0"),
        ({"hidden_size": 0}, "hidden_size must be"),
        ({"epochs": -3}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"keep": "first"}, "keep must be one of 'last', 'best', got 'first'"),
        ({"keep": "best"}, "keep must be 'last' without valid_images, got 'best': .*"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AutoencoderConfig(**settings)
    with pytest.raises(UserError, match=message):
        STUDY.grid({name: (value,) for name, value in settings.items()})


def test_the_command_of_a_run_repeats_it(monkeypatch, tmp_path):
    grids = []
    monkeypatch.setattr(study, "execute", lambda study, configs, *_: grids.append(configs) or ([], []))
    config = AutoencoderConfig(q=1.25, p=0.3, seed=5, gradient="exact", hidden_size=17, lr=0.02)
    program, *arguments = shlex.split(config.command)
    assert program == "sparseout"
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0
    assert grids == [[config]]


NUMBERS = {float: (math.nan, math.inf, -1.0), int: (-1, 10**30)}


@pytest.mark.parametrize("config", [study.config for study in STUDIES.values()], ids=list(STUDIES))
def test_every_number_has_a_range_and_its_refusal_names_it(config):
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        values = NUMBERS.get(hints[field.name], ())
        for value in values[:2] if field.name in ("standout_alpha", "standout_beta") else values:
            with pytest.raises(ValueError, match=rf"^{field.name} must be .*, got {re.escape(repr(value))}$"):
                config(**{field.name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 10**9}, "threads must be an integer of at most 1024, got 1000000000"),
        ({"lr": 1e308}, "lr must be at most 3.4e38, as float32 is, got 1e+308"),
        ({"epochs": 10**30}, f"epochs must be an integer of at most 2147483647, got {10**30}"),
    ],
)
def test_a_number_that_is_too_large(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AutoencoderConfig(**settings)
