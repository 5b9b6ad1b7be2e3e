"""The language study: data order, objective, hidden state, perplexity, and settings out of range."""

import itertools
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from small_language import SMALL, learner, train_epoch

from sparseout.errors import UserError
from sparseout.studies import language
from sparseout.studies.data import text
from sparseout.studies.language import LanguageConfig
from sparseout.training import precision
from sparseout.training.engine import Engine
from sparseout.training.folders import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")

# Settings with which so little text is learned from.
LEARNS = {"epochs": 8, "lr": 10, "clip": 5, "hidden_size": 16, "embedding_size": 16, "p": 0.1, "p_hidden": 0.1}
LEARNS |= {"alpha": 0, "beta": 0, "p_input": 0, "p_weight": 0, "p_embedding": 0, "q": 1.5}


class TestDataOrder:
    def test_each_epoch_draws_its_own(self, corpus):
        run = learner(corpus)
        run.start_epoch(1)
        first = run.lengths
        run.start_epoch(2)
        assert run.lengths != first
        run.start_epoch(1)
        assert run.lengths == first

    def test_columns_are_the_text_one_after_the_other(self, corpus):
        columns = learner(corpus).columns
        assert columns.shape == (200, 4)
        assert torch.equal(columns.t().flatten(), corpus.train)

    def test_the_rate_is_in_proportion_to_the_length(self, corpus):
        run = learner(corpus, lr=0.5)
        steps = run.start_epoch(1)
        rates = []
        for step in range(steps):
            run.update(step)
            rates.append(run.optimizer.param_groups[0]["lr"])
        assert rates == [0.5 * length / 10 for length in run.lengths]
        assert len(set(rates)) > 1


def test_the_objective_is_cross_entropy_with_ar_and_tar(corpus):
    """Without noise, one step is the step of a plain loop."""
    run = learner(
        corpus, regularizer="none", p_input=0, p_embedding=0, p_weight=0, alpha=3.0, beta=5.0, weight_decay=0.01, clip=0.1
    )
    twin = learner(corpus, regularizer="none", p_input=0, p_embedding=0, p_weight=0).network
    twin.load_state_dict(run.network.state_dict())
    run.start_epoch(1)
    length = run.lengths[0]
    total, items = run.update(0)
    output = twin(run.columns[:length])
    logs = output.logits.log_softmax(-1).gather(-1, run.columns[1 : length + 1, :, None])
    assert items == logs.numel()
    assert total.item() == pytest.approx(-logs.sum().item(), rel=1e-5)
    change = output.raw[1:] - output.raw[:-1]
    (-logs.mean() + 3 * output.raw.pow(2).mean() + 5 * change.pow(2).mean()).backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    for name, parameter in twin.named_parameters():
        expected = parameter - 30 * length / 10 * (parameter.grad + 0.01 * parameter)
        torch.testing.assert_close(run.network.get_parameter(name), expected)


def test_the_activation_penalty_is_on_what_the_noise_leaves(corpus):
    penalties = []
    for p in (0.0, 1.0):
        run = learner(corpus, regularizer="dropout", noise_layers="output", p=p, beta=0.0)
        run.start_epoch(1)
        run.network.train()
        penalties.append(run.loss(0).penalty.item())
    assert penalties[0] > 0
    assert penalties[1] == 0  # all is dropped


def test_the_hidden_state_is_carried_and_detached(corpus):
    run = learner(corpus, p_input=0, p_embedding=0, p_weight=0, regularizer="none")
    run.start_epoch(1)
    with torch.no_grad():
        length = sum(run.lengths[:2])
        whole = run.network(run.columns[:length])
    run.loss(0)
    loss = run.loss(1)
    expected = torch.nn.functional.cross_entropy(
        whole.logits[run.lengths[0] :].flatten(0, 1), run.columns[run.lengths[0] + 1 : length + 1].flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss.total.detach(), expected)
    assert not any(part.requires_grad for layer in run.hidden for part in layer)


