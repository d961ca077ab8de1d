"""Which revision of a workload grows: from containers that run, over rollouts and restarts, to what a kill is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from collector.diagnosis.forecast import Trend
from collector.diagnosis.rollout import RevisionSeen
from collector.history import Life, Sample
from collector.state.store import Store
from collector.witnesses import Watched
from tests.test_forecasts import Agent, World, container_id, pod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3600.0
MIB = 1 << 20
WEB = "shop/Deployment/web/app"
LEAK = Trend(8 * MIB / HOUR, None, 0.0, HOUR, 0.9)


class Node(World):
    """Without containers at first."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.grows = {}
        self.agent = Agent(self)

    def run(self, shown: dict[str, Any]) -> None:
        self.agent.cluster.put(shown)

    def restart(self) -> None:
        self.agent.store.close()
        self.agent = Agent(self)

    @property
    def store(self) -> Store:
        return self.agent.store

    async def note(self, *seen: tuple[str, float, Trend | None]) -> None:
        """A container, how long it was watched until now, and its trend."""
        await self.agent.rollouts.note([(self._watched(name, seconds), trend) for name, seconds, trend in seen])

    def wait(self, seconds: float) -> None:
        self.monotonic += seconds
        self.now += timedelta(seconds=seconds)

    def _watched(self, name: str, seconds: float) -> Watched:
        life = Life()
        for step in range(11):
            life.add(Sample(MIB, MIB, MIB, 0, 0, 0, 0), None, self.monotonic - seconds * (1 - step / 10))
        return Watched(container_id(name), life, MIB, None)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.agent.store.close()


def web(revision: str, *, name: str = "web", **changes: Any) -> dict[str, Any]:
    """A pod of the Deployment web whose container is that of container_id(name). changes: of its metadata."""
    made = pod(name, revision=revision)
    made["metadata"] |= {
        "uid": f"uid of {name} {revision}",
        "ownerReferences": [{"controller": True, "kind": "ReplicaSet", "name": f"web-{revision}"}],
        **changes,
    }
    made["spec"]["containers"][0]["image"] = f"web:{revision}"
    return made


def seen(node: Node, workload: str = WEB) -> dict[str, float | None]:
    """Growth in MiB an hour, by revision."""
    growths = {one.revision: one.growth_bytes_per_hour for one in node.store.revisions(workload)}
    return {revision: growth and growth / MIB for revision, growth in growths.items()}


@pytest.mark.parametrize(
    ("seconds", "trend", "growth"),
    [
        pytest.param(2 * HOUR, None, 0.0, id="flat"),
        pytest.param(0.5 * HOUR, None, None, id="watched too shortly to say"),
        pytest.param(2 * HOUR, LEAK, 8.0, id="grows"),
    ],
)
async def test_what_a_revision_shows(node: Node, seconds: float, trend: Trend | None, growth: float | None) -> None:
    node.run(web("41"))
    await node.note(("web", seconds, trend))
    (kept,) = node.store.revisions(WEB)
    assert kept.growth_bytes_per_hour == (None if growth is None else growth * MIB)
    assert (kept.revision, kept.image) == ("41", "web:41")
    assert kept.first_at == datetime(2026, 11, 20, 20, tzinfo=UTC).timestamp()
    assert kept.observed_seconds == pytest.approx(seconds, abs=600)


@pytest.mark.parametrize(
    ("changes", "workload"),
    [
        pytest.param(
            {
                "labels": {"controller-revision-hash": "web-5f6"},
                "ownerReferences": [{"controller": True, "kind": "StatefulSet", "name": "web"}],
            },
            "shop/StatefulSet/web/app",
            id="StatefulSet",
        ),
        pytest.param(
            {
                "labels": {"controller-revision-hash": "5f6"},
                "ownerReferences": [{"controller": True, "kind": "DaemonSet", "name": "web"}],
            },
            "shop/DaemonSet/web/app",
            id="DaemonSet",
        ),
        pytest.param(
            {"labels": {}, "ownerReferences": [{"controller": True, "kind": "Job", "name": "web"}]},
            None,
            id="Job: it has no revisions",
        ),
        pytest.param({"labels": {}, "ownerReferences": []}, None, id="bare pod"),
    ],
)
async def test_workloads_with_revisions_are_noted(node: Node, changes: dict[str, Any], workload: str | None) -> None:
    node.run(web("1", **changes))
    await node.note(("web", 2 * HOUR, None), ("unknown to the API", 2 * HOUR, LEAK))
    rows = node.store._journal.workloads.all_revisions()
    assert [row.workload for row in rows] == ([] if workload is None else [workload])


