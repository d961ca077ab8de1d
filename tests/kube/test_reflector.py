"""What the reflector makes of a server that does anything a server may do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from collector.kube.access import Access
from collector.kube.client import KubeClient
from collector.kube.items import ListItems
from collector.kube.reflector import Timing, _version
from tests.kube.api_server import Refusal, make_pod, metadata_of
from tests.kube.contract import USER_AGENT
from tests.kube.recording import NODE, QUICK, reflecting, until
from tests.sinks.letters import receiving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.kube.api_server import ApiServer, Object


def create(server: ApiServer, *names: str, node: str = NODE) -> list[Object]:
    return [server.create(make_pod(name, node)) for name in names]


async def test_list_and_watch_are_one_request(server: ApiServer, client: KubeClient) -> None:
    create(server, "a", "b")
    create(server, "elsewhere", node="node-2")
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
        assert sink.calls == ["begin_list", "put a", "put b", "end_list"]
        create(server, "c")
        server.annotate("shop", "a", "seen", "yes")
        server.delete("shop", "b")
        await until(lambda: sink.calls[-1] == "delete b")
    assert sink.names == ["a", "c"]
    assert metadata_of(dict(sink.pods["a"]))["annotations"] == {"padding": "", "seen": "yes"}
    assert sink.states == [(True, None)]
    (seen,) = server.seen
    assert 290 <= int(seen.query.pop("timeoutSeconds")) <= 590
    assert seen.query == {
        "fieldSelector": "spec.nodeName=node-1",
        "watch": "true",
        "resourceVersion": "0",
        "resourceVersionMatch": "NotOlderThan",
        "sendInitialEvents": "true",
        "allowWatchBookmarks": "true",
    }


async def test_an_idle_hour_costs_a_dozen_requests() -> None:
    assert 3600 / Timing().watch_least <= 15
    assert Timing().idle > 2 * 60  # two bookmarks may be late; one is sent each minute


@pytest.mark.parametrize(
    ("streamed_list", "bookmark_seconds", "list_end"),
    [
        pytest.param("forbidden", 60, 5, id="422, as 1.33 says without the gate"),
        pytest.param("ignored", 0.01, 5, id="ignored: a bookmark that ends no list"),
        pytest.param("ignored", 60, 0.05, id="ignored: nothing ends the list"),
    ],
)
async def test_a_server_that_cannot_stream_is_asked_for_a_list(
    server: ApiServer, client: KubeClient, streamed_list: str, bookmark_seconds: float, list_end: float
) -> None:
    server.streamed_list = streamed_list  # type: ignore[assignment]  # one of its literals
    server.bookmark_seconds = bookmark_seconds
    create(server, "a", "b")
    async with reflecting(client, timing=QUICK._replace(list_end=list_end)) as sink:
        await until(lambda: sink.up)
        assert (sink.names, sink.lists) == (["a", "b"], 1)
        create(server, "c")
        await until(lambda: "c" in sink.pods)
        # Once is enough: the next list is a list at once.
        server.expire()
        server.compact()
        await until(lambda: sink.lists == 2)
        await until(lambda: server.watch_count == 1)
    assert sink.states == [(True, None)]
    assert [seen.query["resourceVersion"] for seen in server.asked("list", "pods")] == ["0", "0"]
    assert sum("sendInitialEvents" in seen.query for seen in server.seen) == 1


async def test_watches_that_break_together_come_back_apart(
    server: ApiServer, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 nodes lose theirs in the same moment, when their server goes."""
    spans: list[float] = []

    def uniform(_: float, most: float) -> float:
        spans.append(most)
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    async with reflecting(client, timing=QUICK._replace(healthy=0.05, reconnect=3.0)) as sink:
        await until(lambda: sink.up)
        await asyncio.sleep(0.1)
        server.abort()
        await until(lambda: len(server.seen) == 2)
    assert spans[-1] == 3.0


@pytest.mark.parametrize("end", ["cut", "abort"])
async def test_a_watch_that_ends_goes_on_where_it_was(server: ApiServer, client: KubeClient, end: str) -> None:
    create(server, "a")
    async with reflecting(client, timing=QUICK._replace(backoff_first=0.05)) as sink:
        await until(lambda: sink.up)
        (last,) = create(server, "b")
        await until(lambda: "b" in sink.pods)
        getattr(server, end)()
        server.delete("shop", "a")
        create(server, "c")
        await until(lambda: sink.names == ["b", "c"])
    assert sink.lists == 1
    assert sink.states == [(True, None)]
    query = server.seen[1].query
    assert query["resourceVersion"] == metadata_of(last)["resourceVersion"]
    assert "sendInitialEvents" not in query
    assert "resourceVersionMatch" not in query


async def test_a_bookmark_moves_the_version(server: ApiServer, client: KubeClient) -> None:
    server.bookmark_seconds = 0.01
    create(server, "a")
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
        (elsewhere,) = create(server, "elsewhere", node="node-2")
        await asyncio.sleep(0.05)
        server.cut()
        await until(lambda: len(server.seen) == 2)
    assert server.seen[1].query["resourceVersion"] == metadata_of(elsewhere)["resourceVersion"]


