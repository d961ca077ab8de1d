"""From what owners tell to the rollback that is advised: over the journal, restarts and rollbacks before it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from collector import owner_details
from collector.diagnosis.advice import advise
from collector.diagnosis.model import Action, Facts, Judgement, Pattern
from collector.diagnosis.rollout import RevisionSeen, growths
from collector.model import Cause, Container, ContainerId, Names, NamesFrom, Owner, Pod, PodUid, Process
from collector.owner_details import Detail, OwnerDetails
from collector.rollouts import MAX_NUMBERED, Rollouts
from tests.kube.owners import Owners, asking, serving, until
from tests.test_rollouts import HOUR, LEAK, MIB, WEB, Node, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.kube.api_server import ApiServer

DEPLOYMENT = Owner(kind="Deployment", name="web")
NAMES = Names(source=NamesFrom.API, namespace="shop", pod="web-x", owner=DEPLOYMENT, revision="42", container="app")
DIGEST = f"app@sha256:{'0123456789abcdef' * 4}"


@pytest.fixture
def owners() -> Owners:
    return Owners()


@pytest.fixture
async def server(owners: Owners) -> AsyncIterator[ApiServer]:
    async with serving(owners) as server:
        yield server


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.agent.store.close()


def rollouts(node: Node, details: OwnerDetails) -> Rollouts:
    made = Rollouts(node.agent.cluster, node.store, details, now=lambda: node.now, clock=lambda: node.monotonic)
    node.agent.rollouts = made
    return made


def replica_set(owners: Owners, revision: str, number: int, created: str = "2026-11-20T08:00:00Z") -> None:
    owners.objects[f"/apis/apps/v1/namespaces/shop/replicasets/web-{revision}"] = {
        "metadata": {
            "annotations": {"deployment.kubernetes.io/revision": str(number)},
            "creationTimestamp": created,
        }
    }


async def two_revisions(node: Node) -> None:
    """41 was flat, 42 leaks."""
    node.run(web("41"))
    await node.note(("web", 5 * HOUR, None))
    node.wait(6 * HOUR)
    node.run(web("42", name="web2"))
    await node.note(("web2", 5 * HOUR, LEAK))


def command(node: Node) -> str | None:
    facts = Facts(
        cause=Cause.CONTAINER_LIMIT,
        victim=Process(pid=7, comm="app"),
        pod=Pod(uid=PodUid("u"), namespace="shop", name="web-x", owner=DEPLOYMENT),
        container=Container(id=ContainerId("c"), name="app"),
        revisions=node.agent.rollouts.of(WEB, (), ()),
    )
    judgement = Judgement(pattern=Pattern.LEAK, confidence=0.95, growth_bytes_per_hour=8.0 * MIB)
    [advice] = [one for one in advise(facts, judgement, ()) if one.action is Action.ROLL_BACK]
    return advice.command


async def test_a_rollback_is_advised_by_its_number_when_the_kill_is_told(
    node: Node, server: ApiServer, owners: Owners
) -> None:
    async with asking(server) as details:
        made = rollouts(node, OwnerDetails(None))
        await two_revisions(node)
        assert made.is_ready(NAMES), "nothing is asked"
        assert command(node) is None, "without a number it would go to the revision before, whatever that showed"
        made = rollouts(node, details)
        replica_set(owners, "41", 7)
        replica_set(owners, "42", 9, "2026-11-20T14:23:00Z")
        assert not made.is_ready(NAMES)
        await until(lambda: made.is_ready(NAMES))
        assert command(node) == "kubectl rollout undo deployment/web -n shop --to-revision=7"
        assert [round(one.rolled_out_at or 0) for one in made.of(WEB, (), ())] == [1795161600, 1795184580]
        assert len(server.seen) == 2


async def test_numbers_are_kept_and_not_asked_for_again_after_a_restart(
    node: Node, server: ApiServer, owners: Owners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_details, "REFILL_SECONDS", 0.001)
    replica_set(owners, "41", 7)
    async with asking(server) as details:
        rollouts(node, details)
        node.run(web("41"))
        await node.note(("web", HOUR, None))
        await until(lambda: details.of("shop", DEPLOYMENT, "41").number == 7)
        node.wait(HOUR)
        await node.note(("web", 2 * HOUR, None))
        assert [one.number for one in node.store.revisions(WEB)] == [7]
    node.restart()
    async with asking(server) as details:
        rollouts(node, details)
        node.run(web("41"))
        await node.note(("web", 3 * HOUR, None))
        job = Owner(kind="Job", name="by-hand")
        details.is_known("shop", job, None)  # which is asked for after all that is
        await until(lambda: details.of("shop", job, None) != Detail())
        assert [seen.attributes.resource for seen in server.seen] == ["replicasets", "jobs"]
        assert [one.number for one in node.store.revisions(WEB)] == [7]


async def test_only_the_last_revisions_are_asked_for(node: Node, server: ApiServer) -> None:
    async with asking(server) as details:
        made = rollouts(node, OwnerDetails(None))
        for number in range(10):
            node.run(web(str(number), name=f"web{number}"))
            node.wait(HOUR)
            await node.note((f"web{number}", 0.5 * HOUR, None))
        made = rollouts(node, details)
        names = replace(NAMES, revision="9")
        made.is_ready(names)
        await until(lambda: made.is_ready(names))
        assert {seen.attributes.name for seen in server.seen} == {f"web-{9 - back}" for back in range(MAX_NUMBERED)}


async def test_the_cron_job_of_a_job(node: Node, server: ApiServer) -> None:
    job = Owner(kind="Job", name="by-hand")
    async with asking(server) as details:
        made = rollouts(node, details)
        assert made.owner_of("shop", job) == job
        names = replace(NAMES, owner=job, revision=None)
        assert not made.is_ready(names)
        await until(lambda: made.is_ready(names))
        assert made.owner_of("shop", job) == Owner(kind="CronJob", name="report")
        assert made.owner_of("shop", DEPLOYMENT) == DEPLOYMENT


@pytest.mark.parametrize(
    ("image", "image_id", "told"),
    [
        pytest.param("app:1", DIGEST, "app:1@sha256:0123456789ab", id="tag"),
        pytest.param("app:1", "", "app:1", id="not known"),
        pytest.param(DIGEST, DIGEST, DIGEST, id="it is in the spec"),
    ],
)
async def test_the_digest_of_an_image(image: str, image_id: str, told: str, node: Node) -> None:
    shown: dict[str, Any] = web("41")
    shown["spec"]["containers"][0]["image"] = image
    shown["status"]["containerStatuses"][0]["imageID"] = image_id
    node.run(shown)
    await node.note(("web", HOUR, None))
    assert [one.image for one in node.store.revisions(WEB)] == [told]


def test_what_was_rolled_back_to_is_the_newest_again() -> None:
    def seen(revision: str, first_at: float, number: int | None) -> RevisionSeen:
        return RevisionSeen(WEB, revision, None, first_at, 9.0, 3600.0, None, number)

    numbered = [seen("a", 1.0, 3), seen("b", 2.0, 2)]
    assert [one.revision for one in growths(numbered, {})] == ["b", "a"]
    partly = [seen("a", 1.0, 3), seen("b", 2.0, None)]
    assert [one.revision for one in growths(partly, {})] == ["a", "b"], "by their times, where not all are known"
