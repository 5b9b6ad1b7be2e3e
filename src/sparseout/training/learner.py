"""What the training engine asks of a study's run: batches, a loss, an evaluation, and everything that training changes."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from sparseout.records.schema import Record
from sparseout.training.target_run import TargetRun


class Loss(NamedTuple):
    """The loss of a batch, of which each process computes its share.

    Attributes:
        total: sum over this process's items, a scalar.
        items: of the whole batch, those of other processes included.
        penalty: added to the mean over the items in the objective, and not recorded; a mean over this process's share.
    """

    total: Tensor
    items: int
    penalty: Tensor | float = 0.0


class Learner(abc.ABC):
    """One run in training: `w <- optimizer(w, d/dw (total / items + penalty))`, step after step.

    Whatever is random in a step is a function of the run's seed, the epoch, the step and the process: `generator` makes such
    draws, and the default generator, from which the noise is drawn, is seeded anew for each step. Nothing has to be saved of it.

    Attributes:
        config: the run's settings.
        network: the network itself.
        model: the network as it is called in training, wrapped where several processes train it.
        optimizer: of the network's parameters.
        accelerator: knows the device and the other processes.
        max_norm: gradients are clipped to this 2-norm; None clips nothing.
    """

    max_norm: float | None = None

    def __init__(self, config: Any, network: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
        self.config = config
        self.network = network
        self.accelerator = accelerator
        self.model, self.optimizer = accelerator.prepare(network, optimizer)

    @abc.abstractmethod
    def start_epoch(self, epoch: int) -> int:
        """Make ready for `epoch`, counted from 1: the order of its data, its learning rate. Returns the number of its steps."""

    @abc.abstractmethod
    def loss(self, step: int) -> Loss:
        """The loss of a step of the epoch that was begun, counted from 0."""

    @abc.abstractmethod
    def evaluate(self) -> Record:
        """What to record at the end of each epoch: losses and sparsity on held-out data, without noise."""

    @abc.abstractmethod
    def results(self) -> Record:
        """What the run found, at its end; the network then has the weights to keep."""

    def update(self, step: int) -> tuple[Tensor, int]:
        """Train on one batch. Returns this process's share of the loss, summed, and the items of the whole batch."""
        control = self.control  # which measures from the first step on
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = self.loss(step)
        self.optimizer.zero_grad()
        # Gradients are averaged over the processes.
        self.accelerator.backward(loss.total * (self.accelerator.num_processes / loss.items) + loss.penalty)
        if self.max_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.max_norm)
        self.optimizer.step()
        if control:
            control.step()
        return loss.total.detach(), loss.items

    def state_dict(self) -> dict[str, Any]:
        """All that training changes, as nested dictionaries of tensors, numbers, strings and lists of numbers."""
        state = {"model": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state | {"control": self.control.state_dict()} if self.control else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, in the middle of an epoch too, which is begun again first."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.control:
            self.control.load_state_dict(state["control"])

    def clean_batches(self) -> Sequence[Tensor]:
        """Inputs of the network that it does not learn from, for the sparsity without noise; none where one layer has noise."""
        return ()

    def evaluated_forward(self, inputs: Tensor) -> Any:
        """Call the network with the weights that are evaluated in the end."""
        return self.network(inputs)

    @functools.cached_property
    def control(self) -> TargetRun | None:
        """What drives `q`, where the run has a target."""
        if not self.config.target_sparsity:
            return None
        return TargetRun(self.config, self.network, self.clean_batches(), self.evaluated_forward)

    @property
    def device(self) -> torch.device:
        """Where to train."""
        device: torch.device = self.accelerator.device
        return device

    def generator(self, purpose: str, *place: int) -> torch.Generator:
        """A generator on the CPU, for what is drawn for `purpose` at `place`, such as an epoch and a step."""
        return torch.Generator().manual_seed(self.config.seed_of(purpose, *place))

    def broadcast(self, value: Any) -> Any:
        """The first process's `value`, in all of them."""
        return broadcast_object_list([value])[0]

    def local_shard(self, batch: Tensor, dim: int = 0) -> Tensor:
        """This process's share of the items of a batch, which lie along `dim`."""
        part: Tensor = batch.tensor_split(self.accelerator.num_processes, dim)[self.accelerator.process_index]
        return part
