"""Where in a life it grows: in all of it, or only of late."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.robust import median, theil_sen
from collector.diagnosis.trend import DAY, find_growth
from collector.diagnosis.view import LEAST_SAMPLES, PARTS, View, view_of

if TYPE_CHECKING:
    from collector.diagnosis.model import MemoryHistory
    from collector.diagnosis.robust import Series
    from collector.diagnosis.trend import Trend

_LATE_SECONDS = 1.5 * DAY
_WINDOWS = 12
_HIGH = 0.1
"""Of the level: noise is less."""


class Found(NamedTuple):
    """A growth. `view`: of the part of the life in which it was found."""

    trend: Trend
    view: View

    @property
    def since(self) -> float:
        return self.trend.since if self.trend.start else self.view.calm[0].time

    def slope(self) -> tuple[float, float, float]:
        """
        Of the working set, which is what meets the limit, unless page cache makes much of its growth; with its bounds.
        """
        if self.view.has_parts:
            bins = [one for one in self.view.bins if self.trend.since <= one.time <= self.trend.until]
            whole = theil_sen([one.time for one in bins], [one.middle for one in bins], len(bins))
            if 0.85 * whole[0] < self.trend.slope < 1.18 * whole[0]:
                return whole
        return self.trend.slope, self.trend.low, self.trend.high

    def seconds_to(self, limit: int) -> float:
        """From the last point on. High cycles meet the limit with their tops, which may grow faster than the rest."""
        bins = [one for one in self.view.bins if one.time >= self.trend.since]
        above = median(one.middle - self.trend.at(one.time) for one in bins)
        end, slope = self.view.life.points[-1].time, self.slope()[0]
        level = self.trend.at(end) + above  # by the trend: a single sample may be off
        size = max(1, len(bins) // _WINDOWS)
        windows = (bins[at : at + size] for at in range(len(bins) % size, len(bins), size))
        # Not the highest of many: that is an outlier.
        tops = [sorted(window, key=lambda one: one.high)[-2 if size > 2 else -1] for window in windows]
        if median(top.high / max(self.trend.at(top.time) + above, 1) for top in tops) > 1 + _HIGH:
            times, highs = [top.time for top in tops], [top.high for top in tops]
            slope = max(slope, theil_sen(times, highs, len(times))[1])
            level = median(high + slope * (end - at) for at, high in zip(times, highs, strict=True))
        return max(0.0, (limit - level) / slope)

    def part(self) -> str | None:
        """What of it grows most; None: its parts are not known."""
        if not self.view.has_parts:
            return None
        since, until = self.trend.since, self.trend.until
        points = [point for point in self.view.calm if since <= point.time <= until and point.anon is not None]
        some = max(1, len(points) // 8)

        def grown(part: str) -> float:
            sizes = [getattr(point, part) or 0 for point in points]
            return median(sizes[-some:]) - median(sizes[:some]) if sizes else 0.0

        return max(PARTS, key=grown)


def find(view: View) -> Found | None:
    """
    In all of its life; else in its last part, looked at more closely, down to its last day: in bins of hours a leak
    that began today is no line yet. There it has to be new that memory is so high.
    """
    killed = view.life.killed
    if trend := find_growth(view.series, view.lows, killed=killed):
        return Found(trend, view)
    part = view.life.seconds
    while part > _LATE_SECONDS:
        part = max(part / 4, _LATE_SECONDS)
        since = view.life.points[-1].time - part
        late = view_of(replace(view.life, points=tuple(point for point in view.life.points if point.time >= since)))
        trend = find_growth(late.series, late.lows, killed=killed)
        if trend and is_highest(view.series, trend) and _was_slower_before(late.series, trend):
            return Found(trend, late)
    return None


def lives_that_stopped(history: MemoryHistory, trend: Trend) -> int:
    """
    How many lives before rose as far at this age, and then no further: a cache, the load of a day after each restart.
    0: they were not most of those that lived for as long.
    """
    age = trend.since - history.last.points[0].time
    longer = [life for life in history.lives[:-1] if not life.killed and life.seconds >= history.last.seconds]
    stopped = [life for life in longer if _rose_and_stopped(view_of(life).series, age, trend)]
    return len(stopped) if len(stopped) * 2 > len(longer) else 0


def _rose_and_stopped(series: Series, age: float, trend: Trend) -> bool:
    begin = min(series.index_at(series.times[0] + age), len(series) - 1)
    rose = max(series.values[begin:]) - series.values[begin]
    return rose >= 0.6 * trend.rise and series.line(len(series) * 2 // 3).slope <= 0.25 * trend.slope


def _was_slower_before(series: Series, trend: Trend) -> bool:
    """What fills ever slower was faster."""
    start, before = (series.index_at(since) for since in (trend.since, trend.since - trend.seconds))
    return start - before >= LEAST_SAMPLES and series.line(before, start).slope <= 0.5 * trend.slope


def is_highest(series: Series, trend: Trend) -> bool:
    """It was never so high."""
    before = series.values[: series.index_at(trend.since)]
    return trend.level - max(before, default=0.0) >= 0.5 * trend.rise
