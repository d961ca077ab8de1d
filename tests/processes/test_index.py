"""Who had a pid: owners that come and go, pids that are given again, and what is forgotten first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model import MemcgPath
from collector.processes.events import EXEC, EXIT, FORK, Event
from collector.processes.index import ProcessIndex, Sight

A = MemcgPath(f"/kubepods/burstable/podaaaaaaaa-0000-4000-8000-000000000001/{'a' * 64}")
B = MemcgPath(f"/kubepods/burstable/podbbbbbbbb-0000-4000-8000-000000000002/{'b' * 64}")
SHIM = MemcgPath("/system.slice/containerd.service")


def sight(
    memcg: MemcgPath = A, comm: str = "java", *, born: float = 10.0, at: float = 20.0, ticks: int | None = None
) -> Sight:
    return Sight(memcg, comm, int(born * 100) if ticks is None else ticks, born, 1, False, at)


def fork(parent: int, child: int, at: float) -> Event:
    return (FORK, int(at * 1e9), parent, parent, child, child)


def end(pid: int, at: float) -> Event:
    return (EXIT, int(at * 1e9), pid, pid, 0, 0)


def followed(since: float = 0.0) -> ProcessIndex:
    index = ProcessIndex()
    index.followed_since = since
    return index


def memcg_of(index: ProcessIndex, pid: int, comm: str | None, at: float) -> MemcgPath | None:
    known = index.find(pid, comm=comm, at=at)
    return None if known is None else known.memcg


def test_child_has_its_parents_memcg_comm_and_hints_without_being_looked_at() -> None:
    index = followed()
    index.seen(5, sight())
    index.hinted(5, 1000, ("-Xmx1g",))
    index.follow([fork(5, 6, 21.0)])
    child = index.find(6, comm="java", at=22.0)
    assert child is not None
    assert (child.memcg, child.parent, child.hints, child.start_ticks, child.is_init) == (A, 5, ("-Xmx1g",), None, None)


def test_child_of_a_process_outside_of_containers_is_not_known() -> None:
    index = followed()
    index.seen(5, sight(SHIM, "containerd-shim"))
    index.follow([fork(5, 6, 21.0)])
    assert index.find(6, comm="containerd-shim", at=22.0) is None


def test_threads_are_no_processes() -> None:
    index = followed()
    index.seen(5, sight())
    index.follow([(FORK, 21_000_000_000, 5, 5, 6, 5), (EXIT, 22_000_000_000, 6, 5, 0, 0)])
    assert len(index) == 1
    assert memcg_of(index, 5, "java", 23.0) == A


def test_exec_is_handed_back() -> None:
    assert followed().follow([(EXEC, 1, 7, 7, 0, 0), (EXEC, 2, 8, 8, 0, 0)]) == [7, 8]


def test_the_dead_are_known_for_a_while() -> None:
    index = followed()
    index.seen(5, sight())
    index.follow([end(5, 30.0)])
    known = index.find(5, comm="java", at=29.9)
    assert known is not None
    assert known.died_at == 30.0
    index.prune(90.1)
    assert index.find(5, comm="java", at=29.9) is None
    assert len(index) == 0


@pytest.mark.parametrize(
    ("comm", "at", "expected"),
    [
        pytest.param("java", 29.0, A, id="the first owner, by name"),
        pytest.param("java", 33.0, A, id="the first owner, told a little late"),
        pytest.param("python", 41.0, B, id="the second owner, by name"),
        pytest.param("java", 41.0, None, id="the first owner's name, long after its end"),
        pytest.param("python", 29.0, None, id="the second owner's name, before it began"),
        pytest.param("other", 29.0, None, id="another name, and events were missed"),
        pytest.param(None, 29.0, A, id="no name, at the first owner's time"),
        pytest.param("java", 9.0, None, id="before any of them"),
    ],
)
def test_reused_pid(comm: str | None, at: float, expected: MemcgPath | None) -> None:
    index = ProcessIndex()
    index.seen(5, sight(A, "java"))
    index.died(5, 30.0)
    index.seen(5, sight(B, "python", born=40.0, at=40.5))
    assert memcg_of(index, 5, comm, at) == expected


def test_two_owners_of_one_name_within_seconds_are_not_told_apart() -> None:
    index = followed()
    index.seen(5, sight(A, "sh"))
    index.follow([end(5, 30.0)])
    index.seen(5, sight(B, "sh", born=31.0, at=31.5))
    assert index.find(5, comm="sh", at=32.0) is None
    assert {owner.memcg for owner in index.owners(5, 32.0)} == {A, B}


@pytest.mark.parametrize(
    ("followed_since", "expected"),
    [
        pytest.param(15.0, A, id="followed since before it was seen"),
        pytest.param(25.0, None, id="events were lost since it was seen"),
        pytest.param(None, None, id="not followed"),
    ],
)
def test_another_name_is_believed_only_where_nothing_was_missed(
    followed_since: float | None, expected: MemcgPath | None
) -> None:
    index = ProcessIndex()
    index.followed_since = followed_since
    index.seen(5, sight(at=20.0))
    assert memcg_of(index, 5, "renamed", 30.0) == expected


def test_fork_ends_whoever_had_the_pid() -> None:
    index = followed()
    index.seen(5, sight(A))
    index.seen(6, sight(B, "old", born=11.0))
    index.follow([fork(5, 6, 50.0)])
    known = index.find(6, comm="java", at=60.0)
    assert known is not None
    assert (known.memcg, known.died_at) == (A, None)
    index.follow([fork(999, 5, 70.0)])  # of a parent that is not known
    assert index.find(5, comm="java", at=80.0) is None


def test_exit_that_was_told_while_the_process_was_looked_at() -> None:
    index = followed()
    index.seen(5, sight(SHIM, "runc"))
    index.follow([end(5, 20.5)])
    index.seen(5, sight(A, "java", at=20.4))
    known = index.find(5, comm="java", at=20.5)
    assert known is not None
    assert (known.memcg, known.died_at) == (A, 20.5)


def test_start_time_tells_a_successor_that_no_event_told() -> None:
    index = ProcessIndex()
    index.seen(5, sight(A, "java"))
    index.hinted(5, 1000, ("-Xmx1g",))
    index.seen(5, sight(B, "node", born=30.0, at=40.0))
    known = index.find(5, comm="node", at=41.0)
    assert known is not None
    assert (known.memcg, known.hints) == (B, ())
    assert memcg_of(index, 5, "java", 29.0) == A


def test_hints_are_of_one_process_and_stay_when_it_is_seen_again() -> None:
    index = ProcessIndex()
    index.seen(5, sight())
    index.hinted(5, 999, ("-Xmx9g",))
    index.hinted(5, 1000, ("-Xmx1g",))
    index.seen(5, sight(at=30.0))
    known = index.find(5, comm="java", at=31.0)
    assert known is not None
    assert known.hints == ("-Xmx1g",)


def test_forgotten_unless_a_pass_found_it_there() -> None:
    index = ProcessIndex()
    index.seen(5, sight(A))
    index.seen(6, sight(SHIM, "containerd"))
    for pid in (5, 6):
        index.forget(pid, unless_in=SHIM)
    assert index.find(5, comm="java", at=21.0) is None
    assert memcg_of(index, 6, "containerd", 21.0) == SHIM


def test_pass_asks_only_about_what_is_new_moved_or_never_looked_at() -> None:
    index = followed()
    for pid in (1, 2, 3):
        index.seen(pid, sight())
    index.follow([fork(1, 4, 21.0)])
    listed = {1: A, 2: B, 4: A, 5: A}
    assert index.unread(listed) == [2, 4, 5]
    assert index.missing(listed) == [3]


def test_died_with_takes_the_container_and_what_is_below() -> None:
    index = followed()
    below, beside = MemcgPath(f"{A}/init.scope"), MemcgPath(f"{A}-not")
    for pid, memcg in enumerate([A, below, beside, B, A, A], start=1):
        index.seen(pid, sight(memcg))
    for pid, at in ((5, 29.0), (1, 30.0), (2, 30.1), (3, 30.1), (4, 30.1), (6, 31.0)):
        index.died(pid, at)
    assert [known.pid for known in index.died_with(A, since=30.0, until=30.5)] == [1, 2]


def test_full_of_the_dead_the_oldest_go() -> None:
    index = ProcessIndex(capacity=3)
    for pid in (1, 2, 3):
        index.seen(pid, sight())
        index.died(pid, 20.0 + pid)
    index.seen(4, sight())
    assert len(index) == 3
    assert [bool(index.owners(pid, 21.0)) for pid in (1, 2, 3, 4)] == [False, True, True, True]
    assert index.shed == 0


def test_full_of_the_living_the_newest_are_shed_and_counted() -> None:
    index = followed()
    index._capacity = 2
    index.seen(1, sight())
    index.seen(2, sight())
    index.seen(3, sight())
    index.follow([fork(1, 4, 21.0)])
    assert (len(index), index.shed) == (2, 2)
    index.seen(2, sight(B))  # known: has its place
    assert memcg_of(index, 2, "java", 21.0) == B


def test_bounded_in_a_storm_of_processes_that_share_few_pids() -> None:
    index = ProcessIndex(capacity=100)
    index.seen(1, sight())
    for number in range(10_000):
        pid = 2 + number % 50
        index.follow([fork(1, pid, 21 + number / 1e3), end(pid, 21 + number / 1e3 + 1e-4)])
    assert len(index) <= 100
    assert len(index._dead) <= 51


@given(
    st.lists(
        st.tuples(st.integers(2, 5), st.sampled_from([A, B]), st.sampled_from(["sh", "java"]), st.floats(0.2, 8)),
        min_size=1,
        max_size=12,
    )
)
def test_never_blames_another(lives: list[tuple[int, MemcgPath, str, float]]) -> None:
    """A few pids, given again and again: whoever is killed is told rightly or not at all, at its end and after it."""
    index = followed()
    now = 100.0
    for pid, memcg, comm, seconds in lives:
        index.seen(pid, sight(memcg, comm, born=now, at=now, ticks=int(now * 1000)))
        now += seconds
        assert memcg_of(index, pid, comm, now) in {memcg, None}
        assert memcg_of(index, pid, "renamed", now) in {memcg, None}
        index.follow([end(pid, now)])
        assert memcg_of(index, pid, comm, now) in {memcg, None}
        assert memcg_of(index, pid, comm, now + 3) in {memcg, None}
        now += 0.2
