"""The memory bounds of Node.js and Go against the limit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from collector.diagnosis.findings.heap import (
    INCOMPLETE,
    Bound,
    Runtime,
    Words,
    explained,
    find_runtime,
    held_by,
    held_words,
    limit_words,
    weigh,
)
from collector.diagnosis.findings.use import Amount, container_limit, evidence, limit_of, percent
from collector.diagnosis.model import Finding, FindingKind
from collector.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collector.diagnosis.model import Facts

SOFT_NO_ROOM_SHARE = 0.95
"""Of the limit: GOMEMLIMIT is soft and counts all of Go's own memory; the Go guide advises to leave 5 to 10 %."""
SOFT_EXCEEDED = 1.05
"""A garbage collection runs over it a little before it is finished."""

_NODE_FLAG = re.compile(r"--max-(?P<what>old-space-size|old-space-size-percentage|heap-size)=(?P<number>\d+)", re.ASCII)
_GO_SIZE = re.compile(r"(?P<number>\d+)(?P<unit>[KMGT]i)?B?", re.ASCII)
_GO_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def nodejs_heap(facts: Facts) -> Finding | None:
    """
    The command line comes after NODE_OPTIONS, and 0 is the default: compared with Node.js 20. The percentage comes
    before the size, and the size before the whole heap's.
    """
    node = find_runtime(facts, "node", "The Node.js process", comms=frozenset({"node", "nodejs"}))
    if node is None:
        return None
    bound = _old_space(facts, node.flags)
    if bound is None:
        return _no_old_space_flag(facts, node)
    words = Words(
        heap="its old space",
        beside="the young generation, Buffers, native add-ons and code",
        outside="in Buffers, native add-ons or the young generation",
    )
    return weigh(facts, FindingKind.NODEJS_HEAP, node, bound, words)


def _old_space(facts: Facts, hints: Iterable[str]) -> Bound | None:
    given: dict[str, tuple[int, str]] = {}
    # NODE_OPTIONS first: the command line overrides it.
    for hint in sorted(hints, key=lambda hint: not hint.startswith("NODE_OPTIONS: ")):
        variable, _, text = hint.rpartition(": ")
        match = _NODE_FLAG.fullmatch(text)
        if match is not None and variable in ("", "NODE_OPTIONS"):
            given[match["what"]] = int(match["number"]), f"{text} in {variable}" if variable else text
    share, flag = given.get("old-space-size-percentage", (0, ""))
    seen = container_limit(facts)
    if share and seen is not None:
        how = f"{flag}, of the container's {human_bytes(seen.size)}"
        return Bound(seen.size * share // 100, how, flag, ("hints", seen.evidence))
    for what in ("old-space-size", "heap-size"):
        size, flag = given.get(what, (0, ""))
        if size and not share:
            return Bound(size << 20, flag, flag, ("hints",))
    return None


def _no_old_space_flag(facts: Facts, node: Runtime) -> Finding | None:
    limit = limit_of(facts)
    if limit is None or not node.complete or any("-percentage=" in hint for hint in node.flags):
        return None
    held, is_holder = held_by(facts, limit)
    if not is_holder:
        return None
    return Finding(
        kind=FindingKind.NODEJS_HEAP,
        text=f"{node.name} has no --max-old-space-size: V8 bounds its heap by a default that depends on the version "
        f"and is not known here, so nothing shows that it fits into {limit_words(facts)} of "
        f"{human_bytes(limit.size)}{held_words(held)}",
        values={
            "problem": "no_flag",
            "flag": None,
            "limit_bytes": limit.size,
            "percent": explained(held, limit),
        },
        evidence=evidence("hints", limit.evidence, held.evidence if held else None),
    )


def go_memory_limit(facts: Facts) -> Finding | None:
    """GOMEMLIMIT is told of by itself; that it is missing, only where the executable is known to be Go's."""
    limit = limit_of(facts)
    go = find_runtime(facts, "go", "The Go program") or _uses_go_variables(facts)
    if limit is None or go is None:
        return None
    held, is_holder = held_by(facts, limit)
    if not is_holder:
        return None
    given = _value(go.flags, "GOMEMLIMIT")
    size = _go_size(given)
    if size is None:
        problem, text = _unbounded(facts, go, given, limit)
    elif held is not None and held.is_victims and held.size > SOFT_EXCEEDED * size:
        problem = "exceeded"
        text = (
            f"{go.name} held {human_bytes(held.size)}, more than its GOMEMLIMIT of {human_bytes(size)}: what is over "
            f"it is live memory that no garbage collection frees, or not Go's own (cgo, mmap)"
        )
    elif size > SOFT_NO_ROOM_SHARE * limit.size:
        problem = "no_room"
        text = (
            f"{go.name} has GOMEMLIMIT {human_bytes(size)}, {percent(size, limit.size)} % of {limit_words(facts)} of "
            f"{human_bytes(limit.size)}: it is a soft bound, and too late for the collector to keep within the limit"
        )
    else:
        return None
    if not text:
        return None
    return Finding(
        kind=FindingKind.GO_MEMORY_LIMIT,
        text=f"{text}{'' if problem == 'exceeded' else held_words(held)}{go.caveat}",
        values={
            "problem": problem,
            "flag": None if given is None else f"GOMEMLIMIT={given}",
            "go_memory_limit_bytes": size,
            "limit_bytes": limit.size,
            "held_bytes": held.size if held else None,
            "percent": explained(held, limit),
        },
        evidence=evidence("hints", limit.evidence, held.evidence if held else None),
    )


def _unbounded(facts: Facts, go: Runtime, given: str | None, limit: Amount) -> tuple[str, str]:
    """`text` is empty where it is not known that there is no GOMEMLIMIT."""
    if given is None and not (go.certain and go.complete):
        return "", ""
    has = "GOMEMLIMIT=off" if given is not None else "no GOMEMLIMIT"
    if _value(go.flags, "GOGC") == "off":
        return "never_collects", f"{go.name} has GOGC=off and {has}: it never frees any garbage"
    grows = _value(go.flags, "GOGC") or "100"
    return (
        "no_limit",
        f"{go.name} has {has}: unless it sets one itself, its garbage collector does not know {limit_words(facts)} of "
        f"{human_bytes(limit.size)} and lets the heap grow {grows} % over what is in use (GOGC) before it frees any",
    )


def _uses_go_variables(facts: Facts) -> Runtime | None:
    hints = facts.hints or ()
    if any(hint.startswith("runtime=") for hint in hints) or _value(hints, "GOMEMLIMIT") is None:
        return None
    return Runtime("The program (Go, by its GOMEMLIMIT)", False, hints, INCOMPLETE not in hints)


def _value(hints: Iterable[str], name: str) -> str | None:
    return next((hint.partition("=")[2] for hint in hints if hint.startswith(f"{name}=")), None)


def _go_size(text: str | None) -> int | None:
    match = _GO_SIZE.fullmatch(text or "")
    return None if match is None else int(match["number"]) * _GO_UNITS.get(match["unit"], 1)
