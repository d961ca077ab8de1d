r"""
What /proc tells of one process. It may be gone at any moment: then the answer is None.

    stat     845 (a) R 1 (b) S 1 845 ...        comm may hold anything, ")" and newlines too: the last ") " ends it
    status   NSpid:\t845\t1                     its pid in each pid namespace, from the reader's inwards
    cgroup   0::/kubepods.slice/... (deleted)   from the root of the reader's cgroup namespace: /../../ leads out of it

Of these three none waits for the process. cmdline and environ do, and exe where it leads: they take its mmap_lock,
which a process that reclaims memory at its limit may hold for seconds. Nobody who must answer may read them.

Sources: fs/proc/array.c, kernel/cgroup/cgroup.c (proc_cgroup_show), fs/kernfs/dir.c (kernfs_path_from_node), proc(5).
"""

from __future__ import annotations

import errno
import os
import posixpath
import time
from typing import TYPE_CHECKING

from collector.model import MemcgPath
from collector.processes.hints import HEAD_BYTES, memory_hints
from collector.processes.index import Sight

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Enough for the flags of a JVM behind a class path, and for the variables of a thousand Services.
_MAX_COMMAND_BYTES = 128 << 10
_MAX_FILE_BYTES = 64 << 10
_MAX_PIDS_BYTES = 1 << 20
_COMM_BYTES = 15
_ENDED = {b"Z", b"X", b"x"}
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
# The kernel hands these files out in pieces of about a page; what is less than half of one is all. No larger buffer: to
# get a MiB costs more than to read the file.
_PIECE = 4096


class ProcessFiles:
    """
    The directory of one process, kept open: all its files are of the same process, whoever has the pid by now.

    Raises OSError when there is none.
    """

    __slots__ = ("_directory",)

    def __init__(self, proc_root: Path | str, pid: int) -> None:
        self._directory = os.open(f"{proc_root}/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> ProcessFiles:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    def memcg(self, namespace_root: MemcgPath | None) -> MemcgPath | None:
        """
        Where it is now; a zombie is still where it was.

        namespace_root: of our own cgroup namespace. None also where that is not known and would have to be.
        """
        return parse_memcg(self._read("cgroup"), namespace_root)

    def sight(self, memcg: MemcgPath) -> tuple[Sight, bool]:
        """What is known of it, being in `memcg`, and whether it has ended."""
        at = time.monotonic()
        comm, state, parent, start_ticks = parse_stat(self._read("stat"))
        is_init = parse_is_init(self._read("status"))
        born = start_ticks * TICK_SECONDS - _suspended_seconds()
        return Sight(memcg, comm, start_ticks, born, parent, is_init, at), state in _ENDED

    def hints(self) -> tuple[str, ...]:
        """What may be kept of its command line and environment. Waits for the process: see above."""
        cmdline, environ = self._read_or_empty("cmdline"), self._read_or_empty("environ")
        # An empty environment is rare, and how it looks before the process has got one.
        complete = bool(environ) and max(len(cmdline), len(environ)) < _MAX_COMMAND_BYTES
        return memory_hints(cmdline, environ, head=self._read_or_empty("exe", HEAD_BYTES), complete=complete)

    def _read_or_empty(self, name: str, limit: int = _MAX_COMMAND_BYTES) -> bytes:
        try:
            return self._read(name, limit=limit)
        except OSError:  # gone; or not ours to read: environ and exe need CAP_SYS_PTRACE
            return b""

    def _read(self, name: str, limit: int = _MAX_FILE_BYTES) -> bytes:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return _read_up_to(fd, limit)
        finally:
            os.close(fd)


def parse_stat(stat: bytes) -> tuple[str, bytes, int, int]:
    """
    comm, state, parent and start time in ticks.

    comm is decoded as a record of the kernel log is: what is not UTF-8 is replaced. Raises ProcessLookupError where
    there is none of it.
    """
    begin, end = stat.find(b"(") + 1, stat.rfind(b") ")
    fields = stat[end + 2 :].split()
    if not 0 < begin <= end or len(fields) < 20:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return stat[begin:end][:_COMM_BYTES].decode("utf-8", "replace"), fields[0], int(fields[1]), int(fields[19])


def parse_is_init(status: bytes) -> bool | None:
    """Whether it is PID 1 of a pid namespace below the reader's. None: a kernel that does not say (before 4.1)."""
    # comm stands before, but a newline in it is escaped here.
    _, found, rest = status.partition(b"\nNSpid:")
    if not found:
        return None
    pids = rest.partition(b"\n")[0].split()
    return len(pids) > 1 and pids[-1] == b"1"


def parse_memcg(cgroup: bytes, namespace_root: MemcgPath | None) -> MemcgPath | None:
    """
    The memory cgroup as the kernel log names it: of cgroup v1 where the memory controller is there, else of v2.

    None: the path cannot be told, because our own place in the hierarchy is not known, or on v1 because the process is
    exiting: that shows "/" there, while on v2 it is where it was.
    """
    path = None
    for line in cgroup.split(b"\n"):
        number, _, rest = line.partition(b":")
        controllers, _, named = rest.partition(b":")
        if b"memory" in controllers.split(b","):
            path = None if named == b"/" else named
            break
        if number == b"0":
            path = named
    if path is None or not path.startswith(b"/"):
        return None
    return absolute_memcg(os.fsdecode(path.removesuffix(b" (deleted)")), namespace_root)


def absolute_memcg(path: str, namespace_root: MemcgPath | None) -> MemcgPath | None:
    """`/../../besteffort/pod1/c`, as seen from a cgroup namespace with that root -> the kernel's path."""
    if namespace_root is None:
        return None
    if namespace_root == "/":
        return MemcgPath(path)
    return MemcgPath(posixpath.normpath(f"{namespace_root}{path}"))


def namespace_root_from(own: MemcgPath, seen: str) -> MemcgPath | None:
    """The root of our cgroup namespace: our cgroup is `own` in the hierarchy, and /proc/self/cgroup shows `seen`."""
    if seen == "/":
        return own
    if not own.endswith(seen):
        return None
    return MemcgPath(own.removesuffix(seen) or "/")


def list_processes(cgroup: str) -> Iterator[tuple[str, list[int]]]:
    """
    The pids of a cgroup and of all below it, each with the part of the path behind `cgroup`.

    What is removed meanwhile is left out. A process outside the reader's pid namespace is a 0.
    """
    below = [""]
    while below:
        place = below.pop()
        directory = cgroup + place
        try:
            links = os.stat(directory).st_nlink  # noqa: PTH116 - a Path costs as much as the call
            pids = _read_pids(f"{directory}/cgroup.procs")
            # A directory has a link from each below it; a file system that does not count them says 1.
            if links != 2:
                with os.scandir(directory) as entries:
                    below += [f"{place}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        yield place, pids


def _read_pids(path: str) -> list[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = _read_up_to(fd, _MAX_PIDS_BYTES)
    finally:
        os.close(fd)
    return [int(pid) for pid in content.split()]


def _read_up_to(fd: int, limit: int) -> bytes:
    content = os.read(fd, _PIECE)
    if len(content) >= _PIECE // 2:
        while len(content) < limit and (more := os.read(fd, _PIECE)):
            content += more
    return content[:limit]


def _suspended_seconds() -> float:
    """Start times count the time that the machine was suspended, CLOCK_MONOTONIC does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
