"""Why this victim: its rank by the kernel's score, and whom a lower oom_score_adj has spared."""

from __future__ import annotations

from collector.badness import (
    Badness,
    Given,
    NotRecomputed,
    adj_tier,
    memory_of,
    recompute_from,
    tell_choice,
    total_of_memcg,
    total_of_node,
)
from collector.diagnosis.model import Facts, Finding, FindingKind, Value
from collector.diagnosis.node.use import HOST, pod_name
from collector.model import DEFAULT_PAGE_SIZE, Cause, Task


def find_choice(facts: Facts) -> Finding | None:
    """
    Values: `victim_bytes`, `memory_rank`, `task_count`; where known `rank`, `adj_decided`, `oom_score_adj`, `tier`,
    `qos_class`; and of the largest task that a lower oom_score_adj spared `spared_pid`, `spared_name`, `spared_bytes`,
    `spared_oom_score_adj`, `spared_tier`, `spared_pod`.
    """
    found = _recompute(facts)
    if isinstance(found, NotRecomputed):
        return None
    values: dict[str, Value] = {
        "victim_bytes": memory_of(found.victim),
        "memory_rank": found.memory_rank,
        "task_count": found.task_count,
        "rank": found.rank,
        "adj_decided": found.adj_decided,
        **_tier_of_victim(facts, found.victim),
    }
    text = f"{found.victim.comm} was chosen: {tell_choice(found)}"
    tiers = [f"{found.victim.oom_score_adj} is that of {values['tier']}"] if values["tier"] is not None else []
    evidence = ["tasks", "victim.pid"]
    spared = _spared(found)
    if spared is not None:
        whose = _pod_of(facts, spared)
        tier = adj_tier(spared.oom_score_adj or 0) if tiers else None
        values.update(
            spared_pid=spared.pid,
            spared_name=spared.comm,
            spared_bytes=memory_of(spared),
            spared_oom_score_adj=spared.oom_score_adj,
            spared_tier=tier,
            spared_pod=whose,
        )
        of = f" of pod {whose}" if whose is not None else ""
        tiers += [f"{spared.oom_score_adj}, which protected {spared.comm}{of}, that of {tier}"] if tier else []
        evidence += ["node.pod_of_pid"] if whose is not None else []
    if tiers:
        text += f"; oom_score_adj {' and '.join(tiers)}"
    held = {name: value for name, value in values.items() if value is not None}
    return Finding(kind=FindingKind.VICTIM_CHOICE, text=text, values=held, evidence=tuple(evidence))


def _recompute(facts: Facts) -> Badness | NotRecomputed:
    if facts.cause is Cause.NODE:
        least, most = total_of_node(facts.node_memory)
    elif facts.cause is Cause.NODE_NUMA:  # the sizes of the NUMA nodes are not told
        least, most = 0, None
    else:
        least, most = total_of_memcg(facts.memory)
    return recompute_from(
        Given(
            tasks=facts.tasks,
            victim_pid=facts.victim.pid,
            least_total_bytes=least,
            most_total_bytes=most,
            page_size=facts.page_size or DEFAULT_PAGE_SIZE,
            page_size_known=facts.page_size is not None,
        )
    )


def _tier_of_victim(facts: Facts, victim: Task) -> dict[str, Value]:
    """Only a pod's process: others take such values too."""
    adj = victim.oom_score_adj
    if facts.pod is None or adj is None:
        return {"oom_score_adj": adj, "tier": None}
    qos_class = facts.pod.qos_class
    return {
        "oom_score_adj": adj,
        "tier": adj_tier(adj),
        "qos_class": None if qos_class is None else str(qos_class),
    }


def _spared(found: Badness) -> Task | None:
    """The largest task that has more than the victim, and lives since its oom_score_adj is lower."""
    if not found.adj_decided:
        return None
    for task in (found.largest, found.largest_killable):
        if task is not found.victim and (task.oom_score_adj or 0) < (found.victim.oom_score_adj or 0):
            return task
    return None


def _pod_of(facts: Facts, task: Task) -> str | None:
    uid = facts.node.pod_of_pid.get(task.pid, HOST) if facts.node else HOST
    if facts.node is None or uid == HOST:
        return None
    return next((pod_name(pod) for pod in facts.node.pods if pod.uid == uid), uid)
