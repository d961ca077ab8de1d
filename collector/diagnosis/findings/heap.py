"""A managed heap against the limit: too much of it for the rest of the process, or too little of it to be the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.findings.use import HOLDER_SHARE, TELLING_SHARE, Amount, evidence, limit_of, percent, use_of
from collector.diagnosis.model import Finding
from collector.model import Cause
from collector.units import human_bytes

if TYPE_CHECKING:
    from collector.diagnosis.model import Facts, FindingKind, Value

NO_ROOM_SHARE = 0.8
"""
A heap bound above this leaves too little for what a runtime needs beside it. 75 % is what is advised: that is no
finding.
"""

INCOMPLETE = "flags=incomplete"
"""Among the hints: see collector.processes.hints, which says it, and which the core does not import."""


class Runtime(NamedTuple):
    """What a process runs on, and how that is known. `certain` False: by the name of the process alone."""

    name: str
    certain: bool
    flags: tuple[str, ...]
    complete: bool
    """No flag is missing in `flags`: what is not there was not given."""

    @property
    def evidence(self) -> str:
        return "hints" if self.certain else "victim.comm"

    @property
    def caveat(self) -> str:
        return "" if self.complete else " (not all of its flags could be read)"


class Bound(NamedTuple):
    """The most that a heap may take. `how`: by which flag or rule, in words; `flag`: as it was given."""

    size: int
    how: str
    flag: str | None
    evidence: tuple[str, ...]


class Words(NamedTuple):
    """`heap`: what the bound is of; `beside`: what needs memory beside it; `outside`: what that can have been."""

    heap: str
    beside: str
    outside: str


def find_runtime(facts: Facts, runtime: str, title: str, *, comms: frozenset[str] = frozenset()) -> Runtime | None:
    """
    None: that it is this runtime is not known, or its flags are not. `comms`: names that a process of it has by
    default; one that only has the name may have more flags than those in its environment.
    """
    hints = facts.hints
    if hints is None:
        return None
    if f"runtime={runtime}" in hints:
        return Runtime(title, True, hints, INCOMPLETE not in hints)
    named = any(hint.startswith("runtime=") for hint in hints)
    if not named and facts.victim.comm in comms:
        return Runtime(
            f"The process {facts.victim.comm} ({title.removeprefix('The ')}, by its name)", False, hints, False
        )
    return None


def held_by(facts: Facts, limit: Amount) -> tuple[Amount | None, bool]:
    """
    What the victim held of its own, else what all processes did; and whether it can have filled the limit.

    Of one that is not known to have held little, it is not said that it did.
    """
    anon = facts.victim.anon_rss_bytes
    if anon is not None:
        return Amount(anon, "victim.anon_rss_bytes"), anon >= HOLDER_SHARE * limit.size
    use = use_of(facts)
    size = use.parts.get("anon", use.parts.get("rss")) if use else None
    if use is None or size is None:
        return None, True
    return Amount(size, use.evidence), size >= HOLDER_SHARE * limit.size


def weigh(facts: Facts, kind: FindingKind, runtime: Runtime, bound: Bound, words: Words) -> Finding | None:
    limit = limit_of(facts)
    if limit is None:
        return None
    held, is_holder = held_by(facts, limit)
    if not is_holder:
        return None
    outside = held.size - bound.size if held else 0
    values: dict[str, Value] = {
        "flag": bound.flag,
        "heap_max_bytes": bound.size,
        "heap_percent": percent(bound.size, limit.size),
        "limit_bytes": limit.size,
        "percent": explained(held, limit),
    }
    heap = f"{words.heap} is at most {human_bytes(bound.size)} ({bound.how})"
    rests_on = (runtime.evidence, *bound.evidence, limit.evidence)
    if held and outside >= TELLING_SHARE * limit.size:
        holder = f"{runtime.name} held" if held.is_victims else f"{runtime.name}: all processes together held"
        return Finding(
            kind=kind,
            text=f"{holder} {human_bytes(held.size)}, and {heap}: at least {human_bytes(outside)} is outside of it, "
            f"{words.outside}{runtime.caveat}",
            values=values | {"problem": "outside_heap", "held_bytes": held.size, "outside_heap_bytes": outside},
            evidence=evidence(*rests_on, held.evidence),
        )
    if bound.size <= NO_ROOM_SHARE * limit.size:
        return None
    room = max(0, limit.size - bound.size)
    left = f"only {human_bytes(room)} is left" if room else "nothing is left"
    return Finding(
        kind=kind,
        text=f"{runtime.name}: {heap}, {percent(bound.size, limit.size)} % of {limit_words(facts)} of "
        f"{human_bytes(limit.size)}: {left} for {words.beside}{held_words(held)}{runtime.caveat}",
        values=values | {"problem": "no_room", "room_bytes": room, "held_bytes": held.size if held else None},
        evidence=evidence(*rests_on, held.evidence if held else None),
    )


def explained(held: Amount | None, limit: Amount) -> int:
    """How much of the limit the process fills, in percent, for the order of findings: all of it where nothing tells."""
    return percent(held.size, limit.size) if held else 100


def held_words(held: Amount | None) -> str:
    return f"; it held {human_bytes(held.size)}" if held and held.is_victims else ""


def limit_words(facts: Facts) -> str:
    if facts.cause is Cause.POD_LIMIT and not facts.lone:
        return "the pod's limit"
    return "the inner cgroup's limit" if facts.cause is Cause.NESTED_LIMIT else "the limit"
