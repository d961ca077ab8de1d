"""Events through the real client against the double of the API server, one test per answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web

from collector.kube.access import Access
from collector.kube.client import KubeClient, Timeouts
from collector.model import Cause
from collector.sinks.delivery import Delivery, Limits, RefusedError, Timing, UnavailableError
from collector.sinks.kube_event import event_name
from collector.sinks.kube_events import NodeEvents, PodEvents
from collector.sinks.letter import Letter
from tests.kube.events_api import EventsApi, Fault
from tests.sinks.letters import KILLED_AT, NODE, UID, MemoryOutbox, document, letter, receiving, served, until

if TYPE_CHECKING:
    from collections.abc import Callable

NODE_UID = "0a1b2c3d-node-uid"
POD = "web-7d4b9c-x2x9k"


class Server:
    """`events` and one node."""

    def __init__(self) -> None:
        self.api = EventsApi("shop")
        self.node_status = 200
        self.node_reads: list[dict[str, str]] = []
        self.app = web.Application(client_max_size=8 << 20)
        self.api.mount(self.app)
        self.app.router.add_get("/api/v1/nodes/{name}", self._node)

    async def _node(self, request: web.Request) -> web.Response:
        self.node_reads.append(dict(request.query))
        if self.node_status != 200:
            return web.json_response(
                {"kind": "Status", "reason": "x", "code": self.node_status}, status=self.node_status
            )
        return web.json_response({"metadata": {"name": request.match_info["name"], "uid": NODE_UID}})

    def only(self) -> dict[str, Any]:
        (event,) = self.api.events.values()
        return event

    @property
    def asked(self) -> list[tuple[str, int]]:
        return [(method, status) for method, _, status in self.api.requests]


@asynccontextmanager
async def connected(url: str, *, answer: float = 10.0) -> AsyncIterator[KubeClient]:
    async def load() -> Access:
        return Access(server=url)

    client = KubeClient(load, user_agent="oom-collector-test", timeouts=Timeouts(connect=10.0, answer=answer))
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[KubeClient]:
    async with served(server.app) as url, connected(url) as made:
        yield made


def _pressure(**changes: Any) -> Letter:
    return letter(document(Cause.NODE, **changes))


async def test_one_kill_is_one_event_that_describe_pod_shows(server: Server, client: KubeClient) -> None:
    await PodEvents(client).send(letter())
    assert server.asked == [("POST", 201)]
    (event,) = server.api.describe_pod("shop", POD, UID)
    assert event["reason"] == "ContainerOOMKill"
    assert not server.api.warnings, "no field that the server drops"


async def test_a_mirror_pod_is_shown_under_its_hash(server: Server, client: KubeClient) -> None:
    mirror = "8d6f7a2f0c1b4e5d9a3b2c1d0e9f8a7b"
    await PodEvents(client).send(letter(document(pod__uid="the-uid-in-cgroups"), event_uid=mirror))
    assert server.api.describe_pod("shop", POD, mirror)


async def test_node_pressure_is_shown_by_describe_node(server: Server, client: KubeClient) -> None:
    await NodeEvents(client).send(_pressure())
    (event,) = server.api.describe_node(NODE, NODE_UID)
    assert event["regarding"]["uid"] == NODE_UID
    assert event["related"]["name"] == POD
    assert event["reason"] == "NodeOOMKill"
    assert server.node_reads == [{"resourceVersion": "0"}]
    assert not server.api.warnings


async def test_the_uid_of_the_node_is_read_once_an_hour(server: Server, client: KubeClient) -> None:
    clock = [0.0]
    sink = NodeEvents(client, clock=lambda: clock[0])
    for n in range(3):
        await sink.send(replace(_pressure(), key=f"{n}"))
    assert len(server.node_reads) == 1
    clock[0] += 3601
    await sink.send(replace(_pressure(), key="later"))
    assert len(server.node_reads) == 2


@pytest.mark.parametrize("status", [403, 404])
async def test_without_its_uid_the_node_goes_by_its_name(server: Server, client: KubeClient, status: int) -> None:
    server.node_status = status
    await NodeEvents(client).send(_pressure())
    (event,) = server.api.describe_node(NODE, NODE_UID)
    assert event["regarding"]["uid"] == NODE


async def test_a_node_that_cannot_be_read_now_is_waited_for(server: Server, client: KubeClient) -> None:
    server.node_status = 500
    with pytest.raises(UnavailableError):
        await NodeEvents(client).send(_pressure())
    assert not server.api.requests


async def test_sent_twice_is_one_event(server: Server, client: KubeClient) -> None:
    """A restarted agent, a second replica, an answer that got lost: the annotation says that it is this kill's."""
    await PodEvents(client).send(letter())
    version = server.only()["metadata"]["resourceVersion"]
    await PodEvents(client).send(letter())
    assert server.asked == [("POST", 201), ("POST", 409), ("PATCH", 200)]
    assert "series" not in server.only()
    assert server.only()["metadata"]["resourceVersion"] == version, "nothing was written"


