"""
Statistics of a few dozen numbers that neither noise nor a few wild ones move.

A series is binned first, so that nothing depends on how often it was sampled, nor costs more for more samples.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, pairwise
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BINS = 96
LEAST_BINS = 6
"""Fewer show no trend."""

_MOST_FOR_PAIRS = 48
"""Theil-Sen looks at each pair."""


def median(values: Iterable[float]) -> float:
    """Of one at least. The library's own loads decimal and fractions: a third of a MiB in every agent."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


class Bin(NamedTuple):
    """Of some samples: mean time, least, median, most."""

    time: float
    low: float
    middle: float
    high: float


class Line(NamedTuple):
    """`level` is at `centre`; `spread`: standard deviation about it."""

    slope: float
    centre: float
    level: float
    spread: float

    def at(self, time: float) -> float:
        return self.level + self.slope * (time - self.centre)


class Series:
    """Values in the order of time, at least one, with the least-squares line of any part of them at no cost."""

    def __init__(self, times: Sequence[float], values: Sequence[float]) -> None:
        self.times = list(times)
        self.values = list(values)
        # Far from zero the squares would lose what matters.
        self._zero, self._base = times[0], values[0]
        ts = [time - self._zero for time in times]
        ys = [value - self._base for value in values]
        self._t = [0.0, *accumulate(ts)]
        self._y = [0.0, *accumulate(ys)]
        self._tt = [0.0, *accumulate(t * t for t in ts)]
        self._ty = [0.0, *accumulate(t * y for t, y in zip(ts, ys, strict=True))]
        self._yy = [0.0, *accumulate(y * y for y in ys)]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]

    def index_at(self, time: float) -> int:
        """Of the first value that is not before this time."""
        return bisect_left(self.times, time)

    def line(self, begin: int = 0, end: int | None = None) -> Line:
        """Through the values from `begin` to before `end`, at least one."""
        end = len(self) if end is None else end
        count = end - begin
        t = (self._t[end] - self._t[begin]) / count
        y = (self._y[end] - self._y[begin]) / count
        tt = (self._tt[end] - self._tt[begin]) / count - t * t
        ty = (self._ty[end] - self._ty[begin]) / count - t * y
        yy = (self._yy[end] - self._yy[begin]) / count - y * y
        slope = ty / tt if tt > 0 else 0.0
        spread = sqrt(max(yy - slope * ty, 0.0) * count / max(count - 2, 1))
        return Line(slope, t + self._zero, y + self._base, spread)

    def squares(self, begin: int = 0, end: int | None = None) -> float:
        """The sum of those of what is left beside the line."""
        end = len(self) if end is None else end
        return self.line(begin, end).spread ** 2 * max(end - begin - 2, 0)

    def residuals(self, line: Line, begin: int = 0) -> list[float]:
        return [value - line.at(at) for at, value in zip(self.times[begin:], self.values[begin:], strict=True)]

    def noise(self) -> float:
        """The spread about short lines: what there is of it at a small scale."""
        width = max(LEAST_BINS, len(self) // 8)
        begins = range(0, len(self) - width + 1, width // 2)
        return median(self.line(begin, begin + width).spread for begin in begins) if begins else 0.0


def bin_up(
    times: Sequence[float],
    values: Sequence[float],
    lows: Sequence[float] | None = None,
    highs: Sequence[float] | None = None,
    *,
    most: int = BINS,
) -> list[Bin]:
    """By equal times. Where there are no samples there is no bin. lows, highs: of each sample; None: the values."""
    lows, highs = lows or values, highs or values
    if len(times) <= most:
        return [Bin(*sample) for sample in zip(times, lows, values, highs, strict=True)]
    width = (times[-1] - times[0]) / most
    edges = [bisect_left(times, times[0] + number * width) for number in range(1, most)] if width else []
    return [
        Bin(
            sum(times[begin:end]) / (end - begin),
            min(lows[begin:end]),
            sorted(values[begin:end])[(end - begin) // 2],
            max(highs[begin:end]),
        )
        for begin, end in pairwise((0, *edges, len(times)))
        if begin < end
    ]


def theil_sen(times: Sequence[float], values: Sequence[float], independent: float) -> tuple[float, float, float]:
    """
    The median of the slopes of all pairs, and its bounds of 95 %: outliers do not move it.

    independent: how many of the values are. Bounds: Sen 1968, by the variance of Kendall's S, widened for values that
    depend on each other.
    """
    if len(times) > _MOST_FOR_PAIRS:
        keep = [round(index * (len(times) - 1) / (_MOST_FOR_PAIRS - 1)) for index in range(_MOST_FOR_PAIRS)]
        times, values = [times[index] for index in keep], [values[index] for index in keep]
    count = len(times)
    slopes = sorted(
        (values[right] - values[left]) / (times[right] - times[left])
        for left in range(count)
        for right in range(left + 1, count)
        if times[right] > times[left]
    )
    if not slopes:
        return 0.0, 0.0, 0.0
    correlation = max(1.0, count / max(independent, 1.0))
    reach = 1.96 * sqrt(correlation * count * (count - 1) * (2 * count + 5) / 18) / 2
    middle = (len(slopes) - 1) / 2
    low, high = max(0, int(middle - reach)), min(len(slopes) - 1, int(middle + reach + 1))
    return median(slopes), slopes[low], slopes[high]


def independent(residuals: Sequence[float]) -> float:
    """
    How many independent values so many residuals are worth, 1 at least.

    One step, or half a wave, is far from its line on one side for long: its neighbours are alike, and it crosses the
    line but a few times.
    """
    count = len(residuals)
    square = sum(value * value for value in residuals)
    if not square:
        return count
    neighbours = sum(one * other for one, other in pairwise(residuals))
    correlation = min(max(neighbours / square, 0.0), 0.999)
    by_correlation = count * (1 - correlation) / (1 + correlation)
    return max(1.0, min(count, max(by_correlation, crossings(residuals) / 2)))


def crossings(residuals: Sequence[float]) -> int:
    """How often the sign changes."""
    signs = [value > 0 for value in residuals if value]
    return sum(one != other for one, other in pairwise(signs))


def despiked(times: Sequence[float], values: Sequence[float]) -> list[float]:
    """
    A value far from its neighbours' median becomes it: a reading of something else, or of a moment.

    Beside a gap a value stays: there it may be the first of what came next.
    """
    count = len(values)
    if count < 5:
        return list(values)
    around = [median(_about(values, index)) for index in range(count)]
    far = [abs(value - middle) for value, middle in zip(values, around, strict=True)]
    bound = 6 * sorted(far)[int(count * 0.75)]
    waits = [later - one for one, later in pairwise(times)]
    long = 3 * median(waits)
    gaps = [max(before, after) > long for before, after in pairwise((0.0, *waits, 0.0))]
    return [
        middle if off > bound and not gap else value
        for value, middle, off, gap in zip(values, around, far, gaps, strict=True)
    ]


def _about(values: Sequence[float], index: int) -> Sequence[float]:
    """As many before as after it, so that a ramp stays one; of the first and the last, what the next two lead to."""
    reach = min(2, index, len(values) - 1 - index)
    if reach:
        return values[index - reach : index + reach + 1]
    step = -1 if index else 1
    beside, beyond = values[index + step], values[index + 2 * step]
    return values[index], beside, 2 * beside - beyond


def opened(values: Sequence[float], width: int) -> list[float]:
    """
    The floor: what is above its surroundings for less than `width` values is cut off. A ramp stays as it is.

    That is morphological opening. The last `width` - 1 values may be of a hump that has not ended.
    """
    eroded = [min(values[index : index + width]) for index in range(len(values))]
    return [max(eroded[max(0, index - width + 1) : index + 1]) for index in range(len(values))]


def troughs(values: Sequence[float], reach: int) -> list[int]:
    """Which of the values are the least of all that are up to `reach` away, on both sides; of equal ones the first."""
    found: list[int] = []
    for index in range(reach, len(values) - reach):
        if values[index] == min(values[index - reach : index + reach + 1]) and (not found or index > found[-1] + reach):
            found.append(index)
    return found
