"""The standalone agent, in a process of its own."""

from __future__ import annotations

import fcntl
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.measure import MIB, Figure, cpu_seconds, rss_bytes
from tests import lines
from tests.agent_process import AgentProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

_STARTS = 5
_IMPORTS = "import asyncio, prometheus_client, aiohttp.web; print(flush=True); input()"


def measure_idle(seconds: float) -> Iterator[Figure]:
    imports_cpu, imports_rss = _measure_imports()
    starts = []
    for _ in range(_STARTS):
        with tempfile.TemporaryDirectory() as directory, _agent(Path(directory)) as agent:
            agent.get("/metrics")
            starts.append(cpu_seconds(agent.pid))
    with tempfile.TemporaryDirectory() as directory, _agent(Path(directory)) as agent:
        agent.get("/metrics")
        time.sleep(2)
        before, start = cpu_seconds(agent.pid), time.monotonic()
        time.sleep(seconds)
        idle = (cpu_seconds(agent.pid) - before) / (time.monotonic() - start)
        rss = rss_bytes(agent.pid)
    yield Figure(
        what="standalone agent, idle: RSS",
        value=rss / MIB,
        unit="MiB",
        must=42,
        aim=36,
        note=f"{imports_rss / MIB:.1f} MiB for asyncio, prometheus_client and aiohttp.web alone",
    )
    yield Figure(
        what="standalone agent, idle: CPU",
        value=idle * 100,
        unit="%",
        must=0.05,
        aim=0.02,
        note=f"of one core, over {seconds:g} s",
    )
    yield Figure(
        what="standalone agent, start to the first answer on /metrics: CPU",
        value=min(starts),
        unit="s",
        must=0.6,
        aim=0.35,
        note=f"{imports_cpu:.2f} s for these imports alone; best of {_STARTS}",
    )


def measure_latency(kills: int = 200) -> Iterator[Figure]:
    """Through a pipe in packet mode in place of the device: without the tick that printk may take to wake readers."""
    with tempfile.TemporaryDirectory() as directory:
        pipe = Path(directory) / "kmsg"
        os.mkfifo(pipe)
        fd = os.open(pipe, os.O_RDWR)
        # One record a read(2), as the device gives them. open(2) refuses the flag for a named pipe.
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        try:
            with _agent(Path(directory), "--kernel-log", "kmsg", "--kmsg-path", str(pipe)) as agent:
                agent.until(agent.ready)
                seen, scrapes = _time_kills(agent, fd, kills)
        finally:
            os.close(fd)
    cuts = statistics.quantiles(seen, n=100, method="inclusive")
    note = (
        f"{kills} reports, one each 20 ms; of it one scrape {statistics.median(scrapes) * 1e3:.1f} ms;"
        " on a real kernel: make test-kernel"
    )
    what = "kill record to counter visible in a scrape, through a pipe"
    yield Figure(what=f"{what}: p50", value=cuts[49] * 1e3, unit="ms", must=10, aim=4, note=note)
    yield Figure(what=f"{what}: p99", value=cuts[98] * 1e3, unit="ms", must=50, aim=8)


def _time_kills(agent: AgentProcess, fd: int, kills: int) -> tuple[list[float], list[float]]:
    scraper = _Scraper(agent.url)
    seen, scrapes = [], []
    sequence = 0
    for number in range(kills):
        time.sleep(0.02)
        start = time.monotonic()
        assert scraper.kills() == number
        scrapes.append(time.monotonic() - start)
        texts = lines.report(pid=1000 + number)
        for text in texts:
            sequence += 1
            record = lines.raw(text, sequence, 1_000_000 + sequence * 10)
            start = time.monotonic()  # at last: when the kill line was printed
            os.write(fd, record)
        while scraper.kills() == number:
            pass
        seen.append(time.monotonic() - start)
    return seen, scrapes


class _Scraper:
    """One connection that stays open, as Prometheus keeps it."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)

    def kills(self) -> int:
        self._connection.request("GET", "/metrics")
        text = self._connection.getresponse().read().decode()
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("oom_kills_total{")]
        return round(sum(map(float, values)))


def _agent(directory: Path, *arguments: str) -> AgentProcess:
    return AgentProcess("--state-dir", str(directory / "state"), *arguments, directory=directory)


def _measure_imports() -> tuple[float, int]:
    process = subprocess.Popen([sys.executable, "-c", _IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        used = cpu_seconds(process.pid), rss_bytes(process.pid)
        process.kill()
    return used
