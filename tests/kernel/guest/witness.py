"""What the kernel itself says: the raw log with arrival times, and its own counters of OOM kills."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
# Facility 0 only: bits 3 and up of the prefix are 0. A name may imitate all that follows the pid.
KILL_LINE = re.compile(rb"[0-7],\d+,\d+,[^;]*;(?:Memory cgroup out|Out) of memory: Killed process (\d+) \(")


class Arrival(NamedTuple):
    """One raw record of /dev/kmsg, and when this reader had it (CLOCK_MONOTONIC)."""

    seconds: float
    record: bytes


class KernelLog:
    """
    A thread that does nothing but read /dev/kmsg from its end on.

    It shares no code with the agent: what is printed here is what the agent is measured against.
    """

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.overruns = 0
        self._fd = os.open("/dev/kmsg", os.O_RDONLY)
        os.lseek(self._fd, 0, os.SEEK_END)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                record = os.read(self._fd, 8192)
            except BrokenPipeError:  # EPIPE: the ring has overwritten what would have come next
                self.overruns += 1
                continue
            self.arrivals.append(Arrival(time.monotonic(), record))

    def position(self) -> int:
        return len(self.arrivals)

    def since(self, position: int) -> list[bytes]:
        return [arrival.record for arrival in self.arrivals[position:]]


def killed_pids(records: list[bytes]) -> list[int]:
    """One pid for each kill line, in order; under memory.oom.group the first victim's comes twice."""
    return [int(found[1]) for record in records if (found := KILL_LINE.match(record))]


def ring() -> list[bytes]:
    """What the kernel's ring holds now."""
    records, fd = [], os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                records.append(os.read(fd, 8192))
            except BrokenPipeError:
                continue
    except BlockingIOError:
        return records
    finally:
        os.close(fd)


class Counters(NamedTuple):
    """The kernel's own counts of OOM kills since boot; both count a group kill's first victim twice."""

    vmstat: int
    memory_events: int  # of the top-level cgroups, which count what is below them

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(self.vmstat - earlier.vmstat, self.memory_events - earlier.memory_events)


def counters() -> Counters:
    pattern = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
    events = [path.read_text() for path in CGROUPS.glob("*/memory.events")]
    found = pattern.search(Path("/proc/vmstat").read_text())
    assert found
    return Counters(int(found[1]), sum(int(match[1]) for text in events if (match := pattern.search(text))))


def events(cgroup: str) -> dict[str, int]:
    """Read its memory.events."""
    lines = (CGROUPS / cgroup.lstrip("/") / "memory.events").read_text().splitlines()
    return {key: int(value) for key, value in map(str.split, lines)}


def forks() -> int:
    """Processes and threads made since boot."""
    found = re.search(r"^processes (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


class Usage(NamedTuple):
    """What a process has taken of the node."""

    cpu_seconds: float  # of all its threads
    rss_mib: float
    descriptors: int
    watches: int  # inotify's


def usage(pid: int) -> Usage:
    process = Path("/proc", str(pid))
    times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    descriptors = []
    for path in (process / "fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            descriptors.append(path.read_text())
    return Usage(
        cpu_seconds=sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
        rss_mib=round(resident / 2**20, 1),
        descriptors=len(descriptors),
        watches=sum(text.count("inotify wd:") for text in descriptors),
    )