async def test_a_half_open_connection_is_given_up(server: ApiServer, client: KubeClient) -> None:
    async with reflecting(client, timing=QUICK._replace(idle=0.1)) as sink:
        await until(lambda: sink.up)
        server.freeze()
        create(server, "a")
        await until(lambda: "a" in sink.pods)
    assert sink.states == [(True, None)]


async def test_bookmarks_keep_a_quiet_connection(server: ApiServer, client: KubeClient) -> None:
    server.bookmark_seconds = 0.05
    async with reflecting(client, timing=QUICK._replace(idle=0.2)) as sink:
        await until(lambda: sink.up)
        await asyncio.sleep(0.5)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("gone", "expire"),
    [
        pytest.param("event", False, id="ERROR 410 in a 200 when it is opened"),
        pytest.param("status", False, id="410"),
        pytest.param("event", True, id="ERROR 410 in an open watch"),
    ],
)
async def test_a_version_that_is_too_old_means_a_new_list(
    server: ApiServer, client: KubeClient, gone: str, *, expire: bool
) -> None:
    server.gone = gone  # type: ignore[assignment]  # one of its literals
    create(server, "a", "b")
    async with reflecting(client, timing=QUICK._replace(backoff_first=0.05)) as sink:
        await until(lambda: sink.up)
        server.expire() if expire else server.cut()
        server.delete("shop", "a")
        create(server, "c")
        server.compact()
        await until(lambda: sink.lists == 2)
    assert sink.names == ["b", "c"]
    assert "delete a" not in sink.calls  # nobody told: it is only missing in the list
    assert sink.states == [(True, None)]


async def test_a_version_from_the_future_means_a_new_list(server: ApiServer, client: KubeClient) -> None:
    create(server, "a")
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
        server.refusals.append(Refusal(504, "Timeout"))
        server.cut()
        await until(lambda: sink.lists == 2)
    assert sink.states == [(True, None)]


async def test_a_list_that_breaks_off_removes_nothing(server: ApiServer, client: KubeClient) -> None:
    server.streamed_list = "forbidden"
    create(server, "a", "b", "c")
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
        server.write_size, server.write_pause = 200, 0.02
        server.expire()
        server.compact()
        await until(lambda: sink.calls[-2:] == ["begin_list", "put a"])
        await server.stop()
        await until(lambda: not sink.up)
        assert (sink.names, sink.lists) == (["a", "b", "c"], 1)
        server.write_size, server.write_pause = None, 0.0
        await server.start()
        await until(lambda: sink.lists == 2)
        await until(lambda: sink.up)
    assert sink.names == ["a", "b", "c"]


