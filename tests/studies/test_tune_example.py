"""The example that searches q, p and targets with Optuna runs, prunes, and says which targets were reached."""

import importlib.util
from pathlib import Path

import pytest
import torch

optuna = pytest.importorskip("optuna")

EXAMPLE = Path(__file__).parents[2] / "examples" / "tune.py"


@pytest.fixture
def example(one_thread):
    spec = importlib.util.spec_from_file_location("tune", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_search_finishes_and_prints_its_best_trials(example, monkeypatch, capsys):
    monkeypatch.setattr(example, "EPOCHS", 2)
    study = example.main(["--trials", "6"])
    assert len(study.trials) == 6
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "6 of 6 trials finished, the others were pruned"
    assert printed[2].split()[0] == f"{study.best_value:.4f}"
    modes = {trial.params["mode"] for trial in study.trials}
    assert modes == {"fixed q", "target"}
    for trial in study.trials:
        assert list(trial.intermediate_values) == [0, 1]
        assert ("target" in trial.params) == (trial.params["mode"] == "target") == ("state" in trial.user_attrs)


def test_a_trial_that_learns_slowly_is_pruned(example, monkeypatch):
    monkeypatch.setattr(example, "EPOCHS", 3)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=1.0))
    study.enqueue_trial({"mode": "fixed q", "p": 0.5, "q": 2.0, "lr": 1e-3})
    study.optimize(example.objective, 1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    assert len(study.trials[0].intermediate_values) == 1
    assert torch.get_num_threads() == 1
