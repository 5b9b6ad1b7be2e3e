"""The part of `sparseout bench` that compares methods. No test asserts a time."""

import pandas
import pytest
import torch
from PIL import Image
from torch import nn

from sparseout import regularizers
from sparseout.bench import methods
from sparseout.bench.methods_figure import write_methods_figure
from sparseout.cli.main import main

CPU = torch.device("cpu")
ALONE = ["bench", "--sizes", "--models", "--targets", "--probes", "--samples", "--inference", "--seconds", "0", "--device", "cpu"]
LAYERS = {name for name in regularizers.__all__ if isinstance(getattr(regularizers, name), type)}


def test_every_layer_of_the_regularizers_takes_part():
    modules = [module for _, layers in methods.STEPS.values() for build in layers.values() for module in build().modules()]
    assert {type(module).__name__ for module in modules} >= LAYERS - {"Penalty"}


@pytest.mark.parametrize("case", methods.STEPS)
def test_the_models_of_a_case_have_the_same_sizes(case):
    example, layers = methods.STEPS[case]
    steps = [methods.MethodStep(example, layer, CPU) for layer in layers.values()]
    for step in steps:
        shapes = {tuple(parameter.shape) for parameter in step.model.parameters() if parameter.dim() == 2}
        assert shapes == ({(256, 784), (784, 256)} if case == "autoencoder" else {(512, 256)})


def test_a_step_with_a_penalty_descends_it():
    example, layers = methods.STEPS["autoencoder"]
    plain = methods.MethodStep(example, layers[methods.Method("none")], CPU)
    strong = methods.MethodStep(example, lambda: regularizers.L1(10.0), CPU)
    assert (plain.has_penalty, strong.has_penalty) == (False, True)
    for _ in range(20):
        assert plain() > 0
        assert strong() > 0
    hidden = [step.model.encoder(step.inputs).mean().item() for step in (plain, strong)]
    assert hidden[1] < 0.5 * hidden[0]


@pytest.mark.parametrize("backward", [False, True])
def test_a_selection_runs_with_and_without_autograd(backward):
    seen = []

    def select(x):
        seen.append((torch.is_grad_enabled(), x.requires_grad))
        return x.topk(3).values

    measured = methods.SelectionPass(select, backward, CPU)
    assert measured() > 0
    assert seen[-1] == (backward, backward)
    assert (measured.x.grad is not None) == backward


def test_rows_from_made_up_times(monkeypatch):
    made_up = {methods.Method("none"): [1.0, 2.0, 3.0], methods.Method("Sparseout", 1.5): [2.0, 3.0, 6.0]}
    monkeypatch.setattr(methods, "alternate", lambda contenders, seconds: made_up)
    first, second = methods._rows("case", {method: lambda: 1.0 for method in made_up}, 1.0)
    assert (first["added_ms"], first["ratio_to_first"]) == (0.0, 1.0)
    assert (second["milliseconds"], second["added_ms"], second["added_iqr_high"]) == (3000.0, 1000.0, 2000.0)
    assert (second["method"], second["q"], second["ratio_to_first"]) == ("Sparseout", 1.5, 2.0)
    assert tuple(sorted(first)) == tuple(sorted(methods.COLUMNS))


def test_the_command_for_the_methods_alone(tmp_path, capsys, monkeypatch):
    example, layers = methods.STEPS["linear"]
    few = {method: layers[method] for method in list(layers)[:3]}
    monkeypatch.setattr(methods, "STEPS", {"linear": (example, few)})
    (tmp_path / "methods.png").touch()
    assert main([*ALONE, "--methods", "linear", "topk", "--out", str(tmp_path)]) == 0
    rows = pandas.read_csv(tmp_path / "methods.csv")
    assert tuple(rows.columns) == methods.COLUMNS
    assert list(zip(rows["case"], rows["method"], strict=True)) == [
        *(("linear", method) for method in ("none", "Dropout", "Sparseout")),
        *((case, method) for case in ("topk, forward", "topk, both") for method in ("torch.topk", "k_winners")),
    ]
    assert rows.drop(columns="q").notna().all(axis=None)
    with Image.open(tmp_path / "methods.png") as image:
        assert image.width > 1000
    printed = " ".join(capsys.readouterr().out.split())
    assert "milliseconds added to the first method" in printed
    assert "methods.png" in printed


def test_times_below_the_axis_are_drawn_at_its_end(tmp_path):
    low = {"added_ms": -1.0, "added_iqr_low": -2.0, "added_iqr_high": 3.0, "milliseconds": 1.0, "q": None}
    rows = [{"case": "linear", "method": name, **low} for name in ("none", "Dropout")]
    write_methods_figure(rows, tmp_path / "methods.png")
    assert (tmp_path / "methods.png").stat().st_size > 1000


def test_an_unknown_case_is_one_line(tmp_path, capsys):
    assert main([*ALONE, "--methods", "all", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sparseout: methods must be one of 'autoencoder', 'linear', 'topk', got 'all'")


def test_a_module_without_a_penalty_has_the_loss_of_the_model_alone():
    example, _ = methods.STEPS["linear"]
    step = methods.MethodStep(example, lambda: nn.Linear(256, 512), CPU)
    assert torch.equal(step.total_loss(), step.loss(step.model(step.inputs), step.targets))
