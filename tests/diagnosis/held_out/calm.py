"""Histories without a kill that no trend leads to the limit, whatever they look like meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import Random

from tests.diagnosis.held_out import signal
from tests.diagnosis.held_out.record import Parts, case, draw_gaps, draw_parts, drop, record
from tests.diagnosis.held_out.shape import CALM, DAY, HOUR, MIB, Case, Shape, Truth, only
from tests.diagnosis.held_out.signal import Levels, Noise, add, clock, log_uniform, size

_SETTLING = only("calm", "unknown")
"""Still levelling off: that it will not go on is likely, and not yet seen."""


def flat(times: Levels, level: float) -> Levels:
    return [level] * len(times)


def done(
    rng: Random,
    times: Levels,
    levels: Levels,
    *,
    truth: Truth = CALM,
    limit: float | Levels | None = None,
    started: bool | None = None,
    parts: Parts | None = None,
    quantum: float = 4096,
) -> Case:
    """Under a limit of 1.05 to 4 times the peak, unless told otherwise."""
    limit = limit or max(levels) * log_uniform(rng, 1.05, 4)
    begun = rng.random() < 0.6 if started is None else started
    parts = parts or draw_parts(rng, max(0.0, min(levels)))
    return case(rng, record(times, levels, limit=limit, started=begun, parts=parts, quantum=quantum), truth)


def _steady(rng: Random, *, noise: Noise, share: float, hours: tuple[float, float] = (2, 72)) -> Case:
    times = clock(rng, rng.uniform(*hours))
    level = size(rng)
    return done(rng, times, add(flat(times, level), noise(rng, len(times), level * rng.uniform(share / 20, share))))


def _wandering(rng: Random) -> Case:
    """A walk that comes back: a dozen times or more while it is watched."""
    times = clock(rng, rng.uniform(8, 96))
    level = size(rng)
    back = times[-1] / rng.uniform(15, 60)
    return done(rng, times, add(flat(times, level), signal.wander(rng, times, level * rng.uniform(0.02, 0.08), back)))


def _falling(rng: Random) -> Case:
    times = clock(rng, rng.uniform(4, 72))
    level = size(rng)
    drift = signal.ramp(times, -level * rng.uniform(0.1, 0.5) / times[-1] * HOUR)
    return done(rng, times, add(flat(times, level), drift, signal.white(rng, len(times), level * 0.01)))


def _plateau(rng: Random, *, noise: Noise) -> Case:
    """At 90 to 99 % of the limit, and it stays there."""
    times = clock(rng, rng.uniform(2, 48))
    limit = size(rng)
    share = rng.uniform(0.9, 0.99)
    levels = add(flat(times, limit * share), noise(rng, len(times), limit * (1 - share) / 4))
    return done(rng, times, levels, limit=limit)


# Garbage collectors


def _saw(rng: Random, *, period: tuple[float, float], height: tuple[float, float]) -> Case:
    """period: seconds. height: against the floor. 5 to 60 teeth."""
    length = log_uniform(rng, *period)
    hours = length * rng.uniform(5, 60) / HOUR
    times = clock(rng, hours, least=250, most=900)
    floor = size(rng)
    tooth = signal.saw(rng, times, length, floor * rng.uniform(*height))
    return done(rng, times, add(flat(times, floor), tooth, signal.white(rng, len(times), floor * 0.01)))


def _generations(rng: Random) -> Case:
    times = clock(rng, rng.uniform(6, 48), least=500, most=1000)
    floor = size(rng)
    period = times[-1] / rng.uniform(4, 12)
    large = signal.saw(rng, times, period, floor * rng.uniform(0.4, 1.5))
    small = signal.saw(rng, times, period / rng.uniform(6, 15), floor * rng.uniform(0.1, 0.4))
    return done(rng, times, add(flat(times, floor), large, small))


def _saw_by_load(rng: Random) -> Case:
    """The collector runs by allocation: its teeth are short by day and long at night, their height varies."""
    times = clock(rng, rng.uniform(24, 60), interval=300.0)
    load = signal.sine_day(times, 14, start_hour=rng.uniform(0, 24))
    floor, height, level, levels = size(rng), rng.uniform(0.2, 0.8), 0.0, []
    top = 1.0
    for now in load:
        level += (0.1 + now) * 0.25
        if level >= top:
            level, top = 0.0, rng.uniform(0.8, 1.2)
        levels.append(floor * (1 + height * level))
    return done(rng, times, add(levels, signal.white(rng, len(times), floor * 0.01)))


# Load that follows the clock


def _daily(rng: Random, *, days: tuple[float, float], profile: str, noise: Noise = signal.ar1) -> Case:
    times = clock(rng, rng.uniform(*days) * 24, interval=rng.choice((300.0, 600.0)))
    level = size(rng)
    start = rng.uniform(0, 24)
    load = (
        signal.sine_day(times, rng.uniform(11, 20), start_hour=start)
        if profile == "sine"
        else signal.office_day(times, start_hour=start, steep=rng.uniform(0.7, 1.5))
    )
    height = level * rng.uniform(0.1, 1.2)
    swing = [now * height * rng.uniform(0.98, 1.02) for now in load]
    return done(rng, times, add(flat(times, level), swing, noise(rng, len(times), level * 0.01)))


def _weekly(rng: Random) -> Case:
    """Weekdays and a weekend, with a Monday after it."""
    start = rng.uniform(0, 24)
    times = clock(rng, rng.uniform(6, 9) * 24, interval=600.0)
    first = rng.randrange(7)
    level, height = size(rng), rng.uniform(0.3, 1.2)
    load = signal.office_day(times, start_hour=start)
    weekday = [0.2 if int(first + (at + start * HOUR) // DAY) % 7 >= 5 else 1.0 for at in times]
    swing = [now * day * height * level for now, day in zip(load, weekday, strict=True)]
    return done(rng, times, add(flat(times, level), swing, signal.ar1(rng, len(times), level * 0.01)))


def _morning(rng: Random) -> Case:
    """From the night to the afternoon: less than a day, and it has levelled off. Its fall is not seen yet."""
    times = clock(rng, rng.uniform(13, 16), interval=300.0)
    level = size(rng)
    load = signal.sine_day(times, 14, start_hour=rng.uniform(1, 3))
    swing = [now * level * rng.uniform(0.99, 1.01) * 0.6 for now in load]
    return done(rng, times, add(flat(times, level), swing), truth=_SETTLING)


def _nightly_job(rng: Random) -> Case:
    """An hour or two each night, far above the rest of the day."""
    times = clock(rng, rng.uniform(2, 4) * 24, interval=300.0)
    level, start = size(rng), rng.uniform(0, 24)
    length, height = rng.uniform(0.5, 2.5), rng.uniform(0.5, 3)
    job = [level * height if (at / HOUR + start) % 24 < length else 0.0 for at in times]
    return done(rng, times, add(flat(times, level), job, signal.white(rng, len(times), level * 0.015)))


# Growth that ends


def _warm_up(rng: Random, *, minutes: tuple[float, float], constants: tuple[float, float], truth: Truth = CALM) -> Case:
    """minutes: the time constant. constants: how many of them are seen."""
    constant = log_uniform(rng, *minutes) * 60
    times = clock(rng, constant * rng.uniform(*constants) / HOUR)
    level = size(rng)
    height = level * rng.uniform(0.3, 3)
    rise = [now * height for now in signal.warm_up(times, constant)]
    levels = add(flat(times, level), rise, signal.white(rng, len(times), height * rng.uniform(0.002, 0.02)))
    return done(rng, times, levels, started=True, truth=truth)


def _logarithmic(rng: Random) -> Case:
    """As a cache with a long tail of keys: ever slower."""
    times = clock(rng, rng.uniform(6, 72))
    level = size(rng)
    knee = times[-1] / rng.uniform(40, 200)
    rise = [level * 0.25 * math.log2(1 + at / knee) for at in times]
    return done(rng, times, add(flat(times, level), rise, signal.white(rng, len(times), level * 0.01)), started=True)


def _filled(rng: Random) -> Case:
    """A bounded cache fills evenly, and is full in the first half."""
    times = clock(rng, rng.uniform(6, 72), least=250)
    level = size(rng)
    full = times[-1] * rng.uniform(0.1, 0.45)
    rise = [min(1.0, at / full) * level for at in times]
    return done(rng, times, add(flat(times, level), rise, signal.white(rng, len(times), level * 0.01)), started=True)


def _page_cache(rng: Random, *, full: bool) -> Case:
    """Files are read and the kernel keeps them, up to the limit; anon is flat. Reclaimable: nothing leaks."""
    times = clock(rng, rng.uniform(2, 30))
    anon = size(rng)
    limit = anon * rng.uniform(2, 6)
    end = times[-1] * (rng.uniform(0.2, 0.6) if full else rng.uniform(1.2, 2.0))
    levels = [anon * 1.05 + (limit * rng.uniform(0.975, 0.995) - anon * 1.05) * min(1.0, at / end) for at in times]
    parts = Parts(grows="file", anon=anon, kernel=anon * 0.03, inactive=anon * rng.uniform(0, 0.3))
    return done(rng, times, levels, limit=limit, parts=parts)


def _steps(rng: Random, *, heights: tuple[float, ...], when: tuple[float, float] = (0.05, 0.75)) -> Case:
    """heights: of the steps, against the level. when: in which part of the history they happen."""
    times = clock(rng, rng.uniform(3, 48), least=200)
    level = size(rng)
    places = sorted(rng.uniform(*when) * times[-1] for _ in heights)
    changes = [(place, level * height * rng.uniform(0.7, 1.3)) for place, height in zip(places, heights, strict=True)]
    levels = add(flat(times, level), signal.steps(times, changes), signal.white(rng, len(times), level * 0.01))
    return done(rng, times, levels)


def _survived(rng: Random) -> Case:
    """Tall peaks of a few samples; the last may be the newest thing there is."""
    times = clock(rng, rng.uniform(2, 48))
    level = size(rng)
    levels = add(flat(times, level), signal.white(rng, len(times), level * 0.01))
    for _ in range(rng.randint(1, 5)):
        begin = rng.randrange(20, len(levels) - 6)
        height = level * rng.uniform(0.5, 4)
        for index in range(begin, begin + rng.randint(1, 5)):
            levels[index] += height
    return done(rng, times, levels)


# How it was looked at


def _quantised(rng: Random) -> Case:
    """In whole MiB, between two or three of them."""
    times = clock(rng, rng.uniform(2, 48))
    levels = add(flat(times, size(rng, 20, 400)), signal.white(rng, len(times), 0.5 * MIB))
    return done(rng, times, levels, quantum=MIB)


def _watched_in_pieces(rng: Random) -> Case:
    """The agent was away some times. Load moved meanwhile."""
    times = clock(rng, rng.uniform(12, 72), least=300, most=900)
    level = size(rng)
    walk = signal.wander(rng, times, level * 0.04, times[-1] / 40)
    made = done(rng, times, add(flat(times, level), walk))
    origin = float(made.samples[0]["time"] or 0.0)
    gaps = draw_gaps(rng, times[-1], rng.randint(1, 6), rng.uniform(0.1, 0.6))
    return made._replace(samples=drop(made.samples, [gap.later(origin) for gap in gaps]))


def _resized(rng: Random) -> Case:
    """The limit moves, the memory does not."""
    times = clock(rng, rng.uniform(2, 48))
    level = size(rng)
    levels = add(flat(times, level), signal.white(rng, len(times), level * 0.01))
    before, after = (level * rng.uniform(1.1, 3) for _ in range(2))
    when = times[-1] * rng.uniform(0.2, 0.95)
    return done(rng, times, levels, limit=[before if at < when else after for at in times])


def _unlimited(rng: Random) -> Case:
    times = clock(rng, rng.uniform(2, 48))
    level = size(rng)
    levels = add(flat(times, level), signal.ar1(rng, len(times), level * 0.03))
    return case(rng, record(times, levels, limit=None, parts=draw_parts(rng, min(levels))), CALM)


def _short(rng: Random, *, samples: tuple[int, int], truth: Truth) -> Case:
    """Of one or a few samples 10 s apart, nothing can be said; not even calm."""
    times = [10.0 * index for index in range(rng.randint(*samples))]
    level = size(rng)
    levels = [level * rng.uniform(0.97, 1.03) for _ in times]
    return done(rng, times, levels, truth=truth, started=False)


def _short_rise(rng: Random) -> Case:
    """Five minutes or ten of growth: a start, a request, a leak, a warm-up. Calm as far as it goes, or not known."""
    times = clock(rng, rng.uniform(4, 10) / 60, interval=10)
    level = size(rng)
    rise = signal.ramp(times, level * rng.uniform(0.05, 0.3) / times[-1] * HOUR)
    return done(rng, times, add(flat(times, level), rise), truth=_SETTLING)


def _family(family: str, **makes: Callable[[Random], Case]) -> list[Shape]:
    return [Shape(family, name.replace("_", " "), make) for name, make in makes.items()]


SHAPES = [
    *_family(
        "calm, steady",
        white_noise=partial(_steady, noise=signal.white, share=0.1),
        noise_with_a_memory=partial(_steady, noise=signal.ar1, share=0.08),
        heavy_tailed_noise=partial(_steady, noise=signal.heavy, share=0.06),
        one_sided_noise=partial(_steady, noise=signal.one_sided, share=0.2),
        a_walk_that_comes_back=_wandering,
        falling=_falling,
        near_its_limit=partial(_plateau, noise=signal.white),
        near_its_limit_with_a_memory=partial(_plateau, noise=signal.ar1),
    ),
    *_family(
        "calm, saw",
        minutes=partial(_saw, period=(60, 1200), height=(0.2, 1.5)),
        hours=partial(_saw, period=(3600, 6 * HOUR), height=(0.2, 1.5)),
        small=partial(_saw, period=(300, 2 * HOUR), height=(0.03, 0.15)),
        tall=partial(_saw, period=(300, 2 * HOUR), height=(1.5, 6)),
        two_generations=_generations,
        by_load=_saw_by_load,
    ),
    *_family(
        "calm, daily load",
        whole_days=partial(_daily, days=(2, 5), profile="sine"),
        parts_of_days=partial(_daily, days=(1.3, 2.7), profile="sine"),
        office_days=partial(_daily, days=(2, 5), profile="office"),
        parts_of_office_days=partial(_daily, days=(1.3, 2.7), profile="office"),
        heavy_tailed=partial(_daily, days=(2, 4), profile="office", noise=signal.heavy),
        a_week=_weekly,
        a_morning=_morning,
        nightly_job=_nightly_job,
    ),
    *_family(
        "calm, growth that ends",
        warm_up_of_minutes=partial(_warm_up, minutes=(2, 60), constants=(5, 40)),
        warm_up_of_hours=partial(_warm_up, minutes=(60, 900), constants=(5, 10)),
        warm_up_not_over=partial(_warm_up, minutes=(60, 600), constants=(2.5, 4), truth=_SETTLING),
        logarithmic=_logarithmic,
        bounded_cache=_filled,
        page_cache_full=partial(_page_cache, full=True),
        page_cache_filling=partial(_page_cache, full=False),
    ),
    *_family(
        "calm, steps",
        up=partial(_steps, heights=(0.5,)),
        down=partial(_steps, heights=(-0.4,)),
        two_up=partial(_steps, heights=(0.3, 0.3)),
        up_and_down=partial(_steps, heights=(0.8, -0.5)),
        three_up=partial(_steps, heights=(0.15, 0.25, 0.2)),
        up_lately=partial(_steps, heights=(0.5,), when=(0.85, 0.95)),
        peaks_survived=_survived,
    ),
    *_family(
        "calm, as seen",
        whole_mebibytes=_quantised,
        watched_in_pieces=_watched_in_pieces,
        limit_moved=_resized,
        without_a_limit=_unlimited,
        each_second=partial(_steady, noise=signal.ar1, share=0.05, hours=(0.3, 0.6)),
    ),
    *_family(
        "short",
        one_sample=partial(_short, samples=(1, 1), truth=only("unknown")),
        few_samples=partial(_short, samples=(2, 5), truth=only("unknown")),
        minutes_of_growth=_short_rise,
    ),
]
