"""
What became of a container in which the kernel killed. The kill itself is never read out of a status, nor doubted by it:
of 30 real kills 13 were told as `Error` by the runtime, and `OOMKilled` outlives its kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from collector.model import ContainerId, ContainerKind, Fate, PodUid
from collector.pods.eviction import is_evicted
from collector.pods.record import PodContainer, PodRecord, RestartPolicy, Termination
from collector.text import printable

if TYPE_CHECKING:
    from collector.pods.index import Found

TWO_WITNESSES = timedelta(seconds=10)
"""Status and cgroup agree that it goes on. A killed PID 1 with much memory takes seconds to leave its cgroup."""
ONE_WITNESS = timedelta(seconds=30)
"""
The status alone shows a container that is dead as running for as long as the kubelet takes to look (a second, and many
on a node out of memory) and to write it down (10 s where it is throttled). And a pod that the API does not show may be
too new, or a static one without its mirror yet.
"""
SLACK = timedelta(seconds=10)
"""A status has whole seconds, cut off; a live kill has the time when it was read, late where the agent was starved."""
DYING = timedelta(seconds=15)
"""A container that ends later than this after the kill has ended of something else."""

_OOM_KILLED = "OOMKilled"
_KILLED = 128 + 9  # as the exit code of what got SIGKILL
_LOST = "ContainerStatusUnknown"  # the kubelet found no container, and made 137 up


class Kill(NamedTuple):
    """Where and when the kernel killed; `killed_at` in UTC."""

    pod_uid: PodUid | None
    container_id: ContainerId | None
    container_name: str | None
    killed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """
    `restart_count`: which restart it was, where that is known. `status`: how this very instance ended, at the kill or
    after. `confirmed`: its reason is OOMKilled. `contradiction`: it was killed when the kernel killed in it, and its
    reason is another.
    """

    fate: Fate
    restart_count: int | None = None
    status: Termination | None = None
    contradiction: str | None = None
    confirmed: bool = False


def fate_of(
    kill: Kill, found: Found | None, *, deleted: bool, cgroup_alive: bool | None, now: datetime
) -> Judged | None:
    """
    None: not known yet. When to give up waiting is the caller's choice.

    deleted: the API does not show the pod, or not any more. cgroup_alive: there are processes in the container's own
    cgroup; None: it was not looked at. The first row that holds:

    | the pod                                                        |                 |
    |----------------------------------------------------------------|-----------------|
    | failed, with the kubelet's reason Evicted                      | evicted         |
    | failed, and its deletion was not asked for                     | pod_failed      |
    | deleted, or at its end after its deletion was asked for        | gone            |
    | **the container has another instance now**                     |                 |
    | known to be later, or started after the kill                   | restarted       |
    | **this instance ended**                                        |                 |
    | and waits in a back-off                                        | restart_pending |
    | for good: by its restart policy in a pod that goes on          | terminated      |
    | all else: what follows is to be seen yet                       | None            |
    | **this instance is told to run, 10 s after the kill**          |                 |
    | and there are processes in its cgroup                          | survived        |
    | **30 s after the kill**                                        |                 |
    | told to run, its cgroup not looked at                          | survived        |
    | not in the status (no API, or late), but alive in its cgroup   | survived        |
    | never seen, not shown, not alive in its cgroup                 | gone            |
    | **all else**: an end that the status does not show yet         | None            |

    Nothing survives in a pod that is being deleted: its end is waited for.
    """
    container = _container(kill, found)
    ended = _end_of(kill.container_id, container)
    waited = now - kill.killed_at
    if found is not None:
        fate = _fate_of_pod(found, deleted=deleted) or _fate_of_container(kill, found, container, ended)
    else:
        fate = Fate.GONE if deleted and not cgroup_alive and waited >= ONE_WITNESS else None
    if fate is None and _survived(kill, found, container, ended, cgroup_alive=cgroup_alive, waited=waited):
        fate = Fate.SURVIVED
    if fate is None:
        return None
    told = ended if ended and ended.finished_at and ended.finished_at >= kill.killed_at - SLACK else None
    return Judged(
        fate=fate,
        # Where another instance ended in between, there was more than one.
        restart_count=container.restart_count if container and ended and fate is Fate.RESTARTED else None,
        status=told,
        contradiction=_contradiction(kill, told),
        confirmed=told is not None and told.reason == _OOM_KILLED,
    )


def _container(kill: Kill, found: Found | None) -> PodContainer | None:
    return (found.container or found.pod.container(kill.container_name)) if found else None


def _end_of(container_id: ContainerId | None, container: PodContainer | None) -> Termination | None:
    """The end of this very instance: another's, with its OOMKilled, proves nothing."""
    if container is None or container_id is None:
        return None
    ends = (container.terminated, container.last)
    return next((end for end in ends if end is not None and end.container_id == container_id), None)


