"""
The proc connector: the kernel tells of each fork, exec and exit, to a thread of its own.

A thread, because a thread can enter the host's network namespace alone, where the socket has to be made, and because
/proc may make it wait. When it was quiet an event is fetched at once, else every 20 ms all that came.

A storm takes no more than its share of CPU: then the kernel's filter is narrowed for a while, first to exec, then to
nothing. What is missed meanwhile, the passes find.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import sys
import threading
import time
from enum import IntEnum
from typing import TYPE_CHECKING

from collector.processes import NOT_STARTED
from collector.processes.event_socket import BATCH, EventSocket, Filter, OverrunError
from collector.processes.index import ProcessIndex

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INTERVAL_SECONDS = 0.02
MAX_SHARE = 0.06
"""Of a core, in the long run. 5,000 forks in a second take less."""
CREDIT_SECONDS = 4.0
"""Of CPU, beyond that: what a deployment's start or a burst of kills may take."""
MAX_LOOK_SHARE = 0.5
"""Of a core, in any second, for looking at who called exec; a quarter of the credit is kept for events."""
FIRST_REST_SECONDS = 5.0
MAX_REST_SECONDS = 60.0

WINDOW_SECONDS = 1.0
# After each system call the thread has to get the interpreter back from the event loop, which keeps it for 5 ms by
# default while it computes: ten such calls are a look at a process, and not every victim lives for so long.
SWITCH_SECONDS = 0.0005
_START_SECONDS = 3.0
_MAX_BATCHES = 32
_MAX_EXECUTED = 1024

_log = logging.getLogger(__name__)


class Followed(IntEnum):
    NOTHING = 0
    EXEC = 1
    PROCESSES = 2


class Governor:
    """
    How much may be followed, by the CPU that following takes: `at` and `cpu` in seconds, of the clock and of CPU.

    CPU that was not used is saved up, to CREDIT_SECONDS.
    """

    def __init__(self, *, at: float, cpu: float) -> None:
        self.followed = Followed.PROCESSES
        self._credit = CREDIT_SECONDS
        self._window = (at, cpu)
        self._rest = FIRST_REST_SECONDS
        self._widen_at = self._widened_at = float("-inf")

    def has_left(self, cpu: float) -> bool:
        """Whether there is CPU left for what can wait."""
        used = cpu - self._window[1]
        return used < MAX_LOOK_SHARE * WINDOW_SECONDS and self._credit - used > CREDIT_SECONDS / 4

    def judge(self, *, at: float, cpu: float) -> Followed:
        begin, used = self._window
        if at < begin + WINDOW_SECONDS:
            return self.followed
        self._window = (at, cpu)
        saved = MAX_SHARE * (at - begin) - (cpu - used)
        self._credit = min(max(self._credit + saved, 0.0), CREDIT_SECONDS)
        if saved < 0 and not self._credit and self.followed is not Followed.NOTHING:
            if self.followed is Followed.PROCESSES:
                again = at < self._widened_at + MAX_REST_SECONDS
                self._rest = min(self._rest * 2, MAX_REST_SECONDS) if again else FIRST_REST_SECONDS
            self.followed = Followed(self.followed - 1)
            self._widen_at = at + self._rest
        elif self.followed is not Followed.PROCESSES and at >= self._widen_at:
            self.followed = Followed.PROCESSES
            self._widened_at = at
        return self.followed


