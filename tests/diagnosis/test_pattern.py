"""Histories get the pattern that is true of them, and every figure can be explained."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.diagnose import diagnose_history
from collector.diagnosis.model import Action, Judgement, Life, MemoryHistory, Pattern, Point
from collector.diagnosis.pattern import judge
from collector.diagnosis.robust import BINS
from collector.diagnosis.timeline import Timeline
from collector.model import Cause
from tests.diagnosis.shapes import MIB, SHAPES, Row, Story

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = range(2)
HOUR = 3600.0
GIB = 1 << 30


def history_of(rows: list[Row]) -> MemoryHistory:
    timeline = Timeline()
    for row in rows:
        assert timeline.add(row)
    made = timeline.history()
    assert made is not None
    return made


@cache
def judged() -> list[tuple[str, Story, Judgement]]:
    stories = [(name, make(Random(f"{name}{seed}"))) for name, make in SHAPES.items() for seed in SEEDS]
    return [(name, story, judge(history_of(story.rows))) for name, story in stories]


def life(
    sizes: list[float], *, step: float = 60.0, started: bool = False, killed: bool = False, limit: int | None = GIB
) -> Life:
    """Sizes in MiB."""
    points = (
        Point(step * at, int(size * MIB), int(size * MIB), int(size * MIB), limit) for at, size in enumerate(sizes)
    )
    return Life(points=tuple(points), started=started, killed=killed)


def judge_lives(*lives: Life, cause: Cause | None = None) -> Judgement:
    return judge(MemoryHistory(lives=lives, cause=cause))


def noisy(size: float, count: int, sigma: float = 2.0) -> list[float]:
    rng = Random(3)
    return [size + rng.gauss(0, sigma) for _ in range(count)]


def ramp(count: int = 300, rate: float = 3.0, base: float = 100.0) -> list[float]:
    return [size + rate * at for at, size in enumerate(noisy(base, count))]


# On the generator that the rules are tuned on. The figures of docs/diagnosis.md are of another.


def test_there_are_many_shapes() -> None:
    assert len(SHAPES) >= 60


def test_leaks_are_found_and_nothing_else_is_one() -> None:
    pairs = Counter(("leak" in story.answers, one.pattern is Pattern.LEAK) for _, story, one in judged())
    assert pairs[True, True] / (pairs[True, True] + pairs[False, True]) >= 0.98
    assert pairs[True, True] / (pairs[True, True] + pairs[True, False]) >= 0.95


def test_every_pattern_is_told_from_the_others() -> None:
    right = Counter(story.answers[0] for _, story, one in judged() if one.pattern in story.answers)
    of = Counter(story.answers[0] for _, story, _ in judged())
    assert {pattern: share for pattern in of if (share := right[pattern] / of[pattern]) < 0.95} == {}


def test_growth_is_as_fast_as_it_is() -> None:
    wrong = sorted(
        abs((one.growth_bytes_per_hour or 0) / (story.growth * MIB) - 1)
        for _, story, one in judged()
        if story.growth and one.pattern is Pattern.LEAK
    )
    assert wrong[len(wrong) // 2] < 0.02
    assert wrong[int(len(wrong) * 0.9)] < 0.1


def test_growth_began_when_it_began() -> None:
    wrong = sorted(
        abs((one.growth_since or 0) - story.since) / (float(str(story.rows[-1]["time"])) - story.since)
        for _, story, one in judged()
        if story.since is not None and one.pattern is Pattern.LEAK
    )
    assert wrong[int(len(wrong) * 0.9)] < 0.1


def test_confidence_means_something() -> None:
    right = [one.confidence for _, story, one in judged() if one.pattern in story.answers]
    wrong = [one.confidence for _, story, one in judged() if one.pattern not in story.answers]
    assert all(0 <= confidence <= 1 for confidence in right + wrong)
    assert sum(right) / len(right) > 0.75


# Rules at their edges


@pytest.mark.parametrize(
    ("lives", "pattern"),
    [
        pytest.param([life([100, 600, 1024], started=True, killed=True)], Pattern.STARTUP, id="in its first minutes"),
        pytest.param([life([100, 600, 1024], killed=True)], Pattern.UNKNOWN, id="its start was not seen"),
        pytest.param(
            [life(noisy(200, 9), started=True, killed=True)], Pattern.SPIKE, id="calm for minutes, and once only"
        ),
        pytest.param(
            [life(noisy(200, 9), started=True, killed=True)] * 3, Pattern.STARTUP, id="calm for minutes, each time"
        ),
        pytest.param(
            [life([300, *noisy(970, 8)], started=True, killed=True)],
            Pattern.LIMIT_TOO_LOW,
            id="near the limit for minutes, and once only",
        ),
        pytest.param(
            [*[life(ramp(), started=True, killed=True)] * 3, life([100, 300, 500, 700, 900, 1024], killed=True)],
            Pattern.SPIKE,
            id="former lives were long",
        ),
        pytest.param([life(noisy(980, 200), killed=True)], Pattern.LIMIT_TOO_LOW, id="near the limit"),
        pytest.param([life(noisy(500, 200), killed=True)], Pattern.SPIKE, id="far from the limit"),
        pytest.param([life([*noisy(500, 200), 1024], killed=True)], Pattern.SPIKE, id="a jump that was seen"),
        pytest.param([life(noisy(500, 200), killed=True, limit=None)], Pattern.UNKNOWN, id="no limit is known"),
        pytest.param([life(ramp(), killed=True)], Pattern.LEAK, id="grew to the limit"),
        pytest.param([life(ramp(), killed=True, limit=4 * GIB)], Pattern.SPIKE, id="grew, and jumped to the limit"),
        pytest.param([life(ramp(), killed=True, limit=None)], Pattern.LEAK, id="grew, and no limit is known"),
        pytest.param([life(ramp())], Pattern.LEAK, id="grows"),
        pytest.param([life(ramp(), limit=None)], Pattern.LEAK, id="grows without a limit"),
        pytest.param([life(ramp(30))], Pattern.LEAK, id="grows for half an hour"),
        pytest.param([life(ramp(14))], Pattern.CALM, id="grows for a quarter of an hour"),
        pytest.param([life([100] * 10 + ramp(30))], Pattern.CALM, id="grows for half an hour, and did not before"),
        pytest.param([life(ramp(12, rate=70), started=True, killed=True)], Pattern.LEAK, id="filled in twelve minutes"),
        pytest.param(
            [life(ramp(8, rate=115), started=True, killed=True)] * 3, Pattern.LEAK, id="filled in eight minutes"
        ),
        pytest.param(
            [life(ramp(4, rate=300), started=True, killed=True)] * 3, Pattern.STARTUP, id="filled in four minutes"
        ),
        pytest.param([life(noisy(500, 200))], Pattern.CALM, id="does not grow"),
        pytest.param([life([500] * 4)], Pattern.UNKNOWN, id="four samples"),
        pytest.param([life([500] * 20, step=1)], Pattern.UNKNOWN, id="twenty seconds"),
        pytest.param([life([500])], Pattern.UNKNOWN, id="one sample"),
        pytest.param([life([500], killed=True, started=True)], Pattern.STARTUP, id="one sample, of start and kill"),
        pytest.param([life([500] * 100, step=0)], Pattern.UNKNOWN, id="all at one time"),
        pytest.param(
            [life([980] * 200, step=0, killed=True)], Pattern.LIMIT_TOO_LOW, id="all at one time, near the limit"
        ),
    ],
)
def test_the_pattern(lives: list[Life], pattern: Pattern) -> None:
    assert judge_lives(*lives).pattern is pattern


def test_a_flat_night_before_seven_hours_of_growth_is_no_day() -> None:
    flat = noisy(100, 600)

    assert judge_lives(life([*flat, *ramp(420, rate=0.5)])).pattern is Pattern.LEAK
    assert judge_lives(life([*flat, *ramp(240, rate=0.5)])).pattern is Pattern.CALM
    wavy = [size + 60 * math.sin(at / 100) for at, size in enumerate(flat)]
    assert judge_lives(life([*wavy, *ramp(420, rate=0.5)])).pattern is Pattern.CALM


def by_hours(load: Callable[[float], float], hours: float, *, noise: float = 1.0) -> list[float]:
    """MiB by hours, each five minutes."""
    rng = Random(5)
    return [load(at / 12) + rng.gauss(0, noise) for at in range(round(hours * 12))]


def of_day(hour: float) -> float:
    """0 at midnight, 1 at noon."""
    return 0.5 - 0.5 * math.cos(hour / 24 * 2 * math.pi)


@pytest.mark.parametrize("days", [2, 3, 9])
@pytest.mark.parametrize("hours", [5, 6, 9, 10, 16])
def test_what_begins_after_calm_days_is_looked_at_closely(days: int, hours: int) -> None:
    flat = days * 24
    late = by_hours(lambda hour: 300 + 20 * max(0.0, hour - flat), flat + hours)

    told = judge_lives(life(late, step=300))
    assert told.pattern is Pattern.LEAK
    assert told.growth_bytes_per_hour == pytest.approx(20 * MIB, rel=0.1)
    assert told.growth_since == pytest.approx(flat * 3600, abs=hours * 3600 * 0.15)
    killed = judge_lives(life([*late, 1024], step=300, killed=True, limit=int(late[-1] + 2) * MIB))
    assert killed.pattern is Pattern.LEAK


@pytest.mark.parametrize("constant", [20, 60, 200])
def test_what_fills_ever_slower_is_looked_at_as_a_whole(constant: float) -> None:
    filling = by_hours(lambda hour: 100 + 500 * (1 - math.exp(-hour / constant)), 3 * constant)
    assert judge_lives(life(filling, step=300)).pattern is Pattern.CALM


def test_a_leak_that_begins_under_the_load_of_days() -> None:
    late = by_hours(lambda hour: 300 + 120 * of_day(hour) + 10 * max(0.0, hour - 84), 84 + 50)
    told = judge_lives(life(late, step=300))
    assert told.pattern is Pattern.LEAK
    assert told.growth_bytes_per_hour == pytest.approx(10 * MIB, rel=0.2)


def test_the_highest_of_three_mornings_is_no_leak() -> None:
    mornings = by_hours(lambda hour: 600 + 400 * of_day(hour) + 0.6 * hour, 59)
    assert judge_lives(life(mornings, step=300, killed=True)).pattern is Pattern.LIMIT_TOO_LOW


@pytest.mark.parametrize("pace", [0.1, 0.2, 0.3, 0.5])
def test_growth_that_has_become_faster_is_growth(pace: float) -> None:
    """Of twelve hours: of less it may be a morning."""
    faster = by_hours(lambda hour: 300 + 20 * (max(0.0, hour - 7) + pace * min(hour, 7.0)), 14)
    assert judge_lives(life(faster, step=300)).pattern is Pattern.LEAK


def test_a_load_that_came_down_in_the_lives_before_does_so_again() -> None:
    day = by_hours(lambda hour: 500 - 200 * abs(hour / 12 - 1), 23)
    morning = life(day[: 10 * 12], step=300, started=True)

    assert judge_lives(morning).pattern is Pattern.LEAK
    told = judge_lives(*[life(day, step=300, started=True)] * 3, morning)
    assert told.pattern is Pattern.CALM
    assert told.reasons[0].endswith(", as 3 lives before did at this age, and then no further")
    growing = by_hours(lambda hour: 300 + 20 * hour, 23)
    lives = [*[life(growing, step=300, started=True)] * 3, life(growing[: 10 * 12], step=300, started=True)]
    assert judge_lives(*lives).pattern is Pattern.LEAK


def test_calm_is_less_sure_where_it_rises_now() -> None:
    rising = by_hours(lambda hour: 300 + 20 * max(0.0, hour - 8), 12)
    flat = by_hours(lambda hour: 300, 12)

    told = judge_lives(life(rising, step=300))
    assert (told.pattern, told.confidence) == (Pattern.CALM, 0.6)
    assert told.reasons[-1].startswith("it rises now, by ")
    assert judge_lives(life(flat, step=300)).confidence > 0.8


def test_who_is_not_sure_that_it_is_no_leak_says_so() -> None:
    flat = noisy(980, 200)
    stairs = [size - (300 if at < 90 else 0) for at, size in enumerate(flat)]
    assert judge_lives(life(flat, killed=True)).confidence == 0.9
    assert judge_lives(life(stairs, killed=True)).confidence < 0.9


def test_a_leak_goes_on_after_a_step() -> None:
    leaking = ramp(500, rate=0.5)
    with_step = [size + (50 if at >= 150 else 0) for at, size in enumerate(leaking)]
    calm_before = [*noisy(100, 150), *with_step[150:]]

    assert judge_lives(life(with_step)).pattern is Pattern.LEAK
    assert judge_lives(life(calm_before)).pattern is Pattern.CALM


@pytest.mark.parametrize("cause", Cause)
def test_node_pressure_is_what_the_cause_says(cause: Cause) -> None:
    one = judge_lives(life(ramp(), killed=True), cause=cause)
    pressed = cause in (Cause.NODE, Cause.NODE_ALLOCATABLE, Cause.NODE_NUMA, Cause.QOS_LIMIT)
    assert (one.pattern is Pattern.NODE_PRESSURE) == pressed
    own = cause in (Cause.CONTAINER_LIMIT, Cause.POD_LIMIT, Cause.UNKNOWN)
    assert one.peak_is_cut == own
    assert (one.pattern is Pattern.LEAK) == own


def test_the_figures_of_a_leak() -> None:
    one = judge_lives(life(ramp(200, 3.0, 100.0)))
    assert one.growth_bytes_per_hour == pytest.approx(180 * MIB, rel=0.03)
    assert one.growth_since == 0.0
    assert one.seconds_to_limit == pytest.approx((1024 - 100 - 600) / 3 * 60, rel=0.03)
    assert (one.peak_is_cut, one.limit_bytes, one.grows) == (False, GIB, None)
    assert one.reasons[0].startswith("its working set grew by 1")


def test_only_a_leak_meets_the_limit() -> None:
    for _, _, one in judged():
        assert one.seconds_to_limit is None or one.pattern is Pattern.LEAK
        assert one.growth_bytes_per_hour is None or one.growth_bytes_per_hour > 0


def test_a_leak_without_a_limit_meets_none() -> None:
    one = judge_lives(life(ramp(), limit=None))
    assert (one.pattern, one.seconds_to_limit) == (Pattern.LEAK, None)


def test_the_limit_is_the_last_one() -> None:
    points = life(ramp()).points
    resized = tuple(point._replace(limit=4 * GIB if at > 200 else GIB) for at, point in enumerate(points))
    assert judge_lives(Life(points=resized, started=False, killed=False)).limit_bytes == 4 * GIB


def with_parts(sizes: list[float], **growing: float) -> Life:
    """Each part: MiB, and MiB more at each sample."""
    made = life(sizes)
    parts = {"anon": 60.0, "file": 20.0, "shmem": 5.0, "kernel": 10.0}
    points = [
        point._replace(**{name: int((size + growing.get(name, 0) * at) * MIB) for name, size in parts.items()})
        for at, point in enumerate(made.points)
    ]
    return replace(made, points=tuple(points))


@pytest.mark.parametrize("part", ["anon", "shmem", "kernel"])
def test_the_part_that_grows_is_named(part: str) -> None:
    more = {part: 3.0} | ({"file": 3.0} if part == "shmem" else {})
    one = judge_lives(with_parts(ramp(), **more))
    assert (one.pattern, one.grows) == (Pattern.LEAK, part)
    assert one.reasons[0].startswith(f"its {part} grew by 180")


def test_page_cache_that_grows_is_no_leak() -> None:
    one = judge_lives(with_parts(ramp(), file=3.0))
    assert one.pattern is Pattern.CALM
    assert "page cache" in one.reasons[1]


def test_unknown_says_what_is_missing() -> None:
    assert judge_lives(life([500, 501])).missing == ("more of its history: 2 samples in 60 s show no trend",)
    assert judge_lives(life(noisy(500, 100), killed=True, limit=None)).missing == ("its limit",)


@pytest.mark.parametrize(
    ("minutes", "same"),
    [([100], None), ([100, 120, 90], True), ([100, 400], False), ([1, 8, 3], True)],
    ids=str,
)
def test_lives_that_end_alike(minutes: list[int], same: bool | None) -> None:
    lives = [life(noisy(500, count), started=True, killed=True) for count in minutes]
    assert judge_lives(*lives).same_end is same


# Of any history

SIZES = st.lists(st.integers(0, 1 << 45), min_size=1, max_size=60)
STEPS = st.lists(st.floats(0, 1e6), min_size=60, max_size=60)


@given(SIZES, STEPS, st.booleans(), st.booleans(), st.one_of(st.none(), st.integers(1, 1 << 45)))
def test_any_history_is_judged(
    sizes: list[int], steps: list[float], started: bool, killed: bool, limit: int | None
) -> None:
    points, at = [], 0.0
    for size, step in zip(sizes, steps, strict=False):
        at += step
        points.append(Point(at, size, size, size, limit))
    one = judge_lives(Life(points=tuple(points), started=started, killed=killed))
    figures = [one.confidence, one.growth_bytes_per_hour, one.growth_since, one.seconds_to_limit]
    assert all(figure is None or math.isfinite(figure) for figure in figures)
    assert (one.pattern in (Pattern.CALM, Pattern.LEAK, Pattern.UNKNOWN)) or killed
    assert bool(one.missing) or one.pattern is not Pattern.UNKNOWN


@example("leak_after_warm_up", 37, 3, 1996.0)
@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 99), st.sampled_from([3, 16]), st.floats(-1e6, 1e6))
def test_neither_the_clock_nor_the_size_matters(name: str, seed: int, factor: float, shift: float) -> None:
    rows = SHAPES[name](Random(seed)).rows[:1500]
    sizes = [key for key in rows[0] if key.endswith("_bytes")]
    other = [row | {"time": float(str(row["time"])) + shift} for row in rows]
    for row in other:
        row |= {key: None if row.get(key) is None else int(float(str(row[key])) * factor) for key in sizes}
    before, after = judge(history_of(rows)), judge(history_of(other))
    if (before.steady_bytes or 0) < 100 * MIB or before.growth_bytes_per_hour is None:
        return  # rounding to bytes, and the least that is told of, do not grow with it
    assert after.pattern is before.pattern
    assert after.growth_bytes_per_hour == pytest.approx(before.growth_bytes_per_hour * factor, rel=0.02)
    # Where a sample is on the edge of a bin, rounding decides.
    one_bin = (float(str(rows[-1]["time"])) - float(str(rows[0]["time"]))) / BINS
    assert after.growth_since == pytest.approx((before.growth_since or 0) + shift, abs=one_bin + 1)


def test_it_is_quick() -> None:
    one = MemoryHistory(lives=(life(ramp(8000, 0.1), killed=True),))
    judge(one)
    begin = time.process_time()
    judge(one)
    assert time.process_time() - begin < 0.05  # some 10 ms are meant; machines differ


def test_growth_before_a_spike_is_not_denied() -> None:
    """The next limit is filled from where the growth has come to."""
    grew = by_hours(lambda hour: 200 + 20 * hour, 20)
    told = judge_lives(life(grew, step=300, started=True, killed=True))
    assert (told.pattern, told.confidence, told.seconds_to_limit) == (Pattern.SPIKE, 0.7, None)
    assert told.growth_bytes_per_hour == pytest.approx(20 * MIB, rel=0.05)
    assert judge_lives(life(by_hours(lambda hour: 400, 20), step=300, killed=True)).growth_bytes_per_hour is None


def test_a_cache_that_was_full_at_this_size_in_the_lives_before_will_be_again() -> None:
    fills = by_hours(lambda hour: 300 + 20 * min(hour, 8.0), 20)
    now = life(fills[: 6 * 12], step=300, started=True)
    assert judge_lives(now).pattern is Pattern.LEAK
    assert judge_lives(*[life(fills, step=300, started=True)] * 3, now).pattern is Pattern.CALM


@pytest.mark.parametrize("saw", [0.3, 1.0])
@pytest.mark.parametrize("minutes", [3.0, 40.0])
def test_cycles_meet_the_limit_with_their_tops(saw: float, minutes: float) -> None:
    """As of a collector that runs when the heap has grown by so much; it leaks 20 MiB an hour."""
    rng = Random(5)
    live = [400 + 20 * at / 60 for at in range(24 * 60)]
    sizes = [size * (1 + saw * (rng.random() if minutes < 5 else (at / minutes) % 1)) for at, size in enumerate(live)]
    told = judge_lives(life(sizes, limit=3 * GIB))
    assert told.seconds_to_limit == pytest.approx((3 * 1024 / (1 + saw) - live[-1]) / 20 * 3600, rel=0.15)


def test_a_higher_limit_after_growth_and_a_spike_has_its_hours() -> None:
    grew = by_hours(lambda hour: 200 + 20 * hour, 20)
    history = MemoryHistory(lives=(life(grew, step=300, started=True, killed=True),))
    (raised,) = [one for one in diagnose_history(history).advice if one.action is Action.SET_LIMIT]
    assert float(str(raised.values["lasts_hours"])) > 20
    assert "if it leaks, that lasts" in raised.text
