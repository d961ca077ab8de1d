"""
inotify: which cgroups were made or removed, and whose memory.events changed.

One instance for all: 128 are allowed to a user by default. What a notification cannot be used for: the kernel sends one
for each `max` too, merges equal ones, and sends none on the memory.events of a cgroup that is removed. So each only
names a cgroup to look at.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import inotify_simple

    from collector.cgroups.cgroup import Cgroup

_READ_BYTES = 32768  # 2,000 notifications of a file: 3 ms

# Of linux/inotify.h. inotify_simple has them too, but is imported only when there is something to watch: with ctypes
# it takes half a MiB.
_MODIFY = 0x2
_CREATE = 0x100
_DELETE = 0x200
_Q_OVERFLOW = 0x4000
_ONLYDIR = 0x1000000
_ISDIR = 0x40000000
_LISTING = _CREATE | _DELETE
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV}


class Noticed(NamedTuple):
    directories: set[Cgroup]
    """In which a cgroup was made or removed."""
    events: set[Cgroup]
    """Whose memory.events changed."""
    overflowed: bool
    """Others may have, too."""


class Watches:
    """`problem`: why not all that should be watched is; None: all is."""

    def __init__(self) -> None:
        self.problem: str | None = "not started"
        self._inotify: inotify_simple.INotify | None = None
        self._cgroups: dict[int, Cgroup] = {}

    def __len__(self) -> int:
        return len(self._cgroups)

    def open(self) -> int | None:
        """Return the descriptor to wait on; None: there is no inotify to be had, `problem` tells why."""
        from ctypes import CDLL

        import inotify_simple

        # Else the library asks ldconfig where libc is: the agent runs no external command.
        inotify_simple._libc = inotify_simple._libc or CDLL(None, use_errno=True)
        try:
            self._inotify = inotify_simple.INotify(nonblocking=True)
        except OSError as error:
            self.problem = f"inotify: {error.strerror}"
            return None
        self.problem = None
        fd: int = self._inotify.fileno()
        return fd

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._cgroups.clear()

    def add_directory(self, cgroup: Cgroup) -> None:
        if cgroup.directory_watch is None:
            cgroup.directory_watch = self._add(cgroup, cgroup.directory, _LISTING | _ONLYDIR)

    def add_events(self, cgroup: Cgroup) -> None:
        if cgroup.events_watch is None:
            cgroup.events_watch = self._add(cgroup, f"{cgroup.directory}/memory.events", _MODIFY)

    def drop(self, cgroup: Cgroup) -> None:
        for watch in (cgroup.directory_watch, cgroup.events_watch):
            if watch is not None and self._cgroups.pop(watch, None) is not None and self._inotify is not None:
                try:
                    self._inotify.rm_watch(watch)
                except OSError as error:
                    # On a plain file system a watch ends with its file; on cgroupfs it stays until it is removed.
                    if error.errno != errno.EINVAL:
                        raise
        cgroup.directory_watch = cgroup.events_watch = None

    def read(self) -> Noticed:
        """Take what has been notified, a bounded part of it if it is much: the descriptor stays readable then."""
        noticed = Noticed(set(), set(), overflowed=False)
        if self._inotify is None:
            return noticed
        from inotify_simple import parse_events

        try:
            data = os.read(self._inotify.fileno(), _READ_BYTES)
        except BlockingIOError:
            return noticed
        for watch, mask, _, _ in parse_events(data):
            if mask & _Q_OVERFLOW:
                noticed = noticed._replace(overflowed=True)
            elif (cgroup := self._cgroups.get(watch)) is None:
                continue  # dropped since
            elif mask & _MODIFY:
                noticed.events.add(cgroup)
            elif mask & _ISDIR and mask & _LISTING:
                noticed.directories.add(cgroup)
        return noticed

    def _add(self, cgroup: Cgroup, path: str, mask: int) -> int | None:
        if self._inotify is None or self.problem is not None:
            return None
        try:
            watch: int = self._inotify.add_watch(path, mask)
        except OSError as error:
            if error.errno not in _GONE:
                self.problem = _explain(error)
            return None
        self._cgroups[watch] = cgroup
        return watch


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "inotify: no watches left (fs.inotify.max_user_watches)"
    return f"inotify: {error.strerror}"
