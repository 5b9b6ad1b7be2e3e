"""The example that shows the escape by scale runs, and its published data show what the page says."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparseout.studies.data import mnist

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("scale_escape", ROOT / "examples" / "scale_escape.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_example_writes_a_figure_and_its_data(example, threads, tmp_path, capsys):
    example.main(["--epochs", "2", "--out", str(tmp_path)])
    with Image.open(tmp_path / "scale-escape.png") as image:
        assert image.width > 1500
    record = json.loads((tmp_path / "scale-escape.json").read_text())
    assert list(record["histories"]) == list(example.PENALTIES)
    assert all(len(history) == 3 for history in record["histories"].values())
    assert record["provenance"]["command"] == "python examples/scale_escape.py --epochs 2"
    printed = capsys.readouterr().out.splitlines()
    assert [line[:15].strip() for line in printed] == list(example.PENALTIES)


def test_the_weighted_norm_does_not_depend_on_the_scale_and_the_others_do(example):
    encoder = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU())
    decoder, images = torch.nn.Linear(8, 64), mnist.load("digits").test
    before = example.measure(encoder, decoder, images)
    with torch.no_grad():
        encoder[0].weight /= 2
        encoder[0].bias /= 2
        decoder.weight *= 2
    after = example.measure(encoder, decoder, images)
    for name in ("weighted_l1", "hoyer", "loss"):
        assert after[name] == pytest.approx(before[name], rel=1e-3)
    for name, factor in (("rms", 0.5), ("l1", 0.5), ("reader", 2.0)):
        assert after[name] == pytest.approx(factor * before[name], rel=1e-3)


def test_the_published_data_show_what_the_page_says():
    record = json.loads((ROOT / "docs" / "scale-escape.json").read_text())
    histories = record["histories"]

    def change(name, measure):
        return histories[name][200][measure] / histories[name][50][measure]

    assert change("L1", "l1") == pytest.approx(0.6, abs=0.01)
    assert change("L1", "weighted_l1") == pytest.approx(1.2, abs=0.02)
    assert change("L1", "reader") == pytest.approx(2.0, abs=0.02)
    assert change("L1 with reader", "weighted_l1") < 1
    for name in ("DeCov", "transformed L1"):
        assert change(name, "l1") < 1 < change(name, "weighted_l1")
    assert [round(histories[name][i]["hoyer"], 2) for name in ("L1", "L1 with reader") for i in (50, 200)] == [
        *(0.61, 0.68),
        *(0.58, 0.73),
    ]
    assert [round(histories[name][200]["loss"], 1) for name in ("L1", "L1 with reader")] == [14.5, 15.8]
