"""The paper's language modelling: how the noise on an AWD-LSTM's activations changes its perplexity."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from sparseout.checks import check_integer, check_number
from sparseout.errors import UserError
from sparseout.records.schema import LARGEST, Record
from sparseout.structured import LockedSparseout
from sparseout.studies.data import sequences, text
from sparseout.studies.models.awd_lstm import AWDLSTM, Hidden, LockedDropout, Output
from sparseout.training.best_epoch import BestEpoch
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Learner, Loss
from sparseout.training.regularizer import regularizer_layer
from sparseout.training.study import Study

NoiseLayers = Literal["hidden", "output", "both"]
NoisePer = Literal["sequence", "word"]
COLUMNS = 20  # of the validation text, read in parallel
MAX_LAYERS = 1000
PATIENCE = 5  # epochs: the n of NT-ASGD


@dataclasses.dataclass(frozen=True)
class LanguageConfig(Config):
    """Train an AWD-LSTM language model with a regularizer on the output of its layers, by NT-ASGD.

    Attributes:
        p: drop probability on the output of the last layer, of Sparseout and Dropout
        dataset: 'english' (the documentation of the running interpreter), 'ptb' (Penn Treebank) or 'wikitext2'
        train_tokens: number of tokens to train on, from the start of the training text; 0 for all
        noise_layers: layers with the regularizer: 'hidden' (all but the last), 'output' (the last) or 'both'; others have locked
            dropout
        noise_per: what has a draw of its own for each unit, in Sparseout and Dropout: a 'sequence', as in locked dropout, or a
            'word'
        p_hidden: drop probability on the output of all layers but the last, of Sparseout and Dropout
        p_input: drop probability of the locked dropout on the first layer's input
        p_embedding: probability of dropping a word of the embedding
        p_weight: probability of dropping a recurrent weight
        num_layers: number of stacked LSTMs
        hidden_size: number of units of each layer but the last
        embedding_size: number of features of a word, and of units of the last layer
        epochs: number of passes over the training text
        batch_size: number of columns that the training text is cut into and read in parallel
        bptt: average length of a sequence, in words
        lr: learning rate of SGD for a sequence of bptt words; it is proportional to the length
        weight_decay: L2 penalty on all parameters
        clip: maximum 2-norm of the gradients
        alpha: weight of the activation regularisation, the mean square of the last layer's output after its noise
        beta: weight of the temporal regularisation, the mean square of the change of that output before its noise between words
    """

    study: ClassVar[str] = "language"

    p: float = 0.4
    dataset: text.Name = "english"
    train_tokens: int = 0
    noise_layers: NoiseLayers = "both"
    noise_per: NoisePer = "sequence"
    p_hidden: float = 0.3
    p_input: float = 0.4
    p_embedding: float = 0.1
    p_weight: float = 0.5
    num_layers: int = 3
    hidden_size: int = 1150
    embedding_size: int = 400
    epochs: int = 750
    batch_size: int = 40
    bptt: int = 70
    lr: float = 30.0
    weight_decay: float = 1.2e-6
    clip: float = 0.25
    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("p_hidden", "p_input", "p_embedding", "p_weight"):
            check_number(name, getattr(self, name), 0, 1, "a drop probability in [0, 1]")
        self._check_not_negative("weight_decay", "alpha", "beta")
        check_integer("train_tokens", self.train_tokens, 0, 2**31 - 1)
        check_integer("bptt", self.bptt, sequences.MIN_LENGTH, 2**31 - 1)
        self._check_at_least_1("num_layers", most=MAX_LAYERS)
        self._check_at_least_1("hidden_size", "embedding_size", "epochs", "batch_size")
        self._check_positive("lr", "clip")
        if self.regularizer == "standout":
            raise ValueError(
                "regularizer must not be 'standout' in the study 'language', got 'standout': it rectifies its input, and the "
                "outputs of an LSTM have both signs"
            )

    def unused(self) -> frozenset[str]:
        # Layers outside noise_layers keep their locked dropout.
        kept = {"hidden": {"p"}, "output": {"p_hidden"}}.get(self.noise_layers, set())
        return super().unused() - kept

    def scores(self) -> tuple[str, ...]:
        return ("test_loss", "perplexity", "valid_loss")

    def noises(self) -> list[nn.Module]:
        """Return a layer of noise, or of another regularizer, for the output of each LSTM."""
        between = [self._noise("hidden", self.hidden_size, self.p_hidden) for _ in range(self.num_layers - 1)]
        return [*between, self._noise("output", self.embedding_size, self.p)]

    def _noise(self, layer: str, units: int, p: float) -> nn.Module:
        if self.noise_layers not in (layer, "both"):
            return LockedDropout(p)
        if self.noise_per == "word":
            return regularizer_layer(self, units, p=p)
        return regularizer_layer(self, units, p=p, sparseout=LockedSparseout, dropout=LockedDropout)


class LanguageLearner(Learner):
    """Minimises the mean cross entropy of the next word with SGD, averaged once the validation loss stops falling (NT-ASGD).

    The training text is cut into `batch_size` columns, which are read in parallel, in sequences of random length. Each sequence
    starts from the final hidden state of the previous one. The results are those of the epoch with the lowest validation loss.

    Source: Merity, Keskar and Socher (2018), sections 3 and 4.1.
    """

    network: AWDLSTM

    def __init__(self, config: LanguageConfig, corpus: text.Corpus, network: AWDLSTM, accelerator: Accelerator) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        super().__init__(config, network, optimizer, accelerator)
        if config.batch_size % accelerator.num_processes:
            raise UserError(
                f"batch_size must be a multiple of the {accelerator.num_processes} processes, got {config.batch_size}"
            )
        self.max_norm = config.clip
        self.corpus = corpus.to(self.device)
        rows = len(corpus.train) // config.batch_size
        columns = self.corpus.train[: rows * config.batch_size].view(config.batch_size, rows).t()
        self.columns = self.local_shard(columns, dim=1).contiguous()
        self.hidden: Hidden = ()
        self.averaged: AveragedModel | None = None
        self.best = BestEpoch("best")

    def start_epoch(self, epoch: int) -> int:
        self.lengths = sequences.lengths(len(self.columns) - 1, self.config.bptt, self.generator("bptt", epoch))
        self.hidden = self.network.zeros(self.columns.shape[1])
        return len(self.lengths)

    def loss(self, step: int) -> Loss:
        start, length = sum(self.lengths[:step]), self.lengths[step]
        words, targets = self.columns[start : start + length], self.columns[start + 1 : start + 1 + length]
        output: Output = self.model(words, self.hidden)
        self.hidden = tuple((h.detach(), c.detach()) for h, c in output.hidden)
        total = F.cross_entropy(output.logits.flatten(0, 1), targets.flatten(), reduction="sum")
        change = output.raw[1:].float() - output.raw[:-1].float()
        penalty = self.config.alpha * output.regularised.float().square().mean() + self.config.beta * change.square().mean()
        return Loss(total, length * self.config.batch_size, penalty)

    def clean_batches(self) -> list[Tensor]:
        return [inputs for inputs, _ in sequences.pieces(self.corpus.valid, COLUMNS)]

    def evaluated_forward(self, inputs: Tensor) -> Any:
        if self.averaged is None:
            return super().evaluated_forward(inputs)
        # The target measures the layers of the network itself, here with the averaged weights.
        return torch.func.functional_call(self.network, dict(self.averaged.module.named_parameters()), (inputs,))

    def update(self, step: int) -> tuple[Tensor, int]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self.lengths[step] / self.config.bptt
        done = super().update(step)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        return done

    def evaluate(self) -> Record:
        network: Any = self.network if self.averaged is None else self.averaged.module
        loss, measures = evaluate_text(network, self.corpus.valid, COLUMNS)
        self.best.add({"valid_loss": self.broadcast(loss)}, network)
        *before, last = self.best.losses
        if self.averaged is None and last > min(before[:-PATIENCE], default=math.inf):
            self.averaged = average(self.network)
        return {"valid_loss": loss, "valid_perplexity": perplexity(loss), **measures}

    def results(self) -> Record:
        self.best.restore(self.network)
        return {**evaluate(self.network, self.corpus), **self.best.results()}

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | {"best": self.best.state_dict()}
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        # `gather` concatenates the processes' columns along the first dimension.
        gathered = [[self.accelerator.gather(part.transpose(0, 1).contiguous()) for part in layer] for layer in self.hidden]
        state["hidden"] = {str(number): {"h": h, "c": c} for number, (h, c) in enumerate(gathered)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.best.load_state_dict(state["best"])
        if "averaged" in state:
            self.averaged = average(self.network)
            self.averaged.load_state_dict(state["averaged"])
        parts = [[state["hidden"][str(number)][part] for part in "hc"] for number in range(len(state["hidden"]))]
        shares = [[self.local_shard(part).transpose(0, 1).contiguous().to(self.device) for part in layer] for layer in parts]
        self.hidden = tuple((h, c) for h, c in shares)


def average(network: AWDLSTM) -> AveragedModel:
    """Return a running mean of the network's weights; its `update_parameters` is `theta <- theta + (w - theta) / n`."""
    # torch.optim.ASGD would apply each learning rate one step late.
    averaged = AveragedModel(network, multi_avg_fn=get_swa_multi_avg_fn())
    for module in averaged.modules():
        if isinstance(module, nn.LSTM):
            module.flatten_parameters()  # copies on a GPU are not flat
    return averaged


