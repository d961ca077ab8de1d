"""Rows become lives, whatever is in them, and memory stays bounded."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import history
from collector.diagnosis.model import MemoryHistory
from collector.diagnosis.timeline import MAX_LIVES, MAX_POINTS, Timeline, from_life
from collector.history import Bounds, History, Key, Sample
from collector.model import Cause, MemcgPath

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1 << 20

Row = dict[str, object]


def row(at: float, size: int = MIB, **more: object) -> Row:
    return {"time": at, "working_set_bytes": size, "limit_bytes": 8 * MIB, **more}


def read(rows: Iterable[Row], **options: int) -> MemoryHistory:
    timeline = Timeline(**options)
    for one in rows:
        timeline.add(one)
    made = timeline.history()
    assert made is not None
    return made


def times(made: MemoryHistory) -> list[list[float]]:
    return [[point.time for point in life.points] for life in made.lives]


def test_a_row_becomes_a_point() -> None:
    made = read([row(5, 7, anon_bytes=1, file_bytes=2, shmem_bytes=3, kernel_bytes=4, revision="r", unknown=[])])
    point = made.last.points[0]
    assert point == (5.0, 7, 7, 7, 8 * MIB, 1, 2, 3, 4)
    assert (made.last.revision, made.last.started, made.last.killed, made.cause) == ("r", False, False, None)


def test_another_revision_is_another_life() -> None:
    made = read([row(5, 7, revision="a"), row(6, 8, revision="a"), row(7, 1, revision="b"), row(8, 2)])

    lives = [(life.revision, life.started, [point.working_set for point in life.points]) for life in made.lives]
    assert lives == [("a", False, [7, 8]), ("b", True, [1, 2])]


def test_start_and_kill_bound_lives() -> None:
    rows = [row(0), row(1, event="oom_kill"), row(2, event="start"), row(3), row(4, event="start"), row(5)]
    made = read(rows)
    assert times(made) == [[0, 1], [2, 3], [4, 5]]
    assert [(life.started, life.killed) for life in made.lives] == [(False, True), (True, False), (True, False)]


def test_what_is_sampled_after_a_kill_is_another_life() -> None:
    made = read([row(0), row(1, event="oom_kill"), row(9)])
    assert times(made) == [[0, 1], [9]]


def test_what_is_left_of_a_killed_one_is_no_life() -> None:
    made = read([row(0), row(1, event="oom_kill", cause="container_limit"), row(1.02)])
    assert (times(made), made.last.killed, made.cause) == ([[0, 1]], True, Cause.CONTAINER_LIMIT)
    made = read([row(0), row(1, event="oom_kill"), row(1.02), row(20, event="start"), row(30)])
    assert times(made) == [[0, 1], [20, 30]]


@pytest.mark.parametrize(("at", "started"), [(14, True), (5000, False)])
def test_killed_again_before_it_was_sampled(at: float, started: bool) -> None:
    made = read([row(0, event="start"), row(1, event="oom_kill"), row(at, event="oom_kill")])
    assert times(made) == [[0, 1], [at]]
    assert (made.last.started, made.last.killed) == (started, True)


def test_an_event_may_lack_its_sample() -> None:
    made = read([{"time": 0, "event": "start"}, row(1), {"time": 2, "event": "oom_kill", "working_set_bytes": None}])
    assert times(made) == [[1]]
    assert (made.last.started, made.last.killed) == (True, True)


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        pytest.param([row(0, event="oom_kill", cause="node")], Cause.NODE, id="of the kill"),
        pytest.param([row(0, cause="node"), row(1, event="oom_kill")], None, id="of another sample"),
        pytest.param([row(0, event="oom_kill", cause="node"), row(9)], None, id="of a former life"),
        pytest.param([row(0, event="oom_kill", cause="moon")], None, id="none of ours"),
        pytest.param([row(0, event="oom_kill", cause=["node"])], None, id="no text"),
    ],
)
def test_the_cause_is_that_of_the_kill_at_the_end(rows: list[Row], cause: Cause | None) -> None:
    assert read(rows).cause == cause


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"time": 1},
        {"working_set_bytes": 1},
        row(math.nan),
        row(math.inf),
        row(True),
        {"time": "1", "working_set_bytes": 1},
        {"time": 1, "working_set_bytes": None},
        {"time": 1, "working_set_bytes": "1"},
        {"time": 1, "working_set_bytes": True},
        {"time": 1, "working_set_bytes": -1},
        {"time": 1, "working_set_bytes": math.nan},
        {"time": 1, "working_set_bytes": 1 << 63},
        {"time": 10**400, "working_set_bytes": 1},
    ],
    ids=str,
)
def test_what_is_no_sample_is_none(bad: Row) -> None:
    timeline = Timeline()
    assert not timeline.add(bad)
    assert timeline.history() is None


@pytest.mark.parametrize("part", [None, -1, "1", True, math.nan, [1], 1 << 63], ids=str)
def test_a_part_that_is_no_size_is_not_known(part: object) -> None:
    assert read([row(0, anon_bytes=part)]).last.points[0].anon is None


@pytest.mark.parametrize(
    ("limits", "seen"),
    [
        pytest.param([10, None, 30], [10, None, 30], id="as told"),
        pytest.param([10, ..., 30], [10, 10, 30], id="not told again"),
        pytest.param([0, (1 << 63) - 4096, -5], [None, None, None], id="none"),
    ],
)
def test_a_limit_holds_until_another_is_told(limits: list[object], seen: list[int | None]) -> None:
    rows: list[Row] = [{"time": at, "working_set_bytes": 1} for at in range(3)]
    for one, limit in zip(rows, limits, strict=True):
        if limit is not ...:
            one["limit_bytes"] = limit
    assert [point.limit for point in read(rows).last.points] == seen
    assert [point.limit for point in read(rows, limit_bytes=99).last.points] == [99, 99, 99]


@pytest.mark.parametrize(
    ("given_times", "kept"),
    [
        pytest.param([0, 1, 2, 1.5, 3], [0, 1, 1.5, 3], id="one ahead of its time"),
        pytest.param([0, 1, 9e9, 2, 3], [0, 1, 2, 3], id="a wild one"),
        pytest.param([0, 5, 6, 1, 7], [0, 5, 6, 7], id="one late"),
        pytest.param([0, 1, 1, 2], [0, 1, 1, 2], id="one twice"),
    ],
)
def test_times_do_not_run_backwards(given_times: list[float], kept: list[float]) -> None:
    timeline = Timeline()
    for at in given_times:
        timeline.add(row(at))
    made = timeline.history()
    assert made is not None
    assert times(made) == [kept]
    assert timeline.disordered == len(given_times) - len(kept)


def test_a_long_life_is_thinned_and_keeps_its_bounds_and_its_ends() -> None:
    count = 7 * MAX_POINTS
    made = read(row(at, 1000 if at == count // 3 else 1 if at == count // 2 else 500) for at in range(count))
    points = made.last.points
    assert MAX_POINTS <= len(points) <= 2 * MAX_POINTS + 2
    assert (max(point.most for point in points), min(point.least for point in points)) == (1000, 1)
    assert points[-1].time == count - 1
    assert [point.time for point in points] == sorted({point.time for point in points})


def test_many_lives_are_the_last_ones() -> None:
    made = read(row(at, event="start") for at in range(3 * MAX_LIVES))
    assert len(made.lives) == MAX_LIVES + 1
    assert times(made)[-1] == [3 * MAX_LIVES - 1]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["time", "working_set_bytes", "limit_bytes", "anon_bytes", "event", "cause", "revision"]),
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["start", "oom_kill", "x"])
            ),
        ),
        max_size=30,
    )
)
def test_any_rows_are_read(rows: list[Row]) -> None:
    timeline = Timeline()
    for one in json.loads(json.dumps(rows)):
        timeline.add(one)
    made = timeline.history()
    assert made is None or all(list(map(sorted, times(made))))


# What the agent kept


def kept(count: int, *, limits: dict[int, int | None] | None = None) -> history.Life:
    made = History(boot_id="boot")
    key = Key(MemcgPath("/a"), 1)
    for number in range(count):
        sample = Sample(2 * MIB + 4096 * number, MIB + 4096 * number, MIB, MIB, 0, 4096, 0)
        limit = (limits or {}).get(number, ...)
        bounds = None if limit is ... else Bounds(limit, None, None)
        made.add(key, sample, at=1000 + 10.0 * number, bounds=bounds)
    life = made.get(key)
    assert life is not None
    return life


def test_a_kept_life_is_bins_and_then_the_last_hour() -> None:
    life = from_life(kept(1000), started=True, killed=True, revision="r")
    assert (life.started, life.killed, life.revision) == (True, True, "r")
    steps = [later.time - one.time for one, later in zip(life.points, life.points[1:], strict=False)]
    assert steps[-359:] == [10.0] * 359
    assert 600.0 in steps[:9]
    assert life.points[0].least < life.points[0].most
    assert life.points[-1].working_set == MIB + 4096 * 999


def test_a_kept_life_ends_when_it_is_asked_for() -> None:
    assert from_life(kept(100), until=1500.0).points[-1].time == 1500.0
    with pytest.raises(ValueError, match="no sample"):
        from_life(kept(100), until=999.0)


def test_limits_hold_from_the_ten_minutes_in_which_they_were_read() -> None:
    life = from_life(kept(700, limits={30: 8 * MIB, 500: 16 * MIB}))
    assert life.points[0].limit == 8 * MIB
    assert {point.limit for point in life.points if point.time < 5000} == {8 * MIB}
    assert {point.limit for point in life.points if point.time >= 6000} == {16 * MIB}
