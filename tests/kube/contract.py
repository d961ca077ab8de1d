"""
What the contract tests need of a cluster, real or not.

Anything that talks to the API is tested through it: what the double promises has to be true of a real cluster too. A
test of what only the double can do (cut a stream, expire a version) uses the double itself.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Protocol

import aiohttp

from collector.kube.access import Access
from collector.kube.client import KubeClient
from tests.kube.api_server import ApiServer, make_pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.kube.api_server import Object, Setup

USER_AGENT = "oom-collector/0 (contract)"
_CREATE_SECONDS = 30.0
_LABELS = {"pod-security.kubernetes.io/enforce": "privileged", "oom-collector-test": "contract"}


class Cluster(Protocol):
    """node: pods go there. namespace: a test's own."""

    node: str
    namespace: str
    patience: float  # seconds within which what was done is seen
    client: KubeClient

    async def load(self) -> Access: ...

    async def create_pod(self, name: str) -> Object:
        """On the node. As the server gives it back."""

    async def annotate_pod(self, name: str, key: str, value: str) -> Object: ...

    async def delete_pod(self, name: str) -> None:
        """At once, without a grace period."""


class DoubleCluster:
    """setups: see ApiServer; part of the double are a node and a namespace."""

    node = "node-1"
    patience = 5.0

    def __init__(self, *setups: Setup) -> None:
        self.server = ApiServer(*setups)
        self.namespace = "contract"
        self.client = KubeClient(self.load, user_agent=USER_AGENT)

    async def start(self) -> None:
        self.server.add_node(self.node)
        await self.server.start()

    async def close(self) -> None:
        await self.client.close()
        await self.server.stop()

    async def load(self) -> Access:
        return Access(server=self.server.url)

    async def create_pod(self, name: str) -> Object:
        return self.server.create(make_pod(name, self.node, namespace=self.namespace))

    async def annotate_pod(self, name: str, key: str, value: str) -> Object:
        return self.server.annotate(self.namespace, name, key, value)

    async def delete_pod(self, name: str) -> None:
        self.server.delete(self.namespace, name)


class RealCluster:
    """
    Behind a kubeconfig of an administrator. Makes a namespace of its own and removes it.

    The pods' image is never pulled: lists, watches and Events need no container. A cluster without nodes (an API server
    alone) is good enough for that.
    """

    patience = 30.0

    def __init__(self, access: Access) -> None:
        self._access = access
        self.client = KubeClient(self.load, user_agent=USER_AGENT)
        self.namespace = f"oom-collector-{secrets.token_hex(4)}"
        self.node = "oom-collector-contract"
        self._session = aiohttp.ClientSession()

    async def start(self) -> None:
        await self._send("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": _LABELS}})
        nodes = (await self.client.get("/api/v1/nodes", {"limit": "1"}))["items"]
        if isinstance(nodes, list) and nodes:
            self.node = nodes[0]["metadata"]["name"]

    async def load(self) -> Access:
        return self._access

    async def close(self) -> None:
        await self._send("DELETE", f"/api/v1/namespaces/{self.namespace}")
        await self._session.close()
        await self.client.close()

    async def create_pod(self, name: str) -> Object:
        pod = make_pod(name, self.node, namespace=self.namespace)
        pod["spec"] = {
            "nodeName": self.node,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "app", "image": "oom-collector-contract:none", "imagePullPolicy": "Never"}],
        }
        del pod["status"]
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        async with asyncio.timeout(_CREATE_SECONDS):
            while True:
                status, answer = await self._send("POST", path, pod, may_fail=True)
                if status == 201:
                    return answer
                # The namespace's service account is made a moment after the namespace.
                if status != 403:
                    raise AssertionError(f"pod {name}: {status} {answer}")
                await asyncio.sleep(0.5)

    async def annotate_pod(self, name: str, key: str, value: str) -> Object:
        patch = {"metadata": {"annotations": {key: value}}}
        return await self.client.patch(f"/api/v1/namespaces/{self.namespace}/pods/{name}", patch)

    async def delete_pod(self, name: str) -> None:
        await self._send("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}", {"gracePeriodSeconds": 0})

    async def _send(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, may_fail: bool = False
    ) -> tuple[int, Object]:
        """What KubeClient has no method for, since the agent never does it."""
        access = self._access
        headers = {"Authorization": access.authorization} if access.authorization else {}
        async with self._session.request(
            method, access.server + path, json=body, headers=headers, ssl=access.tls_context(),
            server_hostname=access.tls_server_name,
        ) as response:  # fmt: skip
            answer = json.loads(await response.read())
            assert may_fail or response.status < 300, f"{method} {path}: {answer}"
            return response.status, answer
