"""The real Prometheus and the real Alertmanager on loopback, and a receiver of what Alertmanager sends."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROMETHEUS = "prometheus"
ALERTMANAGER = "prometheus-alertmanager"  # Debian's name for it

PATIENCE_SECONDS = 20.0


def needs(program: str, package: str = "") -> pytest.MarkDecorator:
    reason = f"{program} is not installed (apt-get install {package or program})"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


def call(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read() or b"null")


def wait_for(condition: Callable[[], bool], what: Callable[[], object] = lambda: "", *, until: float = 0.0) -> None:
    """until: of time.monotonic(); 0: for PATIENCE_SECONDS. what: what there is instead."""
    until = until or time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"waited in vain; {what()}"
        time.sleep(0.05)


@contextmanager
def alertmanager(config: Path, directory: Path) -> Iterator[str]:
    with _running(directory, ALERTMANAGER, f"--config.file={config}", "--cluster.listen-address=") as url:
        yield url


@contextmanager
def prometheus(config: Path, directory: Path, *flags: str) -> Iterator[str]:
    with _running(directory, PROMETHEUS, f"--config.file={config}", *flags) as url:
        yield url


@contextmanager
def _running(directory: Path, program: str, *flags: str) -> Iterator[str]:
    """Its address, once it is ready. What it stores and says is in `directory`."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    storage = "--storage.tsdb.path" if program == PROMETHEUS else "--storage.path"
    log = directory / f"{program}.log"
    command = [program, *flags, f"{storage}={directory / program}", f"--web.listen-address=127.0.0.1:{port}"]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            wait_for(lambda: _is_ready(url) or process.poll() is not None, log.read_text)
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=1):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def query(prometheus_url: str, expression: str) -> list[dict[str, Any]]:
    """The instant vector of now: its samples, each with `metric` and `value`."""
    answer = call(f"{prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    return list(answer["data"]["result"])


class Receiver:
    """A webhook: what came, by path, in the order in which it came."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name for it
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
