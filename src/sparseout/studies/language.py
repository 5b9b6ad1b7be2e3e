"""The paper's question in language modelling: does noise that makes an AWD-LSTM's activations sparser lower its perplexity?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from sparseout.checks import check_integer, check_number, check_p
from sparseout.errors import UserError
from sparseout.records.schema import LARGEST, Record
from sparseout.structured import LockedSparseout
from sparseout.studies.data import text
from sparseout.studies.models.awd_lstm import AWDLSTM, Hidden, LockedDropout, Output
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Learner, Loss
from sparseout.training.study import Study

NoiseLayers = Literal["hidden", "output", "both"]
SHORTEST = 5  # words of a sequence, as the authors' code has it
COLUMNS = 20  # of the validation text, read side by side
CONTEXT = 64  # words that each column but the first reads before its own
PIECE = 1280  # words to evaluate at a time
MOST_LAYERS = 1000
PATIENCE = 5  # epochs: the n of NT-ASGD
IGNORED = -100  # cross_entropy's mark for what is not to be predicted


@dataclasses.dataclass(frozen=True)
class LanguageConfig(Config):
    """Train an AWD-LSTM language model by NT-ASGD, with noise on the output of its layers.

    Attributes:
        p: drop probability on the output of the last layer
        dataset: 'english' (the documentation of the running interpreter), 'ptb' (Penn Treebank) or 'wikitext2'
        train_tokens: of the training text, from its start; 0 is all of it
        noise_layers: layers with the noise: all but the last ('hidden'), the last ('output') or 'both'; the rest: locked dropout
        p_hidden: drop probability between layers
        p_input: drop probability of the locked dropout on the first layer's input
        p_embedding: probability with which a word of the embedding is dropped
        p_weight: probability with which a recurrent weight is dropped
        num_layers: LSTMs on top of each other
        hidden_size: units of each layer but the last
        embedding_size: features of a word, and units of the last layer
        epochs: passes over the training text
        batch_size: columns that the training text is cut into, which are read side by side
        bptt: words of a sequence, on average
        lr: of SGD, for a sequence of bptt words; it is in proportion to its length
        weight_decay: L2 penalty on all parameters
        clip: 2-norm that gradients are clipped to
        alpha: of the activation regularisation: mean square of the last layer's output after its noise
        beta: of the temporal one: mean square of the change in the last layer's output from word to word
    """

    study: ClassVar[str] = "language"

    p: float = 0.4
    dataset: text.Name = "english"
    train_tokens: int = 0
    noise_layers: NoiseLayers = "both"
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
        p = check_p(self.p)
        super().__post_init__()
        for name in ("p_hidden", "p_input", "p_embedding", "p_weight"):
            check_number(name, getattr(self, name), 0, 1, "a drop probability in [0, 1]")
        self._check_not_negative("weight_decay", "alpha", "beta")
        check_integer("train_tokens", self.train_tokens, 0, 2**31 - 1)
        check_integer("bptt", self.bptt, SHORTEST, 2**31 - 1)
        self._check_at_least_1("num_layers", most=MOST_LAYERS)
        self._check_at_least_1("hidden_size", "embedding_size", "epochs", "batch_size")
        self._check_positive("lr", "clip")
        if self.noise == "none":
            # A place without the noise keeps its locked dropout.
            object.__setattr__(self, "p", p if self.noise_layers == "hidden" else 0.0)
            object.__setattr__(self, "p_hidden", self.p_hidden if self.noise_layers == "output" else 0.0)

    def noises(self) -> list[nn.Module]:
        """What the output of each layer goes through."""
        return [*(self._noise("hidden", self.p_hidden) for _ in range(self.num_layers - 1)), self._noise("output", self.p)]

    def _noise(self, place: str, p: float) -> nn.Module:
        if self.noise_layers not in (place, "both") or self.noise == "dropout":
            return LockedDropout(p)
        if self.noise == "none":
            return nn.Identity()
        return LockedSparseout(p, self.q, gradient=self.gradient, scale=self.layer_scale)


class LanguageLearner(Learner):
    """SGD on the mean cross entropy of the next word, averaged once the validation loss stops falling (NT-ASGD).

    The training text is cut into `batch_size` columns, read side by side in sequences of random length, each going on from
    the hidden state that the one before ended with. What counts is the best epoch by the validation loss.

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
        self.valid_losses: list[float] = []
        self.best: dict[str, Tensor] = {}

    def start_epoch(self, epoch: int) -> int:
        self.lengths = lengths(len(self.columns) - 1, self.config.bptt, self.generator("bptt", epoch))
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
        return [inputs for inputs, _ in _pieces(self.corpus.valid, COLUMNS)]

    def evaluated_forward(self, inputs: Tensor) -> Any:
        if self.averaged is None:
            return super().evaluated_forward(inputs)
        # The network's own layers, which are measured, with the averaged weights.
        return torch.func.functional_call(self.network, dict(self.averaged.module.named_parameters()), (inputs,))

    def update(self, step: int) -> tuple[Tensor, int]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self.lengths[step] / self.config.bptt
        done = super().update(step)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        return done

    def evaluate(self) -> Record:
        network = self.network if self.averaged is None else self.averaged.module
        loss, measures = judge(network, self.corpus.valid, COLUMNS)
        self._end_epoch(network, self.broadcast(loss))
        return {"valid_loss": loss, "valid_perplexity": perplexity(loss), **measures}

    def results(self) -> Record:
        self.network.load_state_dict(self.best)
        best = min(self.valid_losses)
        found = evaluate(self.network, self.corpus)
        return {**found, "valid_loss": best, "best_epoch": self.valid_losses.index(best) + 1}

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | {"valid_losses": self.valid_losses, "best": self.best}
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        # Columns come first where those of all processes are put together.
        gathered = [[self.accelerator.gather(part.transpose(0, 1).contiguous()) for part in layer] for layer in self.hidden]
        state["hidden"] = {str(number): {"h": h, "c": c} for number, (h, c) in enumerate(gathered)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.valid_losses = list(state["valid_losses"])
        self.best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}
        if "averaged" in state:
            self.averaged = average(self.network)
            self.averaged.load_state_dict(state["averaged"])
        parts = [[state["hidden"][str(number)][part] for part in "hc"] for number in range(len(state["hidden"]))]
        shares = [[self.local_shard(part).transpose(0, 1).contiguous().to(self.device) for part in layer] for layer in parts]
        self.hidden = tuple((h, c) for h, c in shares)

    def _end_epoch(self, network: nn.Module, loss: float) -> None:
        """Keep the best weights, and begin to average where the loss is above the lowest of all but the last epochs."""
        loss = math.inf if math.isnan(loss) else loss
        if loss < min(self.valid_losses, default=math.inf) or not self.best:
            self.best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if self.averaged is None and loss > min(self.valid_losses[:-PATIENCE], default=math.inf):
            self.averaged = average(self.network)
        self.valid_losses.append(loss)


