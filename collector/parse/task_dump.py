"""
The task dump of an OOM report: rows read by the names in its header.

    [  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
    [    310]     0   310    12345    10233    10233        0         0       122880        0           978 hog

Columns came and went: `cpu oom_adj oom_score_adj` (before 3.8), `nr_ptes`, `nr_pmds`, `nr_puds`, `pgtables_bytes`
(4.16), `rss_anon rss_file rss_shmem` (6.8), and vendors add their own. All but `pgtables_bytes` are pages or counts.

Source: mm/oom_kill.c dump_tasks().
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import repeat

from collector.model import Task

# What every known layout has in these places behind the pid; used for rows whose header is not in the log.
_FIRST_COLUMNS = ("uid", "tgid", "total_vm", "rss")
_LAST_COLUMNS = ("oom_score_adj", "name")
# With fewer numbers than this, the last one may be the oom_adj of a kernel before 2.6.36.
_LEAST_NUMBERS = 7
# How every dump ends since 4.16; what stands before is _FIRST_COLUMNS and what nobody reads.
_CURRENT_LAST_COLUMNS = ("pgtables_bytes", "swapents", *_LAST_COLUMNS)
_PAGE_TABLE_PAGES = ("nr_ptes", "nr_pmds", "nr_puds")
_PID = re.compile(r"\[\s*(\d{1,10})\s*\] ")


def row_pid(row: str) -> int | None:
    match = _PID.match(row)
    return None if match is None else int(match[1])


def find_row(rows: Iterable[str], pid: int | None) -> str | None:
    mark = f"{pid}]"
    for row in rows:
        if mark in row and row_pid(row) == pid:
            return row
    return None


def read_tasks(columns: tuple[str, ...] | None, rows: Sequence[str], page_size: int) -> tuple[Task, ...]:
    """
    columns: those behind the pid, as the header names them; None where it is not in the log.

    Rows that do not fit the columns (cut at the right edge, torn) are left out.
    """
    if columns and columns[:4] == _FIRST_COLUMNS and columns[4:][-4:] == _CURRENT_LAST_COLUMNS:
        return _read_current(len(columns), rows, page_size)
    tasks = []
    for row in rows:
        with suppress(ValueError):
            tasks.append(_read_row(columns or _guess_columns(row), row, page_size))
    return tuple(tasks)


def total_vm_pages(columns: tuple[str, ...] | None, row: str) -> int | None:
    try:
        place = (columns or _FIRST_COLUMNS).index("total_vm")
        return int(row.partition("]")[2].split(None, place + 1)[place])
    except (ValueError, IndexError):
        return None


def _read_current(columns: int, rows: Iterable[str], page_size: int) -> tuple[Task, ...]:
    """
    Rows of a kernel since 4.16, at a third of the price of _read_row(): a report may have thousands.

    Converting column by column takes longer.
    """
    last = columns - 2
    # As rss_anon. A starred target would take longer.
    unread = slice(4, -3) if columns > len(_FIRST_COLUMNS) + len(_CURRENT_LAST_COLUMNS) else None
    number = _Numbers()
    tasks = []
    for row in rows:
        try:
            pid, _, rest = row.partition("]")
            fields = rest.split(None, last)
            if unread:
                del fields[unread]
            uid, tgid, total_vm, rss, pgtables, swap, end = fields
            # One blank stands before the name; a name may begin with more of them.
            adj, blank, comm = end.partition(" ")
            values = (
                int(pid[1:]),
                int(tgid),
                number[uid],
                comm,
                int(total_vm) * page_size,
                int(rss) * page_size,
                int(pgtables),
                number[swap] * page_size,
                number[adj],
            )
        except ValueError:
            continue
        if blank:
            tasks.append(values)
    # As Task._make() does, without a call in Python for each.
    return tuple(map(tuple.__new__, repeat(Task), tasks))


class _Numbers(dict[str, int]):
    """int() that remembers: most tasks of a node share few owners and adjustments, and have nothing in swap."""

    def __missing__(self, digits: str) -> int:
        number = self[digits] = int(digits)
        return number


def _read_row(columns: tuple[str, ...], row: str, page_size: int) -> Task:
    """Raises ValueError when the row does not fit the columns."""
    pid, _, rest = row.partition("]")
    *fields, end = rest.split(None, len(columns) - 2)
    last, blank, comm = end.partition(" ")
    if not blank:
        raise ValueError("a row without a name")
    numbers = dict(zip(("pid", *columns[:-1]), map(int, (pid[1:], *fields, last)), strict=True))

    def size(name: str) -> int | None:
        return numbers[name] * page_size if name in numbers else None

    page_tables = [numbers[name] for name in _PAGE_TABLE_PAGES if name in numbers]
    return Task(
        pid=numbers["pid"],
        tgid=numbers.get("tgid"),
        uid=numbers.get("uid"),
        comm=comm,
        total_vm_bytes=size("total_vm"),
        rss_bytes=size("rss"),
        pgtables_bytes=sum(page_tables) * page_size if page_tables else numbers.get("pgtables_bytes"),
        swap_bytes=size("swapents"),
        oom_score_adj=numbers.get("oom_score_adj"),
    )


def _guess_columns(row: str) -> tuple[str, ...]:
    """Name the columns that are certain without a header, by their place; the others get names that nobody reads."""
    count = 0
    for field in row.partition("]")[2].split():
        if not field.removeprefix("-").isdecimal():
            break
        count += 1
    unknown = max(0, count - len(_FIRST_COLUMNS))
    if count < _LEAST_NUMBERS:
        return (*_FIRST_COLUMNS, *("?",) * unknown, "name")
    return (*_FIRST_COLUMNS, *("?",) * (unknown - 1), *_LAST_COLUMNS)