@pytest.mark.parametrize("before", [1, 5])
async def test_a_kill_after_the_journal_was_lost_is_one_more(server: Server, client: KubeClient, before: int) -> None:
    sink = PodEvents(client)
    await sink.send(letter(count=before))
    first_note = server.only()["note"]
    another = letter(document(id="f" * 16, victim__pid=77))
    for _ in range(2):  # its answer may be lost as well
        await sink.send(another)
    event = server.only()
    assert event["series"]["count"] == before + 1
    assert event["metadata"]["annotations"]["oom-collector/pid"] == "77"
    assert event["note"] == first_note


@pytest.mark.parametrize("gone_at", [1, 2], ids=["before it is read", "before it is counted on"])
async def test_an_event_that_goes_while_it_is_looked_at_is_made_next_time(
    server: Server, client: KubeClient, gone_at: int
) -> None:
    sink = PodEvents(client)
    await sink.send(letter())
    another = letter(document(id="f" * 16))
    real = client.patch
    patches = 0

    async def patch(path: str, body: dict[str, object]) -> dict[str, object]:
        nonlocal patches
        patches += 1
        if patches == gone_at:
            server.api.expire()
        return await real(path, body)

    client.patch = patch  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError):
        await sink.send(another)
    await sink.send(another)
    assert server.only()["metadata"]["annotations"]["oom-collector/incident-id"] == "f" * 16


async def test_a_repeat_is_a_series_with_the_newest_data_and_the_first_note(server: Server, client: KubeClient) -> None:
    sink = PodEvents(client)
    await sink.send(letter())
    first_note = server.only()["note"]
    await sink.send(letter(document(victim__pid=77, memory=None, summary="Another."), count=2))
    event = server.only()
    assert event["series"] == {"count": 2, "lastObservedTime": "2026-11-21T10:21:16.123456Z"}
    assert event["note"] == first_note
    assert event["metadata"]["annotations"]["oom-collector/pid"] == "77"
    assert "oom-collector/limit-bytes" not in event["metadata"]["annotations"], "nothing of the former kill is left"
    assert server.asked == [("POST", 201), ("PATCH", 200)]
    await sink.send(letter(count=2))
    assert server.only()["series"]["count"] == 2, "absolute: sent again it counts nothing twice"


async def test_a_series_whose_time_to_live_is_over_is_made_again(server: Server, client: KubeClient) -> None:
    sink = PodEvents(client)
    await sink.send(letter())
    server.api.expire()
    await sink.send(letter(count=5))
    event = server.only()
    assert event["series"]["count"] == 5
    assert event["eventTime"] == "2026-11-21T10:20:16.123456Z"
    assert event["metadata"]["name"] == event_name(POD, letter().key)
    assert server.asked == [("POST", 201), ("PATCH", 404), ("POST", 201)]


