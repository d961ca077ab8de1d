"""
The facts that a document `oom-kill/1` holds, with the names put in or without. What it lacks is not known.

Documents of earlier versions and of other cases have fewer keys: none but `cause` and `victim` is counted on.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from collector.diagnosis.model import Facts
from collector.model import (
    Cause,
    Container,
    ContainerId,
    ContainerKind,
    Evidence,
    Fate,
    MemoryUse,
    NodeMemory,
    Owner,
    Pod,
    PodUid,
    Process,
    QosClass,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Fields = Mapping[str, object]


def facts_of_document(document: Fields) -> Facts:
    """Raises ValueError where its cause is none of ours."""
    memory = _memory(_fields(document, "memory"))
    return Facts(
        cause=Cause(str(document.get("cause"))),
        memory=memory,
        memory_is_sampled=memory is not None and Evidence.REPORT not in _items(document, "evidence"),
        node_memory=_node_memory(_fields(document, "node_memory")),
        victim=_process(_fields(document, "victim")),
        also_killed=tuple(map(_process, _each(document, "also_killed"))),
        tasks=tuple(_tasks(document)),
        oom_memcg=_text(document, "oom_memcg"),
        task_memcg=_text(document, "task_memcg"),
        oom_group=document.get("group_kill") is True,
        page_size=_number(document, "page_size"),
        pod=_pod(_fields(document, "pod")),
        container=_container(_fields(document, "container")),
        fate=_member(Fate, document, "fate"),
        restart_count=_number(document, "restart_count"),
    )


def _memory(known: Fields) -> MemoryUse | None:
    if not known:
        return None
    return MemoryUse(
        usage_bytes=_number(known, "usage_bytes"),
        limit_bytes=_number(known, "limit_bytes"),
        swap_usage_bytes=_number(known, "swap_usage_bytes"),
        swap_limit_bytes=_number(known, "swap_limit_bytes"),
        stat=_sizes(_fields(known, "stat")),
    )


def _node_memory(known: Fields) -> NodeMemory | None:
    if not known:
        return None
    return NodeMemory(
        ram_bytes=_number(known, "ram_bytes"),
        swap_bytes=_number(known, "swap_bytes"),
        free_swap_bytes=_number(known, "free_swap_bytes"),
        stat=_sizes(_fields(known, "stat")),
    )


def _process(known: Fields) -> Process:
    return Process(
        pid=_number(known, "pid"),
        comm=_text(known, "comm"),
        uid=_number(known, "uid"),
        oom_score_adj=_number(known, "oom_score_adj"),
        total_vm_bytes=_number(known, "total_vm_bytes"),
        anon_rss_bytes=_number(known, "anon_rss_bytes"),
        file_rss_bytes=_number(known, "file_rss_bytes"),
        shmem_rss_bytes=_number(known, "shmem_rss_bytes"),
        pgtables_bytes=_number(known, "pgtables_bytes"),
    )


def _tasks(document: Fields) -> Iterator[Task]:
    for row in _each(document, "tasks"):
        pid, comm = _number(row, "pid"), _text(row, "comm")
        if pid is not None and comm is not None:
            yield Task(
                pid=pid,
                tgid=_number(row, "tgid"),
                uid=_number(row, "uid"),
                comm=comm,
                total_vm_bytes=_number(row, "total_vm_bytes"),
                rss_bytes=_number(row, "rss_bytes"),
                pgtables_bytes=_number(row, "pgtables_bytes"),
                swap_bytes=_number(row, "swap_bytes"),
                oom_score_adj=_number(row, "oom_score_adj"),
            )


def _pod(known: Fields) -> Pod | None:
    uid = _text(known, "uid")
    if uid is None:
        return None
    owner = _fields(known, "owner")
    kind, name = _text(owner, "kind"), _text(owner, "name")
    return Pod(
        uid=PodUid(uid),
        namespace=_text(known, "namespace"),
        name=_text(known, "name"),
        qos_class=_member(QosClass, known, "qos_class"),
        owner=Owner(kind=kind, name=name) if kind is not None and name is not None else None,
        revision=_text(known, "revision"),
    )


def _container(known: Fields) -> Container | None:
    if not known:
        return None
    own_id = _text(known, "id")
    return Container(
        id=None if own_id is None else ContainerId(own_id),
        runtime=_text(known, "runtime"),
        name=_text(known, "name"),
        kind=_member(ContainerKind, known, "kind"),
        image=_text(known, "image"),
        limit_bytes=_number(known, "limit_bytes"),
        request_bytes=_number(known, "request_bytes"),
    )


# What JSON may hold


def _fields(of: Fields, key: str) -> Fields:
    value = of.get(key)
    return value if isinstance(value, dict) else {}


def _items(of: Fields, key: str) -> list[object]:
    value = of.get(key)
    return value if isinstance(value, list) else []


def _each(of: Fields, key: str) -> list[Fields]:
    return [item for item in _items(of, key) if isinstance(item, dict)]


def _text(of: Fields, key: str) -> str | None:
    value = of.get(key)
    return value if isinstance(value, str) else None


def _number(of: Fields, key: str) -> int | None:
    value = of.get(key)
    return value if type(value) is int else None


def _sizes(of: Fields) -> dict[str, int]:
    return {key: value for key, value in of.items() if type(value) is int}


_Member = TypeVar("_Member", bound=StrEnum)


def _member(kind: type[_Member], of: Fields, key: str) -> _Member | None:
    """A word that this version does not know is not known."""
    value = _text(of, key)
    return kind(value) if value in set(kind) else None
