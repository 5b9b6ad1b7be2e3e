"""`SparsityTarget` as a callback for the `Trainer` of Lightning."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sparseout.control.settings import Targets
from sparseout.control.target import SparsityTarget

if TYPE_CHECKING:
    from lightning.pytorch import Callback


def lightning_target_callback(target: Targets, **settings: Any) -> Callback:
    """Return `SparsityTarget(module, target, **settings)` as a callback for `lightning.pytorch.Trainer`.

    It takes one step per optimizer step. Each call of `fit()` creates a new `SparsityTarget` for the `LightningModule` and stops
    it at the end. Lightning's checkpoints hold its state, so `fit(ckpt_path=...)` continues with the same numbers. Arguments that
    differ from the saved ones override them with a warning, as in `SparsityTarget.load_state_dict`. The loggers and
    `trainer.callback_metrics` get `sparsity/<layer>`, the measured sparsity, and `q/<layer>`, or the controlled number of
    another layer by its name.

    Args:
        target: the sparsity to reach, in any form that `SparsityTarget` accepts. One callback controls all layers: pass a mapping
            for different targets in different layers.
        settings: keyword arguments of `SparsityTarget`.

    Attributes of the callback:
        target: the `SparsityTarget`; None before training. Its `report()` shows how far each layer is from its target.

    Raises:
        ImportError: `lightning` is not installed.
        TypeError: `SparsityTarget` has no such argument. Values out of range raise when training begins.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise ImportError("lightning_target_callback needs lightning: pip install 'sparseout[lightning]'") from error
    inspect.signature(SparsityTarget).bind(None, target, **settings)

    class TargetCallback(Callback):
        target: SparsityTarget | None = None
        _saved: dict[str, Any] | None = None  # state from a checkpoint, which Lightning loads before training starts
        _steps = 0  # optimizer steps so far

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._stop()  # left by an interrupted training
            self.target = SparsityTarget(pl_module, target, **settings)
            if self._saved is not None:
                self.target.load_state_dict(self._saved)
                self._saved = None
            self._steps = trainer.global_step

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            assert self.target is not None
            if trainer.global_step == self._steps:  # the batch only accumulates gradients
                return
            self._steps = trainer.global_step
            self.target.step()
            pl_module.log_dict(self.target.report().logged())

        def on_train_end(self, *_: Any) -> None:
            self._stop()

        def on_exception(self, *_: Any) -> None:
            self._stop()

        def _stop(self) -> None:
            if self.target is not None:
                self.target.stop()

        def state_dict(self) -> dict[str, Any]:
            return {"target": self.target and self.target.state_dict()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._saved = state_dict["target"]

    return TargetCallback()
