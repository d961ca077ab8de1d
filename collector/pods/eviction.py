"""
Which resource a pod was evicted for, by the message that the kubelet leaves in its status.

Sources: pkg/kubelet/eviction/helpers.go and eviction_manager.go; pkg/kubelet/kubelet.go, rejectPod.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from collector.pods.record import parse_quantity

if TYPE_CHECKING:
    from collector.pods.record import PodRecord


class Resource(StrEnum):
    MEMORY = "memory"
    EPHEMERAL_STORAGE = "ephemeral-storage"
    PIDS = "pids"
    INODES = "inodes"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """`threshold_bytes`: of available memory, which was crossed."""

    resource: Resource
    at: datetime | None
    threshold_bytes: int | None = None


def eviction(pod: PodRecord) -> Eviction | None:
    """
    None: not evicted by the kubelet. A pod that a node under pressure does not take in has the reason Evicted too, but
    never ran. Evictions through the API, by taints and by the scheduler leave no such reason.
    """
    message = pod.message or ""
    if not is_evicted(pod) or "The node had condition: " in message:
        return None
    resource = _resource(message, pod.memory_volumes)
    low = _LOW.match(message) if resource is Resource.MEMORY else None
    return Eviction(
        resource=resource, at=pod.disrupted_at, threshold_bytes=parse_quantity(low["threshold"]) if low else None
    )


def is_evicted(pod: PodRecord) -> bool:
    return pod.phase == "Failed" and pod.reason == "Evicted"


# The node was low on resource: memory. Threshold quantity: 100Mi, available: 88Mi. Container app was using 1Gi, ...
_LOW = re.compile(
    r"The node was low on resource: (?P<resource>[a-z-]+)\.(?: Threshold quantity: (?P<threshold>[0-9][^\s,]*),)?"
)
# Usage of EmptyDir volume "cache" exceeds the limit "1Gi".
_VOLUME = re.compile(r'Usage of EmptyDir volume "([^"]*)" exceeds the limit ')
# Container app exceeded its local ephemeral storage limit "1Gi".
# Pod ephemeral local storage usage exceeds the total limit of containers 2Gi.
_STORAGE = re.compile(r"Container \S+ exceeded its local ephemeral storage limit |Pod ephemeral local storage usage ")


def _resource(message: str, memory_volumes: tuple[str, ...]) -> Resource:
    low = _LOW.match(message)
    if low is not None:
        return _RESOURCES.get(low["resource"], Resource.OTHER)
    volume = _VOLUME.match(message)
    if volume is not None:
        return Resource.MEMORY if volume[1] in memory_volumes else Resource.EPHEMERAL_STORAGE
    return Resource.EPHEMERAL_STORAGE if _STORAGE.match(message) else Resource.OTHER


_RESOURCES = {str(member): member for member in Resource}
