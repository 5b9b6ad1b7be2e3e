"""The tables of docs/results-methods.md are those of the records in `results/methods`.

`python tests/studies/test_published_methods.py` writes them into the page again after new runs.
"""

import json
import math
import statistics
from pathlib import Path

import pytest
from page_tables import markdown, split

from sparseout.records.methods import METHODS
from sparseout.records.scores import title_of
from sparseout.report.equal_sparsity import compare_at_equal_sparsity
from sparseout.report.methods import methods_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results-methods.md"
# The first score of a study is the one that was fixed beforehand.
SCORES = {"autoencoder": ["test_loss"], "image": ["test_loss", "accuracy"], "language": ["perplexity"]}


def records_of(study):
    return [json.loads(line) for line in (ROOT / "results" / "methods" / study / "results.jsonl").read_text().splitlines()]


def table(study, score):
    """A row for each method: its mean score at each target, and the difference from Sparseout at equal measured sparsity."""
    records = records_of(study)
    targets = sorted({record["target_sparsity"] for record in records if "target_sparsity" in record})
    shown = {method.name: method for method in methods_of(records)}
    compared = {(row.method, row.target): row for row in compare_at_equal_sparsity(records, score)}
    yield ["method", *(f"at {target:g}" for target in targets), "largest miss", "settled by"]
    for name, method in METHODS.items():
        runs = [record for record in records if record["regularizer"] == name]
        with_target = [record for record in runs if "control" in record]
        if not runs:
            continue
        if not with_target:
            sparsity = statistics.fmean(shown[name].sparsity(record, "hoyer") for record in runs)
            cell = f"{statistics.fmean(record[score] for record in runs):.4g} at {sparsity:.2f}"
            yield [method.title, cell, *[""] * (len(targets) + 1)]
            continue
        cells = []
        for target in targets:
            at_target = [record for record in with_target if record["target_sparsity"] == target]
            cells.append(cell_of(at_target, score, compared.get((method.title, target))))
        misses = [abs(record["control"]["achieved"] - record["target_sparsity"]) for record in with_target]
        settled = max(record["control"]["settled"] for record in with_target)
        yield [method.title, *cells, f"{max(misses):.3f}", f"{settled:.2f}"]


def cell_of(runs, score, row):
    if not runs:
        return "nothing eligible"
    mean = f"{statistics.fmean(record[score] for record in runs):.4g}"
    if row is None:
        return mean
    if math.isnan(row.difference.low):
        return f"{mean} (not compared)"
    interval = f"{row.difference.low:+.2g} to {row.difference.high:+.2g}"
    better = row.difference.low > 0 if row.better == "higher" else row.difference.high < 0
    return f"{mean} ({interval})" if not better else f"**{mean}** ({interval})"


def warnings(study):
    """What limits the comparison: settings at the edge of their grid, methods without a choice, and unfinished training."""
    choice = json.loads((ROOT / "results" / "methods" / study / "choice.json").read_text())
    edges, nothing = {}, []
    for contender in choice["contenders"]:
        name, _, level = contender["name"].partition(", target_sparsity ")
        edges.setdefault(METHODS[name].title, {}).update(dict.fromkeys(contender["edges"]))
        if contender["chosen"] is None:
            nothing.append(f"{METHODS[name].title} at {level}")
    listed = "; ".join(f"{title}: {', '.join(f'`{name}`' for name in names)}" for title, names in edges.items() if names)
    records = [record for record in records_of(study) if "best_epoch" in record]
    last = sum(record["best_epoch"] == record["epochs"] for record in records)
    return [
        *([f"A tuned setting lies at an end of its grid, so a wider grid may do better. {listed}."] if listed else []),
        *([f"No candidate reaches the target: {', '.join(nothing)}."] if nothing else []),
        *([f"The best epoch is the last one in {last} of {len(records)} runs: longer training may do better."] if last else []),
    ]


def block(study):
    first, *others = SCORES[study]
    text = markdown([*table(study, first)])
    for score in others:
        text += f"\nThe same runs by {title_of(score)}, which was not the score chosen beforehand:\n\n"
        text += markdown([row[:-2] for row in table(study, score)])
    remarks = warnings(study)
    return text + "".join(["\n", *(f"- {line}\n" for line in remarks)] if remarks else [])


def parts(study):
    return split(PAGE, f"results/methods/{study}", "end")


@pytest.mark.parametrize("study", SCORES)
def test_the_page_has_the_table(study):
    assert parts(study)[1] == block(study)


@pytest.mark.parametrize("study", SCORES)
def test_three_seeds_three_levels_and_eight_methods(study):
    records = records_of(study)
    assert len({record["target_sparsity"] for record in records if "control" in record}) == 3
    assert {record["seed"] for record in records} == {0, 1, 2}
    assert len({record["regularizer"] for record in records}) >= 8


@pytest.mark.parametrize("study", SCORES)
def test_what_a_run_achieved_is_the_mean_of_the_layers_of_its_target(study):
    for record in records_of(study):
        names = record.get("control", {}).get("layers", [])
        values = [record["layers"][name][record["target_measure"]] for name in names]
        assert not names or record["control"]["achieved"] == statistics.fmean(values)


if __name__ == "__main__":
    for study in SCORES:
        before, _, after = parts(study)
        PAGE.write_text(before + block(study) + after)
