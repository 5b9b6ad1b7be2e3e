"""Fine-tune a `transformers` model to target sparsities: a study whose training is the `Trainer` with `target_callback`.

    cd examples
    sparseout study finetune:STUDY --model FOLDER --data-dir TEXTS --target-sparsity 0 0.4 0.5 --seed 0 1
    sparseout results runs/finetune

`FOLDER` is a model of the Hugging Face hub in a folder, or its name there. `TEXTS` is a folder of text files with one sample per
line. `--task classification` tells the files apart, so each file is a class; `--task causal` predicts the next token.

Sparseout acts on the hidden units of each feed-forward block. The record has the test loss, the accuracy or the perplexity, and
the sparsity on the test texts, with padding left out. A run that was killed starts again: the engine sees it as one step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

import sparseout
from sparseout.control.settings import MEAN
from sparseout.errors import UserError
from sparseout.records.schema import Record
from sparseout.training import Config, Data, Learner, Loss, Study, measuring, regularizer_layer
from sparseout.training.target_run import control_results

EVERY = 5  # every fifth line of a file is a test sample


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(Config):
    """Fine-tune a transformer with noise on the hidden units of its feed-forward blocks, by AdamW.

    Attributes:
        p: drop probability of Sparseout and Dropout, in [0, 1]
        model: a folder with a model of the Hugging Face hub and its tokenizer, or its name there
        task: 'classification', with a class per text file, or 'causal', the next token
        train_epochs: number of passes over the training samples
        batch_size: number of samples per step
        lr: initial learning rate, which falls linearly to 0
        max_length: number of tokens after which a sample is cut off
    """

    study: ClassVar[str] = "finetune"
    epochs: ClassVar[int] = 1  # the engine sees the Trainer's training as one step

    p: float = 0.1
    model: str = ""
    task: Literal["classification", "causal"] = "classification"
    train_epochs: int = 3
    batch_size: int = 16
    lr: float = 5e-5
    max_length: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("train_epochs", "batch_size", "max_length")
        self._check_positive("lr")
        if self.regularizer not in ("sparseout", "dropout", "none"):
            raise ValueError(f"regularizer must be 'sparseout', 'dropout' or 'none' in this study, got {self.regularizer!r}")

    def scores(self) -> tuple[str, ...]:
        return ("test_loss", "accuracy" if self.task == "classification" else "perplexity")


class Texts(Dataset[Any]):
    """Tokenized samples, with what puts them into a batch."""

    def __init__(self, samples: list[dict[str, Any]], collate: Any, classes: int) -> None:
        self.samples, self.collate, self.classes = samples, collate, classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.samples[row]

    def batches(self, size: int) -> list[dict[str, Tensor]]:
        """Return all samples, in batches."""
        return [dict(self.collate(self.samples[start : start + size])) for start in range(0, len(self), size)]


def load(config: FinetuneConfig, data_dir: Path | None) -> Data:
    """Tokenize the text files in `data_dir`."""
    if not config.model:
        raise UserError("--model must be a folder with a model of the Hugging Face hub, or its name there")
    files = sorted(data_dir.glob("*.txt")) if data_dir else []
    if len(files) < (2 if config.task == "classification" else 1):
        raise UserError(f"--data-dir must be a folder with text files, one for each class, got {data_dir}")
    return _tokenized(config.model, config.task, config.max_length, tuple(files))


@functools.cache
def _tokenized(name: str, task: str, max_length: int, files: tuple[Path, ...]) -> Data:
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    train: list[dict[str, Any]] = []
    test: list[dict[str, Any]] = []
    for label, file in enumerate(files):
        for row, line in enumerate(filter(None, map(str.strip, file.read_text().splitlines()))):
            sample = dict(tokenizer(line, truncation=True, max_length=max_length))
            (train if row % EVERY else test).append(sample | ({"labels": label} if task == "classification" else {}))
    causal = task == "causal"
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False) if causal else DataCollatorWithPadding(tokenizer)
    return Data(*(Texts(samples, collate, len(files)) for samples in (train, test)))


def model(config: FinetuneConfig, data: Any) -> nn.Module:
    """Load the model, with a new classifier if the task is classification, and insert the regularizer."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if config.task == "causal":
        network: Any = AutoModelForCausalLM.from_pretrained(config.model)
    else:
        network = AutoModelForSequenceClassification.from_pretrained(config.model, num_labels=data.train.classes)
        network.config.pad_token_id = data.train.collate.tokenizer.pad_token_id
    units = getattr(network.config, "intermediate_size", None) or 4 * network.config.hidden_size
    made = []

    def build(_: nn.Module) -> nn.Module:
        made.append(regularizer_layer(config, units))
        return made[-1]

    report = sparseout.insert_after(network, None, build, where="mlp", inplace=True)
    if not report.changes:
        raise UserError(f"{config.model} has no feed-forward block that insert_after(where='mlp') finds: {report}")
    network.regularised_layers = [name for name, module in network.named_modules() if any(module is layer for layer in made)]
    return network


