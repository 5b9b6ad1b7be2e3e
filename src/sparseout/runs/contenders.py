"""The contenders of a tuned sweep, their candidates, and the candidate that the records of the tuning runs choose."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.errors import UserError
from sparseout.metrics import TOLERANCE
from sparseout.records.choice import REGULARIZER, better_of
from sparseout.records.schema import Record
from sparseout.records.scores import Better
from sparseout.training.config import Config
from sparseout.training.study import MAX_RUNS, Study

Axes = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Contender:
    """A combination of the settings that are not tuned.

    Attributes:
        name: the settings that distinguish it from the other contenders.
        candidates: its runs with the first tuning seed, each a candidate. Candidates with equal runs are one.
        tuned: the names of its tuned settings.
        effort: the number of candidates before equal runs were merged.
    """

    name: str
    candidates: tuple[Config, ...]
    tuned: tuple[str, ...]
    effort: int

    def settings(self, candidate: Config) -> dict[str, Any]:
        """Return the tuned settings of a candidate that have an effect."""
        return {name: getattr(candidate, name) for name in self.tuned if name not in candidate.unused()}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The tune stage of a sweep, and the test stage that it decides.

    Attributes:
        score: the score on validation data by which a candidate is chosen.
        seeds: the seeds of the tuning runs.
        test_seeds: the seeds of the test runs; none of them is a tuning seed.
        contenders: all contenders.
        gate: the score of the gate; None without one.
        better: whether a higher or a lower score is better, for a score of a user's study; None for any other.
        gate_pairs: the contenders that the gate compares: indices of Dropout and of no noise.
    """

    score: str
    seeds: tuple[int, ...]
    test_seeds: tuple[int, ...]
    contenders: tuple[Contender, ...]
    gate: str | None = None
    gate_pairs: tuple[tuple[int, int], ...] = ()
    better: Better | None = None

    @property
    def configs(self) -> list[Config]:
        """The tuning runs of all contenders."""
        return [run for contender in self.contenders for each in contender.candidates for run in with_seeds(each, self.seeds)]

    @property
    def possible_tests(self) -> list[Config]:
        """The test runs of every candidate. Those of the chosen ones are made."""
        return [
            run for contender in self.contenders for each in contender.candidates for run in with_seeds(each, self.test_seeds)
        ]

    def chosen_tests(self, choice: Record) -> list[Config]:
        """Return the test runs of the candidates that `choice` names."""
        chosen = [(contender, found["chosen"]) for contender, found in zip(self.contenders, choice["contenders"], strict=True)]
        candidates = [contender.candidates[index] for contender, index in chosen if index is not None]
        return [run for candidate in candidates for run in with_seeds(candidate, self.test_seeds)]

    def choose(self, records: Mapping[str, Record]) -> Record:
        """Return the choice: for each contender the candidate with the best mean score over the tuning seeds.

        Of equal candidates it is the first. A candidate with a score that is not finite is not eligible, nor is one that missed
        its target sparsity in a run. A contender has no choice until all its tuning runs are complete.

        Args:
            records: the summaries of the tuning runs, by run.

        Raises:
            UserError: a record lacks the score.
        """
        gate = {"score": self.gate, "pairs": self.gate_pairs} if self.gate else None
        contenders = [self._chosen(contender, records) for contender in self.contenders]
        own = {"better": self.better} if self.better else {}
        return {"score": self.score, "seeds": self.seeds, "contenders": contenders, "gate": gate, **own}

    def _chosen(self, contender: Contender, records: Mapping[str, Record]) -> Record:
        candidates = [self._scored(contender, candidate, records) for candidate in contender.candidates]
        missing = sum(run not in records for candidate in candidates for run in candidate["runs"])
        sign = -1 if better_of({"score": self.score, "better": self.better}) == "higher" else 1
        eligible = [i for i, candidate in enumerate(candidates) if candidate["mean"] is not None]
        chosen = min(eligible, key=lambda i: sign * candidates[i]["mean"]) if eligible and not missing else None
        edges, last_epoch, tests = [], 0, []
        if chosen is not None:
            edges = [name for name in contender.tuned if _at_the_edge(name, chosen, candidates)]
            of_chosen = [records[run] for run in candidates[chosen]["runs"]]
            last_epoch = sum(record.get("best_epoch") == record.get("epochs", 0) for record in of_chosen)
            tests = [run.run for run in with_seeds(contender.candidates[chosen], self.test_seeds)]
        return {
            "name": contender.name,
            "candidates": candidates,
            "effort": contender.effort,
            "missing": missing,
            "chosen": chosen,
            "edges": edges,
            "last_epoch": last_epoch,
            "runs": tests,
        }

    def _scored(self, contender: Contender, candidate: Config, records: Mapping[str, Record]) -> Record:
        runs = [run.run for run in with_seeds(candidate, self.seeds)]
        for run in runs:
            if run in records and self.score not in records[run]:
                raise UserError(f"score must be in the record of each tuning run: {run} has no {self.score}")
        scores = [records[run][self.score] if run in records else None for run in runs]
        finite = [score for score in scores if score is not None and math.isfinite(score)]
        missed = sum(run in records and _missed_target(records[run]) for run in runs)
        mean = statistics.fmean(finite) if len(finite) == len(scores) and not missed else None
        return {"settings": contender.settings(candidate), "runs": runs, "scores": scores, "missed": missed, "mean": mean}


