"""
What becomes known of an incident only after its kill: names, the container's fate, what the pod status says of it, why
it came to it.

It is kept beside the document that the kill made, and put into it by whoever reads it: the kernel's facts are written
once, and a better document of the same kill loses no name.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from collector.explain import Headline, explain, held_bytes
from collector.model import (
    Cause,
    Container,
    ContainerId,
    ContainerKind,
    Evidence,
    Fate,
    Names,
    NamesFrom,
    Owner,
    Pod,
    PodUid,
    QosClass,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """
    `contradiction`: the pod status disagrees with the kernel, in words. `confirmed`: it says OOMKilled of the very
    container. `restart_count`: of the container's new life. `diagnosis`: diagnosis.to_json.to_json(); None: not made.
    """

    names: Names | None = None
    fate: Fate | None = None
    restart_count: int | None = None
    contradiction: str | None = None
    confirmed: bool = False
    diagnosis: dict[str, Any] | None = None


def to_json(late: Late) -> str:
    known = {name: value for name, value in asdict(late).items() if value}
    if late.names is not None:
        known["names"] = {name: value for name, value in known["names"].items() if value is not None}
    return json.dumps(known, separators=(",", ":"))


def from_json(text: str | None) -> Late:
    """What to_json() made; None: nothing yet."""
    known = json.loads(text) if text else {}
    names, fate = known.pop("names", None), known.pop("fate", None)
    return Late(names=names and _names(names), fate=fate and Fate(fate), **known)


def _names(known: dict[str, Any]) -> Names:
    owner = known.pop("owner", None)
    return Names(
        source=NamesFrom(known.pop("source")),
        qos_class=_member(QosClass, known.pop("qos_class", None)),
        kind=_member(ContainerKind, known.pop("kind", None)),
        owner=owner and Owner(**owner),
        **known,
    )


def complete(document: Mapping[str, Any], late: Late, *, fate: bool = True) -> Document:
    """The document with what became known; without `fate` as stdout prints it, which does not wait for that."""
    completed = dict(document)
    if late.names is not None:
        _name(completed, late.names)
    if late.diagnosis is not None:
        completed["diagnosis"] = late.diagnosis
    if fate and late.fate is not None:
        completed["fate"] = str(late.fate)
        if late.restart_count is not None:
            completed["restart_count"] = late.restart_count
        if late.confirmed:
            completed["evidence"] = [*document["evidence"], str(Evidence.POD_STATUS)]
        if late.contradiction is not None:
            completed["contradictions"] = [*completed.get("contradictions", ()), late.contradiction]
    return completed


def _name(document: Document, names: Names) -> None:
    pod = document["pod"]
    if pod is None:
        return
    owner = names.owner and asdict(names.owner)
    document["pod"] = {
        **pod,
        "namespace": names.namespace,
        "name": names.pod,
        "qos_class": pod["qos_class"] or names.qos_class,
        "owner": owner,
        "revision": names.revision,
    }
    container = document["container"]
    if container is not None and names.container is not None:
        document["container"] = {
            **container,
            "name": names.container,
            "kind": names.kind,
            "image": names.image,
            # The kernel enforces what is in the cgroup, not what the spec says.
            "limit_bytes": container["limit_bytes"] or names.limit_bytes,
            "request_bytes": names.request_bytes,
        }
    document["attribution"] = {**document["attribution"], "names_from": str(names.source)}
    if names.qos_class is not None and pod["qos_class"] not in (None, names.qos_class):
        disagree = f"the cgroup path says {pod['qos_class']}, the API says {names.qos_class}"
        document["contradictions"] = [*document.get("contradictions", ()), disagree]
    document["summary"] = explain(replace(_headline(document), lone=_is_its_own_limit(document, names)))


def workload_of(late: Late) -> str | None:
    """By what kills of one container of one workload are found again, whichever its pods are called."""
    names = late.names
    if names is None or names.container is None:
        return None
    return workload_of_pod(names.namespace, names.owner, names.pod, names.container)


def workload_of_pod(namespace: str, owner: Owner | None, pod: str, container: str) -> str:
    """As workload_of(). A pod without an owner is its own workload."""
    kind, name = (owner.kind, owner.name) if owner else ("Pod", pod)
    return "/".join((namespace, kind, name, container))


def _is_its_own_limit(document: Document, names: Names) -> bool:
    """A pod with one container that runs on dies at the pod's cgroup, which has that container's limit."""
    limit = (document["memory"] or {}).get("limit_bytes")
    named = document["container"] is not None and names.container is not None
    is_same = limit is not None and limit == names.limit_bytes
    return document["cause"] == Cause.POD_LIMIT and names.lone and named and is_same


def _headline(document: Document) -> Headline:
    victim, pod, container = document["victim"], document["pod"], document["container"]
    return Headline(
        cause=Cause(document["cause"]),
        reason=document["reason"],
        limited=document["oom_memcg"],
        limit_bytes=(document["memory"] or {}).get("limit_bytes"),
        comm=victim["comm"],
        pid=victim["pid"],
        held_bytes=held_bytes(victim["anon_rss_bytes"], victim["file_rss_bytes"], victim["shmem_rss_bytes"]),
        others=len(document["also_killed"]),
        pod=pod and Pod(uid=PodUid(pod["uid"]), namespace=pod["namespace"], name=pod["name"]),
        container=container and Container(id=ContainerId(container["id"]), name=container["name"]),
    )


def _member(kind: Any, value: str | None) -> Any:
    return None if value is None else kind(value)
