"""A report in the making: the lines that were added to it, and what they say together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from collector.model import (
    DEFAULT_PAGE_SIZE,
    Evidence,
    Invoker,
    MemcgPath,
    MemoryUse,
    Moment,
    NodeMemory,
    OomReport,
    Process,
    Scope,
    Task,
)
from collector.parse.cgroup_path import is_same_or_ancestor
from collector.parse.oom_lines import Chosen, Kill, Usage
from collector.parse.summary import Summary, join_pieces, parse_summary
from collector.parse.task_dump import find_row, read_tasks, total_vm_pages

SETTLE_SECONDS = 2.0
# Before 5.0 the chosen process and its victim are two lines, up to 3 s apart in real logs.
CHOSEN_SETTLE_SECONDS = 10.0
# A report without a decision: a dump of 2,000 tasks keeps a serial console busy this long.
UNDECIDED_SECONDS = 60.0

USAGE_COUNTERS = ("memory", "swap", "memory+swap", "kmem")
_KNOWN_PAGE_SIZES = (4096, 8192, 16384, 65536)


class DecisiveLine(NamedTuple):
    """A line that tells of a kill, and when it was printed."""

    text: str
    moment: Moment


class KillLine(NamedTuple):
    text: str
    moment: Moment
    kill: Kill


@dataclass(slots=True)
class Stat:
    """memory.stat of `oom_memcg`, as the report prints it."""

    memcg: str
    values: dict[str, int]


@dataclass(slots=True)
class Dump:
    """The rows of a task dump as printed. columns: as its header names them; None where that is not in the log."""

    columns: tuple[str, ...] | None = None
    rows: list[str] = field(default_factory=list)
    left_out: int = 0


class Draft:
    """
    Everything is optional: a report may lack any line but the one that decides.

    last_at: when its last line but for rows and statistics came, in seconds of the caller's clock.
    earlier_dump: that of the report before.
    """

    __slots__ = (
        "chosen",
        "chosen_line",
        "dump",
        "earlier_dump",
        "first",
        "group_memcg",
        "has_header",
        "invoker",
        "kill_lines",
        "killed_comms",
        "kills",
        "last_at",
        "node_stat",
        "stat",
        "summary",
        "summary_line",
        "totals",
        "usage",
    )

    def __init__(self, first: Moment, at: float | None, earlier_dump: Dump | None = None) -> None:
        self.first = first
        self.earlier_dump = earlier_dump
        self.last_at = at
        self.has_header = False
        self.invoker: Invoker | None = None
        self.usage: dict[str, Usage] = {}
        self.stat: Stat | None = None
        self.totals: dict[str, int] = {}
        self.node_stat: dict[str, int] = {}
        self.dump: Dump | None = None
        self.summary_line: DecisiveLine | None = None
        self.summary: Summary | None = None
        self.chosen: Chosen | None = None
        self.chosen_line: DecisiveLine | None = None
        self.group_memcg: str | None = None
        self.kills: list[KillLine] = []
        self.kill_lines = 0
        # By pid, for groups of thousands.
        self.killed_comms: dict[int | None, str | None] = {}

    @property
    def is_decided(self) -> bool:
        return bool(self.kills) or self.summary_line is not None or self.chosen is not None

    def patience(self, kill_line_seconds: float) -> float:
        """Seconds to wait for more since the last record. kill_line_seconds: those behind a summary line."""
        if self.kills:
            return SETTLE_SECONDS
        if self.summary_line is not None:
            return kill_line_seconds
        return CHOSEN_SETTLE_SECONDS if self.chosen is not None else UNDECIDED_SECONDS

    def has_row_of(self, pid: int | None) -> bool:
        return self.dump is not None and find_row(self.dump.rows, pid) is not None

    def has(self, section: str) -> bool:
        """section: a counter of `usage`, or the name of an attribute."""
        return section in self.usage if section in USAGE_COUNTERS else getattr(self, section) is not None

    def hand_over(self, section: str, other: Draft) -> None:
        """Give a section to another report, whose it was after all."""
        if section in USAGE_COUNTERS:
            other.usage[section] = self.usage.pop(section)
        else:
            setattr(other, section, getattr(self, section))
            setattr(self, section, None)

    def set_summary(self, line: DecisiveLine, summary: Summary) -> None:
        self.summary_line = line
        self.summary = summary

    def continue_summary(self, text: str) -> bool:
        """Add a piece that was split off this report's summary line; False when it is not one of it."""
        line = self.summary_line
        whole = None if line is None else join_pieces(line.text, text)
        if line is None or whole is None:
            return False
        self.set_summary(DecisiveLine(whole, line.moment), parse_summary(whole))
        return True

    def expects(self, kill: Kill) -> bool:
        """Whether a line of this report names this kill's victim."""
        if self.summary is not None and self.summary.pid is not None:
            return self.summary.pid == kill.process.pid
        return self.chosen is not None and self.chosen.pid == kill.process.pid

    def may_have_killed(self, kill: Kill) -> bool:
        """
        Whether this report, which does not name its victim, shows that this kill is its own.

        Being open is not enough: its own kill line may be lost, and this one another's.
        """
        summary = self.summary
        if summary is not None and summary.pid is not None:
            return False
        if (
            summary is not None
            and summary.scope is not None
            and kill.scope is not None
            and summary.scope is not kill.scope
        ):
            return False
        # A child sacrificed for the chosen process may be too small, or too late, for the dump.
        if self.chosen is not None or self.group_memcg is not None or self.has_row_of(kill.process.pid):
            return True
        return summary is not None or self._is_header_alone()

    def _is_header_alone(self) -> bool:
        """A log that was searched for headers and kills; numbered records show that nothing stood between them."""
        details = self.usage or self.stat or self.dump or self.totals
        return self.has_header and not details and self.first.sequence is None

    def is_completed_by(self, line: Summary | Chosen) -> bool:
        """Whether a kill line that was told alone is of the victim that this line names."""
        victim = self.kills[0].kill.process
        alone = self.summary_line is None and self.chosen is None and not self.has_header
        return alone and line.pid is not None and line.pid == victim.pid and line.comm in (None, victim.comm)

    def takes_member(self, kill: Kill) -> bool:
        """Whether a kill line belongs to the group kill that this report has become, or repeats one of its lines."""
        pid = kill.process.pid
        if pid in self.killed_comms:
            return self.killed_comms[pid] == kill.process.comm
        return self.group_memcg is not None and self.kills[0].kill.scope == kill.scope

    def add_kill(self, line: KillLine) -> None:
        """Each process once: the kernel prints a group's first victim twice."""
        process = line.kill.process
        self.kill_lines += 1
        if process.pid not in self.killed_comms:
            self.kills.append(line)
            self.killed_comms[process.pid] = process.comm

    def take_last_kill(self) -> KillLine:
        line = self.kills.pop()
        self.kill_lines -= 1
        del self.killed_comms[line.kill.process.pid]
        return line

    def build(self, *, settled: bool) -> OomReport | None:
        """
        The report as it stands; None while nothing in it tells of a kill.

        The task dump is left out of an unsettled one: a count does not need it, and it is the dearest part.
        """
        line = self.kills[0] if self.kills else self.summary_line or self.chosen_line
        if line is None:
            return None
        kill = self.kills[0].kill if self.kills else None
        page_size, page_size_known = self._page_size(kill) if settled else (DEFAULT_PAGE_SIZE, False)
        tasks = read_tasks(self.dump.columns, self.dump.rows, page_size) if settled and self.dump is not None else ()
        known = _Known(tasks)
        summary = self._read_summary_again(kill, known)
        victim = _complete(self._victim(kill, summary), known)
        if settled and self.dump is None:
            victim = self._complete_by_earlier_dump(victim)
        return OomReport(
            settled=settled,
            first_moment=self.first,
            kill_moment=line.moment,
            kill_text=line.text,
            evidence=self._evidence(),
            scope=self._scope(kill),
            constraint=summary.constraint,
            unknown_constraint=summary.unknown_constraint,
            global_oom=summary.global_oom,
            oom_memcg=summary.oom_memcg or self._oom_memcg_otherwise(kill),
            task_memcg=summary.task_memcg or self._task_memcg_of_group(summary),
            task_memcg_cut=summary.task_memcg_cut,
            group_memcg=None if self.group_memcg is None else MemcgPath(self.group_memcg),
            victim=victim,
            also_killed=tuple(_complete(kill_line.kill.process, known) for kill_line in self.kills[1:]),
            invoker=self.invoker,
            memory=self._memory(),
            node_memory=self._node_memory(page_size),
            tasks=tasks,
            page_size=page_size,
            page_size_known=page_size_known,
            missing=self._missing(kill),
            contradictions=self._contradictions(kill, summary),
            kill_lines=max(1, self.kill_lines),
        )

    def _scope(self, kill: Kill | None) -> Scope | None:
        """Before 5.0 the chosen process's line has the prefix, and the kill line has none."""
        if kill is not None and kill.scope is not None:
            return kill.scope
        return self.chosen.scope if self.chosen is not None else None

    def _read_summary_again(self, kill: Kill | None, known: _Known) -> Summary:
        """The kill line and the dump have told the victim's comm by now, and so where it begins in the summary line."""
        if self.summary_line is None or self.summary is None:
            return Summary()
        if kill is not None and kill.process.comm and kill.process.comm == self.summary.comm:
            return self.summary
        task = known.get(kill.process.pid if kill else self.summary.pid)
        comms = {comm for comm in (kill and kill.process.comm, task and task.comm) if comm}
        if not comms or self.summary.comm in comms:
            return self.summary
        return parse_summary(self.summary_line.text, comms=frozenset(comms))

    def _victim(self, kill: Kill | None, summary: Summary) -> Process:
        if kill is not None:
            process = kill.process
            if process.pid != summary.pid or (process.comm is not None and process.uid is not None):
                return process
            return _fill_in(process, comm=summary.comm, uid=summary.uid)
        if summary.pid is not None or self.chosen is None:
            return Process(pid=summary.pid, comm=summary.comm, uid=summary.uid)
        return Process(pid=self.chosen.pid, comm=self.chosen.comm)

    def _complete_by_earlier_dump(self, victim: Process) -> Process:
        """A rate-limited kill's victim stands in the dump before it: same pid, name and size, same process."""
        if self.earlier_dump is None or victim.total_vm_bytes is None:
            return victim
        row = find_row(self.earlier_dump.rows, victim.pid)
        tasks = read_tasks(self.earlier_dump.columns, (row,) if row else (), DEFAULT_PAGE_SIZE)
        for task in tasks:
            if (task.comm, task.total_vm_bytes) == (victim.comm, victim.total_vm_bytes):
                return _fill_in(victim, uid=task.uid, oom_score_adj=task.oom_score_adj)
        return victim

    def _page_size(self, kill: Kill | None) -> tuple[int, bool]:
        """The victim's total_vm stands in kB on its kill line and in pages in its row."""
        if kill is not None and kill.process.total_vm_bytes and self.dump is not None:
            row = find_row(self.dump.rows, kill.process.pid)
            pages = None if row is None else total_vm_pages(self.dump.columns, row)
            size, rest = divmod(kill.process.total_vm_bytes, pages or kill.process.total_vm_bytes)
            if size in _KNOWN_PAGE_SIZES and not rest:
                return size, True
        return DEFAULT_PAGE_SIZE, False

    def _oom_memcg_otherwise(self, kill: Kill | None) -> MemcgPath | None:
        """
        The limit's memcg where the summary line does not name it.

        The memory statistics are those of `oom_memcg`. A group is at or below it (mem_cgroup_get_oom_group), so a
        top-level one is it: the root above has no limit.
        """
        if self._scope(kill) is not Scope.MEMCG:
            return None
        if self.stat is not None and self.stat.memcg.startswith("/"):
            return MemcgPath(self.stat.memcg)
        group = self.group_memcg
        return MemcgPath(group) if group is not None and len(group) > 1 and group.count("/") == 1 else None

    def _task_memcg_of_group(self, summary: Summary) -> MemcgPath | None:
        """
        A summary line that was cut inside the victim's path, and a group kill that prints the path further.

        The victim is in that cgroup; a cgroup of its own below it cannot be ruled out.
        """
        cut, group = summary.task_memcg_cut, self.group_memcg
        return MemcgPath(group) if cut is not None and group is not None and group.startswith(cut) else None

    def _evidence(self) -> tuple[Evidence, ...]:
        evidence = []
        if self.has_header or self.usage or self.stat or self.dump or self.totals or self.node_stat:
            evidence.append(Evidence.REPORT)
        if self.summary_line is not None:
            evidence.append(Evidence.SUMMARY_LINE)
        if self.kills or self.chosen is not None:
            evidence.append(Evidence.KILL_LINE)
        return tuple(evidence)

    def _memory(self) -> MemoryUse | None:
        if not self.usage and not self.stat:
            return None
        memory, swap, both = self.usage.get("memory"), self.usage.get("swap"), self.usage.get("memory+swap")
        swap_usage, swap_limit = (swap.usage_bytes, swap.limit_bytes) if swap else (None, None)
        if both and memory and swap is None:
            # cgroup v1 counts memory and swap together; swap accounting that is off prints a usage of 0.
            swap_usage = max(0, both.usage_bytes - memory.usage_bytes)
            if both.limit_bytes is not None and memory.limit_bytes is not None:
                swap_limit = max(0, both.limit_bytes - memory.limit_bytes)
        return MemoryUse(
            usage_bytes=memory.usage_bytes if memory else None,
            limit_bytes=memory.limit_bytes if memory else None,
            swap_usage_bytes=swap_usage,
            swap_limit_bytes=swap_limit,
            stat=dict(self.stat.values) if self.stat is not None else {},
        )

    def _node_memory(self, page_size: int) -> NodeMemory | None:
        if not self.totals and not self.node_stat:
            return None
        ram, reserved = self.totals.get("RAM_pages"), self.totals.get("reserved_pages")
        return NodeMemory(
            ram_bytes=None if ram is None or reserved is None else (ram - reserved) * page_size,
            swap_bytes=self.totals.get("Total_swap_bytes"),
            free_swap_bytes=self.totals.get("Free_swap_bytes"),
            stat={name: pages * page_size for name, pages in self.node_stat.items()},
        )

    def _missing(self, kill: Kill | None) -> tuple[str, ...]:
        missing = []
        if not self.has_header and self.invoker is None:
            missing.append("who called the OOM killer")
        if (self.summary is not None and self.summary.global_oom) or self._scope(kill) is Scope.GLOBAL:
            if not self.totals:
                missing.append("the node's memory")
        else:
            if "memory" not in self.usage:
                missing.append("memory use and limit")
            if self.stat is None or not self.stat.values:
                missing.append("memory statistics")
        if self.dump is None or not self.dump.rows:
            missing.append("the task dump")
        if self.summary is None or not self.summary.complete:
            missing.append("the summary line")
        if not self.kills:
            missing.append("the kill line")
        if self.dump is not None and self.dump.left_out:
            missing.append(f"{self.dump.left_out} rows of the task dump, over the bound")
        return tuple(missing)

    def _contradictions(self, kill: Kill | None, summary: Summary) -> tuple[str, ...]:
        found = []
        if kill is not None and summary.complete:
            by_limit = summary.oom_memcg is not None
            if kill.scope is Scope.GLOBAL and by_limit:
                found.append('the kill line says "Out of memory", the summary line names a memcg whose limit was hit')
            if kill.scope is Scope.MEMCG and summary.global_oom:
                found.append('the kill line says "Memory cgroup out of memory", the summary line a global OOM')
        if summary.oom_memcg is not None and summary.task_memcg is not None:
            if not is_same_or_ancestor(summary.oom_memcg, summary.task_memcg):
                found.append("task_memcg is not below oom_memcg")
            if self.stat is not None and self.stat.memcg != summary.oom_memcg:
                found.append(f"the memory statistics are of another memcg: {self.stat.memcg}")
        return tuple(found)


