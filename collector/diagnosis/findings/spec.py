"""What the pod's spec asks for, against what was enforced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.diagnosis.findings.use import LARGEST_PAGE_BYTES, evidence
from collector.diagnosis.model import Finding, FindingKind
from collector.model import NODE_PRESSURE, Cause, ContainerKind, QosClass
from collector.units import human_bytes

if TYPE_CHECKING:
    from collector.diagnosis.model import Facts
    from collector.model import Container

_WITH_RESOURCES = {ContainerKind.APP, ContainerKind.SIDECAR, ContainerKind.INIT}


def no_limit(facts: Facts) -> Finding | None:
    container = _specified(facts)
    limits = (facts.spec_limit_bytes, container.limit_bytes if container else None)
    if container is None or any(limit is not None for limit in limits) or facts.cause is Cause.CONTAINER_LIMIT:
        return None
    bound = "the pod's limit" if facts.cause is Cause.POD_LIMIT else "the node's memory"
    return Finding(
        kind=FindingKind.NO_LIMIT,
        text=f"Container {container.name} has no memory limit: only {bound} bounds it",
        values={"container": container.name},
        evidence=("container.kind",),
    )


def no_request(facts: Facts) -> Finding | None:
    """Where a limit is set and no request, the API server makes them equal: then there is one."""
    container = _specified(facts)
    if container is None or facts.spec_request_bytes or container.request_bytes:
        return None
    qos = facts.pod.qos_class if facts.pod else None
    is_first = facts.cause in NODE_PRESSURE and qos is QosClass.BEST_EFFORT
    first = ", and as BestEffort it is killed before others" if is_first else ""
    return Finding(
        kind=FindingKind.NO_REQUEST,
        text=f"Container {container.name} requests no memory: the scheduler keeps no room for it{first}",
        values={"container": container.name, "qos_class": None if qos is None else str(qos)},
        evidence=evidence("container.kind", "pod.qos_class" if is_first else None),
    )


def limit_differs(facts: Facts) -> Finding | None:
    """Of the container's own limit alone: a pod's is a sum, with the overhead of its runtime class."""
    enforced = facts.memory.limit_bytes if facts.memory and facts.cause is Cause.CONTAINER_LIMIT else None
    specified = facts.spec_limit_bytes
    if enforced is None or specified is None or 0 <= specified - enforced < LARGEST_PAGE_BYTES:
        return None
    than = "less" if enforced < specified else "more"
    return Finding(
        kind=FindingKind.LIMIT_DIFFERS,
        text=f"The limit that was enforced, {human_bytes(enforced)}, is {than} than the {human_bytes(specified)} of "
        f"the spec: a resize that was not applied then, or a change that Kubernetes does not know of",
        values={"limit_bytes": enforced, "spec_limit_bytes": specified},
        evidence=("memory.limit_bytes", "spec_limit_bytes"),
    )


def _specified(facts: Facts) -> Container | None:
    """The container, where its spec is known: nothing but the API tells of which kind it is."""
    container = facts.container
    if container is None or container.name is None or container.kind not in _WITH_RESOURCES:
        return None
    return container
