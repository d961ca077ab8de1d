"""
An incident as text for a terminal: the verdict in one sentence, then the facts that prove it.

Every string that comes from the log passes printable(): names in it are chosen by the workload.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from collector.badness import adj_tier, find_victim, recompute, tell_choice
from collector.diagnosis.model import Action, Advice, Diagnosis, FindingKind, Pattern
from collector.memory_stat import memory_shares
from collector.model import Cause, Evidence, Incident, Invoker, MemoryUse, OomReport, Process, Task
from collector.text import printable
from collector.units import human_bytes

MOST_SHARES = 5
MOST_TASKS = 5
MOST_MEMBERS = 10

_SYSRQ_ORDER = -1

_INDENT = "  "
_LABEL_WIDTH = 15
_LEAST_TEXT_WIDTH = 24

# textwrap breaks at ASCII blanks alone.
_GLUE = "\N{NO-BREAK SPACE}"
_SIZE_BLANK = re.compile(r"(?<=\d) (?=[KMGT]?i?B\b)")

_BOLD, _DIM = "1", "2"
_HEADLINE = {True: "1;31", False: "1;33", None: "1"}  # by node pressure: red is the operator's, yellow the owner's


class Line(NamedTuple):
    """
    A line of a fact. Paths, table rows and commands are not broken at the width of the terminal; what is broken goes on
    after `indent` blanks.
    """

    text: str
    breakable: bool = True
    bold: bool = False
    indent: int = 0


class Fact(NamedTuple):
    label: str
    lines: tuple[Line, ...]


def render_text(
    incident: Incident, diagnosis: Diagnosis | None = None, *, colour: bool, width: int | None = None
) -> str:
    """width: of the terminal, to wrap sentences at; None: one line each. The text ends without a newline."""
    headline = "\n".join(_wrap(printable(incident.summary), width))
    lines = [_paint(headline, _HEADLINE[incident.verdict.node_pressure], colour=colour)]
    told = () if diagnosis is None else _diagnosis(diagnosis)
    for fact in (*_facts(incident), *told):
        lines += _layout(fact, colour=colour, width=width)
    missing = incident.report.missing
    if missing:
        sentence = f"not in this log: {printable(', '.join(missing))}"
        lines += [_INDENT + line for line in _wrap(sentence, width and width - len(_INDENT))]
    return "\n".join(lines)


def _facts(incident: Incident) -> Iterator[Fact]:
    report = incident.report
    yield from _fact("when", _when(incident))
    yield from _fact("whose limit", _whose_limit(incident))
    yield from _fact("memory", _memory(report))
    yield from _fact("biggest tasks", _tasks(report))
    yield from _fact("victim", _victim(incident))
    yield Fact("why this victim", (Line(printable(tell_choice(recompute(report)))),))
    yield from _fact("called by", _invoker(report))
    yield from _fact("also killed", _members(report))
    yield from _fact("pod", _pod(incident))
    yield from _fact("container", _container(incident))
    if report.task_memcg is not None and report.task_memcg != report.oom_memcg:
        yield Fact("victim's cgroup", (_path(report.task_memcg),))
    yield from _fact("proof", _proof(incident))
    yield from _fact("but", (Line(printable(text)) for text in incident.verdict.contradictions))


def _fact(label: str, lines: Iterable[Line]) -> Iterator[Fact]:
    """Nothing known, nothing said."""
    held = tuple(lines)
    if held:
        yield Fact(label, held)


def _when(incident: Incident) -> Iterator[Line]:
    parts = []
    if incident.time is not None:
        parts.append(f"{incident.time:%Y-%m-%d %H:%M:%S} UTC")
    moment = incident.report.kill_moment
    if moment.monotonic_usec is not None:
        parts.append(f"{moment.monotonic_usec / 1e6:.3f} s after boot")
    if not parts and moment.stamp:
        parts.append(f"{printable(moment.stamp)} by the log's own clock")
    if not parts:
        parts.append("the log does not tell")
    if incident.node is not None:
        parts.append(f"on {printable(incident.node)}")
    yield Line(", ".join(parts))


_LIMITS = {
    Cause.CONTAINER_LIMIT: "the container's",
    Cause.NESTED_LIMIT: "that of a cgroup inside the container",
    Cause.POD_LIMIT: "the pod's",
    Cause.QOS_LIMIT: "that of all pods of this QoS class together",
    Cause.NODE_ALLOCATABLE: "that of all pods on this node together (node allocatable)",
    Cause.SYSTEM_LIMIT: "that of a cgroup outside the pods",
    Cause.NODE: "nobody's: the whole node was out of memory",
    Cause.NODE_NUMA: "nobody's: the NUMA nodes that the caller may use were full",
    Cause.MANUAL: "nobody's: somebody asked for a kill (sysrq-f)",
    Cause.UNKNOWN: "unknown",
}


def _whose_limit(incident: Incident) -> Iterator[Line]:
    yield Line(_LIMITS[incident.verdict.cause])
    if incident.report.oom_memcg is not None:
        yield _path(incident.report.oom_memcg)


def _memory(report: OomReport) -> Iterator[Line]:
    memory, node = report.memory, report.node_memory
    if memory is not None:
        yield from _usage(memory)
        yield from _shares(memory)
    if node is not None and node.ram_bytes is not None:
        yield Line(
            f"{human_bytes(node.ram_bytes)} of RAM on the node, {_node_swap(node.swap_bytes, node.free_swap_bytes)}"
        )


def _usage(memory: MemoryUse) -> Iterator[Line]:
    if memory.usage_bytes is not None and memory.limit_bytes is not None:
        yield Line(f"{_exact(memory.usage_bytes)} used of {_exact(memory.limit_bytes)}{_swap(memory)}")
    elif memory.usage_bytes is not None:
        yield Line(f"{_exact(memory.usage_bytes)} used, without a limit{_swap(memory)}")


def _exact(size: int) -> str:
    """Rounded, and then in bytes too: limits are compared with manifests."""
    text = human_bytes(size)
    return f"{text} ({size} bytes)" if "." in text else text


def _swap(memory: MemoryUse) -> str:
    if memory.swap_usage_bytes is None or (memory.swap_usage_bytes == 0 and memory.swap_limit_bytes in (0, None)):
        return ""
    limit = "" if memory.swap_limit_bytes is None else f" of {human_bytes(memory.swap_limit_bytes)}"
    return f", and {human_bytes(memory.swap_usage_bytes)}{limit} of swap"


def _node_swap(total: int | None, free: int | None) -> str:
    if total is None:
        return "swap not told"
    if total == 0:
        return "no swap"
    return f"{human_bytes(total)} of swap" + ("" if free is None else f" ({human_bytes(free)} free)")


_SHARES = {
    "anon": "process memory",
    "rss": "process memory",
    "file": "page cache",
    "cache": "page cache",
    "shmem": "tmpfs, shared memory",
    "slab": "kernel objects",
    "sock": "network buffers",
    "pagetables": "page tables",
    "sec_pagetables": "page tables of virtual machines",
    "kernel_stack": "kernel stacks",
    "percpu": "per-CPU kernel memory",
    "vmalloc": "kernel memory (vmalloc)",
    "zswap": "compressed swap",
    "hugetlb": "huge pages",
    "kernel": "other kernel memory",
}


def _shares(memory: MemoryUse) -> Iterator[Line]:
    parts = memory_shares(memory.stat)
    usage = memory.usage_bytes
    # What is below a percent explains nothing, and hides what does.
    least = 1 if usage is None else usage // 100
    largest = sorted(((size, key) for key, size in parts.items() if size >= max(1, least)), reverse=True)
    for size, key in largest[:MOST_SHARES]:
        share = f"{100 * size / usage:>5.0f} %" if usage else ""
        word = "page cache and shared memory" if key == "cache" and "shmem" not in parts else _SHARES[key]
        yield Line(f"{human_bytes(size):>10}{share}  {word} ({key})", breakable=False)


def _tasks(report: OomReport) -> Iterator[Line]:
    """The largest rows, and the victim's wherever it ranks. The name stands last: its own blanks move nothing."""
    if not report.tasks:
        return
    victim = find_victim(report)
    shown = sorted(report.tasks, key=lambda task: -(task.rss_bytes or 0))[:MOST_TASKS]
    if victim is not None and victim not in shown:
        shown.append(victim)
    killed = {report.victim.pid, *(process.pid for process in report.also_killed), victim.pid if victim else None}
    with_swap = any(task.swap_bytes for task in shown)
    swap = f"{'swap':>11}" if with_swap else ""
    count = f"{len(shown)} of {len(report.tasks)}" if len(shown) < len(report.tasks) else "all"
    assumed = "" if report.page_size_known else f"; {human_bytes(report.page_size)} pages assumed"
    yield Line(f"  {'resident':>10}{swap}{'adj':>6}{'pid':>9}  name   ({count}, > killed{assumed})", breakable=False)
    for task in shown:
        is_killed = task.pid in killed
        yield Line(f"{'> ' if is_killed else '  '}{_task_row(task, with_swap=with_swap)}", False, is_killed)


