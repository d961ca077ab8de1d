"""
A log of any size into the pipeline, block by block.

Most of a log is not about OOM kills. So it is searched for a few literals, and only what stands around a hit is read
line by line: some of it before the hit, since a report may have lost its header, and what follows until the report is
told. The incidents are those that reading every line would give, wherever the blocks end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from collector.parse.dress import Dress, LogRecord
from collector.parse.journal import ExportEntries, JsonEntries
from collector.parse.unwrap import Unwrap

if TYPE_CHECKING:
    from datetime import tzinfo

    from collector.model import Incident
    from collector.pipeline import Pipeline

# Read line by line whatever it holds: a pasted log, where a literal may be broken in two.
HEAD_SIZE = 256 << 10
# Before a hit: a task dump of 600 rows without its header. With its header, what tells whose the line is.
CONTEXT_SIZE = 64 << 10
HEADER_CONTEXT_SIZE = 4 << 10
# Behind a hit; and while a report is open: a task dump of 20,000 rows.
AFTERMATH_SIZE = 16 << 10
OPEN_REPORT_SIZE = 2 << 20
MAX_LINE = 64 << 10

_HEADER = b" invoked oom-killer"
_LITERALS = (b"oom-kill", b"Kill", b"as a result of limit of")
# journald writes a message that is not UTF-8 as an array of numbers.
_JSON_LITERALS = (*_LITERALS, b'"MESSAGE":[', b'"MESSAGE" : [')
# "Kill" alone is too common in the words of systemd.
_HIT = re.compile(
    rb"oom-kill|Kill(?:ed)?(?: +process|[ \r]*$)|as a result of limit of|\"MESSAGE\" ?: ?\[", re.MULTILINE
)
_HIT_LENGTH = 40
_SETTLE_EVERY_LINES = 64
# A reboot, or another log in the same file.
_SET_BACK_SECONDS = 60.0

_SAMPLE_SIZE = 4096
_EXPORT = re.compile(rb"\s*__[A-Z_]+=")
_JSON = re.compile(rb"\s*(?:\x1e|data: )?\{\s*\"_*[A-Z]")


class LogReader:
    """
    One log, fed in blocks of any size. Holds a block, CONTEXT_SIZE and MAX_LINE bytes at most.

    zone, year: what the log's stamps leave out. head_size: see HEAD_SIZE; larger than the log: every line is read.
    `lines` are only counted while there is no incident (a quarter of the time goes there), and complete after close().
    """

    def __init__(
        self, pipeline: Pipeline, *, zone: tzinfo | None = None, year: int | None = None, head_size: int = HEAD_SIZE
    ) -> None:
        self.lines = 0
        self._pipeline = pipeline
        self._zone, self._year, self._head_size = zone, year, head_size
        self._sample = b""
        self._found = False
        self._open_line = False
        self._form: _LineForm | _ExportForm | None = None

    @property
    def cut_lines(self) -> int:
        """Lines longer than MAX_LINE whose rest was not looked at."""
        return self._form.cut_lines if self._form is not None else 0

    def feed(self, block: bytes) -> list[Incident]:
        if not block:
            return []
        if not self._found:
            self.lines += block.count(b"\n")
            self._open_line = not block.endswith(b"\n")
        if self._form is None:
            self._sample += block
            incidents = self._begin() if len(self._sample) >= _SAMPLE_SIZE else []
        else:
            incidents = self._form.feed(block)
        self._found = self._found or bool(incidents)
        return incidents

    def close(self) -> list[Incident]:
        """The log ends here."""
        self.lines += self._open_line
        incidents = self._begin() if self._form is None else []
        if self._form is not None:
            incidents += self._form.close()
        return [*incidents, *self._pipeline.flush(None)]

    def _begin(self) -> list[Incident]:
        sample, self._sample = self._sample, b""
        feeder = _Feeder(self._pipeline)
        if _EXPORT.match(sample):
            self._form = _ExportForm(feeder)
        elif _JSON.match(sample):
            self._form = _LineForm(_JournalLines(feeder), _JSON_LITERALS, self._head_size)
        else:
            lines = _TextLines(feeder, Dress(zone=self._zone, year=self._year))
            self._form = _LineForm(lines, _LITERALS, self._head_size)
        return self._form.feed(sample)


class _Feeder:
    """Records into the pipeline, on the log's own clock; incidents out."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._at: float | None = None
        self._told: list[Incident] = []

    @property
    def busy(self) -> bool:
        return self._pipeline.busy

    def push(self, record: LogRecord) -> None:
        at = record.at
        if at is not None:
            if self._at is not None and at < self._at - _SET_BACK_SECONDS:
                self._told += self._pipeline.flush(None)
            self._at = at
        self._told += self._pipeline.push(record, at=at)

    def settle(self, idle_seconds: float | None) -> None:
        """idle_seconds: the log's clock has gone on so far since the last record. None: give up waiting."""
        if self._pipeline.busy:
            if idle_seconds is None:
                self._told += self._pipeline.flush(None)
            elif self._at is not None and idle_seconds > 0:
                self._told += self._pipeline.flush(self._at + idle_seconds)

    def take(self) -> list[Incident]:
        told, self._told = self._told, []
        return told


