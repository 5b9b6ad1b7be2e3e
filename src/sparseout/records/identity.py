"""The identity of a run, `run = sha256(settings)[:12]`, and the name of its folder."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sparseout.records.methods import METHOD_SETTINGS, METHODS

RESULT_FIELDS: tuple[str, ...] = (
    *("test_loss", "perplexity", "accuracy", "valid_loss", "valid_perplexity", "valid_accuracy", "best_epoch"),
    *("penalty", "noise_loss", "hoyer", "zeros", "rms", "layers", "control", "scores", "seconds", "provenance"),
)
_RESULT_NAMES = frozenset(RESULT_FIELDS)
# Settings that only runs with a target have.
TARGET_FIELDS = ("target_sparsity", "target_measure", "target_q_min", "target_q_max", "target_warmup", "target_ramp")
OMITTED_DEFAULTS = {"scale": "1", "target_warmup": 0, "target_ramp": 0}  # values of settings that older records lack
# The same for settings of one study.
STUDY_OMITTED_DEFAULTS: dict[str, dict[str, Any]] = {
    "autoencoder": {"valid_images": 0, "keep": "last"},
    "image": {"network": "wide_resnet", "hidden_size": 512, "augmentation": "standard", "keep": "last", "noise_layer": "linear"},
    "language": {"noise_per": "sequence"},
}


def omitted_defaults(study: str) -> dict[str, Any]:
    """Return the settings that a study's records leave out where they have their default, with that default."""
    return OMITTED_DEFAULTS | STUDY_OMITTED_DEFAULTS.get(study, {})


@functools.cache
def unused_settings(regularizer: str, has_target: bool) -> frozenset[str]:
    """Return the settings of regularizers and targets that have no effect on a run.

    >>> sorted(unused_settings("k_winners", has_target=True) & {"q", "k", "boost_strength", "target_measure", "target_q_min"})
    ['k', 'q', 'target_q_min']
    """
    method = METHODS[regularizer]
    return METHOD_SETTINGS.difference(method.settings).union([method.dial or "q"] if has_target else TARGET_FIELDS)


def run_of(settings: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits: the hash of all settings that change a run's numbers, including `study`.

    >>> run_of({"study": "autoencoder", "q": 1.5}), run_of({"study": "autoencoder", "q": 1.25})
    ('3c93cb2689fa', '951724c55477')
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def folder_of(settings: Mapping[str, Any]) -> str:
    """Return the readable name of a run's folder.

    >>> folder_of({"study": "autoencoder", "q": 1.5, "p": 0.5, "seed": 0, "regularizer": "sparseout"})
    'q1.5-p0.5-seed0-f503459fb4db'
    >>> folder_of({"study": "autoencoder", "strength": 0.01, "seed": 0, "regularizer": "l1"})
    'l1-strength0.01-seed0-5968e654f068'
    """
    regularizer = settings["regularizer"]
    parts = [] if regularizer == "sparseout" else [regularizer]
    if "target_sparsity" in settings:
        parts.append(f"{settings['target_measure']}{settings['target_sparsity']:g}")
    parts += [f"{name}{settings[name]:g}" for name in (METHODS[regularizer].dial, "p") if name and name in settings]
    return "-".join((*parts, f"seed{settings['seed']}", run_of(settings)))


def settings_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a run's summary, as `run_of` hashes them."""
    results = result_names(summary.get("scores", ()))
    return {name: value for name, value in summary.items() if name not in results and name != "run"}


def result_names(own_scores: Iterable[str]) -> frozenset[str]:
    """Return the names of all results that a summary may have, where `own_scores` are the scores of a user's study."""
    return _RESULT_NAMES.union(*((name, f"valid_{name}") for name in own_scores))
