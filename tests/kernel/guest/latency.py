"""From the kernel's kill record to the counter on /metrics, beside a reader that does nothing but read."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .agent import Agent
from .containers import MIB, BareContainer, Pod
from .witness import KILL_LINE, Arrival, KernelLog

KILLS = 25
PAUSE_SECONDS = 0.55  # under the rate limit: each kill with its full report


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds after the record's own time stamp, over `kills` kills."""

    kills: int
    reader_p50: float
    reader_p99: float
    metric_p50: float
    metric_p99: float
    scrape_p50: float  # of one scrape alone: what the metric's figures hold beside the agent's own work


def stamp(record: bytes) -> float:
    """The record's own time, in seconds of the kernel log's clock."""
    return int(record.split(b",", 3)[2]) / 1e6


def next_arrival(log: KernelLog, position: int, wanted: bytes | None) -> Arrival:
    """The first record since `position` that has this text; None: that is a kill line."""
    while True:
        for arrival in log.arrivals[position:]:
            if wanted in arrival.record if wanted else KILL_LINE.match(arrival.record):
                return arrival
        time.sleep(0.0005)


def clock_offset(log: KernelLog) -> float:
    """CLOCK_MONOTONIC minus the kernel log's clock, which drifts from it: measured anew for each kill."""
    position, before = log.position(), time.monotonic()
    Path("/dev/kmsg").write_text("<6>clock\n")
    after = time.monotonic()
    return (before + after) / 2 - stamp(next_arrival(log, position, b";clock").record)


def measure(log: KernelLog, agent: Agent) -> dict[str, float]:
    container = BareContainer(Pod(driver="cgroupfs"), 8 * MIB)
    reader, metric, scrape = [], [], []
    for _ in range(KILLS):
        time.sleep(PAUSE_SECONDS)
        started, count = time.monotonic(), agent.total("oom_kills_total")
        scrape.append(time.monotonic() - started)
        offset, position = clock_offset(log), log.position()
        pid = container.start()
        arrival = next_arrival(log, position, None)
        while agent.total("oom_kills_total") == count:
            pass
        visible = time.monotonic()
        os.waitpid(pid, 0)
        killed = stamp(arrival.record) + offset
        reader.append(arrival.seconds - killed)
        metric.append(visible - killed)
    return asdict(
        Latency(
            kills=KILLS, reader_p50=p50(reader), reader_p99=p99(reader),
            metric_p50=p50(metric), metric_p99=p99(metric), scrape_p50=p50(scrape),
        )
    )  # fmt: skip


def p50(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1000, 1)


def p99(seconds: list[float]) -> float:
    return round(statistics.quantiles(seconds, n=100, method="inclusive")[98] * 1000, 1)
