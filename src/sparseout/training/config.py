"""The configuration of a run: typed settings, shared by every study, checked and hashed into the run's name."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch

from sparseout.checks import (
    Gradient,
    LayerScale,
    check_choice,
    check_integer,
    check_number,
    check_p,
    check_q,
    check_running_scale,
)
from sparseout.records.identity import folder_of, omitted_defaults, run_of, unused_settings
from sparseout.records.methods import METHODS, Regularizer
from sparseout.records.scores import Better

if TYPE_CHECKING:
    from typing_extensions import Self

Precision = Literal["fp32", "bf16"]
Measure = Literal["hoyer", "zeros"]
Scale = Literal["1", "rms", "matched"]

FLOAT32 = torch.finfo(torch.float32).max
MAX_THREADS = 1024  # many more exceed the system's limit, which ends the process
MAX_INTEGER = 2**31 - 1


@functools.cache
def hints(config: Any) -> dict[str, Any]:
    """Return the type of each field of a class."""
    return get_type_hints(config)


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one run: everything that changes its numbers, and nothing else.

    Attributes:
        q: norm of the Sparseout layers, at least 0; 2 is Dropout, less is sparser, more is denser
        p: drop probability of Sparseout and Dropout, in [0, 1]
        seed: seed of the initialisation, the data order and the noise; each has its own generator
        gradient: gradient of Sparseout: 'detached' controls sparsity monotonically, 'exact' is the derivative of the output
        regularizer: what acts on the activations; a setting that it does not read has no effect
        threads: CPU threads; they are part of the run because sums in another order round differently
        precision: 'fp32', or 'bf16' for autocast with float32 weights
        target_sparsity: mean sparsity of the regularized layers, reached by moving one q, strength, k or standout_beta for all of
            them; 0 keeps it fixed
        target_measure: measure of the target sparsity: 'hoyer' or 'zeros'
        target_q_min: lower bound of q in a run with a target
        target_q_max: upper bound of q in a run with a target
        target_warmup: number of initial steps in a run with a target in which the regularizer acts least; Sparseout has q = 2
        target_ramp: number of steps after the warmup in which the setpoint moves linearly to the target
        scale: unit of the activations in Sparseout: '1', 'rms' for the running root mean square of the layer's input, or
            'matched' for the unit at which the noise over the layer is as strong as Dropout's for every q
        strength: factor of the term of l1, transformed_l1, hoyer_square, decov and hard_concrete in the objective, at least 0
        transformed_l1_a: shape of transformed_l1: near 0 it counts the units that are not 0, if large it is l1
        k: fraction of the units that the winners keep, in (0, 1]; of the batch for lifetime_winners
        boost_strength: how much more easily units win in k_winners that rarely won, at least 0
        standout_alpha: how strongly the probability of keeping a unit follows its activation in standout
        standout_beta: offset of that probability; less is sparser
    """

    study: ClassVar[str]
    source: ClassVar[str] = ""  # of a study of the user: module:OBJECT, the name that imports it; empty for a built-in study

    better: ClassVar[Mapping[str, Better]] = {}  # scores of the study's own: is "higher" or "lower" better?

    q: float = 2.0
    p: float = 0.5
    seed: int = 0
    gradient: Gradient = "detached"
    regularizer: Regularizer = "sparseout"
    threads: int = 1
    precision: Precision = "fp32"
    target_sparsity: float = 0.0
    target_measure: Measure = "hoyer"
    target_q_min: float = 0.3
    target_q_max: float = 4.0
    target_warmup: int = 0
    target_ramp: int = 0
    scale: Scale = "1"
    strength: float = 1e-3
    transformed_l1_a: float = 1.0
    k: float = 0.1
    boost_strength: float = 0.0
    standout_alpha: float = 1.0
    standout_beta: float = 0.0

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in hints(kind).items():
            if get_origin(hint) is Literal:
                check_choice(name, getattr(self, name), get_args(hint))
            elif hint is int and not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} must be an integer, got {getattr(self, name)!r}")
        check_number("seed", self.seed, 0, 2**63 - 1, "an integer in [0, 2^63 - 1]")
        self._check_at_least_1("threads", most=MAX_THREADS)
        check_p(self.p)
        check_q(self.q)
        self._check_not_negative("strength", "boost_strength")
        self._check_positive("transformed_l1_a")
        check_number("k", self.k, sys.float_info.min, 1, "a fraction in (0, 1]")
        for name in ("standout_alpha", "standout_beta"):
            check_number(name, getattr(self, name), -FLOAT32, FLOAT32, "a finite number")
        self._check_target()
        if self.regularizer == "sparseout":
            check_running_scale(self.scale, self.gradient)

    def _check_target(self) -> None:
        below_1 = math.nextafter(1.0, 0.0)
        check_number("target_sparsity", self.target_sparsity, 0, below_1, "a sparsity in (0, 1), or 0 for none")
        for name in ("target_q_min", "target_q_max"):
            check_number(name, getattr(self, name), 0, sys.float_info.max, "a finite norm of at least 0")
        if not self.target_q_min < self.target_q_max:
            raise ValueError(f"target_q_min must be below target_q_max, got {self.target_q_min:g} and {self.target_q_max:g}")
        for name in ("target_warmup", "target_ramp"):
            check_integer(name, getattr(self, name), 0, MAX_INTEGER)
        if self.has_target and self.regularizer == "sparseout" and self.gradient == "exact":
            raise ValueError(
                "gradient must be 'detached' with target_sparsity, got 'exact': sparsity is not monotonic in q with it"
            )

    def _check_at_least_1(self, *names: str, most: int = MAX_INTEGER) -> None:
        for name in names:
            check_integer(name, getattr(self, name), 1, most)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            check_number(name, getattr(self, name), sys.float_info.min, sys.float_info.max, "a positive number")
            self._check_float32(name)

    def _check_not_negative(self, *names: str) -> None:
        for name in names:
            check_number(name, getattr(self, name), 0, sys.float_info.max, "a number of at least 0")
            self._check_float32(name)

    def _check_float32(self, name: str) -> None:
        check_number(name, getattr(self, name), 0, FLOAT32, "at most 3.4e38, as float32 is")

    @property
    def has_target(self) -> bool:
        """Whether a `SparsityTarget` moves the regularizer's dial during the run."""
        return METHODS[self.regularizer].dial is not None and self.target_sparsity > 0

    def unused(self) -> frozenset[str]:
        """Return the names of the settings without effect in this run."""
        return unused_settings(self.regularizer, self.has_target)

    def normalised(self) -> Self:
        """Return the configuration that stands for all those with the same numbers: equal runs have equal names."""
        kind: Any = type(self)
        floats = {name: float(getattr(self, name)) for name, hint in hints(kind).items() if hint is float}
        unused = self.unused()
        defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self) if field.name in unused}
        return dataclasses.replace(self, **(floats | defaults))

    def to_dict(self) -> dict[str, Any]:
        """Return the study's name and the normalised settings that have an effect.

        `omitted_defaults` are left out where they have their default.
        """
        settings = {"study": self.study, **dataclasses.asdict(self.normalised())}
        omitted = {name for name, value in omitted_defaults(self.study).items() if settings[name] == value}
        return {name: value for name, value in settings.items() if name not in omitted | self.unused()}

    def scores(self) -> tuple[str, ...]:
        """Return the names of the scores in the run's summary, on test data and on validation data."""
        return ("test_loss",)

    @property
    def run(self) -> str:
        """The hash of the settings: 12 hexadecimal digits."""
        return run_of(self.to_dict())

    @property
    def folder(self) -> str:
        """The readable name of the run's folder."""
        return folder_of(self.to_dict())

    @property
    def command(self) -> str:
        """The command that repeats this run, without the paths of its data and output."""
        settings = self.to_dict()
        words = ["sparseout", "study", self.source or settings["study"]]
        del settings["study"]
        for name, value in settings.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def seed_of(self, purpose: str, *index: int) -> int:
        """Return a seed for the draws of `purpose` at `index`, such as an epoch.

        The seeds of other purposes, indices and values of `seed` are unrelated.
        """
        text = " ".join(map(str, (purpose, self.seed, *index)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    @property
    def layer_scale(self) -> LayerScale:
        """The `scale` argument of the layers."""
        return 1.0 if self.scale == "1" else self.scale
