"""The example `examples/cash_in.py`: its measures, its records and its figure, on small networks. No test asserts a time."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def cash_in(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("cash_in")


class Study:
    """One layer that reads a vector with units 0 and 1 alternately, and never unit 2."""

    def evaluate(self, network):
        for k in range(16):
            network(torch.tensor([[float(k % 2 == 0), float(k % 2), 0.0]]))
        return {"test_loss": 0.0}

    def hidden(self, network):
        return [network]


def test_the_zeros_the_union_and_the_silent_units_are_counted(cash_in):
    found = cash_in.zeros_of(Study(), nn.Linear(3, 1))
    assert found["zeros"] == pytest.approx(2 / 3)
    assert found["union_of_8"] == pytest.approx(2 / 3)
    assert (found["silent"], found["units"]) == (1, 3)


@pytest.mark.slow
def test_the_program(cash_in, monkeypatch, tmp_path):
    flags = ["--methods", "sparseout", "l1", "--targets", "0.9", "--seconds", "0"]
    argv = ["cash_in.py", "--quick", *flags, "--out", str(tmp_path)]
    threads = torch.get_num_threads()
    try:
        monkeypatch.setattr(sys, "argv", [*argv, "--train-only"])
        cash_in.main()
        assert not (tmp_path / "cash-in.jsonl").exists()
        monkeypatch.setattr(sys, "argv", argv)
        for study in (cash_in.Autoencoder, cash_in.Transformer):
            monkeypatch.setattr(study, "train", None)  # nothing is trained twice
        cash_in.main()
    finally:
        torch.set_num_threads(threads)
    records = list(map(json.loads, (tmp_path / "cash-in.jsonl").read_text().splitlines()))
    expected = [(model, method) for model in ("autoencoder", "transformer") for method in ("none", "sparseout", "l1")]
    assert [(record["model"], record["method"]) for record in records] == expected
    for record in records:
        assert 0 < record["zeros"] < 1
        assert record["versions"].keys() == {"dense", "skip_zeros", "skip_zeros, bfloat16", "drop_dead", "drop_dead, skip_zeros"}
        assert all(each["speed"]["cold"] > 0 for each in record["versions"].values())
        assert 0 <= sum(record["profile"].values()) <= 1
        assert " ".join(flags[:3]) in record["provenance"]["command"]
    with Image.open(tmp_path / "cash-in.png") as image:
        assert image.height > 1000
