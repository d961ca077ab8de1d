"""A node at the time of a kill: its pods with their use and requests, whose each task was, and evictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from collector.diagnosis.commands import quantity
from collector.diagnosis.model import Neighbour, NodeFacts, PodUse
from collector.history import History
from collector.model import ContainerId, ContainerKind, MemcgPath, PodUid, QosClass, Task
from collector.parse.cgroup_path import Level, parse_memcg_path
from collector.pods.eviction import Resource, eviction
from collector.pods.record import PodRecord

STALE_SECONDS = 30.0
"""A sample that was so old at the kill is of a cgroup that was gone by then."""
MOST_TASKS = 50
"""So many of the largest are looked up: for a process outside of the pods, files in /proc have to be read."""
DEFAULT_THRESHOLD_BYTES = 100 << 20
"""pkg/kubelet/eviction/defaults_linux.go"""

_HOST = ""


def gather_node_facts(
    tasks: Iterable[Task],
    *,
    at: float,
    killed_at: datetime,
    history: History,
    pods: Iterable[PodRecord] | None,
    find: Callable[[Task], MemcgPath | None],
    stale_seconds: float = STALE_SECONDS,
) -> NodeFacts:
    """
    at: of the kill, in the history's clock; killed_at: the same in UTC. pods: all that the API has told, deleted ones
    too; None: there is no API. find: the cgroup of a row of the task dump. stale_seconds: some
    sampling intervals.
    """
    records = None if pods is None else list(pods)
    used, containers = _sampled(history, at, stale_seconds)
    evictions = None if records is None else _Evictions.of(records, killed_at)
    return NodeFacts(
        pods=tuple(_pods(used, containers, records or ())),
        pod_of_pid=_pod_of_pid(tasks, find),
        evictions=evictions.for_memory if evictions else (),
        eviction_threshold=evictions.threshold if evictions else None,
        eviction_threshold_bytes=evictions.threshold_bytes if evictions else None,
    )


def request_of(pod: PodRecord) -> int:
    """
    What the scheduler counts, but for the overhead of a runtime class: the pod's own request, else the most that its
    containers request at a time. An init container runs beside the sidecars that are declared before it.

    Source: staging/src/k8s.io/component-helpers/resource/helpers.go, PodRequests().
    """
    if pod.request_bytes is not None:
        return pod.request_bytes
    apps = sidecars = starting = 0
    for container in pod.containers:  # init containers and sidecars first, as declared
        request = container.request_bytes or 0
        if container.kind is ContainerKind.APP:
            apps += request
        elif container.kind is ContainerKind.SIDECAR:
            sidecars += request
        elif container.kind is ContainerKind.INIT:
            starting = max(starting, sidecars + request)
    return max(apps + sidecars, starting)


# Use


def _sampled(
    history: History, at: float, stale_seconds: float
) -> tuple[dict[PodUid, tuple[QosClass | None, int]], dict[ContainerId, int]]:
    """Class and working set of each pod, working sets of containers."""
    qos_classes: dict[PodUid, QosClass | None] = {}
    own: dict[PodUid, int] = {}
    sums: defaultdict[PodUid, int] = defaultdict(int)
    containers: dict[ContainerId, int] = {}
    for key, life in history.of_part("pod"):
        found = life.sample_at(at)
        place = parse_memcg_path(key.path)
        if found is None or found[0] < at - stale_seconds or place.pod_uid is None:
            continue
        used = found[1].working_set
        qos_classes[place.pod_uid] = place.qos_class
        if place.level is Level.POD:
            own[place.pod_uid] = used
        elif place.level is Level.CONTAINER and place.container_id is not None:
            containers[place.container_id] = used
            sums[place.pod_uid] += used
    # A runtime that does not follow the kubelet's cgroup driver leaves the pod's own cgroup empty.
    return {uid: (qos, max(own.get(uid, 0), sums[uid])) for uid, qos in qos_classes.items()}, containers


def _pods(
    used: Mapping[PodUid, tuple[QosClass | None, int]],
    containers: Mapping[ContainerId, int],
    records: Iterable[PodRecord],
) -> Iterator[PodUse]:
    """Those that were sampled, and those that run and are too new for it."""
    by_uid = {record.uid: record for record in records if record.uid in used or record.phase == "Running"}
    for uid in {**used, **by_uid}:
        qos_class, working_set = used.get(uid, (None, None))
        record = by_uid.get(uid)
        if record is not None:
            yield _pod(record, qos_class, working_set, containers)
            continue
        yield PodUse(
            uid=uid,
            namespace=None,
            name=None,
            qos_class=qos_class,
            working_set_bytes=working_set,
            request_bytes=0 if qos_class is QosClass.BEST_EFFORT else None,  # by definition
        )


def _pod(
    record: PodRecord,
    qos_class: QosClass | None,
    working_set: int | None,
    containers: Mapping[ContainerId, int],
) -> PodUse:
    return PodUse(
        uid=record.uid,
        namespace=record.namespace,
        name=record.name,
        qos_class=record.qos_class or qos_class,
        working_set_bytes=working_set,
        request_bytes=request_of(record),
        priority_class=record.priority_class,
        owner_kind=record.owner.kind if record.owner else None,
        owner_name=record.owner.name if record.owner else None,
        containers=tuple(
            Neighbour(
                name=one.name,
                kind=one.kind,
                working_set_bytes=containers.get(one.id) if one.id is not None else None,
                limit_bytes=one.limit_bytes,
                request_bytes=one.request_bytes,
            )
            for one in record.containers
        ),
    )


def _pod_of_pid(tasks: Iterable[Task], find: Callable[[Task], MemcgPath | None]) -> dict[int, str]:
    largest = sorted(tasks, key=lambda task: -(task.rss_bytes or 0))[:MOST_TASKS]
    found = ((task.pid, find(task)) for task in largest)
    return {pid: parse_memcg_path(path).pod_uid or _HOST for pid, path in found if path is not None}


# Evictions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evictions:
    """`threshold` None: there were some of which it is not known when, so that nothing can be said."""

    for_memory: tuple[tuple[str, float], ...]
    threshold: str | None
    threshold_bytes: int | None

    @classmethod
    def of(cls, records: Iterable[PodRecord], killed_at: datetime) -> _Evictions:
        threshold_bytes = DEFAULT_THRESHOLD_BYTES
        threshold = f"assumed default {quantity(threshold_bytes)}"
        found = []
        for record in records:
            evicted = eviction(record)
            if evicted is None or evicted.resource is not Resource.MEMORY:
                continue
            at = evicted.at or _ended_at(record)
            if at is None:
                return cls(for_memory=(), threshold=None, threshold_bytes=None)
            name = f"{record.namespace}/{record.name}"
            found.append((name, (killed_at - at).total_seconds()))
            if evicted.threshold_bytes is not None:
                threshold_bytes = evicted.threshold_bytes
                threshold = f"{quantity(threshold_bytes)} (status of pod {name})"
        return cls(for_memory=tuple(found), threshold=threshold, threshold_bytes=threshold_bytes)


def _ended_at(record: PodRecord) -> datetime | None:
    """Of its last container: a kubelet before 1.26 sets no condition."""
    ends = [one.terminated.finished_at for one in record.containers if one.terminated and one.terminated.finished_at]
    return max(ends, default=None)
