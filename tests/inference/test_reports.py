"""The reports in a notebook say what they print, escaped and without colours."""

import re
from html import unescape

from torch import nn

from sparseout.inference import Dropped, DropReport, LayerSpeed, Refusal, SkipReport

LAYERS = (
    LayerSpeed("<decoder>", 2048, 1024, 8, 0.05, {1: 0.05, 8: 0.35}, cold=3.8, warm=9.9, max_batch=64),
    LayerSpeed("head", 32, 8, 8, 0.41, {1: 0.41}, cold=1.1, warm=1.1, reason="41 % active, 1.1x at batch 8: left dense"),
)
SKIP = SkipReport(nn.ReLU(), LAYERS, (Refusal("lstm", "recurrent layers are not supported"),), 2.0, 5.0, 2.4, 6.0, 0.25, 0.5)
DROP = DropReport(nn.ReLU(), (Dropped("a", "b&", 10, (1, 4), 160),), 1e-7, 2.5, 4, (Refusal("c", "not a chain"),), True)
EMPTY = SkipReport(nn.ReLU(), LAYERS[1:])


def words(html):
    return [unescape(text) for text in re.findall(r">([^<]+)<", html)]


def test_a_page_has_the_lines_and_the_cells_that_are_printed():
    for report, cells in ((SKIP, 16), (DROP, 6), (EMPTY, 0)):
        found = words(report._repr_html_())
        assert len(re.findall("<t[dh] ", report._repr_html_())) == cells
        printed = repr(report)
        if report is DROP:
            assert {"a -> b&", "2 of 10", "160"} <= set(found)
        else:
            assert all(text in printed for text in found)
        assert all(line in found for line in printed.splitlines() if "  " not in line and "->" not in line)


def test_names_are_escaped_and_no_colour_is_set_but_that_of_the_lines():
    for report in (SKIP, DROP):
        html = report._repr_html_()
        assert "<decoder>" not in html
        assert not re.search(r"(?<![-\w])color\b|background: (?!none)", html)
        assert html.count("<div") == html.count("</div>")


def test_reports_can_be_members_of_a_set():
    assert len({SKIP, DROP, EMPTY, *LAYERS, SKIP}) == 5


def test_the_printed_report_is_a_table():
    lines = repr(SKIP).splitlines()
    assert lines[0] == "1 of 2 linear layers skip zeros in a copy: use report.model"
    assert lines[3] == "the loss changes from 0.25 to 0.5 (+0.25)"
    assert lines[4].split("  ")[0] == "layer"
    assert lines[5].startswith("<decoder>  2048 x 1024  5 %     5 35")
    assert repr(DROP).splitlines() == [
        "2 units removed in a copy: use report.model",
        "a -> b&: 2 of 10 units not seen to fire in 160 samples",
        "outputs up to 2.5 change by at most 1e-07 on the held-out 4 batches",
        "c: not a chain",
    ]
