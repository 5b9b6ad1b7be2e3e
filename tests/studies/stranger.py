"""A package as a stranger writes it, with a study in it."""

RINGS = '''
import dataclasses
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from sparseout.training import Config, Data, Keep, regularizer_layer, supervised_study


@dataclasses.dataclass(frozen=True)
class RingConfig(Config):
    """Tell two rings apart.

    Attributes:
        hidden_size: number of units
    """

    study: ClassVar[str] = "rings"

    hidden_size: int = 16
    activation: Literal["relu", "tanh"] = "relu"
    epochs: int = 2
    batch_size: int = 64
    lr: float = 1e-2
    keep: Keep = "last"
    square: bool = False
    note: str = "a ring"

    def __post_init__(self):
        super().__post_init__()
        self._check_at_least_1("hidden_size", "epochs", "batch_size")

    def scores(self):
        return ("test_loss", "accuracy", "valid_loss", "valid_accuracy")


def load(config, data_dir):
    generator = torch.Generator().manual_seed(0)
    angle, label = 6.3 * torch.rand(600, generator=generator), torch.arange(600) % 2
    radius = 1 + label + 0.2 * torch.randn(600, generator=generator)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return Data(*(TensorDataset(x[i : i + 200], label[i : i + 200]) for i in (0, 200, 400)))


class Net(nn.Module):
    regularised_layers = ("noise",)

    def __init__(self, config):
        super().__init__()
        self.first, self.last = nn.Linear(2, config.hidden_size), nn.Linear(config.hidden_size, 2)
        self.act = nn.ReLU() if config.activation == "relu" else nn.Tanh()
        self.noise = regularizer_layer(config, config.hidden_size)

    def forward(self, x):
        return self.last(self.noise(self.act(self.first(x))))


def model(config, data):
    return Net(config)


def loss(network, batch):
    x, label = batch
    logits = network(x)
    return {"loss": F.cross_entropy(logits, label), "accuracy": (logits.argmax(1) == label).float().mean()}


def optimizer(config, network):
    return torch.optim.Adam(network.parameters(), lr=config.lr)


STUDY = supervised_study(RingConfig, load, model, loss, optimizer, items="points", presets={"quick": {"q": (1.0, 2.0)}})
'''


def write(folder, text=RINGS):
    """Write the package `lab` with the module `rings`."""
    (folder / "lab").mkdir()
    (folder / "lab/__init__.py").touch()
    (folder / "lab/rings.py").write_text(text)
