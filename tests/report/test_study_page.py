"""Tables and pages show the values of the records."""

import io
import re

import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from sparseout import report
from sparseout.records.identity import unused_settings
from sparseout.report.settings import curves_of, describe_curve, group_by_setting
from sparseout.report.statistics import compare_with_dropout
from sparseout.report.study import write_page
from sparseout.report.table import settings_table


def record(q, seed, hoyer, **changes):
    unused = unused_settings(changes.get("regularizer", "sparseout"), "target_sparsity" in changes)
    layer = {"zero_vectors": 1, "vectors": 10, "profile": [1.0, 0.5, 0.0]}
    made = {
        "study": "autoencoder",
        "run": f"run{q}{seed}{changes.get('gradient')}{changes.get('regularizer')}",
        "q": q,
        "p": 0.5,
        "seed": seed,
        "gradient": "detached",
        "regularizer": "sparseout",
        "dataset": "digits",
        "test_loss": 0.25,
        "hoyer": hoyer,
        "zeros": 0.5,
        "rms": 1.0,
        "layers": {"noise": layer},
        "seconds": 2.0,
        "provenance": {"sparseout": "0.1.0", "torch": "2.6", "cpu": "a cpu", "date": "today", "command": "sparseout study"},
        **changes,
    }
    return {name: value for name, value in made.items() if name not in unused}


RECORDS = [record(q, seed, 1 / (1 + q) + seed / 100) for q in (3.0, 1.0, 2.0) for seed in (1, 0)]


def test_seeds_are_one_setting_and_settings_are_sorted():
    groups = group_by_setting(RECORDS)
    assert [setting.values["q"] for setting in groups] == [1.0, 2.0, 3.0]
    assert groups[0].per_seed("hoyer") == [0.5, 0.51]
    assert groups[0].mean("hoyer") == pytest.approx(0.505)
    assert groups[0].std("hoyer") == pytest.approx(0.01 / 2**0.5)


def test_the_table_has_means_and_the_standard_deviation():
    header, rows = settings_table(RECORDS)
    assert header == ["q", "seeds", "test loss", "Hoyer ± std", "zeros", "RMS", "seconds"]
    assert rows[0] == ["1", "2", "0.2500", "0.505 ± 0.007", "0.500", "1.000", "2.0"]


def test_one_seed_has_no_standard_deviation():
    assert settings_table([record(1.0, 0, 0.4)])[1][0][3] == "0.400"


def test_a_missing_number_is_a_dash():
    assert settings_table([record(1.0, 0, None)])[1][0][3] == "-"


def test_settings_that_vary_besides_q_distinguish_curves():
    exact = [record(q, 0, 0.4, gradient="exact") for q in (1.0, 2.0)]
    none = [record(2.0, 0, 0.2, regularizer="none", p=0.0)]
    curves = curves_of(group_by_setting([*RECORDS, *exact, *none]))
    assert [(curve.label, curve.axis, len(curve.settings)) for curve in curves] == [
        ("detached", "q", 3),
        ("exact", "q", 2),
        ("no noise", None, 1),
    ]
    assert [row[:2] for row in settings_table([*RECORDS, *none])[1]] == [
        ["1", "Sparseout"],
        ["2", "Sparseout"],
        ["3", "Sparseout"],
        ["-", "no noise"],
    ]


def test_settings_without_q_are_distinguished_too():
    none = [record(2.0, 0, 0.2, regularizer="none", p=0.0, hidden_size=size) for size in (64, 256)]
    sparse = [record(1.0, 0, 0.5, hidden_size=64)]
    assert [curve.label for curve in curves_of(group_by_setting([*sparse, *none]))] == [
        "Sparseout",
        "no noise, hidden_size 256",
        "no noise, hidden_size 64",
    ]


