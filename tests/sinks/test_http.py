"""The server on a real socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from collector.errors import ConfigError
from collector.sinks.http import Server
from tests.sinks.test_metrics import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def serving(reason: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    server = Server(metrics(), version="1.2.3", not_ready=lambda: reason)
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


async def test_an_address_that_is_not_ours_is_an_error_that_names_the_flag() -> None:
    server = Server(metrics(), version="1.2.3", not_ready=lambda: None)
    with pytest.raises(ConfigError, match=r"--listen 192\.0\.2\.1:80 \(OOM_COLLECTOR_LISTEN\): "):
        await server.start("192.0.2.1", 80)
