"""
Names without the API: from the kubelet's folders of logs, which outlive neither pod nor container by long.

    /var/log/pods/<namespace>_<pod>_<uid>/<container>/<n>.log
    /var/log/containers/<pod>_<namespace>_<container>-<64hex>.log -> /var/log/pods/.../<container>/<n>.log

A static pod's uid is here the hash of its manifest, as in cgroup paths. Neither folder needs the other. Links are read,
never followed; a name too long for the file system is cut by the kubelet, loses its id, and is left out.

Sources: pkg/kubelet/kuberuntime/legacy.go, logSymlink; pkg/kubelet/kuberuntime/helpers.go, BuildPodLogsDirectory.
"""

from __future__ import annotations

import errno
import os
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from collector.model import ContainerId, Names, NamesFrom, PodUid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT_SECONDS = 300.0
"""How long a name is that has vanished."""
CAPACITY = 4000
"""Links, and as many folders, vanished ones included."""

_MAX_LISTED = 20_000

_Read = TypeVar("_Read")


class _Folder(NamedTuple):
    namespace: str
    pod: str
    uid: PodUid


class _Link(NamedTuple):
    namespace: str
    pod: str
    container: str
    container_id: ContainerId
    uid: PodUid | None  # None: it does not point into a pod's folder


class LogLinks:
    """
    Bounded: at `capacity` those gone longest make room; without any, new names are not kept. shed: how many, at the
    last look. problem: why neither folder is read; None: at least one is.
    """

    def __init__(self, root: Path = Path("/var/log"), *, capacity: int = CAPACITY) -> None:
        self._root = root
        self._folders: _Kept[_Folder] = _Kept(_read_folder, capacity)
        self._links: _Kept[_Link] = _Kept(_read_link, capacity)
        self.problem: str | None = "not read yet"

    @property
    def shed(self) -> int:
        return self._folders.shed + self._links.shed

    def __len__(self) -> int:
        return len(self._folders.known) + len(self._links.known)

    def refresh(self, at: float) -> None:
        """`at`: seconds of a clock that does not go back."""
        problems = []
        for name, kept in (("pods", self._folders), ("containers", self._links)):
            try:
                kept.refresh(_inside(self._root, name), at)
            except OSError as error:
                problems.append(f"{self._root / name}: {error.strerror or error}")
            kept.forget(at - KEPT_SECONDS)
        self.problem = "; ".join(problems) if len(problems) == 2 else None

    def pods(self) -> set[tuple[str, str]]:
        """Namespace and name."""
        folders = {(folder.namespace, folder.pod) for folder in self._folders.known.values()}
        return folders | {(link.namespace, link.pod) for link in self._links.known.values()}

    def containers(self) -> Iterator[tuple[ContainerId, Names]]:
        """Former instances included. Of an id that two names claim: the last that was read."""
        for link in {link.container_id: link for link in self._links.known.values()}.values():
            yield link.container_id, _names(link.namespace, link.pod, link.container, link.uid)

    def names(self, uid: PodUid | None, container_id: ContainerId | None) -> Names | None:
        """By the uid and container id of a cgroup path, which may lack either. Where two names claim one id: none."""
        folders = {(one.namespace, one.pod) for one in self._folders.known.values() if one.uid == uid}
        links = {
            link
            for link in self._links.known.values()
            if link.container_id == container_id
            and (uid is None or link.uid in {None, uid})
            and (not folders or (link.namespace, link.pod) in folders)
        }
        if len(links) == 1:
            link = links.pop()
            return _names(link.namespace, link.pod, link.container, link.uid or uid)
        if uid is None:
            return None
        pods = folders or {(link.namespace, link.pod) for link in self._links.known.values() if link.uid == uid}
        return _names(*pods.pop(), None, uid) if len(pods) == 1 else None


def _names(namespace: str, pod: str, container: str | None, uid: PodUid | None) -> Names:
    return Names(source=NamesFrom.LOG_LINKS, namespace=namespace, pod=pod, container=container, event_uid=uid)


class _Kept(Generic[_Read]):
    """What the names in a folder tell, those that vanished of late included."""

    def __init__(self, read: Callable[[os.DirEntry[str]], _Read | None], capacity: int) -> None:
        self._read = read
        self._capacity = capacity
        self._seen: dict[str, float] = {}
        self.known: dict[str, _Read] = {}
        self.shed = 0

    def refresh(self, directory: Path, at: float) -> None:
        """Raises OSError."""
        new = {}
        with os.scandir(directory) as entries:
            for entry in islice(entries, _MAX_LISTED):
                if entry.name in self.known:
                    self._seen[entry.name] = at
                elif (read := self._read(entry)) is not None:
                    new[entry.name] = read
        self._make_room(len(new), at)
        room = max(self._capacity - len(self.known), 0)
        self.shed = max(len(new) - room, 0)
        for name, read in islice(new.items(), room):
            self.known[name], self._seen[name] = read, at

    def forget(self, before: float) -> None:
        for name in [name for name, seen in self._seen.items() if seen < before]:
            self._drop(name)

    def _make_room(self, wanted: int, at: float) -> None:
        missing = max(len(self.known) + wanted - self._capacity, 0)
        vanished = sorted((name for name, seen in self._seen.items() if seen < at), key=self._seen.__getitem__)
        for name in vanished[:missing]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        del self.known[name], self._seen[name]


_LABEL = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_POD = r"(?=[^_]{1,253}_)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
_FOLDER = rf"(?P<namespace>{_LABEL})_(?P<pod>{_POD})_(?P<uid>[0-9A-Za-z._-]{{1,128}})"
_FOLDER_NAME = re.compile(_FOLDER)
_LINK_NAME = re.compile(rf"(?P<pod>{_POD})_(?P<namespace>{_LABEL})_(?P<container>{_LABEL})-(?P<id>[0-9a-f]{{64}})\.log")
_TARGET = re.compile(rf"(?:.*/)?pods/{_FOLDER}/(?P<container>[^/]+)/[^/]+", re.DOTALL)


def _read_folder(entry: os.DirEntry[str]) -> _Folder | None:
    match = _FOLDER_NAME.fullmatch(entry.name)
    try:
        if match is None or not entry.is_dir(follow_symlinks=False):
            return None
    except OSError:
        return None
    return _Folder(match["namespace"], match["pod"], PodUid(match["uid"]))


def _read_link(entry: os.DirEntry[str]) -> _Link | None:
    match = _LINK_NAME.fullmatch(entry.name)
    if match is None:
        return None
    try:
        target = _TARGET.fullmatch(os.readlink(entry.path))  # noqa: PTH115 - the text alone, as it is
    except OSError:  # gone, or no link: the kubelet makes nothing else here
        return None
    keys = ("namespace", "pod", "container")
    if target is not None and any(target[key] != match[key] for key in keys):
        return None
    uid = PodUid(target["uid"]) if target else None
    return _Link(match["namespace"], match["pod"], match["container"], ContainerId(match["id"]), uid)


def _inside(root: Path, name: str) -> Path:
    """Raises OSError where the folder is not there, or is a link that leads out of `root`."""
    directory = (root / name).resolve(strict=True)
    if not directory.is_relative_to(root.resolve()):
        raise OSError(errno.EXDEV, "leads out of the log folder")
    return directory
