"""What follows a kill, under attack: by pods that change without end, clocks, disks, upgrades and an API that lies."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from collector import intake
from collector.announce import announcer
from collector.announce.outbox import NODE_EVENT, POD_EVENT, WEBHOOK, StoreOutbox
from collector.cluster import Cluster
from collector.document import to_document
from collector.errors import CollectorError
from collector.intake import Intake
from collector.kube.access import Access, AccessError
from collector.kube.client import KubeClient, status_error
from collector.kube.items import ListItems
from collector.late import Late, complete
from collector.model import ContainerId, Fate, PodUid, QosClass
from collector.pipeline import Pipeline
from collector.pods.index import PodIndex
from collector.pods.record import parse_pod
from collector.sinks.kube_event import concerns_node
from collector.sinks.metrics import Metrics
from collector.sources.base import Cursor
from collector.state.batch import DELIVERIES, Batch, Retention
from collector.state.schema import VERSIONS
from collector.state.store import FILE_NAME, LOCK_NAME, Store
from tests import lines
from tests.announce.test_announcer import NAMED, NOW, Registry, World, entry, registry, world
from tests.test_classify import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from collector.config import Config

__all__ = ["registry"]  # a fixture

UID = "0f9c1d2e-3b4a-4c5d-8e6f-000000000001"
HOST = (lines.summary(oom_memcg=None, task_memcg="/system.slice/a.service"), lines.kill())
GLOBAL = (
    lines.summary(oom_memcg=None, task_memcg=lines.CONTAINER, constraint="CONSTRAINT_NONE"),
    lines.kill(prefix="Out of memory: "),
)


def all_sinks(document: dict[str, Any]) -> tuple[str, ...]:
    """As Outlets.concerned()."""
    wanted = {POD_EVENT: document["pod"] is not None, NODE_EVENT: concerns_node(document), WEBHOOK: True}
    return tuple(sink for sink, is_wanted in wanted.items() if is_wanted)


def letters(made: World, sink: str) -> list[tuple[str, ...]]:
    return [letter.ids for letter in StoreOutbox(made.store).letters(sink, 100)]


# Time


async def test_pods_that_change_without_end_do_not_hold_up_what_waits(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may annotate one pod of the node can do that ten times a second."""
    monkeypatch.setattr(announcer, "TICK_SECONDS", 0.2)
    with world(tmp_path, registry) as made:
        made.kill()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            made.announcer.poke()
            await asyncio.sleep(0.02)
        assert len(made.printed) == 1


async def test_a_kill_dated_ahead_of_the_clock_does_not_wait_for_as_long(tmp_path: Path, registry: Registry) -> None:
    with world(tmp_path, registry, max_age=0.0) as made:
        ahead = replace(judge(*lines.report()), id="a", time=datetime.now(UTC) + timedelta(days=365))
        made.store.apply(Batch(at=NOW, entries=[entry(ahead)]))
        made.announcer.look(["a"])
        await asyncio.sleep(0.9)
        assert made.store.pending() == []


# What is told once, and what has to be told


async def test_one_kill_thrice_in_a_batch_ends_nothing(tmp_path: Path, registry: Registry) -> None:
    """As journald has it, where it lost its place in /dev/kmsg and stored all of it again."""
    with world(tmp_path, registry) as made, taking(made.store, made.announcer.look) as intake_:
        intake_.start()
        intake_.caught_up()
        for record in lines.records(list(HOST)) * 3:
            intake_.push(record, live=False)
        intake_.end_of_batch(Cursor(source="kmsg", boot_id="b", position="9"))
        intake_.caught_up()
        await asyncio.sleep(0.3)
        assert len(made.printed) == 1


async def test_an_event_of_a_pod_that_is_never_named_expires(tmp_path: Path, registry: Registry) -> None:
    """Else its row stays in the outbox, keeps its document from retention, and is in no number."""
    with world(tmp_path, registry, max_age=0.0) as made:
        made.announcer._outlets = lambda document: (POD_EVENT,)
        made.kill()
        await asyncio.sleep(0.9)
        assert made.store.pending() == []
        left = made.store._journal._db.execute("SELECT count(*) FROM outbox").fetchone()[0]
        expired = made.store.counters.get((DELIVERIES, f"{POD_EVENT} expired"), 0)
        assert (left, expired) == (0, 1)


