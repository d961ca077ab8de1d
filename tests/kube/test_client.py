"""Requests, refusals, credentials and certificates, over real connections."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

from collector.kube.access import Access, AccessError, in_cluster
from collector.kube.client import ApiError, ApiUnreachable, KubeClient, Request, Timeouts, Untrusted, status_error
from tests.kube.api_server import ApiServer, Refusal, make_pod, refusal
from tests.kube.recording import NODE, QUICK, reflecting, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from collector.kube.access import Load


def tls_of(authority: trustme.CA, *, client_authority: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    if client_authority is not None:
        client_authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


@asynccontextmanager
async def serving(tls: ssl.SSLContext) -> AsyncIterator[ApiServer]:
    server = ApiServer(tls=tls)
    server.add_node(NODE)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(load: Load, timeouts: Timeouts | None = None) -> AsyncIterator[KubeClient]:
    client = KubeClient(load, user_agent="oom-collector/1.2.3 (node-1)", timeouts=timeouts)
    try:
        yield client
    finally:
        await client.close()


class Loader:
    """Counts, and gives what `access` is at the time."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.loads = 0

    async def __call__(self) -> Access:
        self.loads += 1
        return self.access


async def test_get(server: ApiServer, client: KubeClient) -> None:
    node = server.add_node(NODE)
    assert await client.get(f"/api/v1/nodes/{NODE}", {"resourceVersion": "0"}) == node
    (seen,) = server.seen
    assert seen.attributes == ("get", "", "nodes", "", NODE)
    assert seen.query == {"resourceVersion": "0"}
    assert client.requests == {Request("get", "nodes", "200"): 1}


async def test_the_server_sees_who_asks(server: ApiServer) -> None:
    server.add_node(NODE)
    async with connected(Loader(Access(server=server.url, authorization="Bearer one"))) as client:
        await client.get(f"/api/v1/nodes/{NODE}")
    assert (server.seen[0].user_agent, server.seen[0].authorization) == ("oom-collector/1.2.3 (node-1)", "Bearer one")


async def test_bodies_there_and_back() -> None:
    got: list[tuple[str, str, object]] = []

    async def echo(request: web.Request) -> web.Response:
        body = await request.json()
        got.append((request.method, request.content_type, body))
        return web.json_response({"got": body}, status=201)

    def mount(app: web.Application) -> None:
        app.router.add_post("/apis/events.k8s.io/v1/namespaces/{namespace}/events", echo)
        app.router.add_patch("/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}", echo)

    server = ApiServer(mount)
    await server.start()
    path = "/apis/events.k8s.io/v1/namespaces/shop/events"
    async with connected(Loader(Access(server=server.url))) as client:
        assert await client.post(path, {"note": "ü"}) == {"got": {"note": "ü"}}
        await client.patch(f"{path}/x", {"series": {"count": 2}})
        await client.patch(f"{path}/x", {}, "application/merge-patch+json")
        assert client.requests == {
            Request("create", "events", "201"): 1,
            Request("patch", "events", "201"): 2,
        }
    await server.stop()
    assert got == [
        ("POST", "application/json", {"note": "ü"}),
        ("PATCH", "application/strategic-merge-patch+json", {"series": {"count": 2}}),
        ("PATCH", "application/merge-patch+json", {}),
    ]
    assert server.seen[1].attributes == ("patch", "events.k8s.io", "events", "shop", "x")


