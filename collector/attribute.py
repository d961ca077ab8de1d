"""Which pod and container a victim belonged to, as far as cgroup paths tell."""

from __future__ import annotations

from collector.model import Attribution, AttributionMethod, Container, MemcgPath, OomReport, Pod
from collector.parse.cgroup_path import Level, MemcgPlace, parse_memcg_path


def attribute(report: OomReport) -> Attribution:
    """
    Place the victim by the first path that names its pod or container.

    `task_memcg` is the victim's own. A cut one still holds what stands before the cut; the group of a group kill and
    `oom_memcg` lie at or above the victim, so a container or pod that they name is the victim's too.
    """
    for path in _paths(report):
        place = parse_memcg_path(path)
        if place.pod_uid is not None or place.container_id is not None:
            return Attribution(
                pod=_pod(place), container=_container(place, report), method=AttributionMethod.TASK_MEMCG
            )
    known = AttributionMethod.TASK_MEMCG if report.task_memcg is not None else AttributionMethod.NONE
    return Attribution(method=known)


def _paths(report: OomReport) -> tuple[MemcgPath, ...]:
    cut = report.task_memcg_cut
    # Only whole components of a cut path: the last one may lack its end.
    whole = None if cut is None else MemcgPath(cut.rpartition("/")[0])
    paths = (report.task_memcg, report.group_memcg, whole, report.oom_memcg)
    return tuple(path for path in paths if path)


def _pod(place: MemcgPlace) -> Pod | None:
    return None if place.pod_uid is None else Pod(uid=place.pod_uid, qos_class=place.qos_class)


def _container(place: MemcgPlace, report: OomReport) -> Container | None:
    if place.container_id is None:
        return None
    limit = None
    if report.oom_memcg is not None and report.memory is not None:
        limited = parse_memcg_path(report.oom_memcg)
        if limited.level is Level.CONTAINER and limited.container_id == place.container_id:
            limit = report.memory.limit_bytes
    return Container(id=place.container_id, runtime=place.runtime, limit_bytes=limit)
