"""
Who will meet the limit: asked of every container of a node each minute.

So a cheap look decides who is looked at well: where the floor of late is not the highest that was seen, nothing grows.
A day of history is all there is, and a false alarm is worse than silence: what `judge` is not sure of is not told.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.model import MemoryHistory, Pattern
from collector.diagnosis.pattern import judge
from collector.diagnosis.timeline import from_life
from collector.history import BINS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collector.history import Life

SURE = 0.8
"""The confidence from which on a trend is told."""

_LEAST_WORKING_SET = 4
"""Its column in a life's bins; in pages."""
_LEAST_PAGES = 512
"""2 MiB: what grows by less is not told of."""
_PARTS = 12
"""Of a day: two hours each, longer than most cycles."""
_BINS_ARE_ENOUGH = 36
"""Six hours of them: what the samples of the last hour add is little, and reading them is most of the cost."""


class Trend(NamedTuple):
    """`since`: by the clock of the history. `seconds_to_limit`: from now; None: there is no limit."""

    growth_bytes_per_second: float
    seconds_to_limit: float | None
    since: float
    observed_seconds: float
    confidence: float


def look(life: Life, *, limit: int | None, now: float) -> Trend | None:
    """The steady growth of a container that lives, as `judge` sees it. limit: in force now; None: there is none."""
    if not might_grow(life):
        return None
    seen = from_life(life, samples=len(life.bins) < _BINS_ARE_ENOUGH)
    judgement = judge(MemoryHistory(lives=(seen,)))
    growth, since = judgement.growth_bytes_per_hour, judgement.growth_since
    if judgement.pattern is not Pattern.LEAK or judgement.confidence < SURE or not growth or since is None:
        return None
    last, left = seen.points[-1], judgement.seconds_to_limit
    if limit is None:
        left = None
    elif left is None or judgement.limit_bytes is None:
        left = (limit - last.working_set) * 3600 / growth
    else:  # it may be another since the last sample
        left += (limit - judgement.limit_bytes) * 3600 / growth
    if left is not None:
        left = max(0.0, left - (now - last.time))
    return Trend(growth / 3600, left, since, last.time - since, judgement.confidence)


def might_grow(life: Life) -> bool:
    """
    False: `judge` would find nothing, as it is not highest now, or has risen little of late; or it was as high before,
    and what was before that is forgotten: it may be given back each night.
    """
    floors = life.bins.column(_LEAST_WORKING_SET)
    size = -(-len(floors) // _PARTS)
    parts = [min(floors[max(0, end - size) : end]) for end in range(len(floors), 0, -size)]
    if len(parts) < 2:
        return False
    now, highest = parts[0], max(parts)
    rise = highest - min(parts)
    if len(floors) == BINS and _was_given_back(floors, now - rise / 2):
        return False
    return rise >= _LEAST_PAGES and now >= highest - rise / 10 and now - parts[min(3, len(parts) - 1)] >= rise / 10


def _was_given_back(floors: Sequence[int], high: float) -> bool:
    """From so high, in a fall unlike those since: not by a garbage collector."""
    lowest = floors.index(min(floors))
    before, since = max(floors[:lowest], default=0), floors[lowest:]
    fell = max(most - floor for most, floor in zip(accumulate(since, max), since, strict=True))
    return before > high and fell < (before - floors[lowest]) / 2
