"""The numbers on the results pages are those of the records in `results/`, and each sweep file asks for its records."""

import itertools
import json
import re
import statistics
from pathlib import Path

import numpy
import pytest

from sparseout.cli.main import main
from sparseout.runs.spec import read_spec
from sparseout.training.folders import read_lines

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECORDS = [json.loads(line) for line in (ROOT / "results" / "autoencoder-mnist" / "results.jsonl").read_text().splitlines()]
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def cells(table):
    """Return the rows of a Markdown table as lists of cells."""
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def table_after(page, comment):
    text = (DOCS / page).read_text()
    return cells(text.split(f"<!-- {comment} -->\n")[1].split("\n\n")[0])


def numbers(text):
    return NUMBER.findall(text)


def contains_in_order(values, wanted):
    remaining = iter(values)
    return all(value in remaining for value in wanted)


def mean(measure, **setting):
    chosen = [record[measure] for record in RECORDS if all(record.get(key) == value for key, value in setting.items())]
    assert len(chosen) == 3
    return statistics.fmean(chosen)


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize(("measure", "name", "digits"), [("hoyer", "Hoyer sparseness", 3), ("rms", "RMS", 2)])
def test_the_table_of_mnist(gradient, measure, name, digits):
    (_, *qs), _, *rows = table_after("results-mnist.md", "results/autoencoder-mnist/results.jsonl")
    (shown,) = (row[1:] for row in rows if row[0] == f"{gradient}, {name}")
    assert shown == [f"{mean(measure, gradient=gradient, regularizer='sparseout', q=float(q)):.{digits}f}" for q in qs]


def test_mnist_without_noise():
    (sentence,) = re.findall(r"^Without noise.*$", (DOCS / "results-mnist.md").read_text(), re.MULTILINE)
    assert numbers(sentence) == [f"{mean('hoyer', regularizer='none'):.3f}", f"{mean('rms', regularizer='none'):.2f}"]


def test_detached_falls_strictly_and_exact_does_not():
    qs = sorted({record["q"] for record in RECORDS if "q" in record})
    detached, exact = (
        [mean("hoyer", gradient=gradient, regularizer="sparseout", q=q) for q in qs] for gradient in ("detached", "exact")
    )
    assert all(later < earlier for earlier, later in itertools.pairwise(detached))
    assert exact[0] < max(exact) > exact[-1]


def test_the_records_have_their_provenance():
    for record in RECORDS:
        assert re.fullmatch("[0-9a-f]{12}", record["provenance"]["commit"])
        assert record["provenance"]["command"].startswith("sparseout study autoencoder")
        assert record["dataset"] == "mnist"


TABLE = re.compile(r"^    (sparseout results .*)\n\n((?:\|.*\n)+)", re.MULTILINE)
TARGETS, SCALES = (TABLE.findall((DOCS / f"results-{page}.md").read_text()) for page in ("targets", "scale"))


@pytest.mark.parametrize(("command", "table"), [*TARGETS, *SCALES])
def test_a_table_has_the_numbers_of_the_command(command, table, monkeypatch, capsys):
    """Each row has its setting's numbers and those of its comparison with Dropout, in the order of the command's output."""
    monkeypatch.chdir(ROOT)
    assert main(command.split()[1:]) == 0
    columns, *lines = capsys.readouterr().out.splitlines()
    width = len(re.split(r"\s{2,}", columns.strip()))
    settings = list(itertools.takewhile(lambda line: len(re.split(r"\s{2,}", line.strip())) == width, lines[1:]))
    comparisons = iter([line for line in lines if " p = " in line])
    header, _, *rows = cells(table)
    difference = header.index("difference from Dropout")
    for row, setting in zip(rows, settings, strict=True):
        assert contains_in_order(numbers(setting), numbers(" ".join(row[:difference]))), row
        if row[-1] != "reference":
            assert contains_in_order(numbers(next(comparisons)), numbers(" ".join([row[0], *row[difference:]]))), row
            assert row[-1] == verdict(header[1], *numbers(row[difference])[:1], row[difference + 1])
    assert next(comparisons, None) is None


def verdict(score, difference, p):
    if float(p) >= 0.05:
        return "inconclusive"
    return "better" if (float(difference) > 0) == (score == "accuracy") else "worse"


NETWORKS = sorted((ROOT / "results" / "targets").iterdir())
RUNS = {folder.name: read_lines(folder / "results.jsonl") for folder in NETWORKS}


@pytest.mark.parametrize("folder", NETWORKS, ids=lambda folder: folder.name)
def test_five_targets_within_the_range_of_a_fixed_q_are_reached_in_the_first_half_of_training(folder):
    fixed = [record["hoyer"] for record in RUNS[folder.name] if "control" not in record]
    controlled = [record for record in RUNS[folder.name] if "control" in record]
    low, high = min(fixed), max(fixed)
    assert high - low > 0.1
    assert len({record["target_sparsity"] for record in controlled}) == 5
    assert len({(record["target_sparsity"], record["seed"]) for record in controlled}) == len(controlled) == 15
    for record in controlled:
        assert low + 0.1 * (high - low) <= record["target_sparsity"] <= high - 0.1 * (high - low)
        assert abs(record["control"]["achieved"] - record["target_sparsity"]) <= 0.02
        assert record["control"]["settled"] <= 0.5


