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

from dataclasses import dataclass, field, replace

from collector.model import Invoker, KernelRecord, Moment, OomReport
from collector.parse.oom_draft import SETTLE_SECONDS, UNDECIDED_SECONDS, DecisiveLine, Draft, KillLine
from collector.parse.oom_lines import (
    Chosen,
    CpuLine,
    DumpHeader,
    DumpRow,
    GroupKill,
    Header,
    Kill,
    NodeTotal,
    NoKill,
    OomFrame,
    OomLine,
    StatBlock,
    StatEntry,
    StatLines,
    SummaryStart,
    Usage,
    parse_oom_line,
)
from collector.parse.summary import Summary, is_continuation, parse_summary

# What one assembler holds at most.
MAX_LANES = 64
MAX_OPEN = 4
MAX_TOLD = 8
MAX_ROWS = 65_536
MAX_STAT = 512

_EXPIRY_STEP_SECONDS = 0.25


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
        reports: list[OomReport] = []
        if at is not None and self._lanes and at >= self._next_expiry:
            reports = self._expire(at)
        text = record.text
        key = (record.host, record.caller)
        lane = self._lanes.get(key)
        if lane is not None and lane.take_body(text, at):
            return reports
        line = parse_oom_line(text)
        if line is None and not is_continuation(text):
            return reports
        if lane is None:
            if line is None or isinstance(line, _NEVER_FIRST):
                return reports
            lane = self._open_lane(key, reports)
        if line is None:
            lane.continue_summary(text)
        else:
            lane.take(line, record, at, reports)
        return reports

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

    def _open_lane(self, key: tuple[str | None, str | None], reports: list[OomReport]) -> _Lane:
        if len(self._lanes) >= MAX_LANES:
            self._lanes.pop(next(iter(self._lanes))).close(reports)
        lane = self._lanes[key] = _Lane(self._kill_line_seconds)
        return lane


