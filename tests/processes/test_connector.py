"""The connector's thread against a local socket in place of the kernel's: storms, overruns, reasons to be off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.processes import connector as module
from collector.processes.connector import FIRST_REST_SECONDS, MAX_REST_SECONDS, Connector, Followed, Governor
from collector.processes.event_socket import EventSocket, OverrunError
from collector.processes.events import EXEC, EXIT, FORK, Event
from collector.processes.index import ProcessIndex, Sight
from tests.processes.fake_proc import A
from tests.processes.test_event_socket import datagram


class Kernel:
    """The other end of the socket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setblocking(False)
        self.overruns = 0
        kernel = self

        class Events(EventSocket):
            def receive(self) -> list[Event]:
                if kernel.overruns:
                    kernel.overruns -= 1
                    raise OverrunError
                return super().receive()

        monkeypatch.setattr(EventSocket, "open", lambda: Events(self._ours, sender=b""))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel(monkeypatch)
    with kernel.socket:
        yield kernel


@contextmanager
def running(index: ProcessIndex, look_at: Callable[[int], None] = lambda _: None) -> Iterator[Connector]:
    connector = Connector(index, threading.Lock(), proc_root=Path("/nowhere"), look_at=look_at)
    connector.start()
    try:
        yield connector
    finally:
        connector.stop()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_feeds_the_index_and_hands_over_what_called_exec(kernel: Kernel) -> None:
    index, looked_at = ProcessIndex(), list[int]()
    now = time.monotonic()
    index.seen(5, Sight(A, "java", 1, now, 1, False, now))
    with running(index, looked_at.append) as connector:
        assert connector.reason is None
        assert index.followed_since is not None
        kernel.socket.send(datagram(FORK, 5, 5, 6, 6))
        kernel.socket.send(datagram(EXEC, 6, 6))
        kernel.socket.send(datagram(EXIT, 5, 5, nanoseconds=int(now * 1e9)))
        wait_until(lambda: looked_at == [6])
        connector.drain()
        assert [owner.memcg for owner in index.owners(6, now)] == [A]
        assert [owner.died_at for owner in index.owners(5, now)] == [pytest.approx(now)]
    assert connector.reason == "stopped"
    assert index.followed_since is None


def test_drain_does_not_wait_for_the_thread(kernel: Kernel) -> None:
    """Which may be waiting for a process: what is asked now must be answered now."""
    entered, leave = threading.Event(), threading.Event()

    def look_at(_: int) -> None:
        entered.set()
        leave.wait(10)

    index = ProcessIndex()
    now = time.monotonic()
    index.seen(5, Sight(A, "java", 1, now, 1, False, now))
    with running(index, look_at) as connector:
        kernel.socket.send(datagram(EXEC, 9, 9))
        assert entered.wait(10)
        kernel.socket.send(datagram(FORK, 5, 5, 6, 6))
        connector.drain()
        assert index.owners(6, now)
        leave.set()


def test_overrun_is_counted_and_ends_the_certainty(kernel: Kernel) -> None:
    index = ProcessIndex()
    with running(index) as connector:
        before = index.followed_since
        kernel.overruns = 2
        connector.drain()
        assert connector.lost == 2
        assert before is not None
        assert index.followed_since is not None
        assert index.followed_since > before


def test_more_exec_than_can_be_looked_at_is_dropped_and_counted(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_EXECUTED", 4)
    entered, leave = threading.Event(), threading.Event()

    def look_at(_: int) -> None:
        entered.set()
        leave.wait(10)

    with running(ProcessIndex(), look_at) as connector:
        kernel.socket.send(datagram(EXEC, 1, 1))
        assert entered.wait(10)
        for pid in range(2, 9):
            kernel.socket.send(datagram(EXEC, pid, pid))
        connector.drain()
        assert connector.unread == 3
        leave.set()


def test_storm_narrows_the_filter_and_says_so(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SHARE", 0.0)
    monkeypatch.setattr(module, "CREDIT_SECONDS", 0.0)
    monkeypatch.setattr(module, "WINDOW_SECONDS", 0.05)
    index = ProcessIndex()
    with running(index) as connector:
        kernel.socket.send(datagram(EXEC, 1, 1))
        time.sleep(0.1)
        kernel.socket.send(datagram(EXEC, 2, 2))
        wait_until(lambda: connector.shed == 2)
        assert connector.followed is Followed.NOTHING
        assert index.followed_since is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(1, "Operation not permitted"), "NET_ADMIN"),
        (TimeoutError(110, "no answer"), "hostPID: true"),
        (OSError(93, "Protocol not supported"), "Protocol not supported"),
        (ConnectionRefusedError(111, "Connection refused"), "hostNetwork: true"),
        (ImportError("No module named 'pyroute2'"), "pyroute2 cannot be imported"),
    ],
)
def test_off_with_a_reason(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str) -> None:
    def refuse() -> EventSocket:
        raise error

    monkeypatch.setattr(EventSocket, "open", refuse)
    with running(ProcessIndex()) as connector:
        assert expected in (connector.reason or "")
        assert connector.followed is Followed.NOTHING
        connector.drain()


def test_governor_lends_a_burst_then_narrows_rests_and_widens() -> None:
    governor = Governor(at=0.0, cpu=0.0)
    assert governor.judge(at=0.9, cpu=0.9) is Followed.PROCESSES  # a window is a second
    assert governor.has_left(0.4)
    assert not governor.has_left(0.6)  # half a core
    for second in (1, 2, 3, 4):
        assert governor.judge(at=second, cpu=second) is Followed.PROCESSES
    assert not governor.has_left(4.0)
    assert governor.judge(at=5.0, cpu=5.0) is Followed.EXEC
    assert governor.judge(at=6.0, cpu=5.05) is Followed.EXEC
    assert governor.judge(at=7.0, cpu=5.2) is Followed.NOTHING
    assert governor.judge(at=7.0 + FIRST_REST_SECONDS - 0.1, cpu=5.2) is Followed.NOTHING
    assert governor.judge(at=8.0 + FIRST_REST_SECONDS, cpu=5.2) is Followed.PROCESSES


def test_governor_saves_up_what_is_not_used() -> None:
    governor = Governor(at=0.0, cpu=0.0)
    cpu = 0.0
    for minute in range(1, 10):
        cpu += 3.0
        assert governor.judge(at=60.0 * minute, cpu=cpu) is Followed.PROCESSES
        assert governor.has_left(cpu)


def test_governor_rests_longer_each_time_while_the_storm_goes_on() -> None:
    governor = Governor(at=0.0, cpu=0.0)
    rests, narrowed, cpu = [], 0.0, 0.0
    for second in range(1, 600):
        before = governor.followed
        cpu += 0.2 if before is Followed.PROCESSES else 0.0
        followed = governor.judge(at=second, cpu=cpu)
        if followed < before:
            narrowed = second
        elif followed > before:
            rests.append(second - narrowed)
    assert rests[0] == FIRST_REST_SECONDS
    assert rests == sorted(rests)
    assert rests[-1] == MAX_REST_SECONDS