def _fate_of_pod(found: Found, *, deleted: bool) -> Fate | None:
    pod = found.pod
    if is_evicted(pod):
        return Fate.EVICTED
    # Whoever deletes a pod makes it fail, where its containers do not exit with 0 when they are told to stop.
    if pod.phase == "Failed" and not pod.deleting:
        return Fate.POD_FAILED
    at_its_end = pod.deleting and pod.phase in {"Failed", "Succeeded"}
    return Fate.GONE if deleted or found.deleted or at_its_end else None


def _fate_of_container(
    kill: Kill, found: Found, container: PodContainer | None, ended: Termination | None
) -> Fate | None:
    if container is None:
        return None
    if _is_another(kill, container):
        # Known by its id and no longer the current one: it is the earlier one, since versions of a pod do not go back.
        # Else the status may lag behind, and show the instance before.
        known = ended is not None or found.container is not None
        started = container.running_since
        return Fate.RESTARTED if known or (started is not None and started > kill.killed_at) else None
    if ended is None and container.id is None:
        return None
    if _waits_in_back_off(container):
        return Fate.RESTART_PENDING
    return Fate.TERMINATED if ended is not None and _stays_ended(found.pod, container, ended) else None


def _survived(
    kill: Kill,
    found: Found | None,
    container: PodContainer | None,
    ended: Termination | None,
    *,
    cgroup_alive: bool | None,
    waited: timedelta,
) -> bool:
    if ended is not None or cgroup_alive is False or (found is not None and found.pod.deleting):
        return False
    if container is None or container.id is None or _is_another(kill, container):
        return cgroup_alive is True and waited >= ONE_WITNESS
    return container.running_since is not None and waited >= (TWO_WITNESSES if cgroup_alive else ONE_WITNESS)


def _is_another(kill: Kill, container: PodContainer) -> bool:
    return container.id is not None and container.id != kill.container_id


def _waits_in_back_off(container: PodContainer) -> bool:
    return container.waiting_reason is not None and container.waiting_reason.endswith("BackOff")


def _stays_ended(pod: PodRecord, container: PodContainer, ended: Termination) -> bool:
    """The kubelet may show the last end of a pod before the phase that follows from it: another has to be running."""
    if pod.phase == "Succeeded":
        return True
    never = container.restart_policy is RestartPolicy.NEVER
    done = container.restart_policy is RestartPolicy.ON_FAILURE and ended.exit_code == 0
    return (never or done) and any(
        one.running_since is not None and one.kind in _KEEP_A_POD_GOING for one in pod.containers
    )


_KEEP_A_POD_GOING = frozenset({ContainerKind.APP, ContainerKind.INIT})


def _contradiction(kill: Kill, told: Termination | None) -> str | None:
    if told is None or told.finished_at is None or told.exit_code != _KILLED or told.reason in {_OOM_KILLED, _LOST}:
        return None
    if told.finished_at > kill.killed_at + DYING:
        return None
    reason = printable(told.reason[:64]) if told.reason else "no reason"
    return f"the pod status says {reason} with exit code {told.exit_code}, not {_OOM_KILLED}"
