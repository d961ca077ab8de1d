"""What the agent serves: /metrics, /healthz (the loop runs), /readyz (a source delivers)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.hdrs import METH_HEAD

from collector.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from collector.sinks.metrics import Metrics
    from collector.sinks.web_guard import WebGuard
    from collector.state.batch import Shown

_INDEX = """oom-collector {version}
/metrics  Prometheus and OpenMetrics
/healthz  200 while the agent runs
/readyz   200 while a kernel log is read, else 503 with the reason
"""


class Server:
    """
    not_ready: why no source delivers; None: one does. on_shown: called once an answer of /metrics is sent.
    web_config: see web_config.py; None: plain HTTP, for everybody.

    Raises ConfigError when the web config cannot be used, and from start() when the address cannot be bound.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        version: str,
        not_ready: Callable[[], str | None],
        on_shown: Callable[[Shown], None] = lambda _: None,
        web_config: Path | None = None,
    ) -> None:
        self._metrics = metrics
        self._version = version
        self._not_ready = not_ready
        self._on_shown = on_shown
        app = web.Application()
        self._guard = None if web_config is None else _guard(web_config, app)
        app.router.add_get("/", self._index)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    @property
    def scheme(self) -> str:
        return "https" if self._guard and self._guard.tls else "http"

    @property
    def web_config_failure(self) -> str | None:
        """Why the newest web config is not in force; None: it is, or there is none."""
        return self._guard.failure if self._guard else None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """The address that is served; it differs from the given one where that has port 0."""
        await self._runner.setup()
        try:
            tls = self._guard.tls if self._guard else None
            site = web.TCPSite(self._runner, host, port, reuse_address=True, ssl_context=tls)
            await site.start()
        except (OSError, UnicodeError) as error:
            await self._runner.cleanup()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ConfigError(f"--listen {host}:{port} (OOM_COLLECTOR_LISTEN): {reason}") from error
        address = self._runner.addresses[0]
        return address[0], address[1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text=_INDEX.format(version=self._version))

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        answer = await self._metrics.answer(
            accept=",".join(request.headers.getall("Accept", ())),
            accept_encoding=",".join(request.headers.getall("Accept-Encoding", ())),
        )
        response = _Scraped(body=answer.body, headers=answer.headers)
        if request.method != METH_HEAD:
            response.on_sent = lambda: self._on_shown(answer.shown)
        return response

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._not_ready()
        if reason is None:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{reason}\n")


class _Scraped(web.Response):
    """Says when it is sent. What Prometheus was not given, the next process has to show as news."""

    on_sent: Callable[[], None] = staticmethod(lambda: None)

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self.on_sent()


def _guard(web_config: Path, app: web.Application) -> WebGuard:
    # YAML and bcrypt: a plain agent does without.
    from collector.sinks.web_guard import WebGuard

    guard = WebGuard(web_config)
    guard.install(app)
    return guard
