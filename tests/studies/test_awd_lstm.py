"""The AWD-LSTM: its size, its dropout masks, and the positions of the noise."""

import dataclasses

import pytest
import torch
from torch import nn

from sparseout.layers import Sparseout
from sparseout.structured import LockedSparseout
from sparseout.studies import language
from sparseout.studies.language import LanguageConfig
from sparseout.studies.models.awd_lstm import AWDLSTM, Layer, LockedDropout

pytestmark = pytest.mark.usefixtures("one_thread")


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def small(noises=2, **drops):
    torch.manual_seed(0)
    return AWDLSTM(11, 4, 6, [nn.Identity() for _ in range(noises)], **drops)


@pytest.mark.parametrize(("preset", "words", "count"), [("paper-ptb", 10_000, 24_221_600), ("paper-wt2", 33_278, 33_556_078)])
def test_the_papers_networks_have_the_papers_number_of_parameters(preset, words, count):
    config = LanguageConfig(**language.STUDY.presets[preset])
    corpus = dataclasses.make_dataclass("Corpus", ["vocabulary"])(range(words))
    with torch.device("meta"):
        network = language.model(config, corpus)
    assert parameters(network) == count


def test_embedding_and_decoder_are_one_matrix():
    network = small()
    assert parameters(network) == 11 * 4 + 11 + 4 * 6 * (4 + 6 + 2) + 4 * 4 * (6 + 4 + 2)
    with torch.no_grad():
        network.embedding.weight.zero_()
        network.bias.copy_(torch.arange(11.0))
    logits = network(torch.randint(11, (3, 2))).logits
    assert torch.equal(logits, torch.arange(11.0).expand(3, 2, 11))


def test_without_noise_it_is_a_stack_of_torchs_lstms():
    network = small().train()
    words = torch.randint(11, (7, 3))
    output, hidden = network(words), network.embedding(words)
    for layer, (h, c) in zip(network.layers, output.hidden, strict=True):
        hidden, (expected_h, expected_c) = layer.lstm(hidden)
        assert torch.equal(h, expected_h)
        assert torch.equal(c, expected_c)
    assert torch.equal(output.raw, hidden)
    torch.testing.assert_close(output.logits, hidden @ network.embedding.weight.T + network.bias)


def test_the_hidden_state_goes_on():
    network, words = small(), torch.randint(11, (9, 2))
    whole = network(words)
    first = network(words[:4])
    second = network(words[4:], first.hidden)
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), whole.logits)


class TestWeightDrop:
    def test_the_state_dict_is_that_of_lstms(self):
        dropped, plain = small(p_weight=0.5), small()
        lstm = {f"lstm.{name}" for name in nn.LSTM(4, 6).state_dict()}
        assert set(dropped.layers[0].state_dict()) == lstm
        dropped.train()(torch.zeros(3, 2, dtype=torch.long)).logits.sum().backward()
        assert set(dropped.state_dict()) == set(plain.state_dict())
        plain.load_state_dict(dropped.state_dict())

    def test_evaluation_between_training_steps_uses_the_whole_matrix(self):
        layer, plain = Layer(4, 6, 0.5, nn.Identity()), nn.LSTM(4, 6)
        input, hidden = torch.randn(5, 3, 4), (torch.randn(1, 3, 6), torch.randn(1, 3, 6))
        for step in range(3):
            plain.load_state_dict(layer.lstm.state_dict())
            assert torch.equal(layer.eval()(input, hidden)[0], plain(input, hidden)[0])
            assert not torch.equal(layer.train()(input, hidden)[0], plain(input, hidden)[0]), step
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            layer(input, hidden)[0].square().sum().backward()
            optimizer.step()
            assert not torch.equal(layer.lstm.weight_hh_l0, plain.weight_hh_l0)

    @pytest.mark.parametrize("p", [0.25, 0.5])
    def test_the_rate_and_the_scale(self, p, monkeypatch):
        seen = []
        layer = Layer(4, 100, p, nn.Identity()).train()
        forward = nn.LSTM.forward

        def spy(lstm, *inputs):
            seen.append(lstm.weight_hh_l0)
            return forward(lstm, *inputs)

        monkeypatch.setattr(nn.LSTM, "forward", spy)
        hidden = (torch.zeros(1, 2, 100), torch.zeros(1, 2, 100))
        for _ in range(2):
            layer(torch.randn(3, 2, 4), hidden)
        weight = layer.lstm.weight_hh_l0
        for dropped in seen:
            assert torch.equal(dropped, torch.where(dropped == 0, 0, weight * (1 / (1 - p))))
            assert (dropped == 0).double().mean() == pytest.approx(p, abs=0.015)  # six deviations of 40,000 draws
        assert not torch.equal(*seen)

    def test_a_dropped_weight_has_no_gradient(self):
        layer = Layer(4, 6, 0.5, nn.Identity()).train()
        layer(torch.randn(5, 3, 4), (torch.randn(1, 3, 6), torch.zeros(1, 3, 6)))[0].sum().backward()
        zeros = (layer.lstm.weight_hh_l0.grad == 0).double().mean()
        assert 0.2 < zeros < 0.8
        assert (layer.lstm.weight_ih_l0.grad != 0).all()