def test_the_page_of_targets_has_each_network_and_the_slow_start():
    folders = [f"results/targets/{folder.name}" for folder in NETWORKS] + ["results/warmup-english"]
    assert sorted(command.split()[2] for command, _ in TARGETS) == folders


def perplexity(records, target):
    found = [record["perplexity"] for record in records if record.get("target_sparsity") == target]
    assert len(found) == 3
    return f"{statistics.fmean(found):.1f}"


def test_the_page_has_the_perplexities_of_a_slow_start():
    _, _, *rows = table_after("results-targets.md", "results/warmup-english, results/targets/english")
    both = read_lines(ROOT / "results" / "warmup-english" / "results.jsonl"), RUNS["english"]
    assert rows == [[str(target), *(perplexity(records, target) for records in both)] for target in (0.55, 0.68)]


def costs(fixed, controlled, score):
    """Return, for each target, the mean score minus the score of a fixed q, interpolated linearly at the same sparsity."""

    def mean_of(group, key):
        return statistics.fmean(record[key] for record in group)

    def means(records, key):
        groups = {}
        for record in records:
            groups.setdefault(record[key], []).append(record)
        return sorted((mean_of(group, "hoyer"), mean_of(group, score)) for group in groups.values())

    reference = numpy.array(means(fixed, "q")).T
    return [value - numpy.interp(sparsity, *reference) for sparsity, value in means(controlled, "target_sparsity")]


def test_the_table_of_the_costs():
    _, _, *rows = table_after("results-targets.md", "results/targets")
    for folder, (_, score, *shown) in zip(("digits", "mnist", "english", "cifar10"), rows, strict=True):
        fixed = [record for record in RUNS[folder] if "control" not in record]
        controlled = [record for record in RUNS[folder] if "control" in record]
        found = costs(fixed, controlled, score.replace(" ", "_"))
        digits = len(shown[0].partition(".")[2])
        assert shown == [f"{min(found):+.{digits}f}", f"{max(found):+.{digits}f}"]
    slow = [record for record in read_lines(ROOT / "results" / "warmup-english" / "results.jsonl") if "control" in record]
    assert max(map(abs, costs([r for r in RUNS["english"] if "control" not in r], slow, "perplexity"))) < 1


def test_the_pages_have_the_largest_and_the_median_miss():
    controlled = [record for records in RUNS.values() for record in records if "control" in record]
    misses = [abs(record["control"]["achieved"] - record["target_sparsity"]) for record in controlled]
    assert (len(NETWORKS), len(misses)) == (4, 60)
    largest, median = f"{max(misses):.3f}", f"{statistics.median(misses):.3f}"
    introduction = (DOCS / "results-targets.md").read_text().split("\n\n")[1]
    assert contains_in_order(numbers(introduction), ["60", largest, median])
    assert largest in numbers((DOCS / "target.md").read_text().split("```")[0])


def test_the_page_of_the_scale_has_three_seeds_of_each_setting():
    assert [command.split()[2] for command, _ in SCALES] == ["results/scale-english"]
    records = read_lines(ROOT / "results" / "scale-english" / "results.jsonl")
    found = sorted((record.get("scale", "1"), record["q"], record["seed"]) for record in records)
    assert found == sorted(itertools.product(("1", "rms"), (1, 1.5, 2, 3), range(3)))


RESULTS = ROOT / "results"
WAITING = ("questions/language-plain", "questions/language-word", "longer/image", "longer/language")
NOT_RUN_YET = {RESULTS / name for name in WAITING}
SWEEPS = sorted(file for file in RESULTS.rglob("sweep.toml") if file.parent not in NOT_RUN_YET)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: str(file.parent.relative_to(RESULTS)))
def test_a_studys_sweep_file_asks_for_the_published_runs(file):
    spec, published = read_spec(file), read_lines(file.with_name("results.jsonl"))
    asked = spec.configs
    if spec.tuning:
        tuned = read_lines(file.parent / "tune" / "results.jsonl")
        assert sorted(config.run for config in asked) == [record["run"] for record in tuned]
        choice = spec.tuning.choose({record["run"]: record for record in tuned})
        assert json.loads(json.dumps(choice)) == json.loads(file.with_name("choice.json").read_text())
        asked = spec.tuning.chosen_tests(choice)
    assert sorted(config.run for config in asked) == [record["run"] for record in published]


def test_each_study_has_a_sweep_file():
    assert not any((folder / "results.jsonl").exists() for folder in NOT_RUN_YET)
    published = sorted(path.parent for path in RESULTS.rglob("results.jsonl") if path.parent.name != "tune")
    assert [file.parent for file in SWEEPS] == published
