"""What was found by attacking the diagnosis: statements that were untrue, commands that did not do what was said."""

from __future__ import annotations

import itertools
import re
import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from collector.diagnosis.advice import advise
from collector.diagnosis.diagnose import diagnose
from collector.diagnosis.findings import find
from collector.diagnosis.findings.jvm import effective, jvm_heap
from collector.diagnosis.model import (
    Action,
    Advice,
    Facts,
    Finding,
    FindingKind,
    Former,
    Growth,
    Judgement,
    Neighbour,
    NodeFacts,
    Pattern,
    PodUse,
)
from collector.diagnosis.patches import newest_changes
from collector.diagnosis.rollout import LONG_AGO, RevisionSeen, growths
from collector.model import (
    Cause,
    Container,
    ContainerId,
    ContainerKind,
    MemoryUse,
    NodeMemory,
    Owner,
    Pod,
    PodUid,
    Process,
    QosClass,
    Task,
)
from tests.test_forecasts import Agent
from tests.test_rollouts import HOUR, LEAK, WEB, Node, node, web

__all__ = ["node"]

MIB = 1 << 20
POD = Pod(
    uid=PodUid("1"),
    namespace="shop",
    name="web-5d8f9c-x2x4z",
    qos_class=QosClass.BURSTABLE,
    owner=Owner(kind="Deployment", name="web"),
    revision="b",
)
APP = Container(id=ContainerId("0d"), name="app", kind=ContainerKind.APP, limit_bytes=512 * MIB)


