"""The page of a probe of 1, 2, 20 and 400 layers, with a dead layer, with NaN, and without values, in a real browser."""

import re

import pytest
import torch
from PIL import Image
from torch import nn

from sparseout import Probe
from sparseout.report import Excerpt, write_probe

SIZE = 5_000_000  # bytes
SECONDS = 2.0  # of processor time until what is seen first is drawn
SCREEN = {"width": 1280, "height": 900}


class Block(nn.Module):
    def __init__(self, width, fault):
        super().__init__()
        self.linear, self.activation, self.fault = nn.Linear(width, width), nn.ReLU(), fault

    def forward(self, x):
        x = 2 * self.linear(x)
        if self.fault == "nan":
            x = torch.cat([x[:1] * torch.nan, x[1:]])
        x = self.activation(x - 1e6 if self.fault == "dead" else x)
        return torch.where(torch.isfinite(x), x, 0) + (self.fault == "dead")


def summary_of(layers, faults=(), **options):
    torch.manual_seed(0)
    model = nn.ModuleDict({"blocks": nn.ModuleList(Block(16, dict(faults).get(i)) for i in range(layers)), "spare": nn.Dropout()})

    def forward(x):
        for block in model["blocks"]:
            x = block(x)
        return x

    model.forward = forward
    with Probe(model.eval(), **{"measures": "all", "samples": 3, **options}) as probe, torch.no_grad():
        for _ in range(2):
            model(torch.randn(20, 16))
    return probe.summary()


def excerpt(sample):
    return Excerpt("the word ", f"<b>{sample.sample}</b>", " in its context")


def image(sample):
    return Image.new("RGB", (200, 100), (sample.sample, 0, 0))


