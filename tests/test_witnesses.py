"""Kernel log, cgroup tree and journal together, as the agent wires them, on a directory in place of /sys/fs/cgroup."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from collector import reconcile
from collector.config import read_config
from collector.history import Key
from collector.intake import Intake
from collector.model import MemcgPath
from collector.pipeline import Pipeline
from collector.sinks.container_series import MemoryNow
from collector.sinks.metrics import Metrics
from collector.sources.base import Cursor
from collector.state.batch import FOREIGN, KILLS, PROCESSES, Retention
from collector.state.store import Store, read_documents
from collector.witnesses import Witnesses
from tests import lines
from tests.cgroups import tree_maker

BOOT = "74ab0d27-9555-4c6f-b9b7-2f2ea5ef371e"
MEBIBYTE = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As a container sees its part of a tree: its root is a cgroup, with counters of its own."""
    path = tree_maker.make_root(tmp_path / "cgroup")
    tree_maker.write(path / "memory.events", tree_maker.flat(tree_maker.EVENTS))
    return path


def bump(root: Path, path: MemcgPath, **added: int) -> None:
    tree_maker.bump(root, path, local=True, **added)
    events = dict(line.split() for line in (root / "memory.events").read_text().splitlines())
    raised = {key: int(value) + added.get(key, 0) for key, value in events.items()}
    tree_maker.write(root / "memory.events", tree_maker.flat(raised))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "SETTLE_SECONDS", 0.2)


class Node:
    """One life of the agent."""

    def __init__(self, directory: Path, intake: Intake, store: Store, metrics: Metrics, witnesses: Witnesses) -> None:
        self._directory = directory
        self.intake, self.store, self.metrics, self.witnesses = intake, store, metrics, witnesses

    def log(self, *texts: str) -> None:
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        for record in lines.records(list(texts), start_usec=int(now * 1_000_000)):
            self.intake.push(record, live=True)
        self.intake.end_of_batch(Cursor(source="kmsg", boot_id=BOOT, position="1"))

    @property
    def documents(self) -> list[dict[str, Any]]:
        return list(read_documents(self._directory / "state"))[::-1]

    @property
    def kills(self) -> dict[str, int]:
        return {cause: count for (name, cause), count in self.store.counters.items() if name == KILLS}

    async def until(self, happened: Callable[[], bool]) -> None:
        for _ in range(500):
            if happened():
                return
            await asyncio.sleep(0.02)
        pytest.fail("nothing happened in 10 s")


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Node]:
    now = datetime.now(UTC)
    store = Store(directory / "state", boot_id=BOOT, retention=Retention(), at=now)
    metrics = Metrics(version="0", sources=(), counters=lambda: store.counters, hold_seconds=0, now=time.monotonic)
    flags = {"cgroup_root": str(directory / "cgroup"), "proc_connector": "off"}
    witnesses = Witnesses(read_config(flags, {}), store, metrics, boot_id=BOOT)
    boot_time = now - timedelta(seconds=time.clock_gettime(time.CLOCK_MONOTONIC))
    pipeline = Pipeline(boot_id=BOOT, boot_time=boot_time, sight=witnesses.sight)
    intake = Intake(pipeline, store, metrics, on_settled=lambda ids: None)
    witnesses.start(intake)
    watching = asyncio.create_task(witnesses.run())
    intake.caught_up()
    try:
        yield Node(directory, intake, store, metrics, witnesses)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        witnesses.stop()
        intake.stop()
        store.close()


def make(root: Path, number: int, *, limit: int | None = None) -> MemcgPath:
    pod = tree_maker.make_pod(root, tree_maker.UID % number)
    return tree_maker.make_container(root, pod, tree_maker.CONTAINER_ID % number, limit=limit)


