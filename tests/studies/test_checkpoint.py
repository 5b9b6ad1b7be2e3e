"""A checkpoint restores everything that the next epoch depends on, and nothing in it is executed."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from sparseout.studies.checkpoint import TrainingState
from sparseout.studies.config import UserError

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "asgd": lambda parameters: torch.optim.ASGD(parameters, lr=0.1),
}


def new_state(optimizer="adam", units=4):
    torch.manual_seed(0)
    model = nn.Linear(3, units)
    return TrainingState(model, OPTIMIZERS[optimizer](model.parameters()), torch.Generator(), torch.device("cpu"))


def steps(state, count):
    losses = []
    for _ in range(count):
        x = torch.rand(5, 3, generator=state.order) + torch.rand(5, 3)
        loss = state.model(x).square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_to_the_same_numbers(optimizer, tmp_path):
    state = new_state(optimizer)
    steps(state, 5)
    state.optimizer.param_groups[0]["lr"] = 0.05
    state.save(tmp_path / "checkpoint", epoch=5, seconds=1.5)
    expected = steps(state, 5)
    restored = new_state(optimizer)
    steps(restored, 2)
    assert restored.load(tmp_path / "checkpoint") == {"epoch": 5, "seconds": 1.5}
    assert steps(restored, 5) == expected


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    new_state(units=4).save(tmp_path / "checkpoint", epoch=1)
    with pytest.raises(UserError, match="cannot be resumed from: delete it"):
        new_state(units=5).load(tmp_path / "checkpoint")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps("pickled")])
def test_an_unreadable_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(UserError, match="cannot be resumed from"):
        new_state().load(tmp_path / "checkpoint")


def test_a_pickle_is_not_executed(tmp_path):
    torch.save({"model": Bomb(tmp_path / "executed")}, tmp_path / "checkpoint")
    with pytest.raises(UserError, match="cannot be resumed from"):
        new_state().load(tmp_path / "checkpoint")
    assert not (tmp_path / "executed").exists()
