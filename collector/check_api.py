"""What the API server allows this agent: the requests of the agent itself, each made once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from collector.check_row import Row
from collector.cluster import open_client
from collector.errors import ConfigError

if TYPE_CHECKING:
    from collector.config import Config
    from collector.kube.client import KubeClient

_WITHOUT = "pods are named by the kubelet's log folders, and no Events are made"
_ROLE = "bind the ClusterRole in deploy/"


def check_api(config: Config) -> list[Row]:
    what = "Kubernetes API"
    try:
        return asyncio.run(_ask(config))
    except ConfigError as error:
        return [Row(what=what, works=False, reason=str(error), fix="set NODE_NAME (downward API: spec.nodeName)")]


async def _ask(config: Config) -> list[Row]:
    client = open_client(config)
    if client is None:
        reason = f"not in a pod, and no --kubeconfig: {_WITHOUT}"
        return [Row(what="Kubernetes API", works=False, reason=reason, fix="run it as a DaemonSet (deploy/)")]
    node = config.node_name or ""
    pods = {"fieldSelector": f"spec.nodeName={node}", "resourceVersion": "0", "limit": "1"}
    try:
        return [
            await _row(client, "Kubernetes API: pods", "/api/v1/pods", pods),
            await _row(client, "Kubernetes API: node", f"/api/v1/nodes/{node}", {"resourceVersion": "0"}),
        ]
    finally:
        await client.close()


async def _row(client: KubeClient, what: str, path: str, params: dict[str, str]) -> Row:
    from collector.kube.access import AccessError
    from collector.kube.client import ApiError, ApiUnreachable

    try:
        async with asyncio.timeout(5):
            await client.get(path, params)
    except ApiError as error:
        fix = _ROLE if error.status == 403 else None
        return Row(what=what, works=False, reason=str(error), fix=fix)
    except (ApiUnreachable, TimeoutError) as error:
        reason = str(error) or "no answer within 5 s"
        return Row(what=what, works=False, reason=f"{reason}: {_WITHOUT}", fix="allow egress to the API server")
    except AccessError as error:
        return Row(what=what, works=False, reason=str(error), fix="mount the service account's token")
    return Row(what=what, works=True, reason="answered")
