"""One cgroup of the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.parse.cgroup_path import Level, parse_memcg_path

if TYPE_CHECKING:
    from collector.cgroups.counters import CgroupCounters
    from collector.cgroups.memory import CgroupMemory
    from collector.model import MemcgPath

_COUNTED = {Level.KUBEPODS, Level.QOS, Level.POD, Level.POD_CHILD, Level.CONTAINER}


class Cgroup:
    """A directory, and what was last read of it. It is CgroupTree's: others read it at most."""

    __slots__ = (
        "children",
        "container_id",
        "counters",
        "directory",
        "directory_watch",
        "events_watch",
        "gone",
        "inode",
        "is_container",
        "is_counted",
        "is_of_interest",
        "is_sampled",
        "is_watched_for_children",
        "level",
        "links",
        "memory",
        "parent",
        "path",
    )

    def __init__(self, path: MemcgPath, directory: str, inode: int, parent: Cgroup | None) -> None:
        place = parse_memcg_path(path)
        self.path = path
        self.directory = directory
        self.inode = inode
        self.parent = parent
        self.level = level = place.level
        outside_pods = place.pod_uid is None
        at_top = parent is None or parent.parent is None
        # What a workload makes in its container is its own. What lies outside of pods may lead to others.
        self.is_of_interest = outside_pods or level is not Level.NESTED
        # By itself; what has such a one below it is counted too.
        self.is_counted = at_top or level in _COUNTED
        # A workload may make cgroups in its container as often as it likes: that must not wake us.
        self.is_watched_for_children = outside_pods or level is Level.POD
        # Not crun's `container` in a container's scope.
        self.is_container = level is Level.CONTAINER and (parent is None or parent.level is not Level.CONTAINER)
        self.container_id = place.container_id if self.is_container else None
        self.is_sampled = level is Level.POD or self.is_container
        self.children: dict[str, Cgroup] = {}
        self.links: int | None = None
        """As the directory had when it was last listed; None: it has to be listed again."""
        self.gone = False
        self.counters: CgroupCounters | None = None
        self.memory: CgroupMemory | None = None
        self.directory_watch: int | None = None
        self.events_watch: int | None = None