class _Lines(Protocol):
    """How the lines of one form of log are read. `feeder` gets the records."""

    @property
    def feeder(self) -> _Feeder: ...

    @property
    def busy(self) -> bool:
        """A report is open, or a line is held back that may open one."""

    def read(self, line: bytes) -> None: ...

    def settle(self) -> None:
        """Settle what the clock of the lines read so far allows."""

    def pause(self) -> None:
        """The next lines will not be read, or the log is at its end."""


class _TextLines:
    def __init__(self, feeder: _Feeder, dress: Dress) -> None:
        self.feeder = feeder
        self._dress = dress
        self._unwrap = Unwrap()

    @property
    def busy(self) -> bool:
        return self.feeder.busy or self._unwrap.busy

    def read(self, line: bytes) -> None:
        for record in self._unwrap.push(self._dress.undress(line)):
            self.feeder.push(record)

    def settle(self) -> None:
        idle_seconds = self._dress.idle_seconds
        if idle_seconds is not None:
            self.feeder.settle(idle_seconds)

    def pause(self) -> None:
        for record in self._unwrap.flush():
            self.feeder.push(record)
        self.feeder.settle(None)
        self._dress.skipped()


class _JournalLines:
    def __init__(self, feeder: _Feeder) -> None:
        self.feeder = feeder
        self._entries = JsonEntries()

    @property
    def busy(self) -> bool:
        return self.feeder.busy

    def read(self, line: bytes) -> None:
        record = self._entries.read(line)
        if record is not None:
            self.feeder.push(record)

    def settle(self) -> None:
        pass

    def pause(self) -> None:
        self.feeder.settle(None)


class _ExportForm:
    """Read whole: where an entry begins is only known from the one before it."""

    cut_lines = 0

    def __init__(self, feeder: _Feeder) -> None:
        self._feeder = feeder
        self._entries = ExportEntries()

    def feed(self, block: bytes) -> list[Incident]:
        for record in self._entries.feed(block):
            self._feeder.push(record)
        return self._feeder.take()

    def close(self) -> list[Incident]:
        for record in self._entries.close():
            self._feeder.push(record)
        return self._feeder.take()


