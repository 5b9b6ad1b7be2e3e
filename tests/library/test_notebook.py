"""What a notebook and a prompt show of each report: every cell, escaped, without colours or scripts, and one short line."""

import re
from html import unescape

import pytest
import torch
from torch import nn

import sparseout
from sparseout import Probe, SparsityTarget, check_swap, schedule, swap_dropout
from sparseout.notebook import page


class Named(nn.Sequential):
    """A model whose layers have names with markup."""

    def __init__(self):
        super().__init__()
        self.add_module("<b>in", nn.Linear(4, 8))
        self.add_module("act&", nn.ReLU())
        self.add_module("drop", nn.Dropout(0.5))
        self.add_module("out", nn.Linear(8, 2))


@pytest.fixture
def reports():
    model = Named()
    swap = swap_dropout(model, q=1.5, inplace=True)
    target = SparsityTarget(model, 0.9, every=1)
    with Probe(model) as probe:
        for _ in range(40):
            model(torch.randn(16, 4))
            target.step()
    before = probe.summary()
    with Probe(model.eval()) as evaluated:
        model(torch.randn(16, 4))
    return {
        "summary": before,
        "comparison": before.compare(before),
        "empty": evaluated.summary().compare(before),
        "target": target,
        "target report": target.report(),
        "swap": swap,
        "check": check_swap(model, torch.randn(2, 4)),
        "missed": check_swap(nn.Sequential(nn.Dropout(0.5)), torch.randn(2, 4)),
        "linear": schedule.Linear(model, 10, q=1.0),
        "warm-up": schedule.WarmUp(model, 10, p=0.0, q=2.0),
        "backends": sparseout.backends(),
    }


def words(html):
    return [unescape(text) for text in re.findall(r">([^<]+)<", html)]


def test_pages_are_well_formed_and_take_the_colours_around_them(reports):
    for name, report in reports.items():
        html = report._repr_html_()
        for tag in ("div", "table", "tr", "td", "th"):
            assert html.count(f"<{tag}>") + html.count(f"<{tag} ") == html.count(f"</{tag}>"), name
        assert "<b>" not in html
        assert "&amp;" in html or "act&" not in repr(report)
        assert "<script" not in html
        assert not re.search(r"(?<![-\w])(color|background-color)\b", html)


def test_a_page_has_all_cells_and_lines_of_the_text(reports):
    for name in ("summary", "comparison", "target report"):
        found = set(words(reports[name]._repr_html_()))
        for line in str(reports[name]).splitlines():
            assert set(re.split(r"  +", line)) <= found or line in found, (name, line)


def test_texts_are_short(reports):
    assert repr(reports["summary"]) == "Summary of Named: 2 records of 40 forward passes in train"
    assert repr(reports["comparison"]) == "Comparison of Named: 2 records on both sides"
    assert repr(reports["empty"]) == "Comparison of Named: 0 records on both sides, 2 only before, 2 only after"
    assert re.fullmatch(r"SparsityTarget after 40 steps: [01] of 1 target reached", repr(reports["target"]))
    assert repr(reports["linear"]) == "Linear schedule of q in 1 layer, after 0 of 10 steps"
    assert repr(reports["warm-up"]) == "WarmUp schedule of p and q in 1 layer, after 0 of 10 steps"
    assert repr(reports["target report"].layers[0]) == str(reports["target report"].layers[0])


def test_a_record_does_not_print_its_histogram():
    model = Named()
    with Probe(model, measures="all") as probe:
        model(torch.randn(16, 4))
    record = probe.summary().layers[0]
    assert record.histogram is not None
    assert "Histogram" not in repr(record)


def test_a_target_shows_the_table_and_the_advice_of_its_report(reports):
    own, report = (words(shown._repr_html_()) for shown in (reports["target"], reports["target"].report()))
    assert own[0] == f"{reports['target']!r}"
    assert own[0].endswith(report[0])
    assert own[1:] == report[1:]


def test_surgery_shows_each_layer_with_what_it_was_and_what_cannot_be_reached():
    model = nn.Sequential(nn.Dropout(0.1), nn.LSTM(4, 4, 2, dropout=0.2))
    found = words(swap_dropout(model, q=1.5)._repr_html_())
    assert found[:4] == ["1 swapped in a copy: use report.model, or pass inplace=True", "layer", "before", "swapped"]
    assert found[4:7] == ["0", "Dropout(p=0.1, inplace=False)", "Sparseout(p=0.1, q=1.5)"]
    assert found[7] == "not reached: 1: LSTM applies dropout between its layers inside a single call of torch"


def test_a_check_says_if_there_is_nothing_to_fix_or_no_layer(reports):
    assert words(reports["check"]._repr_html_()) == ["1 of 1 Sparseout layers ran", "nothing to fix"]
    found = words(reports["missed"]._repr_html_())
    assert found == ["0 of 0 Sparseout layers ran", "layer", "finding", "0", "still calls dropout with p=0.5"]


def test_a_schedule_shows_start_present_and_end_of_each_layer():
    model = Named()
    swap_dropout(model, q=2.0, inplace=True)
    linear = schedule.Linear(model, 4, q=1.0)
    linear.step()
    assert words(linear._repr_html_())[6:] == ["0", "q", "2", "1.75", "1"]


def test_numbers_are_aligned_to_the_right_and_text_to_the_left():
    html = page([], [("a", "b"), ("x", "1")], left=1)
    assert re.findall(r"text-align: (\w+)", html) == ["left", "right", "left", "right"]
    assert re.findall(r"text-align: (\w+)", page([], [("a", "b")])) == ["left", "left"]
    assert page([], []) == ""
