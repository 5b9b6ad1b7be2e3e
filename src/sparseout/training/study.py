"""A study: its configuration, data, network and training, and the grid of runs that a question is."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from sparseout.errors import UserError
from sparseout.records.schema import Record
from sparseout.training.config import Config
from sparseout.training.learner import Learner

MOST = 1_000_000  # runs of a grid


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment: its configuration, its data, its network, and how that is trained and evaluated.

    Attributes:
        config: the configuration's class; its `study` is the experiment's name.
        load: the data that a configuration asks for, from a folder or where it comes from by default; cheap when called again.
        model: a configuration's network for its data, untrained.
        learner: a run for the engine to train.
        evaluate: results of a network on the test data.
        test_batches: the inputs of the test data.
        items: what a step trains on, for the progress bar.
        presets: settings that differ from the configuration's own, by the preset's name; several values of one are an axis.
    """

    config: type[Config]
    load: Callable[[Any, Path | None], Any]
    model: Callable[[Any, Any], nn.Module]
    learner: Callable[[Any, Any, Any, Accelerator], Learner]
    evaluate: Callable[[Any, Any], Record]
    test_batches: Callable[[Any], Sequence[Tensor]]
    items: str
    presets: Mapping[str, Mapping[str, Any]]

    @property
    def default_preset(self) -> str:
        """The first one."""
        return next(iter(self.presets))

    def axes(self, preset: str) -> dict[str, tuple[Any, ...]]:
        """The values of each setting in a preset.

        Raises:
            UserError: there is no such preset.
        """
        if preset not in self.presets:
            raise UserError(f"preset must be one of {', '.join(map(repr, self.presets))}, got {preset!r}")
        values = {field.name: self.presets[preset].get(field.name, field.default) for field in dataclasses.fields(self.config)}
        return {name: value if isinstance(value, tuple) else (value,) for name, value in values.items()}

    def grid(self, axes: Mapping[str, Sequence[Any]]) -> list[Config]:
        """The runs of each combination of the axes' values, equal ones once.

        Raises:
            UserError: a value is out of its range, or an axis has none.
        """
        for name, values in axes.items():
            if not values:
                raise UserError(f"{name} needs at least one value")
        if (count := math.prod(map(len, axes.values()))) > MOST:
            raise UserError(f"a sweep takes at most {MOST:,} runs, got {count:,}")
        try:
            runs = [self.config(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        return list(dict.fromkeys(runs))
