"""
Events of group events.k8s.io/v1 about a kill: on the Pod, and on the Node where the node ran short. Core: no I/O.

A repeat within the hour is a series on the first Event: its note cannot change any more, its annotations can.

Source: pkg/apis/core/validation/events.go, which says what a server takes; `kubectl describe` (describe.go), which
says under which uid it looks.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from collector.model import NODE_PRESSURE, Cause, ContainerKind
from collector.sinks import words
from collector.sinks.words import Document, cause_of, part
from collector.text import printable

if TYPE_CHECKING:
    from collector.sinks.letter import Letter

CONTROLLER = "oom-collector"
NODE_EVENTS_NAMESPACE = "default"
"""Where Events about things without a namespace live: the server takes kube-system too, kubectl looks everywhere."""

NOTE_BYTES = 1024
NAME_LENGTH = 253
INSTANCE_BYTES = 128
ANNOTATION_BYTES = 1024  # each; all of an object: 256 KiB

_EVIDENCE = "The evidence is in this Event's annotations."

Event = dict[str, object]

_FIELDS: dict[str, str] = {
    ContainerKind.APP: "containers",
    ContainerKind.INIT: "initContainers",
    ContainerKind.SIDECAR: "initContainers",
    ContainerKind.EPHEMERAL: "ephemeralContainers",
}


def event_key(document: Document, killed_at: datetime) -> str:
    """The same for all kills of one container, cause and hour (UTC), whoever tells them; else of one host cgroup."""
    pod, container = part(document, "pod"), part(document, "container")
    victim: tuple[object, ...] = (pod.get("uid"), container.get("name") or container.get("id"))
    if not pod:
        victim = (document.get("node"), document.get("task_memcg"))
    hour = killed_at.astimezone(UTC).strftime("%Y-%m-%dT%H")
    return hashlib.sha256(json.dumps([*victim, cause_of(document), hour]).encode()).hexdigest()[:16]


def concerns_pod(document: Document) -> bool:
    pod = part(document, "pod")
    return words.text(pod, "namespace") is not None and words.text(pod, "name") is not None


def concerns_node(document: Document) -> bool:
    return cause_of(document) in NODE_PRESSURE and words.text(document, "node") is not None


def pod_event(letter: Letter) -> Event:
    """Raises KeyError unless concerns_pod()."""
    namespace, name = _pod_path(letter.document)
    event = _event(letter, namespace=namespace, about=name)
    event["regarding"] = pod_reference(letter) | field_path(part(letter.document, "container"))
    node = words.text(letter.document, "node")
    if node is not None:
        event["related"] = node_reference(node)
    return event


def node_event(letter: Letter, node_uid: str) -> Event:
    """Raises KeyError unless concerns_node()."""
    node = str(letter.document["node"])
    event = _event(letter, namespace=NODE_EVENTS_NAMESPACE, about=node)
    event["regarding"] = node_reference(node, node_uid)
    if concerns_pod(letter.document):
        event["related"] = pod_reference(letter)
    return event


def series_patch(letter: Letter) -> Event:
    """A strategic merge: of the annotations, what the newest kill does not have goes (null)."""
    return {"metadata": {"annotations": _annotations(letter.document)}, "series": _series(letter)}


def concerned_incident(event: Event) -> str | None:
    """Whose annotations an Event has, as the server gives it."""
    annotations = part(part(event, "metadata"), "annotations")
    return words.text(annotations, f"{CONTROLLER}/incident-id")


def series_count(event: Event) -> int:
    """Kills that an Event of the server stands for."""
    return words.number(part(event, "series"), "count") or 1


def reason(document: Document) -> str:
    cause = cause_of(document)
    if cause in NODE_PRESSURE:
        return "NodeOOMKill"
    return "PodOOMKill" if cause is Cause.POD_LIMIT else "ContainerOOMKill"


def note(document: Document) -> str:
    return words.brief(document, NOTE_BYTES, last=_EVIDENCE)


def event_name(about: str, key: str) -> str:
    """`<pod or node>.<key>`, as client-go's `<object>.<hex time>`; a DNS-1123 subdomain."""
    room = NAME_LENGTH - len(key) - 1
    readable = re.sub(r"[^a-z0-9.-]", "-", about.lower())[:room]
    labels = [label.strip("-") for label in readable.split(".")]
    return ".".join([*filter(None, labels), key])


