"""The configuration that every study's runs share: typed, checked, and hashed into the run's name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import sys
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from torch import nn

from sparseout.checks import Gradient, check_choice, check_number, check_p, check_q
from sparseout.layers import Sparseout

Noise = Literal["sparseout", "dropout", "none"]
Precision = Literal["fp32", "bf16"]


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong and what to do."""


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
    """

    study: ClassVar[str]

    q: float = 2.0
    p: float = 0.5
    seed: int = 0
    gradient: Gradient = "detached"
    noise: Noise = "sparseout"
    threads: int = 1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                check_choice(name, getattr(self, name), get_args(hint))
            elif hint is int and not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} must be an integer, got {getattr(self, name)!r}")
        check_number("seed", self.seed, 0, 2**63 - 1, "an integer in [0, 2^63 - 1]")
        self._check_at_least_1("threads")
        # What the noise ignores is set to what it amounts to, so that equal runs have equal names.
        ignored = {"sparseout": {}, "dropout": {"q": 2, "gradient": "detached"}, "none": {"p": 0, "q": 2, "gradient": "detached"}}
        for name, value in ignored[self.noise].items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "p", check_p(self.p))
        object.__setattr__(self, "q", check_q(self.q))

    def _check_at_least_1(self, *names: str) -> None:
        for name in names:
            check_number(name, getattr(self, name), 1, 2**31 - 1, "an integer of at least 1")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            check_number(name, getattr(self, name), sys.float_info.min, sys.float_info.max, "a positive number")

    def to_dict(self) -> dict[str, Any]:
        """The study's name, then each setting."""
        return {"study": self.study, **dataclasses.asdict(self)}

    @property
    def run(self) -> str:
        """Hash of all that changes the numbers: 12 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Name of the run's folder, which a person can read."""
        noise = f"q{self.q:g}-p{self.p:g}" if self.noise == "sparseout" else f"{self.noise}-p{self.p:g}"
        return f"{noise}-seed{self.seed}-{self.run}"

    @property
    def command(self) -> str:
        """The command that repeats this run, without the places of its data and output."""
        flags = [f"--{name.replace('_', '-')} {value}" for name, value in dataclasses.asdict(self).items()]
        return shlex.join(["sparseout", "study", self.study, *" ".join(flags).split()])

    def seed_of(self, purpose: str, *place: int) -> int:
        """Seed for what is drawn for `purpose` at `place`, such as an epoch: unrelated for another one, or another `seed`."""
        text = " ".join(map(str, (purpose, self.seed, *place)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    def noise_layer(self) -> nn.Module:
        """The layer that these settings put in the dropout place; it draws from its device's default generator."""
        if self.noise == "sparseout":
            return Sparseout(self.p, self.q, gradient=self.gradient)
        return nn.Dropout(self.p) if self.noise == "dropout" else nn.Identity()
