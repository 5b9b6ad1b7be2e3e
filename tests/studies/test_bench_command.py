"""The command `sparseout bench`: steps, probes, targets, fits and files. No test asserts a time."""

import dataclasses
import json

import pandas
import pytest
import torch
from clock import Time
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import sparseout
from sparseout.bench import glm, op, probes, steps, target
from sparseout.bench.figure import write_figure
from sparseout.bench.models import MODELS
from sparseout.cli import bench
from sparseout.cli.main import main
from sparseout.layers import Sparseout

CPU = torch.device("cpu")
NONE = ["--targets", "--probes", "--methods", "--samples", "--inference", "--seconds", "0", "--device", "cpu"]
TINY = ["bench", "--sizes", "4096", "--dtypes", "float32", *NONE]


@pytest.mark.parametrize("name", MODELS)
def test_models_differ_in_their_noise_alone(name):
    models = [steps.Step(MODELS[name], contender.layer, CPU).model for contender in steps.CONTENDERS]
    places = {"autoencoder": 1, "mlp": 2, "lstm": 3, "wide_resnet": 3, "awd_lstm": 3}[name]
    for model, dropouts, sparseouts in zip(models, (0, places, 0, 0, 0), (0, 0, 0, places, places), strict=True):
        assert sum(isinstance(layer, nn.Dropout) for layer in model.modules()) == dropouts
        assert sum(isinstance(layer, Sparseout) for layer in model.modules()) == sparseouts
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        assert all(torch.equal(parameters[0], other) for other in parameters[1:])


def test_a_step_trains():
    step = steps.Step(MODELS["autoencoder"], steps.Contender("sparseout", 1.5).layer, CPU)

    def loss():
        return step.loss(step.model(step.inputs), step.targets).item()

    before = loss()
    for _ in range(20):
        assert step() > 0
    assert loss() < before


