"""
For the owner of a node-pressure victim. A higher limit would make it worse: what decides is the request, by the
kubelet's formula for oom_score_adj (pkg/kubelet/qos/policy.go), which the kernel adds to the share of memory used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.diagnosis.advice.sizes import size_request
from collector.diagnosis.advice.words import how
from collector.diagnosis.commands import quantity, set_resources, tidy_up
from collector.diagnosis.model import Action, Advice
from collector.model import QosClass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from collector.diagnosis.advice.words import Given, Target
    from collector.diagnosis.model import Facts

GUARANTEED_ADJ = -997
BEST_EFFORT_ADJ = 1000
_LEAST_BURSTABLE, _MOST_BURSTABLE = 3, 999


def advise_victim(given: Given, told: Sequence[Advice]) -> Iterator[Advice]:
    """Nothing for what is Guaranteed or node-critical already, nor for the host's processes. told: the steps before."""
    facts, target = given.facts, given.target
    now = facts.victim.oom_score_adj
    if facts.container is None or now is None or not _LEAST_BURSTABLE <= now <= BEST_EFFORT_ADJ:
        return
    if facts.pod is not None and facts.pod.qos_class is QosClass.GUARANTEED:
        return
    yield from _request(given, now, told)
    yield Advice(
        action=Action.USE_GUARANTEED,
        text=f"If it must not die: requests equal to limits, memory and CPU, in all containers of the pod make it "
        f"Guaranteed, and oom_score_adj {GUARANTEED_ADJ} instead of {now}",
        values={**target.values, "oom_score_adj_now": now, "oom_score_adj_then": GUARANTEED_ADJ},
    )


def _request(given: Given, now: int, told: Sequence[Advice]) -> Iterator[Advice]:
    facts, target = given.facts, given.target
    capacity = facts.node_memory.ram_bytes if facts.node_memory else None
    limit = facts.container.limit_bytes if facts.container else None
    request = _told(told, target) or size_request(facts, given.judgement, limit) or _held(facts, limit)
    if not capacity or request is None or request > capacity:
        return
    then = burstable_adj(request, capacity)
    if then >= now:
        return
    bare = target.workload is not None and target.workload.kind == "Pod"
    command = None
    if target.workload is not None and target.container is not None and not bare:
        command = set_resources(target.workload, target.container, kind=target.kind, request=request)
    yield Advice(
        action=Action.SET_REQUEST,
        text=f"Request {quantity(request)} of memory for {target}, what it needs: its oom_score_adj falls from {now} "
        f"to about {then}, so that the kernel prefers others{how(target.workload)}",
        values={
            **target.values,
            "request_bytes": request,
            "oom_score_adj_now": now,
            "oom_score_adj_then": then,
            "node_memory_bytes": capacity,
        },
        command=command,
    )


def _told(steps: Sequence[Advice], target: Target) -> int | None:
    """Where the same container has been given a request already, there must not be a second number."""
    asked = (step.values.get("request_bytes") for step in steps if target.values.items() <= step.values.items())
    request = next(asked, None)
    return request if target.values and isinstance(request, int) else None


def _held(facts: Facts, limit: int | None) -> int | None:
    """What the victim held when it was killed, where no history tells its steady state."""
    parts = (facts.victim.anon_rss_bytes, facts.victim.shmem_rss_bytes)
    held = sum(part for part in parts if part is not None)
    if not held:
        return None
    request = tidy_up(held)
    return request if limit is None else min(request, limit)


def burstable_adj(request: int, capacity: int) -> int:
    """The kubelet's, up to 1.36: capacity is the machine's memory."""
    return min(max(_LEAST_BURSTABLE, 1000 - 1000 * request // capacity), _MOST_BURSTABLE)
