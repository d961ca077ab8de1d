"""
The JVM's heap, as HotSpot sizes it.

    JAVA_TOOL_OPTIONS, JDK_JAVA_OPTIONS, command line, _JAVA_OPTIONS       the last one counts
    -Xmx, -XX:MaxHeapSize                                                  bounds the heap
    -XX:MaxRAM, else the container's memory, else the node's               is what percentages are of
    -XX:MaxRAMPercentage (25), -XX:MinRAMPercentage (50)                   the second where that makes a small heap

The container's memory counts since 8u191; -XX:-UseContainerSupport takes the node's. That JVMs size their heaps so was
compared with OpenJDK 17.

Sources: src/hotspot/share/runtime/arguments.cpp (Arguments::set_heap_size, parse), src/java.base/share/native/libjli.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.findings.heap import (
    Bound,
    Words,
    explained,
    find_runtime,
    held_by,
    held_words,
    limit_words,
    weigh,
)
from collector.diagnosis.findings.use import container_limit, evidence, limit_of, listed
from collector.diagnosis.model import Finding, FindingKind
from collector.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from collector.diagnosis.findings.heap import Runtime
    from collector.diagnosis.model import Facts

SMALL_HEAP_BYTES = (96 << 20) * 13 // 10
"""MaxHeapSize's own default on 64 bits: what MinRAMPercentage makes less than this is taken."""
MAX_RAM_PERCENTAGE, MIN_RAM_PERCENTAGE = 25.0, 50.0

_STAGES = {"JAVA_TOOL_OPTIONS": 0, "JDK_JAVA_OPTIONS": 1, "": 2, "_JAVA_OPTIONS": 3}
_FLAG = re.compile(
    r"-X(?P<short>mx|ms|ss)(?P<size>\w+)|-XX:(?P<switch>[+-])(?P<switched>\w+)|-XX:(?P<name>\w+)=(?P<value>[\w.]+)"
)
_SHORT = {"mx": "MaxHeapSize", "ms": "InitialHeapSize", "ss": "ThreadStackSize"}
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_BESIDE = {
    "MaxDirectMemorySize": "direct buffers",
    "MaxMetaspaceSize": "metaspace",
    "ReservedCodeCacheSize": "code cache",
}


class Flag(NamedTuple):
    """`text`: as given, and where else than in the command line."""

    value: str
    text: str

    @property
    def size(self) -> int:
        unit = _UNITS.get(self.value[-1:].lower())
        digits = self.value[:-1] if unit else self.value
        return int(digits) * (unit or 1) if digits.isdecimal() else 0

    @property
    def number(self) -> float:
        return float(self.value)


def jvm_heap(facts: Facts) -> Finding | None:
    jvm = find_runtime(facts, "java", "The JVM", comms=frozenset({"java"}))
    if jvm is None:
        return None
    flags = effective(jvm.flags)
    bound = _bound(facts, jvm, flags)
    if bound is None:
        return _sized_by_the_node(facts, jvm, flags)
    direct = flags.get("MaxDirectMemorySize")
    at_most = f" (at most {human_bytes(direct.size)})" if direct and direct.size else ""
    words = Words(
        heap="its heap",
        beside="metaspace, code cache, thread stacks and direct buffers",
        outside=f"in direct buffers{at_most}, metaspace, thread stacks or native code",
    )
    return weigh(facts, FindingKind.JVM_HEAP, jvm, bound, words) or _together(facts, jvm, flags, bound)


def effective(hints: Iterable[str]) -> dict[str, Flag]:
    """The flags that count, by the JVM's own names."""
    given = []
    for hint in hints:
        variable, _, text = hint.rpartition(": ")
        match = _FLAG.fullmatch(text)
        if match is None or variable not in _STAGES:
            continue
        name = _SHORT.get(match["short"]) or match["switched"] or match["name"]
        value = match["size"] or match["switch"] or match["value"]
        where = f" in {variable}" if variable else ""
        given.append((_STAGES[variable], name, Flag(value, f"{text}{where}")))
    given.sort(key=lambda one: one[0])
    return {name: flag for _, name, flag in given}


