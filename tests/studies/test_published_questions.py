"""The tables of the pages on the studies in `results/questions`, and what the pages say of the best q.

`python tests/studies/test_published_questions.py` writes the tables into the pages again after new runs.
"""

import json
from pathlib import Path

import pytest
from page_tables import markdown, split

from sparseout.cli.main import main
from sparseout.cli.optimum import scores_by_seed
from sparseout.records.choice import tuned_settings
from sparseout.records.methods import METHODS
from sparseout.report.optimum import optimum
from sparseout.report.settings import group_by_setting
from sparseout.report.statistics import compare_with_dropout, estimate
from sparseout.training.folders import read_lines

ROOT = Path(__file__).parents[2]
MAIN, FACTORS = ROOT / "docs" / "results-paper.md", ROOT / "docs" / "results-factors.md"
FOLDER = ROOT / "results" / "questions"
STUDIES = sorted(path.parent.name for path in FOLDER.glob("*/results.jsonl"))
UP_TO_3 = {1.0, 1.5, 2.0, 2.5, 3.0}
Q = {
    "image": UP_TO_3 | {4.0},
    "image-plain": UP_TO_3,
    "image-exact": UP_TO_3,
    "image-convolution": {1.0, 2.0, 4.0},
    "language": UP_TO_3 | {4.0},
    "language-ar": {1.0, 2.0, 4.0},
}
WITHOUT_NN_DROPOUT = {"image-convolution", "language-ar"}  # Sparseout with q = 2 is the Dropout of their gate
# The contenders that the page names because the best epoch is the last one, with the number of these runs.
LAST_EPOCH = {
    "image": {"sparseout, q 1": 2, "sparseout, q 1.5": 1},
    "image-plain": {"sparseout, q 3": 1},
    "image-convolution": {"sparseout, q 2": 1},
    "language": {"sparseout, q 1": 1},
}
CHANGED = {
    "image": "",
    "image-plain": "scale 1",
    "image-exact": "scale 1, exact gradient",
    "image-convolution": "noise on the last convolution",
    "image-5000": "5,000 images",
    "language": "",
    "language-ar": "activation regularisation",
    "language-word": "noise per word",
}


def records_of(study):
    return read_lines(FOLDER / study / "results.jsonl")


def choice_of(study):
    return json.loads((FOLDER / study / "choice.json").read_text())


def table(study):
    """A row for each contender: the chosen p, means with 95 % intervals, and the difference from Sparseout with q = 2."""
    groups = group_by_setting(records_of(study), tuned_settings(choice_of(study)))
    compared = {comparison.label: comparison for comparison in compare_with_dropout(groups, "test_loss")}
    other = "perplexity" if study.startswith("language") else "accuracy"
    yield ["", "`p`", "test loss", other, "Hoyer sparseness", "test loss, difference from Dropout"]
    for group in groups:
        label = f"q = {group.x:g}" if group.axis else METHODS[group.regularizer].title
        cells = [interval(estimate(group.per_seed(measure))) for measure in ("test_loss", other, "hoyer")]
        difference = "reference" if group.x == 2 else interval(compared[label].difference, "+")
        yield [f"`{label}`" if group.axis else label, str(group.values.get("p", "")), *cells, difference]


def overview():
    """A row for each study: what it changes, its best q, and the difference from Dropout at its smallest and its largest q."""
    yield ["study", "changed", "values of `q`", "best `q`, test loss", "`q = 1`, difference from Dropout", "largest `q`"]
    for study in (name for name in CHANGED if name in STUDIES):
        groups = group_by_setting(records_of(study), tuned_settings(choice_of(study)))
        compared = {comparison.label: comparison for comparison in compare_with_dropout(groups, "test_loss")}
        scores, q = scores_by_seed([run for run in records_of(study) if run["regularizer"] == "sparseout"], "test_loss", study)
        best = optimum(scores, q, "low")
        ends = [interval(compared[f"q = {x:g}"].difference, "+") for x in (q[0], q[-1])]
        found = f"{best.value:.3g} ({best.low:.3g} to {best.high:.3g})"
        yield [f"`{study}`", CHANGED[study] or "the main study", ", ".join(f"{x:g}" for x in q), found, *ends]


def interval(found, sign=""):
    return f"{found.mean:{sign}.4g} ({found.low:{sign}.3g} to {found.high:{sign}.3g})"


def page_of(study):
    return MAIN if study in ("image", "language") else FACTORS


def parts(study):
    return split(page_of(study), f"results/questions/{study}", "end")


def test_the_page_has_the_overview():
    assert set(CHANGED) >= set(STUDIES)
    assert parts("")[1] == markdown([*overview()])


@pytest.mark.parametrize("study", STUDIES)
def test_the_page_has_the_table(study):
    assert parts(study)[1] == markdown([*table(study)])


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("score", ["test_loss", "accuracy"])
def test_the_page_has_the_best_q(study, score, capsys):
    if score not in records_of(study)[0]:
        pytest.skip(f"the study has no {score}")
    assert main(["optimum", str(FOLDER / study), "--score", score]) == 0
    sentence = capsys.readouterr().out.partition(": ")[2].partition(";")[0]
    assert sentence in " ".join(page_of(study).read_text().split())


@pytest.mark.parametrize("study", STUDIES)
def test_the_commands_use_the_score_that_the_sweep_fixed(study, capsys):
    assert main(["optimum", str(FOLDER / study)]) == 0
    assert ": test loss is best at q = " in capsys.readouterr().out
    assert main(["results", str(FOLDER / study)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[2:4] == ["test", "loss"]


@pytest.mark.parametrize("study", STUDIES)
def test_five_seeds_of_each_contender_and_every_choice_inside_its_grid(study):
    seeds = {}
    for record in records_of(study):
        seeds.setdefault((record["regularizer"], record.get("q")), set()).add(record["seed"])
    others = {("none", None)} if study in WITHOUT_NN_DROPOUT else {("dropout", None), ("none", None)}
    assert seeds.keys() == {*others, *(("sparseout", q) for q in Q[study])}
    assert set(map(frozenset, seeds.values())) == {frozenset(range(5))}
    assert not any(contender["edges"] for contender in choice_of(study)["contenders"])


@pytest.mark.parametrize("study", STUDIES)
def test_the_best_epoch_is_the_last_one_only_where_the_page_says_so(study):
    at_end = {record["run"]: record["best_epoch"] == record["epochs"] for record in records_of(study)}
    last = {}
    for contender in choice_of(study)["contenders"]:
        last[contender["name"]] = contender["last_epoch"] + sum(at_end[run] for run in contender["runs"])
    assert {name: count for name, count in last.items() if count} == LAST_EPOCH.get(study, {})


if __name__ == "__main__":
    for name, rows in {"": overview(), **{study: table(study) for study in STUDIES}}.items():
        before, _, after = parts(name)
        page_of(name).write_text(before + markdown([*rows]) + after)
