"""Everything that a run's next epoch depends on, in one safetensors file: no pickle, nothing executed on loading."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sparseout.report.files import write_whole
from sparseout.studies.config import UserError


@dataclasses.dataclass
class TrainingState:
    """What training changes: the weights, the optimizer, and the generators of data order and noise.

    Attributes:
        model: the network.
        optimizer: of its parameters.
        order: generator of the data order, on the CPU.
        device: its default generator is that of the noise.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    device: torch.device

    def save(self, path: Path, **progress: float) -> None:
        """Write the state and `progress` (numbers such as the epoch) to `path`, whole or not at all."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        numbers: dict[str, Any] = {"progress": progress, "groups": optimizer["param_groups"], "state": {}}
        for index, values in optimizer["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    numbers["state"].setdefault(index, {})[name] = value
        tensors |= {"generator.order": self.order.get_state(), "generator.noise": self._generators.get_rng_state()}
        save_tensors(path, tensors, {"numbers": json.dumps(numbers)})

    def load(self, path: Path) -> dict[str, float]:
        """Restore the state from `path` and return the `progress` it was saved with.

        Raises:
            UserError: the file cannot be read, or is not of this model.
        """
        try:
            with safe_open(path, framework="pt", device=str(self.device)) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                numbers = json.loads(file.metadata()["numbers"])
            self.model.load_state_dict(_under("model.", tensors))
            state: dict[int, dict[str, Any]] = {int(index): values for index, values in numbers["state"].items()}
            for key, value in _under("optimizer.", tensors).items():
                index, name = key.split(".", 1)
                state.setdefault(int(index), {})[name] = value
            self.optimizer.load_state_dict({"state": state, "param_groups": numbers["groups"]})
            self.order.set_state(tensors["generator.order"].cpu())
            self._generators.set_rng_state(tensors["generator.noise"].cpu())
        except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{path} cannot be resumed from: delete it to start that run again ({error})") from error
        progress: dict[str, float] = numbers["progress"]
        return progress

    @property
    def _generators(self) -> Any:
        """The module with the state of the default generator of `device`."""
        return torch if self.device.type == "cpu" else torch.get_device_module(self.device)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` to `path` as safetensors, whole or not at all."""
    write_whole(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata=metadata))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