async def test_an_event_keeps_its_name_when_names_come_before_its_answer(tmp_path: Path, registry: Registry) -> None:
    """The POST was taken and its answer lost: under another name its repeat would be a second Event."""
    with world(tmp_path, registry) as made:
        made.announcer._outlets = lambda document: (NODE_EVENT,)
        made.kill(*GLOBAL)
        await asyncio.sleep(0.4)
        (first,) = StoreOutbox(made.store).letters(NODE_EVENT, 9)
        registry.known = NAMED
        await asyncio.sleep(0.1)
        (again,) = StoreOutbox(made.store).letters(NODE_EVENT, 9)
        assert again.key == first.key


async def test_a_late_line_reaches_the_sinks_that_the_kill_did_not_seem_to_concern(
    tmp_path: Path, registry: Registry
) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.announcer._outlets = all_sinks
        made.kill(*lines.report()[-1:], node="n")
        await asyncio.sleep(0.05)
        StoreOutbox(made.store).done(WEBHOOK, ["a"], "delivered")
        made.kill(*GLOBAL, node="n")
        await asyncio.sleep(0.05)
        assert made.document["cause"] == "node"
        assert (letters(made, NODE_EVENT), letters(made, POD_EVENT)) == ([("a",)], [("a",)])


# Disks and upgrades


async def test_a_report_half_read_before_an_upgrade_is_told_after_it(tmp_path: Path, registry: Registry) -> None:
    """Schema 2 knew no killed_at; its agent had counted the kill and died before the report was whole."""
    db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    for statement in ";\n".join(VERSIONS[:2]).split(";\n"):
        db.execute(statement)
    db.execute("INSERT INTO meta VALUES ('first_start', '2026-11-20T00:00:00+00:00'), ('read_all', '1')")
    db.execute(
        "INSERT INTO incidents (id, boot_id, journalled_at, cause, counted_processes, evidence, settled, printed,"
        " document) VALUES ('a', 'b', ?, 'container_limit', 1, 1, 0, 0, '{}')",
        (time.time() - 5,),
    )
    db.execute("PRAGMA user_version = 2")
    db.close()
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.1)
        assert len(made.printed) == 1
        assert made.mailed == [("a",)]


def store_beside(directory: Path) -> tuple[Store, int]:
    """In memory, since another agent has the directory: whose lock it is. It has read the ring: all in it is old."""
    lock = os.open(directory / LOCK_NAME, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    store = Store(directory, boot_id="b", retention=Retention(), at=datetime.now(UTC))
    assert not store.persistent
    old = replace(judge(*lines.report()), id="a", time=datetime.now(UTC) - timedelta(seconds=30))
    store.apply(Batch(at=datetime.now(UTC), entries=[entry(old, counts=False)], read_all=True))
    return store, lock


async def test_what_an_agent_left_untold_is_told_by_one_that_began_in_memory(
    tmp_path: Path, registry: Registry
) -> None:
    with world(tmp_path, registry) as made:
        made.kill()
        await made.announcer.stop()
    store, lock = store_beside(tmp_path)
    os.close(lock)
    assert store.retry(datetime.now(UTC))
    assert store.pending() == ["a"]
    store.close()


async def test_an_outbox_outlives_an_agent_that_began_in_memory(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.05)
        assert made.mailed == [("a",)]
        await made.announcer.stop()
    store, lock = store_beside(tmp_path)
    os.close(lock)
    assert store.retry(datetime.now(UTC))
    assert [mail.ids for mail in store.mail("webhook", 9, by_event=False, named=False)] == [("a",)]
    store.close()


async def test_what_waits_on_a_disk_that_comes_back_is_looked_at(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "STATE_RETRY_SECONDS", 0.05)
    with world(tmp_path, registry) as made:
        made.kill()
        await made.announcer.stop()
    registry.known = NAMED
    lock = os.open(tmp_path / LOCK_NAME, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with world(tmp_path, registry) as made, taking(made.store, made.announcer.look) as intake_:
        intake_.start()
        os.close(lock)
        await asyncio.sleep(0.3)
        assert made.store.persistent
        assert len(made.printed) == 1


async def test_a_journal_that_is_damaged_while_it_is_used_ends_nobody_who_reads_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path, boot_id="b", retention=Retention(), at=NOW)
    store._journal._db.execute("DROP TABLE meta")
    assert store.userspace_cursor() is None
    store.close()


# Truth


def test_two_witnesses_that_disagree_are_both_told() -> None:
    document = to_document(judge(*lines.report()))
    names = replace(NAMED, qos_class=QosClass.GUARANTEED)
    told = complete(document, Late(names=names, fate=Fate.RESTARTED, contradiction="the status says Error"))
    assert len(told["contradictions"]) == 2


def test_a_debug_container_shares_the_limit_of_its_pod() -> None:
    """What it uses counts at the pod's cgroup: the other container may be far from its limit."""
    pods = PodIndex()
    container = {"name": "app", "resources": {"limits": {"memory": "48Mi"}}}
    status = {"name": "app", "containerID": f"containerd://{lines.CONTAINER_ID}"}
    pod = {
        "metadata": {"uid": UID, "namespace": "shop", "name": "cart-0"},
        "spec": {"containers": [container], "ephemeralContainers": [{"name": "debug"}]},
        "status": {"containerStatuses": [status]},
    }
    pods.put(parse_pod(pod), 0.0)
    names = pods.names(PodUid(UID), ContainerId(lines.CONTAINER_ID))
    assert names is not None
    assert not names.lone


# An API that lies, credentials that are damaged: a reason to try again, never an end


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: status_error({"details": {"retryAfterSeconds": 10**400}}, 429, ""), id="retry-after"),
        pytest.param(lambda: list(ListItems().feed(b'{"items":[{"x":' + b"1" * 5000 + b"}]}")), id="long number"),
    ],
)
def test_numbers_beyond_reason_are_no_crash(answer: Callable[[], object]) -> None:
    with suppress(CollectorError):
        answer()


