"""The README's figures agree with the records in `results/`, and each study's sweep file asks for its records."""

import itertools
import json
import re
import statistics
from pathlib import Path

import pytest

from sparseout.cli.main import main
from sparseout.runs.spec import read_spec
from sparseout.training.folders import read_lines

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RECORDS = [json.loads(line) for line in (ROOT / "results" / "autoencoder-mnist" / "results.jsonl").read_text().splitlines()]


def mean(measure, **setting):
    chosen = [record[measure] for record in RECORDS if all(record[key] == value for key, value in setting.items())]
    assert len(chosen) == 3
    return statistics.fmean(chosen)


def rows_of_the_table():
    table = README.split("<!-- results/autoencoder-mnist/results.jsonl -->\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize(("measure", "name", "digits"), [("hoyer", "Hoyer sparseness", 3), ("rms", "RMS", 2)])
def test_the_table(gradient, measure, name, digits):
    (_, *qs), _, *rows = rows_of_the_table()
    (shown,) = (row[1:] for row in rows if row[0] == f"{gradient}, {name}")
    assert shown == [f"{mean(measure, gradient=gradient, noise='sparseout', q=float(q)):.{digits}f}" for q in qs]


def test_no_noise():
    assert f"Without noise: Hoyer sparseness {mean('hoyer', noise='none'):.3f}, RMS {mean('rms', noise='none'):.2f}." in README


def test_detached_falls_strictly_and_exact_does_not():
    qs = sorted({record["q"] for record in RECORDS})
    detached, exact = (
        [mean("hoyer", gradient=gradient, noise="sparseout", q=q) for q in qs] for gradient in ("detached", "exact")
    )
    assert all(later < earlier for earlier, later in itertools.pairwise(detached))
    assert exact[0] < max(exact) > exact[-1]


def test_the_records_say_where_they_come_from():
    for record in RECORDS:
        assert re.fullmatch("[0-9a-f]{12}", record["provenance"]["commit"])
        assert record["provenance"]["command"].startswith("sparseout study autoencoder")
        assert record["dataset"] == "mnist"


def test_the_first_result_is_within_twenty_lines():
    assert "tensor(" in "\n".join(README.splitlines()[:20])


PRINTED = re.compile(r"^    (sparseout results .*)\n\n```\n((?:.*\n)*?)```", re.MULTILINE)
PAGES = ("questions.md", "target.md", "choosing.md")
QUESTIONS, TARGETS, SCALES = (PRINTED.findall((ROOT / "docs" / page).read_text()) for page in PAGES)


@pytest.mark.parametrize(("command", "shown"), [*QUESTIONS, *TARGETS, *SCALES])
def test_what_a_page_prints_is_what_the_records_say(command, shown, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(command.split()[1:]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("study", ["image-cifar10", "language-ptb"])
def test_a_question_is_asked_with_five_seeds_and_two_baselines(study):
    records = read_lines(ROOT / "results" / study / "results.jsonl")
    found = {(record["noise"], record["q"]): set() for record in records}
    for record in records:
        found[record["noise"], record["q"]].add(record["seed"])
    q = {("sparseout", 1.5), ("sparseout", 2.0), ("sparseout", 2.5)}
    assert set(found) == q | {("dropout", 2.0), ("none", 2.0)}
    assert set(map(frozenset, found.values())) == {frozenset(range(5))}


def test_the_page_of_the_questions_prints_both():
    assert [command.split()[2] for command, _ in QUESTIONS] == ["results/image-cifar10"] * 2 + ["results/language-ptb"]


DRIVEN = sorted((ROOT / "results" / "targets").iterdir())
RUNS = {folder.name: read_lines(folder / "results.jsonl") for folder in DRIVEN}


@pytest.mark.parametrize("folder", DRIVEN, ids=lambda folder: folder.name)
def test_five_targets_within_what_q_reaches_are_reached_in_the_first_half_of_training(folder):
    fixed = [record["hoyer"] for record in RUNS[folder.name] if "control" not in record]
    driven = [record for record in RUNS[folder.name] if "control" in record]
    low, high = min(fixed), max(fixed)
    assert high - low > 0.1
    assert len({record["target_sparsity"] for record in driven}) == 5
    assert len({(record["target_sparsity"], record["seed"]) for record in driven}) == len(driven) == 15
    for record in driven:
        assert low + 0.1 * (high - low) <= record["target_sparsity"] <= high - 0.1 * (high - low)
        assert abs(record["control"]["achieved"] - record["target_sparsity"]) <= 0.02
        assert record["control"]["settled"] <= 0.5


def test_the_page_of_targets_prints_each_network_and_the_slow_way():
    folders = [f"results/targets/{folder.name}" for folder in DRIVEN] + ["results/warmup-english"]
    assert sorted(command.split()[2] for command, _ in TARGETS) == folders


def perplexity(records, target):
    found = [record["perplexity"] for record in records if record.get("target_sparsity") == target]
    assert len(found) == 3
    return f"{statistics.fmean(found):.1f}"


def test_the_page_says_what_the_slow_way_saves():
    both = read_lines(ROOT / "results" / "warmup-english" / "results.jsonl"), RUNS["english"]
    slowly, at_once = (f"{perplexity(records, 0.55)} and {perplexity(records, 0.68)}" for records in both)
    page = " ".join((ROOT / "docs" / "target.md").read_text().split())
    assert f"the perplexity is {slowly} so, against {at_once} at once" in page


def test_the_readme_says_how_far_from_their_targets_the_runs_ended():
    driven = [record for records in RUNS.values() for record in records if "control" in record]
    misses = [abs(record["control"]["achieved"] - record["target_sparsity"]) for record in driven]
    text = " ".join(README.split())
    assert len(DRIVEN) == 4
    found = f"The largest miss of the {len(misses)} runs is {max(misses):.3f}, their median {statistics.median(misses):.3f}"
    assert found in text


def test_the_page_of_the_scale_prints_three_seeds_of_each_setting():
    assert [command.split()[2] for command, _ in SCALES] == ["results/scale-english"]
    records = read_lines(ROOT / "results" / "scale-english" / "results.jsonl")
    found = sorted((record.get("scale", "1"), record["q"], record["seed"]) for record in records)
    assert found == sorted(itertools.product(("1", "rms"), (1, 1.5, 2, 3), range(3)))


SWEEPS = sorted((ROOT / "results").rglob("sweep.toml"))


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.parent.name)
def test_a_studys_sweep_file_asks_for_the_published_runs(file):
    asked = sorted(config.run for config in read_spec(file).configs)
    assert asked == [record["run"] for record in read_lines(file.with_name("results.jsonl"))]


def test_each_study_has_a_sweep_file():
    assert [file.parent for file in SWEEPS] == sorted(path.parent for path in (ROOT / "results").rglob("results.jsonl"))
