"""
Successive records -> reports, one for each decision of the OOM killer.

The kernel prints one report at a time (under oom_lock), but what reaches us may be cut anywhere: header, dump and
summary line are rate-limited while the `Killed process` line is not; the ring overruns; foreign records stand in
between; a log may hold several machines. So no line is relied upon, and each is added to a report only where pid,
memcg or the order of sections allow it:

- a header opens a report; a section goes to the oldest open report that has none of its kind yet;
- summary and kill lines go to the report that expects their pid, else to one whose dump holds it;
- a kill line that no open report expects is a report of its own.

Where the kernel prints its callers (CONFIG_PRINTK_CALLER), reports are kept apart by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from collector.model import Invoker, KernelRecord, Moment, OomReport
from collector.parse.kmsg import KmsgRun
from collector.parse.oom_draft import SETTLE_SECONDS, UNDECIDED_SECONDS, DecisiveLine, Draft, Dump, KillLine, Stat
from collector.parse.oom_lines import (
    Chosen,
    CpuLine,
    DumpHeader,
    DumpRow,
    GroupKill,
    Header,
    Kill,
    NodeStat,
    NodeTotal,
    NoKill,
    OomFrame,
    OomLine,
    StatBlock,
    StatEntry,
    StatLines,
    SummaryStart,
    Usage,
    is_dump_header,
    is_statistic,
    parse_oom_line,
)
from collector.parse.summary import Summary, parse_summary

# What one assembler holds at most.
MAX_LANES = 64
MAX_OPEN = 4
MAX_TOLD = 8
MAX_ROWS = 65_536
MAX_STAT = 512

_EXPIRY_STEP_SECONDS = 0.25

# Where a line stands in its run, its text, and what it says.
_PlacedLine = tuple[int, str, OomLine]


class OomReportAssembler:
    """
    Push records in the order of the log; get reports.

    A report is returned twice: unsettled, right after its kill line, and settled, when nothing more can come. Both
    have the same `kill_moment`. A kill line that comes after its summary line was settled alone returns that report
    once more, completed, under the same moment.

    `at` is in seconds of any steady clock; None: unknown, then only the next report or flush() settles.
    """

    def __init__(self, *, kill_line_seconds: float = SETTLE_SECONDS) -> None:
        self._kill_line_seconds = kill_line_seconds
        self._lanes: dict[tuple[str | None, str | None], _Lane] = {}
        self._next_expiry = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether a report is open: every record counts until it is settled."""
        return bool(self._lanes) and any(lane.is_open for lane in self._lanes.values())

    def push(self, record: KernelRecord, at: float | None) -> list[OomReport]:
        reports = [] if at is None or at < self._next_expiry else self._expire(at)
        key = (record.host, record.caller)
        lane = self._lanes.get(key) or self._lane_like(key)
        texts = enumerate(record.texts if isinstance(record, KmsgRun) else (record.text,))
        arrival = _Arrival(record, at, reports)
        while True:
            found = _next_line(texts) if lane is None else lane.take_body(texts, at)
            if found is None:
                return reports
            arrival.place, arrival.text, line = found
            if lane is None:
                if isinstance(line, _NEVER_FIRST):
                    continue
                lane = self._open_lane(key, reports)
            lane.take(line, arrival)

    def flush(self, at: float | None) -> list[OomReport]:
        """Settle what is old enough at `at`; None: everything."""
        if at is not None:
            return self._expire(at)
        reports: list[OomReport] = []
        for lane in self._lanes.values():
            lane.close(reports)
        self._lanes.clear()
        return reports

    def _expire(self, at: float) -> list[OomReport]:
        self._next_expiry = at + _EXPIRY_STEP_SECONDS
        reports: list[OomReport] = []
        for key, lane in list(self._lanes.items()):
            lane.expire(at, reports)
            if lane.is_idle:
                del self._lanes[key]
        return reports

    def _lane_like(self, key: tuple[str | None, str | None]) -> _Lane | None:
        """A pasted log may name its host in some lines only."""
        host, caller = key
        for (other_host, other_caller), lane in self._lanes.items():
            if caller == other_caller and (host is None or other_host is None):
                return lane
        return None

    def _open_lane(self, key: tuple[str | None, str | None], reports: list[OomReport]) -> _Lane:
        if len(self._lanes) >= MAX_LANES:
            self._lanes.pop(next(iter(self._lanes))).close(reports)
        lane = self._lanes[key] = _Lane(self._kill_line_seconds)
        return lane


