"""The tables of docs/results-bench.md are those of the files in `results/bench`.

`python tests/studies/test_published_speed.py` writes them into the page again after a new benchmark.
"""

import csv
import functools
import json
import re
from pathlib import Path

import pytest
from page_tables import markdown, split

from sparseout.bench import op
from sparseout.bench.figure import label, size
from sparseout.bench.steps import CONSTANT
from sparseout.bench.whole_runs import differences
from sparseout.cli.bench import PARTS

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "results" / "bench"
PAGE = ROOT / "docs" / "results-bench.md"
TITLES = {"autoencoder": "autoencoder", "mlp": "MLP", "lstm": "LSTM", "wide_resnet": "Wide ResNet", "awd_lstm": "AWD-LSTM"}
NOISES = (("dropout", ""), (CONSTANT, ""), ("sparseout", "1.5"), ("sparseout", "2"))


@functools.cache
def rows_of(name):
    with (BENCH / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def spread(row, column, short, digits=2):
    """The median of three whole runs, and the lowest and the highest of them."""
    middle, low, high = (f"{float(row[name]):.{digits}f}" for name in (column, f"{short}_run_low", f"{short}_run_high"))
    return f"{middle} ({low} to {high})"


def name_of(contender, q):
    return label(contender, float(q) if q else None)


def op_rows(dtype):
    """Forward and backward in a dtype, with numbers where the differences of runs are."""
    rows = [row for row in rows_of("op") if (row["dtype"], row["pass"]) == (dtype, "both")]
    return [{name: float(value) if "_run_" in name and value else value for name, value in row.items()} for row in rows]


def table_of_the_op():
    """A row for each contender in float32: its time relative to `F.dropout` at each size; first, the time of `F.dropout`."""
    found = op_rows("float32")
    sizes = list(dict.fromkeys(row["elements"] for row in found))
    yield ["", *(size(int(elements)) for elements in sizes), "spread"]
    dropout = [row for row in found if row["contender"] == "F.dropout"]
    times = [f"{float(row['ns_per_element']):.1f}" for row in dropout]
    yield ["`F.dropout`, ns per element", *times, largest_spread(dropout, "ns")]
    for contender, q in dict.fromkeys((row["contender"], row["q"]) for row in found):
        if contender == "F.dropout" or (contender in ("authors", "expression", "compiled") and q != "1.7"):
            continue
        cells = {row["elements"]: row for row in found if (row["contender"], row["q"]) == (contender, q)}
        ratios = (ratio(cells.get(elements)) for elements in sizes)
        yield [name_of(contender, q), *ratios, largest_spread(cells.values(), "ratio")]


def largest_spread(rows, short):
    """How much higher a number is in the highest run than in the lowest, at most."""
    return f"{100 * max(differences(list(rows), short)):.0f} %"


def ratio(row):
    return f"{float(row['ratio_to_dropout']):.3f}" if row and row["rounds"] else ""


def table_of_other_dtypes():
    yield ["dtype", "`q`", *(size(elements) for elements in op.SIZES[:-1]), "spread"]
    for dtype in op.DTYPES:
        for q in ("1.7", "2") if dtype != "float32" else ():
            cells = {row["elements"]: row for row in op_rows(dtype) if (row["contender"], row["q"]) == ("sparseout", q)}
            ratios = (ratio(cells.get(str(elements))) for elements in op.SIZES[:-1])
            yield [dtype, q, *ratios, largest_spread(cells.values(), "ratio")]


def table_of_steps(file):
    rows = {(row["model"], row["noise"], row["q"]): row for row in rows_of(file)}
    yield ["model", "no noise, ms", *(name_of(*noise) for noise in NOISES)]
    for model in dict.fromkeys(model for model, _, _ in rows):
        none = f"{float(rows[model, 'none', '']['milliseconds']):.{1 if file == 'steps' else 0}f}"
        yield [TITLES[model], none, *(spread(rows[(model, *noise)], "ratio_to_none", "none") for noise in NOISES)]


def table_of_memory():
    rows = {(row["model"], row["noise"], row["q"]): row for file in ("steps", "awd_lstm") for row in rows_of(file)}
    noises = (("none", ""), *NOISES)
    yield ["model", *(name_of(*noise) for noise in noises)]
    for model in dict.fromkeys(model for model, _, _ in rows):
        yield [TITLES[model], *(f"{float(rows[(model, *noise)]['peak_mib']):.1f}" for noise in noises)]


def table_of_methods():
    yield ["step of", "method", "added, ms", "quartiles", "step, relative to none"]
    for row in rows_of("methods"):
        if row["case"].startswith("topk") or row["method"] == "none":
            continue
        added, low, high = (f"{float(row[key]):.2f}" for key in ("added_ms", "added_iqr_low", "added_iqr_high"))
        yield [row["case"], name_of(row["method"], row["q"]), added, f"{low} to {high}", spread(row, "ratio_to_first", "ratio")]


def table_of_targets():
    yield ["model", "time, relative to no target"]
    for row in rows_of("target"):
        if row["target"] == "target":
            yield [TITLES[row["model"]], spread(row, "ratio_to_none", "none", 3)]


def table_of_probes():
    rows = {(row["probe"], row["mode"]): row for row in rows_of("probe") if row["probe"] != "none"}
    yield ["probe", "training", "evaluation"]
    for probe in dict.fromkeys(probe for probe, _ in rows):
        yield [f"`{probe}`", *(spread(rows[probe, mode], "ratio_to_none", "none") for mode in ("train", "eval"))]


def table_of_fits():
    yield ["estimator", "seconds", "relative to scikit-learn"]
    for row in rows_of("glm"):
        cells = spread(row, "seconds", "seconds"), spread(row, "ratio_to_sklearn", "ratio")
        yield [name_of(row["estimator"], row["q"]), *cells]


def table_of_machines():
    """What each part was measured on. The parts of one `make bench` have one commit."""
    yield ["part", "CPU", "threads", "instructions", "torch", "commit"]
    for file in sorted(BENCH.glob("*-provenance.json")):
        found = json.loads(file.read_text())
        part = file.name.removesuffix("-provenance.json")
        values = (found["cpu"], found["threads"], found["instruction_set"], found["torch"], found["commit"])
        yield [f"`{part}`", *map(str, values)]


TABLES = {
    "op": table_of_the_op,
    "other dtypes": table_of_other_dtypes,
    "steps": lambda: table_of_steps("steps"),
    "awd_lstm": lambda: table_of_steps("awd_lstm"),
    "memory": table_of_memory,
    "methods": table_of_methods,
    "target": table_of_targets,
    "probe": table_of_probes,
    "glm": table_of_fits,
    "machines": table_of_machines,
}


def shown(name):
    return split(PAGE, f"results/bench, {name}", "end")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_numbers_of_its_file(name):
    assert shown(name)[1] == markdown([*TABLES[name]()])


@pytest.mark.parametrize("part", PARTS)
def test_a_file_has_the_columns_of_the_benchmark_and_three_runs(part):
    assert tuple(rows_of(part)[0]) == PARTS[part][0]
    command = json.loads((BENCH / f"{part}-provenance.json").read_text())["command"]
    assert command.endswith(" --runs 3")


def ratios(contender, elements):
    """The ratios of a contender to `F.dropout` in float32, for each of its q."""
    found = [row for row in op_rows("float32") if row["contender"] == contender and row["elements"] == str(elements)]
    return [float(row["ratio_to_dropout"]) for row in found]


def test_what_the_page_says_of_the_op():
    ours = ("sparseout", op.RMS, op.CHANNELS_LAST)
    for elements in op.SIZES[2:]:
        assert max(ratio for contender in ours for ratio in ratios(contender, elements)) < 0.1
    for elements in op.SIZES[-2:]:
        assert max(ratio for contender in ours for ratio in ratios(contender, elements)) < min(ratios("relu", elements))
    assert max(ratio for elements in op.SIZES for ratio in ratios("sparseout", elements)) < 1


def test_what_the_page_says_of_memory():
    for _, _, dropout, *ours in [*table_of_memory()][1:-1]:
        assert max(map(float, ours)) <= float(dropout)


def added(case, method, q=""):
    (found,) = (row for row in rows_of("methods") if (row["case"], row["method"], row["q"]) == (case, method, q))
    return float(found["added_ms"])


def test_sparseout_adds_less_than_any_other_method_that_draws_noise():
    for q in ("1.5", "2"):
        noise = [row for row in rows_of("methods") if re.match("Dropout|Standout|HardConcrete|Bridgeout|Shakeout", row["method"])]
        assert all(added(row["case"], "Sparseout", q) <= float(row["added_ms"]) for row in noise)
        assert added("linear", "Sparseout", q) <= added("linear", "Bridgeout, per sample", "1.5") / 5


def test_winners_cost_at_most_half_more_than_topk():
    ratios = {row["case"]: float(row["ratio_to_first"]) for row in rows_of("methods") if row["method"] == "k_winners"}
    assert 1 < max(ratios.values()) <= 1.3
    assert len(ratios) == 2
    assert f"takes up to {max(ratios.values()):.2f} times" in PAGE.read_text()


if __name__ == "__main__":
    for table in TABLES:
        before, _, after = shown(table)
        PAGE.write_text(before + markdown([*TABLES[table]()]) + after)
