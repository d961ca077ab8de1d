"""How memory came to its limit: named rules over the last life of a history. The first that holds decides."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import TYPE_CHECKING

from collector.diagnosis.growth import find, is_highest, lives_that_stopped
from collector.diagnosis.model import Judgement, MemoryHistory, Pattern
from collector.diagnosis.robust import LEAST_BINS, median
from collector.diagnosis.trend import DAY_RISES_SECONDS, HOUR, find_growth, trend_from
from collector.diagnosis.view import LEAST_SAMPLES, View, series_of, view_of
from collector.model import NODE_PRESSURE, Cause
from collector.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collector.diagnosis.growth import Found

STARTUP_SECONDS = 600.0
"""The first minutes of a life."""
_LOADED_SECONDS = 400.0
"""By then what a program loads is there: steady growth that fills the limit later is a fast leak."""
NEAR = 0.88
"""Of the limit: a use from which it takes little to be killed."""

_LEAST_SECONDS = 60.0
_OF_ANOTHER = frozenset({Cause.MANUAL, Cause.NESTED_LIMIT, Cause.SYSTEM_LIMIT})
"""What this memory does not explain."""


def judge(history: MemoryHistory) -> Judgement:
    view = view_of(history.last)
    if not history.last.killed:
        return _forecast(history, view)
    if history.cause in NODE_PRESSURE:
        reason = f"the kernel says whose memory ran out ({history.cause}): that of the node, or of many pods together"
        return _say(history, view, Pattern.NODE_PRESSURE, 0.95, reason)
    if history.cause in _OF_ANOTHER:
        return _of_another(history, view)
    for rule in (_startup, _leak, _limit_too_low, _spike):
        if judgement := rule(history, view):
            return judgement
    return _unknown(history, view)


# It lives


def _forecast(history: MemoryHistory, view: View) -> Judgement:
    growth = find(view)
    stopped = lives_that_stopped(history, growth.trend) if growth else 0
    if growth and not stopped:
        trend = growth.trend
        sure = 0.6 if trend.seconds < DAY_RISES_SECONDS else 0.85 if trend.seconds < 2 * DAY_RISES_SECONDS else 0.99
        return _say_leak(history, view, growth, sure)
    if len(view.life.points) < LEAST_SAMPLES or view.life.seconds < _LEAST_SECONDS:
        return _unknown(history, view)
    reasons = [f"no growth in {human_seconds(view.life.seconds)} that stays, goes on and is more than its noise"]
    if growth:
        rose = f"{_size(growth.trend.rise)} in {human_seconds(growth.trend.seconds)}"
        lives = "the life before" if stopped == 1 else f"{stopped} lives before"
        reasons = [f"it grew by {rose}, as {lives} did at this age, and then no further"]
    if view.has_parts and (whole := find_growth(*series_of(view.bins), killed=False)):
        grown = f"{human_bytes(round(whole.rise))} in {human_seconds(whole.seconds)}"
        reasons.append(f"its working set grew, by {grown}, but by page cache: the kernel takes that back when it must")
    sure = 0.5 + 0.45 * (1 - exp(-view.life.seconds / (6 * HOUR)))
    if rises := _rises_now(view):
        reasons.append(rises)
        sure = min(sure, 0.6)
    return _say(history, view, Pattern.CALM, sure, *reasons)


def _rises_now(view: View) -> str | None:
    """It may be the load of a day, or the beginning of a leak."""
    if len(view.series) < 4 * LEAST_BINS:
        return None
    trend = trend_from(view.series, len(view.series) * 3 // 4)
    if trend.slope <= 0 or trend.strength < 10 or not is_highest(view.series, trend):
        return None
    return f"it rises now, by {_size(trend.rise)} in {human_seconds(trend.seconds)}: too short to tell from a load"


# It was killed


def _startup(history: MemoryHistory, view: View) -> Judgement | None:
    """Killed within its first minutes; again and again where more lives were seen."""
    if not view.life.started or view.life.seconds > STARTUP_SECONDS:
        return None
    if view.life.seconds > _LOADED_SECONDS and _leak(history, view):
        return None
    former = [life for life in history.lives[:-1] if life.killed]
    short = [life for life in former if life.seconds <= STARTUP_SECONDS]
    if len(short) * 2 < len(former) or (not former and _is_calm(view)):
        return None
    reasons = [f"killed {human_seconds(view.life.seconds)} after its start"]
    if short:
        ended_so = "was the life" if len(former) == 1 else f"were {len(short)} of {len(former)} lives"
        reasons.append(f"so {ended_so} before")
    sure = 0.95 if short else 0.8 if view.life.seconds < STARTUP_SECONDS / 4 else 0.6
    return _say(history, view, Pattern.STARTUP, sure, *reasons)


def _is_calm(view: View) -> bool:
    """Long enough to be past its start, and as large as it would be until it was killed."""
    used = [one.middle for one in view.bins[len(view.bins) // 3 :]]
    room = (view.limit or 0) - max(used)
    return view.life.seconds > STARTUP_SECONDS / 3 and max(used) - min(used) < max(0.3 * room, 0.1 * max(used))


def _leak(history: MemoryHistory, view: View) -> Judgement | None:
    """It grew steadily until the limit was met."""
    growth = find(view)
    if growth is None:
        return None
    trend = growth.trend
    if view.limit is not None:
        if trend.rise < (0.01 if trend.strength >= 30 else 0.03) * view.limit:
            return None
        # What was above the trend before may have been above it at the kill. What never was is a spike.
        above = max(0.0, *(one.high - trend.at(one.time) for one in growth.view.bins if one.time >= trend.since))
        reached = trend.at(view.life.points[-1].time) + above + trend.slope * view.gap
        if reached < 0.9 * view.limit:
            return None
    return _say_leak(history, view, growth, 0.99)


def _limit_too_low(history: MemoryHistory, view: View) -> Judgement | None:
    """No leak, and near the limit: just before, or again and again."""
    if view.limit is None or len(view.life.points) < LEAST_SAMPLES:
        return None
    recent = view.recent_use
    near = [one for one in view.bins if one.high >= NEAR * view.limit]
    often = len(near) >= max(3, 0.05 * len(view.bins))
    if recent < NEAR * view.limit and not often:
        return None
    used = f"{human_bytes(round(recent))}, {recent / view.limit:.0%} of its limit, in the time before the kill"
    reasons = [f"used {used}, without growing steadily"]
    if often:
        reasons.append(f"within {1 - NEAR:.0%} of its limit in {len(near) / len(view.bins):.0%} of its time")
    half = (len(view.bins) + 1) // 2
    before, later = (median(one.middle for one in bins) for bins in (view.bins[:half], view.bins[-half:]))
    rose = later - before > 0.1 * view.limit
    if rose:
        reasons.append(f"used {_size(later - before)} more in the second half of its life, but not steadily")
    sure = 0.9 if recent >= 0.92 * view.limit and often and not rose else 0.75
    return _say(history, view, Pattern.LIMIT_TOO_LOW, sure, *reasons)


def _spike(history: MemoryHistory, view: View) -> Judgement | None:
    """Far from the limit but a moment before."""
    last = view.calm[-1]
    limit = view.limit or (view.life.points[-1].working_set if len(view.life.points) > len(view.calm) else 0)
    recent = view.recent_use
    if len(view.life.points) < LEAST_SAMPLES or recent >= NEAR * limit:
        return None
    before = human_seconds(view.life.points[-1].time - last.time)
    came = "the rest came at once" if last.working_set < NEAR * limit else "so far it rose within that time"
    reasons = (
        f"used {_size(recent)}, {recent / limit:.0%} of the limit, in the time before the kill",
        f"{human_bytes(last.working_set)} in the last sample, {before} before: {came}",
    )
    sure = 0.9 if recent < 0.75 * limit else 0.7
    # In a long time without a sample much may have happened.
    usual = view.life.seconds / len(view.life.points)
    told = _say(history, view, Pattern.SPIKE, sure if view.gap < 5 * usual + 60 else 0.5, *reasons)
    return _with_growth(told, view)


def _with_growth(told: Judgement, view: View) -> Judgement:
    """What did not fill the limit may fill the next one."""
    growth = find(view)
    if growth is None or growth.trend.rise < 0.1 * (view.limit or 0):
        return told
    slope = growth.slope()[0] * HOUR
    return replace(
        told,
        confidence=min(told.confidence, 0.7),
        reasons=(*told.reasons, f"grew too, by {_size(slope)}/h for {human_seconds(growth.trend.seconds)}"),
        growth_bytes_per_hour=slope,
        growth_since=growth.since,
    )


def _of_another(history: MemoryHistory, view: View) -> Judgement:
    if history.cause is Cause.MANUAL:
        return _say(history, view, Pattern.UNKNOWN, 0.1, "somebody asked for the kill: no limit was hit")
    reason = f"the kernel says that another cgroup's limit was hit ({history.cause})"
    return _say(history, view, Pattern.UNKNOWN, 0.1, reason, missing=("the history of what hit its limit",))


def _unknown(history: MemoryHistory, view: View) -> Judgement:
    count = len(view.life.points)
    missing = []
    if count < LEAST_SAMPLES or view.life.seconds < _LEAST_SECONDS:
        samples = "1 sample" if count == 1 else f"{count} samples"
        missing.append(f"more of its history: {samples} in {human_seconds(view.life.seconds)} show no trend")
    if view.life.killed and view.limit is None:
        missing.append("its limit")
    return _say(history, view, Pattern.UNKNOWN, 0.1, missing=tuple(missing))


def _same_end(history: MemoryHistory) -> bool | None:
    """Killed, each time, after about the same time."""
    killed = [life.seconds for life in history.lives if life.killed]
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
        peak_is_cut=killed and history.cause not in NODE_PRESSURE | _OF_ANOTHER,
        limit_bytes=view.limit,
        life_seconds=view.life.seconds if killed and view.life.started else None,
        same_end=_same_end(history),
    )


def _say_leak(history: MemoryHistory, view: View, growth: Found, most: float) -> Judgement:
    """most: the confidence in the clearest of such trends."""
    trend = growth.trend
    slope, low, high = growth.slope()
    grows = growth.part()
    rate = f"{_size(slope * HOUR)}/h ({_size(low * HOUR)} to {_size(high * HOUR)})"
    rose = f"{_size(trend.rise)} in {human_seconds(trend.seconds)}"
    reasons = [f"its {grows or 'working set'} grew by {rate}, {rose}, and did not slow down"]
    if trend.spread:
        reasons.append(f"that is {trend.rise / trend.spread:.0f} times the spread about its line")
    left = None
    if view.limit is not None:
        left = growth.seconds_to(view.limit)
    return replace(
        _say(history, view, Pattern.LEAK, most * (1 - 0.5 * exp(-trend.strength / 12)), *reasons),
        growth_bytes_per_hour=slope * HOUR,
        growth_since=growth.since,
        seconds_to_limit=left,
        grows=grows,
    )


def _size(size: float) -> str:
    return human_bytes(round(size))
