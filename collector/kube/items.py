"""
Chunks of an API answer -> its JSON objects, one by one: no list is ever held as a whole.

Both readers hold one object and a chunk at most, take time linear in what they are fed however it is cut, and raise
ParseError for what is no such answer; after that they are of no more use.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING

from collector.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator

# etcd refuses objects above 1.5 MiB by default; a server may allow more.
MAX_OBJECT_SIZE = 16 << 20

_FIELD = re.compile(r'\s*(?:[{,]\s*"([^"\\]*)"\s*:|\})\s*')
_ITEM = re.compile(r"\s*(?:\[\s*\]|([\[,])|\])\s*")
_LONGEST_FIELD = 256
_decode = json.JSONDecoder().raw_decode


class WatchEvents:
    """`{"type":"ADDED","object":{...}}`, one to a line. A line without its end was never said."""

    def __init__(self, limit: int = MAX_OBJECT_SIZE) -> None:
        self._limit = limit
        self._open: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[dict[str, object]]:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            whole = b"".join((*self._open, line))
            self._open, self._size = [], 0
            if whole.strip():
                yield _event(whole)
        self._open.append(rest)
        self._size += len(rest)
        if self._size > self._limit:
            raise ParseError("watch event", f"more than {self._limit} bytes")


def _event(line: bytes) -> dict[str, object]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ParseError("watch event", line[:200].decode(errors="replace")) from error
    if not isinstance(event, dict):
        raise ParseError("watch event", line[:200].decode(errors="replace"))
    return event


class ListItems:
    """
    `{"kind":"PodList","metadata":{...},"items":[{...},{...}]}`: its items. The other fields gather in `head`.

    close() gives what feed() held back, and raises ParseError where the list breaks off.
    """

    def __init__(self, limit: int = MAX_OBJECT_SIZE) -> None:
        self.head: dict[str, object] = {}
        self._limit = limit
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._open: list[str] = []
        self._size = 0
        self._try_size = 0
        self._in_items = False
        self._complete = False

    def feed(self, chunk: bytes) -> Iterator[dict[str, object]]:
        try:
            self._open.append(self._decoder.decode(chunk))
        except UnicodeDecodeError as error:
            raise ParseError("list", str(error)) from error
        self._size += len(self._open[-1])
        if self._size >= self._try_size:
            yield from self._read()
        if self._size > self._limit:
            raise ParseError("list", f"an object of more than {self._limit} characters")

    def close(self) -> Iterator[dict[str, object]]:
        yield from self._read()
        if not self._complete:
            raise ParseError("list", "it breaks off")

    def _read(self) -> Iterator[dict[str, object]]:
        text, at = "".join(self._open), 0
        try:
            while not self._complete:
                match = (_ITEM if self._in_items else _FIELD).match(text, at)
                if match is None:
                    if len(text) - at > _LONGEST_FIELD:
                        raise ParseError("list", text[at : at + 200])
                    break
                start, value = match.end(), None
                if match[1] is None:
                    self._complete, self._in_items, end = not self._in_items, False, start
                elif match[1] == "items" and text.startswith("[", start):
                    self._in_items, end = True, start
                else:
                    value, end = _decode(text, start)
                    if end == len(text):
                        break  # a number may go on
                    if not self._in_items:
                        self.head[match[1]], value = value, None
                    elif not isinstance(value, dict):
                        raise ParseError("list", text[start : start + 200])
                at = end
                if value is not None:
                    yield value
        except json.JSONDecodeError:
            pass  # not whole yet
        # ValueError: Python reads no number of more than 4,300 digits.
        except (ValueError, RecursionError) as error:
            raise ParseError("list", text[at : at + 200]) from error
        self._open, self._size = [text[at:]], len(text) - at
        # Tried again when it is twice as long: an object is read for twice its length at most.
        self._try_size = 2 * self._size
