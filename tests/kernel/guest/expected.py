"""What a true document of one incident looks like, and what is wrong with those that were told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .agent import Document
from .containers import BareContainer, Pod

ANY = object()  # not looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One incident as its document has to tell it. None: has to be null; a tuple: one of these."""

    cause: object
    comm: object = "hog"
    pid: object = ANY
    oom_memcg: object = ANY
    task_memcg: object = ANY
    pod_uid: object = ANY
    container_id: object = ANY
    limit_bytes: object = ANY
    group_kill: object = False
    evidence: object = ANY
    method: object = ANY
    also: Callable[[Document], bool] = lambda document: True

    def matches(self, document: Document) -> bool:
        """Whether this is its document: by pid where the pid is known, else by its place."""
        if self.pid is not None:
            return fits(document["victim"]["pid"], self.pid)
        told = document["victim"]["pid"], pod_uid(document), container_id(document)
        return all(map(fits, told, (None, self.pod_uid, self.container_id)))

    def problems(self, document: Document) -> list[str]:
        victim, memory = document["victim"], document["memory"] or {}
        pairs = {
            "cause": (document["cause"], self.cause),
            "victim.comm": (victim["comm"], self.comm),
            "victim.pid": (victim["pid"], self.pid),
            "oom_memcg": (document["oom_memcg"], self.oom_memcg),
            "task_memcg": (document["task_memcg"], self.task_memcg),
            "pod.uid": (pod_uid(document), self.pod_uid),
            "container.id": (container_id(document), self.container_id),
            "memory.limit_bytes": (memory.get("limit_bytes"), self.limit_bytes),
            "group_kill": (document["group_kill"], self.group_kill),
            "evidence": (document["evidence"], self.evidence),
            "attribution.method": (document["attribution"]["method"], self.method),
        }
        found = [f"{key} is {is_!r}, not {not_!r}" for key, (is_, not_) in pairs.items() if not fits(is_, not_)]
        if not self.also(document):
            found.append(f"the scenario's own condition does not hold: {document['summary']}")
        return found


def fits(value: object, wanted: object) -> bool:
    return wanted is ANY or value == wanted or (isinstance(wanted, tuple) and value in wanted)


def pod_uid(document: Document) -> str | None:
    return (document["pod"] or {}).get("uid")


def container_id(document: Document) -> str | None:
    return (document["container"] or {}).get("id")


def differences(expected: Iterable[Expected], documents: Iterable[Document]) -> list[str]:
    """What is wrong with these documents; empty: each expected incident is there once, and nothing else."""
    problems, untold = [], list(documents)
    for item in expected:
        found = next((document for document in untold if item.matches(document)), None)
        if found is None:
            problems.append(f"not told: {item.cause} of pid {item.pid}, pod {item.pod_uid}")
        else:
            untold.remove(found)
            problems += item.problems(found)
    problems += [
        f"told, but not expected: {document['cause']} of pid {document['victim']['pid']}, {document['evidence']},"
        f" pod {pod_uid(document)}: {document['summary']}"
        for document in untold
    ]
    return problems


class Placed(Protocol):
    """A container of any make: where it is, and its own limit."""

    @property
    def pod(self) -> Pod: ...
    @property
    def id(self) -> str: ...
    @property
    def cgroup(self) -> str: ...
    @property
    def memory_max(self) -> int | None: ...


def of(container: Placed, cause: str = "container_limit", **more: Any) -> Expected:
    """A kill in this container, by its report; at its own limit unless said otherwise."""
    if cause == "container_limit":
        more = {"oom_memcg": container.cgroup, "limit_bytes": container.memory_max, **more}
    place = {"task_memcg": container.cgroup, "pod_uid": container.pod.uid, "container_id": container.id}
    return Expected(cause=cause, **{**place, **more})


def in_storm(container: Placed, pid: int) -> Expected:
    """A kill at this container's limit of which the kernel may have printed no more than the kill line."""
    return Expected(
        cause=("container_limit", "unknown"),
        pid=pid,
        pod_uid=(container.pod.uid, None),
        container_id=(container.id, None),
    )


def by_counter(container: BareContainer, *, gone: bool = False) -> Expected:
    """A kill at this container's limit that only counters tell; `gone`: only those of its pod."""
    unless_gone = (None,) if gone else ()
    return Expected(
        cause=("container_limit", "unknown") if gone else "container_limit",
        comm=None,
        pid=None,
        pod_uid=container.pod.uid,
        container_id=(container.id, *unless_gone),
        evidence=["memory_events"],
        method="memory_events",
    )


def rightly_attributed(documents: Iterable[Document], killed: Mapping[int, BareContainer]) -> int:
    """How many of these kills are told with the container that they happened in. Raises where one has another."""
    right = 0
    for document in documents:
        if (container := killed.get(document["victim"]["pid"])) is None:
            continue
        told = pod_uid(document), container_id(document)
        assert fits(told[0], (container.pod.uid, None)), (
            f"blamed {told}, not {container.pod.uid}: {document['summary']}"
        )
        assert fits(told[1], (container.id, None)), f"blamed {told}, not {container.id}: {document['summary']}"
        right += told == (container.pod.uid, container.id)
    return right
