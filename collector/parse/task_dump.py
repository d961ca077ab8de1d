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
from collections.abc import Iterable

from collector.model import Task

# What every known layout has in these places; used for rows whose header is not in the log.
_FIRST_COLUMNS = ("pid", "uid", "tgid", "total_vm", "rss")
_LAST_COLUMNS = ("oom_score_adj", "name")
# With fewer numbers than this, the last one may be the oom_adj of a kernel before 2.6.36.
_LEAST_NUMBERS = 8

_PAGE_TABLE_PAGES = ("nr_ptes", "nr_pmds", "nr_puds")
_PID = re.compile(r"\[\s*(\d{1,10})\s*\] ")
_NO_COLUMN = -1


def row_pid(row: str) -> int | None:
    match = _PID.match(row)
    return None if match is None else int(match[1])


def find_row(rows: Iterable[str], pid: int | None) -> str | None:
    mark = f"{pid}]"
    for row in rows:
        if mark in row and row_pid(row) == pid:
            return row
    return None


def read_tasks(columns: tuple[str, ...] | None, rows: Iterable[str], page_size: int) -> tuple[Task, ...]:
    """
    columns: those behind the pid, as the header names them; None where it is not in the log.

    Rows that do not fit the columns (cut at the right edge, torn) are left out.
    """
    layout = _Layout(("pid", *columns), page_size) if columns else None
    tasks = [(layout or _Layout(_guess_columns(row), page_size)).read(row) for row in rows]
    return tuple(task for task in tasks if task is not None)


def total_vm_pages(columns: tuple[str, ...] | None, row: str) -> int | None:
    task = next(iter(read_tasks(columns, (row,), 1)), None)
    return None if task is None else task.total_vm_bytes


class _Layout:
    """The places of the columns in a row whose brackets were taken away, found once for all rows."""

    def __init__(self, columns: tuple[str, ...], page_size: int) -> None:
        place = {name: index for index, name in enumerate(columns)}
        self._numbers = len(columns) - 1
        self._page_size = page_size
        # A column that a layout lacks is looked up behind the numbers, where read() puts None.
        self._uid, self._tgid, self._total_vm, self._rss, self._swap, self._adj, self._pgtables = (
            place.get(name, _NO_COLUMN)
            for name in ("uid", "tgid", "total_vm", "rss", "swapents", "oom_score_adj", "pgtables_bytes")
        )
        self._pgtables_pages = tuple(place[name] for name in _PAGE_TABLE_PAGES if name in place)

    def read(self, row: str) -> Task | None:
        fields = row.replace("[", " ", 1).replace("]", " ", 1).split(None, self._numbers - 1)
        if len(fields) < self._numbers:
            return None
        # One blank stands before the name; a name may begin with more of them.
        fields[-1], named, name = fields[-1].partition(" ")
        if not named:
            return None
        try:
            numbers: list[int | None] = [*map(int, fields), None]
        except ValueError:
            return None
        size = self._page_size
        total_vm, rss, swap = numbers[self._total_vm], numbers[self._rss], numbers[self._swap]
        pgtables = numbers[self._pgtables]
        if self._pgtables_pages:
            pgtables = sum(int(fields[place]) for place in self._pgtables_pages) * size
        return Task(
            numbers[0] or 0,
            numbers[self._tgid],
            numbers[self._uid],
            name,
            total_vm and total_vm * size,
            rss and rss * size,
            pgtables,
            swap and swap * size,
            numbers[self._adj],
        )


def _guess_columns(row: str) -> tuple[str, ...]:
    """Name the columns that are certain without a header, by their place; the others get names that nobody reads."""
    numbers = 0
    for field in row.replace("[", " ", 1).replace("]", " ", 1).split():
        if not field.removeprefix("-").isdecimal():
            break
        numbers += 1
    unknown = max(0, numbers - len(_FIRST_COLUMNS))
    if numbers < _LEAST_NUMBERS:
        return (*_FIRST_COLUMNS, *("?",) * unknown, "name")
    return (*_FIRST_COLUMNS, *("?",) * (unknown - 1), *_LAST_COLUMNS)
