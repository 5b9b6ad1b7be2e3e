"""The generator equals published answers, and a second implementation of the index rule in Python integers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseout.op import reference

# Random123, tests/kat_vectors: philox4x32, 7 rounds; counter, key and output in hexadecimal.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
]
SEEDS = st.integers(-(2**63), 2**63 - 1)


def words(text):
    return [torch.tensor(int(word, 16)) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert reference.philox(words(counter), words(key)) == words(answer)


def test_ten_rounds_give_the_published_answer():
    output = reference.philox(words(KNOWN_ANSWERS[2][0]), words(KNOWN_ANSWERS[2][1]), rounds=10)
    assert output == words("d16cfe09 94fdcceb 5001e420 24126ea1")


def word_in_python(index, seed):
    """Compute one word of the mask from its definition, in unbounded integers."""
    c = 8 * (index // 32) + index % 8
    counter, key = [c % 2**32, c // 2**32, 0, 0], [seed % 2**32, seed // 2**32 % 2**32]
    for _ in range(7):
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter[index % 32 // 8]


@given(seed=SEEDS, count=st.integers(0, 1100))
def test_words_follow_the_index_rule(seed, count):
    output = reference.random_words(count, seed)
    assert output.shape == (count,)
    for index in {*range(min(count, 40)), *range(max(count - 40, 0), count)}:
        assert output[index] == word_in_python(index, seed)


@given(seed=SEEDS)
def test_a_seed_in_a_tensor_is_the_same_seed(seed):
    assert torch.equal(reference.random_words(100, torch.tensor([seed])), reference.random_words(100, seed))


def test_counters_beyond_32_bits_reach_the_second_word():
    far = torch.tensor(2**32 + 5)
    output = reference.philox([far & 0xFFFFFFFF, far >> 32, 0, 0], [1, 2])
    assert output[0] == word_in_python(32 * (2**32 // 8) + 5, 1 + 2 * 2**32)


@given(seed=SEEDS, p=st.floats(0, 1))
def test_an_element_is_dropped_where_its_word_is_below_p(seed, p):
    kept = reference.keep_mask((5, 7), p, seed)
    expected = [word_in_python(i, seed) >= round(p * 2**32) for i in range(35)]
    assert kept.flatten().tolist() == expected


@given(seed=SEEDS, index=st.integers(0, 34))
def test_p_is_compared_with_all_32_bits(seed, index):
    word = word_in_python(index, seed)
    assert reference.keep_mask((35,), word / 2**32, seed)[index]
    assert not reference.keep_mask((35,), (word + 1) / 2**32, seed)[index]


@given(seed=SEEDS, shared=st.sets(st.integers(-3, 2), max_size=3))
def test_shared_dims_number_the_reduced_shape(seed, shared):
    shape = (4, 3, 5)
    kept = reference.keep_mask(shape, 0.5, seed, tuple(shared))
    reduced = tuple(1 if dim in shared or dim - 3 in shared else size for dim, size in enumerate(shape))
    assert kept.shape == reduced
    assert torch.equal(kept.flatten(), reference.random_words(math.prod(reduced), seed) >= 2**31)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_kept_fraction_and_its_neighbours_are_independent(p):
    count = 2**20
    kept = reference.keep_mask((count,), p, seed=7).double()
    five_sigma = 5 * math.sqrt(p * (1 - p) / count)
    assert abs(kept.mean() - (1 - p)) < five_sigma
    centred = kept - (1 - p)
    for lag in (1, 2, 8, 16, 32, 256):
        correlation = (centred[lag:] * centred[:-lag]).mean() / (p * (1 - p))
        assert abs(correlation) < 5 / math.sqrt(count)


def test_the_seeds_of_two_calls_give_unrelated_masks():
    count = 2**18
    first, second = (reference.keep_mask((count,), 0.5, seed).double() - 0.5 for seed in (1, 2))
    assert abs((first * second).mean() * 4) < 5 / math.sqrt(count)


@pytest.mark.parametrize("seed", [0, 7, -5])
def test_the_words_that_a_compiler_fuses_are_the_same(seed):
    index = torch.arange(1000)
    assert torch.equal(reference.words_at(index, seed), reference.random_words(1000, seed))
    assert torch.equal(reference.words_at(index + 2**40, torch.tensor([seed]))[:40], reference.words_at(index[:40] + 2**40, seed))
