"""What the reflector and the client rest on, asked of the double and, with `-m cluster`, of a real API server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from collector.kube.client import ApiError
from collector.kube.items import ListItems, WatchEvents
from collector.node_condition import parse
from tests.kube.api_server import metadata_of
from tests.kube.contract import RealCluster
from tests.kube.recording import QUICK, reflecting, until

if TYPE_CHECKING:
    from tests.kube.api_server import Object
    from tests.kube.contract import Cluster

PODS = "/api/v1/pods"


def selector(cluster: Cluster) -> dict[str, str]:
    return {"fieldSelector": f"spec.nodeName={cluster.node},metadata.namespace={cluster.namespace}"}


def version(value: Object) -> str:
    return str(metadata_of(value)["resourceVersion"])


async def watch(cluster: Cluster, params: dict[str, str], *, least: int = 1) -> list[tuple[object, Object]]:
    """The events of a watch up to the given number, or to its end."""
    reader, events = WatchEvents(), []
    whole = {**selector(cluster), "watch": "true", "timeoutSeconds": "2", **params}
    async with cluster.client.stream(PODS, whole, idle_seconds=20) as chunks:
        async for chunk in chunks:
            for event in reader.feed(chunk):
                value = event["object"]
                assert isinstance(value, dict)
                events.append((event["type"], value))
            if len(events) >= least:
                break
    return events


async def test_pods_are_followed(cluster: Cluster) -> None:
    await cluster.create_pod("a")
    await cluster.create_pod("b")
    async with reflecting(cluster.client, node=cluster.node, timing=QUICK._replace(idle=90)) as sink:
        await until(lambda: {"a", "b"} <= sink.pods.keys() and sink.up, cluster.patience)
        await cluster.create_pod("c")
        await cluster.annotate_pod("a", "seen", "yes")
        await cluster.delete_pod("b")
        await until(lambda: "c" in sink.pods and "b" not in sink.pods, cluster.patience)
        await until(lambda: "seen" in str(metadata_of(dict(sink.pods["a"]))["annotations"]), cluster.patience)
    assert sink.states == [(True, None)]
    assert sink.lists == 1


async def test_a_list_from_the_cache_is_read_piece_by_piece(cluster: Cluster) -> None:
    pod = await cluster.create_pod("a")
    found: list[Object] = []

    async def read() -> ListItems:
        items = ListItems()
        found.clear()
        params = {**selector(cluster), "resourceVersion": "0", "limit": "1"}
        async with cluster.client.stream(PODS, params, idle_seconds=20) as chunks:
            async for chunk in chunks:
                found.extend(items.feed(chunk))
        found.extend(items.close())
        return items

    items = await read()
    while not found:  # the cache may lag
        items = await read()
    assert [metadata_of(item)["uid"] for item in found] == [metadata_of(pod)["uid"]]
    assert int(version(items.head)) >= int(version(pod))
    assert (items.head["kind"], items.head["apiVersion"]) == ("PodList", "v1")


async def test_a_streamed_list_ends_with_its_mark(cluster: Cluster) -> None:
    pod = await cluster.create_pod("a")
    params = {
        "resourceVersion": version(pod),
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    try:
        added, mark = await watch(cluster, params, least=2)
    except ApiError as error:
        assert error.status == 422  # noqa: PT017  # what the reflector takes for "not able to"
        pytest.skip(f"this cluster streams no lists: {error}")
    assert (added[0], mark[0]) == ("ADDED", "BOOKMARK")
    assert metadata_of(mark[1])["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(version(mark[1])) >= int(version(pod))


async def test_a_watch_begins_after_its_version(cluster: Cluster) -> None:
    first = await cluster.create_pod("a")
    await cluster.create_pod("b")
    (event, *_) = await watch(cluster, {"resourceVersion": version(first)})
    # A real cluster may have something to say of the first pod first.
    assert event[0] in ("ADDED", "MODIFIED")
    assert int(version(event[1])) > int(version(first))


async def test_a_watch_ends_when_its_time_is_over(cluster: Cluster) -> None:
    pod = await cluster.create_pod("a")
    await watch(cluster, {"resourceVersion": version(pod), "timeoutSeconds": "1"}, least=1000)


async def test_a_version_that_was_compacted_is_gone(cluster: Cluster) -> None:
    """Told in the watch; a reflector has to know the status as well."""
    events = await watch(cluster, {"resourceVersion": "1"})
    if isinstance(cluster, RealCluster) and [kind for kind, _ in events] != ["ERROR"]:
        pytest.skip("this server was started a moment ago, and still knows all since its first version")
    ((kind, status),) = events
    assert kind == "ERROR"
    assert (status["code"], status["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    ("params", "status", "reason"),
    [
        pytest.param(
            {"watch": "true", "sendInitialEvents": "true"}, 422, "Invalid", id="sendInitialEvents without a match"
        ),
        pytest.param(
            {"watch": "true", "resourceVersion": "1", "resourceVersionMatch": "NotOlderThan"},
            422,
            "Invalid",
            id="a match without sendInitialEvents",
        ),
        pytest.param({"sendInitialEvents": "true"}, 422, "Invalid", id="sendInitialEvents in a list"),
        pytest.param({"fieldSelector": "spec.flavour=sweet"}, 400, "BadRequest", id="no such field"),
        pytest.param({"resourceVersion": "999999999999"}, 504, "Timeout", id="a version from the future"),
    ],
)
async def test_options_that_the_server_refuses(
    cluster: Cluster, params: dict[str, str], status: int, reason: str
) -> None:
    with pytest.raises(ApiError) as caught:
        async with cluster.client.stream(PODS, params, idle_seconds=20):
            pass
    assert (caught.value.status, caught.value.reason) == (status, reason)


async def test_the_node_from_the_cache(cluster: Cluster) -> None:
    try:
        node = await cluster.client.get(f"/api/v1/nodes/{cluster.node}", {"resourceVersion": "0"})
    except ApiError as error:
        assert error.status == 404  # noqa: PT017
        pytest.skip("this cluster has no node")
    assert metadata_of(node)["uid"]
    pressure = parse(node)
    assert pressure is not None, "MemoryPressure, as the kubelet reports it"
    assert pressure.since < time.time()


async def test_what_is_not_there(cluster: Cluster) -> None:
    with pytest.raises(ApiError) as caught:
        await cluster.client.get("/api/v1/nodes/no-such-node")
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")
    assert 'nodes "no-such-node" not found' in caught.value.message
