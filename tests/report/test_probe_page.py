"""The page of a probe in a real browser: it shows the values of the records, and follows the user's choices."""

import re

import pytest
import torch
from torch import nn

from sparseout import Probe
from sparseout.probe import MEASURE_TITLES, read_history
from sparseout.report import write_probe

HOSTILE = "<script>window['hacked']=1</script><b>&amp;"


def summary_of(seed=0, training=(True, False), measures="all"):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 8))
    model.add_module(HOSTILE, nn.Tanh())
    with Probe(model, measures=measures) as probe:
        for mode in training:
            model.train(mode)(torch.randn(50, 6))
    return probe.summary()


BEFORE, AFTER = summary_of(0), summary_of(1)
BASIC = summary_of(measures="basic", training=[True])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
    with Probe(model) as probe:
        for step in (1, 2, 3):
            model(torch.randn(5, 6))
            probe.log(step, folder / "history.jsonl")
    write_probe(BEFORE, folder / "probe.html", title=f"A title {HOSTILE}", history=read_history(folder / "history.jsonl"))
    write_probe(BEFORE.compare(AFTER), folder / "comparison.html")
    write_probe(BASIC, folder / "basic.html")
    return folder


def data_of(page, plot):
    return page.evaluate(f"drawAll(); document.getElementById('{plot}').data")


def text_of(page, plot, part="title"):
    return page.locator(f"#{plot}-{part}").inner_text()


def click(page, plot, x, y):
    """Click a point of a plot by its coordinates in the data."""
    place = page.evaluate(
        """([plot, x, y]) => {
            const div = document.getElementById(plot);
            div.scrollIntoView();
            drawAll();
            const { left, top } = div.getBoundingClientRect(), { xaxis, yaxis } = div._fullLayout;
            return [left + xaxis._offset + xaxis.c2p(x), top + yaxis._offset + yaxis.c2p(y)];
        }""",
        [plot, x, y],
    )
    page.mouse.move(*place)
    page.mouse.click(*place)


def near(values):
    """Values within the six digits that a page has."""
    return pytest.approx(values, rel=1e-5)


def in_mode(summary, mode="eval"):
    return [record for record in summary.layers if record.mode == mode]


def column(page, name):
    names = page.locator("table.sortable").first.locator("th").all_inner_texts()
    rows = page.locator("table.sortable").first.locator("tbody tr")
    return rows.locator(f"td:nth-child({names.index(name) + 1})").all_inner_texts()


def test_the_table_has_every_record(revisit, pages):
    page = revisit(pages / "probe.html")
    assert column(page, "layer") == [record.name for record in BEFORE.layers]
    assert column(page, "mode") == [record.mode for record in BEFORE.layers]
    assert column(page, "vectors") == [str(record.vectors) for record in BEFORE.layers]
    for name in MEASURE_TITLES:
        assert column(page, name) == [f"{getattr(record, name):.3g}" for record in BEFORE.layers]
    assert column(page, "|x| < 0.01 RMS") == [f"{record.near_zero_rms['0.01']:.3g}" for record in BEFORE.layers]


def test_the_measure_can_be_chosen(revisit, pages):
    page = revisit(pages / "probe.html")
    for measure in ("hoyer", "gini", "dead", "|x| < 0.1"):
        assert_measure(page, measure)


def assert_measure(page, measure):
    page.select_option("#measure", measure)
    shown = {layer: y for trace in data_of(page, "depth") for layer, y in zip(trace["x"], trace["y"], strict=True)}
    records = in_mode(BEFORE)
    assert [shown[i] for i in range(1, len(records) + 1)] == near([record.measures()[measure] for record in records])
    title = MEASURE_TITLES.get(measure, f"fraction of {measure}")
    assert text_of(page, "depth") == f"{title} by depth"
    values = sorted(record.measures()[measure] for record in records)
    spread = re.fullmatch(r"(.*): 3 values from (\S+) \(.*\) to (\S+) \(.*\)\.", text_of(page, "depth", "note"))
    assert spread[1] == title
    assert (float(spread[2]), float(spread[3])) == pytest.approx((values[0], values[-1]), rel=6e-3)
    assert page.locator("#depth").get_attribute("aria-label").startswith(f"{title} by depth: 3 values from ")


def test_the_mode_can_be_chosen(revisit, pages):
    page = revisit(pages / "probe.html")
    for mode in ("train", "eval"):
        page.select_option("#mode", mode)
        assert [y for trace in data_of(page, "depth") for y in trace["y"]] == near([r.hoyer for r in in_mode(BEFORE, mode)])