def _bound(facts: Facts, jvm: Runtime, flags: Mapping[str, Flag]) -> Bound | None:
    heap = flags.get("MaxHeapSize")
    if heap is not None and heap.size:
        return Bound(heap.size, heap.text, heap.text, ("hints",))
    if not jvm.complete and "MaxRAMPercentage" not in flags:
        return None
    ram = _ram(facts, flags)
    if ram is None:
        return None
    most, how, flag = _percentage(flags)
    least = flags["MinRAMPercentage"].number if "MinRAMPercentage" in flags else MIN_RAM_PERCENTAGE
    small = ram.size * least / 100
    size = max(ram.size * most / 100, SMALL_HEAP_BYTES)
    if small < SMALL_HEAP_BYTES:
        size, how = small, f"MinRAMPercentage, {least:g} %, which counts for little memory"
    initial = flags.get("InitialHeapSize")
    if initial is not None and initial.size > size:
        size, how, flag = initial.size, initial.text, initial.text
    return Bound(int(size), f"{how}, of {ram.how}", flag, ("hints", *ram.evidence))


def _percentage(flags: Mapping[str, Flag]) -> tuple[float, str, str | None]:
    flag = flags.get("MaxRAMPercentage")
    if flag is not None:
        return flag.number, flag.text, flag.text
    fraction = flags.get("MaxRAMFraction")
    if fraction is not None and fraction.number:
        return 100 / fraction.number, fraction.text, fraction.text
    return MAX_RAM_PERCENTAGE, "no heap flag: HotSpot's default, 25 %", None


def _ram(facts: Facts, flags: Mapping[str, Flag]) -> Bound | None:
    """What percentages are of."""
    given = flags.get("MaxRAM")
    if given is not None and given.size:
        return Bound(given.size, given.text, given.text, ("hints",))
    if _ignores_limits(flags):
        node = facts.node_memory.ram_bytes if facts.node_memory else None
        return Bound(node, f"the node's {human_bytes(node)}", None, ("node_memory.ram_bytes",)) if node else None
    limit = container_limit(facts)
    return limit and Bound(limit.size, f"the container's {human_bytes(limit.size)}", None, (limit.evidence,))


def _ignores_limits(flags: Mapping[str, Flag]) -> bool:
    return "UseContainerSupport" in flags and flags["UseContainerSupport"].value == "-"


def _sized_by_the_node(facts: Facts, jvm: Runtime, flags: Mapping[str, Flag]) -> Finding | None:
    limit = limit_of(facts)
    if limit is None or not _ignores_limits(flags) or "MaxHeapSize" in flags:
        return None
    held, is_holder = held_by(facts, limit)
    if not is_holder:
        return None
    most, how, _ = _percentage(flags)
    return Finding(
        kind=FindingKind.JVM_HEAP,
        text=f"{jvm.name} does not look at {limit_words(facts)} of {human_bytes(limit.size)} "
        f"({flags['UseContainerSupport'].text}): its heap may take {most:g} % of the node's memory "
        f"({how}){held_words(held)}{jvm.caveat}",
        values={
            "problem": "sized_by_node",
            "flag": flags["UseContainerSupport"].text,
            "heap_node_percent": most,
            "limit_bytes": limit.size,
            "percent": explained(held, limit),
        },
        evidence=evidence(jvm.evidence, "hints", limit.evidence, held.evidence if held else None),
    )


def _together(facts: Facts, jvm: Runtime, flags: Mapping[str, Flag], heap: Bound) -> Finding | None:
    """Each part fits, but not all of them at once."""
    limit = limit_of(facts)
    parts = {words: flags[name].size for name, words in _BESIDE.items() if name in flags and flags[name].size}
    total = heap.size + sum(parts.values())
    if limit is None or not parts or total <= limit.size:
        return None
    held, is_holder = held_by(facts, limit)
    if not is_holder:
        return None
    said = listed([f"{human_bytes(size)} of {words}" for words, size in {"heap": heap.size, **parts}.items()])
    return Finding(
        kind=FindingKind.JVM_HEAP,
        text=f"{jvm.name} may use {said} by its flags: together {human_bytes(total)}, more than {limit_words(facts)} "
        f"of {human_bytes(limit.size)}{held_words(held)}{jvm.caveat}",
        values={
            "problem": "parts_exceed_limit",
            "flag": heap.flag,
            "heap_max_bytes": heap.size,
            "together_bytes": total,
            "limit_bytes": limit.size,
            "percent": explained(held, limit),
        },
        evidence=evidence(jvm.evidence, "hints", limit.evidence, held.evidence if held else None),
    )
