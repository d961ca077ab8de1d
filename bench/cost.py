"""
What a cluster pays for the agent, from real reflectors and deliveries at the double: see docs/cost.md, whose tables
between the marks are written by `python -m bench.cost --write`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bench import kubernetes, skipping
from bench.api_process import NODE
from bench.fleet import Fleet
from bench.pods import NAMESPACE, make_pod
from collector.kube.access import Access
from collector.kube.client import KubeClient
from collector.sinks.delivery import Delivery, Letter, Limits
from collector.sinks.kube_event import event_key
from collector.sinks.kube_events import PodEvents
from tests.kube.api_server import ApiServer
from tests.kube.events_api import EventsApi
from tests.sinks.letters import document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Rows: TypeAlias = "Mapping[str, tuple[float, str]]"

PAGE = Path("docs/cost.md")
SIZES = (100, 1_000, 5_000)
NODES = 150
HERD = 1_000
PODS = 30
REPLACED_EVERY = 600.0
_HOUR = 3600.0
_MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
_SETTLED = 120.0
_MARKS = re.compile(r"(?<=<!-- measured: begin -->\n).*(?=<!-- measured: end -->)", re.DOTALL)


# API requests and watch traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Of all nodes that were simulated."""

    start_requests: int
    start_bytes: int
    idle_requests: int
    idle_bytes: int
    busy_requests: int
    busy_bytes: int
    busy_events: int


class Herd(NamedTuple):
    """Requests in the busiest second of HERD nodes."""

    start: int
    after_break: int


async def _simulate_herd() -> Herd:
    """Without pods: it is requests that come all at once."""
    loop = asyncio.get_running_loop()
    fleet = Fleet(HERD, pods=0)
    began = loop.time()
    async with fleet.running():
        await asyncio.sleep(_SETTLED)
        start, broke = fleet.busiest_second(began), loop.time()
        fleet.server.abort()
        await asyncio.sleep(_SETTLED)
        assert fleet.server.watch_count == HERD
        return Herd(start, fleet.busiest_second(broke))


async def _simulate_reflectors() -> Traffic:
    loop = asyncio.get_running_loop()
    fleet = Fleet(NODES, pods=PODS)
    async with fleet.running():
        await asyncio.sleep(_SETTLED)
        assert all(node.is_up for node in fleet.nodes)
        started = fleet.requests, fleet.received
        await asyncio.sleep(_HOUR)
        idle = fleet.requests - started[0], fleet.received - started[1]
        before = fleet.requests, fleet.received, fleet.events
        await _replace_pods(fleet, loop.time() + _HOUR)
        busy = fleet.requests - before[0], fleet.received - before[1], fleet.events - before[2]
    return Traffic(
        start_requests=started[0],
        start_bytes=started[1],
        idle_requests=idle[0],
        idle_bytes=idle[1],
        busy_requests=busy[0],
        busy_bytes=busy[1],
        busy_events=busy[2],
    )


async def _replace_pods(fleet: Fleet, end: float) -> None:
    """On each node a pod goes and another comes every REPLACED_EVERY seconds; nodes in turns, as in a steady state."""
    loop = asyncio.get_running_loop()
    pause = REPLACED_EVERY / NODES
    number = NODES * PODS
    while loop.time() < end:
        for node, pods in zip(fleet.nodes, fleet.pods, strict=True):
            number += 1
            old, new = pods.pop(0), make_pod(number, node.name)
            status, new["status"] = new["status"], {"phase": "Pending", "qosClass": "Burstable"}
            new = fleet.server.create(new)  # bound to its node
            fleet.server.update({**new, "status": {**status, "phase": "Pending"}})  # its containers are being made
            pods.append(fleet.server.update({**new, "status": status}))  # it runs
            metadata = {**old["metadata"], "deletionTimestamp": "2026-11-21T10:00:00Z"}  # type: ignore[dict-item]
            fleet.server.update({**old, "metadata": metadata})
            fleet.server.update({**old, "metadata": metadata})  # its containers have ended
            fleet.server.delete(NAMESPACE, metadata["name"])
            await asyncio.sleep(pause)


# Events


class Plague(NamedTuple):
    """containers: of a node, each killed again and again, every so many seconds. For two hours: buckets start full."""

    what: str
    containers: int
    every: float


PLAGUES = (
    Plague("one container, killed every 5 minutes (CrashLoopBackOff at its longest)", 1, 300.0),
    Plague("10 containers, each killed every 5 minutes", 10, 300.0),
    Plague("110 containers, each killed every minute: the worst", 110, 60.0),
)


class Toll(NamedTuple):
    """Of a node: kills in an hour, and the requests that wrote its Events in the first and in the second hour."""

    kills: float
    first: int
    later: int


class _Outbox:
    """As the store has it: what waits under one key is one letter."""

    def __init__(self) -> None:
        self._waiting: dict[str, Letter] = {}
        self._counts: Counter[str] = Counter()

    def put(self, letter: Letter) -> None:
        self._counts[letter.key] += 1
        before = self._waiting.get(letter.key, letter)
        ids = before.ids if before is letter else (*before.ids, *letter.ids)
        count = self._counts[letter.key]
        self._waiting[letter.key] = Letter(
            ids=ids,
            key=letter.key,
            document=letter.document,
            count=count,
            first_at=before.first_at,
            last_at=letter.last_at,
            event_uid=letter.event_uid,
        )

    def letters(self, sink: str, limit: int) -> list[Letter]:  # noqa: ARG002 - there is one
        return list(self._waiting.values())[:limit]

    def done(self, sink: str, ids: Sequence[str], outcome: str) -> None:  # noqa: ARG002
        sent = set(ids)
        for key, letter in list(self._waiting.items()):
            if sent & set(letter.ids):
                del self._waiting[key]


