"""
Up to which value of each cgroup's `oom_kill` every kill is told; what the counter has beyond that is missing.

memory.events count for everything below, and go on counting for what is gone: a container's kills stay in its pod, a
pod's in its slice. docs/decisions/0005-lines-against-counters.md tells why this and no list of what was seen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from collector.model import MemcgPath
from collector.parse.cgroup_path import is_same_or_ancestor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from collector.model import Counters

# Marks of `oom` that are kept for each cgroup: for naming the limit of a kill of the last seconds.
HITS = 16
ALWAYS = float("-inf")
# Missing kills of a cgroup that are told apart by time: a counter may say that it is millions.
MAX_NOTICED = 10_000
# Cgroups that a line named and that were not found yet; most never will be.
MAX_UNSEEN = 4096


class Baseline(NamedTuple):
    """What a restart goes on from, for one cgroup of this boot. `inode` 0: told of by lines, and not found yet."""

    path: MemcgPath
    inode: int
    told: int
    groups_told: int
    oom: int
    local_oom: int | None


class Missing(NamedTuple):
    """
    Kills that the counters know and nobody told, in `path` or in what was below it and is gone.

    `groups`: group kills among them, None where the kernel does not count those. `since`: when the first of them was
    noticed. `after`: it was not there yet at that time; None: not known. Both CLOCK_MONOTONIC seconds.
    """

    path: MemcgPath
    inode: int
    told: int
    kills: int
    groups: int | None
    group: bool
    since: float
    after: float | None


Spans = tuple[tuple[float, float], ...]


class LimitHit(NamedTuple):
    """`limited`: the one cgroup whose own limit was hit; `unlimited`: none in this tree was."""

    limited: MemcgPath | None
    unlimited: bool


@dataclass(slots=True, eq=False)
class _Cgroup:
    reading: Counters
    above: tuple[MemcgPath, ...]
    told: int
    groups_told: int
    # When `oom` moved between two readings: here (its own limit), and here or below.
    own_hits: Spans = ()
    hits: Spans = ()

    @property
    def short(self) -> int:
        return self.reading.oom_kill - self.told

    @property
    def groups_short(self) -> int:
        return (self.reading.oom_group_kill or 0) - self.groups_told


class Ledger:
    """
    The counters of a tree of cgroups, and what of them is told.

    baselines: of a former process in this boot; None: the first start ever, where what counters show is old.
    """

    def __init__(self, baselines: Mapping[MemcgPath, Baseline] | None) -> None:
        self._baselines = dict(baselines or {})
        self._first_start = baselines is None
        self._cgroups: dict[MemcgPath, _Cgroup] = {}
        self._unseen = {row.path: row for row in self._baselines.values() if not row.inode}
        self._short: set[MemcgPath] = set()
        self._gone: set[MemcgPath] = set()
        self._stale = False
        self._missing: dict[MemcgPath, tuple[int, int]] = {}
        self._noticed: dict[MemcgPath, deque[tuple[float, float | None]]] = {}
        self._changed: set[MemcgPath] = set()
        self._forgotten: set[MemcgPath] = set()

    def __contains__(self, path: object) -> bool:
        return path in self._cgroups

    def end_of_first_scan(self) -> None:
        """A cgroup that is found from now on is new. What is stored and was not found is gone."""
        self._first_start = False
        self._forgotten.update(path for path in self._baselines if path not in self._cgroups)
        self._baselines.clear()
        self._unseen.clear()

    def observe(self, counters: Counters) -> None:
        """Take a reading. Those above a cgroup have to come before it: what they owe bounds what it may owe."""
        cgroup = self._cgroups.get(counters.path)
        if cgroup is None or cgroup.reading.inode != counters.inode:
            self._begin(counters)
        else:
            _mark_hits(cgroup, counters)
            cgroup.reading = counters
            cgroup.told = min(cgroup.told, counters.oom_kill)
        self._touch(counters.path)

    def gone(self, path: MemcgPath, inode: int) -> None:
        """A cgroup whose kills are not all told is kept until they are: it knows better than its parent who died."""
        cgroup = self._cgroups.get(path)
        if cgroup is None or cgroup.reading.inode != inode:
            return
        if path in self._short:
            self._gone.add(path)
            self._stale = True
        else:
            self._forget(path)

    def tell(self, path: MemcgPath, kills: int, *, groups: int = 0) -> None:
        """A process in `path` was told as killed, `kills` times by the kernel's way of counting."""
        for above in upwards(path):
            cgroup = self._cgroups.get(above)
            if cgroup is None:
                self._remember(above, kills, groups)
            else:
                cgroup.told = min(cgroup.told + kills, cgroup.reading.oom_kill)
                cgroup.groups_told = min(cgroup.groups_told + groups, cgroup.reading.oom_group_kill or 0)
                self._touch(above)
        if self._noticed:
            self._notice()  # what is missing next in this place was noticed later than what was just told

    @property
    def short_since(self) -> float | None:
        """When the oldest of what is missing was noticed; None: nothing is."""
        self._notice()
        return min((noticed[0][0] for noticed in self._noticed.values()), default=None)

    def owes(self, path: MemcgPath) -> int:
        """Kills that nobody told, in `path` or below; for a path that is not known, in the nearest known above."""
        return min((cgroup.short for above in upwards(path) if (cgroup := self._cgroups.get(above))), default=0)

    def nearest(self, path: MemcgPath) -> MemcgPath | None:
        """The cgroup itself, else the nearest known above it."""
        return next((above for above in upwards(path) if above in self._cgroups), None)

    def group_at(self, path: MemcgPath) -> MemcgPath | None:
        """The uppermost cgroup at or above `path` that is killed whole."""
        groups = [above for above in upwards(path) if (known := self._cgroups.get(above)) and known.reading.group]
        return groups[-1] if groups else None

    def missing_in(self, path: str) -> list[MemcgPath]:
        """The cgroups at or below `path` that miss a kill."""
        return [known for known in self._notice() if is_same_or_ancestor(path, known)]

    def missing(self) -> list[Missing]:
        """What is missing, each at the deepest cgroup that shows it; the oldest first."""
        found = []
        for path, (kills, groups) in self._notice().items():
            cgroup, noticed = self._cgroups[path], self._noticed[path]
            reading = cgroup.reading
            found.append(
                Missing(
                    path=path,
                    inode=reading.inode,
                    told=cgroup.told,
                    kills=kills,
                    groups=None if reading.oom_group_kill is None else groups,
                    group=bool(reading.group),
                    since=noticed[0][0],
                    after=noticed[0][1],
                )
            )
        return sorted(found, key=lambda missing: missing.since)

    def limit_hit(self, path: MemcgPath, start: float, end: float) -> LimitHit:
        """Whose own limit, at or above `path`, was hit between these times (CLOCK_MONOTONIC seconds)."""
        chain = [cgroup for above in upwards(path) if (cgroup := self._cgroups.get(above)) is not None]
        hit = [cgroup.reading.path for cgroup in chain if _overlaps(cgroup.own_hits, start, end)]
        # The uppermost counts for all below it.
        quiet = bool(chain) and not _overlaps(chain[-1].hits, start, end)
        return LimitHit(limited=hit[0] if len(hit) == 1 else None, unlimited=quiet)

    def take_changes(self) -> tuple[list[Baseline], list[MemcgPath]]:
        """Baselines to be stored and paths whose baselines to be removed, since the last call."""
        stored = [self._unseen[path] for path in self._changed if path in self._unseen]
        stored += [
            Baseline(path, reading.inode, cgroup.told, cgroup.groups_told, reading.oom, reading.local_oom)
            for path in self._changed
            if (cgroup := self._cgroups.get(path)) is not None
            and ((reading := cgroup.reading).oom_kill or reading.oom or reading.local_oom)
        ]
        forgotten = [path for path in self._forgotten if path not in self._cgroups and path not in self._unseen]
        self._changed.clear()
        self._forgotten.clear()
        return stored, forgotten

    def _begin(self, counters: Counters) -> None:
        stored = self._baselines.get(counters.path)
        baseline = stored if stored is not None and stored.inode == counters.inode else None
        groups = counters.oom_group_kill or 0
        if self._first_start:
            told, groups_told = counters.oom_kill, groups
        elif baseline is not None:
            told, groups_told = min(baseline.told, counters.oom_kill), min(baseline.groups_told, groups)
        else:
            told, groups_told = self._told_before(counters)
        cgroup = _Cgroup(counters, tuple(_above(counters.path)), told, groups_told)
        if not self._first_start:
            span = ((ALWAYS, counters.at),)
            if counters.oom > (baseline.oom if baseline else 0):
                cgroup.hits = span
            if (counters.local_oom or 0) > ((baseline.local_oom or 0) if baseline else 0):
                cgroup.own_hits = span
        self._cgroups[counters.path] = cgroup
        self._gone.discard(counters.path)

    def _told_before(self, counters: Counters) -> tuple[int, int]:
        """Of a new cgroup's kills and group kills, those that were told before it was found."""
        groups = counters.oom_group_kill or 0
        line = self._unseen.pop(counters.path, None)
        told, groups_told = (line.told, line.groups_told) if line is not None else (0, 0)
        # At least what its parents do not miss any more.
        owed = [self._cgroups[above].short for above in _above(counters.path) if above in self._cgroups]
        told = min(counters.oom_kill, max(told, counters.oom_kill - min(owed) if owed else 0))
        return told, groups if told == counters.oom_kill else min(groups, groups_told)

    def _remember(self, path: MemcgPath, kills: int, groups: int) -> None:
        known = self._unseen.pop(path, None) or Baseline(path, 0, 0, 0, 0, None)
        self._unseen[path] = known._replace(told=known.told + kills, groups_told=known.groups_told + groups)
        self._changed.add(path)
        if len(self._unseen) > MAX_UNSEEN:
            oldest = next(iter(self._unseen))
            del self._unseen[oldest]
            self._forgotten.add(oldest)

    def _forget(self, path: MemcgPath) -> None:
        del self._cgroups[path]
        self._gone.discard(path)
        self._short.discard(path)
        self._changed.discard(path)
        self._forgotten.add(path)

    def _touch(self, path: MemcgPath) -> None:
        self._changed.add(path)
        is_short = self._cgroups[path].short > 0
        self._stale = self._stale or is_short or path in self._short
        if is_short:
            self._short.add(path)
        else:
            self._short.discard(path)

    def _own(self) -> dict[MemcgPath, tuple[int, int]]:
        """How many kills, and group kills, each cgroup misses that none below it is proved to miss."""
        below: dict[MemcgPath | None, list[MemcgPath]] = {}
        for path in self._short:
            parent = next((above for above in self._cgroups[path].above if above in self._cgroups), None)
            below.setdefault(parent, []).append(path)
        own: dict[MemcgPath, tuple[int, int]] = {}
        tops = [(path, self._cgroups[path].short) for path in below.get(None, ())]
        while tops:
            path, kills = tops.pop()
            children = {child: self._cgroups[child].short for child in below.get(path, ())}
            # More than their parent misses: some of theirs were told before they were found, nobody knows whose.
            surplus = max(0, sum(children.values()) - kills)
            proved = {child: max(0, short - surplus) for child, short in children.items()}
            tops += proved.items()
            kills -= sum(proved.values())
            groups = self._cgroups[path].groups_short - sum(self._cgroups[child].groups_short for child in children)
            if kills > 0:
                own[path] = kills, max(0, groups)
        return own

    def _notice(self) -> dict[MemcgPath, tuple[int, int]]:
        """
        What _own() says, with the time of each missing kill kept. The gone of which nothing is missing are forgotten.

        A counter's last reading has noticed what it shows: nothing is worked out before somebody asks.
        """
        if not self._stale:
            return self._missing
        self._stale = False
        own = self._missing = self._own() if self._short else {}
        for path, (kills, _) in own.items():
            noticed, reading = self._noticed.setdefault(path, deque()), self._cgroups[path].reading
            while len(noticed) > kills:
                noticed.popleft()
            noticed.extend([(reading.at, reading.after)] * (min(kills, MAX_NOTICED) - len(noticed)))
        for path in self._noticed.keys() - own.keys():
            del self._noticed[path]
        for path in self._gone - own.keys():
            self._forget(path)
        return own


def _mark_hits(cgroup: _Cgroup, counters: Counters) -> None:
    span = (cgroup.reading.at if counters.after is None else counters.after, counters.at)
    if counters.oom > cgroup.reading.oom:
        cgroup.hits = (*cgroup.hits[1 - HITS :], span)
    if (counters.local_oom or 0) > (cgroup.reading.local_oom or 0):
        cgroup.own_hits = (*cgroup.own_hits[1 - HITS :], span)


def _overlaps(spans: Spans, start: float, end: float) -> bool:
    return any(first <= end and last >= start for first, last in spans)


def upwards(path: MemcgPath) -> Iterator[MemcgPath]:
    """The path itself, and all above it up to "/"."""
    yield path
    yield from _above(path)


def _above(path: MemcgPath) -> Iterator[MemcgPath]:
    names = path.rstrip("/")
    while names:
        names = names.rpartition("/")[0]
        yield MemcgPath(names or "/")