def assert_shows(page, record):
    assert text_of(page, "histogram") == f"{record.name}: magnitudes"
    (bars,) = data_of(page, "histogram")
    assert bars["x"] == list(record.histogram.edges)
    line, thresholds = data_of(page, "curve")
    assert line["x"] == list(record.histogram.edges)
    total = record.vectors * record.units
    assert line["y"][0] == pytest.approx(record.histogram.below / total)
    assert line["y"][-1] == pytest.approx((record.histogram.below + sum(record.histogram.counts)) / total)
    assert dict(zip(map(str, thresholds["x"]), thresholds["y"], strict=True)) == near(dict(record.near_zero))
    selected = page.locator("tr[aria-selected=true] td.name").all_inner_texts()
    assert selected == [record.name]


def test_a_layer_can_be_chosen_in_the_list_the_table_and_the_plots(revisit, pages):
    page = revisit(pages / "probe.html")
    relu, dropout, tanh = in_mode(BEFORE)
    assert_shows(page, relu)
    page.select_option("#layer", label=f"{tanh.name} (eval)")
    assert_shows(page, tanh)
    page.locator("tr", has_text="eval").filter(has_text="Dropout").click()
    assert_shows(page, dropout)
    click(page, "depth", 3, tanh.hoyer)
    assert_shows(page, tanh)
    click(page, "heat", page.locator("#measure option").evaluate_all("options => options.map((o) => o.value)").index("gini"), 0)
    assert_shows(page, relu)
    assert page.locator("#measure").input_value() == "gini"
    assert text_of(page, "depth") == "Gini index by depth"


def test_choosing_a_layer_of_the_other_mode_changes_the_mode(revisit, pages):
    page = revisit(pages / "probe.html")
    page.locator("tr", has_text="train").filter(has_text="Dropout").click()
    assert page.locator("#mode").input_value() == "train"
    assert_shows(page, in_mode(BEFORE, "train")[1])


def test_thresholds_in_rms(revisit, pages):
    page = revisit(pages / "probe.html")
    relu = in_mode(BEFORE)[0]
    page.check("#relative")
    line, thresholds = data_of(page, "curve")
    assert line["x"] == near([edge / relu.rms for edge in relu.histogram.edges])
    assert dict(zip(map(str, thresholds["x"]), thresholds["y"], strict=True)) == near(dict(relu.near_zero_rms))


def test_the_table_sorts(revisit, pages):
    page = revisit(pages / "basic.html")
    header = page.locator("th", has_text="hoyer")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, "hoyer") == [f"{v:.3g}" for v in sorted(record.hoyer for record in BASIC.layers)]
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, "hoyer") == [f"{v:.3g}" for v in sorted((r.hoyer for r in BASIC.layers), reverse=True)]
    page.locator("th", has_text="type").locator("button").click()
    assert column(page, "type") == sorted(record.type for record in BASIC.layers)
    assert header.get_attribute("aria-sort") is None


def test_missing_values_sort_last_in_either_order(visit, tmp_path):
    model = nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 4), nn.GELU())
    with Probe(model) as probe:
        model(torch.randn(5, 6))
    write_probe(probe.summary(), tmp_path / "page.html")
    page = visit(tmp_path / "page.html")
    for _ in range(2):
        page.locator("th", has_text="hoyer").locator("button").click()
        assert column(page, "hoyer")[-1] == "-"


def test_names_are_text(revisit, pages):
    page = revisit(pages / "probe.html")
    assert page.evaluate("window.hacked") is None
    assert page.title() == f"A title {HOSTILE}"
    assert page.locator("h1").inner_text() == f"A title {HOSTILE}"
    page.select_option("#layer", label=f"{HOSTILE} (eval)")
    assert text_of(page, "histogram") == f"{HOSTILE}: magnitudes"
    assert any(HOSTILE in label for label in page.locator("#heat .ytick text").all_text_contents())
    point = in_mode(BEFORE)[2]
    click(page, "depth", 3, point.hoyer)
    page.locator(".hovertext").first.wait_for()
    assert HOSTILE in page.locator(".hovertext").first.text_content()
    assert page.locator("main script, main b").count() == 0


