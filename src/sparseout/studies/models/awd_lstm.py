"""AWD-LSTM: a language model of stacked LSTMs, in which everything that can be is regularised, with places for Sparseout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseout.op.functional import sparseout

RECURRENT = "weight_hh_l0"
Hidden = tuple[tuple[Tensor, Tensor], ...]  # of each layer: output and cell, (1, columns, units)


class LockedDropout(nn.Module):
    """`y_t = x_t m / (1 - p)`: torch's dropout with one draw a sequence and feature, shared by all time steps `t`.

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
        # Dropout of whole channels, where the features are channels and the time steps their positions.
        return F.dropout1d(input.permute(1, 2, 0), self.p, self.training).permute(2, 0, 1)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class Layer(nn.Module):
    """`raw, h = lstm(x, h)` with `U m / (1 - p)` for its recurrent matrix `U`, then `y = noise(raw)`.

    The matrix is dropped anew in each training call; the parameters, and their names, are those of `nn.LSTM`.

    Args:
        inputs, units: features in and out.
        p: probability with which an element of the recurrent matrix is dropped.
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
                # cuDNN wants the weights side by side, where a matrix that is new in each step cannot be.
                warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
                raw, hidden = torch.func.functional_call(self.lstm, dropped, (input, hidden))
        else:
            raw, hidden = self.lstm(input, hidden)
        return self.noise(raw), raw, hidden

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class Output(NamedTuple):
    """What the language model computes.

    Attributes:
        logits: of the next word, `(time, columns, words)`.
        hidden: to go on from.
        regularised: output of the last layer after its noise, `(time, columns, embedding)`.
        raw: the same before it.
    """

    logits: Tensor
    hidden: Hidden
    regularised: Tensor
    raw: Tensor


class AWDLSTM(nn.Module):
    """`logits = E y + b`, where `y` is `lstm_L(... lstm_1(E[words]))`: embedding and decoder share the matrix `E`.

    Whole words of the embedding are dropped, the input is dropped by a locked mask, each LSTM's recurrent matrix is dropped, and
    each layer's output goes through its noise. Weights are drawn as the authors do: `E` uniform in [-0.1, 0.1], `b` zero, the
    LSTMs as `nn.LSTM` draws them.

    Args:
        vocabulary_size: size of the vocabulary.
        embedding_size: features of a word, and units of the last layer.
        hidden_size: units of the other layers.
        noises: of each layer's output; their number is that of the layers.
        p_embedding, p_input, p_weight: drop probabilities of words, of the input's features, and of recurrent weights.

    Shape:
        Input: words, integers `(time, columns)`, and the hidden state of the words before, zero by default.

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
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            activations, raw, state = layer(activations, state)
            after.append(state)
        logits = F.linear(activations, self.embedding.weight, self.bias)
        return Output(logits, tuple(after), activations, raw)

    def zeros(self, columns: int) -> Hidden:
        """The hidden state before the first word."""
        shapes = [(1, columns, units) for units in self.units]
        return tuple((self.bias.new_zeros(shape), self.bias.new_zeros(shape)) for shape in shapes)

    def _embed(self, words: Tensor) -> Tensor:
        """The words' features; a dropped word's are zero wherever it occurs."""
        embedded: Tensor = self.embedding(words)
        if not self.training or self.p_embedding == 0:
            return embedded
        kept = F.dropout(self.bias.new_ones(len(self.bias), 1), self.p_embedding)
        return embedded * F.embedding(words, kept)
