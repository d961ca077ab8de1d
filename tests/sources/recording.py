"""What the source tests share: a sink that keeps what it is given, and a way to run a source beside a test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from collector.parse.kmsg import KmsgRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from collector.errors import ParseError
    from collector.model import KernelRecord
    from collector.sources.base import Cursor, KernelLog


class RecordingSink:
    """`busy` from a header to its kill line, as in the pipeline."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy
        self.records: list[KernelRecord] = []
        self.live: list[bool] = []
        self.missing = 0
        self.errors: list[ParseError] = []
        self.caught_up_count = 0
        self.cursors: list[Cursor | None] = []

    def push(self, record: KernelRecord, *, live: bool) -> None:
        self.records.append(record)
        self.live.append(live)
        for text in record.texts if isinstance(record, KmsgRun) else (record.text,):
            if "invoked oom-killer" in text:
                self.busy = True
            elif "Killed process" in text:
                self.busy = False

    def lost(self, count: int) -> None:
        self.missing += count

    def malformed(self, error: ParseError) -> None:
        self.errors.append(error)

    def caught_up(self) -> None:
        self.caught_up_count += 1

    def end_of_batch(self, cursor: Cursor | None) -> None:
        self.cursors.append(cursor)

    @property
    def texts(self) -> list[str]:
        return [record.text for record in self.records]

    @property
    def cursor(self) -> Cursor:
        """The last one."""
        cursor = self.cursors[-1]
        assert cursor is not None
        return cursor


@asynccontextmanager
async def running(
    log: KernelLog, sink: RecordingSink, cursor: Cursor | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """`log` reading into `sink`; what it raises by itself is raised where the task is awaited."""
    task = asyncio.create_task(log.run(sink, cursor))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition, of any source
            await asyncio.sleep(0.001)


async def read_backlog(log: KernelLog, cursor: Cursor | None = None) -> RecordingSink:
    """All that `log` holds now."""
    sink = RecordingSink()
    async with running(log, sink, cursor) as task:
        await until(lambda: bool(sink.caught_up_count and sink.cursors) or task.done())
        if task.done():
            task.result()
    return sink
