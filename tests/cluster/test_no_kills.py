"""What looks like an OOM kill in a pod's status, or ends a pod for its memory, and is none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.told import container_status, incidents, until

if TYPE_CHECKING:
    from tests.cluster.installation import NodeWitness

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ended_otherwise", "killed")]

# The agent settles a kill within 2 s, from counters alone within 5 s.
_SETTLED_SECONDS = 10


def ended(node: NodeWitness, name: str, exit_code: int) -> dict[str, Any]:
    """The pod, once its container has ended so."""

    def look() -> dict[str, Any] | None:
        pod = node.pod(name)
        status = container_status(pod, "app") if pod else {}
        ends = [(status.get(state) or {}).get("terminated", {}) for state in ("state", "lastState")]
        return pod if any(end.get("exitCode") == exit_code for end in ends) else None

    return until(look, f"{name}: exit code {exit_code}", seconds=300)


def test_a_liveness_kill(node: NodeWitness) -> None:
    pod = ended(node, "unhealthy", 137)
    time.sleep(_SETTLED_SECONDS)
    assert incidents(node.journal(), pod) == []


def test_exit_143_after_a_kill(node: NodeWitness) -> None:
    pod = ended(node, "later", 143)
    time.sleep(_SETTLED_SECONDS)
    (document,) = incidents(node.journal(), pod)
    assert document["fate"] in ("restarted", "restart_pending")


def test_an_eviction(node: NodeWitness) -> None:
    def look() -> dict[str, Any] | None:
        pod = node.pod("evicted")
        return pod if pod and pod["status"].get("reason") == "Evicted" else None

    pod = until(look, "the eviction", seconds=300)
    sample = 'oom_evictions_total{resource="ephemeral-storage"}'
    until(lambda: node.counters()[sample] >= 1, "the eviction in the counters", seconds=60)
    assert incidents(node.journal(), pod) == []
    assert [event for event in node.events() if event["regarding"]["name"] == "evicted"] == []