def test_step_rows_from_made_up_times(monkeypatch):
    made_up = {each: [n * 1.0, n * 2.0, n * 4.0] for n, each in enumerate(steps.CONTENDERS, 1)}
    monkeypatch.setattr(steps, "alternate", lambda samples, seconds: made_up)
    rows = steps.measure("autoencoder", CPU, 1.0)
    assert [(row["noise"], row["q"]) for row in rows] == [(each.noise, each.q) for each in steps.CONTENDERS]
    assert [row["milliseconds"] for row in rows] == [2000.0, 4000.0, 6000.0, 8000.0, 10000.0]
    assert [row["ratio_to_none"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [row["ratio_to_dropout"] for row in rows] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert rows[3]["dropout_iqr_high"] == 2.0


def test_a_constant_factor_changes_no_value_and_no_gradient():
    layer, x = steps.ConstantFactor(), torch.randn(3, 4, requires_grad=True)
    for input in (x, x[:2]):
        y = layer(input)
        assert torch.equal(y, input)
        assert torch.equal(torch.autograd.grad(y.sum(), input)[0], torch.ones_like(input))


def test_a_probe_is_timed_over_as_many_passes_as_it_takes_one_of(monkeypatch):
    monkeypatch.setattr(probes, "Clock", lambda device: Time())
    passes = []

    class Model(nn.Sequential):
        def forward(self, x):
            hooks = len(self[0]._forward_hooks)
            passes.append((hooks, torch.is_grad_enabled()))
            each.clock.now += 1 + 15 * hooks
            return super().forward(x)

    for name, every in (("none", 1), ("basic", 1), ("sampled", 8)):
        each = probes.ForwardPass(Model(nn.ReLU()), torch.ones(3), name)
        passes.clear()
        assert each() == (1 if name == "none" else 16)
        assert passes == [(int(name != "none"), False)] * every
        assert each.probe is None or each.probe.summary().forwards == {"train": {"seen": every, "measured": 1}}
        assert not each.model[0]._forward_hooks


def test_probe_rows_from_made_up_times(monkeypatch):
    made_up = {"none": [1.0, 2.0, 4.0], "all": [3.0, 6.0, 12.0]}
    monkeypatch.setattr(probes, "alternate", lambda passes, seconds: {name: made_up[name] for name in passes})
    rows = probes.measure("eval", ("all",), CPU, 1.0, layers=1)
    assert [(row["mode"], row["probe"], row["every"]) for row in rows] == [("eval", "none", 1), ("eval", "all", 1)]
    assert [row["milliseconds"] for row in rows] == [2000.0, 6000.0]
    assert [row["ratio_to_none"] for row in rows] == [1.0, 3.0]


def test_the_transformer_has_the_layers_that_the_page_says():
    model = probes.transformer()
    assert len(sparseout.Probe(model).layers) == 18
    assert sum(parameter.numel() for parameter in model.parameters()) == 6 * (12 * 384**2 + 13 * 384)


def test_the_command_for_a_probe_alone(tmp_path, capsys, monkeypatch):
    build = probes.transformer
    monkeypatch.setattr(probes, "transformer", lambda layers: build(1))
    monkeypatch.setattr(probes, "BATCH", 1)
    flags = ["--sizes", "--models", "--samples", "--methods", "--inference", "--targets"]
    flags += ["--probes", "basic", "sampled", "--seconds", "0", "--device", "cpu"]
    assert main(["bench", *flags, "--out", str(tmp_path)]) == 0
    rows = pandas.read_csv(tmp_path / "probe.csv")
    assert tuple(rows.columns) == probes.COLUMNS
    assert list(zip(rows["probe"], rows["every"], strict=True)) == [("none", 1), ("basic", 1), ("sampled", 8)] * 2
    assert list(rows["mode"]) == ["train"] * 3 + ["eval"] * 3
    assert rows.notna().all(axis=None)
    assert pandas.read_csv(tmp_path / "op.csv").empty
    assert "A transformer's forward pass with a probe" in capsys.readouterr().out


def test_the_command(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    state = torch.get_rng_state()
    assert main([*TINY, "--q", "1.7", "2", "--models", "autoencoder", "--out", str(out)]) == 0
    assert torch.equal(state, torch.get_rng_state())
    assert sorted(path.name for path in out.iterdir()) == [
        "bench.png",
        "glm.csv",
        "inference.csv",
        "methods.csv",
        "op.csv",
        "probe.csv",
        "provenance.json",
        "steps.csv",
        "target.csv",
    ]
    rows = pandas.read_csv(out / "op.csv")
    assert tuple(rows.columns) == op.COLUMNS
    assert len(rows) == 3 * (3 + 7 * 2)
    assert set(rows["pass"]) == {"forward", "backward", "both"}
    measured = rows[rows["note"].isna()].drop(columns=["q", "note"])
    assert (measured["bytes_kept"].isna() == (measured["contender"] == op.KERNEL)).all()
    assert measured.drop(columns="bytes_kept").notna().all(axis=None)
    assert (rows["ns_iqr_low"] <= rows["ns_per_element"]).all()
    trained = pandas.read_csv(out / "steps.csv")
    assert tuple(trained.columns) == steps.COLUMNS
    assert list(trained["noise"]) == ["none", "dropout", steps.CONSTANT, "sparseout", "sparseout"]
    assert (trained["peak_mib"] > 0.1).all()
    found = json.loads((out / "provenance.json").read_text())
    for name in ("cpu", "torch", "commit", "date", "threads", "instruction_set", "load_before"):
        assert name in found
    assert found["command"] == (
        "sparseout bench --sizes 4096 --dtypes float32 --q 1.7 2.0 --models autoencoder "
        "--targets --probes --methods --samples --inference --seconds 0.0 --runs 1"
    )
    with Image.open(out / "bench.png") as image:
        assert image.width > 1500
    printed = capsys.readouterr().out
    assert "Sparseout, q = 1.7" in printed
    assert str(out / "op.csv") in printed


def test_a_target_is_timed_over_whole_multiples_of_the_steps_that_it_samples(monkeypatch):
    made_up = {"none": [1.0] * 16 + [9.0] * 7, "target": [10.0, *[1.0] * 7, 18.0, *[2.0] * 7, *[99.0] * 7]}
    asked = {}
    monkeypatch.setattr(target, "alternate", lambda steps, seconds, **limits: asked.update(limits) or made_up)
    none, driven = target.measure("autoencoder", CPU, 1.0)
    assert (none["target"], driven["target"]) == target.CONTENDERS
    assert none["milliseconds"] == 1e3
    assert (driven["milliseconds"], driven["ratio_to_none"]) == (pytest.approx(3062.5), pytest.approx(3.0625))
    assert none["rounds"] == driven["rounds"] == 2
    assert all(limit % target.EVERY == 0 for limit in asked.values())
    assert tuple(sorted(driven)) == tuple(sorted(target.COLUMNS))


def test_a_driven_step_is_measured_once_in_eight_and_its_q_stays_where_the_op_costs_the_same(monkeypatch):
    plain, driven = (target.TargetStep("autoencoder", contender, CPU) for contender in target.CONTENDERS)
    assert plain.target is None
    gathered, findings = [], sparseout.Probe.findings
    monkeypatch.setattr(sparseout.Probe, "findings", lambda probe: gathered.append(driven.target.steps) or findings(probe))
    for step in (plain, driven):
        for _ in range(17):
            assert step() > 0
    assert gathered == [0, 8, 16]
    assert driven.target.every == target.EVERY == sparseout.SparsityTarget(plain.model, 0.5).every
    assert driven.target.report().layers[0].measured > 0
    assert target.Q[0] <= driven.target.report().layers[0].value <= target.Q[1]
    assert all(type(a) is type(b) for a, b in zip(plain.model.modules(), driven.model.modules(), strict=True))


def test_the_command_for_a_target_alone(tmp_path, capsys, monkeypatch):
    small = dataclasses.replace(
        MODELS["mlp"], build=lambda noise: nn.Sequential(nn.Linear(784, 16), nn.ReLU(), noise(), nn.Linear(16, 10))
    )
    monkeypatch.setitem(MODELS, "mlp", small)
    flags = ["--sizes", "--models", "--probes", "--methods", "--samples", "--inference", "--seconds", "0"]
    flags += ["--targets", "autoencoder", "mlp"]
    assert main(["bench", *flags, "--device", "cpu", "--out", str(tmp_path)]) == 0
    rows = pandas.read_csv(tmp_path / "target.csv", keep_default_na=False)
    assert tuple(rows.columns) == target.COLUMNS
    assert list(zip(rows["model"], rows["target"], strict=True)) == [
        (model, contender) for model in ("autoencoder", "mlp") for contender in target.CONTENDERS
    ]
    assert list(rows["rounds"]) == [2] * 4
    assert "A training step with a sparsity target" in " ".join(capsys.readouterr().out.split())


def test_the_fits(tmp_path, capsys):
    flags = ["--sizes", "--models", "--targets", "--probes", "--methods", "--inference", "--seconds", "0"]
    flags += ["--samples", "500", "1000"]
    assert main(["bench", *flags, "--out", str(tmp_path)]) == 0
    rows = pandas.read_csv(tmp_path / "glm.csv")
    assert tuple(rows.columns) == glm.COLUMNS
    assert list(rows["samples"]) == [500] * 3 + [1000] * 3
    assert list(rows["estimator"])[:3] == ["LogisticRegression", "SparseoutClassifier", "SparseoutClassifier"]
    assert list(rows["q"])[1:3] == [1.5, 2.0]
    assert (rows["ratio_to_sklearn"][rows["q"].isna()] == 1).all()
    assert (rows.drop(columns=["estimator", "q"]) > 0).all(axis=None)
    assert "SparseoutClassifier, q = 1.5" in capsys.readouterr().out


def test_a_stopped_benchmark_keeps_what_it_measured_and_nothing_of_an_earlier_one(monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    (tmp_path / "steps.csv").write_text("model\nof an earlier benchmark\n")
    (tmp_path / "bench.png").touch()
    monkeypatch.setattr(op, "measure", lambda *_: [{"contender": "relu", "elements": 4096}])
    monkeypatch.setattr(steps, "measure", stop)
    assert main([*TINY, "--out", str(tmp_path)]) == 130
    assert list(pandas.read_csv(tmp_path / "op.csv")["contender"]) == ["relu"]
    assert pandas.read_csv(tmp_path / "steps.csv").empty
    assert not (tmp_path / "bench.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "0"], "sparseout: sizes must be integers in [1, 2^40], got 0"),
        (["--dtypes", "int8"], "sparseout: dtypes must be one of 'float32', 'bfloat16', 'float16', 'float64', got 'int8'"),
        (["--q", "-1"], "sparseout: q must be a finite norm of at least 0, got -1.0"),
        (["--q"], "sparseout: q needs at least one value"),
        (["--models", "gpt"], "sparseout: models must be one of 'autoencoder', 'mlp', 'lstm', 'wide_resnet', 'awd_lstm', got"),
        (["--targets", "gpt"], "sparseout: targets must be one of 'autoencoder', 'mlp', 'lstm', 'wide_resnet', 'awd_lstm', got"),
        (["--inference", "3"], "sparseout: inference must be integers in [16, 2^15], got 3"),
        (["--runs", "0"], "sparseout: runs must be an integer of at least 1, got 0"),
        (["--samples", "3"], "sparseout: samples must be integers in [100, 2^40], got 3"),
        (["--seconds", "-1"], "sparseout: seconds must be a number in [0, 86400], which is a day, got -1.0"),
        (["--seconds", "nan"], "sparseout: seconds must be a number in [0, 86400], which is a day, got nan"),
        (["--probes", "most"], "sparseout: probes must be one of 'basic', 'histogram', 'all', 'sampled', got 'most'"),
        (
            ["--sizes", "--models", "--targets", "--probes", "--methods", "--samples", "--inference"],
            "sparseout: nothing to measure: give --sizes and --dtypes, --models, --targets, --probes, --methods, --samples or ",
        ),
        (["--device", "abacus"], "sparseout: device 'abacus' cannot be used: "),
        (["--device", "meta"], "sparseout: device must be cpu or cuda, got meta"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(flags, message, tmp_path, capsys):
    assert main(["bench", *flags, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "out").touch()
    assert main([*TINY, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("sparseout: --out must be a folder that can be written: ")


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "--sizes INT ...",
        "none skips the op",
        "--q FLOAT ...",
        "the default values run partly",
        "at least three rounds",
    ):
        assert words in shown


@pytest.mark.parametrize("parts", [("op",), ("steps",), ("op", "steps"), ()])
def test_the_figure_of_either_half(parts, tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **options: drawn.append(figure) or save(figure, *args, **options)
    )
    measured = {"dtype": "float16", "elements": 4096, "pass": "both", "ns_per_element": 2.0, "rounds": 3}
    rows = [{"contender": name, "q": None, **measured} for name in op.WITHOUT_Q]
    rows += [{"contender": name, "q": q, **measured} for name in ("sparseout", "authors") for q in (1.0, 2.0)]
    rows += [{"contender": "compiled", "q": 1.7, "dtype": "float32", "elements": 4096, "pass": "both", "note": "skipped"}]
    ratios = {"ratio_to_none": 1.0, "none_iqr_low": 0.9, "none_iqr_high": 1.2}
    trained = [{"model": "mlp", "noise": each.noise, "q": each.q, **ratios} for each in steps.CONTENDERS]
    write_figure(rows if "op" in parts else [], trained if "steps" in parts else [], tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as image:
        assert image.width > 1500
    left, right = (axes.get_legend_handles_labels()[1] for axes in drawn[0].axes)
    shown = ["F.dropout", "relu", "copy_", "Sparseout, q = 1", "Sparseout, other q", "authors' code, q = 1"]
    assert left == (shown if "op" in parts else [])
    assert right == (["nn.Dropout", "constant factor", "Sparseout, q = 1.5", "Sparseout, q = 2"] if "steps" in parts else [])


@pytest.mark.parametrize(("qs", "bold"), [((1.0, 2.0), 1.0), ((3.5, 5.0), 3.5), ((), None)])
def test_one_line_of_sparseout_is_not_faint(qs, bold, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("sparseout.bench.figure.save", lambda figure, path: drawn.append(figure))
    measured = {"dtype": "float32", "elements": 4096, "pass": "both", "ns_per_element": 2.0, "rounds": 3}
    rows = [{"contender": "relu", "q": None, **measured}, *({"contender": "sparseout", "q": q, **measured} for q in qs)]
    write_figure(rows, [], tmp_path / "bench.png")
    labels = {line.get_label() for line in drawn[0].axes[0].lines if line.get_alpha() is None}
    assert labels == {"relu", *([f"Sparseout, q = {bold:g}"] if bold else [])}


def test_the_records_command_repeats_the_selection():
    selection = bench.Selection(sizes=(4096,), dtypes=(), models=(), samples=())
    assert selection.command.startswith("sparseout bench --sizes 4096 --dtypes --q 1.0 ")
