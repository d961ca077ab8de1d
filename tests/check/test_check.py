"""What `check` says, on trees that are made for it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest

from collector.check.machine import check_machine, kernel_log_works, render
from collector.check.row import Row
from collector.config import read_config
from tests.kube.api_server import ApiServer
from tests.kube.events_api import EventsApi
from tests.kube.owners import Owners

if TYPE_CHECKING:
    from pathlib import Path


def rows(tmp_path: Path, *, kernel_log: str = "kmsg", **changes: str) -> dict[str, Row]:
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True, exist_ok=True)
    boot_id.write_text("74ab0d27-9555-4c6f-b9b7-2f2ea5ef371e\n")
    flags: dict[str, str | None] = {
        "kernel_log": kernel_log,
        "kmsg_path": str(tmp_path / "kmsg"),
        "cgroup_root": str(tmp_path / "cgroup"),
        "proc_root": str(tmp_path / "proc"),
        "state_dir": str(tmp_path / "a/b/state"),
        "pod_logs": str(tmp_path / "log"),
        **changes,
    }
    return {row.what: row for row in check_machine(read_config(flags, {}))}


def test_no_kernel_log_is_the_one_failure(tmp_path: Path) -> None:
    found = rows(tmp_path)
    assert not found["kernel log kmsg"].works
    assert "No such file" in found["kernel log kmsg"].reason
    assert not kernel_log_works(tuple(found.values()))
    os.mkfifo(tmp_path / "kmsg")
    found = rows(tmp_path)
    assert found["kernel log kmsg"].works
    assert kernel_log_works(tuple(found.values()))


def test_a_proc_that_is_not_there_is_said(tmp_path: Path) -> None:
    row = next(iter(rows(tmp_path, proc_root=str(tmp_path / "none")).values()))
    assert (row.works, row.fix) == (False, "mount the host's /proc and name it with --proc-root")


@pytest.mark.parametrize(
    ("made", "works", "reason"),
    [
        pytest.param("cgroup.controllers", True, "at ", id="v2"),
        pytest.param("memory/tasks", False, "is cgroup v1", id="v1"),
        pytest.param("other", False, "no cgroups at", id="neither"),
    ],
)
def test_cgroup_version(made: str, works: bool, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "cgroup" / made
    file.parent.mkdir(parents=True)
    file.touch()
    row = rows(tmp_path)["cgroup v2"]
    assert row.works is works
    assert reason in row.reason


async def test_what_the_api_allows(tmp_path: Path) -> None:
    events = EventsApi()
    api = ApiServer(events.mount, Owners().mount)
    api.add_node("node-1")
    await api.start()
    kubeconfig = tmp_path / "kubeconfig"
    clusters, users = [{"name": "c", "cluster": {"server": api.url}}], [{"name": "u", "user": {"token": "t"}}]
    contexts = [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
    config = {"clusters": clusters, "contexts": contexts, "users": users, "current-context": "c"}
    kubeconfig.write_text(json.dumps(config))

    async def look(**changes: str) -> dict[str, Row]:
        found = await asyncio.to_thread(rows, tmp_path, kubeconfig=str(kubeconfig), node_name="node-1", **changes)
        prefix = "Kubernetes API: "
        return {what.removeprefix(prefix): row for what, row in found.items() if what.startswith(prefix)}

    kinds = {
        "pods": ("list", "", "pods"),
        "pods, watched": ("watch", "", "pods"),
        "node": ("get", "", "nodes"),
        "Events": ("create", "events.k8s.io", "events"),
        "Events, repeated": ("patch", "events.k8s.io", "events"),
        "ReplicaSets": ("get", "apps", "replicasets"),
        "ControllerRevisions": ("get", "apps", "controllerrevisions"),
        "Jobs": ("get", "batch", "jobs"),
    }
    assert list(await look()) == list(kinds)[:5]
    found = await look(owner_details="on")
    assert {what: row.reason for what, row in found.items()} == dict.fromkeys(kinds, "answered")
    assert not events.events, "nothing is left behind"
    assert not events.warnings
    for missing in kinds:
        given = [kind for what, kind in kinds.items() if what != missing]
        api.rules = [{"verbs": [verb], "apiGroups": [group], "resources": [what]} for verb, group, what in given]
        refused = [(what, row.fix) for what, row in (await look(owner_details="on")).items() if not row.works]
        assert refused == [(missing, "bind the ClusterRole in deploy/")]
    assert list(await look(events="off")) == ["pods", "pods, watched"]
    await api.stop()
    assert all("Connection refused" in row.reason and not row.works for row in (await look()).values())


def test_no_cluster_and_no_node_name_are_said(tmp_path: Path) -> None:
    assert "not in a pod" in rows(tmp_path)["Kubernetes API"].reason
    assert "--node-name" in rows(tmp_path, kubeconfig="x")["Kubernetes API"].reason


def test_names_without_the_api(tmp_path: Path) -> None:
    assert not rows(tmp_path)["names without the API"].works
    (tmp_path / "log/pods").mkdir(parents=True)
    assert rows(tmp_path)["names without the API"].works


def test_a_state_directory_that_will_be_made_and_one_that_cannot_be(tmp_path: Path) -> None:
    assert rows(tmp_path)["state directory"].reason.endswith("is writable, will be made")
    (tmp_path / "a").write_text("in the way")
    assert not rows(tmp_path)["state directory"].works


def test_every_no_that_can_be_mended_says_how_and_nothing_drives_the_terminal(tmp_path: Path) -> None:
    found = rows(tmp_path, kernel_log="auto")
    assert all(row.works or row.fix for row in found.values())
    text = render([Row(what="x", works=False, reason="\x1b[2J", fix="do"), Row(what="longer", works=True, reason="ok")])
    assert text.splitlines() == [r"x       no   \x1b[2J", "             fix: do", "longer  yes  ok"]
