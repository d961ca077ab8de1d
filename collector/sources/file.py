"""A file or a pipe with a kernel log in any dress, followed as `tail -F` does: for tests, replay and odd machines."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

from collector.errors import ParseError, SourceError
from collector.parse.dress import Dress
from collector.parse.kmsg import is_wanted
from collector.sources.base import Cursor, call_when_readable

if TYPE_CHECKING:
    from pathlib import Path

    from collector.sources.base import RecordSink

NAME = "file"

POLL_SECONDS = 0.2

_CHUNK = 1 << 16
_BATCH = 256
_MAX_LINE = 1 << 16


class FileLog:
    """
    A regular file: what is there is the backlog, then its growth, truncation and replacement are followed.

    A FIFO or pipe, in packet mode or not: all of it is live, and a writer that leaves is not the end.
    """

    name = NAME

    def __init__(self, path: Path) -> None:
        self._path = path

    def probe(self) -> None:
        os.close(_open(self._path))

    async def run(self, sink: RecordSink, cursor: Cursor | None) -> None:
        fd = _open(self._path)
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                await _read_pipe(fd, sink)
            finally:
                os.close(fd)
        following = _Following(self._path, fd, sink)
        try:
            if cursor is not None and cursor.source == NAME:
                following.seek(cursor.position)
            await following.run()
        finally:
            following.close()


async def _read_pipe(fd: int, sink: RecordSink) -> None:
    lines = _Lines(sink)
    lines.live = True
    sink.caught_up()

    def drain() -> None:
        for _ in range(_BATCH):
            chunk = _read(fd)
            if not chunk:
                break
            lines.take(chunk)
        sink.end_of_batch(None)

    await call_when_readable(fd, drain)


class _Following:
    """The place in a regular file, and in the one that takes its name."""

    def __init__(self, path: Path, fd: int, sink: RecordSink) -> None:
        self._path = path
        self._fd = fd
        self._sink = sink
        self._lines = _Lines(sink)
        self._offset = 0

    def close(self) -> None:
        os.close(self._fd)

    def seek(self, position: str) -> None:
        """Go on at `inode:offset`, where this is still the file and it has not shrunk."""
        inode, _, offset = position.partition(":")
        status = os.fstat(self._fd)
        if inode == str(status.st_ino) and offset.isdecimal() and int(offset) <= status.st_size:
            self._offset = os.lseek(self._fd, int(offset), os.SEEK_SET)

    async def run(self) -> None:
        await self._read_to_end()
        self._lines.live = True
        self._sink.caught_up()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            replaced = self._is_replaced()
            if os.fstat(self._fd).st_size < self._offset:
                self._restart(self._fd)
            # Also what was written to a replaced file before its name went to another.
            await self._read_to_end()
            if replaced:
                self._lines.end()
                following = _open(self._path)
                os.close(self._fd)
                self._restart(following)

    def _is_replaced(self) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        return not os.path.samestat(status, os.fstat(self._fd))

    def _restart(self, fd: int) -> None:
        self._fd = fd
        self._offset = os.lseek(fd, 0, os.SEEK_SET)
        self._lines.forget()

    async def _read_to_end(self) -> None:
        grown = False
        while chunk := _read(self._fd):
            grown = True
            self._offset += len(chunk)
            self._lines.take(chunk)
            await asyncio.sleep(0)
        if grown:
            position = f"{os.fstat(self._fd).st_ino}:{self._offset - self._lines.pending}"
            self._sink.end_of_batch(Cursor(source=NAME, boot_id=None, position=position))


class _Lines:
    """Bytes in pieces of any size -> records. Lines longer than _MAX_LINE are left out."""

    def __init__(self, sink: RecordSink) -> None:
        self._sink = sink
        self._dress = Dress()
        self._rest = b""
        self._overlong = False
        self._raw = False
        self.live = False

    @property
    def pending(self) -> int:
        """Bytes of a line that has no end yet."""
        return len(self._rest)

    def take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if self._overlong:
                self._overlong = False
            else:
                self._push(line)
        if len(self._rest) > _MAX_LINE:
            self._sink.malformed(ParseError(NAME, self._rest.decode("utf-8", "replace")))
            self._rest = b""
            self._overlong = True

    def end(self) -> None:
        """No more is to come: the last line may lack its end."""
        if self._rest and not self._overlong:
            self._push(self._rest)
        self.forget()

    def forget(self) -> None:
        self._rest = b""
        self._overlong = False

    def _push(self, line: bytes) -> None:
        # A raw record's ` KEY=value` lines.
        if self._raw and line.startswith(b" "):
            return
        if not self._sink.busy and not is_wanted(line):
            self._dress.skipped()
            return
        record = self._dress.undress(line)
        if record is not None:
            self._raw = record.sequence is not None
            self._sink.push(record, live=self.live)


def _read(fd: int) -> bytes:
    """What is there now: empty at the end of a file and when a pipe has nothing."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return b""
    except OSError as error:
        raise SourceError(f"{NAME}: {error.strerror}") from error


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        if stat.S_ISFIFO(mode):
            # Being a writer itself, it never meets the end when the others leave (fifo(7)).
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    raise SourceError(f"{path}: is neither a file nor a pipe")
