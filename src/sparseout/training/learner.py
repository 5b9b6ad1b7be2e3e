"""The interface between a study and the training engine: batches, loss, evaluation, and the state of training."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from sparseout.records.schema import Record
from sparseout.regularizers import Penalty, penalty
from sparseout.training.precision import check_precision
from sparseout.training.target_run import TargetRun


class Loss(NamedTuple):
    """The loss of a batch, of which each process computes its shard.

    Attributes:
        total: sum over this process's items, a scalar.
        items: number of items in the whole batch, over all processes.
        penalty: added to the mean loss in the objective but not recorded; a mean over this process's shard.
    """

    total: Tensor
    items: int
    penalty: Tensor | float = 0.0


class Learner(abc.ABC):
    """One run in training: `w <- optimizer(w, d/dw (total / items + penalty + sparseout.penalty(network)))`, step after step.

    The random draws of a step depend on the run's seed, the epoch, the step and the process alone: some come from `generator`,
    the noise from the default generator, which the engine seeds before each step. No generator state has to be saved.

    Attributes:
        config: settings of the run.
        network: the network itself.
        model: the network to call in training, wrapped if several processes train it.
        optimizer: optimizer of the network's parameters.
        accelerator: Accelerate's handle of the device and the other processes.
        has_penalty: whether layers of the network add terms to the objective; they are not recorded as loss.
        target_run: the run's sparsity target, set by `attach_target`; None if the run has none.
        max_norm: maximum 2-norm of the gradients, which are clipped; None does not clip.
    """

    max_norm: float | None = None

    def __init__(self, config: Any, network: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
        check_precision(config, network, accelerator.device)
        self.config = config
        self.network = network
        self.accelerator = accelerator
        self.target_run: TargetRun | None = None
        self.has_penalty = any(isinstance(module, Penalty) for module in network.modules())
        self.model, self.optimizer = accelerator.prepare(network, optimizer)

    @abc.abstractmethod
    def start_epoch(self, epoch: int) -> int:
        """Prepare `epoch`, counted from 1: its data order and learning rate. Return its number of steps."""

    @abc.abstractmethod
    def loss(self, step: int) -> Loss:
        """Return the loss of a step of the current epoch, counted from 0."""

    @abc.abstractmethod
    def evaluate(self) -> Record:
        """Return the metrics of an epoch: losses and sparsity on held-out data, without noise."""

    @abc.abstractmethod
    def results(self) -> Record:
        """Return the results of the finished run, and leave the final weights in the network."""

    def attach_target(self) -> None:
        """Attach a `SparsityTarget` to the network if the run has a target. Call this once, before the first step."""
        if self.config.has_target:
            self.target_run = TargetRun(self.config, self.network, self.clean_batches(), self.evaluated_forward)

    def update(self, step: int) -> tuple[Tensor, int]:
        """Train on one batch. Return this process's share of the summed loss, and the number of items of the whole batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = self.loss(step)
        self.optimizer.zero_grad()
        # Gradients are averaged over the processes.
        objective = loss.total * (self.accelerator.num_processes / loss.items) + loss.penalty
        self.accelerator.backward(objective + penalty(self.network) if self.has_penalty else objective)
        if self.max_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.max_norm)
        self.optimizer.step()
        if self.target_run:
            self.target_run.step()
        return loss.total.detach(), loss.items

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes, as nested dictionaries of tensors, numbers, strings and lists of numbers."""
        state = {"model": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state | {"control": self.target_run.state_dict()} if self.target_run else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`. Within an epoch, call `start_epoch` first."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.target_run:
            self.target_run.load_state_dict(state["control"])

    def clean_batches(self) -> Sequence[Tensor]:
        """Return held-out inputs of the network, to measure its sparsity as in evaluation; none if training measures the same."""
        return ()

    def evaluated_forward(self, inputs: Tensor) -> Any:
        """Call the network with the weights of the final evaluation."""
        return self.network(inputs)

    @property
    def device(self) -> torch.device:
        """The device to train on."""
        device: torch.device = self.accelerator.device
        return device

    def generator(self, purpose: str, *index: int) -> torch.Generator:
        """Return a CPU generator for the draws of `purpose` at `index`, such as an epoch and a step."""
        return torch.Generator().manual_seed(self.config.seed_of(purpose, *index))

    def broadcast(self, value: Any) -> Any:
        """Return the first process's `value` in every process."""
        return broadcast_object_list([value])[0]

    def local_shard(self, batch: Tensor, dim: int = 0) -> Tensor:
        """Return this process's shard of a batch, whose items lie along `dim`."""
        part: Tensor = batch.tensor_split(self.accelerator.num_processes, dim)[self.accelerator.process_index]
        return part
