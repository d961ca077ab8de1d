"""
The cgroup watcher and the history, on a plain directory made like the kernel's tree.

What the kernel itself takes to write such a file is not in it: `make test-kernel` reads real ones.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import MIB, Figure, best_cpu, rss_bytes
from collector.cgroups.tree import CgroupTree
from collector.cgroups.watcher import CgroupWatcher
from collector.history import BIN_SECONDS, BINS, SAMPLES, Bounds, History, Key, Sample
from collector.model import MemcgPath
from tests.cgroups import tree_maker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from collector.cgroups.memory import MemoryReading

CONTAINERS = 500
INTERVAL = 10
LIVES = 10_000
_BATCH = 50
_NEVER = 3600.0
_GIB = 1 << 30
_IN_MEMORY = Path("/dev/shm")
_READ = ("memory.events", "memory.current", "memory.stat")


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as directory:
        root = Path(directory) / "cgroup"
        tree_maker.make_node(root, containers=CONTAINERS)
        yield from _measure_passes(root)
        yield _measure_stall(root)
        yield from _measure_churn(root)
    yield from _measure_history()


# A pass


def _measure_passes(root: Path, rounds: int = 20) -> Iterator[Figure]:
    agent = _Agent(root)
    agent.tree.scan()
    agent.tree.read_counters()
    agent.sample()
    cgroups = [root / cgroup.path[1:] for cgroup in agent.tree.sampled()]
    stock = agent.tree.counted()
    events, bare = best_cpu([agent.count, lambda: _read_bare(cgroups)], rounds=rounds)
    all_of_it = math.inf
    for turn in range(rounds):
        _use_memory(cgroups, turn)
        start = time.process_time()
        agent.count()
        agent.sample()
        all_of_it = min(all_of_it, time.process_time() - start)
    what = f"{CONTAINERS} containers in {len(cgroups) - CONTAINERS} pods, looked at every {INTERVAL} s"
    yield Figure(
        what=f"{what}: CPU",
        value=all_of_it / INTERVAL * 100,
        unit="%",
        must=0.5,
        aim=0.2,
        note=f"of one core; {all_of_it * 1e3:.1f} ms a pass, in which all have changed: {all_of_it / bare:.2f} times to"
        f" open, read and close these files; best of {rounds}",
    )
    yield Figure(
        what=f"{what}, memory.events only: CPU",
        value=events / INTERVAL * 100,
        unit="%",
        note=f"{events * 1e3:.1f} ms to look for new cgroups and read {len(stock)} files, in which nothing has changed",
    )


class _Agent:
    """What the agent does with the tree."""

    def __init__(self, root: Path, *, interval: float = _NEVER) -> None:
        self.tree = CgroupTree(root)
        self.history = History(boot_id="b")
        self.passes = 0
        self.kills = 0
        self.watcher = CgroupWatcher(
            self.tree,
            on_counters=lambda counters: self._count_kills(
                counters.oom_kill if counters.path.endswith(".scope") else 0
            ),
            on_gone=lambda path, inode: self.history.remove(Key(path, inode), at=time.monotonic()),
            on_sample=self._keep,
            on_pass=self._passed,
            interval=interval,
        )

    def count(self) -> None:
        self.tree.scan()
        self.tree.read_counters()

    def sample(self) -> None:
        self.passes += 1
        for cgroup in self.tree.sampled():
            reading = self.tree.sample(cgroup, bounds=(self.passes + cgroup.inode) % 6 == 0)
            if reading is not None:
                self._keep(reading)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.watcher.start()
        task = asyncio.create_task(self.watcher.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _keep(self, reading: MemoryReading) -> None:
        self.history.add(Key(reading.path, reading.inode), reading.sample, at=reading.at, bounds=reading.bounds)

    def _passed(self, at: float) -> None:
        self.passes += 1
        self.history.prune(at)
        self.history.take_unsaved(30)

    def _count_kills(self, kills: int) -> None:
        self.kills += kills


def _read_bare(cgroups: list[Path]) -> None:
    for cgroup in cgroups:
        for name in _READ:
            fd = os.open(f"{cgroup}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            os.read(fd, 8192)
            os.close(fd)


def _use_memory(cgroups: list[Path], turn: int) -> None:
    for number, cgroup in enumerate(cgroups):
        anon = (50 << 20) + 4096 * ((turn * 7919 + number * 104_729) % 10_000)
        tree_maker.write(cgroup / "memory.current", f"{anon + (8 << 20)}\n")
        tree_maker.write(cgroup / "memory.stat", tree_maker.flat({**tree_maker.STAT, "anon": anon}))


# The event loop


def _measure_stall(root: Path, rounds: int = 9, seconds: float = 2) -> Figure:
    command = _command("use", str(root), str(rounds * seconds + 3))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL):
        stalls = asyncio.run(_run_stalls(root, rounds, seconds))
    late, turns = zip(*stalls, strict=True)
    return Figure(
        what=f"longest stall of the event loop at {CONTAINERS} containers",
        value=statistics.median(late) * 1e3,
        unit="ms",
        must=20,
        aim=8,
        note=f"how late a timer is, at most in {seconds} s of passes that come every 0.5 s, in which all have"
        f" changed; the median of {rounds} such times, {max(late) * 1e3:.1f} ms in the worst; most CPU used meanwhile"
        f" {max(turns) * 1e3:.1f} ms",
    )


async def _run_stalls(root: Path, rounds: int, seconds: float) -> list[tuple[float, float]]:
    """The most that the timer was late, and that the process used before it came."""
    agent = _Agent(root, interval=0.5)
    async with agent.running():
        await asyncio.sleep(1)  # it begins with all at once, before there is anything to hold up
        gc.collect()
        gc.freeze()  # as the agent does when it has started
        return [await _find_stall(seconds) for _ in range(rounds)]


async def _find_stall(seconds: float) -> tuple[float, float]:
    late = most_used = 0.0
    end = time.monotonic() + seconds
    while (before := time.monotonic()) < end:
        used = time.process_time()
        await asyncio.sleep(0.001)
        late = max(late, time.monotonic() - before - 0.001)
        most_used = max(most_used, time.process_time() - used)
    return late, most_used


def _keep_using(root: Path, until: float) -> None:
    cgroups = [current.parent for current in root.rglob("memory.current")]
    for turn in itertools.count():
        if time.monotonic() > until:
            return
        _use_memory(cgroups, turn)
        time.sleep(0.3)


# Lives


def _measure_churn(root: Path) -> Iterator[Figure]:
    told = _in_child("churn", str(root))
    what = f"{LIVES:,} container lives beside {CONTAINERS} containers"
    note = (
        f"each of 0.1 s and killed at its half: {told['kills']:,} were read after that; {told['seconds']:.0f} s in all"
    )
    yield Figure(what=f"{what}: open files more", value=told["fds"], unit="", must=0, aim=0, note=note)
    yield Figure(what=f"{what}: inotify watches more", value=told["watches"], unit="", must=0, aim=0)
    yield Figure(what=f"{what}: RSS more", value=told["rss"] / MIB, unit="MiB", must=2, aim=1)


async def _churn(root: Path) -> dict[str, float]:
    agent = _Agent(root, interval=0.2)
    async with agent.running():
        await _live_and_die(root, LIVES // 5)  # until the history is full of removed ones
        before, kills, start = _held(), agent.kills, time.monotonic()
        await _live_and_die(root, LIVES)
        more = {name: value - before[name] for name, value in _held().items()}
        return {**more, "kills": agent.kills - kills, "seconds": time.monotonic() - start}


async def _live_and_die(root: Path, lives: int) -> None:
    process = await asyncio.create_subprocess_exec(*_command("lives", str(root), str(lives)), stdout=subprocess.DEVNULL)
    await process.wait()
    await asyncio.sleep(1)  # a few passes
    gc.collect()


def _held() -> dict[str, int]:
    fds = list(Path("/proc/self/fd").iterdir())
    infos = (Path(f"/proc/self/fdinfo/{fd.name}") for fd in fds)
    watches = sum(info.read_text().count("inotify wd:") for info in infos if info.exists())
    return {"fds": len(fds), "watches": watches, "rss": rss_bytes(os.getpid())}


def _make_lives(root: Path, lives: int) -> None:
    """Each is killed once, and lives for a tenth of a second or so: the agent is to see it."""
    for first in range(0, lives, _BATCH):
        pods, containers = [], []
        for number in range(first, first + _BATCH):
            if number % 10 == 0:
                pods.append(tree_maker.make_pod(root, tree_maker.UID % (999_000_000 + number)))
            containers.append(tree_maker.make_container(root, pods[-1], tree_maker.CONTAINER_ID % (10**9 + number)))
        time.sleep(0.05)
        for container in containers:
            tree_maker.bump(root, container, oom=1, oom_kill=1)
        time.sleep(0.05)
        for pod in pods:
            tree_maker.remove(root, pod)


# History


def _measure_history() -> Iterator[Figure]:
    what = f"history of {CONTAINERS} containers, full"
    for kind, must, aim, note in (
        ("busy", 10, 5, "made-up loads: waves, saws, leaks, caches, with 2 MiB of noise each"),
        ("random", 10, 10, "each number anywhere in 16 GiB at each sample: little can be packed"),
    ):
        rss, traced = (_in_child("history", kind, measured)["bytes"] / MIB for measured in ("rss", "traced"))
        plain = CONTAINERS * 4 * (SAMPLES * 8 + BINS * 13) / MIB
        more = f"{traced:.1f} MiB as tracemalloc counts, {plain:.1f} MiB the bare numbers in 4 bytes each"
        yield Figure(what=f"{what}, {kind}", value=rss, unit="MiB", must=must, aim=aim, note=f"{note}; {more}")


def _fill_history(kind: str, measured: str) -> dict[str, float]:
    chance = random.Random(1)
    name = "/kubepods.slice/kubepods-pod{0:032x}.slice/cri-containerd-{0:064x}.scope"
    keys = [Key(MemcgPath(name.format(number)), number * 7919) for number in range(CONTAINERS)]
    sample = {"busy": _use_busily, "random": _use_at_random}[kind]
    _ = [sample(number, 0.0, chance) for number in range(CONTAINERS)]  # what this itself takes is taken now
    history = History(boot_id="b" * 36)
    gc.collect()
    if measured == "traced":
        tracemalloc.start()
    before = rss_bytes(os.getpid())
    bins = [BIN_SECONDS * step for step in range(BINS)]
    times = [*bins, *(bins[-1] + INTERVAL * step + chance.uniform(0, 0.2) for step in range(1, SAMPLES + 50))]
    for at in times:
        for number, key in enumerate(keys):
            used, bounds = sample(number, at, chance)
            history.add(key, used, at=at, bounds=bounds)
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0] if measured == "traced" else 0
    return {"bytes": traced or rss_bytes(os.getpid()) - before}


def _use_busily(number: int, at: float, chance: random.Random) -> tuple[Sample, Bounds]:
    size = (30 << 20) + (number * 104_729 * 4096) % (4 * _GIB)
    wave = 0.1 * size * math.sin(at / 8640 + number)
    saw = at % 300 * 300_000 if number % 3 == 0 else 0
    leak = at * 400 if number % 7 == 0 else 0
    used = max(round(size + wave + saw + leak + chance.gauss(0, 2 << 20)), 1 << 20)
    inactive = (20 << 20) + chance.randrange(30 << 20)
    return (
        Sample(
            current=used + inactive,
            working_set=used,
            anon=used * 4 // 5,
            file=used * 3 // 20 + inactive,
            shmem=number % 5 << 20,
            kernel=used // 25 + chance.randrange(1 << 20),
            swap=0,
        ),
        Bounds(limit=8 * _GIB, peak=7 * _GIB, stall_seconds=at / 10_000),
    )


def _use_at_random(_number: int, _at: float, chance: random.Random) -> tuple[Sample, Bounds]:
    limit, peak, *sizes = (chance.randrange(16 * _GIB) for _ in range(2 + len(Sample._fields)))
    return Sample(*sizes), Bounds(limit=limit, peak=peak, stall_seconds=chance.uniform(0, 10_000))


# Processes of their own


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.cgroups", *arguments]


def _in_child(*arguments: str) -> dict[str, float]:
    told = subprocess.run(_command(*arguments), stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(told.stdout)
    return figures


def _main(part: str, *arguments: str) -> dict[str, float]:
    match part:
        case "history":
            return _fill_history(*arguments)
        case "churn":
            return asyncio.run(_churn(Path(*arguments)))
        case "lives":
            root, lives = arguments
            _make_lives(Path(root), int(lives))
        case "use":
            root, seconds = arguments
            _keep_using(Path(root), time.monotonic() + float(seconds))
        case _:
            raise ValueError(part)
    return {}


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