async def test_lines_and_counters_make_one_incident_for_each_kill(tmp_path: Path, root: Path) -> None:
    told, untold, later = (make(root, number, limit=64 * MEBIBYTE) for number in (1, 2, 3))
    async with running(tmp_path) as node:
        bump(root, told, oom=1, oom_kill=1)
        node.log(lines.summary(oom_memcg=told, task_memcg=told), lines.kill())
        bump(root, untold, oom=1, oom_kill=1)
        await node.until(lambda: sum(node.kills.values()) == 2)
        await asyncio.sleep(0.5)
        assert node.kills == {"container_limit": 2}
        by_counter = next(known for known in node.documents if known["evidence"] == ["memory_events"])
        assert by_counter["container"]["id"] == tree_maker.CONTAINER_ID % 2
        assert by_counter["container"]["limit_bytes"] == 64 * MEBIBYTE
        assert by_counter["oom_memcg"] == by_counter["task_memcg"] == untold
        assert "reached its memory limit of 64 MiB" in by_counter["summary"]
        assert by_counter["time"] is not None
    bump(root, later, oom=1, oom_kill=2)
    async with running(tmp_path) as node:
        await node.until(lambda: sum(node.kills.values()) == 4)
        await asyncio.sleep(0.5)
        assert node.kills == {"container_limit": 4}
        assert len({known["id"] for known in node.documents}) == 4
    async with running(tmp_path) as node:
        await asyncio.sleep(0.5)
        assert node.kills == {"container_limit": 4}


async def test_a_late_line_completes_the_document(tmp_path: Path, root: Path) -> None:
    path = make(root, 1)
    async with running(tmp_path) as node:
        bump(root, path, oom=1, oom_kill=1)
        await node.until(lambda: bool(node.kills))
        node.log(lines.summary(oom_memcg=path, task_memcg=path, pid=321), lines.kill(pid=321))
        await node.until(lambda: node.documents[0]["victim"]["pid"] == 321)
        assert node.kills == {"container_limit": 1}
        assert len(node.documents) == 1


async def test_what_counters_showed_at_the_first_start_is_old(tmp_path: Path, root: Path) -> None:
    path = make(root, 1)
    bump(root, path, oom=3, oom_kill=3)
    async with running(tmp_path) as node:
        await asyncio.sleep(0.5)
        assert node.kills == {}


async def test_kills_of_another_node_are_left_alone(tmp_path: Path, root: Path) -> None:
    path = make(root, 1)
    other = f"/docker/other{path.replace('0001.slice', '0009.slice')}"
    async with running(tmp_path) as node:
        bump(root, path, oom=1, oom_kill=1)
        node.log(lines.summary(oom_memcg=f"/docker/ours{path}", task_memcg=f"/docker/ours{path}"), lines.kill())
        node.log(lines.summary(oom_memcg=other, task_memcg=other, pid=999), lines.kill(pid=999))
        await node.until(lambda: node.store.counters.get((FOREIGN, ""), 0) > 0)
        await asyncio.sleep(0.5)
        assert node.kills == {"container_limit": 1}
        assert node.store.counters[FOREIGN, ""] == 1


async def test_a_tree_that_cannot_be_read_leaves_the_kernel_log(tmp_path: Path) -> None:
    """cgroup v1, or nothing: said in the gauge, and every line still counts."""
    async with running(tmp_path) as node:
        node.log(lines.summary(), lines.kill())
        await node.until(lambda: bool(node.kills))
        assert node.kills == {"container_limit": 1}
        assert node.metrics.witness_up["cgroup"] is False


async def test_a_storm_of_bare_lines_of_one_container(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "SETTLE_SECONDS", 3.0)  # a bare line is settled after 2 s
    path = make(root, 1)
    make(root, 2)
    async with running(tmp_path) as node:
        for pid in range(100, 140):
            bump(root, path, oom=1, oom_kill=1)
            node.log(lines.kill(pid=pid))
        await node.until(lambda: sum(node.kills.values()) == 40)
        await asyncio.sleep(0.5)
        assert node.kills == {"container_limit": 40}
        assert {known["victim"]["pid"] for known in node.documents} == set(range(100, 140))
        assert {known["container"]["id"] for known in node.documents} == {tree_maker.CONTAINER_ID % 1}


