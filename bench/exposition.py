"""A scrape of /metrics on a node of 500 containers with a limit each: its cost, and how long it holds others up."""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import itertools
import os
import random
import statistics
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.measure import Figure, best_cpu
from collector.intake import Intake
from collector.model import ContainerId
from collector.pipeline import Pipeline
from collector.sinks.container_series import ContainerSeries, MemoryNow, Running, TrendNow
from collector.sinks.http import Server
from collector.sinks.metrics import Metrics
from collector.sources.kmsg import KmsgLog
from collector.state.batch import ContainerName, Retention
from collector.state.store import Store
from tests import lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CONTAINERS = 500
_ROUNDS = 30
_SCRAPERS = 4
_LIMIT = 256 << 20
_KILLS = 100
_KILL_ROUNDS = 4
_SCRAPING_SECONDS = 0.05 * _KILLS
_HEADERS = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), boot_id=None, retention=Retention(), at=datetime.now(UTC))
        metrics = _metrics(store)
        count = metrics.render("")[0].count(b"\n")
        plain, gzipped = best_cpu([lambda: metrics.render(""), lambda: asyncio.run(_scrape(metrics))], rounds=_ROUNDS)
        stall = statistics.median(asyncio.run(_stall(store)) for _ in range(_ROUNDS))
        store.close()
    alone, beside, scrapes = asyncio.run(_kill_latencies())
    what = f"scrape at {CONTAINERS} containers"
    yield Figure(
        what=f"{what}: CPU", value=plain * 1e3, unit="ms", must=10, aim=4, note=f"{count:,} lines, to the body"
    )
    note = "in an event loop of its own, made and ended for it"
    yield Figure(what=f"{what}, with gzip: CPU", value=gzipped * 1e3, unit="ms", must=30, aim=15, note=note)
    note = f"how late a timer is while {_SCRAPERS} scrape at once, with gzip; the median of {_ROUNDS} times"
    yield Figure(what=f"{what}: longest stall", value=stall * 1e3, unit="ms", must=8, aim=4, note=note)
    what = f"kill record to counter while {_SCRAPERS} scrape {CONTAINERS} containers without a pause"
    for percent, must, aim in ((50, 10, 4), (99, 50, 8)):
        without, loaded = (_percentile(each, percent) for each in (alone, beside))
        note = f"{loaded / without:.1f} times the {without * 1e3:.2f} ms without them"
        if percent == 50:
            note += f", in turns, {len(alone)} kills each; {scrapes:.0f} scrapes/s, with gzip, over HTTP"
        yield Figure(what=f"{what}: p{percent}", value=loaded * 1e3, unit="ms", must=must, aim=aim, note=note)


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _metrics(store: Store) -> Metrics:
    containers = ContainerSeries(kills=lambda: store.container_kills, hold_seconds=60, now=time.monotonic)
    names = [ContainerName("shop", f"cart-6c8f9d7b54-{number:05d}", "cart") for number in range(CONTAINERS)]
    running = [Running(name, ContainerId(f"{number:064x}"), _LIMIT) for number, name in enumerate(names)]
    memory = {
        ContainerId(f"{number:064x}"): MemoryNow(40_000_000 + number * 4096, _LIMIT) for number in range(CONTAINERS)
    }
    trends = {identity: TrendNow(1024.5 + number, 86_400.5 - number) for number, identity in enumerate(memory)}
    containers.running, containers.memory, containers.trends = lambda: running, lambda: memory, lambda: trends
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


async def _kill_latencies() -> tuple[list[float], list[float], float]:
    """
    Seconds from the write of a kill's last record to its commit: while nobody scrapes, and while all do, as fast as
    they can; so many times a second.
    """
    alone: list[float] = []
    beside: list[float] = []
    scrapes = 0
    with tempfile.TemporaryDirectory() as directory:
        pipe = Path(directory) / "kmsg"
        os.mkfifo(pipe)
        async with _agent(Path(directory), pipe) as (url, counted):
            # Others' processes, so that what clients cost delays the agent as little as on another machine.
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as clients:
                loop = asyncio.get_running_loop()
                for turn in range(2 * _KILL_ROUNDS):
                    counted.clear()
                    scrapers = _SCRAPERS if turn % 2 else 0
                    scraping = loop.run_in_executor(clients, _scrape_for, url, scrapers)
                    written = await loop.run_in_executor(clients, _write_kills, pipe, turn * _KILLS)
                    scrapes += await scraping
                    times = (seen - begin for begin, seen in zip(written, counted, strict=True))
                    (beside if scrapers else alone).extend(times)
    return alone, beside, scrapes / (_KILL_ROUNDS * _SCRAPING_SECONDS)


@asynccontextmanager
async def _agent(directory: Path, pipe: Path) -> AsyncIterator[tuple[str, list[float]]]:
    """The way of a kill from the device to the counter, and where that is scraped. Yields when each was counted."""
    store = Store(directory / "state", boot_id="b", retention=Retention(), at=datetime.now(UTC))
    metrics, counted = _metrics(store), list[float]()
    metrics.observe_kill = lambda seconds: counted.append(time.monotonic())  # type: ignore[method-assign]  # noqa: ARG005 -- at the commit
    intake = Intake(Pipeline(boot_id="b"), store, metrics, on_settled=lambda _: None)
    server = Server(
        metrics,
        version="0",
        not_ready=lambda: None,
        on_shown=lambda shown: store.keep_shown(shown, datetime.now(UTC)),
    )
    host, port = await server.start("127.0.0.1", 0)
    intake.start()
    writer = os.open(pipe, os.O_RDWR)  # a reader alone would meet an end of file
    reading = asyncio.create_task(KmsgLog(boot_id="b", path=pipe).run(intake, None))
    try:
        yield f"http://{host}:{port}", counted
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        os.close(writer)
        intake.stop()
        await server.stop()
        store.close()


def _write_kills(pipe: Path, number: int) -> list[float]:
    """When the last record of each was written."""
    fd = os.open(pipe, os.O_WRONLY)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)  # one record a read(2), as the device gives them
    written = []
    for pid in range(1000 + number, 1000 + number + _KILLS):
        time.sleep(random.uniform(0.03, 0.05))
        records = [
            lines.raw(text, pid * 100 + place, 1_000_000 + pid * 1000 + place)
            for place, text in enumerate(lines.report(pid=pid))
        ]
        for record in records[:-1]:
            os.write(fd, record)
        written.append(time.monotonic())
        os.write(fd, records[-1])
    time.sleep(0.1)
    os.close(fd)
    return written


def _scrape_for(url: str, scrapers: int) -> int:
    """How often in all."""
    until, count = time.monotonic() + _SCRAPING_SECONDS, itertools.count()

    def scrape() -> None:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
        while time.monotonic() < until:
            connection.request("GET", "/metrics", headers=_HEADERS)
            connection.getresponse().read()
            next(count)
        connection.close()

    threads = [threading.Thread(target=scrape) for _ in range(scrapers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return next(count)
