"""A document in the words of Events and alerts: verdict, numbers with units, what would help. Core: no I/O."""

from __future__ import annotations

from collections.abc import Mapping

from collector.model import Cause
from collector.text import printable
from collector.units import human_bytes

Document = Mapping[str, object]
"""`oom-kill/1`, as json.loads gives it. Older versions wrote some of them: a part that is missing is not known."""

NODE_PRESSURE = frozenset({Cause.NODE, Cause.NODE_ALLOCATABLE, Cause.NODE_NUMA, Cause.QOS_LIMIT})

# No verdict of why memory was used: only the history can tell. Under node pressure the victim's limit was not hit, and
# a higher one would make it worse.
_HELP = {
    Cause.CONTAINER_LIMIT: "See how its use grew before raising the limit: a leak outgrows any.",
    Cause.NESTED_LIMIT: "The workload set this limit for itself, below the container's: change it there.",
    Cause.POD_LIMIT: "All containers, memory-backed volumes and the overhead of the pod share this limit.",
    Cause.QOS_LIMIT: "Not the victim's own limit: set requests to what pods really use, or move pods to other nodes.",
    Cause.NODE_ALLOCATABLE: "Not the victim's own limit: set requests to what pods really use, or move pods away.",
    Cause.NODE: "Not the victim's own limit: set requests to what pods really use, or move pods to other nodes.",
    Cause.NODE_NUMA: "Not the victim's own limit: its NUMA nodes are full while others may have memory.",
    Cause.SYSTEM_LIMIT: "This limit belongs to a cgroup of the host, not to a pod.",
    Cause.MANUAL: "No limit was hit.",
    Cause.UNKNOWN: "The annotations name what is known.",
}


def cause_of(document: Document) -> Cause:
    return Cause(str(document["cause"]))


def verdict(document: Document) -> str:
    return printable(text(document, "summary") or "A process was killed by the kernel's OOM killer.")


def help_line(document: Document) -> str:
    cause = cause_of(document)
    if cause in _LIMITS_OF_PODS and _share_of_shmem(document) >= 0.5:
        return "Files in memory-backed volumes, /dev/shm and tmpfs count towards the limit: bound them (sizeLimit)."
    if cause is Cause.POD_LIMIT and _AT_THE_POD in verdict(document):
        cause = Cause.CONTAINER_LIMIT
    return _HELP[cause]


_LIMITS_OF_PODS = frozenset({Cause.CONTAINER_LIMIT, Cause.NESTED_LIMIT, Cause.POD_LIMIT})
_AT_THE_POD = "(at the pod's cgroup)"
"""So explain() says that a pod's limit is that of its one container."""


def numbers(document: Document) -> str:
    """`Limited cgroup: usage 512 MiB, limit 512 MiB. Victim: ...`; "" where none is known."""
    memory, container, victim = part(document, "memory"), part(document, "container"), part(document, "victim")
    shmem = _sizes(part(memory, "stat"), {"shmem": "of it shmem"}) if _share_of_shmem(document) >= 0.25 else []
    sentences = (
        _sentence("Limited cgroup", [*_sizes(memory, _MEMORY), *shmem]),
        _sentence("Victim", [*_sizes(victim, _VICTIM), *_score(victim)]),
        _sentence("Container", _sizes(container, {"limit_bytes": "limit", "request_bytes": "request"})),
    )
    return " ".join(filter(None, sentences))


_MEMORY = {"usage_bytes": "usage", "limit_bytes": "limit", "swap_usage_bytes": "swap"}
_VICTIM = {
    "anon_rss_bytes": "anon",
    "file_rss_bytes": "file",
    "shmem_rss_bytes": "shmem",
    "pgtables_bytes": "page tables",
}


def _share_of_shmem(document: Document) -> float:
    """Of what the limited cgroup used; 0.0 where that is not known."""
    memory = part(document, "memory")
    usage, shmem = number(memory, "usage_bytes"), number(part(memory, "stat"), "shmem")
    return 0.0 if not usage or shmem is None else shmem / usage


def _sizes(values: Document, names: Mapping[str, str]) -> list[str]:
    known = ((name, number(values, key)) for key, name in names.items())
    return [f"{name} {human_bytes(size)}" for name, size in known if size is not None]


def _score(victim: Document) -> list[str]:
    adj = number(victim, "oom_score_adj")
    return [] if adj is None else [f"oom_score_adj {adj}"]


def _sentence(subject: str, facts: list[str]) -> str:
    return f"{subject}: {', '.join(facts)}." if facts else ""


def part(document: Document, key: str) -> Document:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def text(document: Document, key: str) -> str | None:
    value = document.get(key)
    return value if isinstance(value, str) and value else None


def number(document: Document, key: str) -> int | None:
    value = document.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def cut(words: str, limit_bytes: int) -> str:
    """At most so many bytes of UTF-8, whole characters, `...` where something is missing."""
    encoded = words.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return encoded[: limit_bytes - 3].decode("utf-8", "ignore") + "..."