def test_words_are_dropped_wherever_they_occur():
    torch.manual_seed(0)
    network = AWDLSTM(1000, 4, 4, [nn.Identity()], p_embedding=0.3).train()
    words = torch.arange(1000).repeat(2)[:, None]
    embedded = network._embed(words)
    assert torch.equal(embedded[:1000], embedded[1000:])
    kept = (embedded[:1000] != 0).all(-1)
    assert torch.equal(kept, (embedded[:1000] != 0).any(-1))
    assert kept.double().mean() == pytest.approx(0.7, abs=0.09)  # six deviations
    torch.testing.assert_close(embedded[:1000][kept], network.embedding.weight[kept[:, 0]] / 0.7)


def test_locked_dropout_is_one_mask_a_column():
    x = torch.randn(9, 50, 40)
    y = LockedDropout(0.3).train()(x)
    kept = y != 0
    assert torch.equal(kept, kept[:1].expand_as(kept))
    torch.testing.assert_close(y, torch.where(kept, x / 0.7, 0))
    assert kept[0].double().mean() == pytest.approx(0.7, abs=0.07)  # six deviations
    assert not torch.equal(kept[0, 0], kept[0, 1])
    assert torch.equal(LockedDropout(0.3).eval()(x), x)


def test_sparseout_at_q_2_is_locked_dropout_in_distribution():
    """The same values can come out, as often, and the loss has the same mean and spread over many draws."""
    torch.manual_seed(0)
    losses = {}
    words = torch.randint(11, (20, 4))
    for noise in ("sparseout", "dropout"):
        config = LanguageConfig(
            regularizer=noise, q=2, p=0.4, p_hidden=0.3, num_layers=2, hidden_size=6, embedding_size=4, p_input=0
        )
        network = AWDLSTM(11, 4, 6, config.noises())
        network.load_state_dict(small().state_dict())
        for weight in network.parameters():
            weight.data.mul_(5)
        draws = [network.train()(words).logits.logsumexp(-1).sum() for _ in range(2000)]
        losses[noise] = torch.stack(draws).detach().double()
    first, second = losses.values()
    error = (first.var() / len(first) + second.var() / len(second)).sqrt()
    assert abs(first.mean() - second.mean()) < 5 * error
    assert first.std() == pytest.approx(second.std().item(), rel=0.15)
    assert first.std() > 10 * error


NOISES = {"sparseout": LockedSparseout, "dropout": LockedDropout, "none": nn.Identity}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    ("noise_layers", "hidden", "output"), [("hidden", True, False), ("output", False, True), ("both", True, True)]
)
def test_the_noise_is_where_it_is_asked_for(noise, noise_layers, hidden, output):
    config = LanguageConfig(
        regularizer=noise, noise_layers=noise_layers, q=1.5, p=0.4, p_hidden=0.3, p_input=0.2, gradient="exact"
    )
    *between, last = config.noises()
    for layers, asked, p in ((between, hidden, 0.3), ([last], output, 0.4)):
        for layer in layers:
            assert type(layer) is (NOISES[noise] if asked else LockedDropout)
            if not isinstance(layer, nn.Identity):
                assert layer.p == p
            if isinstance(layer, LockedSparseout):
                assert (layer.q, layer.gradient) == (1.5, "exact")
    assert len(between) == config.num_layers - 1
    network = language.model(config, dataclasses.make_dataclass("Corpus", ["vocabulary"])("ab"))
    assert network.regularised_layers == ["layers.0.noise", "layers.1.noise", "layers.2.noise"]
    assert network.input_dropout.p == 0.2


@pytest.mark.parametrize(("regularizer", "layer"), [("sparseout", Sparseout), ("dropout", nn.Dropout)])
def test_noise_per_word_draws_for_each_time_step(regularizer, layer):
    config = LanguageConfig(regularizer=regularizer, noise_per="word", noise_layers="output", q=1.5, p=0.4, p_hidden=0.3)
    *between, last = config.noises()
    assert (type(last), last.p) == (layer, 0.4)
    assert all((type(other), other.p) == (LockedDropout, 0.3) for other in between)
    torch.manual_seed(0)
    kept = last(torch.ones(2, 3, 500)) > 1
    assert not torch.equal(kept[0], kept[1])


def test_noise_per_sequence_is_not_in_older_records():
    assert "noise_per" not in LanguageConfig().to_dict()
    assert LanguageConfig(noise_per="word").to_dict()["noise_per"] == "word"
    assert LanguageConfig(noise_per="word").run != LanguageConfig().run
    assert LanguageConfig(noise_per="word", regularizer="l1").run == LanguageConfig(regularizer="l1").run


def test_what_the_noise_ignores_is_not_in_the_runs_name():
    runs = {LanguageConfig(regularizer="none", p=p, p_hidden=h).run for p in (0.1, 0.2) for h in (0.3, 0.4)}
    assert len(runs) == 1
    runs = {
        LanguageConfig(regularizer="none", noise_layers="hidden", p=p, p_hidden=h).run for p in (0.1, 0.2) for h in (0.3, 0.4)
    }
    assert len(runs) == 2  # the dropout on the output has its p
