"""Who may read what: real TLS connections, real bcrypt, files that change under a running server."""

from __future__ import annotations

import asyncio
import base64
import itertools
import ssl
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import bcrypt
import pytest
import trustme

from collector.errors import ConfigError
from collector.sinks import basic_auth
from collector.sinks.http import Server
from tests.sinks.test_metrics import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PASSWORD = "correct horse"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
TLS = "tls_server_config: {cert_file: tls.crt, key_file: tls.key}"
CLIENTS = TLS.replace("}", ", client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}")
USERS = f"basic_auth_users: {{alice: {HASH}}}"
AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ALICE = basic("alice", PASSWORD)


class Files:
    """What a Secret's volume holds."""

    def __init__(self, directory: Path, text: str) -> None:
        self.path = directory / "web.yml"
        self.write("web.yml", text)
        self.certify(AUTHORITY)
        AUTHORITY.cert_pem.write_to_path(str(directory / "ca.crt"))

    def write(self, name: str, text: str) -> None:
        made = self.path.with_name("new")
        made.write_text(text)
        made.rename(self.path.with_name(name))

    def certify(self, authority: trustme.CA) -> None:
        made = authority.issue_cert("127.0.0.1")
        self.write("tls.crt", made.cert_chain_pems[0].bytes().decode())
        self.write("tls.key", made.private_key_pem.bytes().decode())


def client_context(authority: trustme.CA = AUTHORITY, of: trustme.CA | None = None, name: str = "p") -> ssl.SSLContext:
    """of: the authority of the client's own certificate, for `name`."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if of is not None:
        of.issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def serving(files: Files) -> AsyncIterator[tuple[Server, str]]:
    server = Server(metrics(), version="1.2.3", not_ready=lambda: None, web_config=files.path)
    host, port = await server.start("127.0.0.1", 0)
    try:
        yield server, f"{server.scheme}://{host}:{port}"
    finally:
        await server.stop()


async def get(url: str, context: ssl.SSLContext | None = None, auth: str = "") -> int:
    """The status that a new connection gets; -1: none."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url, ssl=context or True, headers={"Authorization": auth}) as response:
                return response.status
        except aiohttp.ClientError:
            return -1


async def test_tls(tmp_path: Path) -> None:
    async with serving(Files(tmp_path, TLS)) as (server, url):
        assert server.scheme == "https"
        assert await get(f"{url}/metrics", client_context()) == 200
        assert await get(f"{url}/metrics", client_context(STRANGER)) == -1
        assert await get(f"{url.replace('https', 'http')}/metrics") == -1


@pytest.mark.parametrize(
    ("of", "name", "path", "status"),
    [
        pytest.param(AUTHORITY, "p", "/metrics", 200, id="ours"),
        pytest.param(AUTHORITY, "q", "/metrics", 403, id="ours, of another name"),
        pytest.param(STRANGER, "p", "/metrics", -1, id="a stranger's"),
        pytest.param(STRANGER, "p", "/healthz", -1, id="a stranger's, on an open path"),
        pytest.param(None, "", "/metrics", 403, id="none"),
        pytest.param(None, "", "/", 403, id="none, index"),
        pytest.param(None, "", "/nothing", 403, id="none, no such path"),
        pytest.param(None, "", "/healthz", 200, id="none, as the kubelet"),
        pytest.param(None, "", "/readyz", 200, id="none, readiness"),
    ],
)
async def test_client_certificates(tmp_path: Path, of: trustme.CA | None, name: str, path: str, status: int) -> None:
    files = Files(tmp_path, CLIENTS.replace("}", ", client_allowed_sans: [p]}"))
    async with serving(files) as (_, url):
        assert await get(url + path, client_context(of=of, name=name)) == status


