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
# Rows that are read in one step: what becomes of them stays in the processor's cache.
_CHUNK = 256

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
    tasks: list[Task] = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        try:
            tasks += _read_rows(columns or _guess_columns(chunk[0]), chunk, page_size)
        except ValueError:
            for row in chunk:
                with suppress(ValueError):
                    tasks += _read_rows(columns or _guess_columns(row), (row,), page_size)
    return tuple(tasks)


def total_vm_pages(columns: tuple[str, ...] | None, row: str) -> int | None:
    try:
        place = (columns or _FIRST_COLUMNS).index("total_vm")
        return int(row.partition("]")[2].split(None, place + 1)[place])
    except (ValueError, IndexError):
        return None


def _read_rows(columns: tuple[str, ...], rows: Sequence[str], page_size: int) -> list[Task]:
    """
    Column by column: each step is one call for a dump of thousands, which takes half the time of row by row.

    Raises ValueError when a row does not fit.
    """
    *fields, ends = zip(*[row[1:].replace("]", " ", 1).split(None, len(columns) - 1) for row in rows], strict=True)
    # One blank stands before the name; a name may begin with more of them.
    last, blanks, comms = zip(*[end.partition(" ") for end in ends], strict=True)
    if "" in blanks:
        raise ValueError("a row without a name")
    numbers = {
        name: list(map(int, column)) for name, column in zip(("pid", *columns[:-1]), (*fields, last), strict=True)
    }
    unknown = repeat(None)

    def plain(name: str) -> Iterable[int | None]:
        return numbers.get(name, unknown)

    def pages(name: str) -> Iterable[int | None]:
        return [number * page_size for number in numbers[name]] if name in numbers else unknown

    page_tables = [numbers[name] for name in _PAGE_TABLE_PAGES if name in numbers]
    values = zip(
        numbers["pid"],
        plain("tgid"),
        plain("uid"),
        comms,
        pages("total_vm"),
        pages("rss"),
        [sum(each) * page_size for each in zip(*page_tables, strict=True)] if page_tables else plain("pgtables_bytes"),
        pages("swapents"),
        plain("oom_score_adj"),
    )
    # As Task._make does, without a Python frame for each row.
    return list(map(tuple.__new__, repeat(Task), values))


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
