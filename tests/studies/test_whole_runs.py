"""Several whole runs of a benchmark as one."""

import pandas
import pytest

from sparseout.bench import steps
from sparseout.bench.timing import Spread, spread_columns
from sparseout.bench.whole_runs import differences, merge
from sparseout.cli.main import main


def row(values, **settings):
    return {**settings, "q": None, "rounds": len(values), **Spread.of(values).columns("ratio")}


def test_the_median_and_the_extremes_of_the_runs():
    (merged,) = merge([[row([2.0, 3.0, 5.0], contender="relu")], [row([1.0, 1.0])], [row([6.0, 8.0, 9.0])]])
    assert merged == {
        **{"contender": "relu", "q": None, "rounds": 3, "ratio": 3.0, "ratio_iqr_low": 2.5, "ratio_iqr_high": 4.0},
        **{"ratio_run_low": 1.0, "ratio_run_high": 8.0},
    }
    assert differences([merged], "ratio") == [7.0]


def test_one_run_is_its_own_lowest_and_highest():
    rows = [row([2.0, 3.0, 5.0])]
    assert merge([rows]) == rows
    assert tuple(Spread.of([1.0, 2.0]).columns("ratio")) == spread_columns("ratio")


def test_a_run_that_is_not_complete_and_a_row_without_numbers():
    one, two = {"contender": "relu", "ratio": 1.0, "note": ""}, {"contender": "compiled", "note": "skipped: no compiler"}
    assert merge([[one, two], [{**one, "ratio": 3.0}]]) == [{**one, "ratio": 2.0}, two]
    assert merge([[two], [{**two, "ratio": 1.0, "note": ""}]]) == [{**two, "ratio": 1.0}]
    assert merge([]) == merge([[], []]) == []


@pytest.mark.parametrize("runs", [1, 3])
def test_the_command_takes_whole_runs_and_says_how_far_they_differ(runs, tmp_path, capsys, monkeypatch):
    milliseconds = iter([1.0, 4.0, 2.0])

    def measure(model, device, seconds):
        taken = next(milliseconds)
        one = {"model": model, "rounds": 3, "load": 1.0, "peak_mib": 8.0}
        return [
            {
                **{**one, "noise": each.noise, "q": each.q},
                **Spread.of([taken, taken]).columns("milliseconds", "ms"),
                **Spread.of([taken, taken]).columns("ratio_to_none", "none"),
                **Spread.of([taken, taken]).columns("ratio_to_dropout", "dropout"),
            }
            for each in steps.CONTENDERS
        ]

    monkeypatch.setattr(steps, "measure", measure)
    flags = ["--sizes", "--targets", "--probes", "--methods", "--samples", "--inference", "--models", "mlp", "--runs", str(runs)]
    assert main(["bench", *flags, "--device", "cpu", "--out", str(tmp_path)]) == 0
    rows = pandas.read_csv(tmp_path / "steps.csv")
    assert tuple(rows.columns) == steps.COLUMNS
    found = rows[["milliseconds", "ms_run_low", "ms_run_high"]].to_numpy().tolist()
    assert found == [[1, 1, 1] if runs == 1 else [2, 1, 4]] * 5
    sentence = "steps: from the lowest to the highest of 3 runs, ratios rise by 300.0 % in the median, at most by 300.0 %."
    assert (sentence in " ".join(capsys.readouterr().out.split())) == (runs == 3)
