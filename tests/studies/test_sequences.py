"""Text as sequences: their random lengths, and the columns of an evaluation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseout.studies.data import sequences
from sparseout.studies.data.sequences import IGNORED


@given(st.integers(5, 3000), st.integers(5, 100), st.integers(0, 2**40))
def test_sequences_make_up_the_text(words, bptt, seed):
    drawn = sequences.lengths(words, bptt, torch.Generator().manual_seed(seed))
    assert sum(drawn) == words
    assert min(drawn) >= sequences.MIN_LENGTH


def test_lengths_are_drawn_as_the_paper_says():
    drawn = torch.tensor(sequences.lengths(10**6, 70, torch.Generator().manual_seed(0))[:-1]).double()
    half = (drawn < 52).double().mean()
    assert half == pytest.approx(0.05, abs=0.01)
    assert drawn[drawn > 52].mean() == pytest.approx(70, abs=0.3)
    assert drawn[drawn > 52].std() == pytest.approx(5, abs=0.3)
    assert drawn[drawn < 52].mean() == pytest.approx(35, abs=1)


@given(st.integers(2, 9000), st.integers(1, 30))
def test_every_word_but_the_first_is_predicted_once(words, columns):
    sequence = torch.arange(words)
    inputs, targets = sequences.pairs(sequence, columns)
    counted = targets != IGNORED
    assert sorted(targets[counted].tolist()) == list(range(1, words))
    assert torch.equal(inputs[counted] + 1, targets[counted])
    # Each column reads on, and all but the first had their context.
    assert ((inputs[1:] - inputs[:-1] == 1) | ~counted[1:]).all()
    if inputs.shape[1] > 1:
        assert (inputs[0, 1:] == targets.masked_fill(~counted, words).amin(0)[1:] - 1 - sequences.CONTEXT).all()
