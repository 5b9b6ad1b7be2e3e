"""The epoch with the lowest validation loss, and which epoch's weights a run ends with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from sparseout.records.schema import Record

Keep = Literal["last", "best"]


class BestEpoch:
    """Finds `argmin_epoch valid_loss` while a run trains, and keeps that epoch's weights if the run ends with them.

    A loss that is NaN counts as infinite. The first of several equal losses is the best one.

    Args:
        keep: the weights to end with: those of the `"last"` epoch, or of the `"best"`, with the lowest validation loss.

    Attributes:
        losses: validation loss of each epoch so far.

    >>> network, best = nn.Linear(1, 1), BestEpoch("best")
    >>> for loss in (0.5, 0.25, 0.75):
    ...     best.add({"valid_loss": loss}, network)
    >>> best.results()
    {'valid_loss': 0.25, 'best_epoch': 2}
    """

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.losses: list[float] = []
        self._metrics: dict[str, float] = {}
        self._weights: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, float], network: nn.Module) -> None:
        """Add an epoch.

        Args:
            metrics: validation metrics of the epoch, with a `valid_loss`; equal in all processes.
            network: the network that was evaluated.
        """
        loss = math.inf if math.isnan(metrics["valid_loss"]) else metrics["valid_loss"]
        improved = not self.losses or loss < min(self.losses)
        self.losses.append(loss)
        if improved and self.keep == "best":
            self._weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if improved or self.keep == "last":
            self._metrics = {**metrics, "valid_loss": loss}

    def restore(self, network: nn.Module) -> None:
        """Load the weights of the best epoch into the network; with `keep="last"`, leave it as it is."""
        if self._weights:
            network.load_state_dict(self._weights)

    def results(self) -> Record:
        """Return the metrics of the epoch whose weights are kept, and `best_epoch`, counted from 1; empty without epochs."""
        return {**self._metrics, "best_epoch": self.losses.index(min(self.losses)) + 1} if self.losses else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the losses, and the metrics and weights of the epoch that is kept."""
        return {"losses": self.losses, "metrics": self._metrics, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.losses = list(state["losses"])
        self._metrics, self._weights = dict(state["metrics"]), dict(state["weights"])


def check_keep(keep: Keep, valid_images: int) -> None:
    """Raise `ValueError` if the best epoch is to be kept without validation data."""
    if keep == "best" and not valid_images:
        raise ValueError("keep must be 'last' without valid_images, got 'best': the best epoch has the lowest validation loss")