class _Known:
    """The rows of a dump by pid, of which the last counts. Most kill lines say all: then nobody asks."""

    __slots__ = ("_by_pid", "_tasks")

    def __init__(self, tasks: tuple[Task, ...]) -> None:
        self._tasks = tasks
        self._by_pid: dict[int, Task] | None = None

    def get(self, pid: int | None) -> Task | None:
        if self._by_pid is None:
            self._by_pid = {task.pid: task for task in self._tasks}
        return None if pid is None else self._by_pid.get(pid)


def _complete(process: Process, known: _Known) -> Process:
    """Fill in from the process's row of the dump what its kill line does not say."""
    told = process.comm, process.uid, process.oom_score_adj, process.total_vm_bytes, process.pgtables_bytes
    task = known.get(process.pid) if None in told else None
    if task is None:
        return process
    return _fill_in(
        process,
        comm=task.comm,
        uid=task.uid,
        oom_score_adj=task.oom_score_adj,
        total_vm_bytes=task.total_vm_bytes,
        pgtables_bytes=task.pgtables_bytes,
    )


def _fill_in(process: Process, **facts: str | int | None) -> Process:
    """What is not known yet of a process; what is known stays."""
    new = {name: fact for name, fact in facts.items() if fact is not None and getattr(process, name) is None}
    return replace(process, **new) if new else process  # type: ignore[arg-type]  # names and types are the caller's
