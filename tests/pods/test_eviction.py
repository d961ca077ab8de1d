"""Which evictions are the kubelet's, and what ran short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collector.pods.eviction import Eviction, Resource, eviction
from tests.pods.pods import NAMES, at, read_pod

LOW = "The node was low on resource: {}. Threshold quantity: 100Mi, available: 88Mi. Container app was using 1Gi, request is 0. "


def test_evicted_for_memory() -> None:
    assert eviction(read_pod("evicted")) == Eviction(
        resource=Resource.MEMORY, at=at("09:20:03"), threshold_bytes=100 << 20
    )


@pytest.mark.parametrize(
    ("message", "threshold"),
    [
        pytest.param("The node was low on resource: memory.", None, id="not told"),
        pytest.param(LOW.format("memory").replace("100Mi", "1717986918"), 1717986918, id="of a percentage"),
        pytest.param(LOW.format("memory").replace("100Mi", "much"), None, id="no quantity"),
        pytest.param(LOW.format("inodes"), None, id="of another resource"),
    ],
)
def test_threshold(message: str, threshold: int | None) -> None:
    found = eviction(replace(read_pod("evicted"), message=message))
    assert found is not None
    assert found.threshold_bytes == threshold


@pytest.mark.parametrize(
    ("message", "resource"),
    [
        pytest.param(LOW.format("memory"), Resource.MEMORY, id="memory"),
        pytest.param("The node was low on resource: memory.", Resource.MEMORY, id="short, as before 1.11"),
        pytest.param(LOW.format("ephemeral-storage"), Resource.EPHEMERAL_STORAGE, id="disk"),
        pytest.param(LOW.format("inodes"), Resource.INODES, id="inodes"),
        pytest.param(LOW.format("pids"), Resource.PIDS, id="pids"),
        pytest.param(LOW.format("quantum"), Resource.OTHER, id="a resource to come"),
        pytest.param(
            'Usage of EmptyDir volume "cache" exceeds the limit "1Gi". ',
            Resource.EPHEMERAL_STORAGE,
            id="volume on disk",
        ),
        pytest.param(
            'Usage of EmptyDir volume "shm" exceeds the limit "1Gi". ', Resource.MEMORY, id="volume in memory"
        ),
        pytest.param(
            'Container app exceeded its local ephemeral storage limit "1Gi". ',
            Resource.EPHEMERAL_STORAGE,
            id="container",
        ),
        pytest.param(
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi. ",
            Resource.EPHEMERAL_STORAGE,
            id="pod",
        ),
        pytest.param("Container x: The node was low on resource: memory.", Resource.OTHER, id="not at its beginning"),
        pytest.param(None, Resource.OTHER, id="no message"),
    ],
)
def test_resource(message: str | None, resource: Resource) -> None:
    found = eviction(replace(read_pod("evicted"), message=message, memory_volumes=("shm",)))
    assert found is not None
    assert found.resource is resource


@pytest.mark.parametrize("name", [name for name in NAMES if name != "evicted"])
def test_not_evicted(name: str) -> None:
    assert eviction(read_pod(name)) is None


def test_pod_that_was_not_taken_in_never_ran() -> None:
    message = "Pod was rejected: The node had condition: [MemoryPressure]. "
    assert eviction(replace(read_pod("evicted"), message=message)) is None


@pytest.mark.parametrize("reason", ["Preempting", "NodeLost", "Terminated", None])
def test_other_ends_are_no_evictions(reason: str | None) -> None:
    assert eviction(replace(read_pod("evicted"), reason=reason)) is None
