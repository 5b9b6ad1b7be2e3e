"""The verdict of a probe's page in words, what it says to do next, and the roles of layers."""

import dataclasses

import pytest
import torch
from torch import nn

import sparseout
from sparseout import Probe, metrics
from sparseout.probe import LayerRecord, ProbeSettings, Summary
from sparseout.records.unit_activity import UnitActivity
from sparseout.report.next_steps import next_steps
from sparseout.report.picture import _DENSE, _SPARSE, hoyer_picture
from sparseout.report.roles import role_of
from sparseout.report.verdict import state_of, verdict


def record(layer="1", hoyer=0.6, zeros=0.7, **changes):
    kept = dict.fromkeys(("call", "padding"))
    counts = {"calls": 1, "vectors": 1600, "zero_vectors": 0, "single_vectors": 0, "nonfinite_vectors": 0}
    what = {"type": "ReLU", "mode": "eval", "value": "output", "unit_dim": (-1,), "units": 64}
    return LayerRecord(layer, **{**what, **kept, **counts, "hoyer": hoyer, "zeros": zeros, "dead": 0.0, **changes})


def summary_of(*records, unseen=(), measures=("zeros", "hoyer", "dead")):
    settings = ProbeSettings(measures, (), False, 1, "together")
    return Summary("Net", records, dict(unseen), settings, {"eval": {"seen": 1, "measured": 1}}, {})


def lines(*records, **options):
    return [(line.kind, line.text) for line in verdict(summary_of(*records, **options), "eval")]


def text_of(kind, *records, **options):
    return " ".join(text for found, text in lines(*records, **options) if found == kind)


def steps(*records, **options):
    return next_steps(summary_of(*records, **options), "eval")


BROKEN = record("3", None, None, nonfinite_vectors=4)
DEAD = record("5", 1.0, 1.0, zero_vectors=1600, dead=1.0)


def test_a_model_without_a_problem():
    assert lines(record()) == [
        ("fine", "No layer has NaN or Inf."),
        ("fine", "Every unit of 1 layer fired in at least one of 1,600 vectors."),
        (
            "sparse",
            "1 of 1 layer is sparse (Hoyer sparseness 0.5 or more): few units of a vector carry most of its activity: "
            "1 (0.60, 70 % zeros).",
        ),
    ]


def test_problems_come_first_and_the_worst_ones_before_the_others():
    kinds = [kind for kind, _ in lines(record(dead=0.5), BROKEN, DEAD, unseen={"7": "never called"})]
    assert kinds == ["not finite", "dead", "dead", "not seen", "sparse"]


def test_values_that_are_not_finite():
    assert text_of("not finite", record(), BROKEN).startswith("3 has NaN or Inf in 4 of 1,600 vectors.")
    text = text_of("not finite", BROKEN, dataclasses.replace(BROKEN, layer="4"))
    assert text.startswith("2 layers have NaN or Inf: 3 and 4. 3 is the first, in 4 of 1,600 vectors.")
    assert text_of("fine", BROKEN) == ""


def test_layers_that_are_zero_everywhere():
    text = text_of("dead", record(), DEAD)
    assert text == "1 layer is dead: 5. All values were zero in all 1,600 vectors, so nothing passes through."
    assert "5 (" not in text_of("sparse", record(), DEAD)


def test_dead_units_have_their_number_and_that_of_the_vectors():
    text = text_of("dead", record(dead=3 / 64), record("2", dead=0.5), record("4"))
    assert (
        text == "35 of 192 units never fired: they were zero in each of 1,600 vectors. They are in 2 (32 of 64) and 1 (3 of 64)."
    )
    activity = UnitActivity(2, 5, (0.0, 1.0), (), ())
    text = text_of("dead", record(dead=None, unit_activity=activity), record("2", vectors=40))
    assert "2 of 128 units never fired: they were zero in each of 40 to 1,600 vectors." in text
    assert text.endswith("5 units almost never fired, in less than 1 % of the vectors: 1 (5).")


def test_dead_units_that_were_not_counted_are_not_called_alive():
    assert text_of("not seen", record(dead=None)) == "Dead units were not counted: only measures='all' counts them."
    assert "Every unit" not in text_of("fine", record(dead=None))
    (step,) = (step for step in steps(record(dead=None, zeros=0.1)) if "Count" in step.text)
    assert step.code == 'probe = sparseout.Probe(model, measures="all", samples=3)'


def test_functions_that_are_hardly_ever_zero_have_no_dead_units_to_speak_of():
    assert text_of("fine", record(zeros=0.0)).endswith("hardly ever exactly zero, such as GELU.")


def test_what_was_not_seen():
    unseen = {"a": "never called", "b": "never called", "": "calls gelu without a module"}
    assert text_of("not seen", record(), unseen=unseen) == "a and b: never called. the model: calls gelu without a module."


def test_dense_and_moderate_layers():
    dense, moderate = record("a", 0.1, 0.0), record("b", 0.44, 0.5)
    assert [kind for kind, _ in lines(dense, moderate)][-3:] == ["not sparse", "moderate", "dense"]
    assert text_of("dense", dense, moderate).startswith("1 of 2 layers is dense (below 0.25)")
    assert text_of("moderate", dense, moderate).endswith("b (0.44, 50 % zeros).")


def test_the_references_of_the_verdict_are_those_of_random_vectors():
    """Of Gaussian values, and of the same values after a ReLU."""
    x = torch.randn(500, 4096, generator=torch.Generator().manual_seed(0))
    assert metrics.hoyer(x).mean().item() == pytest.approx(0.20, abs=0.01)
    assert metrics.hoyer(x.relu()).mean().item() == pytest.approx(0.44, abs=0.01)


