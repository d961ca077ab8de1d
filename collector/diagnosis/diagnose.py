"""From all that is known of a kill to why it happened and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collector.diagnosis.advice import FACTOR, advise
from collector.diagnosis.findings import find
from collector.diagnosis.model import Diagnosis, Facts, Judgement, Pattern
from collector.diagnosis.node import find_node
from collector.diagnosis.pattern import judge
from collector.model import NODE_PRESSURE, Cause

if TYPE_CHECKING:
    from collector.diagnosis.model import MemoryHistory

_LIMITS_OF_PODS = frozenset({Cause.CONTAINER_LIMIT, Cause.POD_LIMIT})


def diagnose(facts: Facts, *, factor: float = FACTOR, judgement: Judgement | None = None) -> Diagnosis:
    """
    factor: above 1; an advised limit is that many times the peak. judgement: of this history, where it was judged
    before.
    """
    judgement = judgement or judge_facts(facts)
    findings = find(facts, judgement)
    if facts.cause in NODE_PRESSURE:
        findings += find_node(facts)
    return Diagnosis(judgement=judgement, findings=findings, advice=advise(facts, judgement, findings, factor=factor))


def judge_facts(facts: Facts) -> Judgement:
    if facts.history is None:
        return _judge_alone(facts)
    return judge(_with_cause(facts.history, facts.cause))


def _with_cause(history: MemoryHistory, cause: Cause) -> MemoryHistory:
    """Whose limit was hit is the kernel's to say, not the history's."""
    return history if cause is Cause.UNKNOWN else replace(history, cause=cause)


def _judge_alone(facts: Facts) -> Judgement:
    """A log tells how much was used, not how it came to that."""
    if facts.cause in NODE_PRESSURE:
        reason = "no limit of its own was hit: the node, or what its pods may use together, was full"
        return Judgement(pattern=Pattern.NODE_PRESSURE, confidence=1.0, reasons=(reason,))
    memory = facts.memory if facts.cause in _LIMITS_OF_PODS else None
    limit = memory.limit_bytes if memory else None
    peak = (memory.usage_bytes if memory else None) or limit
    return Judgement(
        pattern=Pattern.UNKNOWN,
        confidence=0.0,
        missing=("the history of its memory",),
        peak_bytes=peak,
        peak_is_cut=peak is not None and limit is not None and peak >= limit,
        limit_bytes=limit,
    )
