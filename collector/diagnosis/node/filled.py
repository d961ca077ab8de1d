"""Who filled the node: pods by what they use over their requests, host processes, page cache and kernel memory."""

from __future__ import annotations

from collections.abc import Iterable

from collector.diagnosis.model import Facts, Finding, FindingKind, Value
from collector.diagnosis.node.kinds import kinds_of_node, kinds_of_pods, left_over
from collector.diagnosis.node.part import MOST_LISTED, MOST_NAMED, Part
from collector.diagnosis.node.processes import host_processes, tasks_alone
from collector.diagnosis.node.use import Use, pods_in_use
from collector.model import Cause
from collector.parse.cgroup_path import parse_memcg_path
from collector.units import human_bytes


def find_filled(facts: Facts) -> Finding | None:
    """
    Values: `pod_count`, `pods_use_bytes`, then for each of the first ten pods, from 1 on, `top1_pod` (`namespace/name`,
    else the uid), `top1_use_bytes`, and where known `top1_over_bytes`, `top1_request_bytes`, `top1_qos_class`,
    `top1_owner`; `host_rss_bytes`, `host_process_count`, `host_top1_name`, `host_top1_rss_bytes`; without pods
    `task_top1_name`, `task_top1_rss_bytes`, `task_top1_count`, and `tier_burstable_rss_bytes` and so on; of the
    kernel's own count `page_cache_bytes`, `shmem_bytes`, `kernel_bytes`, `free_bytes`, `unlisted_bytes`, or what is
    left over, `not_accounted_bytes`.
    """
    uses = pods_in_use(facts)
    pods = _pods(uses, facts) if uses else tasks_alone(facts)
    host = host_processes(facts)
    kinds = kinds_of_node(facts) or kinds_of_pods(facts) or left_over(facts, uses)
    parts = [part for part in (pods, host, kinds) if part is not None]
    if not parts:
        return None
    return Finding(
        kind=FindingKind.NODE_FILLED_BY,
        text=f"{_what(facts)}: {'; '.join(part.text for part in parts)}",
        values={name: value for part in parts for name, value in part.values.items()},
        evidence=tuple(dict.fromkeys(witness for part in parts for witness in part.evidence)),
    )


def _what(facts: Facts) -> str:
    node, memory = facts.node_memory, facts.memory
    if facts.cause is Cause.NODE_NUMA:
        return "Who filled the NUMA nodes that the caller may use"
    if facts.cause is Cause.NODE:
        return "Who filled the node" + (f" of {human_bytes(node.ram_bytes)}" if node and node.ram_bytes else "")
    limit = f" of {human_bytes(memory.limit_bytes)}" if memory and memory.limit_bytes else ""
    if facts.cause is Cause.NODE_ALLOCATABLE:
        return f"Who filled the limit{limit} that all pods have together"
    qos_class = parse_memcg_path(facts.oom_memcg or "/").qos_class
    return f"Who filled the limit{limit} that the {qos_class or 'QoS class'} pods have together"


# Pods


def _pods(uses: list[Use], facts: Facts) -> Part:
    total = sum(use.bytes for use in uses)
    values: dict[str, Value] = {"pod_count": len(uses), "pods_use_bytes": total}
    evidence = ["node.pods"]
    evidence += ["tasks", "node.pod_of_pid"] if any(use.by_task for use in uses) else []
    requests = [use.pod.request_bytes for use in uses if use.pod.request_bytes is not None]
    over = [use for use in uses if use.over_bytes is not None and use.over_bytes > 0]
    if over:
        shown, text = over, "; ".join(_over(use) for use in over[:MOST_NAMED])
    elif len(requests) == len(uses):
        shown, text = [], f"no pod uses more than it requests, {human_bytes(sum(requests))} together"
    else:
        shown = sorted((use for use in uses if use.over_bytes is None), key=lambda use: -use.bytes)
        largest = ", ".join(f"{use.name} {human_bytes(use.bytes)}" for use in shown[:MOST_NAMED])
        text = f"the largest pods whose requests are not known are {largest}"
    for place, use in enumerate(shown[:MOST_LISTED], start=1):
        values.update(_listed(f"top{place}", use))
    together = f"{len(uses)} pods use {human_bytes(total)} together" if len(uses) > 1 else ""
    if together and facts.allocatable_bytes is not None and facts.cause is not Cause.QOS_LIMIT:
        together += f", of {human_bytes(facts.allocatable_bytes)} that they may use"
        values["allocatable_bytes"] = facts.allocatable_bytes
        evidence.append("allocatable_bytes")
    return Part(text="; ".join(filter(None, (text, together))), values=values, evidence=tuple(evidence))


def _over(use: Use) -> str:
    qos = f" ({use.pod.qos_class})" if use.pod.qos_class else ""
    request = use.pod.request_bytes
    if not request:
        return f"{use.name}{qos} uses {human_bytes(use.bytes)} and requests nothing"
    over = human_bytes(use.over_bytes or 0)
    return f"{use.name}{qos} uses {human_bytes(use.bytes)}, {over} over its request of {human_bytes(request)}"


def _listed(place: str, use: Use) -> Iterable[tuple[str, Value]]:
    pod = use.pod
    owner = f"{pod.owner_kind}/{pod.owner_name}" if pod.owner_kind and pod.owner_name else None
    facts: dict[str, Value] = {
        "pod": use.name,
        "use_bytes": use.bytes,
        "over_bytes": use.over_bytes,
        "request_bytes": pod.request_bytes,
        "qos_class": None if pod.qos_class is None else str(pod.qos_class),
        "priority_class": pod.priority_class,
        "owner": owner,
    }
    return ((f"{place}_{name}", value) for name, value in facts.items() if value is not None)
