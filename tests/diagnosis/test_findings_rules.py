"""Each rule by itself: how flags are weighed, where it begins to speak, and when it must not."""

from __future__ import annotations

from typing import Any

import pytest

from collector.diagnosis.findings.heap import INCOMPLETE
from collector.diagnosis.findings.jvm import effective
from collector.diagnosis.model import Facts, FindingKind, Former, Growth, Neighbour
from collector.model import Cause, ContainerKind, Fate, MemoryUse, NodeMemory, QosClass
from collector.processes import hints as processes_hints
from tests.diagnosis.findings import GIB, MIB, beside, container, facts, found, hints, memory, pod, tasks, victim

LIMIT = MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB)


def heap_max(of: Facts) -> object:
    finding = found(of, FindingKind.JVM_HEAP)
    return None if finding is None else finding.values.get("heap_max_bytes")


def test_the_mark_of_missing_flags_is_the_one_that_is_set() -> None:
    assert processes_hints.INCOMPLETE == INCOMPLETE


# JVM


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        pytest.param(["-Xmx300m"], {"JAVA_TOOL_OPTIONS": "-Xmx100m"}, "300m", id="the command line wins"),
        pytest.param(["-Xmx300m"], {"_JAVA_OPTIONS": "-Xmx400m"}, "400m", id="but not over _JAVA_OPTIONS"),
        pytest.param(["-Xmx300m"], {"JDK_JAVA_OPTIONS": "-Xmx200m"}, "300m", id="JDK_JAVA_OPTIONS comes before it"),
        pytest.param(
            [],
            {"JDK_JAVA_OPTIONS": "-Xmx200m", "JAVA_TOOL_OPTIONS": "-Xmx100m"},
            "200m",
            id="JAVA_TOOL_OPTIONS is first",
        ),
        pytest.param(["-Xmx100m", "-XX:MaxHeapSize=120m"], {}, "120m", id="two names of one flag"),
        pytest.param(["-Xmx100m", "-Xmx120m", "-Xmx100m"], {}, "100m", id="the last of several"),
        pytest.param([], {"NODE_OPTIONS": "-Xmx1m"}, None, id="another runtime's variable"),
    ],
)
def test_order_of_the_jvms_flags(arguments: list[str], environ: dict[str, str], expected: str | None) -> None:
    """As OpenJDK 17 printed them by -XX:+PrintFlagsFinal."""
    flags = effective(hints("java", *arguments, "Main", environ=environ))
    assert (flags["MaxHeapSize"].value if "MaxHeapSize" in flags else None) == expected


@pytest.mark.parametrize(
    ("flags", "measured"),
    [
        (["-XX:MaxRAM=64m"], 33554432),
        (["-XX:MaxRAM=200m"], 104857600),
        (["-XX:MaxRAM=256m"], 132120576),
        (["-XX:MaxRAM=500m"], 132120576),
        (["-XX:MaxRAM=512m"], 134217728),
        (["-XX:MaxRAM=1g"], 268435456),
        (["-XX:MaxRAM=64g"], 17179869184),
        (["-XX:MaxRAM=1g", "-XX:MaxRAMPercentage=75"], 805306368),
        (["-XX:MaxRAM=1g", "-XX:MaxRAMPercentage=75", "-Xms900m"], 943718400),
        (["-XX:MaxRAM=200m", "-XX:MaxRAMPercentage=75"], 104857600),
        (["-XX:MaxRAM=200m", "-XX:MinRAMPercentage=80"], 132120576),
        (["-Xmx100m", "-XX:MaxRAMPercentage=75"], 104857600),
    ],
)
def test_heap_as_openjdk_17_sizes_it(flags: list[str], measured: int) -> None:
    """What its -XX:+PrintFlagsFinal says of MaxHeapSize, which is rounded up to 2 MiB."""
    huge = 1 << 50
    of = facts(hints=hints("java", *flags, "Main"), memory=MemoryUse(limit_bytes=huge), victim=victim("java", huge))
    size = heap_max(of)
    assert isinstance(size, int)
    assert measured - 2 * MIB < size <= measured


