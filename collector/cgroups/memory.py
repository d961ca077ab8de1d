"""What a pod or a container uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from collector.cgroups.files import CgroupFile, read_file
from collector.history import Bounds, Sample
from collector.model import MemcgPath, MemoryUse
from collector.parse.memory_files import parse_amount, parse_limit, parse_pressure

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.cgroups.files import Descriptors
    from collector.parse.memory_files import MemoryStat, StatParser

T = TypeVar("T")


class MemoryReading(NamedTuple):
    """`bounds`: where they were read this time, about once a minute; None: not this time."""

    path: MemcgPath
    inode: int
    at: float
    sample: Sample
    bounds: Bounds | None


class CgroupMemory:
    """
    The files of one cgroup, and what they held when they were last read. What has not changed is not parsed again.

    memory.current and memory.stat are kept open; what is read once a minute is not.
    """

    __slots__ = (
        "_current",
        "_current_raw",
        "_directory",
        "_parser",
        "_stat",
        "_stat_raw",
        "bounds",
        "sample",
        "stat",
        "swap",
    )

    def __init__(self, directory: str, descriptors: Descriptors, parser: StatParser) -> None:
        """Raises OSError."""
        self._directory = directory
        self._parser = parser
        self._current = CgroupFile(f"{directory}/memory.current", descriptors)
        try:
            self._stat = CgroupFile(f"{directory}/memory.stat", descriptors)
        except OSError:
            self._current.close()
            raise
        self._current_raw = self._stat_raw = b""
        self.stat: MemoryStat | None = None
        self.sample: Sample | None = None
        self.bounds: Bounds | None = None
        self.swap: int | None = None

    def read(self) -> Sample:
        """Raises OSError, ParseError."""
        current_raw, stat_raw = self._current.read(), self._stat.read()
        if self.sample is not None and current_raw == self._current_raw and stat_raw == self._stat_raw:
            return self.sample
        stat = self.stat
        if stat is None or stat_raw != self._stat_raw:
            stat = self.stat = self._parser.parse(stat_raw)
        current = parse_amount(current_raw)
        self._current_raw, self._stat_raw = current_raw, stat_raw
        self.sample = Sample(
            current=current,
            working_set=max(0, current - stat.inactive_file),
            anon=stat.anon,
            file=stat.file,
            shmem=stat.shmem,
            kernel=stat.kernel_and_sock,
            swap=self.swap,
        )
        return self.sample

    def read_bounds(self) -> Bounds:
        """Raises OSError where the cgroup is gone, ParseError."""
        # This file is in each cgroup with a memory controller but the root: without it there is no cgroup any more.
        limit = parse_limit(read_file(f"{self._directory}/memory.max"))
        self.bounds = Bounds(
            limit=limit,
            peak=self._read_if_there("memory.peak", parse_amount),
            stall_seconds=self._read_if_there("memory.pressure", parse_pressure),
        )
        swap = self._read_if_there("memory.swap.current", parse_amount)
        if swap != self.swap:
            self.swap, self._current_raw = swap, b""
        return self.bounds

    def use(self) -> MemoryUse | None:
        """None: not read yet."""
        if self.sample is None or self.stat is None:
            return None
        return MemoryUse(
            usage_bytes=self.sample.current,
            limit_bytes=self.bounds and self.bounds.limit,
            swap_usage_bytes=self.swap,
            stat={key: value for key, value in self.stat._asdict().items() if value is not None},
        )

    def close(self) -> None:
        self._current.close()
        self._stat.close()

    def _read_if_there(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        """An older kernel, one without swap accounting or one without PSI has not all of them, or cannot read them."""
        try:
            return parse(read_file(f"{self._directory}/{name}"))
        except OSError:
            return None
