"""
Samples become a history: lines of a file, or what the agent has kept.

A file may hold a sample a second for weeks. It is thinned while it is read: of a life less than twice MAX_POINTS stay,
each for as many samples, with the least and most of their working sets.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from collector.diagnosis.model import Life, MemoryHistory, Point
from collector.model import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collector import history

MAX_POINTS = 4096
MAX_LIVES = 100
_EXIT_SECONDS = 2.0
"""So long the memory of a killed container may still be seen."""
_UNSEEN_SECONDS = 600.0
"""A container that is killed so soon after it was killed before died at its start, if nothing else was seen of it."""
_FORMER_POINTS = 512
"""Of a life that is not the last one."""
_NO_LIMIT = 1 << 62
"""From here on a limit is none: cgroup v1 has 2**63 less a page for it."""
_MOST_SECONDS = 1e15
_CAUSES = {cause.value: cause for cause in Cause}


class Timeline:
    """
    Rows in, a history out. Memory stays bounded.

    A sample after a kill begins another life, for the memory of the killed one was given back. `disordered`: rows left
    out because their time was before that of others.
    """

    def __init__(self, *, limit_bytes: int | None = None) -> None:
        """limit_bytes: of all samples, whatever they say."""
        self.disordered = 0
        self.samples = 0
        self._fixed_limit = limit_bytes
        self._limit: int | None = None
        self._lives: deque[Life] = deque(maxlen=MAX_LIVES)
        self._points = _Thinned()
        self._started = False
        self._revision: str | None = None
        self._cause: Cause | None = None

    def add(self, row: Mapping[str, object]) -> bool:
        """
        One sample, by the keys that docs/diagnosis.md tells. False: it is none.

        A row of an event may lack the working set.
        """
        event, at = row.get("event"), _number(row.get("time"), -_MOST_SECONDS)
        if event == "start":
            self._end(killed=False)
            self._started = True
        working_set = _size(row.get("working_set_bytes"))
        if at is None or (working_set is None and event not in ("start", "oom_kill")):
            return False
        if working_set is not None:
            self._add_point(row, at, working_set)
        if event == "oom_kill":
            cause = row.get("cause")
            self._cause = _CAUSES.get(cause) if isinstance(cause, str) else None
            self._end(killed=True)
        return True

    def history(self) -> MemoryHistory | None:
        """None: there was no sample."""
        lives, cause = list(self._lives), self._cause
        life = self._life(killed=False)
        if life is not None:
            lives.append(life)
            cause = None
        return MemoryHistory(lives=tuple(lives), cause=cause) if lives else None

    def _add_point(self, row: Mapping[str, object], at: float, working_set: int) -> None:
        if isinstance(revision := row.get("revision"), str | int):
            self._begin_revision(str(revision))
        if "limit_bytes" in row:
            limit = _size(row["limit_bytes"])
            self._limit = limit if limit and limit < _NO_LIMIT else None
        parts = (_size(row.get(f"{name}_bytes")) for name in ("anon", "file", "shmem", "kernel"))
        limit = self._limit if self._fixed_limit is None else self._fixed_limit
        self.disordered += not self._points.add(Point(at, working_set, working_set, working_set, limit, *parts))
        self.samples += 1

    def _begin_revision(self, revision: str) -> None:
        """No container changes its revision: another one has begun."""
        if self._revision not in (None, revision) and self._points.all():
            self._end(killed=False)
            self._started = True
        self._revision = revision

    def _end(self, *, killed: bool) -> None:
        """A second kill of one moment, or one before any sample, ends nothing."""
        life = self._life(killed=killed)
        if life is not None:
            if self._lives:
                former = self._lives[-1]
                self._lives[-1] = replace(former, points=_thin(former.points, _FORMER_POINTS))
            self._lives.append(life)
        self._points = _Thinned()
        self._started = False

    def _life(self, *, killed: bool) -> Life | None:
        """None: nothing was seen of it but what the one before left while it exited."""
        points, started = self._points.all(), self._started
        if not points:
            return None
        if self._lives and self._lives[-1].killed and not started:
            since_kill = points[-1].time - self._lives[-1].points[-1].time
            if not killed and since_kill <= _EXIT_SECONDS:
                return None
            # The next kill came before a sample did.
            started = killed and len(points) == 1 and since_kill <= _UNSEEN_SECONDS
        return Life(points=points, started=started, killed=killed, revision=self._revision)


class _Thinned:
    """Points in order of time, every `_stride` samples one."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._stride = 1
        self._open: list[Point] = []

    def add(self, point: Point) -> bool:
        """
        False: one was left out.

        Of two that are in the wrong order it is the earlier one where that was ahead of its time, as one wild clock
        reading would otherwise cost all that follows.
        """
        kept = True
        last = self._open or self._points
        if last and point.time < last[-1].time:
            kept = False
            if len(last) > 1 and point.time < last[-2].time:
                return False
            last.pop()
        self._open.append(point)
        if len(self._open) >= self._stride:
            self._points.append(_merge(self._open))
            self._open = []
        if len(self._points) >= 2 * MAX_POINTS:
            self._points = [_merge(self._points[index : index + 2]) for index in range(0, len(self._points), 2)]
            self._stride *= 2
        return kept

    def all(self) -> tuple[Point, ...]:
        """The last sample is a point of its own."""
        last = [_merge(self._open[:-1])] if len(self._open) > 1 else []
        return (*self._points, *last, *self._open[-1:])