def with_seeds(candidate: Config, seeds: Sequence[int]) -> list[Config]:
    """Return the runs of a candidate, one for each seed."""
    return [dataclasses.replace(candidate, seed=seed) for seed in seeds]


def _missed_target(record: Record) -> bool:
    """Return whether a run with a target ended outside the tolerance, by its measurements in training."""
    if "control" not in record:
        return False
    last = record["control"]["course"]["measured"][-1]
    return last is None or not abs(last - record["target_sparsity"]) <= TOLERANCE


def _at_the_edge(name: str, chosen: int, candidates: Sequence[Record]) -> bool:
    values = [candidate["settings"].get(name) for candidate in candidates]
    if None in values or any(isinstance(value, str | bool) for value in values) or len(set(values)) < 2:
        return False
    return values[chosen] in (min(values), max(values))


def contenders_of(study: Study, axes: Axes, tables: Mapping[str, Axes], seed: int) -> tuple[Contender, ...]:
    """Return the contenders of a sweep.

    Args:
        study: the study of the runs.
        axes: the values of each setting.
        tables: the candidates' values of the tuned settings, for each regularizer.
        seed: the first tuning seed.

    Raises:
        UserError: a value is out of its range, or the contenders have different numbers of candidates.
    """
    found: dict[frozenset[Config], tuple[Config, tuple[Config, ...], Axes]] = {}
    for regularizer, tuned in tables.items():
        fixed = {**axes, REGULARIZER: (regularizer,), "seed": (seed,)}
        fixed = {name: values for name, values in fixed.items() if name not in tuned}
        if (count := math.prod(map(len, (*fixed.values(), *tuned.values())))) > MAX_RUNS:
            raise UserError(f"a sweep takes at most {MAX_RUNS:,} runs, got {count:,}")
        for values in itertools.product(*fixed.values()):
            combination = {name: (value,) for name, value in zip(fixed, values, strict=True)}
            candidates = tuple(study.grid({**combination, **tuned}))
            found.setdefault(frozenset(candidates), (candidates[0], candidates, tuned))
    names = _names([(first, tuned) for first, _, tuned in found.values()], axes)
    contenders = tuple(
        Contender(name, candidates, tuple(tuned), math.prod(len(values) for values in tuned.values()))
        for name, (_, candidates, tuned) in zip(names, found.values(), strict=True)
    )
    _check_equal_effort(contenders)
    return contenders


def _names(contenders: Sequence[tuple[Config, Axes]], axes: Axes) -> list[str]:
    """Return the name of each contender: its regularizer, and the settings in which those with this regularizer differ."""
    kinds: dict[str, list[Config]] = {}
    for config, _ in contenders:
        kinds.setdefault(getattr(config, REGULARIZER), []).append(config)
    names = []
    for config, tuned in contenders:
        kind = getattr(config, REGULARIZER)
        varying = [
            name
            for name in axes
            if name not in tuned and len({getattr(other, name) for other in kinds[kind]}) > 1 and name != REGULARIZER
        ]
        names.append(", ".join([kind, *(f"{name} {_shown(getattr(config, name))}" for name in varying)]))
    return names


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_equal_effort(contenders: Sequence[Contender]) -> None:
    efforts: dict[int, list[str]] = {}
    for contender in contenders:
        efforts.setdefault(contender.effort, []).append(contender.name)
    if len(efforts) > 1:
        counts = "; ".join(f"{effort} for {', '.join(names)}" for effort, names in efforts.items())
        raise UserError(f"tune must give all contenders the same number of candidates, got {counts}")


def gate_pairs_of(contenders: Sequence[Contender]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of Dropout and no noise that share all other settings: the indices of both.

    Dropout is `nn.Dropout`, or Sparseout with `q = 2` if no contender is `nn.Dropout`.
    """
    kinds = [getattr(contender.candidates[0], REGULARIZER) for contender in contenders]
    dropout = [i for i, kind in enumerate(kinds) if kind == "dropout"]
    if not dropout:
        dropout = [i for i, kind in enumerate(kinds) if kind == "sparseout" and _is_dropout(contenders[i])]
    none = [i for i, kind in enumerate(kinds) if kind == "none"]
    return tuple((i, j) for i in dropout for j in none if _share_the_rest(contenders[i], contenders[j]))


def _is_dropout(contender: Contender) -> bool:
    return all(candidate.q == 2 and not candidate.has_target for candidate in contender.candidates)


def _share_the_rest(dropout: Contender, none: Contender) -> bool:
    """Return whether two contenders differ only in the regularizer, in tuned settings, and in those without effect in `none`."""
    tuned = {"seed", *dropout.tuned, *none.tuned}
    changes: dict[str, Any] = {REGULARIZER: "none"}
    silent = dataclasses.replace(dropout.candidates[0], **changes)
    mine, theirs = (
        {name: value for name, value in config.to_dict().items() if name not in tuned} for config in (silent, none.candidates[0])
    )
    return mine == theirs
