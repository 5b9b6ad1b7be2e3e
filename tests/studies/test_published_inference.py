"""The tables of docs/inference.md are those of the records in `results/`. `python tests/studies/test_published_inference.py`
writes them into the page again after new measurements."""

import csv
import json
from pathlib import Path

import pytest
from page_tables import markdown, split

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "inference.md"
LAYERS, RUNS = "results/bench/inference.csv", "results/inference/cash-in.jsonl"
TITLES = {
    "none": "none",
    "sparseout": "Sparseout",
    "l1": "L1 with reader",
    "hoyer_square": "HoyerSquare",
    "k_winners": "KWinners",
}


def layer_table():
    with (ROOT / LAYERS).open() as file:
        rows = [row for row in csv.DictReader(file) if row["width"] == "4096"]
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    lines = {}
    for row in rows:
        overlap = ", overlapping" if row["overlap"] == "True" else ""
        case = (row["batch"], f"{100 * float(row['zeros']):.0f} %{overlap}")
        lines.setdefault(case, {})[row["contender"]] = f"{float(row['speed']):.2g}"
    return [["batch", "zeros", *contenders], *([*case, *(found[name] for name in contenders)] for case, found in lines.items())]


def run_table():
    header = [
        "network",
        "method",
        "asked",
        "zeros",
        "test loss",
        "skip_zeros",
        "with bfloat16",
        "drop_dead",
        "both",
        "bound",
        "MB",
    ]
    rows = [header]
    for record in map(json.loads, (ROOT / RUNS).read_text().splitlines()):
        versions = record["versions"]
        names = ("skip_zeros", "skip_zeros, bfloat16", "drop_dead", "drop_dead, skip_zeros")
        speeds = [f"{versions[name]['speed']['cold']:.2f}x" for name in names]
        asked = "" if record["target"] is None else f"{100 * record['target']:.0f} %"
        loss, size = (
            versions["dense"]["test_loss"],
            f"{versions['dense']['megabytes']:.1f} to {versions['drop_dead']['megabytes']:.1f}",
        )
        zeros, bound = f"{100 * record['zeros']:.1f} %", f"{record['bound']['cold']:.2f}x"
        rows.append([record["model"], TITLES[record["method"]], asked, zeros, f"{loss:.4f}", *speeds, bound, size])
    return rows


FIGURES = {
    LAYERS: "Speed of a layer of 4096 x 4096 that skips zeros, for batch 1 and 8, relative to the best of torch",
    RUNS: "Test score, speed and size of two networks against the fraction of zeros, for several methods",
}
TABLES = {LAYERS: layer_table, RUNS: run_table}


def block(name):
    """The figure and the table of a file of records."""
    figure = Path(name).with_suffix(".png").as_posix()
    return f"![{FIGURES[name]}](../{figure})\n\n{markdown(TABLES[name]())}"


def shown(comment):
    return split(PAGE, comment, f"end of {comment}")


@pytest.mark.parametrize("comment", TABLES)
def test_a_table_has_the_numbers_of_its_records(comment):
    assert shown(comment)[1] == block(comment)


def test_the_records_have_their_provenance():
    for record in map(json.loads, (ROOT / RUNS).read_text().splitlines()):
        assert record["provenance"]["command"].startswith("python examples/cash_in.py")
        assert record["provenance"]["threads"] == 1
    found = json.loads((ROOT / "results" / "bench" / "inference-provenance.json").read_text())
    assert found["command"].startswith("sparseout bench")


if __name__ == "__main__":
    for name in TABLES:
        before, _, after = shown(name)
        PAGE.write_text(before + block(name) + after)
