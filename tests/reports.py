"""Reports and incidents built by hand; tests change one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from collector.model import (
    Attribution,
    Cause,
    Constraint,
    Evidence,
    Incident,
    MemcgPath,
    MemoryUse,
    Moment,
    NodeMemory,
    OomReport,
    Process,
    Scope,
    Task,
    Verdict,
)

KIB, MIB, PAGE = 1024, 1024 * 1024, 4096

_REPORT = OomReport(
    settled=True,
    first_moment=Moment(),
    kill_moment=Moment(),
    kill_text="Memory cgroup out of memory: Killed process 488 (hog) total-vm:67560kB",
    evidence=(Evidence.REPORT, Evidence.SUMMARY_LINE, Evidence.KILL_LINE),
    scope=Scope.MEMCG,
    constraint=Constraint.MEMCG,
    unknown_constraint=None,
    global_oom=False,
    oom_memcg=None,
    task_memcg=None,
    task_memcg_cut=None,
    group_memcg=None,
    victim=Process(pid=488, comm="hog"),
    also_killed=(),
    invoker=None,
    memory=None,
    node_memory=None,
    tasks=(),
    page_size=PAGE,
    page_size_known=True,
    missing=(),
    contradictions=(),
)


def report(**changes: Any) -> OomReport:
    return replace(_REPORT, **changes)


def memcg_report(*, pid: int, tasks: str, limit: int, swap_limit: int | None = 0, **changes: Any) -> OomReport:
    memory = MemoryUse(usage_bytes=limit, limit_bytes=limit, swap_usage_bytes=0, swap_limit_bytes=swap_limit)
    victim = Process(pid=pid, comm=None)
    changes = {"oom_memcg": MemcgPath("/limited"), "memory": memory, **changes}
    return report(victim=victim, tasks=dump(tasks), **changes)


def global_report(*, pid: int, tasks: str, ram: int, swap: int = 0, **changes: Any) -> OomReport:
    changes = {
        "scope": Scope.GLOBAL,
        "global_oom": True,
        "constraint": Constraint.NONE,
        "kill_text": f"Out of memory: Killed process {pid} (x) total-vm:4kB",
        "node_memory": NodeMemory(ram_bytes=ram, swap_bytes=swap, free_swap_bytes=0),
        **changes,
    }
    return report(victim=Process(pid=pid, comm=None), tasks=dump(tasks), **changes)


def dump(rows: str) -> tuple[Task, ...]:
    """Rows of `pid uid tgid total_vm rss pgtables_bytes swapents oom_score_adj name`, as the kernel prints them."""
    return tuple(_task(row) for row in rows.strip().splitlines())


def _task(row: str) -> Task:
    *numbers, comm = row.replace("[", "").replace("]", "").split(None, 8)
    pid, uid, tgid, total_vm, rss, pgtables, swap, adj = map(int, numbers)
    return Task(pid, tgid, uid, comm, total_vm * PAGE, rss * PAGE, pgtables, swap * PAGE, adj)


def incident(oom: OomReport, **changes: Any) -> Incident:
    values: dict[str, Any] = {
        "id": "0" * 16,
        "report": oom,
        "attribution": Attribution(),
        "verdict": Verdict(cause=Cause.UNKNOWN, node_pressure=None, reason="nothing is proved", evidence=oom.evidence),
        "time": None,
        "boot_id": None,
        "node": None,
        "summary": "Something was killed.",
    }
    return Incident(**{**values, **changes})