def test_many_layers_are_counted():
    text = text_of("sparse", *(record(str(i), 0.9 - i / 1000) for i in range(400)))
    assert text.startswith("400 of 400 layers are sparse")
    assert text.endswith("0 (0.90, 70 % zeros), 1 (0.90, 70 % zeros), 2 (0.90, 70 % zeros) and 397 more.")


def test_without_hoyer_zeros_decide():
    assert text_of("sparse", record(hoyer=None)) == "1 of 1 layer is at least half zeros: 1 (70 %)."
    assert text_of("dense", record(hoyer=None, zeros=0.2)).startswith("No layer is at least half zeros; 1 comes nearest (20 %)")
    assert "Sparsity was not measured" in text_of("not seen", record(hoyer=None, zeros=None))


def test_problems_of_training_are_said_beside_the_sparsity_of_evaluation():
    found = lines(dataclasses.replace(BROKEN, mode="train"), record("3"))
    assert [kind for kind, _ in found] == ["not finite", "fine", "sparse"]


def test_the_state_of_a_layer():
    assert [state_of(each) for each in (record(), BROKEN, DEAD)] == ["", "NaN or Inf", "dead"]


class Broken(nn.Module):
    def forward(self, x):
        return x / x.new_zeros(())


def run(code, **names):
    exec(code, {"sparseout": sparseout, "torch": torch, **names})


def test_the_code_for_nan_finds_its_module(capsys):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), Broken()), nn.ReLU())
    (step,) = (step for step in steps(BROKEN) if "NaN" in step.text)
    run(step.code, model=model, batch=torch.randn(3, 4))
    assert capsys.readouterr().out == "['1.1']\n"


def test_the_code_for_a_dead_layer_prints_its_input(capsys):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    (step,) = (step for step in steps(dataclasses.replace(DEAD, layer="1")) if "feeds 1" in step.text)
    run(step.code, model=model, batch=torch.randn(3, 4))
    assert "tensor(" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ((record(dead=0.5),), "sparseout.drop_dead(model, loader)"),
        ((record(),), "sparseout.skip_zeros(model.eval(), batch)"),
        ((record("1", 0.2, 0.0),), "sparseout.insert_after(model, torch.nn.ReLU, q=1.5, p=0.5)"),
        ((record("1", 0.2, 0.0, type="GELU"), record("2", 0.2, 0.0, type="Dropout")), "sparseout.swap_dropout(model, q=1.5)"),
        ((record("1", 0.2, 0.0, type="Sparseout"),), "layer.q = 1.0"),
        ((record("h.0.mlp.act", 0.2, 0.0, type="GELU"),), 'sparseout.insert_after(model, where="mlp", q=1.5, p=0.5)'),
    ],
)
def test_the_code_runs_and_fits_the_model(layers, found, capsys):
    step = steps(*layers)[0]
    assert found in step.code
    block = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))})
    block.forward = lambda x: block["mlp"](x)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), sparseout.Sparseout(0.5, 2.0), block).eval()
    run(step.code, model=model, batch=torch.randn(3, 4), loader=[torch.randn(3, 4), torch.randn(3, 4)])


def test_the_code_for_a_function_measures_its_module():
    step = steps(record(), unseen={"0": "calls gelu without a module"})[0]
    assert step.code == "probe = sparseout.Probe(model, layers='0')"
    assert "never called" in steps(record(), unseen={"spare": "never called"})[0].text


def test_a_model_that_was_probed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 8), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].bias[:5] = -99
    with Probe(model, measures="all") as probe:
        model(torch.randn(50, 6))
    found = [(line.kind, line.text) for line in verdict(probe.summary(), "eval")]
    dead = int((probe.summary()["3"].dead or 0) * 8) + 5
    assert found[0][0] == "dead"
    assert found[0][1].startswith(
        f"{dead} of 32 units never fired: they were zero in each of 50 vectors. They are in 1 (5 of 24)"
    )


def test_the_picture_shows_the_sparseness_that_it_names():
    for bars, vector in zip(hoyer_picture(), (_DENSE, _SPARSE), strict=True):
        assert bars.hoyer == pytest.approx(metrics.hoyer(torch.tensor(vector, dtype=torch.float64)).item())
        assert len(bars.bars) == len(vector)
        assert max(height for *_, height in bars.bars) == bars.height


@pytest.mark.parametrize(
    ("name", "kind", "role"),
    [
        ("embeddings.dropout", "Dropout", "embedding"),
        ("encoder.layer.0.attention.output.dropout", "Dropout", "attention output"),
        ("encoder.layer.0.attention.self.dropout", "Dropout", "other"),
        ("encoder.layer.0.intermediate.intermediate_act_fn", "GELUActivation", "feed-forward"),
        ("encoder.layer.0.output.dropout", "Dropout", "feed-forward"),
        ("encoder.layer.3", "BertLayer", "residual"),
        ("transformer.wte", "Embedding", "embedding"),
        ("transformer.h.1.attn.resid_dropout", "Dropout", "attention output"),
        ("transformer.h.1.attn.attn_dropout", "Dropout", "other"),
        ("transformer.h.1.mlp.act", "NewGELUActivation", "feed-forward"),
        ("model.layers.7.mlp.act_fn", "SiLU", "feed-forward"),
        ("layers.0.dropout1", "Dropout", "attention output"),
        ("layers.0.dropout2", "Dropout", "feed-forward"),
        ("layers.0", "TransformerEncoderLayer", "residual"),
        ("layer1.0.drop_path", "DropPath", "residual"),
        ("layer1.0", "BasicBlock", "residual"),
        ("layer1.0.relu", "ReLU", "other"),
        ("features.3", "ReLU", "other"),
        ("1", "ReLU", "other"),
    ],
)
def test_the_role_of_a_layer(name, kind, role):
    assert role_of(record(name, type=kind)) == role
