"""What the benchmarks share: CPU time, and a row of the table."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A row. must, aim: the most that it may be, in `unit`; None: it only explains another row."""

    what: str
    value: float
    unit: str
    must: float | None = None
    aim: float | None = None
    note: str = ""

    def row(self) -> str:
        bounds = (f"{bound:g}" if bound is not None else "" for bound in (self.must, self.aim))
        return (
            f"| {self.what} | {_round(self.value)} {self.unit} | {' | '.join(bounds)} | {self._reached} | {self.note} |"
        )

    @property
    def _reached(self) -> str:
        if self.must is None or self.aim is None:
            return ""
        return "aim" if self.value <= self.aim else "must" if self.value <= self.must else "**no**"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be measured, and why."""

    what: str
    reason: str

    def row(self) -> str:
        return f"| {self.what} | not measured | | | | {self.reason} |"


HEAD = "| what | measured | must | aim | reached | how |\n|---|---|---|---|---|---|"


def best_cpu(works: Sequence[Callable[[], object]], *, rounds: int, repeat: int = 1) -> list[float]:
    """
    Seconds of CPU that one call takes of each: the best of `rounds`, taken in turns.

    The best, since whatever else runs on the machine can only add to it.
    """
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for index, work in enumerate(works):
            start = time.process_time()
            for _ in range(repeat):
                work()
            best[index] = min(best[index], (time.process_time() - start) / repeat)
    return best


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process that has ended. Its peak is at least what the process was that started it."""

    cpu_seconds: float
    peak_bytes: int


def run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> Usage:
    """Raises CalledProcessError for any exit status but 0."""
    # Not /dev/null: grep stops at the first match there.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, env={**os.environ, **(environment or {})})
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def rss_bytes(pid: int) -> int:
    """Exact, page by page: VmRSS of /proc/PID/status misses up to a few hundred KiB that each CPU counts for itself."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Rss:") * 1024


def peak_rss_bytes(pid: int) -> int:
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM:") * 1024


def _kib(path: Path, field: str) -> int:
    return int(path.read_text().partition(field)[2].split(maxsplit=1)[0])


def cpu_seconds(pid: int) -> float:
    """Of all threads that are alive. /proc/PID/stat counts in ticks of 10 ms: too coarse for an idle process."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _round(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
