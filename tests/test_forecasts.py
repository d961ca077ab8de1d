"""From the histories of containers to the Event of the one that leaks: over restarts, outages and days."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from collector.cluster import Cluster
from collector.config import read_config
from collector.diagnosis import forecast as module
from collector.diagnosis.forecast import look
from collector.forecasts import PASS_CPU_SECONDS, SLICE_SECONDS, STEADY_SECONDS, Forecasts
from collector.history import Bounds, History, Key, Sample
from collector.model import ContainerId, MemcgPath
from collector.rollouts import Rollouts
from collector.sinks.container_series import ContainerSeries, MemoryNow
from collector.sinks.delivery import Delivery, Limits
from collector.sinks.kube_events import ForecastEvents
from collector.state.batch import DELIVERIES, Retention
from collector.state.store import Store
from collector.witnesses import Watched
from tests.kube.events_api import Fault
from tests.sinks.letters import served, until
from tests.sinks.test_kube_events import Server, connected

if TYPE_CHECKING:
    from collector.kube.client import KubeClient
    from collector.sinks.metrics import Metrics

BOOT = "74ab0d27-9555-4c6f-b9b7-2f2ea5ef371e"
HOUR = 3600.0
MIB = 1 << 20
LEAK = 50 * MIB
"""An hour."""
CALM = 20
NODE = "node-1"


def container_id(name: str) -> ContainerId:
    return ContainerId(name.encode().hex().ljust(64, "0"))


def pod(name: str, *, revision: str = "7d4b9c") -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{name}-{revision}-x2x9k",
            "namespace": "shop",
            "uid": f"uid of {name}",
            "labels": {"pod-template-hash": revision},
            "ownerReferences": [{"controller": True, "kind": "ReplicaSet", "name": f"{name}-{revision}"}],
        },
        "spec": {"containers": [{"name": "app", "image": f"{name}:1"}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {
                    "name": "app",
                    "containerID": f"containerd://{container_id(name)}",
                    "state": {"running": {"startedAt": "2026-11-20T20:00:00Z"}},
                }
            ],
        },
    }


class World:
    """What outlives the agent: the clock, the tree, the state directory. `limits`: None: there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.monotonic = 1_000_000.0
        self.now = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
        self.history = History(boot_id=BOOT)
        self.grows = {"leaky": LEAK, **{f"calm-{number}": 0 for number in range(CALM)}}
        self.limits: dict[str, int | None] = dict.fromkeys(self.grows, 1200 * MIB)
        self.used = dict.fromkeys(self.grows, 100.0 * MIB)
        self._chance = random.Random(1)

    @property
    def leaky(self) -> ContainerId:
        return container_id("leaky")

    def live(self, seconds: float, *, step: float = 60.0) -> None:
        """Memory is used and sampled."""
        for _ in range(round(seconds / step)):
            self.monotonic += step
            self.now += timedelta(seconds=step)
            for name, growth in self.grows.items():
                self.used[name] += growth * step / HOUR
                size = round(self.used[name] + self._chance.gauss(0, MIB))
                sample = Sample(size, size, size, 0, 0, 0, 0)
                bounds = Bounds(limit=self.limits[name], peak=None, stall_seconds=None)
                self.history.add(_key(name), sample, at=self.monotonic, bounds=bounds)

    def watched(self) -> list[Watched]:
        lives = {name: self.history.get(_key(name)) for name in self.grows}
        return [
            Watched(container_id(name), life, round(self.used[name]), self.limits[name])
            for name, life in lives.items()
            if life is not None
        ]

    def reboot_history(self) -> None:
        """As the agent's restart does it."""
        saved = [self.history.snapshot(_key(name)) for name in self.grows]
        self.history = History(boot_id=BOOT)
        for each in saved:
            self.history.restore(each, at=self.monotonic)


def _key(name: str) -> Key:
    return Key(MemcgPath(f"/kubepods/pod{name}/{container_id(name)}"), 1)


