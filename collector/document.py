"""An incident as the JSON document of schema/kill-record.schema.json (`oom-kill/1`)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC

from collector.model import Attribution, Container, Incident, Invoker, MemoryUse, Pod

SCHEMA = "oom-kill/1"


def to_document(incident: Incident) -> dict[str, object]:
    """Ready for json.dumps. null means: not known."""
    report, verdict, attribution = incident.report, incident.verdict, incident.attribution
    sighting = incident.sighting
    moment = report.kill_moment
    usec = moment.monotonic_usec
    document: dict[str, object] = {
        "schema": SCHEMA,
        "id": incident.id,
        "time": None if incident.time is None else _rfc3339(incident),
        "monotonic_seconds": None if usec is None else usec / 1_000_000,
        "boot_id": incident.boot_id,
        "node": incident.node,
        "evidence": [str(evidence) for evidence in verdict.evidence],
        "cause": str(verdict.cause),
        "node_pressure": verdict.node_pressure,
        "reason": verdict.reason,
        "constraint": None if report.constraint is None else str(report.constraint),
        "oom_memcg": report.oom_memcg or (sighting.limited if sighting else None),
        "task_memcg": report.task_memcg or (sighting.memcg if sighting else None),
        "group_kill": report.group_memcg is not None,
        "victim": asdict(report.victim),
        "also_killed": [asdict(process) for process in report.also_killed],
        "invoker": _invoker(report.invoker),
        "node_memory": None if report.node_memory is None else asdict(report.node_memory),
        "memory": _memory(report.memory or (sighting.memory if sighting else None)),
        "page_size": report.page_size if report.page_size_known else None,
        "tasks": [task._asdict() for task in report.tasks],
        "pod": _pod(attribution.pod),
        "container": _container(attribution.container),
        "attribution": _attribution(attribution),
        "fate": None,
        "summary": incident.summary,
    }
    if verdict.contradictions:
        document["contradictions"] = list(verdict.contradictions)
    if sighting is not None and sighting.collateral:
        document["collateral"] = [asdict(process) for process in sighting.collateral]
    return document


def _rfc3339(incident: Incident) -> str:
    assert incident.time is not None
    return incident.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _invoker(invoker: Invoker | None) -> dict[str, object] | None:
    return None if invoker is None else asdict(invoker)


def _memory(memory: MemoryUse | None) -> dict[str, object] | None:
    return None if memory is None else asdict(memory)


def _pod(pod: Pod | None) -> dict[str, object] | None:
    return None if pod is None else asdict(pod)


def _container(container: Container | None) -> dict[str, object] | None:
    return None if container is None else asdict(container)


def _attribution(attribution: Attribution) -> dict[str, object]:
    return {"method": str(attribution.method), "names_from": str(attribution.names_from)}
