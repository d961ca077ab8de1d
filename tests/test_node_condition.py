"""The node's condition MemoryPressure: what it says of a kill, asked of an API server under rules."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from collector import node_condition
from collector.kube.access import Access
from collector.kube.client import KubeClient
from collector.node_condition import NodeCondition, Pressure, Status, parse
from tests.kube.api_server import ApiServer, Refusal
from tests.kube.owners import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NODE = "node-1"
KILLED_AT = 1700000000.0


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(status: object, since: object) -> dict[str, Any]:
    """since: seconds of Unix, or what stands there instead."""
    at = stamp(since) if isinstance(since, float) else since
    conditions = [{"type": "MemoryPressure", "status": status, "lastTransitionTime": at}]
    return {"status": {"conditions": [{"type": "Ready", "status": "True"}, *conditions]}}


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    server.add_node(NODE)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def report(server: ApiServer, status: object, since: object) -> None:
    server.node(NODE).update(node(status, since))


@asynccontextmanager
async def asking(server: ApiServer, name: str | None = NODE) -> AsyncIterator[NodeCondition]:
    async def load() -> Access:
        return Access(server=server.url)

    client = KubeClient(load, user_agent="test")
    condition = NodeCondition(client, name)
    running = asyncio.create_task(condition.run())
    try:
        yield condition
        assert not running.done(), "nothing that a server says ends it"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()


async def answer(condition: NodeCondition, killed_at: float) -> Pressure:
    await until(lambda: condition.is_known(killed_at))
    return condition.memory_pressure(killed_at)


@pytest.mark.parametrize(
    ("status", "before", "told"),
    [
        pytest.param("True", 31.0, Pressure(at_kill=True, seconds=31.0), id="true before"),
        pytest.param("True", 0.0, Pressure(at_kill=True, seconds=0.0), id="true in the second of the kill"),
        pytest.param("True", -12.0, Pressure(seconds=-12.0), id="true after"),
        pytest.param("True", -300.0, Pressure(seconds=-300.0), id="true five minutes after"),
        pytest.param("True", -301.0, Pressure(), id="true long after: another time"),
        pytest.param("False", 86400.0, Pressure(at_kill=False), id="not reported"),
        pytest.param("False", -12.0, Pressure(), id="false after: it may have been true"),
        pytest.param("Unknown", 86400.0, Pressure(), id="a silent kubelet"),
        pytest.param("Unknown", -12.0, Pressure(), id="a kubelet that became silent"),
    ],
)
async def test_what_it_says_of_a_kill_long_ago(status: str, before: float, told: Pressure, server: ApiServer) -> None:
    report(server, status, KILLED_AT - before)
    async with asking(server) as condition:
        assert not condition.is_known(KILLED_AT)
        assert condition.memory_pressure(KILLED_AT) == Pressure()
        assert await answer(condition, KILLED_AT) == told
    (seen,) = server.seen
    assert (seen.attributes.verb, seen.attributes.name, seen.query) == ("get", NODE, {"resourceVersion": "0"})


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        pytest.param(
            [("True", -31.0), ("False", 400.0)],
            Pressure(at_kill=True, seconds=31.0),
            id="what is over is not forgotten",
        ),
        pytest.param(
            [("False", -900.0), ("True", 9.0)], Pressure(at_kill=False, seconds=-9.0), id="the kubelet comes to see it"
        ),
        pytest.param(
            [("True", -31.0), ("True", 9.0)], Pressure(at_kill=True, seconds=31.0), id="over and back at once"
        ),
        pytest.param([("False", -900.0), ("True", 400.0)], Pressure(at_kill=False), id="another time"),
        pytest.param([("Unknown", -900.0), ("False", 9.0)], Pressure(), id="a kubelet that came back"),
        pytest.param([("Unknown", -10.0), ("True", 9.0)], Pressure(seconds=-9.0), id="and reports it then"),
        pytest.param([("False", 5.0), ("True", 20.0)], Pressure(), id="a kubelet that began anew"),
    ],
)
async def test_what_several_answers_say_together(
    reports: list[tuple[str, float]], told: Pressure, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_condition, "ASK_SECONDS", 0.0)
    killed_at = time.time() - 500
    killed_at -= killed_at % 1
    async with asking(server) as condition:
        for status, since in reports:
            report(server, status, killed_at + since)
            await answer(condition, time.time())
        assert condition.memory_pressure(killed_at) == told
    assert len(server.seen) == len(reports)


async def test_a_kill_after_the_answer_was_asked_for_has_no_part_in_it(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet may have reported in between."""
    monkeypatch.setattr(node_condition, "ASK_SECONDS", 0.1)
    report(server, "False", KILLED_AT)
    async with asking(server) as condition:
        assert await answer(condition, time.time()) == Pressure(at_kill=False)
        later = time.time()
        assert not condition.is_known(later)
        assert condition.memory_pressure(later) == Pressure()
        report(server, "True", time.time() // 1 - 1)
        pressure = await answer(condition, later)
    assert pressure.at_kill is True


async def test_a_storm_of_kills_is_one_request_in_five_seconds(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_condition, "ASK_SECONDS", 0.5)
    report(server, "False", KILLED_AT)
    async with asking(server) as condition:
        began = time.monotonic()
        kills: list[float] = []
        known: list[bool] = []
        while time.monotonic() < began + 1.2:
            kills.append(time.time())
            known = [condition.is_known(at) for at in kills]
            await asyncio.sleep(0.005)
        assert known[0]
        assert 2 <= len(server.seen) <= 3
        await until(lambda: all(condition.is_known(at) for at in kills))
        assert len(server.seen) <= 4
        assert {condition.memory_pressure(at) for at in kills} == {Pressure(at_kill=False)}


def test_the_last_kill_of_a_storm_does_not_wait_for_longer_than_for_names() -> None:
    from collector.announce.announcer import NAMES_SECONDS

    assert node_condition.ASK_SECONDS + node_condition.ANSWER_SECONDS <= NAMES_SECONDS


async def test_a_refusal_is_said_once_and_ends_the_asking(
    server: ApiServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_condition, "ASK_SECONDS", 0.0)
    server.rules = []
    async with asking(server) as condition:
        assert await answer(condition, time.time()) == Pressure()
        monkeypatch.setattr(node_condition, "REFUSED_SECONDS", 0.0)
        monkeypatch.setattr(node_condition, "RETRY_SECONDS", 0.0)
        await asyncio.sleep(0.05)
        assert condition.is_known(time.time())
        await asyncio.sleep(0.05)
        assert len(server.seen) == 1, "for an hour"
        condition._silent_until = 0.0
        condition.is_known(time.time())
        await until(lambda: len(server.seen) == 2)
        server.rules = None
        report(server, "False", KILLED_AT)
        await until(lambda: condition.is_known(KILLED_AT) and condition.memory_pressure(KILLED_AT).at_kill is False)
    assert [record.getMessage()[:31] for record in caplog.records] == ["node's condition: 403 Forbidden"]


@pytest.mark.parametrize("failure", ["503", "away", "no such node", "no answer"])
async def test_a_failure_passes(failure: str, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_condition, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(node_condition, "ANSWER_SECONDS", 0.1)
    report(server, "False", KILLED_AT)
    async with asking(server, "gone" if failure == "no such node" else NODE) as condition:
        if failure == "away":
            await server.stop()
        elif failure == "no answer":
            monkeypatch.setattr(condition._client, "get", _never)
        elif failure == "503":
            server.refusals.append(Refusal(503, "ServiceUnavailable"))
        assert not condition.is_known(KILLED_AT)
        assert await answer(condition, KILLED_AT) == Pressure()
        assert condition.is_known(time.time())
        await asyncio.sleep(0.05)
        assert len(server.seen) <= 1, "for a minute"
        if failure != "503":
            return
        condition._silent_until = 0.0
        assert not condition.is_known(KILLED_AT)
        assert await answer(condition, KILLED_AT) == Pressure(at_kill=False)


async def _never(*arguments: object) -> dict[str, object]:
    await asyncio.sleep(60)
    return {}


@pytest.mark.parametrize(
    "name", [None, "", "..", "a/../../secrets/b", "a?watch=1", "a%2f", "A", "a..b", "-a", "a" * 254, "a\n"]
)
async def test_a_node_that_has_no_name_is_not_asked_for(name: str | None, server: ApiServer) -> None:
    condition = NodeCondition(KubeClient(_no_access, user_agent="test"), name)
    assert condition.is_known(time.time())
    assert condition.memory_pressure(time.time()) == Pressure()
    await asyncio.wait_for(condition.run(), 1)


async def _no_access() -> Access:
    raise AssertionError("nothing is asked")


async def test_without_a_client_all_is_known_and_nothing_is() -> None:
    condition = NodeCondition(None, NODE)
    assert condition.is_known(time.time())
    assert condition.memory_pressure(time.time()) == Pressure()
    await asyncio.wait_for(condition.run(), 1)


@pytest.mark.parametrize("ahead", [2.0, 86400.0, 250e9])
async def test_a_time_that_has_not_come_yet_is_not_believed(ahead: float, server: ApiServer) -> None:
    now = time.time()
    report(server, "True", "9999-12-31T23:59:59-23:59" if ahead > 1e9 else stamp(now + ahead))
    async with asking(server) as condition:
        assert await answer(condition, now) == Pressure()


SINCE = stamp(KILLED_AT)


def test_what_is_read() -> None:
    assert parse(node("True", KILLED_AT)) == Status(is_true=True, since=KILLED_AT)
    assert parse(node("False", "2023-11-15T00:13:20.5+02:00")) == Status(is_true=False, since=KILLED_AT + 0.5)
    assert parse(node("Unknown", KILLED_AT)) == Status(is_true=None, since=KILLED_AT)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": None},
        {"status": []},
        {"status": {"conditions": None}},
        {"status": {"conditions": {"type": "MemoryPressure"}}},
        {"status": {"conditions": [None, 7, "MemoryPressure", ["MemoryPressure"]]}},
        {"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": SINCE}]}},
        {"status": {"conditions": [{"type": ["MemoryPressure"], "status": "True", "lastTransitionTime": SINCE}]}},
        node("true", KILLED_AT),
        node(True, KILLED_AT),
        node(["True"], KILLED_AT),
        node(None, KILLED_AT),
        node("True", None),
        node("True", 7),
        node("True", {}),
        node("True", "soon"),
        node("True", ""),
        node("True", "2026-11-21T14:23:00"),
        node("True", "2026-11-21"),
        node("True", "0001-01-01T00:00:00Z"),
        node("True", "1970-01-01T00:00:00Z"),
        node("True", "2026-13-45T99:99:99Z"),
        node("True", "9" * 5000),
    ],
)
def test_what_is_not_as_it_should_be_is_not_known(answer: dict[str, Any]) -> None:
    assert parse(answer) is None
