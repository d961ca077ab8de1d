"""The server on a real socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from collector.errors import ConfigError
from collector.sinks.http import Server
from collector.state.batch import KillSeries
from tests.sinks.test_metrics import CART, metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from collector.sinks.metrics import Answer, Metrics
    from collector.state.batch import Shown

CART_KILLS = KillSeries(CART, "container_limit")


@asynccontextmanager
async def serving(
    reason: str | None = None, *, shown: Metrics | None = None, on_shown: Callable[[Shown], None] = lambda _: None
) -> AsyncIterator[aiohttp.ClientSession]:
    server = Server(shown or metrics(), version="1.2.3", not_ready=lambda: reason, on_shown=on_shown)
    host, port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}", auto_decompress=False) as session:
            yield session
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("path", "reason", "status", "text"),
    [
        pytest.param("/healthz", "blind", 200, "ok\n", id="alive though blind"),
        pytest.param("/readyz", None, 200, "ok\n", id="ready"),
        pytest.param("/readyz", "kmsg: refused", 503, "kmsg: refused\n", id="not ready, and why"),
        pytest.param("/", None, 200, "oom-collector 1.2.3", id="index"),
        pytest.param("/metrics", None, 200, "# HELP oom_kills_total", id="metrics"),
        pytest.param("/debug", None, 404, "404", id="nothing else"),
    ],
)
async def test_paths(path: str, reason: str | None, status: int, text: str) -> None:
    async with serving(reason) as session, session.get(path, headers={"Accept-Encoding": "identity"}) as response:
        assert response.status == status
        assert (await response.text()).startswith(text)


async def test_what_prometheus_asks_for_it_gets() -> None:
    headers = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
    async with serving() as session, session.get("/metrics", headers=headers) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert response.headers["Content-Encoding"] == "gzip"
        assert (await response.read())[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(
    ("method", "path", "count"),
    [
        pytest.param("GET", "/metrics", 1, id="a scrape"),
        pytest.param("HEAD", "/metrics", 0, id="no body"),
        pytest.param("GET", "/healthz", 0, id="a probe"),
    ],
)
async def test_what_was_sent_is_told_as_shown(method: str, path: str, count: int) -> None:
    shown: list[Shown] = []
    async with serving(on_shown=shown.append) as session:
        for _ in range(2):
            async with session.request(method, path) as response:
                await response.read()
        async with session.get("/healthz"):  # the server has gone on
            pass
    assert [told.kills[CART_KILLS] for told in shown] == [3] * 2 * count


async def test_what_nobody_took_is_not_told_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Shown] = []
    made, asked, gone = metrics(), asyncio.Event(), asyncio.Event()
    answer = made.answer

    async def late(*, accept: str, accept_encoding: str) -> Answer:
        asked.set()
        await gone.wait()
        return await answer(accept=accept, accept_encoding=accept_encoding)

    monkeypatch.setattr(made, "answer", late)
    async with serving(shown=made, on_shown=shown.append) as session:
        _, writer = await asyncio.open_connection("127.0.0.1", session._base_url.port)  # type: ignore[union-attr]  # it has one
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n")
        await asked.wait()
        writer.transport.abort()
        await asyncio.sleep(0.05)
        gone.set()
        await asyncio.sleep(0.05)
        assert shown == []
        async with session.get("/metrics") as response:
            await response.read()
    assert len(shown) == 1


async def test_an_address_that_is_not_ours_is_an_error_that_names_the_flag() -> None:
    server = Server(metrics(), version="1.2.3", not_ready=lambda: None)
    with pytest.raises(ConfigError, match=r"--listen 192\.0\.2\.1:80 \(OOM_COLLECTOR_LISTEN\): "):
        await server.start("192.0.2.1", 80)
