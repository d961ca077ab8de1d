"""An incident in one sentence for a person: the verdict first."""

from __future__ import annotations

from dataclasses import dataclass

from collector.model import Attribution, Cause, Container, OomReport, Pod, Sighting, Verdict
from collector.units import human_bytes

SHORT_ID = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """
    What the sentence is made of; names from the log are in it as they are.

    `reason`: what the cause rests on. `limited`: the cgroup whose limit was hit. `others`: group members that died too.
    `lone`: the pod's limit is this container's.
    """

    cause: Cause
    reason: str
    limited: str | None
    limit_bytes: int | None
    comm: str | None
    pid: int | None
    held_bytes: int | None
    others: int
    pod: Pod | None
    container: Container | None
    lone: bool = False


def headline(report: OomReport, attribution: Attribution, verdict: Verdict, sighting: Sighting | None) -> Headline:
    memory = report.memory or (sighting.memory if sighting else None)
    victim = report.victim
    return Headline(
        cause=verdict.cause,
        reason=verdict.reason,
        limited=report.oom_memcg or (sighting.limited if sighting else None),
        limit_bytes=memory.limit_bytes if memory else None,
        comm=victim.comm,
        pid=victim.pid,
        held_bytes=held_bytes(victim.anon_rss_bytes, victim.file_rss_bytes, victim.shmem_rss_bytes),
        others=len(report.also_killed),
        pod=attribution.pod,
        container=attribution.container,
    )


def held_bytes(anon: int | None, file: int | None, shmem: int | None) -> int | None:
    """What a victim held, as its kill line gives it; None where that has no anon_rss."""
    return None if anon is None else anon + (file or 0) + (shmem or 0)


def explain(of: Headline) -> str:
    """Names from the log stand in it as they are: whoever prints it to a terminal escapes them."""
    return f"{_what_happened(of)}: the kernel killed {_victims(of)}."


def _what_happened(of: Headline) -> str:
    limit = "" if of.limit_bytes is None else f" of {human_bytes(of.limit_bytes)}"
    match of.cause:
        case Cause.CONTAINER_LIMIT:
            return f"{_start(_in_pod(of))} reached its memory limit{limit}"
        case Cause.NESTED_LIMIT:
            return f"A cgroup that {_in_pod(of)} made for itself reached its memory limit{limit}"
        case Cause.POD_LIMIT if of.lone:
            return f"{_start(_in_pod(of))} reached its memory limit{limit} (at the pod's cgroup)"
        case Cause.POD_LIMIT:
            return f"{_start(_pod(of.pod))} reached its memory limit{limit}"
        case Cause.QOS_LIMIT:
            return f"The node is short of memory: all pods of one QoS class together reached their limit{limit}"
        case Cause.NODE_ALLOCATABLE:
            return f"The node is short of memory: its pods together reached what is allocatable to them{limit}"
        case Cause.SYSTEM_LIMIT:
            return f"The cgroup {of.limited}, outside the pods, reached its memory limit{limit}"
        case Cause.NODE:
            return "The node ran out of memory"
        case Cause.NODE_NUMA:
            return "The node ran out of memory on the NUMA nodes that the invoking task may use"
        case Cause.MANUAL:
            return "Somebody asked for an OOM kill (sysrq-f)"
        case Cause.UNKNOWN:
            return _start(of.reason.replace("; ", ", "))


def _victims(of: Headline) -> str:
    name = "a process that the log does not name" if of.comm is None else of.comm
    facts = [] if of.pid is None else [f"pid {of.pid}"]
    if of.held_bytes is not None:
        facts.append(f"using {human_bytes(of.held_bytes)}")
    text = f"{name} ({', '.join(facts)})" if facts else name
    if of.others:
        text += f" and {of.others} more process{'es' if of.others > 1 else ''} of its group"
    return text + _where(of)


def _where(of: Headline) -> str:
    """What the first half of the sentence has not said yet of the victim's place."""
    if of.cause in (Cause.CONTAINER_LIMIT, Cause.NESTED_LIMIT) or of.lone:
        return ""
    if of.cause is Cause.POD_LIMIT:
        return "" if of.container is None else f" in {_container(of.container)}"
    if of.container is None and of.pod is None:
        return ""
    return f" in {_in_pod(of) if of.container else _pod(of.pod)}"


def _container(container: Container | None) -> str:
    if container is None or (container.name is None and container.id is None):
        return "a container"
    return f"container {container.name or (container.id or '')[:SHORT_ID]}"


def _pod(pod: Pod | None) -> str:
    if pod is None:
        return "a pod"
    return f"pod {pod.namespace}/{pod.name}" if pod.name is not None else f"pod {pod.uid}"


def _in_pod(of: Headline) -> str:
    container = _container(of.container)
    return container if of.pod is None else f"{container} of {_pod(of.pod)}"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