def average(network: AWDLSTM) -> AveragedModel:
    """The mean of the weights after each call of its `update_parameters`: `theta <- theta + (w - theta) / n`."""
    # torch.optim.ASGD would take each step with the rate of the step before it.
    averaged = AveragedModel(network, multi_avg_fn=get_swa_multi_avg_fn())
    for module in averaged.modules():
        if isinstance(module, nn.LSTM):
            module.flatten_parameters()  # which a copy is not, on a GPU
    return averaged


def lengths(words: int, bptt: int, generator: torch.Generator) -> list[int]:
    """Lengths of sequences that make up `words`: normal around `bptt`, or in one of 20 around `bptt / 2`, deviation 5.

    >>> lengths(300, 70, torch.Generator().manual_seed(0))
    [71, 71, 71, 72, 15]
    """
    drawn = []
    while words > 0:
        mean = bptt if torch.rand((), generator=generator) < 0.95 else bptt / 2
        length = max(SHORTEST, round(mean + 5 * torch.randn((), generator=generator).item()))
        if words - length < SHORTEST:
            length = words
        drawn.append(length)
        words -= length
    return drawn


def load(config: LanguageConfig, data_dir: Path | None) -> text.Corpus:
    """The text of `config.dataset`.

    Raises:
        UserError: it cannot be loaded, or is too short for `config.batch_size` columns of more than `config.bptt` words.
    """
    corpus = text.load(config.dataset, data_dir, config.train_tokens)
    rows = len(corpus.train) // config.batch_size
    if config.bptt > rows - 1:
        raise UserError(
            f"bptt must be below the {rows:,} words of a column, of which {len(corpus.train):,} words make {config.batch_size}, "
            f"got {config.bptt}"
        )
    return corpus


