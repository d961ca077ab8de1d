"""The pods that count, and what each of them used."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from collector.diagnosis.model import Facts, PodUse
from collector.model import Cause
from collector.parse.cgroup_path import parse_memcg_path

HOST = ""
"""In place of a pod's uid: a process outside of all pods."""


class Use(NamedTuple):
    """`over_bytes`: what it used and had not requested, negative where that is less; None: its request is not known."""

    pod: PodUse
    bytes: int
    over_bytes: int | None
    by_task: bool
    """Its largest task alone has more than the last sample showed: it grew since."""

    @property
    def name(self) -> str:
        return pod_name(self.pod)


def pods_in_use(facts: Facts) -> list[Use]:
    """
    Those within the limit that was hit, by what they used over their requests, then by what they used.

    Where NUMA nodes ran out, what a pod uses of the whole node tells nothing: none.
    """
    if facts.node is None or facts.cause is Cause.NODE_NUMA:
        return []
    pods = facts.node.pods
    if facts.cause is Cause.QOS_LIMIT:
        limited = parse_memcg_path(facts.oom_memcg or "/").qos_class
        pods = tuple(pod for pod in pods if pod.qos_class is limited)
    largest_task = _largest_tasks(facts)
    uses = [use for pod in pods if (use := _use(pod, largest_task.get(pod.uid))) is not None]
    return sorted(uses, key=lambda use: (use.over_bytes is None, -(use.over_bytes or 0), -use.bytes))


def over_users(facts: Facts) -> list[Use]:
    return [use for use in pods_in_use(facts) if use.over_bytes is not None and use.over_bytes > 0]


def pod_name(pod: PodUse) -> str:
    return pod.uid if pod.name is None else f"{pod.namespace}/{pod.name}"


def _use(pod: PodUse, task: int | None) -> Use | None:
    """
    The sample is seconds old, the task dump is of the moment. Of that only the largest task counts: the sum of all may
    have the pages that they share many times.
    """
    sample = pod.working_set_bytes
    if sample is None and task is None:
        return None
    by_task = sample is None or (task is not None and task > sample)
    used = (task if by_task else sample) or 0
    return Use(pod, used, None if pod.request_bytes is None else used - pod.request_bytes, by_task)


def _largest_tasks(facts: Facts) -> dict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    whose = facts.node.pod_of_pid if facts.node else {}
    for task in facts.tasks:
        uid = whose.get(task.pid, HOST)
        if uid != HOST and task.rss_bytes is not None:
            found[uid] = max(found[uid], task.rss_bytes)
    return found