async def test_an_event_that_appears_between_patch_and_post_is_counted_next_time(
    server: Server, client: KubeClient
) -> None:
    sink = PodEvents(client)
    await sink.send(letter())
    server.api.faults.append(Fault(status=404, reason="NotFound"))
    with pytest.raises(UnavailableError):
        await sink.send(letter(count=2))
    assert server.asked == [("POST", 201), ("PATCH", 404), ("POST", 409)]
    await sink.send(letter(count=2))
    assert server.only()["series"]["count"] == 2


@pytest.mark.parametrize("count", [1, 2], ids=["create", "patch"])
async def test_not_allowed_is_final(server: Server, client: KubeClient, count: int) -> None:
    server.api.forbidden = True
    with pytest.raises(RefusedError, match="403 Forbidden: events"):
        await PodEvents(client).send(letter(count=count))


async def test_a_namespace_that_is_terminating_is_final(server: Server, client: KubeClient) -> None:
    server.api.terminating.add("shop")
    with pytest.raises(RefusedError, match=r"403 NamespaceTerminating: .* it is being terminated"):
        await PodEvents(client).send(letter())


async def test_a_namespace_that_is_gone_is_final(server: Server, client: KubeClient) -> None:
    server.api.namespaces.remove("shop")
    with pytest.raises(RefusedError, match='404 NotFound: namespaces "shop" not found'):
        await PodEvents(client).send(letter())
    with pytest.raises(RefusedError, match="404 NotFound"):
        await PodEvents(client).send(letter(count=2))


