"""
Put lines back together that a mail client, a terminal or a paste has broken.

    [193038.106468] Task in /docker/0f2b3fcdd257
    killed as a result of limit of /docker/
    0f2b3fcdd257

A line without a prefix of its own is joined to the one above where the one above then says more, and where it is not
the beginning of something itself. Whether a blank was lost between the two is decided in the same way.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from collector.model import Process
from collector.parse.oom_lines import (
    Chosen,
    DumpHeader,
    DumpRow,
    Header,
    Kill,
    StatBlock,
    SummaryStart,
    parse_oom_line,
    tells_of_oom_kill,
)
from collector.parse.summary import is_unfinished, parse_summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collector.parse.dress import LogRecord

# Longer than any line of a report: a memory.stat in one record has about 2 KiB, a path in the summary line 4 KiB.
MAX_LENGTH = 16_384

_LONG_LINES = (
    "Out of ",
    "Memory cgroup ",
    "Kill",
    "kill ",
    "oom-kill:",
    "Task in ",
    "Tasks in ",
    "memory",
    "swap: ",
    "kmem: ",
    "CPU: ",
    "Pid: ",
    "[",
)
# Below what any row of a task dump scores.
_NOTHING = -100
_PROCESS_FIELDS = tuple(field.name for field in fields(Process))


class Unwrap:
    """Holds back a line that may go on, and what may belong to it, until that is decided."""

    def __init__(self) -> None:
        self._held: LogRecord | None = None
        self._pieces: list[LogRecord] = []
        self._columns = 0

    @property
    def busy(self) -> bool:
        return self._held is not None

    def push(self, record: LogRecord | None) -> list[LogRecord]:
        """None stands for a line that is not the kernel's."""
        if record is not None and self._is_piece(record):
            self._pieces.append(record)
            if self._join() or self._is_unfinished():
                return []
            record = self._pieces.pop()
        done = self.flush()
        if record is None or _is_forged(record):
            return done
        if self._may_go_on(record.text):
            self._held = record
            return done
        return [*done, record]

    def flush(self) -> list[LogRecord]:
        held, self._held = self._held, None
        pieces, self._pieces = self._pieces, []
        return [*((held,) if held is not None and held.text else ()), *pieces]

    def _may_go_on(self, text: str) -> bool:
        if text.startswith("["):
            line = parse_oom_line(text)
            self._remember_columns(line)
            return not isinstance(line, DumpRow) or _count_fields(text) < self._columns
        return not text or text.startswith(_LONG_LINES) or " invoked oom" in text

    def _is_piece(self, record: LogRecord) -> bool:
        held = self._held
        if held is None or not record.bare or not 0 < len(record.text.strip()) <= MAX_LENGTH or _is_forged(record):
            return False
        if not held.text.strip():
            return not self._pieces
        return parse_oom_line(record.text) is None

    def _is_unfinished(self) -> bool:
        """Whether it is worth waiting for one more piece: a long path may be broken into several."""
        held = self._held
        if held is None or len(held.text) + sum(len(piece.text) for piece in self._pieces) > MAX_LENGTH:
            return False
        line = parse_oom_line(held.text)
        return line is None or (isinstance(line, SummaryStart) and is_unfinished(held.text))

    def _join(self) -> bool:
        held = self._held
        assert held is not None
        text = held.text
        *inner, last = (piece.text.lstrip() for piece in self._pieces)
        before = "".join((text, *inner))
        # A `=` at the end of a line may be the soft break of a mail.
        unbroken = "".join(piece.removesuffix("=") for piece in (text, *inner)) + last
        joined = max((unbroken, before + last, f"{before.rstrip()} {last}"), key=self._facts)
        if not text.strip():
            joined = last
        elif not (
            self._facts(joined) > self._facts(text)
            or (last.rstrip().isdecimal() and before[-1:].isdecimal())
            # No path ends so.
            or (text.startswith("Task in ") and before.endswith("/"))
        ):
            return False
        self._remember_columns(parse_oom_line(joined))
        self._held, self._pieces = replace(held, text=joined), []
        return True

    def _remember_columns(self, line: object) -> None:
        if isinstance(line, DumpHeader):
            self._columns = len(line.columns)

    def _facts(self, text: str) -> int:
        """How much a line says, for comparing two readings of it."""
        line = parse_oom_line(text)
        match line:
            case None:
                return _NOTHING
            case Header():
                return 1 + _known((line.invoker.gfp_mask, line.invoker.order, line.invoker.oom_score_adj))
            case Kill():
                return 1 + _known(getattr(line.process, name) for name in _PROCESS_FIELDS)
            case Chosen():
                return 1 + _known((line.comm,))
            case SummaryStart():
                summary = parse_summary(text)
                known = (summary.constraint, summary.oom_memcg, summary.task_memcg, summary.comm, summary.pid)
                return 1 + _known(known) + summary.global_oom + summary.complete
            case StatBlock():
                return 1 + len(line.stat)
            case DumpHeader():
                return len(line.columns)
            case DumpRow():
                return -abs(self._columns - _count_fields(text))
            case _:
                return 1


def _known(values: Iterable[object]) -> int:
    return sum(value is not None for value in values)


def _count_fields(row: str) -> int:
    return len(row.partition("]")[2].split())


def _is_forged(record: LogRecord) -> bool:
    """
    Whether this is a later line of a record that imitates a record of its own.

    A cgroup's name may hold a line feed, and dmesg and journalctl print what follows it below, further right.
    """
    return record.bare and record.indented and tells_of_oom_kill(record.text)
