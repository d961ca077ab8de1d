"""What is advised, in which order, with which numbers, and that the commands do what the numbers say."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.diagnosis.advice import advise
from collector.diagnosis.advice.victim import burstable_adj
from collector.diagnosis.commands import GIB, MIB, quantity
from collector.diagnosis.model import (
    Action,
    Advice,
    Facts,
    Finding,
    FindingKind,
    Growth,
    Judgement,
    Life,
    MemoryHistory,
    Neighbour,
    NodeFacts,
    Pattern,
    PodUse,
    Point,
    Value,
)
from collector.diagnosis.node import find_node
from collector.model import (
    NODE_PRESSURE,
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
)
from collector.pods.record import parse_quantity
from tests.diagnosis.real_kubectl import apply, memory_of

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600.0
LIMITED = (Pattern.STARTUP, Pattern.LIMIT_TOO_LOW, Pattern.SPIKE)

POD = Pod(
    uid=PodUid("1"),
    namespace="shop",
    name="web-5d8f9c-x2x4z",
    qos_class=QosClass.BURSTABLE,
    owner=Owner(kind="Deployment", name="web"),
)
CONTAINER = Container(id=ContainerId("0d"), name="app", kind=ContainerKind.APP, limit_bytes=512 * MIB)
FACTS = Facts(
    cause=Cause.CONTAINER_LIMIT,
    victim=Process(pid=7, comm="app"),
    memory=MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB),
    pod=POD,
    container=CONTAINER,
)
TOO_LOW = Judgement(
    pattern=Pattern.LIMIT_TOO_LOW,
    confidence=0.9,
    steady_bytes=490 * MIB,
    peak_bytes=512 * MIB,
    peak_is_cut=True,
    limit_bytes=512 * MIB,
)
LEAK = Judgement(
    pattern=Pattern.LEAK,
    confidence=0.95,
    growth_bytes_per_hour=8.0 * MIB,
    growth_since=100.0,
    steady_bytes=100 * MIB,
    peak_bytes=512 * MIB,
    peak_is_cut=True,
    limit_bytes=512 * MIB,
    life_seconds=50 * HOUR,
    grows="anon",
)
UNKNOWN = Judgement(
    pattern=Pattern.UNKNOWN,
    confidence=0.0,
    missing=("a history",),
    peak_bytes=512 * MIB,
    peak_is_cut=True,
    limit_bytes=512 * MIB,
)


def finding(kind: FindingKind, **values: Value) -> Finding:
    return Finding(kind=kind, text="", values=values, evidence=("made",))


def of_owner(kind: str, name: str = "web") -> Pod:
    return replace(POD, owner=Owner(kind=kind, name=name))


def history(*lives: tuple[bool, bool, list[tuple[float, int]]]) -> MemoryHistory:
    """started, killed, (time, working set) of each life"""
    return MemoryHistory(
        lives=tuple(
            Life(points=tuple(Point(time, size, size, size) for time, size in points), started=started, killed=killed)
            for started, killed, points in lives
        )
    )


def step(steps: tuple[Advice, ...], action: Action) -> Advice:
    found = [one for one in steps if one.action is action]
    assert len(found) == 1, [str(one.action) for one in steps]
    return found[0]


def actions(steps: tuple[Advice, ...]) -> list[Action]:
    return [one.action for one in steps]


# Limits and requests


@pytest.mark.parametrize(
    ("judgement", "limit", "basis"),
    [
        pytest.param(
            replace(TOO_LOW, peak_bytes=400 * MIB, peak_is_cut=False, limit_bytes=None),
            504 * MIB,
            "peak",
            id="peak known",
        ),
        pytest.param(TOO_LOW, 672 * MIB, "growth", id="cut off: 22 MiB once more"),
        pytest.param(replace(TOO_LOW, pattern=Pattern.STARTUP), 1280 * MIB, "doubling", id="dies while it starts"),
        pytest.param(replace(TOO_LOW, steady_bytes=None), 1280 * MIB, "doubling", id="no steady state"),
        pytest.param(
            replace(TOO_LOW, pattern=Pattern.SPIKE, steady_bytes=112 * MIB), 1152 * MIB, "growth", id="spike of 400 MiB"
        ),
    ],
)
def test_the_limit(judgement: Judgement, limit: int, basis: str) -> None:
    """A history alone, so that only it decides."""
    facts = replace(FACTS, cause=Cause.UNKNOWN, memory=None, container=None)
    advice = step(advise(facts, judgement, ()), Action.SET_LIMIT)
    assert (advice.values["limit_bytes"], advice.values["basis"]) == (limit, basis)
    assert advice.values["at_least"] is (basis != "peak")
    assert ("at least" in advice.text) is (basis != "peak")
    assert quantity(limit) in advice.text


def test_a_kill_at_the_limit_cuts_whatever_was_sampled() -> None:
    sampled = replace(TOO_LOW, peak_bytes=300 * MIB, peak_is_cut=False, steady_bytes=290 * MIB)
    advice = step(advise(FACTS, sampled, ()), Action.SET_LIMIT)
    assert advice.values["peak_bytes"] == 512 * MIB
    assert advice.values["at_least"] is True


def test_the_factor_is_a_setting() -> None:
    judgement = replace(TOO_LOW, peak_is_cut=False, limit_bytes=None, peak_bytes=400 * MIB)
    facts = replace(FACTS, cause=Cause.UNKNOWN, memory=None, container=None)
    advice = step(advise(facts, judgement, (), factor=1.5), Action.SET_LIMIT)
    assert (advice.values["limit_bytes"], advice.values["factor"]) == (608 * MIB, 1.5)


def test_the_command_does_what_the_numbers_say(tmp_path: Path) -> None:
    advice = step(advise(FACTS, TOO_LOW, ()), Action.SET_LIMIT)
    limit, request = advice.values["limit_bytes"], advice.values["request_bytes"]
    assert (limit, request) == (672 * MIB, 496 * MIB)
    memory = memory_of(apply(advice.command, "Deployment", tmp_path))
    assert tuple(map(parse_quantity, memory["app"])) == (limit, request)
    assert advice.values["workload"] == "Deployment/web"


@pytest.mark.parametrize(
    ("requested", "steady", "expected"),
    [
        pytest.param(None, 490 * MIB, 496 * MIB, id="the steady state"),
        pytest.param(500 * MIB, 490 * MIB, 500 * MIB, id="what is requested is not lowered"),
        pytest.param(256 * MIB, 490 * MIB, 496 * MIB, id="but raised"),
        pytest.param(256 * MIB, None, None, id="no steady state known"),
    ],
)
def test_the_request(requested: int | None, steady: int | None, expected: int | None) -> None:
    facts = replace(FACTS, container=replace(CONTAINER, request_bytes=requested))
    advice = step(advise(facts, replace(TOO_LOW, steady_bytes=steady), ()), Action.SET_LIMIT)
    assert advice.values["request_bytes"] == expected
    assert ("--requests" in (advice.command or "")) is (expected is not None)


@pytest.mark.parametrize(("requested", "said"), [(64 * MIB, "its steady state"), (500 * MIB, "as today")])
def test_a_request_says_where_it_is_from(requested: int, said: str) -> None:
    container = replace(CONTAINER, request_bytes=requested)
    advice = step(advise(replace(FACTS, container=container), TOO_LOW, ()), Action.SET_LIMIT)
    assert said in advice.text


def test_what_the_spec_requests_counts_as_what_is_in_force() -> None:
    advice = step(advise(replace(FACTS, spec_request_bytes=600 * MIB), TOO_LOW, ()), Action.SET_LIMIT)
    assert advice.values["request_bytes"] == 600 * MIB


def test_a_request_is_never_above_the_limit() -> None:
    judgement = replace(TOO_LOW, peak_bytes=100 * MIB, peak_is_cut=False, steady_bytes=400 * MIB, limit_bytes=None)
    facts = replace(FACTS, cause=Cause.UNKNOWN, memory=None, container=None)
    values = step(advise(facts, judgement, ()), Action.SET_LIMIT).values
    assert values["request_bytes"] == values["limit_bytes"] == 128 * MIB


def test_a_guaranteed_pod_stays_so() -> None:
    facts = replace(FACTS, pod=replace(POD, qos_class=QosClass.GUARANTEED))
    advice = step(advise(facts, TOO_LOW, ()), Action.SET_LIMIT)
    assert advice.values["request_bytes"] == advice.values["limit_bytes"]
    assert "Guaranteed" in advice.text


def test_a_missing_request_is_set_even_where_the_limit_is_not_the_cure(tmp_path: Path) -> None:
    advice = step(advise(FACTS, LEAK, (finding(FindingKind.NO_REQUEST),)), Action.SET_REQUEST)
    assert advice.values["request_bytes"] == 104 * MIB
    assert memory_of(apply(advice.command, "Deployment", tmp_path))["app"] == ("100Mi", "104Mi")
    assert Action.SET_REQUEST not in actions(advise(FACTS, LEAK, ()))
    assert Action.SET_REQUEST not in actions(advise(FACTS, TOO_LOW, (finding(FindingKind.NO_REQUEST),)))


def test_a_resize_that_is_under_way_is_waited_for() -> None:
    assert actions(advise(replace(FACTS, spec_limit_bytes=GIB), TOO_LOW, ())) == [Action.OBSERVE]
    assert actions(advise(replace(FACTS, spec_limit_bytes=520 * MIB), TOO_LOW, ())) == [Action.SET_LIMIT]


# Whose limit


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        pytest.param(of_owner("Job", "migrate"), "a Job cannot be changed", id="job"),
        pytest.param(of_owner("Node", "node-7"), "edit its manifest on the node", id="static pod"),
        pytest.param(of_owner("Kafka", "events"), "in the Kafka that owns the pod", id="operator"),
    ],
)
def test_where_no_command_can_be_given_the_text_says_what_to_do(pod: Pod, words: str) -> None:
    advice = step(advise(replace(FACTS, pod=pod), TOO_LOW, ()), Action.SET_LIMIT)
    assert advice.command is None
    assert words in advice.text


def test_a_job_gets_the_patch_for_its_manifest() -> None:
    advice = step(advise(replace(FACTS, pod=of_owner("Job", "migrate")), TOO_LOW, ()), Action.SET_LIMIT)
    assert advice.values["patch"] == (
        '{"spec":{"template":{"spec":{"containers":'
        '[{"name":"app","resources":{"limits":{"memory":"672Mi"},"requests":{"memory":"496Mi"}}}]}}}}'
    )


def test_a_cron_job_is_changed_rather_than_its_job() -> None:
    advice = step(advise(replace(FACTS, pod=of_owner("Job", "report-29734560")), TOO_LOW, ()), Action.SET_LIMIT)
    assert advice.command is not None
    assert "cronjob/report " in advice.command


@pytest.mark.parametrize(
    ("qos", "resized"), [(QosClass.BURSTABLE, True), (QosClass.GUARANTEED, True), (QosClass.BEST_EFFORT, False)]
)
def test_a_bare_pod_is_resized_unless_that_changed_its_qos_class(qos: QosClass, resized: bool) -> None:
    bare = replace(FACTS, pod=replace(POD, owner=None, qos_class=qos), memory_volumes=())
    advice = step(advise(bare, TOO_LOW, ()), Action.SET_LIMIT)
    assert (advice.command is not None and "--subresource resize" in advice.command) is resized
    assert "Kubernetes 1.33" in advice.text


@pytest.mark.parametrize("kind", [ContainerKind.INIT, ContainerKind.SIDECAR])
def test_the_limit_of_an_init_container_or_sidecar(kind: ContainerKind, tmp_path: Path) -> None:
    name = "migrate" if kind is ContainerKind.INIT else "mesh"
    facts = replace(FACTS, container=replace(CONTAINER, name=name, kind=kind))
    advice = step(advise(facts, TOO_LOW, ()), Action.SET_LIMIT)
    memory = memory_of(apply(advice.command, "Deployment", tmp_path))
    assert memory[name] == ("672Mi", "496Mi")
    assert memory["app"] == ("100Mi", None)


def test_the_limit_inside_the_container_is_not_the_containers() -> None:
    facts = replace(
        FACTS, cause=Cause.NESTED_LIMIT, memory=MemoryUse(usage_bytes=50 * MIB, limit_bytes=50 * MIB), oom_memcg="/a/b"
    )
    steps = advise(facts, TOO_LOW, ())
    assert actions(steps) == [Action.CHANGE_NESTED_LIMIT]
    assert (steps[0].values["limit_bytes"], steps[0].command) == (128 * MIB, None)
    assert Action.DO_NOT_RAISE_LIMIT not in actions(advise(facts, LEAK, ()))


def neighbour(name: str, used: int | None, limit: int | None, kind: ContainerKind = ContainerKind.APP) -> Neighbour:
    return Neighbour(
        name=name,
        kind=kind,
        working_set_bytes=used and used * MIB,
        limit_bytes=limit and limit * MIB,
        request_bytes=None,
    )


POD_LIMIT = replace(
    FACTS,
    cause=Cause.POD_LIMIT,
    container=replace(CONTAINER, limit_bytes=100 * MIB),
    neighbours=(neighbour("proxy", 400, 412),),
)
AT_POD_LIMIT = replace(TOO_LOW, steady_bytes=None)


def test_the_sum_of_limits_is_raised_at_the_container_that_holds_most() -> None:
    advice = step(advise(POD_LIMIT, AT_POD_LIMIT, ()), Action.SET_LIMIT)
    assert advice.values["container"] == "proxy"
    assert advice.values["pod_limit_bytes"] == 1280 * MIB
    assert advice.values["limit_bytes"] == 1184 * MIB  # 412 + 768, tidy
    assert advice.command == "kubectl set resources deployment/web -n shop -c proxy --limits=memory=1184Mi"


def test_the_victim_holds_most_where_its_neighbours_do_not() -> None:
    facts = replace(POD_LIMIT, neighbours=(neighbour("proxy", 30, 412),))
    assert step(advise(facts, AT_POD_LIMIT, ()), Action.SET_LIMIT).values["container"] == "app"


@pytest.mark.parametrize(
    "neighbours",
    [
        pytest.param((neighbour("proxy", 400, None),), id="one has no limit"),
        pytest.param((neighbour("proxy", 400, 1000),), id="another sum"),
        pytest.param(None, id="not known"),
    ],
)
def test_the_limit_of_the_pod_itself(neighbours: tuple[Neighbour, ...] | None, tmp_path: Path) -> None:
    advice = step(advise(replace(POD_LIMIT, neighbours=neighbours), AT_POD_LIMIT, ()), Action.SET_LIMIT)
    assert (advice.values["scope"], advice.values["limit_bytes"]) == ("pod", 1280 * MIB)
    spec = apply(advice.command, "Deployment", tmp_path)
    assert spec["resources"] == {"limits": {"memory": "1280Mi"}}
    assert ("proxy holds most" in advice.text) is (neighbours is not None)


@pytest.mark.parametrize("at_pod_limit", [True, False])
@pytest.mark.parametrize(("allocatable", "said"), [(1279 * MIB, True), (1280 * MIB, False), (None, False)])
def test_a_limit_that_the_node_cannot_keep(allocatable: int | None, said: bool, at_pod_limit: bool) -> None:
    facts, judgement = (POD_LIMIT, AT_POD_LIMIT) if at_pod_limit else (FACTS, AT_POD_LIMIT)
    advice = step(advise(replace(facts, allocatable_bytes=allocatable), judgement, ()), Action.SET_LIMIT)
    assert ("this node has" in advice.text) is said
    assert advice.values.get("allocatable_bytes") == (allocatable if said else None)


def test_a_lone_container_at_its_pods_limit_is_at_its_own() -> None:
    advice = step(advise(replace(FACTS, cause=Cause.POD_LIMIT, lone=True), TOO_LOW, ()), Action.SET_LIMIT)
    assert (advice.values["container"], advice.values["limit_bytes"]) == ("app", 672 * MIB)


def test_a_cgroup_of_the_host_is_no_pods_matter() -> None:
    facts = replace(FACTS, cause=Cause.SYSTEM_LIMIT, pod=None, container=None, oom_memcg="/system.slice/a.service")
    assert actions(advise(facts, UNKNOWN, ())) == [Action.OBSERVE]


def test_a_kill_by_hand_and_a_calm_history_ask_for_nothing() -> None:
    assert advise(replace(FACTS, cause=Cause.MANUAL), UNKNOWN, ()) == ()
    calm = Judgement(pattern=Pattern.CALM, confidence=0.9, peak_bytes=300 * MIB, limit_bytes=512 * MIB)
    assert advise(Facts(cause=Cause.UNKNOWN, victim=Process(pid=None, comm=None)), calm, ()) == ()


# What nobody can tell


def test_of_an_unknown_pattern_the_limit_is_a_lower_bound_and_the_rest_is_observed() -> None:
    steps = advise(FACTS, UNKNOWN, ())
    assert actions(steps) == [Action.SET_LIMIT, Action.OBSERVE]
    assert steps[0].values["at_least"] is True
    assert "which is not known" in steps[0].text
    assert "a history" in steps[1].text


def test_what_may_be_a_leak_has_its_cost_in_hours() -> None:
    """Half of the way in two hours: 1280 MiB less 12 at that pace."""
    facts = replace(FACTS, history=history((True, True, [(0, 12 * MIB), (2 * HOUR, 500 * MIB)])))
    advice = step(advise(facts, UNKNOWN, ()), Action.SET_LIMIT)
    assert advice.values["lasts_hours"] == pytest.approx(2 * (1280 - 12) / (512 - 12), abs=0.001)
    assert "5.1 h" in advice.text


@pytest.mark.parametrize(
    ("pattern", "confidence", "growth", "told"),
    [
        pytest.param(Pattern.LIMIT_TOO_LOW, 0.8, None, True, id="not sure"),
        pytest.param(Pattern.SPIKE, 0.95, 1.0 * MIB, True, id="sure, but it grows"),
        pytest.param(Pattern.LIMIT_TOO_LOW, 0.95, None, False, id="sure"),
        pytest.param(Pattern.STARTUP, 0.7, None, False, id="minutes after its start"),
    ],
)
def test_who_is_not_sure_says_what_it_costs_if_it_is_a_leak(
    pattern: Pattern, confidence: float, growth: float | None, told: bool
) -> None:
    facts = replace(FACTS, history=history((True, True, [(0, 12 * MIB), (2 * HOUR, 500 * MIB)])))
    judgement = replace(TOO_LOW, pattern=pattern, confidence=confidence, growth_bytes_per_hour=growth)
    advice = step(advise(facts, judgement, ()), Action.SET_LIMIT)
    assert ("lasts_hours" in advice.values) is told
    assert ("if it leaks" in advice.text) is told


# Leaks


def test_a_leak_is_told_what_a_higher_limit_buys() -> None:
    steps = advise(FACTS, LEAK, ())
    assert actions(steps) == [Action.DO_NOT_RAISE_LIMIT, Action.PROFILE, Action.FIX_LEAK]
    assert steps[0].values["limit_bytes"] == 640 * MIB
    assert steps[0].values["lasts_hours"] == 66  # 50 to the present limit, 128 MiB at 8 an hour beyond
    assert "66 h" in steps[0].text
    assert steps[0].command is None


@pytest.mark.parametrize(
    ("lives", "to_limit", "hours", "at_least"),
    [
        pytest.param([(True, True, [(0, 0), (10 * HOUR, 500)])], None, 26, False, id="killed, seen from its start"),
        pytest.param([(False, True, [(0, 400), (10 * HOUR, 500)])], None, 26, True, id="killed, start not seen"),
        pytest.param([(True, False, [(0, 0), (10 * HOUR, 80)])], 54 * HOUR, 80, False, id="forecast"),
        pytest.param(
            [(True, True, [(0, 0), (30 * HOUR, 500)]), (False, False, [(31 * HOUR, 9), (32 * HOUR, 80)])],
            54 * HOUR,
            46,
            False,
            id="start not seen, but of the life before",
        ),
    ],
)
def test_how_long_it_lasts(
    lives: list[tuple[bool, bool, list[tuple[float, int]]]], to_limit: float | None, hours: float, at_least: bool
) -> None:
    facts = replace(FACTS, history=history(*lives))
    judgement = replace(LEAK, life_seconds=None, seconds_to_limit=to_limit)
    advice = step(advise(facts, judgement, ()), Action.DO_NOT_RAISE_LIMIT)
    assert advice.values["lasts_hours"] == hours
    assert advice.values["lasts_seconds"] == hours * HOUR
    assert advice.values["at_least"] is at_least
    assert ("at least" in advice.text) is at_least


GROWING = Growth(
    revision="7c9d",
    image="app:2",
    number=42,
    rolled_out_at=1e9,
    growth_bytes_per_hour=8.0 * MIB,
    observed_seconds=20 * HOUR,
    kills=2,
)
FLAT = replace(GROWING, revision="5d8f", image="app:1", number=41, growth_bytes_per_hour=0.0, kills=0)


@pytest.mark.parametrize(
    ("revisions", "command"),
    [
        pytest.param((FLAT, GROWING), "kubectl rollout undo deployment/web -n shop --to-revision=41", id="numbered"),
        pytest.param((replace(FLAT, number=None), GROWING), None, id="no number: another may lie between"),
        pytest.param(
            (FLAT, GROWING, GROWING),
            "kubectl rollout undo deployment/web -n shop --to-revision=41",
            id="numbered, not the one before",
        ),
    ],
)
def test_back_to_the_revision_that_was_flat(revisions: tuple[Growth, ...], command: str | None) -> None:
    steps = advise(replace(FACTS, revisions=revisions), LEAK, ())
    order = actions(steps)
    assert order.index(Action.PROFILE) < order.index(Action.ROLL_BACK) < order.index(Action.FIX_LEAK)
    advice = step(steps, Action.ROLL_BACK)
    assert advice.command == command
    assert advice.values["revision"] == "5d8f"
    assert ("rollout history" in advice.text) is (revisions[0].number is None)


@pytest.mark.parametrize(
    "revisions",
    [
        pytest.param((), id="none known"),
        pytest.param((GROWING,), id="no other"),
        pytest.param((replace(FLAT, growth_bytes_per_hour=None), GROWING), id="not known to be flat"),
        pytest.param((replace(FLAT, growth_bytes_per_hour=1.0 * MIB), GROWING), id="grew too"),
        pytest.param((FLAT, replace(GROWING, growth_bytes_per_hour=None)), id="this one is not known to grow"),
    ],
)
def test_no_way_back_without_a_flat_revision(revisions: tuple[Growth, ...]) -> None:
    assert Action.ROLL_BACK not in actions(advise(replace(FACTS, revisions=revisions), LEAK, ()))


@pytest.mark.parametrize(
    ("hints", "comm", "findings", "runtime", "command"),
    [
        pytest.param(("runtime=java",), "x", (), "java", "jcmd 1 GC.heap_dump /tmp/heap.hprof", id="java"),
        pytest.param(("runtime=node",), "x", (), "node", "kill -USR1 1", id="node"),
        pytest.param(("runtime=python",), "x", (), "python", "py-spy dump --pid 1", id="python"),
        pytest.param(None, "gunicorn", (), "python", "py-spy dump --pid 1", id="by its name"),
        pytest.param(None, "app", (finding(FindingKind.GO_MEMORY_LIMIT),), "go", "go tool pprof", id="go"),
        pytest.param(("runtime=python",), "java", (), "python", "py-spy", id="the executable counts before the name"),
    ],
)
def test_the_profile(
    hints: tuple[str, ...] | None, comm: str, findings: tuple[Finding, ...], runtime: str, command: str
) -> None:
    facts = replace(FACTS, hints=hints, victim=Process(pid=7, comm=comm))
    advice = step(advise(facts, LEAK, findings), Action.PROFILE)
    assert advice.values["runtime"] == runtime
    assert advice.command is not None
    assert command in advice.command
    assert "web-5d8f9c-x2x4z" in advice.command
    assert runtime == "go" or "-c app --" in advice.command
    assert advice.text.startswith("Before any restart")


@pytest.mark.parametrize(
    ("grows", "command", "words"),
    [
        pytest.param("shmem", "kubectl exec -n shop web-5d8f9c-x2x4z -c app -- df -h", "files in a tmpfs", id="files"),
        pytest.param(
            "kernel",
            "kubectl exec -n shop web-5d8f9c-x2x4z -c app -- cat /sys/fs/cgroup/memory.stat",
            "the kernel's memory for it",
            id="the kernel's",
        ),
    ],
)
def test_what_no_heap_profile_shows(grows: str, command: str, words: str) -> None:
    found = (
        finding(FindingKind.KERNEL_MEMORY, part="slab"),
        finding(FindingKind.SHARED_MEMORY, outlives_container=True),
    )
    steps = advise(replace(FACTS, hints=("runtime=java",)), replace(LEAK, grows=grows), found)
    assert step(steps, Action.PROFILE).command == command
    assert (Action.REDUCE_KERNEL_MEMORY in actions(steps)) is (grows == "kernel")
    assert words in step(steps, Action.FIX_LEAK).text


def test_shared_memory_that_is_mapped_goes_with_its_process() -> None:
    mapped = (finding(FindingKind.SHARED_MEMORY, outlives_container=False),)
    steps = advise(replace(FACTS, hints=("runtime=java",)), replace(LEAK, grows="shmem"), mapped)
    assert "which lose the evidence" in step(steps, Action.PROFILE).text
    assert "files" not in step(steps, Action.FIX_LEAK).text


def test_a_runtime_that_is_not_known_gets_no_command() -> None:
    advice = step(advise(FACTS, LEAK, ()), Action.PROFILE)
    assert (advice.values["runtime"], advice.command) == (None, None)


# Runtimes

NO_ROOM = finding(FindingKind.JVM_HEAP, problem="no_room", heap_max_bytes=512 * MIB)


@pytest.mark.parametrize(
    ("hints", "flag", "variable", "replaced"),
    [
        pytest.param(("-Xmx512m",), "-XX:MaxRAMPercentage=75.0", None, "-Xmx512m", id="command line"),
        pytest.param(
            ("JAVA_TOOL_OPTIONS: -Xmx512m",),
            "-XX:MaxRAMPercentage=75.0",
            "JAVA_TOOL_OPTIONS",
            "-Xmx512m",
            id="variable",
        ),
        pytest.param(
            ("JAVA_TOOL_OPTIONS: -Xmx1g", "-Xmx512m"),
            "-XX:MaxRAMPercentage=75.0",
            None,
            "-Xmx512m",
            id="the stronger place",
        ),
        pytest.param(
            ("-XX:MaxRAMPercentage=90", "JAVA_TOOL_OPTIONS: -Xmx512m"),
            "-XX:MaxRAMPercentage=75.0",
            "JAVA_TOOL_OPTIONS",
            "-Xmx512m",
            id="-Xmx beats a percentage",
        ),
        pytest.param(("runtime=java",), "-XX:MaxRAMPercentage=75.0", "JAVA_TOOL_OPTIONS", None, id="none set"),
        pytest.param(
            ("_JAVA_OPTIONS: -Xmx512m", "_JAVA_OPTIONS: -XX:-UseContainerSupport"),
            "-Xmx504m",
            "_JAVA_OPTIONS",
            "-Xmx512m",
            id="blind to the limit",
        ),
    ],
)
def test_the_heap_of_a_jvm(hints: tuple[str, ...], flag: str, variable: str | None, replaced: str | None) -> None:
    advice = step(advise(replace(FACTS, hints=hints), TOO_LOW, (NO_ROOM,)), Action.SET_RUNTIME_FLAG)
    assert (advice.values["flag"], advice.values.get("variable"), advice.values["replaces"]) == (
        flag,
        variable,
        replaced,
    )
    assert advice.values["heap_bytes"] == 504 * MIB  # 75 % of 672 MiB, which is advised
    assert advice.command is None


def test_no_line_takes_away_what_else_a_variable_holds() -> None:
    hints = ("JAVA_TOOL_OPTIONS: -Xmx512m", "JAVA_TOOL_OPTIONS: -XX:MaxMetaspaceSize=64m")
    advice = step(advise(replace(FACTS, hints=hints), TOO_LOW, (NO_ROOM,)), Action.SET_RUNTIME_FLAG)
    assert advice.values["memory_flags"] == "-XX:MaxMetaspaceSize=64m -XX:MaxRAMPercentage=75.0"
    assert (advice.command, advice.values.get("value")) == (None, None)
    assert "keep what else it holds" in advice.text


def test_a_heap_without_room_follows_the_new_limit() -> None:
    """512 MiB would fit into the 1280 that are advised; the flag still says what they are for."""
    doubled = replace(TOO_LOW, steady_bytes=None)
    advice = step(advise(replace(FACTS, hints=("-Xmx512m",)), doubled, (NO_ROOM,)), Action.SET_RUNTIME_FLAG)
    assert advice.values["heap_bytes"] == 960 * MIB


def test_a_small_heap_is_not_made_larger() -> None:
    outside = finding(FindingKind.JVM_HEAP, problem="outside_heap", heap_max_bytes=128 * MIB)
    assert Action.SET_RUNTIME_FLAG not in actions(advise(replace(FACTS, hints=("-Xmx128m",)), TOO_LOW, (outside,)))


def test_the_heap_of_a_leak_is_of_the_present_limit() -> None:
    advice = step(advise(replace(FACTS, hints=("-Xmx512m",)), LEAK, (NO_ROOM,)), Action.SET_RUNTIME_FLAG)
    assert advice.values["heap_bytes"] == 384 * MIB


@pytest.mark.parametrize(
    ("hints", "variable"),
    [
        pytest.param(("--max-old-space-size=4096",), None, id="command line"),
        pytest.param(("NODE_OPTIONS: --max-old-space-size=4096",), "NODE_OPTIONS", id="variable"),
        pytest.param(("runtime=node",), "NODE_OPTIONS", id="none set"),
    ],
)
def test_the_heap_of_node(hints: tuple[str, ...], variable: str | None) -> None:
    found = (finding(FindingKind.NODEJS_HEAP, problem="no_room", heap_max_bytes=4096 * MIB),)
    advice = step(advise(replace(FACTS, hints=hints), TOO_LOW, found), Action.SET_RUNTIME_FLAG)
    assert (advice.values["flag"], advice.values.get("variable")) == ("--max-old-space-size=504", variable)
    assert advice.command is None


def test_live_memory_is_not_freed_by_a_bound_of_the_present_limit() -> None:
    exceeded = (finding(FindingKind.GO_MEMORY_LIMIT, problem="exceeded"),)
    assert Action.SET_RUNTIME_FLAG in actions(advise(FACTS, TOO_LOW, exceeded))
    assert Action.SET_RUNTIME_FLAG not in actions(advise(FACTS, LEAK, exceeded))


def test_fewer_workers_are_no_cure_for_a_leak() -> None:
    found = (finding(FindingKind.PREFORK, workers_configured=8, mean_bytes=100 * MIB),)
    assert Action.REDUCE_WORKERS not in actions(advise(FACTS, LEAK, found))


def test_the_memory_limit_of_go(tmp_path: Path) -> None:
    advice = step(advise(FACTS, TOO_LOW, (finding(FindingKind.GO_MEMORY_LIMIT),)), Action.SET_RUNTIME_FLAG)
    env = apply(advice.command, "Deployment", tmp_path)["containers"][0]["env"]
    assert {"name": "GOMEMLIMIT", "value": "504MiB"} in env
    assert advice.values["heap_bytes"] == 504 * MIB


@pytest.mark.parametrize(
    ("worker", "fit"),
    [pytest.param(100, 5, id="five fit"), pytest.param(600, 1, id="never none"), pytest.param(60, None, id="all fit")],
)
def test_the_workers_that_fit(worker: int, fit: int | None) -> None:
    of = replace(FACTS, victim=Process(pid=7, comm="gunicorn: work"))
    steps = advise(of, TOO_LOW, (finding(FindingKind.PREFORK, processes=8, mean_bytes=worker * MIB),))
    if fit is None:
        assert Action.REDUCE_WORKERS not in actions(steps)
        return
    advice = step(steps, Action.REDUCE_WORKERS)
    assert advice.values["workers"] == fit
    assert advice.command == f"kubectl set env deployment/web -n shop -c app WEB_CONCURRENCY={fit}"


def test_workers_set_by_a_flag_are_not_changed_by_a_variable() -> None:
    found = (finding(FindingKind.PREFORK, workers_configured=8, mean_bytes=100 * MIB),)
    advice = step(advise(replace(FACTS, hints=("--workers=8",)), TOO_LOW, found), Action.REDUCE_WORKERS)
    assert advice.command is None


# Other memory


SHARED = finding(FindingKind.SHARED_MEMORY, outlives_container=True)


def test_a_volume_gets_the_room_that_is_left(tmp_path: Path) -> None:
    memory = MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB, stat={"shmem": 400 * MIB})
    facts = replace(FACTS, memory=memory, memory_volumes=("cache",))
    advice = step(advise(facts, LEAK, (SHARED,)), Action.BOUND_VOLUME)
    assert advice.values["size_bytes"] == 368 * MIB  # 512 less 112 x 1.25, tidy
    spec = apply(advice.command, "Deployment", tmp_path)
    assert spec["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "368Mi"}


@pytest.mark.parametrize(
    ("volumes", "told", "named"),
    [
        pytest.param(("cache", "tmp"), None, None, id="which of two is not known"),
        pytest.param(("cache", "tmp"), "tmp", "tmp", id="the finding knows"),
        pytest.param(("cache",), "other", "cache", id="the only one"),
    ],
)
def test_which_volume(volumes: tuple[str, ...], told: str | None, named: str | None) -> None:
    memory = MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB, stat={"shmem": 400 * MIB})
    facts = replace(FACTS, memory=memory, memory_volumes=volumes)
    advice = step(
        advise(facts, TOO_LOW, (finding(FindingKind.SHARED_MEMORY, volume=told, outlives_container=True),)),
        Action.BOUND_VOLUME,
    )
    assert advice.values["volume"] == named
    assert (advice.command is None) is (named is None)


def test_no_volume_no_bound() -> None:
    assert Action.BOUND_VOLUME not in actions(advise(replace(FACTS, memory_volumes=()), TOO_LOW, (SHARED,)))
    facts = replace(FACTS, memory_volumes=("cache",))
    assert Action.BOUND_VOLUME in actions(advise(facts, TOO_LOW, (SHARED,)))
    assert Action.BOUND_VOLUME not in actions(advise(facts, TOO_LOW, ()))
    mapped = finding(FindingKind.SHARED_MEMORY, outlives_container=None)
    assert Action.BOUND_VOLUME not in actions(advise(facts, TOO_LOW, (mapped,)))


@pytest.mark.parametrize(
    ("judgement", "kind", "action"),
    [
        pytest.param(replace(TOO_LOW, pattern=Pattern.SPIKE), None, Action.BOUND_LOAD, id="spike"),
        pytest.param(TOO_LOW, FindingKind.PROCESS_FAN_OUT, Action.BOUND_LOAD, id="process fan-out"),
        pytest.param(TOO_LOW, FindingKind.KERNEL_MEMORY, Action.REDUCE_KERNEL_MEMORY, id="kernel memory"),
    ],
)
def test_beside_the_limit(judgement: Judgement, kind: FindingKind | None, action: Action) -> None:
    findings = () if kind is None else (finding(kind),)
    assert actions(advise(FACTS, judgement, findings)) == [Action.SET_LIMIT, action]
    assert actions(advise(FACTS, TOO_LOW, ())) == [Action.SET_LIMIT]


# Node pressure

VICTIM = replace(
    FACTS,
    cause=Cause.NODE,
    memory=None,
    node_memory=NodeMemory(ram_bytes=4 * GIB),
    victim=Process(pid=7, comm="app", oom_score_adj=970, anon_rss_bytes=900 * MIB),
    container=replace(CONTAINER, limit_bytes=2 * GIB),
)
UNDER_PRESSURE = Judgement(pattern=Pattern.NODE_PRESSURE, confidence=1.0, peak_bytes=900 * MIB, limit_bytes=2 * GIB)


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        pytest.param(0, 999, id="never 1000, which is BestEffort's"),
        pytest.param(GIB, 750, id="a quarter"),
        pytest.param(4 * GIB - 1, 3, id="never below 3"),
        pytest.param(4 * GIB // 3, 667, id="as the kubelet divides"),
    ],
)
def test_the_kubelets_formula(request_bytes: int, expected: int) -> None:
    assert burstable_adj(request_bytes, 4 * GIB) == expected


def test_the_victims_owner_is_told_what_a_request_would_change(tmp_path: Path) -> None:
    steps = advise(VICTIM, UNDER_PRESSURE, ())
    advice = step(steps, Action.SET_REQUEST)
    assert (advice.values["request_bytes"], advice.values["oom_score_adj_now"]) == (928 * MIB, 970)
    assert advice.values["oom_score_adj_then"] == 774
    assert "from 970 to about 774" in advice.text
    assert memory_of(apply(advice.command, "Deployment", tmp_path))["app"] == ("100Mi", "928Mi")
    assert step(steps, Action.USE_GUARANTEED).values["oom_score_adj_then"] == -997


def test_a_victim_that_filled_the_node_itself_gets_one_number() -> None:
    """The node's step for it goes by what its pod used."""
    pod = PodUse(
        uid=POD.uid,
        namespace="shop",
        name=POD.name,
        qos_class=QosClass.BURSTABLE,
        working_set_bytes=1500 * MIB,
        request_bytes=0,
        owner_kind="Deployment",
        owner_name="web",
        containers=(neighbour("app", 1500, None),),
    )
    facts = replace(VICTIM, node=NodeFacts(pods=(pod,)))
    steps = advise(facts, UNDER_PRESSURE, find_node(facts))
    requests = {one.action: one.values["request_bytes"] for one in steps if "request_bytes" in one.values}
    assert requests == {Action.SET_REQUESTS_OF_OTHERS: 1504 * MIB, Action.SET_REQUEST: 1504 * MIB}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            {"victim": Process(pid=7, comm="app", oom_score_adj=None, anon_rss_bytes=MIB)}, id="adj not known"
        ),
        pytest.param({"victim": Process(pid=7, comm="app", oom_score_adj=-997)}, id="critical already"),
        pytest.param({"container": None, "pod": None}, id="no container"),
        pytest.param({"pod": replace(POD, qos_class=QosClass.GUARANTEED)}, id="Guaranteed already"),
    ],
)
def test_nothing_for_the_owner_where_nothing_is_to_gain(change: dict[str, Any]) -> None:
    told = set(actions(advise(replace(VICTIM, **change), UNDER_PRESSURE, ())))
    assert not told & {Action.SET_REQUEST, Action.USE_GUARANTEED}


