"""
Memory histories with known answers, on which the rules are tuned.

A shape is a function of a random source that gives a Story: rows as in a file for `diagnose`, and what they show. What
is reported as the quality of the diagnosis is measured on other shapes, which nothing is tuned on.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

MIB = 1 << 20
HOUR = 3600.0
DAY = 24 * HOUR

Row = dict[str, object]
Load = Callable[[float], float]
"""MiB at so many seconds from the first sample."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """`answers`: the patterns that are true of it. `growth`, in MiB an hour, and `since` of a leak."""

    rows: list[Row]
    answers: tuple[str, ...]
    growth: float | None = None
    since: float | None = None


Shape = Callable[[Random], Story]
SHAPES: dict[str, Shape] = {}


def shape(make: Shape) -> Shape:
    SHAPES[make.__name__] = make
    return make


@dataclass(kw_only=True)
class Take:
    """How a load is looked at."""

    rng: Random
    hours: float
    step: float
    limit: float | None
    noise: float = 0.0
    """Standard deviation, MiB."""
    parts: Callable[[float, float], dict[str, float]] | None = None
    """Of the time and the working set."""
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Seconds without samples."""
    begin: float = 0.0
    quantum: float = 4096 / MIB
    outliers: float = 0.0
    """Share of readings that are far off."""
    clock: float | None = None

    def rows(self, load: Load, *, started: bool = False, kill: bool = False, kill_shown: bool = True) -> list[Row]:
        """kill: where the limit is met, else at the end. kill_shown: the sample of the kill is at the limit."""
        rng = self.rng
        zero = self.clock if self.clock is not None else rng.choice((0.0, 5e4, 1.76e9)) + rng.random()
        self.clock = zero
        rows: list[Row] = []
        end = self.begin + self.hours * HOUR
        at = self.begin
        while at < end:
            elapsed, at = at, at + self.step * (1 + rng.uniform(-0.02, 0.02))
            if any(low <= elapsed < high for low, high in self.gaps):
                continue
            size = load(elapsed) + rng.gauss(0, self.noise)
            if rng.random() < self.outliers:
                size *= rng.choice((0.3, 0.6, 1.4, 2))
            size = max(size, 1.0)
            dies = kill and self.limit is not None and size >= self.limit
            if self.limit is not None:
                size = min(size, self.limit * rng.uniform(0.985, 1.0)) if size >= self.limit else size
            rows.append(self._row(zero + elapsed, size))
            if dies:
                break
        if kill:
            last = rows[-1]
            last["event"] = "oom_kill"
            if kill_shown and self.limit is not None:
                last["working_set_bytes"] = int(self.limit * MIB)
        if started:
            rows[0]["event"] = "start"
        return rows

    def _row(self, at: float, size: float) -> Row:
        row: Row = {"time": at, "working_set_bytes": self._bytes(size)}
        row["limit_bytes"] = None if self.limit is None else int(self.limit) * MIB
        for name, part in (self.parts(at, size) if self.parts else {}).items():
            row[f"{name}_bytes"] = self._bytes(part)
        return row

    def _bytes(self, size: float) -> int:
        return max(0, int(round(size / self.quantum) * self.quantum * MIB))


# Loads


def ramp(rate: float, *, since: float = 0.0) -> Load:
    """MiB an hour."""
    return lambda at: rate * max(0.0, at - since) / HOUR


def flat(size: float) -> Load:
    return lambda _: size


def total(*loads: Load) -> Load:
    return lambda at: sum(load(at) for load in loads)


def saw(height: float, period: float, *, phase: float = 0.0) -> Load:
    return lambda at: height * ((at / period + phase) % 1.0)


def daily(height: float, *, phase: float = 0.0) -> Load:
    return lambda at: height * (1 - math.cos(2 * math.pi * (at / DAY + phase))) / 2


def office(height: float, *, phase: float = 0.0, weekend: float = 1.0) -> Load:
    """Low at night, up from seven to ten, down from six to nine."""

    def size(at: float) -> float:
        days = at / DAY + phase
        hour = (days % 1.0) * 24
        share = min(1.0, max(0.0, (hour - 7) / 3)) - min(1.0, max(0.0, (hour - 18) / 3))
        return height * share * (weekend if int(days) % 7 >= 5 else 1.0)

    return size


def warm(height: float, tau: float) -> Load:
    return lambda at: height * (1 - math.exp(-max(at, 0) / tau))


def steps(*edges: tuple[float, float]) -> Load:
    """At so many seconds so many MiB more."""
    return lambda at: sum(size for when, size in edges if at >= when)


def wander(rng: Random, sigma: float, memory: float, step: float) -> Load:
    """An AR(1) process with that standard deviation and correlation time."""
    values: dict[int, float] = {-1: rng.gauss(0, sigma)}
    keep = math.exp(-step / memory)
    kick = sigma * math.sqrt(1 - keep * keep)

    def size(at: float) -> float:
        index = int(at / step)
        last = max(values)
        for one in range(last + 1, index + 1):
            values[one] = keep * values[one - 1] + rng.gauss(0, kick)
        return values.get(index, 0.0)

    return size


