"""Texts, from valid and from damaged files."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseout.errors import UserError
from sparseout.studies.data import text

PARTS = {"train": "the cat sat\n\nthe dog sat on the cat\n", "valid": "the <unk> sat\n", "test": "the dog\n"}


def write(folder, name="ptb", parts=PARTS):
    folder.mkdir(exist_ok=True)
    for split, content in parts.items():
        path = folder / text.FILES[name].format(split)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def words(corpus, split):
    return [corpus.vocabulary[place] for place in getattr(corpus, split)]


@pytest.mark.parametrize("name", ["ptb", "wikitext2"])
@pytest.mark.parametrize("inner", [False, True])
def test_files_are_read_in_their_usual_layout(name, inner, tmp_path):
    write(tmp_path / name if inner else tmp_path, name)
    corpus = text.load(name, tmp_path)
    assert words(corpus, "train") == ["the", "cat", "sat", "<eos>", "<eos>", "the", "dog", "sat", "on", "the", "cat", "<eos>"]
    assert words(corpus, "valid") == ["the", "<unk>", "sat", "<eos>"]
    assert words(corpus, "test") == ["the", "dog", "<eos>"]
    assert corpus.vocabulary == ("<eos>", "the", "cat", "sat", "dog", "on", "<unk>")


def test_a_prefix_of_the_training_text_has_its_own_vocabulary(tmp_path):
    corpus = text.load("ptb", write(tmp_path), train_tokens=3)
    assert words(corpus, "train") == ["the", "cat", "sat"]
    assert words(corpus, "test") == ["the", "<unk>", "<unk>"]
    with pytest.raises(UserError, match="train_tokens must be at most the training text's 12, got 13"):
        text.load("ptb", tmp_path, train_tokens=13)


@given(st.lists(st.sampled_from("abcd"), min_size=2), st.lists(st.sampled_from("abcde"), min_size=2), st.integers(1, 4))
def test_what_is_in_the_vocabulary_comes_back(train, other, rare):
    if len(set(train)) < 2:
        train = [*train, "x"]
    corpus = text.index(train, other, other, rare)
    known = {word for word in train if train.count(word) >= rare}
    assert words(corpus, "train") == [word if word in known else "<unk>" for word in train]
    assert words(corpus, "valid") == [word if word in known else "<unk>" for word in other]
    assert set(corpus.vocabulary) == known | ({"<unk>"} if not {*train, *other} <= known else set())


def test_a_missing_file(tmp_path):
    write(tmp_path, parts={"train": "a b"})
    with pytest.raises(UserError, match=r"--data-dir must hold ptb.valid.txt or ptb/ptb.valid.txt: .* has neither"):
        text.load("ptb", tmp_path)


def test_another_encoding(tmp_path):
    write(tmp_path, parts=PARTS | {"valid": "the café".encode("latin-1")})
    with pytest.raises(UserError, match=r"ptb.valid.txt must be text in UTF-8: byte 7 is 0xe9"):
        text.load("ptb", tmp_path)


def test_a_text_of_one_word(tmp_path):
    write(tmp_path, parts=PARTS | {"train": ""})
    with pytest.raises(UserError, match="the train text must have at least 2 tokens, got 1"):
        text.load("ptb", tmp_path)


def test_a_text_of_one_word_again_and_again():
    with pytest.raises(UserError, match="the train text must have at least 2 different words, got only 'a'"):
        text.index(["a", "a", "a"], ["a", "a"], ["a", "a"])


def test_an_unknown_name():
    with pytest.raises(UserError, match="dataset must be one of 'english', 'ptb', 'wikitext2', got 'enwik8'"):
        text.load("enwik8")


def test_no_network_and_no_folder(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(text.HUB, "ptb", ("sparseout/no-such-data-set", None, None, "text"))
    with pytest.raises(UserError, match="ptb could not be loaded from the hub .*: give --data-dir.*ptb.train.txt") as raised:
        text.load("ptb")
    assert "\n" not in str(raised.value)


class TestEnglish:
    def test_half_a_million_words_in_three_parts(self):
        corpus = text.load("english")
        sizes = [len(corpus.train), len(corpus.valid), len(corpus.test)]
        assert 300_000 < sum(sizes) < 700_000
        assert min(sizes) > 10_000
        assert 0.8 < sizes[0] / sum(sizes) < 0.98
        assert 3_000 < len(corpus.vocabulary) < 10_000
        unknown = corpus.vocabulary.index("<unk>")
        for part in (corpus.train, corpus.valid, corpus.test):
            assert part.max() < len(corpus.vocabulary)
            assert (part == unknown).double().mean() < 0.06
        assert torch.bincount(corpus.train, minlength=len(corpus.vocabulary)).min() >= text.RARE

    def test_a_word_that_any_interpreter_documents(self):
        assert {"the", "list", "return", "N", "<eos>", "."} <= set(text.load("english").vocabulary)

    def test_the_parts_share_no_module(self, tmp_path):
        for number in range(200):
            (tmp_path / f"m{number}.py").write_text(f'"""Module{"x" * number}."""\n')
        names = [name for name, _ in text._docstrings(tmp_path)]
        assert names == sorted(f"m{number}.py" for number in range(200))

    def test_another_process_reads_the_same(self, tmp_path, monkeypatch):
        for package in ("asyncio", "json", "pydoc_data"):
            shutil.copytree(Path(ast.__file__).parent / package, tmp_path / package)
        paths = {"stdlib": str(tmp_path)}
        program = (
            f"import sysconfig; sysconfig.get_paths = lambda: {paths}\n"
            "from sparseout.studies.data import text; print(repr(text._english()))"
        )
        environment = os.environ | {"PYTHONHASHSEED": "7"}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
        monkeypatch.setattr("sysconfig.get_paths", lambda: paths)
        parts = text._english.__wrapped__()
        assert all(parts)
        assert done.stdout.strip() == repr(parts)

    def test_nothing_is_imported(self, tmp_path):
        (tmp_path / "boom.py").write_text('"""Never imported."""\nraise SystemExit("imported")\n')
        (tmp_path / "broken.py").write_text("def (")
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "a.py").write_text('"""A test."""')
        assert list(text._docstrings(tmp_path)) == [("boom.py", ["Never imported."])]

    def test_topics_are_what_pydoc_has(self):
        import pydoc_data.topics

        topics = dict(text._topics(Path(ast.__file__).parent))
        assert topics == {name: [topic] for name, topic in pydoc_data.topics.topics.items()}

    def test_no_sources(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
        with pytest.raises(UserError, match="dataset 'english' needs the sources of Python's standard library"):
            text._english.__wrapped__()


@pytest.mark.skipif("SPARSEOUT_DATA" not in os.environ, reason="SPARSEOUT_DATA names no folder with ptb/")
def test_the_real_penn_treebank():
    corpus = text.load("ptb", Path(os.environ["SPARSEOUT_DATA"]))
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (929_589, 73_760, 82_430)
    assert len(corpus.vocabulary) == 10_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a \0 b\n", "cannot be read as UTF-8 text: byte 2 is NUL"),
        (b"a" * (text.MAX_LINE + 1), "must have lines of at most 4,000,000 bytes, got one of 4,000,001"),
        (b"\xff", "must be text in UTF-8: byte 0 is 0xff"),
    ],
)
def test_a_file_that_is_no_text(content, message, tmp_path):
    (tmp_path / "ptb.train.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"ptb.train.txt {message}"):
        text.load("ptb", tmp_path)