async def test_a_late_report_that_names_the_pod_leaves_the_container_in_the_document(
    tmp_path: Path, root: Path
) -> None:
    path = make(root, 1)
    async with running(tmp_path) as node:
        bump(root, path, oom=1, oom_kill=1)
        await node.until(lambda: bool(node.kills))
        before = node.documents[0]
        report = lines.report(pid=321, memcg=path.rpartition("/")[0])
        node.log(*(line for line in report if not line.startswith("oom-kill:")))
        await node.until(lambda: node.documents[0]["victim"]["pid"] == 321)
        assert node.documents[0]["container"]["id"] == before["container"]["id"]
        assert len(node.documents) == 1


async def test_members_whose_lines_were_lost_are_processes_of_their_group_kill(tmp_path: Path, root: Path) -> None:
    path = make(root, 1)
    tree_maker.write(root / path[1:] / "memory.oom.group", "1\n")
    async with running(tmp_path) as node:
        bump(root, path, oom=1, oom_kill=4, oom_group_kill=1)
        node.log(lines.summary(oom_memcg=path, task_memcg=path), lines.kill(pid=257), lines.group(path))
        await node.until(lambda: node.store.counters.get((PROCESSES, "container_limit")) == 3)
        assert [process["pid"] for process in node.documents[0]["also_killed"]] == [None, None]
        assert node.kills == {"container_limit": 1}
        assert len(node.documents) == 1


async def test_a_group_kill_is_counted_off_with_its_first_victim_twice(tmp_path: Path, root: Path) -> None:
    path = make(root, 1)
    tree_maker.write(root / path[1:] / "memory.oom.group", "1\n")
    async with running(tmp_path) as node:
        bump(root, path, oom=1, oom_kill=4, oom_group_kill=1)
        killed = [lines.kill(pid=257), lines.group(path), *(lines.kill(pid=pid) for pid in (257, 258, 259))]
        node.log(lines.summary(oom_memcg=path, task_memcg=path), *killed)
        await node.until(lambda: len(node.documents[0]["also_killed"]) == 2 if node.documents else False)
        await asyncio.sleep(0.5)
        assert node.kills == {"container_limit": 1}
        assert len(node.documents) == 1


async def test_the_history_of_memory_goes_on_after_a_restart(tmp_path: Path, root: Path) -> None:
    path = make(root, 1)
    key = Key(path, (root / path[1:]).stat().st_ino)
    began: list[float] = []
    currents: list[int] = []
    for _ in range(2):
        async with running(tmp_path) as node:
            await node.until(lambda node=node: node.witnesses.history.get(key) is not None)  # type: ignore[misc]
            await asyncio.sleep(0.3)  # sampled by this process too
            life = node.witnesses.history.get(key)
            assert life is not None
            began.append(life.began)
            currents = [sample.current for _, sample in life.read_samples()]
    assert began[0] == began[1]
    assert currents == [5308416] * len(currents)
    assert len(currents) >= 2


def pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


async def test_processes_are_looked_through_where_pids_are_the_hosts(tmp_path: Path, root: Path) -> None:
    path = make(root, 1)
    tree_maker.write(root / path[1:] / "cgroup.procs", f"{os.getpid()}\n")
    is_host = pid_namespace() == "pid:[4026531836]"
    async with running(tmp_path) as node:
        assert node.metrics.witness_up["process_index"] is is_host
        if is_host:
            await node.until(lambda: len(node.witnesses.processes or ()) == 1)