def at_limit(size: int, cause: Cause = Cause.CONTAINER_LIMIT, **changes: Any) -> Facts:
    known: dict[str, Any] = {
        "cause": cause,
        "victim": Process(pid=7, comm="app", anon_rss_bytes=size * 9 // 10),
        "memory": MemoryUse(usage_bytes=size, limit_bytes=size),
        "pod": POD,
        "container": APP,
    }
    return Facts(**(known | changes))


def judged(pattern: Pattern, limit: int, **changes: Any) -> Judgement:
    known: dict[str, Any] = {"confidence": 0.95, "peak_bytes": limit, "peak_is_cut": True, "limit_bytes": limit}
    return Judgement(pattern=pattern, **(known | {"steady_bytes": limit // 2} | changes))


def leak(limit: int) -> Judgement:
    return judged(Pattern.LEAK, limit, growth_bytes_per_hour=8.0 * MIB, life_seconds=50 * HOUR, grows="anon")


def beside(name: str, used: int | None, limit: int | None) -> Neighbour:
    return Neighbour(name=name, kind=ContainerKind.APP, working_set_bytes=used, limit_bytes=limit, request_bytes=None)


def only(steps: tuple[Advice, ...], action: Action) -> Advice:
    (found,) = [one for one in steps if one.action is action]
    return found


# At the limit of a pod it is the memory of all its containers that was seen

SHARED = at_limit(
    1024 * MIB, Cause.POD_LIMIT, victim=Process(pid=7, comm="node", anon_rss_bytes=600 * MIB), neighbours=()
)


@pytest.mark.parametrize(
    ("neighbours", "named"),
    [
        pytest.param((beside("mesh", 900 * MIB, 512 * MIB),), "mesh held most", id="the neighbour holds most"),
        pytest.param((beside("mesh", 10 * MIB, 512 * MIB),), "app held most", id="the victim holds most"),
        pytest.param(None, "not known here", id="nobody knows"),
    ],
)
def test_a_pod_that_leaks_is_not_its_victims_leak(neighbours: tuple[Neighbour, ...] | None, named: str) -> None:
    steps = advise(replace(SHARED, neighbours=neighbours), leak(1024 * MIB), ())
    for action in (Action.DO_NOT_RAISE_LIMIT, Action.FIX_LEAK):
        advice = only(steps, action)
        assert "the pod" in advice.text
        assert "container" not in advice.values
        assert advice.values["scope"] == "pod"
    assert named in only(steps, Action.FIX_LEAK).text


def test_who_holds_most_is_profiled() -> None:
    facts = replace(SHARED, hints=("runtime=java",), neighbours=(beside("mesh", 900 * MIB, 512 * MIB),))
    advice = only(advise(facts, leak(1024 * MIB), ()), Action.PROFILE)
    assert advice.values["container"] == "mesh"
    assert (advice.command, advice.values["runtime"]) == (None, None)


NODE_HEAP = Finding(kind=FindingKind.NODEJS_HEAP, text="", values={"problem": "no_flag"}, evidence=("made",))


@pytest.mark.parametrize(
    ("neighbours", "own", "megabytes"),
    [
        pytest.param((beside("mesh", 900 * MIB, 512 * MIB),), 512 * MIB, 384, id="75 % of its container's"),
        pytest.param((beside("mesh", 900 * MIB, None),), None, None, id="it has none"),
        pytest.param((beside("mesh", 100 * MIB, 512 * MIB),), 512 * MIB, 1536, id="its container's is raised"),
    ],
)
@pytest.mark.parametrize("pattern", [Pattern.LIMIT_TOO_LOW, Pattern.LEAK])
def test_a_heap_fits_into_its_own_container(
    pattern: Pattern, neighbours: tuple[Neighbour, ...], own: int | None, megabytes: int | None
) -> None:
    facts = replace(SHARED, neighbours=neighbours, container=replace(APP, limit_bytes=own), hints=("runtime=node",))
    judgement = leak(1024 * MIB) if pattern is Pattern.LEAK else judged(pattern, 1024 * MIB, steady_bytes=None)
    flags = [one.values["flag"] for one in advise(facts, judgement, (NODE_HEAP,)) if one.values.get("flag")]
    if pattern is Pattern.LEAK and megabytes is not None:
        megabytes = 384
    assert flags == ([] if megabytes is None else [f"--max-old-space-size={megabytes}"])


def test_a_heap_fits_into_the_limit_inside_the_container() -> None:
    facts = at_limit(64 * MIB, Cause.NESTED_LIMIT, hints=("runtime=node",))
    steps = advise(facts, judged(Pattern.UNKNOWN, 64 * MIB), (NODE_HEAP,))
    assert only(steps, Action.CHANGE_NESTED_LIMIT).values["limit_bytes"] == 160 * MIB
    assert only(steps, Action.SET_RUNTIME_FLAG).values["flag"] == "--max-old-space-size=120"


@pytest.mark.parametrize("neighbours", [(beside("mesh", 900 * MIB, 512 * MIB),), None])
def test_a_guaranteed_pod_stays_so_at_its_own_limit(neighbours: tuple[Neighbour, ...] | None) -> None:
    facts = replace(SHARED, neighbours=neighbours, pod=replace(POD, qos_class=QosClass.GUARANTEED))
    advice = only(advise(facts, judged(Pattern.LIMIT_TOO_LOW, 1024 * MIB), ()), Action.SET_LIMIT)
    assert advice.values["request_bytes"] == advice.values["limit_bytes"]
    assert advice.command is not None
    assert "requests" in advice.command


def test_limits_in_decimal_units_are_a_sum_too() -> None:
    """500M is no whole number of pages."""
    limit = 500_000_000
    enforced = 2 * (limit // 4096) * 4096
    neighbours = (beside("mesh", 900_000_000, limit),)
    facts = at_limit(enforced, Cause.POD_LIMIT, container=replace(APP, limit_bytes=limit), neighbours=neighbours)
    advice = only(advise(facts, judged(Pattern.LIMIT_TOO_LOW, enforced), ()), Action.SET_LIMIT)
    assert (advice.values["container"], advice.values.get("scope")) == ("mesh", None)


def test_a_containers_limit_is_not_called_its_pods() -> None:
    facts = replace(SHARED, memory=None, hints=("runtime=node",), neighbours=(beside("mesh", 400 * MIB, 512 * MIB),))
    assert not [one for one in find(facts, judged(Pattern.UNKNOWN, MIB)) if "limit of 512 MiB" in one.text]


# Kills before


@pytest.mark.parametrize(
    ("facts", "same"),
    [
        pytest.param(at_limit(499_998_720), True, id="rounded down to pages"),
        pytest.param(at_limit(400_000_000), False, id="another"),
        pytest.param(at_limit(1024 * MIB, Cause.POD_LIMIT), None, id="the pod's, and before the container's"),
        pytest.param(at_limit(64 * MIB, Cause.NESTED_LIMIT), None, id="an inner one"),
        pytest.param(at_limit(9000 * MIB, Cause.NODE_ALLOCATABLE), None, id="that of all pods"),
    ],
)
def test_only_the_same_limits_are_compared(facts: Facts, same: bool | None) -> None:
    former = tuple(Former(60.0 * n, facts.cause, "b", 500_000_000) for n in (1, 2))
    (finding,) = [
        one
        for one in find(replace(facts, former=former), judged(Pattern.UNKNOWN, MIB))
        if one.kind is FindingKind.REPEATED
    ]
    assert finding.values["same_limit"] is same
    assert ("the limit has changed" in finding.text) is (same is False)


def test_without_its_number_no_line_rolls_back() -> None:
    """Of the revisions between, no pod need have run on this node."""
    flat = Growth(
        revision="a",
        image="app:1",
        number=None,
        rolled_out_at=1e9,
        growth_bytes_per_hour=0.0,
        observed_seconds=20 * HOUR,
        kills=0,
    )
    facts = at_limit(512 * MIB, revisions=(flat, replace(flat, revision="b", growth_bytes_per_hour=8.0 * MIB)))
    advice = only(advise(facts, leak(512 * MIB), ()), Action.ROLL_BACK)
    assert advice.command is None
    assert "rollout history" in advice.text


def test_of_revisions_that_are_older_than_all_that_is_known_none_is_the_one_before() -> None:
    """Two that ran side by side for longer than Prometheus was asked for."""
    grows = RevisionSeen(WEB, "a", "app:1", LONG_AGO, 1e9, 20 * HOUR, 8.0 * MIB)
    flat = RevisionSeen(WEB, "b", "app:2", LONG_AGO, 1e9, 20 * HOUR, 0.0)
    newest = RevisionSeen(WEB, "c", "app:3", 9e8, 1e9, 20 * HOUR, 8.0 * MIB)
    for seen in ([grows, flat], [flat, grows]):
        assert growths(seen, {}) == ()
        assert [one.revision for one in growths([newest, *seen], {})] == ["c"]
    assert [one.revision for one in growths([newest, flat], {})] == ["b", "c"]
    numbered = [one._replace(number=number) for number, one in enumerate((flat, grows), start=41)]
    assert [one.revision for one in growths(numbered, {})] == ["b", "a"]


# Runtimes

NODE_MEMORY = NodeMemory(ram_bytes=16 << 30, swap_bytes=0, free_swap_bytes=0, stat={})
JVM_FLAGS = (
    *("-Xmx512m", "-Xms512m", "-Xms400m", "-XX:MaxHeapSize=600m"),
    *("-XX:MaxRAMPercentage=95", "-XX:MaxRAM=4g", "-XX:-UseContainerSupport"),
)
PLACES = ("", "JAVA_TOOL_OPTIONS: ", "JDK_JAVA_OPTIONS: ", "_JAVA_OPTIONS: ")


def applied(hints: tuple[str, ...], advice: Advice) -> tuple[str, ...]:
    """What the process is started with by who does all that the advice says."""
    variable, replaces = advice.values.get("variable"), advice.values["replaces"]
    taken = re.findall(r"(-X\S+) (?:in (\w+)|on the command line)", advice.text.partition("take out ")[2])
    gone = {f"{place}: {flag}" if place else flag for flag, place in taken}
    gone.add(str(replaces) if variable is None else f"{variable}: {replaces}")
    if variable is None:
        return (*(hint for hint in hints if hint not in gone), str(advice.values["flag"]))
    kept = [hint for hint in hints if not hint.startswith(f"{variable}: ") and hint not in gone]
    return (*kept, *(f"{variable}: {flag}" for flag in str(advice.values["memory_flags"]).split()))


@pytest.mark.parametrize(
    ("limit", "flag"),
    [
        pytest.param(512 * MIB, "-XX:MaxRAMPercentage=75.0", id="Java 8 wants the decimal point"),
        pytest.param(128 * MIB, "-Xmx96m", id="of little memory MinRAMPercentage counts"),
    ],
)
def test_the_flag_of_a_jvm_works(limit: int, flag: str) -> None:
    hints = ("runtime=java", f"-Xmx{limit // MIB}m")
    steps = diagnose(at_limit(limit, hints=hints), judgement=leak(limit)).advice
    assert only(steps, Action.SET_RUNTIME_FLAG).values["flag"] == flag


@pytest.mark.parametrize("pattern", [Pattern.LIMIT_TOO_LOW, Pattern.LEAK])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_advised_heap_is_what_the_jvm_then_takes(pattern: Pattern, count: int) -> None:
    judgement = leak(512 * MIB) if pattern is Pattern.LEAK else judged(pattern, 512 * MIB)
    advised = 0
    for flags in itertools.combinations(JVM_FLAGS, count):
        for places in itertools.product(PLACES, repeat=count):
            hints = ("runtime=java", *(f"{place}{flag}" for place, flag in zip(places, flags, strict=True)))
            facts = at_limit(512 * MIB, hints=hints, node_memory=NODE_MEMORY)
            steps = diagnose(facts, judgement=judgement).advice
            for advice in (one for one in steps if one.action is Action.SET_RUNTIME_FLAG):
                advised += 1
                size = advice.values["heap_bytes"]
                assert isinstance(size, int)
                limit = size * 4 // 3
                then = applied(hints, advice)
                initial = effective(then).get("InitialHeapSize")
                assert initial is None or initial.size <= size, (hints, advice.text)
                after = jvm_heap(at_limit(limit, hints=then, node_memory=NODE_MEMORY))
                assert after is None or after.values["problem"] == "outside_heap", (hints, advice.text, after)
    assert advised > 5


def test_nothing_that_restarts_comes_before_the_profile_of_a_leak() -> None:
    """Whoever pastes line after line must not lose what the profile would show."""
    facts = at_limit(
        512 * MIB,
        hints=("runtime=java", "JAVA_TOOL_OPTIONS: -Xmx512m"),
        memory=MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB, stat={"anon": 300 * MIB, "shmem": 200 * MIB}),
        victim=Process(pid=7, comm="java", anon_rss_bytes=300 * MIB, shmem_rss_bytes=0),
        memory_volumes=("cache",),
    )
    steps = diagnose(facts, judgement=leak(512 * MIB)).advice
    assert {Action.SET_RUNTIME_FLAG, Action.BOUND_VOLUME} <= {one.action for one in steps}
    first = next(one.action for one in steps if one.command is not None)
    assert first is Action.PROFILE


def processes(count: int, comm: str, rss: int) -> tuple[Task, ...]:
    return tuple(Task(100 + n, 100 + n, 0, comm, 2 * rss, rss, 4096, 0, 900) for n in range(count))


def test_processes_that_share_their_memory_are_not_counted_as_if_they_did_not() -> None:
    """A database with 400 MiB of shared buffers in each of its 20 processes, in a container of 512 MiB."""
    tasks = processes(20, "postgres", 405 * MIB)
    facts = at_limit(512 * MIB, tasks=tasks, victim=Process(pid=100, comm="postgres", anon_rss_bytes=5 * MIB))
    made = diagnose(facts, judgement=judged(Pattern.LIMIT_TOO_LOW, 512 * MIB))
    (finding,) = [one for one in made.findings if one.kind is FindingKind.PREFORK]
    assert "they share much of it" in finding.text
    assert "%" not in finding.text
    assert finding.values["percent"] == 100
    assert Action.REDUCE_WORKERS not in [one.action for one in made.advice]


def test_forks_that_share_their_memory_are_not_too_many() -> None:
    facts = at_limit(512 * MIB, tasks=processes(20, "batch", 405 * MIB))
    kinds = [one.kind for one in diagnose(facts, judgement=judged(Pattern.LIMIT_TOO_LOW, 512 * MIB)).findings]
    assert FindingKind.PROCESS_FAN_OUT not in kinds


@pytest.mark.parametrize(
    ("comm", "hints", "is_read"),
    [
        pytest.param("gunicorn", (), True, id="gunicorn"),
        pytest.param("puma: cluster w", (), True, id="puma"),
        pytest.param("app", ("WEB_CONCURRENCY=8",), True, id="has it"),
        pytest.param("postgres", (), False, id="a database"),
        pytest.param("php-fpm: pool w", (), False, id="php-fpm"),
    ],
)
def test_a_variable_is_set_only_where_it_is_read(comm: str, hints: tuple[str, ...], is_read: bool) -> None:
    victim = Process(pid=100, comm=comm, anon_rss_bytes=60 * MIB)
    facts = at_limit(512 * MIB, tasks=processes(8, comm, 60 * MIB), victim=victim, hints=hints)
    judgement = judged(Pattern.LIMIT_TOO_LOW, 512 * MIB, peak_bytes=400 * MIB, steady_bytes=500 * MIB)
    steps = diagnose(facts, factor=1.01, judgement=judgement).advice
    assert (only(steps, Action.REDUCE_WORKERS).command is not None) is is_read


# The node


def test_a_best_effort_pod_is_not_resized_into_another_class() -> None:
    use = PodUse(
        uid="1",
        namespace="shop",
        name="lone",
        qos_class=QosClass.BEST_EFFORT,
        working_set_bytes=512 * MIB,
        request_bytes=0,
        containers=(beside("app", 512 * MIB, None),),
    )
    facts = at_limit(512 * MIB, Cause.NODE, memory=None, container=None, node=NodeFacts(pods=(use,)))
    advice = only(diagnose(facts).advice, Action.SET_REQUESTS_OF_OTHERS)
    assert advice.command is None
    assert "manifest of Pod/lone" in advice.text


# Damaged state


@pytest.mark.parametrize(
    "damage",
    [
        "observed_seconds = 'x'",
        "first_at = 'x'",
        "last_at = x'00'",
        "growth_bytes_per_hour = 'x'",
        "growth_bytes_per_hour = 9e999",
        "number = 'x'",
        "rolled_out_at = 'x'",
    ],
)
async def test_a_damaged_revision_is_learned_anew(node: Node, damage: str) -> None:
    """Else the forecasts' task would end, and the agent with it, after each start again."""
    node.run(web("a"))
    await node.note(("web", 2 * HOUR, LEAK))
    node.store.close()
    (path,) = node.directory.rglob("state.db")
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE revisions SET {damage}")
    connection.commit()
    connection.close()
    node.agent = Agent(node)
    assert node.store.revisions(WEB) == []
    node.run(web("a"))
    await node.note(("web", 2 * HOUR, LEAK))
    assert [one.growth_bytes_per_hour for one in node.store.revisions(WEB)] == [8.0 * MIB]


async def test_what_cannot_be_noted_of_revisions_ends_no_forecasts(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def note(_: object) -> None:
        raise TypeError("made up")

    monkeypatch.setattr(node.agent.rollouts, "note", note)
    await node.agent.forecasts.look()
    await node.agent.forecasts.look()
    assert caplog.text.count("TypeError: made up") == 1


@pytest.mark.parametrize(("cause", "told"), [("container_limit", 1), ("of_a_newer_version", 0)])
async def test_a_kill_of_another_version_is_no_former_kill(node: Node, cause: str, told: int) -> None:
    (path,) = node.directory.rglob("state.db")
    connection = sqlite3.connect(path)
    late = '{"names":{"revision":["a"],"limit_bytes":"x"}}'
    connection.execute(
        "INSERT INTO incidents (id, journalled_at, cause, counted_processes, evidence, settled, printed, killed_at,"
        " late, workload) VALUES ('k', 1, ?, 1, 1, 1, 1, 1, ?, ?)",
        (cause, late, WEB),
    )
    connection.commit()
    connection.close()
    found = node.store.former_kills(WEB, before=2.0, limit=9)
    assert [one.limit_bytes for one in found] == [None] * told


GOOD = {
    "action": "set_limit",
    "namespace": "shop",
    "workload": "Deployment/web",
    "container": "app",
    "limit_bytes": 512 * MIB,
    "text": "why",
    "command": "kubectl ...",
}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"diagnosis": {"pattern": "spike", "advice": "text"}}, id="no steps"),
        pytest.param({"diagnosis": {"pattern": "spike", "advice": True}}, id="no list"),
        pytest.param({"diagnosis": {"pattern": "spike", "advice": ["text", None, 5]}}, id="steps of no kind"),
        pytest.param({"diagnosis": {"pattern": "spike", "advice": [GOOD | {"action": {"a": 1}}]}}, id="no action"),
        pytest.param(
            {"diagnosis": {"pattern": "spike", "advice": [GOOD | {"container_kind": []}]}}, id="no kind of container"
        ),
        pytest.param({"container": "app", "diagnosis": {"pattern": "spike", "advice": [GOOD]}}, id="no container"),
        pytest.param({"diagnosis": {"pattern": "spike", "confidence": 10**400, "advice": [GOOD]}}, id="no confidence"),
    ],
)
def test_one_damaged_document_does_not_hide_the_others(damage: dict[str, Any]) -> None:
    good = {"id": "1", "diagnosis": {"pattern": "spike", "advice": [GOOD | {"container": "other"}]}}
    names = [change.place.container for change in newest_changes([{"id": "2", **damage}, good])]
    assert "other" in names
