"""Passes and questions over a directory as /proc, and the real proc connector where it may be used."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.model import MemcgPath
from collector.processes.event_socket import EventSocket
from collector.processes.events import FORK
from collector.processes.index import ProcessIndex, Sight
from collector.processes.proc_files import ProcessFiles
from collector.processes.watch import FOLLOWED_PASS_SECONDS, ProcessWatch
from tests.processes.fake_proc import A, B, FakeProc
from tests.processes.test_event_socket import datagram


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def started(proc: FakeProc) -> ProcessWatch:
    watch = ProcessWatch(proc.root, proc.cgroups, connector=False)
    watch.start()
    assert watch.index_state.up
    return watch


def memcg_of(watch: ProcessWatch, pid: int, comm: str | None, at: float | None = None) -> MemcgPath | None:
    known = watch.find(pid, comm=comm, at=time.monotonic() if at is None else at)
    return None if known is None else known.memcg


def test_pass_keeps_what_is_needed_after_death(proc: FakeProc) -> None:
    proc.list(A, 7, 8)
    proc.add(7, "/wrong", ns_pids="\t1", cmdline=b"java\0-Xmx1g\0-Dpassword=hunter2\0", environ=b"A=b\0")
    proc.add(8, "/wrong", comm=b"sh", ns_pids="\t12")
    watch = started(proc)
    watch.pass_over([A], time.monotonic())
    for pid in (7, 8):
        proc.remove(pid)
    known = watch.find(7, comm="java", at=time.monotonic())
    assert known is not None
    assert (known.memcg, known.is_init, known.hints, known.died_at) == (A, True, ("runtime=java", "-Xmx1g"), None)
    assert memcg_of(watch, 8, "sh") == A
    assert memcg_of(watch, 8, "other") is None


def test_pass_reads_only_what_is_new(proc: FakeProc) -> None:
    proc.list(A, 7)
    proc.add(7, A)
    watch = started(proc)
    watch.pass_over([A], time.monotonic())
    proc.add(7, A, comm=b"never-read")
    watch.pass_over([A], time.monotonic())
    assert memcg_of(watch, 7, "java", time.monotonic() - 10) == A


def test_pass_notices_who_is_gone_who_moved_and_who_came(proc: FakeProc) -> None:
    for pid in (7, 8, 9):
        proc.add(pid, A)
    proc.list(A, 7, 8, 9)
    watch = started(proc)
    watch.pass_over([A, B], 100.0)
    proc.remove(7)
    proc.add(8, "/system.slice/elsewhere.service")
    proc.list(A)
    proc.list(B, 9, 10)
    proc.add(10, B)
    watch.pass_over([A, B], 200.0)
    assert [known.pid for known in watch.died_with(A, since=150.0, until=250.0)] == [7]
    assert len(watch) == 3
    assert memcg_of(watch, 9, "java") == B
    assert memcg_of(watch, 10, "java") == B


def test_process_that_began_after_the_list_was_made_is_not_taken_for_the_listed_one(proc: FakeProc) -> None:
    proc.list(A, 7)
    proc.add(7, "/system.slice/x.service", born=time.monotonic() + 1)
    watch = started(proc)
    watch.pass_over([A], time.monotonic())
    assert len(watch) == 0


def test_zombie_and_vanished_in_a_pass(proc: FakeProc) -> None:
    proc.list(A, 7, 8, 9)
    proc.add(7, A, state="Z")
    (proc.root / "8").mkdir()
    watch = started(proc)
    watch.pass_over([A, MemcgPath("/gone")], time.monotonic())
    known = watch.find(7, comm="java", at=time.monotonic())
    assert known is not None
    assert known.died_at is not None
    assert len(watch) == 1


def test_processes_outside_of_our_pid_namespace_are_counted(proc: FakeProc) -> None:
    proc.list(A, 0, 0)
    watch = started(proc)
    watch.pass_over([A], time.monotonic())
    assert (watch.outside, len(watch)) == (2, 0)


@pytest.mark.parametrize(
    ("comm", "born", "expected"),
    [
        pytest.param("java", None, A, id="began before the kill"),
        pytest.param(None, None, A, id="the line has no name"),
        pytest.param("other", None, None, id="another name"),
        pytest.param("java", 5.0, None, id="began after the kill: a successor"),
    ],
)
def test_unknown_process_is_looked_up_where_it_is(
    proc: FakeProc, comm: str | None, born: float | None, expected: MemcgPath | None
) -> None:
    now = time.monotonic()
    proc.add(7, A, born=None if born is None else now + born)
    assert memcg_of(started(proc), 7, comm, now) == expected


def test_another_name_is_believed_of_the_process_that_was_known(proc: FakeProc) -> None:
    proc.list(A, 7)
    now = time.monotonic()
    proc.add(7, A, born=now - 40)
    watch = started(proc)
    watch.pass_over([A], now)
    proc.add(7, A, comm=b"renamed", born=now - 40, state="Z")
    assert memcg_of(watch, 7, "renamed") == A


def test_successor_of_the_same_name_that_no_pass_saw(proc: FakeProc) -> None:
    """It had the pid when it was killed: what the index has is an earlier owner."""
    now = time.monotonic()
    proc.list(A, 7)
    proc.add(7, A, born=now - 40)
    watch = started(proc)
    watch.pass_over([A], now)
    proc.add(7, B, born=now - 2)
    assert memcg_of(watch, 7, "java", now) == B


def test_successor_that_came_after_the_kill(proc: FakeProc) -> None:
    now = time.monotonic()
    proc.list(A, 7)
    proc.add(7, A, born=now - 40)
    watch = started(proc)
    watch.pass_over([A], now - 20)
    proc.remove(7)
    proc.list(A)
    watch.pass_over([A], now - 1)
    proc.add(7, B, born=now - 0.5)
    assert memcg_of(watch, 7, "java", now - 1.5) == A
    assert memcg_of(watch, 7, "java", now) is None


@pytest.mark.parametrize("seen", ["/", "/agent.scope"])
def test_private_cgroup_namespace_is_learned_from_our_own_process(tmp_path: Path, seen: str) -> None:
    proc = FakeProc(tmp_path, cgroup_namespace="cgroup:[4026532000]")
    own = MemcgPath(f"/kubepods/besteffort/podagent/{'c' * 64}" + seen.rstrip("/"))
    proc.add(os.getpid(), seen)
    proc.add(7, f"/../../../burstable/{A.split('/')[3]}/{'a' * 64}")
    proc.list(own, os.getpid())
    watch = started(proc)
    assert memcg_of(watch, 7, "java") is None
    watch.pass_over([own], time.monotonic())
    assert memcg_of(watch, 7, "java") == A


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [("pid:[4026532001]", "hostPID: true"), (None, "no /proc")],
)
def test_off_where_pids_are_not_the_kernels(tmp_path: Path, namespace: str | None, expected: str) -> None:
    proc = FakeProc(tmp_path)
    (proc.root / "self/ns/pid").unlink()
    if namespace is not None:
        (proc.root / "self/ns/pid").symlink_to(namespace)
    proc.list(A, 7)
    proc.add(7, A)
    watch = ProcessWatch(proc.root, proc.cgroups)
    watch.start()
    watch.follow()
    watch.pass_over([A], time.monotonic())
    assert expected in (watch.index_state.reason or "")
    assert watch.connector_state == watch.index_state
    assert watch.find(7, comm="java", at=time.monotonic()) is None
    watch.stop()


def test_connector_off_by_choice(proc: FakeProc) -> None:
    assert started(proc).connector_state.reason == "switched off"


def test_passes_are_rare_while_the_connector_misses_nothing(proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr(EventSocket, "open", lambda: EventSocket(ours, sender=b""))
    watch = ProcessWatch(proc.root, proc.cgroups)
    watch.start()
    watch.follow()
    for number, (at, expected) in enumerate([(0.0, 1), (10.0, 1), (FOLLOWED_PASS_SECONDS, 3)]):
        proc.list(A, *range(7, 8 + number))
        proc.add(7 + number, A)
        watch.pass_over([A], at)
        assert len(watch) == expected
    watch._connector.lost += 1
    proc.list(A, *range(7, 20))
    proc.add(19, A)
    watch.pass_over([A], FOLLOWED_PASS_SECONDS + 10)
    assert len(watch) == 4
    watch.stop()
    kernel.close()


# The real one


class Live:
    def __init__(self, watch: ProcessWatch, index: ProcessIndex) -> None:
        self.watch, self.index = watch, index

    def follow_us(self) -> MemcgPath:
        with ProcessFiles("/proc", os.getpid()) as ourselves:
            memcg = ourselves.memcg(MemcgPath("/"))
            assert memcg is not None
            self.index.seen(os.getpid(), ourselves.sight(memcg)[0])
        return memcg


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    index = ProcessIndex()
    watch = ProcessWatch(Path("/proc"), Path("/sys/fs/cgroup"), index)
    # Nobody here is in a container: what is looked at would be forgotten.
    for name in ("watch", "index"):
        monkeypatch.setattr(f"collector.processes.{name}.is_in_container", lambda _: True)
    watch.start()
    watch.follow()
    if not watch.connector_state.up:
        watch.stop()
        pytest.skip(f"proc connector: {watch.connector_state.reason}")
    yield Live(watch, index)
    watch.stop()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_real_fork_exec_and_exit(live: Live) -> None:
    ours = live.follow_us()
    child = subprocess.Popen(["sleep", "0.3"])
    wait_until(lambda: any(owner.comm == "sleep" for owner in live.index.owners(child.pid, time.monotonic())))
    (owner,) = live.index.owners(child.pid, time.monotonic())
    assert (owner.parent, owner.died_at) == (os.getpid(), None)
    child.wait()
    known = live.watch.find(child.pid, comm="sleep", at=time.monotonic())
    assert known is not None
    assert known.died_at is not None
    assert known.memcg == ours
    assert abs(known.died_at - time.monotonic()) < 5


def test_real_child_that_is_gone_before_anybody_looks(live: Live) -> None:
    ours = live.follow_us()
    pids = []
    for _ in range(50):
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)
        pids.append(pid)
    assert [memcg_of(live.watch, pid, None) for pid in pids] == [ours] * 50


def test_forged_events_of_another_process_are_not_believed(live: Live) -> None:
    now = time.monotonic()
    live.index.seen(5, Sight(A, "java", 1, now, 1, False, now))
    events = live.watch._connector._socket
    assert events is not None
    port = events._socket.getsockname()[0]
    # Without CAP_NET_ADMIN the kernel refuses it already.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11) as other, contextlib.suppress(PermissionError):
        other.sendto(datagram(FORK, 5, 5, 4_190_000, 4_190_000), (port, 0))
    live.watch._connector.drain()
    assert live.index.owners(4_190_000, time.monotonic()) == []