def bursts(rng: Random, height: float, every: float, lasts: float, until: float) -> Load:
    found: list[tuple[float, float, float]] = []
    at = rng.expovariate(1 / every)
    while at < until:
        found.append((at, at + lasts * rng.uniform(0.5, 1.5), height * rng.uniform(0.4, 1)))
        at += rng.expovariate(1 / every) + lasts
    return lambda when: sum(size for low, high, size in found if low <= when < high)


def stairs(rng: Random, size: float, every: float, until: float) -> Load:
    """A leak in lumps: allocators take arenas."""
    edges: list[tuple[float, float]] = []
    at = every * rng.random()
    while at < until:
        edges.append((at, size))
        at += every * rng.uniform(0.8, 1.2)
    return steps(*edges)


# Leaks


def _sampling(rng: Random, hours: float, *, most: int = 3000, least: int = 60) -> float:
    fitting = [s for s in (1, 5, 10, 15, 30, 60, 300, 600, 3600) if least <= hours * HOUR / s <= most]
    return rng.choice(fitting or [hours * HOUR / least])


def _leak(
    rng: Random,
    *,
    rate: float | None = None,
    hours: float | None = None,
    extra: Callable[[float, float, float], Load] | None = None,
    noise: float = 0.02,
    calm_share: float = 0.0,
    kill: bool | None = None,
    parts: Callable[[float], Callable[[float, float], dict[str, float]]] | None = None,
    started: bool | None = None,
    headroom: float = 0.0,
    **options: object,
) -> Story:
    """noise, headroom for the load beside the leak: of the rise. extra: of base, rise and seconds. calm_share: of the time before it begins."""
    hours = hours or math.exp(rng.uniform(math.log(2), math.log(120)))
    rate = rate or math.exp(rng.uniform(math.log(80 / hours), math.log(1000 if hours < 4 else 4000 / hours)))
    grows = hours * (1 - calm_share)
    rise = rate * grows
    base = rise * rng.uniform(0.3, 2.5) + 20
    since = hours * calm_share * HOUR
    load = total(flat(base), ramp(rate, since=since), extra(base, rise, hours * HOUR) if extra else flat(0))
    kill = rng.random() < 0.6 if kill is None else kill
    limit = base + rise * (headroom + (0.97 if kill else rng.uniform(1.1, 4)))
    step = _sampling(rng, hours)
    take = Take(rng=rng, hours=hours * 2 if kill else hours, step=step, limit=int(limit), noise=noise * rise)
    for name, value in options.items():
        setattr(take, name, value)
    if parts:
        take.parts = parts(base)
    rows = take.rows(load, started=rng.random() < 0.5 if started is None else started, kill=kill)
    clock = take.clock or 0.0
    return Story(rows=rows, answers=("leak",), growth=rate, since=clock + since)


@shape
def leak_plain(rng: Random) -> Story:
    return _leak(rng, noise=rng.uniform(0.001, 0.03))


@shape
def leak_noisy(rng: Random) -> Story:
    return _leak(rng, noise=rng.uniform(0.05, 0.15))


@shape
def leak_of_1_mb_an_hour(rng: Random) -> Story:
    return _leak(rng, rate=1.0, hours=rng.uniform(48, 330), noise=0.02)


@shape
def leak_of_1_gb_an_hour(rng: Random) -> Story:
    return _leak(rng, rate=rng.uniform(700, 1000), hours=rng.uniform(0.4, 2), noise=0.02, kill=True)


@shape
def leak_of_1_gb_an_hour_ahead(rng: Random) -> Story:
    return _leak(rng, rate=rng.uniform(700, 1000), hours=rng.uniform(1, 3), noise=0.02, kill=False)


@shape
def leak_under_saw(rng: Random) -> Story:
    height = rng.uniform(0.1, 0.5)

    def extra(base: float, rise: float, seconds: float) -> Load:
        return saw(rise * height, seconds / rng.uniform(8, 200), phase=rng.random())

    return _leak(rng, extra=extra, noise=0.005, headroom=height)


@shape
def leak_under_high_saw(rng: Random) -> Story:
    height = rng.uniform(0.6, 1.2)

    def extra(base: float, rise: float, seconds: float) -> Load:
        return saw(rise * height, seconds / rng.uniform(15, 200), phase=rng.random())

    return _leak(rng, extra=extra, noise=0.005, headroom=height)


@shape
def leak_under_daily_load(rng: Random) -> Story:
    def extra(base: float, rise: float, seconds: float) -> Load:
        return daily(rise * rng.uniform(0.1, 0.6), phase=rng.random())

    return _leak(rng, hours=rng.uniform(60, 330), extra=extra, noise=0.01, headroom=0.5)


@shape
def leak_under_office_load(rng: Random) -> Story:
    def extra(base: float, rise: float, seconds: float) -> Load:
        return office(rise * rng.uniform(0.1, 0.6), phase=rng.random(), weekend=rng.choice((1, 0.4)))

    return _leak(rng, hours=rng.uniform(72, 330), extra=extra, noise=0.01, headroom=0.5)


@shape
def leak_under_small_daily_load_of_a_day(rng: Random) -> Story:
    def extra(base: float, rise: float, seconds: float) -> Load:
        return daily(rise * rng.uniform(0.05, 0.12), phase=rng.random())

    return _leak(rng, hours=rng.uniform(14, 48), extra=extra, noise=0.01)