class Course(TrainerCallback):
    """The dial and the measured sparsity after each step of a `target_callback`."""

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.values: list[float] = []
        self.measured: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        entry = self.callback.target.report()[MEAN]
        self.values.append(entry.value)
        self.measured.append(entry.measured)


class TrainerLearner(Learner):
    """Trains with the `Trainer`, in one step of the engine."""

    def __init__(self, config: FinetuneConfig, data: Data, network: nn.Module, accelerator: Any) -> None:
        super().__init__(config, network, torch.optim.SGD(network.parameters()), accelerator)
        self.data: Any = data
        self.control: Callable[[Record], Record] = lambda found: {}  # the record's `control`, of a run with a target
        self.train_loss = math.nan

    def attach_target(self) -> None:
        """Leave the target to `target_callback`."""

    def start_epoch(self, epoch: int) -> int:
        return 1

    def update(self, step: int) -> tuple[Tensor, int]:
        config, callbacks = self.config, []
        if config.has_target:
            target = sparseout.target_callback(
                config.target_sparsity,
                measure=config.target_measure,
                mean=True,
                bounds=(config.target_q_min, config.target_q_max),
                warmup=config.target_warmup,
                ramp=config.target_ramp,
            )
            callbacks = [target, course := Course(target)]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=config.train_epochs,
                per_device_train_batch_size=config.batch_size,
                learning_rate=config.lr,
                seed=config.seed_of("trainer") % 2**32,
                bf16=config.precision == "bf16",
                use_cpu=self.device.type == "cpu",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            )
            collate = self.data.train.collate
            trainer = Trainer(self.network, arguments, data_collator=collate, train_dataset=self.data.train, callbacks=callbacks)
            trainer.remove_callback(PrinterCallback)
            self.train_loss = trainer.train().training_loss
        if config.has_target:
            self.control = functools.partial(control_results, config, target.target, course.values, course.measured)
        total, items, _ = self.loss(step)
        return total, items

    def loss(self, step: int) -> Loss:
        return Loss(torch.tensor(self.train_loss * len(self.data.train)), len(self.data.train))

    def evaluate(self) -> Record:
        return evaluate(self.network, self.data)

    def results(self) -> Record:
        found = evaluate(self.network, self.data)
        return {**found, **self.control(found)}


@torch.no_grad()
def evaluate(network: Any, data: Any) -> Record:
    """Return the mean test loss in nats, the accuracy or the perplexity, and the sparsity of the feed-forward blocks."""
    network.eval()
    total, correct, items = 0.0, 0, 0
    with measuring(network, network.regularised_layers) as measures:
        for batch in data.test.batches(32):
            batch = send_to_device(batch, network.device)
            output = network(**batch)
            causal = batch["labels"].dim() == 2
            count = int((batch["labels"][:, 1:] != -100).sum()) if causal else len(batch["labels"])
            total, items = total + output.loss.item() * count, items + count
            correct += 0 if causal else int((output.logits.argmax(-1) == batch["labels"]).sum())
    scores = {"perplexity": math.exp(total / items)} if causal else {"accuracy": correct / items}
    return {"test_loss": total / items, **scores, **measures.results()}


STUDY = Study(
    FinetuneConfig,
    load,
    model,
    TrainerLearner,
    evaluate,
    lambda data: data.test.batches(32),
    items="samples",
    presets={"default": {}},
)
