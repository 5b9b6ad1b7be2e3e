"""What the studies' tests share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """One thread, as runs have it: threads that wait for each other are slow where other work runs beside the tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
