"""
An API server for tests, as a 1.36 server answers: pods (list, watch, get), nodes (get), and what others mount into it.

What may be switched is an attribute; what happens once is a method. Every request is recorded, so that it can be held
against the RBAC rules that are shipped.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

Object: TypeAlias = "dict[str, object]"
Setup: TypeAlias = "Callable[[web.Application], object]"
Handler: TypeAlias = "Callable[[web.Request], Awaitable[web.StreamResponse]]"

USER = "system:serviceaccount:monitoring:oom-collector"
_FIELDS = {"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "spec.restartPolicy"}
_Order = Literal["cut", "abort", "freeze"]


class Attributes(NamedTuple):
    """Of a request, as authorization and audit see it."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str


@dataclass(kw_only=True)
class Seen:
    """A request and its answer. status: 0 while there is none."""

    attributes: Attributes
    query: dict[str, str]
    user_agent: str
    authorization: str
    status: int = 0


# Of the request that this task answers: a stream has its status long before it ends.
_seen: ContextVar[Seen] = ContextVar("seen")


class Refusal(NamedTuple):
    status: int
    reason: str
    retry_after: int | None = None


class Change(NamedTuple):
    version: int
    kind: str
    pod: Object


@dataclass(eq=False)
class Watch:
    matches: Callable[[Object], bool]
    queue: asyncio.Queue[bytes | _Order] = field(default_factory=asyncio.Queue)


def attributes_of(method: str, path: str, query: Mapping[str, str]) -> Attributes:
    parts = path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    verb = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}.get(method)
    if verb is None:
        verb = "watch" if query.get("watch") in ("1", "true") else "get" if name else "list"
    return Attributes(verb, group, rest[0], namespace, name)


def allowed(rules: Iterable[Mapping[str, Sequence[str]]], wanted: Attributes) -> bool:
    """rules: of a Role or ClusterRole, as in its manifest."""
    return any(
        {wanted.group, "*"} & set(rule.get("apiGroups", ()))
        and {wanted.resource, "*"} & set(rule.get("resources", ()))
        and {wanted.verb, "*"} & set(rule.get("verbs", ()))
        and (not rule.get("resourceNames") or wanted.name in rule["resourceNames"])
        for rule in rules
    )


def status_body(code: int, reason: str, message: str, details: Object | None = None) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        **({"details": details} if details else {}),
        "code": code,
    }


def refusal(
    code: int, reason: str, message: str, *, details: Object | None = None, retry_after: int | None = None
) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(status_body(code, reason, message, details), status=code, headers=headers)


def make_pod(name: str, node: str, *, namespace: str = "shop", padding: int = 0) -> Object:
    """padding: bytes by which the object is larger."""
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"padding": "x" * padding}},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app:1"}]},
        "status": {"phase": "Running"},
    }


def metadata_of(value: Object) -> Object:
    metadata = value["metadata"]
    assert isinstance(metadata, dict)
    return metadata