@shape
def leak_by_requests_of_the_day(rng: Random) -> Story:
    """It grows with the load: fast by day, slowly at night."""
    hours = rng.uniform(72, 300)
    rate = rng.uniform(2, 30)
    swing = rng.uniform(0.3, 0.9)
    phase = rng.random()

    def extra(base: float, rise: float, seconds: float) -> Load:
        size = rate * 24 * swing / (2 * math.pi)
        return lambda at: size * (1 - math.cos(2 * math.pi * (at / DAY + phase)))

    return _leak(rng, rate=rate, hours=hours, extra=extra, noise=0.005)


@shape
def leak_after_calm(rng: Random) -> Story:
    return _leak(rng, hours=rng.uniform(10, 100), calm_share=rng.uniform(0.2, 0.6), noise=rng.uniform(0.005, 0.03))


@shape
def leak_after_long_calm_and_killed(rng: Random) -> Story:
    return _leak(rng, hours=rng.uniform(15, 200), calm_share=rng.uniform(0.6, 0.85), noise=0.02, kill=True)


@shape
def leak_after_warm_up(rng: Random) -> Story:
    height = rng.uniform(0.2, 1)

    def extra(base: float, rise: float, seconds: float) -> Load:
        return warm(rise * height, seconds * rng.uniform(0.01, 0.05))

    story = _leak(rng, extra=extra, noise=0.01, started=True, headroom=height)
    # A steady phase begins when it is warm, and when that is nobody can say.
    return replace(story, since=None)


@shape
def leak_with_gaps(rng: Random) -> Story:
    hours = rng.uniform(6, 150)
    edges = sorted(rng.uniform(0, hours * HOUR * 1.2) for _ in range(6))
    return _leak(rng, hours=hours, gaps=list(zip(edges[::2], edges[1::2], strict=True)))


@shape
def leak_with_outliers(rng: Random) -> Story:
    return _leak(rng, outliers=0.01, kill=False)


@shape
def leak_and_bursts(rng: Random) -> Story:
    def extra(base: float, rise: float, seconds: float) -> Load:
        return bursts(rng, rise * 0.4, seconds / 25, seconds / 150, seconds)

    return _leak(rng, extra=extra, noise=0.01)


@shape
def leak_wandering(rng: Random) -> Story:
    def extra(base: float, rise: float, seconds: float) -> Load:
        return wander(rng, rise * rng.uniform(0.02, 0.08), seconds / rng.uniform(20, 200), seconds / 500)

    return _leak(rng, extra=extra, noise=0.005)


@shape
def leak_in_lumps(rng: Random) -> Story:
    hours = rng.uniform(4, 150)
    rate = rng.uniform(80, 3000) / hours
    lumps = rng.uniform(12, 60)

    def extra(base: float, rise: float, seconds: float) -> Load:
        smooth = ramp(rate)
        lumpy = stairs(rng, rise / lumps, seconds / lumps, seconds * 2)
        return lambda at: lumpy(at) - smooth(at)

    return _leak(rng, rate=rate, hours=hours, extra=extra, noise=0.003)


@shape
def leak_in_whole_mib(rng: Random) -> Story:
    return _leak(rng, rate=rng.uniform(1, 3), hours=rng.uniform(24, 200), noise=0.0, quantum=1.0)


@shape
def leak_of_a_big_process(rng: Random) -> Story:
    big = rng.uniform(2000, 8000)
    rate, hours = rng.uniform(2, 20), rng.uniform(30, 200)
    headroom = big / rate / hours

    def extra(base: float, rise: float, seconds: float) -> Load:
        return flat(big)

    return _leak(rng, rate=rate, hours=hours, noise=0.02, extra=extra, headroom=headroom)


@shape
def leak_by_the_hour(rng: Random) -> Story:
    return _leak(rng, hours=rng.uniform(30, 200), step=3600.0, noise=0.02)


@shape
def leak_over_restarts(rng: Random) -> Story:
    hours, rate = rng.uniform(3, 30), rng.uniform(20, 300)
    base = rng.uniform(50, 500)
    limit = int(base + rate * hours)
    take = Take(rng=rng, hours=hours * 1.5, step=_sampling(rng, hours), limit=limit, noise=0.01 * rate * hours)
    rows: list[Row] = []
    load = total(flat(base), ramp(rate))
    lives = rng.randint(2, 5)
    since = 0.0
    for number in range(lives):
        last = number == lives - 1
        take.begin = 0.0
        if last and rng.random() < 0.4:
            take.hours = hours * rng.uniform(0.6, 0.9)
            more = take.rows(load, started=True)
        else:
            more = take.rows(load, started=True, kill=True)
        assert isinstance(more[-1]["time"], float)
        since = take.clock or 0.0
        take.clock = more[-1]["time"] + rng.uniform(5, 300)
        rows += more
    return Story(rows=rows, answers=("leak",), growth=rate, since=since)


@shape
def leak_held_at_the_limit(rng: Random) -> Story:
    """Page cache gives way for a while before the kill."""
    hours, rate = rng.uniform(2, 60), rng.uniform(30, 300)
    base = rng.uniform(50, 500)
    limit = int(base + rate * hours)
    held = hours * rng.uniform(0.02, 0.15)
    take = Take(rng=rng, hours=hours + held, step=_sampling(rng, hours), limit=limit, noise=0.005 * rate * hours)
    rows = take.rows(total(flat(base), ramp(rate)), started=True)
    rows[-1]["event"] = "oom_kill"
    return Story(rows=rows, answers=("leak",), growth=rate, since=take.clock)


