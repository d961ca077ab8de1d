"""
Who may read what the agent serves, by the web config file.

/healthz and /readyz stay open to everybody, unlike in other exporters: the kubelet probes them (`scheme: HTTPS`; it
verifies no certificate) and has neither a password, unless the pod's manifest shows it to all who read that, nor a
client certificate. So a certificate is asked for in the handshake, verified there when it comes, and demanded here,
where the path is known. The two paths tell what `kubectl describe pod` tells anyway.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

from aiohttp import web

from collector.errors import ConfigError
from collector.sinks.basic_auth import Answer, BasicAuth
from collector.sinks.web_config import Stamp, load_web_config, stamp_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from collector.sinks.web_config import WebConfig

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/healthz", "/readyz"})

_log = logging.getLogger(__name__)


class WebGuard:
    """
    Holds the web config that is in force. Files that changed are read again before the next handshake or request; when
    they cannot be used, what was in force stays.

    Raises ConfigError when the first reading fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamps: dict[Path, Stamp | None] = {}
        self._config = load_web_config(path, self._stamps)
        self._basic_auth = BasicAuth()
        self.failure: str | None = None
        """Why the newest files are not in force; None: they are."""
        self.tls = None if self._config.tls is None else _CurrentContext(self._current)

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._admit)
        app.on_response_prepare.append(self._add_headers)

    def _current(self) -> WebConfig:
        if any(stamp_of(path) != stamp for path, stamp in self._stamps.items()):
            self._read_again()
        return self._config

    def _read_again(self) -> None:
        self._stamps = {}
        try:
            config = load_web_config(self._path, self._stamps)
            if (config.tls is None) is not (self._config.tls is None):
                raise ConfigError(f"{self._path}: tls_server_config: TLS is switched on or off by a restart only")
        except ConfigError as error:
            self.failure = str(error)
            _log.error("web config: the former one stays in force: %s", error)
        else:
            self._config, self.failure = config, None
            _log.info("web config: %s was read again", self._path)

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        config = self._current()
        response = await self._refusal(request, config) or await handler(request)
        connection = request.get_extra_info("ssl_object")
        if isinstance(connection, ssl.SSLObject) and connection.context is not config.tls:
            # Its handshake was by former files. One answer more, so that no scrape fails when a certificate is renewed.
            response.force_close()
        return response

    async def _refusal(self, request: web.Request, config: WebConfig) -> web.Response | None:
        if request.path in OPEN_PATHS:
            return None
        if config.certificate_required and not _has_certificate(request, config):
            return web.Response(status=403, text="a client certificate is needed\n")
        if not config.users:
            return None
        answer = await self._basic_auth.check(request.headers.get("Authorization"), config.users, request.remote)
        match answer:
            case Answer.YES:
                return None
            case Answer.NO:
                return web.Response(status=401, text="unauthorized\n", headers={"WWW-Authenticate": "Basic"})
            case Answer.BUSY:
                return web.Response(status=429, text="too many passwords to check\n", headers={"Retry-After": "5"})

    async def _add_headers(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._config.headers)


class _CurrentContext(ssl.SSLContext):
    """
    What a server listens with: each connection gets the context that is in force when it comes.

    Not by a callback for the server's name: that changes the certificate, and leaves versions and verification alone.
    """

    _current: Callable[[], WebConfig]

    def __new__(cls, _: Callable[[], WebConfig]) -> _CurrentContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, current: Callable[[], WebConfig]) -> None:
        super().__init__()
        self._current = current

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        context = self._current().tls
        assert context is not None
        return context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _has_certificate(request: web.Request, config: WebConfig) -> bool:
    """Of one of the names that are allowed. The handshake has verified it, else it would not be shown here."""
    connection = request.get_extra_info("ssl_object")
    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLObject) else None
    if not certificate:
        return False
    names = {str(entry[1]) for entry in certificate.get("subjectAltName", ())}
    return not config.allowed_sans or not names.isdisjoint(config.allowed_sans)
