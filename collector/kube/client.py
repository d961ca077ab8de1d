"""Requests to the API server: JSON there and back, or a stream of chunks."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import aiohttp
from yarl import URL

from collector.errors import CollectorError
from collector.kube.access import AccessError
from collector.text import printable

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from collector.kube.access import Access, Load

Json: TypeAlias = "dict[str, object]"

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
# One for the watch, one for all else.
_CONNECTIONS = 2
_MAX_BODY = 4 << 20
_MAX_STATUS = 64 << 10
_MAX_RETRY_AFTER = 86_400


class ApiError(CollectorError):
    """
    The server says no: with a Status, or with what a proxy put in its place.

    retry_after: in seconds. causes: the reasons in the Status' details, such as NamespaceTerminating. is_status: False:
    it may not be the API server that answered.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        causes: tuple[str, ...] = (),
        is_status: bool = True,
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if message else f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.causes = causes
        self.is_status = is_status


class ApiUnreachable(CollectorError):  # noqa: N818  # a state, and it reads as one
    """No answer, or none to its end: the server may have acted on the request all the same."""


class Untrusted(ApiUnreachable):
    """TLS failed: nothing was sent."""


class Timeouts(NamedTuple):
    """Seconds. answer: a whole request, if it is no stream."""

    connect: float = 10.0
    answer: float = 30.0


class Request(NamedTuple):
    """status: the answer's, or `unreachable`."""

    verb: str
    resource: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    timeout: aiohttp.ClientTimeout | None = None  # None: as for all that is no stream


class KubeClient:
    """
    Credentials are loaded by the first request, and again when they are stale, when the server refuses them and when
    its certificate is not trusted any more; a request that failed for these reasons is then sent once more.

    All requests raise ApiError, ApiUnreachable or AccessError.
    """

    def __init__(self, load: Load, *, user_agent: str, timeouts: Timeouts | None = None) -> None:
        self.requests: Counter[Request] = Counter()
        self._load = load
        # A node's answers are small: compressing them costs both sides more than it saves.
        self._headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"}
        self._timeouts = timeouts or Timeouts()
        self._answer_timeout = aiohttp.ClientTimeout(total=self._timeouts.answer, connect=self._timeouts.connect)
        self._session: aiohttp.ClientSession | None = None
        self._loading = asyncio.Lock()
        self._access: Access | None = None
        self._stale_at: float | None = None
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return await self._exchange(_Call(method="GET", path=path, params=params or {}))

    async def post(self, path: str, body: Mapping[str, object], params: Mapping[str, str] | None = None) -> Json:
        data = json.dumps(body).encode()
        return await self._exchange(_Call(method="POST", path=path, params=params or {}, body=data))

    async def patch(self, path: str, body: Mapping[str, object], content_type: str = STRATEGIC_MERGE) -> Json:
        data = json.dumps(body).encode()
        return await self._exchange(_Call(method="PATCH", path=path, body=data, content_type=content_type))

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, idle_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """
        The chunks of an answer, for as long as they come.

        idle_seconds: after a silence as long the connection is dead; TCP alone would not notice for hours.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect, sock_read=idle_seconds)
        response = await self._open(_Call(method="GET", path=path, params=params, timeout=timeout))
        async with response, aclosing(_chunks(response)) as chunks:
            yield chunks

    async def _exchange(self, call: _Call) -> Json:
        async with await self._open(call) as response:
            body = await _read(response, _MAX_BODY)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ApiUnreachable(f"an answer that is no JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ApiUnreachable("an answer that is no JSON object")
        return answer

    async def _open(self, call: _Call) -> aiohttp.ClientResponse:
        """An answer of success, its body unread."""
        access = await self._current_access()
        try:
            return await self._send(call, access)
        except (ApiError, Untrusted) as error:
            if isinstance(error, ApiError) and error.status != 401:
                raise
            again = await self._reload(access)
            if again == access:
                raise
        return await self._send(call, again)

    async def _send(self, call: _Call, access: Access) -> aiohttp.ClientResponse:
        headers = dict(self._headers)
        if access.authorization is not None:
            headers["Authorization"] = access.authorization
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        try:
            response = await self._open_session().request(
                call.method,
                URL(access.server + call.path, encoded=True),
                params=call.params,
                data=call.body,
                headers=headers,
                ssl=self._tls or True,
                server_hostname=access.tls_server_name,
                proxy=access.proxy,
                timeout=call.timeout or self._answer_timeout,
                allow_redirects=False,  # the credentials are this server's
            )
        # RuntimeError: on a node without a pid to spare, the resolver cannot start its thread.
        except (aiohttp.ClientError, OSError, ValueError, AssertionError, RuntimeError) as error:
            self._count(call, "unreachable")
            raise _failure(error) from error
        self._count(call, str(response.status))
        if 200 <= response.status < 300:
            return response
        async with response:
            raise await _refusal(response)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._session

    async def _current_access(self) -> Access:
        if self._access is None or (self._stale_at is not None and time.monotonic() >= self._stale_at):
            return await self._reload(self._access)
        return self._access

    async def _reload(self, former: Access | None) -> Access:
        async with self._loading:
            if self._access is not former and self._access is not None:
                return self._access  # another request was first
            access = await self._load()
            changed = self._tls is None or former is None or access.tls != former.tls
            if changed and access.server.startswith("https:"):
                # Connections belong to their context: with a new one none of the old is used again.
                self._tls = access.tls_context()
            self._access = access
            seconds = access.stale_after_seconds
            self._stale_at = None if seconds is None else time.monotonic() + seconds
            return self._access

    def _count(self, call: _Call, status: str) -> None:
        resource, named = _target(call.path)
        verb = {"POST": "create", "PATCH": "patch"}.get(call.method)
        if verb is None:
            verb = "watch" if "watch" in call.params else "get" if named else "list"
        self.requests[Request(verb, resource, status)] += 1


def _target(path: str) -> tuple[str, bool]:
    """The resource, and whether the path names one object of it: /api/v1/[namespaces/x/]pods[/y], /apis/group/v1/..."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    return rest[0], len(rest) > 1


