"""A document in the words of Events and alerts: verdict, numbers with units, what would help. Core: no I/O."""

from __future__ import annotations

from collections.abc import Mapping

from collector.model import Cause
from collector.text import printable
from collector.units import human_bytes

Document = Mapping[str, object]
"""`oom-kill/1`, as json.loads gives it. Older versions wrote some of them: a part that is missing is not known."""

# Where a diagnosis advises nothing. Under node pressure the victim's limit was not hit, and a higher one would make it
# worse.
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
    """Why it came to this, the first advice and its command, as far as there is a diagnosis."""
    return " ".join(filter(None, (_why(document), _advice(document), _command(document))))


def brief(document: Document, limit_bytes: int, *, last: str) -> str:
    """
    Verdict, numbers, why, advice, command and `last`, as much of it as the limit allows.

    What helps least goes first; only names and advice that fill it alone are cut.
    """
    sizes, why, advice, command = _numbers(document), _why(document), _advice(document), _command(document)
    for parts in (
        (*sizes, why, advice, command, last),
        (*sizes, why, advice, command),
        (*sizes[:1], why, advice, command),
        (*sizes[:1], advice, command),
    ):
        told = " ".join(filter(None, (verdict(document), *parts)))
        if len(told.encode("utf-8", "replace")) <= limit_bytes:
            return told
    return cut(" ".join(filter(None, (verdict(document), *sizes[:1], advice))), limit_bytes)


def _advice(document: Document) -> str:
    told = text(first_advice(document), "text")
    return _help_by_cause(document) if told is None else f"Advice: {_as_sentence(told)}"


def _command(document: Document) -> str:
    command = text(first_advice(document), "command")
    return "" if command is None else f"Run: {printable(command)}"


def first_advice(document: Document) -> Document:
    """Empty where there is none."""
    return _first(part(document, "diagnosis").get("advice"))


def _first(items: object) -> Document:
    first = items[0] if isinstance(items, list) and items else None
    return first if isinstance(first, Mapping) else {}


def _why(document: Document) -> str:
    """`Leak: its anon grew by 8 MiB/h, ...` or what explains most; "": not known."""
    diagnosis = part(document, "diagnosis")
    pattern, reasons = text(diagnosis, "pattern"), diagnosis.get("reasons")
    # Of node pressure the verdict says it already.
    if pattern not in (None, "unknown", "node_pressure") and isinstance(reasons, list) and reasons:
        return _as_sentence(f"{str(pattern).capitalize().replace('_', ' ')}: {reasons[0]}")
    return _as_sentence(text(_first(diagnosis.get("findings")), "text") or "")


def _as_sentence(words: str) -> str:
    """printable() as all that may hold a name; with its full stop."""
    return printable(words if not words or words.endswith((".", "!", "?")) else f"{words}.")


def _help_by_cause(document: Document) -> str:
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
    return " ".join(_numbers(document))


def _numbers(document: Document) -> list[str]:
    """Sentences, the most telling first."""
    memory, container, victim = part(document, "memory"), part(document, "container"), part(document, "victim")
    shmem = _sizes(part(memory, "stat"), {"shmem": "of it shmem"}) if _share_of_shmem(document) >= 0.25 else []
    sentences = (
        _sentence("Limited cgroup", [*_sizes(memory, _MEMORY), *shmem]),
        _sentence("Victim", [*_sizes(victim, _VICTIM), *_score(victim)]),
        _sentence("Container", _sizes(container, {"limit_bytes": "limit", "request_bytes": "request"})),
    )
    return [sentence for sentence in sentences if sentence]


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
