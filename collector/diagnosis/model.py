"""
The values of a diagnosis: the facts that it may rest on, and what it says.

As in collector.model, None always means "not known", sizes are bytes, and nothing is said without evidence. Times are
seconds of one clock, whichever the facts have: CLOCK_MONOTONIC in the agent, any in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from collector.model import Cause, Container, ContainerKind, Fate, MemoryUse, NodeMemory, Pod, Process, QosClass, Task

Value = int | float | str | bool | None


class Pattern(StrEnum):
    """How memory came to its limit."""

    STARTUP = "startup"
    LIMIT_TOO_LOW = "limit_too_low"
    LEAK = "leak"
    SPIKE = "spike"
    NODE_PRESSURE = "node_pressure"
    CALM = "calm"
    """Only of a history without a kill: no trend that meets a limit."""
    UNKNOWN = "unknown"


# What was measured


class Point(NamedTuple):
    """
    A sample, or some minutes of samples: `least` and `most` are of the working set, `working_set` and the rest are the
    last reading. `file` includes shmem.
    """

    time: float
    working_set: int
    least: int
    most: int
    limit: int | None = None
    anon: int | None = None
    file: int | None = None
    shmem: int | None = None
    kernel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """
    One instance of a container, oldest point first. Never empty.

    `started`: the first point is of its start, not of the start of the observation. `killed`: it ended with an OOM
    kill, at its last point. `revision`: of its workload.
    """

    points: tuple[Point, ...]
    started: bool
    killed: bool
    revision: str | None = None

    @property
    def seconds(self) -> float:
        return self.points[-1].time - self.points[0].time


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHistory:
    """
    Of one container of one pod or workload, oldest life first. Never empty; the last life is judged.

    `cause`: of the kill at its end, where somebody knows it.
    """

    lives: tuple[Life, ...]
    cause: Cause | None = None

    @property
    def last(self) -> Life:
        return self.lives[-1]


# What a history says


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """
    The pattern, and the figures that findings, advice and forecast rest on.

    `confidence`: 0 to 1. `reasons`: the rules that held, in words with numbers. `missing`: what would have told more.
    `growth_bytes_per_hour`: slope of the last steady phase, which began at `growth_since`; None: there is none.
    `seconds_to_limit`: from the last point; only of a leak. `steady_bytes`: the working set when nothing happens, for
    requests. `peak_bytes`: the most that was seen. `peak_is_cut`: the limit cut it off, more was wanted.
    `life_seconds`: from start to kill, where the start was seen. `grows`: the part that grows with it, as `anon`.
    `same_end`: whether each killed life ended the same way; None: there was one only.
    """

    pattern: Pattern
    confidence: float
    reasons: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    growth_bytes_per_hour: float | None = None
    growth_since: float | None = None
    seconds_to_limit: float | None = None
    steady_bytes: int | None = None
    peak_bytes: int | None = None
    peak_is_cut: bool = False
    limit_bytes: int | None = None
    life_seconds: float | None = None
    grows: str | None = None
    same_end: bool | None = None


# What is known beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A container of a pod, as last sampled before the kill."""

    name: str | None
    kind: ContainerKind | None
    working_set_bytes: int | None
    limit_bytes: int | None
    request_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodUse:
    """
    A pod of the node, as last sampled before the kill. `request_bytes`: of all its containers; 0: it requests none.

    `containers`: None: the API has not told them.
    """

    uid: str
    namespace: str | None
    name: str | None
    qos_class: QosClass | None
    working_set_bytes: int | None
    request_bytes: int | None
    priority_class: str | None = None
    owner_kind: str | None = None
    owner_name: str | None = None
    containers: tuple[Neighbour, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """
    The node at the time of a kill under node pressure.

    `pods`: all that are known. `pod_of_pid`: rows of the task dump -> uid of their pod, "" for a host process; whose a
    pid is that is missing there is not known. `evictions`: pods that the kubelet evicted for memory, `namespace/name`
    and seconds before (positive) or after the kill. `eviction_threshold`: with where it is known from; None: nobody
    looked for evictions. `memory_pressure`: whether the kubelet had reported the node's condition MemoryPressure at the
    kill; `memory_pressure_seconds`: how long before it that had become true, negative: after it; None: not known, or it
    was not reported.
    """

    pods: tuple[PodUse, ...] = ()
    pod_of_pid: Mapping[int, str] = field(default_factory=dict)
    evictions: tuple[tuple[str, float], ...] = ()
    eviction_threshold: str | None = None
    eviction_threshold_bytes: int | None = None
    memory_pressure: bool | None = None
    memory_pressure_seconds: float | None = None


class Former(NamedTuple):
    """An earlier kill of the same container of the same workload."""

    seconds_before: float
    cause: Cause
    revision: str | None
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """
    What one revision of a workload has shown: the basis for "grows since revision 42".

    `growth_bytes_per_hour` 0.0: flat, and long enough seen to say so; None: not known. `rolled_out_at`: seconds since
    1970. `number`: of the revision, as `kubectl rollout undo --to-revision` takes it, where known.
    """

    revision: str
    image: str | None
    number: int | None
    rolled_out_at: float | None
    growth_bytes_per_hour: float | None
    observed_seconds: float
    kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    All that is known of one kill. What is None or empty is not known, and nothing may be said that rests on it.

    `memory`: of the cgroup whose limit was hit; `memory_is_sampled`: not from the kernel's report, but as last sampled
    before the kill. `page_size`: of the task dump; None: 4 KiB assumed. `hints`: memory flags of the victim's process,
    see processes/hints.py; None: never read. `memory_volumes`: the pod's emptyDirs in memory; None: not known.
    `spec_limit_bytes`: of the pod spec, where it may differ from what was enforced. `oom_group`: memory.oom.group was
    at work. `former`: earlier kills, the last first. `revisions`: the newest last. `allocatable_bytes`: the limit of
    all pods of the node together.
    """

    cause: Cause
    memory: MemoryUse | None = None
    memory_is_sampled: bool = False
    node_memory: NodeMemory | None = None
    victim: Process
    also_killed: tuple[Process, ...] = ()
    tasks: tuple[Task, ...] = ()
    oom_memcg: str | None = None
    task_memcg: str | None = None
    oom_group: bool = False
    page_size: int | None = None
    oom_score_adj_rank: int | None = None
    pod: Pod | None = None
    container: Container | None = None
    fate: Fate | None = None
    restart_count: int | None = None
    spec_limit_bytes: int | None = None
    spec_request_bytes: int | None = None
    lone: bool = False
    hints: tuple[str, ...] | None = None
    memory_volumes: tuple[str, ...] | None = None
    neighbours: tuple[Neighbour, ...] | None = None
    former: tuple[Former, ...] = ()
    revisions: tuple[Growth, ...] = ()
    history: MemoryHistory | None = None
    node: NodeFacts | None = None
    allocatable_bytes: int | None = None

    @property
    def revision(self) -> str | None:
        """Of the workload, at the kill."""
        if self.pod is not None:
            return self.pod.revision
        return self.history.last.revision if self.history else None


# What is said


class FindingKind(StrEnum):
    JVM_HEAP = "jvm_heap"
    NODEJS_HEAP = "nodejs_heap"
    GO_MEMORY_LIMIT = "go_memory_limit"
    PREFORK = "prefork"
    SHARED_MEMORY = "shared_memory"  # tmpfs, memory-backed volumes, /dev/shm
    KERNEL_MEMORY = "kernel_memory"
    PROCESS_FAN_OUT = "process_fan_out"
    PAGE_CACHE = "page_cache"  # that could not be reclaimed
    SWAP_FULL = "swap_full"
    SIDECAR_VICTIM = "sidecar_victim"
    INIT_VICTIM = "init_victim"
    CHILD_KILLED = "child_killed"
    NEIGHBOUR = "neighbour"  # another container of the pod holds the memory
    NO_REQUEST = "no_request"
    NO_LIMIT = "no_limit"
    LIMIT_DIFFERS = "limit_differs"
    REPEATED = "repeated"
    CRASH_LOOP = "crash_loop"
    ROLLOUT = "rollout"
    NODE_FILLED_BY = "node_filled_by"
    VICTIM_CHOICE = "victim_choice"
    EVICTION = "eviction"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`values`: the numbers in the text, machine-readable. `evidence`: which facts it rests on; never empty."""

    kind: FindingKind
    text: str
    values: Mapping[str, Value]
    evidence: tuple[str, ...]


class Action(StrEnum):
    SET_LIMIT = "set_limit"
    SET_REQUEST = "set_request"
    DO_NOT_RAISE_LIMIT = "do_not_raise_limit"
    SET_RUNTIME_FLAG = "set_runtime_flag"
    BOUND_VOLUME = "bound_volume"
    ROLL_BACK = "roll_back"
    FIX_LEAK = "fix_leak"
    PROFILE = "profile"
    BOUND_LOAD = "bound_load"
    REDUCE_WORKERS = "reduce_workers"
    REDUCE_KERNEL_MEMORY = "reduce_kernel_memory"
    USE_GUARANTEED = "use_guaranteed"
    SET_NODE_RESERVATION = "set_node_reservation"
    SET_EVICTION_THRESHOLD = "set_eviction_threshold"
    SET_REQUESTS_OF_OTHERS = "set_requests_of_others"
    WIDEN_NUMA = "widen_numa"
    CHANGE_NESTED_LIMIT = "change_nested_limit"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """
    One step. `text` says what and why; `command` applies it, ready to paste; `values` are its numbers.

    Whatever raises the limit of a leak has `lasts_seconds` in its values, and says it.
    """

    action: Action
    text: str
    values: Mapping[str, Value] = field(default_factory=dict)
    command: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    judgement: Judgement
    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]
