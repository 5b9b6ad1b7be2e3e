"""A study from a loss: `supervised_study` makes one of a configuration, data, a network, a loss and an optimizer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from sparseout.errors import UserError
from sparseout.records.schema import Record
from sparseout.training.config import Config
from sparseout.training.learner import Loss
from sparseout.training.loss_evaluation import Evaluation, LossFunction, ScoreFunction, collated, regularised_layers
from sparseout.training.study import Study, check_decorated
from sparseout.training.supervised import Scores, SupervisedLearner, named_results

EMPTY = TensorDataset(torch.empty(0))


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a study, each part a `torch.utils.data.Dataset` with a length, such as `TensorDataset(images, labels)`.

    Attributes:
        train: training items.
        test: test items.
        valid: validation items, which are scored after each epoch in place of the test items; none by default.

    Raises:
        UserError: a part is no data set with a length, or there are no training or no test items.
    """

    train: Dataset[Any]
    test: Dataset[Any]
    valid: Dataset[Any] = EMPTY

    def __post_init__(self) -> None:
        for name in ("train", "test", "valid"):
            part = getattr(self, name)
            if not isinstance(part, Dataset) or not hasattr(part, "__len__"):
                raise UserError(f"{name} must be a torch.utils.data.Dataset with a length, got {type(part).__name__}")
            if name != "valid" and not len(cast(Sized, part)):
                raise UserError(f"{name} must have at least one item, got none")


def supervised_study(
    config: type[Config],
    load: Callable[[Any, Path | None], Data],
    model: Callable[[Any, Any], nn.Module],
    loss: LossFunction,
    optimizer: Callable[[Any, nn.Module], torch.optim.Optimizer],
    *,
    scores: ScoreFunction | None = None,
    items: str = "items",
    test_batch_size: int = 100,
    presets: Mapping[str, Mapping[str, Any]] = {"default": {}},
) -> Study:
    """Return the study that trains `w <- optimizer(w, d/dw loss(network, batch))`, as `SupervisedLearner` does.

    A batch is what `torch.utils.data.default_collate` makes of items of a `Dataset`; of a `TensorDataset`, a tuple of tensors.
    Its tensors are on the run's device. A `Dataset` may draw from torch's default generator, for example to augment images:
    the draws of a step depend on the run's seed, the epoch and the step alone.

    Args:
        config: class of the configuration, with the settings `epochs` and `batch_size`. With a setting `keep` of type `Keep`, a
            run may end with its best epoch. If it has a method `learning_rate(epoch)`, that is the learning rate of an epoch,
            counted from 1.
        load: loads a configuration's data from a folder, the value of `--data-dir`, or from its usual source if that is None.
        model: builds the untrained network for a configuration and its data. The network's `regularised_layers` are the names of
            the layers with its regularizer, which `regularizer_layer` makes.
        loss: the mean loss of a batch, a scalar; or a mapping with `loss`, and perhaps `accuracy` and scores of your own, each a
            mean over the batch.
        optimizer: makes the optimizer for a configuration and its network.
        scores: for scores of your own that are no means over items, such as F1: a function of the network and an iterable of all
            batches of a part of the data, which returns a mapping of numbers. The network is in evaluation mode. The attribute
            `better` of the configuration names all scores of your own, each with `"higher"` or `"lower"`, whichever is better.
        items: plural name of the training items, for the progress bar.
        test_batch_size: number of items per forward pass of an evaluation.
        presets: changes to the configuration's defaults, by the preset's name; a tuple of values makes an axis.

    Raises:
        UserError: the configuration is no dataclass, or has no `epochs` or no `batch_size`.
    """
    check_decorated(config)
    for name in ("epochs", "batch_size"):
        if name not in (field.name for field in dataclasses.fields(config)):
            raise UserError(f"{config.__name__} must have a setting {name}")

    evaluation = Evaluation(loss, scores, tuple(config.better), test_batch_size)

    def learner(settings: Any, data: Data, network: nn.Module, accelerator: Accelerator) -> LossLearner:
        return LossLearner(settings, data, network, optimizer(settings, network), accelerator, evaluation)

    def evaluate(network: nn.Module, data: Data) -> Record:
        return named_results(*evaluation.scores(network, data.test, profile=True))

    return Study(
        config,
        functools.partial(_checked, load),
        model,
        learner,
        evaluate,
        lambda data: [collated(data.test, rows) for rows in torch.arange(len(data.test)).split(test_batch_size)],
        items=items,
        presets=presets,
    )


class LossLearner(SupervisedLearner):
    """Minimises a loss that is a mean over the items of a batch.

    Args:
        config, data, network, optimizer, accelerator: as in `SupervisedLearner`.
        evaluation: how the network is scored, with the loss.
    """

    def __init__(
        self,
        config: Any,
        data: Data,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        evaluation: Evaluation,
    ) -> None:
        regularised_layers(network)
        train = len(cast(Sized, data.train))
        if getattr(config, "keep", "last") == "best" and not len(cast(Sized, data.valid)):
            raise UserError("keep must be 'last' without validation items, got 'best'")
        if (processes := accelerator.num_processes) > min(config.batch_size, train % config.batch_size or config.batch_size):
            raise UserError(
                f"batch_size must leave each batch an item for each of the {processes} processes, got {config.batch_size}"
            )
        super().__init__(config, data, network, optimizer, accelerator)
        self.evaluation = evaluation

    def learning_rate(self, epoch: int) -> float | None:
        rate: Callable[[int], float] | None = getattr(self.config, "learning_rate", None)
        return rate(epoch) if callable(rate) else None

    def loss(self, step: int) -> Loss:
        items = self.batches[step]
        shard = self.local_shard(items)
        with torch.random.fork_rng([]):  # the draws of a data set
            torch.default_generator.manual_seed(self.config.seed_of("items", self.epoch, step, self.accelerator.process_index))
            batch = collated(self.data.train, shard)
        mean = self.evaluation.means(self.model, send_to_device(batch, self.device))["loss"]
        return Loss(mean * len(shard), len(items))

    def scores(self, part: Any, profile: bool = False) -> tuple[Scores, Record]:
        return self.evaluation.scores(self.network, part, profile)

    def clean_batches(self) -> list[Any]:
        # The input of a Sparseout layer is clean in training too.
        if self.config.regularizer == "sparseout":
            return []
        part = self.data.valid if len(self.data.valid) else self.data.train
        return [send_to_device(collated(part, torch.arange(min(len(part), self.evaluation.batch_size))), self.device)]

    def evaluated_forward(self, inputs: Any) -> Any:
        return self.evaluation.loss(self.network, inputs)


def _checked(load: Callable[[Any, Path | None], Data], config: Any, data_dir: Path | None) -> Data:
    """Return the data of a configuration after checking its type."""
    data = load(config, data_dir)
    if not isinstance(data, Data):
        raise UserError(f"load must return a sparseout.training.Data, got an object of type {type(data).__name__}")
    return data
