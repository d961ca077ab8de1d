"""A directory as /proc and a directory as cgroup tree."""

from __future__ import annotations

import time
from pathlib import Path

from collector.model import MemcgPath

INITIAL = "pid:[4026531836]"
POD = "/kubepods/burstable/pod0f9c1d2e-3b4a-4c5d-8e6f-000000000001"
A = MemcgPath(f"{POD}/{'a' * 64}")
B = MemcgPath(f"{POD}/{'b' * 64}")


class FakeProc:
    def __init__(
        self, directory: Path, *, pid_namespace: str = INITIAL, cgroup_namespace: str = "cgroup:[4026531835]"
    ) -> None:
        self.root, self.cgroups = directory / "proc", directory / "cgroup"
        (self.root / "self/ns").mkdir(parents=True)
        (self.root / "self/ns/pid").symlink_to(pid_namespace)
        (self.root / "self/ns/cgroup").symlink_to(cgroup_namespace)
        self.cgroups.mkdir()

    def add(
        self,
        pid: int,
        cgroup: str,
        *,
        comm: bytes = b"java",
        born: float | None = None,
        state: str = "S",
        cmdline: bytes = b"",
        environ: bytes = b"",
        ns_pids: str = "",
    ) -> None:
        """born: of CLOCK_MONOTONIC; None: some time ago."""
        boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        ticks = int((time.monotonic() - 50 if born is None else born + boot) * 100)
        directory = self.root / str(pid)
        directory.mkdir(exist_ok=True)
        stat = b"%d (%s) %s 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n" % (pid, comm, state.encode(), ticks)
        (directory / "stat").write_bytes(stat)
        (directory / "status").write_text(f"Name:\tx\nPid:\t{pid}\nNSpid:\t{pid}{ns_pids}\nThreads:\t1\n")
        (directory / "cgroup").write_text(f"0::{cgroup}\n")
        (directory / "cmdline").write_bytes(cmdline)
        (directory / "environ").write_bytes(environ)

    def remove(self, pid: int) -> None:
        directory = self.root / str(pid)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()

    def list(self, cgroup: str, *pids: int) -> None:
        directory = self.cgroups / cgroup[1:]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
