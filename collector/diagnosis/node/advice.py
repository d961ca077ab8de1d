"""
What the operator of the node can do, first what stops the bleeding. Never a higher limit for the victim: it had room.

Each step rests on a finding: without it there is no step. Sources: pkg/kubelet/cm/node_container_manager_linux.go
(the limit of all pods is the capacity less the reservations), pkg/kubelet/eviction/defaults_linux.go.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise

from collector.diagnosis.commands import Workload, quantity, set_resources, tidy_up, workload_named
from collector.diagnosis.model import Action, Advice, Facts, Finding, FindingKind, Neighbour, PodUse, Value
from collector.diagnosis.node.evictions import LOOK_SECONDS, WINDOW_SECONDS
from collector.diagnosis.node.use import Use, over_users, pods_in_use
from collector.model import NODE_PRESSURE, Cause, ContainerKind, QosClass
from collector.units import human_bytes

MOST_PODS = 3
# A container below this share of what its pod uses over its request is not worth a step.
_LEAST_SHARE = 10
_MEMORY_HUNDREDTHS = 10
"""Of the node's memory, that an eviction threshold may take."""

# pkg/kubelet/eviction/defaults_linux.go. Who sets one of them sets those left out to 0.
_OTHER_THRESHOLDS = (
    'nodefs.available: "10%", nodefs.inodesFree: "5%", imagefs.available: "15%", imagefs.inodesFree: "5%"'
)


def advise_node(facts: Facts, findings: tuple[Finding, ...]) -> tuple[Advice, ...]:
    if facts.cause not in NODE_PRESSURE:
        return ()
    if facts.cause is Cause.NODE_NUMA:
        return (_widen_numa(facts),)
    found = {finding.kind: finding.values for finding in findings}
    filled, evictions = found.get(FindingKind.NODE_FILLED_BY), found.get(FindingKind.EVICTION)
    steps: list[Advice] = []
    if filled is not None:
        steps += _set_requests(facts)
        steps += _reserve(facts, filled)
        if all(use.over_bytes is None for use in pods_in_use(facts)):
            steps.append(_look_at_pods(filled))
    if evictions is not None:
        steps += _evict_earlier(facts, evictions)
    return tuple(steps)


# Requests


def _set_requests(facts: Facts) -> Iterator[Advice]:
    """Of the three pods that use the most over their requests; replicas of one workload count once."""
    seen: set[Workload | str] = set()
    for use in over_users(facts):
        owner = _workload(use.pod) or use.name
        if owner not in seen:
            seen.add(owner)
            yield from _requests_of(use, facts)
        if len(seen) == MOST_PODS:
            return


def _requests_of(use: Use, facts: Facts) -> Iterator[Advice]:
    pod = use.pod
    whose = ", the victim's own pod," if facts.pod is not None and facts.pod.uid == pod.uid else ""
    over = use.over_bytes or 0
    reason = (
        f"{use.name}{whose} uses {human_bytes(use.bytes)}, {human_bytes(over)} more than the scheduler counts for it"
    )
    containers = _containers(use)
    if not containers:
        request = tidy_up(use.bytes)
        yield Advice(
            action=Action.SET_REQUESTS_OF_OTHERS,
            text=f"Request {quantity(request)} of memory for pod {use.name}: {reason}",
            values={"pod": use.name, "request_bytes": request, "use_bytes": use.bytes, "over_bytes": over},
        )
    workload = _workload(pod)
    for container, used in containers:
        # A request cannot be more than the limit.
        request = min(tidy_up(used), container.limit_bytes or tidy_up(used))
        name, present = container.name or "", container.request_bytes or 0
        values: dict[str, Value] = {
            "pod": use.name,
            "container": name,
            "request_bytes": request,
            "present_request_bytes": present,
            "use_bytes": used,
            "over_bytes": used - present,
        }
        if workload is not None:
            values |= {"workload": str(workload), "namespace": workload.namespace}
        # A resize must not make a BestEffort pod another.
        is_fixed = workload is not None and workload.kind == "Pod" and pod.qos_class is QosClass.BEST_EFFORT
        command = None
        if workload is not None and not is_fixed:
            command = set_resources(workload, name, kind=container.kind, request=request)
        now = f" instead of {quantity(present)}" if present else ""
        by = f" (in the manifest of {workload})" if workload is not None and command is None else ""
        yield Advice(
            action=Action.SET_REQUESTS_OF_OTHERS,
            text=f"Request {quantity(request)} of memory for container {name}{now}{by}: {reason}",
            values=values,
            command=command,
        )


