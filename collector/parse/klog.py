"""
What syslog(2) gives: the kernel's ring as text, without sequence numbers.

    <3>[  106.244102][  T310] Memory cgroup out of memory: Killed process 310 (hog) total-vm:...

A record that holds newlines gets the prefix again on each of its lines, so that no text can do without a prefix or
choose its own; but such a line looks like a record. Whoever reads has to know where records begin: see
sources/syslog.py.

Source: record_print_text() and print_prefix() in kernel/printk/printk.c; `[caller]` with CONFIG_PRINTK_CALLER (5.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collector.errors import ParseError
from collector.parse.dress import LogRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = re.compile(rb"<(\d{1,6})>\[ *(\d{1,12})\.(\d{6})\](?:\[ *([TC]\d{1,10})\])? ")
_STAMP = re.compile(rb"^<\d{1,6}>\[ *(\d{1,12}\.\d{6})\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """
    Neighbouring lines with one prefix, from `start` to `end` of a dump: one record, or several of one microsecond.

    `lines` has the line ends. An empty prefix: a line that no kernel prints.
    """

    start: int
    end: int
    prefix: bytes
    lines: tuple[bytes, ...]


def parse_klog_record(raw: bytes) -> LogRecord:
    """
    Read the lines of one record.

    Raises ParseError when one of them lacks the prefix of the first.
    """
    match = _PREFIX.match(raw)
    if match is None:
        raise ParseError("syslog(2)", raw.decode("utf-8", "replace"))
    prefix = match[0]
    lines = raw.removesuffix(b"\n").split(b"\n")
    if not all(line.startswith(prefix) for line in lines):
        raise ParseError("syslog(2)", raw.decode("utf-8", "replace"))
    seconds, fraction, caller = match[2], match[3], match[4]
    return LogRecord(
        text=b"\n".join(line[len(prefix) :] for line in lines).decode("utf-8", "replace"),
        facility=int(match[1]) >> 3,
        monotonic_usec=int(seconds) * 1_000_000 + int(fraction),
        stamp=f"{int(seconds)}.{fraction.decode('ascii')}",
        caller=caller.decode("ascii") if caller else None,
    )


def is_user_written(prefix: bytes) -> bool:
    """Whether a prefix bears another facility than the kernel's."""
    match = _PREFIX.match(prefix)
    return match is None or int(match[1]) >> 3 != 0


def split_runs(dump: bytes, start: int) -> Iterator[Run]:
    """Cut `dump` from `start` (the beginning of a record) into runs."""
    prefix, begin = b"", start
    lines: list[bytes] = []
    for line in _lines(dump, start):
        match = _PREFIX.match(line)
        own = match[0] if match else b""
        if lines and (own != prefix or not own):
            run = _run(begin, prefix, lines)
            yield run
            begin, lines = run.end, []
        prefix = own
        lines.append(line)
    if lines:
        yield _run(begin, prefix, lines)


def has_stamps(dump: bytes) -> bool:
    """False with printk.time=0: such lines cannot be told apart, and no incident could be identified by them."""
    return not dump or _STAMP.match(dump) is not None


def overlap(previous: bytes, current: bytes) -> int:
    """
    How many bytes `current` begins with that `previous` ends with: the longest whole lines for which it holds.

    Both are dumps of one ring, which loses records at its beginning and gains them at its end. Equal lines are
    different records: of two dumps `A A` and `A A A` the third is new.
    """
    if current.startswith(previous):
        return len(previous)
    first = current[: current.find(b"\n") + 1]
    at = previous.find(first) if first else -1
    while at >= 0:
        if previous[at - 1 : at] in (b"", b"\n") and current.startswith(previous[at:]):
            return len(previous) - at
        at = previous.find(first, at + 1)
    return 0


def position_after(dump: bytes) -> str | None:
    """
    A mark for the end of `dump` that a later process can find again. None for an empty dump.

    `106.244102x2` stands behind the second line of that time.
    """
    stamps = _STAMP.findall(dump)
    if not stamps:
        return None
    return f"{stamps[-1].decode('ascii')}x{stamps.count(stamps[-1])}"


def find_position(dump: bytes, position: str) -> int | None:
    """
    Where in `dump` the lines behind a mark begin.

    None when no line of its time is left. Fewer lines than it counted: the ring has lost the others.
    """
    stamp, _, count = position.partition("x")
    wanted = int(count) if count.isdecimal() else 1
    found = None
    for match in _STAMP.finditer(dump):
        if match[1] != stamp.encode():
            continue
        found = dump.find(b"\n", match.end()) + 1 or len(dump)
        wanted -= 1
        if wanted == 0:
            break
    return found


def _lines(dump: bytes, start: int) -> Iterator[bytes]:
    while start < len(dump):
        end = dump.find(b"\n", start) + 1 or len(dump)
        yield dump[start:end]
        start = end


def _run(start: int, prefix: bytes, lines: list[bytes]) -> Run:
    return Run(start, start + sum(map(len, lines)), prefix, tuple(lines))