def targeted(target, seed, achieved, out_of_reach=False, **changes):
    course = {"value": [2.0, 1.5, 1.25], "measured": [0.5, 0.7, achieved or 0.0]}
    control = {
        "achieved": achieved,
        "dial": "q",
        "value": 1.25,
        "settled": 0.3 + seed / 10,
        "out_of_reach": out_of_reach,
        "course": course,
    }
    settings = {"target_sparsity": target, "target_measure": "hoyer", "target_q_min": 0.3, "target_q_max": 4.0}
    run = f"target{target}{seed}"
    return record(2.0, seed, achieved, run=run, control=control, **settings, **changes)


TARGETED = [targeted(target, seed, target + (seed - 0.5) / 100) for target in (0.6, 0.4) for seed in (0, 1)]


def test_runs_with_targets_are_a_curve_of_their_own():
    (curve,) = curves_of(group_by_setting(TARGETED))
    assert (curve.label, curve.axis, curve.x) == ("Sparseout", "target_sparsity", [0.4, 0.6])
    fixed, curve = curves_of(group_by_setting([*RECORDS, *TARGETED]))
    assert (fixed.label, fixed.axis, fixed.x) == ("Sparseout", "q", [1.0, 2.0, 3.0])
    assert (curve.label, curve.axis, curve.x) == ("with a target", "target_sparsity", [0.4, 0.6])
    measured = "Hoyer sparseness on the test data is within 0.005 of the targets from 0.4 to 0.6"
    assert describe_curve(curve) == f"with a target: {measured}, 4 runs."


def test_a_scale_that_older_records_lack_distinguishes_curves():
    curves = curves_of(group_by_setting([*RECORDS, *(record(q, 0, 0.5, scale="rms") for q in (1.0, 2.0))]))
    assert [(curve.label, curve.x) for curve in curves] == [("scale rms", [1.0, 2.0]), ("scale 1", [1.0, 2.0, 3.0])]
    found = compare_with_dropout(
        group_by_setting([*RECORDS, *(record(q, s, 0.5, scale="rms") for q in (1.0, 2.0) for s in (0, 1))]), "test_loss"
    )
    assert [each.label for each in found] == ["q = 1 (scale rms)", "q = 1 (scale 1)", "q = 3 (scale 1)"]


def test_a_target_out_of_reach_is_counted():
    (curve,) = curves_of(group_by_setting([targeted(0.6, 0, 0.6), targeted(0.9, 0, 0.7, out_of_reach=True)]))
    assert describe_curve(curve).endswith("within 0.200 of the targets from 0.6 to 0.9, 2 runs, 1 of them out of reach.")
    (curve,) = curves_of(group_by_setting([targeted(0.6, 0, None)]))
    assert describe_curve(curve) == "Sparseout: sparsity was not measured for the target 0.6."


def test_the_table_of_runs_with_targets():
    header, rows = settings_table(TARGETED)
    assert (header[0], header[-2:]) == ("target sparsity", ["largest error", "settling time"])
    assert [(row[0], row[-2:]) for row in rows] == [("0.4", ["0.005", "0.40"]), ("0.6", ["0.005", "0.40"])]
    header, rows = settings_table([*RECORDS, *TARGETED])
    assert header[0] == "q"
    assert [(row[0], row[-1]) for row in rows] == [
        ("1", "-"),
        ("2", "-"),
        ("3", "-"),
        ("target 0.4", "0.40"),
        ("target 0.6", "0.40"),
    ]


def test_targets_are_compared_with_dropout_and_are_never_it():
    assert compare_with_dropout(group_by_setting(TARGETED), "test_loss") == []
    found = compare_with_dropout(group_by_setting([*RECORDS, *TARGETED]), "test_loss")
    assert [comparison.label for comparison in found] == ["q = 1", "q = 3", "target 0.4", "target 0.6"]