class ApiServer:
    """
    setups: add routes of their own; recording, authentication and authorization hold for these as well.

    tokens: None: anybody. rules: None: everything is allowed. refusals: what the next requests get instead of an answer.
    streamed_list: whether sendInitialEvents works ("ignored": as by a server that does not know it and does not mind).
    gone: in which form a resource version that is too old is refused. watch_lives: seconds until each watch is cut.
    write_size, write_pause: how the bytes come.
    """

    def __init__(self, *setups: Setup, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.tokens: set[str] | None = None
        self.rules: list[Mapping[str, Sequence[str]]] | None = None
        self.refusals: list[Refusal] = []
        self.streamed_list: Literal["on", "forbidden", "ignored"] = "on"
        self.bookmark_seconds = 60.0
        self.gone: Literal["event", "status"] = "event"
        self.watch_lives: Iterator[float] | None = None
        self.write_size: int | None = None
        self.write_pause = 0.0
        self.seen: list[Seen] = []
        self._setups = setups
        self._pods: dict[tuple[str, str], Object] = {}
        self._nodes: dict[str, Object] = {}
        self._version = 1000
        self._oldest = 1000
        self._uids = 0
        self._history: list[Change] = []
        self._watches: set[Watch] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0

    # Serving

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    async def start(self) -> None:
        """On the same port after each stop()."""
        app = web.Application(middlewares=[self._guard])
        for prefix in ("/api/v1", "/api/v1/namespaces/{namespace}"):
            app.router.add_get(f"{prefix}/pods", self._list_or_watch)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}", self._get_pod)
        app.router.add_get("/api/v1/nodes/{name}", self._get_node)
        for setup in self._setups:
            setup(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self.tls).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """All connections break."""
        self._order("abort")
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    # What is in the cluster

    def add_node(self, name: str) -> Object:
        calm = {"type": "MemoryPressure", "status": "False", "lastTransitionTime": "2024-11-01T00:00:00Z"}
        status: Object = {"conditions": [{**calm, "reason": "KubeletHasSufficientMemory"}]}
        node: Object = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}, "status": status}
        self._nodes[name] = self._stamp(node)
        return self._nodes[name]

    def node(self, name: str) -> Object:
        """Its status may be written there."""
        return self._nodes[name]

    def create(self, pod: Object) -> Object:
        return self._change("ADDED", self._stamp(copy.deepcopy(pod)))

    def update(self, pod: Object) -> Object:
        return self._change("MODIFIED", self._stamp(copy.deepcopy(pod)))

    def annotate(self, namespace: str, name: str, key: str, value: str) -> Object:
        pod = copy.deepcopy(self._pods[namespace, name])
        annotations = metadata_of(pod).setdefault("annotations", {})
        assert isinstance(annotations, dict)
        annotations[key] = value
        return self.update(pod)

    def delete(self, namespace: str, name: str) -> Object:
        return self._change("DELETED", self._stamp(copy.deepcopy(self._pods[namespace, name])))

    def compact(self) -> None:
        """Versions up to now are too old for a watch to begin at."""
        self._version += 1
        self._oldest = self._version
        self._history.clear()

    # What happens to watches

    @property
    def watch_count(self) -> int:
        return len(self._watches)

    def cut(self) -> None:
        """All watches end as they do after timeoutSeconds."""
        self._order("cut")

    def abort(self) -> None:
        """All watches break off in the middle."""
        self._order("abort")

    def freeze(self) -> None:
        """Nothing comes on the watches that are open, not even an end."""
        self._order("freeze")

    def expire(self) -> None:
        """The watches are told that their version is too old."""
        event = _event("ERROR", status_body(410, "Expired", f"too old resource version: 1 ({self._oldest})"))
        for watch in self._watches:
            watch.queue.put_nowait(event)
        self._order("cut")

    # What was asked for

    def asked(self, verb: str, resource: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.attributes[0] == verb and seen.attributes.resource == resource]

    @property
    def counts(self) -> Counter[str]:
        return Counter(f"{seen.attributes.verb} {seen.attributes.resource} {seen.status}" for seen in self.seen)

    def _order(self, order: _Order) -> None:
        for watch in self._watches:
            watch.queue.put_nowait(order)

    def _stamp(self, value: Object) -> Object:
        metadata = metadata_of(value)
        self._version += 1
        if "uid" not in metadata:
            self._uids += 1
            metadata["uid"] = f"00000000-0000-4000-8000-{self._uids:012x}"
        metadata["resourceVersion"] = str(self._version)
        return value

    def _change(self, kind: str, pod: Object) -> Object:
        metadata = metadata_of(pod)
        key = str(metadata["namespace"]), str(metadata["name"])
        if kind == "DELETED":
            del self._pods[key]
        else:
            self._pods[key] = pod
        self._history.append(Change(self._version, kind, pod))
        for watch in self._watches:
            if watch.matches(pod):
                watch.queue.put_nowait(_event(kind, pod))
        return pod

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        wanted = attributes_of(request.method, request.path, request.query)
        seen = Seen(
            attributes=wanted,
            query=dict(request.query),
            user_agent=request.headers.get("User-Agent", ""),
            authorization=request.headers.get("Authorization", ""),
        )
        self.seen.append(seen)
        _seen.set(seen)
        response = self._refuse(wanted, seen.authorization) or await handler(request)
        seen.status = response.status
        return response

    def _refuse(self, wanted: Attributes, authorization: str) -> web.Response | None:
        # In the order of the real filters: authentication, priority and fairness, authorization.
        if self.tokens is not None and authorization.removeprefix("Bearer ") not in self.tokens:
            return refusal(401, "Unauthorized", "Unauthorized")
        if self.refusals:
            status, reason, retry_after = self.refusals.pop(0)
            if status == 429:
                # Priority and fairness answers with plain text.
                headers = {"Retry-After": str(retry_after or 1)}
                return web.Response(status=429, text="Too many requests, please try again later.\n", headers=headers)
            return refusal(status, reason, f"{reason} for a test", retry_after=retry_after)
        if self.rules is not None and not allowed(self.rules, wanted):
            where = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
            message = (
                f'{wanted.resource} is forbidden: User "{USER}" cannot {wanted.verb} resource "{wanted.resource}" '
                f'in API group "{wanted.group}" {where}'
            )
            return refusal(403, "Forbidden", message, details={"kind": wanted.resource})
        return None

    async def _get_pod(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        return _found(self._pods.get((namespace, name)), "pods", name)

    async def _get_node(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return _found(self._nodes.get(name), "nodes", name)

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        wrong = _wrong_options(query, forbidden=self.streamed_list == "forbidden")
        if wrong is not None:
            return wrong
        fields = dict(term.split("=", 1) for term in query.get("fieldSelector", "").split(",") if term)
        unknown = set(fields) - _FIELDS
        if unknown:
            return refusal(400, "BadRequest", f"field label not supported: {min(unknown)}")
        namespace = request.match_info.get("namespace")

        def matches(pod: Object) -> bool:
            if namespace is not None and metadata_of(pod)["namespace"] != namespace:
                return False
            return all(_field(pod, path) == value for path, value in fields.items())

        if query.get("watch") in ("1", "true"):
            return await self._watch(request, matches)
        return await self._list(request, matches)

    async def _list(self, request: web.Request, matches: Callable[[Object], bool]) -> web.StreamResponse:
        version = int(request.query.get("resourceVersion") or 0)
        if version > self._version:
            details: Object = {
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            }
            message = f"Timeout: Too large resource version: {version}, current: {self._version}"
            return refusal(504, "Timeout", message, details=details)
        # With resourceVersion=0 the cache answers, and `limit` is ignored.
        items = [{**pod} for pod in self._pods.values() if matches(pod)]
        for item in items:
            del item["kind"], item["apiVersion"]
        head = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": str(self._version)}}
        response = await self._open(request)
        await self._write(response, _json({**head, "items": items}) + b"\n")
        await response.write_eof()
        return response

    async def _watch(self, request: web.Request, matches: Callable[[Object], bool]) -> web.StreamResponse:
        query = request.query
        version = int(query.get("resourceVersion") or 0)
        streamed_list = query.get("sendInitialEvents") == "true" and self.streamed_list == "on"
        lives = float(query.get("timeoutSeconds") or 1800)
        if self.watch_lives is not None:
            lives = min(lives, next(self.watch_lives))
        if streamed_list or not version:
            first = [_event("ADDED", pod) for pod in self._pods.values() if matches(pod)]
            if streamed_list:
                first.append(self._bookmark(end_of_list=True))
        elif version < self._oldest:
            message = f"too old resource version: {version} ({self._oldest})"
            if self.gone == "status":
                return refusal(410, "Expired", message)
            first, lives = [_event("ERROR", status_body(410, "Expired", message))], 0.0
        else:
            first = [_event(kind, pod) for at, kind, pod in self._history if at > version and matches(pod)]
        watch = Watch(matches)
        for event in first:
            watch.queue.put_nowait(event)
        self._watches.add(watch)
        try:
            return await self._serve(request, watch, lives, bookmarks=query.get("allowWatchBookmarks") == "true")
        finally:
            self._watches.discard(watch)

    async def _serve(self, request: web.Request, watch: Watch, lives: float, *, bookmarks: bool) -> web.StreamResponse:
        response = await self._open(request)
        end = asyncio.get_running_loop().time() + lives
        while True:
            order = await self._next(watch, end, bookmarks=bookmarks)
            if order == "cut":
                await response.write_eof()
                return response
            if order == "abort":
                if request.transport is not None:
                    request.transport.abort()
                return response
            if order == "freeze":
                self._watches.discard(watch)
                await asyncio.sleep(3600)
            if isinstance(order, bytes):
                await self._write(response, order)

    async def _next(self, watch: Watch, end: float, *, bookmarks: bool) -> bytes | _Order | None:
        wait = end - asyncio.get_running_loop().time()
        if watch.queue.empty() and wait <= 0:
            return "cut"
        if not watch.queue.empty():
            return watch.queue.get_nowait()
        try:
            return await asyncio.wait_for(watch.queue.get(), min(wait, self.bookmark_seconds))
        except TimeoutError:
            return self._bookmark() if bookmarks and wait > self.bookmark_seconds else None

    def _bookmark(self, *, end_of_list: bool = False) -> bytes:
        metadata: Object = {"resourceVersion": str(self._version), "creationTimestamp": None}
        if end_of_list:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        return _event(
            "BOOKMARK",
            {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": None}, "status": {}},
        )

    async def _open(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        _seen.get().status = response.status
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        size = self.write_size or len(data)
        for start in range(0, len(data), size):
            await response.write(data[start : start + size])
            if self.write_pause:
                await asyncio.sleep(self.write_pause)


def _wrong_options(query: Mapping[str, str], *, forbidden: bool) -> web.Response | None:
    """The server's ValidateListOptions."""
    watch = query.get("watch") in ("1", "true")
    match, initial = query.get("resourceVersionMatch"), query.get("sendInitialEvents")
    errors = []
    if watch and initial is not None:
        if match != "NotOlderThan":
            errors.append(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        if forbidden:
            errors.append(
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            )
    if watch and match is not None and initial is None:
        errors.append(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )
    if not watch and initial is not None:
        errors.append("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")
    if not watch and match is not None and not query.get("resourceVersion"):
        errors.append(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        )
    if errors:
        return refusal(422, "Invalid", 'ListOptions.meta.k8s.io "" is invalid: ' + "; ".join(errors))
    if not (query.get("resourceVersion") or "0").isdigit():
        return refusal(400, "BadRequest", f"resourceVersion: Invalid value: {query['resourceVersion']!r}")
    return None


def _found(value: Object | None, resource: str, name: str) -> web.Response:
    if value is None:
        return refusal(404, "NotFound", f'{resource} "{name}" not found', details={"name": name, "kind": resource})
    return web.json_response(value)


def _field(pod: Object, path: str) -> object:
    value: object = pod
    for key in path.split("."):
        value = value.get(key, "") if isinstance(value, dict) else ""
    return value


def _event(kind: str, value: Object) -> bytes:
    return _json({"type": kind, "object": value}) + b"\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
