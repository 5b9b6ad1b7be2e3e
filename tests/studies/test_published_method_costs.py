"""The table of what each method adds to a training step is that of `results/bench/methods.csv`.

`python tests/studies/test_published_method_costs.py` writes it into the page again after a new benchmark.
"""

import csv
import re
from pathlib import Path

from page_tables import markdown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results-bench.md"
BLOCK = re.compile(r"<!-- results/bench/methods\.csv -->\n(\|[^\n]*\n)*")


def rows():
    with (ROOT / "results" / "bench" / "methods.csv").open() as file:
        return list(csv.DictReader(file))


def block():
    table = [["step of", "method", "added, ms", "quartiles", "step, relative to none"]]
    for row in rows():
        if row["case"].startswith("topk") or row["method"] == "none":
            continue
        name = f"{row['method']}, q = {row['q']}" if row["q"] else row["method"]
        added, low, high = (f"{float(row[key]):.2f}" for key in ("added_ms", "added_iqr_low", "added_iqr_high"))
        table.append([row["case"], name, added, f"{low} to {high}", f"{float(row['ratio_to_first']):.2f}"])
    return "<!-- results/bench/methods.csv -->\n" + markdown(table)


def test_the_page_has_the_table():
    assert BLOCK.search(PAGE.read_text())[0] == block()


def added(case, method, q=""):
    (found,) = (row for row in rows() if (row["case"], row["method"], row["q"]) == (case, method, q))
    return float(found["added_ms"])


def test_sparseout_adds_less_than_any_other_method_that_draws_noise():
    for q in ("1.5", "2"):
        noise = [row for row in rows() if re.match("Dropout|Standout|HardConcrete|Bridgeout|Shakeout", row["method"])]
        assert all(added(row["case"], "Sparseout", q) <= float(row["added_ms"]) for row in noise)
        assert added("linear", "Sparseout", q) <= added("linear", "Bridgeout, per sample", "1.5") / 5


def test_winners_cost_at_most_half_more_than_topk():
    ratios = {row["case"]: float(row["ratio_to_first"]) for row in rows() if row["method"] == "k_winners"}
    assert 1 < max(ratios.values()) <= 1.3
    assert len(ratios) == 2


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: block(), PAGE.read_text()))
