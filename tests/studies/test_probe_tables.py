"""A summary as a data frame and on the terminal."""

import io

import pandas
import pytest
import torch
from rich.console import Console
from torch import nn

from sparseout import Probe
from sparseout.probe import MEASURE_TITLES

NAME = "[bold]act[/]"


def probed(seed=0, measures="all"):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16))
    model.add_module(NAME, nn.ReLU())
    with Probe(model, measures=measures) as probe:
        model(torch.randn(50, 6))
        model.eval()(torch.randn(20, 6))
    return probe.summary()


def printed(table, width=100):
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def test_a_data_frame_has_a_row_a_record():
    summary = probed()
    frame = summary.to_pandas()
    assert list(frame["mode"]) == ["train", "eval"]
    for name in ("layer", "type", "vectors", "units", *MEASURE_TITLES):
        assert list(frame[name]) == [getattr(record, name) for record in summary.layers]
    assert list(frame["|x| < 0.1"]) == [record.near_zero["0.1"] for record in summary.layers]


def test_a_data_frame_of_a_comparison_has_a_row_a_measure():
    comparison = probed(0).compare(probed(1))
    frame = comparison.to_pandas().set_index(["mode", "measure"])
    assert isinstance(frame, pandas.DataFrame)
    for row in comparison.differences():
        for measure, values in row["measures"].items():
            assert list(frame.loc[(row["mode"], measure), ["before", "after", "difference"]]) == values


def test_the_terminals_table_has_the_most_telling_measures_or_those_that_are_named():
    summary = probed()
    text = printed(summary.table())
    assert text.splitlines()[1].split() == ["layer", "mode", "units", "vectors", "zeros", "hoyer", "rms", "gini", "dead"]
    assert f"{summary.layers[0].hoyer:.3g}" in text
    assert NAME in text
    assert printed(summary.table("kurtosis")).splitlines()[1].split()[-1] == "kurtosis"
    assert printed(probed(measures=["std", "mean"]).table()).splitlines()[1].split()[-2:] == ["mean", "std"]
    assert "train: 1 of 1 forward passes measured" in text
    with pytest.raises(ValueError, match="measures must be one of 'zeros', .*, got 'entropy'"):
        summary.table("entropy")


def test_the_terminals_table_of_a_comparison():
    before, after = probed(0), probed(1)
    text = printed(before.compare(after).table("hoyer"))
    old, new = before.layers[0].hoyer, after.layers[0].hoyer
    assert f"{old:.3g} → {new:.3g} ({new - old:+.2g})" in text


@pytest.mark.parametrize("width", [54, 60, 70, 80, 200])
@pytest.mark.parametrize("compared", [True, False])
def test_a_terminal_breaks_no_name_and_leaves_out_columns(compared, width):
    torch.manual_seed(0)
    name = "encoder_of_the_longest_name_that_there_is"
    model = nn.ModuleDict({name: nn.Tanh()})
    model.forward = lambda x: model[name](x)
    with Probe(model, measures="all") as probe:
        model(torch.randn(50, 6))
    summary = probe.summary()
    text = printed((summary.compare(summary) if compared else summary).table(), width=width)
    assert max(map(len, text.splitlines())) <= width
    header = text.splitlines()[1].split()
    if compared and width < 70:  # not even one pair of values has room beside the name
        assert header == ["layer", "hoyer"]
        return
    assert name in text
    every = ["layer", "zeros", "hoyer"] if compared else ["layer", "units", "vectors", "zeros", "hoyer", "rms", "gini", "dead"]
    assert header == [column for column in every if column in header]
    left_out = [column for column in every if column not in header]
    assert "hoyer" in header
    assert ("left out, as the terminal is narrow" in text) == bool(left_out)
    assert all(column in text for column in left_out)
    assert not left_out or width < 200
