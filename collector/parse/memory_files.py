"""
The memory controller's files of a cgroup (v2) -> numbers. Sizes are bytes, as in the files.

    memory.events    memory.stat        memory.max    memory.pressure
    low 0            anon 5033984       52428800      some avg10=0.00 avg60=0.00 avg300=0.00 total=1042
    ...              file 12288         or: max       full avg10=0.00 avg60=0.00 avg300=0.00 total=998
    oom_kill 1       ...

All of them end with a newline; what does not is torn, and its last number may be half of one.

Sources: Documentation/admin-guide/cgroup-v2.rst; mm/memcontrol.c, memory_files[] and memory_stats[].
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

from collector.errors import ParseError


class MemoryEvents(NamedTuple):
    """What happened in a cgroup and, but for memory.events.local, in all below it, since it was made."""

    low: int
    high: int
    max: int
    oom: int
    oom_kill: int
    oom_group_kill: int | None = None
    """None: a kernel before 5.17 has no such key."""


class MemoryStat(NamedTuple):
    """What the memory of a cgroup consists of: the keys of memory.stat that tell one kind of growth from another."""

    anon: int
    file: int
    """The page cache; includes shmem."""
    shmem: int
    file_dirty: int
    inactive_file: int
    active_file: int
    unevictable: int
    kernel_stack: int
    sock: int
    slab: int
    # None: this kernel has no such key. 5.10 has none of these but percpu.
    percpu: int | None = None
    pagetables: int | None = None
    swapcached: int | None = None
    kernel: int | None = None
    """All of the kernel's own but `sock`, since 5.18."""

    @property
    def kernel_and_sock(self) -> int:
        """All that the kernel itself uses; before 5.18 the sum of the parts that are told."""
        kernel = self.kernel
        if kernel is None:
            kernel = self.slab + self.kernel_stack + (self.pagetables or 0) + (self.percpu or 0)
        return kernel + self.sock


def parse_memory_events(raw: bytes) -> MemoryEvents:
    """
    Read memory.events or memory.events.local. Keys that this code does not know are skipped: kernels add them.

    Raises ParseError.
    """
    values = _flat_keyed("memory.events", raw)
    known = [values.get(key) for key in _EVENT_KEYS]
    if known[-1] is None:
        known.pop()
    if not all(value is not None and _is_number(value) for value in known):
        raise _unreadable("memory.events", raw)
    return MemoryEvents(*(int(value) for value in known if value is not None))


def parse_amount(raw: bytes) -> int:
    """
    Read memory.current, memory.peak or memory.swap.current.

    Raises ParseError.
    """
    if raw[-1:] != b"\n" or not _is_number(raw[:-1]):
        raise _unreadable("memory amount", raw)
    return int(raw)


def parse_limit(raw: bytes) -> int | None:
    """
    Read memory.max; None where there is no limit.

    Raises ParseError.
    """
    return None if raw == b"max\n" else parse_amount(raw)


def parse_switch(raw: bytes) -> bool:
    """
    Read memory.oom.group.

    Raises ParseError.
    """
    if raw not in {b"0\n", b"1\n"}:
        raise _unreadable("memory.oom.group", raw)
    return raw == b"1\n"


def parse_pressure(raw: bytes) -> float:
    """
    Read memory.pressure: for how many seconds, in all, at least one task has waited for memory.

    Raises ParseError.
    """
    line, newline, _ = raw.partition(b"\n")
    averages, _, total = line.rpartition(b" total=")
    if not newline or not averages.startswith(b"some ") or not _is_number(total):
        raise _unreadable("memory.pressure", raw)
    return int(total) / 1_000_000


class StatParser:
    """
    Reads memory.stat. One kernel prints the same keys in the same order in every cgroup: where they stood in the last
    file is remembered and only checked, which is cheaper than to look each of some 60 keys up.
    """

    def __init__(self) -> None:
        self._layout: _Layout | None = None

    def parse(self, raw: bytes) -> MemoryStat:
        """Raises ParseError, also where a key is missing that every kernel with cgroup v2 has."""
        layout = self._layout
        values = layout.values(raw) if layout else None
        if layout is None or values is None:
            layout = self._layout = _Layout(raw)
            values = layout.values(raw)
        if values is None or raw[-1:] != b"\n" or not all(map(_is_number, values)):
            raise _unreadable("memory.stat", raw)
        return layout.to_stat(values)


class _Layout:
    """Where the keys stand in a file of this kernel."""

    def __init__(self, sample: bytes) -> None:
        """Raises ParseError."""
        tokens = sample.split()
        place_of = {key: 2 * index for index, key in enumerate(tokens[::2])}
        self._fields = tuple(field for field in MemoryStat._fields if field.encode() in place_of)
        if self._fields[: len(_REQUIRED)] != _REQUIRED:
            raise _unreadable("memory.stat", sample)
        self._keys = tuple(field.encode() for field in self._fields)
        places = [place_of[key] for key in self._keys]
        self._pick_keys: _Pick = itemgetter(*places)
        self._pick_values: _Pick = itemgetter(*(place + 1 for place in places))
        self._wanted = max(places) + 2

    def values(self, raw: bytes) -> tuple[bytes, ...] | None:
        """None: this file has another layout."""
        tokens = raw.split(None, self._wanted)
        if len(tokens) < self._wanted or self._pick_keys(tokens) != self._keys:
            return None
        return self._pick_values(tokens)

    def to_stat(self, values: tuple[bytes, ...]) -> MemoryStat:
        numbers = map(int, values)
        if len(values) == len(MemoryStat._fields):
            return MemoryStat._make(numbers)
        return MemoryStat(**dict(zip(self._fields, numbers, strict=True)))


_Pick = Callable[[list[bytes]], tuple[bytes, ...]]

_EVENT_KEYS = tuple(field.encode() for field in MemoryEvents._fields)
_REQUIRED = MemoryStat._fields[: -len(MemoryStat._field_defaults)]
_MOST = b"9223372036854775807"  # the kernel's page counters end there, and what SQLite takes


def _flat_keyed(source: str, raw: bytes) -> dict[bytes, bytes]:
    if raw[-1:] != b"\n":
        raise _unreadable(source, raw)
    values: dict[bytes, bytes] = {}
    for line in raw.splitlines():
        key, _, values[key] = line.partition(b" ")
    return values


def _is_number(text: bytes) -> bool:
    """int() takes signs, blanks and underscores too, and as many digits as there are."""
    return text.isdigit() and (len(text) < len(_MOST) or (len(text) == len(_MOST) and text <= _MOST))


def _unreadable(source: str, raw: bytes) -> ParseError:
    return ParseError(source, raw.decode("ascii", "backslashreplace"))
