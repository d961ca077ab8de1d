"""
A double of the API server's Events, group events.k8s.io/v1: it takes and refuses what a 1.36 server does.

The rules are those of pkg/apis/core/validation/events.go (ValidateEventCreate, ValidateEventUpdate), of the admission
plugin NamespaceLifecycle, and of the request's own decoding, in the server's order. Lengths are Go's: bytes.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Object = dict[str, Any]
Cause = tuple[str, str, str]
"""Reason, field, message, as in a Status' details."""

ROOT = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
MAX_BODY = 3 << 20
MAX_ANNOTATIONS = 256 << 10

_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PATCHES = ("application/strategic-merge-patch+json", "application/merge-patch+json")

_STRINGS = ("note", "type", "reason", "action", "reportingController", "reportingInstance")
_TIMES = ("deprecatedFirstTimestamp", "deprecatedLastTimestamp")
_OBJECTS = ("metadata", "series", "regarding", "related", "deprecatedSource")
_FIELDS = {"apiVersion", "kind", "eventTime", "deprecatedCount", *_STRINGS, *_TIMES, *_OBJECTS}
_REFERENCE = {"kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"}
_PARTS = {"regarding": _REFERENCE, "related": _REFERENCE, "series": {"count", "lastObservedTime"}}

_IMMUTABLE = {
    "regarding": "involvedObject",
    "reason": "reason",
    "note": "message",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
    "type": "type",
    "eventTime": "eventTime",
    "action": "action",
    "related": "related",
    "reportingController": "reportingController",
    "reportingInstance": "reportingInstance",
}
"""Their names in the group, and in errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An answer in place of the right one. `acts`: the request is carried out all the same; status 0: no answer."""

    status: int
    reason: str = "InternalError"
    message: str = "made to fail"
    retry_after: int | None = None
    acts: bool = False


class Status(Exception):  # noqa: N818 (the server's word)
    def __init__(self, code: int, reason: str, message: str, causes: Iterable[Cause] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.causes = list(causes)

    def response(self, retry_after: int | None = None) -> web.Response:
        details: Object = {"causes": [{"reason": r, "field": f, "message": m} for r, f, m in self.causes]}
        if retry_after is not None:
            details["retryAfterSeconds"] = retry_after
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "details": details,
            "code": self.code,
        }
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return web.json_response(body, status=self.code, headers=headers)