def jvm(*flags: str, anon: int | None = 480 * MIB, environ: dict[str, str] | None = None, **changes: Any) -> Facts:
    known: dict[str, Any] = {"memory": LIMIT, "victim": victim("java", anon)}
    return facts(hints=hints("java", *flags, "Main", environ=environ), **(known | changes))


@pytest.mark.parametrize(
    ("of", "problem"),
    [
        pytest.param(jvm("-Xmx384m"), None, id="75 % of the limit: as advised"),
        pytest.param(jvm("-Xmx409m"), None, id="just below 80 %"),
        pytest.param(jvm("-Xmx411m"), "no_room", id="just above 80 %"),
        pytest.param(jvm("-Xmx2g"), "no_room", id="more than the limit"),
        pytest.param(jvm("-Xmx512m", anon=200 * MIB), None, id="the process did not hold the memory"),
        pytest.param(jvm("-Xmx512m", anon=None), "no_room", id="what it held is not known"),
        pytest.param(jvm("-Xmx351m"), "outside_heap", id="a quarter of the limit is outside"),
        pytest.param(jvm("-Xmx353m"), None, id="less than a quarter is outside"),
        pytest.param(jvm("-XX:MaxRAMPercentage=90"), "no_room", id="a percentage"),
        pytest.param(jvm("-XX:MaxRAMFraction=1"), "no_room", id="a fraction"),
        pytest.param(jvm("-XX:MaxRAMPercentage=70"), None, id="a fitting percentage"),
        pytest.param(jvm("@more", "-Xss1m"), None, id="more flags stand elsewhere: no default is claimed"),
        pytest.param(jvm("@more", "-Xmx512m"), "no_room", id="more flags stand elsewhere: said"),
        pytest.param(jvm("-XX:-UseContainerSupport"), "sized_by_node", id="sized by a node that is not known"),
        pytest.param(
            jvm("-XX:-UseContainerSupport", node_memory=NodeMemory(ram_bytes=8 * GIB)), "no_room", id="by one that is"
        ),
        pytest.param(jvm("-XX:-UseContainerSupport", "-Xmx380m"), None, id="-Xmx makes that harmless"),
        pytest.param(jvm("-Xmx380m", "-XX:MaxDirectMemorySize=200m"), "parts_exceed_limit", id="parts together"),
        pytest.param(jvm("-Xmx380m", "-XX:MaxDirectMemorySize=100m"), None, id="parts that fit"),
        pytest.param(jvm("-Xmx512m", cause=Cause.NODE), None, id="the node ran out"),
        pytest.param(jvm("-Xmx512m", cause=Cause.UNKNOWN), None, id="whose limit is not known"),
        pytest.param(jvm("-Xmx512m", memory=None), None, id="limit not known"),
        pytest.param(
            jvm("-Xmx512m", memory=None, container=container(limit_bytes=512 * MIB)),
            "no_room",
            id="limit of the container",
        ),
        pytest.param(jvm("-XX:MaxRAMPercentage=90", cause=Cause.POD_LIMIT), None, id="percentage of what: not known"),
        pytest.param(
            jvm("-XX:MaxRAMPercentage=90", cause=Cause.POD_LIMIT, lone=True), "no_room", id="pod's limit is its"
        ),
        pytest.param(facts(hints=("-Xmx512m",), memory=LIMIT), None, id="a flag, but what runs is not known"),
        pytest.param(
            facts(hints=("runtime=python", "JAVA_TOOL_OPTIONS: -Xmx512m"), victim=victim("java")),
            None,
            id="another runtime of that name",
        ),
        pytest.param(
            facts(hints=("JAVA_TOOL_OPTIONS: -Xss1m",), memory=LIMIT, victim=victim("java")),
            None,
            id="by its name, no default claimed",
        ),
    ],
)
def test_jvm(of: Facts, problem: str | None) -> None:
    finding = found(of, FindingKind.JVM_HEAP)
    assert (finding.values["problem"] if finding else None) == problem


