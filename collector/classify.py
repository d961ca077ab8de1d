"""
Whose limit was hit: decided by which memcg ran out, never by an exit code and never by oom_score_adj alone.

One rule, one function: it looks at a report, and at what was seen beside it, and answers with a verdict, or with None
where it has no say. The first answer counts. docs/causes.md tells each rule for people.
"""

from __future__ import annotations

from collections.abc import Callable

from collector.model import (
    AttributionMethod,
    Cause,
    Constraint,
    Evidence,
    OomReport,
    QosClass,
    Scope,
    Sighting,
    Verdict,
)
from collector.parse.cgroup_path import Level, is_same_or_ancestor, parse_memcg_path

PRESSURE: dict[Cause, bool | None] = {
    Cause.CONTAINER_LIMIT: False,
    Cause.NESTED_LIMIT: False,
    Cause.POD_LIMIT: False,
    Cause.QOS_LIMIT: True,
    Cause.NODE_ALLOCATABLE: True,
    Cause.SYSTEM_LIMIT: False,
    Cause.NODE: True,
    Cause.NODE_NUMA: True,
    Cause.MANUAL: False,
    Cause.UNKNOWN: None,
}

SYSRQ_ORDER = -1
UNKILLABLE_ADJ, NODE_DAEMON_ADJ, SANDBOX_ADJ, GUARANTEED_ADJ, BEST_EFFORT_ADJ = -1000, -999, -998, -997, 1000

Rule = Callable[[OomReport, Sighting | None], Verdict | None]


def classify(report: OomReport, sighting: Sighting | None = None) -> Verdict:
    """
    The verdict on a report, with what it rests on and what speaks against it.

    Evidence.OOM_SCORE_ADJ is named wherever the victim's value is known: it is the second witness in every incident.
    """
    verdict = next(verdict for rule in RULES if (verdict := rule(report, sighting)) is not None)
    return Verdict(
        cause=verdict.cause,
        node_pressure=verdict.node_pressure,
        reason=verdict.reason,
        evidence=tuple(dict.fromkeys((*report.evidence, *_witnesses(report, sighting), *verdict.evidence))),
        contradictions=(*report.contradictions, *contradictions(report, verdict.cause)),
    )


def _witnesses(report: OomReport, sighting: Sighting | None) -> list[Evidence]:
    found = []
    if sighting is not None and sighting.method in _WITNESS:
        found.append(_WITNESS[sighting.method])
    if report.victim.oom_score_adj is not None:
        found.append(Evidence.OOM_SCORE_ADJ)
    return found


_WITNESS = {
    AttributionMethod.PROCESS_INDEX: Evidence.PROCESS_INDEX,
    AttributionMethod.PROC: Evidence.PROCESS_INDEX,
    AttributionMethod.MEMORY_EVENTS: Evidence.MEMORY_EVENTS,
}


def by_sysrq(report: OomReport, _: Sighting | None) -> Verdict | None:
    """sysrq-f: the header's order is -1. Somebody asked for a kill; no limit was hit."""
    if report.invoker is None or report.invoker.order != SYSRQ_ORDER:
        return None
    return _verdict(Cause.MANUAL, "the header's order is -1: an OOM kill asked for by sysrq-f")


def by_memcg_limit(report: OomReport, _: Sighting | None) -> Verdict | None:
    """`oom_memcg` names the memcg whose limit was hit; what that cgroup is, its path tells."""
    if report.oom_memcg is None:
        return None
    limited = parse_memcg_path(report.oom_memcg)
    if _holds_a_kubelet(report):
        return _verdict(Cause.SYSTEM_LIMIT, "oom_memcg lies above a whole kubepods tree: a node in a container")
    cause, what = _LIMITED[limited.level]
    if limited.level is Level.OTHER and limited.container_id is not None:
        cause, what = Cause.NESTED_LIMIT, "a cgroup in a container"
    return _verdict(cause, f"oom_memcg is {what}")


def by_numa(report: OomReport, _: Sighting | None) -> Verdict | None:
    """A cpuset or memory policy allowed only some NUMA nodes, and those were full; the others may have been free."""
    if report.constraint not in (Constraint.CPUSET, Constraint.MEMORY_POLICY):
        return None
    return _verdict(
        Cause.NODE_NUMA, f"constraint {report.constraint}: the NUMA nodes that the invoker may use were full"
    )


def by_unknown_constraint(report: OomReport, _: Sighting | None) -> Verdict | None:
    """A constraint that these rules do not know (a newer kernel, an OOM policy in BPF) proves nothing."""
    if report.unknown_constraint is None:
        return None
    return _verdict(Cause.UNKNOWN, f"constraint {report.unknown_constraint} is not known to these rules")


def by_global_oom(report: OomReport, _: Sighting | None) -> Verdict | None:
    """`global_oom`, or `Out of memory:` on a kill line whose summary line is missing: a storm has to page."""
    if report.global_oom:
        return _verdict(Cause.NODE, "global_oom in the summary line")
    if report.scope is Scope.GLOBAL:
        return _verdict(Cause.NODE, 'the kill line says "Out of memory", and no memcg is named')
    return None