def _task_row(task: Task, *, with_swap: bool) -> str:
    swap = f"{_size(task.swap_bytes):>11}" if with_swap else ""
    adj = "?" if task.oom_score_adj is None else str(task.oom_score_adj)
    return f"{_size(task.rss_bytes):>10}{swap}{adj:>6}{task.pid:>9}  {printable(task.comm)}"


def _size(size: int | None) -> str:
    return "?" if size is None else human_bytes(size)


def _victim(incident: Incident) -> Iterator[Line]:
    victim = incident.report.victim
    parts = [_process_name(victim)]
    if victim.uid is not None:
        parts.append(f"uid {victim.uid}")
    adj = victim.oom_score_adj
    if adj is not None:
        tier = adj_tier(adj) if incident.attribution.pod is not None else None
        parts.append(f"oom_score_adj {adj}" + ("" if tier is None else f" ({tier})"))
    yield Line(", ".join(parts))
    sizes = (
        (victim.anon_rss_bytes, "process memory"),
        (victim.file_rss_bytes, "mapped files"),
        (victim.shmem_rss_bytes, "shared memory"),
        (victim.pgtables_bytes, "page tables"),
        (victim.total_vm_bytes, "of address space"),
    )
    held = [f"{human_bytes(size)} {word}" for size, word in sizes if size]
    if held:
        yield Line(", ".join(held))


