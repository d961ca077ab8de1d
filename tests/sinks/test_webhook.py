"""CloudEvents on a real server of HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from yarl import URL

from collector.errors import ConfigError
from collector.sinks.delivery import RefusedError, UnavailableError
from collector.sinks.http_post import parse_target
from collector.sinks.webhook import Webhook, cloud_event
from tests.sinks.letters import MEMCG, NODE, document, letter, receiving, served

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_795_256_416.9


class Receiver:
    def __init__(self) -> None:
        self.status = 202
        self.headers: dict[str, str] = {}
        self.hangs = False
        self.received: list[tuple[web.BaseRequest, bytes]] = []
        self.url = URL()

    async def handle(self, request: web.Request) -> web.Response:
        self.received.append((request, await request.read()))
        if self.hangs:
            await asyncio.sleep(3600)
        return web.Response(status=self.status, headers=self.headers)


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    async with receiving(made.handle) as url:
        made.url = url / "hook"
        yield made


async def test_an_incident_is_a_cloud_event(receiver: Receiver, session: aiohttp.ClientSession) -> None:
    await Webhook(session, receiver.url).send(letter())
    ((request, body),) = receiver.received
    assert request.method == "POST"
    assert request.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert request.headers["User-Agent"] == "oom-collector-test"
    assert "X-OOM-Signature-256" not in request.headers
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": "0" * 16,
        "source": f"/oom-collector/nodes/{NODE}",
        "type": "oom-collector.kill.v1",
        "subject": "shop/web-7d4b9c-x2x9k/app",
        "time": "2026-11-21T10:20:16.123456Z",
        "datacontenttype": "application/json",
        "data": document(),
    }


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        pytest.param({"node": "a b/ü"}, "source", "/oom-collector/nodes/a%20b%2F%C3%BC", id="a URI reference"),
        pytest.param({"node": None}, "source", "/oom-collector", id="no node"),
        pytest.param({"container": None}, "subject", "shop/web-7d4b9c-x2x9k", id="no container"),
        pytest.param({"pod": None}, "subject", MEMCG, id="no pod: the cgroup"),
        pytest.param({"pod": None, "task_memcg": None}, "subject", None, id="nothing is known"),
        pytest.param({"time": None}, "time", "2026-11-21T10:20:16.123456Z", id="the time it was seen"),
    ],
)
def test_attributes_of_what_is_half_known(changes: dict[str, Any], attribute: str, value: str | None) -> None:
    event = cloud_event(letter(document(**changes)))
    assert event.get(attribute) == value
    # The specification: a String is not empty, an attribute without a value is absent.
    assert all(event.values())


async def test_a_hostile_name_stays_inside_its_string(receiver: Receiver, session: aiohttp.ClientSession) -> None:
    hostile = '"}\r\nX-Evil: 1\x00\ud800'
    await Webhook(session, receiver.url).send(letter(document(victim__comm=hostile)))
    assert json.loads(receiver.received[0][1])["data"]["victim"]["comm"] == hostile


async def test_the_signature_covers_time_and_body(
    receiver: Receiver, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("first\n")
    webhook = Webhook(session, receiver.url, secret_file=secret, time_now=lambda: NOW)
    await webhook.send(letter())
    secret.write_text("second")
    await webhook.send(letter())
    for (request, body), key in zip(receiver.received, (b"first", b"second"), strict=True):
        assert request.headers["X-OOM-Timestamp"] == "1795256416"
        digest = hmac.new(key, b"1795256416." + body, hashlib.sha256).hexdigest()
        assert request.headers["X-OOM-Signature-256"] == f"sha256={digest}"


@pytest.mark.parametrize("content", [None, b"", b"\n"], ids=["missing", "empty", "blank"])
async def test_without_its_secret_nothing_is_sent(
    receiver: Receiver, session: aiohttp.ClientSession, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(UnavailableError, match="secret"):
        await Webhook(session, receiver.url, secret_file=tmp_path / "secret").send(letter())
    assert not receiver.received


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_taken(receiver: Receiver, session: aiohttp.ClientSession, status: int) -> None:
    receiver.status = status
    await Webhook(session, receiver.url).send(letter())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 415, 422])
async def test_refused_is_final(receiver: Receiver, session: aiohttp.ClientSession, status: int) -> None:
    receiver.status = status
    with pytest.raises(RefusedError, match=str(status)):
        await Webhook(session, receiver.url).send(letter())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(receiver: Receiver, session: aiohttp.ClientSession, status: int) -> None:
    receiver.status, receiver.headers = status, {"Location": str(receiver.url / "elsewhere")}
    with pytest.raises(RefusedError, match="redirects"):
        await Webhook(session, receiver.url).send(letter())
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_waited_for(receiver: Receiver, session: aiohttp.ClientSession, status: int) -> None:
    receiver.status, receiver.headers = status, {"Retry-After": "17"}
    with pytest.raises(UnavailableError) as caught:
        await Webhook(session, receiver.url).send(letter())
    assert caught.value.retry_after == 17


async def test_a_date_in_retry_after_is_passed_over(receiver: Receiver, session: aiohttp.ClientSession) -> None:
    receiver.status, receiver.headers = 503, {"Retry-After": "Sat, 21 Nov 2026 10:20:16 GMT"}
    with pytest.raises(UnavailableError) as caught:
        await Webhook(session, receiver.url).send(letter())
    assert caught.value.retry_after is None


async def test_a_receiver_that_hangs(
    receiver: Receiver, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.hangs = True
    monkeypatch.setattr("collector.sinks.http_post._TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    with pytest.raises(UnavailableError, match="no answer in time"):
        await Webhook(session, receiver.url).send(letter())


async def test_a_certificate_that_nobody_vouches_for(session: aiohttp.ClientSession) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with served(web.Application(), context) as url:
        with pytest.raises(UnavailableError, match="its certificate is not trusted"):
            await Webhook(session, URL(url).with_host("localhost")).send(letter())


async def test_a_name_that_nobody_has(session: aiohttp.ClientSession) -> None:
    with pytest.raises(UnavailableError, match=r"^http://none\.invalid:80: (?!.*Unknown error)"):
        await Webhook(session, URL("http://none.invalid/t0ken")).send(letter())


async def test_no_thread_for_the_resolver(session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    with pytest.raises(UnavailableError):
        await Webhook(session, URL("http://hooks.test/")).send(letter())


async def test_errors_do_not_tell_the_secrets_of_the_address(
    receiver: Receiver, session: aiohttp.ClientSession
) -> None:
    target = receiver.url.with_user("u5er").with_password("passw0rd").with_path("/t0ken").with_query("k=v4lue")
    messages = []
    for status in (302, 404, 500):
        receiver.status = status
        with pytest.raises((RefusedError, UnavailableError)) as caught:
            await Webhook(session, target).send(letter())
        messages.append(str(caught.value))
    with pytest.raises(UnavailableError, match=r"^http://127\.0\.0\.1:1: Connection refused$") as closed:
        await Webhook(session, target.with_port(1)).send(letter())
    assert not [word for word in ("u5er", "passw0rd", "t0ken", "v4lue") if word in f"{messages}{closed.value}"]
    assert receiver.received[0][0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("url", ["", "hook", "ftp://h/", "//h/x", "http:///x", "http://[::1", "file:///etc/s3cret"])
def test_an_address_that_cannot_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="--webhook-url") as caught:
        parse_target("--webhook-url", url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h", "https://h:8443/a?b=c", "http://[::1]:9/"])
def test_an_address(url: str) -> None:
    assert parse_target("--webhook-url", url) == URL(url)
