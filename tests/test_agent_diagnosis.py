"""The agent as it ships, beside an API server and a cgroup tree: why it came to a kill, and what it says everywhere."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from collector.announce.announcer import NAMES_SECONDS
from tests import lines
from tests.cgroups import tree_maker
from tests.prometheus.servers import Receiver
from tests.test_agent_in_cluster import GLOBAL, NODE, UID, World, world

SCHEMA = json.loads(files("collector").joinpath("schema/kill-record.schema.json").read_text())
HOG_UID = UID.replace("0001", "0002")
MIB = 1 << 20
COMMAND = "kubectl set resources deployment/cart -n shop -c cart --limits=memory=120Mi"


def container_id(life: int) -> str:
    return f"{life:064x}"


def pod(
    life: int = 0, *, waiting: bool = False, uid: str = UID, name: str = "cart-7d9f8-x2x7p", request: str = "16Mi"
) -> dict[str, Any]:
    """Of a Deployment. life: how often its container has begun; waiting: for its next one."""
    container, _, _ = name.partition("-")
    ended = {
        "terminated": {
            "containerID": f"containerd://{container_id(life if waiting else life - 1)}",
            "exitCode": 137,
            "reason": "OOMKilled",
            "finishedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    }
    back_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid,
            "labels": {"pod-template-hash": "7d9f8"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{container}-7d9f8",
                    "uid": "r",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "nodeName": NODE,
            "containers": [
                {
                    "name": container,
                    "image": "cart:1",
                    "resources": {"limits": {"memory": "48Mi"}, "requests": {"memory": request}},
                }
            ],
        },
        "status": {
            "phase": "Running",
            "qosClass": "Burstable",
            "containerStatuses": [
                {
                    "name": container,
                    "containerID": f"containerd://{container_id(life)}",
                    "restartCount": life,
                    "state": back_off if waiting else {"running": {"startedAt": "2026-11-21T00:00:00Z"}},
                    "lastState": ended if life or waiting else {},
                }
            ],
        },
    }


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[World]:
    tree_maker.make_root(tmp_path / "cgroup")
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


async def start(node: World, *arguments: str) -> None:
    agent = await node.start_agent("--cgroup-root", str(node.directory / "cgroup"), *arguments)
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)


def make_life(node: World, life: int, *, size: int | None = None, uid: str = UID, limit: int | None = 48 * MIB) -> str:
    """size: of its memory; None: as small as it begins."""
    root = node.directory / "cgroup"
    made_pod = tree_maker.make_pod(root, uid)
    path = tree_maker.make_container(root, made_pod, container_id(life), limit=limit)
    if size is not None:
        for cgroup in (made_pod, path):
            tree_maker.write(root / cgroup[1:] / "memory.current", f"{size}\n")
    return path


async def live_and_die(node: World, life: int) -> None:
    root = node.directory / "cgroup"
    path = make_life(node, life)
    node.api.update(pod(life))
    await asyncio.sleep(1.0)  # its first sample is taken, on a busy machine too
    node.log.write(lines.report(pid=300 + life, memcg=path))
    tree_maker.bump(root, path, oom=1, oom_kill=1)  # type: ignore[arg-type]
    await asyncio.sleep(0.2)
    node.api.update(pod(life, waiting=True))
    tree_maker.remove(root, path)  # type: ignore[arg-type]


async def test_a_container_that_never_fits_is_told_everywhere_with_its_cure(node: World, receiver: Receiver) -> None:
    node.api.create(pod())
    await start(node, "--webhook-url", f"{receiver.url}/hook", "--alertmanager-url", receiver.url)
    agent = node.agents[-1]
    for life in range(3):
        await live_and_die(node, life)
    await node.until(lambda: len(agent.incidents) == 3)
    for told in agent.incidents:
        jsonschema.validate(told, SCHEMA)
        assert told["diagnosis"]["pattern"] == "startup", told["diagnosis"]
        check_advice(told["diagnosis"])
    assert "lives before" in " ".join(agent.incidents[-1]["diagnosis"]["reasons"])
    await node.delivered("pod_event")
    (event,) = node.pod_events("cart-7d9f8-x2x7p")
    assert "Startup: killed " in event["note"]
    assert f"Run: {COMMAND}" in event["note"]
    assert len(event["note"].encode()) <= 1024
    await node.delivered("webhook")
    await node.delivered("alertmanager")
    posted: dict[str, Any] = dict(reversed(receiver.told))
    check_advice(posted["/hook"]["data"]["diagnosis"])
    assert f"Run: {COMMAND}" in posted["/api/v2/alerts"][0]["annotations"]["description"]
    # What became of it comes later, and with it that it is a loop.
    kept = await node.kept(lambda document: document["fate"] is not None)
    jsonschema.validate(kept, SCHEMA)
    check_advice(kept["diagnosis"])
    assert (kept["fate"], kept["diagnosis"]["pattern"]) == ("restart_pending", "startup")
    assert "crash_loop" in {finding["kind"] for finding in kept["diagnosis"]["findings"]}


def check_advice(diagnosis: dict[str, Any]) -> None:
    (raised,) = [one for one in diagnosis["advice"] if one["action"] == "set_limit"]
    assert (raised["workload"], raised["container"], raised["limit_bytes"]) == ("Deployment/cart", "cart", 120 * MIB)
    assert raised["command"].startswith(COMMAND)


async def test_a_node_that_ran_out_is_told_with_who_filled_it(node: World) -> None:
    node.api.create(pod())
    node.api.create(pod(7, uid=HOG_UID, name="hog-7d9f8-aaaaa", request="64Mi"))
    victim = make_life(node, 0, size=20 * MIB)
    make_life(node, 7, size=900 * MIB, uid=HOG_UID, limit=None)
    since = report_pressure(node, "True", seconds_ago=40)
    await start(node)
    agent = node.agents[-1]
    summary, kill = GLOBAL
    await asyncio.sleep(0.5)
    node.log.write([summary.replace(lines.CONTAINER, victim), kill])
    await node.until(lambda: len(agent.incidents) == 1)
    (told,) = agent.incidents
    jsonschema.validate(told, SCHEMA)
    filled = next(one for one in told["diagnosis"]["findings"] if one["kind"] == "node_filled_by")
    assert (filled["top1_pod"], filled["top1_request_bytes"]) == ("shop/hog-7d9f8-aaaaa", 64 * MIB)
    evictions = next(one for one in told["diagnosis"]["findings"] if one["kind"] == "eviction")
    assert (evictions["memory_pressure"], evictions["evicted_before_count"]) == (True, 0)
    seconds = (datetime.fromisoformat(told["time"]) - since).total_seconds()
    assert evictions["memory_pressure_seconds"] == pytest.approx(seconds, abs=0.1)
    assert f"it had reported MemoryPressure {seconds:.0f} s before the kill" in evictions["text"]
    assert told["diagnosis"]["pattern"] == "node_pressure"
    assert "set_limit" not in {advice["action"] for advice in told["diagnosis"]["advice"]}
    await node.delivered("pod_event")
    (event,) = node.pod_events("cart-7d9f8-x2x7p")
    assert "shop/hog-7d9f8-aaaaa" in event["note"]


def report_pressure(node: World, status: str, *, seconds_ago: int) -> datetime:
    """As the kubelet does, in whole seconds."""
    since = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=seconds_ago)
    condition = {"type": "MemoryPressure", "status": status, "lastTransitionTime": since.strftime("%Y-%m-%dT%H:%M:%SZ")}
    node.api.node(NODE)["status"] = {"conditions": [condition]}
    return since


async def test_what_was_seen_of_the_node_outlives_the_agent(node: World) -> None:
    """The victim's container is still there, so that the next one would have something to look at."""
    node.api.create(pod())
    victim = make_life(node, 0, size=20 * MIB)
    report_pressure(node, "True", seconds_ago=40)
    await start(node)
    agent = node.agents[-1]
    await asyncio.sleep(0.5)
    summary, kill = GLOBAL
    node.log.write([summary.replace(lines.CONTAINER, victim), kill])
    await node.until(lambda: len(agent.incidents) == 1)
    before = (await node.kept(lambda document: document.get("diagnosis") is not None))["diagnosis"]
    agent.kill()
    await start(node)
    await asyncio.sleep(0.5)
    node.api.update(pod(0, waiting=True))
    kept = (await node.kept(lambda document: document["fate"] is not None))["diagnosis"]
    assert "eviction" in {finding["kind"] for finding in kept["findings"]}
    assert kept == before


