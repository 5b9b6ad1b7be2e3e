"""`supervised_study`: the objective, the scores of uneven batches, and the draws of a data set."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from sparseout.errors import UserError
from sparseout.training import Config, Data, Keep, regularizer_layer, supervised_study


@dataclasses.dataclass(frozen=True)
class LineConfig(Config):
    study: ClassVar[str] = "line"

    epochs: int = 2
    batch_size: int = 3
    keep: Keep = "last"

    def learning_rate(self, epoch):
        return 1 / epoch


class Line(nn.Module):
    regularised_layers = ("1",)

    def __init__(self, config):
        super().__init__()
        self.add_module("0", nn.Linear(2, 4))
        self.add_module("1", regularizer_layer(config, 4))
        self.add_module("2", nn.Linear(4, 1))

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class Shaken(Dataset):
    """Items with a random shift at each access."""

    def __len__(self):
        return 7

    def __getitem__(self, row):
        return torch.full((2,), float(row)) + torch.randn(2), torch.ones(1)


def tensors(count):
    draws = torch.Generator().manual_seed(count)
    return TensorDataset(torch.randn(count, 2, generator=draws), torch.randn(count, 1, generator=draws))


def loss(network, batch):
    x, y = batch
    return (network(x) - y).square().mean()


def sgd(config, network):
    return torch.optim.SGD(network.parameters(), lr=9.0)


def study(data, **settings):
    return supervised_study(LineConfig, lambda config, data_dir: data, lambda config, data: Line(config), loss, sgd, **settings)


def learner(data, **settings):
    config, made = LineConfig(regularizer="none", **settings), study(data)
    torch.manual_seed(0)
    return made.learner(config, data, made.model(config, data), Accelerator(cpu=True))


def test_the_objective_is_the_mean_loss_of_the_batch():
    run = learner(Data(tensors(7), tensors(4)))
    assert run.start_epoch(1) == 3
    assert sorted(torch.cat(run.batches).tolist()) == list(range(7))
    for step, rows in enumerate(run.batches):
        found = run.loss(step)
        assert found.items == len(rows)
        assert found.total / found.items == loss(run.network, run.data.train[rows])


def test_the_learning_rate_is_that_of_the_epoch():
    run = learner(Data(tensors(7), tensors(4)))
    for epoch in (1, 2):
        run.start_epoch(epoch)
        assert run.optimizer.param_groups[0]["lr"] == 1 / epoch


@given(st.integers(1, 9))
def test_scores_do_not_depend_on_the_size_of_the_batches(size):
    data = Data(tensors(7), tensors(8))
    made = study(data, test_batch_size=size)
    config = LineConfig(regularizer="none")
    torch.manual_seed(0)
    network = made.model(config, data)
    found = made.evaluate(network, data)
    assert found["test_loss"] == pytest.approx(loss(network, data.test[:]).item(), rel=1e-5)
    assert found["layers"]["1"]["vectors"] == 8
    assert sum(len(x) for x, _ in made.test_batches(data)) == 8


def test_the_draws_of_a_data_set_depend_on_the_step_alone():
    first, second = (learner(Data(Shaken(), tensors(4))) for _ in range(2))
    first.start_epoch(1)
    second.start_epoch(1)
    torch.randn(5)
    state = torch.get_rng_state()
    late = second.loss(2).total
    assert torch.equal(torch.get_rng_state(), state)  # the noise of the layers is drawn from here
    early = [first.loss(step).total for step in range(3)]
    assert early[2] == late
    second.start_epoch(2)
    assert second.loss(2).total != late


def test_the_best_epoch_needs_validation_items():
    with pytest.raises(UserError, match="keep must be 'last' without validation items, got 'best'"):
        learner(Data(tensors(7), tensors(4)), keep="best")
    assert learner(Data(tensors(7), tensors(4), tensors(5)), keep="best").best.keep == "best"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([1, 2], tensors(4)), "train must be a torch.utils.data.Dataset with a length, got list"),
        ((tensors(4), tensors(0)), "test must have at least one item, got none"),
    ],
)
def test_bad_data_is_refused(parts, message):
    with pytest.raises(UserError, match=message):
        Data(*parts)


def test_a_configuration_without_its_decorator_is_refused():
    class Bare(LineConfig):
        width: int = 3

    with pytest.raises(UserError, match="Bare must have the decorator @dataclasses.dataclass"):
        supervised_study(Bare, None, None, loss, sgd)
