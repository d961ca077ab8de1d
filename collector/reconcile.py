"""
Kernel lines against counters: every kill that either of them knows becomes one incident, and no kill becomes two.

docs/decisions/0005-lines-against-counters.md.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
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
from collector.parse.cgroup_path import Level, is_same_or_ancestor, parse_memcg_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collector.ledger import Ledger, Missing
    from collector.model import MemoryUse
    from collector.view import View

# A line becomes an incident within 2 s; what the counters alone know for longer than this has lost its line.
SETTLE_SECONDS = 5.0
# printk's clock runs apart from CLOCK_MONOTONIC, by milliseconds an hour.
CLOCK_SLACK_SECONDS = 5.0
# Between the charge of `oom` and the arrival of the kill line.
HIT_SECONDS = 1.0
# So long may a report take to be printed, on a slow console, between the counting of `oom` and of `oom_kill`.
REPORT_SECONDS = 60.0
GROUP_SECONDS = 60.0
# With the rows of their task dumps they take memory.
MAX_GROUPS = 100
UNPLACED_SECONDS = 60.0
MAX_OPEN = 1000
# Told in one go: the rest a tick later, so that nothing else has to wait.
MAX_AT_ONCE = 20


class Told(NamedTuple):
    """An incident of this boot that the journal has: `kills` by the kernel's way of counting."""

    id: str
    kills: int


class FromCounters(NamedTuple):
    """An incident that no line has told yet. `at`: when it was noticed; `after`: when it was not there yet."""

    id: str
    path: MemcgPath
    at: float
    after: float | None


class Claimed(NamedTuple):
    """
    The incident that counters told of a late line's kill, which was between `after` and `at`.

    `path`: its place, where the counters know it better than the line does.
    """

    id: str
    path: MemcgPath | None
    after: float
    at: float


class GroupKill(NamedTuple):
    """As lines told it. `at`: CLOCK_MONOTONIC seconds."""

    at: float
    incident: Incident


class Taken(NamedTuple):
    """
    An incident for the journal. `kills`: by the kernel's way of counting; negative: not yet counted off against the
    counters. `line_id`: the id that its line gives, where the counters had told it before under another.
    `unattributed`: why nobody knows whose it is.
    """

    incident: Incident
    kills: int
    line_id: str | None = None
    from_counters: FromCounters | None = None
    unattributed: str | None = None


NO_CGROUP = "no_cgroup"
"""The kernel printed no cgroup of the victim (rate limit, or before 5.0), and nothing else knows it."""
AMBIGUOUS = "ambiguous"
"""So too, and the counters of several cgroups moved."""
POD_GONE = "pod_gone"
"""A counter above the pods moved; the pod was gone before it was seen."""
UNATTRIBUTED_REASONS = (NO_CGROUP, AMBIGUOUS, POD_GONE)


class Surroundings(Protocol):
    """What can be asked of this machine at the time of a kill. None of it raises."""

    def refresh(self, path: MemcgPath | None) -> None:
        """Read the counters at and above `path` again; None: all, after a look for new cgroups."""

    def limit_of(self, path: MemcgPath) -> int | None:
        """`memory.max` in bytes, None where there is none or it is not known."""

    def memory_of(self, path: MemcgPath) -> MemoryUse | None: ...

    def collateral(self, report: OomReport, killed_at: float | None) -> tuple[Process, ...]:
        """Processes that died with PID 1 of the container, of which the kernel says nothing."""


