"""Runs with several regularizers in one report: labels, curves, numbers, and comparisons."""

import pytest

from sparseout.report import write
from sparseout.report.settings import curves_of, dial_of, dials_of, group_by_setting
from sparseout.report.statistics import compare_with_dropout

pytest.importorskip("matplotlib")

SETTINGS = {
    "sparseout": {"p": 0.5, "gradient": "detached"},
    "dropout": {"p": 0.5},
    "none": {},
    "l1": {},
    "k_winners": {"boost_strength": 0.0},
}
DIALS = {"sparseout": ("q", 1.5), "l1": ("strength", 0.01), "k_winners": ("k", 0.25)}


def record(regularizer, seed, score, target=None, **settings):
    layer = {"zero_vectors": 1, "vectors": 10, "profile": [1.0, 0.5, 0.0]}
    made = {
        "study": "autoencoder",
        "run": f"{regularizer}{target}{seed}{settings}",
        "seed": seed,
        "regularizer": regularizer,
        **SETTINGS[regularizer],
        "test_loss": score,
        **{"hoyer": target or 0.5, "zeros": 0.5, "rms": 1.0, "layers": {"noise": layer}, "seconds": 2.0},
        "provenance": {"sparseout": "0.1.0", "torch": "2.6", "cpu": "a cpu", "date": "today", "command": "sparseout study"},
    }
    if target:
        dial, value = DIALS[regularizer]
        control = {"achieved": target, "dial": dial, "value": value, "settled": 0.3, "out_of_reach": False}
        course = {"value": [value] * 3, "measured": [0.5, 0.6, target]}
        return made | {"target_sparsity": target, "target_measure": "hoyer", "control": control | {"course": course}} | settings
    return made | settings


TARGETED = [record(name, seed, 0.1 + seed, target) for name in DIALS for target in (0.5, 0.8) for seed in (0, 1)]
FIXED = [record("l1", seed, seed, strength=strength) for strength in (0.1, 0.01) for seed in (0, 1)]
OTHERS = [
    record(name, seed, 0.2, **({"q": 2.0} if name == "sparseout" else {})) for name in ("sparseout", "none") for seed in (0, 1)
]


def test_each_regularizer_has_a_curve_along_the_target():
    curves = curves_of(group_by_setting(TARGETED))
    assert [(curve.label, curve.axis, curve.x) for curve in curves] == [
        (label, "target_sparsity", [0.5, 0.8]) for label in ("Sparseout", "L1", "k-winners")
    ]


def test_fixed_settings_are_named_by_their_numbers():
    curves = curves_of(group_by_setting([*FIXED, *OTHERS]))
    assert [(curve.label, curve.axis) for curve in curves] == [
        ("Sparseout", "q"),
        ("no noise", None),
        ("L1, strength 0.01", None),
        ("L1, strength 0.1", None),
    ]
    assert [setting.name for curve in curves for setting in curve.settings][2:] == ["L1, strength 0.01", "L1, strength 0.1"]


def test_runs_with_and_without_a_target_are_told_apart():
    labels = [curve.label for curve in curves_of(group_by_setting([*TARGETED, *OTHERS]))]
    assert labels == ["Sparseout", "Sparseout, with a target", "L1", "k-winners", "no noise"]


def test_the_number_of_each_run():
    assert dials_of([*TARGETED, *OTHERS]) == ["q", "strength", "k"]
    assert dials_of(OTHERS[2:]) == []
    assert [dial_of(made) for made in (TARGETED[0], FIXED[0], OTHERS[2])] == [{"q": 1.5}, {"strength": 0.1}, {}]


def test_each_regularizer_is_compared_with_dropout():
    found = compare_with_dropout(group_by_setting([*TARGETED, *FIXED, *OTHERS]), "test_loss")
    assert [comparison.label for comparison in found] == [
        "target 0.5",
        "target 0.8",
        "L1, target 0.5",
        "L1, target 0.8",
        "k-winners, target 0.5",
        "k-winners, target 0.8",
        "no noise",
        "L1, strength 0.01",
        "L1, strength 0.1",
    ]


@pytest.mark.parametrize("records", [TARGETED, [*TARGETED, *FIXED, *OTHERS], [*FIXED, *OTHERS], FIXED, OTHERS[2:]])
def test_the_report_is_written(records, tmp_path):
    write(records, {}, tmp_path)
    assert (tmp_path / "sparsity.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in dials_of(records))
