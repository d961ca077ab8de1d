"""One life as the rules look at it: binned, and what cannot be reclaimed apart from the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.robust import Bin, Series, bin_up, despiked, median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collector.diagnosis.model import Life, Point

PARTS = ("anon", "shmem", "kernel")
"""What cannot be reclaimed. The rest of a working set is page cache that was used lately."""
LEAST_SAMPLES = 5

_HELD = 0.975
"""Of the limit: what is above is held there, by reclaim."""
_RECENT_SECONDS = 1800.0


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
    def recent_use(self) -> float:
        """The working set of the last half hour, or tenth of its life, or ten samples, before the kill."""
        until = self.calm[-1].time
        since = until - min(_RECENT_SECONDS, 0.1 * (until - self.calm[0].time))
        sizes = [point.working_set for point in self.calm[-400:] if point.time >= since]
        return median(sizes if len(sizes) >= 10 else [point.working_set for point in self.calm[-10:]])


def view_of(life: Life) -> View:
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
    series, lows = series_of(fine)
    return View(life=life, calm=calm, limit=limit, bins=bins, series=series, lows=lows, has_parts=has_parts, gap=gap)


def series_of(bins: Sequence[Bin]) -> tuple[Series, Series]:
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
    if not LEAST_SAMPLES < end < len(points):
        return points
    until = points[end - 1].time
    return points[:end] if points[-1].time - until < 0.25 * (until - points[0].time) else points


def _unreclaimable(point: Point) -> int:
    return sum(getattr(point, part) or 0 for part in PARTS)
