"""What owners tell of revisions, asked of an API server under rules: how often, and what becomes of refusals."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from collector import owner_details
from collector.model import Owner
from collector.owner_details import Detail, OwnerDetails, parse
from tests.kube.api_server import Refusal
from tests.kube.owners import Owners, asking, serving, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.kube.api_server import ApiServer

WEB, DB, AGENT = (
    Owner(kind=kind, name=name) for kind, name in (("Deployment", "web"), ("StatefulSet", "db"), ("DaemonSet", "agent"))
)
JOB = Owner(kind="Job", name="by-hand")
ROLLED_OUT = 1795270980.0


@pytest.fixture
def owners() -> Owners:
    return Owners()


@pytest.fixture
async def server(owners: Owners) -> AsyncIterator[ApiServer]:
    async with serving(owners) as server:
        yield server


@pytest.mark.parametrize(
    ("owner", "revision", "detail"),
    [
        pytest.param(WEB, "7d4b9c", Detail(number=42, created_at=ROLLED_OUT, owner=WEB), id="Deployment"),
        pytest.param(DB, "db-7f8d9c6b5", Detail(number=3), id="StatefulSet: the label is the whole name"),
        pytest.param(AGENT, "79c6d9f4b8", Detail(number=9), id="DaemonSet: the label is the hash"),
        pytest.param(JOB, None, Detail(owner=Owner(kind="CronJob", name="report")), id="Job"),
        pytest.param(WEB, "gone", Detail(), id="no longer there"),
    ],
)
async def test_what_is_learnt(owner: Owner, revision: str | None, detail: Detail, server: ApiServer) -> None:
    async with asking(server) as details:
        assert not details.is_known("shop", owner, revision, for_kill=True)
        await until(lambda: details.is_known("shop", owner, revision, for_kill=True))
        assert details.of("shop", owner, revision) == detail
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("namespace", "owner", "revision"),
    [
        pytest.param("shop", WEB, None, id="no revision"),
        pytest.param("shop", Owner(kind="Rollout", name="web"), "7d4b9c", id="kind that is not Kubernetes' own"),
        pytest.param("shop", Owner(kind="Node", name="n"), None, id="static pod"),
        pytest.param("..", WEB, "7d4b9c", id="a path in the namespace"),
        pytest.param("shop", Owner(kind="Job", name="a/../../secrets/b"), None, id="a path in a name"),
        pytest.param("shop", Owner(kind="Job", name="a?watch=1"), None, id="a query in a name"),
    ],
)
async def test_what_is_never_asked(namespace: str, owner: Owner, revision: str | None, server: ApiServer) -> None:
    async with asking(server) as details:
        assert details.is_known(namespace, owner, revision, for_kill=True)
        await asyncio.sleep(0.05)
        assert server.seen == []


def test_without_a_client_all_is_known_and_nothing_is() -> None:
    details = OwnerDetails(None)
    assert details.is_known("shop", WEB, "7d4b9c", for_kill=True)
    assert (details.on, details.of("shop", WEB, "7d4b9c")) == (False, Detail())


async def test_a_revision_is_asked_for_once_and_for_a_kill_again_when_it_may_have_changed(
    server: ApiServer, owners: Owners, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(server) as details:
        for _ in range(3):
            details.is_known("shop", WEB, "7d4b9c")
        await until(lambda: details.is_known("shop", WEB, "7d4b9c"))
        assert details.is_known("shop", WEB, "7d4b9c", for_kill=True)
        rolled_back = {"metadata": {"annotations": {"deployment.kubernetes.io/revision": "44"}}}
        owners.objects["/apis/apps/v1/namespaces/shop/replicasets/web-7d4b9c"] = rolled_back
        monkeypatch.setattr(owner_details, "FRESH_SECONDS", 0.0)
        assert details.is_known("shop", WEB, "7d4b9c")
        assert not details.is_known("shop", WEB, "7d4b9c", for_kill=True)
        assert details.of("shop", WEB, "7d4b9c").number == 42, "until the answer comes"
        await until(lambda: details.of("shop", WEB, "7d4b9c").number == 44)
        assert len(server.seen) == 2


async def test_the_number_of_what_is_gone_is_forgotten(
    server: ApiServer, owners: Owners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_details, "FRESH_SECONDS", 0.0)
    async with asking(server) as details:
        details.is_known("shop", WEB, "7d4b9c")
        await until(lambda: details.of("shop", WEB, "7d4b9c").number == 42)
        owners.objects.clear()
        details.is_known("shop", WEB, "7d4b9c", for_kill=True)
        await until(lambda: details.of("shop", WEB, "7d4b9c") == Detail())


async def test_what_no_kill_waits_for_is_asked_at_the_pace_of_the_budget(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_details, "REFILL_SECONDS", 0.2)
    async with asking(server) as details:
        began = time.monotonic()
        for number in range(4):
            details.is_known("shop", WEB, f"r{number}")
        await until(lambda: len(server.seen) == 1)
        assert not details.is_known("shop", DB, "db-7f8d9c6b5", for_kill=True)
        await until(lambda: details.is_known("shop", DB, "db-7f8d9c6b5"))
        assert time.monotonic() - began < 0.2, "a kill does not wait for those"
        await until(lambda: len(server.seen) == 5)
        assert time.monotonic() - began >= 4 * 0.2


async def test_a_storm_of_kills_asks_no_more_than_was_saved_up(server: ApiServer) -> None:
    async with asking(server) as details:
        ready = [
            details.is_known("shop", Owner(kind="Job", name=f"job-{number}"), None, for_kill=True)
            for number in range(500)
        ]
        assert ready.count(False) == owner_details.MAX_SAVED
        await until(lambda: len(server.seen) == owner_details.MAX_SAVED)
        await asyncio.sleep(0.1)
        assert len(server.seen) == owner_details.MAX_SAVED


async def test_a_refusal_is_said_once_and_ends_the_asking(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    server.rules = [{"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": ["get"]}]
    async with asking(server) as details:
        for revision in ("a", "b", "c"):
            details.is_known("shop", WEB, revision, for_kill=True)
        await until(lambda: details.is_known("shop", WEB, "a", for_kill=True))
        assert details.is_known("shop", WEB, "d", for_kill=True)
        assert details.of("shop", WEB, "a") == Detail()
        details.is_known("shop", DB, "db-7f8d9c6b5", for_kill=True)
        await until(lambda: details.of("shop", DB, "db-7f8d9c6b5").number == 3)
        assert [seen.status for seen in server.seen] == [403, 200]
    assert [record.getMessage()[:30] for record in caplog.records] == ["owner details: 403 Forbidden: "]


@pytest.mark.parametrize("failure", ["503", "away"])
async def test_a_failure_passes(failure: str, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(server) as details:
        if failure == "away":
            await server.stop()
        else:
            server.refusals.append(Refusal(503, "ServiceUnavailable"))
        assert not details.is_known("shop", WEB, "7d4b9c", for_kill=True)
        await until(lambda: details.is_known("shop", WEB, "7d4b9c", for_kill=True))
        assert details.of("shop", WEB, "7d4b9c") == Detail()
        if failure == "away":
            await server.start()
        monkeypatch.setattr(owner_details, "RETRY_SECONDS", 0.0)
        details.is_known("shop", WEB, "7d4b9c")
        details.is_known("shop", WEB, "7d4b9c", for_kill=True)
        await until(lambda: details.of("shop", WEB, "7d4b9c").number == 42)


async def test_answers_are_bounded(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_details, "MAX_KEPT", 2)
    async with asking(server) as details:
        for owner, revision in ((WEB, "7d4b9c"), (DB, "db-7f8d9c6b5"), (AGENT, "79c6d9f4b8")):
            details.is_known("shop", owner, revision, for_kill=True)
        await until(
            lambda: (
                details.of("shop", AGENT, "79c6d9f4b8").number == 9 or details.of("shop", WEB, "7d4b9c").number == 42
            )
        )
        await until(lambda: len(server.seen) == 3)
        known = [
            details.of("shop", owner, revision)
            for owner, revision in ((WEB, "7d4b9c"), (DB, "db-7f8d9c6b5"), (AGENT, "79c6d9f4b8"))
        ]
        assert known.count(Detail()) >= 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"metadata": 7, "revision": 0},
        {"metadata": {"annotations": {"deployment.kubernetes.io/revision": "many"}, "creationTimestamp": "soon"}},
        {"metadata": {"annotations": {"deployment.kubernetes.io/revision": "9" * 40}, "creationTimestamp": None}},
        {"metadata": {"creationTimestamp": "2026-11-21T14:23:00", "ownerReferences": [7, {"controller": True}]}},
        {"revision": True},
        {"revision": "٤"},
    ],
)
def test_what_is_not_as_it_should_be_is_not_known(document: dict[str, object]) -> None:
    assert parse(document) == Detail()