async def test_watches_that_end_at_once_are_no_storm(server: ApiServer, client: KubeClient) -> None:
    server.watch_lives = itertools.chain([60.0], itertools.repeat(0.0))
    timing = QUICK._replace(backoff_first=0.02, backoff_most=0.2)
    async with reflecting(client, timing=timing) as sink:
        await until(lambda: sink.up)
        server.cut()
        await asyncio.sleep(1.0)
        # Without back-off: hundreds.
        assert 4 <= len(server.seen) <= 30
        assert sink.states == [(True, None), (False, "the server ends each watch at once")]
        server.watch_lives = None
        await until(lambda: server.watch_count == 1)
        create(server, "a")
        await until(lambda: sink.up)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param('{"type":"ADDED","object":' + "[" * 900 + "]" * 900 + "}", id="nested deep"),
        pytest.param('{"type":"ERROR","object":{"kind":"Status","reason":' + "[" * 900 + "]" * 900 + "}}", id="reason"),
        pytest.param('{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":[]}}}', id="no version"),
        pytest.param('{"type":[{}],"object":{}}', id="no type"),
    ],
)
async def test_an_answer_that_lies_is_a_reason_to_try_again(answer: str) -> None:
    asked = 0

    async def lie(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(text=answer + "\n")

    async def load() -> Access:
        return Access(server=str(url.origin()))

    async with receiving(lie) as url:
        client = KubeClient(load, user_agent=USER_AGENT)
        async with reflecting(client) as sink:
            await until(lambda: asked > 3)
        await client.close()
    assert [up for up, _ in sink.states] == [False]


@pytest.mark.parametrize("version", ["\\ud800", "9" * 100_000], ids=["a lone surrogate", "too long for an address"])
async def test_a_version_that_cannot_be_sent_back_is_none(version: str) -> None:
    watch = ListItems()
    list(watch.feed(f'{{"metadata":{{"resourceVersion":"{version}"}},"items":[]}}'.encode()))
    assert _version(watch.head) is None


async def test_a_pod_that_cannot_be_taken_ends_nothing(
    server: ApiServer, client: KubeClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw: an agent that it ended would end at each of its starts, for as long as the pod is there."""
    create(server, "a")
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
        put = sink.put

        def stumble(pod: Mapping[str, object]) -> None:
            if metadata_of(dict(pod))["name"] == "poison":
                raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
            put(pod)

        monkeypatch.setattr(sink, "put", stumble)
        create(server, "poison")
        await until(lambda: len(server.seen) > 5)
        assert [up for up, _ in sink.states] == [True, False]
        server.delete("shop", "poison")
        create(server, "b")
        await until(lambda: sink.up and sink.names == ["a", "b"])
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "surrogates not allowed" in warning.message
    assert "stumble" in str(warning.exc_text), "the traceback, once"


async def test_retry_after_is_kept(server: ApiServer, client: KubeClient) -> None:
    server.refusals.append(Refusal(429, "TooManyRequests", 1))
    begin = time.monotonic()
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
    assert 1.0 <= time.monotonic() - begin < 2.0
    assert sink.states == [(False, "429 Too Many Requests"), (True, None)]


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_what_is_not_allowed_is_told_once(
    server: ApiServer, client: KubeClient, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    caplog.set_level(logging.INFO)
    server.streamed_list = "forbidden" if verb == "list" else "on"
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    server.rules = [rule | {"verbs": [other for other in rule["verbs"] if other != verb]}]
    create(server, "a")
    async with reflecting(client) as sink:
        await until(lambda: server.counts[f"{verb} pods 403"] >= 5)
        (told,) = sink.states
        assert not told[0]
        assert told[1] is not None
        assert f'cannot {verb} resource "pods"' in told[1]
        server.rules = [rule]
        await until(lambda: sink.up)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


async def test_down_from_the_start_and_in_the_middle(
    server: ApiServer, client: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    create(server, "a")
    await server.stop()
    async with reflecting(client) as sink:
        await until(lambda: len(sink.states) == 1)
        await asyncio.sleep(0.2)
        await server.start()
        await until(lambda: sink.up)
        await server.stop()
        await until(lambda: not sink.up)
        server.delete("shop", "a")
        create(server, "b")
        await asyncio.sleep(0.2)
        await server.start()
        await until(lambda: sink.names == ["b"])
        await until(lambda: sink.up)
    assert [up for up, _ in sink.states] == [False, True, False, True]
    assert sink.states[0][1] == f"localhost:{server.port}: Connection refused"
    assert sink.lists == 1  # the watch went on
    assert sum(count for (_, _, status), count in client.requests.items() if status == "unreachable") > 10
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2


async def test_what_stays_down_is_logged_again_at_times(
    server: ApiServer, client: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    await server.stop()
    async with reflecting(client, timing=QUICK._replace(remind=0.1)) as sink:
        await until(lambda: len(caplog.records) == 3)
    assert len(sink.states) == 1


async def test_pods_of_any_size_at_any_speed(server: ApiServer, client: KubeClient) -> None:
    server.create(make_pod("large", NODE, padding=3_000_000))
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
        server.streamed_list = "forbidden"
        server.write_size = 50_000
        server.expire()
        await until(lambda: sink.lists == 2)
        server.write_size, server.write_pause = 100, 0.001
        create(server, "slow")
        await until(lambda: "slow" in sink.pods)
    assert sink.names == ["large", "slow"]


async def test_start_jitter_spreads_nodes(server: ApiServer, client: KubeClient) -> None:
    delays = []
    for _ in range(6):
        begin = time.monotonic()
        async with reflecting(client, timing=QUICK._replace(start_jitter=0.2)) as sink:
            await until(lambda: sink.up)
        delays.append(time.monotonic() - begin)
    assert max(delays) - min(delays) > 0.03


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_the_sink_ends_up_with_what_is_there(
    server: ApiServer, client: KubeClient, seed: int
) -> None:
    """Pods come and go while watches are cut, broken, frozen and expired, requests refused and the server restarted."""
    rng = random.Random(seed)
    server.streamed_list = rng.choice(["on", "on", "forbidden", "ignored"])
    server.gone = rng.choice(["event", "status"])
    server.bookmark_seconds = rng.choice([0.01, 0.03, 60])
    server.write_size = rng.choice([None, 37, 700])

    def refuse() -> None:
        server.refusals.append(Refusal(rng.choice([500, 503, 504, 403, 410]), "Disturbed"))

    disturbances = [server.cut, server.abort, server.freeze, server.expire, server.compact, refuse]
    pods: set[str] = set()
    async with reflecting(client, timing=QUICK._replace(idle=0.1, list_end=0.1)) as sink:
        for step in range(60):
            if pods and rng.random() < 0.4:
                name = rng.choice(sorted(pods))
                pods.remove(name)
                server.delete("shop", name)
            else:
                name = f"pod-{step}"
                pods.add(name)
                create(server, name)
            if rng.random() < 0.3:
                rng.choice(disturbances)()
            if rng.random() < 0.03:
                await server.stop()
                await server.start()
            await asyncio.sleep(rng.choice([0, 0, 0.005, 0.02]))
        server.refusals.clear()
        server.bookmark_seconds = 0.01
        await until(lambda: sink.up and sink.names == sorted(pods))
