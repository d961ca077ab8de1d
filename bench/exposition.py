"""A scrape of /metrics on a node of 500 containers with a limit each: its cost, and how long it holds others up."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import Figure, best_cpu
from collector.model import ContainerId
from collector.sinks.container_series import ContainerSeries, MemoryNow, Running
from collector.sinks.metrics import Metrics
from collector.state.batch import ContainerName, Retention
from collector.state.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTAINERS = 500
_ROUNDS = 30
_SCRAPERS = 4
_LIMIT = 256 << 20


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), boot_id=None, retention=Retention(), at=datetime.now(UTC))
        metrics = _metrics(store)
        lines = metrics.render("")[0].count(b"\n")
        plain, gzipped = best_cpu([lambda: metrics.render(""), lambda: asyncio.run(_scrape(metrics))], rounds=_ROUNDS)
        stall = statistics.median(asyncio.run(_stall(store)) for _ in range(_ROUNDS))
        store.close()
    what = f"scrape at {CONTAINERS} containers"
    yield Figure(
        what=f"{what}: CPU", value=plain * 1e3, unit="ms", must=10, aim=4, note=f"{lines:,} lines, to the body"
    )
    note = "in an event loop of its own, made and ended for it"
    yield Figure(what=f"{what}, with gzip: CPU", value=gzipped * 1e3, unit="ms", must=30, aim=15, note=note)
    note = f"how late a timer is while {_SCRAPERS} scrape at once, with gzip; the median of {_ROUNDS} times"
    yield Figure(what=f"{what}: longest stall", value=stall * 1e3, unit="ms", must=20, aim=8, note=note)


def _metrics(store: Store) -> Metrics:
    containers = ContainerSeries(kills=lambda: store.container_kills, hold_seconds=60, now=time.monotonic)
    names = [ContainerName("shop", f"cart-6c8f9d7b54-{number:05d}", "cart") for number in range(CONTAINERS)]
    running = [Running(name, ContainerId(f"{number:064x}"), _LIMIT) for number, name in enumerate(names)]
    memory = {
        ContainerId(f"{number:064x}"): MemoryNow(40_000_000 + number * 4096, _LIMIT) for number in range(CONTAINERS)
    }
    containers.running, containers.memory = lambda: running, lambda: memory
    metrics = Metrics(
        version="0",
        sources=("kmsg",),
        sinks=("pod_event", "node_event"),
        counters=lambda: store.counters,
        hold_seconds=60,
        now=time.monotonic,
        containers=containers,
    )
    metrics.add_process_metrics()
    return metrics


async def _scrape(metrics: Metrics) -> None:
    await metrics.answer(accept="application/openmetrics-text;version=1.0.0", accept_encoding="gzip")


async def _stall(store: Store) -> float:
    metrics, worst, over = _metrics(store), 0.0, asyncio.Event()
    metrics.render("")

    async def tick() -> None:
        nonlocal worst
        while not over.is_set():
            asked = time.perf_counter()
            await asyncio.sleep(0)
            worst = max(worst, time.perf_counter() - asked)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(_scrape(metrics) for _ in range(_SCRAPERS)))
    over.set()
    await ticking
    return worst
