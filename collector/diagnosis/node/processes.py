"""Processes of the task dump: those outside the pods, and where nobody knows whose they are, names and tiers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from collector.diagnosis.model import Facts, Value
from collector.diagnosis.node.part import MOST_LISTED, MOST_NAMED, Part
from collector.diagnosis.node.use import HOST
from collector.model import Cause, Task
from collector.units import human_bytes


def host_processes(facts: Facts) -> Part | None:
    """Only where the whole node ran out: elsewhere a limit of the pods was hit, which host processes do not fill."""
    if facts.node is None or facts.cause is not Cause.NODE or not facts.node.pod_of_pid:
        return None
    whose = facts.node.pod_of_pid
    rows = [task for task in facts.tasks if whose.get(task.pid) == HOST]
    unknown = [task for task in facts.tasks if task.pid not in whose]
    held, lost = resident(rows), resident(unknown)
    if not rows or not held:
        return None
    values: dict[str, Value] = {"host_rss_bytes": held, "host_process_count": len(rows)}
    largest = _by_comm(rows)
    for place, (comm, size, _) in enumerate(largest[:MOST_NAMED], start=1):
        values[f"host_top{place}_name"], values[f"host_top{place}_rss_bytes"] = comm, size
    named = ", ".join(_comm(*one) for one in largest[:MOST_NAMED])
    text = f"host processes outside the pods hold {human_bytes(held)} (largest: {named})"
    if lost:
        values.update(unknown_rss_bytes=lost, unknown_process_count=len(unknown))
        text += f", and of {human_bytes(lost)} in {len(unknown)} more it is not known whose it is"
    return Part(text=text, values=values, evidence=("tasks", "node.pod_of_pid"))


def tasks_alone(facts: Facts) -> Part | None:
    """All that a log alone tells: names and tiers."""
    total = resident(facts.tasks)
    if not total:
        return None
    largest = _by_comm(facts.tasks)
    values: dict[str, Value] = {"tasks_rss_bytes": total, "task_count": len(facts.tasks)}
    for place, (comm, size, count) in enumerate(largest[:MOST_LISTED], start=1):
        top: dict[str, Value] = {"name": comm, "rss_bytes": size, "count": count}
        values.update({f"task_top{place}_{name}": value for name, value in top.items()})
    named = ", ".join(_comm(*one) for one in largest[:MOST_NAMED])
    text = f"by {_dump_of(facts)}, {named}, of {human_bytes(total)} resident in all {len(facts.tasks)} tasks"
    tiers = _by_tier(facts.tasks) if _is_kubernetes(facts) else {}
    if tiers:
        values.update({f"tier_{tier}_rss_bytes": size for tier, size in tiers.items()})
        shares = ", ".join(f"{_TIERS[tier]} {human_bytes(size)}" for tier, size in tiers.items() if size)
        text += f"; by the tier that oom_score_adj shows: {shares}"
    return Part(text=text, values=values, evidence=("tasks",))


def _dump_of(facts: Facts) -> str:
    if facts.cause is Cause.NODE:
        return "the task dump"
    if facts.cause is Cause.NODE_NUMA:
        return "the task dump, which has only tasks that may use these NUMA nodes"
    return "the task dump, which has only tasks of these pods"


def _by_comm(tasks: Iterable[Task]) -> list[tuple[str, int, int]]:
    """Name, resident bytes and number of tasks, the largest first."""
    sizes: defaultdict[str, int] = defaultdict(int)
    counts: Counter[str] = Counter()
    for task in tasks:
        sizes[task.comm] += task.rss_bytes or 0
        counts[task.comm] += 1
    return [(comm, size, counts[comm]) for comm, size in sorted(sizes.items(), key=lambda one: -one[1])]


_TIERS = {
    "best_effort": "BestEffort",
    "burstable": "Burstable",
    "guaranteed": "Guaranteed or node-critical",
    "host": "host",
}


def _by_tier(tasks: Iterable[Task]) -> dict[str, int]:
    """Empty where a dump has no oom_score_adj."""
    sizes = dict.fromkeys(_TIERS, 0)
    for task in tasks:
        adj = task.oom_score_adj
        if adj is None:
            return {}
        sizes[_tier(adj)] += task.rss_bytes or 0
    return sizes


def _tier(adj: int) -> str:
    """
    As the kubelet gives them. Older ones gave Guaranteed -998 and Burstable 2 at least; today -998 is a sandbox's,
    which is small.
    """
    if adj == 1000:
        return "best_effort"
    if 2 <= adj <= 999:
        return "burstable"
    return "guaranteed" if adj in {-998, -997} else "host"


def _is_kubernetes(facts: Facts) -> bool:
    """Elsewhere systemd and the desktop give such values too."""
    return facts.pod is not None or facts.node is not None or facts.cause in (Cause.NODE_ALLOCATABLE, Cause.QOS_LIMIT)


def resident(tasks: Iterable[Task]) -> int:
    return sum(task.rss_bytes or 0 for task in tasks)


def _comm(comm: str, size: int, count: int) -> str:
    return f"{comm} {human_bytes(size)}" + (f" in {count} tasks" if count > 1 else "")
