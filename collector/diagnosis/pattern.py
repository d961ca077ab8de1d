"""How memory came to its limit: named rules over the last life of a history. The first that holds decides."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import exp
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.model import Judgement, Life, MemoryHistory, Pattern, Point
from collector.diagnosis.robust import LEAST_BINS, Bin, Series, bin_up, despiked, median, theil_sen
from collector.diagnosis.trend import DAY, DAY_RISES_SECONDS, HOUR, Trend, find_growth, trend_from
from collector.model import NODE_PRESSURE, Cause
from collector.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTUP_SECONDS = 600.0
"""The first minutes of a life."""
_LOADED_SECONDS = 400.0
"""By then what a program loads is there: steady growth that fills the limit later is a fast leak."""
NEAR = 0.88
"""Of the limit: a use from which it takes little to be killed."""

_HELD = 0.975
"""Of the limit: what is above is held there, by reclaim."""
_LEAST_SAMPLES = 5
_LEAST_SECONDS = 60.0
_RECENT_SECONDS = 1800.0
_LATE_SECONDS = 1.5 * DAY
_NOT_AT_ITS_LIMIT = NODE_PRESSURE | {Cause.MANUAL}
_PARTS = ("anon", "shmem", "kernel")
"""What cannot be reclaimed. The rest of a working set is page cache that was used lately."""


class View(NamedTuple):
    """
    What the rules look at, prepared once. Bytes and seconds.

    `calm`: the points of the last life but that of the kill. `bins`: of their working sets. `series`, `lows`: of what
    cannot be reclaimed, as far as it is known, without the time at the end in which the limit held it. `gap`: from the
    last sample to the kill, at least the usual time between two.
    """

    life: Life
    calm: Sequence[Point]
    limit: int | None
    bins: list[Bin]
    series: Series
    lows: Series
    has_parts: bool
    gap: float

    @property
    def seconds(self) -> float:
        return _seconds(self.life)


def judge(history: MemoryHistory) -> Judgement:
    view = _view(history.last)
    if not history.last.killed:
        return _forecast(history, view)
    if history.cause in NODE_PRESSURE:
        reason = f"the kernel says whose memory ran out ({history.cause}): that of the node, or of many pods together"
        return _say(history, view, Pattern.NODE_PRESSURE, 0.95, reason)
    if history.cause is Cause.MANUAL:
        return _say(history, view, Pattern.UNKNOWN, 0.1, "somebody asked for the kill: no limit was hit")
    for rule in (_startup, _leak, _limit_too_low, _spike):
        if judgement := rule(history, view):
            return judgement
    return _unknown(history, view)


# It lives


def _forecast(history: MemoryHistory, view: View) -> Judgement:
    growth = _find(view)
    if growth and not _came_to_nothing(history, growth.trend):
        trend = growth.trend
        sure = 0.6 if trend.seconds < DAY_RISES_SECONDS else 0.85 if trend.seconds < 2 * DAY_RISES_SECONDS else 0.99
        return _say_leak(history, view, growth, sure)
    if len(view.life.points) < _LEAST_SAMPLES or view.seconds < _LEAST_SECONDS:
        return _unknown(history, view)
    reasons = [f"no growth in {human_seconds(view.seconds)} that stays, goes on and is more than its noise"]
    if view.has_parts and (whole := find_growth(*_series(view.bins), killed=False)):
        grown = f"{human_bytes(round(whole.rise))} in {human_seconds(whole.seconds)}"
        reasons.append(f"its working set grew, by {grown}, but by page cache: the kernel takes that back when it must")
    sure = 0.5 + 0.45 * (1 - exp(-view.seconds / (6 * HOUR)))
    if rises := _rises_now(view):
        reasons.append(rises)
        sure = min(sure, 0.6)
    return _say(history, view, Pattern.CALM, sure, *reasons)


def _rises_now(view: View) -> str | None:
    """It may be the load of a day, or the beginning of a leak."""
    if len(view.series) < 4 * LEAST_BINS:
        return None
    trend = trend_from(view.series, len(view.series) * 3 // 4)
    if trend.slope <= 0 or trend.strength < 10 or not _is_highest(view.series, trend):
        return None
    return f"it rises now, by {_size(trend.rise)} in {human_seconds(trend.seconds)}: too short to tell from a load"


# It was killed


def _startup(history: MemoryHistory, view: View) -> Judgement | None:
    """Killed within its first minutes; again and again where more lives were seen."""
    if not view.life.started or view.seconds > STARTUP_SECONDS:
        return None
    if view.seconds > _LOADED_SECONDS and _leak(history, view):
        return None
    former = [life for life in history.lives[:-1] if life.killed]
    short = [life for life in former if _seconds(life) <= STARTUP_SECONDS]
    if len(short) * 2 < len(former) or (not former and _is_calm(view)):
        return None
    reasons = [f"killed {human_seconds(view.seconds)} after its start"]
    if short:
        ended_so = "was the life" if len(former) == 1 else f"were {len(short)} of {len(former)} lives"
        reasons.append(f"so {ended_so} before")
    sure = 0.95 if short else 0.8 if view.seconds < STARTUP_SECONDS / 4 else 0.6
    return _say(history, view, Pattern.STARTUP, sure, *reasons)


def _is_calm(view: View) -> bool:
    """Long enough to be past its start, and as large as it would be until it was killed."""
    used = [one.middle for one in view.bins[len(view.bins) // 3 :]]
    room = (view.limit or 0) - max(used)
    return view.seconds > STARTUP_SECONDS / 3 and max(used) - min(used) < max(0.3 * room, 0.05 * max(used))


def _leak(history: MemoryHistory, view: View) -> Judgement | None:
    """It grew steadily until the limit was met."""
    growth = _find(view)
    if growth is None:
        return None
    trend, view_of_it = growth
    if view.limit is not None:
        if trend.rise < (0.01 if trend.strength >= 30 else 0.03) * view.limit:
            return None
        # What was above the trend before may have been above it at the kill. What never was is a spike.
        above = max(0.0, *(one.high - trend.at(one.time) for one in view_of_it.bins if one.time >= trend.since))
        reached = trend.at(view.life.points[-1].time) + above + trend.slope * view.gap
        if reached < 0.9 * view.limit:
            return None
    return _say_leak(history, view, growth, 0.99)


def _limit_too_low(history: MemoryHistory, view: View) -> Judgement | None:
    """No leak, and near the limit: just before, or again and again."""
    if view.limit is None or len(view.life.points) < _LEAST_SAMPLES:
        return None
    recent = _recent(view)
    near = [one for one in view.bins if one.high >= NEAR * view.limit]
    often = len(near) >= max(3, 0.05 * len(view.bins))
    if recent < NEAR * view.limit and not often:
        return None
    used = f"{human_bytes(round(recent))}, {recent / view.limit:.0%} of its limit, in the time before the kill"
    reasons = [f"used {used}, without growing steadily"]
    if often:
        reasons.append(f"within {1 - NEAR:.0%} of its limit in {len(near) / len(view.bins):.0%} of its time")
    half = len(view.bins) // 2
    before, later = (median(one.middle for one in bins) for bins in (view.bins[:half], view.bins[half:]))
    rose = later - before > 0.1 * view.limit
    if rose:
        reasons.append(f"used {_size(later - before)} more in the second half of its life, but not steadily")
    sure = 0.9 if recent >= 0.92 * view.limit and often and not rose else 0.75
    return _say(history, view, Pattern.LIMIT_TOO_LOW, sure, *reasons)


def _spike(history: MemoryHistory, view: View) -> Judgement | None:
    """Far from the limit but a moment before."""
    last = view.calm[-1]
    limit = view.limit or (view.life.points[-1].working_set if len(view.life.points) > len(view.calm) else 0)
    recent = _recent(view)
    if len(view.life.points) < _LEAST_SAMPLES or recent >= NEAR * limit:
        return None
    before = human_seconds(view.life.points[-1].time - last.time)
    reasons = (
        f"used {human_bytes(round(recent))}, {recent / limit:.0%} of the limit, in the time before the kill",
        f"{human_bytes(last.working_set)} in the last sample, {before} before: the rest came at once",
    )
    sure = 0.9 if recent < 0.75 * limit else 0.7
    # In a long time without a sample much may have happened.
    usual = view.seconds / len(view.life.points)
    return _say(history, view, Pattern.SPIKE, sure if view.gap < 5 * usual + 60 else 0.5, *reasons)


def _unknown(history: MemoryHistory, view: View) -> Judgement:
    count = len(view.life.points)
    missing = []
    if count < _LEAST_SAMPLES or view.seconds < _LEAST_SECONDS:
        samples = "1 sample" if count == 1 else f"{count} samples"
        missing.append(f"more of its history: {samples} in {human_seconds(view.seconds)} show no trend")
    if view.life.killed and view.limit is None:
        missing.append("its limit")
    return _say(history, view, Pattern.UNKNOWN, 0.1, missing=tuple(missing))


# Growth


class _Growth(NamedTuple):
    """`view`: of the part of the life in which it was found."""

    trend: Trend
    view: View


def _find(view: View) -> _Growth | None:
    """
    In all of its life; else in its last part, looked at more closely, down to its last day: in bins of hours a leak
    that began today is no line yet. There it has to be new that memory is so high.
    """
    killed = view.life.killed
    if trend := find_growth(view.series, view.lows, killed=killed):
        return _Growth(trend, view)
    part = view.seconds
    while part > _LATE_SECONDS:
        part = max(part / 4, _LATE_SECONDS)
        since = view.life.points[-1].time - part
        late = _view(replace(view.life, points=tuple(point for point in view.life.points if point.time >= since)))
        trend = find_growth(late.series, late.lows, killed=killed)
        if trend and _is_new(view.series, trend):
            return _Growth(trend, late)
    return None


def _came_to_nothing(history: MemoryHistory, trend: Trend) -> bool:
    """At this age most lives before rose as far, and came down again: the load of a day, after a restart each night."""
    age = trend.since - history.last.points[0].time
    longer = [life for life in history.lives[:-1] if not life.killed and _seconds(life) >= _seconds(history.last)]
    fell = [life for life in longer if _rose_and_fell(_view(life).series, age, trend.rise)]
    return len(fell) * 2 > len(longer)


def _rose_and_fell(series: Series, age: float, rise: float) -> bool:
    begin = min(series.index_at(series.times[0] + age), len(series) - 1)
    most = max(series.values[begin:])
    return most - series.values[begin] >= 0.6 * rise and most - median(series.values[-3:]) >= 0.5 * rise


def _is_new(series: Series, trend: Trend) -> bool:
    """It was never so high, and did not grow so fast just before, as what fills ever slower would."""
    start = series.index_at(trend.since)
    before = series.index_at(trend.since - trend.seconds)
    if start - before < _LEAST_SAMPLES or not _is_highest(series, trend):
        return False
    return series.line(before, start).slope <= 0.5 * trend.slope


def _is_highest(series: Series, trend: Trend) -> bool:
    before = series.values[: series.index_at(trend.since)]
    return trend.level - max(before, default=0.0) >= 0.5 * trend.rise


# Preparing


def _view(life: Life) -> View:
    points = life.points
    calm = points[:-1] if life.killed and len(points) > 1 else points
    limit = next((point.limit for point in reversed(points) if point.limit), None)
    sizes = [point.working_set for point in calm]
    bins = bin_up(
        [point.time for point in calm], sizes, [point.least for point in calm], [point.most for point in calm]
    )
    free = _not_held(calm, limit) if life.killed else calm
    parted = [point for point in free if point.anon is not None]
    has_parts = len(parted) >= 0.8 * len(free)
    if has_parts:
        parts = [_unreclaimable(point) for point in parted]
        # What was least of the working set, the parts were not above then.
        least = [min(part, point.least) for part, point in zip(parts, parted, strict=True)]
        fine = bin_up([point.time for point in parted], parts, least)
    elif len(free) == len(calm):
        fine = bins
    else:
        fine = bin_up([point.time for point in free], sizes[: len(free)], [point.least for point in free])
    steps = sorted(later.time - one.time for one, later in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0.0
    gap = max(usual, points[-1].time - calm[-1].time)
    series, lows = _series(fine)
    return View(life=life, calm=calm, limit=limit, bins=bins, series=series, lows=lows, has_parts=has_parts, gap=gap)


def _series(bins: Sequence[Bin]) -> tuple[Series, Series]:
    """Of medians, and of the least."""
    times = [one.time for one in bins]
    middles, lows = [one.middle for one in bins], [one.low for one in bins]
    return Series(times, despiked(times, middles)), Series(times, despiked(times, lows))


def _not_held(points: Sequence[Point], limit: int | None) -> Sequence[Point]:
    """Less the time at the end in which the limit held it, but for the first sample; all, where that is much of it."""
    if limit is None:
        return points
    end = len(points)
    while end and points[end - 1].working_set >= _HELD * limit:
        end -= 1
    end += 1
    if not _LEAST_SAMPLES < end < len(points):
        return points
    until = points[end - 1].time
    return points[:end] if points[-1].time - until < 0.25 * (until - points[0].time) else points


def _unreclaimable(point: Point) -> int:
    return sum(getattr(point, part) or 0 for part in _PARTS)


def _recent(view: View) -> float:
    """The working set of the last half hour, or tenth of its life, or ten samples, before the kill."""
    until = view.calm[-1].time
    since = until - min(_RECENT_SECONDS, 0.1 * (until - view.calm[0].time))
    sizes = [point.working_set for point in view.calm[-400:] if point.time >= since]
    return median(sizes if len(sizes) >= 10 else [point.working_set for point in view.calm[-10:]])


def _seconds(life: Life) -> float:
    return life.points[-1].time - life.points[0].time


def _same_end(history: MemoryHistory) -> bool | None:
    """Killed, each time, after about the same time."""
    killed = [_seconds(life) for life in history.lives if life.killed]
    if len(killed) < 2:
        return None
    return max(killed) <= max(2 * min(killed), STARTUP_SECONDS)


# Saying


def _say(
    history: MemoryHistory,
    view: View,
    pattern: Pattern,
    confidence: float,
    *reasons: str,
    missing: tuple[str, ...] = (),
) -> Judgement:
    killed = view.life.killed
    return Judgement(
        pattern=pattern,
        confidence=confidence,
        reasons=reasons,
        missing=missing,
        steady_bytes=round(median(one.middle for one in view.bins)),
        peak_bytes=max(point.most for point in view.life.points),
        peak_is_cut=killed and history.cause not in _NOT_AT_ITS_LIMIT,
        limit_bytes=view.limit,
        life_seconds=view.seconds if killed and view.life.started else None,
        same_end=_same_end(history),
    )


def _say_leak(history: MemoryHistory, view: View, growth: _Growth, most: float) -> Judgement:
    """most: the confidence in the clearest of such trends."""
    trend, late = growth
    slope, low, high = _slope(late, trend)
    grows = _growing_part(late, trend)
    rate = f"{_size(slope * HOUR)}/h ({_size(low * HOUR)} to {_size(high * HOUR)})"
    rose = f"{_size(trend.rise)} in {human_seconds(trend.seconds)}"
    reasons = [f"its {grows or 'working set'} grew by {rate}, {rose}, and did not slow down"]
    if trend.spread:
        reasons.append(f"that is {trend.rise / trend.spread:.0f} times the spread about its line")
    left = None
    if view.limit is not None:
        left = max(0.0, (view.limit - _level(late, trend)) / slope)
    return replace(
        _say(history, view, Pattern.LEAK, most * (1 - 0.5 * exp(-trend.strength / 12)), *reasons),
        growth_bytes_per_hour=slope * HOUR,
        growth_since=trend.since if trend.start else late.calm[0].time,
        seconds_to_limit=left,
        grows=grows,
    )


def _slope(view: View, trend: Trend) -> tuple[float, float, float]:
    """Of the working set, which is what meets the limit, unless page cache makes much of its growth."""
    if view.has_parts:
        bins = [one for one in view.bins if trend.since <= one.time <= trend.until]
        whole = theil_sen([one.time for one in bins], [one.middle for one in bins], len(bins))
        if 0.85 * whole[0] < trend.slope < 1.18 * whole[0]:
            return whole
    return trend.slope, trend.low, trend.high


def _level(view: View, trend: Trend) -> float:
    """The working set at the last point, by the trend: a single sample may be off."""
    above = median(one.middle - trend.at(one.time) for one in view.bins if one.time >= trend.since)
    return min(trend.at(view.life.points[-1].time) + above, view.limit or float("inf"))


def _growing_part(view: View, trend: Trend) -> str | None:
    if not view.has_parts:
        return None
    points = [point for point in view.calm if trend.since <= point.time <= trend.until and point.anon is not None]
    some = max(1, len(points) // 8)

    def grown(part: str) -> float:
        sizes = [getattr(point, part) or 0 for point in points]
        return median(sizes[-some:]) - median(sizes[:some]) if sizes else 0.0

    return max(_PARTS, key=grown)


def _size(size: float) -> str:
    return human_bytes(round(size))
