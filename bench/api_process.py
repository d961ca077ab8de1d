"""The double of the API server in a process of its own, with TLS: what it takes is not the agent's."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

NODE = "node-1"
_TOKEN = "t" * 900  # a bound token is as long


class ApiProcess:
    """streamed: whether the server knows sendInitialEvents. kubeconfig: says how to reach it."""

    def __init__(self, directory: Path, *, pods: int, streamed: bool = True) -> None:
        self.kubeconfig = directory / "kubeconfig"
        command = [sys.executable, "-m", "bench.api_process", str(self.kubeconfig), str(pods), str(int(streamed))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def __enter__(self) -> ApiProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def change(self, count: int, *, per_second: float | None) -> None:
        """So many pods, one after the other; they are sent at about the time of return. None: all at once."""
        self._ask(change=count, pause=1 / per_second if per_second else 0.0)

    def counts(self) -> dict[str, int]:
        """All requests until now: `watch pods 200` and how often."""
        return dict(self._ask(counts=True))

    def _ask(self, **order: object) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


async def _serve(kubeconfig: Path, pods: int, *, streamed: bool) -> None:
    import trustme

    from bench.pods import NAMESPACE, make_pod
    from tests.kube.api_server import ApiServer
    from tests.kube.events_api import EventsApi

    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    server = ApiServer(EventsApi(NAMESPACE).mount, tls=tls)
    server.tokens = {_TOKEN}
    server.streamed_list = "on" if streamed else "forbidden"
    server.add_node(NODE)
    names = [server.create(make_pod(number, NODE))["metadata"]["name"] for number in range(pods)]  # type: ignore[index]
    await server.start()
    _write_kubeconfig(kubeconfig, server.url, authority.cert_pem.bytes())
    print(json.dumps(True), flush=True)
    turn = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        answer: object = dict(server.counts)
        for _ in range(order.get("change", 0)):
            turn += 1
            server.annotate(NAMESPACE, names[turn % pods], "turn", str(turn))
            if order["pause"]:
                await asyncio.sleep(order["pause"])
        print(json.dumps(answer), flush=True)


def _write_kubeconfig(path: Path, url: str, authority: bytes) -> None:
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(authority).decode()}
    config = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": _TOKEN}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(config))


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), streamed=bool(int(sys.argv[3]))))
