"""A study: the configuration, data, network and training of an experiment, and the grid of runs that a sweep makes of it."""

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

MAX_RUNS = 1_000_000  # of a grid


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment: its configuration, data and network, and how the network is trained and evaluated.

    Attributes:
        config: class of the configuration; its `study` is the experiment's name.
        load: loads a configuration's data from a folder, by default from its usual source; repeated calls are cheap.
        model: builds a configuration's untrained network for its data.
        learner: builds a `Learner`, which the engine trains.
        evaluate: returns the results of a network on the test data.
        test_batches: returns the inputs of the test data.
        items: plural name of what the training loss is a mean over, for the progress bar.
        presets: changes to the configuration's defaults, by the preset's name; a tuple of values makes an axis.
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
        """The name of the first preset."""
        return next(iter(self.presets))

    def axes(self, preset: str) -> dict[str, tuple[Any, ...]]:
        """Return the values of each setting in a preset.

        Raises:
            UserError: there is no such preset.
        """
        if preset not in self.presets:
            raise UserError(f"preset must be one of {', '.join(map(repr, self.presets))}, got {preset!r}")
        values = {field.name: self.presets[preset].get(field.name, field.default) for field in dataclasses.fields(self.config)}
        return {name: value if isinstance(value, tuple) else (value,) for name, value in values.items()}

    def grid(self, axes: Mapping[str, Sequence[Any]]) -> list[Config]:
        """Return one run for each combination of the axes' values, without duplicates.

        Raises:
            UserError: a value is out of its range, or an axis has none.
        """
        for name, values in axes.items():
            if not values:
                raise UserError(f"{name} needs at least one value")
        if (count := math.prod(map(len, axes.values()))) > MAX_RUNS:
            raise UserError(f"a sweep takes at most {MAX_RUNS:,} runs, got {count:,}")
        try:
            runs = [self.config(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
            self._check_finite(axes)
            return list(dict.fromkeys(run.normalised() for run in runs))
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error

    def _check_finite(self, axes: Mapping[str, Sequence[Any]]) -> None:
        """Raise `UserError` for NaN and infinity, which a configuration need not check."""
        for name, values in axes.items():
            for value in values:
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(f"{name} must be a finite number, got {value}")


def check_decorated(config: type[Config]) -> None:
    """Raise `UserError` for a configuration whose own settings would have no effect, because it is no dataclass."""
    if "__dataclass_params__" not in vars(config):
        raise UserError(f"{config.__name__} must have the decorator @dataclasses.dataclass(frozen=True)")
