"""The command `sparseout optimum`: the best q of a study with its interval, and the difference between two studies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sparseout.cli.results import filtered, read
from sparseout.errors import UserError
from sparseout.records.choice import read_choice, tuned_settings
from sparseout.records.files import check_writable
from sparseout.records.schema import Record
from sparseout.records.scores import SCORES, scores_of, title_of
from sparseout.report import statistics
from sparseout.report.optimum import Optimum, interaction, sentence
from sparseout.report.optimum import optimum as optimum_of
from sparseout.report.optimum_figure import Panel, write_optima
from sparseout.report.settings import group_by_setting, varying_names
from sparseout.runs.options import location
from sparseout.runs.progress import print_left_out, terminal


def optimum(
    folders: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR|URL [DIR|URL]")]],
    conditions: Annotated[tuple[str, ...], tyro.conf.arg(name="filter", metavar="NAME=VALUE ...")] = (),
    score: Annotated[str | None, tyro.conf.arg(metavar="|".join((*SCORES, "NAME")))] = None,
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """Print the q with the best score, with its 95 % interval over seeds. For two studies, also print their difference.

    Args:
        folders: one or two folders of studies whose runs have a fixed q; the difference is the second minus the first
        conditions: use only runs with these settings; commas separate several values of a setting
        score: result to optimise, NAME being a score of your own study; by default the score that a tuned sweep fixed, else
            NAME, else the first of these in the records
        figure: draw the scores, the optimum and its interval into this PNG file
    """
    console = terminal()
    check_writable({"--figure": figure})
    if not 1 <= len(folders) <= 2:
        raise UserError(f"optimum must have one or two folders, got {len(folders)}")
    found, panels = [], []
    for folder in folders:
        records, _, left_out = read(location(folder))
        print_left_out(left_out)
        choice = read_choice(location(folder))
        tuned = tuned_settings(choice)
        kept = filtered(records, conditions)
        used = [run for run in kept if run["regularizer"] == "sparseout" and "target_sparsity" not in run]
        if not used:
            raise UserError(f"{folder} has no complete run of Sparseout with a fixed q" + (" and --filter" if conditions else ""))
        name = score if score is not None else statistics.score_of(used, choice)
        scores, q = scores_by_seed(used, name, folder)
        try:
            best = optimum_of(scores, q, "high" if scores_of(used)[name] == "higher" else "low")
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from error
        found.append(best)
        references = _references(kept, name, tuned)
        panels.append(Panel(_task(used[0]), title_of(name), q, scores, best, references))
        console.print(f"{folder}: {sentence(best, title_of(name))}", soft_wrap=True)
        varied = varying_names(group_by_setting(used))
        if chosen := sorted(tuned.intersection(varied)):
            console.print(f"{folder}: {', '.join(chosen)} was tuned for each q.", soft_wrap=True)
        if others := [name for name in varied if name not in tuned]:
            console.print(f"{folder}: runs with different q also differ in {', '.join(others)}.", soft_wrap=True)
    if len(found) == 2:
        console.print(_difference_sentence(folders, found), soft_wrap=True)
    if figure:
        write_optima(panels, str(figure))
        console.print(f"Figure: {figure}", soft_wrap=True)


def scores_by_seed(records: Sequence[Record], score: str, folder: str) -> tuple[dict[int, list[float | None]], list[float]]:
    """Return the scores of each seed, one for each q (None without a run), and the values of q.

    Raises:
        UserError: no record has the score, or two runs have the same q and seed.
    """
    if score not in (have := statistics.recorded_scores(records)):
        raise UserError(f"score must be one of {', '.join(map(repr, have))} in {folder}, got {score!r}")
    runs: dict[tuple[int, float], Record] = {}
    for record in records:
        other = runs.setdefault((record["seed"], record["q"]), record)
        if other is not record:
            varied = ", ".join(varying_names(group_by_setting([other, record])))
            raise UserError(
                f"{folder} has several runs with q={record['q']:g} and seed={record['seed']}, which differ in {varied}: "
                "choose between them with --filter"
            )
    values: Mapping[tuple[int, float], float | None] = {key: record.get(score) for key, record in runs.items()}
    q = sorted({q for _, q in runs})
    return {seed: [values.get((seed, x)) for x in q] for seed in sorted({seed for seed, _ in runs})}, q


def _task(run: Record) -> str:
    return f"{run['study']} on {run['dataset']}" if "dataset" in run else str(run["study"])


def _references(records: Sequence[Record], score: str, tuned: frozenset[str]) -> dict[str, float]:
    """Return the mean score of `nn.Dropout` and of no noise, each if the study has it with one setting."""
    groups = group_by_setting([run for run in records if run["regularizer"] in ("dropout", "none")], tuned)
    of = {name: [group for group in groups if group.regularizer == name] for name in ("dropout", "none")}
    return {alone[0].title: alone[0].mean(score) for alone in of.values() if len(alone) == 1}


def _difference_sentence(folders: Sequence[str], found: Sequence[Optimum]) -> str:
    difference = interaction(found[1], found[0])
    text = f"{folders[1]} minus {folders[0]}: q differs by {difference.value:+.3g}"
    if math.isnan(difference.value):
        return f"{folders[1]} minus {folders[0]}: one of them has no optimum."
    if math.isnan(difference.low):
        return f"{text}: too few seeds for an interval."
    verdict = "includes" if difference.low <= 0 <= difference.high else "excludes"
    return f"{text}, 95 % interval {difference.low:+.3g} to {difference.high:+.3g}, which {verdict} zero."