def model(config: LanguageConfig, corpus: text.Corpus) -> AWDLSTM:
    """The language model of `config` for the words of `corpus`."""
    noises, drops = config.noises(), (config.p_embedding, config.p_input, config.p_weight)
    return AWDLSTM(len(corpus.vocabulary), config.embedding_size, config.hidden_size, noises, *drops)


def pairs(words: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets `(time, columns)` in which every word but the first is a target once; other targets are `IGNORED`.

    Each column but the first reads the `CONTEXT` words before its own. A short text has fewer columns.

    >>> inputs, targets = pairs(torch.arange(5), 1)
    >>> inputs.flatten().tolist(), targets.flatten().tolist()
    ([0, 1, 2, 3], [1, 2, 3, 4])
    """
    predicted = len(words) - 1
    columns = max(1, min(columns, predicted // (4 * CONTEXT)))
    context = CONTEXT if columns > 1 else 0
    time = torch.arange(-(-(predicted + (columns - 1) * context) // columns), device=words.device)[:, None]
    starts = torch.arange(columns, device=words.device) * (len(time) - context)
    place = starts + time
    counts = (place < predicted) & ((time >= context) | (starts == 0))
    place = place.clamp(max=predicted - 1)
    return words[place], words[place + 1].where(counts, IGNORED)


@torch.no_grad()
def judge(network: nn.Module, words: Tensor, columns: int, profile: bool = False) -> tuple[float, Record]:
    """Mean negative log likelihood of every word but the first, in nats, and the sparsity of the clean representations."""
    network.eval()
    total, hidden = 0.0, None
    with measuring(network, profile) as measures:
        for inputs, targets in _pieces(words.to(next(network.parameters()).device), columns):
            output: Output = network(inputs, hidden)
            hidden = output.hidden
            total += F.cross_entropy(output.logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / (len(words) - 1), measures.results()


def _pieces(words: Tensor, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, targets = pairs(words, columns)
    rows = PIECE // inputs.shape[1]
    return zip(inputs.split(rows), targets.split(rows), strict=True)


def perplexity(loss: float) -> float:
    """`exp(loss)`, infinite where that is beyond float32."""
    value = torch.tensor(loss, dtype=torch.float64).exp().item()
    return math.inf if value > LARGEST else value


def evaluate(network: nn.Module, corpus: text.Corpus) -> Record:
    """Mean negative log likelihood a word of the test text, read in one piece, its exponential, and the layers' sparsity."""
    loss, measures = judge(network, corpus.test, columns=1, profile=True)
    return {"test_loss": loss, "perplexity": perplexity(loss), **measures}


def test_batches(corpus: text.Corpus) -> tuple[Tensor, ...]:
    """The words of the test text, as sequences side by side."""
    return tuple(inputs for inputs, _ in _pieces(corpus.test, COLUMNS))


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
        "paper-ptb": {"dataset": "ptb"},
        "paper-wt2": {"dataset": "wikitext2", "batch_size": 80, "p_input": 0.65},
    },
)
