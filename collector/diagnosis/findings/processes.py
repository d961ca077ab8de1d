"""Whose memory it was: many processes, another container, or a victim that is not what its owner would expect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from collector.diagnosis.findings.heap import limit_words
from collector.diagnosis.findings.use import HOLDER_SHARE, TELLING_SHARE, Amount, evidence, limit_of, listed, percent
from collector.diagnosis.model import Finding, FindingKind
from collector.model import Cause, ContainerKind, Fate
from collector.units import human_bytes

if TYPE_CHECKING:
    from collector.diagnosis.model import Facts, Neighbour
    from collector.model import Task

LEAST_WORKERS = 3
"""A server's parent and two of its workers."""
LEAST_POOL = 4
"""Of processes of an interpreter, which tells nothing of what they are."""
LEAST_FAN_OUT = 10
"""Of processes with one name, where nothing shows that a server was told to have them."""

_MOST_NAMES = 3
_CONFIGURED = re.compile(
    r"(?:(?P<variable>GUNICORN_CMD_ARGS): )?--workers=(?P<workers>\d+)|WEB_CONCURRENCY=(?P<web>\d+)"
)
# As their comms begin: some put their state behind it ("gunicorn: work", "php-fpm: pool w").
_SERVER = re.compile(r"gunicorn|uwsgi|uvicorn|unicorn|puma|php-fpm|apache2|httpd|postgres|celery|\[celery")
_INTERPRETER = re.compile(r"python[0-9.]*|ruby[0-9.]*|perl|php|node")


def prefork(facts: Facts) -> Finding | None:
    """A server with a fixed number of processes: from the task dump, or by its configuration and the victim's size."""
    limit = limit_of(facts)
    comm = facts.victim.comm
    if limit is None or comm is None:
        return None
    configured, group = _configured(facts), _by_comm(facts.tasks).get(comm, [])
    is_pool = _INTERPRETER.fullmatch(comm) is not None and _are_workers(group)
    if not (configured or is_pool or _SERVER.match(comm)):
        return None
    held = _resident(group)
    if len(group) < LEAST_WORKERS or held < HOLDER_SHARE * limit.size:
        return _by_configuration(facts, configured, limit)
    told = f" ({configured} workers configured)" if configured else ""
    if held > limit.size:
        why = "so they share much of it, and what each has of its own is not known"
    else:
        why = "each worker takes its own share, and what they have in common counts once for each"
    return Finding(
        kind=FindingKind.PREFORK,
        text=f"{_together(group, limit, facts)}{told}: {why}",
        values=_group_values(group, limit) | {"workers_configured": configured},
        evidence=evidence("tasks", "victim.comm", limit.evidence, "hints" if configured else None),
    )


