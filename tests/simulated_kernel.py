"""
A kernel in miniature: cgroups whose `oom_kill` counts upwards, kills that print a line, and what can go wrong between.

It counts as the real one does (measured on 5.10, 6.1, 6.12 and 7.2): at the victim's cgroup and all above it, and a
group's first victim twice; it prints `Killed process` as often as it counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from collector.identity import live_id
from collector.judge import judge, judge_again
from collector.ledger import Baseline, Ledger
from collector.model import (
    Counters,
    Evidence,
    Incident,
    MemcgPath,
    MemoryUse,
    Moment,
    OomReport,
    Process,
    Scope,
    Sighting,
)
from collector.reconcile import FromCounters, Reconciler, Taken, Told
from collector.view import View

BOOT = "11111111-2222-3333-4444-555555555555"
START = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
KUBEPODS = MemcgPath("/kubepods.slice")
BURSTABLE = MemcgPath("/kubepods.slice/kubepods-burstable.slice")


def pod(number: int) -> MemcgPath:
    uid = f"0f9c1d2e_3b4a_4c5d_8e6f_{number:012d}"
    return MemcgPath(f"{BURSTABLE}/kubepods-burstable-pod{uid}.slice")


def container(pod_number: int, number: int) -> MemcgPath:
    return MemcgPath(f"{pod(pod_number)}/cri-containerd-{pod_number:032x}{number:032x}.scope")


@dataclass
class Cgroup:
    inode: int
    oom: int = 0
    local_oom: int = 0
    oom_kill: int = 0
    oom_group_kill: int | None = 0
    group: bool = False
    last_read: Counters | None = None


@dataclass
class Kernel:
    """`prefix`: what the log's paths have before the names in the tree that the agent sees (kind)."""

    now: float = 100.0
    pid: int = 1000
    inode: int = 10
    prefix: str = ""
    groups_counted: bool = True
    cgroups: dict[MemcgPath, Cgroup] = field(default_factory=dict)

    def make(self, path: MemcgPath, *, group: bool = False) -> None:
        for above in [*reversed(list(parents(path))), path]:
            if above not in self.cgroups and above != "/":
                self.inode += 1
                self.cgroups[above] = Cgroup(self.inode, oom_group_kill=0 if self.groups_counted else None)
        self.cgroups[path].group = group

    def remove(self, path: MemcgPath) -> None:
        for name in [name for name in self.cgroups if name == path or name.startswith(f"{path}/")]:
            del self.cgroups[name]

    def kill(
        self, path: MemcgPath, *, limited: MemcgPath | None = None, members: int = 0, bare: bool = False
    ) -> Incident:
        """Count a kill; return the incident that its lines will give. `members`: of a group kill, besides the victim."""
        self.now += 0.001
        lines = members + 2 if members else 1
        for name in (path, *parents(path)):
            cgroup = self.cgroups.get(name)
            if cgroup is not None:
                cgroup.oom_kill += lines
                if members and cgroup.oom_group_kill is not None:
                    cgroup.oom_group_kill += 1
        if limited is not None:
            self.cgroups[limited].local_oom += 1
            for name in (limited, *parents(limited)):
                if name in self.cgroups:
                    self.cgroups[name].oom += 1
        self.pid += 1
        return self._incident(path, limited=limited, members=members, bare=bare, lines=lines)

    def read(self, path: MemcgPath) -> Counters | None:
        """What a reader of memory.events learns; None: nothing new."""
        cgroup = self.cgroups.get(path)
        if cgroup is None:
            return None
        last = cgroup.last_read
        reading = Counters(
            path=path,
            inode=cgroup.inode,
            oom=cgroup.oom,
            oom_kill=cgroup.oom_kill,
            oom_group_kill=cgroup.oom_group_kill,
            local_oom=cgroup.local_oom,
            group=cgroup.group,
            after=None if last is None else last.at,
            at=self.now,
        )
        cgroup.last_read = reading
        unchanged = last is not None and last._replace(after=None, at=0) == reading._replace(after=None, at=0)
        return None if unchanged else reading

    def _incident(
        self, path: MemcgPath, *, limited: MemcgPath | None, members: int, bare: bool, lines: int
    ) -> Incident:
        usec = int(self.now * 1_000_000)
        moment = Moment(monotonic_usec=usec)
        absolute = MemcgPath(self.prefix + path)
        report = OomReport(
            settled=True,
            first_moment=moment,
            kill_moment=moment,
            kill_text=f"Killed process {self.pid}",
            evidence=(Evidence.KILL_LINE,) if bare else (Evidence.SUMMARY_LINE, Evidence.KILL_LINE),
            scope=Scope.MEMCG if limited else Scope.GLOBAL,
            constraint=None,
            unknown_constraint=None,
            global_oom=limited is None and not bare,
            oom_memcg=None if bare or limited is None else MemcgPath(self.prefix + limited),
            task_memcg=None if bare else absolute,
            task_memcg_cut=None,
            group_memcg=absolute if members else None,
            victim=Process(pid=self.pid, comm="hog"),
            also_killed=tuple(Process(pid=self.pid + 100_000 + each, comm="hog") for each in range(members)),
            invoker=None,
            memory=None,
            node_memory=None,
            tasks=(),
            page_size=4096,
            page_size_known=False,
            missing=(),
            contradictions=(),
            kill_lines=lines,
        )
        time = START + timedelta(seconds=self.now)
        return judge(report, None, id=live_id(BOOT, usec, self.pid), time=time, boot_id=BOOT, node=None)


