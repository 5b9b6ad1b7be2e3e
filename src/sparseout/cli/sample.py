"""The command `sparseout sample`: text from a trained language model, word by word."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from sparseout.checks import check_integer, check_number
from sparseout.errors import UserError
from sparseout.runs.load import load_run
from sparseout.runs.options import check_data_dir, torch_device
from sparseout.studies.data.text import EOS, UNK
from sparseout.studies.models.awd_lstm import AWDLSTM


def sample(
    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]],
    prompt: Annotated[str, tyro.conf.arg(metavar="TEXT")] = "",
    length: Annotated[int, tyro.conf.arg(metavar="INT")] = 100,
    temperature: Annotated[float, tyro.conf.arg(metavar="FLOAT")] = 1.0,
    seed: Annotated[int, tyro.conf.arg(metavar="INT")] = 0,
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto",
) -> None:
    """Print a prompt and the words that a trained language model draws after it.

    Args:
        run: folder of a complete run of the study language
        prompt: words that the text starts with, separated by spaces
        length: number of words to draw, line ends included
        temperature: positive number; below 1, likely words become more likely
        seed: seed of the draws
        data_dir: folder with the data set's files, as the study's --data-dir
        device: 'cpu', 'cuda' or any other device of torch; 'auto' is CUDA if it is available, else the CPU
    """
    _check(length, temperature)
    try:
        check_integer("seed", seed, 0, 2**63 - 1)
    except ValueError as error:
        raise UserError(str(error)) from error
    used_device = torch_device(device)
    check_data_dir(data_dir)
    loaded = load_run(run, data_dir)
    if not isinstance(loaded.network, AWDLSTM):
        raise UserError(f"run must be of the study 'language', {run} is of {loaded.config.study!r}")
    generator = torch.Generator().manual_seed(seed)
    text = generate(loaded.network.to(used_device), loaded.data.vocabulary, prompt, length, temperature, generator)
    print(f"{prompt} {text}".strip())


@torch.no_grad()
def generate(
    network: AWDLSTM,
    vocabulary: Sequence[str],
    prompt: str = "",
    length: int = 100,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> str:
    """Draw words from `softmax(logits / temperature)`, each given the words before it.

    Args:
        network: the language model; it is put into evaluation mode.
        vocabulary: the words of the model.
        prompt: words that the text starts with, separated by white space; unknown words become `<unk>`. Without a prompt, the
            text starts as after a line end.
        length: number of words to draw, line ends included.
        temperature: positive number; below 1, likely words become more likely.
        generator: generator of the draws, on the CPU; None is the default generator.

    Returns:
        The drawn words, separated by spaces, with a line end for each `<eos>`.

    Raises:
        UserError: `length` or `temperature` is out of its range, or the vocabulary has neither a word of the prompt nor `<unk>`.

    >>> network = AWDLSTM(vocabulary_size=3, embedding_size=4, hidden_size=4, noises=[torch.nn.Identity()])
    >>> generate(network, ["a", "b", "<eos>"], "b a", 8, generator=torch.Generator().manual_seed(0))
    '\\nb a\\na\\n\\nb'
    """
    _check(length, temperature)
    network.eval()
    device = network.bias.device
    indices = _indices(prompt.split() or [EOS], vocabulary)
    output = network(torch.tensor(indices, device=device)[:, None])
    drawn = []
    for _ in range(length):
        logits: Tensor = output.logits[-1, 0].double().cpu() / temperature
        word = torch.multinomial(logits.softmax(0), 1, generator=generator)
        drawn.append(vocabulary[int(word)])
        output = network(word.to(device)[:, None], output.hidden)
    return "\n".join(line.strip() for line in " ".join(drawn).split(EOS))


def _check(length: int, temperature: float) -> None:
    try:
        check_integer("length", length, 1, 2**31 - 1)
        check_number("temperature", temperature, sys.float_info.min, sys.float_info.max, "a positive number")
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _indices(words: Sequence[str], vocabulary: Sequence[str]) -> list[int]:
    """Return the indices of the words in the vocabulary."""
    index_of = {word: index for index, word in enumerate(vocabulary)}
    unknown = [word for word in words if word not in index_of]
    if unknown and UNK not in index_of:
        raise UserError(f"prompt must have words of the model's vocabulary, which lacks {unknown[0]!r}")
    return [index_of.get(word, index_of.get(UNK, 0)) for word in words]
