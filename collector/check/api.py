"""What the API server allows this agent: the requests of the agent itself, each made once, none with an effect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from collector.check.row import Row
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
    try:
        return await asyncio.gather(
            *(_row(f"Kubernetes API: {what}", ask) for what, ask in _requests(client, config).items())
        )
    finally:
        await client.close()


def _requests(client: KubeClient, config: Config) -> dict[str, Callable[[], Awaitable[object]]]:
    node = config.node_name or ""
    pods = {"fieldSelector": f"spec.nodeName={node}", "resourceVersion": "0"}
    requests: dict[str, Callable[[], Awaitable[object]]] = {
        "pods": lambda: client.get("/api/v1/pods", {**pods, "limit": "1"}),
        "pods, watched": lambda: _watch(client, {**pods, "watch": "true", "timeoutSeconds": "1"}),
    }
    if config.events == "on":
        requests |= {
            "node": lambda: client.get(f"/api/v1/nodes/{node}", {"resourceVersion": "0"}),
            "Events": lambda: _create_event(client, node),
            "Events, repeated": lambda: _patch_event(client),
        }
    if config.owner_details == "on":
        requests |= {
            "ReplicaSets": lambda: _get_none(client, "apps/v1", "replicasets"),
            "ControllerRevisions": lambda: _get_none(client, "apps/v1", "controllerrevisions"),
            "Jobs": lambda: _get_none(client, "batch/v1", "jobs"),
        }
    return requests


async def _get_none(client: KubeClient, api: str, resource: str) -> None:
    """One that is not there: who may not get any is told that first."""
    from collector.kube.client import ApiError

    try:
        await client.get(f"/apis/{api}/namespaces/default/{resource}/oom-collector.check")
    except ApiError as error:
        if error.status != 404 or not error.is_status:
            raise


async def _watch(client: KubeClient, params: dict[str, str]) -> None:
    async with client.stream("/api/v1/pods", params, idle_seconds=5):
        pass


async def _create_event(client: KubeClient, node: str) -> None:
    """As for a kill, but not kept."""
    from collector.sinks.kube_event import NODE_EVENTS_NAMESPACE, node_event
    from collector.sinks.kube_events import events_path
    from collector.sinks.letter import Letter

    now = datetime.now(UTC)
    document = {"node": node, "cause": "unknown", "summary": "No kill: a check of what is allowed."}
    letter = Letter(ids=(), key="check", document=document, count=1, first_at=now, last_at=now)
    await client.post(events_path(NODE_EVENTS_NAMESPACE), node_event(letter, node), {"dryRun": "All"})


async def _patch_event(client: KubeClient) -> None:
    """Nothing, in an Event that is not there: who may not do it is told that first."""
    from collector.kube.client import ApiError
    from collector.sinks.kube_event import NODE_EVENTS_NAMESPACE
    from collector.sinks.kube_events import events_path

    try:
        await client.patch(f"{events_path(NODE_EVENTS_NAMESPACE)}/oom-collector.check", {})
    except ApiError as error:
        if error.status != 404 or not error.is_status:
            raise


async def _row(what: str, ask: Callable[[], Awaitable[object]]) -> Row:
    from collector.kube.access import AccessError
    from collector.kube.client import ApiError, ApiUnreachable

    try:
        async with asyncio.timeout(5):
            await ask()
    except ApiError as error:
        fix = _ROLE if error.status == 403 and error.is_status else None
        return Row(what=what, works=False, reason=str(error), fix=fix)
    except (ApiUnreachable, TimeoutError) as error:
        reason = str(error) or "no answer within 5 s"
        return Row(what=what, works=False, reason=f"{reason}: {_WITHOUT}", fix="allow egress to the API server")
    except AccessError as error:
        return Row(what=what, works=False, reason=str(error), fix="mount the service account's token")
    return Row(what=what, works=True, reason="answered")
