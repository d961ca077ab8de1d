"""The agent's look at a container that lives, of which it knows a day."""

from __future__ import annotations

import random

import pytest

from collector.diagnosis.forecast import look
from collector.history import Bounds, Life, Sample

HOUR = 3600.0
DAY = 24 * HOUR
MIB = 1 << 20
LIMIT = 2048 * MIB
SETTLED_HOURS = range(25, 72)


def told_at(hours: range, used: list[int], *, interval: float = 300.0) -> list[int]:
    """The hours at which growth is told. used: bytes, a sample each `interval` seconds from 0 on."""
    life, told = Life(), []
    for index, size in enumerate(used):
        at = index * interval
        hour, into = divmod(at, HOUR)
        if not into and int(hour) in hours and look(life, limit=LIMIT, now=at):
            told.append(int(hour))
        sample = Sample(current=size, working_set=size, anon=size, file=0, shmem=0, kernel=0, swap=0)
        life.add(sample, Bounds(limit=LIMIT, peak=None, stall_seconds=None), at)
    return told


def test_a_leak_is_told_at_any_hour_of_its_second_and_third_day() -> None:
    rng = random.Random(7)
    used = [round((300 + 10 * index / 12 + rng.gauss(0, 2)) * MIB) for index in range(72 * 12)]
    assert told_at(SETTLED_HOURS, used) == list(SETTLED_HOURS)


@pytest.mark.parametrize(("rate", "saw", "hours"), [(10, 100, 1.0), (10, 200, 2.0), (10, 300, 1.5), (20, 300, 1.0)])
def test_a_leak_below_a_garbage_collector_s_saw_is_told(rate: float, saw: float, hours: float) -> None:
    rng = random.Random(7)
    used = [
        round((300 + rate * index / 12 + saw * ((index / 12 / hours) % 1) + rng.gauss(0, 2)) * MIB)
        for index in range(72 * 12)
    ]
    assert len(told_at(SETTLED_HOURS, used)) >= 0.9 * len(SETTLED_HOURS)


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.55, 0.9])
def test_what_is_given_back_each_night_is_not_told_when_a_night_was_seen(phase: float) -> None:
    """In the last hour before it comes, the last night is about to be forgotten."""
    rng = random.Random(7)
    used = [round((300 + 240 * ((index / 288 + phase) % 1) + rng.gauss(0, 2)) * MIB) for index in range(72 * 12)]
    assert len(told_at(SETTLED_HOURS, used)) <= 2


def test_the_tops_of_its_cycles_meet_the_limit() -> None:
    """Of a collector that lets the heap grow to twice of what lives, which leaks 10 MiB an hour."""
    rng, life, limit = random.Random(7), Life(), 1500 * MIB
    for minute in range(30 * 60):
        used = round((300 + minute / 6) * (1 + rng.random()) * MIB)
        sample = Sample(current=used, working_set=used, anon=used, file=0, shmem=0, kernel=0, swap=0)
        life.add(sample, Bounds(limit=limit, peak=None, stall_seconds=None), minute * 60.0)
    left = [trend.seconds_to_limit for at in (limit, 2 * limit) if (trend := look(life, limit=at, now=30 * HOUR))]
    assert left[0] == pytest.approx(15 * HOUR, rel=0.15)
    assert (left[1] or 0) > (left[0] or 0) + 40 * HOUR