CASES = {
    "one": (summary_of(1), None),
    "two": (summary_of(2), image),
    "twenty": (summary_of(20), excerpt),
    "many": (summary_of(400), excerpt),
    "dead": (summary_of(20, {7: "dead"}), None),
    "nan": (summary_of(20, {5: "nan"}), None),
    "only nan": (summary_of(2, {0: "nan", 1: "nan"}, every=1), None),
    "basic": (summary_of(2, measures="basic", samples=0), None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, (summary, show) in CASES.items():
        write_probe(summary, folder / f"{name}.html", show=show)
    return folder


def data_of(page, plot):
    return page.evaluate(f"drawAll(); document.getElementById('{plot}').data")


def column(page, name):
    names = page.locator("table.sortable th").all_inner_texts()
    return page.locator(f"table.sortable tbody td:nth-child({names.index(name) + 1})").all_inner_texts()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_every_case_fits_its_screen(name, width, scheme, visit, folder):
    page = visit(folder / f"{name}.html", viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.title() == "ModuleDict"
    for part in page.locator("dl.verdict dt, dl.verdict dd, figure:visible").all():
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    # A plot that is shown has values.
    for plot in page.locator(".js-plotly-plot:visible").all():
        traces = plot.evaluate("div => div.data.map((trace) => (trace.z ? trace.z.flat() : [...trace.y]))")
        assert any(isinstance(value, (int, float)) for trace in traces for value in trace)


def test_a_page_of_400_layers_is_small(folder):
    assert (folder / "many.html").stat().st_size < SIZE


@pytest.mark.slow  # a time: tests beside it would add to it
def test_a_page_of_400_layers_opens_at_once(browser, folder):
    context = browser.new_context(viewport=SCREEN)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto((folder / "many.html").as_uri())
    page.locator("#depth .main-svg").first.wait_for()
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    context.close()
    assert 0 < metrics["TaskDuration"] < SECONDS


def test_plots_near_the_screen_are_drawn_first_and_the_others_later(browser, folder):
    page = browser.new_page(viewport=SCREEN)
    page.add_init_script("setTimeout = (run) => { window.later = run; }")  # nothing happens later unless the test says so
    page.goto((folder / "many.html").as_uri())
    page.locator("#depth .main-svg").first.wait_for()
    assert page.locator("#heat .main-svg").count() == 0
    height = page.evaluate("document.documentElement.scrollHeight")
    page.locator("#heat").scroll_into_view_if_needed()
    page.locator("#heat .main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollHeight") == height  # the page does not jump
    # A choice redraws what is seen now, and the rest later.
    page.evaluate("choose({ measure: 'rms' })")
    is_old = "document.getElementById('depth').layout.yaxis.title.text !== data.measures.rms"
    assert page.evaluate(is_old)
    page.evaluate("while (undrawn.size) later()")
    assert not page.evaluate(is_old)
    page.close()


def test_all_plots_are_in_print(browser, folder):
    page = browser.new_page(viewport=SCREEN)
    page.goto((folder / "many.html").as_uri())
    page.locator("#depth .main-svg").first.wait_for()
    page.pdf()
    assert page.locator("#heat .main-svg").count() > 0
    page.close()


def test_the_verdict_opens_the_page(visit, folder):
    page = visit(folder / "nan.html", viewport={"width": 1280, "height": 900})
    assert page.locator("dl.verdict dt").first.inner_text() == "Not finite"
    assert page.locator("dl.verdict dd").first.inner_text().startswith("blocks.5.activation has NaN or Inf in 2 of 40 vectors.")
    assert page.locator("main > *").nth(1).get_attribute("class") == "verdict"
    assert "spare: never called" in page.locator("dl.verdict").inner_text()
    assert page.locator(".meaning svg rect").count() == 24


def test_layers_with_a_problem_are_first_in_the_table_and_chosen(visit, folder):
    for name, layer, problem in (("nan", "blocks.5.activation", "NaN or Inf"), ("dead", "blocks.7.activation", "dead")):
        page = visit(folder / f"{name}.html")
        assert column(page, "layer")[:2] == [layer, "blocks.0.activation"]
        assert column(page, "problem") == [problem, *[""] * 19]
        assert page.locator("tr[aria-selected=true] td.name").all_inner_texts() == [layer]
        marked = data_of(page, "depth")[-1]
        assert (marked["name"], marked["x"]) == (problem if name == "nan" else "dead layer", [int(layer.split(".")[1]) + 1])


def test_the_measures_that_matter_most_come_first(visit, folder):
    page = visit(folder / "twenty.html", viewport={"width": 390, "height": 844})
    headers = page.locator("table.sortable th")
    assert headers.all_inner_texts()[:5] == ["layer", "hoyer", "zeros", "dead", "rms"]
    box = headers.nth(2).bounding_box()
    assert box["x"] + box["width"] <= 390


def test_names_break_after_their_dots_alone(visit, folder):
    page = visit(folder / "twenty.html", viewport={"width": 390, "height": 844})
    cell = page.locator("td.name").first
    assert cell.inner_html() == "blocks.<wbr>0.<wbr>activation"
    assert cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth")


def test_a_single_layer_has_no_plot_by_depth(visit, folder):
    page = visit(folder / "one.html")
    assert page.locator("#depth, #heat").count() == 0
    assert page.locator("#units").is_visible()


def test_constant_columns_are_neutral_and_every_column_has_its_name(visit, folder):
    page = visit(folder / "two.html", viewport={"width": 390, "height": 844})
    page.evaluate("data.sides[0].records.forEach((record) => (record.values.gini = 0.5)); update()")
    coloured, neutral = data_of(page, "heat")
    names = page.evaluate("Object.keys(data.measures)")
    at = names.index("gini")
    assert [row[at] for row in coloured["z"]] == [None, None]
    assert [row[at] for row in neutral["z"]] == [0, 0]
    assert neutral["text"][0][at].endswith("Gini index 0.5")
    labels = page.locator("#heat .xtick text, #heat .x2tick text").all_text_contents()
    assert labels == names
    assert page.locator("#heat .ytick text").all_text_contents() == ["0", "1"]


def test_units_and_the_samples_that_excite_them(visit, folder):
    summary, _ = CASES["twenty"]
    page = visit(folder / "twenty.html")
    page.select_option("#layer", label="blocks.3.activation")
    activity = summary["blocks.3.activation"].unit_activity
    fired = [unit for unit in (*activity.quietest, *activity.loudest) if unit.fired]
    buttons = page.locator("#unit-groups button")
    assert [label.split(":")[0] for label in buttons.all_inner_texts()] == [str(unit.unit) for unit in fired]
    if activity.dead:
        assert (
            ", ".join(str(unit.unit) for unit in activity.quietest if not unit.fired) in page.locator("#unit-groups").inner_text()
        )
    assert page.locator("#units-note").inner_text().startswith(f"{activity.dead} of 16 units never fired in 40 vectors")
    for unit in (fired[0], fired[-1]):
        page.locator("#unit-groups button", has_text=re.compile(f"^{unit.unit}:")).click()
        assert page.locator("#unit-groups button[aria-pressed=true]").inner_text().startswith(f"{unit.unit}:")
        cards = page.locator("#samples > div").all_inner_texts()
        assert len(cards) == len(unit.samples)
        for card, sample in zip(cards, unit.samples, strict=True):
            assert card.startswith(f"sample {sample.sample}: |x| = ")
            assert card.endswith(f"the word <b>{sample.sample}</b> in its context")
        assert page.locator("#samples mark").first.inner_text() == f"<b>{unit.samples[0].sample}</b>"
    assert page.locator("#samples b").count() == 0


def test_images_are_thumbnails(visit, folder):
    page = visit(folder / "two.html")
    sizes = page.locator("#samples img").evaluate_all("images => images.map((i) => [i.naturalWidth, i.naturalHeight])")
    assert sizes
    assert all(size == [56, 28] for size in sizes)


def test_samples_stop_at_the_budget_of_a_page(tmp_path):
    write_probe(CASES["twenty"][0], tmp_path / "page.html", show=lambda sample: Excerpt("x" * 100_000))
    assert (tmp_path / "page.html").read_text().count("x" * 100_000) == 10


def test_samples_that_were_not_recorded(visit, tmp_path):
    write_probe(summary_of(2, samples=0), tmp_path / "page.html")
    assert "Probe(model, samples=3) records them" in visit(tmp_path / "page.html").locator("#samples-title").inner_text()


def test_a_layer_without_values_has_no_empty_figure(visit, folder):
    page = visit(folder / "dead.html", viewport={"width": 390, "height": 900})
    assert page.locator("#histogram-note").inner_text().endswith("No value is finite and other than zero.")
    figure = page.locator("figure:has(#curve)")
    assert not figure.is_visible()
    page.locator("#layer").select_option(label="blocks.3.activation")
    assert figure.is_visible()
