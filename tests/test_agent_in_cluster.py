"""The agent as it ships, beside an API server: from the kernel's line to the named incident, its Event and its fate."""

from __future__ import annotations

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import lines
from tests.agent_process import AgentProcess, Log
from tests.kube.api_server import ApiServer, Refusal
from tests.kube.events_api import EventsApi
from tests.kube.owners import Owners

NODE = "node-1"
UID = "0f9c1d2e-3b4a-4c5d-8e6f-000000000001"
GLOBAL = (
    lines.summary(oom_memcg=None, task_memcg=lines.CONTAINER, constraint="CONSTRAINT_NONE"),
    lines.kill(prefix="Out of memory: "),
)


def pod(*, restarts: int = 0, terminated: bool = False) -> dict[str, Any]:
    """Of the container that lines.report() kills in; with `terminated` its second life."""
    now = datetime.now(UTC)
    ids = [f"containerd://{lines.CONTAINER_ID}", f"containerd://{'ab' * 32}"]
    last = {
        "terminated": {
            "containerID": ids[0],
            "exitCode": 137,
            "reason": "Error",
            "finishedAt": (now + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    }
    started = (now + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "cart-0", "namespace": "shop", "uid": UID},
        "spec": {"nodeName": NODE, "containers": [{"name": "cart", "image": "cart:1"}]},
        "status": {
            "phase": "Running",
            "qosClass": "Burstable",
            "containerStatuses": [
                {
                    "name": "cart",
                    "containerID": ids[terminated],
                    "restartCount": restarts,
                    "state": {"running": {"startedAt": started if terminated else "2026-11-21T00:00:00Z"}},
                    "lastState": last if terminated else {},
                }
            ],
        },
    }


class World:
    """A node of a cluster: its API server, its kernel log, its agent. The agent is asked in threads: the server is here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = Log(directory / "kmsg")
        self.events = EventsApi("shop")
        self.api = ApiServer(self.events.mount, Owners().mount)
        self.api.add_node(NODE)
        self.logs = directory / "log"
        self.agents: list[AgentProcess] = []

    async def start_agent(self, *arguments: str) -> AgentProcess:
        kubeconfig = self.directory / "kubeconfig"
        clusters = [{"name": "c", "cluster": {"server": self.api.url}}]
        contexts = [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
        users = [{"name": "u", "user": {"token": "t"}}]
        config = {"clusters": clusters, "contexts": contexts, "users": users, "current-context": "c"}
        kubeconfig.write_text(json.dumps(config))
        agent = await asyncio.to_thread(
            AgentProcess,
            *("--kernel-log", f"file:{self.log.path}", "--state-dir", str(self.directory / "state")),
            *("--node-name", NODE, "--kubeconfig", str(kubeconfig), "--api-jitter", "0"),
            *("--pod-logs", str(self.logs), "--metrics-hold", "0", *arguments),
            directory=self.directory,
        )
        self.agents.append(agent)
        await self.until(agent.ready)
        return agent

    async def until(self, condition: Callable[[], bool]) -> None:
        await asyncio.to_thread(self.agents[-1].until, condition)

    async def delivered(self, sink: str, outcome: str = "delivered") -> None:
        sample = f'oom_collector_sink_deliveries_total{{outcome="{outcome}",sink="{sink}"}}'
        await self.until(lambda: self.agents[-1].metric(sample) > 0)

    def pod_events(self, name: str = "cart-0") -> list[dict[str, Any]]:
        return self.events.describe_pod("shop", name, UID)

    async def kept(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The newest document of the journal, once it is as it should be."""
        command = [sys.executable, "-m", "collector", "kills", "--output", "json", "--state-dir"]

        def read() -> dict[str, Any]:
            state = str(self.directory / "state")
            done = subprocess.run([*command, state], capture_output=True, check=True)
            return dict(json.loads(done.stdout.splitlines()[0]))

        await self.until(lambda: condition(read()))
        return await asyncio.to_thread(read)


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    made = World(directory)
    await made.api.start()
    try:
        yield made
    finally:
        for agent in made.agents:
            agent.kill()
        await made.api.stop()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def test_from_the_kernels_line_to_event_and_fate(node: World) -> None:
    node.api.create(pod())
    agent = await node.start_agent()
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    node.log.write(lines.report())
    await node.until(lambda: len(agent.incidents) == 1)
    (told,) = agent.incidents
    assert (told["pod"]["namespace"], told["pod"]["name"], told["container"]["name"]) == ("shop", "cart-0", "cart")
    assert (told["container"]["kind"], told["attribution"]["names_from"], told["fate"]) == ("app", "api", None)
    await node.delivered("pod_event")
    (event,) = node.pod_events()
    assert (event["reason"], event["type"], event["regarding"]["fieldPath"]) == (
        "ContainerOOMKill",
        "Warning",
        "spec.containers{cart}",
    )
    assert event["note"].startswith("Container cart of pod shop/cart-0 reached its memory limit of 48 MiB")
    node.api.update(pod(restarts=1, terminated=True))
    kept = await node.kept(lambda document: document["fate"] is not None)
    assert (kept["fate"], kept["restart_count"]) == ("restarted", 1)
    assert any("Error" in contradiction for contradiction in kept["contradictions"])
    assert len(agent.incidents) == 1
    assert agent.kills() == 1


async def test_the_containers_counter_is_there_at_0_moves_once_and_outlives_the_agent(node: World) -> None:
    shown = pod()
    shown["spec"]["containers"][0]["resources"] = {"limits": {"memory": "48Mi"}}
    node.api.create(shown)
    agent = await node.start_agent()
    labels = 'namespace="shop",pod="cart-0",container="cart"'
    kills = f'oom_container_kills_total{{{labels},cause="container_limit"}}'
    await node.until(lambda: kills in agent.get("/metrics")[1])
    assert await asyncio.to_thread(agent.metric, kills) == 0
    node.log.write(lines.report())
    await node.until(lambda: agent.metric(kills) == 1)
    assert agent.metric(f"oom_container_last_kill_timestamp_seconds{{{labels}}}") > 1_700_000_000
    agent.kill()
    agent = await node.start_agent()
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    assert agent.metric(kills) == 1
    node.log.write(lines.report(pid=300))
    await node.until(lambda: agent.metric(kills) == 2)


async def test_a_node_out_of_memory_is_told_of_on_the_node_and_on_the_pod(node: World) -> None:
    node.api.create(pod())
    agent = await node.start_agent()
    node.log.write(GLOBAL)
    await node.until(lambda: len(agent.incidents) == 1)
    await node.delivered("node_event")
    await node.delivered("pod_event")
    assert len(node.api.asked("get", "nodes")) == 2, "for its condition, and for its uid"
    (event,) = [told for (where, _), told in node.events.events.items() if where == "default"]
    assert (event["reason"], event["regarding"]["kind"], event["regarding"]["name"]) == ("NodeOOMKill", "Node", NODE)
    assert [told["reason"] for told in node.pod_events()] == ["NodeOOMKill"]


async def test_repeats_are_a_series_on_the_first_event(node: World) -> None:
    node.api.create(pod())
    agent = await node.start_agent()
    node.log.write(lines.report())
    await node.until(lambda: len(agent.incidents) == 1)
    await node.delivered("pod_event")
    node.log.write(lines.report(pid=400))
    await node.until(lambda: len(agent.incidents) == 2)
    await node.until(lambda: node.pod_events()[0].get("series") is not None)
    (event,) = node.pod_events()
    assert event["series"]["count"] == 2


async def test_no_api_for_a_while_costs_the_detail_alone(node: World) -> None:
    """From the start, with names from the log folders; the Event comes once the API does, once."""
    await node.api.stop()
    folder = node.logs / "pods" / f"shop_cart-0_{UID}" / "cart"
    folder.mkdir(parents=True)
    (node.logs / "containers").mkdir()
    (node.logs / "containers" / f"cart-0_shop_cart-{lines.CONTAINER_ID}.log").symlink_to(folder / "0.log")
    agent = await node.start_agent()
    node.log.write(lines.report())
    await node.until(lambda: agent.kills() == 1)
    told = await node.kept(lambda document: document["attribution"]["names_from"] == "log_links")
    assert (told["pod"]["name"], told["container"]["name"]) == ("cart-0", "cart")
    node.api.create(pod())
    await node.api.start()
    await asyncio.to_thread(agent.until, lambda: len(node.pod_events()) == 1, patience=40)
    await node.delivered("pod_event")
    await node.kept(lambda document: document["attribution"]["names_from"] == "api")
    await asyncio.to_thread(agent.until, lambda: len(agent.incidents) == 1, patience=15)
    assert len(node.pod_events()) == 1


async def test_an_agent_killed_before_its_event_is_out_sends_it_at_its_next_start(node: World) -> None:
    node.api.create(pod())
    agent = await node.start_agent()
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    node.api.refusals = [Refusal(503, "ServiceUnavailable")] * 1000
    node.log.write(lines.report())
    await node.until(lambda: len(agent.incidents) == 1)
    assert node.pod_events() == []
    agent.kill()
    node.api.refusals = []
    await node.start_agent()
    await node.delivered("pod_event")
    assert len(node.pod_events()) == 1


async def test_what_rbac_refuses_is_counted_and_nothing_else_suffers(node: World) -> None:
    node.api.create(pod())
    node.api.rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    agent = await node.start_agent()
    node.log.write(lines.report())
    await node.until(lambda: len(agent.incidents) == 1)
    await node.delivered("pod_event", "refused")
    assert agent.incidents[0]["pod"]["name"] == "cart-0"
    assert node.events.events == {}


async def test_evictions_are_counted_beside_and_not_again_by_the_next_agent(node: World) -> None:
    evicted = json.loads((Path(__file__).parents[1] / "fixtures/pods/evicted.json").read_text())
    evicted["spec"]["nodeName"] = NODE
    node.api.create(evicted)
    agent = await node.start_agent()
    sample = 'oom_evictions_total{resource="memory"}'
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    assert agent.metric(sample) == 0  # before the agent came to this node
    later = copy.deepcopy(evicted)
    later["metadata"] |= {"name": "later", "uid": "0f9c1d2e-3b4a-4c5d-8e6f-00000000ffff"}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for condition in later["status"]["conditions"]:
        condition["lastTransitionTime"] = now
    node.api.create(later)
    await node.until(lambda: agent.metric(sample) == 1)
    assert sum(agent.kills(cause) for cause in ("container_limit", "pod_limit", "node", "unknown")) == 0
    agent.kill()
    again = await node.start_agent()
    await node.until(lambda: again.metric('oom_collector_source_up{source="pods"}') == 1)
    assert again.metric(sample) == 1
