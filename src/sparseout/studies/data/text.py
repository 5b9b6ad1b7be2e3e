"""Text: Penn Treebank, WikiText-2, and the English documentation of the interpreter, which needs no download."""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from sparseout.errors import UserError
from sparseout.extras import needed_for

Name = Literal["english", "ptb", "wikitext2"]
SPLITS = ("train", "valid", "test")
FILES = {"ptb": "ptb.{}.txt", "wikitext2": "wiki.{}.tokens"}
# Name, configuration, revision and column of each data set on the hub.
HUB = {
    "ptb": ("ptb-text-only/ptb_text_only", None, "refs/convert/parquet", "sentence"),
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-v1", "main", "text"),
}
EOS, UNK = "<eos>", "<unk>"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
MAX_LINE = 4_000_000  # bytes
RARE = 3  # words of "english" with fewer occurrences in the training text are <unk>


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text in three parts, as indices into a vocabulary.

    Attributes:
        vocabulary: the words, by descending frequency.
        train, valid, test: the parts, int64 tensors `(tokens,)`.
    """

    vocabulary: tuple[str, ...]
    train: Tensor
    valid: Tensor
    test: Tensor

    def to(self, device: torch.device) -> Corpus:
        """Return a copy on `device`."""
        return Corpus(self.vocabulary, self.train.to(device), self.valid.to(device), self.test.to(device))


@functools.lru_cache(maxsize=8)
def load(name: str, data_dir: Path | None = None, train_tokens: int = 0) -> Corpus:
    """Load a text.

    Args:
        name: `"english"`, the documentation of the running interpreter, about half a million tokens; `"ptb"`, Penn Treebank as
            Mikolov prepared it; or `"wikitext2"`. White space separates words, and each line ends with `<eos>`.
        data_dir: folder with `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt`, or `wiki.train.tokens` and so on, or with a
            subfolder `name` that has them; not needed for `"english"`. Default: the Hugging Face hub or its cache.
        train_tokens: number of tokens from the start of the training text, which also define the vocabulary; 0 for all.

    Raises:
        UserError: the text is unknown, missing or unreadable, or has fewer than two words.
    """
    if name not in get_args(Name):
        raise UserError(f"dataset must be one of {', '.join(map(repr, get_args(Name)))}, got {name!r}")
    train, valid, test = _english() if name == "english" else [_split_words(_lines(name, split, data_dir)) for split in SPLITS]
    if train_tokens > len(train):
        raise UserError(f"train_tokens must be at most the training text's {len(train):,}, got {train_tokens}")
    try:
        return index(train[:train_tokens] if train_tokens else train, valid, test, rare=RARE if name == "english" else 1)
    except UserError as error:
        raise UserError(f"{data_dir or name}: {error}") from error


def index(train: Sequence[str], valid: Sequence[str], test: Sequence[str], rare: int = 1) -> Corpus:
    """Build a corpus from three lists of words. The training text defines the vocabulary; other words are `<unk>`.

    Args:
        train, valid, test: the words.
        rare: words with fewer occurrences in the training text are `<unk>` too.

    Raises:
        UserError: a part has fewer than two words, or the training text fewer than two different ones.

    >>> corpus = index("a b a".split(), "b c".split(), "a a".split())
    >>> corpus.vocabulary
    ('a', 'b', '<unk>')
    >>> corpus.valid
    tensor([1, 2])
    """
    for split, words in zip(SPLITS, (train, valid, test), strict=True):
        if len(words) < 2:
            raise UserError(f"the {split} text must have at least 2 tokens, got {len(words)}")
    counts = collections.Counter(train)
    if len(counts) < 2:
        raise UserError(f"the train text must have at least 2 different words, got only {train[0]!r}")
    vocabulary = sorted((word for word, count in counts.items() if count >= rare), key=lambda word: (-counts[word], word))
    indices = {word: number for number, word in enumerate(vocabulary)}
    if UNK not in indices and any(word not in indices for words in (train, valid, test) for word in words):
        vocabulary.append(UNK)
        indices[UNK] = len(indices)
    unknown = indices.get(UNK, 0)
    parts = [torch.tensor([indices.get(word, unknown) for word in words]) for words in (train, valid, test)]
    return Corpus(tuple(vocabulary), *parts)


def _split_words(lines: Iterable[str]) -> list[str]:
    return [word for line in lines for word in (*line.split(), EOS)]


def _lines(name: str, split: str, data_dir: Path | None) -> list[str]:
    """Return the lines of a part of a data set, from its file or from the hub."""
    if data_dir is None:
        return _hub_lines(name, split)
    file = FILES[name].format(split)
    path = next((path for path in (data_dir / file, data_dir / name / file) if path.is_file()), None)
    if path is None:
        raise UserError(f"--data-dir must hold {file} or {name}/{file}: {data_dir} has neither")
    return read_text(path).removesuffix("\n").split("\n")  # str.splitlines would also split at other characters


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or has a NUL character or a line of more than 4 MB.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error.strerror}") from error
    if b"\0" in content:
        raise UserError(f"{path} cannot be read as UTF-8 text: byte {content.index(0)} is NUL")
    longest = max(map(len, content.split(b"\n")))
    if longest > MAX_LINE:
        raise UserError(f"{path} must have lines of at most {MAX_LINE:,} bytes, got one of {longest:,}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be text in UTF-8: byte {error.start} is {error.object[error.start]:#x}") from error


def _hub_lines(name: str, split: str) -> list[str]:
    with needed_for(f"the data set {name}", "data"):
        import datasets
        import huggingface_hub.utils

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity_error()
    path, configuration, revision, column = HUB[name]
    hub_split = "validation" if split == "valid" else split
    try:
        lines: list[str] = datasets.load_dataset(path, configuration, split=hub_split, revision=revision)[column]
    except (OSError, RuntimeError, ValueError) as error:
        files = ", ".join(FILES[name].format(split) for split in SPLITS)
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} could not be loaded from the hub ({reason}): give --data-dir, a folder with {files}") from error
    return list(lines)


@functools.cache
def _english() -> list[list[str]]:
    """Return the words of the standard library's docstrings and of pydoc's topics, in three parts without common modules.

    The sources are parsed and not imported, so the text is the same on every platform.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    parts: list[list[str]] = [[], [], []]
    for name, documents in (*_docstrings(library), *_topics(library)):
        # One module in twenty is for validation and one for the test, by a hash of its name.
        part = {0: 1, 1: 2}.get(hashlib.sha256(name.encode()).digest()[0] % 20, 0)
        for document in documents:
            parts[part] += _split_words(_sentences(document))
    if not parts[0]:
        raise UserError(f"dataset 'english' needs the sources of Python's standard library: {library} has none")
    return parts


