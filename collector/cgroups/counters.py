"""How often the OOM killer struck in a cgroup and below it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from collector.cgroups.files import CgroupFile, read_file
from collector.errors import ParseError
from collector.model import Counters
from collector.parse.memory_files import parse_memory_events, parse_switch

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.cgroups.files import Descriptors
    from collector.model import MemcgPath

T = TypeVar("T")


class CgroupCounters:
    """memory.events, kept open, and what it held when it was last read: the same bytes are not parsed again."""

    __slots__ = ("_directory", "_file", "_last", "_raw", "_read_at")

    def __init__(self, directory: str, descriptors: Descriptors) -> None:
        """Raises OSError."""
        self._directory = directory
        self._file = CgroupFile(f"{directory}/memory.events", descriptors)
        self._raw = b""
        self._read_at: float | None = None
        self._last: Counters | None = None

    @property
    def kept(self) -> bool:
        return self._file.kept

    def read(self, path: MemcgPath, inode: int) -> Counters | None:
        """
        None: no oom, oom_kill or oom_group_kill was counted since the last reading. The first one is always given.

        Raises OSError, ParseError.
        """
        began = time.monotonic()
        raw = self._file.read()
        if raw == self._raw:
            if self._last is not None:
                self._read_at = began
            return None
        self._raw = raw
        events = parse_memory_events(raw)
        last, after = self._last, self._read_at
        self._read_at = began
        kills = (events.oom, events.oom_kill, events.oom_group_kill)
        if last is not None and kills == (last.oom, last.oom_kill, last.oom_group_kill):
            return None
        self._last = Counters(
            path=path,
            inode=inode,
            oom=events.oom,
            oom_kill=events.oom_kill,
            oom_group_kill=events.oom_group_kill,
            local_oom=last.local_oom
            if last and last.oom == events.oom
            else self._read("memory.events.local", _local_oom),
            group=last.group
            if last and last.oom_kill == events.oom_kill
            else self._read("memory.oom.group", parse_switch),
            after=after,
            # `began` is before the reading and this is behind it: what is new was counted between the two.
            at=time.monotonic(),
        )
        return self._last

    def close(self) -> None:
        self._file.close()

    def _read(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        try:
            return parse(read_file(f"{self._directory}/{name}"))
        except (OSError, ParseError):
            return None


def _local_oom(raw: bytes) -> int:
    return parse_memory_events(raw).oom