@dataclass(slots=True)
class _Lane:
    """
    The reports of one printing task, or of one machine where the kernel does not print its callers.

    `undecided` have no kill line yet, oldest first; `killed` has one and may still get members of its group; `told` were
    settled without a kill line.
    """

    kill_line_seconds: float
    undecided: list[Draft] = field(default_factory=list)
    killed: Draft | None = None
    told: list[Draft] = field(default_factory=list)
    stat: Draft | None = None
    dump: Draft | None = None
    cpu: CpuLine | None = None
    cpu_at: float | None = None
    interleaved: bool = False

    @property
    def is_open(self) -> bool:
        return bool(self.undecided) or self.killed is not None

    @property
    def is_idle(self) -> bool:
        return not self.is_open and not self.told and self.cpu is None

    def take(self, line: OomLine, record: KernelRecord, at: float | None, reports: list[OomReport]) -> None:
        match line:
            case Header():
                draft = self._open(record, at, reports)
                draft.has_header, draft.invoker = True, line.invoker
            case CpuLine():
                self._take_cpu(line, at)
            case OomFrame():
                self._take_frame(record, at, reports)
            case Usage():
                self._owner("usage", line.counter, record, at, reports).usage[line.counter] = line
            case StatBlock():
                self._take_stat_block(line, record, at, reports)
            case NodeTotal():
                self._take_total(line, at)
            case StatLines():
                if self.stat is not None:
                    self.stat.stat.update(line.stat)
                    self.stat.last_at = at
            case DumpHeader():
                self._take_dump_header(line, record, at, reports)
            case DumpRow():
                self._take_headless_row(line.text, record, at, reports)
            case SummaryStart():
                self._take_summary(line, record, at, reports)
            case Chosen():
                draft = self._owner("chosen", None, record, at, reports)
                draft.chosen, draft.chosen_line = line, DecisiveLine(record.text, _moment(record))
            case Kill():
                self._take_kill(KillLine(record.text, _moment(record), line), record, at, reports)
            case GroupKill():
                self._take_group(line, record, at, reports)
            case NoKill():
                for draft in [draft for draft in self.undecided if not draft.is_decided]:
                    self._take_out(draft)
            case StatEntry():
                pass  # not in the statistics of a report: somebody else's two words

    def continue_summary(self, text: str) -> None:
        for draft in reversed(self.undecided):
            if draft.continue_summary(text):
                return

    def expire(self, at: float, reports: list[OomReport]) -> None:
        if self.killed is not None and self.killed.expires(at, SETTLE_SECONDS):
            self._settle_killed(reports)
        for draft in [draft for draft in self.undecided if draft.expires(at, self.kill_line_seconds)]:
            self._give_up(draft, reports)
        self.told = [draft for draft in self.told if not _is_past(draft.last_at, at)]
        if _is_past(self.cpu_at, at):
            self.cpu = None

    def close(self, reports: list[OomReport]) -> None:
        self._settle_killed(reports)
        for draft in list(self.undecided):
            self._give_up(draft, reports)

    # Where a line belongs

    def _open(self, record: KernelRecord, at: float | None, reports: list[OomReport]) -> Draft:
        """A new report ends the one before: the kernel prints nothing of a group kill after the next report's begin."""
        self._settle_killed(reports)
        if len(self.undecided) >= MAX_OPEN:
            self._give_up(self.undecided[0], reports)
        if not self.undecided:
            self.interleaved = False
        draft = Draft(_moment(record), at)
        self.undecided.append(draft)
        return draft

    def _owner(
        self, section: str, key: str | None, record: KernelRecord, at: float | None, reports: list[OomReport]
    ) -> Draft:
        """The oldest report in the making that has no such section yet, or a new one whose header is not in the log."""
        for draft in self.undecided:
            held = getattr(draft, section)
            if not (held if key is None else key in held):
                draft.last_at = at
                self.interleaved = self.interleaved or draft is not self.undecided[-1]
                return draft
        return self._open(record, at, reports)

    def take_body(self, text: str, at: float | None) -> bool:
        """
        Take a row of the dump or a line of the statistics that is being printed: most records of a report are these.

        False: the line is something else.
        """
        draft = self.dump if text[:1] == "[" else self.stat
        if draft is None:
            return False
        if draft is self.stat:
            name, _, value = text.partition(" ")
            if not (value.isdecimal() and value.isascii() and name.isidentifier()) or len(draft.stat) >= MAX_STAT:
                return False
            draft.stat.setdefault(name, int(value))
        elif text.endswith(" name"):
            return False
        elif len(draft.rows) < MAX_ROWS:
            draft.rows.append(text)
        else:
            draft.rows_left_out += 1
        draft.last_at = at
        return True

    def _take_headless_row(self, row: str, record: KernelRecord, at: float | None, reports: list[OomReport]) -> None:
        if not self.undecided:
            self._open(record, at, reports)
        self.dump = self.undecided[-1]
        self.take_body(row, at)

    def _take_stat_block(
        self, line: StatBlock, record: KernelRecord, at: float | None, reports: list[OomReport]
    ) -> None:
        if self.undecided and all(draft.stat_memcg is not None for draft in self.undecided):
            # cgroup v1 goes on with the cgroups below oom_memcg.
            self.stat = None
            return
        self.stat = self._owner("stat_memcg", None, record, at, reports)
        self.stat.stat_memcg = line.memcg
        self.stat.stat.update(line.stat)

    def _take_dump_header(
        self, line: DumpHeader, record: KernelRecord, at: float | None, reports: list[OomReport]
    ) -> None:
        self.dump = self._owner("columns", None, record, at, reports)
        self.dump.columns = line.columns
        if self.dump is self.stat:
            self.stat = None

    def _take_total(self, total: NodeTotal, at: float | None) -> None:
        for draft in self.undecided:
            if total.name not in draft.totals:
                draft.totals[total.name] = total.value
                draft.last_at = at
                return

    def _take_cpu(self, line: CpuLine, at: float | None) -> None:
        self.cpu, self.cpu_at = line, at
        for draft in self.undecided:
            invoker = draft.invoker
            if draft.has_header and invoker is not None and invoker.pid is None and invoker.comm == line.comm:
                draft.invoker = replace(invoker, pid=line.pid)
                return

    def _take_frame(self, record: KernelRecord, at: float | None, reports: list[OomReport]) -> None:
        """The OOM killer's own stack: the CPU line above it was the invoker's, even where the header is not in the log."""
        if self.cpu is not None and not self.undecided:
            draft = self._open(record, at, reports)
            draft.invoker = Invoker(comm=self.cpu.comm, pid=self.cpu.pid)
        self.cpu = None

    def _take_summary(
        self, line: SummaryStart, record: KernelRecord, at: float | None, reports: list[OomReport]
    ) -> None:
        summary = parse_summary(line.text)
        candidates = [
            draft for draft in self.undecided if draft.summary_line is None and not _is_denied(draft, summary)
        ]
        if len(candidates) > 1:
            candidates = [draft for draft in candidates if draft.has_row_of(summary.pid)] or candidates
        if candidates:
            # Reports follow one another unless sections of an older one were seen after a newer one's header.
            draft = candidates[0 if self.interleaved else -1]
        else:
            draft = self._open(record, at, reports)
        draft.set_summary(DecisiveLine(line.text, _moment(record)))
        draft.last_at = at

    def _take_kill(self, line: KillLine, record: KernelRecord, at: float | None, reports: list[OomReport]) -> None:
        draft = self._expecting(line.kill)
        if draft is None and self.killed is not None and self.killed.takes_member(line.kill):
            self.killed.last_at = at
            if all(known.kill.process.pid != line.kill.process.pid for known in self.killed.kills):
                self.killed.kills.append(line)
            return
        if draft is None:
            late = next((draft for draft in self.told if draft.expects(line.kill)), None)
            if late is not None:
                self._tell_again(late, line, reports)
                return
            draft = self._likely(line.kill) or self._open(record, at, reports)
        self._settle_killed(reports)
        self._take_out(draft)
        draft.kills.append(line)
        draft.last_at = at
        self.killed = draft
        _append(reports, draft.build(settled=False))

    def _take_group(self, line: GroupKill, record: KernelRecord, at: float | None, reports: list[OomReport]) -> None:
        """The line stands between the first victim's kill line and the others'."""
        killed = self.killed
        if killed is None:
            draft = self._owner("group_memcg", None, record, at, reports)
        elif killed.group_memcg is None:
            draft = killed
        elif len(killed.kills) > 1:
            # What looked like one more member was the first victim of the next group kill.
            first = killed.kills.pop()
            self._settle_killed(reports)
            draft = self.killed = Draft(first.moment, at)
            draft.kills.append(first)
        else:
            draft = self._open(record, at, reports)
        draft.group_memcg = line.memcg
        draft.last_at = at

    def _expecting(self, kill: Kill) -> Draft | None:
        return next((draft for draft in self.undecided if draft.expects(kill)), None)

    def _likely(self, kill: Kill) -> Draft | None:
        """A report that does not name its victim, and that this kill does not contradict; the last one first."""
        open_reports = [draft for draft in reversed(self.undecided) if draft.may_have_killed(kill)]
        return next(
            (draft for draft in open_reports if draft.chosen is not None), open_reports[0] if open_reports else None
        )

    # How a report ends

    def _take_out(self, draft: Draft) -> None:
        self.undecided.remove(draft)
        if self.stat is draft:
            self.stat = None
        if self.dump is draft:
            self.dump = None

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
        draft.kills.append(line)
        report = draft.build(settled=True)
        if told is not None and report is not None:
            reports.append(replace(report, kill_moment=told.kill_moment, kill_text=told.kill_text))


def _is_denied(draft: Draft, summary: Summary) -> bool:
    """Whether what a report holds already speaks against this summary line being its own."""
    if summary.oom_memcg is not None and draft.stat_memcg is not None and draft.stat_memcg != summary.oom_memcg:
        return True
    return draft.chosen is not None and summary.pid is not None and draft.chosen.pid != summary.pid


def _moment(record: KernelRecord) -> Moment:
    return Moment(
        sequence=record.sequence,
        monotonic_usec=record.monotonic_usec,
        time=record.time,
        stamp=record.stamp,
        host=record.host,
        boot_id=record.boot_id,
    )


def _is_past(then: float | None, at: float) -> bool:
    return then is not None and at - then >= UNDECIDED_SECONDS


def _append(reports: list[OomReport], report: OomReport | None) -> None:
    if report is not None:
        reports.append(report)


# These add to a report; alone they are any log's everyday lines.
_NEVER_FIRST = (StatEntry, StatLines, NodeTotal, NoKill, OomFrame)
