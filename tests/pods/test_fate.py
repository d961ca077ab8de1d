"""What is said to have become of a container, and what the pod status may say about the kill."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.model import ContainerKind, Fate
from collector.pods.fate import ONE_WITNESS, SLACK, TWO_WITNESSES, Judged, Kill, fate_of
from collector.pods.index import Found, PodIndex
from collector.pods.record import PodContainer, PodRecord, RestartPolicy, Termination
from tests.pods.pods import CONTAINER, NAMES, at, container_id, ended, make_pod, pod_uid, read_pod

KILLED_AT = at("09:00:00") + timedelta(milliseconds=700)
KILL = Kill(pod_uid(1), container_id(1), "app", KILLED_AT)

RUNNING = CONTAINER
OVER = replace(CONTAINER, running_since=None, terminated=ended(1))
BACK_OFF = replace(CONTAINER, running_since=None, waiting_reason="CrashLoopBackOff", last=ended(1), restart_count=3)
AGAIN = replace(CONTAINER, id=container_id(2), running_since=at("09:00:02"), last=ended(1), restart_count=4)
OTHER = replace(CONTAINER, name="other", id=container_id(9))


def judge(
    *containers: PodContainer,
    known: bool = True,
    kill: Kill = KILL,
    pod: PodRecord | None = None,
    deleted: bool = False,
    cgroup_alive: bool | None = None,
    after: float = 5.0,
) -> Judged | None:
    """`known`: the killed container's id is known to be the first container's."""
    pod = pod or make_pod(*containers)
    found = Found(pod, pod.containers[0] if known and pod.containers else None, deleted)
    return fate_of(kill, found, deleted=deleted, cgroup_alive=cgroup_alive, now=KILLED_AT + timedelta(seconds=after))


def fate(judged: Judged | None) -> Fate | None:
    return judged.fate if judged else None


def failed(pod: PodRecord, reason: str | None = None) -> PodRecord:
    return replace(pod, phase="Failed", reason=reason)


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        pytest.param(judge(AGAIN), Fate.RESTARTED, id="restarted"),
        pytest.param(judge(replace(AGAIN, running_since=None, terminated=ended(2))), Fate.RESTARTED, id="restarted, ended again"),
        pytest.param(
            judge(replace(BACK_OFF, id=container_id(3), last=ended(3))), Fate.RESTARTED, id="restarted more than once, waits"
        ),
        pytest.param(judge(BACK_OFF), Fate.RESTART_PENDING, id="CrashLoopBackOff"),
        pytest.param(
            judge(replace(BACK_OFF, waiting_reason="ImagePullBackOff")), Fate.RESTART_PENDING, id="its image cannot be pulled any more"
        ),
        pytest.param(judge(replace(BACK_OFF, waiting_reason="ContainerCreating")), None, id="is being made"),
        pytest.param(judge(replace(OVER, restart_policy=RestartPolicy.ALWAYS), OTHER), None, id="ended, restart to come"),
        pytest.param(judge(replace(OVER, restart_policy=RestartPolicy.NEVER), OTHER), Fate.TERMINATED, id="Never, another goes on"),
        pytest.param(judge(replace(OVER, restart_policy=RestartPolicy.NEVER)), None, id="Never, pod's phase to come"),
        pytest.param(
            judge(replace(OVER, restart_policy=RestartPolicy.NEVER), replace(OTHER, kind=ContainerKind.SIDECAR)),
            None,
            id="Never, a sidecar alone ends with its pod",
        ),
        pytest.param(judge(replace(OVER, restart_policy=None), OTHER), None, id="policy depends on the exit code"),
        pytest.param(
            judge(replace(OVER, kind=ContainerKind.EPHEMERAL, restart_policy=RestartPolicy.NEVER), OTHER),
            Fate.TERMINATED,
            id="ephemeral container",
        ),
        pytest.param(
            judge(replace(OVER, restart_policy=RestartPolicy.ON_FAILURE, terminated=ended(1, code=0, reason="OOMKilled")), OTHER),
            Fate.TERMINATED,
            id="init container that goes on with exit code 0",
        ),
        pytest.param(judge(replace(OVER, restart_policy=RestartPolicy.ON_FAILURE), OTHER), None, id="OnFailure, restart to come"),
        pytest.param(
            judge(pod=make_pod(replace(OVER, terminated=ended(1, code=0)), phase="Succeeded")), Fate.TERMINATED, id="pod succeeded"
        ),
        pytest.param(judge(pod=failed(make_pod(OVER))), Fate.POD_FAILED, id="pod failed"),
        pytest.param(judge(pod=failed(make_pod(OVER), "Evicted")), Fate.EVICTED, id="evicted"),
        pytest.param(judge(pod=failed(make_pod(OVER), "Evicted"), deleted=True), Fate.EVICTED, id="evicted and deleted"),
        pytest.param(judge(pod=failed(make_pod(OVER)), deleted=True), Fate.POD_FAILED, id="failed and deleted"),
        pytest.param(judge(pod=failed(make_pod(OVER, deleting=True))), Fate.GONE, id="fails since it is deleted"),
        pytest.param(judge(RUNNING, deleted=True), Fate.GONE, id="deleted, as last seen running"),
        pytest.param(judge(pod=make_pod(OVER, deleting=True)), None, id="being deleted"),
        pytest.param(judge(RUNNING, after=60, cgroup_alive=False), None, id="told to run, but its cgroup is gone"),
        pytest.param(judge(RUNNING, after=60, cgroup_alive=True, pod=make_pod(RUNNING, deleting=True)), None, id="runs in a pod being deleted"),
        pytest.param(judge(OTHER, known=False, after=60), None, id="its pod alone is known"),
        pytest.param(fate_of(KILL, None, deleted=False, cgroup_alive=None, now=at("23:00:00")), None, id="nothing is known"),
    ],
)  # fmt: skip
def test_fate(judged: Judged | None, expected: Fate | None) -> None:
    assert fate(judged) is expected


@pytest.mark.parametrize(
    ("containers", "known", "cgroup_alive", "since"),
    [
        pytest.param([RUNNING], True, True, TWO_WITNESSES, id="status and cgroup"),
        pytest.param([RUNNING], True, None, ONE_WITNESS, id="status alone"),
        pytest.param([], False, True, ONE_WITNESS, id="cgroup alone, container not in the status yet"),
        pytest.param(
            [replace(RUNNING, id=container_id(7))], False, True, ONE_WITNESS, id="cgroup alone, status lags behind"
        ),
    ],
)
def test_survived(containers: list[PodContainer], known: bool, cgroup_alive: bool | None, since: timedelta) -> None:
    """A status may show a dead container as running for seconds."""
    seconds = since.total_seconds()
    assert judge(*containers, known=known, cgroup_alive=cgroup_alive, after=seconds - 0.1) is None
    assert judge(*containers, known=known, cgroup_alive=cgroup_alive, after=seconds) == Judged(fate=Fate.SURVIVED)


def test_survived_without_the_api() -> None:
    def look(after: timedelta) -> Judged | None:
        return fate_of(KILL, None, deleted=False, cgroup_alive=True, now=KILLED_AT + after)

    assert look(TWO_WITNESSES) is None
    assert look(ONE_WITNESS) == Judged(fate=Fate.SURVIVED)


@pytest.mark.parametrize(("cgroup_alive", "expected"), [(None, Fate.GONE), (False, Fate.GONE), (True, Fate.SURVIVED)])
def test_a_pod_that_was_never_seen_may_be_too_new(cgroup_alive: bool | None, expected: Fate) -> None:
    def look(after: timedelta) -> Judged | None:
        return fate_of(KILL, None, deleted=True, cgroup_alive=cgroup_alive, now=KILLED_AT + after)

    assert look(ONE_WITNESS - timedelta(seconds=0.1)) is None
    assert look(ONE_WITNESS) == Judged(fate=expected)


def test_survival_is_not_told_too_early() -> None:
    assert timedelta(seconds=5) <= TWO_WITNESSES <= timedelta(seconds=55)
    assert timedelta(seconds=15) <= ONE_WITNESS <= timedelta(seconds=55)


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        pytest.param("08:00:00", None, id="the instance before, the status lags behind"),
        pytest.param("09:00:00", None, id="in the second of the kill, which side of it is not known"),
        pytest.param("09:00:01", Fate.RESTARTED, id="after the kill"),
    ],
)
def test_another_instance_where_the_killed_one_was_never_seen(started: str, expected: Fate | None) -> None:
    current = replace(CONTAINER, id=container_id(2), running_since=at(started), last=ended(7), restart_count=4)
    judged = judge(current, known=False, after=60)
    assert fate(judged) is expected
    assert judged is None or judged.restart_count is None, "which restart is not known"


def test_container_known_by_name_alone_is_not_said_to_have_survived() -> None:
    kill = KILL._replace(container_id=None)
    assert judge(RUNNING, known=False, kill=kill, after=60) is None
    assert fate(judge(AGAIN, known=False, kill=kill)) is Fate.RESTARTED


def test_which_restart() -> None:
    judged = judge(AGAIN)
    assert judged is not None
    assert judged.restart_count == 4
    later = judge(replace(AGAIN, last=ended(7)))
    assert later is not None
    assert later.restart_count is None, "it was restarted more than once"


# What the status says of the kill


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(ended(1, reason="OOMKilled"), id="137"),
        pytest.param(ended(1, code=1, reason="OOMKilled"), id="a child was killed, and its parent exited"),
        pytest.param(ended(1, code=0, reason="OOMKilled"), id="exit code 0"),
    ],
)
def test_confirmed(end: Termination) -> None:
    judged = judge(replace(AGAIN, last=end))
    assert judged is not None
    assert (judged.status, judged.confirmed, judged.contradiction) == (end, True, None)


@pytest.mark.parametrize(
    ("end", "contradiction"),
    [
        pytest.param(ended(1), "the pod status says Error with exit code 137, not OOMKilled", id="Error"),
        pytest.param(
            ended(1, reason=None), "the pod status says no reason with exit code 137, not OOMKilled", id="no reason"
        ),
        pytest.param(
            ended(1, reason="a\x1b[31m\nb" + "c" * 500),
            "the pod status says a\\x1b[31m\\x0ab" + "c" * 56 + " with exit code 137, not OOMKilled",
            id="hostile reason",
        ),
        pytest.param(ended(1, reason="ContainerStatusUnknown"), None, id="137 made up by the kubelet"),
        pytest.param(ended(1, code=143), None, id="SIGTERM"),
        pytest.param(ended(1, code=1), None, id="it exited of itself when its child was killed"),
        pytest.param(ended(1, code=None), None, id="no exit code"),
        pytest.param(
            ended(1, finished="09:00:15"), "the pod status says Error with exit code 137, not OOMKilled", id="took long"
        ),
        pytest.param(ended(1, finished="09:00:16"), None, id="killed later, by a liveness probe"),
        pytest.param(
            ended(1, finished="08:59:53"),
            "the pod status says Error with exit code 137, not OOMKilled",
            id="before the kill was read",
        ),
        pytest.param(ended(1, finished="08:59:48"), None, id="before the kill"),
        pytest.param(ended(1, finished=None), None, id="no time"),
        pytest.param(ended(7), None, id="another instance"),
    ],
)
def test_contradiction(end: Termination, contradiction: str | None) -> None:
    judged = judge(replace(AGAIN, last=end))
    assert judged is not None
    assert judged.fate is Fate.RESTARTED
    assert (judged.contradiction, judged.confirmed) == (contradiction, False)


def test_whole_seconds_do_not_put_the_end_before_the_kill() -> None:
    """The kill came at .7 s, the end is told as the second that it was in."""
    judged = judge(replace(AGAIN, last=ended(1, finished="09:00:00")))
    assert judged is not None
    assert judged.status is not None


def node(*names: str) -> PodIndex:
    index = PodIndex()
    index.replace([read_pod(name) for name in names], 0.0)
    return index


def judge_on_node(index: PodIndex, number: int, container: int, killed_at: str, after: float = 20.0) -> Judged | None:
    kill = Kill(pod_uid(number), container_id(container), None, at(killed_at))
    found = index.find(kill.pod_uid, kill.container_id)
    return fate_of(kill, found, deleted=False, cgroup_alive=None, now=at(killed_at) + timedelta(seconds=after))


@pytest.mark.parametrize(
    ("number", "container", "killed_at", "expected"),
    [
        pytest.param(4, 0x41, "08:45:30", Fate.POD_FAILED, id="a Job's pod"),
        pytest.param(6, 0x61, "08:00:07", Fate.TERMINATED, id="a child in an init container that succeeded"),
        pytest.param(7, 0x75, "09:04:31", Fate.RESTART_PENDING, id="crash loop"),
        pytest.param(8, 0x81, "09:30:02", Fate.RESTARTED, id="the instance before"),
        pytest.param(9, 0x91, "09:04:30", Fate.RESTARTED, id="restarted"),
        pytest.param(10, 0xA1, "09:20:01", Fate.EVICTED, id="evicted"),
    ],
)
def test_fixtures(number: int, container: int, killed_at: str, expected: Fate) -> None:
    assert fate(judge_on_node(node(*NAMES), number, container, killed_at)) is expected


def test_real_kill_told_as_error() -> None:
    judged = judge_on_node(node("restarted-error"), 9, 0x91, "09:04:30")
    assert judged is not None
    assert judged.contradiction == "the pod status says Error with exit code 137, not OOMKilled"
    assert (judged.restart_count, judged.confirmed) == (1, False)


def test_sticky_oomkilled_of_another_instance_proves_nothing() -> None:
    """A child was killed once in the first instance, which a SIGTERM ended an hour later: OOMKilled with 143."""
    index = node("sticky-oomkilled")
    for after in (5, 60):
        judged = judge_on_node(index, 8, 0x82, "10:00:00", after=after)
        assert judged == (None if after == 5 else Judged(fate=Fate.SURVIVED))


def test_child_kill_is_told_as_survived_before_the_sigterm() -> None:
    index = PodIndex()
    before = replace(read_pod("sticky-oomkilled"), resource_version=1)
    (container,) = before.containers
    first = replace(container, id=container_id(0x81), running_since=at("08:00:02"), last=None, restart_count=0)
    index.put(replace(before, containers=(first,)), 0.0)
    assert judge_on_node(index, 8, 0x81, "08:30:00", after=40) == Judged(fate=Fate.SURVIVED)


WORDS = st.sampled_from([None, "OOMKilled", "Error", "Completed"])
ENDS = st.builds(
    lambda number, code, reason, second: replace(ended(number, code=code, reason=reason), finished_at=KILLED_AT + timedelta(seconds=second)),
    number=st.integers(1, 3),
    code=st.sampled_from([None, 0, 1, 137, 143]),
    reason=WORDS,
    second=st.integers(-60, 60),
)  # fmt: skip
CONTAINERS = st.builds(
    replace,
    st.just(CONTAINER),
    id=st.none() | st.integers(1, 3).map(container_id),
    running_since=st.none() | st.integers(-60, 60).map(lambda second: KILLED_AT + timedelta(seconds=second)),
    waiting_reason=st.sampled_from([None, "CrashLoopBackOff", "ContainerCreating"]),
    terminated=st.none() | ENDS,
    last=st.none() | ENDS,
    restart_count=st.none() | st.integers(0, 9),
    restart_policy=st.none() | st.sampled_from(RestartPolicy),
)


@settings(deadline=None)
@given(
    container=CONTAINERS,
    phase=st.sampled_from(["Pending", "Running", "Failed", "Succeeded"]),
    deleting=st.booleans(),
    deleted=st.booleans(),
    known=st.booleans(),
    cgroup_alive=st.none() | st.booleans(),
    after=st.floats(-10, 120),
)
def test_whatever_the_status_says(
    container: PodContainer,
    phase: str,
    deleting: bool,
    deleted: bool,
    known: bool,
    cgroup_alive: bool | None,
    after: float,
) -> None:
    pod = make_pod(container, OTHER, phase=phase, deleting=deleting)
    judged = judge(pod=pod, known=known, deleted=deleted, cgroup_alive=cgroup_alive, after=after)
    if judged is None:
        return
    assert judged.fate is not Fate.UNKNOWN, "when to give up is the caller's choice"
    if judged.fate is Fate.SURVIVED:
        assert cgroup_alive is not False
        assert after >= (5 if cgroup_alive else 15)
        assert not deleting
    if judged.contradiction or judged.confirmed:
        assert judged.status is not None
        assert judged.status.container_id == KILL.container_id
        assert judged.status.finished_at is not None
        assert judged.status.finished_at >= KILLED_AT - SLACK
        assert bool(judged.contradiction) != judged.confirmed
