"""Training by passes over shuffled items, with an evaluation after each epoch: the learner that most studies share."""

from __future__ import annotations

import abc
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sparseout.records.schema import Record
from sparseout.training.best_epoch import BestEpoch
from sparseout.training.learner import Learner

Scores = dict[str, float]


class SupervisedLearner(Learner):
    """Each epoch is a pass over the training items in random order, in batches of `config.batch_size`.

    After an epoch, the validation items are scored or, if there are none, the test items. A run ends with the weights of its
    last epoch, or with those of its best one if `config.keep` is `"best"`.

    A subclass has a `loss` of one batch, `self.batches[step]`, and the `scores` of a part of the data. It may have a
    `learning_rate`.

    Args:
        config: settings of the run, with `epochs` and `batch_size`.
        data: has the parts `train`, `valid` and `test`, each with a length; `valid` may be empty.
        network: the network to train.
        optimizer: optimizer of the network's parameters.
        accelerator: Accelerate's handle of the device and the other processes.

    Attributes:
        epoch: the current epoch, counted from 1.
        batches: the items of each step of the current epoch, as indices into `data.train`, on the CPU.
        best: the best epoch so far.
        drop_last: whether an incomplete last batch is skipped.
    """

    drop_last = False

    def __init__(
        self, config: Any, data: Any, network: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
    ) -> None:
        super().__init__(config, network, optimizer, accelerator)
        self.data = data
        self.epoch = 0
        self.batches: tuple[Tensor, ...] = ()
        self.best = BestEpoch(getattr(config, "keep", "last"))

    @abc.abstractmethod
    def scores(self, part: Any, profile: bool = False) -> tuple[Scores, Record]:
        """Return the scores and the sparsity of the network on a part of the data, with the noise off.

        Args:
            part: `data.valid` or `data.test`.
            profile: whether to measure the activity by rank.

        Returns:
            `loss`, perhaps also `accuracy`; and the results of `measuring`.
        """

    def learning_rate(self, epoch: int) -> float | None:
        """Return the learning rate of an epoch, counted from 1, or None to leave it to the optimizer."""
        return None

    def start_epoch(self, epoch: int) -> int:
        self.epoch = epoch
        items, size = len(self.data.train), self.config.batch_size
        self.batches = torch.randperm(items, generator=self.generator("order", epoch)).split(size)
        if self.drop_last:
            self.batches = self.batches[: items // size]
        rate = self.learning_rate(epoch)
        for group in self.optimizer.param_groups if rate is not None else ():
            group["lr"] = rate
        return len(self.batches)

    def evaluate(self) -> Record:
        """Evaluate on the validation items or, if there are none, on the test items."""
        if not len(self.data.valid):
            return named_results(*self.scores(self.data.test))
        scores, sparsity = self.scores(self.data.valid)
        found = {f"valid_{name}": value for name, value in scores.items()}
        self.best.add(self.broadcast(found), self.network)
        return {**found, **sparsity}

    def results(self) -> Record:
        self.best.restore(self.network)
        return {**named_results(*self.scores(self.data.test, profile=True)), **self.best.results()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": self.best.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.best.load_state_dict(state["best"])


def named_results(scores: Scores, sparsity: Record) -> Record:
    """Return the results of a network on test data, under the names that a record has: the loss is `test_loss`.

    >>> named_results({"loss": 0.5, "accuracy": 0.75}, {"hoyer": 0.25})
    {'test_loss': 0.5, 'accuracy': 0.75, 'hoyer': 0.25}
    """
    return {**{"test_loss" if name == "loss" else name: value for name, value in scores.items()}, **sparsity}