def test_jvm_says_where_its_words_are_weak() -> None:
    finding = found(jvm("@more", "-Xmx512m"), FindingKind.JVM_HEAP)
    assert finding is not None
    assert finding.text.endswith("(not all of its flags could be read)")
    pods = found(jvm("-Xmx512m", cause=Cause.POD_LIMIT), FindingKind.JVM_HEAP)
    assert pods is not None
    assert "of the pod's limit of 512 MiB" in pods.text


def test_jvm_weighed_by_the_memory_of_all_processes() -> None:
    """Where the victim's own is not known, the report's statistics say how much was no heap."""
    of = jvm("-Xmx100m", anon=None, memory=memory())
    finding = found(of, FindingKind.JVM_HEAP)
    assert finding is not None
    assert finding.values["outside_heap_bytes"] == 390 * MIB
    assert "all processes together held 490 MiB" in finding.text
    assert "memory.stat" in finding.evidence


# Node.js and Go


def node(*flags: str, environ: dict[str, str] | None = None, **changes: Any) -> Facts:
    known: dict[str, Any] = {"memory": LIMIT, "victim": victim("node")}
    return facts(hints=hints("node", *flags, "x.js", environ=environ), **(known | changes))


@pytest.mark.parametrize(
    ("of", "problem", "bound"),
    [
        pytest.param(node("--max-old-space-size=480"), "no_room", 480, id="no room"),
        pytest.param(node("--max-old-space-size=384"), None, None, id="75 %: as advised"),
        pytest.param(
            node("--max-old-space-size=384", environ={"NODE_OPTIONS": "--max-old-space-size=480"}),
            None,
            None,
            id="the command line wins",
        ),
        pytest.param(
            node("--max-old-space-size=300", "--max-old-space-size=500"), "no_room", 500, id="the last one counts"
        ),
        pytest.param(node("--max-old-space-size-percentage=90"), "no_room", 460, id="a percentage"),
        pytest.param(
            node("--max-old-space-size-percentage=90", cause=Cause.POD_LIMIT), None, None, id="of what: not known"
        ),
        pytest.param(
            node("--max-old-space-size-percentage=90", "--max-old-space-size=500", cause=Cause.POD_LIMIT),
            None,
            None,
            id="of what: not known, and the size does not count",
        ),
        pytest.param(node("--max-heap-size=500"), "no_room", 500, id="the whole heap"),
        pytest.param(node("--max-old-space-size=0"), "no_flag", None, id="0 is the default"),
        pytest.param(node(victim=victim("node", 100 * MIB)), None, None, id="it did not hold the memory"),
        pytest.param(
            facts(hints=("MALLOC_ARENA_MAX=2",), victim=victim("node")),
            None,
            None,
            id="by its name, no default claimed",
        ),
        pytest.param(facts(hints=("runtime=node", INCOMPLETE)), None, None, id="not all flags are known"),
        pytest.param(node(cause=Cause.NODE_ALLOCATABLE), None, None, id="the node ran out"),
    ],
)
def test_nodejs(of: Facts, problem: str | None, bound: int | None) -> None:
    finding = found(of, FindingKind.NODEJS_HEAP)
    assert (finding.values["problem"] if finding else None) == problem
    if bound is not None:
        assert finding is not None
        size = finding.values["heap_max_bytes"]
        assert isinstance(size, int)
        assert size // MIB == bound


def go(*known: str, **changes: Any) -> Facts:
    return facts(hints=("runtime=go", *known), memory=LIMIT, **changes)


