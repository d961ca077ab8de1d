"""Cgroup files: kept open as long as there are descriptors to spare."""

from __future__ import annotations

import logging
import os
import resource

# The largest is memory.stat: one page at most.
_SIZE = 8192
# For the rest of the agent: sockets, database, /proc. It must not be the one that finds none left.
_RESERVED = 128

_log = logging.getLogger(__name__)


class Descriptors:
    """How many files are kept open. Each costs some 5 KiB of kernel memory, which the agent's own cgroup is charged."""

    def __init__(self) -> None:
        self.kept = 0
        self._said = False

    def keep(self, path: str) -> int | None:
        """
        Open a file. None: no descriptor is to spare, it has to be opened for each reading.

        Raises OSError where there is no such file, or it cannot be opened.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and self.kept >= soft - _RESERVED:
            self._say(soft)
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.kept += 1
        return fd

    def close(self, fd: int) -> None:
        os.close(fd)
        self.kept -= 1

    def _say(self, limit: int) -> None:
        if not self._said:
            self._said = True
            _log.warning(
                "cgroups: %d open files are allowed: the rest is opened for each reading, which costs CPU", limit
            )


class CgroupFile:
    """Reading raises FileNotFoundError, or OSError with ENODEV, once the cgroup is gone."""

    __slots__ = ("_descriptors", "_fd", "_path")

    def __init__(self, path: str, descriptors: Descriptors) -> None:
        """Raises OSError."""
        self._path = path
        self._descriptors = descriptors
        self._fd = descriptors.keep(path)

    @property
    def kept(self) -> bool:
        """This very file is read, and not one that came under its name later."""
        return self._fd is not None

    def read(self) -> bytes:
        return read_file(self._path) if self._fd is None else os.pread(self._fd, _SIZE, 0)

    def close(self) -> None:
        if self._fd is not None:
            self._descriptors.close(self._fd)
            self._fd = None


def read_file(path: str) -> bytes:
    """Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SIZE)
    finally:
        os.close(fd)


def raise_descriptor_limit() -> None:
    """As far as it may be raised without privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