class Agent:
    """One life of it, with all that the forecasts rest on, and the delivery of their Events."""

    def __init__(self, world: World, *, horizon: float = 6 * HOUR, state: Path | None = None) -> None:
        self.world = world
        self.store = Store(state or world.directory / "state", boot_id=BOOT, retention=Retention(), at=world.now)
        metrics = cast("Metrics", SimpleNamespace(witness_up={}))
        client = cast("KubeClient", SimpleNamespace())
        config = read_config({"pod_logs": str(world.directory / "none")}, {})
        self.cluster = Cluster(config, client, self.store, metrics, is_alive=lambda container: None)
        self.cluster.state(True, None)
        for name in world.grows:
            self.cluster.put(pod(name))
        self.rollouts = Rollouts(self.cluster, self.store, now=lambda: world.now, clock=lambda: world.monotonic)
        self.forecasts = Forecasts(
            world.watched,
            self.cluster,
            self.store,
            self.rollouts,
            node=NODE,
            horizon=horizon,
            now=lambda: world.now,
            clock=lambda: world.monotonic,
        )
        self.series = ContainerSeries(kills=dict, hold_seconds=0.0, now=lambda: world.monotonic)
        self.series.running, self.series.trends = self.cluster.running, self.forecasts.trends
        self.series.memory = lambda: {
            one.id: MemoryNow(one.working_set_bytes, one.limit_bytes) for one in world.watched()
        }

    async def passes(self, count: int) -> None:
        for _ in range(count):
            self.world.live(60.0, step=10.0)
            await self.forecasts.look()

    def shown(self, family: str) -> dict[str, float]:
        """By pod."""
        lines = self.series.render(openmetrics=False).splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line.startswith(f"{family}{{"))
        return {labels.split('pod="')[1].split('"')[0]: float(value) for labels, value in samples}

    @property
    def waiting(self) -> list[dict[str, Any]]:
        return [dict(letter.document) for letter in self.forecasts.letters("forecast_event", 100)]

    def ended(self, outcome: str) -> int:
        """Events that came to this end."""
        return self.store.counters.get((DELIVERIES, f"forecast_event {outcome}"), 0)

    @asynccontextmanager
    async def delivering(self, client: KubeClient) -> AsyncIterator[Callable[[], None]]:
        """Yields what is to be called when there is something to be sent."""
        delivery = Delivery(
            ForecastEvents(client),
            self.forecasts,
            max_age=timedelta(hours=1),
            limits=Limits(),
            now=lambda: self.world.now,
        )
        task = asyncio.create_task(delivery.run())
        try:
            yield delivery.wake
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """18 h that one container leaks in: 100 to 1000 of 1200 MiB."""
    world = World(tmp_path_factory.mktemp("lived"))
    world.live(18 * HOUR)
    return {
        "saved": {name: world.history.snapshot(_key(name)) for name in world.grows},
        "used": dict(world.used),
        "monotonic": world.monotonic,
        "now": world.now,
    }


@pytest.fixture
def world(tmp_path: Path, lived: dict[str, Any]) -> World:
    made = World(tmp_path)
    made.monotonic, made.now, made.used = lived["monotonic"], lived["now"], dict(lived["used"])
    for saved in lived["saved"].values():
        made.history.restore(saved, at=made.monotonic)
    return made


@asynccontextmanager
async def api() -> AsyncIterator[tuple[Server, KubeClient]]:
    server = Server()
    async with served(server.app) as url, connected(url) as client:
        yield server, client


# The whole path


async def test_a_leak_among_calm_containers_is_told_once_a_day(world: World) -> None:
    """From the histories to metrics and the Event, over a restart of everything but the state directory."""
    started = world.now
    async with api() as (server, client):
        agent = Agent(world)
        async with agent.delivering(client) as wake:
            await agent.passes(7)
            wake()
            await until(lambda: server.api.events)
            await agent.passes(5)
            wake()
            await asyncio.sleep(0.1)
        assert agent.shown("oom_container_memory_growth_bytes_per_second") == {
            "leaky-7d4b9c-x2x9k": pytest.approx(LEAK / HOUR, rel=0.1)
        }
        # 1200 MiB less what 18 h and 12 min of 50 MiB made of 100.
        left = (1100 - 50 * (18 + 12 / 60)) / 50 * HOUR
        assert agent.shown("oom_container_memory_seconds_to_limit") == {
            "leaky-7d4b9c-x2x9k": pytest.approx(left, rel=0.15)
        }
        event = server.only()
        assert (event["reason"], event["regarding"]["name"]) == ("MemoryLimitForecast", "leaky-7d4b9c-x2x9k")
        assert agent.ended("delivered") == 1
        agent.store.close()

        world.reboot_history()
        agent = Agent(world)
        async with agent.delivering(client) as wake:
            await agent.passes(10)
            wake()
            await asyncio.sleep(0.1)
        assert server.asked == [("POST", 201)]

        world.grows["leaky"] = 0
        world.live(timedelta(hours=20).total_seconds())
        assert world.now.date() > started.date()
        await agent.passes(10)
        assert agent.waiting == []

        # Another leak, the day after: what is there from the day before is another Event.
        world.grows["leaky"] = LEAK
        world.limits = dict.fromkeys(world.limits, 3000 * MIB)
        world.live(26 * HOUR)
        world.limits = dict.fromkeys(world.limits, round(world.used["leaky"]) + 200 * MIB)
        async with agent.delivering(client) as wake:
            await agent.passes(10)
            wake()
            await until(lambda: len(server.api.events) == 2)
            await agent.passes(5)
            wake()
            await asyncio.sleep(0.1)
        assert server.asked == [("POST", 201)] * 2
        agent.store.close()


