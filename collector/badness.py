"""
Why this victim: the kernel's choice, recomputed from the task dump.

    points = rss + swap + page tables + oom_score_adj * (totalpages / 1000)        in pages, integer division

The task with the most points dies. totalpages is what ran out: the memcg's limit with the swap that it may use, or the
node's memory and swap. A memcg report does not print the node's swap, so what a point of oom_score_adj weighs is a
range there; a rank is only stated where it is the same at both ends of it (points are linear, so it holds between).

Source: mm/oom_kill.c oom_badness(), constrained_alloc(); mm/memcontrol.c mem_cgroup_get_max(). Until 4.17 a task with
CAP_SYS_ADMIN got 3 % off, until 5.1 a child of the chosen task could die in its place, until 5.9 all scores below 1
counted as 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from collector.model import DEFAULT_PAGE_SIZE, Constraint, MemoryUse, NodeMemory, OomReport, Scope, Task
from collector.units import human_bytes

UNKILLABLE_ADJ = -1000
# The dump prints pids of the initial pid namespace; its init is never killed.
_INIT_PID = 1
_LARGEST_PAGE_SIZE = 65536
# More than any memory: there oom_score_adj alone decides.
_UNBOUNDED_PAGES = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """
    What the kernel chose by, as far as it is known.

    What ran out had between `least_total_bytes` and `most_total_bytes` of memory and swap; None: no bound is known.
    `by_two_lines`: the kernel told of the chosen task and of the victim apart, as it did before 5.0.
    """

    tasks: tuple[Task, ...]
    victim_pid: int | None
    least_total_bytes: int = 0
    most_total_bytes: int | None = None
    page_size: int = DEFAULT_PAGE_SIZE
    page_size_known: bool = False
    by_two_lines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Badness:
    """
    The victim among the tasks of the dump.

    Memory is rss, swap and page tables, as far as the dump has these columns. A rank is 1 + the number of tasks that
    have more: `rank` by the kernel's score among those that may be killed, `memory_rank` among all.
    """

    victim: Task
    task_count: int
    protected_count: int  # by oom_score_adj -1000
    memory_rank: int
    largest: Task  # by memory: it would have died had all oom_score_adj been equal
    largest_killable: Task
    rank: int | None
    rank_unknown: str | None  # why `rank` is None
    first: Task | None  # of the others, by the score
    equal_adj: bool
    adj_point_bytes: int | None  # what one point of oom_score_adj weighs
    older_rule: str | None  # what put another task behind the victim in older kernels

    @property
    def adj_decided(self) -> bool | None:
        """Whether another task would have died had all oom_score_adj been equal."""
        return None if self.rank is None else self.rank == 1 and self.memory_rank > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRecomputed:
    """The log does not hold what the choice rested on."""

    reason: str


def recompute(report: OomReport) -> Badness | NotRecomputed:
    if "(oom_kill_allocating_task)" in report.kill_text.partition(":")[0]:
        return NotRecomputed(reason="vm.oom_kill_allocating_task is set: whoever asks for memory is killed")
    least, most = _total_bytes(report)
    return recompute_from(
        Given(
            tasks=report.tasks,
            victim_pid=report.victim.pid,
            least_total_bytes=least,
            most_total_bytes=most,
            page_size=report.page_size,
            page_size_known=report.page_size_known,
            by_two_lines=report.kill_text.startswith("Killed process"),
        )
    )


def recompute_from(given: Given) -> Badness | NotRecomputed:
    tasks = given.tasks
    if not tasks:
        return NotRecomputed(reason="the task dump is not in this log")
    victim = find_row(tasks, given.victim_pid)
    if victim is None:
        return NotRecomputed(reason="the victim is not in the task dump")
    if any(task.rss_bytes is None for task in tasks):
        return NotRecomputed(reason="the task dump does not tell the resident memory")
    others = [task for task in tasks if task is not victim]
    killable = [task for task in others if task.oom_score_adj != UNKILLABLE_ADJ and task.pid != _INIT_PID]
    choice = _choose(given, victim, killable)
    return Badness(
        victim=victim,
        task_count=len(tasks),
        protected_count=sum(task.oom_score_adj == UNKILLABLE_ADJ for task in others),
        memory_rank=1 + sum(memory_of(task) > memory_of(victim) for task in others),
        largest=max((victim, *others), key=memory_of),
        largest_killable=max((victim, *killable), key=memory_of),
        equal_adj=len({task.oom_score_adj for task in tasks}) == 1,
        rank=choice.rank,
        rank_unknown=choice.unknown,
        first=choice.first,
        adj_point_bytes=choice.adj_point_bytes,
        older_rule=choice.older_rule,
    )


def find_victim(report: OomReport) -> Task | None:
    """The victim's row."""
    return find_row(report.tasks, report.victim.pid)