async def test_host_processes_that_die_with_the_node_cost_one_request(node: World) -> None:
    """They have no names to wait for: it is the node's answer that they wait for."""
    report_pressure(node, "False", seconds_ago=3600)
    await start(node)
    agent = node.agents[-1]
    killed = [
        (lines.summary(oom_memcg=None, task_memcg="/system.slice/a.service", pid=pid), lines.kill(pid=pid))
        for pid in range(300, 320)
    ]
    node.log.write([line for pair in killed for line in pair])
    await node.until(lambda: len(agent.incidents) == len(killed))
    for told in agent.incidents:
        evictions = next(one for one in told["diagnosis"]["findings"] if one["kind"] == "eviction")
        assert evictions["text"].endswith("; it reported no MemoryPressure at the kill")
    assert len(node.api.asked("get", "nodes")) == 2, "one of them for the uid that the node's Event needs"


async def test_a_node_that_may_not_be_asked_for_delays_nothing(node: World) -> None:
    node.api.rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    await start(node)
    agent = node.agents[-1]
    began = time.monotonic()
    node.log.write([lines.summary(oom_memcg=None, task_memcg="/system.slice/a.service"), lines.kill()])
    await node.until(lambda: len(agent.incidents) == 1)
    assert time.monotonic() - began < NAMES_SECONDS
    (evictions,) = [one for one in agent.incidents[0]["diagnosis"]["findings"] if one["kind"] == "eviction"]
    assert "memory_pressure" not in evictions
    assert "MemoryPressure" not in evictions["text"]


async def test_a_diagnosis_outlives_the_agent(node: World) -> None:
    """The next one renews it when the fate comes, and loses nothing."""
    node.api.create(pod())
    await start(node)
    agent = node.agents[-1]
    path = make_life(node, 0)
    await asyncio.sleep(1.0)
    node.log.write(lines.report(pid=300, memcg=path))
    await node.until(lambda: len(agent.incidents) == 1)
    before = (await node.kept(lambda document: document.get("diagnosis") is not None))["diagnosis"]
    agent.kill()
    tree_maker.remove(node.directory / "cgroup", path)  # type: ignore[arg-type]
    await start(node)
    node.api.update(pod(0, waiting=True))
    kept = await node.kept(lambda document: document["fate"] is not None)
    assert before["pattern"] == "startup"
    assert kept["diagnosis"]["pattern"] == "startup"
    check_advice(kept["diagnosis"])