def _are_workers(group: list[Task]) -> bool:
    """Most are about as large as the largest: all but their parent."""
    sizes = sorted((task.rss_bytes or 0 for task in group), reverse=True)
    return len(sizes) >= LEAST_POOL and sizes[len(sizes) * 2 // 3] * 2 >= sizes[0] > 0


def _by_configuration(facts: Facts, configured: int | None, limit: Amount) -> Finding | None:
    each = facts.victim.anon_rss_bytes
    if configured is None or configured < 2 or each is None or configured * each <= limit.size or facts.tasks:
        return None
    return Finding(
        kind=FindingKind.PREFORK,
        text=f"{configured} workers are configured: were each as large as the victim ({human_bytes(each)}), they would "
        f"need {human_bytes(configured * each)}, more than {limit_words(facts)} of {human_bytes(limit.size)}",
        values={
            "workers_configured": configured,
            "mean_bytes": each,
            "together_bytes": configured * each,
            "limit_bytes": limit.size,
            "percent": percent(each, limit.size),
        },
        evidence=evidence("hints", "victim.anon_rss_bytes", limit.evidence),
    )


def _configured(facts: Facts) -> int | None:
    """gunicorn's order: the command line, GUNICORN_CMD_ARGS, WEB_CONCURRENCY."""
    found: dict[int, int] = {}
    for match in filter(None, map(_CONFIGURED.fullmatch, facts.hints or ())):
        rank = 2 if match["web"] else 1 if match["variable"] else 0
        found[rank] = int(match["web"] or match["workers"])
    return found[min(found)] or None if found else None


def fan_out(facts: Facts) -> Finding | None:
    """Many processes of one name, none of which is large."""
    limit = limit_of(facts)
    if limit is None or prefork(facts) is not None:
        return None
    group = max(_by_comm(facts.tasks).values(), key=_resident, default=[])
    held = _resident(group)
    # What is more than the limit is shared, as between a process and its forks: then it may be the size of one.
    if len(group) < LEAST_FAN_OUT or not HOLDER_SHARE * limit.size <= held <= limit.size:
        return None
    if max(task.rss_bytes or 0 for task in group) > HOLDER_SHARE * held:
        return None
    return Finding(
        kind=FindingKind.PROCESS_FAN_OUT,
        text=f"{_together(group, limit, facts)}: it is their number, not the size of one",
        values=_group_values(group, limit),
        evidence=evidence("tasks", limit.evidence),
    )


def _by_comm(tasks: tuple[Task, ...]) -> dict[str, list[Task]]:
    """Processes, not threads: the dump has a row for each, but old kernels may print a thread for its process."""
    groups: dict[str, dict[int, Task]] = {}
    for task in tasks:
        groups.setdefault(task.comm, {})[task.pid if task.tgid is None else task.tgid] = task
    return {comm: list(rows.values()) for comm, rows in groups.items()}


def _resident(group: list[Task]) -> int:
    return sum(task.rss_bytes or 0 for task in group)


def _together(group: list[Task], limit: Amount, facts: Facts) -> str:
    held = _resident(group)
    resident = (
        f"{len(group)} processes {group[0].comm} had {human_bytes(held)} resident, "
        f"{human_bytes(held // len(group))} each on average"
    )
    if held > limit.size:
        return f"{resident}, more than {limit_words(facts)} of {human_bytes(limit.size)}"
    return f"{resident}, {percent(held, limit.size)} % of {limit_words(facts)} of {human_bytes(limit.size)}"


def _group_values(group: list[Task], limit: Amount) -> dict[str, int | float | str | bool | None]:
    """`mean_bytes` None: most of it may be shared, so that one process less gives back little."""
    held = _resident(group)
    return {
        "comm": group[0].comm,
        "processes": len(group),
        "mean_bytes": held // len(group) if held <= limit.size else None,
        "together_bytes": held,
        "limit_bytes": limit.size,
        "percent": min(100, percent(held, limit.size)),
    }


def neighbour(facts: Facts) -> Finding | None:
    """The pod's limit was hit: what the victim's container did not hold, the others did."""
    limit = limit_of(facts)
    if facts.cause is not Cause.POD_LIMIT or facts.lone or limit is None or not facts.neighbours:
        return None
    known = [(one.working_set_bytes, one) for one in facts.neighbours if one.working_set_bytes]
    known.sort(key=lambda one: -one[0])
    if not known or known[0][0] < TELLING_SHARE * limit.size:
        return None
    largest, first = known[0]
    together = sum(size for size, _ in known)
    own = facts.victim.anon_rss_bytes
    victim = "" if own is None else f", the victim {human_bytes(own)}"
    return Finding(
        kind=FindingKind.NEIGHBOUR,
        text=f"The pod's limit of {human_bytes(limit.size)} was hit, not the container's: beside it "
        f"{listed([_held(one, size) for size, one in known[:_MOST_NAMES]])}{victim}",
        values={
            "container": first.name,
            "working_set_bytes": largest,
            "request_bytes": first.request_bytes,
            "container_limit_bytes": first.limit_bytes,
            "limit_bytes": limit.size,
            "together_bytes": together,
            "percent": percent(largest, limit.size),
        },
        evidence=evidence("neighbours", limit.evidence, None if own is None else "victim.anon_rss_bytes"),
    )


def _held(one: Neighbour, size: int) -> str:
    name = "a container that is not named" if one.name is None else one.name
    request = f" (requests {human_bytes(one.request_bytes)})" if one.request_bytes else ""
    return f"{name} held {human_bytes(size)}{request}"


def child_killed(facts: Facts) -> Finding | None:
    if facts.fate is not Fate.SURVIVED:
        return None
    comm = facts.victim.comm
    child = "A child process" if comm is None else f"The child process {comm}"
    return Finding(
        kind=FindingKind.CHILD_KILLED,
        text=f"{child} died and its container lives on: Kubernetes shows nothing of it, no OOMKilled and no restart",
        values={"comm": comm, "pid": facts.victim.pid},
        evidence=("fate",),
    )


def sidecar_victim(facts: Facts) -> Finding | None:
    meaning = "not the application: its own limit and request are the ones that count"
    return _victim_of_kind(facts, ContainerKind.SIDECAR, FindingKind.SIDECAR_VICTIM, f"sidecar{{}}, {meaning}")


def init_victim(facts: Facts) -> Finding | None:
    meaning = "until it succeeds, the pod's application does not start"
    return _victim_of_kind(facts, ContainerKind.INIT, FindingKind.INIT_VICTIM, f"init container{{}}: {meaning}")


def _victim_of_kind(facts: Facts, kind: ContainerKind, finding: FindingKind, words: str) -> Finding | None:
    """words: with a place for the container's name."""
    container = facts.container
    if container is None or container.kind is not kind:
        return None
    name = f" {container.name}" if container.name is not None else ""
    return Finding(
        kind=finding,
        text=f"The victim is the {words.format(name)}",
        values={"container": container.name},
        evidence=("container.kind",),
    )
