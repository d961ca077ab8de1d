"""
syslog(2): the ring as text, polled, for a container that has CAP_SYSLOG but not the device.

What is new is found by aligning each dump with the last. Where a record ends is not in the text (parse/klog.py), and
believing each line would let a process name with a newline hide its own kill or, with a longer text, forge one. The
kernel does tell: it fills a buffer with the newest records that fit as a whole, so a buffer one byte too small for a
record begins with the next (syslog_print_all() in kernel/printk/printk.c).
"""

from __future__ import annotations

import asyncio
import bisect
import errno
import mmap
import os
from functools import cache
from typing import TYPE_CHECKING

from collector.errors import ParseError, SourceError
from collector.parse import klog
from collector.parse.kmsg import is_wanted
from collector.sources.base import Cursor

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Iterator

    from collector.sources.base import RecordSink

NAME = "syslog"

# A dump costs about 1.3 ms of CPU where the ring is 128 KiB, so it is not taken more often than it must.
INTERVAL_SECONDS = 1.0
BUSY_INTERVAL_SECONDS = 0.1

_READ_ALL = 3
_SIZE_BUFFER = 10
# Prefixes make the text longer than the ring. On a machine with a larger ring the newest MiB of text is read.
_PREFIX_FACTOR = 4
_MAX_BUFFER = 1 << 20
# How often the log may move on between a dump and the question where its records begin.
_ATTEMPTS = 20


class SyslogLog:
    """
    The kernel's ring by syslog(2).

    `read` returns the newest whole records that fit into so many bytes; tests put a ring of their own in its place.
    """

    name = NAME

    def __init__(self, *, boot_id: str | None = None, read: Callable[[int], bytes] | None = None) -> None:
        self._boot_id = boot_id
        self._read = read

    def probe(self) -> None:
        _Dumps(self._read).take()

    async def run(self, sink: RecordSink, cursor: Cursor | None) -> None:
        dumps = _Dumps(self._read)
        position = None
        if cursor is not None and cursor.source == NAME and cursor.boot_id == self._boot_id:
            position = cursor.position
        previous: bytes | None = None
        while True:
            dump = dumps.take()
            if dump != previous:
                start = _resume_at(dump, position, sink) if previous is None else _news_at(previous, dump, sink)
                await _push_new(dumps, dump, start, sink, live=previous is not None)
                if previous is None:
                    sink.caught_up()
                position = klog.position_after(dump) or position
                if position is not None:
                    sink.end_of_batch(Cursor(source=NAME, boot_id=self._boot_id, position=position))
                previous = dump
            await asyncio.sleep(BUSY_INTERVAL_SECONDS if sink.busy else INTERVAL_SECONDS)


def _resume_at(dump: bytes, position: str | None, sink: RecordSink) -> int:
    if position is None:
        return 0
    start = klog.find_position(dump, position)
    if start is None and dump:
        sink.lost(1)
    return start or 0


def _news_at(previous: bytes, dump: bytes, sink: RecordSink) -> int:
    start = klog.overlap(previous, dump)
    if not start and previous and dump:
        sink.lost(1)
    return start


async def _push_new(dumps: _Dumps, dump: bytes, start: int, sink: RecordSink, *, live: bool) -> None:
    for run in klog.split_runs(dump, start):
        if not sink.busy and not any(map(is_wanted, run.lines)):
            continue
        for raw in _records(dumps, dump, run, sink):
            try:
                record = klog.parse_klog_record(raw)
            except ParseError as error:
                sink.malformed(error)
            else:
                sink.push(record, live=live)
        # Each question where a record begins takes a millisecond.
        if len(run.lines) > 1:
            await asyncio.sleep(0)


def _records(dumps: _Dumps, dump: bytes, run: klog.Run, sink: RecordSink) -> list[bytes]:
    if len(run.lines) == 1 or klog.is_user_written(run.prefix):
        return list(run.lines)
    starts = dumps.record_starts(dump, run)
    if starts is None:
        # Not to be known any more. As one record: better a line too few, which is counted, than one that is forged.
        sink.lost(1)
        starts = [run.start]
    return [dump[start:end] for start, end in zip(starts, [*starts[1:], run.end], strict=True)]


