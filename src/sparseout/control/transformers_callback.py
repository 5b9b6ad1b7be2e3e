"""`SparsityTarget` as a callback for the `Trainer` of Hugging Face `transformers`."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch

from sparseout.control.settings import Targets
from sparseout.control.target import SparsityTarget

if TYPE_CHECKING:
    from transformers import TrainerCallback


def target_callback(target: Targets, **settings: Any) -> TrainerCallback:
    """Return `SparsityTarget(model, target, **settings)` as a callback for `transformers.Trainer`, one step per optimizer step.

    Each call of `train()` creates a new `SparsityTarget` and stops it at the end. The Trainer's checkpoints hold its state as
    JSON, so `resume_from_checkpoint` continues with the same numbers. Arguments that differ from the saved ones override them
    with a warning, as in `SparsityTarget.load_state_dict`. The training logs get `sparsity/<layer>`, the measured sparsity, and
    `q/<layer>`, or the controlled number of another layer by its name; and after a warm-up `loss_before_ramp`, the mean of its
    logged losses. `log_history` and all later callbacks see these entries.

    Args:
        target: the sparsity to reach, in any form that `SparsityTarget` accepts. One callback controls all layers: pass a mapping
            for different targets in different layers.
        settings: keyword arguments of `SparsityTarget`.

    Attributes of the callback:
        target: the `SparsityTarget`; None before training. Its `report()` shows how far each layer is from its target.

    Raises:
        ImportError: `transformers` is not installed.
        TypeError: `SparsityTarget` has no such argument. Values out of range raise when training begins.

    >>> import sparseout, tempfile
    >>> from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments
    >>> size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 32}
    >>> model = sparseout.swap_dropout(BertForMaskedLM(BertConfig(**size)), q=2.0).model
    >>> tokens = [{"input_ids": row, "labels": row} for row in torch.randint(32, (64, 8))]
    >>> callback = target_callback({"bert.encoder.layer.0.output.dropout": 0.3})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arguments = TrainingArguments(folder, max_steps=20, use_cpu=True, save_strategy="no", disable_tqdm=True)
    ...     _ = Trainer(model, arguments, train_dataset=tokens, callbacks=[callback]).train()  # doctest: +ELLIPSIS
    {'train_runtime': ...}
    >>> callback.target.steps, callback.target.report().layers[0].value != 2.0
    (20, True)
    """
    try:
        from transformers import TrainerCallback
        from transformers.trainer_callback import ExportableState
    except ImportError as error:
        raise ImportError("target_callback needs transformers: pip install 'sparseout[probe]'") from error
    inspect.signature(SparsityTarget).bind(None, target, **settings)

    # With `restore_callback_states_from_checkpoint`, the Trainer creates a callback of this class without arguments, because JSON
    # cannot hold a loader. The class itself therefore holds them.
    class TargetCallback(TrainerCallback, ExportableState):
        target: SparsityTarget | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if self.target is not None:  # left by an interrupted training
                self.target.stop()
            saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
            if isinstance(saved, list):
                raise ValueError(
                    f"callbacks must hold one target_callback, got {len(saved)}: pass it a mapping from layers to targets"
                )
            # The Trainer runs a compiled wrapper of this model.
            trained: Any = torch.compile(model) if args.torch_compile else model
            self.target = SparsityTarget(trained, target, **settings)
            if state.global_step and saved["target"] is not None:
                self.target.load_state_dict(saved["target"])

        def on_step_end(self, *_: Any, **__: Any) -> None:
            assert self.target is not None
            self.target.step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if self.target is None or "loss" not in logs:  # logs of an evaluation have no loss
                return
            self.target.read_loss(logs["loss"])
            report = self.target.report()
            values = {"loss_before_ramp": report.loss.before} if math.isfinite(report.loss.before) else {}
            values |= report.logged()
            logs.update(values)
            state.log_history[-1].update(values)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            assert self.target is not None
            self.target.stop()

        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {}, "target": self.target and self.target.state_dict()}

    return TargetCallback()
