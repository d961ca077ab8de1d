"""
What counters tell of a kill: beside the kernel's lines, or in their place.

docs/decisions/0005-lines-against-counters.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from collector.identity import counter_id
from collector.judge import judge, judge_again
from collector.model import (
    DEFAULT_PAGE_SIZE,
    AttributionMethod,
    Evidence,
    Incident,
    MemcgPath,
    Moment,
    OomReport,
    Process,
    Sighting,
)
from collector.parse.cgroup_path import Level, parse_memcg_path

if TYPE_CHECKING:
    from datetime import datetime

    from collector.ledger import Ledger, Missing
    from collector.model import MemoryUse
    from collector.view import View

# Between the charge of `oom` and the arrival of the kill line.
HIT_SECONDS = 1.0
# So long may a report take to be printed, on a slow console, between the counting of `oom` and of `oom_kill`.
REPORT_SECONDS = 60.0
# Between the first line of a group kill and the counting of its last member.
GROUP_SECONDS = 60.0
# With the rows of their task dumps they take memory.
MAX_GROUPS = 100

POD_GONE = "pod_gone"
"""A counter above the pods moved; the pod was gone before it was seen."""


class Surroundings(Protocol):
    """What can be asked of this machine at the time of a kill. None of it raises."""

    def refresh(self, path: MemcgPath | None) -> None:
        """Read the counters at and above `path` again; None: all, after a look for new cgroups."""

    def limit_of(self, path: MemcgPath) -> int | None:
        """`memory.max` in bytes, None where there is none or it is not known."""

    def memory_of(self, path: MemcgPath) -> MemoryUse | None: ...

    def collateral(self, report: OomReport, killed_at: float | None) -> tuple[Process, ...]:
        """Processes that died with PID 1 of the container, of which the kernel says nothing."""


class _GroupKill(NamedTuple):
    """As lines told it."""

    at: float
    incident: Incident


class Counted:
    """Adds to the incidents that lines told, and makes those that none told. The ledger is asked, never moved."""

    def __init__(
        self, ledger: Ledger, view: View, surroundings: Surroundings, *, boot_id: str, node: str | None
    ) -> None:
        self._ledger = ledger
        self._view = view
        self._surroundings = surroundings
        self._boot_id = boot_id
        self._node = node
        self._groups: dict[MemcgPath, _GroupKill] = {}
        """The last of each cgroup."""

    # Beside lines

    def add_to(self, incident: Incident, path: MemcgPath | None, start: float | None, end: float | None) -> Incident:
        """
        With what this machine knows of the victim's place, once the last record of its report is read.

        start, end: when the kill was, as CLOCK_MONOTONIC seconds.
        """
        sighting, report = incident.sighting, incident.report
        place = path or (sighting.within if sighting else None)
        if place is not None and incident.settled:
            base = sighting or Sighting(method=incident.attribution.method)
            collateral = self._surroundings.collateral(report, end)
            printed = report.oom_memcg and self._view.here(report.oom_memcg, self._ledger)
            known = replace(self._describe(base, place, start, end, printed=printed), collateral=collateral)
            incident = incident if known == sighting else judge_again(incident, known)
        return self._judge_by_paths_here(incident, path)

    def remember_group(self, path: MemcgPath, incident: Incident, at: float) -> None:
        """Lines told a kill of the whole of `path`; at: CLOCK_MONOTONIC seconds."""
        since = at - GROUP_SECONDS
        others = [(known, kill) for known, kill in self._groups.items() if known != path and kill.at > since]
        self._groups = dict([*others[1 - MAX_GROUPS :], (path, _GroupKill(at, incident))])

    def complete_group(self, missing: Missing) -> Incident | None:
        """The group kill that these are left over of, its other lines being lost: with its members, as processes."""
        path = None if missing.groups else self._group_of(missing)
        if path is None:
            return None
        told = self._groups[path]
        report = told.incident.report
        # The first victim is counted twice: its second time may be what is left over.
        processes = missing.kills - (report.kill_lines == told.incident.process_count)
        report = replace(
            report,
            also_killed=(*report.also_killed, *(_NOBODY,) * processes),
            kill_lines=report.kill_lines + missing.kills,
            evidence=tuple(dict.fromkeys((*report.evidence, Evidence.MEMORY_EVENTS))),
        )
        incident = judge_again(replace(told.incident, report=report), told.incident.sighting)
        incident = self._judge_by_paths_here(incident, missing.path)
        self._groups[path] = told._replace(incident=incident)
        return incident

    # In their place

    def incidents(self, missing: Missing, time: datetime | None) -> list[Incident]:
        """What nobody told. `kill_lines` of each: its share of the missing kills."""
        is_group = bool(missing.groups) or missing.group
        start = missing.since if missing.after is None else missing.after
        sighting = self._describe(by_counters(missing.path), missing.path, start, missing.since)
        return [
            judge(
                _report_without_lines(missing.path if is_group else None, kills=kills, boot_id=self._boot_id),
                sighting,
                id=counter_id(self._boot_id, missing.inode, missing.told + 1 + ordinal),
                time=time,
                boot_id=self._boot_id,
                node=self._node,
            )
            for ordinal, kills in enumerate(_shares(missing.kills, _incidents_in(missing)))
        ]

    def _group_of(self, missing: Missing) -> MemcgPath | None:
        # A group below what is watched, in a unit of system.slice, shows in the nearest cgroup above it.
        return next(
            (
                group
                for group, told in self._groups.items()
                if (missing.group or group != missing.path)
                and self._ledger.nearest(group) == missing.path
                and abs(missing.since - told.at) <= GROUP_SECONDS
            ),
            None,
        )

    def _judge_by_paths_here(self, incident: Incident, path: MemcgPath | None) -> Incident:
        """In a node that is itself in a pod, what the kernel prints leads through that pod first."""
        report = incident.report
        if self._view.whole or path is None or path == report.task_memcg:
            return incident
        local = self._view.report_here(report, self._ledger)
        return replace(judge_again(replace(incident, report=local), incident.sighting), report=report)

    def _describe(
        self,
        sighting: Sighting,
        path: MemcgPath,
        start: float | None,
        end: float | None,
        *,
        printed: MemcgPath | None = None,
    ) -> Sighting:
        """printed: the cgroup whose limit was hit, by the kernel's word."""
        limited, unlimited = None, False
        if start is not None and end is not None:
            limited = self._ledger.limit_hit(path, start - HIT_SECONDS, end + HIT_SECONDS).limited
            quiet = self._ledger.limit_hit(path, start - REPORT_SECONDS, end + HIT_SECONDS).unlimited
            unlimited = quiet and self._view.whole
        short = printed or limited
        return replace(
            sighting,
            limited=limited,
            unlimited=unlimited,
            # Of the victim's own cgroup it would say nothing of the limit, and it may be sampled after its end.
            memory=self._surroundings.memory_of(short) if short is not None else None,
            limit_bytes=self._lowest_limit(path),
        )

    def _lowest_limit(self, path: MemcgPath) -> int | None:
        place = parse_memcg_path(path)
        paths = [of for of in (place.container_path, place.pod_path) if of is not None]
        limits = [limit for of in paths if (limit := self._surroundings.limit_of(of)) is not None]
        return min(limits, default=None)


