"""What was used of which limit: the two numbers that each finding is weighed against."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from collector.memory_stat import memory_shares
from collector.model import NODE_PRESSURE, Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from collector.diagnosis.model import Facts, Point

OWN_LIMITS = frozenset({Cause.CONTAINER_LIMIT, Cause.NESTED_LIMIT, Cause.POD_LIMIT})
"""Causes by which a limit was hit that the owner of the workload has set."""

TELLING_SHARE = 0.25
"""
What holds less than a quarter is not told: a new limit gets that much headroom anyway, so it changes nothing.
"""

HOLDER_SHARE = 0.5
"""A process that held less than half of the limit did not fill it: its flags did not matter."""


LARGEST_PAGE_BYTES = 65536
"""The kernel rounds a limit down to whole pages. Nobody changes a limit by less."""


class Amount(NamedTuple):
    """A number of bytes, and the fact that it is from."""

    size: int
    evidence: str

    @property
    def is_victims(self) -> bool:
        return self.evidence.startswith("victim.")


class Use(NamedTuple):
    """
    The memory of the cgroup that was judged, at the kill. `parts` do not overlap; `sampled`: shortly before the kill.
    """

    usage_bytes: int
    parts: Mapping[str, int]
    stat: Mapping[str, int]
    sampled: bool
    evidence: str


def use_of(facts: Facts) -> Use | None:
    """None where it is not known, or a node ran out: what its memory was used for is for other rules to tell."""
    if facts.cause in NODE_PRESSURE or facts.cause is Cause.MANUAL:
        return None
    memory = facts.memory
    if memory is not None and memory.usage_bytes and memory.stat:
        parts = memory_shares(memory.stat)
        return Use(memory.usage_bytes, parts, memory.stat, facts.memory_is_sampled, "memory.stat")
    point = facts.history.last.points[-1] if facts.history is not None else None
    if point is None or point.working_set <= 0:
        return None
    return Use(point.working_set, _parts(point), {}, True, "history")


def _parts(point: Point) -> dict[str, int]:
    known = {"anon": point.anon, "shmem": point.shmem, "kernel": point.kernel}
    return {name: size for name, size in known.items() if size is not None}


def limit_of(facts: Facts) -> Amount | None:
    """The limit that was hit, where the owner of the workload has set it; never 0."""
    if facts.cause not in OWN_LIMITS:
        return None
    if facts.memory is not None and facts.memory.limit_bytes:
        return Amount(facts.memory.limit_bytes, "memory.limit_bytes")
    is_own = facts.cause is Cause.CONTAINER_LIMIT or facts.lone
    return container_limit(facts) if is_own else None


def container_limit(facts: Facts) -> Amount | None:
    """What a process in the container sees as its limit; never 0."""
    if facts.container is not None and facts.container.limit_bytes:
        return Amount(facts.container.limit_bytes, "container.limit_bytes")
    is_own = facts.cause is Cause.CONTAINER_LIMIT or (facts.cause is Cause.POD_LIMIT and facts.lone)
    if is_own and facts.memory is not None and facts.memory.limit_bytes:
        return Amount(facts.memory.limit_bytes, "memory.limit_bytes")
    return None


def same_limit(one: int, other: int) -> bool:
    return abs(one - other) < LARGEST_PAGE_BYTES


def percent(size: float, of: float) -> int:
    return round(100 * size / of)


def evidence(*names: str | None) -> tuple[str, ...]:
    """Each once, in the order given."""
    return tuple(dict.fromkeys(name for name in names if name is not None))


def listed(names: Iterable[str], *, last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, final = names
    return f"{', '.join(first)} {last} {final}" if first else final