def _anon_and_cache(base: float) -> Callable[[float, float], dict[str, float]]:
    return lambda _, size: {
        "anon": size * 0.9 - base * 0.1,
        "file": base * 0.3,
        "shmem": 0.0,
        "kernel": size * 0.1 - base * 0.05,
    }


@shape
def leak_with_parts(rng: Random) -> Story:
    return _leak(rng, parts=_anon_and_cache, noise=0.02)


@shape
def leak_of_shmem(rng: Random) -> Story:
    def parts(base: float) -> Callable[[float, float], dict[str, float]]:
        return lambda _, size: {
            "anon": base * 0.7,
            "shmem": max(0.0, size - base),
            "file": max(0.0, size - base) + 0.4 * base,
            "kernel": base * 0.05,
        }

    return _leak(rng, parts=parts)


@shape
def leak_of_kernel(rng: Random) -> Story:
    def parts(base: float) -> Callable[[float, float], dict[str, float]]:
        return lambda _, size: {
            "anon": base * 0.7,
            "shmem": 0.0,
            "file": 0.4 * base,
            "kernel": max(0.0, size - base * 0.9),
        }

    return _leak(rng, parts=parts)


@shape
def leak_accelerating(rng: Random) -> Story:
    hours = rng.uniform(4, 60)
    size = rng.uniform(200, 2000)
    kill = rng.random() < 0.6
    limit = int(100 + size * (0.98 if kill else 2))
    take = Take(rng=rng, hours=hours * (1.2 if kill else 1), step=_sampling(rng, hours), limit=limit, noise=size * 0.01)
    rows = take.rows(lambda at: 100 + size * (at / hours / HOUR) ** 1.5, kill=kill)
    return Story(rows=rows, answers=("leak",))


@shape
def leak_seen_every_ten_minutes(rng: Random) -> Story:
    """By the hour it grows much: the last sample is far from the limit."""
    return _leak(rng, hours=rng.uniform(3, 8), step=600.0, noise=0.005, kill=True)


@shape
def leak_of_a_slow_start(rng: Random) -> Story:
    """First it shrinks."""
    hours = rng.uniform(6, 60)

    def extra(base: float, rise: float, seconds: float) -> Load:
        return warm(-rise * 0.3, seconds * 0.03)

    return replace(_leak(rng, hours=hours, extra=extra, kill=True), since=None)


@shape
def leak_with_a_step(rng: Random) -> Story:
    def extra(base: float, rise: float, seconds: float) -> Load:
        return steps((rng.uniform(0.2, 0.8) * seconds, rise * rng.uniform(-0.3, 0.3)))

    return replace(_leak(rng, hours=rng.uniform(10, 100), extra=extra, noise=0.01, headroom=0.2), since=None)


@shape
def leak_of_a_jvm(rng: Random) -> Story:
    height = rng.uniform(0.2, 0.6)

    def extra(base: float, rise: float, seconds: float) -> Load:
        young = saw(rise * height * 0.3, rng.uniform(20, 300), phase=rng.random())
        old = saw(rise * height * 0.7, seconds / rng.uniform(15, 60), phase=rng.random())
        return total(young, old)

    return _leak(rng, extra=extra, noise=0.01, headroom=height)


@shape
def leak_without_a_limit(rng: Random) -> Story:
    story = _leak(rng, hours=rng.uniform(10, 100), kill=False)
    for row in story.rows:
        row["limit_bytes"] = None
    return story


# Calm


def _calm(rng: Random, load: Load, hours: float, *, most: float, **options: object) -> Story:
    """most: MiB that the load reaches."""
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=int(most * rng.uniform(1.05, 3)) + 1)
    for name, value in options.items():
        setattr(take, name, value)
    return Story(rows=take.rows(load, started=rng.random() < 0.4), answers=("calm",))


def _hours(rng: Random, low: float = 1.0, high: float = 330) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


@shape
def calm_flat(rng: Random) -> Story:
    base = rng.uniform(20, 4000)
    return _calm(rng, flat(base), _hours(rng), most=base * 1.2, noise=base * rng.choice((0, 0.001, 0.01, 0.05)))


@shape
def calm_near_limit(rng: Random) -> Story:
    base = rng.uniform(20, 4000)
    limit = int(base / rng.uniform(0.9, 0.99)) + 1
    return _calm(rng, flat(base), _hours(rng), most=base, noise=base * 0.002, limit=limit)


@shape
def calm_saw(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), _hours(rng, 2)
    height = base * rng.uniform(0.1, 2)
    load = total(flat(base), saw(height, hours * HOUR / rng.uniform(4, 300), phase=rng.random()))
    return _calm(rng, load, hours, most=base + height, noise=height * 0.01)


@shape
def calm_slow_saw(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), _hours(rng, 6, 100)
    height = base * rng.uniform(0.1, 2)
    load = total(flat(base), saw(height, hours * HOUR / rng.uniform(2, 4), phase=rng.random()))
    return _calm(rng, load, hours, most=base + height, noise=height * 0.01)