def micro_time(moment: datetime) -> str:
    """MicroTime takes six decimals, no more and no fewer."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _event(letter: Letter, *, namespace: str, about: str) -> Event:
    document = letter.document
    known = {name: value for name, value in _annotations(document).items() if value is not None}
    event: Event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": event_name(about, letter.key), "namespace": namespace, "annotations": known},
        "eventTime": micro_time(letter.first_at),
        "type": "Warning",
        "reason": reason(document),
        "action": "Killed",
        "reportingController": CONTROLLER,
        "reportingInstance": instance(words.text(document, "node")),
        "note": note(document),
    }
    if letter.count > 1:
        event["series"] = _series(letter)
    return event


def _series(letter: Letter) -> Event:
    return {"count": letter.count, "lastObservedTime": micro_time(letter.last_at)}


def instance(node: str | None) -> str:
    return CONTROLLER if node is None else words.cut(f"{CONTROLLER}-{node}", INSTANCE_BYTES)


def _pod_path(document: Document) -> tuple[str, str]:
    pod = part(document, "pod")
    return str(pod["namespace"]), str(pod["name"])


def pod_reference(letter: Letter) -> Event:
    namespace, name = _pod_path(letter.document)
    reference: Event = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name}
    # A mirror pod's uid in the API is not the one in cgroups, and not the one that kubectl looks for either.
    uid = letter.event_uid or words.text(part(letter.document, "pod"), "uid")
    return reference if uid is None else reference | {"uid": uid}


def node_reference(name: str, uid: str | None = None) -> Event:
    reference: Event = {"apiVersion": "v1", "kind": "Node", "name": name}
    return reference if uid is None else reference | {"uid": uid}


def field_path(container: Document) -> Event:
    """Only where the kind is known: the kubelet's log folders do not tell it."""
    name, kind = words.text(container, "name"), words.text(container, "kind")
    field = _FIELDS.get(kind or "")
    return {} if name is None or field is None else {"fieldPath": f"spec.{field}{{{name}}}"}


_ANNOTATED = {
    "incident-id": ("id",),
    "time": ("time",),
    "node": ("node",),
    "cause": ("cause",),
    "constraint": ("constraint",),
    "reason": ("reason",),
    "evidence": ("evidence",),
    "contradictions": ("contradictions",),
    "oom-memcg": ("oom_memcg",),
    "task-memcg": ("task_memcg",),
    "limit-bytes": ("memory", "limit_bytes"),
    "usage-bytes": ("memory", "usage_bytes"),
    "comm": ("victim", "comm"),
    "pid": ("victim", "pid"),
    "anon-rss-bytes": ("victim", "anon_rss_bytes"),
    "oom-score-adj": ("victim", "oom_score_adj"),
    "group-kill": ("group_kill",),
    "container": ("container", "name"),
    "container-id": ("container", "id"),
    "container-limit-bytes": ("container", "limit_bytes"),
    "container-request-bytes": ("container", "request_bytes"),
    "fate": ("fate",),
    "pattern": ("diagnosis", "pattern"),
}


def _annotations(document: Document) -> dict[str, str | None]:
    """All of them, in their order; None: not known."""
    annotations = {name: _annotation(document, path) for name, path in _ANNOTATED.items()}
    others = document.get("also_killed")
    # A note is never changed, the annotations are: what is advised now is here.
    advice = words.first_advice(document)
    annotations["advice"] = _annotation(advice, ("text",))
    command = words.text(advice, "command")
    # Half a command is not to be pasted.
    annotations["command"] = command if command and _bounded(command) == command else None
    annotations["processes"] = str(1 + len(others)) if isinstance(others, list) else None
    return {f"{CONTROLLER}/{name}": value for name, value in annotations.items()}


def _annotation(document: Document, path: tuple[str, ...]) -> str | None:
    *parts, last = path
    for key in parts:
        document = part(document, key)
    match document.get(last):
        case None:
            return None
        case bool() as flag:
            return str(flag).lower()
        case list() as values:
            return _bounded("; ".join(map(str, values))) or None
        case value:
            return _bounded(str(value))


def _bounded(value: str) -> str:
    return words.cut(printable(value), ANNOTATION_BYTES)
