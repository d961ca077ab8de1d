"""A real Prometheus with a day of history in it; and all that may be found at an address instead."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from collector import prometheus_history
from collector.diagnosis.cadvisor import NOWHERE
from collector.errors import ConfigError
from collector.late import Late
from collector.model import Names, NamesFrom, Owner
from collector.prometheus_history import ANSWER_SECONDS, MAX_ANSWER_BYTES, MAX_ASKING, MAX_WAITING, PrometheusHistory
from tests import lines
from tests.prometheus import servers
from tests.prometheus.servers import PROMETHEUS, needs
from tests.test_diagnostician import World

if TYPE_CHECKING:
    from pathlib import Path

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MIB = 1 << 20
POD = "cart-5d4f8c7b9d-x7k2p"
FORMER_POD = "cart-6799fc88d8-x7k2p"
NAMES = Names(
    source=NamesFrom.API, namespace="shop", pod=POD, owner=Owner(kind="Deployment", name="cart"), container="cart"
)
# Names that the API server would refuse. What is asked has to mean them all the same.
ODD = [r"a.b-c", r'a"b\c', "a b\nc", r"a+(b)[c]{d}|^$", "ä"]


@asynccontextmanager
async def history(url: str, *, token_file: Path | None = None) -> AsyncIterator[tuple[PrometheusHistory, list[bool]]]:
    states: list[bool] = []
    made = PrometheusHistory(url, token_file=token_file, user_agent="test", on_state=states.append)
    try:
        yield made, states
    finally:
        await made.close()


async def answered(made: PrometheusHistory, names: Names = NAMES) -> None:
    async with asyncio.timeout(10):
        while not made.is_ready(names):  # noqa: ASYNC110 - as the announcer does
            await asyncio.sleep(0.01)


# A real one


class Day:
    """Of samples, a minute apart, up to now."""

    def __init__(self) -> None:
        self._end = int(time.time())
        self._lines: dict[str, list[str]] = {"container_memory_working_set_bytes": [], "container_memory_rss": []}

    def add(self, pod: str, container_id: str, hours: tuple[float, float], size: Callable[[float], float]) -> None:
        """size: MiB by hours."""
        shown = pod.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        labels = (
            f'namespace="shop",pod="{shown}",container="cart",id="/kubepods/cri-{container_id}.scope",image="app:1"'
        )
        for minute in range(int(hours[0] * 60), int(hours[1] * 60)):
            used = int(size(minute / 60) * MIB)
            for name, share in (("container_memory_working_set_bytes", 1.0), ("container_memory_rss", 0.9)):
                self._lines[name].append(f"{name}{{{labels}}} {used * share} {self._end + minute * 60}")

    def write(self, directory: Path) -> None:
        text = "".join(f"# TYPE {name} gauge\n" + "\n".join(lines) + "\n" for name, lines in self._lines.items())
        source = directory / "day.txt"
        source.write_text(text + "# EOF\n")
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(directory / PROMETHEUS)]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("prometheus")
    day = Day()
    day.add(POD, "first", (-14, -6), lambda hour: 300)
    day.add(POD, "second", (-6, 0), lambda hour: 600 + 50 * hour)
    day.add("cart-5d4f8c7b9d-2wq9m", "elsewhere", (-10, 0), lambda hour: 700 + 50 * hour)
    day.add(FORMER_POD, "former", (-24, -10), lambda hour: 200)
    for number in range(40):
        day.add(f"cart-6799fc88d8-zzz{number:02}", f"former{number}", (-18, -10 - number / 40), lambda hour: 200)
    day.add("cart-db-x7k2p", "of a DaemonSet", (-24, 0), lambda hour: 100)
    day.add("leak-0", f"containerd-{lines.CONTAINER_ID}", (-6, 0), lambda hour: 46 + 6 * hour)
    for pod in ODD:
        day.add(pod, "odd", (-2, 0), lambda hour: 100)
    day.write(directory)
    (directory / "prometheus.yml").write_text("global: {}\n")
    with servers.prometheus(directory / "prometheus.yml", directory) as url:
        yield url


@needs(PROMETHEUS)
async def test_all_that_it_knows(prometheus: str) -> None:
    async with history(prometheus) as (made, states):
        assert made.past(NAMES) == NOWHERE
        await answered(made)
        past = made.past(NAMES)
    assert states == [True]
    lives = {one.cgroup: one for one in past.own}
    assert set(lives) == {"/kubepods/cri-first.scope", "/kubepods/cri-second.scope"}
    second = lives["/kubepods/cri-second.scope"]
    assert second.seconds == pytest.approx(6 * 3600, abs=600)
    assert all(point.anon == pytest.approx(0.9 * point.working_set, abs=1) for point in second.points)
    former, now = sorted(past.revisions, key=lambda one: one.first_at)
    assert (former.revision, former.growth_bytes_per_hour) == ("6799fc88d8", 0.0)
    assert (now.revision, now.workload) == ("5d4f8c7b9d", "shop/Deployment/cart/cart")
    assert now.growth_bytes_per_hour == pytest.approx(50 * MIB, rel=0.02)
    assert now.first_at == pytest.approx(time.time() - 14 * 3600, abs=600)


@needs(PROMETHEUS)
async def test_the_answer_is_small_however_many_pods_there_are(
    prometheus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_history, "MAX_ANSWER_BYTES", 100_000)  # of 41 pods it would be 200 kB
    async with history(prometheus) as (made, states):
        await answered(made)
        assert made.past(NAMES).revisions
    assert states == [True]


@needs(PROMETHEUS)
@pytest.mark.parametrize("pod", ODD)
@pytest.mark.parametrize("owner", [None, Owner(kind="Deployment", name="cart"), Owner(kind="StatefulSet", name="cart")])
async def test_a_name_is_asked_for_as_it_is(prometheus: str, pod: str, owner: Owner | None) -> None:
    names = replace(NAMES, pod=pod, owner=owner)
    async with history(prometheus) as (made, _):
        await answered(made, names)
        assert [one.pod for one in made.past(names).own] == [pod]


@needs(PROMETHEUS)
@pytest.mark.parametrize("name", ODD)
async def test_an_owner_is_asked_for_as_it_is(prometheus: str, name: str) -> None:
    names = replace(NAMES, pod=f"{name}-5d4f8c7b9d-x7k2p", owner=Owner(kind="Deployment", name=name))
    async with history(prometheus) as (made, states):
        await answered(made, names)
        assert made.past(names) == NOWHERE
    assert states == [True]


@needs(PROMETHEUS)
@pytest.mark.parametrize("minutes", [0, 3], ids=["never sampled", "sampled for three minutes"])
async def test_a_leak_that_began_before_the_agent(prometheus: str, tmp_path: Path, minutes: int) -> None:
    names = replace(NAMES, pod="leak-0", owner=None)
    world = World(tmp_path)
    world.sampled(lines.CONTAINER, {10.0 * n: 46 * MIB for n in range(6 * minutes, 0, -1)}, saw_begin=False)
    late, document = Late(names=names), world.killed()
    async with history(prometheus) as (made, _):
        world.made = world.diagnostician(made)
        assert world.diagnose(document, late)["pattern"] != "leak"
        while not world.made.is_ready(names, None):  # noqa: ASYNC110 - as the announcer does
            await asyncio.sleep(0.01)
        found = world.diagnose(document, late)
    world.store.close()
    assert found["pattern"] == "leak"
    assert found["growth_bytes_per_hour"] == pytest.approx(6 * MIB, rel=0.05)
    killed_at = time.time() - (time.monotonic() - world.at)
    assert found["growth_since"] == pytest.approx(killed_at - 6 * 3600, abs=900)
    assert found["advice"][0]["action"] == "do_not_raise_limit"


# All that may be there instead


class Place:
    """An address that answers what `answer` says."""

    def __init__(self) -> None:
        self.answer: Handler = self._no_answer
        self.asked: list[str] = []
        self.at_once: set[asyncio.Task[object] | None] = set()
        self.most_at_once = 0
        self.url = ""

    async def _no_answer(self, request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.query["query"])
        self.at_once.add(asyncio.current_task())
        self.most_at_once = max(self.most_at_once, len(self.at_once))
        try:
            return await self.answer(request)
        finally:
            self.at_once.discard(asyncio.current_task())


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    runner = web.ServerRunner(web.Server(made.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = site.name
    yield made
    for task in filter(None, made.at_once):
        task.cancel()
    await runner.cleanup()


def body(text: str | bytes, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    content = text.encode() if isinstance(text, str) else text

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=io.BytesIO(content), headers=headers)

    return answer


EMPTY = body(json.dumps({"status": "success", "data": {"resultType": "matrix", "result": []}}))


async def hang(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    await asyncio.sleep(3600)
    raise AssertionError


async def trickle(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(body("", 401), "it answers 401", id="no password"),
        pytest.param(body("", 302, {"Location": "/elsewhere"}), "it answers 302", id="redirect"),
        pytest.param(body('{"status":"error"}', 422), "it answers 422", id="query refused"),
        pytest.param(body("", 503), "it answers 503", id="overloaded"),
        pytest.param(body('{"status":"error"}'), "cannot read", id="error as success"),
        pytest.param(body("<html>"), "no JSON", id="a web page"),
        pytest.param(body(b"\xff\xfe\xff"), "no JSON", id="no text"),
        pytest.param(body("[" * 100_000), "no JSON", id="nested without end"),
        pytest.param(body(" " * (MAX_ANSWER_BYTES + 1)), "more than", id="too large"),
        pytest.param(body("no gzip", 200, {"Content-Encoding": "gzip"}), "ClientPayloadError", id="broken gzip"),
        pytest.param(hang, "no answer in time", id="no answer"),
        pytest.param(trickle, "no answer in time", id="an answer that never ends"),
        pytest.param(hang_up, "ServerDisconnected", id="hangs up"),
    ],
)
async def test_an_answer_that_is_none(
    place: Place, answer: Handler, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_history, "ANSWER_SECONDS", 0.3)
    place.answer = answer
    async with history(f"{place.url.replace('://', '://agent:secret@')}/hidden?token=hidden") as (made, states):
        await answered(made)
        async with asyncio.timeout(10):
            while not states:  # noqa: ASYNC110 - a kill may be told before this is known
                await asyncio.sleep(0.01)
        await answered(made, replace(NAMES, pod="another"))
        assert made.past(NAMES) == NOWHERE
    assert states == [False]
    assert len(place.asked) == (2 if answer is hang_up else 1)  # aiohttp itself tries a GET again
    (record,) = (one for one in caplog.records if one.name == "collector.prometheus_history")
    message = record.getMessage()
    assert message.startswith(f"Prometheus at {place.url}: ")
    assert said in message
    assert "secret" not in message
    assert "hidden" not in message


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_nobody_is_there(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    async with history(f"{scheme}://agent:secret@127.0.0.1:9/hidden") as (made, states):
        await answered(made)
    assert states == [False]
    assert "Connection refused" in caplog.text
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text


async def test_a_certificate_that_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server, history(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as (made, states):
        await answered(made)
    assert states == [False]
    assert "its certificate is not trusted" in caplog.text


async def test_tls_to_one_that_has_none(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with history(place.url.replace("http", "https")) as (made, states):
        await answered(made)
    assert states == [False]
    assert "TLS failed" in caplog.text


async def test_the_rest_of_the_address_is_kept(place: Place) -> None:
    seen: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        return await EMPTY(request)

    place.answer = answer
    url = place.url.replace("://", "://agent:correct%20horse@")
    async with history(f"{url}/prom/?extra_label=cluster%3Deu") as (made, states):
        await answered(made)
    (request,) = seen
    assert request.headers["Authorization"] == f"Basic {b64encode(b'agent:correct horse').decode()}"
    assert (request.method, request.path) == ("GET", "/prom/api/v1/query_range")
    assert request.query["extra_label"] == "cluster=eu"
    assert float(request.query["end"]) - float(request.query["start"]) == pytest.approx(86400)
    assert states == [True]


async def test_a_token_is_read_anew_for_each_question(place: Place, tmp_path: Path) -> None:
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        return await EMPTY(request)

    place.answer, file = answer, tmp_path / "token"
    async with history(place.url, token_file=file) as (made, states):
        for number, token in enumerate(("first.of.them", "second.of.them")):
            file.write_text(f"{token}\n")
            await answered(made, of_pod(number))
    assert seen == ["Bearer first.of.them", "Bearer second.of.them"]
    assert states == [True, True]


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        pytest.param(None, "No such file or directory", id="no file"),
        pytest.param(b"\xff\xfe", "is no token", id="no text"),
        pytest.param(b"two\nlines", "is no token", id="a header that would be two"),
    ],
)
async def test_without_a_token_nothing_is_asked(
    token: bytes | None, reason: str, place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if token is not None:
        (tmp_path / "token").write_bytes(token)
    async with history(place.url, token_file=tmp_path / "token") as (made, states):
        await answered(made)
        assert made.past(NAMES) == NOWHERE
    assert states == [False]
    (record,) = caplog.records
    assert reason in record.getMessage()


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://prometheus", "http://", "http://[::1", "/prometheus"])
async def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--prometheus-url"):
        PrometheusHistory(url, user_agent="test", on_state=lambda up: None)


async def test_a_user_and_a_token_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--prometheus-token-file"):
        PrometheusHistory("http://me:pw@p", token_file=tmp_path, user_agent="test", on_state=lambda up: None)


# What it costs


def of_pod(number: int) -> Names:
    return replace(NAMES, pod=f"web-{number}", owner=None)


async def test_a_crash_loop_asks_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.answer = EMPTY
    async with history(place.url) as (made, _):
        for _ in range(3):
            await answered(made)
        assert len(place.asked) == 1
        monkeypatch.setattr(prometheus_history, "KEPT_SECONDS", 0.0)
        assert not made.is_ready(NAMES)
        assert len(made._asked) == 1


async def test_a_container_without_a_name_is_not_asked_for(place: Place) -> None:
    names = replace(NAMES, container=None)
    async with history(place.url) as (made, states):
        assert made.is_ready(names)
        assert made.past(names) == NOWHERE
        await asyncio.sleep(0.05)
    assert (place.asked, states) == ([], [])


async def test_a_kill_waits_no_longer_than_that(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And while nobody answers, one kill in a minute waits at all."""
    monkeypatch.setattr(prometheus_history, "ANSWER_SECONDS", 0.3)
    place.answer = hang
    async with history(place.url) as (made, states):
        began = time.monotonic()
        assert not made.is_ready(of_pod(1))
        await answered(made, of_pod(1))
        assert 0.25 < time.monotonic() - began < 1
        await asyncio.sleep(0.1)
        assert all(made.is_ready(of_pod(number)) for number in range(2, 100))
        assert (len(place.asked), states) == (1, [False])
        monkeypatch.setattr(prometheus_history, "PAUSE_SECONDS", 0.0)
        made._pause_until = time.monotonic()
        assert not made.is_ready(of_pod(2))
    assert ANSWER_SECONDS == 5