@shape
def calm_daily(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), rng.uniform(24, 330)
    height = base * rng.uniform(0.1, 2)
    load = total(flat(base), daily(height, phase=rng.random()))
    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.005, 0.05))


@shape
def calm_part_of_a_day(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), rng.uniform(8, 30)
    height = base * rng.uniform(0.1, 2)
    load = total(flat(base), daily(height, phase=rng.random()))
    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.005, 0.05))


@shape
def calm_rising_half_day(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), rng.uniform(9, 12.5)
    height = base * rng.uniform(0.1, 2)
    load = total(flat(base), daily(height, phase=rng.uniform(-0.02, 0.02)))
    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.005, 0.05))


@shape
def calm_office(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), rng.uniform(8, 330)
    height = base * rng.uniform(0.1, 2)
    load = total(flat(base), office(height, phase=rng.random() * 7, weekend=rng.choice((1, 0.3))))
    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.005, 0.05))


@shape
def calm_after_warm_up(rng: Random) -> Story:
    base, hours = rng.uniform(20, 2000), _hours(rng, 1, 100)
    height = base * rng.uniform(0.2, 5)
    load = total(flat(base), warm(height, hours * HOUR * rng.uniform(0.03, 0.35)))
    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.002, 0.03))


@shape
def calm_filling_ever_slower(rng: Random) -> Story:
    base, hours = rng.uniform(20, 2000), _hours(rng, 1, 200)
    height = base * rng.uniform(0.05, 0.5)
    tau = hours * HOUR * rng.uniform(0.005, 0.03)
    load = total(flat(base), lambda at: height * math.log1p(at / tau))
    return _calm(rng, load, hours, most=base + height * 6, noise=height * rng.uniform(0.01, 0.05))


@shape
def calm_steps(rng: Random) -> Story:
    base, hours = rng.uniform(100, 2000), _hours(rng, 1, 200)
    height = base * rng.uniform(0.1, 1)
    edges = [(rng.uniform(0.05, 0.95) * hours * HOUR, height * rng.uniform(0.4, 1)) for _ in range(rng.randint(1, 3))]
    load = total(flat(base), steps(*edges))
    return _calm(rng, load, hours, most=base + height * 3, noise=height * rng.uniform(0.002, 0.05))


@shape
def calm_steps_up_and_down(rng: Random) -> Story:
    base, hours = rng.uniform(100, 2000), _hours(rng, 1, 200)
    height = base * rng.uniform(0.1, 0.3)
    ups = [1.0, -1.0, 1.0, 1.0, -1.0][: rng.randint(2, 5)]
    edges = [(rng.uniform(0.05, 0.95) * hours * HOUR, height * up * rng.uniform(0.4, 1)) for up in ups]
    load = total(flat(base), steps(*edges))
    return _calm(rng, load, hours, most=base + height * 3, noise=height * rng.uniform(0.002, 0.05))


@shape
def calm_wandering(rng: Random) -> Story:
    base, hours = rng.uniform(100, 2000), _hours(rng, 2, 300)
    sigma = base * rng.uniform(0.01, 0.1)
    load = total(flat(base), wander(rng, sigma, hours * HOUR / rng.uniform(6, 200), hours * HOUR / 500))
    return _calm(rng, load, hours, most=base + sigma * 4, noise=sigma * 0.05)


@shape
def calm_bursts(rng: Random) -> Story:
    base, hours = rng.uniform(100, 2000), _hours(rng, 2, 300)
    height = base * rng.uniform(0.2, 2)
    load = total(flat(base), bursts(rng, height, hours * HOUR / rng.uniform(5, 50), hours * HOUR / 200, hours * HOUR))
    return _calm(rng, load, hours, most=base + height, noise=base * 0.005)


@shape
def calm_with_page_cache(rng: Random) -> Story:
    """The working set grows, by active file pages: the kernel takes them back when it needs them."""
    base, hours = rng.uniform(50, 1000), _hours(rng, 2, 200)
    rise = base * rng.uniform(0.5, 3)

    def parts(_: float, size: float) -> dict[str, float]:
        return {"anon": base * 0.8, "file": size - base + 0.2 * base, "shmem": base * 0.02, "kernel": base * 0.05}

    load = total(flat(base), ramp(rise / hours))
    return _calm(rng, load, hours, most=base + rise, noise=rise * 0.01, parts=parts)


@shape
def calm_after_one_spike(rng: Random) -> Story:
    base, hours = rng.uniform(50, 1000), _hours(rng, 1, 100)
    at = rng.uniform(0.1, 0.9) * hours * HOUR
    load = total(flat(base), steps((at, base), (at + hours * 60, -base)))
    return _calm(rng, load, hours, most=base * 2, noise=base * 0.01)


@shape
def calm_after_restarts(rng: Random) -> Story:
    base = rng.uniform(50, 1000)
    height = base * rng.uniform(0.2, 2)
    rows: list[Row] = []
    take = Take(rng=rng, hours=1, step=rng.choice((10, 30)), limit=int((base + height) * 1.5), noise=height * 0.01)
    for _ in range(rng.randint(2, 4)):
        take.hours = rng.uniform(1.5, 8)
        rows += take.rows(total(flat(base), warm(height, 600)), started=True)
        last = rows[-1]["time"]
        assert isinstance(last, float)
        take.clock = last + rng.uniform(10, 600)
    return Story(rows=rows, answers=("calm",))


