"""
Each finding rests on what it names: without it, it goes, or says less.

A case is a kill that gives one finding, the numbers in it, and what it says. Every fact of its evidence is taken away in
turn. `weaker`: facts without which it still stands, in other words and without them in its evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from collector.diagnosis.findings import find
from collector.diagnosis.model import (
    Facts,
    FindingKind,
    Former,
    Growth,
    Judgement,
    Life,
    MemoryHistory,
    Pattern,
    Point,
)
from collector.model import Cause, ContainerKind, Fate, MemoryUse, QosClass
from tests.diagnosis.findings import (
    GIB,
    MIB,
    NO_JUDGEMENT,
    beside,
    container,
    facts,
    found,
    hints,
    memory,
    pod,
    tasks,
    victim,
    without,
)
from tests.processes.test_hints import GO_NOTE, elf

GO = elf((4, GO_NOTE))


class Case(NamedTuple):
    kind: FindingKind
    facts: Facts
    values: Mapping[str, object]
    says: str
    weaker: frozenset[str] = frozenset()


def life(*points: Point, killed: bool = True) -> MemoryHistory:
    return MemoryHistory(lives=(Life(points=points, started=True, killed=killed),))


def grown(revision: str, rate: float | None, seen: float, *, kills: int = 0, **changes: Any) -> Growth:
    known: dict[str, Any] = {"image": None, "number": None, "rolled_out_at": None}
    return Growth(
        revision=revision, growth_bytes_per_hour=rate, observed_seconds=seen, kills=kills, **(known | changes)
    )


HELD = frozenset({"victim.anon_rss_bytes"})

CASES = {
    "JVM: heap at the limit": Case(
        FindingKind.JVM_HEAP,
        facts(hints=hints("java", "-Xmx512m", "Main"), memory=MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB)),
        {"problem": "no_room", "heap_max_bytes": 512 * MIB, "heap_percent": 100, "room_bytes": 0, "flag": "-Xmx512m"},
        "its heap is at most 512 MiB (-Xmx512m), 100 % of the limit of 512 MiB: nothing is left for metaspace",
        HELD,
    ),
    "JVM: by its name, flags from the environment alone": Case(
        FindingKind.JVM_HEAP,
        facts(
            hints=hints("/app/launch", environ={"_JAVA_OPTIONS": "-Xmx500m"}),
            victim=victim("java"),
            memory=MemoryUse(limit_bytes=512 * MIB),
        ),
        {"problem": "no_room", "heap_max_bytes": 500 * MIB, "room_bytes": 12 * MIB},
        "The process java (JVM, by its name): its heap is at most 500 MiB (-Xmx500m in _JAVA_OPTIONS), 98 % of the "
        "limit of 512 MiB: only 12 MiB is left",
        HELD,
    ),
    "JVM: default heap, the rest is outside": Case(
        FindingKind.JVM_HEAP,
        facts(hints=hints("java", "Main"), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "outside_heap", "heap_max_bytes": 128 * MIB, "outside_heap_bytes": 352 * MIB, "flag": None},
        "held 480 MiB, and its heap is at most 128 MiB (no heap flag: HotSpot's default, 25 %, of the container's 512 "
        "MiB): at least 352 MiB is outside of it",
    ),
    "JVM: limits ignored, the node's size not known": Case(
        FindingKind.JVM_HEAP,
        facts(hints=hints("java", "-XX:-UseContainerSupport", "Main"), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "sized_by_node", "heap_node_percent": 25.0},
        "does not look at the limit of 512 MiB (-XX:-UseContainerSupport): its heap may take 25 % of the node's memory",
        HELD,
    ),
    "JVM: the parts together": Case(
        FindingKind.JVM_HEAP,
        facts(
            hints=hints("java", "-Xmx400m", "-XX:MaxDirectMemorySize=100m", "-XX:MaxMetaspaceSize=64m", "Main"),
            memory=MemoryUse(limit_bytes=512 * MIB),
        ),
        {"problem": "parts_exceed_limit", "together_bytes": 564 * MIB, "heap_max_bytes": 400 * MIB},
        "400 MiB of heap, 100 MiB of direct buffers and 64 MiB of metaspace by its flags: together 564 MiB, more than",
        HELD,
    ),
    "Node.js: old space at the limit": Case(
        FindingKind.NODEJS_HEAP,
        facts(
            hints=hints("node", "x.js", environ={"NODE_OPTIONS": "--max-old-space-size=480"}),
            memory=MemoryUse(limit_bytes=512 * MIB),
        ),
        {"problem": "no_room", "heap_max_bytes": 480 * MIB, "room_bytes": 32 * MIB},
        "its old space is at most 480 MiB (--max-old-space-size=480 in NODE_OPTIONS), 94 % of the limit of 512 MiB",
        HELD,
    ),
    "Node.js: Buffers": Case(
        FindingKind.NODEJS_HEAP,
        facts(hints=hints("node", "--max-old-space-size=200", "x.js"), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "outside_heap", "outside_heap_bytes": 280 * MIB},
        "at least 280 MiB is outside of it, in Buffers",
    ),
    "Node.js: no flag": Case(
        FindingKind.NODEJS_HEAP,
        facts(hints=hints("node", "x.js"), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "no_flag", "flag": None},
        "has no --max-old-space-size: V8 bounds its heap by a default that depends on the version and is not known",
        HELD,
    ),
    "Go: no GOMEMLIMIT": Case(
        FindingKind.GO_MEMORY_LIMIT,
        facts(hints=hints("/app", head=GO), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "no_limit", "flag": None, "go_memory_limit_bytes": None},
        "The Go program has no GOMEMLIMIT: unless it sets one itself",
        HELD,
    ),
    "Go: no garbage collection at all": Case(
        FindingKind.GO_MEMORY_LIMIT,
        facts(hints=hints("/app", head=GO, environ={"GOGC": "off"}), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "never_collects"},
        "has GOGC=off and no GOMEMLIMIT: it never frees any garbage",
        HELD,
    ),
    "Go, by its variable: GOMEMLIMIT at the limit": Case(
        FindingKind.GO_MEMORY_LIMIT,
        facts(hints=hints("/app", environ={"GOMEMLIMIT": "512MiB"}), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "no_room", "go_memory_limit_bytes": 512 * MIB, "flag": "GOMEMLIMIT=512MiB"},
        "(Go, by its GOMEMLIMIT) has GOMEMLIMIT 512 MiB, 100 % of the limit of 512 MiB",
        HELD,
    ),
    "Go: over its GOMEMLIMIT": Case(
        FindingKind.GO_MEMORY_LIMIT,
        facts(hints=hints("/app", head=GO, environ={"GOMEMLIMIT": "400MiB"}), memory=MemoryUse(limit_bytes=512 * MIB)),
        {"problem": "exceeded", "held_bytes": 480 * MIB},
        "held 480 MiB, more than its GOMEMLIMIT of 400 MiB",
    ),
    "prefork: in the task dump": Case(
        FindingKind.PREFORK,
        facts(
            victim=victim("gunicorn", 100 * MIB),
            tasks=tasks(5, "gunicorn", 90 * MIB),
            hints=hints("/usr/bin/python3", "/usr/bin/gunicorn", "-w", "4"),
        ),
        {"processes": 5, "mean_bytes": 90 * MIB, "together_bytes": 450 * MIB, "workers_configured": 4, "percent": 88},
        "5 processes gunicorn had 450 MiB resident, 90 MiB each on average, 88 % of the limit of 512 MiB (4 workers "
        "configured)",
        frozenset({"hints"}),
    ),
    "prefork: by its configuration": Case(
        FindingKind.PREFORK,
        facts(victim=victim("python3", 150 * MIB), hints=hints("python3", "x", environ={"WEB_CONCURRENCY": "4"})),
        {"workers_configured": 4, "together_bytes": 600 * MIB},
        "4 workers are configured: were each as large as the victim (150 MiB), they would need 600 MiB",
    ),
    "fan-out": Case(
        FindingKind.PROCESS_FAN_OUT,
        facts(victim=victim("sh", 10 * MIB), tasks=(*tasks(40, "sh", 10 * MIB), *tasks(1, "app", 30 * MIB, first=9))),
        {"comm": "sh", "processes": 40, "together_bytes": 400 * MIB, "percent": 78},
        "40 processes sh had 400 MiB resident, 10 MiB each on average",
    ),
    "shared memory: one volume": Case(
        FindingKind.SHARED_MEMORY,
        facts(memory=memory(shmem=256 * MIB, file=260 * MIB), memory_volumes=("cache",)),
        {"size_bytes": 256 * MIB, "percent": 50, "volume": "cache", "outlives_container": True},
        "256 MiB of the 512 MiB in use (50 %) is files in a tmpfs (the pod's memory-backed volume cache, or /dev/shm) or shared memory",
        frozenset({"memory_volumes"}),
    ),
    "shared memory: several volumes": Case(
        FindingKind.SHARED_MEMORY,
        facts(memory=memory(shmem=256 * MIB, file=260 * MIB), memory_volumes=("a", "b", "c")),
        {"volume": None},
        "(the pod's memory-backed volumes a, b, c, or /dev/shm) or shared memory; files outlive the container",
        frozenset({"memory_volumes"}),
    ),
    "shared memory: no volume": Case(
        FindingKind.SHARED_MEMORY,
        facts(memory=memory(shmem=256 * MIB, file=260 * MIB), memory_volumes=()),
        {"volume": None},
        "(/dev/shm; no volume of the pod is in memory) or shared memory",
        frozenset({"memory_volumes"}),
    ),
    "shared memory: mapped": Case(
        FindingKind.SHARED_MEMORY,
        facts(
            memory=memory(shmem=256 * MIB, file=260 * MIB),
            victim=victim("postgres", 100 * MIB, 240 * MIB),
            memory_volumes=("cache",),
        ),
        {"volume": None, "mapped_by_victim_bytes": 240 * MIB, "outlives_container": None},
        "is shared memory that postgres has mapped",
        frozenset({"victim.shmem_rss_bytes"}),
    ),
    "shared memory: of a history": Case(
        FindingKind.SHARED_MEMORY,
        facts(
            cause=Cause.UNKNOWN,
            memory=None,
            history=life(Point(0.0, 400 * MIB, 0, 0, 512 * MIB, anon=100 * MIB, file=300 * MIB, shmem=300 * MIB)),
        ),
        {"size_bytes": 300 * MIB, "percent": 75},
        "300 MiB of the 400 MiB when last sampled (75 %) is files in a tmpfs (a memory-backed volume, /dev/shm)",
    ),
    "kernel memory: sockets": Case(
        FindingKind.KERNEL_MEMORY,
        facts(memory=memory(anon=200 * MIB, sock=290 * MIB)),
        {"part": "sock", "sock_bytes": 290 * MIB, "size_bytes": 300 * MIB, "percent": 59},
        "300 MiB of the 512 MiB in use (59 %) is the kernel's own, mostly buffers of sockets",
    ),
    "kernel memory: slab": Case(
        FindingKind.KERNEL_MEMORY,
        facts(
            memory=memory(
                anon=200 * MIB,
                kernel=300 * MIB,
                slab=280 * MIB,
                slab_reclaimable=270 * MIB,
                slab_unreclaimable=10 * MIB,
            )
        ),
        {"part": "slab", "slab_bytes": 280 * MIB, "size_bytes": 301 * MIB},
        "(slab 280 MiB, 270 MiB of it reclaimable)",
    ),
    "kernel memory: of a history": Case(
        FindingKind.KERNEL_MEMORY,
        facts(memory=None, history=life(Point(0.0, 400 * MIB, 0, 0, 512 * MIB, kernel=200 * MIB))),
        {"part": None, "size_bytes": 200 * MIB, "percent": 50},
        "200 MiB of the 400 MiB when last sampled (50 %) is the kernel's own",
    ),
    "page cache: dirty": Case(
        FindingKind.PAGE_CACHE,
        facts(memory=memory(file=202 * MIB, file_dirty=150 * MIB, file_writeback=30 * MIB, inactive_file=200 * MIB)),
        {"size_bytes": 200 * MIB, "percent": 39, "why": "dirty", "why_bytes": 180 * MIB},
        "180 MiB waits to be written",
    ),
    "page cache: locked": Case(
        FindingKind.PAGE_CACHE,
        facts(memory=memory(file=202 * MIB, unevictable=190 * MIB)),
        {"why": "unevictable"},
        "190 MiB is locked in memory (mlock)",
    ),
    "page cache: active": Case(
        FindingKind.PAGE_CACHE,
        facts(memory=memory(file=202 * MIB, active_file=190 * MIB, inactive_file=10 * MIB)),
        {"why": "active"},
        "190 MiB is in constant use",
    ),
    "page cache: inactive": Case(
        FindingKind.PAGE_CACHE,
        facts(memory=memory(file=202 * MIB, active_file=10 * MIB, inactive_file=190 * MIB)),
        {"why": "inactive"},
        "190 MiB was unused and could have been freed: odd",
    ),
    "swap": Case(
        FindingKind.SWAP_FULL,
        facts(
            memory=MemoryUse(
                limit_bytes=512 * MIB, usage_bytes=512 * MIB, swap_usage_bytes=128 * MIB, swap_limit_bytes=128 * MIB
            )
        ),
        {"swap_bytes": 128 * MIB, "together_bytes": 640 * MIB},
        "Swap was used up too, 128 MiB of 128 MiB",
    ),
    "sidecar": Case(
        FindingKind.SIDECAR_VICTIM,
        facts(container=container(name="proxy", kind=ContainerKind.SIDECAR)),
        {"container": "proxy"},
        "The victim is the sidecar proxy",
    ),
    "init container": Case(
        FindingKind.INIT_VICTIM,
        facts(container=container(name="migrate", kind=ContainerKind.INIT)),
        {"container": "migrate"},
        "The victim is the init container migrate",
    ),
    "child": Case(
        FindingKind.CHILD_KILLED,
        facts(fate=Fate.SURVIVED, victim=victim("convert")),
        {"comm": "convert", "pid": 845},
        "The child process convert died and its container lives on: Kubernetes shows nothing of it",
    ),
    "neighbour": Case(
        FindingKind.NEIGHBOUR,
        facts(
            cause=Cause.POD_LIMIT,
            victim=victim("app", 150 * MIB),
            neighbours=(beside("small", 10 * MIB), beside("proxy", 300 * MIB, request_bytes=64 * MIB)),
        ),
        {"container": "proxy", "working_set_bytes": 300 * MIB, "together_bytes": 310 * MIB, "percent": 59},
        "The pod's limit of 512 MiB was hit, not the container's: beside it proxy held 300 MiB (requests 64 MiB) and "
        "small held 10 MiB, the victim 150 MiB",
        HELD,
    ),
    "no request": Case(
        FindingKind.NO_REQUEST,
        facts(cause=Cause.NODE, memory=None, container=container(), pod=pod(qos_class=QosClass.BEST_EFFORT)),
        {"container": "web", "qos_class": "BestEffort"},
        "Container web requests no memory: the scheduler keeps no room for it, and as BestEffort it is killed before others",
        frozenset({"pod.qos_class"}),
    ),
    "no limit": Case(
        FindingKind.NO_LIMIT,
        facts(cause=Cause.NODE, memory=None, container=container(request_bytes=64 * MIB)),
        {"container": "web"},
        "Container web has no memory limit: only the node's memory bounds it",
    ),
    "limit differs": Case(
        FindingKind.LIMIT_DIFFERS,
        facts(spec_limit_bytes=GIB),
        {"limit_bytes": 512 * MIB, "spec_limit_bytes": GIB},
        "The limit that was enforced, 512 MiB, is less than the 1 GiB of the spec",
    ),
    "repeated": Case(
        FindingKind.REPEATED,
        facts(
            pod=pod(revision="a"),
            former=tuple(Former(n * 3600.0, Cause.CONTAINER_LIMIT, "a", 512 * MIB) for n in (1, 2, 3, 4)),
        ),
        {"kills": 5, "span_seconds": 14400.0, "same_cause": True, "same_limit": True, "same_revision": True},
        "Killed 5 times in 4 hours, each for the same cause, with the same limit, in the same revision",
        frozenset({"memory.limit_bytes", "pod.revision"}),
    ),
    "crash loop: waits": Case(
        FindingKind.CRASH_LOOP,
        facts(fate=Fate.RESTART_PENDING),
        {"restarts": None, "kills_within_hour": 1},
        "The container waits for its next start (CrashLoopBackOff)",
    ),
    "crash loop: by kills": Case(
        FindingKind.CRASH_LOOP,
        facts(
            fate=Fate.RESTARTED,
            restart_count=7,
            former=tuple(Former(n * 300.0, Cause.CONTAINER_LIMIT, None) for n in (1, 2, 3)),
        ),
        {"restarts": 7, "kills_within_hour": 4},
        "The container is in a loop of kills and restarts, killed 4 times within an hour after 7 restarts",
    ),
    "rollout: grows": Case(
        FindingKind.ROLLOUT,
        facts(
            pod=pod(revision="5b7"),
            revisions=(
                grown("5b6", 0.0, 86400.0, number=41),
                grown("5b7", 8.0 * MIB, 3600.0, number=42, image="r.io/x/app:3e4f891", rolled_out_at=1_700_000_000.0),
            ),
        ),
        {"revision": "5b7", "revision_number": 42, "growth_bytes_per_hour": 8.0 * MIB, "former_revision_number": 41},
        "Grows 8 MiB/h since revision 42 (image app:3e4f891, rolled out 2023-11-14 22:13 UTC); revision 41 was flat, in "
        "24 hours",
    ),
    "rollout: kills": Case(
        FindingKind.ROLLOUT,
        facts(
            pod=pod(revision="b"),
            revisions=(grown("a", None, 86400.0, image="app:1"), grown("b", None, 600.0, kills=3, image="app:1")),
        ),
        {"revision": "b", "kills": 3, "former_revision": "a"},
        "Killed 3 times since revision b (image app:1); revision a was not, in 24 hours; the image is the same",
    ),
}


def test_every_kind_has_a_case() -> None:
    of_the_node = {FindingKind.NODE_FILLED_BY, FindingKind.VICTIM_CHOICE, FindingKind.EVICTION}
    assert {case.kind for case in CASES.values()} == set(FindingKind) - of_the_node


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_found_with_its_numbers(case: Case) -> None:
    finding = found(case.facts, case.kind)
    assert finding is not None
    assert case.says in finding.text
    assert len(finding.text) < 300
    assert {name: finding.values[name] for name in case.values} == case.values
    assert finding.evidence


@pytest.mark.parametrize(
    ("case", "path"),
    [
        pytest.param(case, path, id=f"{name} - {path}")
        for name, case in CASES.items()
        for finding in [found(case.facts, case.kind)]
        for path in (finding.evidence if finding else ())
    ],
)
def test_goes_with_its_evidence(case: Case, path: str) -> None:
    before, after = found(case.facts, case.kind), found(without(case.facts, path), case.kind)
    if path not in case.weaker:
        assert after is None
        return
    assert before is not None
    assert after is not None
    assert path not in after.evidence
    assert after.text != before.text


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_its_evidence_is_all_that_it_needs(case: Case) -> None:
    finding = found(case.facts, case.kind)
    assert finding is not None
    named = {path.partition(".")[0] for path in finding.evidence} | {"cause", "victim"}
    rest: dict[str, Any] = {name: getattr(case.facts, name) for name in named}
    assert found(Facts(**rest), case.kind) == finding


@pytest.mark.parametrize("part", ["shmem", "kernel", "file"])
def test_what_grows_is_told_of_its_finding(part: str) -> None:
    kinds = {
        "shmem": ("shared memory: one volume", FindingKind.SHARED_MEMORY),
        "kernel": ("kernel memory: slab", FindingKind.KERNEL_MEMORY),
        "file": ("page cache: dirty", FindingKind.PAGE_CACHE),
    }
    name, kind = kinds[part]
    growing = Judgement(pattern=Pattern.LEAK, confidence=0.9, grows=part)
    finding = found(CASES[name].facts, kind, growing)
    assert finding is not None
    assert finding.text.endswith("; it is what grows")
    assert finding.values["grows"] is True
    assert "history" in finding.evidence
    other = found(CASES[name].facts, kind, replace(growing, grows="anon"))
    assert other is not None
    assert "grows" not in other.values


def test_what_explains_most_comes_first() -> None:
    both = facts(
        memory=memory(anon=150 * MIB, shmem=150 * MIB, file=150 * MIB, sock=200 * MIB),
        hints=hints("java", "-Xmx500m", "M"),
        victim=victim("java", 270 * MIB),
        fate=Fate.RESTART_PENDING,
    )
    assert [finding.kind for finding in find(both, NO_JUDGEMENT)] == [
        FindingKind.JVM_HEAP,
        FindingKind.KERNEL_MEMORY,
        FindingKind.SHARED_MEMORY,
        FindingKind.CRASH_LOOP,
    ]


def test_an_ordinary_kill_has_no_findings() -> None:
    assert find(facts(container=container(limit_bytes=512 * MIB, request_bytes=MIB), pod=pod()), NO_JUDGEMENT) == ()
