"""What every kernel log source has in common: it pushes records into a sink until it dies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.errors import ParseError
    from collector.model import KernelRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """
    Where reading goes on after a restart.

    `position` is the source's own: a sequence number, a journal cursor, an offset.
    """

    source: str
    boot_id: str | None
    position: str


class RecordSink(Protocol):
    """
    Takes records in the order of the log, on the event loop's thread.

    `busy`: a report is being put together, so every record is wanted. While it is False a source may drop the
    records that parse.kmsg.is_wanted refuses. It changes in push() only, as far as a source cares within one batch.
    """

    @property
    def busy(self) -> bool: ...

    def push(self, record: KernelRecord, *, live: bool) -> None:
        """`live`: printed while this source was reading, so that its arrival is its time."""

    def lost(self, count: int) -> None:
        """
        Records that the ring or the journal no longer holds.

        Where the log has no numbers (syslog(2), a vacuumed journal) a gap of unknown size is told as 1.
        """

    def malformed(self, error: ParseError) -> None:
        """A record that should have been readable and was not; reading goes on."""

    def caught_up(self) -> None:
        """All that was in the log when the source opened it has been pushed. Called once per opening."""

    def end_of_batch(self, cursor: Cursor | None) -> None:
        """
        A good moment to commit. `cursor` is the position after the last record read, None where there is none to keep.

        While `busy`, an open report reaches back before `cursor`: what is stored for a restart has to be older.
        """


class KernelLog(Protocol):
    """A source of kernel records."""

    @property
    def name(self) -> str: ...

    def probe(self) -> None:
        """Raises SourceError, with the cause and the fix, when this log cannot be read here and now."""

    async def run(self, sink: RecordSink, cursor: Cursor | None) -> None:
        """
        Read until cancelled. Starts behind `cursor` where it is of this source and boot, else at the oldest record.

        Raises SourceError when the log cannot be opened or is at its end; kernel_log.follow() opens it again.
        """


async def call_when_readable(fd: int, callback: Callable[[], None]) -> None:
    """
    Call `callback` whenever `fd` is readable, until it raises.

    Level-triggered: a callback that leaves data behind is called again after the loop's other work.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if ended.done():
            return
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - handed over to the awaiting task, whole
            ended.set_exception(error)

    loop.add_reader(fd, ready)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
