"""
What a runtime has to be told of its limit: the heap gets 75 % of the *new* one. The rest is for what a heap is not:
threads, code, buffers, the runtime itself.

Only the memory flags of a command line and an environment are ever known (processes/hints.py). What else a variable of
options holds is not, and a line that sets it would take that away: so there is none, neither for a command line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.advice.words import Given, Target, Values, how
from collector.diagnosis.commands import MIB, set_env
from collector.diagnosis.findings.jvm import MIN_RAM_PERCENTAGE, SMALL_HEAP_BYTES, effective
from collector.diagnosis.findings.use import listed
from collector.diagnosis.model import Action, Advice, Finding, FindingKind, Pattern, Value
from collector.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAP_SHARE = 0.75

# The first that matches is the one that counts: -Xmx beats a percentage, wherever it stands.
_JVM_HEAP = (re.compile(r"-Xmx.+|-XX:MaxHeapSize=.+"), re.compile(r"-XX:MaxRAMPercentage=.+"))
_NODE_HEAP = (re.compile(r"--max-(?:old-space-size(?:-percentage)?|heap-size)=.+"),)
# Where a JVM and V8 look, the strongest first; "" is the command line.
_JVM_PLACES = ("_JAVA_OPTIONS", "", "JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS")
_NODE_PLACES = ("", "NODE_OPTIONS")
_IN_VARIABLE = re.compile(r"(?P<place>[A-Z_]+): (?P<flag>.+)")
_WORKERS_VARIABLE = "WEB_CONCURRENCY"
_READS_THE_VARIABLE = re.compile(r"gunicorn|uvicorn|puma")


class Heap(NamedTuple):
    size: int
    of: str
    """What it is a share of, in words."""


def advise_runtime(given: Given, limit: int | None, *, new: bool) -> Iterator[Advice]:
    """limit: the one advised (new), else the present one; without either no number can be said."""
    if limit is None:
        return
    heap = Heap(size=int(limit * HEAP_SHARE), of=f"75 % of the {'new ' if new else ''}limit")
    hints = given.facts.hints or ()
    for finding in given.findings:
        match finding.kind:
            case FindingKind.JVM_HEAP if _is_too_large(finding, heap):
                yield _flag(given, heap, _jvm_flag(hints, heap.size), _JVM_HEAP, _JVM_PLACES)
            case FindingKind.NODEJS_HEAP if _is_too_large(finding, heap):
                yield _flag(given, heap, f"--max-old-space-size={heap.size // MIB}", _NODE_HEAP, _NODE_PLACES)
            # What is live memory already, a bound of the present limit does not free.
            case FindingKind.GO_MEMORY_LIMIT if new or finding.values.get("problem") != "exceeded":
                yield _go(heap, given.target)
            # Fewer workers that leak only leak more slowly.
            case FindingKind.PREFORK if given.judgement.pattern is not Pattern.LEAK:
                yield from _workers(given, finding, heap)
            case _:
                pass


def _is_too_large(finding: Finding, heap: Heap) -> bool:
    """Where what lies outside of a small heap filled the limit, a larger heap would make it worse."""
    bound = _number(finding, "heap_max_bytes")
    return bound is None or bound > heap.size or finding.values.get("problem") == "no_room"


def _jvm_flag(hints: tuple[str, ...], heap: int) -> str:
    """
    A percentage follows the limit the next time too, unless the JVM was told not to look at it, or another one counts
    for so little memory. Java 8 does not start with one that has no decimal point.
    """
    flags = {hint.rpartition(": ")[2] for hint in hints}
    blind = "-XX:-UseContainerSupport" in flags or any(flag.startswith("-XX:MaxRAM=") for flag in flags)
    is_small = heap / HEAP_SHARE * MIN_RAM_PERCENTAGE / 100 < SMALL_HEAP_BYTES
    return f"-Xmx{heap // MIB}m" if blind or is_small else "-XX:MaxRAMPercentage=75.0"


def _find(
    hints: tuple[str, ...], patterns: tuple[re.Pattern[str], ...], places: tuple[str, ...]
) -> tuple[str | None, str]:
    """The flag that counts now and where it stands; (None, the weakest variable) where none is set."""
    placed = [_placed(hint) for hint in hints]
    for pattern in patterns:
        for place in places:
            flags = [flag for where, flag in placed if where == place and pattern.fullmatch(flag)]
            if flags:
                return flags[-1], place
    return None, places[-1]


def _placed(hint: str) -> tuple[str, str]:
    match = _IN_VARIABLE.fullmatch(hint)
    return (match["place"], match["flag"]) if match else ("", hint)


def _flag(
    given: Given, heap: Heap, flag: str, patterns: tuple[re.Pattern[str], ...], places: tuple[str, ...]
) -> Advice:
    target, hints = given.target, given.facts.hints or ()
    replaced, variable = _find(hints, patterns, places)
    instead = "" if replaced is None else f" in place of {replaced}"
    beside = [one for one in map(_placed, hints) if one != (variable, replaced)]
    against = [one for one in beside if _defeats(one, flag, heap, places.index(variable), places)]
    also = [f"{one} {f'in {place}' if place else 'on the command line'}" for place, one in against]
    if also:
        instead += f"; take out {listed(also)}, which would keep it from working"
    where = f"in {variable} (keep what else it holds)" if variable else "on the command line"
    values: Values = {**target.values, "flag": flag, "heap_bytes": heap.size, "replaces": replaced, "share": HEAP_SHARE}
    if variable:
        kept = [one for place, one in beside if place == variable and one != flag and (place, one) not in against]
        values |= {"variable": variable, "memory_flags": " ".join([*kept, flag])}
    return Advice(
        action=Action.SET_RUNTIME_FLAG,
        text=f"Give the heap {heap.of}: {flag} {where}{instead}; the rest is for what is not heap{_how(target)}",
        values=values,
    )


def _defeats(placed: tuple[str, str], flag: str, heap: Heap, rank: int, places: tuple[str, ...]) -> bool:
    """Another flag that bounds the heap and counts more, or an initial size above it, with which no JVM starts."""
    place, other = placed
    if place not in places or other == flag:
        return False
    stronger = places.index(place) <= rank
    if flag.startswith("--"):
        return stronger and _NODE_HEAP[0].fullmatch(other) is not None
    name, given = next(iter(effective((other,)).items()), ("", None))
    if name == "InitialHeapSize":
        return given is not None and given.size > heap.size
    percentage = not flag.startswith("-Xmx")
    return (name == "MaxHeapSize" and (percentage or stronger)) or (
        name == "MaxRAMPercentage" and percentage and stronger
    )


def _go(heap: Heap, target: Target) -> Advice:
    value = f"{heap.size // MIB}MiB"
    return Advice(
        action=Action.SET_RUNTIME_FLAG,
        text=f"Tell Go its limit: GOMEMLIMIT={value}, {heap.of}; then it collects garbage in time{_how(target)}",
        values={
            **target.values,
            "flag": f"GOMEMLIMIT={value}",
            "variable": "GOMEMLIMIT",
            "value": value,
            "heap_bytes": heap.size // MIB * MIB,
            "share": HEAP_SHARE,
        },
        command=_set(target, "GOMEMLIMIT", value),
    )


def _workers(given: Given, finding: Finding, heap: Heap) -> Iterator[Advice]:
    target, hints = given.target, given.facts.hints or ()
    workers, size = (
        _number(finding, "workers_configured") or _number(finding, "processes"),
        _number(finding, "mean_bytes"),
    )
    if not workers or not size:
        return
    fit = max(1, int(heap.size // size))
    if fit >= workers:
        return
    # Flags win over the variable, and most servers do not know it.
    flagged = any("--workers=" in hint for hint in hints)
    reads = any(hint.startswith(f"{_WORKERS_VARIABLE}=") for hint in hints)
    reads = reads or _READS_THE_VARIABLE.match(given.facts.victim.comm or "") is not None
    values: dict[str, Value] = {**target.values, "workers": fit, "workers_now": int(workers), "worker_bytes": int(size)}
    yield Advice(
        action=Action.REDUCE_WORKERS,
        text=f"Or run {fit} worker{'s' if fit > 1 else ''} instead of {int(workers)}: each takes "
        f"{human_bytes(int(size))}, and so many fit {heap.of}{_how(target)}",
        values=values,
        command=None if flagged or not reads else _set(target, _WORKERS_VARIABLE, str(fit)),
    )


def _number(finding: Finding, name: str) -> float | None:
    value = finding.values.get(name)
    return value if isinstance(value, int | float) and value > 0 else None


def _set(target: Target, variable: str, value: str) -> str | None:
    if target.workload is None or target.container is None:
        return None
    return set_env(target.workload, target.container, variable, value)


def _how(target: Target) -> str:
    return how(target.workload)
