"""What a diagnosis costs, and the agent's look at 500 containers each minute: which of them will meet their limit."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias

from bench.cgroups import INTERVAL
from bench.measure import MIB, Figure, best_cpu
from collector.diagnosis.diagnose import diagnose
from collector.diagnosis.forecast import look
from collector.diagnosis.model import Facts, MemoryHistory
from collector.diagnosis.timeline import Timeline, from_life
from collector.forecasts import Forecasts
from collector.history import BIN_SECONDS, BINS, SAMPLES, Bounds, Sample
from collector.history import Life as KeptLife
from collector.model import Cause, ContainerId, Process
from collector.witnesses import Watched
from tests.diagnosis.held_out import SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Use: TypeAlias = Callable[[int, float, random.Random], int]

CONTAINERS = 500
_ROUNDS = 5
_PASSES = 10
_LIMIT = 8 << 30


def measure() -> Iterator[Figure]:
    yield from _measure_incident()
    yield from _measure_forecast()
    yield from _measure_memory()


# One incident


def _measure_incident() -> Iterator[Figure]:
    """The longest that the agent keeps, and the longest of the files that the matrix is made of."""
    kept = [_kept(number, use) for number in range(10) for use in (_use_busily, _leak)]
    worst = max(best_cpu([partial(diagnose, facts) for facts in kept], rounds=_ROUNDS))
    note = f"judged, findings and advice; the slowest of {len(kept)} histories of {SAMPLES} samples and {BINS} bins"
    yield Figure(what="diagnosis of an incident: CPU", value=worst * 1e3, unit="ms", must=20, aim=8, note=note)
    files = [_of_file(index) for index in range(len(SHAPES))]
    worst = max(best_cpu([partial(diagnose, facts) for facts in files], rounds=_ROUNDS))
    points = max(sum(len(life.points) for life in facts.history.lives) for facts in files if facts.history)
    note = f"the slowest of {len(files)} shapes of histories, of up to {points:,} samples, read before"
    yield Figure(what="diagnosis of a file: CPU", value=worst * 1e3, unit="ms", must=20, aim=8, note=note)


def _kept(number: int, use: Use) -> Facts:
    life = from_life(_fill(number, use), killed=True)
    assert life is not None
    return _facts(MemoryHistory(lives=(life,)))


def _of_file(index: int) -> Facts:
    timeline = Timeline()
    for sample in SHAPES[index].case(0).samples:
        timeline.add(sample)
    history = timeline.history()
    assert history is not None
    return _facts(history)


def _facts(history: MemoryHistory) -> Facts:
    return Facts(cause=history.cause or Cause.CONTAINER_LIMIT, victim=Process(pid=None, comm=None), history=history)


# The forecast


def _measure_forecast() -> Iterator[Figure]:
    for kind, use in (("busy", _use_busily), ("all leak", _leak)):
        lives = [_fill(number, use) for number in range(CONTAINERS)]
        what = f"forecast of {CONTAINERS} containers, {kind}"
        cpu, looked_at = asyncio.run(_passes(lives))
        note = f"one pass, each minute; {looked_at:.0f} looked at, the next pass goes on; mean of {_PASSES}"
        yield Figure(what=f"{what}: CPU", value=cpu * 1e3, unit="ms", must=60, aim=30, note=note)
        longest = max(best_cpu([partial(look, life, limit=_LIMIT, now=life.last_at) for life in lives], rounds=_ROUNDS))
        note = "the longest look at one container, without a pause"
        yield Figure(what=f"{what}: longest piece", value=longest * 1e3, unit="ms", must=8, aim=4, note=note)


async def _passes(lives: Sequence[KeptLife]) -> tuple[float, float]:
    """CPU seconds of one of the agent's passes, and how many containers it looked at; the API is not asked."""
    looks = 0

    def watched() -> list[Watched]:
        return [Watched(ContainerId(f"{number:064x}"), life, 0, _LIMIT) for number, life in enumerate(lives)]

    async def note(containers: object) -> None:
        pass

    def clock() -> float:
        nonlocal looks
        looks += 1
        return lives[0].last_at

    cluster, rollouts = SimpleNamespace(find=lambda *_: None), SimpleNamespace(note=note)
    forecasts = Forecasts(watched, cluster, None, rollouts, node=None, horizon=0, clock=clock)  # type: ignore[arg-type]
    await forecasts.look()
    looks, began = 0, time.process_time()
    for _ in range(_PASSES):
        await forecasts.look()
    return (time.process_time() - began) / _PASSES, looks / _PASSES


def _use_busily(number: int, at: float, chance: random.Random) -> int:
    """A third follows the time of day, a third has a garbage collector's saw, a third is steady; one in fifty leaks."""
    size = (30 << 20) + (number * 104_729 * 4096) % (2 << 30)
    day = 0.2 * size * math.sin(math.tau * at / 86_400 + number) if number % 3 == 0 else 0
    saw = at % 300 / 300 * size * 0.4 if number % 3 == 1 else 0
    leak = at * 2000 if number % 50 == 0 else 0
    return max(round(size + day + saw + leak + chance.gauss(0, 2 << 20)), 1 << 20)


def _leak(number: int, at: float, chance: random.Random) -> int:
    """The worst: none can be passed over."""
    return (200 << 20) + round(at * (1000 + number)) + chance.randrange(2 << 20)


def _fill(number: int, use: Use) -> KeptLife:
    """A day, sampled now and then, and an hour as the agent does it: as much as is kept."""
    life, chance = KeptLife(stagger=number), random.Random(number)
    day = [10.0 * INTERVAL * step for step in range(BINS * BIN_SECONDS // (10 * INTERVAL))]
    bounds = Bounds(limit=_LIMIT, peak=None, stall_seconds=0.0)
    for at in [*day, *(day[-1] + INTERVAL * step for step in range(1, SAMPLES + 50))]:
        used = use(number, at, chance)
        sample = Sample(
            current=used, working_set=used, anon=used * 4 // 5, file=used // 10, shmem=0, kernel=used // 10, swap=0
        )
        life.add(sample, bounds, at)
    return life


# Memory

_IMPORT = """
import os
from bench.measure import rss_bytes
import collector.history, collector.model, collector.units
before = rss_bytes(os.getpid())
import collector.diagnosis.diagnose, collector.diagnosis.forecast, collector.diagnosis.to_json
print(rss_bytes(os.getpid()) - before)
"""


def _measure_memory() -> Iterator[Figure]:
    loaded = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True).stdout
    note = "beside the history's, without any data"
    yield Figure(what="diagnosis: RSS of its modules", value=int(loaded) / MIB, unit="MiB", note=note)
    life = _fill(0, _leak)
    tracemalloc.start()
    look(life, limit=_LIMIT, now=life.last / 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    yield Figure(
        what="forecast of one container: memory meanwhile", value=peak / MIB, unit="MiB", note="freed after it"
    )
