"""What stands beside the kernel log: the counters of cgroups, the processes as they were before, the use of memory."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from collector.cgroups.tree import CgroupTree
from collector.cgroups.watcher import CgroupWatcher, Health
from collector.errors import ParseError
from collector.history import BINS, History, Key, Life
from collector.ledger import Ledger, upwards
from collector.model import AttributionMethod, MemcgPath, OomReport, Process, Sighting
from collector.parse.cgroup_path import Level
from collector.processes import NOT_STARTED
from collector.reconcile import CLOCK_SLACK_SECONDS, Reconciler
from collector.sinks.container_series import MemoryNow
from collector.state import batch
from collector.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.cgroups.cgroup import Cgroup
    from collector.cgroups.memory import MemoryReading
    from collector.config import Config
    from collector.intake import Intake
    from collector.model import ContainerId, Counters, MemoryUse
    from collector.processes.index import KnownProcess
    from collector.processes.watch import ProcessWatch
    from collector.sinks.metrics import Metrics
    from collector.state.store import Store

# A line that was printed so long ago is none that has just arrived.
LATE_SECONDS = 60.0
# What a full look at the tree tells holds for as long, for kills that are seconds old.
FRESH_SECONDS = 0.5
# The children of a pid namespace die with its PID 1: so long around its kill.
COLLATERAL_SECONDS = 2.0
MAX_COLLATERAL = 100
# A crash loses at most so much of the history.
SAVE_SECONDS = 300.0

_log = logging.getLogger(__name__)


class Watched(NamedTuple):
    """A container that runs, with its history. `limit_bytes`: what is enforced, see MemoryNow."""

    id: ContainerId
    life: Life
    working_set_bytes: int
    limit_bytes: int | None


class Witnesses:
    """
    Everything runs on the event loop's thread, save the proc connector. Fulfils counted.Surroundings.

    Where cgroup v2 or the host's processes are out of reach, what rests on them is left out, and said once.
    """

    def __init__(self, config: Config, store: Store, metrics: Metrics, *, boot_id: str) -> None:
        self._store = store
        self._metrics = metrics
        self._boot_id = boot_id
        self._tree = CgroupTree(config.cgroup_root)
        self._ledger = Ledger(store.baselines())
        self.history = History(boot_id=boot_id)
        self._watcher = CgroupWatcher(
            self._tree,
            on_counters=self._counted,
            on_gone=self._gone,
            on_sample=self._sampled,
            on_pass=self._passed,
            interval=config.sample_interval,
        )
        self._config = config
        self.processes: ProcessWatch | None = None  # without cgroups it would know nobody's
        self._pass: asyncio.Task[None] | None = None
        self._events = {batch.PROCESS_EVENTS_LOST: 0, batch.PROCESS_EVENTS_SHED: 0}
        self._said: dict[str, str | None] = {}
        self._intake: Intake | None = None
        self._refreshed_at = float("-inf")
        self._new: dict[Key, Life] = {}
        """Of those in the history: what was made while this process watched."""

    def start(self, intake: Intake) -> None:
        """All that is there is known when this returns: it comes before the kernel log is read."""
        self._watcher.start()
        if self._watcher.state.health is not Health.OFF:
            self.processes = _start_process_watch(self._config)
            self._restore_history()
            self._ledger.end_of_first_scan()
            reconciler = Reconciler(
                self._ledger,
                View(whole=self._tree.is_whole),
                self,
                boot_id=self._boot_id,
                node=self._config.node_name,
                open_incidents=self._store.from_counters(),
                unplaced=self._store.unplaced(),
            )
            intake.reconcile(self._ledger, reconciler)
        self._intake = intake
        self._look_through_processes()
        self._show_states()

    async def run(self) -> None:
        """Until cancelled."""
        await self._watcher.run()

    def stop(self) -> None:
        """Leaves what the history has gained to the intake's last commit."""
        if self.processes is not None:
            self.processes.stop()
        self._save_history(share=1)

    # Asked about a kill

    def sight(self, report: OomReport) -> Sighting | None:
        """Whose process it was, where the kernel did not print its cgroup. To be asked when its line arrives."""
        if report.task_memcg is not None or report.victim.pid is None or self.processes is None:
            return None
        at, usec = time.monotonic(), report.kill_moment.monotonic_usec
        if usec is not None and usec / 1_000_000 < at - LATE_SECONDS:
            at = usec / 1_000_000 + CLOCK_SLACK_SECONDS  # an old line: the pid may be another's by now
        known = self.processes.find(report.victim.pid, comm=report.victim.comm, at=at)
        if known is None:
            return None
        method = AttributionMethod.PROC if known.from_proc else AttributionMethod.PROCESS_INDEX
        return Sighting(method=method, memcg=known.memcg)

    def refresh(self, path: MemcgPath | None) -> None:
        if path is not None:
            self._watcher.refresh(reversed(list(upwards(path))))
        elif time.monotonic() >= self._refreshed_at + FRESH_SECONDS:
            self._watcher.refresh()
            self._refreshed_at = time.monotonic()

    def limit_of(self, path: MemcgPath) -> int | None:
        return self._tree.limit_of(path)

    def memory_of(self, path: MemcgPath) -> MemoryUse | None:
        return self._tree.memory_of(path)

    def collateral(self, report: OomReport, killed_at: float | None) -> tuple[Process, ...]:
        if report.victim.pid is None or killed_at is None or self.processes is None:
            return ()
        victim = self.processes.find(report.victim.pid, comm=report.victim.comm, at=killed_at)
        if victim is None or not victim.is_init:
            return ()
        killed = {report.victim.pid, *(process.pid for process in report.also_killed)}
        since, until = killed_at - COLLATERAL_SECONDS, killed_at + COLLATERAL_SECONDS
        died = self.processes.died_with(victim.memcg, since=since, until=until)
        return tuple(_as_process(process) for process in died if process.pid not in killed)[:MAX_COLLATERAL]

    def is_alive(self, container_id: ContainerId) -> bool | None:
        """Whether there are processes in a container's cgroup; None: cgroups are out of reach."""
        if self._watcher.state.health is Health.OFF:
            return None
        return any(container_id in path and self._tree.is_populated(path) for path in self._tree.containers())

    # Asked for a diagnosis

    def hints_of(self, victim: Process, *, at: float) -> tuple[str, ...] | None:
        """Its memory flags, see processes.hints; None: none were found, or it was never looked at."""
        if victim.pid is None or self.processes is None:
            return None
        known = self.processes.find(victim.pid, comm=victim.comm, at=at)
        return (known.hints or None) if known else None

    def memcg_of(self, pid: int, comm: str, *, at: float) -> MemcgPath | None:
        """Where a process was then; None: not known."""
        known = self.processes.find(pid, comm=comm, at=at) if self.processes else None
        return known.memcg if known else None

    def allocatable_bytes(self) -> int | None:
        """The limit of all pods together; None: they have none, or it is not known."""
        roots = (cgroup.path for cgroup in self._tree.counted() if cgroup.level is Level.KUBEPODS)
        return next((limit for path in roots if (limit := self._tree.limit_of(path)) is not None), None)

    def saw_begin(self, life: Life) -> bool:
        """Whether it goes back to the beginning: this process saw that, and no more than a day has passed."""
        return life in self._new.values() and len(life.bins) < BINS

    # What is there now

    def memory_now(self) -> dict[ContainerId, MemoryNow]:
        """Of all containers, as last sampled."""
        return {container: now for container, _, now in self._sampled_containers()}

    def watched(self) -> Iterator[Watched]:
        """All containers, with what is known of their past."""
        for container, key, now in self._sampled_containers():
            life = self.history.get(key)
            if life is not None:
                yield Watched(container, life, now.working_set_bytes, now.limit_bytes)

    def _sampled_containers(self) -> Iterator[tuple[ContainerId, Key, MemoryNow]]:
        for cgroup in self._tree.sampled():
            sample = cgroup.memory.sample if cgroup.memory else None
            if cgroup.container_id is not None and sample is not None:
                limits = [limit for each in (cgroup, cgroup.parent) if (limit := _limit(each)) is not None]
                now = MemoryNow(sample.working_set, min(limits, default=None))
                yield cgroup.container_id, Key(cgroup.path, cgroup.inode), now

    # Told by the watchers

    def _counted(self, counters: Counters) -> None:
        if counters.after is None and self._intake is not None:
            # What those above miss bounds what a new cgroup may miss: it has to be as new.
            self._watcher.refresh(reversed(list(upwards(counters.path))[1:]))
            self._watcher.sample(counters.path)  # how a life begins, tells a startup that never fitted from a leak
            key = Key(counters.path, counters.inode)
            if (life := self.history.get(key)) is not None and len(life.samples) == 1:
                self._new[key] = life
        self._ledger.observe(counters)
        if self._intake is None:
            return
        self._intake.counters_moved()
        if counters.after is None and self.processes is not None and not self.processes.is_following:
            self._look_through_processes()

    def _gone(self, path: MemcgPath, inode: int) -> None:
        self._ledger.gone(path, inode)
        self.history.remove(Key(path, inode), at=time.monotonic())

    def _sampled(self, reading: MemoryReading) -> None:
        key = Key(reading.path, reading.inode)
        self.history.add(key, reading.sample, at=reading.at, bounds=reading.bounds)

    def _passed(self, _: float) -> None:
        self._look_through_processes()
        self._save_history(share=max(1, round(SAVE_SECONDS / self._config.sample_interval)))
        self._show_states()

    def _look_through_processes(self) -> None:
        idle = self._pass is None or self._pass.done()
        if self.processes is not None and idle and self._tree.containers():
            self._pass = asyncio.create_task(self._look_through(self.processes))

    async def _look_through(self, processes: ProcessWatch) -> None:
        """In a thread: a process that is short of memory lets those wait who read of it."""
        if not processes.is_following:  # not before there are containers: it takes memory
            await asyncio.to_thread(processes.follow)
        # Listed now: what began before the connector was there, only a pass finds.
        await asyncio.to_thread(processes.pass_over, self._tree.containers(), time.monotonic())

    # History

    def _restore_history(self) -> None:
        for path, saved in self._store.histories().items():
            try:
                self.history.restore(saved, at=time.monotonic())
            except ParseError as error:
                _log.warning("memory history of %s is lost: %s", path, error)

    def _save_history(self, *, share: int) -> None:
        self.history.prune(time.monotonic())
        self._new = {key: life for key, life in self._new.items() if self.history.get(key) is life}
        if self._intake is not None:
            self._intake.keep(self.history.take_unsaved(share))

    # State

    def _show_states(self) -> None:
        processes = self.processes
        reasons = {
            "cgroup": self._watcher.state.reason if self._watcher.state.health is Health.OFF else None,
            "process_index": NOT_STARTED if processes is None else processes.index_state.reason,
            "proc_connector": NOT_STARTED if processes is None else processes.connector_state.reason,
        }
        self._metrics.witness_up.update({name: reason is None for name, reason in reasons.items()})
        for name, reason in reasons.items():
            if name != "cgroup" and reason != self._said.get(name, NOT_STARTED):
                _log.info("%s: %s", name.replace("_", " "), "on" if reason is None else f"off: {reason}")
        self._said = reasons
        if self._intake is not None and processes is not None:
            events = {batch.PROCESS_EVENTS_LOST: processes.lost, batch.PROCESS_EVENTS_SHED: processes.shed}
            for name, total in events.items():
                self._intake.count(name, total - self._events[name])
            self._events = events


def _start_process_watch(config: Config) -> ProcessWatch:
    from collector.processes.watch import ProcessWatch

    watch = ProcessWatch(config.proc_root, config.cgroup_root, connector=config.proc_connector == "auto")
    watch.start()
    return watch


def _limit(cgroup: Cgroup | None) -> int | None:
    """As last read."""
    return cgroup.memory.bounds.limit if cgroup and cgroup.memory and cgroup.memory.bounds else None


def _as_process(known: KnownProcess) -> Process:
    return Process(pid=known.pid, comm=known.comm)
