"""The API server's double of tests/kube in the guest: TLS and a service account's token, as a pod finds them."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .containers import sh
from .kubelet import EXAMPLES_NAMESPACE, NAMESPACE, NODE_NAME, Manifest, PodWorker

Event = dict[str, Any]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN = "token-of-the-service-account"
KEY = Path("/run/api-server.key")
# What the shipped ClusterRole allows: verb, group, resource.
ALLOWED = {
    ("list", "", "pods"),
    ("watch", "", "pods"),
    ("get", "", "nodes"),
    ("create", "events.k8s.io", "events"),
    ("patch", "events.k8s.io", "events"),
}


class Api:
    """`show` and `hide` are the kubelet's and the controllers' writes: they do not need the server to run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from tests.kube.api_server import ApiServer, metadata_of
        from tests.kube.events_api import EventsApi

        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients that hang up are no errors
        self._loop = loop
        self._events = EventsApi(NAMESPACE, EXAMPLES_NAMESPACE)
        self._server = ApiServer(self._events.mount, tls=service_account())
        self._server.tokens = {TOKEN}
        self.node_uid = str(metadata_of(self._server.add_node(NODE_NAME))["uid"])
        self._shown: set[str] = set()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Api]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            api = cls(loop)
            api.start()
            yield api
            api.stop()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    @property
    def environment(self) -> tuple[str, ...]:
        """Properties of the agent's unit: where the kubelet says that the API is."""
        variables = {"HOST": "127.0.0.1", "PORT": str(self._server.port)}
        return tuple(f"Environment=KUBERNETES_SERVICE_{name}={value}" for name, value in variables.items())

    def start(self) -> None:
        self._do(self._server.start())

    def stop(self) -> None:
        self._do(self._server.stop())

    def show(self, pod: Manifest) -> None:
        async def write() -> None:
            (self._server.update if pod["metadata"]["uid"] in self._shown else self._server.create)(pod)
            self._shown.add(pod["metadata"]["uid"])

        self._do(write())

    def hide(self, pod: Manifest) -> None:
        async def write() -> None:
            self._server.delete(pod["metadata"]["namespace"], pod["metadata"]["name"])

        self._do(write())

    def pod_events(self, pod: PodWorker) -> list[Event]:
        """What `kubectl describe pod` shows."""
        return self._events.describe_pod(pod.namespace, pod.name, pod.uid)

    def node_events(self) -> list[Event]:
        """What `kubectl describe node` shows."""
        return self._events.describe_node(NODE_NAME, self.node_uid)

    def problems(self) -> Iterator[str]:
        """Requests that the shipped rights do not cover, and those that the server refused: Events may be there already."""
        for seen in list(self._server.seen):
            verb, group, resource, *_ = seen.attributes
            if (verb, group, resource) not in ALLOWED:
                yield f"asked for without a right: {seen.attributes}"
            if seen.status >= 400 and (verb, seen.status) not in (("create", 409), ("patch", 404)):
                yield f"refused with {seen.status}: {seen.attributes}"
        yield from self._events.warnings

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def service_account() -> ssl.SSLContext:
    """Write what the kubelet mounts into a pod; the server's side of it."""
    ACCOUNT.mkdir(parents=True, exist_ok=True)
    certificate = ACCOUNT / "ca.crt"
    sh(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=api-server", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(KEY), "-out", str(certificate),
    )  # fmt: skip
    (ACCOUNT / "token").write_text(TOKEN)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, KEY)
    return context
