"""A sweep with a tune stage: what its file means, which candidate is chosen, and what a killed sweep chooses."""

import json
import math
import signal
from pathlib import Path

import pytest
from made import published_numbers
from test_stopped import start, wait_until

from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.runs.spec import read_spec
from sparseout.studies.image import ImageLearner

PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"
SWEEP = PAGE.read_text().split("```toml\n")[1].split("```")[0]  # the example of the page
TUNE = "[tune]\n"


def written(folder, text=SWEEP):
    file = folder / "sweep.toml"
    file.write_text(text)
    return file


def tuning_of(folder, text=SWEEP):
    return read_spec(written(folder, text)).tuning


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The sweep, complete, and what the command printed."""
    folder = tmp_path_factory.mktemp("tuned")
    out = folder / "out"
    assert main(["sweep", str(written(folder)), "--out", str(out), "--device", "cpu"]) == 0
    return out


def choice_of(out):
    return json.loads((out / "choice.json").read_text())


def records_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_equal_contenders_and_equal_candidates_are_one(tmp_path):
    tuning = tuning_of(tmp_path)
    assert [(each.name, len(each.candidates), each.effort) for each in tuning.contenders] == [
        ("sparseout, q 1.5", 3, 3),
        ("sparseout, q 2", 3, 3),
        ("dropout", 3, 3),
        ("none", 1, 3),
    ]
    assert {config.seed for config in tuning.configs} == {100}
    assert len(tuning.configs) == 10


def test_a_method_may_tune_another_setting(tmp_path):
    text = SWEEP.replace("[gate]", "[tune.none]\nlr = [0.01, 0.1, 1]\n\n[gate]")
    *_, dropout, none = tuning_of(tmp_path, text).contenders
    assert [candidate.p for candidate in dropout.candidates] == [0.1, 0.3, 0.5]
    assert [candidate.lr for candidate in none.candidates] == [0.01, 0.1, 1.0]
    assert {candidate.lr for candidate in dropout.candidates} == {0.1}


def test_the_gate_compares_dropout_with_no_noise_of_equal_settings(tmp_path):
    tuning = tuning_of(tmp_path, SWEEP.replace("epochs = 1", "epochs = [1, 2]"))
    names = [each.name for each in tuning.contenders]
    assert [(names[i], names[j]) for i, j in tuning.gate_pairs] == [
        ("dropout, epochs 1", "none, epochs 1"),
        ("dropout, epochs 2", "none, epochs 2"),
    ]
    tuning = tuning_of(tmp_path, SWEEP.replace('"dropout", ', "").replace("[gate]", "[tune.none]\nlr = [0.2, 0.3, 1]\n\n[gate]"))
    assert [(tuning.contenders[i].name, tuning.contenders[j].name) for i, j in tuning.gate_pairs] == [("sparseout, q 2", "none")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = [100]", "seed = [100, 1]", "tune.seed must have other values than seed, the seeds of the test, got 1 in both"),
        ("seed = [100]", "", "tune: seed needs at least one value"),
        ("p = [0.1, 0.3, 0.5]", "", "tune: sparseout needs at least one setting to tune, such as p = [0.1, 0.3, 0.5]"),
        ("p = [0.1, 0.3, 0.5]", "p = [0.1, 2]", "p must be a drop probability in [0, 1], got 2.0"),
        ("p = [0.1, 0.3, 0.5]", "dept = [10]", "tune: dept is not a setting of this study: did you mean depth?"),
        ("p = [0.1, 0.3, 0.5]", 'regularizer = ["none"]', "tune: regularizer must not be tuned"),
        ("valid_loss", "test_loss", "tune.score must be a score on validation data, 'valid_loss' or "),
        ('score = "valid_loss"', "", "tune.score must be a score on validation data, 'valid_loss' or "),
        ('"valid_loss"', "[1]", "tune.score must be a score on validation data, 'valid_loss' or "),
        (
            "valid_loss",
            "valid_perplexity",
            "tune.score must be a score that the runs record, 'valid_loss' or 'valid_accuracy', got",
        ),
        (
            "valid_images = 32",
            "valid_images = 0",
            "tune.score must be recorded by the runs, got 'valid_loss': sparseout, q 1.5 has no validation data",
        ),
        (
            '"accuracy"',
            '"perplexity"',
            "gate.score must be a score that the runs record, 'test_loss' or 'accuracy', got 'perplexity'",
        ),
        ('"accuracy"', '"valid_loss"', "gate.score must be a score that the runs record"),
        ('"dropout", "none"', '"dropout"', "gate needs Dropout and no noise among the contenders"),
        ('"dropout", "none"]\n', '"none"]\np = 0.2\n', "p must stand either in tune or outside it, not in both"),
        (TUNE, "[tune.dropout]\np = [0.2]\n" + TUNE, "tune must give all contenders the same number of candidates, got 3 for "),
        (TUNE, "[tune.dropout]\np = [0.2, 0.2, 0.2]\n" + TUNE, "sparseout, q 2, none; 1 for dropout"),
        (
            TUNE,
            "[tune.l1]\np = [0.2]\n" + TUNE,
            "tune: l1 must be a regularizer of the sweep, 'sparseout' or 'dropout' or 'none'",
        ),
        (SWEEP[SWEEP.index(TUNE) : SWEEP.index("[gate]")], "", "gate needs a tune stage"),
        ('score = "accuracy"', 'score = "accuracy"\nwidth = 3', "gate must have a score and nothing else, got 'width'"),
    ],
)
def test_a_mistake_in_the_stage_is_one_line(old, new, message, tmp_path, capsys):
    assert old in SWEEP
    file = written(tmp_path, SWEEP.replace(old, new))
    assert main(["sweep", str(file), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tune must be a table, \[tune\], got 3"):
        read_spec(written(tmp_path, 'study = "image"\ntune = 3\n'))


def scored(tuning, score):
    """Records of the tuning runs, with the score that `score(config)` returns."""
    return {config.run: {"run": config.run, "epochs": 1, tuning.score: score(config)} for config in tuning.configs}


def chosen(tuning, score):
    """The chosen settings of each contender."""
    choice = tuning.choose(scored(tuning, score))
    return [
        None if (i := each["chosen"]) is None else each["candidates"][i]["settings"].get("p") for each in choice["contenders"]
    ]


def test_the_best_mean_on_validation_is_chosen_and_the_first_of_equals(tmp_path):
    tuning = tuning_of(tmp_path, SWEEP.replace("seed = [100]", "seed = [100, 101]"))
    assert chosen(tuning, lambda config: abs(config.p - 0.3)) == [0.3, 0.3, 0.3, None]
    assert chosen(tuning, lambda config: 1.0) == [0.1, 0.1, 0.1, None]
    # A mean over both seeds: 0.5 is best in one seed alone.
    assert chosen(tuning, lambda config: config.p if config.seed == 100 else 0.9 - 1.5 * config.p)[0] == 0.5
    accuracy = tuning_of(tmp_path, SWEEP.replace("valid_loss", "valid_accuracy"))
    assert chosen(accuracy, lambda config: config.p) == [0.5, 0.5, 0.5, None]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_candidate_without_a_finite_score_in_one_seed_is_not_eligible(value, tmp_path):
    tuning = tuning_of(tmp_path, SWEEP.replace("seed = [100]", "seed = [100, 101]"))
    score = lambda config: value if (config.p, config.seed) == (0.1, 101) else config.p  # noqa: E731
    assert chosen(tuning, score) == [0.3, 0.3, 0.3, None]
    assert chosen(tuning, lambda config: value) == [None] * 4


def test_a_contender_waits_for_all_its_tuning_runs(tmp_path):
    tuning = tuning_of(tmp_path)
    records = scored(tuning, lambda config: config.p)
    records.pop(tuning.contenders[0].candidates[2].run)
    choice = tuning.choose(records)
    assert [(each["chosen"], each["missing"]) for each in choice["contenders"]] == [(None, 1), (0, 0), (0, 0), (0, 0)]
    assert len(tuning.chosen_tests(choice)) == 6


def test_a_record_without_the_score_is_refused(tmp_path):
    tuning = tuning_of(tmp_path)
    records = {config.run: {"run": config.run} for config in tuning.configs}
    with pytest.raises(UserError, match="score must be in the record of each tuning run: [0-9a-f]{12} has no valid_loss"):
        tuning.choose(records)


def test_an_edge_is_an_end_of_the_grid_in_either_order(tmp_path):
    tuning = tuning_of(tmp_path, SWEEP.replace("[0.1, 0.3, 0.5]", "[0.5, 0.1, 0.3]"))
    for best, edges in ((0.1, ["p"]), (0.3, []), (0.5, ["p"])):
        choice = tuning.choose(scored(tuning, lambda config, best=best: abs(config.p - best)))
        assert [each["edges"] for each in choice["contenders"]] == [edges] * 3 + [[]]


def test_tuning_runs_and_test_runs_are_apart(tuned):
    assert {record["seed"] for record in records_of(tuned)} == {0, 1}
    assert {record["seed"] for record in records_of(tuned / "tune")} == {100}
    assert len(records_of(tuned)) == 8
    assert not (tuned / "tune" / "report.html").exists()
    choice = choice_of(tuned)
    tested = sorted(run for contender in choice["contenders"] for run in contender["runs"])
    assert tested == sorted(record["run"] for record in records_of(tuned))
    losses = {record["run"]: record["valid_loss"] for record in records_of(tuned / "tune")}
    for contender in choice["contenders"]:
        means = [losses[run] for candidate in contender["candidates"] for run in candidate["runs"]]
        assert means.index(min(means)) == contender["chosen"]


def test_the_results_say_what_was_chosen(tuned, capsys):
    assert main(["results", str(tuned)]) == 0
    printed = capsys.readouterr().out
    assert "\ngate: " in printed
    assert "none: 1 of 3 candidates differ, because not every tuned setting has an effect." in printed
    assert "Not tuned, and the same in all runs: train_images 64, valid_images 32, depth 10" in printed


def test_a_second_call_runs_nothing_and_chooses_the_same(tuned, monkeypatch):
    before = choice_of(tuned), (tuned / "results.jsonl").read_bytes()
    monkeypatch.setattr(ImageLearner, "update", None)
    assert main(["sweep", str(tuned / "sweep.toml"), "--out", str(tuned), "--device", "cpu"]) == 0
    assert (choice_of(tuned), (tuned / "results.jsonl").read_bytes()) == before


def test_a_dry_run_lists_both_stages_and_writes_nothing(tuned, tmp_path, capsys):
    file = written(tmp_path)
    assert main(["sweep", str(file), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "10 runs: 0 complete, 10 to do" in printed
    assert "8 runs after the tune stage of sparseout, q 1.5, sparseout, q 2, dropout, none" in printed
    assert not (tmp_path / "out").exists()
    assert main(["sweep", str(file), "--out", str(tuned), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "10 runs: 10 complete, 0 to do." in printed
    assert "8 runs: 8 complete, 0 to do." in printed


def test_a_folder_with_other_test_runs_is_refused(tuned, tmp_path, capsys):
    """A test run of a candidate that is no longer the chosen one must not stand beside those of the chosen one."""
    file = written(tmp_path, SWEEP.replace("[0.1, 0.3, 0.5]", "[0.6, 0.7, 0.8]"))
    before = sorted(tuned.rglob("*"))
    assert main(["sweep", str(file), "--out", str(tuned), "--device", "cpu"]) == 2
    assert "--out must hold test runs of the chosen settings alone, got " in capsys.readouterr().err
    assert sorted(tuned.rglob("*")) == before


def test_a_failed_tuning_run_stops_its_contender_alone(tmp_path, monkeypatch, capsys):
    update = ImageLearner.update

    def fail(self, step):
        if (self.config.regularizer, self.config.p) == ("dropout", 0.3):
            raise RuntimeError("no beads")
        return update(self, step)

    arguments = ["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(ImageLearner, "update", fail)
        assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "dropout: nothing was chosen, because 1 tuning run is not complete." in printed
    assert "gate: NOT decided" in printed
    assert "RuntimeError: no beads" in printed
    assert {record["regularizer"] for record in records_of(tmp_path / "out")} == {"sparseout", "none"}
    assert main(arguments) == 0
    assert len(records_of(tmp_path / "out")) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_killed_in_the_tune_stage_it_resumes_to_the_same_choice(end, code, tmp_path):
    file = written(tmp_path, SWEEP.replace("q = [1.5, 2]\n", "").replace('"sparseout", ', "").replace("0.1, ", "0.1, 0.2, "))
    out, alone = tmp_path / "out", tmp_path / "alone"
    arguments = ["sweep", file, "--device", "cpu", "--out"]
    process = start(*arguments, out)
    wait_until(lambda: len(list(out.glob("tune/*/summary.json"))) == 2)
    process.send_signal(end)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert not list(out.glob("*/summary.json"))
    assert 2 <= len(list(out.glob("tune/*/summary.json"))) < 5
    process = start(*arguments, out, "--jobs", "2")
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    assert main([*map(str, arguments), str(alone)]) == 0
    assert choice_of(out) == choice_of(alone)
    assert published_numbers(out) == published_numbers(alone)
    assert published_numbers(out / "tune") == published_numbers(alone / "tune")
