"""The regularizers that a run can have: what each is called, which settings it reads, and which of them a target moves."""

from __future__ import annotations

from typing import Literal, NamedTuple

Regularizer = Literal[
    "sparseout",
    "dropout",
    "none",
    "l1",
    "transformed_l1",
    "hoyer_square",
    "decov",
    "k_winners",
    "batch_k_winners",
    "lifetime_winners",
    "hard_concrete",
    "standout",
]


class Method(NamedTuple):
    """A regularizer as the settings of a run describe it.

    Attributes:
        title: its name in tables and figures.
        settings: the settings that it reads. No other of `METHOD_SETTINGS` has an effect on its runs.
        dial: the setting that makes activations sparser or denser, which a target moves; None if there is none.
    """

    title: str
    settings: tuple[str, ...] = ()
    dial: str | None = None


METHODS: dict[str, Method] = {
    "sparseout": Method(
        "Sparseout", ("q", "p", "p_hidden", "noise_per", "gradient", "scale", "target_q_min", "target_q_max"), dial="q"
    ),
    "dropout": Method("nn.Dropout", ("p", "p_hidden", "noise_per")),
    "none": Method("no noise"),
    "l1": Method("L1", ("strength",), dial="strength"),
    "transformed_l1": Method("transformed L1", ("strength", "transformed_l1_a"), dial="strength"),
    "hoyer_square": Method("Hoyer-Square", ("strength",), dial="strength"),
    "decov": Method("DeCov", ("strength",), dial="strength"),
    "k_winners": Method("k-winners", ("k", "boost_strength"), dial="k"),
    "batch_k_winners": Method("batch k-winners", ("k",), dial="k"),
    "lifetime_winners": Method("lifetime winners", ("k",), dial="k"),
    "hard_concrete": Method("hard concrete", ("strength",), dial="strength"),
    "standout": Method("Standout", ("standout_alpha", "standout_beta"), dial="standout_beta"),
}
METHOD_SETTINGS = frozenset(name for method in METHODS.values() for name in method.settings)