@pytest.mark.parametrize(
    ("of", "problem"),
    [
        pytest.param(go(), "no_limit", id="none"),
        pytest.param(go("GOMEMLIMIT=off"), "no_limit", id="off"),
        pytest.param(go("GOGC=off"), "never_collects", id="no collection"),
        pytest.param(go("GOGC=off", "GOMEMLIMIT=480MiB"), None, id="collects at its limit alone: fine"),
        pytest.param(go("GOMEMLIMIT=460MiB"), None, id="90 %"),
        pytest.param(go("GOMEMLIMIT=500MiB"), "no_room", id="98 %"),
        pytest.param(go("GOMEMLIMIT=524288000"), "no_room", id="in bytes"),
        pytest.param(go("GOMEMLIMIT=1GiB"), "no_room", id="more than the limit"),
        pytest.param(go("GOMEMLIMIT=400MiB"), "exceeded", id="exceeded"),
        pytest.param(go("GOMEMLIMIT=400MiB", victim=victim("app", None)), None, id="what it held is not known"),
        pytest.param(go(INCOMPLETE), None, id="not all of the environment is known"),
        pytest.param(facts(hints=("GOGC=off",), memory=LIMIT), None, id="not known to be Go"),
        pytest.param(facts(hints=("GOMEMLIMIT=off",), memory=LIMIT), "no_limit", id="by its variable"),
        pytest.param(facts(hints=("runtime=java", "GOMEMLIMIT=1GiB")), None, id="known to be another"),
        pytest.param(go(victim=victim("app", 100 * MIB)), None, id="it did not hold the memory"),
    ],
)
def test_go(of: Facts, problem: str | None) -> None:
    finding = found(of, FindingKind.GO_MEMORY_LIMIT)
    assert (finding.values["problem"] if finding else None) == problem


# Processes


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        pytest.param(facts(victim=victim("httpd"), tasks=tasks(2, "httpd", 200 * MIB)), None, id="two are no pool"),
        pytest.param(facts(victim=victim("httpd"), tasks=tasks(3, "httpd", 80 * MIB)), None, id="less than half"),
        pytest.param(
            facts(victim=victim("httpd"), tasks=tasks(3, "httpd", 90 * MIB)), FindingKind.PREFORK, id="a server"
        ),
        pytest.param(
            facts(victim=victim("php-fpm: pool w"), tasks=tasks(9, "php-fpm: pool w", 40 * MIB)),
            FindingKind.PREFORK,
            id="with its state behind it",
        ),
        pytest.param(
            facts(
                victim=victim("python3"), tasks=(*tasks(4, "python3", 90 * MIB), *tasks(1, "python3", 5 * MIB, first=9))
            ),
            FindingKind.PREFORK,
            id="an interpreter, its parent and four alike",
        ),
        pytest.param(facts(victim=victim("python3"), tasks=tasks(3, "python3", 150 * MIB)), None, id="three alike"),
        pytest.param(
            facts(
                victim=victim("python3"),
                tasks=(*tasks(1, "python3", 400 * MIB), *tasks(5, "python3", 9 * MIB, first=9)),
            ),
            None,
            id="one of an interpreter's is large",
        ),
        pytest.param(
            facts(victim=victim("x"), tasks=tasks(9, "x", 40 * MIB)), None, id="nine of a name that tells nothing"
        ),
        pytest.param(facts(victim=victim("x"), tasks=tasks(10, "x", 40 * MIB)), FindingKind.PROCESS_FAN_OUT, id="ten"),
        pytest.param(
            facts(tasks=(*tasks(20, "x", 5 * MIB), *tasks(1, "x", 300 * MIB, first=9))), None, id="it is one of them"
        ),
        pytest.param(facts(tasks=tasks(10, "x", 40 * MIB), cause=Cause.NODE), None, id="the node's processes"),
        pytest.param(
            facts(tasks=tuple(task._replace(tgid=7) for task in tasks(10, "x", 40 * MIB))), None, id="threads of one"
        ),
        pytest.param(
            facts(tasks=tuple(task._replace(tgid=None, rss_bytes=None) for task in tasks(10, "x", 1))),
            None,
            id="sizes not known",
        ),
        pytest.param(facts(hints=("WEB_CONCURRENCY=1",)), None, id="one worker"),
        pytest.param(facts(hints=("WEB_CONCURRENCY=2",), victim=victim("x", 100 * MIB)), None, id="workers that fit"),
        pytest.param(
            facts(hints=("WEB_CONCURRENCY=9", "GUNICORN_CMD_ARGS: --workers=2", "--workers=1")),
            None,
            id="the command line wins",
        ),
        pytest.param(
            facts(hints=("WEB_CONCURRENCY=9",), tasks=tasks(1, "app", 480 * MIB)),
            None,
            id="the dump shows that there were not so many",
        ),
    ],
)
def test_groups_of_processes(of: Facts, expected: FindingKind | None) -> None:
    kinds = (FindingKind.PREFORK, FindingKind.PROCESS_FAN_OUT)
    assert [kind for kind in kinds if found(of, kind)] == ([expected] if expected else [])