class TestEvaluation:
    def test_perplexity_is_that_of_a_plain_loop(self, corpus):
        run = learner(corpus, regularizer="none")
        steps = run.start_epoch(1)
        train_epoch(run, 1, 0, steps)
        results = language.evaluate(run.network, corpus)
        network, total, states = run.network.eval(), 0.0, None
        words = corpus.test.tolist()
        with torch.no_grad():
            for word, target in itertools.pairwise(words):
                hidden = network.embedding.weight[word]
                after = []
                for number, layer in enumerate(network.layers):
                    lstm = layer.lstm
                    h, c = states[number] if states else (torch.zeros(lstm.hidden_size), torch.zeros(lstm.hidden_size))
                    gates = lstm.weight_ih_l0 @ hidden + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
                    i, f, g, o = gates.chunk(4)
                    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                    hidden = o.sigmoid() * c.tanh()
                    after.append((hidden, c))
                states = after
                logits = (network.embedding.weight @ hidden + network.bias).double()
                total -= (logits[target] - logits.logsumexp(0)).item()
        assert results["perplexity"] == pytest.approx(math.exp(total / (len(words) - 1)), rel=1e-6)
        assert results["test_loss"] == pytest.approx(total / (len(words) - 1), rel=1e-6)

    def test_columns_side_by_side_judge_nearly_as_one(self):
        words = torch.randint(17, (6000,), generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        network = language.AWDLSTM(17, 6, 8, LanguageConfig(**SMALL).noises())
        for parameter in network.parameters():
            parameter.data.mul_(3)
        one, many = (language.evaluate_text(network, words, columns)[0] for columns in (1, 20))
        assert many == pytest.approx(one, rel=1e-5)

    def test_the_measured_layers(self, corpus):
        results = language.evaluate(learner(corpus).network, corpus)
        assert list(results["layers"]) == ["layers.0.noise", "layers.1.noise"]
        assert results["layers"]["layers.0.noise"]["vectors"] == len(corpus.test) - 1

    def test_a_diverged_run_has_a_record(self, corpus):
        run = learner(corpus)
        run.start_epoch(1)
        run.network.bias.data.fill_(math.nan)
        run.evaluate()
        assert math.isnan(run.results()["perplexity"])
        assert language.perplexity(1e4) == math.inf


def test_the_engine_trains_it(corpus, tmp_path):
    run = learner(corpus, **LEARNS)
    folder = RunFolder(tmp_path / "run", run.config)
    folder.open()
    results = Engine(run.accelerator, 10, False).train(run, folder, lambda *_: None)
    losses = [json.loads(line)["valid_loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert results["valid_loss"] == min(losses)
    assert results["perplexity"] < 0.9 * len(corpus.vocabulary)


PROCESSES = """
import sys, torch
from accelerate import Accelerator
from sparseout.studies import language
from sparseout.studies.data import text
generator = torch.Generator().manual_seed(0)
words = [f"w{n}" for n in torch.randint(17, (1400,), generator=generator).tolist()]
corpus = text.index(words[:800], words[800:1100], words[1100:])
config = language.LanguageConfig(num_layers=2, hidden_size=8, embedding_size=6, batch_size=4, bptt=10, regularizer="none",
                                 p_input=0, p_embedding=0, p_weight=0)
torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
learner = language.LanguageLearner(config, corpus, language.model(config, corpus), accelerator)
steps = learner.start_epoch(1)
learner.network.train()
losses = [accelerator.reduce(loss, "sum").item() / items for loss, items in map(learner.update, range(12))]
state = learner.state_dict()
learner.load_state_dict(state)
if accelerator.is_main_process:
    torch.save((accelerator.num_processes, losses, state["hidden"], state["model"]), sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    (tmp_path / "train.py").write_text(PROCESSES)
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run([*launch, tmp_path / "train.py", out], check=True, env=environment, capture_output=True, timeout=300)
        found.append(torch.load(out))
    assert [number for number, *_ in found] == [1, 2]
    (_, losses, hidden, model), (_, losses_2, hidden_2, model_2) = found
    assert losses == pytest.approx(losses_2, rel=1e-5)
    assert losses[-1] != losses[0]
    torch.testing.assert_close(hidden, hidden_2, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model, model_2, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not precision._has_bfloat16_lstm(torch.device("cpu")), reason="PyTorch has no bfloat16 LSTM for this CPU")
def test_bf16_trains(corpus):
    run = learner(corpus, precision="bf16", lr=5)
    steps = run.start_epoch(1)
    train_epoch(run, 1, 0, steps)
    assert run.network.bias.dtype == torch.float32
    assert math.isfinite(run.evaluate()["valid_loss"])
    run.load_state_dict(run.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bptt": 4}, "bptt must be an integer of at least 5, got 4"),
        ({"p_weight": 1.5}, r"p_weight must be a drop probability in \[0, 1\], got 1.5"),
        ({"noise_layers": "input"}, "noise_layers must be one of 'hidden', 'output', 'both', got 'input'"),
        ({"alpha": -1}, "alpha must be a number of at least 0, got -1"),
        ({"clip": 0}, "clip must be a positive number, got 0"),
        ({"train_tokens": -1}, "train_tokens must be an integer of at least 0, got -1"),
        ({"dataset": "enwik8"}, "dataset must be one of 'english', 'ptb', 'wikitext2', got 'enwik8'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        LanguageConfig(**settings)


def test_bptt_longer_than_the_data(tmp_path):
    for split in text.SPLITS:
        (tmp_path / f"ptb.{split}.txt").write_text("a b c d\n" * 20)
    assert len(language.load(LanguageConfig(dataset="ptb", batch_size=2, bptt=49), tmp_path).train) == 100
    with pytest.raises(UserError, match=r"bptt must be below the 50 words of a column \(100 words in 2 columns\), got 50"):
        language.load(LanguageConfig(dataset="ptb", batch_size=2, bptt=50), tmp_path)


def test_more_processes_than_columns(corpus):
    config = LanguageConfig(**SMALL)
    accelerator = Accelerator(cpu=True)
    three = type("Three", (), {"device": torch.device("cpu"), "num_processes": 3, "prepare": lambda self, *all: all})()
    with pytest.raises(UserError, match="batch_size must be a multiple of the 3 processes, got 4"):
        language.LanguageLearner(config, corpus, language.model(config, corpus), three)
    assert accelerator.num_processes == 1


def preset(name):
    return {setting: values[0] for setting, values in language.STUDY.axes(name).items()}


def test_the_presets_are_the_commands_in_the_readme_of_awd_lstm():
    """`--batch_size 20 --dropouti 0.4 --dropouth 0.25 --epoch 500` and `--epochs 750 --dropouth 0.2`; the rest is its default."""
    code = {
        "num_layers": 3,
        "hidden_size": 1150,
        "embedding_size": 400,
        "lr": 30,
        "clip": 0.25,
        "bptt": 70,
        "p": 0.4,
        "weight_decay": 1.2e-6,
    }
    code |= {
        "p_input": 0.65,
        "p_embedding": 0.1,
        "p_weight": 0.5,
        "alpha": 2,
        "beta": 1,
        "weight_decay": 1.2e-6,
        "batch_size": 80,
    }
    ptb = {"dataset": "ptb", "batch_size": 20, "p_input": 0.4, "p_hidden": 0.25, "epochs": 500}
    wt2 = {"dataset": "wikitext2", "epochs": 750, "p_hidden": 0.2}
    for name, changes in (("paper-ptb", ptb), ("paper-wt2", wt2)):
        found, expected = preset(name), {**code, **changes}
        assert {setting: found[setting] for setting in expected} == expected
