"""What grows is found with its slope and its beginning; what only looks like it is not."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.diagnosis.robust import (
    BINS,
    Series,
    bin_up,
    crossings,
    despiked,
    independent,
    opened,
    theil_sen,
    troughs,
)
from collector.diagnosis.trend import HOUR, MIB, Trend, climbs_by_steps, find_growth, trend_from, without_days

VALUES = st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=40)


def series(values: list[float], step: float = 600.0) -> Series:
    return Series([number * step for number in range(len(values))], values)


def growth(values: list[float], *, step: float = 600.0, killed: bool = False) -> Trend | None:
    made = series(values, step)
    return find_growth(made, made, killed=killed)


def noisy(values: list[float], sigma: float) -> list[float]:
    rng = Random(7)
    return [value + rng.gauss(0, sigma) for value in values]


# Statistics


def test_a_line_is_that_of_least_squares_of_any_part() -> None:
    line = series([5.0, 1.0, 3.0, 5.0, 7.0, -9.0]).line(1, 5)
    assert (line.slope * 600, line.at(600.0), line.spread) == pytest.approx((2.0, 1.0, 0.0))


def test_a_line_far_from_zero_is_as_exact() -> None:
    times = [1.76e9 + number for number in range(50)]
    line = Series(times, [1e13 + 3.0 * at for at in range(50)]).line()
    assert line.slope == pytest.approx(3.0, rel=1e-6)
    assert line.spread == pytest.approx(0.0, abs=1e-2)


def test_outliers_do_not_move_theil_sen() -> None:
    values = [float(number) for number in range(30)]
    values[3], values[20] = 900.0, -900.0
    slope, low, high = theil_sen([float(number) for number in range(30)], values, 30)
    assert slope == pytest.approx(1.0)
    assert low <= 1.0 <= high


def test_the_bounds_hold_the_slope_in_19_of_20_cases() -> None:
    rng = Random(1)
    times = [float(number) for number in range(40)]
    held = 0
    for _ in range(200):
        _, low, high = theil_sen(times, [0.5 * at + rng.gauss(0, 10) for at in times], 40)
        held += low <= 0.5 <= high
    assert 180 <= held <= 199


@pytest.mark.parametrize(
    ("residuals", "worth"),
    [
        pytest.param([1.0, -1.0] * 20, 40, id="each by itself"),
        pytest.param([-1.0] * 20 + [1.0] * 20, 1, id="one step"),
        pytest.param([0.0] * 10, 10, id="none"),
    ],
)
def test_residuals_that_are_alike_count_as_few(residuals: list[float], worth: float) -> None:
    assert independent(residuals) == pytest.approx(worth, abs=0.6)


def test_crossings_skip_what_is_on_the_line() -> None:
    assert crossings([1.0, 0.0, 1.0, -1.0, 0.0, -2.0, 3.0]) == 2


def test_bins_are_of_equal_times_and_leave_gaps_out() -> None:
    times = [float(number) for number in [*range(100), *range(900, 1001)]]
    bins = bin_up(times, times, most=10)
    assert [(one.low, one.middle, one.high) for one in bins] == [(0, 50, 99), (900, 950, 1000)]


def test_few_samples_are_bins_of_their_own() -> None:
    assert len(bin_up([0.0] * BINS, [1.0] * BINS)) == BINS


def test_many_samples_of_one_moment_are_one_bin() -> None:
    assert len(bin_up([5.0] * 500, [1.0] * 500)) == 1


def test_a_spike_is_taken_out_and_a_step_stays() -> None:
    values = [1.0, 1.1, 1.0, 9.0, 1.1, 1.0, 1.1, 1.0, 5.0, 5.1, 5.0, 5.1]
    assert despiked([float(number) for number in range(12)], values) == [*values[:3], 1.1, *values[4:]]


@pytest.mark.parametrize("backwards", [False, True])
def test_a_ramp_stays_one_up_to_its_end_where_all_before_was_still(backwards: bool) -> None:
    values = [1.0, 1.001, 1.0, 1.001] * 5 + [2.0, 3.0, 4.0, 5.0, 6.0]
    values = values[::-1] if backwards else values
    assert despiked([float(number) for number in range(25)], values) == pytest.approx(values, abs=0.01)


@pytest.mark.parametrize("at", [0, 11])
def test_a_spike_at_either_end_is_taken_out(at: int) -> None:
    values = [1.0, 1.1] * 6
    values[at] = 9.0
    assert max(despiked([float(number) for number in range(12)], values)) < 1.5


def test_what_came_after_a_gap_is_no_spike() -> None:
    times = [0.0, 1.0, 2.0, 3.0, 4.0, 50.0]
    values = [1.0, 1.1, 1.0, 1.1, 1.0, 9.0]
    assert despiked(times, values) == values


def test_opening_cuts_humps_and_leaves_ramps() -> None:
    ramp = [float(number) for number in range(12)]
    assert opened(ramp, 4) == ramp
    assert opened([1.0, 1.0, 5.0, 6.0, 1.0, 1.0, 1.0], 3) == [1.0] * 7


def test_troughs_are_what_a_saw_comes_down_to() -> None:
    saw = [float(number % 5 + number // 5) for number in range(30)]
    assert [saw[at] for at in troughs(saw, 2)] == [1.0, 2.0, 3.0, 4.0, 5.0]


# Growth

RAMP = [100 * MIB + 2 * MIB * number for number in range(90)]


def test_a_ramp_is_found_with_its_slope() -> None:
    found = growth(noisy([float(value) for value in RAMP], 3 * MIB))
    assert found is not None
    assert found.slope * 600 == pytest.approx(2 * MIB, rel=0.03)
    assert found.low < found.slope < found.high
    assert found.since == 0.0


def test_it_begins_where_it_began() -> None:
    found = growth(noisy([100.0 * MIB + max(0, number - 40) * 3 * MIB for number in range(144)], MIB))
    assert found is not None
    assert found.since == pytest.approx(40 * 600, abs=4 * 600)
    assert found.slope * 600 == pytest.approx(3 * MIB, rel=0.05)


def test_a_saw_on_a_ramp_is_a_ramp() -> None:
    found = growth([100.0 * MIB + MIB * number + 12 * MIB * (number % 8) for number in range(96)])
    assert found is not None
    assert found.slope * 600 == pytest.approx(MIB, rel=0.1)


def test_a_day_on_a_ramp_is_a_ramp() -> None:
    found = growth([300.0 * MIB + MIB * at + 60 * MIB * math.sin(at * math.pi / 12) for at in range(96)], step=HOUR)
    assert found is not None
    assert found.slope * HOUR == pytest.approx(MIB, rel=0.1)


CALM = {
    "flat": [1.0] * 96,
    "noise": noisy([1.0] * 96, 0.1),
    "saw": [1 + 0.05 * (number % 12) for number in range(96)],
    "the last ramp of a slow saw": [1 + 0.02 * (number % 40) for number in range(118)],
    "warmed up": [2 - math.exp(-number / 12) for number in range(96)],
    "ever slower": [1 + math.log1p(number) / 4 for number in range(96)],
    "one step": [1.0] * 40 + [1.5] * 56,
    "three steps": [1 + 0.3 * (number // 24) for number in range(96)],
    "half a day": [1.5 - math.cos(number * math.pi / 72) / 2 for number in range(72)],
    "a wave": [1.5 + math.sin(number * math.pi / 72) / 2 for number in range(96)],
    "shrinking": [2 - number / 96 for number in range(96)],
    "full": [1 + min(number, 60) / 60 for number in range(96)],
}


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
@pytest.mark.parametrize("name", CALM)
def test_what_looks_like_growth_is_none(name: str, killed: bool) -> None:
    if killed and name == "half a day":
        return  # that it was killed there makes it the end of a ramp
    values = noisy([value * 200 * MIB for value in CALM[name]], 0.2 * MIB)
    assert growth(values, killed=killed) is None


def test_a_leak_in_many_lumps_does_not_climb_by_steps() -> None:
    lumps, steps = ([float(number // size) for number in range(96)] for size in (4, 24))
    assert not climbs_by_steps(series(lumps), trend_from(series(lumps), 0))
    assert climbs_by_steps(series(steps), trend_from(series(steps), 0))


def test_days_are_taken_out_only_where_there_are_some() -> None:
    wave = [100 + 50 * math.sin(at * math.pi / 12) for at in range(96)]
    even = without_days(series(wave, HOUR))
    assert even is not None
    assert max(even.values) - min(even.values) < 5
    assert without_days(series(wave[:40], HOUR)) is None
    assert without_days(series([float(at) for at in range(96)], HOUR)) is None


@given(VALUES, st.floats(1e-3, 1e6), st.booleans())
def test_anything_gives_a_finite_trend_or_none(values: list[float], step: float, killed: bool) -> None:
    found = growth(values, step=step, killed=killed)
    assert found is None or all(math.isfinite(value) for value in (found.slope, found.low, found.high, found.strength))
