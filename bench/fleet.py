"""
Many nodes at one API server: a real PodReflector each, with the timing it ships with, on a clock that skips.

Nothing is made up but the pods; what a node's pods do is told by the caller. Plain HTTP in one process.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from bench.pods import make_pod
from collector.kube.access import Access
from collector.kube.client import KubeClient
from collector.kube.reflector import PodReflector
from tests.kube.api_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tests.kube.api_server import Object


class MeteredClient(KubeClient):
    received = 0
    """Bytes of streams, without HTTP's own."""

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, idle_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().stream(path, params, idle_seconds=idle_seconds) as chunks:
            yield self._meter(chunks)

    async def _meter(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.received += len(chunk)
            yield chunk


class Node:
    """Fulfils kube.reflector.PodSink."""

    def __init__(self, name: str, load: Callable[[], Awaitable[Access]]) -> None:
        self.name = name
        self.client = MeteredClient(load, user_agent=f"bench ({name})")
        self.events = 0
        """Of pods; bookmarks are none."""
        self.is_up = False

    @property
    def requests(self) -> int:
        """Raises AssertionError where one was not answered: then the clock skipped over what was under way."""
        assert not any(request.status == "unreachable" for request in self.client.requests), self.client.requests
        return self.client.requests.total()

    async def run(self) -> None:
        await PodReflector(self.client, self.name, self).run()

    def begin_list(self) -> None:
        pass

    def put(self, pod: Mapping[str, object]) -> None:  # noqa: ARG002 - they are counted only
        self.events += 1

    def end_list(self) -> None:
        pass

    def delete(self, pod: Mapping[str, object]) -> None:  # noqa: ARG002
        self.events += 1

    def state(self, up: bool, reason: str | None) -> None:  # noqa: ARG002 - the reflector says it
        self.is_up = up


class Fleet:
    """arrivals: the time of each request that the server got."""

    def __init__(self, nodes: int, *, pods: int, streamed: bool = True) -> None:
        self.arrivals: list[float] = []
        self.server = ApiServer(self._note_arrivals)
        self.server.streamed_list = "on" if streamed else "forbidden"
        self.nodes = [Node(f"node-{number}", self._load) for number in range(nodes)]
        self.pods: list[list[Object]] = []
        for index, node in enumerate(self.nodes):
            made = (make_pod(pods * index + number, node.name) for number in range(pods))
            self.pods.append([self.server.create(pod) for pod in made])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All nodes begin at once."""
        await self.server.start()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(node.run()) for node in self.nodes]
                yield
                for task in tasks:
                    task.cancel()
        finally:
            for node in self.nodes:
                await node.client.close()
            await self.server.stop()

    @property
    def requests(self) -> int:
        return sum(node.requests for node in self.nodes)

    @property
    def received(self) -> int:
        return sum(node.client.received for node in self.nodes)

    @property
    def events(self) -> int:
        return sum(node.events for node in self.nodes)

    def busiest_second(self, since: float) -> int:
        """The most requests that came within one second."""
        arrivals = sorted(at for at in self.arrivals if at >= since)
        most = first = 0
        for last, at in enumerate(arrivals):
            while arrivals[first] <= at - 1:
                first += 1
            most = max(most, last - first + 1)
        return most

    async def _load(self) -> Access:
        # By address: nothing is to be looked up in a thread.
        return Access(server=f"http://127.0.0.1:{self.server.port}")

    def _note_arrivals(self, app: web.Application) -> None:
        @web.middleware
        async def note(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self.arrivals.append(asyncio.get_running_loop().time())
            return await handler(request)

        app.middlewares.append(note)
