"""The real /dev/kmsg: what reading it costs beside a bare loop, and whether a long report is read without loss."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench import reports
from bench.measure import Figure, Skipped
from collector.errors import SourceError
from collector.parse.kmsg import KmsgRecord
from collector.pipeline import Pipeline
from collector.sources.kmsg import DEVICE, KmsgLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.errors import ParseError
    from collector.model import KernelRecord
    from collector.sources.base import Cursor

READING = "read + filter from /dev/kmsg: CPU against a bare read loop"
LONG_REPORT = "report of 2,000 tasks through /dev/kmsg: records lost"

_RATE_LIMIT = Path("/proc/sys/kernel/printk_devkmsg")
_LONG = 2000
# How long a kernel takes for a row of a task dump, by the stamps of a real report: five rows in 13 us, on Linux 3.13 in
# a virtual machine. What the kernel spends on a row is spent here in write(2) and in waiting.
_ROW_NANOSECONDS = 2600
_WRITER = f"""
import os, sys, time
fd = os.open("/dev/kmsg", os.O_WRONLY)
texts = sys.stdin.buffer.read().splitlines(keepends=True)
clock = time.perf_counter_ns
for text in texts:
    due = clock() + {_ROW_NANOSECONDS}
    os.write(fd, text)
    while clock() < due:
        pass
"""


_BARE_LOOP = """
import os, select, sys
fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
os.lseek(fd, 0, os.SEEK_END)
poll = select.epoll()
poll.register(fd, select.EPOLLIN)
poll.register(0, select.EPOLLIN)
lost = last = 0
while 0 not in (ready for ready, _ in poll.poll()):
    try:
        while True:
            try:
                number = int(os.read(fd, 8192).split(b",", 2)[1])
            except BrokenPipeError:
                continue
            lost += number - last - 1 if last else 0
            last = number
    except BlockingIOError:
        pass
print(lost)
"""


class Sink:
    """
    The agent without its journal: records into a pipeline. Fulfils sources.base.RecordSink.

    own_records: user space cannot write as the kernel; take this process's own records for the kernel's.
    """

    def __init__(self, *, own_records: bool = False) -> None:
        self.pipeline = Pipeline(boot_id="b")
        self.tasks = 0
        self.lost_records = 0
        self.read_all = asyncio.Event()
        self._own_records = own_records

    @property
    def busy(self) -> bool:
        return self.pipeline.busy

    def push(self, record: KernelRecord, *, live: bool) -> None:
        if self._own_records and live and isinstance(record, KmsgRecord):
            record.facility = 0
        self.pipeline.push(record, at=time.monotonic())

    def lost(self, count: int) -> None:
        self.lost_records += count

    def malformed(self, error: ParseError) -> None:
        raise error

    def caught_up(self) -> None:
        self.read_all.set()

    def end_of_batch(self, cursor: Cursor | None) -> None:
        pass

    def settle(self) -> None:
        for incident in self.pipeline.flush(None):
            self.tasks += len(incident.report.tasks)


def measure(*, write: bool) -> Iterator[Figure | Skipped]:
    """write: whether records may be written to this machine's kernel log."""
    try:
        KmsgLog().probe()
    except SourceError as error:
        yield Skipped(READING, str(error))
        yield Skipped(LONG_REPORT, str(error))
        return
    yield asyncio.run(_measure_reading())
    if not write:
        yield Skipped(LONG_REPORT, "writes to this machine's kernel log: only with --write-kmsg")
    elif os.geteuid():
        yield Skipped(LONG_REPORT, "needs root, to write without the kernel's rate limit")
    else:
        with _no_rate_limit():
            yield asyncio.run(_measure_long_report())


async def _measure_reading(rounds: int = 40) -> Figure:
    count = _read_bare()
    bare = agent = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        _read_bare()
        middle = time.process_time()
        async with _following(Sink()):
            pass
        bare, agent = min(bare, middle - start), min(agent, time.process_time() - middle)
    return Figure(
        what=READING,
        value=agent / bare,
        unit="x",
        must=2.5,
        aim=1.5,
        note=f"{count:,} records of this machine's log, {bare / count * 1e6:.2f} us each bare; best of {rounds}",
    )


def _read_bare() -> int:
    fd = os.open(DEVICE, os.O_RDONLY | os.O_NONBLOCK)
    count = 0
    try:
        while True:
            try:
                os.read(fd, 8192)
                count += 1
            except BrokenPipeError:
                pass
    except BlockingIOError:
        return count
    finally:
        os.close(fd)


@contextmanager
def _no_rate_limit() -> Iterator[None]:
    """The kernel takes 10 records in 5 s from a writer in user space, else."""
    before = _RATE_LIMIT.read_text()
    _RATE_LIMIT.write_text("on\n")
    try:
        yield
    finally:
        _RATE_LIMIT.write_text(before)


class _following:  # noqa: N801 -- reads as a verb where it is used
    """A reader of the device that has met the end of the backlog."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def __aenter__(self) -> Sink:
        self._reading = asyncio.create_task(KmsgLog().run(self._sink, None))
        await self._sink.read_all.wait()
        return self._sink

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def _measure_long_report(rounds: int = 40) -> Figure:
    """In turns with a loop that does nothing but wait and read: what that loses too, no reader can keep."""
    texts = "".join(f"<14>{text}\n" for text in reports.texts(_LONG)).encode()
    lost = told = whole = bare_lost = bare_whole = 0
    for _ in range(rounds):
        async with _following(Sink(own_records=True)) as sink:
            await _write(texts)
            sink.settle()
            lost += sink.lost_records
            whole += not sink.lost_records
            told += sink.tasks
        missed = await _lost_by_a_bare_loop(texts)
        bare_lost += missed
        bare_whole += not missed
    return Figure(
        what=LONG_REPORT,
        value=lost,
        unit="",
        must=0,
        aim=0,
        note=f"{whole} of {rounds} reports whole, {told} of {rounds * _LONG} tasks told; a bare wait-and-read loop in"
        f" turns with it: {bare_whole} whole, {bare_lost} records lost; {len(texts) >> 10} KiB, a row each"
        f" {_ROW_NANOSECONDS / 1000} us, written by user space and taken for the kernel's",
    )


async def _write(texts: bytes) -> None:
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", _WRITER, stdin=subprocess.PIPE)
    await asyncio.sleep(0.2)
    await writer.communicate(texts)
    await asyncio.sleep(0.2)


async def _lost_by_a_bare_loop(texts: bytes) -> int:
    command = (sys.executable, "-c", _BARE_LOOP)
    loop = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    await asyncio.sleep(0.2)
    await _write(texts)
    told, _ = await loop.communicate(b"")  # closes its input, which ends it
    return int(told)
