"""
One line of the kernel's OOM report -> what it says.

Every pattern is anchored at the start of the message, and names that a workload chooses (comm, cgroup) are delimited
from the side that it cannot reach: a comm is at most 15 bytes and stands before fixed text that is longer, or before
numbers at the end of the line. parse/summary.py reads the two lines where two such names follow each other.

Source of the formats: mm/oom_kill.c, mm/memcontrol.c and mm/show_mem.c (lib/ before 6.4) of Linux 2.6.32 to 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from collector.model import Invoker, Process, Scope

KIB = 1024
COMM_LENGTH = 15
MAX_DIGITS = 20
# page_counter's maximum in kB, for 4 KiB pages; v1 of 3.x printed twice as much. What is at least this is "no limit".
_NO_LIMIT_KIB = 9_000_000_000_000_000


class Header(NamedTuple):
    """`java invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=969`: opens a report."""

    invoker: Invoker


class CpuLine(NamedTuple):
    """`CPU: 1 UID: 0 PID: 310 Comm: hog Not tainted 6.12.1 #1`: the invoker's pid; other stack dumps have it too."""

    pid: int
    comm: str


class OomFrame(NamedTuple):
    """A stack frame of the OOM killer: the stack above it is an invoker's."""


class Usage(NamedTuple):
    """`memory: usage 49152kB, limit 49152kB, failcnt 265`; also `swap`, `memory+swap` and `kmem`. None: no limit."""

    counter: str
    usage_bytes: int
    limit_bytes: int | None


class StatBlock(NamedTuple):
    """`Memory cgroup stats for PATH:`, with what of the statistics stands in the same record."""

    memcg: str
    stat: dict[str, int]


class StatEntry(NamedTuple):
    """`anon 50114560`: one memory.stat line, a record of its own since 6.12 (and in every text log)."""

    name: str
    value_bytes: int


class StatLines(NamedTuple):
    """All of memory.stat as one record of many lines (5.1 to 6.10)."""

    stat: dict[str, int]


class NodeTotal(NamedTuple):
    """`524158 pages RAM`, `22064 pages reserved`, `Total swap = 425980kB`, `Free swap  = 0kB`."""

    name: str
    value: int


class NodeStat(NamedTuple):
    """
    `active_anon:1429 inactive_anon:482033 isolated_anon:0` and what follows it under `Mem-Info:`, in pages.

    One record of six or seven lines, which a text log has one by one.
    """

    pages: dict[str, int]


class DumpHeader(NamedTuple):
    """`[  pid  ]   uid  tgid total_vm      rss ... name`: the columns behind the pid, as named there."""

    columns: tuple[str, ...]


class DumpRow(NamedTuple):
    """`[  10233]     0 10233   306448    12608 ... 0 mem_stress`: see parse/task_dump.py."""

    text: str


class SummaryStart(NamedTuple):
    """`oom-kill:constraint=...` or `Task in X killed as a result of limit of Y`: see parse/summary.py."""

    text: str


class GroupKill(NamedTuple):
    """`Tasks in PATH are going to be killed due to memory.oom.group set`."""

    memcg: str


class Chosen(NamedTuple):
    """`Kill process 19384 (firefox) score 71 or sacrifice child` (before 5.0): chosen, yet a child may die instead."""

    pid: int
    comm: str | None
    scope: Scope | None


class Kill(NamedTuple):
    """`Memory cgroup out of memory: Killed process 310 (hog) total-vm:...`: the one line that is never rate-limited."""

    process: Process
    scope: Scope | None
    allocating_task: bool


class NoKill(NamedTuple):
    """The report ends without a victim: nobody killable, or a panic."""


OomLine = (
    Header
    | CpuLine
    | OomFrame
    | Usage
    | StatBlock
    | StatEntry
    | StatLines
    | NodeTotal
    | NodeStat
    | DumpHeader
    | DumpRow
    | SummaryStart
    | GroupKill
    | Chosen
    | Kill
    | NoKill
)

