"""Limits and requests: of the container, of the pod, of a cgroup that the workload made itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from collector.diagnosis.advice.sizes import (
    Basis,
    Size,
    lasting_if_leak,
    size_limit,
    size_request,
)
from collector.diagnosis.advice.words import Given, Target, Values, hours, how, lasting_values, of_whole_pod
from collector.diagnosis.commands import (
    container_resources,
    patch,
    pod_limit,
    quantity,
    set_resources,
    strategic_merge_patch,
    tidy_up,
)
from collector.diagnosis.findings.use import same_limit
from collector.diagnosis.model import Action, Advice, Pattern
from collector.model import Cause, ContainerKind, QosClass
from collector.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.diagnosis.model import Facts, Judgement, Neighbour


SURE = 0.9
"""From this confidence on, what is not called a leak is none. Lives of minutes leave no room for one either."""


def advise_limit(given: Given) -> Iterator[Advice]:
    """A limit that fits, where it belongs: at whatever reached its own."""
    facts = given.facts
    if facts.cause is Cause.NESTED_LIMIT:
        yield _nested(facts, given.factor)
        return
    size = size_limit(facts, given.judgement, given.factor)
    if size is None:
        return
    if of_whole_pod(facts):
        yield _pod(given, size)
    elif facts.spec_limit_bytes is not None and facts.spec_limit_bytes >= size.limit_bytes:
        yield _pending(facts.spec_limit_bytes, given.target, size)
    else:
        yield _container(given, size)


def advise_request(given: Given) -> Iterator[Advice]:
    """Where a limit is not what has to change, and there is no request."""
    facts, judgement, target = given.facts, given.judgement, given.target
    limit = facts.container.limit_bytes if facts.container else None
    request = size_request(facts, judgement, limit)
    if request is None:
        return
    yield Advice(
        action=Action.SET_REQUEST,
        text=f"Request {quantity(request)} of memory for {target}, its steady state: without it the node is packed as "
        f"if it needed none, and it is an early victim{how(target.workload, resize=False)}",
        values={**target.values, "request_bytes": request},
        # A request would change the QoS class of a pod, which a resize must not.
        command=None if _is_bare(target) else _command(target, request=request),
    )


def _container(given: Given, size: Size) -> Advice:
    facts, judgement, target = given.facts, given.judgement, given.target
    request = size_request(facts, judgement, size.limit_bytes)
    command = _command(target, limit=size.limit_bytes, request=request)
    if _is_bare(target) and facts.pod is not None and facts.pod.qos_class is QosClass.BEST_EFFORT:
        command = None
    # Of what may be a leak it is no cure.
    start = "For now, set" if judgement.pattern is Pattern.UNKNOWN else "Set"
    text = f"{start} the memory limit of {target} to {_said(size)}{_request_said(facts, request)}"
    values = {**target.values, **_values(size), "request_bytes": request}
    doubts = f"{_if_too_large(facts, size, values)}{_if_leak(facts, judgement, size, values)}"
    return Advice(
        action=Action.SET_LIMIT,
        text=f"{text}{doubts}{how(target.workload, resize=True)}",
        values=values | _manifest(target, limit=size.limit_bytes, request=request),
        command=command,
    )


def _pod(given: Given, size: Size) -> Advice:
    """
    The pod's limit is the sum of its containers' limits where each has one, else it is set on the pod (pod-level
    resources). The sum is only raised by raising a container's: that of the one that holds most.
    """
    facts, judgement, target = given.facts, given.judgement, given.target
    holder = holder_of(facts, target, size.peak_bytes)
    limits = _limits(facts)
    is_guaranteed = facts.pod is not None and facts.pod.qos_class is QosClass.GUARANTEED
    # The kernel rounds each limit down to whole pages.
    if limits is None or size.present_bytes is None or not same_limit(sum(limits), size.present_bytes):
        request = size.limit_bytes if is_guaranteed else None
        spec = pod_limit(size.limit_bytes, request)
        values: Values = {**target.values, **_values(size), "scope": "pod", "request_bytes": request}
        command = patch(target.workload, spec) if target.workload else None
        most = f"; {holder} holds most" if holder.container is not None else ""
        return Advice(
            action=Action.SET_LIMIT,
            text=f"Set the memory limit of the pod (not of a container) to {_said(size)}{_request_said(facts, request)}"
            f"{most}{_if_too_large(facts, size, values)}{_if_leak(facts, judgement, size, values)}"
            f"{how(target.workload)}",
            values=values,
            command=command,
        )
    own = next(
        (one.limit_bytes for one in facts.neighbours or () if one.name == holder.container),
        facts.container.limit_bytes if facts.container else None,
    )
    limit = tidy_up((own or 0) + size.limit_bytes - size.present_bytes)
    request = limit if is_guaranteed else None
    values = {**holder.values, **_values(size), "limit_bytes": limit, "pod_limit_bytes": size.limit_bytes}
    values["request_bytes"] = request
    return Advice(
        action=Action.SET_LIMIT,
        text=f"Set the memory limit of {holder}, which holds most, to {_least(size)}{quantity(limit)}: the pod's limit "
        f"is the sum, and needs {_said(size)}{_request_said(facts, request)}{_if_too_large(facts, size, values)}"
        f"{_if_leak(facts, judgement, size, values)}{how(target.workload, resize=True)}",
        values=values,
        command=_command(holder, limit=limit, request=request),
    )


def _nested(facts: Facts, factor: float) -> Advice:
    present = facts.memory.limit_bytes if facts.memory else None
    limit = None if not present else tidy_up(2 * present * factor)
    amount = "" if limit is None or present is None else f" (at least {quantity(limit)}, now {human_bytes(present)})"
    return Advice(
        action=Action.CHANGE_NESTED_LIMIT,
        text=f"Change the limit of the cgroup inside the container where the workload sets it{amount}: the container's "
        "own limit was not reached, and raising it does nothing",
        values={"limit_bytes": limit, "present_limit_bytes": present, "at_least": True, "cgroup": facts.oom_memcg},
    )


def _pending(declared: int, target: Target, size: Size) -> Advice:
    enforced = "" if size.present_bytes is None else f", but {human_bytes(size.present_bytes)} was in force"
    return Advice(
        action=Action.OBSERVE,
        text=f"The spec of {target} says {quantity(declared)} already{enforced}: let the resize finish, or make the "
        "pod anew",
        values={**target.values, "spec_limit_bytes": declared, "present_limit_bytes": size.present_bytes},
    )


def holder_of(facts: Facts, target: Target, used: int | None) -> Target:
    """
    The container of the pod that holds most: the victim's is what the others' are not. Where that is not known, the
    victim's, if it is known to be alone.
    """
    neighbours = facts.neighbours
    unknown = Target(workload=target.workload, container=None, kind=None, namespace=target.namespace, pod=target.pod)
    if neighbours is None or used is None:
        return unknown
    held = [(one, one.working_set_bytes) for one in neighbours if _runs(one)]
    if any(size is None for _, size in held):
        return unknown
    own = used - sum(size or 0 for _, size in held)
    most, size = max(held, key=lambda one: one[1] or 0, default=(None, None))
    if most is None or (size or 0) < own:
        return target
    return Target(
        workload=target.workload, container=most.name, kind=most.kind, namespace=target.namespace, pod=target.pod
    )


def _runs(neighbour: Neighbour) -> bool:
    return neighbour.kind is not ContainerKind.INIT or bool(neighbour.working_set_bytes)


def _limits(facts: Facts) -> list[int] | None:
    """Of the containers that run side by side; None: not all have one, or it is not known."""
    if facts.container is None or facts.neighbours is None:
        return None
    beside = [one.limit_bytes for one in facts.neighbours if one.kind in (ContainerKind.APP, ContainerKind.SIDECAR)]
    limits = [limit for limit in (facts.container.limit_bytes, *beside) if limit]
    return limits if len(limits) == len(beside) + 1 else None


# Words and values


def _said(size: Size) -> str:
    amount = f"{_least(size)}{quantity(size.limit_bytes)}"
    match size.basis:
        case Basis.PEAK:
            return f"{amount}: its peak of {human_bytes(size.peak_bytes)} x {size.factor:g}"
        case Basis.GROWTH:
            grown = human_bytes(size.wanted_bytes - size.peak_bytes)
            return f"{amount}: cut off at {human_bytes(size.peak_bytes)}, {grown} up; as much again, x {size.factor:g}"
        case Basis.DOUBLING:
            return f"{amount}: cut off at {human_bytes(size.peak_bytes)}, so doubled, x {size.factor:g}"


def _least(size: Size) -> str:
    return "at least " if size.at_least else ""


def _request_said(facts: Facts, request: int | None) -> str:
    if request is None:
        return ""
    if facts.pod is not None and facts.pod.qos_class is QosClass.GUARANTEED:
        return "; request the same, so that it stays Guaranteed"
    today = max(facts.spec_request_bytes or 0, (facts.container.request_bytes if facts.container else None) or 0)
    return f"; request {quantity(request)}, {'as today' if request == today else 'its steady state'}"


def _if_too_large(facts: Facts, size: Size, values: Values) -> str:
    """A limit that the node cannot keep, and a request by which no pod fits there. Adds it to `values`."""
    if facts.allocatable_bytes is None or size.limit_bytes <= facts.allocatable_bytes:
        return ""
    values["allocatable_bytes"] = facts.allocatable_bytes
    room = human_bytes(facts.allocatable_bytes)
    larger = size.peak_bytes > facts.allocatable_bytes
    return f"; this node has {room} for all its pods: {'it needs a larger one' if larger else 'it cannot keep as much'}"


def _if_leak(facts: Facts, judgement: Judgement, size: Size, values: Values) -> str:
    """Whoever raises the limit of what may be a leak must know what it buys. Adds it to `values`."""
    grows = (judgement.growth_bytes_per_hour or 0) > 0
    sure = judgement.pattern is Pattern.STARTUP or judgement.confidence >= SURE
    if judgement.pattern is not Pattern.UNKNOWN and not grows and sure:
        return ""
    lasting = lasting_if_leak(facts, judgement, size.limit_bytes)
    if lasting is None:
        return "; no cure if it leaks, which is not known" if judgement.pattern is Pattern.UNKNOWN else ""
    values |= lasting_values(lasting)
    return f"; if it leaks, that lasts {hours(lasting)}"


def _values(size: Size) -> Values:
    return {
        "limit_bytes": size.limit_bytes,
        "present_limit_bytes": size.present_bytes,
        "peak_bytes": size.peak_bytes,
        "wanted_bytes": size.wanted_bytes,
        "basis": str(size.basis),
        "at_least": size.at_least,
        "factor": size.factor,
    }


def _is_bare(target: Target) -> bool:
    return target.workload is not None and target.workload.kind == "Pod"


def _command(target: Target, *, limit: int | None = None, request: int | None = None) -> str | None:
    if target.workload is None or target.container is None:
        return None
    return set_resources(target.workload, target.container, kind=target.kind, limit=limit, request=request)


def _manifest(target: Target, *, limit: int, request: int | None) -> Values:
    """The patch for a manifest that has to be edited because its object cannot be."""
    if target.workload is None or target.container is None or target.workload.kind != "Job":
        return {}
    spec = container_resources(target.container, kind=target.kind, limit=limit, request=request)
    return {"patch": json.dumps(strategic_merge_patch("Job", spec), separators=(",", ":"))}