def test_no_request_that_would_not_help() -> None:
    """It requests as much already: its score is that of another formula, or its own choice."""
    facts = replace(VICTIM, victim=replace_process(VICTIM.victim, oom_score_adj=500))
    assert Action.SET_REQUEST not in actions(advise(facts, UNDER_PRESSURE, ()))


def replace_process(process: Process, *, oom_score_adj: int) -> Process:
    return Process(
        pid=process.pid, comm=process.comm, oom_score_adj=oom_score_adj, anon_rss_bytes=process.anon_rss_bytes
    )


# What always holds

SIZES = st.integers(min_value=1, max_value=2**44)
JUDGEMENTS = st.builds(
    Judgement,
    pattern=st.sampled_from(Pattern),
    confidence=st.floats(0, 1),
    missing=st.sampled_from(((), ("the start",))),
    growth_bytes_per_hour=st.none() | st.floats(-1e9, 1e12),
    seconds_to_limit=st.none() | st.floats(0, 1e9),
    steady_bytes=st.none() | SIZES,
    peak_bytes=st.none() | SIZES,
    peak_is_cut=st.booleans(),
    limit_bytes=st.none() | SIZES,
    life_seconds=st.none() | st.floats(0, 1e9),
)
NAMES = st.sampled_from((None, "app", "a b", "'; id #"))
FACTS_OF_ANY = st.builds(
    Facts,
    cause=st.sampled_from(Cause),
    victim=st.builds(
        Process,
        pid=st.just(7),
        comm=st.sampled_from(("java", "node", "app", None)),
        oom_score_adj=st.none() | st.integers(-1000, 1000),
        anon_rss_bytes=st.none() | SIZES,
    ),
    memory=st.none() | st.builds(MemoryUse, usage_bytes=st.none() | SIZES, limit_bytes=st.none() | SIZES),
    node_memory=st.none() | st.builds(NodeMemory, ram_bytes=st.none() | SIZES),
    pod=st.none()
    | st.builds(
        Pod,
        uid=st.just(PodUid("1")),
        namespace=NAMES,
        name=NAMES,
        qos_class=st.none() | st.sampled_from(QosClass),
        owner=st.none()
        | st.builds(Owner, kind=st.sampled_from(("Deployment", "Job", "Kafka", "Node")), name=st.just("web")),
    ),
    container=st.none()
    | st.builds(Container, id=st.none(), name=NAMES, limit_bytes=st.none() | SIZES, request_bytes=st.none() | SIZES),
    hints=st.sampled_from((None, (), ("-Xmx512m",), ("runtime=node",))),
    memory_volumes=st.sampled_from((None, (), ("cache",))),
    neighbours=st.sampled_from((None, (), POD_LIMIT.neighbours)),
    lone=st.booleans(),
    history=st.none()
    | st.builds(
        history,
        st.tuples(
            st.booleans(),
            st.booleans(),
            st.lists(st.tuples(st.floats(0, 1e9), SIZES), min_size=1, max_size=3).map(sorted),
        ),
    ),
)
FINDINGS = st.lists(
    st.sampled_from([kind for kind in FindingKind if kind not in (FindingKind.NODE_FILLED_BY, FindingKind.EVICTION)]),
    unique=True,
).map(lambda kinds: tuple(finding(kind, processes=9, mean_bytes=MIB) for kind in kinds))