async def _simulate_events(plague: Plague) -> Toll:
    """A real delivery of Events with its token buckets, at the double."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    events = EventsApi(NAMESPACE)
    server = ApiServer(events.mount)
    await server.start()

    async def load() -> Access:
        return Access(server=f"http://127.0.0.1:{server.port}")

    def now() -> datetime:
        return _MIDNIGHT + timedelta(seconds=loop.time() - began)

    client = KubeClient(load, user_agent="bench")
    outbox = _Outbox()
    delivery = Delivery(
        PodEvents(client), outbox, max_age=timedelta(hours=1), limits=Limits(), now=now, clock=loop.time
    )
    running = asyncio.create_task(delivery.run())
    try:
        hours = []
        for _ in range(2):
            before, end = len(events.requests), loop.time() + _HOUR
            await _kill(plague, outbox, delivery, now, until=end)
            hours.append(len(events.requests) - before)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()
        await server.stop()
    assert all(status < 300 or status == 404 for _, _, status in events.requests)
    return Toll(plague.containers * _HOUR / plague.every, hours[0], hours[1])


async def _kill(
    plague: Plague, outbox: _Outbox, delivery: Delivery, now: Callable[[], datetime], *, until: float
) -> None:
    loop = asyncio.get_running_loop()
    victims = [_victim(number) for number in range(plague.containers)]
    number = 0
    while loop.time() < until:
        at, told = now(), victims[number % plague.containers]
        outbox.put(
            Letter(
                ids=(str(at),),
                key=event_key(told, at),
                document=told,
                count=1,
                first_at=at,
                last_at=at,
                event_uid=told["pod"]["uid"],
            )
        )
        delivery.wake()
        number += 1
        await asyncio.sleep(plague.every / plague.containers)


def _victim(number: int) -> dict[str, Any]:
    pod = make_pod(number, NODE)["metadata"]
    return document(pod__namespace=NAMESPACE, pod__name=pod["name"], pod__uid=pod["uid"])


# Series


class Scrape(NamedTuple):
    series: int
    size: int


def _scrape() -> Scrape:
    """The /metrics of a real agent with 110 pods."""
    with kubernetes.running_agent(pods=110) as agent:
        text = agent.get("/metrics")[1]
    return Scrape(sum(not line.startswith("#") for line in text.splitlines()), len(text.encode()))


# The page


def _tables() -> Iterator[str]:
    traffic = skipping.run(_simulate_reflectors())
    yield _table("API requests", _request_rows(traffic, skipping.run(_simulate_herd())))
    yield _table("Watch traffic", _traffic_rows(traffic))
    tolls = [(plague, skipping.run(_simulate_events(plague))) for plague in PLAGUES]
    yield _event_table(tolls)
    scrape = _scrape()
    rows = {"series": (scrape.series, "{:,.0f}"), "/metrics, uncompressed, kB a scrape": (scrape.size / 1e3, "{:,.0f}")}
    yield _table("Prometheus", rows, of=1)


def _request_rows(traffic: Traffic, herd: Herd) -> Rows:
    start, after_break = (count * NODES / HERD for count in herd)
    return {
        "all agents start in one moment: requests": (traffic.start_requests, "{:,.0f}"),
        "- in the busiest second": (start, "{:,.0f}"),
        "- lists of pods, MB in all": (traffic.start_bytes / 1e6, "{:,.0f}"),
        "a tenth of them at once, as `maxUnavailable: 10%`: requests in the busiest second": (start / 10, "{:,.0f}"),
        "all watches break in one moment: requests in the busiest second": (after_break, "{:,.0f}"),
        "idle: requests a second": (traffic.idle_requests / _HOUR, "{:,.2f}"),
        "pods come and go: requests a second": (traffic.busy_requests / _HOUR, "{:,.2f}"),
    }


def _traffic_rows(traffic: Traffic) -> Rows:
    return {
        "idle (bookmarks): kB a second": (traffic.idle_bytes / _HOUR / 1e3, "{:,.2f}"),
        "pods come and go: watch events a second": (traffic.busy_events / _HOUR, "{:,.2f}"),
        "pods come and go: kB a second": (traffic.busy_bytes / _HOUR / 1e3, "{:,.1f}"),
    }


def _table(title: str, rows: Rows, *, of: int = NODES) -> str:
    """rows: what `of` nodes cost, and how to write it."""
    head = f"| {title} | {' | '.join(f'{size:,} nodes' for size in SIZES)} |\n|---|{'---:|' * len(SIZES)}"
    lines = (
        f"| {what} | {' | '.join(form.format(value * size / of) for size in SIZES)} |"
        for what, (value, form) in rows.items()
    )
    return "\n".join([head, *lines])


def _event_table(tolls: Sequence[tuple[Plague, Toll]]) -> str:
    sizes = " | ".join(f"1 % of {size:,} nodes" for size in SIZES)
    head = (
        f"| Event writes an hour, where a node has | kills | node, first hour | node, later | {sizes} |\n"
        f"|---|{'---:|' * (3 + len(SIZES))}"
    )
    lines = (
        f"| {plague.what} | {toll.kills:,.0f} | {toll.first} | {toll.later} | "
        f"{' | '.join(f'{toll.later * size / 100:,.0f}' for size in SIZES)} |"
        for plague, toll in tolls
    )
    return "\n".join([head, *lines])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {PAGE}")
    write = parser.parse_args().write
    began = time.monotonic()
    tables = []
    for table in _tables():
        tables.append(table)
        print(table, end="\n\n", flush=True)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if write:
        PAGE.write_text(_MARKS.sub("\n" + "\n\n".join(tables).replace("\\", r"\\") + "\n\n", PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