def by_counters(report: OomReport, sighting: Sighting | None) -> Verdict | None:
    """
    `oom` of memory.events.local moves where a limit was hit, for nobody else: one level at or above the victim.

    Where it moved nowhere in the tree, the kill was not a limit's. Only without a line that speaks of a memcg this
    proves the node; a sysrq-f looks the same.
    """
    if sighting is None:
        return None
    if sighting.limited is not None:
        cause, what = _LIMITED[parse_memcg_path(sighting.limited).level]
        return _counted(cause, f"memory.events of {what} counted the hit limit, and of no other at or above the victim")
    if sighting.unlimited and report.scope is None:
        return _counted(
            Cause.NODE, "memory.events counted the kill, and no limit that was hit: a global OOM, unless by sysrq-f"
        )
    return None


def by_nothing(report: OomReport, _: Sighting | None) -> Verdict:
    """A memcg kill whose memcg the log does not name, or a kill line without any prefix."""
    if report.scope is Scope.MEMCG:
        return _verdict(Cause.UNKNOWN, "a memory cgroup reached its limit; the log does not say which")
    if report.evidence == (Evidence.MEMORY_EVENTS,):
        return _verdict(Cause.UNKNOWN, "memory.events counted an OOM kill that the log does not tell")
    return _verdict(Cause.UNKNOWN, "the log does not say whose limit was hit")


RULES: tuple[Rule, ...] = (
    by_sysrq,
    by_memcg_limit,
    by_numa,
    by_unknown_constraint,
    by_global_oom,
    by_counters,
    by_nothing,
)

_LIMITED: dict[Level, tuple[Cause, str]] = {
    Level.CONTAINER: (Cause.CONTAINER_LIMIT, "the container's cgroup"),
    Level.NESTED: (Cause.NESTED_LIMIT, "a cgroup below the container's"),
    Level.POD: (Cause.POD_LIMIT, "the pod's cgroup"),
    Level.POD_CHILD: (Cause.UNKNOWN, "a cgroup of the pod that belongs to no container"),
    Level.QOS: (Cause.QOS_LIMIT, "the cgroup of a whole QoS class"),
    Level.KUBEPODS: (Cause.NODE_ALLOCATABLE, "the cgroup of all pods, limited to what is allocatable"),
    Level.OTHER: (Cause.SYSTEM_LIMIT, "a cgroup outside the pods"),
    Level.ROOT: (Cause.NODE, "the root: all memory"),
}


def contradictions(report: OomReport, cause: Cause) -> tuple[str, ...]:
    """Witnesses that disagree with the verdict or with each other; they are told, not settled."""
    place = parse_memcg_path(report.task_memcg) if report.task_memcg is not None else None
    qos, adj = (place.qos_class if place else None), report.victim.oom_score_adj
    found = []
    if qos is not None and adj is not None and not _fits(adj, qos):
        found.append(
            f"oom_score_adj {adj} is not what the kubelet gives {qos} containers ({_TIERS[qos]}): the process or its "
            "runtime set it"
        )
    if qos is QosClass.BEST_EFFORT and cause is Cause.CONTAINER_LIMIT:
        found.append("the limit of a BestEffort container was hit, which has none by its QoS class")
    if report.global_oom and report.constraint is Constraint.MEMCG:
        found.append("the summary line says both CONSTRAINT_MEMCG and global_oom")
    return tuple(found)


_TIERS = {QosClass.GUARANTEED: "-997", QosClass.BURSTABLE: "3 to 999", QosClass.BEST_EFFORT: "1000"}


def _fits(adj: int, qos: QosClass) -> bool:
    # Node-critical pods of every class get -997, every sandbox -998 (kubelet pkg/kubelet/qos/policy.go).
    if adj in (GUARANTEED_ADJ, SANDBOX_ADJ):
        return True
    if qos is QosClass.BURSTABLE:
        return 3 <= adj <= 999
    return qos is QosClass.BEST_EFFORT and adj == BEST_EFFORT_ADJ


def _holds_a_kubelet(report: OomReport) -> bool:
    """kind and minikube run a node in a container: its limit is above the kubepods that the victim is in."""
    if report.oom_memcg is None or report.task_memcg is None:
        return False
    kubepods = parse_memcg_path(report.task_memcg).kubepods
    return kubepods is not None and kubepods != report.oom_memcg and is_same_or_ancestor(report.oom_memcg, kubepods)


def _counted(cause: Cause, reason: str) -> Verdict:
    return Verdict(cause=cause, node_pressure=PRESSURE[cause], reason=reason, evidence=(Evidence.MEMORY_EVENTS,))


def _verdict(cause: Cause, reason: str) -> Verdict:
    return Verdict(cause=cause, node_pressure=PRESSURE[cause], reason=reason)