def by_counters(path: MemcgPath) -> Sighting:
    """A container's cgroup is its victim's; of a cgroup above, only that it was somewhere below."""
    is_container = parse_memcg_path(path).level is Level.CONTAINER
    return Sighting(method=AttributionMethod.MEMORY_EVENTS, memcg=path if is_container else None, within=path)


def unattributed(path: MemcgPath) -> str | None:
    """Why nobody knows whose a kill is that a counter showed: above the pods, it is of one that is gone."""
    place = parse_memcg_path(path)
    is_known = place.pod_uid is not None or place.container_id is not None or place.level is Level.OTHER
    return None if is_known else POD_GONE


_NOBODY = Process(pid=None, comm=None)


def _incidents_in(missing: Missing) -> int:
    """
    One for each group kill, else one for each kill.

    In a cgroup that is killed whole there is no other kill: where the kernel counts group kills and all are told, these
    are members of one that a former process told, and how many of them it told nobody knows any more.
    """
    if missing.groups:
        return min(missing.groups, missing.kills)
    if not missing.group:
        return missing.kills
    return 0 if missing.groups == 0 else 1


def _shares(kills: int, number: int) -> list[int]:
    """Share kills among incidents: the last one takes what is left."""
    if number == 0:
        return []
    share = kills // number
    return [share] * (number - 1) + [kills - share * (number - 1)]


def _report_without_lines(group: MemcgPath | None, *, kills: int, boot_id: str) -> OomReport:
    """What counters tell: that somebody died, and where. The first victim of a group is counted twice."""
    nowhen = Moment(boot_id=boot_id)
    return OomReport(
        settled=True,
        first_moment=nowhen,
        kill_moment=nowhen,
        kill_text="",
        evidence=(Evidence.MEMORY_EVENTS,),
        scope=None,
        constraint=None,
        unknown_constraint=None,
        global_oom=False,
        oom_memcg=None,
        task_memcg=None,
        task_memcg_cut=None,
        group_memcg=group,
        victim=_NOBODY,
        also_killed=(_NOBODY,) * max(0, kills - 2) if group is not None else (),
        invoker=None,
        memory=None,
        node_memory=None,
        tasks=(),
        page_size=DEFAULT_PAGE_SIZE,
        page_size_known=False,
        missing=("the kernel's lines",),
        contradictions=(),
        kill_lines=kills,
    )