# When there is something to tell


async def test_a_trend_has_to_hold_before_anybody_is_told(world: World) -> None:
    agent = Agent(world)
    passes = 0
    while not agent.waiting:
        passes += 1
        await agent.passes(1)
        assert agent.shown("oom_container_memory_growth_bytes_per_second").keys() == {"leaky-7d4b9c-x2x9k"}
    assert (passes - 1) * 60 >= STEADY_SECONDS
    assert passes <= 10


async def test_a_trend_that_comes_and_goes_is_not_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(world)
    for _ in range(5):
        await agent.passes(4)
        assert agent.waiting == []
        monkeypatch.setattr(module, "look", lambda life, *, limit, now: None)
        await agent.passes(1)
        monkeypatch.undo()


async def test_between_two_looks_the_limit_comes_nearer(world: World) -> None:
    agent = Agent(world)
    await agent.passes(1)
    shown = [agent.forecasts.trends()[world.leaky].seconds_to_limit or 0.0]
    for seconds in (45, HOUR * 24):
        world.monotonic += seconds
        shown.append(agent.forecasts.trends()[world.leaky].seconds_to_limit or 0.0)
    assert shown == [shown[0], pytest.approx(shown[0] - 45), 0.0]


async def test_the_letter_tells_what_is_true_now(world: World) -> None:
    agent = Agent(world)
    await agent.passes(8)
    (first,) = agent.waiting
    await agent.passes(20)
    (later,) = agent.waiting
    told, told_later = first["forecast"], later["forecast"]
    assert told["seconds_to_limit"] - told_later["seconds_to_limit"] == pytest.approx(1200, abs=600)
    assert told_later["working_set_bytes"] == round(world.used["leaky"])
    assert told["limit_bytes"] == 1200 * MIB
    assert told["growth_bytes_per_hour"] == pytest.approx(LEAK, rel=0.1)
    assert later["container"] == {"id": world.leaky, "name": "app", "kind": "app"}
    assert later["pod"] == {"uid": "uid of leaky", "namespace": "shop", "name": "leaky-7d4b9c-x2x9k"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda world, agent: world.grows.pop("leaky"), id="the container is gone"),
        pytest.param(lambda world, agent: world.limits.update(leaky=None), id="no limit any more"),
        pytest.param(lambda world, agent: world.limits.update(leaky=9000 * MIB), id="a higher limit"),
        pytest.param(lambda world, agent: agent.cluster.delete(pod("leaky")), id="its pod is deleted"),
    ],
)
async def test_what_is_not_true_any_more_is_withdrawn(world: World, change: Callable[[World, Agent], None]) -> None:
    agent = Agent(world)
    await agent.passes(8)
    assert agent.waiting
    change(world, agent)
    await agent.passes(1)
    assert agent.waiting == []
    assert agent.shown("oom_container_memory_seconds_to_limit").keys() <= {"leaky-7d4b9c-x2x9k"}


async def test_a_trend_that_stops_takes_its_series_and_its_letter_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(world)
    await agent.passes(8)
    assert agent.waiting
    monkeypatch.setattr(module, "look", lambda life, *, limit, now: None)
    await agent.passes(1)
    assert agent.waiting == []
    assert agent.forecasts.trends() == {}


@pytest.mark.parametrize(
    ("horizon", "limit"),
    [
        pytest.param(0.0, 1200 * MIB, id="0: none does"),
        pytest.param(0.0, 900 * MIB, id="0, and the limit is met already"),
        pytest.param(HOUR, 1200 * MIB, id="the limit is farther away"),
    ],
)
async def test_beyond_the_horizon_there_are_metrics_only(world: World, horizon: float, limit: int) -> None:
    world.limits["leaky"] = limit
    agent = Agent(world, horizon=horizon)
    await agent.passes(8)
    assert agent.waiting == []
    assert agent.shown("oom_container_memory_seconds_to_limit").keys() == {"leaky-7d4b9c-x2x9k"}


async def test_without_the_api_nobody_is_told(world: World) -> None:
    agent = Agent(world)
    agent.cluster.delete(pod("leaky"))
    await agent.passes(8)
    assert agent.waiting == []
    assert agent.forecasts.trends().keys() == {world.leaky}


# What goes wrong