POD = facts(cause=Cause.POD_LIMIT, neighbours=(beside("proxy", 300 * MIB),))


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        pytest.param({}, True, id="holds most"),
        pytest.param({"cause": Cause.CONTAINER_LIMIT}, False, id="the container's limit"),
        pytest.param({"lone": True}, False, id="the pod's limit is the container's"),
        pytest.param({"neighbours": (beside("proxy", 100 * MIB),)}, False, id="holds little"),
        pytest.param({"neighbours": (beside("proxy", None),)}, False, id="not known what it holds"),
        pytest.param({"neighbours": ()}, False, id="alone"),
    ],
)
def test_neighbour(changes: dict[str, Any], is_found: bool) -> None:
    known: dict[str, Any] = {"cause": POD.cause, "neighbours": POD.neighbours}
    assert (found(facts(**(known | changes)), FindingKind.NEIGHBOUR) is not None) is is_found


def test_many_neighbours_are_counted_and_some_are_named() -> None:
    many = tuple(beside(f"{'n' * 60}{n}", (200 - n) * MIB) for n in range(9))
    nameless = Neighbour(name=None, kind=None, working_set_bytes=MIB, limit_bytes=None, request_bytes=None)
    finding = found(facts(cause=Cause.POD_LIMIT, neighbours=(*many, nameless)), FindingKind.NEIGHBOUR)
    assert finding is not None
    assert len(finding.text) < 400
    assert finding.values["together_bytes"] == sum(range(192, 201)) * MIB + MIB


@pytest.mark.parametrize("fate", [fate for fate in Fate if fate is not Fate.SURVIVED])
def test_a_child_is_only_told_where_the_container_lives(fate: Fate) -> None:
    assert found(facts(fate=fate), FindingKind.CHILD_KILLED) is None


# Memory


@pytest.mark.parametrize(
    ("of", "kind"),
    [
        pytest.param(
            facts(memory=memory(shmem=127 * MIB, file=127 * MIB)), FindingKind.SHARED_MEMORY, id="little shared memory"
        ),
        pytest.param(facts(memory=memory(sock=117 * MIB)), FindingKind.KERNEL_MEMORY, id="little kernel memory"),
        pytest.param(facts(memory=memory(file=129 * MIB)), FindingKind.PAGE_CACHE, id="little cache"),
        pytest.param(
            facts(memory=memory(file=400 * MIB, shmem=390 * MIB)), FindingKind.PAGE_CACHE, id="shmem is no cache"
        ),
        pytest.param(
            facts(memory=memory(file=400 * MIB), memory_is_sampled=True),
            FindingKind.PAGE_CACHE,
            id="cache, before the pressure",
        ),
        pytest.param(
            facts(
                memory=MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB, stat={"cache": 400 * MIB, "rss": MIB})
            ),
            FindingKind.PAGE_CACHE,
            id="cache that may be shmem",
        ),
        pytest.param(
            facts(cause=Cause.NODE_ALLOCATABLE, memory=memory(shmem=400 * MIB)),
            FindingKind.SHARED_MEMORY,
            id="of all pods",
        ),
        pytest.param(
            facts(memory=memory(zswap=400 * MIB, kernel=410 * MIB)),
            FindingKind.KERNEL_MEMORY,
            id="zswap is the processes'",
        ),
        pytest.param(
            facts(memory=MemoryUse(limit_bytes=MIB, swap_usage_bytes=0, swap_limit_bytes=0)),
            FindingKind.SWAP_FULL,
            id="no swap",
        ),
        pytest.param(
            facts(memory=MemoryUse(limit_bytes=MIB, swap_usage_bytes=5, swap_limit_bytes=None)),
            FindingKind.SWAP_FULL,
            id="swap without a limit",
        ),
        pytest.param(
            facts(memory=MemoryUse(limit_bytes=MIB, swap_usage_bytes=98, swap_limit_bytes=100)),
            FindingKind.SWAP_FULL,
            id="swap left",
        ),
    ],
)
def test_memory_that_explains_nothing(of: Facts, kind: FindingKind) -> None:
    assert found(of, kind) is None