def find_row(tasks: tuple[Task, ...], pid: int | None) -> Task | None:
    """Of a process. The dump may print another thread of it than the kill line does."""
    if pid is None:
        return None
    rows = [task for task in tasks if pid in (task.pid, task.tgid)]
    return next((task for task in rows if task.pid == pid), rows[0] if rows else None)


def memory_of(task: Task) -> int:
    """Bytes of rss, swap and page tables, as far as the dump has these columns."""
    return (task.rss_bytes or 0) + (task.swap_bytes or 0) + (task.pgtables_bytes or 0)


def adj_tier(adj: int) -> str | None:
    """
    What an oom_score_adj says about a process of a Kubernetes node; None: not a value that the kubelet gives.

    Only for processes known to be a pod's or the node's: elsewhere systemd and the desktop use 100 and 200 too.

    Source: pkg/kubelet/qos/policy.go.
    """
    if 3 <= adj <= 999:
        return "Burstable"
    return _TIERS.get(adj)


_TIERS = {
    UNKILLABLE_ADJ: "unkillable",
    -999: "node daemon",
    -998: "sandbox",
    -997: "Guaranteed or node-critical",
    0: "host process default",
    1000: "BestEffort",
}


class _Score:
    """oom_badness() for one weight of a point of oom_score_adj, in pages."""

    __slots__ = ("adj_point_pages", "page_size")

    def __init__(self, page_size: int, adj_point_pages: int) -> None:
        self.page_size = page_size
        self.adj_point_pages = adj_point_pages

    def __call__(self, task: Task) -> int:
        return self.memory(task) + (task.oom_score_adj or 0) * self.adj_point_pages

    def memory(self, task: Task) -> int:
        sizes = (task.rss_bytes, task.swap_bytes, task.pgtables_bytes)
        return sum((size or 0) // self.page_size for size in sizes)

    def before_4_17(self, task: Task) -> int:
        return self(task) - (self.memory(task) * 3 // 100 if task.uid == 0 else 0)


class _Choice(NamedTuple):
    rank: int | None = None
    unknown: str | None = None
    first: Task | None = None
    adj_point_bytes: int | None = None
    older_rule: str | None = None


def _choose(given: Given, victim: Task, others: list[Task]) -> _Choice:
    """Rank the victim among the others that may be killed, by the least and the most that oom_score_adj can weigh."""
    gap = _find_gap(given.tasks)
    if gap is not None:
        return _Choice(unknown=gap)
    least, most = (_Score(given.page_size, pages // 1000) for pages in _total_pages(given))
    ahead = {task.pid for task in others if least(task) > least(victim)}
    if ahead != {task.pid for task in others if most(task) > most(victim)}:
        return _Choice(unknown="how much oom_score_adj weighs here is not in the log")
    first = max(others, key=least, default=None)
    return _Choice(
        rank=1 + len(ahead),
        first=first if first is max(others, key=most, default=None) else None,
        adj_point_bytes=(
            least.adj_point_pages * given.page_size if least.adj_point_pages == most.adj_point_pages else None
        ),
        older_rule=_find_older_rule(given, victim, others, (least, most)) if ahead else None,
    )


def _find_gap(tasks: Iterable[Task]) -> str | None:
    """The first column that the score needs and the dump lacks."""
    columns: tuple[tuple[str, Callable[[Task], int | None]], ...] = (
        ("oom_score_adj", lambda task: task.oom_score_adj),
        ("swap", lambda task: task.swap_bytes),
        ("page tables", lambda task: task.pgtables_bytes),
    )
    for name, read in columns:
        if any(read(task) is None for task in tasks):
            return f"the task dump does not tell {name}"
    return None


def _total_pages(given: Given) -> tuple[int, int]:
    """oom_control.totalpages: the least and the most that it can have been."""
    least_size = given.page_size if given.page_size_known else _LARGEST_PAGE_SIZE
    most = given.most_total_bytes
    return given.least_total_bytes // least_size, _UNBOUNDED_PAGES if most is None else most // given.page_size


def _total_bytes(report: OomReport) -> tuple[int, int | None]:
    """Of what ran out: the least and the most that it can have been; None: no bound is known."""
    # With a cpuset or a memory policy only the nodes that it allows count; the report does not tell their sizes.
    if report.constraint in (Constraint.CPUSET, Constraint.MEMORY_POLICY):
        return 0, None
    if report.oom_memcg is not None or (report.scope is Scope.MEMCG and not report.global_oom):
        return total_of_memcg(report.memory)
    if report.global_oom or report.scope is Scope.GLOBAL:
        return total_of_node(report.node_memory)
    return 0, None


def total_of_memcg(memory: MemoryUse | None) -> tuple[int, int | None]:
    """Least and most: the swap that it may use may not be there."""
    if memory is None or memory.limit_bytes is None:
        return 0, None
    swap = memory.swap_limit_bytes
    return memory.limit_bytes, None if swap is None else memory.limit_bytes + swap


def total_of_node(node: NodeMemory | None) -> tuple[int, int | None]:
    if node is None or node.ram_bytes is None or node.swap_bytes is None:
        return 0, None
    return node.ram_bytes + node.swap_bytes, node.ram_bytes + node.swap_bytes


def _find_older_rule(given: Given, victim: Task, others: list[Task], scores: tuple[_Score, ...]) -> str | None:
    """What an older kernel did otherwise, where that explains a victim that is not the first."""
    if all(score(task) < 1 for score in scores for task in (victim, *others)):
        return "kernels before 5.9 count all scores below 1 as equal"
    if all(score.before_4_17(task) <= score.before_4_17(victim) for score in scores for task in others):
        return "kernels before 4.17 take 3 % off the memory of root's tasks, which makes it the first"
    # The two-line form: "Kill process N ... or sacrifice child" and "Killed process M".
    if given.by_two_lines:
        return "such an old kernel may kill a child of the task that it chose"
    return None


def tell_choice(found: Badness | NotRecomputed) -> str:
    """
    Why this victim, in plain words, for the line "why this victim".

    Comms stand in it as they are: whoever prints it escapes them.
    """
    if isinstance(found, NotRecomputed):
        return f"unknown: {found.reason}"
    if found.rank is None:
        return f"{_by_memory(found)}; its rank by the kernel's score is unknown: {found.rank_unknown}"
    if found.rank > 1:
        return _not_first(found)
    return _larger_ones_spared(found) if found.memory_rank > 1 else _largest(found)


def _largest(found: Badness) -> str:
    if found.task_count == 1:
        return f"the only task in the dump ({human_bytes(memory_of(found.victim))})"
    if found.protected_count == found.task_count - 1:
        return f"the only task of {found.task_count} that oom_score_adj -1000 does not protect"
    facts = [human_bytes(memory_of(found.victim))]
    if found.equal_adj:
        return f"largest of {found.task_count} tasks ({facts[0]}{_next(found)}); all have the same oom_score_adj"
    return f"largest of {found.task_count} tasks, by memory and by the kernel's score ({facts[0]}{_next(found)})"


def _next(found: Badness) -> str:
    return "" if found.first is None else f"; next: {_named(found.first)}"


def _by_memory(found: Badness) -> str:
    size = human_bytes(memory_of(found.victim))
    if found.memory_rank == 1:
        return f"largest of {found.task_count} tasks by memory ({size})"
    place = f"{_ordinal(found.memory_rank)} of {found.task_count} tasks by memory"
    return f"{place} ({size}; largest: {_named(found.largest)})"


def _larger_ones_spared(found: Badness) -> str:
    """The victim is the first by the score, and oom_score_adj made it so."""
    victim = found.victim
    spared = [found.largest]
    if found.largest_killable not in (found.largest, victim):
        spared.append(found.largest_killable)
    larger = " and ".join(_spared(task) for task in spared)
    more = found.memory_rank - 1 - len(spared)
    if more > 0:
        larger += f", and {more} more {'are' if more > 1 else 'is'} larger"
    if found.largest_killable is victim:
        return f"not the largest: {larger}; {victim.comm} was the largest of the rest"
    weight = ""
    if found.adj_point_bytes and victim.oom_score_adj:
        weight = f", which weighs {human_bytes(abs(victim.oom_score_adj) * found.adj_point_bytes)}"
        weight += "" if victim.oom_score_adj > 0 else " less"
    return f"not the largest: {larger}; {victim.comm} came first with oom_score_adj {victim.oom_score_adj}{weight}"


def _spared(task: Task) -> str:
    name = f"{task.comm} ({human_bytes(memory_of(task))})"
    if task.oom_score_adj == UNKILLABLE_ADJ:
        return f"{name} cannot be killed (oom_score_adj -1000)"
    if task.pid == _INIT_PID:
        return f"{name} is init"
    verb = "is protected by" if (task.oom_score_adj or 0) < 0 else "has"
    return f"{name} {verb} oom_score_adj {task.oom_score_adj}"


def _not_first(found: Badness) -> str:
    first = ""
    if found.first is not None:
        first = f"; first: {_named(found.first)}, oom_score_adj {found.first.oom_score_adj}"
    count = found.task_count - found.protected_count
    why = found.older_rule or "the log does not tell why"
    return f"{_ordinal(found.rank or 0)} of {count} killable tasks by the kernel's score{first}; {why}"


def _named(task: Task) -> str:
    return f"{task.comm} {human_bytes(memory_of(task))}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
