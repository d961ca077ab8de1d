"""Kills built by hand for the findings: one fact at a time is changed, or taken away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from collector.diagnosis.findings import find
from collector.diagnosis.model import Facts, Finding, FindingKind, Judgement, Neighbour, Pattern
from collector.model import (
    Cause,
    Container,
    ContainerId,
    ContainerKind,
    MemoryUse,
    Pod,
    PodUid,
    Process,
    QosClass,
    Task,
)
from collector.processes.hints import memory_hints

MIB = 1 << 20
GIB = 1 << 30

NO_JUDGEMENT = Judgement(pattern=Pattern.UNKNOWN, confidence=0.0)
# As much in a report's statistics as makes no finding.
STAT = {"anon": 490 * MIB, "file": 12 * MIB, "shmem": 2 * MIB, "kernel": 10 * MIB, "slab": 4 * MIB, "sock": MIB}


def facts(**changes: Any) -> Facts:
    """A container of 512 MiB that reached its limit, as a log tells it: no names, no spec, no flags."""
    known: dict[str, Any] = {
        "cause": Cause.CONTAINER_LIMIT,
        "memory": MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB, stat=STAT),
        "victim": Process(pid=845, comm="app", anon_rss_bytes=480 * MIB, file_rss_bytes=2 * MIB, shmem_rss_bytes=0),
    }
    return Facts(**(known | changes))


def victim(comm: str | None = "app", anon: int | None = 480 * MIB, shmem: int | None = 0) -> Process:
    return Process(pid=845, comm=comm, anon_rss_bytes=anon, file_rss_bytes=0, shmem_rss_bytes=shmem)


def memory(limit: int = 512 * MIB, **stat: int) -> MemoryUse:
    return MemoryUse(usage_bytes=limit, limit_bytes=limit, stat=STAT | stat)


def hints(*arguments: str, environ: dict[str, str] | None = None, **options: Any) -> tuple[str, ...]:
    """What the agent would keep of this command line and environment."""
    cmdline = b"".join(argument.encode() + b"\0" for argument in arguments)
    variables = b"".join(f"{name}={value}\0".encode() for name, value in {"PATH": "/", **(environ or {})}.items())
    return memory_hints(cmdline, variables, **options)


def tasks(count: int, comm: str, rss: int, *, first: int = 100) -> tuple[Task, ...]:
    return tuple(Task(first + n, first + n, 0, comm, 2 * rss, rss, 4096, 0, 900) for n in range(count))


def container(**changes: Any) -> Container:
    known: dict[str, Any] = {"id": ContainerId("c" * 64), "name": "web", "kind": ContainerKind.APP, "image": "web:1"}
    return Container(**(known | changes))


def pod(**changes: Any) -> Pod:
    return Pod(
        **({"uid": PodUid("u"), "namespace": "shop", "name": "web-1", "qos_class": QosClass.BURSTABLE} | changes)
    )


def beside(name: str, size: int | None, **changes: Any) -> Neighbour:
    known: dict[str, Any] = {"kind": ContainerKind.APP, "limit_bytes": None, "request_bytes": None}
    return Neighbour(name=name, working_set_bytes=size, **(known | changes))


def found(of: Facts, kind: FindingKind, judgement: Judgement = NO_JUDGEMENT) -> Finding | None:
    findings = [finding for finding in find(of, judgement) if finding.kind is kind]
    assert len(findings) <= 1
    return findings[0] if findings else None


def without(of: Facts, path: str) -> Facts:
    """The facts without one of them: `hints`, `memory.stat`, `victim.comm`, ..."""
    name, _, part = path.partition(".")
    whole: Any = getattr(of, name)
    if part:
        whole = replace(whole, **{part: {} if part == "stat" else None})
    else:
        whole = () if name in ("tasks", "former", "revisions") else None
    change: dict[str, Any] = {name: whole}
    return replace(of, **change)
