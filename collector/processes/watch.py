"""The containers' processes, as the agent uses them: passes, the proc connector, and the question whose a pid was."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collector.model import MemcgPath
from collector.processes import NOT_STARTED
from collector.processes.connector import Connector, Followed
from collector.processes.index import EARLY_SECONDS, KnownProcess, ProcessIndex, is_in_container
from collector.processes.proc_files import TICK_SECONDS, ProcessFiles, list_processes, namespace_root_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from collector.processes.index import Sight

# While the connector misses nothing, a pass finds only what moved without a fork or an exec.
FOLLOWED_PASS_SECONDS = 60.0
MAX_UNHINTED = 4096


# include/linux/proc_ns.h: PROC_PID_INIT_INO, PROC_CGROUP_INIT_INO.
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
_INITIAL_CGROUP_NAMESPACE = "cgroup:[4026531835]"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """reason: why it is off, and what would help; None where it is on."""

    reason: str | None

    @property
    def up(self) -> bool:
        return self.reason is None


class ProcessWatch:
    """
    `start`, `stop` and `find` belong to one thread, which `find` never makes wait for a process. `follow` and
    `pass_over` may run in another: the one waits for the kernel's answer, the other reads three files for each new
    process, and waits for one that is short of memory.
    """

    def __init__(
        self, proc_root: Path, cgroup_root: Path, index: ProcessIndex | None = None, *, connector: bool = True
    ) -> None:
        self._proc_root = proc_root
        self._cgroup_root = str(cgroup_root).rstrip("/")
        self._index = ProcessIndex() if index is None else index
        self._lock = threading.Lock()
        self._passing = threading.Lock()
        self._wants_connector = connector
        self._connector = Connector(self._index, self._lock, proc_root=proc_root, look_at=self._look_at_executed)
        self._namespace_root: MemcgPath | None = None
        self._passed_at = float("-inf")
        self._passed: set[MemcgPath] = set()
        self._unhinted: dict[int, int] = {}
        """Starting times of processes whose memory flags were not read yet, by pid."""
        self._losses_passed = 0
        self.index_state = State(reason=NOT_STARTED)
        self.outside = 0
        """Of the last pass: processes that cgroup.procs shows as 0, since they are outside of our pid namespace."""

    @property
    def is_following(self) -> bool:
        return self._connector.started

    @property
    def connector_state(self) -> State:
        if not self._wants_connector:
            return State(reason="switched off")
        if not self.index_state.up:
            return self.index_state
        return State(reason=self._connector.reason)

    @property
    def lost(self) -> int:
        """How often the kernel dropped events, for a full buffer."""
        return self._connector.lost

    @property
    def shed(self) -> int:
        """How often less was followed, to bound CPU, and how many processes were not kept, to bound memory."""
        return self._connector.shed + self._connector.unread + self._index.shed

    @property
    def shedding(self) -> bool:
        return self._connector.reason is None and self._connector.followed is not Followed.PROCESSES

    def __len__(self) -> int:
        return len(self._index)

    def start(self) -> None:
        """Find out whether processes can be told apart here at all."""
        self.index_state = State(reason=_why_off(self._proc_root))
        if not self.index_state.up:
            return
        if _link(self._proc_root / "self/ns/cgroup") == _INITIAL_CGROUP_NAMESPACE:
            self._namespace_root = MemcgPath("/")

    def follow(self) -> None:
        """Start the connector, once. Before a pass: what it misses from then on is known."""
        if self._wants_connector and self.index_state.up and not self._connector.started:
            self._connector.start()

    def stop(self) -> None:
        self._connector.stop()

    def pass_over(self, containers: Sequence[MemcgPath], at: float) -> None:
        """
        Look for processes in these cgroups and below; /proc is asked only about new ones.

        While the connector misses nothing, all but one pass in a minute look into new containers only, and read the
        memory flags of what it told.
        """
        if not self.index_state.up:
            return
        with self._passing:
            losses = self._connector.lost + self._connector.shed
            followed = self._connector.followed is Followed.PROCESSES and losses == self._losses_passed
            if not followed or at >= self._passed_at + FOLLOWED_PASS_SECONDS:
                self._passed_at, self._losses_passed = at, losses
                self._pass(containers, at, all_of_them=True)
            else:
                self._pass([path for path in containers if path not in self._passed], at, all_of_them=False)
            self._passed = set(containers)
            self._read_hints()

    def find(self, pid: int, *, comm: str | None, at: float) -> KnownProcess | None:
        """
        Who had this pid when a kill was told at `at`. None: not known, or more than one may have had it.

        comm: as the kernel log shows it; None where it does not.
        """
        if not self.index_state.up:
            return None
        self._connector.drain()
        with self._lock:
            known = self._index.find(pid, comm=comm, at=at)
            owners = self._index.owners(pid, at)
        now = self._read(pid)
        if now is None:
            return known
        if known is None:
            return _identify(pid, now, comm, at, owners)
        return _weigh(known, now, comm, at)

    def died_with(self, memcg: MemcgPath, *, since: float, until: float) -> list[KnownProcess]:
        """Processes of a memcg, or below, that ended in this span."""
        self._connector.drain()
        with self._lock:
            return self._index.died_with(memcg, since=since, until=until)

    def _read(self, pid: int) -> Sight | None:
        """The process that has this pid now, alive or not."""
        try:
            with ProcessFiles(self._proc_root, pid) as process:
                memcg = process.memcg(self._namespace_root)
                if memcg is None:
                    return None
                sight, _ = process.sight(memcg)
        except OSError:
            return None
        return sight

    # Passes

    def _pass(self, containers: Iterable[MemcgPath], at: float, *, all_of_them: bool) -> None:
        begin = time.monotonic()
        listed: dict[int, MemcgPath] = {}
        outside = 0
        for container in containers:
            for below, pids in list_processes(self._cgroup_root + container):
                path = MemcgPath(container + below) if below else container
                outside += pids.count(0)
                listed.update(dict.fromkeys(pids, path))
        listed.pop(0, None)
        self.outside = outside
        self._learn_namespace_root(listed)
        with self._lock:
            unread = self._index.unread(listed)
            missing = self._index.missing(listed) if all_of_them else ()
            self._index.prune(at)
        for pid in unread:
            self._look_at_listed(pid, listed[pid], before=begin)
        for pid in missing:
            self._look_for_missing(pid, at)

    def _look_at_listed(self, pid: int, memcg: MemcgPath, *, before: float) -> None:
        """A process that began after the list was made is another one, who knows where."""
        try:
            with ProcessFiles(self._proc_root, pid) as process:
                self._learn(process, pid, memcg, before=before)
        except OSError:
            return

    def _look_for_missing(self, pid: int, at: float) -> None:
        """It is in none of the containers: it has ended, has moved, or came after they were listed."""
        try:
            with ProcessFiles(self._proc_root, pid) as process:
                memcg = process.memcg(self._namespace_root)
                if memcg is not None:
                    self._learn_contained(process, pid, memcg)
        except OSError:
            with self._lock:
                self._index.died(pid, at)

    def _look_at_executed(self, pid: int) -> None:
        """In the connector's thread."""
        try:
            with ProcessFiles(self._proc_root, pid) as process:
                memcg = process.memcg(self._namespace_root)
                if memcg is not None:
                    self._learn_contained(process, pid, memcg)
        except OSError:
            return

    def _learn_contained(self, process: ProcessFiles, pid: int, memcg: MemcgPath) -> None:
        """Outside of containers it may be what a runtime is about to move into one, of which no event tells."""
        if is_in_container(memcg):
            self._learn(process, pid, memcg)
        else:
            with self._lock:
                self._index.forget(pid, unless_in=memcg)

    def _learn(self, process: ProcessFiles, pid: int, memcg: MemcgPath, *, before: float = float("inf")) -> None:
        sight, ended = process.sight(memcg)
        if sight.born > before - TICK_SECONDS:
            return
        with self._lock:
            self._index.seen(pid, sight)
            if ended:
                self._index.died(pid, sight.at)
            elif len(self._unhinted) < MAX_UNHINTED:
                self._unhinted[pid] = sight.start_ticks

    def _read_hints(self) -> None:
        """
        Of those that were looked at since the last pass. A process at its limit may let us wait for its command line:
        nobody else must wait for that.
        """
        with self._lock:
            unhinted, self._unhinted = self._unhinted, {}
        for pid, start_ticks in unhinted.items():
            try:
                with ProcessFiles(self._proc_root, pid) as process:
                    hints = process.hints()
            except OSError:
                continue
            with self._lock:
                self._index.hinted(pid, start_ticks, hints)

    def _learn_namespace_root(self, listed: Mapping[int, MemcgPath]) -> None:
        """In a cgroup namespace of our own, paths in /proc begin at a place that only our own cgroup tells."""
        own = listed.get(os.getpid())
        if self._namespace_root is not None or own is None:
            return
        with ProcessFiles(self._proc_root, os.getpid()) as ourselves:
            seen = ourselves.memcg(MemcgPath("/"))
        if seen is not None:
            self._namespace_root = namespace_root_from(own, seen)


