"""The controller of one dial: moves `q` until what is measured is what was asked for, knowing nothing of the network."""

from __future__ import annotations

import dataclasses
import math

SLOPE = 0.15  # sparseness that one unit of q changes, to begin with: about what an autoencoder shows
SHARE = 0.05  # of the samples so far, that make the horizon: a network changes ever more slowly as it trains
SHORTEST = 12  # samples of the horizon
SWING = 3  # horizons: an error that changes sides sooner asks for smaller steps
PATIENCE = 1.5  # horizons: one that stays on one side for longer, and would stay there, asks for larger ones
CLOSE = 0.005  # an error that asks for neither
FAR = 0.1  # an error ahead that is taken for one already
GAINS = (0.5, 8.0)


@dataclasses.dataclass
class Controller:
    """`dial <- dial + K (h - target + T dh/dt)`, within bounds: it moves as long as `h`, a horizon `T` ahead, would miss.

    It is a proportional-integral controller in its velocity form: what is kept is the dial itself, inside its bounds, so that
    nothing winds up while it lies against one. The network answers as a slow, drifting lag of unknown slope and delay. `h` is
    smoothed over a quarter of `T`, `T` grows with the samples, and `K = gain / (slope T)`: the gain halves when the error changes
    its sign within three horizons, as in an oscillation, and grows where it stays on one side for one and a half, and would stay.

    Attributes:
        dial: the value to set: more of it makes the measured value fall.
        low, high: its bounds.
        samples: how many were taken.
        finite: the last value was a number.
        absent: for how many samples there has been no value.
        smoothed, trend: the measured value and its change a sample, both smoothed.
        past: the measured value, smoothed over a quarter of all samples.
        pace: its change in as many samples as there were, as the last half of them goes.
        gain: of the steps, relative to the slope that is assumed at first.
        side, since: sign of the last error that was not small, and for how many samples it has been that.
        stuck: for how many samples, since the gain grew, the error has been on one side and would be, while the dial was free.
        at_bound: for how many samples in a row the dial has lain against a bound that keeps it from its target.
    """

    dial: float
    low: float
    high: float
    samples: int = 0
    finite: bool = True
    absent: int = 0
    smoothed: float = math.nan
    trend: float = 0.0
    past: float = math.nan
    pace: float = 0.0
    gain: float = 2.0
    side: int = 0
    since: int = 0
    stuck: int = 0
    at_bound: int = 0

    def observe(self, measured: float | None) -> bool:
        """Take a sample into account, and leave the dial alone; None is one without a value. Return whether it was a number.

        What is not a number leaves all but `finite` and `absent` as it was.
        """
        if measured is None:
            self.absent += 1
            return False
        self.absent, self.finite = 0, math.isfinite(measured)
        if not self.finite:
            return False
        self.samples += 1
        before = measured if math.isnan(self.smoothed) else self.smoothed
        self.smoothed = before + self.share * (measured - before)
        self.trend += self.share * (self.smoothed - before - self.trend)
        quarter = 4 / max(4, self.samples)
        self.past = self.smoothed if self.samples == 1 else self.past + quarter * (self.smoothed - self.past)
        self.pace += quarter * (4 * (self.smoothed - self.past) - self.pace)
        return True

    def correct(self, by: float) -> None:
        """Take into account that what was measured is wrong by so much."""
        self.smoothed += by
        self.past += by

    def steer(self, target: float) -> None:
        """Move the dial by one step."""
        error = self.smoothed - target
        ahead = error + self.horizon * self.trend
        self._adapt(error, ahead)
        wanted = self.dial + self.gain / (SLOPE * self.horizon) * ahead
        self.dial = min(self.high, max(self.low, wanted))
        held = (wanted < self.low and self.smoothed < target) or (wanted > self.high and self.smoothed > target)
        self.at_bound = self.at_bound + 1 if held else 0

    @property
    def measured(self) -> float:
        """The smoothed value; NaN before the first, where the last was not a number, and after a horizon without one."""
        return self.smoothed if self.finite and self.absent <= self.horizon else math.nan

    @property
    def horizon(self) -> float:
        """`T`, in samples."""
        return max(SHORTEST, SHARE * self.samples)

    @property
    def share(self) -> float:
        """Of the newest sample in what is smoothed."""
        return 4 / self.horizon

    @property
    def now(self) -> float:
        """The smoothed value, less the lag of its smoothing."""
        return self.smoothed + (1 / self.share - 1) * self.trend

    def _adapt(self, error: float, ahead: float) -> None:
        """Larger steps where the target is not coming nearer while the dial is free to move, smaller ones after a quick swing."""
        stays = error * (error + ahead) > 0  # its sign is what it will be in half a horizon
        free = self.low < self.dial < self.high
        self.stuck = self.stuck + 1 if stays and free and abs(error) >= CLOSE else 0
        if self.stuck > PATIENCE * self.horizon:
            self._scale(1.5)
            self.stuck = 0
        self.since += 1
        swing = ahead if abs(ahead) > FAR else error
        if abs(swing) < CLOSE:
            return
        side = 1 if swing > 0 else -1
        if side != self.side:
            if self.side and self.since < SWING * self.horizon:
                self._scale(0.5)
            self.side, self.since = side, 0

    def _scale(self, factor: float) -> None:
        self.gain = min(GAINS[1], max(GAINS[0], self.gain * factor))