class _LineForm:
    """
    Searches, and reads the lines around a hit.

    Indices are into `_buffer`; `_base` is the log's offset of its first byte. All before `_at` was read or passed over.
    """

    def __init__(self, lines: _Lines, literals: tuple[bytes, ...], head_size: int) -> None:
        self.cut_lines = 0
        self._lines = lines
        self._literals = literals
        self._buffer = b""
        self._base = 0
        self._at = 0
        self._searched = 0
        self._read_until = head_size
        self._open_until = head_size
        self._reading = True
        self._unsettled_lines = 0
        self._cutting = False

    def feed(self, block: bytes) -> list[Incident]:
        if self._cutting:
            # The rest of a line whose beginning is in the buffer.
            end = block.find(b"\n")
            self._base += len(block) if end < 0 else end
            if end < 0:
                return []
            block, self._cutting = block[end:], False
        self._buffer += block
        end = self._buffer.rfind(b"\n") + 1
        hits = _Hits(self._buffer, self._literals, end)
        while self._at < end:
            if self._reading:
                self._read_lines(end)
            elif not self._begin_reading(hits):
                break
        self._discard(end)
        return self._lines.feeder.take()

    def close(self) -> list[Incident]:
        incidents = [] if self._buffer.endswith(b"\n") else self.feed(b"\n")
        self._lines.pause()
        return incidents + self._lines.feeder.take()

    def _begin_reading(self, hits: _Hits) -> bool:
        """Go to some lines before the next hit. False: there is none."""
        hit = hits.next(max(self._at, self._searched))
        if hit is None:
            self._searched = hits.end
            return False
        line = self._buffer.rfind(b"\n", 0, hit) + 1
        has_header = self._buffer.find(_HEADER, line, hit + len(_HEADER)) >= 0
        start = line - (HEADER_CONTEXT_SIZE if has_header else CONTEXT_SIZE)
        self._pass_over(self._buffer.rfind(b"\n", 0, max(0, start)) + 1)
        self._reading = True
        self._extend(hit)
        return True

    def _read_lines(self, end: int) -> None:
        buffer, at, read = self._buffer, self._at, self._lines.read
        while at < end and self._base + at < self._read_until:
            newline = buffer.find(b"\n", at)
            line = buffer[at:newline]
            if len(line) > MAX_LINE:
                line = line[:MAX_LINE]
                self.cut_lines += 1
            if _is_hit(line, self._literals):
                self._extend(newline)
            read(line)
            at = newline + 1
            self._unsettled_lines += 1
            if self._unsettled_lines == _SETTLE_EVERY_LINES:
                self._unsettled_lines = 0
                if self._lines.busy:
                    self._lines.settle()
        self._at = at
        offset = self._base + at
        if offset >= self._read_until:
            self._reading = self._lines.busy and offset < self._open_until
            if self._reading:
                self._read_until = offset + AFTERMATH_SIZE

    def _extend(self, hit: int) -> None:
        self._read_until = max(self._read_until, self._base + hit + AFTERMATH_SIZE)
        self._open_until = self._base + hit + OPEN_REPORT_SIZE

    def _pass_over(self, start: int) -> None:
        if start > self._at:
            self._lines.pause()
            self._at = start

    def _discard(self, end: int) -> None:
        """Keep what may be read yet: an unfinished line, and the context of a hit in the next block."""
        if not self._reading:
            self._pass_over(self._buffer.rfind(b"\n", 0, max(0, end - CONTEXT_SIZE)) + 1)
        keep, stop = self._at, len(self._buffer)
        if stop - end > MAX_LINE:
            self._cutting, stop = True, end + MAX_LINE
            self.cut_lines += 1
        self._base += keep + len(self._buffer) - stop
        self._buffer = self._buffer[keep:stop]
        self._searched = max(0, self._searched - keep)
        self._at = 0


class _Hits:
    """Where the literals stand in one buffer. Each is looked up once, however many hits the others have."""

    def __init__(self, buffer: bytes, literals: tuple[bytes, ...], end: int) -> None:
        self.end = end
        self._buffer = buffer
        self._next = dict.fromkeys(literals, -1)

    def next(self, start: int) -> int | None:
        while True:
            for literal, at in self._next.items():
                if at < start:
                    found = self._buffer.find(literal, start, self.end)
                    self._next[literal] = self.end if found < 0 else found
            hit = min(self._next.values())
            if hit >= self.end:
                return None
            if _HIT.match(self._buffer, hit, hit + _HIT_LENGTH):
                return hit
            start = hit + 1


def _is_hit(line: bytes, literals: tuple[bytes, ...]) -> bool:
    return any(literal in line for literal in literals) and _HIT.search(line) is not None