class EventsApi:
    """
    `events`: by namespace and name. `faults`: taken one by one by the next requests. `forbidden`: RBAC says no.
    `requests`: method, path, status. `warnings`: fields that a server drops.
    """

    def __init__(self, *namespaces: str) -> None:
        self.namespaces = {"default", "kube-system", *namespaces}
        self.terminating: set[str] = set()
        self.forbidden = False
        self.events: dict[tuple[str, str], Object] = {}
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, str, int]] = []
        self.warnings: list[str] = []
        self._version = 0

    def mount(self, app: web.Application) -> None:
        app.router.add_post(ROOT, self._handle)
        app.router.add_get(ROOT, self._handle)
        app.router.add_patch(ROOT + "/{name}", self._handle)
        app.router.add_get(ROOT + "/{name}", self._handle)
        app.router.add_get("/api/v1/events", self._search)
        app.router.add_get("/api/v1/namespaces/{namespace}/events", self._search)

    def expire(self) -> None:
        """The time to live (--event-ttl) of all that are there is over."""
        self.events.clear()

    def describe_pod(self, namespace: str, name: str, uid: str) -> list[Object]:
        """What `kubectl describe pod` prints. uid: of a mirror pod its annotation config.mirror."""
        about = {"namespace": namespace, "name": name, "uid": uid}
        return [event for (where, _), event in self.events.items() if where == namespace and _regards(event, about)]

    def describe_node(self, name: str, uid: str) -> list[Object]:
        """What `kubectl describe node` prints: it looks for the uid, then for the name in its place."""
        about = [{"kind": "Node", "namespace": "", "name": name, "uid": each} for each in (uid, name)]
        return [event for event in self.events.values() if any(_regards(event, each) for each in about)]

    async def _search(self, request: web.Request) -> web.Response:
        """The Events in their other group, where kubectl looks for them: by fields of involvedObject alone."""
        namespace = request.match_info.get("namespace")
        fields = filter(None, request.query.get("fieldSelector", "").split(","))
        about = {
            key.removeprefix("involvedObject."): value for key, _, value in (field.partition("=") for field in fields)
        }
        found = [
            _in_core(event)
            for (where, _), event in sorted(self.events.items())
            if namespace in (None, where) and _regards(event, about)
        ]
        return web.json_response({"kind": "EventList", "apiVersion": "v1", "items": found})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.popleft() if self.faults else None
        try:
            if fault is not None and not fault.acts:
                response = await self._fail(request, fault)
            else:
                response = await self._serve(request)
                if fault is not None:
                    response = await self._fail(request, fault)
        except Status as status:
            response = status.response()
        self.requests.append((request.method, request.path, response.status))
        return response

    async def _fail(self, request: web.Request, fault: Fault) -> web.Response:
        if fault.status == 0:
            self.requests.append((request.method, request.path, 0))
            await asyncio.sleep(3600)
        return Status(fault.status, fault.reason, fault.message).response(fault.retry_after)

    async def _serve(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info.get("name")
        if self.forbidden:
            raise Status(403, "Forbidden", 'events.events.k8s.io is forbidden: User "u" cannot do that')
        body = await request.content.read()  # request.read() has the limit of the app
        if len(body) > MAX_BODY:
            raise Status(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY}")
        dry_run = request.query.getall("dryRun", [])
        if dry_run not in ([], ["All"]):
            raise Status(422, "Invalid", f'dryRun: Unsupported value: {dry_run}: supported values: "All"')
        match request.method, name:
            case "POST", None:
                return web.json_response(
                    self._create(namespace, request.content_type, body, stored=not dry_run), status=201
                )
            case "PATCH", str():
                return web.json_response(self._patch(namespace, name, request.content_type, body, stored=not dry_run))
            case "GET", str():
                return web.json_response(self._get(namespace, name))
            case _:
                items = [event for (where, _), event in sorted(self.events.items()) if where == namespace]
                return web.json_response({"kind": "EventList", "apiVersion": "events.k8s.io/v1", "items": items})

    def _get(self, namespace: str, name: str) -> Object:
        try:
            return self.events[namespace, name]
        except KeyError:
            raise Status(404, "NotFound", f'events "{name}" not found') from None

    def _create(self, namespace: str, content_type: str, body: bytes, *, stored: bool) -> Object:
        if content_type != "application/json":
            raise Status(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content_type}"
            )
        event = self._decode(_loads(body))
        meta = event.setdefault("metadata", {})
        self._check_namespace(meta, namespace)
        if namespace not in self.namespaces:
            raise Status(404, "NotFound", f'namespaces "{namespace}" not found')
        name = meta.get("name", "")
        if namespace in self.terminating:
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = ("NamespaceTerminating", "metadata.namespace", f"namespace {namespace} is being terminated")
            raise Status(403, "Forbidden", f'events "{name}" is forbidden: {message}', [cause])
        _raise_invalid(name, create_errors(event))
        if (namespace, name) in self.events:
            raise Status(409, "AlreadyExists", f'events "{name}" already exists')
        meta["uid"] = str(uuid.uuid4())
        return self._store(namespace, name, event) if stored else event

    def _patch(self, namespace: str, name: str, content_type: str, body: bytes, *, stored: bool) -> Object:
        if content_type not in _PATCHES:
            raise Status(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content_type}"
            )
        # First the patch is read, then the object.
        patch = _loads(body)
        old = self._get(namespace, name)
        new = self._decode(_merge(old, patch))
        self._check_namespace(new["metadata"], namespace)
        if new["metadata"].get("name") != name:
            raise Status(400, "BadRequest", "the name of the object does not match the name on the URL")
        _raise_invalid(name, update_errors(new, old))
        # What does not change an object is not written.
        return self._store(namespace, name, new) if stored and new != old else new

    def _store(self, namespace: str, name: str, event: Object) -> Object:
        self._version += 1
        event["metadata"]["resourceVersion"] = str(self._version)
        self.events[namespace, name] = event
        return event

    def _check_namespace(self, meta: Object, namespace: str) -> None:
        if meta.setdefault("namespace", namespace) != namespace:
            message = "the namespace of the provided object does not match the namespace sent on the request"
            raise Status(400, "BadRequest", message)

    def _decode(self, event: Object) -> Object:
        """As the server's decoder: a wrong type is a bad request, an unknown field is dropped with a warning."""
        _check_types(event)
        if (event.get("apiVersion", "events.k8s.io/v1"), event.get("kind", "Event")) != ("events.k8s.io/v1", "Event"):
            raise Status(400, "BadRequest", f"no kind {event.get('kind')!r} in {event.get('apiVersion')!r} here")
        decoded = {key: value for key, value in event.items() if value is not None}
        for part in ("regarding", "related", "series"):
            if part in decoded:
                decoded[part] = self._known(decoded[part], _PARTS[part], f"{part}.")
        metadata = decoded.setdefault("metadata", {})
        if metadata.get("annotations"):
            metadata["annotations"] = {key: value or "" for key, value in metadata["annotations"].items()}
        return self._known(decoded, _FIELDS)

    def _known(self, value: Object, fields: set[str], prefix: str = "") -> Object:
        self.warnings += [f'unknown field "{prefix}{key}"' for key in value if key not in fields]
        return {key: value for key, value in value.items() if key in fields}