async def test_an_outage_of_the_api_delays_the_event(world: World) -> None:
    async with api() as (server, client):
        server.api.faults.extend([Fault(status=503, reason="ServiceUnavailable")] * 2)
        agent = Agent(world)
        async with agent.delivering(client) as wake:
            await agent.passes(8)
            wake()
            await until(lambda: server.api.events, seconds=15)
        assert [status for _, status in server.asked] == [503, 503, 201]
        assert agent.waiting == []


async def test_an_event_that_was_made_but_not_noted_is_not_made_again(world: World) -> None:
    """The agent was killed between the two: the server has it under this name."""
    async with api() as (server, client):
        for directory in ("lost", "state"):
            agent = Agent(world, state=world.directory / directory)
            async with agent.delivering(client) as wake:
                await agent.passes(8)
                wake()
                await until(partial(agent.ended, "delivered"))
            agent.store.close()
        assert server.asked == [("POST", 201), ("POST", 409)]
        assert len(server.api.events) == 1


async def test_what_the_server_refuses_is_not_asked_for_again_that_day(world: World) -> None:
    async with api() as (server, client):
        server.api.forbidden = True
        agent = Agent(world)
        async with agent.delivering(client) as wake:
            await agent.passes(8)
            wake()
            await until(partial(agent.ended, "refused"))
            await agent.passes(5)
            wake()
            await asyncio.sleep(0.1)
        assert server.asked == [("POST", 403)]


async def test_state_in_memory_is_as_good_until_the_agent_ends(world: World) -> None:
    """And what it knows comes to the disk with it."""
    blocked = world.directory / "blocked"
    blocked.write_text("")
    agent = Agent(world, state=blocked / "state")
    assert not agent.store.persistent
    await agent.passes(8)
    (letter,) = agent.forecasts.letters("forecast_event", 100)
    agent.forecasts.done("forecast_event", letter.ids, "delivered")
    await agent.passes(2)
    assert agent.waiting == []
    blocked.unlink()
    assert agent.store.retry(world.now)
    await agent.passes(2)
    assert agent.waiting == []
    agent.store.close()
    again = Agent(world, state=blocked / "state")
    await again.passes(8)
    assert again.waiting == []


async def test_a_clock_that_goes_back_does_not_take_the_trend_away(world: World) -> None:
    agent = Agent(world)
    await agent.passes(4)
    world.now -= timedelta(days=2)
    await agent.passes(4)
    assert len(agent.waiting) == 1


async def test_a_container_that_the_statistics_stumble_over_is_passed_by(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = world.history.get(_key("calm-3"))

    def stumble(life: Any, *, limit: int | None, now: float) -> Any:
        return 1 / 0 if life is broken else look(life, limit=limit, now=now)

    monkeypatch.setattr(module, "look", stumble)
    agent = Agent(world)
    with caplog.at_level(logging.ERROR):
        await agent.passes(8)
    assert len(agent.waiting) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# What it costs


async def test_a_pass_ends_when_it_took_its_time_and_the_next_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []

    def expensive(life: Any, *, limit: int | None, now: float) -> Any:
        looked.append(life)
        end = time.thread_time() + PASS_CPU_SECONDS / 8
        while time.thread_time() < end:
            pass
        return look(life, limit=limit, now=now)

    monkeypatch.setattr(module, "look", expensive)
    agent = Agent(world)
    passes = 0
    while len(set(map(id, looked))) < CALM + 1:
        passes += 1
        before = len(looked)
        await agent.passes(1)
        assert len(looked) - before <= 8
    assert 3 <= passes <= 6
    assert len(looked) <= CALM + 1 + 7, "none twice before each was looked at"


async def test_others_have_the_event_loop_in_between(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = 0

    def slow(life: Any, *, limit: int | None, now: float) -> None:
        counts.append(beats)
        time.sleep(2 * SLICE_SECONDS)

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    counts: list[int] = []
    monkeypatch.setattr(module, "look", slow)
    agent = Agent(world)
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    await agent.passes(1)
    beating.cancel()
    assert len(set(counts)) == len(counts) == CALM + 1


@pytest.mark.parametrize("containers", [0, 1])
async def test_with_containers_all_is_loaded_before_the_first_kill(containers: int) -> None:
    """It takes a while, in which kills would be read late."""
    loaded: list[None] = []
    nobody = cast("Any", None)
    watched = [cast("Watched", nobody)] * containers
    made = Forecasts(
        *(lambda: watched, nobody, nobody, nobody), node=None, horizon=0, on_containers=lambda: loaded.append(None)
    )
    task = asyncio.create_task(made.run(lambda: None))
    await asyncio.sleep(0.05)
    task.cancel()
    assert len(loaded) == containers
