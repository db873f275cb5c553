"""Axes with round ticks: their distance is 1, 2 or 5 times a power of ten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHARACTER = 6.6  # pixels: the width of one at 11 pixels, at most on average
STEP_TICKS, VALUE_TICKS = 8, 6  # the most distances between ticks, before the ends are rounded
PLAIN = 1e6
"""Labels of larger values have an exponent; of steps, those above 100 times as much."""
MOST_DECIMALS = 5
FEW = 20  # with fewer values than this, none counts as a spike
SQUASHED = 10  # spikes are cut off where they stretch the range of nearly all values this often
EDGE = 0.02  # the share of values at either end that may be spikes
SAME, NONE = 1e-9, 1e-100
"""Values that differ by less, in relation to their size or absolutely, count as equal."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From where to where, and the ticks with their labels."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Return where a value lies between both ends, from 0 to 1."""
        return max(0.0, min(1.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True, slots=True)
class Distance:
    """Between two ticks: 1, 2 or 5 times a power of ten."""

    mantissa: int
    exponent: int

    def times(self, count: int) -> float:
        """Return that many distances, as exactly as a float can hold."""
        # By whole numbers: 3 * 0.1 is 0.30000000000000004, and 3 / 10 is not.
        if self.exponent >= 0:
            return float(count * self.mantissa * int(10**self.exponent))
        return count * self.mantissa / int(10**-self.exponent)

    def ticks_below(self, value: float) -> int:
        """Return how many of it fit between 0 and a value."""
        return math.floor(value / self.times(1))

    def ticks_to(self, value: float) -> int:
        """Return how many of it reach a value."""
        return math.ceil(value / self.times(1))


def of_steps(steps: Sequence[float]) -> Axis:
    """Return the axis of whole numbers that begins at a tick and ends with the last step."""
    # Not rounded up to a tick, so that the curve reaches the right edge.
    low, high = min(steps, default=0.0), max(steps, default=0.0)
    high = max(high, low + 1)
    distance = _distance(high - low, STEP_TICKS)
    if distance.exponent < 0:
        distance = Distance(1, 0)
    first, last = distance.ticks_below(low), distance.ticks_below(high)
    return Axis(distance.times(first), high, _labelled(distance, first, last, 100 * PLAIN))


def of_values(low: float, high: float) -> Axis:
    """Return the axis that begins and ends with a tick, and holds both values between them."""
    if high - low <= max(NONE, SAME * max(abs(low), abs(high))):
        margin = 0.1 * abs(low) if abs(low) > NONE else 0.5
        low, high = low - margin, high + margin
    distance = _distance(high - low, VALUE_TICKS)
    first, last = distance.ticks_below(low), distance.ticks_to(high)
    ticks = _labelled(distance, first, last, PLAIN)
    return Axis(ticks[0][0], ticks[-1][0], ticks)


def visible(values: Sequence[float]) -> tuple[float, float]:
    """Return the range to show: all, unless a few spikes would squash the rest into a line."""
    if not values:
        return 0.0, 1.0
    ordered = sorted(values)
    lowest, highest, count = ordered[0], ordered[-1], len(ordered)
    if count < FEW:
        return lowest, highest
    low, high = ordered[round(EDGE * (count - 1))], ordered[round((1 - EDGE) * (count - 1))]
    # At least 5 % of the median: on a flat curve every ripple would be a spike otherwise.
    spread = max(high - low, 0.05 * abs(ordered[count // 2]))
    limit = (SQUASHED - 1) * spread
    return (
        low - spread / 2 if low - lowest > limit else lowest,
        high + spread / 2 if highest - high > limit else highest,
    )


def _distance(span: float, most: int) -> Distance:
    """Return the shortest distance that divides a span into at most `most` parts."""
    least = span / most
    exponent = math.floor(math.log10(least))
    for mantissa in (1, 2, 5):
        if mantissa * 10.0**exponent >= least:
            return Distance(mantissa, exponent)
    return Distance(1, exponent + 1)  # also where rounding made log10 come out one too small


def _labelled(
    distance: Distance, first: int, last: int, plain: float
) -> tuple[tuple[float, str], ...]:
    """Return ticks with labels that all have the same number of digits behind the point."""
    values = [distance.times(count) for count in range(first, last + 1)]
    largest, decimals = max(map(abs, values)), max(0, -distance.exponent)
    if largest < plain and decimals <= MOST_DECIMALS:
        return tuple((value, f"{value:,.{decimals}f}") for value in values)
    digits = math.floor(math.log10(largest)) - distance.exponent
    return tuple((value, _scientific(value, digits)) for value in values)


def _scientific(value: float, digits: int) -> str:
    """Return 2.5e-7 for 2.5e-07."""
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"
