"""The agent under the rules that the chart ships, and no others: nothing is refused, and nothing is given in vain."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Literal

import pytest

from collector.sinks.kube_events import ForecastEvents
from collector.state.store import read_documents
from tests import lines
from tests.agent_process import AgentProcess
from tests.cluster.told import refused, samples
from tests.deploy.chart import objects, render
from tests.kube.api_server import allowed
from tests.sinks.test_forecast_event import letter
from tests.sinks.test_kube_events import connected
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
OWNERS = {("get", "apps", "replicasets"), ("get", "apps", "controllerrevisions"), ("get", "batch", "jobs")}
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
        *("--owner-details", setting(values, "OWNER_DETAILS")),
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
    node.api.create(owned("ReplicaSet", "web-7d4b9c", {"pod-template-hash": "7d4b9c"}))
    agent = await start(node, values)
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    # Two at a limit, which are one Event: it is looked for by PATCH, and made. One of the node's.
    for report in (lines.report(), lines.report(pid=400), GLOBAL):
        node.log.write(report)
    await node.until(lambda: agent.kills() + agent.kills("node") == 3)
    node.api.update(owned("ReplicaSet", "web-7d4b9c", {"pod-template-hash": "7d4b9c"}, restarts=1, terminated=True))
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


async def test_a_forecast_asks_for_no_more(node: World) -> None:
    node.api.rules = list(shipped({}))
    async with connected(node.api.url) as client:
        await ForecastEvents(client).send(letter())
    (seen,) = node.api.seen
    assert (seen.attributes.verb, seen.attributes.group, seen.attributes.resource) in NODE_AND_EVENTS
    assert seen.status == 201


async def test_the_owners_of_what_was_killed_are_asked_once(node: World) -> None:
    """In time for the first diagnosis, which the journal has."""
    values = {"ownerDetails": {"enabled": True}, "events": {"enabled": False}}
    node.api.rules = list(shipped(values))
    node.api.create(owned("ReplicaSet", "web-7d4b9c", {"pod-template-hash": "7d4b9c"}))
    node.api.create(owned("StatefulSet", "db", {"controller-revision-hash": "db-7f8d9c6b5"}, number=2))
    node.api.create(owned("Job", "by-hand", {}, number=3))
    agent = await start(node, values)
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    for pid, number in ((257, 1), (400, 1), (500, 2), (600, 3)):
        node.log.write(lines.report(pid=pid, memcg=numbered(lines.CONTAINER, number)))
    await node.until(lambda: len(agent.incidents) == 4)
    gets = [seen.attributes for seen in node.api.seen if seen.attributes.verb == "get"]
    assert {(get.verb, get.group, get.resource) for get in gets} == OWNERS
    assert sorted(get.name for get in gets) == ["by-hand", "db-7f8d9c6b5", "web-7d4b9c"]
    assert [wanted for wanted in gets if not allowed(node.api.rules, wanted)] == []
    advised = {
        step["workload"]
        for document in read_documents(node.directory / "state")
        for step in document["diagnosis"]["advice"]
        if "workload" in step
    }
    assert advised == {"Deployment/web", "StatefulSet/db", "CronJob/report"}


def owned(
    kind: str, name: str, labels: dict[str, str], *, number: int = 1, restarts: int = 0, terminated: bool = False
) -> dict[str, Any]:
    """pod() with an owner. number: of which there are several."""
    made: dict[str, Any] = json.loads(numbered(json.dumps(pod(restarts=restarts, terminated=terminated)), number))
    references = [{"kind": kind, "name": name, "controller": True}]
    made["metadata"] |= {"name": f"cart-{number - 1}", "labels": labels, "ownerReferences": references}
    return made


def numbered(text: str, number: int) -> str:
    """With ids that end otherwise."""
    return text.replace("0001", f"000{number}")


def test_no_right_is_given_in_vain() -> None:
    """All that some cluster has the agent ask for, in the tests above, and nothing else."""
    given = {
        (verb, group, resource)
        for rule in shipped({"ownerDetails": {"enabled": True}})
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert given == LIST | NODE_AND_EVENTS | IN_THE_OTHER_GROUP | OWNERS