def _why_off(proc_root: Path) -> str | None:
    """
    None: the kernel log's pids, /proc's and ours are the same.

    /proc/1/ns/pid only a privileged process may read. Our own we may, and that we find ourselves in this /proc shows
    that it is the host's too.
    """
    namespace = _link(proc_root / "self/ns/pid")
    if namespace is None:
        return f"{proc_root}/self: this is no /proc, or that of a pid namespace that we are not in"
    if namespace != _INITIAL_PID_NAMESPACE:
        return "in a pid namespace of its own: needs the host's (hostPID: true)"
    return None


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None


def _weigh(known: KnownProcess, now: Sight, comm: str | None, at: float) -> KnownProcess | None:
    """What the index has, against what /proc shows now."""
    if known.died_at is None:
        replaced = known.start_ticks not in {None, now.start_ticks}
    else:
        replaced = now.born > known.died_at - TICK_SECONDS  # else it is the zombie
    if not replaced or now.born > at + EARLY_SECONDS or comm not in {None, now.comm}:
        return known
    # Whoever has the pid now had it at `at` already, and has the right name.
    if known.died_at is None:
        return _identify(known.pid, now, comm, at, ())
    return known if known.died_at >= at or known.memcg == now.memcg else None


def _identify(
    pid: int, sight: Sight, comm: str | None, at: float, owners: Sequence[KnownProcess]
) -> KnownProcess | None:
    """What /proc shows now, where that is the process of the kill line and no successor."""
    known = next((owner for owner in owners if owner.start_ticks == sight.start_ticks), None)
    if known is None and (
        sight.born > at + EARLY_SECONDS
        or comm not in {None, sight.comm}
        or any(owner.died_at is not None for owner in owners)
    ):
        return None
    return KnownProcess(
        pid=pid,
        memcg=sight.memcg,
        comm=sight.comm,
        start_ticks=sight.start_ticks,
        parent=sight.parent,
        is_init=sight.is_init,
        hints=known.hints if known else (),
        died_at=known.died_at if known else None,
        from_proc=known is None,
    )