def parents(path: MemcgPath) -> list[MemcgPath]:
    names = path.split("/")
    return [MemcgPath("/".join(names[:end])) for end in range(len(names) - 1, 1, -1)]


@dataclass
class Stored:
    """What the journal keeps, as it keeps it: all of a commit or nothing."""

    incidents: dict[str, Incident] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    from_counters: dict[str, FromCounters] = field(default_factory=dict)
    baselines: dict[MemcgPath, Baseline] | None = None
    unattributed: dict[str, str] = field(default_factory=dict)

    def told(self, line_id: str) -> Told | None:
        known = self.aliases.get(line_id, line_id)
        return Told(known, abs(self.kills[known])) if known in self.incidents else None


class Agent:
    """Ledger and reconciler over that kernel, and a store that outlives them. Fulfils counted.Surroundings."""

    def __init__(self, kernel: Kernel, stored: Stored, *, whole: bool = True) -> None:
        self.kernel, self.stored = kernel, stored
        self.ledger = Ledger(stored.baselines)
        self.reconciler = Reconciler(
            self.ledger,
            View(whole=whole),
            self,
            boot_id=BOOT,
            node=None,
            open_incidents=stored.from_counters.values(),
            unplaced=[(known, -kills) for known, kills in stored.kills.items() if kills < 0],
        )
        self.seen: dict[MemcgPath, int] = {}
        self.died_along: tuple[Process, ...] = ()
        self.limits: dict[MemcgPath, int] = {}
        for cgroup in kernel.cgroups.values():
            cgroup.last_read = None
        self.look()
        self.ledger.end_of_first_scan()
        self.commit([])

    def look(self) -> None:
        """A pass: find, read, forget."""
        for path, inode in list(self.seen.items()):
            cgroup = self.kernel.cgroups.get(path)
            if cgroup is None or cgroup.inode != inode:
                del self.seen[path]
                self.ledger.gone(path, inode)
        for path in sorted(self.kernel.cgroups, key=lambda name: name.count("/")):
            self._read(path)

    def refresh(self, path: MemcgPath | None) -> None:
        if path is None:
            self.look()
            return
        for name in [MemcgPath("/"), *reversed(parents(path)), path]:
            if name in self.seen:
                self._read(name)

    def _read(self, path: MemcgPath) -> None:
        reading = self.kernel.read(path)
        if reading is not None:
            self.seen[path] = reading.inode
            self.ledger.observe(reading)

    def limit_of(self, path: MemcgPath) -> int | None:
        return self.limits.get(path)

    def memory_of(self, path: MemcgPath) -> MemoryUse | None:
        return None

    def collateral(self, report: OomReport, killed_at: float | None) -> tuple[Process, ...]:
        return self.died_along

    def line(self, incident: Incident, *, sighting: Sighting | None = None) -> Taken | None:
        """The kernel's lines of this kill were read."""
        if sighting is not None:
            incident = judge_again(incident, sighting)
        usec = incident.report.kill_moment.monotonic_usec
        assert usec is not None
        taken = self.reconciler.take(incident, self.stored.told(incident.id), counts=True, killed_at=usec / 1_000_000)
        if taken is not None:
            self.commit([taken])
        return taken

    def settle(self) -> list[Taken]:
        """Time goes by; what is missing is told."""
        self.kernel.now += 6
        self.look()
        self.kernel.now += 6
        taken, counted_off = self.reconciler.tell_missing(self.kernel.now, START + timedelta(seconds=self.kernel.now))
        self.commit(taken, counted_off)
        return taken

    def commit(self, taken: list[Taken], counted_off: list[str] | None = None) -> None:
        stored = self.stored
        for known in taken:
            key = known.incident.id
            stored.incidents[key] = known.incident
            stored.kills[key] = known.kills if known.kills < 0 else max(stored.kills.get(key, 0), known.kills)
            if known.line_id is not None:
                stored.aliases[known.line_id] = key
                stored.from_counters.pop(key, None)
            if known.from_counters is not None:
                stored.from_counters[key] = known.from_counters
            if known.unattributed is not None:
                stored.unattributed[key] = known.unattributed
        for key in counted_off or ():
            stored.kills[key] = abs(stored.kills[key])
        baselines, gone = self.ledger.take_changes()
        kept = {path: row for path, row in (stored.baselines or {}).items() if path not in gone}
        stored.baselines = kept | {row.path: row for row in baselines}
