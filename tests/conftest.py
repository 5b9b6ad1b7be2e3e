"""How many examples hypothesis draws, and a fixture for all tests."""

import gc

import hypothesis
import pytest

hypothesis.settings.register_profile("default", max_examples=20, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="module")
def frozen_heap():
    """Keep what was loaded before out of garbage collection: runs collect at their end, and pytest's heap is large."""
    gc.freeze()
    yield
    gc.unfreeze()
