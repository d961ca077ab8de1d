"""Owners of pods as the API server of the tests has them: some of each kind that may be asked for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from collector.kube.access import Access
from collector.kube.client import KubeClient
from collector.owner_details import OwnerDetails
from tests.kube.api_server import ApiServer, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

OBJECTS: dict[str, dict[str, Any]] = {
    "/apis/apps/v1/namespaces/shop/replicasets/web-7d4b9c": {
        "metadata": {
            "annotations": {"deployment.kubernetes.io/revision": "42"},
            "creationTimestamp": "2026-11-21T14:23:00Z",
            "ownerReferences": [{"kind": "Deployment", "name": "web", "controller": True}],
        }
    },
    "/apis/apps/v1/namespaces/shop/controllerrevisions/db-7f8d9c6b5": {"metadata": {}, "revision": 3},
    "/apis/apps/v1/namespaces/shop/controllerrevisions/agent-79c6d9f4b8": {"metadata": {}, "revision": 9},
    "/apis/batch/v1/namespaces/shop/jobs/by-hand": {
        "metadata": {
            "ownerReferences": [{"kind": "X", "name": "x"}, {"kind": "CronJob", "name": "report", "controller": True}]
        }
    },
}


class Owners:
    """What api_server.ApiServer mounts."""

    def __init__(self) -> None:
        self.objects = dict(OBJECTS)

    def mount(self, app: web.Application) -> None:
        app.router.add_get("/apis/{group}/v1/namespaces/{namespace}/{resource}/{name}", self._get)

    async def _get(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        return refusal(404, "NotFound", "not found") if found is None else web.json_response(found)


@asynccontextmanager
async def serving(owners: Owners) -> AsyncIterator[ApiServer]:
    server = ApiServer(owners.mount)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def asking(server: ApiServer) -> AsyncIterator[OwnerDetails]:
    async def load() -> Access:
        return Access(server=server.url)

    client = KubeClient(load, user_agent="test")
    details = OwnerDetails(client)
    running = asyncio.create_task(details.run())
    try:
        yield details
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError
