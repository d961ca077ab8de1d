"""A pod of each kind is killed on a real node: incident, Event, counters and fate."""

from __future__ import annotations

import pytest

from tests.cluster.installation import NodeWitness
from tests.cluster.killers import Killer
from tests.cluster.told import check_kill, container_status

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ended_otherwise")]


@pytest.mark.parametrize("kind", ["limit", "job", "init", "sidecar", "two", "memory-volume"])
def test_a_container_at_its_limit(node: NodeWitness, killed: dict[str, Killer], kind: str) -> None:
    if kind not in killed:
        pytest.skip("no sidecars before 1.29")
    check_kill(node, killed[kind])
    assert "OOMKill" in node.described(kind)


def test_a_group(node: NodeWitness, killed: dict[str, Killer]) -> None:
    document = check_kill(node, killed["group"])
    if not document["group_kill"] and node.kubelet().get("singleProcessOOMKill") is not False:
        pytest.skip(
            "the kubelet here has processes killed one by one (cgroup v1, singleProcessOOMKill, or before 1.28)"
        )
    assert document["group_kill"]
    assert len(document["also_killed"]) == 2


def test_a_child_under_a_living_pid_1(node: NodeWitness, killed: dict[str, Killer]) -> None:
    if "child" not in killed:
        pytest.skip("the cluster takes no privileged pods, and no other can leave the group kill")
    document = check_kill(node, killed["child"])
    pod = node.pod("child")
    assert pod is not None
    lives_on = container_status(pod, "app")["restartCount"] == 0
    assert document["fate"] == ("survived" if lives_on else "restarted")
    if not lives_on:
        pytest.skip("the node ended the container after its child was killed; that was told")


def test_a_static_pod(node: NodeWitness, static: Killer) -> None:
    """In cgroups under the uid of its manifest, in the API under its mirror's: kubectl looks for the former."""
    check_kill(node, static)
    assert "OOMKill" in node.described(static.name)


def test_nothing_else_was_killed(node: NodeWitness, killed: dict[str, Killer]) -> None:
    """Of two containers one, and each but once: a kill is never told twice."""
    # In the others the next life, or what is left of a group, may be killed as well.
    once = [killer for name, killer in killed.items() if name not in ("child", "group", "memory-volume")]
    for killer in once:
        check_kill(node, killer)
    told = [document for document in node.journal() if (document["pod"] or {}).get("namespace") == node.namespace]
    for killer in once:
        assert [each["container"]["name"] for each in told if each["pod"]["name"] == killer.name] == [killer.container]