@pytest.mark.parametrize(
    "records", [TARGETED, [*RECORDS, *TARGETED], [targeted(0.5, 0, None)]], ids=["targets", "both", "nothing"]
)
def test_the_figure_and_the_page_of_runs_with_targets(records, tmp_path, visit):
    losses = [{"epoch": i, "train_loss": 1 / i, "valid_loss": 2 / i, "hoyer": 0.5, "q": 2.0} for i in (1, 2, 3)]
    report.write(records, {record["run"]: losses for record in records}, tmp_path)
    with Image.open(tmp_path / "sparsity.png") as image:
        assert image.size == (2080, 1216)
    page = visit(tmp_path / "report.html")
    axis = "q" if len(records) > 4 else "target sparsity"
    assert page.locator("#against-title").inner_text() == f"Hoyer sparseness against {axis}"
    # A curve is drawn against its own axis alone, and all against sparseness.
    for plot in ("score", "against"):
        shown = page.evaluate("plot => document.getElementById(plot).data.map((trace) => trace.visible)", plot)
        assert shown == ([True, False] if axis == "q" else [True])
    assert page.evaluate("() => document.getElementById('tradeoff').data.length") == 2 * len(curves_of(group_by_setting(records)))
    names = page.locator("h2:text('Settings shared by all runs with a target') + * dt").all_inner_texts()
    assert names == ["target_measure", "target_q_min", "target_q_max"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_table_has_whole_names_at_any_width(width):
    none = [{**record(2.0, seed, 0.4), "regularizer": "none"} for seed in (0, 1)]
    records = [*RECORDS, *TARGETED, *none]
    stream = io.StringIO()
    Console(file=stream, width=width).print(report.table(records))
    text = stream.getvalue()
    header, rows = settings_table(records)
    assert max(map(len, text.splitlines())) <= width
    assert all(row[header.index("setting")] in text for row in rows)
    assert "Hoyer ± std" in text
    assert ("left out, as the terminal is narrow: seconds" in text) == (width < 200)
    assert "…" not in text


def test_the_finding_says_whether_sparseness_decreases():
    (curve,) = curves_of(group_by_setting(RECORDS))
    assert describe_curve(curve) == (
        "Sparseout: Hoyer sparseness decreases strictly with q, from 0.505 at q = 1 to 0.255 at q = 3."
    )
    (curve,) = curves_of(group_by_setting([record(1.0, 0, 0.4), record(2.0, 0, 0.5), record(3.0, 0, 0.3)]))
    assert "does not decrease monotonically with q" in describe_curve(curve)


HISTORIES = {record["run"]: [{"epoch": epoch, "hoyer": record["hoyer"] / epoch} for epoch in (1, 2)] for record in RECORDS}


def test_the_figure_and_the_page(tmp_path):
    report.write(RECORDS, HISTORIES, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "sparsity.png"]
    with Image.open(tmp_path / "sparsity.png") as image:
        assert image.width > 1500
    page = (tmp_path / "report.html").read_text()
    assert "0.505 ± 0.007" in page
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)', page)


@pytest.mark.parametrize(("score", "title"), [("accuracy", "Accuracy"), ("perplexity", "Perplexity"), ("test_loss", "Test loss")])
def test_the_figure_shows_the_studys_score(score, title, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: shown.append(figure.axes[-1]))
    report.write([record(q, 0, 0.5, **{score: 7 * q}) for q in (1.0, 3.0)], {}, tmp_path)
    assert shown[0].get_title(loc="left") == title
    assert list(shown[0].lines[0].get_ydata()) == [7, 21]