def _containers(use: Use) -> list[tuple[Neighbour, int]]:
    """Those that use more than they request, with what they use. A lone container has what its pod has."""
    running = [one for one in use.pod.containers or () if one.kind in _LASTING]
    if len(running) == 1:
        return [(running[0], use.bytes)]
    used = [(one, one.working_set_bytes or 0) for one in running]
    least = max(1, (use.over_bytes or 0) // _LEAST_SHARE)
    return [(one, size) for one, size in used if size - (one.request_bytes or 0) >= least]


_LASTING = (ContainerKind.APP, ContainerKind.SIDECAR)


def _workload(pod: PodUse) -> Workload | None:
    if pod.namespace is None or pod.name is None:
        return None
    return workload_named(pod.namespace, pod.name, pod.owner_kind, pod.owner_name)


def _look_at_pods(filled: Mapping[str, Value]) -> Advice:
    largest = filled.get("task_top1_name")
    first = f", beginning with that of {largest}" if largest is not None else ""
    return Advice(
        action=Action.OBSERVE,
        text=(
            "Compare what the pods of this node use with what they request, which is not known here, and raise the "
            f"requests of those that use more{first}"
        ),
        command="kubectl top pods --all-namespaces --sort-by=memory",
    )


# The node


def _reserve(facts: Facts, filled: Mapping[str, Value]) -> Iterator[Advice]:
    """Where the host's own processes take what was promised to pods."""
    held = filled.get("host_rss_bytes")
    ram = facts.node_memory.ram_bytes if facts.node_memory else None
    if not isinstance(held, int) or ram is None or facts.allocatable_bytes is None:
        return
    reserved = max(0, ram - facts.allocatable_bytes)
    if held <= reserved:
        return
    more = tidy_up(held - reserved)
    yield Advice(
        action=Action.SET_NODE_RESERVATION,
        text=(
            f"Reserve {quantity(more)} more memory for the host (systemReserved or kubeReserved in the kubelet's "
            f"configuration): its processes hold {human_bytes(held)}, reserved are {human_bytes(reserved)}"
        ),
        values={
            "more_bytes": more,
            "reservation_bytes": reserved + more,
            "present_reservation_bytes": reserved,
            "host_rss_bytes": held,
        },
    )


def _evict_earlier(facts: Facts, evictions: Mapping[str, Value]) -> Iterator[Advice]:
    """Twice as early, or two looks of the kubelet before the end where the pace is known."""
    present = evictions.get("threshold_bytes")
    if not isinstance(present, int):
        return
    ram = facts.node_memory.ram_bytes if facts.node_memory else None
    pace = _pace(facts)
    threshold = 2 * present
    reason = f"{quantity(present)} left too little time for it, which looks every {LOOK_SECONDS} s"
    if pace is not None and (wanted := present + round(2 * LOOK_SECONDS * pace)) > threshold:
        most = wanted if ram is None else max(threshold, ram * _MEMORY_HUNDREDTHS // 100)
        threshold = min(wanted, most)
        reason += f"; the victim grew by {human_bytes(round(LOOK_SECONDS * pace))} in that time"
    threshold = tidy_up(threshold)
    config = f'evictionHard: {{memory.available: "{quantity(threshold)}", {_OTHER_THRESHOLDS}}}'
    values: dict[str, Value] = {
        "threshold_bytes": threshold,
        "present_threshold_bytes": present,
        "kubelet_configuration": config,
    }
    if pace is not None:
        values["growth_bytes_per_second"] = round(pace)
    yield Advice(
        action=Action.SET_EVICTION_THRESHOLD,
        text=(
            f"Let the kubelet evict below {quantity(threshold)} of available memory: {reason}. In its configuration, "
            f"with the defaults of the others, which else become 0: {config}. Pods may request that much less"
        ),
        values=values,
    )


def _pace(facts: Facts) -> float | None:
    """The fastest that the victim's container grew in its last minutes, bytes a second."""
    if facts.history is None:
        return None
    points = facts.history.last.points
    recent = [point for point in points if point.time >= points[-1].time - WINDOW_SECONDS]
    paces = [
        (later.working_set - earlier.working_set) / (later.time - earlier.time)
        for earlier, later in pairwise(recent)
        if later.time - earlier.time >= 1
    ]
    return max((pace for pace in paces if pace > 0), default=None)


def _widen_numa(facts: Facts) -> Advice:
    path = facts.task_memcg
    return Advice(
        action=Action.WIDEN_NUMA,
        text=(
            "Let the pod use more NUMA nodes (the kubelet's memory manager and topology manager policies, or whatever "
            "set cpuset.mems or a memory policy), or spread what is bound to these: only the NUMA nodes that the "
            "caller may use were full, which says nothing of the others"
        ),
        values={} if path is None else {"task_memcg": path},
        command=None if path is None else shlex.join(["cat", f"/sys/fs/cgroup{path}/cpuset.mems.effective"]),
    )