@pytest.mark.parametrize(
    ("answer", "status", "reason", "retry_after", "causes"),
    [
        pytest.param(refusal(404, "NotFound", "gone"), 404, "NotFound", None, (), id="Status"),
        pytest.param(refusal(503, "ServiceUnavailable", "wait", retry_after=7), 503, "ServiceUnavailable", 7.0, (), id="Retry-After"),
        pytest.param(
            refusal(
                403,
                "Forbidden",
                "being terminated",
                details={"causes": [{"reason": "NamespaceTerminating", "message": "x"}], "retryAfterSeconds": 3},
            ),
            403,
            "Forbidden",
            3.0,
            ("NamespaceTerminating",),
            id="details",
        ),
        pytest.param(web.Response(status=502, text="<html>" * 20_000), 502, "Bad Gateway", None, (), id="a proxy's page"),
        pytest.param(web.Response(status=302, headers={"Location": "/x"}), 302, "Found", None, (), id="redirections are not followed"),
        pytest.param(web.Response(status=429, headers={"Retry-After": "Fri, 31 Dec 1999"}), 429, "Too Many Requests", None, (), id="a date"),
        pytest.param(web.json_response([1], status=500), 500, "Internal Server Error", None, (), id="JSON that is no Status"),
        pytest.param(web.json_response({"kind": "Status", "details": 7, "code": "x", "reason": "R" * 999, "message": "a\x1b[2Jb"}, status=400), 400, "R" * 100, None, (), id="a Status of wrong types"),
        pytest.param(web.json_response({"kind": "Status", "code": 200, "reason": [], "details": {"causes": [{"reason": {}}]}}, status=403), 403, "Forbidden", None, ("",), id="a Status that lies"),
        pytest.param(web.json_response({"kind": "Status", "details": {"retryAfterSeconds": 10**400}}, status=429), 429, "Too Many Requests", 86_400.0, (), id="a wait beyond all bounds"),
        pytest.param(web.json_response({"code": 404, "reason": "x"}, status=502), 502, "Bad Gateway", None, (), id="JSON of a proxy"),
    ],
)  # fmt: skip
async def test_refusals(
    answer: web.Response, status: int, reason: str, retry_after: float | None, causes: tuple[str, ...]
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return answer

    server = ApiServer(lambda app: app.router.add_get("/api/v1/things", refuse))
    await server.start()
    async with connected(Loader(Access(server=server.url))) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/api/v1/things")
    await server.stop()
    error = caught.value
    assert (error.status, error.reason, error.retry_after, error.causes) == (status, reason, retry_after, causes)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 600


def test_a_status_within_a_watch() -> None:
    error = status_error({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}, 500, "watch error")
    assert str(error) == "410 Expired: too old"


@pytest.mark.parametrize(
    ("answer", "is_status"),
    [
        pytest.param(refusal(403, "Forbidden", "no"), True, id="Status"),
        pytest.param(web.Response(status=403, text="<html>"), False, id="a page"),
        pytest.param(web.json_response({"error": "no"}, status=403), False, id="other JSON"),
    ],
)
async def test_who_refuses(answer: web.Response, is_status: bool) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return answer

    server = ApiServer(lambda app: app.router.add_get("/api/v1/things", refuse))
    await server.start()
    async with connected(Loader(Access(server=server.url))) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/api/v1/things")
    await server.stop()
    assert caught.value.is_status is is_status


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("<html>", "no JSON", id="no JSON"),
        pytest.param("[]", "no JSON object", id="no object"),
        pytest.param("[" * 100_000, "no JSON", id="too deep"),
        pytest.param('"' + "x" * (5 << 20), "more than", id="too large"),
    ],
)
async def test_an_answer_that_cannot_be_used(body: str, expected: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    server = ApiServer(lambda app: app.router.add_get("/api/v1/things", answer))
    await server.start()
    async with connected(Loader(Access(server=server.url))) as client:
        with pytest.raises(ApiUnreachable, match=expected):
            await client.get("/api/v1/things")
    await server.stop()


async def test_no_request_waits_for_ever() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    server = ApiServer(lambda app: app.router.add_get("/api/v1/things", hang))
    await server.start()
    async with connected(Loader(Access(server=server.url)), Timeouts(connect=0.1, answer=0.1)) as client:
        with pytest.raises(ApiUnreachable, match="no answer in time"):
            await client.get("/api/v1/things")
        assert client.requests == {Request("list", "things", "unreachable"): 1}
    await server.stop()


async def test_the_watch_and_one_more_request_fit(server: ApiServer, client: KubeClient) -> None:
    server.add_node(NODE)
    async with reflecting(client) as sink:
        await until(lambda: sink.up)
        async with asyncio.timeout(2):
            await asyncio.gather(*(client.get(f"/api/v1/nodes/{NODE}") for _ in range(8)))
    assert len(server.seen) == 9


async def test_a_rotated_token_is_read_again(server: ApiServer) -> None:
    server.add_node(NODE)
    server.tokens = {"one"}
    load = Loader(Access(server=server.url, authorization="Bearer one"))
    async with connected(load) as client:
        await client.get(f"/api/v1/nodes/{NODE}")
        await client.get(f"/api/v1/nodes/{NODE}")
        assert load.loads == 1
        server.tokens = {"two"}
        load.access = replace(load.access, authorization="Bearer two")
        await asyncio.gather(*(client.get(f"/api/v1/nodes/{NODE}") for _ in range(4)))
        assert load.loads == 2
        # What the server refuses though it is the newest is not sent twice.
        server.tokens = {"three"}
        before = len(server.seen)
        with pytest.raises(ApiError, match="401 Unauthorized"):
            await client.get(f"/api/v1/nodes/{NODE}")
        assert (load.loads, len(server.seen)) == (3, before + 1)


async def test_a_watch_goes_on_with_the_new_token(server: ApiServer) -> None:
    server.tokens = {"one"}
    load = Loader(Access(server=server.url, authorization="Bearer one"))
    async with connected(load) as client, reflecting(client) as sink:
        await until(lambda: sink.up)
        server.tokens = {"two"}
        load.access = replace(load.access, authorization="Bearer two")
        server.cut()
        server.create(make_pod("a", NODE))
        await until(lambda: "a" in sink.pods)
    assert sink.states == [(True, None)]


async def test_a_mounted_token_is_read_again_each_minute(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    now = 1000.0
    monkeypatch.setattr("collector.kube.client.time.monotonic", lambda: now)
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "ca.crt").write_text(pem(authority))
    async with serving(tls_of(authority)) as tls_server:
        environ = {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": str(tls_server.port)}
        load = in_cluster(environ, tmp_path)
        assert load is not None
        async with connected(load) as client:
            for at, token in ((1000.0, "one"), (1059.0, "two"), (1060.0, "three")):
                now = at
                (tmp_path / "token").write_text(token)
                await client.get(f"/api/v1/nodes/{NODE}")
        sent = [seen.authorization for seen in tls_server.seen]
    assert sent == ["Bearer one", "Bearer one", "Bearer three"]


async def test_the_server_changes_its_certificate_and_authority(authority: trustme.CA) -> None:
    other = trustme.CA()
    async with serving(tls_of(authority)) as server:
        server.create(make_pod("a", NODE))
        load = Loader(Access(server=server.url, ca_pem=pem(authority)))
        async with connected(load) as client, reflecting(client, timing=QUICK) as sink:
            await until(lambda: sink.up)
            await server.stop()
            server.tls = tls_of(other)
            server.create(make_pod("b", NODE))
            await server.start()
            await until(lambda: not sink.up and "CERTIFICATE_VERIFY_FAILED" in str(sink.states[-1][1]))
            assert "b" not in sink.pods
            load.access = replace(load.access, ca_pem=pem(other))
            await until(lambda: sink.up and "b" in sink.pods)


@pytest.mark.parametrize(
    ("changes", "trusted"),
    [
        pytest.param({}, True, id="its authority"),
        pytest.param({"ca_pem": None}, False, id="the system's authorities"),
        pytest.param({"ca_pem": None, "verify": False}, True, id="insecure-skip-tls-verify"),
        pytest.param({"tls_server_name": "example.test"}, False, id="another name"),
    ],
)
async def test_trust(authority: trustme.CA, changes: dict[str, Any], *, trusted: bool) -> None:
    async with serving(tls_of(authority)) as server:
        access = replace(Access(server=server.url, ca_pem=pem(authority)), **changes)
        async with connected(Loader(access)) as client:
            if trusted:
                await client.get(f"/api/v1/nodes/{NODE}")
            else:
                with pytest.raises(Untrusted, match=f"localhost:{server.port}: .*CERTIFICATE_VERIFY_FAILED"):
                    await client.get(f"/api/v1/nodes/{NODE}")


async def test_a_name_that_is_not_the_servers_address(authority: trustme.CA) -> None:
    async with serving(tls_of(authority)) as server:
        access = Access(
            server=server.url.replace("localhost", "127.0.0.1"), ca_pem=pem(authority), tls_server_name="localhost"
        )
        async with connected(Loader(access)) as client:
            await client.get(f"/api/v1/nodes/{NODE}")


async def test_client_certificates(authority: trustme.CA) -> None:
    users = trustme.CA()
    user = users.issue_cert("admin@example.test")
    async with serving(tls_of(authority, client_authority=users)) as server:
        access = Access(
            server=server.url,
            ca_pem=pem(authority),
            cert_pem=user.cert_chain_pems[0].bytes().decode(),
            key_pem=user.private_key_pem.bytes().decode(),
        )
        async with connected(Loader(access)) as client:
            await client.get(f"/api/v1/nodes/{NODE}")
        async with connected(Loader(replace(access, cert_pem=None, key_pem=None))) as client:
            with pytest.raises(ApiUnreachable):
                await client.get(f"/api/v1/nodes/{NODE}")


async def test_certificates_that_are_none() -> None:
    async with connected(Loader(Access(server="https://localhost:1", ca_pem="nonsense"))) as client:
        with pytest.raises(AccessError, match="certificates for https://localhost:1"):
            await client.get("/api/v1/nodes/x")


@pytest.mark.parametrize("tls_comment", ["# Autorit\xe9 de certification\n", ""])
async def test_an_authority_with_its_name_in_a_comment(authority: trustme.CA, tls_comment: str) -> None:
    async with serving(tls_of(authority)) as server:
        load = Loader(Access(server=server.url, ca_pem=tls_comment + pem(authority)))
        async with connected(load) as client:
            await client.get(f"/api/v1/nodes/{NODE}")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"authorization": "Bearer hunter2\nx"}, id="a token of two lines"),
        pytest.param({"server": "http://u:hunter2@[::bad"}, id="no address"),
        pytest.param({"server": "https://localhost:tcp://hunter2"}, id="no port"),
        pytest.param({"proxy": "http://u:hunter2@[::"}, id="no proxy"),
        pytest.param({"proxy": "socks5://u:hunter2@localhost"}, id="a proxy of another kind"),
    ],
)
async def test_credentials_that_no_request_can_be_made_of(server: ApiServer, changes: dict[str, Any]) -> None:
    async with connected(Loader(replace(Access(server=server.url), **changes))) as client:
        with pytest.raises(AccessError) as caught:
            await client.get("/api/v1/pods")
    assert "hunter2" not in str(caught.value)


async def test_certificates_that_no_file_can_be_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "memfd_create", refuse)
    async with connected(Loader(Access(server="https://localhost:1", cert_pem="x", key_pem="y"))) as client:
        with pytest.raises(AccessError, match="Cannot allocate memory"):
            await client.get("/api/v1/pods")


async def test_no_thread_for_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    async with connected(Loader(Access(server="http://api.test:1"))) as client:
        with pytest.raises(ApiUnreachable, match="can't start new thread"):
            await client.get("/api/v1/pods")


async def test_an_error_in_the_stream_is_ours(server: ApiServer, client: KubeClient) -> None:
    server.refusals.append(Refusal(403, "Forbidden"))
    with pytest.raises(ApiError, match="403 Forbidden"):
        async with client.stream("/api/v1/pods", {"watch": "true"}, idle_seconds=1):
            pass
    async with client.stream("/api/v1/pods", {"watch": "true"}, idle_seconds=0.05) as chunks:
        with pytest.raises(ApiUnreachable, match="no answer in time"):
            await anext(chunks)


def test_secrets_are_not_shown() -> None:
    access = Access(server="https://x", authorization="Bearer hunter2", key_pem="hunter3", proxy="http://u:hunter4@p")
    assert "hunter" not in repr(access)