async def test_who_waits_in_the_queue_does_not_ask_one_that_has_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_history, "ANSWER_SECONDS", 0.2)
    place.answer = hang
    async with history(place.url) as (made, states):
        for number in range(MAX_WAITING):
            made.is_ready(of_pod(number))
        await asyncio.sleep(0.5)
        assert not made._tasks
    assert (len(place.asked), states) == (MAX_ASKING, [False] * MAX_ASKING)


async def test_a_node_full_of_kills(place: Place) -> None:
    """Who finds no place in the queue is told at once; no more than a few are asked for at a time."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await EMPTY(request)

    place.answer = answer
    async with history(place.url) as (made, states):
        waiting = [number for number in range(1000) if not made.is_ready(of_pod(number))]
        assert waiting == list(range(MAX_WAITING))
        for number in waiting:
            await answered(made, of_pod(number))
        assert place.most_at_once == MAX_ASKING
        assert len(place.asked) == MAX_WAITING
        assert all(states)
        place.answer = EMPTY
        for number in range(1000, 1050):
            made.is_ready(of_pod(number))
            await answered(made, of_pod(number))
        assert len(made._asked) == prometheus_history.MAX_KEPT


async def test_a_slow_one_is_heard_when_the_fate_is_known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at the end of the queue are told without it; its answer is there for what is told later."""
    monkeypatch.setattr(prometheus_history, "ANSWER_SECONDS", 0.2)
    sample = {"metric": {"pod": "web-7", "id": "/x"}, "values": [[time.time() - 60, "1000"]]}
    full = body(json.dumps({"status": "success", "data": {"result": [sample]}}))

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.15)
        return await full(request)

    place.answer = answer
    async with history(place.url) as (made, states):
        for number in range(8):
            made.is_ready(of_pod(number))
        await answered(made, of_pod(7))
        assert made.past(of_pod(7)) == NOWHERE
        await asyncio.sleep(0.3)
        assert made.past(of_pod(7)).own
        assert all(states)


async def test_it_comes_back(place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "collector")
    monkeypatch.setattr(prometheus_history, "PAUSE_SECONDS", 0.0)
    async with history(place.url) as (made, states):
        for number, handler in enumerate([body("", 503), body("", 503), body("", 401), EMPTY, EMPTY, body("", 503)]):
            place.answer = handler
            await answered(made, of_pod(number))
    assert states == [False, False, False, True, True, False]
    assert [(record.levelname, record.getMessage().partition(": ")[2][:14]) for record in caplog.records] == [
        ("WARNING", "it answers 503"),
        ("WARNING", "it answers 401"),
        ("INFO", "answers again"),
        ("WARNING", "it answers 503"),
    ]


@pytest.mark.parametrize("wait", [0.0, 0.05], ids=["before it is asked", "while it is asked"])
async def test_closed_while_asking(place: Place, wait: float) -> None:
    place.answer = hang
    async with history(place.url) as (made, states):
        for number in range(10):
            assert not made.is_ready(of_pod(number))
        await asyncio.sleep(wait)
    assert states == []
    assert not made._tasks