def test_names_are_data(tmp_path):
    report.write([record(1.0, 0, 0.4, dataset="<script>alert(1)</script>")], {}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_no_runs_leave_an_empty_report(tmp_path, visit):
    report.write([], {}, tmp_path)
    assert visit(tmp_path / "report.html").locator("h1").inner_text() == "Sparseout study: no runs"


EXACT = [record(q, seed, q / 10, gradient="exact", test_loss=0.1 * q) for q in (1.0, 2.0, 3.0) for seed in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_page([*RECORDS, *EXACT, record(2.0, 0, 0.2, regularizer="none", p=0.0)], HISTORIES, folder / "report.html")
    return folder


@pytest.fixture
def page(folder, revisit):
    return revisit(folder / "report.html")


def data_of(page, plot):
    return page.evaluate(f"drawAll(); document.getElementById('{plot}').data")


def test_the_chosen_measure_against_q(page):
    detached, exact, none = data_of(page, "against")
    assert (detached["name"], detached["x"], detached["y"]) == (
        "detached",
        [1, 2, 3],
        pytest.approx([0.505, 1 / 3 + 0.005, 0.255]),
    )
    assert detached["error_y"]["array"] == pytest.approx([0.01 / 2**0.5] * 3)
    assert (none["name"], none["y"]) == ("no noise", [0.2, 0.2])
    page.select_option("#measure", "test_loss")
    _, exact, _ = data_of(page, "against")
    assert exact["y"] == pytest.approx([0.1, 0.2, 0.3])
    assert page.locator("#against-title").inner_text() == "test loss against q"


def test_the_chosen_setting_stands_out(page):
    page.locator("tr[data-layer]").nth(1).click()
    assert page.locator("#setting").input_value() == "1"
    lines = data_of(page, "time")
    assert [line["name"] for line in lines] == ["q 1", "q 2", "q 3", "no noise"]
    assert [line["line"]["width"] for line in lines] == [1.6, 4, 1.6, 1.6]
    assert lines[1]["y"] == pytest.approx([1 / 3, 1 / 6])
    page.select_option("#setting", label="q 3, exact")
    assert page.locator("#profile-title").inner_text() == "Activity by rank of the unit: exact"
    assert [line["y"] for line in data_of(page, "profile")] == [[1.0, 0.5, 0.0]] * 4


def test_a_click_on_a_run_leads_to_its_row(folder, visit):
    page = visit(folder / "report.html", viewport={"width": 1280, "height": 500})
    curve, place = 3, 1  # after the three curves of means, the first curve's second run
    run = data_of(page, "tradeoff")[curve]["customdata"][place]
    row = page.locator(f"tr[id='run-{run}']")
    page.locator("#tradeoff").scroll_into_view_if_needed()
    assert not is_in_view(row)
    click_on_point(page, "tradeoff", curve, place)
    assert is_in_view(row)
    assert row.get_attribute("aria-selected") == "true"
    assert page.locator("tr[id][aria-selected]").count() == 1


def is_in_view(locator):
    return locator.evaluate("row => row.getBoundingClientRect().top >= 0 && row.getBoundingClientRect().bottom <= innerHeight")


def click_on_point(page, plot, curve, place):
    """A click of the mouse where the plot has drawn a point."""
    script = """([id, curve, place]) => {
        drawAll();
        const plot = document.getElementById(id), { x, y } = plot.data[curve];
        const { xaxis, yaxis } = plot._fullLayout, { left, top } = plot.getBoundingClientRect();
        return [left + xaxis._offset + xaxis.l2p(x[place]), top + yaxis._offset + yaxis.l2p(y[place])];
    }"""
    position = page.evaluate(script, [plot, curve, place])
    page.mouse.move(*position)
    page.mouse.click(*position)


def test_the_settings_and_the_runs_sort(page):
    *_, settings, runs = page.locator("table.sortable").all()
    button = settings.locator("th", has_text="Hoyer").locator("button")
    button.click()
    hoyer = settings.locator("tbody tr td:nth-child(5)").all_inner_texts()
    assert [float(cell.split(" ")[0]) for cell in hoyer] == sorted(float(cell.split(" ")[0]) for cell in hoyer)
    runs.locator("th", has_text="seed").locator("button").click()
    seeds = runs.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert seeds == sorted(seeds)
    assert len(seeds) == 13


def test_several_layers_are_shown_by_depth(tmp_path, visit):
    records = [
        record(
            q, 0, 0.4, layers={name: {"hoyer": q / place, "zero_vectors": 0, "vectors": 9} for place, name in enumerate("abc", 1)}
        )
        for q in (1.0, 2.0)
    ]
    write_page(records, {}, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    first, second = data_of(page, "depth")
    assert (first["x"], first["y"], second["y"]) == (["a", "b", "c"], [1, 1 / 2, 1 / 3], [2, 1, 2 / 3])
    page.select_option("#measure", "test_loss")
    assert page.locator("#depth-note").inner_text() == "This measure is not available by layer."


def test_it_fits_a_phone(folder, visit):
    page = visit(folder / "report.html", viewport={"width": 390, "height": 844}, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
