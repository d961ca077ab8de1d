"""Which pod and container a victim belonged to, as far as cgroup paths tell."""

from __future__ import annotations

from collector.model import Attribution, AttributionMethod, Container, MemcgPath, OomReport, Pod, Sighting
from collector.parse.cgroup_path import Level, MemcgPlace, parse_memcg_path


def attribute(report: OomReport, sighting: Sighting | None = None) -> Attribution:
    """
    Place the victim by the first path that names its pod or container.

    `task_memcg` is the victim's own. Where the kernel did not print it, what was known of the victim before it died
    comes next. A cut path still holds what stands before the cut; the group of a group kill and `oom_memcg` lie at or
    above the victim, so a container or pod that they name is the victim's too.
    """
    own, others = _paths(report, sighting)
    for path, method in (*own, *others):
        place = parse_memcg_path(path)
        if place.pod_uid is not None or place.container_id is not None:
            return Attribution(pod=_pod(place), container=_container(place, report, sighting), method=method)
    # A path of its own that names neither still tells where the victim was: a host process is no pod's.
    return Attribution(method=own[0][1] if own else AttributionMethod.NONE)


_Paths = list[tuple[MemcgPath, AttributionMethod]]


def _paths(report: OomReport, sighting: Sighting | None) -> tuple[_Paths, _Paths]:
    """Those that the victim was in, and those at or above it."""
    own: _Paths = []
    if report.task_memcg is not None:
        own.append((report.task_memcg, AttributionMethod.TASK_MEMCG))
    if sighting is not None:
        own += [(path, sighting.method) for path in (sighting.memcg, sighting.within) if path is not None]
    cut = report.task_memcg_cut
    # Only whole components of a cut path: the last one may lack its end.
    whole = None if cut is None else MemcgPath(cut.rpartition("/")[0])
    others = [(path, AttributionMethod.TASK_MEMCG) for path in (report.group_memcg, whole, report.oom_memcg) if path]
    return own, others


def _pod(place: MemcgPlace) -> Pod | None:
    return None if place.pod_uid is None else Pod(uid=place.pod_uid, qos_class=place.qos_class)


def _container(place: MemcgPlace, report: OomReport, sighting: Sighting | None) -> Container | None:
    if place.container_id is None:
        return None
    limit = None if sighting is None else sighting.limit_bytes
    if limit is None and report.oom_memcg is not None and report.memory is not None:
        limited = parse_memcg_path(report.oom_memcg)
        if limited.level is Level.CONTAINER and limited.container_id == place.container_id:
            limit = report.memory.limit_bytes
    return Container(id=place.container_id, runtime=place.runtime, limit_bytes=limit)
