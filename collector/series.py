"""
The last rows of a table of numbers below 2**32, in little memory.

The newest rows stand in one array. Each full block of them is packed, column by column: the least value, and what the
others have more, in as many bits as the most of it needs. So what does not change costs nothing, what changes little
costs little, nothing is rounded, and no value takes more than its 32 bits.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING

from collector.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK = 36
"""Rows that are packed together."""

_MAX_BITS = 32


class Series:
    """Shows the last `capacity` rows. Older ones go block by block: at most BLOCK - 1 of them stay."""

    __slots__ = ("_blocks", "_count", "_newest", "_room", "capacity", "columns")

    def __init__(self, *, columns: int, capacity: int, first_block: int = BLOCK) -> None:
        """first_block: rows in the first block, so that series that begin together are not packed together."""
        self.columns = columns
        self.capacity = capacity
        self._blocks: list[bytes] = []
        self._newest = array("I")
        self._count = 0
        self._room = first_block

    def __len__(self) -> int:
        return min(self._count, self.capacity)

    @property
    def last(self) -> Sequence[int] | None:
        return self._newest[-self.columns :] or None

    def append(self, row: Sequence[int]) -> None:
        """Raises OverflowError for what is no number from 0 to 2**32 - 1, and has then changed nothing."""
        values = array("I", row)
        if not self._room:
            self._blocks.append(_pack(self._newest, self.columns))
            self._newest = array("I")
            self._room = BLOCK
        self._newest += values
        self._room -= 1
        self._count += 1
        self._drop_old()

    def replace_last(self, row: Sequence[int]) -> None:
        """Where there is a last one. Raises OverflowError as append() does."""
        self._newest[-self.columns :] = array("I", row)

    def column(self, index: int) -> list[int]:
        parts = [_unpack_column(block, self.columns, index) for block in self._blocks]
        return [*chain.from_iterable(parts), *self._newest[index :: self.columns]][-self.capacity :]

    def rows(self) -> Iterator[tuple[int, ...]]:
        """Oldest first."""
        return zip(*(self.column(index) for index in range(self.columns)), strict=True)

    def newest_first(self) -> Iterator[Sequence[int]]:
        """The rows from the last one backwards. A block is unpacked only when it is reached."""
        left = len(self)
        for rows in chain((self._newest,), (_unpack(block, self.columns) for block in reversed(self._blocks))):
            for begin in range(len(rows) - self.columns, -1, -self.columns):
                if not left:
                    return
                left -= 1
                yield rows[begin : begin + self.columns]

    def to_bytes(self) -> bytes:
        """For the same machine: the numbers are in its byte order."""
        blocks = [*self._blocks, _pack(self._newest, self.columns)] if self._newest else []
        return b"".join((bytes((self.columns, len(blocks))), *blocks))

    def read(self, data: memoryview) -> memoryview:
        """
        Take what to_bytes() of such a series has made, into this empty one. Returns what is behind it.

        Raises ParseError for what it cannot have made.
        """
        try:
            columns, count = data[:2]
            if columns != self.columns:
                raise ValueError("another number of columns")
            data = data[2:]
            for _ in range(count):
                size = _size(data, columns)
                self._blocks.append(bytes(data[:size]))
                data = data[size:]
            if self._blocks:
                self._newest = _unpack(self._blocks.pop(), columns)
        except (IndexError, OverflowError, ValueError) as error:
            raise ParseError("series", bytes(data[:16]).hex()) from error
        rows = len(self._newest) // self.columns
        self._count = rows + sum(block[0] for block in self._blocks)
        self._room = max(0, BLOCK - rows)
        self._drop_old()
        return data

    def _drop_old(self) -> None:
        while self._blocks and self._count - self._blocks[0][0] >= self.capacity:
            self._count -= self._blocks.pop(0)[0]


# A block: the number of rows; for each column the bits of a value; for each column the least value, in 4 bytes; then,
# column by column, the values less the least.


def _pack(rows: array[int], columns: int) -> bytes:
    widths = bytearray()
    least = array("I")
    parts = []
    for index in range(columns):
        column = rows[index::columns]
        low = min(column)
        bits = (max(column) - low).bit_length()
        packed = 0
        for value in reversed(column):
            packed = packed << bits | value - low
        widths.append(bits)
        least.append(low)
        parts.append(packed.to_bytes(_bytes(bits * len(column)), "little"))
    return b"".join((bytes((len(rows) // columns,)), widths, least.tobytes(), *parts))


def _unpack_column(block: bytes, columns: int, index: int) -> list[int]:
    rows, bits = block[0], block[1 + index]
    (low,) = memoryview(block)[1 + columns :][4 * index :][:4].cast("I")
    begin = 1 + 5 * columns + sum(_bytes(rows * width) for width in block[1 : 1 + index])
    packed = int.from_bytes(block[begin : begin + _bytes(rows * bits)], "little")
    mask = (1 << bits) - 1
    return [low + (packed >> place & mask) for place in range(0, rows * bits, bits)] if bits else [low] * rows


def _unpack(block: bytes, columns: int) -> array[int]:
    rows = array("I", bytes(4 * columns * block[0]))
    for index in range(columns):
        rows[index::columns] = array("I", _unpack_column(block, columns, index))
    return rows


def _size(data: memoryview, columns: int) -> int:
    """Of the block that `data` begins with. Raises ValueError or IndexError where none does."""
    rows, widths = data[0], bytes(data[1 : 1 + columns])
    size = 1 + 5 * columns + sum(_bytes(rows * width) for width in widths)
    if not rows or max(widths) > _MAX_BITS or size > len(data):
        raise ValueError("no block")
    return size


def _bytes(bits: int) -> int:
    return (bits + 7) // 8