@shape
def calm_with_gaps_and_outliers(rng: Random) -> Story:
    base, hours = rng.uniform(50, 1000), _hours(rng, 3, 100)
    edges = sorted(rng.uniform(0, hours * HOUR) for _ in range(6))
    gaps = list(zip(edges[::2], edges[1::2], strict=True))
    return _calm(rng, flat(base), hours, most=base * 2, noise=base * 0.02, outliers=0.01, gaps=gaps)


@shape
def calm_freed(rng: Random) -> Story:
    """It shrinks."""
    base, hours = rng.uniform(50, 1000), _hours(rng, 3, 100)
    return _calm(rng, total(flat(base), ramp(-base * 0.6 / hours)), hours, most=base, noise=base * 0.02)


@shape
def calm_by_the_week(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), rng.uniform(100, 340)
    height = base * rng.uniform(0.1, 1)
    busy = office(height, phase=rng.random() * 7, weekend=0.1)
    return _calm(rng, total(flat(base), busy), hours, most=base + height, noise=height * rng.uniform(0.005, 0.1))


@shape
def calm_days_that_differ(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), rng.uniform(40, 340)
    height = base * rng.uniform(0.1, 1)
    heights = [height * rng.uniform(0.5, 1) for _ in range(16)]
    phase = rng.random()

    def load(at: float) -> float:
        days = at / DAY + phase
        return base + heights[int(days)] * (1 - math.cos(2 * math.pi * days)) / 2

    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.005, 0.05))


@shape
def calm_saw_of_many_heights(rng: Random) -> Story:
    """Collected at a random fill, from a floor that differs a little."""
    base, hours = rng.uniform(50, 2000), _hours(rng, 2, 200)
    height, slots = base * rng.uniform(0.1, 1.5), rng.randint(10, 80)
    drops = sorted(rng.uniform(0, hours * HOUR) for _ in range(slots))
    floors = [base * rng.uniform(0.95, 1.05) for _ in range(slots + 1)]
    speed = height / (hours * HOUR / slots)

    def load(at: float) -> float:
        index = bisect.bisect(drops, at)
        return floors[index] + speed * (at - (drops[index - 1] if index else 0))

    return _calm(rng, load, hours, most=base + height * 6, noise=height * 0.01)


@shape
def calm_filled_at_a_steady_pace(rng: Random) -> Story:
    """A cache that is read in, and then is full."""
    base, hours = rng.uniform(50, 1000), _hours(rng, 1, 100)
    height = base * rng.uniform(0.3, 3)
    full = hours * HOUR * rng.uniform(0.05, 0.7)
    load = total(flat(base), lambda at: height * min(1.0, at / full))
    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.003, 0.03))


@shape
def calm_slowly_warm(rng: Random) -> Story:
    base, hours = rng.uniform(50, 1000), _hours(rng, 2, 100)
    height = base * rng.uniform(0.3, 3)
    load = total(flat(base), warm(height, hours * HOUR * rng.uniform(0.3, 0.6)))
    return _calm(rng, load, hours, most=base + height, noise=height * rng.uniform(0.003, 0.03))


@shape
def calm_stairs_of_few_steps(rng: Random) -> Story:
    base, hours = rng.uniform(100, 1000), _hours(rng, 2, 200)
    height, count = base * rng.uniform(0.1, 0.4), rng.randint(3, 4)
    edges = [((index + rng.uniform(0.3, 0.7)) * hours * HOUR / count, height) for index in range(count)]
    return _calm(rng, total(flat(base), steps(*edges)), hours, most=base + height * count, noise=height * 0.05)


@shape
def calm_nightly_job(rng: Random) -> Story:
    base, hours = rng.uniform(100, 1000), rng.uniform(20, 300)
    height, begins, lasts = base * rng.uniform(0.3, 3), rng.random(), rng.uniform(0.02, 0.15)
    load = total(flat(base), lambda at: height if (at / DAY + begins) % 1.0 < lasts else 0.0)
    return _calm(rng, load, hours, most=base + height, noise=base * rng.uniform(0.002, 0.03))


@shape
def calm_in_whole_mib(rng: Random) -> Story:
    base = rng.randint(20, 200)
    return _calm(rng, flat(base + rng.random()), _hours(rng), most=base * 1.2, noise=0.3, quantum=1.0)


@shape
def calm_for_minutes(rng: Random) -> Story:
    base = rng.uniform(20, 2000)
    return _calm(rng, flat(base), rng.uniform(0.1, 0.6), most=base * 1.2, noise=base * rng.choice((0.001, 0.01, 0.03)))


@shape
def calm_drifting_down_then_flat(rng: Random) -> Story:
    base, hours = rng.uniform(50, 1000), _hours(rng, 2, 100)
    load = total(flat(base * 2), warm(-base, hours * HOUR * rng.uniform(0.05, 0.3)))
    return _calm(rng, load, hours, most=base * 2, noise=base * 0.01)


