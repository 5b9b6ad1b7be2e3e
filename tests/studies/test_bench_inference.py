"""The benchmark of layers that skip zeros: its inputs, rows and files. No test asserts a time."""

import pandas
import pytest
import torch
from PIL import Image

from sparseout.bench import inference
from sparseout.bench.inference import CASES, TORCH, Case
from sparseout.cli.main import main
from sparseout.native.library import LIBRARY, MISSING

compiled = pytest.mark.skipif(LIBRARY is None, reason=MISSING)


@pytest.mark.parametrize("case", CASES)
def test_the_inputs_have_the_zeros_and_the_union_of_the_case(case):
    torch.manual_seed(0)
    active = torch.cat([inference.inputs(4096, case).ne(0)[None] for _ in range(40)])
    assert active.shape == (40, case.batch, 4096)
    assert active.float().mean().item() == pytest.approx(1 - case.zeros, abs=0.01)
    union = active.any(1).float().mean().item()
    independent = 1 - case.zeros**case.batch
    assert union == pytest.approx(0.38 if case.overlap else independent, abs=0.01)


def test_every_contender_computes_the_same_layer():
    torch.manual_seed(0)
    x = inference.inputs(64, Case(3, 0.5))
    contenders = inference.contenders(64)
    exact = contenders[TORCH[0]][0](x)
    for name, (function, dtype) in contenders.items():
        tolerance = 1e-5 if "bfloat16" not in name and name != "embedding_bag" else 2e-2
        if name != TORCH[1]:  # a layer of its own
            assert torch.allclose(function(x.to(dtype)).float(), exact, rtol=tolerance, atol=tolerance)
        else:
            assert function(x.to(dtype)).dtype == torch.bfloat16


@compiled
def test_rows_from_made_up_times(monkeypatch):
    times = {TORCH[0]: [8.0, 8.0, 2.0], TORCH[1]: [4.0, 4.0, 4.0], "embedding_bag": [8.0, 8.0, 8.0]}
    times |= {"skip_zeros, float32": [2.0, 2.0, 2.0], "skip_zeros, bfloat16": [1.0, 1.0, 1.0], "": [0.0] * 3}
    monkeypatch.setattr(inference, "alternate", lambda samples, seconds: {name: times[name] for name in samples})
    rows = inference.measure(32, Case(8, 0.9, True), 1.0)
    assert [tuple(row) for row in rows] == [(*inference.COLUMNS[:5], "rounds", "load", *inference.COLUMNS[5:15])] * 5
    speeds = {row["contender"]: row["speed"] for row in rows}
    assert speeds == {
        TORCH[0]: 0.5,
        TORCH[1]: 1.0,
        "embedding_bag": 0.5,
        "skip_zeros, float32": 2.0,
        "skip_zeros, bfloat16": 4.0,
    }
    assert rows[0]["milliseconds"] == 8000.0


def test_each_round_draws_a_new_input(monkeypatch):
    seen = []
    monkeypatch.setattr(inference, "contenders", lambda width: dict.fromkeys(TORCH, (seen.append, torch.float32)))
    inference.measure(16, Case(1, 0.5), 0.0)
    rounds = [tuple(x.flatten().tolist()) for x in seen]
    assert len(set(rounds)) >= 3
    assert len({x.data_ptr() for x in seen}) == len(seen)


@compiled
def test_the_command_for_layers_alone(tmp_path, capsys):
    flags = ["--sizes", "--models", "--targets", "--probes", "--methods", "--samples", "--inference", "64"]
    flags += ["--seconds", "0"]
    assert main(["bench", *flags, "--device", "cpu", "--out", str(tmp_path)]) == 0
    rows = pandas.read_csv(tmp_path / "inference.csv")
    assert tuple(rows.columns) == inference.COLUMNS
    assert len(rows) == 5 * len(CASES)
    assert (rows["speed"] > 0).all()
    assert "A linear layer with cold weights" in capsys.readouterr().out
    with Image.open(tmp_path / "inference.png") as image:
        assert image.width > 1000
