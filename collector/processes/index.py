"""
Which process had a pid, and in which memcg: known before it dies, and kept for a while after.

It learns from three sides: what /proc tells of a process (`seen`), the proc connector's events (`follow`), and passes
over the containers' cgroup.procs (`unread`, `missing`). It reads nothing itself, and does not lock: whoever shares it
does.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from collector.model import MemcgPath
from collector.parse.cgroup_path import Level, is_same_or_ancestor, parse_memcg_path
from collector.processes.events import EXEC, EXIT, FORK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from collector.processes.events import Event

CAPACITY = 32_768
REMEMBER_SECONDS = 60.0
# A kill line may be read this long after its victim has gone.
LATE_SECONDS = 5.0
# printk's stamps run up to 50 ms behind CLOCK_MONOTONIC, and starting times are in ticks of 10 ms.
EARLY_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProcess:
    """
    A process, as last looked at: a child that was never looked at has its parent's comm and hints.

    `is_init`: PID 1 of a pid namespace other than the host's. `died_at`: when it ended, or was found to be gone; None:
    it was alive when last heard of. Times are seconds of CLOCK_MONOTONIC.
    """

    pid: int
    memcg: MemcgPath
    comm: str
    start_ticks: int | None = None
    parent: int | None = None
    is_init: bool | None = None
    hints: tuple[str, ...] = ()
    died_at: float | None = None
    from_proc: bool = False
    """Not from before its death: /proc still showed it when it was asked for."""


class Sight(NamedTuple):
    """What /proc told of a process at the time `at`. `born`: its start time, in seconds of CLOCK_MONOTONIC."""

    memcg: MemcgPath
    comm: str
    start_ticks: int
    born: float
    parent: int | None
    is_init: bool | None
    at: float


class _Image(NamedTuple):
    """What a child has from its parent: one object for all of them."""

    memcg: MemcgPath
    comm: str
    hints: tuple[str, ...]
    in_container: bool


class _Entry(NamedTuple):
    image: _Image
    parent: int | None
    born: float
    seen: float  # when it was there for certain
    start_ticks: int | None  # None: a child that was not looked at
    is_init: bool | None


class _Tomb(NamedTuple):
    pid: int
    died: float
    entry: _Entry


class ProcessIndex:
    """
    Bounded: at `capacity` the oldest of the dead go first; without any, a new process is not kept and counts as `shed`.
    """

    def __init__(self, *, capacity: int = CAPACITY, remember: float = REMEMBER_SECONDS) -> None:
        self._capacity = capacity
        self._remember = remember
        self._alive: dict[int, _Entry] = {}
        # The last owner of each pid; the order has those too that another has replaced.
        self._dead: dict[int, _Tomb] = {}
        self._burials: deque[_Tomb] = deque()
        self.followed_since: float | None = None
        """Since when no fork and no exit was missed. None: they are not followed."""
        self.shed = 0

    def __len__(self) -> int:
        return len(self._alive) + len(self._burials)

    # What is learned

    def seen(self, pid: int, sight: Sight) -> None:
        """A process that is alive, or was when it was looked at."""
        known = self._alive.get(pid)
        hints: tuple[str, ...] = ()
        if known is not None:
            if known.start_ticks == sight.start_ticks:
                # Of another comm, it has called exec since: what was found belongs to the program before.
                hints = known.image.hints if known.image.comm == sight.comm else ()
            elif known.start_ticks is not None:
                self._bury(pid, known, sight.born)
        # Interned: one string for all processes of a container.
        memcg, comm = MemcgPath(sys.intern(sight.memcg)), sys.intern(sight.comm)
        image = _Image(memcg, comm, hints, is_in_container(memcg))
        entry = _Entry(image, sight.parent, sight.born, sight.at, sight.start_ticks, sight.is_init)
        tomb = self._dead.get(pid)
        if tomb is not None and tomb.died >= sight.at:
            # Its exit was told while it was being looked at.
            self._bury(pid, entry, tomb.died)
        elif pid in self._alive or self._has_room():
            self._alive[pid] = entry

    def hinted(self, pid: int, start_ticks: int, hints: tuple[str, ...]) -> None:
        """What its command line tells. Apart from `seen`, since a process under pressure makes its reader wait."""
        known = self._alive.get(pid)
        if known is not None and known.start_ticks == start_ticks and known.image.hints != hints:
            self._alive[pid] = known._replace(image=known.image._replace(hints=hints))

    def died(self, pid: int, at: float) -> None:
        known = self._alive.pop(pid, None)
        if known is not None:
            self._bury(pid, known, at)

    def forget(self, pid: int, *, unless_in: MemcgPath) -> None:
        """It is where its further way is not known, unless a pass has found it there."""
        known = self._alive.get(pid)
        if known is not None and known.image.memcg != unless_in:
            del self._alive[pid]

    def follow(self, events: Iterable[Event]) -> list[int]:
        """
        Take the kernel's events in their order; return who called exec, and has to be looked at.

        A child begins in its parent's memcg. That holds in a container; outside of it, the child may be one that a
        runtime is about to move into a container, of which no event tells.
        """
        executed = []
        alive = self._alive
        for what, nanoseconds, first, second, third, fourth in events:
            if what == FORK:
                if third != fourth:
                    continue
                if third in alive:  # a pid is not given twice: its end was missed
                    self._bury(third, alive.pop(third), nanoseconds / 1e9)
                parent = alive.get(second)
                if parent is not None and parent[0][3] and self._has_room():
                    born = nanoseconds / 1e9
                    alive[third] = _entry((parent[0], second, born, born, None, None))
            elif what == EXIT:
                if first == second and first in alive:
                    self._bury(first, alive.pop(first), nanoseconds / 1e9)
            elif what == EXEC:
                executed.append(second)
        return executed

    def prune(self, at: float) -> None:
        while self._burials and self._burials[0].died < at - self._remember:
            self._drop_oldest()

    # Passes

    def unread(self, listed: Mapping[int, MemcgPath]) -> list[int]:
        """Of the pids in cgroup.procs: those that /proc has to be asked about."""
        alive = self._alive
        unread = []
        for pid, memcg in listed.items():
            known = alive.get(pid)
            if known is None or known[4] is None or known[0][0] != memcg:
                unread.append(pid)
        return unread

    def missing(self, listed: Mapping[int, MemcgPath]) -> list[int]:
        """Processes taken for alive that no cgroup.procs has."""
        return list(self._alive.keys() - listed.keys())

    # What is asked

    def owners(self, pid: int, at: float) -> list[KnownProcess]:
        """All that may have had this pid when a kill was told at `at`, the latest first."""
        return [_known(pid, entry, died) for entry, died in self._owners(pid, at)]

    def find(self, pid: int, *, comm: str | None, at: float) -> KnownProcess | None:
        """
        Who had this pid when a kill was told at `at`: never a later or an earlier owner.

        A process may take another name at any time. So one that has another than the kill line (None: the line has
        none) is only believed where no fork and no exit was missed since it was seen.
        """
        owners = self._owners(pid, at)
        chosen = [one for one in owners if one[0].image.comm == comm]
        if not chosen:
            chosen = [one for one in owners if comm is None or self._is_proven(one[0])]
        # Two owners within seconds: which one the kernel killed is not known, but where may be.
        if len({entry.image.memcg for entry, _ in chosen}) != 1:
            return None
        return _known(pid, *chosen[0])

    def died_with(self, memcg: MemcgPath, *, since: float, until: float) -> list[KnownProcess]:
        """Those of a memcg, or below, that ended in this span."""
        found = []
        for tomb in reversed(self._burials):
            # Nearly in order: a pass buries later than the connector.
            if tomb.died < since - LATE_SECONDS:
                break
            if since <= tomb.died <= until and is_same_or_ancestor(memcg, tomb.entry.image.memcg):
                found.append(_known(tomb.pid, tomb.entry, tomb.died))
        found.reverse()
        return found

    def _owners(self, pid: int, at: float) -> list[tuple[_Entry, float | None]]:
        owners: list[tuple[_Entry, float | None]] = []
        known = self._alive.get(pid)
        if known is not None and known.born <= at + EARLY_SECONDS:
            owners.append((known, None))
        tomb = self._dead.get(pid)
        if tomb is not None and tomb.entry.born <= at + EARLY_SECONDS and tomb.died >= at - LATE_SECONDS:
            owners.append((tomb.entry, tomb.died))
        return owners

    def _is_proven(self, entry: _Entry) -> bool:
        return self.followed_since is not None and entry.seen >= self.followed_since

    def _bury(self, pid: int, entry: _Entry, at: float) -> None:
        tomb = _tomb((pid, at, entry))
        self._dead[pid] = tomb
        self._burials.append(tomb)
        if len(self._burials) > self._capacity:
            self._drop_oldest()

    def _has_room(self) -> bool:
        if len(self._alive) + len(self._burials) < self._capacity:
            return True
        if self._burials:
            self._drop_oldest()
            return True
        self.shed += 1
        return False

    def _drop_oldest(self) -> None:
        tomb = self._burials.popleft()
        if self._dead.get(tomb.pid) is tomb:
            del self._dead[tomb.pid]


def is_in_container(memcg: MemcgPath) -> bool:
    """Whether whatever starts here stays in this container: a container's cgroup, or one that it made below."""
    return parse_memcg_path(memcg).level in {Level.CONTAINER, Level.NESTED}


# `_make` without its check of the length: thousands a second.
def _entry(values: tuple[_Image, int | None, float, float, int | None, bool | None]) -> _Entry:
    return tuple.__new__(_Entry, values)


def _tomb(values: tuple[int, float, _Entry]) -> _Tomb:
    return tuple.__new__(_Tomb, values)


def _known(pid: int, entry: _Entry, died: float | None) -> KnownProcess:
    image = entry.image
    return KnownProcess(
        pid=pid,
        memcg=image.memcg,
        comm=image.comm,
        start_ticks=entry.start_ticks,
        parent=entry.parent,
        is_init=entry.is_init,
        hints=image.hints,
        died_at=died,
    )
