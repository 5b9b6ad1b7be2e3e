"""The tables of the pages on the studies in `results/questions`, and what the pages say of the best q.

`python tests/studies/test_published_questions.py` writes the tables into the pages again after new runs.
"""

import dataclasses
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
UP_TO_3, UP_TO_4, FEW = {1.0, 1.5, 2.0, 2.5, 3.0}, {1.0, 1.5, 2.0, 2.5, 3.0, 4.0}, {1.0, 2.0, 4.0}


@dataclasses.dataclass
class Asked:
    """A study: what it changes in one of the two on the main page, its values of q and its test seeds.

    `nn_dropout` is False if Sparseout with q = 2 is the Dropout of its gate. `at_end` are the contenders that the page names
    because the best epoch is the last one, with the number of these runs.
    """

    changed: str
    q: set[float]
    nn_dropout: bool = True
    at_end: dict[str, int] = dataclasses.field(default_factory=dict)
    seeds: range = range(5)


STUDIES = {
    "image": Asked("the main study", UP_TO_4, at_end={"sparseout, q 1": 2, "sparseout, q 1.5": 1}),
    "image-plain": Asked("scale 1", UP_TO_3, at_end={"sparseout, q 3": 1}),
    "image-exact": Asked("scale 1, exact gradient", UP_TO_3),
    "image-convolution": Asked("noise on the last convolution", FEW, nn_dropout=False, seeds=range(5, 10)),
    "image-5000": Asked("5,000 images", FEW, nn_dropout=False),
    "language": Asked("the main study", UP_TO_4, at_end={"sparseout, q 1": 1}),
    "language-ar": Asked("activation regularisation", FEW, nn_dropout=False),
}


def records_of(study):
    return read_lines(FOLDER / study / "results.jsonl")


def choice_of(study):
    return json.loads((FOLDER / study / "choice.json").read_text())


def compared_with_dropout(study):
    """The contenders of a study, and the comparison of each with Sparseout with q = 2, by its label."""
    groups = group_by_setting(records_of(study), tuned_settings(choice_of(study)))
    return groups, {comparison.label: comparison for comparison in compare_with_dropout(groups, "test_loss")}


def table(study):
    """A row for each contender: the chosen p, means with 95 % intervals, and the difference from Sparseout with q = 2."""
    groups, compared = compared_with_dropout(study)
    other = "perplexity" if study.startswith("language") else "accuracy"
    yield ["", "`p`", "test loss", other, "Hoyer sparseness", "test loss, difference from Dropout"]
    for group in groups:
        label = f"q = {group.x:g}" if group.axis else METHODS[group.regularizer].title
        cells = [interval(estimate(group.per_seed(measure))) for measure in ("test_loss", other, "hoyer")]
        difference = "reference" if group.x == 2 else interval(compared[label].difference, "+")
        yield [f"`{label}`" if group.axis else label, str(group.values.get("p", "")), *cells, difference]


def overview():
    """A row for each study: what it changes, its best q, and the difference from Dropout at its smallest and its largest q."""
    yield ["study", "changed", "values of `q`", "best `q`, test loss", "`q = 1` minus Dropout", "largest `q` minus Dropout"]
    for study, asked in STUDIES.items():
        _, compared = compared_with_dropout(study)
        scores, q = scores_by_seed([run for run in records_of(study) if run["regularizer"] == "sparseout"], "test_loss", study)
        best = optimum(scores, q, "low")
        ends = [interval(compared[f"q = {x:g}"].difference, "+") for x in (q[0], q[-1])]
        found = f"{best.value:.3g} ({best.low:.3g} to {best.high:.3g})"
        yield [f"`{study}`", asked.changed, ", ".join(f"{x:g}" for x in q), found, *ends]


def interval(found, sign=""):
    return f"{found.mean:{sign}.4g} ({found.low:{sign}.3g} to {found.high:{sign}.3g})"


def page_of(study):
    return MAIN if study in ("image", "language") else FACTORS


def parts(study):
    return split(page_of(study), f"results/questions/{study}", "end")


def test_every_study_is_on_a_page():
    assert set(STUDIES) == {path.parent.name for path in FOLDER.glob("*/results.jsonl")}


def test_the_page_has_the_overview():
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
    others = {("dropout", None), ("none", None)} if STUDIES[study].nn_dropout else {("none", None)}
    assert seeds.keys() == {*others, *(("sparseout", q) for q in STUDIES[study].q)}
    assert set(map(frozenset, seeds.values())) == {frozenset(STUDIES[study].seeds)}
    assert not any(contender["edges"] for contender in choice_of(study)["contenders"])


@pytest.mark.parametrize("study", STUDIES)
def test_the_best_epoch_is_the_last_one_only_where_the_page_says_so(study):
    at_end = {record["run"]: record["best_epoch"] == record["epochs"] for record in records_of(study)}
    last = {}
    for contender in choice_of(study)["contenders"]:
        last[contender["name"]] = contender["last_epoch"] + sum(at_end[run] for run in contender["runs"])
    assert {name: count for name, count in last.items() if count} == STUDIES[study].at_end


if __name__ == "__main__":
    for name, rows in {"": overview(), **{study: table(study) for study in STUDIES}}.items():
        before, _, after = parts(name)
        page_of(name).write_text(before + markdown([*rows]) + after)