async def test_while_the_api_tells_no_pods_nothing_is_noted(node: Node) -> None:
    node.run(web("41"))
    node.agent.cluster.state(False, "gone")
    await node.note(("web", 2 * HOUR, LEAK))
    assert seen(node) == {}
    node.agent.cluster.state(True, None)
    await node.note(("web", 2 * HOUR, LEAK))
    assert seen(node) == {"41": 8.0}


async def test_it_is_written_every_ten_minutes(node: Node) -> None:
    node.run(web("41"))
    await node.note(("web", 2 * HOUR, None))
    await node.note(("web", 2 * HOUR, LEAK))
    assert seen(node) == {"41": 0.0}
    node.wait(600)
    await node.note(("web", 2 * HOUR, LEAK))
    assert seen(node) == {"41": 8.0}


@pytest.mark.parametrize("last", ["one", "other"])
async def test_of_two_pods_of_a_revision_the_one_that_grows_speaks(node: Node, last: str) -> None:
    for name in ("one", "other"):
        node.run(web("41", name=name))
    looks = {"one": ("one", 2 * HOUR, LEAK), "other": ("other", 20 * HOUR, None)}
    await node.note(looks.pop(last), *looks.values())
    assert seen(node) == {"41": 8.0}


async def test_a_life_that_has_just_begun_says_nothing_against_a_long_one(node: Node) -> None:
    """The container was killed, and grows anew."""
    node.run(web("41"))
    await node.note(("web", 6 * HOUR, LEAK))
    node.wait(2 * HOUR)
    await node.note(("web", 2 * HOUR, None))
    assert seen(node) == {"41": 8.0}


async def test_a_long_life_tells_what_is_true_now(node: Node) -> None:
    """No more than a day of it is known, and of that now more, now less."""
    node.run(web("41"))
    await node.note(("web", 24 * HOUR, None))
    node.wait(9 * HOUR)
    await node.note(("web", 23.9 * HOUR, LEAK))
    assert seen(node) == {"41": 8.0}


async def test_growth_is_tied_to_the_rollout_that_began_it(node: Node) -> None:
    """Over a restart of the agent between both revisions."""
    node.run(web("41"))
    await node.note(("web", 20 * HOUR, None))
    rolled_out = node.now
    node.agent.cluster.delete(web("41"))
    node.restart()
    node.wait(4 * HOUR)
    new = web("42")
    new["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = rolled_out.isoformat()
    node.run(new)
    await node.note(("web", 4 * HOUR, LEAK))
    before, after = node.agent.rollouts.of(WEB, ("42", "42", None), ())
    assert (before.revision, before.growth_bytes_per_hour, before.kills) == ("41", 0.0, 0)
    assert (after.revision, after.growth_bytes_per_hour, after.kills) == ("42", 8.0 * MIB, 2)
    assert (after.image, after.rolled_out_at) == ("web:42", rolled_out.timestamp())


async def test_what_other_nodes_saw_is_put_beside(node: Node) -> None:
    node.run(web("42"))
    await node.note(("web", 4 * HOUR, None))
    elsewhere = [
        RevisionSeen(WEB, "41", None, 1000.0, 2000.0, 20 * HOUR, 0.0),
        RevisionSeen(WEB, "42", None, 5000.0, 6000.0, 20 * HOUR, 3.0 * MIB),
    ]
    first, second = node.agent.rollouts.of(WEB, (), elsewhere)
    assert (first.revision, first.growth_bytes_per_hour, first.rolled_out_at) == ("41", 0.0, 1000.0)
    assert (second.revision, second.growth_bytes_per_hour, second.rolled_out_at) == ("42", 3.0 * MIB, 5000.0)
    assert node.agent.rollouts.of("shop/Deployment/other/app", (), ()) == ()
