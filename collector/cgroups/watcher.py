"""Reads the tree when inotify tells that something happened in it, and in passes."""

from __future__ import annotations

import asyncio
import logging
import time
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from collector.cgroups.files import raise_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from collector.cgroups.cgroup import Cgroup
    from collector.cgroups.memory import MemoryReading
    from collector.cgroups.tree import CgroupTree
    from collector.model import Counters, MemcgPath

SLICE_SECONDS = 0.002
"""After so long a pass lets the event loop do other work."""
GATHER_SECONDS = 0.02
"""One kill moves the counters of a container and of all above it; each is read once."""
IDLE_SECONDS = 0.1
"""Until the next look, at least, if the last one found no kill: `max` alone notifies 100 times a second."""
IDLE_SHARE = 0.02
"""Of a core, at most, for such looks."""
UNWATCHED_SECONDS = 1.0
"""Between two readings where inotify is not to be had, or is not yet: a new cgroup may be empty at first."""
BOUNDS_EVERY = 6
"""Passes: limit, peak and pressure change rarely, and are not kept open."""

_log = logging.getLogger(__name__)


class Health(StrEnum):
    UP = "up"
    DEGRADED = "degraded"
    OFF = "off"


class CgroupState(NamedTuple):
    health: Health
    reason: str | None = None


class CgroupWatcher:
    """
    Everything runs on the event loop's thread.

    on_counters: a cgroup's first reading, and each that has a kill or an OOM more than the last. on_gone: after that
    nothing comes of this path and inode. on_pass: all that was counted before this time has been delivered.
    on_sample: of each pod and container, every `interval` seconds. A callback may call refresh().
    """

    def __init__(
        self,
        tree: CgroupTree,
        *,
        on_counters: Callable[[Counters], None],
        on_gone: Callable[[MemcgPath, int], None],
        on_sample: Callable[[MemoryReading], None],
        on_pass: Callable[[float], None],
        interval: float = 10.0,
    ) -> None:
        self._tree = tree
        self._on_counters = on_counters
        self._on_sample = on_sample
        self._on_pass = on_pass
        self._interval = interval
        tree.on_gone = on_gone
        self._inotify: int | None = None
        self._not_before = 0.0
        self._wake = asyncio.Event()
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._passes = 0
        self._said: str | None = None

    @property
    def state(self) -> CgroupState:
        if self._tree.problem is not None:
            return CgroupState(Health.OFF, self._tree.problem)
        if self._tree.watches.problem is not None:
            return CgroupState(Health.DEGRADED, self._tree.watches.problem)
        return CgroupState(Health.UP)

    def start(self) -> None:
        """Find and read all there is: before the kernel log is read, so that what it tells can be compared."""
        if self._tree.problem is None:
            raise_descriptor_limit()
            self._inotify = self._tree.watches.open()
            self.refresh()
            _log.info("cgroups: %d are watched for OOM kills", len(self._tree.counted()))
        self._say_state()

    def refresh(self, paths: Iterable[MemcgPath] | None = None) -> None:
        """Read the counters of these now, or look for new cgroups and read all; deliver what changed."""
        if self._tree.problem is not None:
            return
        if paths is None:
            self._tree.scan()
        for counters in self._tree.read_counters(paths):
            self._on_counters(counters)

    def sample(self, path: MemcgPath) -> None:
        """One pod or container now, beside the passes."""
        cgroup = self._tree.find(path)
        reading = self._tree.sample(cgroup, bounds=True) if cgroup is not None and cgroup.is_sampled else None
        if reading is not None:
            self._on_sample(reading)

    async def run(self) -> None:
        """Until cancelled; there is nothing to do where the state is off."""
        if self._tree.problem is not None:
            return
        self._listen()
        sample_at = time.monotonic()
        try:
            while True:
                self._wake.clear()
                sampling = time.monotonic() >= sample_at
                await self._pass(sampling=sampling)
                if sampling:
                    sample_at = max(sample_at + self._interval, time.monotonic())
                await self._sleep(sample_at - time.monotonic())
        finally:
            self._stop_listening()
            for timer in self._timers.values():
                timer.cancel()
            self._tree.close()

    # Passes

    async def _pass(self, *, sampling: bool) -> None:
        began = time.monotonic()
        if sampling and self.state.health is Health.DEGRADED:
            self._renew_watches()
        await _in_slices(self._tree.scan_steps())
        await _in_slices(self._read_steps())
        self._on_pass(began)
        self._say_state()
        if sampling:
            await _in_slices(self._sample_steps())
            self._passes += 1

    def _read_steps(self) -> Iterator[None]:
        self._tree.take_unread()  # they are among these
        for cgroup in self._tree.counted():
            self._read(cgroup)
            yield

    def _sample_steps(self) -> Iterator[None]:
        for cgroup in self._tree.sampled():
            turn = (self._passes + cgroup.inode) % BOUNDS_EVERY
            reading = self._tree.sample(cgroup, bounds=turn == 0)
            if reading is not None:
                self._on_sample(reading)
            yield

    def _read(self, cgroup: Cgroup) -> bool:
        counters = self._tree.read(cgroup)
        if counters is not None:
            self._on_counters(counters)
        return counters is not None

    async def _sleep(self, seconds: float) -> None:
        if self.state.health is Health.DEGRADED:
            seconds = min(seconds, UNWATCHED_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    # Notifications

    def _listen(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().add_reader(self._inotify, self._notified)

    def _stop_listening(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify)

    def _notified(self) -> None:
        """Let what happens in the same moment gather: until then, more of it must not wake us."""
        self._stop_listening()
        self._later(max(GATHER_SECONDS, self._not_before - time.monotonic()), self._handle)

    def _handle(self) -> None:
        try:
            self._handle_notifications()
        finally:
            self._listen()

    def _handle_notifications(self) -> None:
        began = time.monotonic()
        noticed = self._tree.watches.read()
        for cgroup in noticed.directories:
            self._tree.list_again(cgroup)
        found = self._tree.take_unread()
        told = [self._read(cgroup) for cgroup in {*found, *noticed.events}]
        if found:
            self._later(UNWATCHED_SECONDS, self._wake.set)
        if noticed.overflowed:
            self._wake.set()
        if not any(told):
            now = time.monotonic()
            idle = max(IDLE_SECONDS, (now - began) / IDLE_SHARE)
            self._not_before = now + min(idle, UNWATCHED_SECONDS)
        self._say_state()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """One at a time of each."""

        def due() -> None:
            del self._timers[call]
            call()

        if call not in self._timers:
            self._timers[call] = asyncio.get_running_loop().call_later(seconds, due)

    def _renew_watches(self) -> None:
        """What could not be watched before is tried again, as this pass comes to it."""
        if self._inotify is None:
            self._inotify = self._tree.watches.open()
            self._listen()
        else:
            self._tree.watches.problem = None

    def _say_state(self) -> None:
        health, reason = self.state
        if reason == self._said:
            return
        self._said = reason
        if health is Health.OFF:
            _log.warning("cgroups: off: %s", reason)
        elif health is Health.DEGRADED:
            _log.warning("cgroups: read every %.0f s, and not at once: %s", UNWATCHED_SECONDS, reason)
        else:
            _log.info("cgroups: all are watched again")


async def _in_slices(steps: Iterator[None]) -> None:
    """Exhaust it without holding the event loop up."""
    until = time.monotonic() + SLICE_SECONDS
    for _ in steps:
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + SLICE_SECONDS
