"""Credentials from a pod's mounts and from kubeconfig files, the latter through the real child process."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from collector.kube.access import Access, AccessError, from_kubeconfig, in_cluster
from tests.kube.recording import until

ENVIRON = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_text("CA")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")],
)
async def test_in_a_pod(mount: Path, host: str, server: str) -> None:
    load = in_cluster(ENVIRON | {"KUBERNETES_SERVICE_HOST": host}, mount)
    assert load is not None
    assert await load() == Access(server=server, authorization="Bearer secret", ca_pem="CA", stale_after_seconds=60.0)


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "token"])
def test_in_no_pod(mount: Path, missing: str) -> None:
    (mount / missing).unlink(missing_ok=True)
    assert in_cluster({name: value for name, value in ENVIRON.items() if name != missing}, mount) is None


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        pytest.param("token", b"\n", "token: empty", id="an empty token"),
        pytest.param("ca.crt", None, "ca.crt: .*No such file", id="no authority"),
        pytest.param("token", b"\xff", "token: .*decode", id="no text"),
    ],
)
async def test_a_mount_that_cannot_be_used(mount: Path, file: str, content: bytes | None, expected: str) -> None:
    load = in_cluster(ENVIRON, mount)
    assert load is not None
    (mount / file).unlink()
    if content is not None:
        (mount / file).write_bytes(content)
    with pytest.raises(AccessError, match=expected):
        await load()


def kubeconfig(path: Path, user: dict[str, object], **cluster: object) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "one", "user": "me"}}],
        "clusters": [{"name": "one", "cluster": {"server": "https://api.test:6443/", **cluster}}],
        "users": [{"name": "me", "user": user}],
    }
    (path / "config").write_text(yaml.safe_dump(content))
    return path / "config"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_a_kubeconfig_with_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    user: dict[str, object] = {"client-certificate-data": encoded("CERT"), "client-key-data": encoded("KEY")}
    cluster = {"certificate-authority": "ca.pem", "tls-server-name": "kubernetes", "proxy-url": "http://proxy.test:1"}
    assert await from_kubeconfig(kubeconfig(tmp_path, user, **cluster))() == Access(
        server="https://api.test:6443",
        ca_pem="CA",
        cert_pem="CERT",
        key_pem="KEY",
        tls_server_name="kubernetes",
        proxy="http://proxy.test:1",
    )


async def test_a_kubeconfig_with_an_exec_plugin(tmp_path: Path) -> None:
    expiry = (datetime.now(UTC) + timedelta(minutes=15)).strftime("%Y-%m-%dT%H:%M:%SZ")
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "fresh", "expirationTimestamp": expiry},
    }
    user: dict[str, object] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": ["-c", f"print({json.dumps(json.dumps(credential))})"],
            "interactiveMode": "Never",
        }
    }
    access = await from_kubeconfig(kubeconfig(tmp_path, user, **{"insecure-skip-tls-verify": True}))()
    assert (access.authorization, access.verify) == ("Bearer fresh", False)
    assert access.stale_after_seconds is not None
    assert 13 * 60 < access.stale_after_seconds <= 14 * 60


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, "no such file", id="no file"),
        pytest.param("a: [", "expected", id="no YAML"),
        pytest.param("{}", "current-context", id="no kubeconfig"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AccessError, match=f"{path}: .*{expected}"):
        await from_kubeconfig(path)()


async def test_a_child_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"not read within 0\.05 s"):
        await from_kubeconfig(kubeconfig(tmp_path, {"token": "x"}), timeout_seconds=0.05)()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), id="no pid"),
        pytest.param(OSError(errno.ENOMEM, "Cannot allocate memory"), id="no memory"),
        pytest.param(RuntimeError("can't start new thread"), id="no thread"),
    ],
)
async def test_a_child_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """On a node without memory or pids to spare, which is where this agent is needed."""

    async def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(AccessError, match=f"config: no process can be started to read it: .*{error.args[-1]}"):
        await from_kubeconfig(Path("config"))()


async def test_a_plugin_does_not_outlive_its_child(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    hang = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    user: dict[str, object] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": ["-c", hang],
            "interactiveMode": "Never",
        }
    }
    task = asyncio.ensure_future(from_kubeconfig(kubeconfig(tmp_path, user))())
    await until(lambda: pid_file.exists() and pid_file.read_text() != "", 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: _is_dead(pid_file))


def _is_dead(pid_file: Path) -> bool:
    """At most a zombie that nobody has waited for yet."""
    status = Path(f"/proc/{pid_file.read_text()}/status")
    return not status.exists() or "State:\tZ" in status.read_text()