def create_errors(event: Object) -> list[Cause]:
    errors = list(_common_errors(event)) + list(_meta_errors(event["metadata"])) + list(_series_errors(event))
    if not event.get("eventTime"):
        errors.append(_required("eventTime"))
    if event.get("type") not in ("Normal", "Warning"):
        errors.append(_invalid("type", f"has invalid value: {event.get('type')}"))
    for field in ("deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"):
        if event.get(field):
            errors.append(_invalid(_IMMUTABLE[field], "needs to be unset"))
    source = event.get("deprecatedSource") or {}
    if source.get("component") or source.get("host"):
        errors.append(_invalid("source", "needs to be unset"))
    return errors


def update_errors(new: Object, old: Object) -> list[Cause]:
    errors = list(_common_errors(new)) + list(_meta_errors(new["metadata"]))
    if new.get("series") != old.get("series"):
        errors += _series_errors(new)
    changed = [name for field, name in _IMMUTABLE.items() if (new.get(field) or None) != (old.get(field) or None)]
    return errors + [_invalid(name, "field is immutable") for name in changed]


def _common_errors(event: Object) -> Iterable[Cause]:
    meta, regarding = event["metadata"], event.get("regarding") or {}
    namespace, about = meta.get("namespace", ""), regarding.get("namespace", "")
    mismatch = _invalid("involvedObject.namespace", "does not match event.namespace")
    if not event.get("eventTime"):
        if (about or "default") != namespace:
            yield mismatch
        return
    # With an eventTime, the server does not compare two namespaces that are both there.
    if not about and namespace not in ("default", "kube-system"):
        yield mismatch
    controller = event.get("reportingController", "")
    if not controller:
        yield _required("reportingController")
    yield from (_invalid("reportingController", why) for why in _qualified_name_errors(controller))
    for field in ("reportingInstance", "action", "reason"):
        value = event.get(field, "")
        if not value:
            yield _required(field)
        if _len(value) > 128:
            yield _invalid(field, "can have at most 128 characters")
    if _len(event.get("note", "")) > 1024:
        yield _invalid("message", "can have at most 1024 characters")


def _series_errors(event: Object) -> Iterable[Cause]:
    series = event.get("series")
    if series is None:
        return
    if series.get("count", 0) < 2:
        yield _invalid("series.count", "should be at least 2")
    if not series.get("lastObservedTime"):
        yield _required("series.lastObservedTime")


