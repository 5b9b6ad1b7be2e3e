"""Search q, p and sparsity targets with Optuna, and prune the trials that learn slowly.

    python examples/tune.py --trials 30

trains a 64-256-10 ReLU classifier on scikit-learn's digits. A trial has either a fixed q, or a sparsity target that moves q; p is
searched in both. Validation accuracy after each epoch decides which trials go on. It needs `sparseout[studies]` and `optuna`, and
takes about half a minute on one core.
"""

from __future__ import annotations

import argparse

import optuna
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from sparseout import Sparseout, SparsityTarget
from sparseout.metrics import hoyer

EPOCHS, BATCH, TRAINING = 15, 50, 1200
DIGITS = load_digits()
IMAGES = torch.tensor(DIGITS.data / 16, dtype=torch.float32)
LABELS = torch.tensor(DIGITS.target)


def objective(trial: optuna.Trial) -> float:
    """Train one classifier, and return its validation accuracy."""
    torch.manual_seed(trial.number)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), Sparseout(trial.suggest_float("p", 0.1, 0.8)), nn.Linear(256, 10))
    target = None
    if trial.suggest_categorical("mode", ["fixed q", "target"]) == "target":
        wanted = trial.suggest_float("target", 0.3, 0.9)
        target = SparsityTarget(model, wanted, every=4, warmup=24, ramp=48)
    else:
        model[2].q = trial.suggest_float("q", 0.5, 3.0)
    optimizer = torch.optim.Adam(model.parameters(), trial.suggest_float("lr", 3e-4, 1e-2, log=True))
    accuracy = 0.0
    for epoch in range(EPOCHS):
        for batch in torch.randperm(TRAINING).split(BATCH):
            loss = F.cross_entropy(model(IMAGES[batch]), LABELS[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if target is not None:
                target.step(loss)
        accuracy = validate(model, trial)
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    if target is not None:
        # A target that is out of reach was not tried, whatever the accuracy: the record says so.
        trial.set_user_attr("state", target.report().layers[0].state)
    return accuracy


@torch.no_grad()
def validate(model: nn.Sequential, trial: optuna.Trial) -> float:
    """Return the accuracy on the validation images, and record the sparsity of their clean activations."""
    model.eval()
    hidden = model[:2](IMAGES[TRAINING:])
    correct = model(IMAGES[TRAINING:]).argmax(1) == LABELS[TRAINING:]
    model.train()
    trial.set_user_attr("hoyer", hoyer(hidden).mean().item())
    trial.set_user_attr("q", model[2].q)
    return correct.float().mean().item()


def main(arguments: list[str] | None = None) -> optuna.Study:
    """Run the search, and print its trials from the best to the worst."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30, help="number of trials (default: 30)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=optuna.pruners.MedianPruner(n_warmup_steps=3)
    )
    study.optimize(objective, options.trials)
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    print(f"{len(done)} of {len(study.trials)} trials finished, the others were pruned")
    print("accuracy  mode     p      q      hoyer  target")
    for trial in sorted(done, key=lambda trial: -trial.value)[:5]:
        p, mode, found = trial.params["p"], trial.params["mode"], trial.user_attrs
        goal = f"{trial.params['target']:.3f}, {found['state']}" if mode == "target" else "-"
        print(f"{trial.value:<8.4f}  {mode:<7}  {p:.3f}  {found['q']:.3f}  {found['hoyer']:.3f}  {goal}")
    return study


if __name__ == "__main__":
    main()
