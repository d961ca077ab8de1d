"""The process index: what following the processes of a node costs, and a pass over its containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.measure import Figure, Skipped, best_cpu
from collector.model import MemcgPath
from collector.processes.connector import MAX_SHARE, Connector
from collector.processes.events import EXIT, FORK
from collector.processes.index import CAPACITY, ProcessIndex, Sight
from collector.processes.proc_files import list_processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from collector.processes.events import Event

FORKS = "proc connector at 5,000 process forks/s: CPU"
THREADS = "proc connector at 20,000 thread events/s: CPU"
STORM = "proc connector in a storm of 10,000 forks/s: CPU"
PASS = "pass over 500 containers of 10 known processes, every 10 s: CPU"
MEMORY = "process index: memory for a process"

ROUNDS = 3

_SOURCE = Path(__file__).with_name("storm.c")
_CONTAINER = MemcgPath(
    f"/kubepods.slice/kubepods-pod0f9c1d2e_3b4a_4c5d_8e6f_000000000001.slice/cri-containerd-{'a' * 64}.scope"
)


class _Followed(NamedTuple):
    share: float
    reached: float
    events: int
    lost: int
    shed: int


def measure(seconds: float = 4) -> Iterator[Figure | Skipped]:
    yield _measure_pass()
    yield _measure_memory()
    with tempfile.TemporaryDirectory() as directory:
        storm = Path(directory, "storm")
        why_not = _build(storm) or _why_no_connector()
        if why_not is not None:
            for what in (FORKS, THREADS, STORM):
                yield Skipped(what, why_not)
            return
        forks = min(_follow([storm, "process", "5000"], seconds) for _ in range(ROUNDS))
        yield _figure(FORKS, forks, must=4, aim=2)
        threads = min(_follow([storm, "thread", "10000"], seconds) for _ in range(ROUNDS))
        yield _figure(THREADS, threads, must=0.5, aim=0.1)
        # Longer: narrowed after a second, widened again 5 s later.
        storming = _follow([storm, "process", "10000"], seconds * 3)
        yield _figure(STORM, storming, must=MAX_SHARE * 100, aim=MAX_SHARE * 50)


def _build(storm: Path) -> str | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "no C compiler for the generator"
    subprocess.run([compiler, "-O2", "-pthread", "-Wall", "-o", storm, _SOURCE], check=True)
    return None


def _why_no_connector() -> str | None:
    with _connector(ProcessIndex()) as connector:
        return connector.reason


@contextmanager
def _connector(index: ProcessIndex) -> Iterator[Connector]:
    connector = Connector(index, threading.Lock(), proc_root=Path("/proc"), look_at=lambda _: None)
    connector.start()
    try:
        yield connector
    finally:
        connector.stop()


class _Counting(ProcessIndex):
    events = 0

    def follow(self, events: Iterable[Event]) -> list[int]:
        batch = list(events)
        self.events += len(batch)
        return super().follow(batch)


def _follow(command: list[str | Path], seconds: float) -> _Followed:
    index = _Counting()
    with _connector(index) as connector:
        process = subprocess.Popen([*command, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        time.sleep(0.1)
        # As if in a container: its children are followed.
        now = time.monotonic()
        index.seen(process.pid, Sight(_CONTAINER, "storm", 1, now, 1, is_init=True, at=now))
        before = _thread_cpu(connector)
        begin = time.monotonic()
        made, took = map(float, process.communicate("\n")[0].split())
        elapsed = time.monotonic() - begin
        share = (_thread_cpu(connector) - before) / elapsed
        time.sleep(0.1)
        return _Followed(share, made / took, index.events, connector.lost, connector.shed)


def _thread_cpu(connector: Connector) -> float:
    assert connector.thread_id is not None
    return int(Path(f"/proc/self/task/{connector.thread_id}/schedstat").read_text().split()[0]) / 1e9


def _figure(what: str, followed: _Followed, *, must: float, aim: float) -> Figure:
    note = f"{followed.reached:,.0f} made in a second; {followed.events:,} events taken; {followed.lost} overruns"
    if followed.shed:
        note += f"; narrowed {followed.shed} times"
    return Figure(what=what, value=followed.share * 100, unit="%", must=must, aim=aim, note=note)


def _measure_pass() -> Figure:
    """On a plain directory tree: a kernel takes longer for cgroup.procs than tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        index = ProcessIndex()
        containers = [f"{root}/{number}" for number in range(500)]
        now = time.monotonic()
        for number, container in enumerate(containers):
            pids = range(1000 + number * 10, 1010 + number * 10)
            os.mkdir(container)  # noqa: PTH102
            Path(container, "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
            for pid in pids:
                index.seen(pid, Sight(MemcgPath(container), "java", 1, now, 1, is_init=False, at=now))

        def pass_over() -> None:
            listed: dict[int, MemcgPath] = {}
            for container in containers:
                for below, pids in list_processes(container):
                    listed.update(dict.fromkeys(pids, MemcgPath(container + below)))
            assert not index.unread(listed)
            assert not index.missing(listed)

        (cpu,) = best_cpu([pass_over], rounds=20)
    return Figure(
        what=PASS, value=cpu / 10 * 100, unit="%", must=0.1, aim=0.05, note=f"{cpu * 1e3:.1f} ms a pass, files on tmpfs"
    )


def _measure_memory() -> Figure:
    tracemalloc.start()
    index = ProcessIndex()
    now = time.monotonic()
    index.seen(1, Sight(_CONTAINER, "storm", 1, now, 0, is_init=True, at=now))
    before = tracemalloc.get_traced_memory()[0]
    half = CAPACITY // 2
    index.follow((FORK, number * 1000, 1, 1, number, number) for number in range(2, half * 2))
    index.follow((EXIT, number * 1000, number, number, 0, 0) for number in range(2, half))
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    peak = f"{used / (1 << 20):.1f} MiB for {len(index):,}, half of them dead"
    return Figure(what=MEMORY, value=used / len(index), unit="B", note=peak)
