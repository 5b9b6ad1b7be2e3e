"""What the studies' tests share."""

import pytest
import torch

from sparseout.studies.data import text


@pytest.fixture
def one_thread():
    """One thread, as runs have it: threads that wait for each other are slow where other work runs beside the tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus():
    """Words that depend on the word before, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    chain = [0]
    for jump in torch.randint(1, 4, (1400,), generator=generator).tolist():
        chain.append((chain[-1] * 2 + jump) % 17)
    words = [f"w{number}" for number in chain]
    return text.index(words[:800], words[800:1100], words[1100:])
