"""Which of the kernel's cgroup paths lie in the tree that is mounted here, and how they are called there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collector.model import MemcgPath
from collector.parse.cgroup_path import parse_memcg_path

if TYPE_CHECKING:
    from collections.abc import Container

    from collector.model import OomReport


class View:
    """
    The kernel log names cgroups from the root of the whole hierarchy. In kind, in LXC and in a nested cluster the tree
    at hand is a part of that, and nothing tells which: it is learned from the first pod of ours that the log names.

    whole: the tree at hand is the hierarchy itself, so its names are the kernel's.
    """

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self._prefix: str | None = "" if whole else None

    def here(self, path: MemcgPath, known: Container[MemcgPath]) -> MemcgPath | None:
        """The path as the tree at hand has it; None: it is not below our root, or that is not known yet."""
        if self._prefix is None:
            self._prefix = _prefix(path, known)
        if self._prefix is None:
            return None
        rest = path.removeprefix(self._prefix)
        if rest == path and self._prefix:
            return None
        return MemcgPath(rest or "/") if not rest or rest.startswith("/") else None

    def report_here(self, report: OomReport, known: Container[MemcgPath]) -> OomReport:
        """The report with its paths as the tree at hand has them; what is outside of it stays as printed."""

        def here(printed: MemcgPath | None) -> MemcgPath | None:
            return printed and (self.here(printed, known) or printed)

        return replace(
            report,
            task_memcg=here(report.task_memcg),
            oom_memcg=here(report.oom_memcg),
            group_memcg=here(report.group_memcg),
        )

    def is_elsewhere(self, path: MemcgPath, known: Container[MemcgPath]) -> bool:
        """Whether the path is proved to be outside of the tree at hand."""
        return self.here(path, known) is None and self._prefix is not None


def _prefix(path: MemcgPath, known: Container[MemcgPath]) -> str | None:
    """What stands before our part of a path that ends in, or leads through, a pod of ours: its UID is its own only."""
    names = path.split("/")
    for start in range(1, len(names)):
        pod = parse_memcg_path("/" + "/".join(names[start:])).pod_path
        if pod is not None and pod in known:
            return "/".join(names[:start])
    return None
