"""
The values that travel between the stages, and nothing else.

None always means "not known": it is never written as 0 or "". Sizes are bytes unless the name says `_pages`.
Words are the kernel's and Kubernetes' own: an *incident* is one decision of the OOM killer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, NewType, Protocol

PodUid = NewType("PodUid", str)
ContainerId = NewType("ContainerId", str)
MemcgPath = NewType("MemcgPath", str)

DEFAULT_PAGE_SIZE = 4096


class Cause(StrEnum):
    """Whose limit was hit. Decided by which memcg ran out, never by an exit code."""

    CONTAINER_LIMIT = "container_limit"
    NESTED_LIMIT = "nested_limit"
    POD_LIMIT = "pod_limit"
    QOS_LIMIT = "qos_limit"
    NODE_ALLOCATABLE = "node_allocatable"
    SYSTEM_LIMIT = "system_limit"
    NODE = "node"
    NODE_NUMA = "node_numa"
    MANUAL = "manual"
    UNKNOWN = "unknown"


NODE_PRESSURE = frozenset({Cause.NODE, Cause.NODE_ALLOCATABLE, Cause.NODE_NUMA, Cause.QOS_LIMIT})
"""The causes that page the operator of the node: no limit of the victim's own was hit."""


class Constraint(StrEnum):
    """`CONSTRAINT_*` of the `oom-kill:` line, as printed: a 5.0 kernel prints NONE for a memcg OOM."""

    NONE = "none"
    MEMCG = "memcg"
    CPUSET = "cpuset"
    MEMORY_POLICY = "memory_policy"


class Evidence(StrEnum):
    """What a statement about an incident rests on."""

    REPORT = "report"
    SUMMARY_LINE = "summary_line"
    KILL_LINE = "kill_line"
    MEMORY_EVENTS = "memory_events"
    PROCESS_INDEX = "process_index"
    POD_STATUS = "pod_status"
    OOM_SCORE_ADJ = "oom_score_adj"


class Scope(StrEnum):
    """What the kill line's own prefix says: `Memory cgroup out of memory:` or `Out of memory:`."""

    MEMCG = "memcg"
    GLOBAL = "global"


class QosClass(StrEnum):
    GUARANTEED = "Guaranteed"
    BURSTABLE = "Burstable"
    BEST_EFFORT = "BestEffort"


class KernelRecord(Protocol):
    """
    One record of the kernel log, whatever dress it came in: see parse/kmsg.py and parse/dress.py.

    `text` is the message alone. `\\xNN` escapes are undone for raw /dev/kmsg only: no other form escapes the backslash
    too.
    """

    @property
    def text(self) -> str: ...
    @property
    def sequence(self) -> int | None: ...
    @property
    def facility(self) -> int | None:
        """0 is the kernel; None: this form does not carry it."""

    @property
    def monotonic_usec(self) -> int | None: ...
    @property
    def time(self) -> datetime | None:
        """Wall time in UTC; None where year or offset are not known."""

    @property
    def stamp(self) -> str:
        """The time as this form prints it, for ordering nothing and telling apart two records of one text."""

    @property
    def caller(self) -> str | None:
        """`T123` or `C1`, where the kernel was built with CONFIG_PRINTK_CALLER."""

    @property
    def continuation(self) -> bool: ...
    @property
    def host(self) -> str | None: ...
    @property
    def boot_id(self) -> str | None: ...


class Moment(NamedTuple):
    """When a record was printed, in every clock that its form carries. A tuple, not a dataclass: see Task."""

    sequence: int | None = None
    monotonic_usec: int | None = None
    time: datetime | None = None
    stamp: str = ""
    host: str | None = None
    boot_id: str | None = None


@dataclass(slots=True, kw_only=True)
class Process:
    """
    A killed process, as far as the kill line, the summary line and its row of the task dump tell.

    Nobody changes one. Not frozen: see OomReport.
    """

    pid: int | None
    comm: str | None
    uid: int | None = None
    oom_score_adj: int | None = None
    total_vm_bytes: int | None = None
    anon_rss_bytes: int | None = None
    file_rss_bytes: int | None = None
    shmem_rss_bytes: int | None = None
    pgtables_bytes: int | None = None


