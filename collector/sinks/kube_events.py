"""Events on the API server: POST makes one, PATCH counts a repeat. What they say: kube_event.py."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from collector.kube.access import AccessError
from collector.kube.client import ApiError, ApiUnreachable
from collector.sinks.delivery import RefusedError, UnavailableError
from collector.sinks.forecast_event import forecast_event
from collector.sinks.kube_event import (
    NODE_EVENTS_NAMESPACE,
    Event,
    concerned_incident,
    concerns_node,
    concerns_pod,
    event_name,
    node_event,
    pod_event,
    series_count,
    series_patch,
)
from collector.sinks.words import part, text

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from collector.sinks.letter import Letter

POD_EVENT = "pod_event"
NODE_EVENT = "node_event"
FORECAST_EVENT = "forecast_event"

_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NODE_UID_SECONDS = 3600.0

_TERMINATING = "NamespaceTerminating"

# Besides those from 500 up. 401: the credentials rotate; 409: another Event was there for a moment.
_LATER = frozenset({401, 408, 409, 425, 429})


class Client(Protocol):
    """What is used of KubeClient."""

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, object]: ...
    async def post(self, path: str, body: dict[str, object]) -> dict[str, object]: ...
    async def patch(self, path: str, body: dict[str, object]) -> dict[str, object]: ...


class PodEvents:
    """Events on the pod of each kill that has one with a name."""

    name = POD_EVENT

    def __init__(self, client: Client) -> None:
        self._client = client

    def object_of(self, letter: Letter) -> str:
        return letter.event_uid or text(part(letter.document, "pod"), "uid") or letter.key

    async def send(self, letter: Letter) -> None:
        if not concerns_pod(letter.document):
            raise RefusedError("no pod", "the kill's pod has no name")
        pod = part(letter.document, "pod")
        await _tell(self._client, letter, str(pod["namespace"]), str(pod["name"]), lambda: pod_event(letter))


class NodeEvents:
    """Events on the node, where it ran short."""

    name = NODE_EVENT

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._uid: tuple[str, str] | None = None
        self._uid_until = 0.0

    def object_of(self, letter: Letter) -> str:
        return text(letter.document, "node") or ""

    async def send(self, letter: Letter) -> None:
        if not concerns_node(letter.document):
            raise RefusedError("no node pressure", "the kill does not concern the node")
        node = str(letter.document["node"])
        uid = await self._node_uid(node)
        await _tell(self._client, letter, NODE_EVENTS_NAMESPACE, node, lambda: node_event(letter, uid))

    async def _node_uid(self, node: str) -> str:
        """
        The node's uid, or its name where the uid may not be read: `kubectl describe node` looks for both.

        Asked for again each hour: a node can be deleted and come back under its name.
        """
        now = self._clock()
        if self._uid is None or self._uid[0] != node or now >= self._uid_until:
            self._uid = node, await self._read_uid(node)
            self._uid_until = now + _NODE_UID_SECONDS
        return self._uid[1]

    async def _read_uid(self, node: str) -> str:
        if not _DNS_SUBDOMAIN.fullmatch(node):
            raise RefusedError("name", f"{node!r} is no name of a node")
        try:
            # resourceVersion=0: from the server's cache, not from etcd.
            answer = await _asked(self._client.get(f"/api/v1/nodes/{node}", {"resourceVersion": "0"}))
        except ApiError as error:
            if error.status in (403, 404):
                return node
            raise _refused(error) from error
        return text(part(answer, "metadata"), "uid") or node


class ForecastEvents:
    """Events on pods that are about to reach a limit."""

    name = FORECAST_EVENT

    def __init__(self, client: Client) -> None:
        self._client = client

    def object_of(self, letter: Letter) -> str:
        return letter.event_uid or letter.key

    async def send(self, letter: Letter) -> None:
        pod = part(letter.document, "pod")
        namespace = str(pod["namespace"])
        _check_names(namespace, str(pod["name"]))
        try:
            # Where it is there already, this was sent before.
            await _created(self._client, events_path(namespace), forecast_event(letter))
        except ApiError as error:
            raise _refused(error) from error


def events_path(namespace: str) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"


async def _tell(client: Client, letter: Letter, namespace: str, about: str, event: Callable[[], Event]) -> None:
    """
    Make the Event or count on it.

    Raises RefusedError and UnavailableError.
    """
    _check_names(namespace, about)
    events = events_path(namespace)
    path = f"{events}/{event_name(about, letter.key)}"
    try:
        if letter.count > 1 and await _patched(client, path, series_patch(letter)) is not None:
            return
        # Not there: never sent, or its time to live (an hour) is over.
        if not await _created(client, events, event()):
            await _joined(client, path, letter)
    except ApiError as error:
        raise _refused(error) from error


def _check_names(namespace: str, about: str) -> None:
    if not (_DNS_SUBDOMAIN.fullmatch(namespace) and _DNS_SUBDOMAIN.fullmatch(about)):
        raise RefusedError("name", f"{namespace!r} and {about!r} are no names of objects")


async def _patched(client: Client, path: str, patch: Event) -> Event | None:
    """The Event as it is then. None: there is no such Event."""
    try:
        return await _asked(client.patch(path, patch))
    except ApiError as error:
        if error.status == 404:
            return None
        raise


async def _created(client: Client, path: str, event: Event) -> bool:
    """False: there is one of its name."""
    try:
        await _asked(client.post(path, event))
    except ApiError as error:
        if error.status == 409:
            return False
        raise
    return True


async def _joined(client: Client, path: str, letter: Letter) -> None:
    """
    Whose is the Event that is there? This kill's, if it was sent before, by an earlier life of the agent or by a second
    one. Else that of another kill, which the journal, lost since, had counted: then this one is one more.

    That count alone cannot be restored: the next repeat puts the journal's own in its place, as always.
    """
    # Changes nothing, so that nothing is written; shows the Event to whoever may not read any.
    event = None if letter.count > 1 else await _patched(client, path, {})
    if event is not None and concerned_incident(event) != letter.document["id"]:
        event = await _patched(client, path, series_patch(replace(letter, count=series_count(event) + 1)))
    if event is None:
        raise UnavailableError("the Event came or went between two requests")


async def _asked(request: Coroutine[None, None, dict[str, object]]) -> dict[str, object]:
    """
    Raises ApiError where the answer is final, 409 AlreadyExists included, else UnavailableError. What a proxy says in
    place of the API server is not final.
    """
    try:
        return await request
    except (ApiUnreachable, AccessError) as error:
        raise UnavailableError(str(error)) from error
    except ApiError as error:
        passes = error.status in _LATER and error.reason != "AlreadyExists"
        if passes or error.status >= 500 or not error.is_status:
            raise UnavailableError(str(error), retry_after=error.retry_after) from error
        raise


def _refused(error: ApiError) -> RefusedError:
    """403: not allowed, or the namespace is terminating; 404: it is gone; 422: the server's message says why."""
    reason = _TERMINATING if _TERMINATING in error.causes else error.reason
    return RefusedError(f"{error.status} {reason}", error.message)
