"""Interrupts a run while it trains."""

import contextlib

import pytest


@contextlib.contextmanager
def interrupted_after(steps, learner):
    """Let a class of learners train for a number of steps, then raise `KeyboardInterrupt`, which the context expects."""
    original, left = learner.update, iter(range(steps))

    def update(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "update", update)
        with pytest.raises(KeyboardInterrupt):
            yield