def load(config: LanguageConfig, data_dir: Path | None) -> text.Corpus:
    """Load the text of `config.dataset`.

    Raises:
        UserError: the text cannot be loaded, or is too short for `config.batch_size` columns of more than `config.bptt` words.
    """
    corpus = text.load(config.dataset, data_dir, config.train_tokens)
    rows = len(corpus.train) // config.batch_size
    if config.bptt > rows - 1:
        raise UserError(
            f"bptt must be below the {rows:,} words of a column ({len(corpus.train):,} words in {config.batch_size} columns), "
            f"got {config.bptt}"
        )
    return corpus


def model(config: LanguageConfig, corpus: text.Corpus) -> AWDLSTM:
    """Build the language model of `config` for the vocabulary of `corpus`."""
    noises, drops = config.noises(), (config.p_embedding, config.p_input, config.p_weight)
    return AWDLSTM(len(corpus.vocabulary), config.embedding_size, config.hidden_size, noises, *drops)


@torch.no_grad()
def evaluate_text(network: AWDLSTM, words: Tensor, columns: int, profile: bool = False) -> tuple[float, Record]:
    """Return the mean negative log likelihood of all words but the first, in nats, and the sparsity of the clean activations."""
    network.eval()
    total, hidden = 0.0, None
    with measuring(network, network.regularised_layers, profile) as measures:
        for inputs, targets in sequences.pieces(words.to(next(network.parameters()).device), columns):
            output: Output = network(inputs, hidden)
            hidden = output.hidden
            total += F.cross_entropy(output.logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / (len(words) - 1), measures.results()


def perplexity(loss: float) -> float:
    """Return `exp(loss)`, or infinity if that exceeds the range of float32."""
    value = torch.tensor(loss, dtype=torch.float64).exp().item()
    return math.inf if value > LARGEST else value


def evaluate(network: AWDLSTM, corpus: text.Corpus) -> Record:
    """Return the mean negative log likelihood of the test text, read as one column, the perplexity and the layers' sparsity."""
    loss, measures = evaluate_text(network, corpus.test, columns=1, profile=True)
    return {"test_loss": loss, "perplexity": perplexity(loss), **measures}


def test_batches(corpus: text.Corpus) -> tuple[Tensor, ...]:
    """Return the test text as inputs of the network, in columns."""
    return tuple(inputs for inputs, _ in sequences.pieces(corpus.test, COLUMNS))


STUDY = Study(
    LanguageConfig,
    load,
    model,
    LanguageLearner,
    evaluate,
    test_batches,
    items="words",
    presets={
        "quick": {
            "q": (1.5, 2.0, 2.5),
            "train_tokens": 100_000,
            "num_layers": 2,
            "hidden_size": 128,
            "embedding_size": 128,
            "epochs": 8,
            "batch_size": 20,
            "bptt": 35,
        },
        # The commands in the README of github.com/salesforce/awd-lstm-lm; what they leave out has that code's default.
        "paper-ptb": {"dataset": "ptb", "batch_size": 20, "p_hidden": 0.25, "epochs": 500},
        "paper-wt2": {"dataset": "wikitext2", "batch_size": 80, "p_hidden": 0.2, "p_input": 0.65},
    },
)