def test_cache_that_is_kept_for_no_told_reason() -> None:
    finding = found(facts(memory=memory(file=300 * MIB)), FindingKind.PAGE_CACHE)
    assert finding is not None
    assert finding.values["why"] is None
    assert "the report does not tell why" in finding.text


# Spec


@pytest.mark.parametrize(
    ("specified", "is_found"),
    [
        pytest.param(512 * MIB, False, id="the same"),
        pytest.param(512 * MIB + 4095, False, id="rounded down to a page"),
        pytest.param(512 * MIB + 65535, False, id="rounded down to a large page"),
        pytest.param(512 * MIB + 65536, True, id="a page more"),
        pytest.param(512 * MIB - 1, True, id="no rounding goes up"),
        pytest.param(None, False, id="not known"),
    ],
)
def test_limit_that_differs(specified: int | None, is_found: bool) -> None:
    assert (found(facts(spec_limit_bytes=specified), FindingKind.LIMIT_DIFFERS) is not None) is is_found


def test_a_pods_limit_is_not_compared_with_a_containers() -> None:
    of = facts(cause=Cause.POD_LIMIT, lone=True, spec_limit_bytes=256 * MIB)
    assert found(of, FindingKind.LIMIT_DIFFERS) is None


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        pytest.param({"container": container()}, {FindingKind.NO_LIMIT, FindingKind.NO_REQUEST}, id="neither"),
        pytest.param({"container": container(kind=None)}, set(), id="named by the log folders, which know no spec"),
        pytest.param({"container": container(name=None)}, set(), id="not named"),
        pytest.param({"container": container(kind=ContainerKind.EPHEMERAL)}, set(), id="may have none"),
        pytest.param({"container": container(limit_bytes=MIB)}, {FindingKind.NO_REQUEST}, id="a limit"),
        pytest.param(
            {"container": container(), "spec_limit_bytes": MIB, "spec_request_bytes": 1}, set(), id="in the spec"
        ),
        pytest.param(
            {"container": container(request_bytes=0)},
            {FindingKind.NO_LIMIT, FindingKind.NO_REQUEST},
            id="a request of 0",
        ),
    ],
)
def test_no_limit_and_no_request(changes: dict[str, Any], kinds: set[FindingKind]) -> None:
    of = facts(cause=Cause.NODE, memory=None, **changes)
    assert {kind for kind in (FindingKind.NO_LIMIT, FindingKind.NO_REQUEST) if found(of, kind)} == kinds


def test_best_effort_matters_when_the_node_is_short() -> None:
    best_effort = pod(qos_class=QosClass.BEST_EFFORT)
    for cause, is_said in ((Cause.NODE, True), (Cause.POD_LIMIT, False)):
        finding = found(facts(cause=cause, container=container(), pod=best_effort), FindingKind.NO_REQUEST)
        assert finding is not None
        assert ("BestEffort" in finding.text) is is_said


# What came before


