"""One POST to a place that is not the API server, and what its answer means for the letter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from collector.errors import ConfigError
from collector.sinks.delivery import RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT = aiohttp.ClientTimeout(total=15.0, connect=10.0)
_LATER = frozenset({408, 425, 429})


def open_session(user_agent: str) -> aiohttp.ClientSession:
    """For all of these sinks; whoever opens it closes it. No cookies, and no proxies from the environment."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=4),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent},
        trust_env=False,
    )


def parse_target(flag: str, url: str) -> URL:
    """Raises ConfigError, which does not repeat the address: it may hold a password or a token."""
    try:
        target = URL(url)
    except ValueError:
        target = URL()
    if target.scheme not in ("http", "https") or not target.host:
        raise ConfigError(f"{flag}: not an address that starts with http:// or https:// and names a host")
    return target


async def post(session: aiohttp.ClientSession, target: URL, body: bytes, headers: Mapping[str, str]) -> None:
    """
    Redirects are not followed: a signed document goes where it was sent to, or nowhere.

    Raises RefusedError and UnavailableError. Their texts name the host alone: the rest of the address may be a secret.
    """
    place = f"{target.scheme}://{target.host}:{target.port}"
    try:
        async with session.post(target, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False) as answer:
            status, retry_after = answer.status, answer.headers.get("Retry-After", "")
    # RuntimeError: on a node without a pid to spare, the resolver cannot start its thread.
    except (aiohttp.ClientError, OSError, RuntimeError) as error:
        raise UnavailableError(f"{place}: {why(error)}") from error
    if 200 <= status < 300:
        return
    if status >= 500 or status in _LATER:
        raise UnavailableError(f"{place} answers {status}", retry_after=_seconds(retry_after))
    raise RefusedError(str(status), f"{place} does not take it" + (" but redirects" if status < 400 else ""))


def why(error: Exception) -> str:
    """Of aiohttp, without the address that its texts may hold."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted"
        case aiohttp.ClientConnectorSSLError():
            return "TLS failed"
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number), strerror=words)):
            # asyncio puts the address in place of the system's words; a resolver has its own (negative) numbers.
            return os.strerror(number) if number > 0 else str(words)
        case _:
            return type(error).__name__


def _seconds(retry_after: str) -> float | None:
    """The form with a date is as good as none: the pause grows by itself."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