@dataclass(slots=True)
class _Arrival:
    """A record or run, the text of it that is being read, when it came, and where the reports go that it finishes."""

    record: KernelRecord
    at: float | None
    reports: list[OomReport]
    place: int = 0
    text: str = ""

    @property
    def moment(self) -> Moment:
        record = self.record
        if isinstance(record, KmsgRun):
            return record.moment_of(self.place)
        return Moment(
            sequence=record.sequence,
            monotonic_usec=record.monotonic_usec,
            time=record.time,
            stamp=record.stamp,
            host=record.host,
            boot_id=record.boot_id,
        )


@dataclass(slots=True)
class _Lane:
    """
    The reports of one printing task, or of one machine where the kernel does not print its callers.

    `undecided` have no kill line yet, oldest first; `killed` has one and may still get members of its group; `told`
    were settled without a kill line. `stat` and `dump` are being printed. `cut_summary`: a summary line may go on in a
    later piece.
    """

    kill_line_seconds: float
    undecided: list[Draft] = field(default_factory=list)
    killed: Draft | None = None
    told: list[Draft] = field(default_factory=list)
    stat: Stat | None = None
    dump: Dump | None = None
    last_dump: Dump | None = None
    last_at: float | None = None
    cpu: CpuLine | None = None
    cpu_at: float | None = None
    interleaved: bool = False
    cut_summary: bool = False

    @property
    def is_open(self) -> bool:
        return bool(self.undecided) or self.killed is not None

    @property
    def is_idle(self) -> bool:
        return not self.is_open and not self.told and self.cpu is None

    def take_body(self, texts: Iterator[tuple[int, str]], at: float | None) -> _PlacedLine | None:
        """
        Take rows of the dump and lines of the statistics that are being printed: most records of a report are these.

        Returns the first line that is something else; None: there is none.
        """
        dump, stat, cut = self.dump, self.stat, self.cut_summary
        for place, text in texts:
            if dump is not None and text and text[0] == "[" and not ("pid" in text and is_dump_header(text)):
                if len(dump.rows) < MAX_ROWS:
                    dump.rows.append(text)
                else:
                    dump.left_out += 1
                self.last_at = at
                continue
            if stat is not None:
                name, _, value = text.partition(" ")
                if is_statistic(name, value) and len(stat.values) < MAX_STAT:
                    stat.values.setdefault(name, int(value))
                    self.last_at = at
                    continue
            line = parse_oom_line(text)
            if line is not None:
                return place, text, line
            if cut:
                self._continue_summary(text)
        return None

    def take(self, line: OomLine, arrival: _Arrival) -> None:  # noqa: C901, PLR0912 - one case for each kind of line
        """Add any other line to the report it belongs to."""
        self.last_at = at = arrival.at
        match line:
            case Header():
                draft = self._open(arrival)
                draft.has_header, draft.invoker = True, line.invoker
            case CpuLine():
                self._take_cpu(line, at)
            case OomFrame():
                self._take_frame(arrival)
            case Usage():
                self._owner(line.counter, arrival).usage[line.counter] = line
            case StatBlock():
                self._take_stat_block(line, arrival)
            case DumpHeader():
                self._begin_dump(Dump(line.columns), arrival)
                self.stat = None
            case SummaryStart():
                self._take_summary(line, arrival)
            case Chosen():
                self._take_chosen(line, arrival)
            case Kill():
                self._take_kill(line, arrival)
            case GroupKill():
                self._take_group(line, arrival)
            case StatLines():
                if self.stat is not None:
                    self.stat.values.update(line.stat)
            case StatEntry():
                pass  # only in the statistics of a report are two words a statistic: see take_body()
            case NodeTotal():
                self._take_total(line)
            case NodeStat():
                self._take_node_stat(line)
            case DumpRow():
                self._begin_dump(Dump(None, [line.text]), arrival)
            case NoKill():
                for draft in [draft for draft in self.undecided if not draft.is_decided]:
                    self._take_out(draft)

    def expire(self, at: float, reports: list[OomReport]) -> None:
        if self.killed is not None and _is_past(self.killed.last_at, at, SETTLE_SECONDS):
            self._settle_killed(reports)
        for draft in list(self.undecided):
            last_at = draft.last_at if draft.is_decided else self.last_at
            if _is_past(last_at, at, draft.patience(self.kill_line_seconds)):
                self._give_up(draft, reports)
        self.told = [draft for draft in self.told if not _is_past(draft.last_at, at, UNDECIDED_SECONDS)]
        if _is_past(self.cpu_at, at, UNDECIDED_SECONDS):
            self.cpu = None

    def close(self, reports: list[OomReport]) -> None:
        self._settle_killed(reports)
        for draft in list(self.undecided):
            self._give_up(draft, reports)

    # Where a line belongs

    def _open(self, arrival: _Arrival) -> Draft:
        """A new report ends the one before: the kernel prints nothing of a group kill after the next report's begin."""
        self._settle_killed(arrival.reports)
        if len(self.undecided) >= MAX_OPEN:
            self._give_up(self.undecided[0], arrival.reports)
        if not self.undecided:
            self.interleaved = self.cut_summary = False
        if not self.interleaved:
            self.stat = self.dump = None
        draft = Draft(arrival.moment, arrival.at, self.last_dump)
        self.undecided.append(draft)
        return draft

    def _owner(self, section: str, arrival: _Arrival) -> Draft:
        """
        The report that a section belongs to: the newest, or a new one whose header is not in the log.

        When the newest has one already and an older has none, two reports are being printed in turns: then the first
        of the two was the older's, and from there on the older comes first.
        """
        lacking = [draft for draft in self.undecided if not draft.has(section)]
        if not lacking:
            return self._open(arrival)
        newest = self.undecided[-1]
        draft = lacking[0] if self.interleaved else newest
        if not self.interleaved and newest is not lacking[-1]:
            self.interleaved = True
            newest.hand_over(section, lacking[0])
        draft.last_at = arrival.at
        return draft

    def _take_stat_block(self, line: StatBlock, arrival: _Arrival) -> None:
        if len(self.undecided) == 1 and self.undecided[0].stat is not None:
            # cgroup v1 goes on with the cgroups below oom_memcg.
            self.stat = None
            return
        draft = self._owner("stat", arrival)
        self.stat = draft.stat = Stat(line.memcg, dict(line.stat))

    def _begin_dump(self, dump: Dump, arrival: _Arrival) -> None:
        draft = self._owner("dump", arrival)
        self.dump = draft.dump = dump

    def _take_total(self, line: NodeTotal) -> None:
        draft = next((draft for draft in reversed(self.undecided) if line.name not in draft.totals), None)
        if draft is not None:
            draft.totals[line.name] = line.value

    def _take_node_stat(self, line: NodeStat) -> None:
        draft = next((draft for draft in reversed(self.undecided) if not draft.node_stat.keys() & line.pages), None)
        if draft is not None:
            draft.node_stat.update(line.pages)

    def _take_cpu(self, line: CpuLine, at: float | None) -> None:
        self.cpu, self.cpu_at = line, at
        for draft in self.undecided:
            invoker = draft.invoker
            if draft.has_header and invoker is not None and invoker.pid is None and invoker.comm == line.comm:
                draft.invoker = Invoker(
                    comm=line.comm,
                    pid=line.pid,
                    oom_score_adj=invoker.oom_score_adj,
                    gfp_mask=invoker.gfp_mask,
                    order=invoker.order,
                )
                return

    def _take_frame(self, arrival: _Arrival) -> None:
        """The OOM killer's own stack: the CPU line above it is the invoker's, even where the header is cut off."""
        if self.cpu is not None and not self.is_open:
            self._open(arrival).invoker = Invoker(comm=self.cpu.comm, pid=self.cpu.pid)
        self.cpu = None

    def _take_summary(self, line: SummaryStart, arrival: _Arrival) -> None:
        summary = parse_summary(line.text)
        known = DecisiveLine(line.text, arrival.moment)
        if any(draft.summary_line == known for draft in self.undecided):
            return  # pasted twice
        killed = self.killed
        if not self.undecided and killed is not None and killed.is_completed_by(summary):
            # A log that shows the newest record first.
            killed.set_summary(known, summary)
            return
        candidates = [
            draft for draft in self.undecided if draft.summary_line is None and not _is_denied(draft, summary)
        ]
        if len(candidates) > 1:
            candidates = [draft for draft in candidates if draft.has_row_of(summary.pid)] or candidates
        draft = self._pick(candidates) or self._open(arrival)
        draft.set_summary(known, summary)
        draft.last_at = arrival.at
        self.cut_summary = self.cut_summary or not summary.complete

    def _continue_summary(self, text: str) -> None:
        for draft in reversed(self.undecided):
            if draft.summary_line is not None and draft.continue_summary(text):
                return

    def _take_chosen(self, line: Chosen, arrival: _Arrival) -> None:
        killed = self.killed
        if not self.undecided and killed is not None and killed.is_completed_by(line):
            draft = killed  # a log that shows the newest record first
        else:
            draft = self._owner("chosen", arrival)
        draft.chosen, draft.chosen_line = line, DecisiveLine(arrival.text, arrival.moment)

    def _take_kill(self, kill: Kill, arrival: _Arrival) -> None:
        line = KillLine(arrival.text, arrival.moment, kill)
        draft = self._pick([draft for draft in self.undecided if draft.expects(kill)])
        if draft is None and self.killed is not None and self.killed.takes_member(kill):
            self.killed.add_kill(line)
            self.killed.last_at = arrival.at
            return
        if draft is None:
            late = next((draft for draft in self.told if draft.expects(kill)), None)
            if late is not None:
                self._tell_again(late, line, arrival.reports)
                return
            likely = [draft for draft in self.undecided if draft.may_have_killed(kill)]
            draft = self._pick([draft for draft in likely if draft.chosen is not None] or likely)
        if draft is None:
            self._drop_undecided()
            draft = self._open(arrival)
        self._settle_killed(arrival.reports)
        self._take_out(draft)
        draft.add_kill(line)
        draft.last_at = arrival.at
        self.killed = draft
        _append(arrival.reports, draft.build(settled=False))

    def _pick(self, candidates: list[Draft]) -> Draft | None:
        """Reports follow one another, so the newest; unless they are being printed in turns."""
        return candidates[0 if self.interleaved else -1] if candidates else None

    def _take_group(self, line: GroupKill, arrival: _Arrival) -> None:
        """The line stands between the first victim's kill line and the others'."""
        killed = self.killed
        if killed is None:
            draft = self._owner("group_memcg", arrival)
        elif killed.group_memcg is None:
            draft = killed
        elif len(killed.kills) > 1:
            # What looked like one more member was the first victim of the next group kill.
            first = killed.take_last_kill()
            self._settle_killed(arrival.reports)
            draft = self.killed = Draft(first.moment, arrival.at, self.last_dump)
            draft.add_kill(first)
        else:
            draft = self._open(arrival)
        draft.group_memcg = line.memcg
        draft.last_at = arrival.at

    # How a report ends

    def _take_out(self, draft: Draft) -> None:
        self.undecided.remove(draft)
        if self.stat is draft.stat:
            self.stat = None
        if self.dump is draft.dump:
            self.dump = None
        if draft.dump is not None:
            self.last_dump = draft.dump

    def _drop_undecided(self) -> None:
        """Reports are printed under a lock, so a kill that none expects is the last one's or comes after all."""
        if not self.interleaved:
            for draft in [draft for draft in self.undecided if not draft.is_decided]:
                self._take_out(draft)

    def _settle_killed(self, reports: list[OomReport]) -> None:
        if self.killed is not None:
            _append(reports, self.killed.build(settled=True))
            self.killed = None

    def _give_up(self, draft: Draft, reports: list[OomReport]) -> None:
        """No kill line came: a decision is told all the same, a mere header is not."""
        self._take_out(draft)
        report = draft.build(settled=True)
        _append(reports, report)
        if report is not None and report.victim.pid is not None:
            self.told = [*self.told, draft][-MAX_TOLD:]

    def _tell_again(self, draft: Draft, line: KillLine, reports: list[OomReport]) -> None:
        told = draft.build(settled=True)
        self.told.remove(draft)
        draft.add_kill(line)
        report = draft.build(settled=True)
        if told is not None and report is not None:
            reports.append(replace(report, kill_moment=told.kill_moment, kill_text=told.kill_text))


def _next_line(texts: Iterator[tuple[int, str]]) -> _PlacedLine | None:
    for place, text in texts:
        line = parse_oom_line(text)
        if line is not None:
            return place, text, line
    return None


def _is_denied(draft: Draft, summary: Summary) -> bool:
    """Whether what a report holds already speaks against this summary line being its own."""
    if summary.oom_memcg is not None and draft.stat is not None and draft.stat.memcg != summary.oom_memcg:
        return True
    return draft.chosen is not None and summary.pid is not None and draft.chosen.pid != summary.pid


def _is_past(then: float | None, at: float, seconds: float) -> bool:
    return then is not None and at - then >= seconds


def _append(reports: list[OomReport], report: OomReport | None) -> None:
    if report is not None:
        reports.append(report)


# These add to a report; alone they are any log's everyday lines.
_NEVER_FIRST = (StatEntry, StatLines, NodeTotal, NodeStat, NoKill, OomFrame)
