"""Words drawn from a language model."""

import pytest
import torch

from sparseout.cli.sample import generate
from sparseout.errors import UserError
from sparseout.studies import language
from sparseout.studies.language import LanguageConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def model(corpus):
    return language.model(LanguageConfig(num_layers=2, hidden_size=8, embedding_size=6, batch_size=4, bptt=10), corpus)


def test_the_likeliest_word_at_a_low_temperature(corpus):
    network = model(corpus)
    network.bias.data[3] = 1
    words = generate(network, corpus.vocabulary, "w1 w2", 5, temperature=0.01, generator=torch.Generator().manual_seed(0))
    assert words.split() == [corpus.vocabulary[3]] * 5


def test_draws_follow_the_models_distribution(corpus):
    """Frequencies of the first word within six deviations of the probabilities."""
    network = model(corpus)
    network.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    place = {word: number for number, word in enumerate(corpus.vocabulary)}
    prompt = "w3 w5 w0"
    logits = network.eval()(torch.tensor([place[word] for word in prompt.split()])[:, None]).logits[-1, 0]
    expected = (logits / 1.5).softmax(0).detach()
    generator = torch.Generator().manual_seed(0)
    drawn = [place[generate(network, corpus.vocabulary, prompt, 1, 1.5, generator)] for _ in range(1000)]
    found = torch.bincount(torch.tensor(drawn), minlength=len(place)) / 1000
    assert ((found - expected).abs() < 6 * (expected * (1 - expected) / 1000).sqrt() + 1e-3).all()


def test_the_same_seed_draws_the_same(corpus):
    network = model(corpus)
    generators = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    one, two, three = (generate(network, corpus.vocabulary, "w1", 30, generator=generator) for generator in generators)
    assert one == two != three


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature must be a positive number, got 0"),
        ({"length": 0}, "length must be an integer of at least 1, got 0"),
        ({"prompt": "zebra"}, "prompt must have words of the model's vocabulary, which lacks 'zebra'"),
    ],
)
def test_bad_settings(settings, message, corpus):
    with pytest.raises(UserError, match=message):
        generate(model(corpus), corpus.vocabulary, **({"prompt": "w1"} | settings))
