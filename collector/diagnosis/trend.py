"""
Whether memory grows steadily, how fast, and since when.

What looks like growth and is none is told by what growth must do:

- be more than chance: against the spread about its line, which counts as often as it is independent (`strength`);
- go on: it does not slow down, as what fills or warms up does (`_goes_on`);
- stay: what was given back before may be given back again (`_stays`);
- be gradual: a few steps are what was loaded once (`climbs_by_steps`).

Where a container lives, nothing but its history speaks for a leak, and a false alarm is worse than silence: then the
load of a day has to be excluded too (`_no_day`). Where it was killed at its limit, something is known to be wrong.

Growth is looked for in the series as it is; then less what each hour of the day has above the others; then in the floor
below its cycles, as of a garbage collector.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.robust import LEAST_BINS, Series, crossings, independent, median, opened, theil_sen, troughs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Rule = Callable[[Series, "Trend"], bool]

MIB = 1 << 20
HOUR = 3600.0
DAY = 24 * HOUR
LEAST_RISE = 2 * MIB
LEAST_SECONDS_KILLED = 600.0
LEAST_SECONDS_SHORT = 300.0
"""Of a life that was killed within minutes, of which the growth has to be most."""
LEAST_SECONDS_ALIVE = 0.25 * HOUR
DAY_RISES_SECONDS = 9 * HOUR
"""So long the load of a day may rise as straight as a leak."""
RISES_SECONDS = 12 * HOUR
"""The same, as a wave."""
MORNING_SECONDS = 6 * HOUR
"""The same, out of a flat night."""

_CERTAIN = 1e6
"""The strength of a line without any spread."""
_BEND = 0.6
"""What two lines leave of the squares that one line leaves, where there is a bend."""
_STEPS = 4
"""So many may be what was loaded, or filled, one after the other."""


class Trend(NamedTuple):
    """
    A line through the end of a series, from the value `start` on.

    `slope`, in units a second, is of least squares while it is looked for, and of Theil and Sen where it was found;
    then it has the bounds between which it is in 19 of 20 cases. `level`: of the line at the end. `spread`: standard
    deviation about it. `strength`: rise by its own uncertainty. `early`, `late`: slopes of both halves; `thirds`: of
    each.
    """

    start: int
    since: float
    until: float
    slope: float
    level: float
    spread: float
    strength: float
    early: float
    late: float
    thirds: tuple[float, float, float]
    low: float
    high: float

    @property
    def rise(self) -> float:
        return self.slope * self.seconds

    @property
    def seconds(self) -> float:
        return self.until - self.since

    @property
    def straightness(self) -> float:
        """1: as steep at both ends as in the middle; half of it: half a wave."""
        first, middle, last = self.thirds
        return min(first, last) / middle if middle > 0 else 1.0

    def at(self, time: float) -> float:
        return self.level + self.slope * (time - self.until)


def find_growth(series: Series, lows: Series, *, killed: bool) -> Trend | None:
    """
    The steady growth up to the end of a series of bytes. killed: it ends at a limit.

    lows: the least that was seen about each time of the series, where there is more than one value.
    """
    holds = _holds_of_killed if killed else _holds_of_living
    if len(series) < LEAST_BINS:
        return None
    trend = _longest(series, holds)
    if trend is None and (even := without_days(series)):
        trend = _longest(even, holds)
        # What is left of less than that shows what was taken away, turned round.
        trend = trend if trend and trend.seconds >= 1.5 * DAY and trend.rise >= 0.25 * _swing(series, even) else None
    if trend is None:
        floors = (_longest(floor, holds) for floor in floors_of(series, lows))
        trend = next((one for one in floors if one and _is_floor(lows, one)), None)
    if trend is None or climbs_by_steps(series, trend):
        return None
    return trend


def trend_from(series: Series, start: int) -> Trend:
    line = series.line(start)
    count = len(series) - start
    worth = independent(series.residuals(line, start))
    since, until = series.times[start], series.times[-1]
    error = line.spread * sqrt(12 / worth)
    rise = line.slope * (until - since)
    half, third = start + count // 2, count // 3
    return Trend(
        start=start,
        since=since,
        until=until,
        slope=line.slope,
        low=line.slope,
        high=line.slope,
        level=line.at(until),
        spread=line.spread,
        strength=min(rise / error, _CERTAIN) if error else _CERTAIN if rise > 0 else 0.0,
        early=series.line(start, half).slope,
        late=series.line(half).slope,
        thirds=(
            series.line(start, start + third).slope,
            series.line(start + third, len(series) - third).slope,
            series.line(len(series) - third).slope,
        ),
    )


# Where it begins


def _longest(series: Series, holds: Rule) -> Trend | None:
    """The longest trend up to the end that holds, from where it bent last."""
    count = len(series)
    if count < LEAST_BINS:
        return None
    least = max(LEAST_BINS, count // 10)
    noise = series.noise()
    for start in range(0, count - least + 1, max(1, count // 24)):
        line = series.line(start)
        rise = line.slope * (series.times[-1] - series.times[start])
        if rise > 0 and line.spread <= max(1.7 * noise, 0.12 * rise):
            trend = trend_from(series, start)
            if holds(series, trend):
                return _robust(series, _from_the_bend(series, trend, least, holds))
    return None


def _robust(series: Series, trend: Trend) -> Trend:
    worth = independent(series.residuals(series.line(trend.start), trend.start))
    slope, low, high = theil_sen(series.times[trend.start :], series.values[trend.start :], worth)
    return trend._replace(slope=slope, low=low, high=high)


def _from_the_bend(series: Series, trend: Trend, least: int, holds: Rule) -> Trend:
    """
    Of two lines instead of one the later, if they fit far better and are not much the same.

    Looked for from before the trend, for the longest line that passes for straight has the end of what was before.
    """
    begin = max(0, trend.start - (len(series) - trend.start) // 2)
    bend, squares = begin, inf
    for start in range(begin + 3, len(series) - least + 1):
        both = series.squares(begin, start) + series.squares(start)
        if both < squares:
            bend, squares = start, both
    if bend <= trend.start or squares > _BEND * series.squares(begin):
        return trend
    later, before = trend_from(series, bend), series.line(trend.start, bend)
    if 0.8 < later.slope / trend.slope < 1.25 and before.slope > 0.5 * trend.slope:
        return trend
    return later if holds(series, later) else trend


# What must hold


def _holds_of_killed(series: Series, trend: Trend) -> bool:
    return (
        trend.slope > 0
        and trend.strength >= 5
        and trend.seconds >= min(LEAST_SECONDS_KILLED, max(LEAST_SECONDS_SHORT, 0.6 * series.seconds))
        and trend.rise >= LEAST_RISE
        and trend.late >= 0.5 * trend.slope
        and _goes_on(series, trend, 0.6, 0.55)
        and _stays(series, trend, 1.5)
        and not climbs_by_steps(series, trend)
    )


def _holds_of_living(series: Series, trend: Trend) -> bool:
    return (
        trend.slope > 0
        and trend.strength >= 10
        and trend.seconds >= LEAST_SECONDS_ALIVE
        and trend.rise >= max(LEAST_RISE, 0.002 * trend.level)
        and trend.late >= 0.8 * trend.slope
        and trend.thirds[2] >= 0.7 * trend.slope
        and _no_day(series, trend)
        and _goes_on(series, trend, max(0.75, 0.87 - 2 / trend.strength), 0.75)
        and _stays(series, trend, 2.0)
        and not climbs_by_steps(series, trend)
    )


def _no_day(series: Series, trend: Trend) -> bool:
    """It is no rising part of a daily load: too long or too straight for that, or higher than on the days before."""
    before = trend.since - series.times[0]
    whole = before <= 0.08 * trend.seconds or _grew_as_fast_before(series, trend)
    if trend.seconds >= 16 * HOUR:
        # By so much a third of a noisy line may be off.
        return trend.straightness + 5 / trend.strength >= 0.75
    if before >= DAY and trend.level - max(series.values[: trend.start]) >= 0.5 * trend.rise:
        return trend.seconds >= 3 * HOUR and trend.straightness >= 0.8
    if trend.seconds >= DAY_RISES_SECONDS:
        flat = trend.seconds >= RISES_SECONDS or whole or _was_flat_before(series, trend)
        return trend.straightness >= 0.8 and flat
    if trend.seconds >= MORNING_SECONDS and _was_flat_before(series, trend):
        return trend.straightness >= 0.85
    if trend.seconds < 0.75 * HOUR:
        # What starts up, or fills a cache, has not come to rest yet.
        return whole and trend.straightness >= 0.9 and trend.strength >= 20 and trend.rise >= 0.2 * trend.level
    return whole and trend.straightness >= 0.85 and trend.rise >= 0.05 * trend.level


def _grew_as_fast_before(series: Series, trend: Trend) -> bool:
    """Or about as fast: up to a step, as where a cache was loaded in one go, or to another pace."""
    if trend.start < LEAST_BINS:
        return False
    before = trend_from(Series(series.times[: trend.start], series.values[: trend.start]), 0)
    # No load of a day rises for so long, and ever faster.
    least = 0.05 if before.seconds + trend.seconds >= RISES_SECONDS and before.strength >= 10 else 0.4
    return before.strength >= 5 and least <= before.slope / trend.slope <= 2.5


def _was_flat_before(series: Series, trend: Trend) -> bool:
    """For as long as it grows at least: a wave bends before it rises."""
    if trend.since - series.times[0] < trend.seconds or trend.start < LEAST_BINS:
        return False
    before = sorted(series.values[: trend.start])
    return before[-1 - len(before) // 20] - before[len(before) // 20] <= 0.15 * trend.rise


def _goes_on(series: Series, trend: Trend, halves: float, doublings: float) -> bool:
    """
    It does not slow down.

    halves: of the slope of its first half, that of the second must be so much. doublings: so must that of the second
    half of the life, of that of the second quarter: what grows with the logarithm of time halves its slope.
    """
    if trend.late < halves * trend.early:
        return False
    if trend.start < 3:
        return True
    begins = (0, max(0, 2 * trend.start - len(series)))
    if max(series.line(begin, trend.start).slope for begin in begins) <= 1.15 * trend.slope:
        return True
    # It grew faster before. A leak is steady once all has warmed up.
    if trend.seconds >= 0.5 * series.seconds and trend.straightness >= 0.92 and trend.strength >= 40:
        return True  # at another pace, for as long: what fills up slows down all the time
    quarter, half = (series.index_at(series.times[0] + share * series.seconds) for share in (0.25, 0.5))
    if trend.late < 0.8 * trend.early or trend.strength < 20 or half - quarter < 3:
        return False
    return series.line(half).slope >= doublings * series.line(quarter, half).slope


def _stays(series: Series, trend: Trend, longer: float) -> bool:
    """It is new that memory is so high; or it has risen for so many times as long as all that went before."""
    if not trend.start:
        return True
    most = max(series.values[: trend.start])
    fell = most - (trend.level - trend.rise) > 0.4 * trend.rise
    is_new = trend.level - most >= 0.5 * trend.rise
    return not fell or is_new or trend.seconds >= longer * (trend.since - series.times[0])


def climbs_by_steps(series: Series, trend: Trend) -> bool:
    """A few steps explain it better than a line: a cache that was filled, a configuration that was loaded."""
    start = series.index_at(trend.since)
    times, values = series.times[start:], series.values[start:]
    count = len(values)
    if count < 4 * _STEPS:
        return False
    waits = [0.0, *(later - one for one, later in pairwise(times))]
    usual = median(waits)
    # Behind a gap a ramp is higher too.
    places = [at for at in range(3, count - 2) if waits[at] <= 3 * usual]
    steps = {at: median(values[at : at + 3]) - median(values[at - 3 : at]) for at in places}
    taken: dict[int, float] = {}
    for at in sorted(steps, key=lambda at: steps[at] + values[at] - values[at - 1], reverse=True):
        if all(abs(at - other) > 3 for other in taken):
            taken[at] = steps[at]
        if len(taken) == _STEPS:
            break
    climbed = accumulate(taken.get(at, 0.0) for at in range(count))
    rest = Series(times, [value - height for value, height in zip(values, climbed, strict=True)]).line()
    line = series.line(start)
    return rest.slope < 0.3 * line.slope and rest.spread < 0.5 * line.spread


def _is_floor(series: Series, trend: Trend) -> bool:
    """Nothing is below it, nor what came after the floor was seen last."""
    above = (value - trend.at(at) for at, value in zip(series.times, series.values, strict=True) if at >= trend.since)
    return min(above, default=0.0) >= -3 * trend.spread


# Days and cycles


def without_days(series: Series) -> Series | None:
    """
    Less what each hour of the day has above the others. None: too short to tell, or no such load.

    Two days at least, for within one a load and a trend look the same.
    """
    if series.seconds < 1.9 * DAY:
        return None
    hours = int(min(24, len(series) * DAY / series.seconds))
    if hours < 4:
        return None
    hour_of = [int((at - series.times[0]) / DAY * hours) % hours for at in series.times]
    slope = _slope_by_days(series)
    flat = [value - slope * (at - series.times[0]) for at, value in zip(series.times, series.values, strict=True)]
    above = [value - mean for value, mean in zip(flat, _means_of_days(series.times, flat), strict=True)]
    usual = [
        median([one for one, own in zip(above, hour_of, strict=True) if own == hour] or [0.0]) for hour in range(hours)
    ]
    mean = sum(usual) / hours
    values = [value - usual[hour] + mean for value, hour in zip(series.values, hour_of, strict=True)]
    rest = sum((one - usual[hour]) ** 2 for one, hour in zip(above, hour_of, strict=True))
    days = series.seconds / DAY  # so much less of it is left by chance
    return Series(series.times, values) if rest < 0.64 * (1 - 1 / days) * sum(one * one for one in above) else None


def _swing(series: Series, even: Series) -> float:
    """Of the load that was taken away."""
    load = [value - other for value, other in zip(series.values, even.values, strict=True)]
    return max(load) - min(load)


def _slope_by_days(series: Series) -> float:
    """From the same hours of successive days."""
    times, values = series.times, series.values
    slopes = []
    other = 0
    for index, at in enumerate(times):
        while times[other] < at - DAY * 1.02:
            other += 1
        if abs(at - DAY - times[other]) < DAY * 0.03:
            slopes.append((values[index] - values[other]) / (at - times[other]))
    return median(slopes) if slopes else 0.0


def _means_of_days(times: Sequence[float], values: Sequence[float]) -> list[float]:
    """Of the day around each value; at the ends, of the first and the last day."""
    sums = [0.0, *accumulate(values)]
    means = []
    low = high = 0
    for at in times:
        begin = min(max(at - DAY / 2, times[0]), times[-1] - DAY)
        while times[low] < begin:
            low += 1
        while high < len(times) and times[high] < begin + DAY:
            high += 1
        means.append((sums[high] - sums[low]) / max(high - low, 1))
    return means


def floors_of(series: Series, lows: Series) -> Iterator[Series]:
    """What its cycles come down to, then its days, where there are enough; less the last one, which may go on."""
    count = len(series)
    line = series.line()
    if line.spread < 0.1 * abs(line.slope) * series.seconds:
        return
    crossed = crossings(series.residuals(line))
    if crossed >= 2 * LEAST_BINS:
        lowest = troughs(lows.values, max(1, round(0.7 * count / crossed)))
        if lowest:
            yield Series([lows.times[at] for at in lowest], [lows.values[at] for at in lowest])
    width = round(count * DAY / series.seconds) if series.seconds >= 3 * DAY else count
    if 1 < width <= count // 3:
        end = count - width + 1
        yield Series(lows.times[:end], opened(lows.values, width)[:end])