async def test_a_certificate_that_need_not_be_shown_is_verified_when_it_is(tmp_path: Path) -> None:
    files = Files(tmp_path, CLIENTS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"))
    async with serving(files) as (_, url):
        assert await get(f"{url}/metrics", client_context()) == 200
        assert await get(f"{url}/metrics", client_context(of=STRANGER)) == -1


async def test_an_old_version_of_tls_is_refused(tmp_path: Path) -> None:
    old = client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    files = Files(tmp_path, TLS)
    async with serving(files) as (_, url):
        assert await get(f"{url}/metrics", old) == 200
        files.write("web.yml", TLS.replace("}", ", min_version: TLS13}"))
        assert await get(f"{url}/metrics", old) == -1
        assert await get(f"{url}/metrics", client_context()) == 200


async def test_a_renewed_certificate_is_served_and_no_scrape_fails(tmp_path: Path) -> None:
    files = Files(tmp_path, CLIENTS)
    async with serving(files) as (server, url), aiohttp.ClientSession() as kept:
        context = client_context(of=AUTHORITY)
        STRANGER.configure_trust(context)

        async def scrape() -> str:
            async with kept.get(f"{url}/metrics", ssl=context) as response:
                assert response.status == 200
                return response.headers.get("Connection", "")

        await scrape()
        files.certify(STRANGER)
        assert server.web_config_failure is None
        assert await scrape() == "close"
        assert await scrape() == ""
        assert await get(f"{url}/healthz", client_context(STRANGER)) == 200
        assert await get(f"{url}/healthz", client_context(AUTHORITY)) == -1


async def test_who_is_trusted_changes_with_the_file(tmp_path: Path) -> None:
    files = Files(tmp_path, CLIENTS)
    async with serving(files) as (_, url):
        files.write("ca.crt", STRANGER.cert_pem.bytes().decode())
        assert await get(f"{url}/metrics", client_context(of=AUTHORITY)) == -1
        assert await get(f"{url}/metrics", client_context(of=STRANGER)) == 200


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        pytest.param("web.yml", "tls_server_config: {", "web.yml: line 1", id="no YAML"),
        pytest.param("tls.crt", "-----BEGIN", "tls.crt", id="half a certificate"),
        pytest.param("web.yml", USERS, "by a restart only", id="no TLS any more"),
    ],
)
async def test_what_cannot_be_used_leaves_the_former_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, reason: str
) -> None:
    files = Files(tmp_path, f"{TLS}\n{USERS}")
    good = (tmp_path / name).read_text()
    async with serving(files) as (server, url):
        files.write(name, text)
        for _ in range(3):
            assert await get(f"{url}/metrics", client_context(), ALICE) == 200
            assert await get(f"{url}/metrics", client_context()) == 401
        assert reason in str(server.web_config_failure)
        assert [reason in record.message for record in caplog.records if record.levelname == "ERROR"] == [True]
        files.write(name, good)
        assert await get(f"{url}/metrics", client_context(), ALICE) == 200
        assert server.web_config_failure is None


async def test_a_file_that_comes_late_is_taken(tmp_path: Path) -> None:
    files = Files(tmp_path, TLS)
    async with serving(files) as (server, url):
        files.write("web.yml", TLS.replace("tls.crt", "new.crt"))
        assert await get(f"{url}/healthz", client_context()) == 200
        assert "new.crt" in str(server.web_config_failure)
        (tmp_path / "tls.crt").rename(tmp_path / "new.crt")
        assert await get(f"{url}/healthz", client_context()) == 200
        assert server.web_config_failure is None