@shape
def calm_jvm(rng: Random) -> Story:
    """A heap that grows to its flag's size in some steps, young collections, and stays."""
    size, hours = rng.uniform(300, 4000), _hours(rng, 3, 200)
    tau, period = hours * HOUR * rng.uniform(0.02, 0.1), rng.uniform(30, 900)
    load = total(flat(size * 0.4), warm(size * 0.5, tau), saw(size * 0.08, period, phase=rng.random()))
    return _calm(rng, load, hours, most=size, noise=size * 0.003)


# Killed, and no leak


@shape
def low_flat(rng: Random) -> Story:
    base, hours = rng.uniform(50, 4000), _hours(rng, 0.5, 200)
    limit = int(base / rng.uniform(0.92, 0.995)) + 1
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=limit, noise=base * rng.uniform(0, 0.004))
    rows = take.rows(flat(base), started=rng.random() < 0.5)
    rows[-1]["event"] = "oom_kill"
    if rng.random() < 0.5:
        rows[-1]["working_set_bytes"] = limit * MIB
    return Story(rows=rows, answers=("limit_too_low",))


@shape
def low_after_warm_up(rng: Random) -> Story:
    """Levels off just under the limit."""
    height, hours = rng.uniform(200, 3000), _hours(rng, 2, 100)
    base = height * rng.uniform(0.1, 0.5)
    limit = int((base + height) / rng.uniform(0.95, 0.99))
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=limit, noise=height * 0.003)
    rows = take.rows(total(flat(base), warm(height, hours * HOUR * rng.uniform(0.02, 0.15))), started=True)
    rows[-1]["event"] = "oom_kill"
    rows[-1]["working_set_bytes"] = limit * MIB
    return Story(rows=rows, answers=("limit_too_low",))


@shape
def low_under_saw(rng: Random) -> Story:
    base, hours = rng.uniform(100, 2000), _hours(rng, 2, 100)
    height = base * rng.uniform(0.1, 0.5)
    limit = int((base + height) * rng.uniform(1.005, 1.03))
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours, least=300), limit=limit, noise=height * 0.005)
    rows = take.rows(total(flat(base), saw(height, hours * HOUR / rng.uniform(15, 40), phase=rng.random())))
    rows[-1]["event"] = "oom_kill"
    rows[-1]["working_set_bytes"] = limit * MIB
    return Story(rows=rows, answers=("limit_too_low",))


@shape
def low_for_the_daily_peak(rng: Random) -> Story:
    base = rng.uniform(100, 2000)
    height = base * rng.uniform(0.2, 1)
    peak_day = rng.randint(2, 9)
    limit = int((base + height) * rng.uniform(1.005, 1.03))
    take = Take(rng=rng, hours=24 * peak_day + 12, step=rng.choice((60, 300)), limit=limit, noise=height * 0.005)
    rows = take.rows(total(flat(base), daily(height)))
    rows[-1]["event"] = "oom_kill"
    rows[-1]["working_set_bytes"] = limit * MIB
    return Story(rows=rows, answers=("limit_too_low",))


def _spike(rng: Random, load: Load, hours: float, limit: float, noise: float, **options: object) -> Story:
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=int(limit), noise=noise)
    for name, value in options.items():
        setattr(take, name, value)
    rows = take.rows(load, started=rng.random() < 0.5)
    seen = rng.random()
    if seen < 0.4:  # the sample of the kill is the last one before it
        rows[-1]["event"] = "oom_kill"
    else:
        rows.append({**rows[-1], "event": "oom_kill"})
        rows[-1]["time"] += rng.uniform(0.1, 1) * take.step  # type: ignore[operator]  # a float
        if seen < 0.8:
            rows[-1]["working_set_bytes"] = int(limit) * MIB
    return Story(rows=rows, answers=("spike",))


@shape
def spike_from_calm(rng: Random) -> Story:
    base = rng.uniform(50, 2000)
    return _spike(rng, flat(base), _hours(rng, 0.5, 200), base * rng.uniform(1.4, 6), base * rng.uniform(0, 0.03))


@shape
def spike_after_warm_up(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), _hours(rng, 1, 100)
    load = total(flat(base), warm(base, hours * HOUR * rng.uniform(0.02, 0.1)))
    return _spike(rng, load, hours, base * rng.uniform(2.8, 6), base * 0.02)


@shape
def spike_in_daily_load(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), rng.uniform(20, 250)
    load = total(flat(base), daily(base * 0.5, phase=rng.random()))
    return _spike(rng, load, hours, base * rng.uniform(2.1, 5), base * 0.02)


@shape
def spike_over_saw(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), _hours(rng, 2, 100)
    load = total(flat(base), saw(base * 0.5, hours * HOUR / rng.uniform(10, 100), phase=rng.random()))
    return _spike(rng, load, hours, base * rng.uniform(2.1, 5), base * 0.01)


@shape
def spike_after_bursts(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), _hours(rng, 2, 100)
    load = total(flat(base), bursts(rng, base * 0.5, hours * HOUR / 15, hours * HOUR / 200, hours * HOUR))
    return _spike(rng, load, hours, base * rng.uniform(2.2, 5), base * 0.01)


