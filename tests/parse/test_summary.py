"""The summary line: whole, cut at every place, and with names made to mislead."""

from __future__ import annotations

import pytest

from collector.model import Constraint
from collector.parse.summary import parse_summary
from tests.lines import CONTAINER, OTHER, POD, summary


def test_whole() -> None:
    found = parse_summary(summary("hog", 257, oom_memcg=POD))
    assert (found.constraint, found.oom_memcg, found.task_memcg) == (Constraint.MEMCG, POD, CONTAINER)
    assert (found.comm, found.pid, found.uid, found.complete) == ("hog", 257, 0, True)


def test_global() -> None:
    found = parse_summary(summary(oom_memcg=None, constraint="CONSTRAINT_NONE"))
    assert found.global_oom
    assert (found.oom_memcg, found.task_memcg) == (None, CONTAINER)


@pytest.mark.parametrize(
    ("constraint", "known", "unknown"),
    [
        pytest.param("CONSTRAINT_MEMORY_POLICY", Constraint.MEMORY_POLICY, None, id="known"),
        pytest.param("CONSTRAINT_BPF", None, "BPF", id="not known yet"),
    ],
)
def test_constraint(constraint: str, known: Constraint | None, unknown: str | None) -> None:
    found = parse_summary(summary(constraint=constraint))
    assert (found.constraint, found.unknown_constraint) == (known, unknown)


HOSTILE_COMMS = [
    pytest.param("a,pid=1,uid=0", id="pid and uid"),
    pytest.param("x,task=y", id="task"),
    pytest.param(",task=,task=", id="two tasks"),
    pytest.param("q=/,pid=1,", id="cut tail"),
    pytest.param("two\nlines", id="newline"),
    pytest.param(",pid=7,uid=8", id="the whole tail"),
]


@pytest.mark.parametrize("comm", HOSTILE_COMMS)
def test_comm_that_imitates_fields(comm: str) -> None:
    found = parse_summary(summary(comm, 4242), comms=frozenset({comm}))
    assert (found.comm, found.pid, found.task_memcg, found.oom_memcg) == (comm, 4242, CONTAINER, CONTAINER)


@pytest.mark.parametrize("comm", HOSTILE_COMMS)
def test_comm_that_imitates_fields_without_a_second_witness(comm: str) -> None:
    found = parse_summary(summary(comm, 4242))
    assert (found.pid, found.oom_memcg) == (4242, CONTAINER)
    assert found.task_memcg is not None
    assert found.task_memcg.startswith(CONTAINER)


@pytest.mark.parametrize(
    ("oom_memcg", "task_memcg", "cpuset"),
    [
        pytest.param(CONTAINER, f"{CONTAINER}/a,task_memcg={OTHER}", "x", id="another task_memcg, limit above"),
        pytest.param(f"{CONTAINER}/a,task_memcg={OTHER}", f"{CONTAINER}/a,task_memcg={OTHER}", "x", id="limit is the hostile one"),
        pytest.param(CONTAINER, f"{CONTAINER}/a,task_memcg={CONTAINER},task_memcg={CONTAINER}/a", "x", id="both readings fit"),
        pytest.param(CONTAINER, f"{CONTAINER}/a,oom_memcg={OTHER},task_memcg={OTHER}", "x", id="another pair"),
        pytest.param(CONTAINER, f"{CONTAINER}/a,global_oom,task_memcg={OTHER}", "x", id="a global OOM"),
        pytest.param(CONTAINER, f"{CONTAINER}/a,task=init,pid=1,uid=0", "x", id="a victim"),
        pytest.param(CONTAINER, CONTAINER, "x,mems_allowed=0,global_oom,task_memcg=", id="cpuset: a global OOM"),
        pytest.param(CONTAINER, CONTAINER, "x,mems_allowed=0,oom_memcg=", id="cpuset: a limit"),
        pytest.param(None, f"{CONTAINER}/a,oom_memcg={OTHER},task_memcg={OTHER}", "x", id="global: a limit"),
        pytest.param(None, CONTAINER, "x,oom_memcg=,task_memcg=", id="global: cpuset"),
    ],
)  # fmt: skip
def test_cgroup_that_imitates_fields(oom_memcg: str | None, task_memcg: str, cpuset: str) -> None:
    found = parse_summary(summary("hog", 257, oom_memcg=oom_memcg, task_memcg=task_memcg, cpuset=cpuset))
    assert (found.oom_memcg, found.task_memcg) == (oom_memcg, task_memcg)
    assert (found.comm, found.pid, found.global_oom) == ("hog", 257, oom_memcg is None)


@pytest.mark.parametrize("oom_memcg", [POD, None])
@pytest.mark.parametrize("comm", ["hog", "a,pid=1,uid=0"])
def test_cut_anywhere(oom_memcg: str | None, comm: str) -> None:
    """What is left is right or not there: no piece of a name passes for the name, no piece of a number for the number."""
    whole = summary(comm, 257, oom_memcg=oom_memcg)
    for end in range(len("oom-kill:"), len(whole)):
        found = parse_summary(whole[:end])
        assert found.oom_memcg in (None, oom_memcg)
        assert found.task_memcg in (None, CONTAINER)
        assert found.uid in (None, 0)
        if comm == "hog":
            assert found.pid in (None, 257)
            assert found.comm in (None, comm)
        assert not (found.global_oom and oom_memcg is not None)
        if found.task_memcg_cut is not None:
            assert CONTAINER.startswith(found.task_memcg_cut)


@pytest.mark.parametrize(
    ("text", "oom_memcg", "task_memcg"),
    [
        pytest.param(f"Task in {CONTAINER} killed as a result of limit of {POD}", POD, CONTAINER, id="whole"),
        pytest.param(f"Task in {CONTAINER} killed as a result of limit of {CONTAINER[:70]}   {CONTAINER[70:]}", CONTAINER, CONTAINER,
                     id="an editor's soft wrap"),
        pytest.param(f"Task in {CONTAINER} killed as a result of limit of {POD[:-4]}", None, CONTAINER, id="cut in the limit"),
        pytest.param(f"Task in {CONTAINER} killed as a res", None, None, id="cut before it"),
        pytest.param(
            f"Task in {CONTAINER}/ killed as a result of limit of {OTHER} killed as a result of limit of {CONTAINER}",
            CONTAINER, f"{CONTAINER}/ killed as a result of limit of {OTHER}", id="hostile cgroup",
        ),
    ],
)  # fmt: skip
def test_before_5_0(text: str, oom_memcg: str | None, task_memcg: str | None) -> None:
    found = parse_summary(text)
    assert (found.oom_memcg, found.task_memcg) == (oom_memcg, task_memcg)


def test_serial_terminal_that_overwrote_the_last_column() -> None:
    text = (
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
        "task_memcg=/user.slice/user-0.slice/user@0.service,tas0"
    )
    found = parse_summary(text)
    assert (found.task_memcg, found.pid, found.comm) == ("/user.slice/user-0.slice/user@0.service", None, None)
