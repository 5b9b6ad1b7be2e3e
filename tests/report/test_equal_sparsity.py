"""Methods are compared at equal measured sparsity, by seed, and never beyond what a method reached."""

import math

import numpy
import pytest
from compared import curve, record
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparseout.report.equal_sparsity import compare_at_equal_sparsity, equal_sparsity_notes, equal_sparsity_table
from sparseout.report.methods import methods_of
from sparseout.report.methods_figure import levels_of

LOSSES = {0.5: 0.10, 0.65: 0.13, 0.8: 0.19}


def compared(records, score="test_loss"):
    return compare_at_equal_sparsity(records, score)


def test_scores_are_interpolated_between_the_runs_of_a_seed():
    records = []
    for seed, shift in enumerate((0.0, 0.01, -0.01)):
        records += curve("sparseout", seed, LOSSES)
        records += curve("l1", seed, {0.5: 0.09, 0.65: 0.10, 0.8: 0.16 + seed / 100}, shift)
    low, middle, high = compared(records)
    assert (low.method, low.study, low.measure, low.target, low.score) == ("L1", "autoencoder", "hoyer", 0.5, "test_loss")
    # Seed 1 begins at 0.51, where Sparseout is between 0.10 and 0.13. Seed 2 reaches 0.5 between 0.49 and 0.64.
    differences = [0.09 - 0.10, 0.09 - (0.10 + 0.03 / 15), (0.09 + 0.01 / 15) - 0.10]
    expected = stats.ttest_1samp(differences, 0)
    assert low.difference.mean == pytest.approx(numpy.mean(differences))
    assert (low.difference.low, low.difference.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert low.p == pytest.approx(expected.pvalue)
    assert (low.at, low.error) == (pytest.approx((0.5 + 0.51 + 0.5) / 3), pytest.approx(0.01))
    assert low.settled == pytest.approx(0.32)
    # Seed 1: 0.65 lies 14/15 of the way from 0.51 to 0.66. Seed 2: 1/15 of the way from 0.64 to 0.79.
    differences = [0.10 - 0.13, 0.09 + 0.01 * 14 / 15 - 0.13, 0.10 + 0.08 / 15 - 0.13]
    assert middle.difference.mean == pytest.approx(numpy.mean(differences))
    # Seed 2 ends at 0.79, where Sparseout is 14/15 of the way from 0.13 to 0.19.
    differences = [0.16 - 0.19, 0.10 + 0.07 * 14 / 15 - 0.19, 0.18 - (0.13 + 0.06 * 14 / 15)]
    assert high.difference.mean == pytest.approx(numpy.mean(differences))
    assert [row.corrected >= row.p for row in (low, middle, high)] == [True] * 3


def test_nothing_is_extrapolated():
    records = [run for seed in range(3) for run in curve("sparseout", seed, LOSSES)]
    records += [run for seed in range(2) for run in curve("l1", seed, {0.5: 0.1, 0.65: 0.1})]
    records += curve("l1", 2, {0.5: 0.1, 0.65: 0.1, 0.8: 0.1}, -0.025)
    found = {row.target: row for row in compared(records)}
    assert {target: row.difference.count for target, row in found.items()} == {0.5: 3, 0.65: 3, 0.8: 0}
    assert found[0.5].at == found[0.5].target
    assert found[0.8].verdict == "not compared"
    assert math.isnan(found[0.8].at)
    assert found[0.8].remarks() == ["L1 at hoyer 0.8: L1 did not reach it in 3 of 3 seeds."]
    assert found[0.8].remarks()[0] in equal_sparsity_notes(records, list(found.values()))


def test_levels_that_a_method_was_not_asked_for_are_compared_inside_its_range():
    records = [run for seed in range(3) for run in curve("sparseout", seed, LOSSES)]
    records += [run for seed in range(3) for run in curve("l1", seed, {0.5: 0.10, 0.8: 0.20})]
    found = {row.target: row for row in compared(records)}
    assert found[0.65].difference.mean == pytest.approx(0.15 - 0.13)
    assert found[0.65].error == pytest.approx(0.15)
    assert math.isnan(found[0.65].settled)


def test_ranges_that_do_not_overlap_are_not_compared():
    records = [run for seed in range(2) for run in (*curve("sparseout", seed, {0.5: 1.0}, -0.01), *curve("l1", seed, {0.5: 1.0}))]
    (row,) = compared(records)
    assert row.difference.count == 0
    assert row.remarks() == ["L1 at hoyer 0.5: the two ranges of measured sparsity do not overlap in 2 of 2 seeds."]


def test_a_method_without_targets_is_compared_at_its_own_sparsity():
    records = [run for seed in range(3) for run in curve("sparseout", seed, LOSSES)]
    records += [record("dropout", seed, 0.56 + 0.03 * seed, 0.2) for seed in range(3)]
    records += [record("none", seed, 0.2, 0.05) for seed in range(3)]
    dropout, none = compared(records)
    assert dropout.difference.mean == pytest.approx(numpy.mean([0.2 - (0.10 + 0.03 * x / 15) for x in (6, 9, 12)]))
    assert (dropout.method, dropout.target, dropout.at) == ("nn.Dropout", None, pytest.approx(0.59))
    assert none.remarks() == ["no noise at its own hoyer: Sparseout did not reach it in 3 of 3 seeds."]
    header, rows = equal_sparsity_table([dropout, none])
    assert rows[0][header.index("at")] == "hoyer 0.59"
    assert rows[1] == ["no noise", "-", "0", "-", "-", "not compared", "-", "-"]


def test_a_run_that_was_not_measured_is_counted_and_not_bridged():
    records = [run for seed in range(3) for run in (*curve("sparseout", seed, LOSSES), *curve("l1", seed, LOSSES))]
    broken = next(run for run in records if run["regularizer"] == "l1" and run["seed"] == 1 and run["target_sparsity"] == 0.65)
    for change in ({"test_loss": None}, {"test_loss": math.nan}, {"control": {**broken["control"], "achieved": None}}):
        changed = [run | change if run is broken else run for run in records]
        found = {row.target: row for row in compared(changed)}
        assert found[0.65].difference.count == 2
        assert found[0.65].remarks() == ["L1 at hoyer 0.65: L1 was not measured in 1 of 3 seeds."]
        assert found[0.5].difference.count == 3


def test_the_sparsity_is_that_of_the_layers_that_a_target_controls():
    def of_two_layers(run):
        layers = {name: run["layers"]["noise"] | {"hoyer": value} for name, value in (("first", 0.1), ("last", run["hoyer"]))}
        control = {"control": {**run["control"], "layers": ["last"]}} if "control" in run else {}
        return run | {"layers": layers, "hoyer": (0.1 + run["hoyer"]) / 2} | control

    records = [run for seed in range(3) for run in (*curve("sparseout", seed, LOSSES), record("dropout", seed, 0.6, 0.2))]
    (row,) = compared([of_two_layers(run) for run in records])
    assert (row.method, row.at, row.difference.count) == ("nn.Dropout", pytest.approx(0.6), 3)
    dropout = methods_of([of_two_layers(run) for run in records])[-1]
    assert levels_of(dropout, "test_loss")[0].values["hoyer"].mean == pytest.approx(0.6)
    # A layer that was not measured is not left out of the mean.
    assert dropout.sparsity(dropout.runs[0] | {"layers": {"first": {"hoyer": 0.1}}}, "hoyer") is None


def test_only_equal_tasks_are_compared():
    records = [run for seed in range(2) for run in curve("sparseout", seed, LOSSES)]
    records += [run for seed in range(2) for run in curve("l1", seed, LOSSES, p=0.1, strength=3.0, target_q_min=0.1)]
    records += [run for seed in range(2) for run in curve("hoyer_square", seed, LOSSES, dataset="mnist")]
    records += [run for seed in range(2) for run in curve("k_winners", seed, LOSSES, target_measure="zeros")]
    found = compared(records)
    assert {row.method for row in found} == {"L1"}
    notes = equal_sparsity_notes(records, found)
    for label in ("Hoyer-Square", "k-winners"):
        assert f"{label}: no runs of Sparseout with a target have the same settings and measure." in notes


def test_runs_without_a_target_are_no_part_of_a_method_with_targets():
    records = [run for seed in range(2) for method in ("sparseout", "l1") for run in curve(method, seed, LOSSES)]
    fixed = [record("sparseout", seed, 0.6, 0.9, q=q) for seed in range(2) for q in (1.0, 2.0)]
    assert [method.label for method in methods_of([*records, *fixed])] == ["Sparseout", "L1"]
    assert repr(compared([*records, *fixed])) == repr(compared(records))


def test_settings_of_one_method_are_methods_of_their_own():
    records = curve("sparseout", 0, LOSSES) + curve("l1", 0, LOSSES, p=0.1) + curve("l1", 0, LOSSES, p=0.2)
    assert [method.label for method in methods_of(records)] == ["Sparseout", "L1, p 0.1", "L1, p 0.2"]


def test_settings_that_were_tuned_for_each_target_are_one_curve():
    records = [run for seed in range(2) for run in curve("sparseout", seed, LOSSES)]
    for target, p in zip(LOSSES, (0.1, 0.2, 0.2), strict=True):
        records += [run for seed in range(2) for run in curve("l1", seed, {target: 0.1}, 0.01, p=p)]
    assert [method.label for method in methods_of(records)] == ["Sparseout", "L1"]
    assert [row.difference.count for row in compared(records)] == [2, 2, 2]


def test_a_study_without_targets_or_with_one_method_has_no_comparison():
    assert compared([]) == compared(curve("sparseout", 0, LOSSES)) == compared(curve("l1", 0, LOSSES)) == []
    assert compared([record("sparseout", 0, 0.5, 0.1), record("none", 0, 0.2, 0.1)]) == []


def verdict(differences, score="test_loss"):
    records = []
    for seed, difference in enumerate(differences):
        for method, value in (("sparseout", 0.5), ("l1", 0.5 + difference)):
            records += curve(method, seed, {0.5: value}, **{score: value})
    (row,) = compared(records, score)
    return row.verdict


def test_verdicts():
    assert verdict([0.010, 0.012, 0.011, 0.013]) == "worse"
    assert verdict([0.010, 0.012, 0.011, 0.013], "accuracy") == "better"
    assert verdict([0.010, -0.012, 0.011, -0.013]) == "undecided"
    assert verdict([0.0, 0.0, 0.0]) == "equal"
    assert verdict([0.25, 0.25]) == "+0.25 in each seed"
    assert verdict([0.01]) == "too few seeds"


NOISE = st.floats(-0.019, 0.019)


@settings(max_examples=25)
@given(st.data(), st.integers(2, 5), st.randoms(use_true_random=False))
def test_equal_methods_differ_by_nothing_and_the_order_of_records_changes_nothing(data, seeds, random):
    records = []
    for seed in range(seeds):
        for target in LOSSES:
            sparsity, loss = target + data.draw(NOISE), data.draw(st.floats(0, 1))
            records += [record(method, seed, sparsity, loss, target) for method in ("sparseout", "l1")]
            records.append(record("k_winners", seed, target + data.draw(NOISE), data.draw(st.floats(0, 1)), target))
    found = compared(records)
    assert len(found) == 6
    for row in found:
        assert row.difference.count == seeds
        assert row.error <= 0.04
        if row.method == "L1":
            assert (row.difference.mean, row.verdict) == (0, "equal")
    shuffled = records.copy()
    random.shuffle(shuffled)
    assert repr(compared(shuffled)) == repr(found)


def test_holm_corrects_for_all_levels_and_methods():
    generator = numpy.random.default_rng(0)
    records = []
    for seed in range(5):
        for method in ("sparseout", "l1", "k_winners"):
            records += curve(method, seed, {target: loss + 0.01 * generator.normal() for target, loss in LOSSES.items()})
    found = compared(records)
    order = numpy.argsort([row.p for row in found])
    assert found[order[0]].corrected == pytest.approx(min(1, 6 * found[order[0]].p))
    assert "after Holm's correction for 6 comparisons." in equal_sparsity_notes(records, found)[0]


def test_few_seeds_are_said():
    records = [run for seed in range(3) for run in (*curve("sparseout", seed, LOSSES), *curve("l1", seed, LOSSES))]
    assert "Intervals over 3 seeds are wide" in " ".join(equal_sparsity_notes(records, compared(records)))
