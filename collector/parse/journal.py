"""
Entries of journald, as `journalctl -o json` (also json-pretty, json-sse, json-seq) and `-o export` print them.

    {"__REALTIME_TIMESTAMP":"1718853826123456","_TRANSPORT":"kernel","SYSLOG_FACILITY":"0","MESSAGE":"..."}

Only `_TRANSPORT=kernel` is the kernel's log; fields with an underscore are journald's own. What user space writes to
/dev/kmsg has this transport too and is told by SYSLOG_FACILITY, which journald takes from the record's priority.

Source: systemd, "Journal JSON Format", "Journal Export Formats"; src/journal/journald-kmsg.c.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from collector.parse.dress import LogRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

# Far above any kernel record; a field that is longer is not read.
MAX_FIELD = 65_536
_MAX_ENTRY_LINES = 1_024
# Of a binary field: its name, a line feed, the length as 64 bit little endian, the value, a line feed.
_LENGTH_SIZE = 8

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WANTED = frozenset(
    (
        "MESSAGE",
        "SYSLOG_FACILITY",
        "_TRANSPORT",
        "_BOOT_ID",
        "_HOSTNAME",
        "_SOURCE_MONOTONIC_TIMESTAMP",
        "__MONOTONIC_TIMESTAMP",
        "__REALTIME_TIMESTAMP",
    )
)


def parse_journal_fields(fields: Mapping[str, str]) -> LogRecord | None:
    """An entry's fields -> its record; None where the entry is not a kernel record, or lacks what proves that it is."""
    facility = _number(fields.get("SYSLOG_FACILITY"))
    message = fields.get("MESSAGE")
    if fields.get("_TRANSPORT") != "kernel" or facility is None or message is None:
        return None
    usec = _number(fields.get("_SOURCE_MONOTONIC_TIMESTAMP"))
    if usec is None:
        usec = _number(fields.get("__MONOTONIC_TIMESTAMP"))
    realtime = _number(fields.get("__REALTIME_TIMESTAMP"))
    return LogRecord(
        text=message,
        facility=facility,
        monotonic_usec=usec,
        time=None if realtime is None else _EPOCH + timedelta(microseconds=realtime),
        stamp="" if usec is None else str(usec),
        host=fields.get("_HOSTNAME"),
        boot_id=fields.get("_BOOT_ID"),
    )


class JsonEntries:
    """Takes a JSON journal line by line; an entry may stand on one line (json) or on several (json-pretty)."""

    def __init__(self) -> None:
        self._lines: list[bytes] | None = None

    def read(self, line: bytes) -> LogRecord | None:
        """`line` without its line feed. What is not a journal entry is passed over."""
        line = line.removeprefix(b"\x1e").removeprefix(b"data: ").rstrip()
        if line == b"{":
            self._lines = [line]
            return None
        if self._lines is None:
            return _parse_object(line)
        self._lines.append(line)
        if line == b"}":
            lines, self._lines = self._lines, None
            return _parse_object(b"\n".join(lines))
        if len(self._lines) > _MAX_ENTRY_LINES:
            self._lines = None
        return None


class ExportEntries:
    """
    Takes an export stream in pieces of any size.

    It has to be read from its beginning: a binary field may hold what looks like an entry.
    """

    def __init__(self) -> None:
        self._data = b""
        self._fields: dict[str, str] = {}
        self._skip = 0

    def feed(self, piece: bytes) -> list[LogRecord]:
        """The kernel records that are complete now."""
        records: list[LogRecord] = []
        skipped = min(self._skip, len(piece))
        self._skip -= skipped
        data, at = self._data + piece[skipped:], 0
        while (end := data.find(b"\n", at)) >= 0:
            name, is_text, value = data[at:end].partition(b"=")
            if is_text:
                self._add(name, value)
            elif not name:
                records += self._finish()
            else:
                start = end + 1 + _LENGTH_SIZE
                length = int.from_bytes(data[end + 1 : start], "little")
                if len(data) < start:
                    break
                end = start + length
                if length > MAX_FIELD:
                    self._skip = max(0, end + 1 - len(data))
                elif end >= len(data):
                    break
                else:
                    self._add(name, data[start:end])
            at = end + 1
        # The bound holds for a text field without an end, which no journal has.
        self._data = data[at:][: 2 * MAX_FIELD]
        return records

    def close(self) -> list[LogRecord]:
        """The last entry, where no empty line ends it."""
        return self._finish()

    def _add(self, name: bytes, value: bytes) -> None:
        key = name.decode("ascii", "replace")
        if key in _WANTED:
            self._fields.setdefault(key, value.decode("utf-8", "replace"))

    def _finish(self) -> list[LogRecord]:
        record = parse_journal_fields(self._fields)
        self._fields = {}
        return [] if record is None else [record]


def _parse_object(line: bytes) -> LogRecord | None:
    # Most entries are other programs', and decoding them is what takes the time.
    if not line.startswith(b"{") or b'"kernel"' not in line:
        return None
    try:
        entry = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    found = ((name, _text(entry[name])) for name in _WANTED if name in entry)
    return parse_journal_fields({name: text for name, text in found if text is not None})


def _text(value: object) -> str | None:
    """A field's value: a string, an array of bytes (not UTF-8), an array of values (repeated), or null (too long)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(type(byte) is int and 0 <= byte <= 255 for byte in value):
            return bytes(value).decode("utf-8", "replace")
        return _text(value[0])
    return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 20 else None
