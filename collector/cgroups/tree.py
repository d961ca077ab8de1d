"""
The tree of memory cgroups: found, read, and forgotten when they go.

Counted is every pod and container, what lies in a pod beside its containers, each top-level cgroup, and all above any
of these. A cgroup is named by its path below the mounted root; made anew under the same path it has another inode, and
is another cgroup.

Anything may vanish between two system calls: a cgroup that does is forgotten, and nothing is raised.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from collector.cgroups.cgroup import Cgroup
from collector.cgroups.counters import CgroupCounters
from collector.cgroups.files import Descriptors, read_file
from collector.cgroups.memory import CgroupMemory, MemoryReading
from collector.cgroups.watches import Watches
from collector.errors import ParseError
from collector.model import MemcgPath
from collector.parse.cgroup_path import Level
from collector.parse.memory_files import StatParser, parse_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from collector.model import Counters, MemoryUse

MAX_CGROUPS = 20_000
"""Who may make cgroups outside of pods, a user's systemd or a container with cgroups of its own, must not fill us."""
MAX_DEPTH = 16
REMEMBERED = 500
"""Of so many removed pods and containers it is known for a while what they used."""

_ROOT_INODE = 1  # kernfs numbers from here
_ROOT = MemcgPath("/")

_log = logging.getLogger(__name__)


