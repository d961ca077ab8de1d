"""
Whether increase() sees every kill, however agents come and go between scrapes.

State file, counters and series are real; the clock is not, and Prometheus is a sum: what a target showed more than at
its first scrape. A new process is a new target, as a new pod is.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.model import ContainerId
from collector.sinks.container_series import ContainerSeries, Running
from collector.sinks.metrics import Metrics
from collector.state.batch import KILLS, Retention
from collector.state.store import Store
from tests.state.test_container_kills import CART, named
from tests.state.test_store import AT, BOOT, batch, entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.sinks.metrics import Answer

HOLD, INTERVAL = 60.0, 15.0
FAMILIES = ("oom_kills_total", "oom_killed_processes_total", "oom_container_kills_total")


class Node:
    """Every kill is of cause `node`, of one process, of one container, and named at once."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.kills = self.early = 0
        self.seen = dict.fromkeys(FAMILIES, 0.0)
        self._runner = asyncio.Runner()
        self._ids = map(str, itertools.count())
        self._directory = directory
        self._former: dict[str, float] | None = None
        self._store: Store | None = None
        self.restart()

    def restart(self) -> None:
        """kill -9, and a new pod in its place."""
        if self._store is not None:
            self._store.close()
        store = Store(self._directory, boot_id=BOOT, retention=Retention(), at=AT)
        self._containers = ContainerSeries(kills=lambda: store.container_kills, hold_seconds=HOLD, now=lambda: self.now)
        self._containers.running = lambda: [Running(CART, ContainerId("c"), 1 << 20)]
        self._metrics = Metrics(
            version="0",
            sources=(),
            counters=lambda: store.counters,
            hold_seconds=HOLD,
            now=lambda: self.now,
            containers=self._containers,
        )
        self._metrics.hold(store.unseen())
        self._store, self._former, self._early = store, None, 0

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._store is not None
        self._store.close()
        self._runner.close()

    def kill(self, *, live: bool = True) -> None:
        assert self._store is not None
        identity = next(self._ids)
        self._metrics.hold(self._store.apply(batch(entry(identity, live=live))).late)
        self._store.apply(named(identity))
        self.kills += 1
        # A node's zeros are not held: of a target that was never scraped they cannot have been seen.
        self._early += live and self._former is None

    def scrape(self, *, and_die: bool = False) -> dict[str, float]:
        """By family, the sum of its series. and_die: before the agent could note that its answer was sent."""
        assert self._store is not None
        self.now += INTERVAL
        answer, other = (self._answer() for _ in range(2))
        assert other == answer, "two scrapers read the same"
        shown = dict(_sums(answer.body.decode()))
        if self._former is None:
            self.early += self._early
        else:
            for name in FAMILIES:
                assert shown[name] >= self._former[name]
                self.seen[name] += shown[name] - self._former[name]
        self._former = shown
        if and_die:
            self.restart()
        else:
            self._store.keep_shown(answer.shown, AT)
        assert shown["oom_container_kills_total"] <= shown["oom_kills_total"] <= shown["oom_killed_processes_total"]
        return shown

    def _answer(self) -> Answer:
        return self._runner.run(self._metrics.answer(accept="", accept_encoding=""))

    def scrape_until_all_is_shown(self) -> None:
        for _ in range(int(HOLD / INTERVAL) + 2):
            self.scrape()


def _sums(text: str) -> Iterator[tuple[str, float]]:
    for name in FAMILIES:
        yield name, sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def test_a_kill_that_no_scrape_saw_before_the_agent_was_replaced_is_an_increase_after_the_hold(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        node.scrape()
        node.kill()
        node.restart()
        node.now += 3600  # until Prometheus has found the new pod
        assert node.scrape() == dict.fromkeys(FAMILIES, 0)
        node.now += HOLD - INTERVAL - 1
        assert node.scrape() == dict.fromkeys(FAMILIES, 0)
        assert node.scrape() == dict.fromkeys(FAMILIES, 1)


@pytest.mark.parametrize("restarts", [0, 1, 2])
def test_kills_that_were_shown_are_no_increase_after_a_restart(restarts: int, tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        node.scrape()
        node.kill()
        node.scrape_until_all_is_shown()
        for _ in range(restarts):
            node.restart()
        assert node.scrape() == dict.fromkeys(FAMILIES, 1)


_STEPS = ("kill", "kill of the downtime", "scrape", "scrape and die", "die")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(_STEPS), max_size=25))
def test_whenever_the_agent_dies_no_kill_is_hidden_from_increase(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory, Node(Path(directory)) as node:
        for step in steps:
            match step:
                case "kill":
                    node.kill()
                case "kill of the downtime":
                    node.kill(live=False)
                case "scrape":
                    node.scrape()
                case "scrape and die":
                    node.scrape(and_die=True)
                case _:
                    node.restart()
        node.scrape_until_all_is_shown()
        seen = node.seen | {name: node.seen[name] + node.early for name in FAMILIES[:2]}
        if "scrape and die" not in steps:
            assert seen == dict.fromkeys(FAMILIES, node.kills)
        assert min(seen.values()) >= node.kills


async def test_scrapes_in_the_middle_of_a_burst_are_each_of_one_moment(tmp_path: Path) -> None:
    kills = 200
    with closing(Store(tmp_path, boot_id=BOOT, retention=Retention(), at=AT)) as store:
        containers = ContainerSeries(kills=lambda: store.container_kills, hold_seconds=0, now=lambda: 0.0)
        metrics = Metrics(
            version="0",
            sources=(),
            counters=lambda: store.counters,
            hold_seconds=0,
            now=lambda: 0.0,
            containers=containers,
        )

        async def burst() -> None:
            for number in range(0, kills, 2):
                pair = str(number), str(number + 1)
                store.apply(batch(*(entry(identity, members=2) for identity in pair)))
                await asyncio.sleep(0)
                store.apply(named(*pair, container=CART._replace(pod=f"cart-{number % 7}")))
                await asyncio.sleep(0)

        async def scrapes() -> list[dict[str, float]]:
            seen = []
            while not bursting.done():
                answer = await metrics.answer(accept="", accept_encoding="gzip")
                seen.append(dict(_sums(gzip.decompress(answer.body).decode())))
                assert answer.shown.counters[KILLS, "node"] == seen[-1]["oom_kills_total"]
            return seen

        bursting = asyncio.create_task(burst())
        scrapers = [asyncio.create_task(scrapes()) for _ in range(4)]
        for seen in [await scraper for scraper in scrapers]:
            for shown, later in itertools.pairwise(seen):
                assert all(shown[name] <= later[name] for name in FAMILIES)
            for shown in seen:
                # Of a pair and its members, all are counted or none; its container comes one commit later.
                assert shown["oom_kills_total"] % 2 == 0
                assert shown["oom_killed_processes_total"] == 3 * shown["oom_kills_total"]
                assert shown["oom_kills_total"] - shown["oom_container_kills_total"] in (0, 2)
        assert len({shown["oom_kills_total"] for shown in seen}) > 5
