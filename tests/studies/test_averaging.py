"""NT-ASGD: when averaging begins, what it averages, which epoch is kept, and resumption in the middle of it."""

import pytest
import torch
from small_language import learner, run, train_epoch, weights

from sparseout import Probe
from sparseout.studies import language
from sparseout.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("losses", "after"),
    [
        ([5, 4, 3, 2, 1, 0.9, 0.8], None),
        # An epoch is compared with those before its last five.
        ([3, 4, 5, 6, 7, 8], None),
        ([3, 4, 5, 6, 7, 8, 9], 7),
        ([3, 2, 2, 2, 2, 2.5, 2.9, 2.4], 8),
        ([3, 1, 2, 2, 2, 2, 0.5, 2], 8),
    ],
)
def test_it_begins_when_the_validation_loss_does_not_fall(losses, after, corpus, monkeypatch):
    run = learner(corpus)
    began = None
    for epoch, loss in enumerate(losses, 1):
        monkeypatch.setattr(language, "evaluate_text", lambda *_, loss=loss: (loss, {}))
        run.evaluate()
        if run.averaged is not None and began is None:
            began = epoch
    assert began == after


def test_it_is_the_mean_of_the_weights_after_each_step(corpus):
    run = learner(corpus)
    steps = run.start_epoch(1)
    run.averaged = language.average(run.network)
    seen = []
    for step in range(steps):
        run.network.train()
        run.update(step)
        seen.append(weights(run))
    averaged = run.averaged.module.state_dict()
    for name, value in averaged.items():
        torch.testing.assert_close(value, torch.stack([step[name] for step in seen]).mean(0))
    assert run.averaged.module.embedding.weight is not run.network.embedding.weight
    assert language.perplexity(run.evaluate()["valid_loss"]) == pytest.approx(
        language.perplexity(language.evaluate_text(run.averaged.module, corpus.valid, language.COLUMNS)[0])
    )


@torch.no_grad()
def look(network, forward, run):
    """The sparseness of the layers that are driven, and the logits."""
    with Probe(network, run.target_run.target.layers) as probe:
        logits = [forward(batch).logits for batch in run.clean_batches()]
        return [layer.hoyer for layer in probe.summary().layers], logits


@pytest.mark.parametrize("averaging", [False, True])
def test_a_target_measures_the_weights_that_are_evaluated(averaging, corpus, monkeypatch):
    run, calls = learner(corpus, target_sparsity=0.5), []
    forward = run.evaluated_forward
    monkeypatch.setattr(run, "evaluated_forward", lambda inputs: calls.append(inputs) or forward(inputs))
    run.attach_target()
    run.averaged = language.average(run.network)
    with torch.no_grad():
        for weight in run.averaged.module.parameters():
            weight.mul_(3)
    evaluated_forward = run.averaged.module if averaging else run.network
    run.averaged = run.averaged if averaging else None
    before = weights(run)
    run.network.eval()
    evaluated_forward.eval()
    found, seen = look(run.network, run.evaluated_forward, run)
    wanted, expected = look(evaluated_forward, evaluated_forward, run)
    assert found == wanted
    assert all(torch.equal(one, two) for one, two in zip(seen, expected, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())
    calls.clear()
    run.start_epoch(1)
    run.network.train()
    run.update(0)  # a target evaluates at its first step
    assert calls


def test_the_best_epoch_is_kept(corpus, monkeypatch):
    run, kept = learner(corpus), []
    for loss in (3.0, 1.0, 2.0):
        run.network.bias.data.add_(1)
        kept.append(weights(run))
        monkeypatch.setattr(language, "evaluate_text", lambda *_, loss=loss, **__: (loss, {}))
        run.evaluate()
    results = run.results()
    assert (results["best_epoch"], results["valid_loss"]) == (2, 1.0)
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, kept[1][name])


@pytest.mark.parametrize("stop", [(1, 0), (1, 7), (2, 3), (3, 0), (3, 11)])
def test_a_resumed_run_is_bit_identical(stop, corpus, tmp_path):
    settings = {"epochs": 3, "q": 1.5}
    whole, stopped = (learner(corpus, **settings) for _ in range(2))
    for each in (whole, stopped):
        each.best.losses = [0.0] * 6  # so that averaging begins
    run(whole)
    run(stopped, until=stop)
    save_checkpoint(tmp_path / "checkpoint", "run", stopped.state_dict())
    resumed = learner(corpus, **settings)
    epoch, step = stop
    steps = resumed.start_epoch(epoch)
    resumed.load_state_dict(load_checkpoint(tmp_path / "checkpoint", "run"))
    train_epoch(resumed, epoch, step, steps)
    resumed.evaluate()
    for later in range(epoch + 1, 4):
        train_epoch(resumed, later, 0, resumed.start_epoch(later))
        resumed.evaluate()
    assert whole.averaged is not None
    assert resumed.best.losses == whole.best.losses
    for one, other in ((whole.network, resumed.network), (whole.averaged, resumed.averaged)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert resumed.results() == whole.results()
