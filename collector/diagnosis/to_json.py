"""The `diagnosis` of an `oom-kill/1` document, which is also what `diagnose --output json` prints."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collector.diagnosis.model import Advice, Diagnosis, Finding, Value


def to_json(diagnosis: Diagnosis) -> dict[str, object]:
    """Of JSON's types only; the values of findings and advice stand flat beside what every one has."""
    judgement = diagnosis.judgement
    growth, since, to_limit = judgement.growth_bytes_per_hour, judgement.growth_since, judgement.seconds_to_limit
    return {
        "pattern": str(judgement.pattern),
        "confidence": round(judgement.confidence, 3),
        "growth_bytes_per_hour": _plain(None if growth is None else round(growth, 1)),
        "growth_since": _plain(since),
        "seconds_to_limit": _plain(None if to_limit is None else round(to_limit, 1)),
        "limit_bytes": judgement.limit_bytes,
        "peak_bytes": judgement.peak_bytes,
        "steady_bytes": judgement.steady_bytes,
        "reasons": list(judgement.reasons),
        "missing": list(judgement.missing),
        "findings": [_finding(finding) for finding in diagnosis.findings],
        "advice": [_advice(advice) for advice in diagnosis.advice],
    }


def _finding(finding: Finding) -> dict[str, object]:
    own = {"kind": str(finding.kind), "text": finding.text, "evidence": list(finding.evidence)}
    return own | _values(finding.values, beside=own)


def _advice(advice: Advice) -> dict[str, object]:
    own: dict[str, object] = {"action": str(advice.action), "text": advice.text, "command": advice.command}
    return own | _values(advice.values, beside=own)


def _values(values: Mapping[str, Value], *, beside: Mapping[str, object]) -> dict[str, object]:
    """What has the name of a part that all have is left out: it would hide that."""
    return {name: _plain(value) for name, value in values.items() if name not in beside}


def _plain(value: Value) -> Value:
    """JSON knows no infinity."""
    return None if isinstance(value, float) and not isfinite(value) else value