async def test_what_the_server_finds_invalid_is_final_with_its_reason(
    server: Server, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.sinks.kube_event.NOTE_BYTES", 10_000)
    made = document(summary="x" * 2000)
    with pytest.raises(RefusedError, match=r"422 Invalid: .*message: Invalid value: can have at most 1024 characters"):
        await PodEvents(client).send(letter(made))


@pytest.mark.parametrize("status", [302, 403, 404, 407])
@pytest.mark.parametrize("count", [1, 2], ids=["create", "patch"])
async def test_what_a_proxy_says_is_not_final(status: int, count: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>", headers={"Location": "http://login.test/"})

    async with receiving(answer) as url, connected(str(url.origin())) as client:
        with pytest.raises(UnavailableError):
            await PodEvents(client).send(letter(count=count))
        with pytest.raises(UnavailableError):
            await NodeEvents(client).send(_pressure())


@pytest.mark.parametrize("status", [401, 408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("count", [1, 2], ids=["create", "patch"])
async def test_what_may_pass_is_waited_for(server: Server, client: KubeClient, status: int, count: int) -> None:
    # 401 twice: the client loads its credentials again once.
    server.api.faults += [Fault(status=status, retry_after=7)] * 2
    with pytest.raises(UnavailableError) as caught:
        await PodEvents(client).send(letter(count=count))
    assert caught.value.retry_after == 7


async def test_a_conflict_that_is_not_about_the_name_is_waited_for(server: Server, client: KubeClient) -> None:
    server.api.faults.append(Fault(status=409, reason="Conflict"))
    with pytest.raises(UnavailableError):
        await PodEvents(client).send(letter())


async def test_a_server_that_does_not_answer_is_waited_for(server: Server) -> None:
    server.api.faults.append(Fault(status=0))
    async with served(server.app) as url, connected(url, answer=0.1) as client:
        with pytest.raises(UnavailableError):
            await PodEvents(client).send(letter())


async def test_an_answer_that_was_lost_makes_no_second_event(server: Server, client: KubeClient) -> None:
    server.api.faults.append(Fault(status=504, acts=True))
    sink = PodEvents(client)
    with pytest.raises(UnavailableError):
        await sink.send(letter())
    await sink.send(letter())
    assert len(server.api.events) == 1
    assert server.asked == [("POST", 504), ("POST", 409), ("PATCH", 200)]


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(letter(document(pod=None)), id="no pod"),
        pytest.param(letter(document(pod__name=None)), id="no name"),
        pytest.param(letter(document(pod__namespace="../../../api/v1/nodes")), id="a path for a namespace"),
        pytest.param(letter(document(pod__name="a/../b")), id="a path for a pod"),
    ],
)
async def test_nothing_is_asked_for_a_pod_that_cannot_be_named(
    server: Server, client: KubeClient, told: Letter
) -> None:
    with pytest.raises(RefusedError):
        await PodEvents(client).send(told)
    assert not server.api.requests


@pytest.mark.parametrize("told", [letter(), letter(document(Cause.NODE, node=None)), _pressure(node="a/b")])
async def test_nothing_is_asked_for_a_node_that_is_not_concerned(
    server: Server, client: KubeClient, told: Letter
) -> None:
    with pytest.raises(RefusedError):
        await NodeEvents(client).send(told)
    assert not server.api.requests
    assert not server.node_reads


@asynccontextmanager
async def _delivering(sink: PodEvents, outbox: MemoryOutbox, **options: Any) -> AsyncIterator[Delivery]:
    timing = Timing(first_pause=0.001, longest_pause=0.01)
    now: Callable[[], Any] = options.pop("now", lambda: KILLED_AT)
    delivery = Delivery(sink, outbox, max_age=timedelta(hours=1), timing=timing, now=now, **options)
    task = asyncio.create_task(delivery.run())
    try:
        yield delivery
    finally:
        task.cancel()
        await asyncio.wait([task])


def _kill(n: int, *, minute: int = 0) -> Letter:
    made = document(id=f"{n:016x}", pod__name=f"web-{n}", pod__uid=f"uid-{n}")
    return letter(made, at=KILLED_AT + timedelta(minutes=minute), event_uid=f"uid-{n}")


async def test_an_outage_is_made_up_for_in_order_with_nothing_twice() -> None:
    """The server is away, comes back, and what was made meanwhile is there once; what is too old is not."""
    server, outbox = Server(), MemoryOutbox()
    outbox.put(letter(document(id="old"), at=KILLED_AT - timedelta(minutes=61)), *(_kill(n) for n in range(12)))
    async with served(web.Application()) as url:
        pass  # its port is free again: nobody listens there
    async with connected(url) as client, _delivering(PodEvents(client), outbox) as delivery:
        await until(lambda: delivery.failing)
        assert not server.api.events
        runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(url.rsplit(":", 1)[1])).start()
        await until(lambda: not outbox.waiting)
        await runner.cleanup()
    assert [event["regarding"]["name"] for event in server.api.events.values()] == [f"web-{n}" for n in range(12)]
    assert outbox.outcomes == [("old", "expired"), *((f"{n:016x}", "delivered") for n in range(12))]


async def test_two_agents_with_the_same_kills_make_one_event_each(server: Server, client: KubeClient) -> None:
    boxes = MemoryOutbox(), MemoryOutbox()
    for box in boxes:
        box.put(*(_kill(n) for n in range(5)), *(_kill(n, minute=1) for n in range(5)))
    async with _delivering(PodEvents(client), boxes[0]), _delivering(PodEvents(client), boxes[1]):
        await until(lambda: not boxes[0].waiting and not boxes[1].waiting)
    assert len(server.api.events) == 5
    assert {event["series"]["count"] for event in server.api.events.values()} == {2}


async def test_a_crash_loop_is_one_event_within_its_tokens(server: Server, client: KubeClient) -> None:
    outbox = MemoryOutbox()
    async with _delivering(PodEvents(client), outbox, limits=Limits()) as delivery:
        for minute in range(30):
            outbox.put(_kill(1, minute=minute))
            delivery.wake()
            await outbox.is_read()
    assert len(server.api.events) == 1
    assert len(server.api.requests) <= 5