class Reconciler:
    """
    Between the pipeline and the journal.

    open_incidents, unplaced: those of this boot that the journal holds. Whatever is taken has to be stored together
    with the ledger's changes, or not at all.
    """

    def __init__(
        self,
        ledger: Ledger,
        view: View,
        surroundings: Surroundings,
        *,
        boot_id: str,
        node: str | None,
        open_incidents: Iterable[FromCounters] = (),
        unplaced: Iterable[tuple[str, int]] = (),
    ) -> None:
        self._ledger = ledger
        self._view = view
        self._surroundings = surroundings
        self._boot_id = boot_id
        self._node = node
        self._open = list(open_incidents)
        # Where the counters miss nothing, they stand for nothing.
        waiting = unplaced if self.is_short else ()
        self._unplaced: dict[str, tuple[int, float | None]] = {known: (kills, None) for known, kills in waiting}
        """Bare lines that stand for kills which the counters have: how many, and when they were told."""
        self._groups: dict[MemcgPath, GroupKill] = {}
        """The last of each cgroup."""

    def take(self, incident: Incident, told: Told | None, *, counts: bool, killed_at: float | None) -> Taken | None:
        """
        Place an incident that lines tell, and count it off; None: it is another machine's, seen through a shared ring.

        told: what the journal has under its id. counts: False for what was old when the agent first came here.
        killed_at: CLOCK_MONOTONIC seconds, None where the line does not tell.
        """
        absolute = victim_path(incident)
        path = self._view.here(absolute, self._ledger) if absolute is not None else None
        self._surroundings.refresh(path)
        if told is None and not self._is_ours(absolute, path):
            return None
        owes = self.is_short if path is None else self._ledger.owes(path) > 0
        claimed = self._claim(incident, path, killed_at) if told is None and not owes else None
        start, end = killed_at, killed_at
        if claimed is not None:
            told, path, start, end = Told(claimed.id, 0), claimed.path or path, claimed.after, claimed.at
        line_id = None
        if told is not None and told.id != incident.id:
            line_id, incident = incident.id, replace(incident, id=told.id)
        # What the counters told, they had counted off.
        uncounted = counts and line_id is None
        new = incident.report.kill_lines - (told.kills if told else 0) if uncounted else 0
        unattributed, group = None, None
        if claimed is not None and claimed.path is not None:
            incident, unattributed = judge_again(incident, _by_counters(claimed.path)), _unattributed(claimed.path)
        elif path is None:
            incident, unattributed = self._place(incident, new, at=killed_at)
        elif uncounted:
            group = self._tell(path, new, incident, first=told is None)
        incident = self._with_surroundings(incident, path, start, end)
        incident = self._judge_by_paths_here(incident, path)
        if group is not None and killed_at is not None:
            self._remember_group(group, GroupKill(killed_at, incident))
        unplaced, _ = self._unplaced.get(incident.id, (0, None))
        return Taken(
            incident=incident,
            kills=-unplaced or incident.report.kill_lines,
            line_id=line_id,
            unattributed=unattributed,
        )

    def is_waiting(self, at: float) -> bool:
        """Whether kills have been missing for long enough to be told by tell_missing()."""
        since = self._ledger.short_since
        return since is not None and since <= at - SETTLE_SECONDS

    @property
    def is_short(self) -> bool:
        return self._ledger.short_since is not None

    def tell_missing(self, at: float, now: datetime) -> tuple[list[Taken], list[str]]:
        """
        Tell what no line has told for SETTLE_SECONDS, and the ids of bare lines that were counted off.

        To be called when the log is read to its end, or cannot be read.
        """
        self._surroundings.refresh(None)
        counted_off = self._count_off_unplaced(at)
        taken: list[Taken] = []
        for missing in self._ledger.missing():
            if missing.since <= at - SETTLE_SECONDS and len(taken) < MAX_AT_ONCE:
                taken += self._from_counters(missing, at, now)
        return taken, counted_off

    # Lines

    def _is_ours(self, absolute: MemcgPath | None, path: MemcgPath | None) -> bool:
        if self._view.whole or path is not None:
            return True
        if absolute is not None and self._view.is_elsewhere(absolute, self._ledger):
            return False
        root = MemcgPath("/")
        return root not in self._ledger or self._ledger.owes(root) > 0

    def _claim(self, incident: Incident, path: MemcgPath | None, killed_at: float | None) -> Claimed | None:
        """The incident that counters have told of this kill, when its line comes late."""
        printed_at, is_exact = _printed_at(incident, killed_at), _names_its_cgroup(incident)
        found = [
            known
            for known in self._open
            if _may_be_of(known, printed_at, killed_at)
            and (
                path is None
                or is_same_or_ancestor(known.path, path)
                or (not is_exact and is_same_or_ancestor(path, known.path))
            )
        ]
        if not found:
            return None
        known = found[0]
        self._open.remove(known)
        is_deeper = path is None or not is_same_or_ancestor(known.path, path)
        # Of several places, nobody knows which is this victim's.
        is_sure = all(other.path == known.path for other in found)
        after = known.at if known.after is None else known.after
        return Claimed(known.id, known.path if is_deeper and is_sure else None, after, known.at)

    def _place(self, incident: Incident, kills: int, *, at: float | None) -> tuple[Incident, str | None]:
        """A line whose victim's cgroup is not known here: the only one that misses a kill has it."""
        missing = self._ledger.missing_in("/") if kills > 0 else []
        if len(missing) == 1:
            path = missing[0]
            self._ledger.tell(path, kills)
            return judge_again(incident, _by_counters(path)), _unattributed(path)
        if missing:
            before, _ = self._unplaced.get(incident.id, (0, None))
            self._unplaced[incident.id] = before + kills, at
        if incident.attribution.method is not AttributionMethod.NONE:
            return incident, None
        return incident, AMBIGUOUS if missing else NO_CGROUP

    def _tell(self, path: MemcgPath, kills: int, incident: Incident, *, first: bool) -> MemcgPath | None:
        """Count it off; returns the cgroup that was killed whole, if one was."""
        named = incident.report.group_memcg and self._view.here(incident.report.group_memcg, self._ledger)
        # The line that names the group is yet to come, or is lost: where memory.oom.group is set, a kill is a group's.
        expected = self._ledger.group_at(path)
        group = named or expected
        counts_group = group is not None and (first or (expected is None and kills > 0))
        if kills > 0 or counts_group:
            self._ledger.tell(self._where(path, incident), max(0, kills), groups=int(counts_group))
        return group

    def _remember_group(self, path: MemcgPath, told: GroupKill) -> None:
        since = told.at - GROUP_SECONDS
        others = [(known, kill) for known, kill in self._groups.items() if known != path and kill.at > since]
        self._groups = dict([*others[1 - MAX_GROUPS :], (path, told)])

    def _where(self, path: MemcgPath, incident: Incident) -> MemcgPath:
        """Where only a cgroup at or above the victim's is known: the only one below that misses a kill, if it is so."""
        if _names_its_cgroup(incident):
            return path
        self._surroundings.refresh(None)
        below = self._ledger.missing_in(path)
        return below[0] if len(below) == 1 else path

    def _judge_by_paths_here(self, incident: Incident, path: MemcgPath | None) -> Incident:
        """In a node that is itself in a pod, what the kernel prints leads through that pod first."""
        report = incident.report
        if self._view.whole or path is None or path == report.task_memcg:
            return incident

        def here(printed: MemcgPath | None) -> MemcgPath | None:
            return printed and (self._view.here(printed, self._ledger) or printed)

        local = replace(
            report,
            task_memcg=here(report.task_memcg),
            oom_memcg=here(report.oom_memcg),
            group_memcg=here(report.group_memcg),
        )
        return replace(judge_again(replace(incident, report=local), incident.sighting), report=report)

    def _with_surroundings(
        self, incident: Incident, path: MemcgPath | None, start: float | None, end: float | None
    ) -> Incident:
        """With what this machine knows of the victim's place, now that its last record is read."""
        sighting = incident.sighting
        path = path or (sighting.within if sighting else None)
        if path is None or not incident.settled:
            return incident
        report = incident.report
        base = sighting or Sighting(method=incident.attribution.method)
        known = self._describe(base, path, start, end)
        collateral = self._surroundings.collateral(report, end)
        known = replace(known, collateral=collateral)
        return incident if known == sighting else judge_again(incident, known)

    def _describe(self, sighting: Sighting, path: MemcgPath, start: float | None, end: float | None) -> Sighting:
        limited, unlimited = None, False
        if start is not None and end is not None:
            hit = self._ledger.limit_hit(path, start - HIT_SECONDS, end + HIT_SECONDS)
            quiet = self._ledger.limit_hit(path, start - REPORT_SECONDS, end + HIT_SECONDS).unlimited
            limited, unlimited = hit.limited, quiet and self._view.whole
        return replace(
            sighting,
            limited=limited,
            unlimited=unlimited,
            memory=self._surroundings.memory_of(limited or path),
            limit_bytes=self._lowest_limit(path),
        )

    def _lowest_limit(self, path: MemcgPath) -> int | None:
        place = parse_memcg_path(path)
        paths = [of for of in (place.container_path, place.pod_path) if of is not None]
        limits = [limit for of in paths if (limit := self._surroundings.limit_of(of)) is not None]
        return min(limits, default=None)

    # Counters

    def _count_off_unplaced(self, at: float) -> list[str]:
        """Bare lines without a place stand for as many of the missing kills, the oldest; whose they were is unknown."""
        kills = sum(kills for kills, told in self._unplaced.values() if told is None or told > at - UNPLACED_SECONDS)
        for missing in self._ledger.missing():
            self._ledger.tell(missing.path, min(kills, missing.kills))
            kills -= min(kills, missing.kills)
        counted_off = list(self._unplaced)
        self._unplaced.clear()
        return counted_off

    def _from_counters(self, missing: Missing, at: float, now: datetime) -> list[Taken]:
        if not missing.groups and not missing.group:
            missing = missing._replace(kills=min(missing.kills, MAX_AT_ONCE))
        self._ledger.tell(missing.path, missing.kills, groups=missing.groups or 0)
        group = None if missing.groups else self._group_of(missing)
        if group is not None:
            return [self._complete(group, missing)]
        time = None if missing.after is None else now - timedelta(seconds=at - missing.since)
        return [
            self._tell_by_counter(missing, ordinal, kills, time)
            for ordinal, kills in enumerate(_shares(missing.kills, _incidents_in(missing)))
        ]

    def _group_of(self, missing: Missing) -> MemcgPath | None:
        """The group kill, told by lines, whose members these are: left over, for a part of its lines is lost."""
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

    def _complete(self, group: MemcgPath, missing: Missing) -> Taken:
        """Not incidents of their own, but processes of that one; without the first victim's second count, if due."""
        told = self._groups[group]
        report = told.incident.report
        processes = missing.kills - (report.kill_lines == told.incident.process_count)
        report = replace(
            report,
            also_killed=(*report.also_killed, *(_NOBODY,) * processes),
            kill_lines=report.kill_lines + missing.kills,
            evidence=tuple(dict.fromkeys((*report.evidence, Evidence.MEMORY_EVENTS))),
        )
        incident = judge_again(replace(told.incident, report=report), told.incident.sighting)
        incident = self._judge_by_paths_here(incident, missing.path)
        self._groups[group] = told._replace(incident=incident)
        return Taken(incident=incident, kills=report.kill_lines)

    def _tell_by_counter(self, missing: Missing, ordinal: int, kills: int, time: datetime | None) -> Taken:
        incident_id = counter_id(self._boot_id, missing.inode, missing.told + 1 + ordinal)
        incident = self._judge(missing, incident_id, kills, time)
        known = FromCounters(id=incident_id, path=missing.path, at=missing.since, after=missing.after)
        self._open = [*self._open[-MAX_OPEN + 1 :], known]
        return Taken(incident=incident, kills=kills, from_counters=known, unattributed=_unattributed(missing.path))

    def _judge(self, missing: Missing, incident_id: str, kills: int, time: datetime | None) -> Incident:
        path, is_group = missing.path, bool(missing.groups) or missing.group
        start = missing.since if missing.after is None else missing.after
        report = _report_without_lines(path if is_group else None, kills=kills, boot_id=self._boot_id)
        return judge(
            report,
            self._describe(_by_counters(path), path, start, missing.since),
            id=incident_id,
            time=time,
            boot_id=self._boot_id,
            node=self._node,
        )