def _meta_errors(meta: Object) -> Iterable[Cause]:
    name = meta.get("name", "")
    if not name and not meta.get("generateName"):
        yield ("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")
    elif not _is_subdomain(name):
        yield _invalid(
            "metadata.name", "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"
        )
    annotations = meta.get("annotations") or {}
    for key in annotations:
        yield from (_invalid("metadata.annotations", why) for why in _qualified_name_errors(key.lower()))
    if sum(_len(key) + _len(value) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        yield ("FieldValueTooLong", "metadata.annotations", f"Too long: may not be more than {MAX_ANNOTATIONS} bytes")


def _qualified_name_errors(name: str) -> Iterable[str]:
    prefix, slash, rest = name.rpartition("/")
    if slash and not _is_subdomain(prefix):
        yield "prefix part must be a lowercase RFC 1123 subdomain"
    if len(rest) > 63:
        yield "name part must be no more than 63 bytes"
    if not _QUALIFIED.fullmatch(rest):
        yield "name part must consist of alphanumeric characters, '-', '_' or '.'"


def _is_subdomain(name: str) -> bool:
    return _len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def _check_types(event: Object) -> None:
    meta, series = event.get("metadata") or {}, event.get("series") or {}
    micro_times = {"eventTime": event.get("eventTime")}
    wrong = [key for key in _OBJECTS if not isinstance(event.get(key) or {}, dict)]
    if not wrong:
        micro_times["series.lastObservedTime"] = series.get("lastObservedTime")
        wrong += [key for key, value in (meta.get("annotations") or {}).items() if not isinstance(value or "", str)]
        for part in ("regarding", "related"):
            wrong += [f"{part}.{key}" for key, value in (event.get(part) or {}).items() if not isinstance(value, str)]
        if not _is_int32(series.get("count", 0)):
            wrong.append("series.count")
    wrong += [key for key in _STRINGS if not isinstance(event.get(key) or "", str)]
    wrong += [key for key, value in micro_times.items() if value is not None and not _matches(_MICRO_TIME, value)]
    wrong += [key for key in _TIMES if event.get(key) is not None and not _matches(_TIME, event[key])]
    if wrong:
        raise Status(400, "BadRequest", f"Event in version v1 cannot be handled: cannot decode {', '.join(wrong)}")


def _matches(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _is_int32(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _loads(body: bytes) -> Object:
    try:
        value = json.loads(body.decode("utf-8"))
    except ValueError as error:
        raise Status(400, "BadRequest", f"couldn't get version/kind; json parse error: {error}") from error
    if not isinstance(value, dict):
        raise Status(400, "BadRequest", "json: cannot unmarshal into an object")
    return value


def _merge(old: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """Strategic and plain merge are the same here: an Event has no list with a merge key in what is patched."""
    merged = copy.deepcopy(dict(old))
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = _merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _regards(event: Object, wanted: Mapping[str, str]) -> bool:
    return all(event["regarding"].get(key, "") == value for key, value in wanted.items())


def _in_core(event: Object) -> Object:
    """The same Event in the group that kubectl reads."""
    renamed = {"regarding": "involvedObject", "note": "message", "reportingController": "reportingComponent"}
    core = {renamed.get(key, key): value for key, value in event.items()}
    return {**core, "apiVersion": "v1", "source": {}, "firstTimestamp": None, "lastTimestamp": None}


def _raise_invalid(name: str, errors: list[Cause]) -> None:
    if errors:
        reasons = ", ".join(f"{field}: {message}" for _, field, message in errors)
        raise Status(422, "Invalid", f'Event "{name}" is invalid: {reasons}', errors)


def _invalid(field: str, why: str) -> Cause:
    return "FieldValueInvalid", field, f"Invalid value: {why}"


def _required(field: str) -> Cause:
    return "FieldValueRequired", field, "Required value"


def _len(text: str) -> int:
    return len(text.encode())
