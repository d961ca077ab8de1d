"""
journald, where the kernel log itself is out of reach but the host's journal is mounted.

systemd-python is optional: it needs libsystemd, which must not be older than the host's (a newer file format reads as
an empty journal).
"""

from __future__ import annotations

import asyncio
import importlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from collector.errors import ParseError, SourceError
from collector.parse.dress import LogRecord
from collector.parse.kmsg import is_wanted
from collector.sources.base import Cursor

if TYPE_CHECKING:
    from pathlib import Path

    from collector.sources.base import RecordSink

NAME = "journald"

BATCH = 256

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# SD_MESSAGE_JOURNAL_MISSED: journald itself was overrun in /dev/kmsg, "Missed N kernel messages".
_MISSED = "e9bf28e6e834481bb6f48f548ad13606"


class JournaldLog:
    """The kernel's records of this boot. `path`: where the host's journal is mounted; None: this machine's own."""

    name = NAME

    def __init__(self, *, boot_id: str, path: Path | None = None) -> None:
        self._boot_id = boot_id
        self._path = path

    def probe(self) -> None:
        _Journal(self._boot_id, self._path).close()

    async def run(self, sink: RecordSink, cursor: Cursor | None) -> None:
        journal = _Journal(self._boot_id, self._path)
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(journal.fd, changed.set)
        try:
            ours = cursor is not None and cursor.source == NAME and cursor.boot_id == self._boot_id
            if cursor is not None and ours and not journal.seek(cursor.position):
                sink.lost(1)
            await journal.push_all(sink, live=False)
            sink.caught_up()
            while True:
                await _wait(changed, journal.timeout_seconds())
                changed.clear()
                journal.acknowledge()
                await journal.push_all(sink, live=True)
        finally:
            loop.remove_reader(journal.fd)
            journal.close()


async def _wait(changed: asyncio.Event, timeout_seconds: float | None) -> None:
    try:
        await asyncio.wait_for(changed.wait(), timeout_seconds)
    except TimeoutError:
        return


class _Journal:
    """One opening of the journal, in front of the first entry that has not been pushed."""

    def __init__(self, boot_id: str, path: Path | None) -> None:
        """Raises SourceError when systemd-python, the journal or its kernel records of this boot are missing."""
        self._boot_id = boot_id
        self._position: str | None = None
        self._systemd = import_systemd()
        try:
            # Dates and UUIDs of fields that nobody reads would cost more than the reading.
            converters = dict.fromkeys([*self._systemd.DEFAULT_CONVERTERS, "MESSAGE"], _as_stored)
            self._reader = self._systemd.Reader(path=str(path) if path else None, converters=converters)
            # At once: it arms inotify. Asked for later, files rotated in between stay open for ever.
            self.fd: int = self._reader.fileno()
        except OSError as error:
            raise SourceError(f"{NAME}: {path or 'the journal'}: {error.strerror}") from error
        boot = boot_id.replace("-", "")
        # User space may write records of another facility through the same transport.
        for match in ("_TRANSPORT=kernel", "SYSLOG_FACILITY=0", f"_BOOT_ID={boot}"):
            self._reader.add_match(match)
        self._reader.add_disjunction()
        for match in ("_TRANSPORT=driver", f"MESSAGE_ID={_MISSED}", f"_BOOT_ID={boot}"):
            self._reader.add_match(match)
        self._reader.seek_head()
        if not self._reader.get_next():
            self.close()
            raise SourceError(
                f"{NAME}: {path or 'the journal'} holds no kernel record of this boot: not mounted, not permitted"
                " (group systemd-journal), written by a newer systemd, or ReadKMsg=no"
            )
        self._reader.seek_head()

    def close(self) -> None:
        self._reader.close()

    def timeout_seconds(self) -> float | None:
        """Until when to look without being woken: journals on a network file system."""
        milliseconds: int = self._reader.get_timeout_ms()
        return None if milliseconds < 0 else milliseconds / 1000

    def seek(self, position: str) -> bool:
        """
        Go behind the entry that `position` names. False, and back at the start of this boot: it is gone.

        Not to the nearest entry that libsystemd offers then: an incident told twice has one id, a lost one has none.
        """
        try:
            self._reader.seek_cursor(position)
            if self._reader.get_next() and self._reader.test_cursor(position):
                self._position = position
                return True
        except ValueError:
            # How systemd-python says EINVAL: a cursor of another make.
            pass
        self._reader.seek_head()
        return False

    def acknowledge(self) -> None:
        """
        Take the notifications; without this the descriptor stays readable.

        Files that come, go or change their names (INVALIDATE) need nothing more: libsystemd keeps its place by time and
        number, not by file. To seek again would tell the whole boot anew each time a file in use is vacuumed.
        """
        try:
            self._reader.process()
        except OSError as error:
            raise SourceError(f"{NAME}: {error.strerror}") from error

    async def push_all(self, sink: RecordSink, *, live: bool) -> None:
        count = 0
        while entry := self._next():
            self._position = entry["__CURSOR"]
            _push(entry, sink, boot_id=self._boot_id, live=live)
            count += 1
            if count % BATCH == 0:
                self._end_batch(sink)
                await asyncio.sleep(0)
        self._end_batch(sink)

    def _next(self) -> dict[str, Any]:
        """Empty at the end."""
        try:
            entry: dict[str, Any] = self._reader.get_next()
        except OSError as error:
            raise SourceError(f"{NAME}: {error.strerror}") from error
        return entry

    def _end_batch(self, sink: RecordSink) -> None:
        if self._position is not None:
            sink.end_of_batch(Cursor(source=NAME, boot_id=self._boot_id, position=self._position))


def _push(entry: dict[str, Any], sink: RecordSink, *, boot_id: str, live: bool) -> None:
    text = entry.get("MESSAGE")
    if not isinstance(text, bytes):
        sink.malformed(ParseError(NAME, repr(entry)))
    elif "MESSAGE_ID" in entry:
        sink.lost(_missed(text))
    elif sink.busy or is_wanted(text):
        try:
            record = _record(entry, text, boot_id)
        except (KeyError, ValueError):
            sink.malformed(ParseError(NAME, repr(entry)))
        else:
            sink.push(record, live=live)


def _record(entry: dict[str, Any], text: bytes, boot_id: str) -> LogRecord:
    """The time since boot is the kernel's, the same as in /dev/kmsg; the wall time is that of journald's reading."""
    monotonic = entry["_SOURCE_MONOTONIC_TIMESTAMP"]
    return LogRecord(
        text=text.decode("utf-8", "replace"),
        # The match lets no other through.
        facility=0,
        monotonic_usec=int(monotonic),
        time=_EPOCH + timedelta(microseconds=entry["__REALTIME_TIMESTAMP"]),
        stamp=monotonic.decode("ascii"),
        boot_id=boot_id,
    )


def _missed(text: bytes) -> int:
    """The number in `Missed 123 kernel messages`; 1, at the least, should it be worded otherwise."""
    numbers = [int(word) for word in text.split() if word.isdigit()]
    return numbers[0] if numbers else 1


def import_systemd() -> Any:
    try:
        return importlib.import_module("systemd.journal")
    except ImportError as error:
        raise SourceError(f"{NAME}: systemd-python is not installed: pip install 'oom-collector[journald]'") from error


def _as_stored(value: bytes) -> bytes:
    return value