class Task(NamedTuple):
    """A row of the task dump. A tuple, not a dataclass: a report may have thousands, built while the kernel prints."""

    pid: int
    tgid: int | None
    uid: int | None
    comm: str
    total_vm_bytes: int | None
    rss_bytes: int | None
    pgtables_bytes: int | None
    swap_bytes: int | None
    oom_score_adj: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoker:
    """The task whose allocation called the OOM killer; rarely the victim. `order` -1 is sysrq-f."""

    comm: str
    pid: int | None = None
    oom_score_adj: int | None = None
    gfp_mask: str | None = None
    order: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Use and limit of `oom_memcg` at the time of the kill, as the report prints them."""

    usage_bytes: int | None = None
    limit_bytes: int | None = None
    swap_usage_bytes: int | None = None
    swap_limit_bytes: int | None = None
    stat: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMemory:
    """
    The node as a global report prints it: `pages RAM`, `Total swap`, and in `stat` what it was used for (`Mem-Info`,
    by the kernel's names, in bytes). `shmem` is part of the anon lists there.
    """

    ram_bytes: int | None = None
    swap_bytes: int | None = None
    free_swap_bytes: int | None = None
    stat: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class OomReport:
    """
    What the kernel printed about one decision of the OOM killer.

    `settled` is False on the first look, right after the kill line: group members may follow. The settled report
    has the same `kill_moment`.

    Nobody changes one. Not frozen: it would take three times as long to build, twice for each kill.
    """

    settled: bool
    first_moment: Moment
    kill_moment: Moment
    kill_text: str
    evidence: tuple[Evidence, ...]
    scope: Scope | None
    constraint: Constraint | None
    unknown_constraint: str | None
    global_oom: bool
    oom_memcg: MemcgPath | None
    task_memcg: MemcgPath | None
    task_memcg_cut: MemcgPath | None
    group_memcg: MemcgPath | None
    victim: Process
    also_killed: tuple[Process, ...]
    invoker: Invoker | None
    memory: MemoryUse | None
    node_memory: NodeMemory | None
    tasks: tuple[Task, ...]
    page_size: int
    page_size_known: bool
    missing: tuple[str, ...]
    contradictions: tuple[str, ...]
    kill_lines: int = 1
    """How often `Killed process` was printed, and `oom_kill` raised: twice for the first victim of a group."""


class Counters(NamedTuple):
    """
    A reading of a cgroup's `memory.events`, which count for everything below it too.

    `path` as the mounted tree has it, from its root on; the kernel log's paths may have a prefix before it.
    `after`: when this cgroup was read before, None on the first reading; `at`: now; both of CLOCK_MONOTONIC, seconds.
    """

    path: MemcgPath
    inode: int
    oom: int
    oom_kill: int
    oom_group_kill: int | None
    """None: a kernel before 5.17 does not count them."""
    local_oom: int | None
    """`oom` of `memory.events.local`: how often this cgroup's own limit was hit. None: cannot be read."""
    group: bool | None
    """`memory.oom.group`: this cgroup is killed whole. None: cannot be read."""
    after: float | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    uid: PodUid
    namespace: str | None = None
    name: str | None = None
    qos_class: QosClass | None = None
    owner: Owner | None = None
    revision: str | None = None
    """Of the owner, as the pod's labels have it: pod-template-hash, controller-revision-hash."""


class ContainerKind(StrEnum):
    APP = "app"
    SIDECAR = "sidecar"
    INIT = "init"
    EPHEMERAL = "ephemeral"
    SANDBOX = "sandbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    id: ContainerId | None
    runtime: str | None = None
    name: str | None = None
    kind: ContainerKind | None = None
    image: str | None = None
    limit_bytes: int | None = None
    request_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """
    What is known of a victim from outside the kernel log.

    `memcg`: its cgroup; `within`: a cgroup that it was in or below of. `limited`: the one cgroup at or above it whose
    own limit was hit at that time; `unlimited` True: each of them was looked at, and none was.
    """

    method: AttributionMethod
    memcg: MemcgPath | None = None
    within: MemcgPath | None = None
    limited: MemcgPath | None = None
    unlimited: bool = False
    memory: MemoryUse | None = None
    """Of the cgroup whose limit was hit, as last sampled; where the kernel's report has none."""
    limit_bytes: int | None = None
    """The lowest `memory.max` of the victim's container and pod."""
    collateral: tuple[Process, ...] = ()
    """Processes that died with PID 1 of the container, of which the kernel says nothing."""


class AttributionMethod(StrEnum):
    TASK_MEMCG = "task_memcg"
    PROCESS_INDEX = "process_index"
    PROC = "proc"
    MEMORY_EVENTS = "memory_events"
    NONE = "none"


class NamesFrom(StrEnum):
    API = "api"
    LOG_LINKS = "log_links"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """
    What the API, or the kubelet's log folders, tell of a pod and one of its containers.

    `lone`: the pod's only long-running container, with a limit of its own and no debug container beside it, so that the
    pod's limit is this container's. `event_uid`: under which
    `kubectl describe pod` looks for Events: a mirror pod's is not the one that the API gave it.
    """

    source: NamesFrom
    namespace: str
    pod: str
    qos_class: QosClass | None = None
    owner: Owner | None = None
    revision: str | None = None
    container: str | None = None
    kind: ContainerKind | None = None
    image: str | None = None
    limit_bytes: int | None = None
    request_bytes: int | None = None
    lone: bool = False
    event_uid: str | None = None


class Fate(StrEnum):
    """What became of the container after the kill."""

    RESTARTED = "restarted"
    RESTART_PENDING = "restart_pending"  # CrashLoopBackOff waits
    TERMINATED = "terminated"  # a finished container in a pod that goes on
    SURVIVED = "survived"  # a child died, the container goes on: Kubernetes shows nothing
    POD_FAILED = "pod_failed"
    EVICTED = "evicted"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Which pod and container the victim belonged to, and how that is known."""

    pod: Pod | None = None
    container: Container | None = None
    method: AttributionMethod = AttributionMethod.NONE
    names_from: NamesFrom = NamesFrom.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    Whose limit was hit. `node_pressure` is the question that pages people.

    `reason` says in words what the cause rests on; `contradictions` are witnesses that disagree with it.
    """

    cause: Cause
    node_pressure: bool | None
    reason: str
    evidence: tuple[Evidence, ...] = ()
    contradictions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One decision of the OOM killer, attributed and judged: the JSON document is made of this (document.py)."""

    id: str
    report: OomReport
    attribution: Attribution
    verdict: Verdict
    time: datetime | None
    boot_id: str | None
    node: str | None
    summary: str
    sighting: Sighting | None = None

    @property
    def settled(self) -> bool:
        return self.report.settled

    @property
    def process_count(self) -> int:
        return 1 + len(self.report.also_killed)