@given(facts=FACTS_OF_ANY, judgement=JUDGEMENTS, findings=FINDINGS, factor=st.floats(1.01, 4))
def test_what_always_holds(facts: Facts, judgement: Judgement, findings: tuple[Finding, ...], factor: float) -> None:
    steps = advise(facts, judgement, findings, factor=factor)
    for one in steps:
        values = one.values
        limit, request, peak = (values.get(name) for name in ("limit_bytes", "request_bytes", "peak_bytes"))
        if one.action is Action.SET_LIMIT:
            assert isinstance(limit, int)
            assert limit % MIB == 0
            assert parse_quantity(quantity(limit)) == limit
            if "pod_limit_bytes" not in values:
                assert isinstance(peak, int)
                assert limit > peak
            if isinstance(request, int):
                assert request <= limit
        if one.action is Action.DO_NOT_RAISE_LIMIT:
            assert isinstance(values["lasts_hours"], float | int)
            assert isinstance(values["lasts_seconds"], float)
        if one.command is not None:
            assert shlex.split(one.command)[0] == "kubectl"
        assert one.text
        assert len(one.text.encode()) <= 330
    told = set(actions(steps))
    if facts.cause in NODE_PRESSURE or judgement.pattern is Pattern.NODE_PRESSURE:
        assert Action.SET_LIMIT not in told
    if judgement.pattern is Pattern.LEAK:
        assert Action.SET_LIMIT not in told


@pytest.mark.parametrize("judgement", [TOO_LOW, LEAK, UNKNOWN, replace(TOO_LOW, pattern=Pattern.SPIKE), UNDER_PRESSURE])
def test_texts_are_short(judgement: Judgement) -> None:
    """An Event has 1,024 bytes for all it says."""
    everything = tuple(
        finding(kind, processes=9, mean_bytes=200 * MIB, outlives_container=True) for kind in FindingKind
    )
    facts = replace(
        FACTS,
        hints=("JAVA_TOOL_OPTIONS: -Xmx512m",),
        memory_volumes=("cache",),
        revisions=(replace(FLAT, number=None), GROWING),
        history=history((True, True, [(0, 12 * MIB), (2 * HOUR, 500 * MIB)])),
    )
    for one in advise(facts, judgement, everything):
        assert len(one.text.encode()) <= 240, one.text
