"""
Whether the kubelet evicted pods before the kernel had to kill.

Source: pkg/kubelet/eviction/eviction_manager.go: it looks every 10 s, at the node's memory.available and at that of all
pods against what is allocatable to them. Limits of QoS classes and single NUMA nodes it does not look at.
"""

from __future__ import annotations

from collector.diagnosis.model import Facts, Finding, FindingKind, Value
from collector.model import Cause
from collector.units import human_seconds

WINDOW_SECONDS = 300.0
LOOK_SECONDS = 10
MOST_NAMED = 3


def find_evictions(facts: Facts) -> Finding | None:
    """
    Values: `evicted_before_count` and `evicted_after_count` in five minutes before and after the kill, `threshold`,
    where known `threshold_bytes`, `last_eviction_seconds` (before the kill), `memory_pressure` (whether it was reported
    at the kill) and `memory_pressure_seconds` (since when: before the kill, negative: after it).
    """
    node = facts.node
    if node is None or node.eviction_threshold is None or facts.cause not in (Cause.NODE, Cause.NODE_ALLOCATABLE):
        return None
    before = sorted((seconds, pod) for pod, seconds in node.evictions if 0 <= seconds <= WINDOW_SECONDS)
    after = sorted((-seconds, pod) for pod, seconds in node.evictions if -WINDOW_SECONDS <= seconds < 0)
    values: dict[str, Value] = {
        "evicted_before_count": len(before),
        "evicted_after_count": len(after),
        "threshold": node.eviction_threshold,
    }
    evidence = ["node.evictions", "node.eviction_threshold"]
    if node.eviction_threshold_bytes is not None:
        values["threshold_bytes"] = node.eviction_threshold_bytes
    if before:
        values["last_eviction_seconds"] = before[0][0]
        text = f"the kubelet evicted {_named(before)} before the kill, which did not free enough in time"
    else:
        text = (
            "the kubelet was too late: it evicted no pod for memory in the five minutes before the kill; "
            f"it looks every {LOOK_SECONDS} s"
        )
    if after:
        text += f"; it evicted {_named(after)} after it"
    text += f"; its threshold: memory.available < {node.eviction_threshold}"
    if node.memory_pressure is not None:
        values["memory_pressure"] = node.memory_pressure
        evidence.append("node.memory_pressure")
    if node.memory_pressure_seconds is not None:
        values["memory_pressure_seconds"] = round(node.memory_pressure_seconds, 1)
        evidence.append("node.memory_pressure_seconds")
    if reported := _reported(node.memory_pressure, node.memory_pressure_seconds):
        text += f"; {reported}"
    return Finding(
        kind=FindingKind.EVICTION, text=f"{text[0].upper()}{text[1:]}", values=values, evidence=tuple(evidence)
    )


def _reported(at_kill: bool | None, seconds: float | None) -> str | None:
    """seconds: as memory_pressure_seconds. What it reports are whole seconds."""
    if seconds is None:
        return None if at_kill is None else "it reported no MemoryPressure at the kill"
    if seconds < 0:
        only = "" if at_kill is None else "only "
        return f"it reported MemoryPressure {only}{human_seconds(-seconds)} after the kill"
    if seconds < 1:
        return "it reported MemoryPressure in the second of the kill"
    return f"it had reported MemoryPressure {human_seconds(seconds)} before the kill"


def _named(evictions: list[tuple[float, str]]) -> str:
    """evictions: the nearest first."""
    named = ", ".join(f"{pod} {seconds:.0f} s" for seconds, pod in evictions[:MOST_NAMED])
    more = len(evictions) - MOST_NAMED
    return named if more <= 0 else f"{named} (and {more} more)"
