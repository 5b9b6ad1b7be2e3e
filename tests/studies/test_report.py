"""Tables and pages say what the records say."""

import re

import pytest
from PIL import Image

from sparseout import report
from sparseout.report.settings import finding, series, settings
from sparseout.report.table import cells


def record(q, seed, hoyer, **changes):
    layer = {"zero_vectors": 1, "vectors": 10, "profile": [1.0, 0.5, 0.0]}
    return {
        "study": "autoencoder",
        "run": f"run{q}{seed}{changes.get('gradient')}{changes.get('noise')}",
        "q": q,
        "p": 0.5,
        "seed": seed,
        "gradient": "detached",
        "noise": "sparseout",
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


RECORDS = [record(q, seed, 1 / (1 + q) + seed / 100) for q in (3.0, 1.0, 2.0) for seed in (1, 0)]


def test_seeds_are_one_setting_and_settings_are_sorted():
    groups = settings(RECORDS)
    assert [setting.values["q"] for setting in groups] == [1.0, 2.0, 3.0]
    assert groups[0].each("hoyer") == [0.5, 0.51]
    assert groups[0].mean("hoyer") == pytest.approx(0.505)
    assert groups[0].std("hoyer") == pytest.approx(0.01 / 2**0.5)


def test_the_table_has_means_and_the_standard_deviation():
    header, rows = cells(RECORDS)
    assert header == ["q", "seeds", "test loss", "Hoyer ± std", "zeros", "RMS", "seconds"]
    assert rows[0] == ["1", "2", "0.2500", "0.505 ± 0.007", "0.500", "1.000", "2.0"]


def test_one_seed_has_no_standard_deviation():
    assert cells([record(1.0, 0, 0.4)])[1][0][3] == "0.400"


def test_a_missing_number_is_a_dash():
    assert cells([record(1.0, 0, None)])[1][0][3] == "-"


def test_what_varies_beside_q_sets_curves_apart():
    exact = [record(q, 0, 0.4, gradient="exact") for q in (1.0, 2.0)]
    none = [record(2.0, 0, 0.2, noise="none", p=0.0)]
    curves = series(settings([*RECORDS, *exact, *none]))
    assert [(curve.label, curve.has_q, len(curve.settings)) for curve in curves] == [
        ("detached", True, 3),
        ("exact", True, 2),
        ("no noise", False, 1),
    ]
    assert [row[:2] for row in cells([*RECORDS, *none])[1]] == [
        ["1", "Sparseout"],
        ["2", "Sparseout"],
        ["3", "Sparseout"],
        ["-", "no noise"],
    ]


def test_settings_without_q_are_told_apart_too():
    none = [record(2.0, 0, 0.2, noise="none", p=0.0, hidden=hidden) for hidden in (64, 256)]
    sparse = [record(1.0, 0, 0.5, hidden=64)]
    assert [curve.label for curve in series(settings([*sparse, *none]))] == [
        "Sparseout",
        "no noise, hidden 256",
        "no noise, hidden 64",
    ]


def test_the_finding_says_whether_sparseness_falls():
    (curve,) = series(settings(RECORDS))
    assert finding(curve) == ("Sparseout: Hoyer sparseness falls strictly with q, from 0.505 at q = 1 to 0.255 at q = 3.")
    (curve,) = series(settings([record(1.0, 0, 0.4), record(2.0, 0, 0.5), record(3.0, 0, 0.3)]))
    assert "does not fall monotonically with q" in finding(curve)


def test_the_figure_and_the_page(tmp_path):
    histories = {RECORDS[0]["run"]: [{"epoch": 1, "hoyer": 0.5}, {"epoch": 2, "hoyer": 0.4}]}
    report.write(RECORDS, histories, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "sparsity.png"]
    with Image.open(tmp_path / "sparsity.png") as image:
        assert image.width > 1500
    page = (tmp_path / "report.html").read_text()
    assert "0.505 ± 0.007" in page
    assert page.count('class="plotly-graph-div"') == 6
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)', page)


def test_names_are_data(tmp_path):
    report.write([record(1.0, 0, 0.4, dataset="<script>alert(1)</script>")], {}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_no_runs_leave_an_empty_report(tmp_path):
    report.write([], {}, tmp_path)
    assert (tmp_path / "report.html").exists()
