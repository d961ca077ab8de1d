"""
Kernel lines against counters: every kill that either of them knows becomes one incident, and no kill becomes two.

docs/decisions/0005-lines-against-counters.md.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from collector.counted import POD_GONE, Counted, by_counters, unattributed
from collector.judge import judge_again
from collector.model import AttributionMethod, Incident, MemcgPath
from collector.parse.cgroup_path import is_same_or_ancestor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collector.counted import Surroundings
    from collector.ledger import Ledger, Missing
    from collector.view import View

# A line becomes an incident within 2 s; what the counters alone know for longer than this has lost its line.
SETTLE_SECONDS = 5.0
# printk's clock runs apart from CLOCK_MONOTONIC, by milliseconds an hour.
CLOCK_SLACK_SECONDS = 5.0
# A line that was printed so shortly ago may be that of any missing kill.
RECENT_SECONDS = 60.0
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
UNATTRIBUTED_REASONS = (NO_CGROUP, AMBIGUOUS, POD_GONE)


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
        self._counted = Counted(ledger, view, surroundings, boot_id=boot_id, node=node)
        self._open = list(open_incidents)
        # Where the counters miss nothing, they stand for nothing.
        waiting = unplaced if self.is_short else ()
        self._unplaced: dict[str, tuple[int, float | None]] = {known: (kills, None) for known, kills in waiting}
        """Bare lines that stand for kills which the counters have: how many, and when they were."""

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
        reason, group = None, None
        if claimed is not None and claimed.path is not None:
            incident, reason = judge_again(incident, by_counters(claimed.path)), unattributed(claimed.path)
        elif path is None:
            incident, reason = self._place(incident, new, at=killed_at)
        elif uncounted:
            group = self._tell(path, new, incident, first=told is None)
        incident = self._counted.add_to(incident, path, start, end)
        if group is not None and killed_at is not None:
            self._counted.remember_group(group, incident, killed_at)
        unplaced, _ = self._unplaced.get(incident.id, (0, None))
        return Taken(
            incident=incident,
            kills=-unplaced or incident.report.kill_lines,
            line_id=line_id,
            unattributed=reason,
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
            return judge_again(incident, by_counters(path)), unattributed(path)
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

    def _where(self, path: MemcgPath, incident: Incident) -> MemcgPath:
        """Where only a cgroup at or above the victim's is known: the only one below that misses a kill, if it is so."""
        if _names_its_cgroup(incident):
            return path
        self._surroundings.refresh(None)
        below = self._ledger.missing_in(path)
        return below[0] if len(below) == 1 else path

    # Counters

    def _count_off_unplaced(self, at: float) -> list[str]:
        """
        Bare lines without a place stand for as many of the missing kills, the oldest; whose they were is unknown.

        In a burst a line may be counted off before its counter is read, and takes the place of a kill that went before:
        then the one that is missing seems to have come later than it did. So what was just printed stands for any.
        """
        recent = at - RECENT_SECONDS
        kills = [killed_at for number, killed_at in self._unplaced.values() for _ in range(number)]
        for missing in self._ledger.missing():
            since = None if missing.after is None else min(missing.after, recent)
            told = [killed_at for killed_at in kills if _may_be_after(since, killed_at)][: missing.kills]
            for killed_at in told:
                kills.remove(killed_at)
            self._ledger.tell(missing.path, len(told))
        counted_off = list(self._unplaced)
        self._unplaced.clear()
        return counted_off

    def _from_counters(self, missing: Missing, at: float, now: datetime) -> list[Taken]:
        if not missing.groups and not missing.group:
            missing = missing._replace(kills=min(missing.kills, MAX_AT_ONCE))
        self._ledger.tell(missing.path, missing.kills, groups=missing.groups or 0)
        completed = self._counted.complete_group(missing)
        if completed is not None:
            return [Taken(incident=completed, kills=completed.report.kill_lines)]
        time = None if missing.after is None else now - timedelta(seconds=at - missing.since)
        return [self._expect_line(incident, missing) for incident in self._counted.incidents(missing, time)]

    def _expect_line(self, incident: Incident, missing: Missing) -> Taken:
        """It may come late."""
        known = FromCounters(id=incident.id, path=missing.path, at=missing.since, after=missing.after)
        self._open = [*self._open[-MAX_OPEN + 1 :], known]
        return Taken(
            incident=incident,
            kills=incident.report.kill_lines,
            from_counters=known,
            unattributed=unattributed(missing.path),
        )


_KNOWN_BY_PID = (AttributionMethod.PROCESS_INDEX, AttributionMethod.PROC)


def _names_its_cgroup(incident: Incident) -> bool:
    """Whether victim_path() is the victim's own, not one above it."""
    return incident.report.task_memcg is not None or incident.attribution.method in _KNOWN_BY_PID


def _may_be_of(known: FromCounters, printed_at: float | None, killed_at: float | None) -> bool:
    """Whether the times of a line and of what counters told allow that they are one kill."""
    if printed_at is not None and printed_at > known.at + CLOCK_SLACK_SECONDS:
        return False
    return _may_be_after(known.after, killed_at)


def _may_be_after(time: float | None, killed_at: float | None) -> bool:
    return time is None or killed_at is None or killed_at >= time - CLOCK_SLACK_SECONDS


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