async def _chunks(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _failure(error) from error


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async with aclosing(_chunks(response)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise ApiUnreachable(f"an answer of more than {limit} bytes")
    return bytes(body)


async def _refusal(response: aiohttp.ClientResponse) -> ApiError:
    try:
        body = await _read(response, _MAX_STATUS)
    except ApiUnreachable:
        body = b""
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        status = None
    error = status_error(status, response.status, response.reason or "")
    header = response.headers.get("Retry-After", "")
    if header.isascii() and header.isdigit():
        error.retry_after = float(header)
    return error


def status_error(status: object, code: int, reason: str) -> ApiError:
    """status: a Status as the API sends it, in an answer or in a watch. code, reason: where it has none."""
    if not isinstance(status, dict) or status.get("kind") != "Status":
        return ApiError(code, _words(reason, 100), "", is_status=False)
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    causes = details.get("causes")
    seconds = details.get("retryAfterSeconds")
    status_code = status.get("code")
    return ApiError(
        status_code if isinstance(status_code, int) and 400 <= status_code < 600 else code,
        _words(status.get("reason") or reason, 100),
        _words(status.get("message"), 500),
        retry_after=float(min(seconds, _MAX_RETRY_AFTER)) if isinstance(seconds, int) and seconds > 0 else None,
        causes=tuple(
            _words(cause.get("reason"), 100)
            for cause in (causes if isinstance(causes, list) else ())
            if isinstance(cause, dict)
        ),
    )


def _words(value: object, limit: int) -> str:
    return printable(value[:limit])[:limit] if isinstance(value, str) else ""


def _failure(error: Exception) -> ApiUnreachable | AccessError:
    """What aiohttp says, without the addresses of objects that it puts in, nor what may be a secret."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Untrusted(f"{error.host}:{error.port}: {error.certificate_error}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return Untrusted(f"{error.host}:{error.port}: {error.os_error}")
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return ApiUnreachable(f"{error.host}:{error.port}: {os.strerror(cause.errno) if cause.errno else cause}")
    if isinstance(error, TimeoutError):
        return ApiUnreachable("no answer in time")
    # It asserts that it knows the scheme of a proxy.
    if isinstance(error, ValueError | AssertionError) and not isinstance(error, OSError):
        return AccessError("the API server's address, its proxy or the token cannot be used in a request")
    return ApiUnreachable(printable(str(error)) or type(error).__name__)
