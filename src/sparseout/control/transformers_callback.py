"""A `SparsityTarget` in the `Trainer` of Hugging Face `transformers`."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch

from sparseout.control.goals import Targets
from sparseout.control.target import SparsityTarget

if TYPE_CHECKING:
    from transformers import TrainerCallback


def target_callback(target: Targets, **settings: Any) -> TrainerCallback:
    """`SparsityTarget(model, target, **settings)` as a callback of `transformers`' `Trainer`: a step for each optimizer step.

    It starts afresh with each `train()`, and ends with it. Its state lies in the Trainer's own checkpoints, as JSON, and
    `resume_from_checkpoint` goes on from it to the same numbers; where the arguments differ from the saved ones, these here win,
    with a warning, as in `SparsityTarget.load_state_dict`. Training logs get `sparsity/<layer>`, what is measured, and
    `q/<layer>`; callbacks that come after this one see them, and so does `log_history`.

    Args:
        target: the sparsity to reach, in any form that `SparsityTarget` takes. One callback drives all layers: where they are to
            differ, give a mapping.
        settings: the other arguments of `SparsityTarget`.

    Attributes of the callback:
        target: the `SparsityTarget`; None before training. Its `report()` says how far each layer is.

    Raises:
        ImportError: `transformers` is not installed.
        TypeError: `settings` holds what `SparsityTarget` does not take. What is out of its range is refused when training begins.

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
    >>> callback.target.steps, callback.target.report().layers[0].q != 2.0
    (20, True)
    """
    try:
        from transformers import TrainerCallback
        from transformers.trainer_callback import ExportableState
    except ImportError as error:
        raise ImportError("target_callback needs transformers: pip install 'sparseout[probe]'") from error
    inspect.signature(SparsityTarget).bind(None, target, **settings)

    # Where `restore_callback_states_from_checkpoint` is set, the Trainer makes a new callback of this class without arguments, as
    # JSON could not hold a loader: so the class itself knows them.
    class TargetCallback(TrainerCallback, ExportableState):
        target: SparsityTarget | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if self.target is not None:  # of a training that was interrupted
                self.target.stop()
            saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
            if isinstance(saved, list):
                raise ValueError(
                    f"a Trainer takes one target_callback, got {len(saved)}: give it a mapping from layers to targets"
                )
            # Trainer trains a compiled copy that shares its parts with this model.
            trained: Any = torch.compile(model) if args.torch_compile else model
            self.target = SparsityTarget(trained, target, **settings)
            if state.global_step and saved["target"] is not None:
                self.target.load_state_dict(saved["target"])

        def on_step_end(self, *_: Any, **__: Any) -> None:
            assert self.target is not None
            self.target.step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if self.target is None or "loss" not in logs:  # the logs of an evaluation
                return
            for entry in self.target.report().layers:
                if math.isfinite(entry.measured):  # the layer has been called
                    values = {f"sparsity/{entry.layer}": entry.measured, f"q/{entry.layer}": entry.q}
                    logs.update(values)
                    state.log_history[-1].update(values)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            assert self.target is not None
            self.target.stop()

        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {}, "target": self.target and self.target.state_dict()}

    return TargetCallback()
