"""Shows single samples of the data that a model was probed on, for the report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparseout.cli.probe import files
from sparseout.records.unit_activity import Excitation
from sparseout.report import Excerpt

if TYPE_CHECKING:
    import PIL.Image

CONTEXT = 8  # tokens on each side
LONGEST = 160  # characters of a text whose token is unknown


class TokensInContext:
    """Shows the token at an excitation's position.

    Args:
        tokenizer: the tokenizer of the model.
        lines: all samples.
        batch_size: samples per batch.
        tokens: tokenizes one batch as the model got it, since padding on the left moves positions.
    """

    def __init__(self, tokenizer: Any, lines: Sequence[str], batch_size: int, tokens: Callable[[Sequence[str]], Any]) -> None:
        self._tokenizer, self._lines, self._batch_size = tokenizer, lines, batch_size
        self._batch = functools.lru_cache(maxsize=16)(
            lambda start: tokens(lines[start : start + batch_size])["input_ids"].tolist()
        )

    def __call__(self, excitation: Excitation) -> Excerpt:
        sample, position = excitation.sample, excitation.position
        start = sample - sample % self._batch_size
        ids = self._batch(start)[sample - start]
        if excitation.positions != len(ids):
            return Excerpt(self._lines[sample][:LONGEST])
        first = max(0, position - CONTEXT)
        texts = [self._text(ids[first:end]) for end in (position, position + 1, position + 1 + CONTEXT)]
        before, through, whole = (text.ljust(len(texts[0])) for text in texts)  # a tokenizer decides where spaces are
        token = through[len(before) :]
        space = token[: len(token) - len(token.lstrip())]
        return Excerpt(before + space, token.lstrip(), whole[len(through) :])

    def _text(self, ids: Sequence[int]) -> str:
        pad = self._tokenizer.pad_token_id
        text: str = self._tokenizer.decode([each for each in ids if each != pad])
        return text


def image_files(paths: Sequence[Path]) -> Callable[[Excitation], PIL.Image.Image]:
    """Show images from their files, one a sample."""
    return lambda excitation: files.read_image(paths[excitation.sample])


def image_tensors(batches: Any) -> Callable[[Excitation], PIL.Image.Image] | None:
    """Show images from batches `(batch, channels, height, width)` in memory; None if the batches are something else."""
    if not isinstance(batches, Sequence) or not batches:
        return None
    tensors = [batch[0] if isinstance(batch, Sequence) and batch else batch for batch in batches]
    if not all(isinstance(each, Tensor) and each.dim() == 4 and each.shape[1] in (1, 3) for each in tensors):
        return None

    def show(excitation: Excitation) -> PIL.Image.Image:
        index = excitation.sample
        for tensor in tensors:
            if index < len(tensor):
                return _image(tensor[index])
            index -= len(tensor)
        raise IndexError(f"there is no sample {excitation.sample}")

    return show


def _image(tensor: Tensor) -> PIL.Image.Image:
    """Return an image with its lowest value in black and its highest in white."""
    import PIL.Image

    values = tensor.detach().cpu().float().nan_to_num(0.0, 0.0, 0.0)
    values = values - values.amin()
    levels = (values / values.amax().clamp(min=1e-12) * 255).byte().expand(3, -1, -1).permute(1, 2, 0)
    return PIL.Image.fromarray(levels.contiguous().numpy())
