"""A clock that a test moves."""


class Time:
    """A clock that a test moves: the timer's `now`, and a `Clock` whose marks are its readings."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    mark = __call__

    def seconds(self, start, end):
        return end - start