async def test_what_containers_use_now_is_told_by_their_ids(tmp_path: Path, root: Path) -> None:
    for number, limit in enumerate([64 * MEBIBYTE, None, 64 * MEBIBYTE]):
        make(root, number, limit=limit)
    pod = tree_maker.make_pod(root, tree_maker.UID % 2)
    tree_maker.write(root / pod[1:] / "memory.max", f"{32 * MEBIBYTE}\n")
    use = 5308416 - tree_maker.STAT["inactive_file"]
    expected = {0: MemoryNow(use, 64 * MEBIBYTE), 1: MemoryNow(use, None), 2: MemoryNow(use, 32 * MEBIBYTE)}
    async with running(tmp_path) as node:
        await node.until(lambda: len(node.witnesses.memory_now()) == 3)
        assert node.witnesses.memory_now() == {tree_maker.CONTAINER_ID % n: now for n, now in expected.items()}


def key_of(root: Path, path: MemcgPath) -> Key:
    return Key(path, (root / path[1:]).stat().st_ino)


async def test_a_life_is_sampled_as_it_begins_and_not_with_the_next_pass(tmp_path: Path, root: Path) -> None:
    """The first pass is over, the next one is 10 s away: of what is killed before, something is known."""
    old = make(root, 1)
    async with running(tmp_path) as node:
        history = node.witnesses.history
        await node.until(lambda: history.get(key_of(root, old)) is not None)
        began = time.monotonic()
        new = make(root, 2, limit=64 * MEBIBYTE)
        await node.until(lambda: history.get(key_of(root, new)) is not None)
        assert time.monotonic() < began + 5
        lives = [history.get(key_of(root, path)) for path in (old, new)]
        former, life = (each for each in lives if each is not None)
        (one,) = life.read_bins()
        assert (one.samples, one.bounds and one.bounds.limit) == (1, 64 * MEBIBYTE)
        assert node.witnesses.saw_begin(life)
        assert not node.witnesses.saw_begin(former)
    async with running(tmp_path) as node:
        await asyncio.sleep(0.1)
        restored = node.witnesses.history.get(key_of(root, new))
        assert restored is not None
        assert not node.witnesses.saw_begin(restored), "nobody knows that it did not begin before"


async def test_the_beginning_is_not_known_any_more_when_its_day_is_over(tmp_path: Path, root: Path) -> None:
    async with running(tmp_path) as node:
        path = make(root, 1)
        await node.until(lambda: node.witnesses.history.get(key_of(root, path)) is not None)
        life = node.witnesses.history.get(key_of(root, path))
        assert life is not None
        _, sample = next(life.read_samples())
        for hour in range(1, 26):
            for _ in range(6):
                life.add(sample, None, life.last_at + 600)
            assert node.witnesses.saw_begin(life) == (hour < 24), f"after {hour} h"


async def test_what_forecasts_look_at(tmp_path: Path, root: Path) -> None:
    """Containers, not their pods; the limit is the one that is met first."""
    pod = tree_maker.make_pod(root, tree_maker.UID % 1)
    tree_maker.write(root / pod[1:] / "memory.max", f"{32 * MEBIBYTE}\n")
    path = tree_maker.make_container(root, pod, tree_maker.CONTAINER_ID % 1, limit=64 * MEBIBYTE)
    async with running(tmp_path) as node:
        await node.until(lambda: bool(list(node.witnesses.watched())))
        (seen,) = node.witnesses.watched()
        assert seen.id == tree_maker.CONTAINER_ID % 1
        assert seen.limit_bytes == 32 * MEBIBYTE
        assert seen.life is node.witnesses.history.get(key_of(root, path))
        assert seen.working_set_bytes == node.witnesses.memory_now()[seen.id].working_set_bytes


@pytest.mark.parametrize(("written", "known"), [("max", None), (str(4096 * MEBIBYTE), 4096 * MEBIBYTE)])
async def test_what_all_pods_together_may_use(tmp_path: Path, root: Path, written: str, known: int | None) -> None:
    path = make(root, 1)
    kubepods = root / path.split("/")[1]
    tree_maker.write(kubepods / "memory.max", f"{written}\n")
    async with running(tmp_path) as node:
        await asyncio.sleep(0.1)
        assert node.witnesses.allocatable_bytes() == known
