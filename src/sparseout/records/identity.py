"""What identifies a run: `run = sha256(settings)[:12]`, and the name of its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

RESULTS: tuple[str, ...] = (
    *("test_loss", "perplexity", "accuracy", "valid_loss", "valid_perplexity", "valid_accuracy", "best_epoch"),
    *("hoyer", "zeros", "rms", "layers", "control", "seconds", "provenance"),
)
# Settings of a run with a target alone.
TARGET_FIELDS = ("target_sparsity", "target_measure", "target_q_min", "target_q_max", "target_warmup", "target_ramp")
OMITTED_DEFAULTS = {"scale": "1", "target_warmup": 0, "target_ramp": 0}  # what records that lack a setting have


def run_of(settings: Mapping[str, Any]) -> str:
    """The hash of all that changes a run's numbers, `study` among it: 12 hexadecimal digits.

    >>> run_of({"study": "autoencoder", "q": 1.5}), run_of({"study": "autoencoder", "q": 1.25})
    ('3c93cb2689fa', '951724c55477')
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def folder_of(settings: Mapping[str, Any]) -> str:
    """The name of a run's folder, which a person can read.

    >>> folder_of({"study": "autoencoder", "q": 1.5, "p": 0.5, "seed": 0, "noise": "sparseout"})
    'q1.5-p0.5-seed0-a8b4df0e182a'
    """
    target, noise = settings.get("target_sparsity"), settings["noise"]
    name = f"{settings['target_measure']}{target:g}" if target else f"q{settings['q']:g}"
    name = name if noise == "sparseout" else noise
    return f"{name}-p{settings['p']:g}-seed{settings['seed']}-{run_of(settings)}"


def settings_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a run's summary, as they are hashed."""
    return {name: value for name, value in summary.items() if name not in RESULTS and name != "run"}