def test_a_comparison_shows_both_sides_and_the_difference(revisit, pages):
    page = revisit(pages / "comparison.html")
    page.select_option("#measure", "gini")
    before, after = in_mode(BEFORE), in_mode(AFTER)
    traces = data_of(page, "depth")
    assert [trace["name"] for trace in traces][:3] == ["ReLU, before", "Dropout, before", "Tanh, before"]
    assert [y for trace in traces for y in trace["y"]] == near([record.gini for record in (*before, *after)])
    (bars,) = data_of(page, "change")
    assert bars["y"] == pytest.approx([new.gini - old.gini for old, new in zip(before, after, strict=True)], abs=1e-5)
    assert column(page, "gini") == [
        f"{old.gini:.3g} → {new.gini:.3g} ({new.gini - old.gini:+.2g})"
        for old, new in zip(BEFORE.layers, AFTER.layers, strict=True)
    ]
    page.locator("th", has_text="gini").locator("button").click()
    differences = [float(cell.split("(")[1][:-1]) for cell in column(page, "gini")]
    assert differences == sorted(differences)
    click(page, "change", 2, bars["y"][1] / 2)
    assert text_of(page, "histogram") == f"{before[1].name}: magnitudes"
    assert [trace["x"] for trace in data_of(page, "histogram")] == [list(r.histogram.edges) for r in (before[1], after[1])]
    rising = sum(new.hoyer > old.hoyer for old, new in zip(before, after, strict=True))
    finding = f"In eval mode, the Hoyer sparseness rises in {rising} and falls in {3 - rising} of 3 layers"
    assert finding in page.locator("main").inner_text()


def test_training_over_time(revisit, pages):
    page = revisit(pages / "probe.html")
    history = read_history(pages / "history.jsonl")
    (trace,) = data_of(page, "time")
    assert trace["x"] == [1, 2, 3]
    assert trace["y"] == [line["layers"][0]["hoyer"] for line in history]
    page.select_option("#measure", "gini")
    assert text_of(page, "time", "note") == "This measure was not recorded over training."


def test_basic_measures_have_no_histograms(revisit, pages):
    page = revisit(pages / "basic.html")
    assert page.locator("#histogram, #curve, #mode, #time, #change").count() == 0
    assert page.locator("#measure option").all_inner_texts() == [MEASURE_TITLES[name] for name in ("hoyer", "zeros", "rms")]


@pytest.mark.parametrize("name", ["probe.html", "comparison.html"])
def test_it_fits_a_phone(name, visit, pages):
    page = visit(pages / name, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for plot in page.locator(".js-plotly-plot").all():
        assert plot.bounding_box()["width"] <= 390


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_can_be_read_in_light_and_dark(scheme, revisit, pages):
    page = revisit(pages / "probe.html")
    page.emulate_media(color_scheme=scheme)
    background, text, label = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                  getComputedStyle(document.querySelector('#depth .xtick text')).fill]"""
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (background, text, label)]
    assert brightness[1] == brightness[2]
    assert abs(brightness[0] - brightness[1]) > 0.8
    assert (brightness[0] > 0.5) == (scheme == "light")


def test_on_paper_every_plot_fits_its_frame(visit, pages):
    page = visit(pages / "probe.html")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.add_style_tag(content="main { width: 700px }")
    for figure in page.locator(".plots figure").all():
        frame, area = figure.bounding_box(), figure.locator(".nsewdrag").first.bounding_box()
        assert frame["x"] < area["x"] < area["x"] + area["width"] < frame["x"] + frame["width"]
        assert area["width"] > 0.5 * frame["width"]
    assert not page.locator(".controls").is_visible()


def test_on_paper_a_table_fits_its_page(visit, pages):
    page = visit(pages / "comparison.html", viewport={"width": 1032, "height": 700})  # of A4, landscape, within its margins
    page.emulate_media(media="print")
    table = page.locator("table.sortable").bounding_box()
    assert table["x"] + table["width"] <= 1032
    assert page.locator("td.name").first.bounding_box()["width"] >= 7 * 16


def test_a_remark_on_both_sides_appears_once(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Identity())
    model.add_module("spare", nn.Tanh())
    model.forward = lambda x: model[1](model[0](x))

    def probed(passes):
        with Probe(model) as probe:
            for _ in range(passes):
                model(torch.randn(5, 6))
        return probe.summary()

    write_probe(probed(1).compare(probed(2)), tmp_path / "page.html")
    assert re.findall("<li>(.*?)</li>", (tmp_path / "page.html").read_text()) == [
        "not measured: spare: never called",
        "before: train: 1 of 1 forward passes measured",
        "after: train: 2 of 2 forward passes measured",
    ]


def test_every_plot_has_its_text(revisit, pages):
    page = revisit(pages / "comparison.html")
    labels = [plot.get_attribute("aria-label") for plot in page.locator("[role=img]").all()]
    assert len(labels) == 6
    assert all(labels)
    assert page.locator(".plots figcaption").count() == 6


def test_nothing_measured_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no layer to report"):
        write_probe(Probe(nn.Sequential(nn.ReLU())).summary(), tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
