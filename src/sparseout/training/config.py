"""The configuration that every study's runs share: typed, checked, and hashed into the run's name."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import shlex
import sys
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

from sparseout.checks import Gradient, check_choice, check_integer, check_number, check_p, check_q, check_rms_gradient
from sparseout.layers import Sparseout
from sparseout.records.identity import OMITTED_DEFAULTS, TARGET_FIELDS, folder_of, run_of

Noise = Literal["sparseout", "dropout", "none"]
Precision = Literal["fp32", "bf16"]
Measure = Literal["hoyer", "zeros"]
Scale = Literal["1", "rms"]

FLOAT32 = torch.finfo(torch.float32).max
MOST_THREADS = 1024  # with many more the system's limit of threads ends the process


@functools.cache
def hints(config: Any) -> dict[str, Any]:
    """The type of each field of a class."""
    return get_type_hints(config)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: everything that changes its numbers, and nothing else.

    Attributes:
        q: norm of the Sparseout layers, at least 0; 2 is Dropout, less is sparser, more is denser
        p: drop probability in [0, 1]
        seed: of the initialisation, the data order and the noise, each of which has a generator of its own
        gradient: of Sparseout: 'detached' controls sparsity monotonically, 'exact' is the derivative of its output
        noise: 'sparseout', 'dropout' (nn.Dropout, which ignores q) or 'none' (which ignores p and q)
        threads: CPU threads; sums in another order round differently, so this is part of the run
        precision: 'fp32', or 'bf16' by autocast, with weights in float32
        target_sparsity: in place of q: the mean over the Sparseout layers that q, one for all, is driven to; 0 leaves q as it is
        target_measure: of the target: 'hoyer' or 'zeros'
        target_q_min: lower bound of a q that is driven
        target_q_max: upper bound of a q that is driven
        target_warmup: steps at first in which a q that is driven is 2
        target_ramp: steps after them in which what is aimed at goes evenly from what was measured to the target
        scale: unit of the activations in Sparseout: '1', or 'rms', the running root mean square of the layer's input
    """

    study: ClassVar[str]

    q: float = 2.0
    p: float = 0.5
    seed: int = 0
    gradient: Gradient = "detached"
    noise: Noise = "sparseout"
    threads: int = 1
    precision: Precision = "fp32"
    target_sparsity: float = 0.0
    target_measure: Measure = "hoyer"
    target_q_min: float = 0.3
    target_q_max: float = 4.0
    target_warmup: int = 0
    target_ramp: int = 0
    scale: Scale = "1"

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in hints(kind).items():
            if get_origin(hint) is Literal:
                check_choice(name, getattr(self, name), get_args(hint))
            elif hint is int and not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} must be an integer, got {getattr(self, name)!r}")
        check_number("seed", self.seed, 0, 2**63 - 1, "an integer in [0, 2^63 - 1]")
        self._check_at_least_1("threads", most=MOST_THREADS)
        # What the noise ignores is set to what it amounts to, so that equal runs have equal names.
        dropout = {"q": 2, "gradient": "detached", "scale": "1"}
        ignored = {"sparseout": {}, "dropout": dropout, "none": {"p": 0, **dropout}}
        for name, value in ignored[self.noise].items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "p", check_p(self.p))
        object.__setattr__(self, "q", check_q(self.q))
        if self.scale == "rms":
            check_rms_gradient(self.gradient)
        self._check_target()

    def _check_target(self) -> None:
        """Check the target, and set what has no meaning with or without one to its default."""
        below_1 = math.nextafter(1.0, 0.0)
        target = check_number("target_sparsity", self.target_sparsity, 0, below_1, "a sparsity in (0, 1), or 0 for none")
        bounds = {name: getattr(self, name) for name in ("target_q_min", "target_q_max")}
        norm = "a finite norm of at least 0"
        low, high = (check_number(name, value, 0, sys.float_info.max, norm) for name, value in bounds.items())
        if not low < high:
            raise ValueError(f"target_q_min must be below target_q_max, got {low:g} and {high:g}")
        if self.noise != "sparseout":
            target = 0.0
        if target and self.gradient == "exact":
            raise ValueError("gradient must be 'detached' with target_sparsity, got 'exact': its sparsity rises and falls with q")
        steps = {name: check_integer(name, getattr(self, name), 0, 2**31 - 1) for name in ("target_warmup", "target_ramp")}
        given = {"target_sparsity": target, "target_q_min": low, "target_q_max": high, **steps}
        unused = {"q": 2.0} if target else {name: getattr(Config, name) for name in TARGET_FIELDS}
        for name, value in (given | unused).items():
            object.__setattr__(self, name, value)

    def _check_at_least_1(self, *names: str, most: int = 2**31 - 1) -> None:
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

    def to_dict(self) -> dict[str, Any]:
        """The study's name, then each setting: a target's where there is one, `OMITTED_DEFAULTS` where changed."""
        settings = {"study": self.study, **dataclasses.asdict(self)}
        unused = [] if self.target_sparsity else [*TARGET_FIELDS]
        unused += [name for name, value in OMITTED_DEFAULTS.items() if settings[name] == value]
        return {name: value for name, value in settings.items() if name not in unused}

    @property
    def run(self) -> str:
        """Hash of all that changes the numbers: 12 hexadecimal digits."""
        return run_of(self.to_dict())

    @property
    def folder(self) -> str:
        """Name of the run's folder, which a person can read."""
        return folder_of(self.to_dict())

    @property
    def command(self) -> str:
        """The command that repeats this run, without the places of its data and output."""
        settings = self.to_dict()
        words = ["sparseout", "study", settings.pop("study")]
        for name, value in settings.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def seed_of(self, purpose: str, *place: int) -> int:
        """Seed for what is drawn for `purpose` at `place`, such as an epoch: unrelated for another one, or another `seed`."""
        text = " ".join(map(str, (purpose, self.seed, *place)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    @property
    def layer_scale(self) -> float | Literal["rms"]:
        """`scale`, as the layers take it."""
        return "rms" if self.scale == "rms" else 1.0

    def noise_layer(self) -> nn.Module:
        """The layer that these settings put in the dropout place; it draws from its device's default generator."""
        if self.noise == "sparseout":
            return Sparseout(self.p, self.q, gradient=self.gradient, scale=self.layer_scale)
        return nn.Dropout(self.p) if self.noise == "dropout" else nn.Identity()