def test_repeated_says_what_changed() -> None:
    former = (
        Former(600.0, Cause.CONTAINER_LIMIT, "a", 256 * MIB),
        Former(90000.0, Cause.NODE, "b", None),
    )
    finding = found(facts(former=former[:1], pod=pod(revision="b")), FindingKind.REPEATED)
    assert finding is not None
    assert finding.text == (
        "Killed 2 times in 10 minutes, each for the same cause, though the limit has changed, in 2 revisions"
    )
    finding = found(facts(former=former), FindingKind.REPEATED)
    assert finding is not None
    assert finding.text == "Killed 3 times in 25 hours, not always for the same cause"


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        pytest.param({"fate": Fate.RESTART_PENDING}, True, id="waits"),
        pytest.param({"restart_count": 50}, False, id="restarts of unknown causes"),
        pytest.param({"restart_count": 2, "former": [600.0, 1200.0]}, True, id="kills within an hour"),
        pytest.param({"restart_count": 2, "former": [600.0, 7200.0]}, False, id="kills long ago"),
        pytest.param({"former": [600.0, 1200.0]}, False, id="killed, but restarts are not known"),
    ],
)
def test_crash_loop(changes: dict[str, Any], is_found: bool) -> None:
    former = tuple(Former(seconds, Cause.CONTAINER_LIMIT, None) for seconds in changes.pop("former", ()))
    assert (found(facts(former=former, **changes), FindingKind.CRASH_LOOP) is not None) is is_found


def seen(revision: str, rate: float | None, seconds: float, kills: int = 0) -> Growth:
    return Growth(
        revision=revision,
        image=None,
        number=None,
        rolled_out_at=None,
        growth_bytes_per_hour=rate,
        observed_seconds=seconds,
        kills=kills,
    )


DAY = 86400.0


@pytest.mark.parametrize(
    ("revisions", "own", "is_found"),
    [
        pytest.param([seen("a", 0.0, DAY), seen("b", 5e6, 3600.0)], "b", True, id="grows since"),
        pytest.param(
            [seen("a", None, DAY), seen("b", 5e6, 3600.0)], "b", False, id="the former is not known to be flat"
        ),
        pytest.param([seen("a", 0.0, 600.0), seen("b", 5e6, 3600.0)], "b", False, id="the former was seen too shortly"),
        pytest.param([seen("a", 5e6, DAY), seen("b", 5e6, 3600.0)], "b", False, id="the former grew too"),
        pytest.param([seen("b", 5e6, DAY)], "b", False, id="no former"),
        pytest.param([seen("a", 0.0, DAY), seen("b", 5e6, 3600.0)], "a", False, id="the victim is of the former"),
        pytest.param([seen("a", 0.0, DAY), seen("b", 5e6, 3600.0)], None, False, id="the victim's is not known"),
        pytest.param(
            [seen("a", 0.0, DAY), seen("b", 5e6, DAY), seen("c", None, 60.0)],
            "b",
            True,
            id="a newer one is rolling out",
        ),
        pytest.param([seen("a", None, DAY), seen("b", None, 3600.0, 2)], "b", True, id="killed since"),
        pytest.param([seen("a", None, DAY, 1), seen("b", None, 3600.0, 2)], "b", False, id="killed before too"),
        pytest.param(
            [seen("a", None, 7200.0), seen("b", None, DAY, 1)], "b", False, id="the former had less time to be"
        ),
    ],
)
def test_rollout(revisions: list[Growth], own: str | None, is_found: bool) -> None:
    of = facts(revisions=tuple(revisions), pod=pod(revision=own))
    assert (found(of, FindingKind.ROLLOUT) is not None) is is_found


def test_a_long_image_is_cut() -> None:
    new = Growth(
        revision="b" * 10,
        image="registry.example/x/" + "y" * 200,
        number=None,
        rolled_out_at=0.0,
        growth_bytes_per_hour=1e6,
        observed_seconds=DAY,
        kills=0,
    )
    of = facts(revisions=(seen("a" * 10, 0.0, DAY), new), pod=pod(revision="b" * 10))
    finding = found(of, FindingKind.ROLLOUT)
    assert finding is not None
    assert len(finding.text) < 300
    assert finding.values["image"] == new.image


def test_hostile_names_change_no_rule() -> None:
    comm = "\n\x1b[2J{0}%s"
    of = facts(victim=victim(comm), tasks=tasks(12, comm, 40 * MIB), fate=Fate.SURVIVED)
    finding = found(of, FindingKind.PROCESS_FAN_OUT)
    assert finding is not None
    assert finding.values["comm"] == comm
