"""A feedback controller with one output. It sees measurements and setpoints, and knows nothing of the network."""

from __future__ import annotations

import dataclasses
import math

SLOPE = 0.15  # assumed fall of the sparsity per unit of q, as in an autoencoder; `gain` corrects it
HORIZON_FRACTION = 0.05  # horizon per sample so far: a network changes more slowly the longer it trains
MIN_HORIZON = 12  # samples
SWING_HORIZONS = 3  # an error that changes its sign sooner lowers the gain
PATIENCE_HORIZONS = 1.5  # an error that keeps its sign for longer raises the gain
DEADBAND = 0.005  # smaller errors leave the gain alone
LARGE_ERROR = 0.1  # predicted errors above this count as present ones
START_GAIN, GAIN_BOUNDS = 2.0, (0.5, 8.0)
SEARCH_SAMPLES = 60  # in which a search crosses the range of the output
SEARCH_HORIZONS = 2  # a search ends if the response closes the error within this many horizons
RESPONSE_BOUNDS = (0.003, 0.008)  # of the change of the trend, per sample, that counts as a response
MIN_SAMPLES_AT_BOUND = 100  # before a setpoint counts as out of reach


@dataclasses.dataclass
class Controller:
    """`output <- output + K (h - setpoint + T dh/dt)`, clipped to `[low, high]`, for a measured value `h` and a horizon `T`.

    This is a proportional-integral controller in velocity form. Its only integrator is the clipped output, so nothing winds up
    at a bound. The network is modelled as a slow, drifting lag of unknown slope and delay, whose `h` falls as the output rises.
    `h` is smoothed over a quarter of `T`, and `T` grows with the number of samples. The step size is `K = gain / (slope T)`. The
    gain halves if the error changes its sign within three horizons, as in an oscillation. It grows by half if the error keeps
    its sign for one and a half horizons and is predicted to keep it.

    If the output idles at `high`, a search comes first, and again after each return to `high`. The error does not tell how far
    the output is from its first effect, which may be many steps away. So the output falls at constant speed, a sixtieth of its
    range per sample, until the trend rises. It then goes back by what it moved during the delay of the running means, and the
    control above takes over. It does so too where the setpoint is reached more than a step away from `high`.

    Attributes:
        output: the value to apply.
        low, high: bounds of `output`.
        idles: whether an output at or near `high` has no effect, as a penalty of almost no strength.
        samples: number of finite measurements.
        finite: whether the last measurement was finite.
        missing: number of consecutive samples without a measurement.
        smoothed: running mean of the measurements over a quarter of the horizon.
        trend: running mean of the change of `smoothed` per sample.
        lowest, highest: the range of `smoothed` so far.
        long_mean: running mean of the measurements over the last quarter of all samples.
        drift: the drift over the next `samples` samples, extrapolated from the recent half.
        gain: step size relative to the assumed slope.
        error_sign: sign of the last error outside the deadband.
        since_sign_change: samples since `error_sign` changed.
        one_sided: consecutive samples since the last rise of the gain with a persistent error and the output off its bounds.
        at_bound: consecutive samples in which a bound kept the output from the setpoint.
        searches: whether `h` has neither responded to the output nor reached its setpoint since the output was at `high`.
        calm: the lowest trend since the search began; 1, above all trends, before.
    """

    output: float
    low: float
    high: float
    idles: bool = False
    samples: int = 0
    finite: bool = True
    missing: int = 0
    smoothed: float = math.nan
    lowest: float = math.nan
    highest: float = math.nan
    trend: float = 0.0
    long_mean: float = math.nan
    drift: float = 0.0
    gain: float = START_GAIN
    error_sign: int = 0
    since_sign_change: int = 0
    one_sided: int = 0
    at_bound: int = 0
    searches: bool = True
    calm: float = 1.0

    def observe(self, measured: float | None) -> bool:
        """Record a sample without changing the output, and return whether it is a finite number.

        None means that nothing was measured. None, NaN and infinity change `missing` and `finite` alone.
        """
        if measured is None:
            self.missing += 1
            return False
        self.missing, self.finite = 0, math.isfinite(measured)
        if not self.finite:
            return False
        self.samples += 1
        before = measured if math.isnan(self.smoothed) else self.smoothed
        self.smoothed = before + self.smoothing * (measured - before)
        self._widen_range()
        self.trend += self.smoothing * (self.smoothed - before - self.trend)
        weight = 4 / max(4, self.samples)
        self.long_mean = self.smoothed if self.samples == 1 else self.long_mean + weight * (self.smoothed - self.long_mean)
        self.drift += weight * (4 * (self.smoothed - self.long_mean) - self.drift)
        return True

    def shift(self, offset: float) -> None:
        """Add `offset` to all past measurements, to correct a bias."""
        self.smoothed += offset
        self.long_mean += offset
        self._widen_range()

    @property
    def responds(self) -> bool:
        """Whether the measured value has moved since the first sample."""
        return not self.highest - self.lowest < 2 * DEADBAND

    def is_stalled(self, setpoint: float) -> bool:
        """Whether the output has been at a bound for long, and the measured value does not move or moves too slowly."""
        error = setpoint - self.measured
        # At the current drift, three times the samples so far would not reach the setpoint.
        approach = 2 * math.copysign(1.0, error) * self.drift
        long = self.at_bound > max(MIN_SAMPLES_AT_BOUND, self.samples / 2) and approach < abs(error)
        return long or (self.at_bound > MIN_SAMPLES_AT_BOUND and not self.responds)

    def update(self, setpoint: float) -> None:
        """Move the output by one step toward `setpoint`."""
        error = self.smoothed - setpoint
        predicted = error + self.horizon * self.trend
        self._adapt_gain(error, predicted)
        wanted = self.output + self.gain / (SLOPE * self.horizon) * predicted
        if self.idles:
            wanted += self._search(error, wanted - self.output)
        self.output = min(self.high, max(self.low, wanted))
        blocked = (wanted < self.low and self.smoothed < setpoint) or (wanted > self.high and self.smoothed > setpoint)
        self.at_bound = self.at_bound + 1 if blocked else 0

    @property
    def measured(self) -> float:
        """The smoothed value; NaN before the first measurement, after one that is not finite, and after a horizon without any."""
        return self.smoothed if self.finite and self.missing <= self.horizon else math.nan

    @property
    def horizon(self) -> float:
        """`T`, in samples."""
        return max(MIN_HORIZON, HORIZON_FRACTION * self.samples)

    @property
    def smoothing(self) -> float:
        """The weight of the newest sample in the running means: the inverse of a quarter of the horizon."""
        return 4 / self.horizon

    @property
    def lag_corrected(self) -> float:
        """The smoothed value, extrapolated over the lag of its smoothing."""
        return self.smoothed + (1 / self.smoothing - 1) * self.trend

    def _search(self, error: float, change: float) -> float:
        """Return what a search adds to the `change` of the output: the rest to its speed, or at its end the way back.

        The first samples do not lower the output, because their trend is that of a network that leaves its initial weights.
        """
        if self.output >= self.high:
            self.searches, self.calm = True, 1.0
        if not self.searches:
            return 0.0
        if self.samples <= MIN_HORIZON:
            return max(0.0, -change)
        if error >= -DEADBAND and self.output < self.high - 1:  # the output has an effect where the search began
            self.searches = False
            return 0.0
        self.calm = min(self.calm, self.trend)
        reach = SEARCH_HORIZONS * self.horizon
        speed = (self.high - self.low) / SEARCH_SAMPLES
        if self._responds_now(enough=-error / reach):
            self.searches, self.gain = False, START_GAIN
            delay = 2 * (1 / self.smoothing - 1)  # samples: of `smoothed`, and of the running mean of its changes
            return delay * speed
        is_far = error < -DEADBAND and error + reach * self.trend < 0
        return -speed - change if is_far else 0.0

    def _responds_now(self, enough: float) -> bool:
        """Whether the trend has risen since the search began, by `enough` per sample within the bounds of a response."""
        smallest, largest = RESPONSE_BOUNDS
        return self.trend - self.calm > min(largest, max(smallest, enough))

    def _widen_range(self) -> None:
        self.lowest, self.highest = min(self.smoothed, self.lowest), max(self.smoothed, self.highest)  # NaN comes second

    def _adapt_gain(self, error: float, predicted: float) -> None:
        """Raise the gain while the error persists and the output is off its bounds; lower it after a quick change of sign."""
        persists = error * (error + predicted) > 0  # the sign of the error in half a horizon
        free = self.low < self.output < self.high
        self.one_sided = self.one_sided + 1 if persists and free and abs(error) >= DEADBAND else 0
        if self.one_sided > PATIENCE_HORIZONS * self.horizon:
            self._scale_gain(1.5)
            self.one_sided = 0
        self.since_sign_change += 1
        effective = predicted if abs(predicted) > LARGE_ERROR else error
        if abs(effective) < DEADBAND:
            return
        sign = 1 if effective > 0 else -1
        if sign != self.error_sign:
            if self.error_sign and self.since_sign_change < SWING_HORIZONS * self.horizon:
                self._scale_gain(0.5)
            self.error_sign, self.since_sign_change = sign, 0

    def _scale_gain(self, factor: float) -> None:
        self.gain = min(GAIN_BOUNDS[1], max(GAIN_BOUNDS[0], self.gain * factor))