_PREFIX = (
    r"(?:(?P<prefix>Memory cgroup out of memory|Out of [Mm]emory(?P<allocating> \(oom_kill_allocating_task\))?): )?"
)
# Numbers are bounded: Python refuses to convert those of more than 4,300 digits.
_HEADER = re.compile(
    r"(?P<comm>.{1,60}?) invoked oom-killer:(?: gfp_mask=(?P<gfp_mask>0x[0-9a-f]{1,16}(?:\([A-Z_|a-z]*\))?)(?=,|$))?"
    r"(?:.*?\border=(?P<order>-?\d{1,3})\b)?(?:.*?\boom_score_adj=(?P<oom_score_adj>-?\d{1,5})\b)?",
    re.DOTALL,
)
_CPU = re.compile(
    r"(?:CPU: \d+ (?:UID: \d+ )?PID: (\d{1,10}) Comm: |Pid: (\d{1,10}), comm: )(.{0,60}?)"
    r" (?:Not tainted|Tainted: |Kdump: )",
    re.DOTALL,
)
_USAGE = re.compile(r"(memory|memory\+swap|swap|kmem): usage (\d{1,20})kB, limit (\d{1,20})kB")
_STAT_BLOCK = re.compile(r"Memory cgroup stats for ([^:]*(?::[^:]*)*?):(?=\s+\w+[ :]\d|\s*$)", re.DOTALL)
_STAT_V1 = re.compile(r"\b(\w{1,64}):(\d{1,20})KB")
_STAT_V2 = re.compile(r"^(\w{1,64}) (\d{1,20})$", re.MULTILINE)
_PAGES = re.compile(r"(\d{1,20}) pages (RAM|reserved)\s*$")
# The first words of these lines, from 2.6.32 to 7.2.
_NODE_STAT = re.compile(
    r"\s*(?:active_anon|active_file|unevictable|slab_reclaimable|mapped|sec_pagetables|kernel_misc_reclaimable|free):\d"
)
_NODE_STAT_ENTRY = re.compile(r"(?<!\S)([a-z_]{1,64}):(\d{1,20})(?!\S)")
_SWAP = re.compile(r"(Total|Free) swap\s+= (\d{1,20})kB")
_DUMP_HEADER = re.compile(r"\[\s*pid\s*\] ", re.IGNORECASE)
# The fewest numbers that any layout has: uid tgid total_vm rss cpu oom_adj.
_DUMP_ROW = re.compile(r"\[\s*\d+\s*\](?:\s+-?\d+){6,}\s")
_GROUP = re.compile(r"Tasks in (/.*) are going to be killed due to memory\.oom\.group set")
_CHOSEN = re.compile(_PREFIX + r"[Kk]ill process (?P<pid>\d{1,10}) \((?P<rest>.*)", re.DOTALL)
_CHOSEN_END = re.compile(r"\) score -?\d+ or ")
_KILL = re.compile(_PREFIX + r"Killed process (?P<pid>\d{1,10})(?:, UID (?P<uid>\d{1,10}),)? \((?P<rest>.*)", re.DOTALL)
# Only numbers follow the last of these, so a comm that imitates them is left behind.
_KILL_SIZES = re.compile(r"\)(?:, UID (\d{1,10}),)? (?=total-vm:|vsz:)")
# What the end of the line may have cut is left out, but for the last field.
_KILL_FIELD = re.compile(r"([\w-]+):(\d{1,20}(?=kB)|\d{1,10}(?= )|(?<=oom_score_adj:)-?\d{1,5}\b)")


def parse_oom_line(text: str) -> OomLine | None:
    """What this message says about an OOM kill, or None: it is another's, or damaged beyond use. Never raises."""
    if not text:
        return None
    first = text[0]  # half the price of text[:1]
    if first == "[":
        return _parse_dump_line(text)
    if first == " ":
        if " invoked oom-killer:" in text:
            return _parse_header(text)
        # No call: twenty frames of a report are no line of ours.
        if "oom_kill_process" in text or "out_of_memory" in text or "dump_header" in text:
            return OomFrame()
        return _parse_node_stat(text) if ":" in text else None
    word, _, rest = text.partition(" ")
    parse = _BY_FIRST_WORD.get(word)
    if parse is not None:
        found = parse(text)
        if found is not None:
            return found
    if word.startswith("oom-kill:"):
        return SummaryStart(text)
    if rest[:1].isdigit():
        return _parse_stat(text, word, rest)
    if " invoked oom-killer:" in text:
        return _parse_header(text)
    if first.isdigit():
        return _parse_pages(text)
    return _parse_node_stat(text) if ":" in word else None


def is_dump_header(text: str) -> bool:
    return _DUMP_HEADER.match(text) is not None


def is_statistic(name: str, value: str) -> bool:
    return value.isdecimal() and value.isascii() and len(value) <= MAX_DIGITS and name.isidentifier()


def tells_of_oom_kill(text: str) -> bool:
    """Whether this message would open a report or tell of a kill."""
    return isinstance(parse_oom_line(text), Header | SummaryStart | GroupKill | Chosen | Kill)


def comm_fits(comm: str) -> bool:
    r"""Whether this can be a comm: at most 15 bytes, where a text log may have written some as `\xNN`."""
    return len(comm) - 3 * comm.count("\\x") <= COMM_LENGTH


def _parse_header(text: str) -> Header | None:
    match = _HEADER.match(text)
    if match is None or not comm_fits(match["comm"]):
        return None
    return Header(
        Invoker(
            comm=match["comm"],
            gfp_mask=match["gfp_mask"],
            order=_number(match["order"]),
            oom_score_adj=_number(match["oom_score_adj"]),
        )
    )


def _parse_cpu(text: str) -> CpuLine | None:
    match = _CPU.match(text)
    if match is None or not comm_fits(match[3]):
        return None
    return CpuLine(int(match[1] or match[2]), match[3])


def _parse_usage(text: str) -> Usage | None:
    match = _USAGE.match(text)
    if match is None:
        return None
    limit_kib = int(match[3])
    return Usage(match[1], int(match[2]) * KIB, None if limit_kib >= _NO_LIMIT_KIB else limit_kib * KIB)


