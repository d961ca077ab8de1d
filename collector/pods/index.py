"""
The pods of this node, by uid and container id: those that the API shows, and for a while those that it no longer does,
since a kill often comes with the deletion of its pod, and is told late.

It reads nothing itself, and does not lock. Times are seconds of one clock that does not go back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from collector.model import ContainerId, ContainerKind, Names, NamesFrom
from collector.pods.record import PodContainer, PodRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from collector.model import PodUid

KEPT_SECONDS = 300.0
"""How long a deleted pod is."""
CAPACITY = 2000
"""Pods, deleted ones included."""
REMEMBERED_IDS = 64
"""Container ids of a pod, those of instances long gone included."""

_LAG_SECONDS = 300.0


class Found(NamedTuple):
    """`container` None: the pod has it not, or not yet. `deleted`: the API does not show this pod any more."""

    pod: PodRecord
    container: PodContainer | None
    deleted: bool


@dataclass(slots=True)
class _Entry:
    pod: PodRecord
    put_at: float
    deleted_at: float | None = None
    container_names: dict[ContainerId, str] = field(default_factory=dict)
    """The latest last."""


class PodIndex:
    """
    Bounded: at `capacity` those deleted longest ago go first; without any, a new pod is not kept and counts as `shed`.
    """

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: dict[str, _Entry] = {}  # by the API's uid: a pod made anew under its name is another
        self.shed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def live(self) -> Iterator[PodRecord]:
        return (entry.pod for entry in self._entries.values() if entry.deleted_at is None)

    def known(self) -> Iterator[PodRecord]:
        """Those deleted a while ago too."""
        return (entry.pod for entry in self._entries.values())

    # What is learned

    def put(self, pod: PodRecord, at: float) -> None:
        entry = self._entries.get(pod.api_uid)
        if entry is None:
            if not self._has_room():
                self.shed += 1
                return
            entry = self._entries[pod.api_uid] = _Entry(pod, at)
        elif _is_outdated(pod, entry, at):
            return
        entry.pod, entry.put_at, entry.deleted_at = pod, at, None
        _remember_ids(entry)

    def delete(self, api_uid: str, at: float) -> None:
        entry = self._entries.get(api_uid)
        if entry is not None and entry.deleted_at is None:
            entry.deleted_at = at

    def replace(self, pods: Iterable[PodRecord], at: float) -> None:
        """A new list: what it does not have was deleted while nobody watched."""
        listed = list(pods)
        for missing in self._entries.keys() - {pod.api_uid for pod in listed}:
            self.delete(missing, at)
        for pod in listed:
            self.put(pod, at)

    def prune(self, at: float) -> None:
        for uid, entry in list(self._entries.items()):
            if entry.deleted_at is not None and entry.deleted_at < at - KEPT_SECONDS:
                del self._entries[uid]

    # What is asked

    def find(self, uid: PodUid | None, container_id: ContainerId | None) -> Found | None:
        """By the uid and container id of a cgroup path, which may lack either."""
        entry = _choose(self._candidates(uid, container_id), container_id)
        if entry is None:
            return None
        name = entry.container_names.get(container_id) if container_id else None
        return Found(entry.pod, entry.pod.container(name), entry.deleted_at is not None)

    def names(
        self, uid: PodUid | None, container_id: ContainerId | None, *, container_name: str | None = None
    ) -> Names | None:
        """`container_name`: as the log folders have it, for a container whose id the status does not show yet."""
        found = self.find(uid, container_id)
        return None if found is None else _names(found.pod, found.container or found.pod.container(container_name))

    def _candidates(self, uid: PodUid | None, container_id: ContainerId | None) -> list[_Entry]:
        if uid is not None:
            entry = self._entries.get(uid)
            if entry is not None:
                return [entry]
            # Second, since anybody may write the annotations that make a mirror pod: no pod is hidden by them.
            mirrors = [entry for entry in self._entries.values() if entry.pod.uid == uid]
            if mirrors:
                return mirrors
        # A runtime that does not follow the kubelet's cgroup driver leaves the uid out; the systemd driver changes `_`.
        return [entry for entry in self._entries.values() if container_id in entry.container_names]

    def _has_room(self) -> bool:
        if len(self._entries) < self._capacity:
            return True
        oldest = min(
            (entry for entry in self._entries.values() if entry.deleted_at is not None),
            key=_deleted_at,
            default=None,
        )
        if oldest is None:
            return False
        del self._entries[oldest.pod.api_uid]
        return True


def _names(pod: PodRecord, container: PodContainer | None) -> Names:
    names = Names(
        source=NamesFrom.API,
        namespace=pod.namespace,
        pod=pod.name,
        qos_class=pod.qos_class,
        owner=pod.owner,
        revision=pod.revision,
        event_uid=pod.event_uid,
    )
    if container is None:
        return names
    limits = [limit for limit in (container.limit_bytes, pod.limit_bytes) if limit is not None]
    return replace(
        names,
        container=container.name,
        kind=container.kind,
        image=container.image,
        limit_bytes=min(limits, default=None),
        request_bytes=container.request_bytes,
        # A debug container fills the pod's cgroup too; without a limit of its own, a container has only the pod's.
        lone=container.limit_bytes is not None and _lasting(pod) == [container.name],
    )


def _lasting(pod: PodRecord) -> list[str]:
    return [container.name for container in pod.containers if container.kind is not ContainerKind.INIT]


def _is_outdated(pod: PodRecord, entry: _Entry, at: float) -> bool:
    """
    A list may come from the cache of an API server that lags behind the one watched so far: it must not set a container
    that has ended running again. It lags by seconds. What has lower versions for longer is an etcd that was restored.
    """
    known, new = entry.pod.resource_version, pod.resource_version
    return known is not None and new is not None and new < known and at - entry.put_at < _LAG_SECONDS


def _remember_ids(entry: _Entry) -> None:
    names = entry.container_names
    for container in entry.pod.containers:
        ended = [end.container_id for end in (container.last, container.terminated) if end is not None]
        for container_id in (*ended, container.id):
            if container_id is not None:
                names.pop(container_id, None)
                names[container_id] = container.name
    while len(names) > max(REMEMBERED_IDS, 3 * len(entry.pod.containers)):
        del names[next(iter(names))]


def _choose(entries: list[_Entry], container_id: ContainerId | None) -> _Entry | None:
    """
    A mirror pod that was deleted and made anew has the uid and the containers of the one before: the one alive counts.
    Two alive that claim one uid are told apart by the container alone.
    """
    knowing = [entry for entry in entries if container_id in entry.container_names] or entries
    live = [entry for entry in knowing if entry.deleted_at is None]
    if live:
        return live[0] if len(live) == 1 else None
    return max(knowing, key=_deleted_at, default=None)


def _deleted_at(entry: _Entry) -> float:
    return -1.0 if entry.deleted_at is None else entry.deleted_at
