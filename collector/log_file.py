"""Log files as they come: plain, compressed, UTF-16, a pipe."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from collector.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_SIZE = 1 << 20

_DECOMPRESSORS = ((b"\x1f\x8b", gzip.open), (b"\xfd7zXZ\x00", lzma.open), (b"BZh", bz2.open))
_REFUSED = (
    (b"\x28\xb5\x2f\xfd", "zstd-compressed: decompress it first, e.g. zstd -dc FILE | oom-collector analyze -"),
    (b"LPKSHHRH", "a binary journal: give the output of journalctl -o export --file FILE"),
)
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError)


class _Reader(Protocol):
    def read1(self, size: int = -1, /) -> bytes: ...


class LogFile:
    """
    `size`: bytes on disk, None for a pipe; `position`: how many of them were read.

    Raises SourceError where the log cannot be read, or is damaged from here on.
    """

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self._name = name
        self._raw = raw
        try:
            status = os.fstat(raw.fileno())
            self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
            self._content = self._open_content()
        except (OSError, io.UnsupportedOperation) as error:
            raise SourceError(f"{name}: {_reason(error)}") from error
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begun = False

    @property
    def position(self) -> int:
        return self._raw.tell() if self.size is not None else 0

    def blocks(self) -> Iterator[bytes]:
        """The log's bytes as UTF-8 or in whatever ASCII-like encoding they are; whatever a pipe has, at once."""
        while True:
            try:
                block = self._content.read1(BLOCK_SIZE)
                text = self._recode(block)
            except _DAMAGE as error:
                raise SourceError(f"{self._name}: damaged: {error}") from error
            except OSError as error:
                raise SourceError(f"{self._name}: {_reason(error)}") from error
            if text:
                yield text
            if not block:
                return

    def _open_content(self) -> _Reader:
        magic = cast("io.BufferedReader", self._raw).peek(8)
        for refused, reason in _REFUSED:
            if magic.startswith(refused):
                raise SourceError(f"{self._name}: {reason}")
        for known, decompress in _DECOMPRESSORS:
            if magic.startswith(known):
                return cast("_Reader", decompress(self._raw))
        return cast("_Reader", self._raw)

    def _recode(self, block: bytes) -> bytes:
        if not self._begun:
            self._begun = True
            if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                self._decoder = codecs.getincrementaldecoder("utf-16")()
        return block if self._decoder is None else self._decoder.decode(block, final=not block).encode()


@contextmanager
def open_log(name: str, stdin: BinaryIO) -> Iterator[LogFile]:
    """`-` is `stdin`. Raises SourceError with the reason where the log cannot be opened."""
    if name == "-":
        yield LogFile("standard input", stdin)
        return
    try:
        raw = open(name, "rb")  # noqa: SIM115, PTH123 -- closed below; a name is not always a path that pathlib keeps
    except (OSError, ValueError) as error:
        raise SourceError(f"{name}: {_reason(error)}") from error
    with raw:
        yield LogFile(name, raw)


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