def _parse_memory_cgroup(text: str) -> OomLine | None:
    match = _STAT_BLOCK.match(text)
    if match is None:
        return _parse_kill(text)
    rest = text[match.end() :]
    stat = {name: int(value) * KIB for name, value in _STAT_V1.findall(rest)}
    return StatBlock(match[1], stat or {name: int(value) for name, value in _STAT_V2.findall(rest)})


def _parse_stat(text: str, name: str, value: str) -> OomLine | None:
    if is_statistic(name, value):
        return StatEntry(name, int(value))
    if "\n" not in text:
        return _parse_header(text) if " invoked oom-killer:" in text else None
    stat = {name: int(value) for name, value in _STAT_V2.findall(text)}
    return StatLines(stat) if len(stat) == len(text.splitlines()) else None


def _parse_pages(text: str) -> NodeTotal | None:
    match = _PAGES.match(text)
    return None if match is None else NodeTotal(f"{match[2]}_pages", int(match[1]))


def _parse_node_stat(text: str) -> NodeStat | None:
    if _NODE_STAT.match(text) is None:
        return None
    return NodeStat({name: int(pages) for name, pages in _NODE_STAT_ENTRY.findall(text)})


def _parse_swap(text: str) -> NodeTotal | None:
    match = _SWAP.match(text)
    return None if match is None else NodeTotal(f"{match[1]}_swap_bytes", int(match[2]) * KIB)


def _parse_dump_line(text: str) -> DumpHeader | DumpRow | None:
    if _DUMP_ROW.match(text):
        return DumpRow(text)
    header = _DUMP_HEADER.match(text)
    columns = () if header is None else tuple(text[header.end() :].split())
    return DumpHeader(columns) if columns[-1:] == ("name",) else None


def _parse_tasks_in(text: str) -> GroupKill | None:
    match = _GROUP.match(text)
    return None if match is None else GroupKill(match[1])


def _parse_task_in(text: str) -> SummaryStart | None:
    return SummaryStart(text) if text.startswith("Task in /") else None


def _parse_kill(text: str) -> OomLine | None:
    match = _KILL.match(text)
    if match is None:
        return _parse_chosen(text)
    comm, uid, sizes = _split_victim(match["rest"])
    fields: dict[str, str] = dict(_KILL_FIELD.findall(sizes))
    process = Process(
        pid=int(match["pid"]),
        comm=comm,
        uid=_number(fields.get("UID") or match["uid"] or uid),
        oom_score_adj=_number(fields.get("oom_score_adj")),
        total_vm_bytes=_bytes(fields.get("total-vm") or fields.get("vsz")),
        anon_rss_bytes=_bytes(fields.get("anon-rss")),
        file_rss_bytes=_bytes(fields.get("file-rss")),
        shmem_rss_bytes=_bytes(fields.get("shmem-rss")),
        pgtables_bytes=_bytes(fields.get("pgtables")),
    )
    return Kill(process, _scope(match["prefix"]), match["allocating"] is not None)


def _split_victim(rest: str) -> tuple[str | None, str | None, str]:
    """`comm) total-vm:...` -> comm, uid, sizes. The comm is None where the line ends inside it."""
    ends = list(_KILL_SIZES.finditer(rest))
    if ends:
        end = ends[-1]
        return rest[: end.start()], end[1], rest[end.end() :]
    comm, closed, after = rest.rpartition(")")
    # Only the oldest kernels end here, some with a full stop; a newer line was cut, or ran into the next.
    return (comm if closed and len(after.strip()) <= 1 and comm_fits(comm) else None), None, ""


def _parse_chosen(text: str) -> OomLine | None:
    match = _CHOSEN.match(text)
    if match is None:
        return NoKill() if text.startswith("Out of memory and no killable processes") else None
    ends = list(_CHOSEN_END.finditer(match["rest"]))
    comm = match["rest"][: ends[-1].start()] if ends else None
    return Chosen(int(match["pid"]), comm, _scope(match["prefix"]))


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


def _bytes(kib: str | None) -> int | None:
    return None if kib is None else int(kib) * KIB


def _scope(prefix: str | None) -> Scope | None:
    if prefix is None:
        return None
    return Scope.MEMCG if prefix.startswith("Memory cgroup") else Scope.GLOBAL


def _parse_panic(text: str) -> NoKill | None:
    return NoKill() if text.startswith("Kernel panic - not syncing: ") else None


_BY_FIRST_WORD: dict[str, Callable[[str], OomLine | None]] = {
    "CPU:": _parse_cpu,
    "Pid:": _parse_cpu,
    "memory:": _parse_usage,
    "memory+swap:": _parse_usage,
    "swap:": _parse_usage,
    "kmem:": _parse_usage,
    "Memory": _parse_memory_cgroup,
    "Total": _parse_swap,
    "Free": _parse_swap,
    "Tasks": _parse_tasks_in,
    "Task": _parse_task_in,
    "Out": _parse_kill,
    "Killed": _parse_kill,
    "Kill": _parse_kill,
    "Kernel": _parse_panic,
}
