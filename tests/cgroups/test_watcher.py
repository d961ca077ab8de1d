# ruff: noqa: ASYNC240 - the files of these tests are in a temporary directory
"""The watcher on a plain directory, with this machine's inotify."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import inotify_simple
import pytest

from collector.cgroups import watcher as watcher_module
from collector.cgroups.cgroup import Cgroup
from collector.cgroups.memory import MemoryReading
from collector.cgroups.tree import CgroupTree
from collector.cgroups.watcher import CgroupWatcher, Health
from collector.model import Counters, MemcgPath
from tests.cgroups.tree_maker import (
    CONTAINER_ID,
    EVENTS,
    UID,
    bump,
    flat,
    live_and_die,
    make_container,
    make_node,
    make_pod,
    make_root,
    remove,
    write,
)
from tests.sources.recording import until

NEVER = 3600.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "cgroup")


class Recording:
    def __init__(self, root: Path, *, interval: float = NEVER) -> None:
        self.told: list[Counters | tuple[MemcgPath, int]] = []
        self.samples: list[MemoryReading] = []
        self.passes: list[float] = []
        self.tree = CgroupTree(root)
        self.watcher = CgroupWatcher(
            self.tree,
            on_counters=self.told.append,
            on_gone=lambda path, inode: self.told.append((path, inode)),
            on_sample=self.samples.append,
            on_pass=self.passes.append,
            interval=interval,
        )

    def kills(self, path: MemcgPath) -> list[int]:
        """As told one after another."""
        return [each.oom_kill for each in self.told if isinstance(each, Counters) and each.path == path]

    def is_gone(self, path: MemcgPath) -> bool:
        return any(not isinstance(each, Counters) and each[0] == path for each in self.told)


@asynccontextmanager
async def running(root: Path, *, interval: float = NEVER) -> AsyncIterator[Recording]:
    recording = Recording(root, interval=interval)
    recording.watcher.start()
    task = asyncio.create_task(recording.watcher.run())
    try:
        await until(lambda: bool(recording.passes))
        yield recording
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def watched() -> int:
    """By this process, as the kernel has it."""
    count = 0
    for info in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            count += info.read_text().count("inotify wd:")
    return count


async def test_all_there_is_is_told_before_start_returns(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    bump(root, pod, oom_kill=2)
    recording = Recording(root)
    recording.watcher.start()
    assert recording.kills(pod) == [2]
    assert recording.watcher.state == (Health.UP, None)
    recording.tree.close()


async def test_a_kill_is_told_long_before_the_next_pass(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    container = make_container(root, pod, CONTAINER_ID % 1)
    async with running(root) as recording:
        began = time.monotonic()
        bump(root, container, oom=1, oom_kill=1)
        await until(lambda: recording.kills(container) == [0, 1] and recording.kills(pod) == [0, 1])
        assert time.monotonic() - began < 0.5
        assert len(recording.passes) == 1


async def test_pods_come_and_go(root: Path) -> None:
    async with running(root) as recording:
        pod = make_pod(root, UID % 1)
        container = make_container(root, pod, CONTAINER_ID % 1)
        await until(lambda: recording.kills(container) == [0])
        bump(root, container, oom_kill=1)
        await until(lambda: recording.kills(container)[-1] == 1)
        remove(root, pod)
        await until(lambda: recording.is_gone(pod) and recording.is_gone(container))
        assert make_pod(root, UID % 1) == pod
        await until(lambda: recording.kills(pod) == [0, 1, 0])


async def test_files_that_come_after_their_directory_are_found_soon(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "UNWATCHED_SECONDS", 0.2)
    pod = make_pod(root, UID % 1)
    async with running(root) as recording:
        late = root / pod[1:] / f"cri-containerd-{CONTAINER_ID % 1}.scope"
        late.mkdir()
        await until(lambda: MemcgPath(f"{pod}/{late.name}") in recording.tree)
        write(late / "memory.events", flat({**EVENTS, "oom_kill": 1}))
        await until(lambda: recording.kills(MemcgPath(f"{pod}/{late.name}")) == [1])


async def test_a_storm_of_notifications_costs_ten_looks_a_second(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = make_pod(root, UID % 1)
    container = make_container(root, pod, CONTAINER_ID % 1)
    looks = []
    read = CgroupTree.read

    def counting(tree: CgroupTree, cgroup: Cgroup) -> Counters | None:
        looks.append(cgroup.path)
        return read(tree, cgroup)

    async with running(root) as recording:
        monkeypatch.setattr(CgroupTree, "read", counting)
        began = time.monotonic()
        for _ in range(400):
            bump(root, container, max=1)
            await asyncio.sleep(0.001)
        assert 3 <= looks.count(container) <= 5 + 10 * (time.monotonic() - began)
        bump(root, container, oom_kill=1)
        began = time.monotonic()
        await until(lambda: recording.kills(container) == [0, 1])
        assert time.monotonic() - began < 1.0


async def test_an_overrun_of_the_notifications_is_followed_by_a_look_at_all(root: Path) -> None:
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    pods = [make_pod(root, UID % number) for number in range(2)]
    async with running(root) as recording:
        events = [os.open(root / pod[1:] / "memory.events", os.O_WRONLY) for pod in pods]
        for number in range(queue + 10):  # in turn: equal ones in a row are merged by the kernel
            os.pwrite(events[number % 2], b"low 0", 0)
        for fd in events:
            os.close(fd)
        late = make_pod(root, UID % 3)
        bump(root, late, oom_kill=1)
        await until(lambda: recording.kills(late)[-1:] == [1])


async def test_without_watches_it_goes_on_in_passes_and_says_so_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted(self: object, path: str, mask: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(watcher_module, "UNWATCHED_SECONDS", 0.02)
    with monkeypatch.context() as patch:
        # The real limit is the machine's: max_user_watches.
        patch.setattr(inotify_simple.INotify, "add_watch", exhausted)
        pod = make_pod(root, UID % 1)
        async with running(root, interval=0.2) as recording:
            assert recording.watcher.state == (
                Health.DEGRADED,
                "inotify: no watches left (fs.inotify.max_user_watches)",
            )
            container = make_container(root, pod, CONTAINER_ID % 1)
            await until(lambda: recording.kills(container) == [0])
            bump(root, container, oom_kill=1)
            await until(lambda: recording.kills(container) == [0, 1])
            await until(lambda: len(recording.passes) > 12)
            assert caplog.text.count("no watches left") == 1
            patch.undo()
            await until(lambda: recording.watcher.state.health is Health.UP)
            await until(lambda: watched() >= len(recording.tree.counted()))


async def test_without_an_inotify_instance_it_goes_on_in_passes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(watcher_module, "UNWATCHED_SECONDS", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(inotify_simple, "INotify", none_left)
        pod = make_pod(root, UID % 1)
        async with running(root, interval=0.2) as recording:
            assert recording.watcher.state == (Health.DEGRADED, "inotify: Too many open files")
            bump(root, pod, oom_kill=1)
            await until(lambda: recording.kills(pod) == [0, 1])
            patch.undo()
            await until(lambda: recording.watcher.state.health is Health.UP)
            monkeypatch.setattr(watcher_module, "UNWATCHED_SECONDS", NEVER)
            bump(root, pod, oom_kill=1)
            await until(lambda: recording.kills(pod) == [0, 1, 2])


async def test_pods_and_containers_are_sampled_at_every_interval(root: Path) -> None:
    containers = make_node(root, containers=10)
    async with running(root, interval=0.05) as recording:
        await until(lambda: len(recording.passes) > 8)
    assert {sample.path for sample in recording.samples} == {
        *containers,
        *(MemcgPath(str(Path(c).parent)) for c in containers),
    }
    mine = [sample for sample in recording.samples if sample.path == containers[0]]
    assert len(mine) >= 8
    assert mine[0].bounds is not None
    assert 1 <= sum(sample.bounds is not None for sample in mine[1:7]) <= 2


async def test_refresh_tells_at_once(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    other = make_pod(root, UID % 2)
    recording = Recording(root)
    recording.watcher.start()
    bump(root, pod, oom_kill=1)
    bump(root, other, oom_kill=1)
    recording.watcher.refresh([pod, MemcgPath("/unknown")])
    assert (recording.kills(pod), recording.kills(other)) == ([0, 1], [0])
    late = make_pod(root, UID % 3)
    recording.watcher.refresh()
    assert (recording.kills(other), recording.kills(late)) == ([0, 1], [0])
    recording.tree.close()


async def test_a_callback_may_refresh(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    container = make_container(root, pod, CONTAINER_ID % 1)
    async with running(root) as recording:
        record = recording.told.append

        def record_and_refresh(counters: Counters) -> None:
            record(counters)
            recording.watcher.refresh()

        recording.watcher._on_counters = record_and_refresh
        bump(root, container, oom_kill=1)
        remove(root, container)
        await until(lambda: recording.kills(pod) == [0, 1] and recording.is_gone(container))


async def test_on_v1_it_says_so_and_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "memory").mkdir()
    recording = Recording(tmp_path)
    recording.watcher.start()
    await asyncio.wait_for(recording.watcher.run(), 1)
    recording.watcher.refresh()
    assert recording.watcher.state == (Health.OFF, "cgroup v1: kernel log only")
    assert "cgroup v1: kernel log only" in caplog.text
    assert recording.told == []


async def test_many_lives_leave_no_watch_and_no_descriptor(root: Path) -> None:
    containers = make_node(root, containers=20)
    async with running(root) as recording:
        await until(lambda: len(recording.samples) == 30)
        before = watched(), open_files(), len(recording.tree._cgroups)
        await asyncio.to_thread(live_and_die, root, 300)
        await until(lambda: (watched(), open_files(), len(recording.tree._cgroups)) == before)
        above = MemcgPath(str(Path(containers[0]).parents[1]))
        await until(lambda: recording.kills(above)[-1] == 300)
    assert watched() == 0
