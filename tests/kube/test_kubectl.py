"""What people see: the real kubectl describes pods and nodes of the double."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from collector.model import Cause
from collector.sinks.kube_event import node_event, pod_event
from tests.kube.events_api import EventsApi
from tests.sinks.letters import NODE, UID, document, letter, served

if TYPE_CHECKING:
    from collections.abc import Callable

POD = "web-7d4b9c-x2x9k"
MIRROR = "8d6f7a2f0c1b4e5d9a3b2c1d0e9f8a7b"


class Cluster:
    """A pod and a node, and as much of discovery as kubectl asks for."""

    def __init__(self) -> None:
        self.events = EventsApi("shop")
        self.annotations: dict[str, str] = {}
        self.node_uid = "node-uid"
        self.url = ""
        self.app = web.Application()
        self.events.mount(self.app)
        resources = [
            {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]},
            {"name": "nodes", "singularName": "node", "namespaced": False, "kind": "Node", "verbs": ["get"]},
        ]
        answers: dict[str, Callable[[], Any]] = {
            "/api": lambda: {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": lambda: {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": lambda: {"kind": "APIResourceList", "groupVersion": "v1", "resources": resources},
            "/api/v1/pods": lambda: {"kind": "PodList", "apiVersion": "v1", "items": []},
            f"/api/v1/namespaces/shop/pods/{POD}": self._pod,
            f"/api/v1/nodes/{NODE}": self._node,
        }
        for path, answer in answers.items():
            self.app.router.add_get(path, _handler(answer))

    def put(self, event: dict[str, Any]) -> None:
        self.events.events[event["metadata"]["namespace"], event["metadata"]["name"]] = event

    async def describe(self, home: Path, *words: str) -> str:
        """The table of Events, one line each, blanks squeezed."""
        kubectl = shutil.which("kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if kubectl is None:
            pytest.skip("no kubectl here")
        process = await asyncio.create_subprocess_exec(
            kubectl, "--server", self.url, "describe", *words,
            env={"HOME": str(home)}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0
        return re.sub(r"[ \t]+", " ", output.decode().partition("\nEvents:")[2])

    def _pod(self) -> dict[str, Any]:
        metadata = {"name": POD, "namespace": "shop", "uid": UID, "annotations": self.annotations}
        return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": []}}

    def _node(self) -> dict[str, Any]:
        return {"kind": "Node", "apiVersion": "v1", "metadata": {"name": NODE, "uid": self.node_uid}}


def _handler(answer: Callable[[], Any]) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response(answer())

    return handle


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    async with served(made.app) as made.url:
        yield made


async def test_describe_pod_shows_the_kill(cluster: Cluster, tmp_path: Path) -> None:
    cluster.put(pod_event(letter()))
    cluster.put(pod_event(letter(document(pod__uid="of a namesake that is gone"), key="1" * 16, event_uid="another")))
    events = await cluster.describe(tmp_path, "pod", POD, "--namespace", "shop")
    assert events.count("ContainerOOMKill") == 1
    assert "oom-collector spec.containers{app}: Container app of pod shop/web-7d4b9c-x2x9k reached its" in events


async def test_describe_pod_shows_how_often(cluster: Cluster, tmp_path: Path) -> None:
    cluster.put(pod_event(letter(count=7)))
    assert "(x7 over " in await cluster.describe(tmp_path, "pod", POD, "--namespace", "shop")


async def test_describe_pod_shows_the_kill_of_a_mirror_pod(cluster: Cluster, tmp_path: Path) -> None:
    cluster.annotations = {"kubernetes.io/config.mirror": MIRROR}
    cluster.put(pod_event(letter(event_uid=MIRROR)))
    assert "ContainerOOMKill" in await cluster.describe(tmp_path, "pod", POD, "--namespace", "shop")


@pytest.mark.parametrize("uid", ["node-uid", NODE], ids=["under its uid", "under its name"])
async def test_describe_node_shows_node_pressure(cluster: Cluster, tmp_path: Path, uid: str) -> None:
    cluster.put(node_event(letter(document(Cause.NODE)), uid))
    assert "Warning NodeOOMKill" in await cluster.describe(tmp_path, "node", NODE)


async def test_the_double_finds_what_kubectl_finds(cluster: Cluster, tmp_path: Path) -> None:
    for number, uid in enumerate((UID, "another")):
        cluster.put(pod_event(letter(key=f"{number:016x}", event_uid=uid)))
        cluster.put(node_event(letter(document(Cause.NODE), key=f"{number:016x}"), uid))
    pod_table = await cluster.describe(tmp_path, "pod", POD, "--namespace", "shop")
    assert pod_table.count("ContainerOOMKill") == len(cluster.events.describe_pod("shop", POD, UID)) == 1
    cluster.node_uid = UID
    assert (await cluster.describe(tmp_path, "node", NODE)).count("NodeOOMKill") == 1
    assert len(cluster.events.describe_node(NODE, UID)) == 1