class _MovedOnError(Exception):
    """Something was printed between two looks at the ring."""


class _Dumps:
    """The ring, read as a whole or from the end."""

    def __init__(self, read: Callable[[int], bytes] | None) -> None:
        self._size = _MAX_BUFFER
        self._read = read or self._open()

    def _open(self) -> Callable[[int], bytes]:
        import ctypes  # 0.4 MiB, for this source alone

        self._size = min(_klogctl(_SIZE_BUFFER, None, 0) * _PREFIX_FACTOR, _MAX_BUFFER)
        # A mapping costs only the pages that the kernel fills.
        buffer = mmap.mmap(-1, self._size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        return lambda size: buffer[: _klogctl(_READ_ALL, address, size)]

    def take(self) -> bytes:
        """
        All that is in the ring.

        Raises SourceError when it may not be read or carries no times.
        """
        dump = self._read(self._size)
        if not klog.has_stamps(dump):
            raise SourceError(
                f"{NAME}: records carry no time (printk.time=0), so they cannot be told apart:"
                " echo 1 > /sys/module/printk/parameters/time"
            )
        return dump

    def record_starts(self, dump: bytes, run: klog.Run) -> list[int] | None:
        """
        The offsets in `dump` at which the records of `run` begin.

        None when the ring has moved past them.
        """
        starts = [run.start]
        # `dump` without its first `gone` bytes, and with what was printed since, is `log`.
        log, gone = dump, 0
        for _ in range(_ATTEMPTS):
            try:
                for start in self._following(log, starts[-1] - gone, run.end - gone):
                    starts.append(gone + start)  # noqa: PERF401 - what was found before the log moved on stays true
            except _MovedOnError:
                newer = self._read(self._size)
                kept = klog.overlap(log, newer)
                gone += len(log) - kept
                log = newer
                if starts[-1] < gone:
                    return None
            else:
                return starts
        return None

    def _following(self, log: bytes, start: int, end: int) -> Iterator[int]:
        """Where the records behind the one at `start` begin, as far as `end`."""
        size = self._smallest_size(log, start)
        while start < end:
            following = self._first_start(log, size - 1)
            if following <= start:
                # Behind a cut record `size` is too large; the next attempt reckons anew from here.
                raise _MovedOnError
            if following < end:
                yield following
            size -= following - start
            start = following

    def _smallest_size(self, log: bytes, start: int) -> int:
        """
        The smallest buffer that still gets the record at `start`.

        That is not always the length of the text from there on: the kernel cuts records with many lines while it prints
        them, but reckons with their whole length (CONSOLE_LOG_MAX; seen on 5.10 and 6.1 with memory.stat).
        """
        low = high = len(log) - start
        step = 64
        while self._first_start(log, high) > start:
            low, high, step = high + 1, high + step, step * 2
        sizes = range(low, high)
        return low + bisect.bisect_left(sizes, True, key=lambda size: self._first_start(log, size) <= start)

    def _first_start(self, log: bytes, size: int) -> int:
        """
        Where in `log` the first record begins that fits with all behind it into a buffer of `size`.

        Raises _MovedOnError when `log` is not the newest any more.
        """
        tail = self._read(min(size, self._size))
        # An empty answer may also be a record that came in between and does not fit.
        if not log.endswith(tail) or (not tail and self._read(self._size) != log):
            raise _MovedOnError
        return len(log) - len(tail)


@cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _klogctl(action: int, address: int | None, size: int) -> int:
    import ctypes

    result: int = _libc().klogctl(action, ctypes.c_void_p(address), size)
    if result < 0:
        error = ctypes.get_errno()
        fix = ": needs CAP_SYSLOG (kernel.dmesg_restrict)" if error in {errno.EPERM, errno.EACCES} else ""
        raise SourceError(f"{NAME}: {os.strerror(error)}{fix}")
    return result
