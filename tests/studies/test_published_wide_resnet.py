"""The table of docs/results-wide-resnet.md is that of the records in `results/wide-resnet`.

`python tests/studies/test_published_wide_resnet.py` writes it into the page again after new runs.
"""

import statistics
from pathlib import Path

from page_tables import markdown, split

from sparseout.training.folders import read_lines

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results-wide-resnet.md"
RECORDS = read_lines(ROOT / "results" / "wide-resnet" / "results.jsonl")
PLACEMENTS = ("after-conv1", "before-conv2")
MEASURES = {"rms": ("RMS", 2), "hoyer": ("Hoyer", 3), "accuracy": ("accuracy", 3)}


def table():
    """A row for each q: means over the seeds in either place."""
    yield ["q", *(f"{title}, {placement}" for placement in PLACEMENTS for title, _ in MEASURES.values())]
    for q in sorted({record["q"] for record in RECORDS}):
        cells = []
        for placement in PLACEMENTS:
            runs = [record for record in RECORDS if (record["q"], record["placement"]) == (q, placement)]
            assert sorted(record["seed"] for record in runs) == [0, 1, 2]
            cells += [f"{statistics.fmean(run[name] for run in runs):.{digits}f}" for name, (_, digits) in MEASURES.items()]
        yield [f"{q:g}", *cells]


def parts():
    return split(PAGE, "results/wide-resnet", "end")


def test_the_page_has_the_table():
    assert parts()[1] == markdown([*table()])


if __name__ == "__main__":
    before, _, after = parts()
    PAGE.write_text(before + markdown([*table()]) + after)