@shape
def spike_in_some_samples(rng: Random) -> Story:
    """The jump takes a minute, and is seen on its way."""
    base, hours = rng.uniform(50, 2000), _hours(rng, 1, 8)
    limit = base * rng.uniform(1.6, 4)
    at = hours * HOUR
    up = rng.uniform(20, 90)
    take = Take(rng=rng, hours=hours + 0.1, step=rng.choice((5, 10)), limit=int(limit), noise=base * 0.01)
    load = total(flat(base), lambda when: max(0.0, when - at) / up * (limit - base))
    return Story(rows=take.rows(load, started=rng.random() < 0.5, kill=True), answers=("spike",))


@shape
def spike_on_a_slow_drift(rng: Random) -> Story:
    base, hours = rng.uniform(100, 1000), _hours(rng, 2, 48)
    return _spike(rng, total(flat(base), ramp(base * 0.03 / hours)), hours, base * rng.uniform(1.6, 4), base * 0.01)


@shape
def low_after_steps(rng: Random) -> Story:
    base, hours = rng.uniform(100, 2000), _hours(rng, 1, 100)
    at = rng.uniform(0.1, 0.8) * hours * HOUR
    limit = int(base * 1.5 * rng.uniform(1.01, 1.05))
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=limit, noise=base * 0.003)
    rows = take.rows(total(flat(base), steps((at, base * 0.5))))
    rows[-1] |= {"event": "oom_kill", "working_set_bytes": limit * MIB}
    return Story(rows=rows, answers=("limit_too_low",))


@shape
def low_filled_at_a_steady_pace(rng: Random) -> Story:
    base, hours = rng.uniform(100, 2000), _hours(rng, 2, 100)
    height, full = base * rng.uniform(0.5, 2), hours * HOUR * rng.uniform(0.1, 0.5)
    limit = int((base + height) / rng.uniform(0.93, 0.99))
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=limit, noise=base * 0.003)
    rows = take.rows(lambda at: base + height * min(1.0, at / full), started=True)
    rows[-1] |= {"event": "oom_kill", "working_set_bytes": limit * MIB}
    return Story(rows=rows, answers=("limit_too_low",))


@shape
def low_at_the_limit_for_long(rng: Random) -> Story:
    """Full of page cache, which the kernel takes back again and again."""
    base, hours = rng.uniform(100, 2000), _hours(rng, 1, 100)
    limit = int(base)
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=limit, noise=base * 0.003)
    rows = take.rows(lambda at: base * min(1.02, 0.5 + at / (hours * HOUR * 0.1)), started=True)
    rows[-1]["event"] = "oom_kill"
    return Story(rows=rows, answers=("limit_too_low",))


@shape
def low_in_every_life(rng: Random) -> Story:
    base = rng.uniform(100, 2000)
    limit = int(base / rng.uniform(0.93, 0.99))
    rows: list[Row] = []
    take = Take(rng=rng, hours=1, step=rng.choice((10, 30)), limit=limit, noise=base * 0.003)
    for _ in range(rng.randint(2, 4)):
        take.hours = rng.uniform(1, 8)
        rows += take.rows(total(flat(base * 0.5), warm(base * 0.5, 300)), started=True)
        rows[-1]["event"] = "oom_kill"
        take.clock = float(str(rows[-1]["time"])) + rng.uniform(10, 600)
    return Story(rows=rows, answers=("limit_too_low",))


# Killed at once


def _startup(rng: Random, lives: int, load: Callable[[float, float], Load], minutes: float) -> Story:
    limit = rng.uniform(64, 2000)
    take = Take(rng=rng, hours=minutes / 60 * 2, step=rng.choice((1, 2, 5, 10)), limit=int(limit), noise=limit * 0.01)
    rows: list[Row] = []
    for _ in range(lives):
        more = take.rows(load(limit, minutes * 60 * rng.uniform(0.9, 1.1)), started=True, kill=True)
        last = more[-1]["time"]
        assert isinstance(last, float)
        take.clock = last + rng.uniform(10, 300)
        rows += more
    return Story(rows=rows, answers=("startup",))


@shape
def startup_ramps(rng: Random) -> Story:
    return _startup(
        rng,
        rng.randint(2, 6),
        lambda limit, seconds: total(flat(limit * 0.1), ramp(limit * HOUR / seconds)),
        rng.uniform(0.3, 4),
    )


@shape
def startup_at_once(rng: Random) -> Story:
    return _startup(
        rng,
        rng.randint(2, 6),
        lambda limit, seconds: total(flat(limit * 0.1), warm(limit * 1.2, seconds / 2)),
        rng.uniform(0.2, 3),
    )


@shape
def startup_once(rng: Random) -> Story:
    return _startup(
        rng,
        1,
        lambda limit, seconds: total(flat(limit * 0.1), ramp(limit * HOUR / seconds)),
        rng.uniform(0.5, 3),
    )


@shape
def node_pressure(rng: Random) -> Story:
    base, hours = rng.uniform(50, 2000), _hours(rng, 1, 100)
    take = Take(rng=rng, hours=hours, step=_sampling(rng, hours), limit=int(base * 2), noise=base * 0.02)
    rows = take.rows(flat(base))
    rows[-1] |= {"event": "oom_kill", "cause": rng.choice(("node", "node_numa", "node_allocatable", "qos_limit"))}
    return Story(rows=rows, answers=("node_pressure",))