def test_at_the_start_what_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_text(TLS)
    with pytest.raises(ConfigError, match=r"tls\.crt"):
        Server(metrics(), version="1.2.3", not_ready=lambda: None, web_config=tmp_path / "web.yml")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param(ALICE, 200, id="right"),
        pytest.param(ALICE.replace("Basic", "bASIC"), 200, id="scheme in any case"),
        pytest.param(basic("alice", "wrong"), 401, id="wrong password"),
        pytest.param(basic("alice", ""), 401, id="no password"),
        pytest.param(basic("bob", PASSWORD), 401, id="another user"),
        pytest.param(basic("alice", "x" * 100), 401, id="longer than bcrypt looks"),
        pytest.param(basic("alice", "a\0b"), 401, id="NUL"),
        pytest.param("Basic !", 401, id="no base64"),
        pytest.param("Basic /w==", 401, id="no colon"),
        pytest.param("Basic /zo=", 401, id="no UTF-8"),
        pytest.param("Bearer x", 401, id="another scheme"),
        pytest.param(None, 401, id="none"),
    ],
)
async def test_basic_auth(tmp_path: Path, header: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with serving(Files(tmp_path, USERS)) as (server, url), aiohttp.ClientSession() as session:
        assert server.scheme == "http"
        async with session.get(f"{url}/metrics", headers=headers) as response:
            assert response.status == status
            assert response.headers.get("WWW-Authenticate") == (None if status == 200 else "Basic")
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 200


async def test_a_password_that_was_changed_is_no_longer_taken(tmp_path: Path) -> None:
    files = Files(tmp_path, USERS)
    async with serving(files) as (_, url):
        assert await get(f"{url}/metrics", auth=ALICE) == 200
        new = bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode()
        files.write("web.yml", USERS.replace(HASH, new))
        assert await get(f"{url}/metrics", auth=ALICE) == 401
        assert await get(f"{url}/metrics", auth=basic("alice", "new")) == 200


async def test_who_is_known_is_served_while_others_send_wrong_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[float] = []

    def slow(password: bytes, hashed: bytes) -> bool:
        checked.append(time.monotonic())
        time.sleep(0.02)
        return password == PASSWORD.encode()

    monkeypatch.setattr(bcrypt, "checkpw", slow)
    users = {"alice": HASH}
    auth = basic_auth.BasicAuth()
    assert await auth.check(ALICE, users, "10.0.0.1") is basic_auth.Answer.YES
    wrong = basic("alice", "wrong")
    flood = [asyncio.create_task(auth.check(wrong, users, f"10.0.1.{number % 50}")) for number in range(100)]
    await asyncio.sleep(0.03)
    start = time.monotonic()
    assert await auth.check(ALICE, users, "10.0.0.1") is basic_auth.Answer.YES
    assert time.monotonic() - start < 0.01
    assert sum(task.done() for task in flood) == 100 - basic_auth.MAX_WAITING
    await asyncio.sleep(0.5)
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    pauses = [later - earlier for earlier, later in itertools.pairwise(checked[1:])]
    assert min(pauses) >= 0.02 * basic_auth.REST


async def test_one_client_cannot_take_all_the_places() -> None:
    users = {"alice": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(6)).decode()}
    auth = basic_auth.BasicAuth()
    wrong = basic("alice", "wrong")
    flood = [asyncio.create_task(auth.check(wrong, users, "10.0.1.1")) for _ in range(100)]
    await asyncio.sleep(0)
    assert await auth.check(ALICE, users, "10.0.0.1") is basic_auth.Answer.YES
    answers = await asyncio.gather(*flood)
    assert answers.count(basic_auth.Answer.BUSY) == 99


async def test_headers_stand_in_every_response(tmp_path: Path) -> None:
    text = f"{USERS}\nhttp_server_config: {{headers: {{X-Content-Type-Options: nosniff}}}}"
    async with serving(Files(tmp_path, text)) as (_, url), aiohttp.ClientSession() as session:
        for path, status in (("/metrics", 200), ("/nothing", 404), ("/healthz", 200)):
            async with session.get(url + path, headers={"Authorization": ALICE}) as response:
                assert (response.status, response.headers["X-Content-Type-Options"]) == (status, "nosniff")
        async with session.get(url) as response:
            assert (response.status, response.headers["X-Content-Type-Options"]) == (401, "nosniff")


async def test_a_plain_agent_pays_for_none_of_it() -> None:
    code = (
        "import sys, collector.agent\n"
        "from collector.sinks.http import Server\n"
        "from tests.sinks.test_metrics import metrics\n"
        "Server(metrics(), version='1', not_ready=lambda: None)\n"
        "assert not {'yaml', 'bcrypt'} & sys.modules.keys(), 'imported'"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=Path(__file__).parents[2])
    assert await process.wait() == 0
