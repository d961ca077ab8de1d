"""What a server takes and refuses of Events: the double's promises, held against a real cluster too."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collector.kube.access import from_kubeconfig
from collector.kube.client import ApiError
from collector.model import Cause
from collector.sinks.kube_event import event_name, node_event, pod_event
from collector.sinks.kube_events import NodeEvents, PodEvents
from tests.kube.contract import DoubleCluster, RealCluster
from tests.kube.events_api import EventsApi
from tests.sinks.letters import document, letter

if TYPE_CHECKING:
    from tests.kube.contract import Cluster

GROUP = "/apis/events.k8s.io/v1/namespaces"
DROP = object()


@pytest.fixture(params=["double", pytest.param("real", marks=pytest.mark.cluster)])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made: DoubleCluster | RealCluster
    if request.param == "double":
        made = DoubleCluster(EventsApi("contract").mount)
    else:
        path = os.environ.get("KUBECONFIG")
        if not path:
            pytest.skip("KUBECONFIG names no cluster")
        made = RealCluster(await from_kubeconfig(Path(path))())
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def _pod_event(cluster: Cluster) -> dict[str, Any]:
    made = document(pod__namespace=cluster.namespace, pod__name=f"web-{secrets.token_hex(4)}", node=cluster.node)
    return pod_event(letter(made))


def _change(event: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """changes: by path; DROP takes away."""
    for path, value in changes.items():
        *parts, last = path.split(".")
        inner = event
        for part in parts:
            inner = inner.setdefault(part, {})
        if value is DROP:
            del inner[last]
        else:
            inner[last] = value
    return event


async def _post(cluster: Cluster, event: dict[str, Any], namespace: str | None = None) -> dict[str, Any]:
    return await cluster.client.post(f"{GROUP}/{namespace or cluster.namespace}/events", event)


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"eventTime": DROP}, 422, "eventTime"),
        ({"type": DROP}, 422, "type"),
        ({"type": "Fatal"}, 422, "type"),
        ({"reason": DROP}, 422, "reason"),
        ({"reason": "r" * 129}, 422, "reason"),
        ({"action": DROP}, 422, "action"),
        ({"action": "a" * 129}, 422, "action"),
        ({"reportingController": DROP}, 422, "reportingController"),
        ({"reportingController": "no spaces"}, 422, "reportingController"),
        ({"reportingController": "UPPER/name"}, 422, "reportingController"),
        ({"reportingController": "c" * 64}, 422, "reportingController"),
        ({"reportingInstance": DROP}, 422, "reportingInstance"),
        ({"reportingInstance": "i" * 129}, 422, "reportingInstance"),
        ({"note": "n" * 1025}, 422, "message"),
        pytest.param({"note": "é" * 513}, 422, "message", id="the note's length is bytes"),
        ({"series": {"count": 1, "lastObservedTime": "2026-11-21T10:20:16.000000Z"}}, 422, "series.count"),
        ({"series": {"count": 2}}, 422, "series.lastObservedTime"),
        ({"deprecatedFirstTimestamp": "2026-11-21T10:20:16Z"}, 422, "firstTimestamp"),
        ({"deprecatedLastTimestamp": "2026-11-21T10:20:16Z"}, 422, "lastTimestamp"),
        ({"deprecatedCount": 1}, 422, "count"),
        ({"deprecatedSource": {"component": "x"}}, 422, "source"),
        ({"deprecatedSource": {"host": "x"}}, 422, "source"),
        ({"metadata.name": DROP}, 422, "metadata.name"),
        ({"metadata.name": "Upper"}, 422, "metadata.name"),
        ({"metadata.name": "under_score"}, 422, "metadata.name"),
        ({"metadata.name": "a..b"}, 422, "metadata.name"),
        ({"metadata.name": "a-.b"}, 422, "metadata.name"),
        ({"metadata.name": "a" * 254}, 422, "metadata.name"),
        ({"metadata.annotations": {"a/b/c": ""}}, 422, "metadata.annotations"),
        ({"metadata.annotations": {"a": "x" * (256 << 10)}}, 422, "metadata.annotations"),
        pytest.param(
            {"regarding.namespace": DROP}, 422, "involvedObject.namespace", id="without one it must be default"
        ),
        pytest.param({"metadata.namespace": "elsewhere"}, 400, "", id="another namespace than the path's"),
        pytest.param({"eventTime": "2026-11-21T10:20:16Z"}, 400, "", id="a MicroTime without decimals"),
        pytest.param({"eventTime": "2026-11-21T10:20:16.123Z"}, 400, "", id="a MicroTime with three decimals"),
        pytest.param({"series": {"count": "2"}}, 400, "", id="a count that is a text"),
        pytest.param({"metadata.annotations": {"a": 1}}, 400, "", id="an annotation that is a number"),
        pytest.param({"kind": "Pod"}, 400, "", id="another kind"),
    ],
)
async def test_refused_when_created(cluster: Cluster, changes: dict[str, Any], status: int, field: str) -> None:
    with pytest.raises(ApiError) as caught:
        await _post(cluster, _change(_pod_event(cluster), changes))
    assert caught.value.status == status
    if field:
        assert f"{field}: " in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as we make it"),
        pytest.param({"note": "n" * 1024}, id="longest note"),
        pytest.param({"note": "é" * 512}, id="longest note, in bytes"),
        pytest.param({"note": DROP}, id="no note"),
        pytest.param({"reportingInstance": "i" * 128}, id="longest instance"),
        pytest.param({"reportingController": "example/c"}, id="a controller with a prefix"),
        pytest.param(
            {"series": {"count": 2, "lastObservedTime": "2026-11-21T10:20:16.000000Z"}}, id="a series at once"
        ),
        pytest.param({"metadata.annotations": {"a": "x" * 200_000}}, id="large annotations"),
        pytest.param({"metadata.annotations": {"oom-collector/x": None}}, id="null is an empty text"),
        pytest.param({"eventTime": "2026-11-21T12:20:16.123456+02:00"}, id="a MicroTime with an offset"),
        pytest.param({"regarding.namespace": "elsewhere"}, id="with an eventTime two namespaces are not compared"),
        pytest.param({"regarding.hello": "x"}, id="an unknown field is dropped"),
    ],
)
async def test_taken_when_created(cluster: Cluster, changes: dict[str, Any]) -> None:
    event = _change(_pod_event(cluster), changes)
    made = await _post(cluster, event)
    stored = await cluster.client.get(f"{GROUP}/{cluster.namespace}/events/{event['metadata']['name']}")
    assert stored["reason"] == event["reason"]
    assert made["metadata"]["uid"]
    assert "hello" not in made["regarding"]


async def test_the_longest_name(cluster: Cluster) -> None:
    event = _pod_event(cluster)
    event["metadata"]["name"] = event_name(f"a-{secrets.token_hex(4)}-" + "x" * 300, "0" * 16)
    assert len(event["metadata"]["name"]) == 253
    await _post(cluster, event)


@pytest.mark.parametrize(
    ("patch", "status", "field"),
    [
        ({"note": "another"}, 422, "message"),
        ({"reason": "Another"}, 422, "reason"),
        ({"action": "Another"}, 422, "action"),
        ({"type": "Normal"}, 422, "type"),
        ({"eventTime": "2026-11-21T10:20:17.000000Z"}, 422, "eventTime"),
        ({"regarding": {"uid": "another"}}, 422, "involvedObject"),
        ({"related": {"uid": "another"}}, 422, "related"),
        ({"related": None}, 422, "related"),
        ({"reportingController": "another"}, 422, "reportingController"),
        ({"reportingInstance": "another"}, 422, "reportingInstance"),
        ({"deprecatedCount": 2}, 422, "count"),
        ({"deprecatedFirstTimestamp": "2026-11-21T10:20:16Z"}, 422, "firstTimestamp"),
        ({"deprecatedLastTimestamp": "2026-11-21T10:20:16Z"}, 422, "lastTimestamp"),
        ({"deprecatedSource": {"component": "x"}}, 422, "source"),
        ({"series": {"count": 1, "lastObservedTime": "2026-11-21T10:20:16.000000Z"}}, 422, "series.count"),
        ({"series": {"count": 2}}, 422, "series.lastObservedTime"),
        pytest.param({"metadata": {"name": "another"}}, 400, "", id="another name than the path's"),
        pytest.param({"series": {"count": 2, "lastObservedTime": "now"}}, 400, "", id="no MicroTime"),
    ],
)
async def test_refused_when_patched(cluster: Cluster, patch: dict[str, Any], status: int, field: str) -> None:
    event = _pod_event(cluster)
    await _post(cluster, event)
    with pytest.raises(ApiError) as caught:
        await cluster.client.patch(f"{GROUP}/{cluster.namespace}/events/{event['metadata']['name']}", patch)
    assert caught.value.status == status
    if field:
        assert f"{field}: " in caught.value.message


async def test_a_patch_in_a_format_that_is_none_for_patches(cluster: Cluster) -> None:
    event = _pod_event(cluster)
    await _post(cluster, event)
    path = f"{GROUP}/{cluster.namespace}/events/{event['metadata']['name']}"
    with pytest.raises(ApiError) as caught:
        await cluster.client.patch(path, {}, "application/json")
    assert caught.value.status == 415


async def test_a_patch_merges_annotations_and_null_removes(cluster: Cluster) -> None:
    event = _change(_pod_event(cluster), {"metadata.annotations": {"a": "1", "b": "2"}})
    await _post(cluster, event)
    path = f"{GROUP}/{cluster.namespace}/events/{event['metadata']['name']}"
    answer = await cluster.client.patch(path, {"metadata": {"annotations": {"a": None, "c": "3"}}})
    assert answer["metadata"]["annotations"] == {"b": "2", "c": "3"}  # type: ignore[index]


async def test_a_trial_is_checked_and_not_kept(cluster: Cluster) -> None:
    event = _pod_event(cluster)
    events = f"{GROUP}/{cluster.namespace}/events"
    answer: dict[str, Any] = await cluster.client.post(events, event, {"dryRun": "All"})
    assert answer["metadata"]["name"] == event["metadata"]["name"]
    with pytest.raises(ApiError, match="404 NotFound"):
        await cluster.client.patch(f"{events}/{event['metadata']['name']}", {})
    with pytest.raises(ApiError, match="422 Invalid"):
        await cluster.client.post(events, _change(event, {"reason": ""}), {"dryRun": "All"})


async def test_a_patch_that_changes_nothing_shows_the_event_and_writes_nothing(cluster: Cluster) -> None:
    event = _pod_event(cluster)
    await _post(cluster, event)
    path = f"{GROUP}/{cluster.namespace}/events/{event['metadata']['name']}"
    first, second = [await cluster.client.patch(path, {}) for _ in range(2)]
    assert first["note"] == event["note"]
    assert first["metadata"] == second["metadata"]


async def test_an_event_that_is_there_or_is_not(cluster: Cluster) -> None:
    event = _pod_event(cluster)
    path = f"{GROUP}/{cluster.namespace}/events/{event['metadata']['name']}"
    with pytest.raises(ApiError) as caught:
        await cluster.client.patch(path, {"metadata": {"annotations": {"a": "1"}}})
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")
    await _post(cluster, event)
    with pytest.raises(ApiError) as caught:
        await _post(cluster, event)
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")


async def test_a_namespace_that_is_not_there(cluster: Cluster) -> None:
    event = _change(_pod_event(cluster), {"metadata.namespace": DROP, "regarding.namespace": "oom-collector-none"})
    with pytest.raises(ApiError) as caught:
        await _post(cluster, event, "oom-collector-none")
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")


@pytest.mark.parametrize("namespace", ["default", "kube-system"])
async def test_a_node_has_its_events_where_no_namespace_is(cluster: Cluster, namespace: str) -> None:
    made = letter(document(Cause.NODE, node=cluster.node), key=secrets.token_hex(8))
    event: dict[str, Any] = node_event(made, "node-uid")
    event["metadata"]["namespace"] = namespace
    await _post(cluster, event, namespace)


async def _shown(cluster: Cluster, path: str, about: dict[str, str]) -> list[Any]:
    """As `kubectl describe` asks."""
    selector = ",".join(f"involvedObject.{key}={value}" for key, value in about.items())
    items = (await cluster.client.get(path, {"fieldSelector": selector}))["items"]
    assert isinstance(items, list)
    return items


async def test_a_pod_and_its_kills_from_the_first_to_the_third(cluster: Cluster) -> None:
    pod: dict[str, Any] = await cluster.create_pod(f"victim-{secrets.token_hex(4)}")
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    made = document(pod__namespace=cluster.namespace, pod__name=name, pod__uid=uid, node=cluster.node)
    sink, first = PodEvents(cluster.client), letter(made, event_uid=uid)
    for count in (1, 1, 2, 3, 3):
        await sink.send(replace(first, count=count))
    about = {"kind": "Pod", "namespace": cluster.namespace, "name": name, "uid": uid}
    events = await _shown(cluster, f"/api/v1/namespaces/{cluster.namespace}/events", about)
    ours = [event for event in events if event["message"].startswith("Container app")]
    assert [event["involvedObject"]["fieldPath"] for event in ours] == ["spec.containers{app}"]
    path = f"{GROUP}/{cluster.namespace}/events/{ours[0]['metadata']['name']}"
    stored: dict[str, Any] = await cluster.client.get(path)
    assert stored["series"]["count"] == 3


async def test_a_node_that_ran_short(cluster: Cluster) -> None:
    made = letter(document(Cause.NODE, node=cluster.node), key=secrets.token_hex(8))
    await NodeEvents(cluster.client).send(made)
    shown: list[Any] = []
    for uid in await _node_uids(cluster):
        shown += await _shown(cluster, "/api/v1/events", {"kind": "Node", "name": cluster.node, "uid": uid})
    assert [event for event in shown if event["metadata"]["name"] == event_name(cluster.node, made.key)]


async def _node_uids(cluster: Cluster) -> list[str]:
    """Under which `kubectl describe node` looks; a cluster without nodes has but the name."""
    try:
        node: dict[str, Any] = await cluster.client.get(f"/api/v1/nodes/{cluster.node}")
    except ApiError:
        return [cluster.node]
    return [node["metadata"]["uid"], cluster.node]
