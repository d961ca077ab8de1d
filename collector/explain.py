"""An incident in one sentence for a person: the verdict first."""

from __future__ import annotations

from collector.model import Attribution, Cause, MemoryUse, OomReport, Sighting, Verdict
from collector.units import human_bytes

SHORT_ID = 12


def explain(report: OomReport, attribution: Attribution, verdict: Verdict, sighting: Sighting | None = None) -> str:
    """Names from the log stand in it as they are: whoever prints it to a terminal escapes them."""
    happened = _what_happened(report, attribution, verdict, sighting)
    return f"{happened}: the kernel killed {_victims(report, attribution, verdict)}."


def _what_happened(report: OomReport, attribution: Attribution, verdict: Verdict, sighting: Sighting | None) -> str:
    container, pod = container_name(attribution), pod_name(attribution)
    limit = _limit(report.memory or (sighting.memory if sighting else None))
    match verdict.cause:
        case Cause.CONTAINER_LIMIT:
            return f"{_start(_in_pod(container, pod))} reached its memory limit{limit}"
        case Cause.NESTED_LIMIT:
            return f"A cgroup that {_in_pod(container, pod)} made for itself reached its memory limit{limit}"
        case Cause.POD_LIMIT:
            return f"{_start(pod)} reached its memory limit{limit}"
        case Cause.QOS_LIMIT:
            return f"The node is short of memory: all pods of one QoS class together reached their limit{limit}"
        case Cause.NODE_ALLOCATABLE:
            return f"The node is short of memory: its pods together reached what is allocatable to them{limit}"
        case Cause.SYSTEM_LIMIT:
            limited = report.oom_memcg or (sighting.limited if sighting else None)
            return f"The cgroup {limited}, outside the pods, reached its memory limit{limit}"
        case Cause.NODE:
            return "The node ran out of memory"
        case Cause.NODE_NUMA:
            return "The node ran out of memory on the NUMA nodes that the invoking task may use"
        case Cause.MANUAL:
            return "Somebody asked for an OOM kill (sysrq-f)"
        case Cause.UNKNOWN:
            return _start(verdict.reason.replace("; ", ", "))


def _victims(report: OomReport, attribution: Attribution, verdict: Verdict) -> str:
    victim = report.victim
    name = "a process that the log does not name" if victim.comm is None else victim.comm
    facts = [] if victim.pid is None else [f"pid {victim.pid}"]
    if victim.anon_rss_bytes is not None:
        held = victim.anon_rss_bytes + (victim.file_rss_bytes or 0) + (victim.shmem_rss_bytes or 0)
        facts.append(f"using {human_bytes(held)}")
    text = f"{name} ({', '.join(facts)})" if facts else name
    others = len(report.also_killed)
    if others:
        text += f" and {others} more process{'es' if others > 1 else ''} of its group"
    return text + _where(attribution, verdict)


def _where(attribution: Attribution, verdict: Verdict) -> str:
    """What the first half of the sentence has not said yet of the victim's place."""
    if verdict.cause in (Cause.CONTAINER_LIMIT, Cause.NESTED_LIMIT):
        return ""
    container, pod = container_name(attribution), pod_name(attribution)
    if verdict.cause is Cause.POD_LIMIT:
        return "" if attribution.container is None else f" in {container}"
    if attribution.container is None and attribution.pod is None:
        return ""
    return f" in {_in_pod(container, pod) if attribution.container else pod}"


def container_name(attribution: Attribution) -> str:
    container = attribution.container
    if container is None or (container.name is None and container.id is None):
        return "a container"
    return f"container {container.name or (container.id or '')[:SHORT_ID]}"


def pod_name(attribution: Attribution) -> str:
    pod = attribution.pod
    if pod is None:
        return "a pod"
    return f"pod {pod.namespace}/{pod.name}" if pod.name is not None else f"pod {pod.uid}"


def _in_pod(container: str, pod: str) -> str:
    return container if pod == "a pod" else f"{container} of {pod}"


def _limit(memory: MemoryUse | None) -> str:
    limit = memory.limit_bytes if memory else None
    return "" if limit is None else f" of {human_bytes(limit)}"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
