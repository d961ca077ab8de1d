from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from collector.kube.access import Access, from_kubeconfig
from collector.kube.client import KubeClient
from tests.kube.api_server import ApiServer
from tests.kube.contract import USER_AGENT, DoubleCluster, RealCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.kube.contract import Cluster


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[KubeClient]:
    async def load() -> Access:
        return Access(server=server.url)

    client = KubeClient(load, user_agent=USER_AGENT)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(params=["double", pytest.param("real", marks=pytest.mark.cluster)])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    async with _real() if request.param == "real" else _double() as cluster:
        yield cluster


@asynccontextmanager
async def _double() -> AsyncIterator[Cluster]:
    cluster = DoubleCluster()
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.close()


@asynccontextmanager
async def _real() -> AsyncIterator[Cluster]:
    path = os.environ.get("KUBECONFIG")
    if not path:
        pytest.skip("KUBECONFIG names no cluster")
    cluster = RealCluster(await from_kubeconfig(Path(path))())
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.close()