def from_life(
    kept: history.Life,
    *,
    started: bool = False,
    killed: bool = False,
    revision: str | None = None,
    until: float | None = None,
    samples: bool = True,
) -> Life:
    """
    What the agent has sampled: a day, ten minutes at a time, then an hour, unless without `samples`. What was sampled
    after `until` is left out.

    Raises ValueError where nothing was sampled by then.
    """
    last_hour = list(kept.read_samples()) if samples else []
    bins = list(kept.read_bins())
    limits = _Limits(bins)
    began = last_hour[0][0] if last_hour else inf
    points = [_of_bin(one, limits.at(one.at)) for one in bins if one.at < began]
    for at, read in last_hour:
        size, limit = read.working_set, limits.at(at)
        points.append(Point(at, size, size, size, limit, read.anon, read.file, read.shmem, read.kernel))
    if until is not None:
        points = [point for point in points if point.time <= until]
    if not points:
        raise ValueError("no sample by then")
    return Life(points=tuple(points), started=started, killed=killed, revision=revision)


class _Limits:
    """Of a kept life, asked in the order of time. Each holds from the beginning of the bin in which it was read."""

    def __init__(self, bins: list[history.Bin]) -> None:
        ends = [-inf, *(one.at for one in bins)]
        self._known = [(end, one.bounds.limit) for end, one in zip(ends, bins, strict=False) if one.bounds]
        self._current = 0

    def at(self, time: float) -> int | None:
        while self._current + 1 < len(self._known) and self._known[self._current + 1][0] < time:
            self._current += 1
        return self._known[self._current][1] if self._known else None


def _of_bin(one: history.Bin, limit: int | None) -> Point:
    # Its last working set was not kept. The parts are of that reading, so it was no less than their sum.
    parts = one.anon + one.shmem + (one.kernel or 0)
    last = min(max(parts, one.least_working_set), one.most_working_set)
    least, most = one.least_working_set, one.most_working_set
    return Point(one.at, last, least, most, limit, one.anon, one.file, one.shmem, one.kernel)


def _thin(points: tuple[Point, ...], most: int) -> tuple[Point, ...]:
    stride = -(-len(points) // most)
    if stride <= 1:
        return points
    *rest, last = points
    return (*(_merge(rest[index : index + stride]) for index in range(0, len(rest), stride)), last)


def _merge(points: list[Point]) -> Point:
    if len(points) == 1:
        return points[0]
    return points[-1]._replace(least=min(point.least for point in points), most=max(point.most for point in points))


def _number(value: object, least: float = 0.0) -> float | None:
    """None: no number, or none that can be meant. JSON's true is an int of Python's."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if least <= value <= _MOST_SECONDS else None


def _size(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 1 << 63 else None