async def test_an_eviction_of_a_pod_with_an_impossible_uid_ends_nothing(tmp_path: Path) -> None:
    pod = {
        "metadata": {"uid": "u\ud800", "namespace": "shop", "name": "cart-0"},
        "spec": {"containers": [{"name": "app"}]},
        "status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. x"},
    }
    store = Store(tmp_path, boot_id="b", retention=Retention(), at=NOW)
    config = cast("Config", SimpleNamespace(pod_logs=tmp_path))
    metrics = cast("Metrics", SimpleNamespace(witness_up={}))
    Cluster(config, None, store, metrics, is_alive=lambda container_id: None).put(pod)
    store.close()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"authorization": "Bearer a\nb"}, id="token of two lines"),
        pytest.param({"server": "https://127.0.0.1", "ca_pem": "# Autorité\n"}, id="comment in the CA file"),
        pytest.param({"server": "http://[::bad"}, id="address"),
    ],
)
async def test_credentials_that_cannot_be_used_are_said_to_be(changes: dict[str, Any]) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def load() -> Access:
        return replace(Access(server=f"http://127.0.0.1:{port}"), **changes)

    client = KubeClient(load, user_agent="x")
    try:
        with pytest.raises(CollectorError):
            await client.get("/api/v1/pods")
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


async def test_a_kubeconfig_that_no_process_can_be_started_for_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is out of memory, or of pids, is where this agent runs."""
    from collector.kube.access import from_kubeconfig

    async def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(AccessError):
        await from_kubeconfig(Path("kubeconfig"))()


@contextmanager
def taking(store: Store, on_settled: Callable[[list[str] | None], None]) -> Iterator[Intake]:
    metrics = Metrics(
        version="0", sources=("kmsg",), counters=lambda: store.counters, hold_seconds=0, now=time.monotonic
    )
    made = Intake(Pipeline(boot_id="b", boot_time=datetime.now(UTC)), store, metrics, on_settled=on_settled)
    try:
        yield made
    finally:
        made.stop()


async def test_a_diagnosis_that_fails_to_get_ready_delays_no_kill(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor may it take along what the same slice has told of others."""
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        asked: list[object] = []

        def is_ready(names: object, node_pressure_at: object) -> bool:
            asked.append(names)
            if len(asked) == 2:
                raise TypeError("made up")
            return True

        monkeypatch.setattr(made.diagnosis, "is_ready", is_ready)
        for identity in "abc":
            incident = replace(judge(*lines.report()), id=identity, time=datetime.now(UTC))
            made.store.apply(Batch(at=NOW, entries=[entry(incident)]))
        made.announcer.look(["a", "b", "c"])
        await asyncio.sleep(0.2)
        assert sorted(told["id"] for told in made.printed) == ["a", "b", "c"]
    assert "made up" in caplog.text