def _process_name(process: Process) -> str:
    name = "not named" if process.comm is None else printable(process.comm)
    return name if process.pid is None else f"{name}, pid {process.pid}"


def _invoker(report: OomReport) -> Iterator[Line]:
    invoker = report.invoker
    if invoker is None or _is_victim(invoker, report.victim):
        return
    facts = [] if invoker.pid is None else [f"pid {invoker.pid}"]
    if invoker.oom_score_adj is not None:
        facts.append(f"oom_score_adj {invoker.oom_score_adj}")
    # A pid that is not the victim's may still be a thread of it: nothing is said of who it is.
    did = "" if invoker.order == _SYSRQ_ORDER else ": its allocation found no memory"
    yield Line(printable(invoker.comm) + "".join(f", {fact}" for fact in facts) + did)


def _is_victim(invoker: Invoker, victim: Process) -> bool:
    if invoker.pid is None or victim.pid is None:
        return invoker.comm == victim.comm
    return invoker.pid == victim.pid


def _members(report: OomReport) -> Iterator[Line]:
    members = report.also_killed
    if not members:
        return
    if report.group_memcg is not None:
        yield Line(f"{len(members)} more, by memory.oom.group of")
        yield _path(report.group_memcg)
    for process in members[:MOST_MEMBERS]:
        rss = (process.anon_rss_bytes, process.file_rss_bytes, process.shmem_rss_bytes)
        size = human_bytes(sum(part or 0 for part in rss)) if process.anon_rss_bytes is not None else "?"
        yield Line(f"{size:>10}  {_process_name(process)}", breakable=False)
    if len(members) > MOST_MEMBERS:
        yield Line(f"and {len(members) - MOST_MEMBERS} more")


def _pod(incident: Incident) -> Iterator[Line]:
    pod = incident.attribution.pod
    if pod is None:
        return
    parts = [] if pod.name is None else [f"{pod.namespace}/{pod.name}" if pod.namespace else pod.name]
    if pod.qos_class is not None:
        parts.append(str(pod.qos_class))
    parts.append(f"uid {pod.uid}")
    yield Line(printable(", ".join(parts)))


def _container(incident: Incident) -> Iterator[Line]:
    container = incident.attribution.container
    if container is None:
        return
    parts = [part for part in (container.name, container.kind, container.runtime) if part is not None]
    if container.id is not None:
        parts.append(container.id)
    yield Line(printable(", ".join(parts)))