def _docstrings(library: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each module's path, relative to the library, and its docstrings."""
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        if re.search(r"(^|/)(site-packages|dist-packages|tests?|idle_test|pydoc_data)/", name):
            continue
        try:
            nodes = ast.walk(ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError, OSError):
            continue  # some distributions ship invalid files as test data
        documented = (node for node in nodes if isinstance(node, DOCUMENTED))
        yield name, [document for node in documented if (document := ast.get_docstring(node))]


def _topics(library: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the text of each of pydoc's topics, from the dictionary literal in its source."""
    path = library / "pydoc_data" / "topics.py"
    if path.is_file():
        assignment = next(node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.Assign | ast.AnnAssign))
        topics = ast.literal_eval(assignment.value) if assignment.value else {}
        yield from ((name, [topics[name]]) for name in sorted(topics))


def _sentences(document: str) -> Iterator[str]:
    """Yield the sentences of a docstring in lower case, as words, punctuation and `N` for numbers, separated by blanks.

    >>> list(_sentences("Open `path`. Returns 2 files:\\n\\n>>> open(1)\\n\\n  1. one"))
    ['open path .', 'returns N files :', 'N .', 'one']
    """
    prose = "\n".join("" if re.match(r"\s*(>>>|\.\.\. )", line) else line for line in document.split("\n"))
    for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", prose):
        words = re.findall(r"[^\W\d_]+(?:'[a-z]+)?|\d+|[.,;:!?()]", sentence.lower())
        if words:
            yield " ".join("N" if word.isdigit() else word for word in words)
