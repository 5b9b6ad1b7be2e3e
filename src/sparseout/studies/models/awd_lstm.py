"""AWD-LSTM: a language model of stacked LSTMs with dropout on its weights, embedding and activations, or with Sparseout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseout.op.functional import sparseout

RECURRENT = "weight_hh_l0"
Hidden = tuple[tuple[Tensor, Tensor], ...]  # output and cell state of each layer, (1, columns, units)


class LockedDropout(nn.Module):
    """`y_t = x_t m / (1 - p)`: torch's dropout with one draw per sequence and feature, shared by all time steps `t`.

    Args:
        p: drop probability in [0, 1].

    Shape:
        Input and output: `(time, columns, features)`.

    Source: Gal and Ghahramani (2016), arXiv:1512.05287.

    >>> _ = torch.manual_seed(0)
    >>> LockedDropout(0.5)(torch.ones(2, 1, 4))
    tensor([[[0., 0., 2., 0.]],
    <BLANKLINE>
            [[0., 0., 2., 0.]]])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        # dropout1d drops whole channels: here the features are the channels, the time steps the positions.
        return F.dropout1d(input.permute(1, 2, 0), self.p, self.training).permute(2, 0, 1)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class Layer(nn.Module):
    """`raw, h = lstm(x, h)` with `U m / (1 - p)` for its recurrent matrix `U`, then `y = noise(raw)`.

    Each training call draws a new mask `m` for the matrix. The parameters have the names of `nn.LSTM`.

    Args:
        inputs, units: number of features of the input and the output.
        p: probability of dropping an element of the recurrent matrix.
        noise: layer applied to the output.

    Shape:
        Input `(time, columns, inputs)`; outputs `(time, columns, units)`.

    Source: Wan et al. (2013), *Regularization of neural networks using DropConnect*; Merity, Keskar and Socher (2018), section 2.
    """

    def __init__(self, inputs: int, units: int, p: float, noise: nn.Module) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, units)
        self.p = p
        self.noise = noise

    def forward(self, input: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        if self.training and self.p > 0:
            dropped = {RECURRENT: sparseout(self.lstm.get_parameter(RECURRENT), self.p)}  # q = 2 is dropout
            with warnings.catch_warnings():
                # cuDNN warns because the new matrix is not stored next to the other weights.
                warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
                raw, hidden = torch.func.functional_call(self.lstm, dropped, (input, hidden))
        else:
            raw, hidden = self.lstm(input, hidden)
        return self.noise(raw), raw, hidden

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class Output(NamedTuple):
    """The output of the language model.

    Attributes:
        logits: logits of the next word, `(time, columns, vocabulary_size)`.
        hidden: hidden state after the last word.
        regularised: output of the last layer after its noise, `(time, columns, embedding_size)`.
        raw: output of the last layer before its noise.
    """

    logits: Tensor
    hidden: Hidden
    regularised: Tensor
    raw: Tensor


class AWDLSTM(nn.Module):
    """`logits = E y + b` with `y = lstm_L(... lstm_1(E[words]))`: embedding and decoder share the matrix `E`.

    Dropout acts on whole words of the embedding, on the input (with a locked mask) and on each LSTM's recurrent matrix; the noise
    acts on each layer's output. The initialisation is the authors': `E` uniform in [-0.1, 0.1], `b` zero, the LSTMs as in
    `nn.LSTM`.

    Args:
        vocabulary_size: size of the vocabulary.
        embedding_size: number of features of a word, and of units of the last layer.
        hidden_size: number of units of the other layers.
        noises: layer of noise for the output of each LSTM; their number is the number of LSTMs.
        p_embedding, p_input, p_weight: drop probabilities of words, input features and recurrent weights.

    Shape:
        Input: words, integers `(time, columns)`, and the hidden state after the previous words, by default zeros.

    Source: Merity, Keskar and Socher (2018), *Regularizing and optimizing LSTM language models*, arXiv:1708.02182.

    >>> network = AWDLSTM(vocabulary_size=100, embedding_size=8, hidden_size=16, noises=[nn.Identity(), nn.Identity()])
    >>> network(torch.zeros(5, 3, dtype=torch.long)).logits.shape
    torch.Size([5, 3, 100])
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        noises: Sequence[nn.Module],
        p_embedding: float = 0.0,
        p_input: float = 0.0,
        p_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.p_embedding = p_embedding
        self.input_dropout = LockedDropout(p_input)
        widths = [embedding_size, *[hidden_size] * (len(noises) - 1), embedding_size]
        self.units = widths[1:]
        self.layers = nn.ModuleList(
            Layer(inputs, units, p_weight, noise) for inputs, units, noise in zip(widths[:-1], widths[1:], noises, strict=True)
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, words: Tensor, hidden: Hidden | None = None) -> Output:
        states = self.zeros(words.shape[1]) if hidden is None else hidden
        activations = self.input_dropout(self._embed(words))
        new_states = []
        for layer, state in zip(self.layers, states, strict=True):
            activations, raw, state = layer(activations, state)
            new_states.append(state)
        logits = F.linear(activations, self.embedding.weight, self.bias)
        return Output(logits, tuple(new_states), activations, raw)

    @property
    def regularised_layers(self) -> list[str]:
        """Names of the layers of noise."""
        return [f"layers.{number}.noise" for number in range(len(self.layers))]

    def zeros(self, columns: int) -> Hidden:
        """Return the hidden state before the first word."""
        shapes = [(1, columns, units) for units in self.units]
        return tuple((self.bias.new_zeros(shape), self.bias.new_zeros(shape)) for shape in shapes)

    def _embed(self, words: Tensor) -> Tensor:
        """Return the words' features, which are zero for each occurrence of a dropped word."""
        embedded: Tensor = self.embedding(words)
        if not self.training or self.p_embedding == 0:
            return embedded
        kept = F.dropout(self.bias.new_ones(len(self.bias), 1), self.p_embedding)
        return embedded * F.embedding(words, kept)