class CgroupTree:
    """
    version: 2, 1, or None where there is no cgroup file system. problem: why nothing is read here; None: all is well.

    on_gone: called with path and inode of each counted cgroup that is forgotten. malformed: files that could not be
    parsed so far.
    """

    def __init__(self, root: Path) -> None:
        self._root_directory = os.fspath(root)
        self.version, self.problem = _probe(self._root_directory)
        self.watches = Watches()
        self.on_gone: Callable[[MemcgPath, int], None] = _ignore
        self.malformed = 0
        self._root: Cgroup | None = None
        self._cgroups: dict[MemcgPath, Cgroup] = {}
        self._counted: dict[MemcgPath, Cgroup] = {}
        self._unread: list[Cgroup] = []
        self._removed: OrderedDict[MemcgPath, MemoryUse] = OrderedDict()
        self._descriptors = Descriptors()
        self._stat_parser = StatParser()
        self._said: set[str] = set()

    @property
    def is_whole(self) -> bool:
        """The root is that of the whole hierarchy: the kernel log names cgroups by the same paths."""
        return _inode(self._root_directory) == _ROOT_INODE

    def __contains__(self, path: object) -> bool:
        return path in self._counted

    def counted(self) -> list[Cgroup]:
        """Parents before their children."""
        return list(self._counted.values())

    def sampled(self) -> list[Cgroup]:
        """Pods and containers."""
        return [cgroup for cgroup in self._counted.values() if cgroup.is_sampled]

    def containers(self) -> list[MemcgPath]:
        return [path for path, cgroup in self._counted.items() if cgroup.is_container]

    # Which cgroups there are

    def scan(self) -> None:
        """Find and forget."""
        for _ in self.scan_steps():
            pass

    def scan_steps(self) -> Iterator[None]:
        """As scan(), one directory at a step. Between two steps anything may happen to the tree."""
        root = self._root
        if self.problem is None and (root is None or root.gone):
            root = self._appear(None, "", _inode(self._root_directory))
        return self._look_at([root] if root else [])

    def list_again(self, cgroup: Cgroup) -> None:
        """Something was made or removed in this cgroup: find and forget at and below it."""
        if not cgroup.gone:
            for _ in self._look_at(self._list(cgroup)):
                pass

    def take_unread(self) -> list[Cgroup]:
        """Those to be counted that were found since the last call."""
        unread, self._unread = self._unread, []
        return [cgroup for cgroup in unread if not cgroup.gone]

    def _look_at(self, pending: list[Cgroup]) -> Iterator[None]:
        while pending:
            cgroup = pending.pop()
            if cgroup.gone:
                continue
            parent = cgroup.parent
            if self._look(cgroup):
                pending += cgroup.children.values()
            elif parent is not None:
                pending += self._list(parent)  # there may be another one under this name
            yield

    def _look(self, cgroup: Cgroup) -> bool:
        """
        Whether it is still there; if so, and if its number of children changed, it is listed.

        The number of links of a directory is that of its children and 2: the kernel keeps it right, and asking for it
        costs a tenth of reading a directory of 60 files. Some other file systems always have 1.
        """
        if cgroup.is_watched_for_children:
            self.watches.add_directory(cgroup)  # first: what is made while we look must not be missed
        status = _status(cgroup.directory)
        if status is None or status.st_ino != cgroup.inode:
            self._forget(cgroup)
            return False
        if status.st_nlink == 2 and not cgroup.children:
            cgroup.links = 2
        elif status.st_nlink != cgroup.links or status.st_nlink < 2:
            self._list(cgroup)
        return True

    def _list(self, cgroup: Cgroup) -> list[Cgroup]:
        """Returns the children that are new."""
        status = _status(cgroup.directory)
        if status is None or status.st_ino != cgroup.inode:
            self._forget(cgroup)
            return []
        try:
            with os.scandir(cgroup.directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        inodes = {name: _inode(f"{cgroup.directory}/{name}") for name in names}
        for name, child in list(cgroup.children.items()):
            if inodes.get(name) != child.inode:
                self._forget(child)
        cgroup.links = status.st_nlink  # of before: what came in between makes it differ the next time
        new = [self._appear(cgroup, name, inode) for name, inode in inodes.items() if name not in cgroup.children]
        return [child for child in new if child is not None]

    def _appear(self, parent: Cgroup | None, name: str, inode: int | None) -> Cgroup | None:
        """None: it is of no interest, or already gone."""
        if inode is None:
            return None
        if len(self._cgroups) >= MAX_CGROUPS:
            self._say_once(f"more than {MAX_CGROUPS} cgroups: the rest is not watched")
            return None
        if parent is None:
            cgroup = Cgroup(_ROOT, self._root_directory, inode, None)
            self._root = cgroup
        else:
            # As the kernel log names it: parse/kmsg.py replaces there what is not UTF-8.
            shown = os.fsencode(name).decode(errors="replace")
            path = MemcgPath(f"{parent.path.removesuffix('/')}/{shown}")
            cgroup = Cgroup(path, f"{parent.directory}/{name}", inode, parent)
            # Of two names that are shown alike, since they are not UTF-8, one is watched.
            if not cgroup.is_of_interest or path.count("/") > MAX_DEPTH or path in self._cgroups:
                return None
            parent.children[name] = cgroup
        self._cgroups[cgroup.path] = cgroup
        if cgroup.is_counted:
            self._count(cgroup)
        return cgroup

    def _count(self, cgroup: Cgroup) -> None:
        """Read its counters, and those of all above it, from now on."""
        if cgroup.path in self._counted:
            return
        if cgroup.parent is not None:
            self._count(cgroup.parent)
        self._counted[cgroup.path] = cgroup
        self._unread.append(cgroup)

    def _forget(self, cgroup: Cgroup) -> None:
        for child in list(cgroup.children.values()):
            self._forget(child)
        if cgroup.gone:
            return
        cgroup.gone = True
        self.watches.drop(cgroup)
        del self._cgroups[cgroup.path]
        counted = self._counted.pop(cgroup.path, None)
        if cgroup.parent is not None:
            cgroup.parent.children.pop(cgroup.directory.rpartition("/")[2], None)
            cgroup.parent.links = None
        if cgroup.counters is not None:
            cgroup.counters.close()
        if cgroup.memory is not None:
            self._remember(cgroup.path, cgroup.memory)
            cgroup.memory.close()
        if counted is not None:
            self.on_gone(cgroup.path, cgroup.inode)

    # What they counted

    def read_counters(self, paths: Iterable[MemcgPath] | None = None) -> list[Counters]:
        """Of those whose counters of kills changed since they were read, or were never read; None: of all."""
        if paths is None:
            self._unread.clear()
        cgroups = self.counted() if paths is None else [self._counted[path] for path in paths if path in self._counted]
        return [counters for cgroup in cgroups if (counters := self.read(cgroup)) is not None]

    def read(self, cgroup: Cgroup) -> Counters | None:
        """None: no OOM kill was counted since it was read, or it cannot be read."""
        if cgroup.gone:
            return None
        try:
            if cgroup.counters is None:
                cgroup.counters = CgroupCounters(cgroup.directory, self._descriptors)
            self.watches.add_events(cgroup)  # first: what changes behind the reading must not be missed
            counters = cgroup.counters.read(cgroup.path, cgroup.inode)
        except (OSError, ParseError) as error:
            self._failed(cgroup, error)
            return None
        if counters is not None and not cgroup.counters.kept and not self._is_there(cgroup):
            return None
        if counters is not None and counters.after is not None and cgroup.memory is not None:
            with suppress(OSError, ParseError):
                cgroup.memory.read_bounds()  # while the victim's cgroup is there: who tells of the kill asks for them
        return counters

    # What they use

    def sample(self, cgroup: Cgroup, *, bounds: bool) -> MemoryReading | None:
        """bounds: read these too, which are not kept open."""
        if cgroup.gone:
            return None
        try:
            if cgroup.memory is None:
                cgroup.memory = CgroupMemory(cgroup.directory, self._descriptors, self._stat_parser)
            new_bounds = cgroup.memory.read_bounds() if bounds or cgroup.memory.bounds is None else None
            sample = cgroup.memory.read()
        except (OSError, ParseError) as error:
            self._failed(cgroup, error)
            return None
        return MemoryReading(cgroup.path, cgroup.inode, time.monotonic(), sample, new_bounds)

    def memory_of(self, path: MemcgPath) -> MemoryUse | None:
        """As last sampled, also of a pod or container that was removed a short time ago."""
        cgroup = self._counted.get(path)
        if cgroup is None or cgroup.memory is None:
            return self._removed.get(path)
        return cgroup.memory.use()

    def find(self, path: MemcgPath) -> Cgroup | None:
        return self._counted.get(path)

    def limit_of(self, path: MemcgPath) -> int | None:
        """memory.max in bytes, as it is now or last was; None: there is none, or it is not known."""
        cgroup = self._counted.get(path)
        if cgroup is None:
            last = self._removed.get(path)
            return last.limit_bytes if last else None
        # crun sets the limit on a child of the scope that the container's path names.
        same = [cgroup, *(cgroup.children.values() if cgroup.level is Level.CONTAINER else ())]
        return min((limit for each in same if (limit := _limit(each)) is not None), default=None)

    def is_populated(self, path: MemcgPath) -> bool:
        """Whether there are processes in this cgroup or below."""
        cgroup = self._counted.get(path)
        try:
            return cgroup is not None and b"populated 1" in read_file(f"{cgroup.directory}/cgroup.events")
        except OSError:  # removed
            return False

    def close(self) -> None:
        """Let go of all files and watches, and tell nobody."""
        self.on_gone = _ignore
        if self._root is not None:
            self._forget(self._root)
        self.watches.close()

    # What goes wrong

    def _is_there(self, cgroup: Cgroup) -> bool:
        if _inode(cgroup.directory) == cgroup.inode:
            return True
        self._forget(cgroup)
        return False

    def _failed(self, cgroup: Cgroup, error: OSError | ParseError) -> None:
        """Forget the cgroup if it is gone: an open file of it then reads ENODEV."""
        if isinstance(error, ParseError):
            self.malformed += 1
            _log.log(logging.DEBUG if self.malformed > 1 else logging.WARNING, "cgroup %s: %s", cgroup.path, error)
        elif error.errno == errno.ENODEV:
            self._forget(cgroup)
        elif self._is_there(cgroup) and error.errno != errno.ENOENT:  # ENOENT: no memory controller in it, or not yet
            self._say_once(f"cgroup files cannot be read: {error.strerror}")

    def _remember(self, path: MemcgPath, memory: CgroupMemory) -> None:
        use = memory.use()
        if use is not None:
            self._removed.pop(path, None)
            self._removed[path] = use
            if len(self._removed) > REMEMBERED:
                self._removed.popitem(last=False)

    def _say_once(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("%s", what)


def _probe(root: str) -> tuple[int | None, str | None]:
    """Version, and what is wrong with it."""
    try:
        controllers = read_file(f"{root}/cgroup.controllers").split()
    except OSError as error:
        return _without_v2(root, error)
    if b"memory" not in controllers:
        return 2, f"{root}: no memory controller"
    return 2, None


def _without_v2(root: str, error: OSError) -> tuple[int | None, str | None]:
    # A hybrid host has the unified hierarchy beside the others, without controllers.
    if any(_inode(f"{root}/{name}") is not None for name in ("memory", "unified", "systemd")):
        return 1, "cgroup v1: kernel log only"
    missing = _inode(root) is None
    return None, f"{root}: {error.strerror if missing else 'no cgroup file system'}"


def _limit(cgroup: Cgroup) -> int | None:
    """As it is now, else as it last was."""
    try:
        return parse_limit(read_file(f"{cgroup.directory}/memory.max"))
    except (OSError, ParseError):
        bounds = cgroup.memory.bounds if cgroup.memory else None
        return bounds.limit if bounds else None


def _inode(directory: str) -> int | None:
    """None: it is not there."""
    status = _status(directory)
    return status.st_ino if status else None


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - 500 times a pass
    except OSError:
        return None


def _ignore(_path: MemcgPath, _inode: int) -> None:
    pass