_KNOWN_BY_PID = (AttributionMethod.PROCESS_INDEX, AttributionMethod.PROC)
_NOBODY = Process(pid=None, comm=None)


def _names_its_cgroup(incident: Incident) -> bool:
    """Whether victim_path() is the victim's own, not one above it."""
    return incident.report.task_memcg is not None or incident.attribution.method in _KNOWN_BY_PID


def _may_be_of(known: FromCounters, printed_at: float | None, killed_at: float | None) -> bool:
    """Whether the times of a line and of what counters told allow that they are one kill."""
    if printed_at is not None and printed_at > known.at + CLOCK_SLACK_SECONDS:
        return False
    return killed_at is None or known.after is None or killed_at >= known.after - CLOCK_SLACK_SECONDS


def _printed_at(incident: Incident, killed_at: float | None) -> float | None:
    """By printk's clock. A live line's `killed_at` is its arrival, and that is what is late of a late line."""
    usec = incident.report.kill_moment.monotonic_usec
    return killed_at if usec is None else usec / 1_000_000


def victim_path(incident: Incident) -> MemcgPath | None:
    """The deepest cgroup that is known to hold the victim, as the kernel log names it."""
    report, sighting = incident.report, incident.sighting
    if report.task_memcg is not None:
        return report.task_memcg
    if sighting is not None and sighting.memcg is not None and sighting.method is not AttributionMethod.MEMORY_EVENTS:
        return sighting.memcg
    if report.task_memcg_cut is not None and (whole := report.task_memcg_cut.rpartition("/")[0]):
        return MemcgPath(whole)
    return report.group_memcg or report.oom_memcg


def _by_counters(path: MemcgPath) -> Sighting:
    return Sighting(method=AttributionMethod.MEMORY_EVENTS, memcg=_leaf(path), within=path)


def _leaf(path: MemcgPath) -> MemcgPath | None:
    """A container's cgroup is its victim's; of a cgroup above, only that it was somewhere below."""
    return path if parse_memcg_path(path).level is Level.CONTAINER else None


def _unattributed(path: MemcgPath) -> str | None:
    """Whose a kill is that a counter showed: a cgroup above the pods shows those of pods that are gone."""
    place = parse_memcg_path(path)
    is_known = place.pod_uid is not None or place.container_id is not None or place.level is Level.OTHER
    return None if is_known else POD_GONE


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