_WITNESSES = {
    Evidence.REPORT: "the report",
    Evidence.SUMMARY_LINE: "the summary line",
    Evidence.KILL_LINE: "the kill line",
    Evidence.MEMORY_EVENTS: "memory.events",
    Evidence.PROCESS_INDEX: "the process index",
    Evidence.POD_STATUS: "the pod's status",
    Evidence.OOM_SCORE_ADJ: "oom_score_adj",
}


def _proof(incident: Incident) -> Iterator[Line]:
    yield Line(printable(incident.verdict.reason))
    witnesses = [_WITNESSES[evidence] for evidence in incident.verdict.evidence]
    if witnesses:
        yield Line(f"from {', '.join(witnesses)}")


# Has a place of its own: why this victim, who filled it.
_APART = frozenset({FindingKind.VICTIM_CHOICE, FindingKind.NODE_FILLED_BY})
# The facts above say it already.
_TOLD_PATTERNS = frozenset({Pattern.NODE_PRESSURE, Pattern.CALM})


def _diagnosis(diagnosis: Diagnosis) -> Iterator[Fact]:
    judgement = diagnosis.judgement
    findings = [finding.text for finding in diagnosis.findings if finding.kind not in _APART]
    steps = [advice for advice in diagnosis.advice if not _only_waits(advice)]
    if judgement.pattern is Pattern.UNKNOWN:
        # Where nothing can be advised either, nobody asks for it.
        if judgement.missing and steps:
            missing = " and ".join(judgement.missing)
            yield Fact("why", (Line(printable(f"a leak, a spike or a limit too low: not known without {missing}")),))
    elif judgement.pattern not in _TOLD_PATTERNS:
        pattern = str(judgement.pattern).replace("_", " ")
        yield Fact("why", (Line(printable(f"{pattern}: {'; '.join(judgement.reasons)}")),))
    yield from _fact("who filled it", _fillers(diagnosis))
    mark = "- " if len(findings) > 1 else ""
    yield from _fact("findings", (_item(text, mark) for text in findings))
    yield from _fact("what to do", _steps(steps))


def _fillers(diagnosis: Diagnosis) -> Iterator[Line]:
    """A line for each kind. Whose limit that was is said above."""
    for finding in diagnosis.findings:
        if finding.kind is FindingKind.NODE_FILLED_BY:
            yield from (Line(printable(part)) for part in finding.text.partition(": ")[2].split("; "))


def _only_waits(advice: Advice) -> bool:
    """For what is missing, which "why" says."""
    return advice.action is Action.OBSERVE and "missing" in advice.values


def _steps(steps: Sequence[Advice]) -> Iterator[Line]:
    for number, advice in enumerate(steps, start=1):
        mark = f"{number}. " if len(steps) > 1 else ""
        yield _item(advice.text, mark)
        if advice.command is not None:
            yield Line(f"{' ' * len(mark)}{printable(advice.command)}", breakable=False, bold=True)


def _item(text: str, mark: str) -> Line:
    return Line(f"{mark}{printable(text)}", indent=len(mark))


def _path(path: str) -> Line:
    return Line(printable(path), breakable=False)


def _layout(fact: Fact, *, colour: bool, width: int | None) -> Iterator[str]:
    label = _paint(f"{fact.label:<{_LABEL_WIDTH}}", _DIM, colour=colour)
    blank = " " * _LABEL_WIDTH
    margin = 2 * len(_INDENT) + _LABEL_WIDTH
    for line in fact.lines:
        for text in _wrap(line.text, width and width - margin, line.indent) if line.breakable else [line.text]:
            yield f"{_INDENT}{label}{_INDENT}{_paint(text, _BOLD, colour=colour and line.bold)}"
            label = blank


def _wrap(text: str, width: int | None, indent: int = 0) -> list[str]:
    """Break between words only: a path or an id stays whole, to be copied, and so does a size."""
    if width is None:
        return [text]
    width = max(width, _LEAST_TEXT_WIDTH)
    lines = textwrap.wrap(
        _SIZE_BLANK.sub(_GLUE, text),
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_GLUE, " ") for line in lines] or [text]


def _paint(text: str, style: str, *, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour else text