class Connector:
    """
    Feeds an index, until `stop`.

    `lock` guards the index and the socket, and is held for a batch of events. `look_at` is called in the thread,
    without the lock, for each process that called exec.
    """

    def __init__(
        self, index: ProcessIndex, lock: threading.Lock, *, proc_root: Path, look_at: Callable[[int], None]
    ) -> None:
        self._index = index
        self._lock = lock
        self._proc_root = proc_root
        self._look_at = look_at
        self._socket: EventSocket | None = None
        self._followed = Followed.PROCESSES
        self._executed: dict[int, None] = {}
        self._thread: threading.Thread | None = None
        self.started = False
        self._started = threading.Event()
        self._wake = -1
        self.reason: str | None = NOT_STARTED
        """Why it is off; None: it is on."""
        self.lost = 0
        """How often events were lost, of the kernel's buffer being full."""
        self.shed = 0
        """How often the filter was narrowed, to bound CPU."""
        self.unread = 0
        """How many processes that called exec were not looked at, to bound CPU."""

    @property
    def followed(self) -> Followed:
        return self._followed if self.reason is None else Followed.NOTHING

    @property
    def thread_id(self) -> int | None:
        return None if self._thread is None else self._thread.native_id

    def start(self) -> None:
        """Returns when the kernel has answered, or has not."""
        self.started = True
        sys.setswitchinterval(SWITCH_SECONDS)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="proc-connector", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_SECONDS):
            self.reason = "does not start"

    def stop(self) -> None:
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(_START_SECONDS)
            # A thread that waits for a process still uses it.
            if not self._thread.is_alive():
                os.close(self._wake)
            self._thread = None

    def drain(self) -> None:
        """Take what the kernel holds, or about 8,000 events of it. From any thread."""
        with self._lock:
            if self._socket is not None:
                self._take(self._socket)

    def _take(self, events: EventSocket) -> None:
        for _ in range(_MAX_BATCHES):
            try:
                batch = events.receive()
            except OverrunError:
                self.lost += 1
                if self._followed is Followed.PROCESSES:
                    self._index.followed_since = time.monotonic()
                continue
            for pid in self._index.follow(batch):
                self._executed[pid] = None
            if len(batch) < BATCH:
                break
        while len(self._executed) > _MAX_EXECUTED:
            del self._executed[next(iter(self._executed))]
            self.unread += 1
        self._index.prune(time.monotonic())

    # The thread

    def _run(self) -> None:
        try:
            events = _open(self._proc_root)
        except ConnectorError as error:
            self.reason = str(error)
            self._started.set()
            return
        with self._lock:
            self._socket = events
            self._follow(events, Followed.PROCESSES)
        self.reason = None
        self._started.set()
        try:
            self._loop(events)
            self.reason = "stopped"
        except OSError as error:
            self.reason = f"ended: {error.strerror}"
            _log.warning("proc connector: %s", self.reason)
        finally:
            self.reason = self.reason or "ended by an error of its own"
            with self._lock:
                self._socket = None
                self._index.followed_since = None
                events.close()

    def _loop(self, events: EventSocket) -> None:
        governor = Governor(at=time.monotonic(), cpu=time.thread_time())
        waiting, resting = select.poll(), select.poll()
        for poll in (waiting, resting):
            poll.register(self._wake, select.POLLIN)
        # An overrun shows as POLLERR, which is always reported.
        waiting.register(events, select.POLLIN)
        while True:
            busy = self._executed or governor.followed is not Followed.PROCESSES
            waiting.poll(INTERVAL_SECONDS * 1000 if busy else None)
            self.drain()
            while governor.has_left(time.thread_time()) and (pid := self._latest_executed()) is not None:
                self._look_at(pid)
            followed = governor.judge(at=time.monotonic(), cpu=time.thread_time())
            if followed is not self._followed:
                with self._lock:
                    self._follow(events, followed)
            if resting.poll(INTERVAL_SECONDS * 1000):
                return

    def _latest_executed(self) -> int | None:
        """The latest is the most likely to be alive still."""
        with self._lock:
            return self._executed.popitem()[0] if self._executed else None

    def _follow(self, events: EventSocket, followed: Followed) -> None:
        if followed < self._followed:
            self.shed += 1
        self._followed = followed
        events.filter(_FILTERS[followed])
        self._index.followed_since = time.monotonic() if followed is Followed.PROCESSES else None


_FILTERS = {
    Followed.NOTHING: Filter.ANSWERS,
    Followed.EXEC: Filter.EXEC,
    Followed.PROCESSES: Filter.PROCESSES,
}


class ConnectorError(Exception):
    """The proc connector cannot be used; the text says why, and what would help."""


def probe(proc_root: Path) -> str | None:
    """Why the connector cannot be used here, and what would help; None: it can."""
    connector = Connector(ProcessIndex(), threading.Lock(), proc_root=proc_root, look_at=lambda _: None)
    connector.start()
    reason = connector.reason
    connector.stop()
    return reason


def _open(proc_root: Path) -> EventSocket:
    try:
        return _open_here()
    except ConnectionRefusedError:
        _enter_network_namespace(proc_root / "1/ns/net")
    try:
        return _open_here()
    except ConnectionRefusedError:
        raise ConnectorError("refused in the host's network namespace: a kernel without CONFIG_PROC_EVENTS") from None


def _open_here() -> EventSocket:
    try:
        return EventSocket.open()
    except ConnectionRefusedError:
        raise
    except ImportError as error:
        raise ConnectorError(f"pyroute2 cannot be imported: {error}") from error
    except TimeoutError as error:
        raise ConnectorError("no answer from the kernel: needs the host's pid namespace (hostPID: true)") from error
    except PermissionError as error:
        raise ConnectorError("not permitted: needs capability NET_ADMIN (up to Linux 6.5)") from error
    except OSError as error:
        raise ConnectorError(error.strerror or str(error)) from error


def _enter_network_namespace(path: Path) -> None:
    """The calling thread, and no other."""
    from pyroute2 import netns

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConnectorError(
            f"not in the host's network namespace, and cannot enter it ({os.strerror(error.errno or errno.EPERM)}):"
            " needs hostNetwork: true, or hostPID: true with capabilities SYS_ADMIN and SYS_PTRACE"
        ) from error
