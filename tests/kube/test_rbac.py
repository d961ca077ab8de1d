"""The agent under the rules that the chart ships, and no others: nothing is refused, and nothing is given in vain."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Literal

import pytest

from collector.state.store import read_documents
from tests import lines
from tests.agent_process import AgentProcess
from tests.cluster.told import refused, samples
from tests.deploy.chart import objects, render
from tests.kube.api_server import allowed
from tests.test_agent_in_cluster import GLOBAL, NODE, World, pod, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.deploy.chart import Values

# Events go through events.k8s.io; a server may ask for the right in the other group.
IN_THE_OTHER_GROUP = {("create", "", "events"), ("patch", "", "events")}
NODE_AND_EVENTS = {
    ("get", "", "nodes"),
    ("create", "events.k8s.io", "events"),
    ("patch", "events.k8s.io", "events"),
}
WATCH = {("watch", "", "pods")}
LIST = {("list", "", "pods"), *WATCH}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def shipped(values: Values) -> list[dict[str, list[str]]]:
    rules: list[dict[str, list[str]]] = []
    for each in objects(render(values)):
        if each["kind"] in {"Role", "ClusterRole"}:
            rules += each["rules"]
    return rules


def setting(values: Values, name: str) -> str:
    (daemon_set,) = [each for each in objects(render(values)) if each["kind"] == "DaemonSet"]
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    (value,) = [each["value"] for each in container["env"] if each["name"] == f"OOM_COLLECTOR_{name}"]
    return str(value)


async def start(node: World, values: Values) -> AgentProcess:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": node.api.url}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "current-context": "c",
    }
    kubeconfig = node.directory / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    agent = await asyncio.to_thread(
        AgentProcess,
        *("--kernel-log", f"file:{node.log.path}", "--state-dir", str(node.directory / "state"), "--metrics-hold", "0"),
        *("--node-name", NODE, "--kubeconfig", str(kubeconfig), "--api-jitter", "0", "--pod-logs", str(node.logs)),
        *("--kubernetes", setting(values, "KUBERNETES"), "--events", setting(values, "EVENTS")),
        directory=node.directory,
    )
    node.agents.append(agent)
    return agent


@pytest.mark.parametrize(
    ("values", "streamed_list", "used"),
    [
        pytest.param({}, "on", WATCH | NODE_AND_EVENTS, id="default"),
        pytest.param({}, "forbidden", LIST | NODE_AND_EVENTS, id="default, before streamed lists"),
        pytest.param({"events": {"enabled": False}}, "on", WATCH, id="no Events"),
        pytest.param({"events": {"enabled": False}}, "forbidden", LIST, id="no Events, before streamed lists"),
    ],
)
async def test_the_rules_are_what_the_agent_asks_for(
    node: World, values: Values, streamed_list: Literal["on", "forbidden"], used: set[tuple[str, str, str]]
) -> None:
    node.api.rules = list(shipped(values))
    node.api.streamed_list = streamed_list
    node.api.create(pod())
    agent = await start(node, values)
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    # Two at a limit, which are one Event: it is looked for by PATCH, and made. One of the node's.
    for report in (lines.report(), lines.report(pid=400), GLOBAL):
        node.log.write(report)
    await node.until(lambda: agent.kills() + agent.kills("node") == 3)
    node.api.update(pod(restarts=1, terminated=True))
    if setting(values, "EVENTS") == "on":
        await node.delivered("node_event")
        await node.until(lambda: any(event.get("series") for event in node.pod_events()))
    await node.until(
        lambda: {document["fate"] for document in read_documents(node.directory / "state")} == {"restarted"}
    )
    asked = {seen.attributes for seen in node.api.seen}
    assert [wanted for wanted in asked if not allowed(node.api.rules, wanted)] == []
    assert {seen.status for seen in node.api.seen} <= {0, 200, 201, 404, 422}
    assert {(wanted.verb, wanted.group, wanted.resource) for wanted in asked} == used
    assert refused(samples(agent.get("/metrics")[1])) == {}


def test_no_right_is_given_in_vain() -> None:
    """All that some cluster has the agent ask for, in the tests above, and nothing else."""
    given = {
        (verb, group, resource)
        for rule in shipped({})
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert given == LIST | NODE_AND_EVENTS | IN_THE_OTHER_GROUP
