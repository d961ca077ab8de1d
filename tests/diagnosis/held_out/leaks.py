"""Leaks: 1 MB/h to 1 GB/h, killed at the limit or still far from it, under what else memory does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from tests.diagnosis.held_out import signal
from tests.diagnosis.held_out.record import Parts, case, draw_gaps, draw_parts, drop, record, seconds_to, until
from tests.diagnosis.held_out.shape import DAY, HOUR, MB, MIB, Case, Shape, Span, Truth
from tests.diagnosis.held_out.signal import Levels, Noise, add, clock, log_uniform, ramp

_LEAK = frozenset({"leak"})


class Leak(NamedTuple):
    """rate: bytes an hour. base: before it."""

    rate: float
    hours: float
    base: float

    @property
    def growth(self) -> float:
        return self.rate * self.hours


def draw(rng: Random, *, least_hours: float = 2.0, most_hours: float = 96.0) -> Leak:
    """Hours enough that it grows by 24 MB, and by a fifth of its base."""
    rate = log_uniform(rng, 1e6, 1e9)
    least = max(least_hours, 24 * MB / rate)
    hours = log_uniform(rng, least, max(least, min(most_hours, max(3 * least, 6.0))))
    return Leak(rate, hours, rate * hours * log_uniform(rng, 0.15, 5))


def flat(times: Sequence[float], level: float) -> Levels:
    return [level] * len(times)


def killed(
    rng: Random,
    leak: Leak,
    times: Sequence[float],
    levels: Levels,
    *,
    since: Span,
    top: float = 0.0,
    steady: bool = True,
    parts: Parts | None = None,
    started: bool = True,
) -> Case:
    """top: how far what swings on the leak reaches above it. steady: its slope can be read within 20 %."""
    limit = leak.base + leak.growth + top
    count = until(levels, limit)
    ended = [*levels[: count - 1], limit * rng.uniform(0.985, 1.0)]
    samples = record(times[:count], ended, limit=limit, killed=True, started=started, parts=parts)
    return case(
        rng, samples, Truth(patterns=_LEAK, growth_bytes_per_hour=leak.rate if steady else None, growth_since=since)
    )


def running(
    rng: Random,
    leak: Leak,
    times: Sequence[float],
    levels: Levels,
    *,
    since: Span,
    top: float = 0.0,
    far: tuple[float, float] = (0.15, 6.0),
    parts: Parts | None = None,
    started: bool = True,
) -> Case:
    """far: from the end to the limit, in heights that it has grown."""
    end = leak.base + leak.growth
    limit = max(*levels, end + top) + leak.growth * log_uniform(rng, *far)
    truth = Truth(
        patterns=_LEAK,
        growth_bytes_per_hour=leak.rate,
        growth_since=since,
        seconds_to_limit=Span(seconds_to(limit, end + top, leak.rate), seconds_to(limit, end, leak.rate)),
    )
    return case(rng, record(times, levels, limit=limit, started=started, parts=parts), truth)


def _noisy(rng: Random, *, noise: Noise, share: float, kill: bool, least: int = 150, most: int = 700) -> Case:
    """share: the most that the noise is of the growth."""
    leak = draw(rng)
    times = clock(rng, leak.hours * (1.1 if kill else 1), least=least, most=most)
    sigma = leak.growth * rng.uniform(share / 10, share)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), noise(rng, len(times), sigma))
    parts, started = draw_parts(rng, leak.base), rng.random() < 0.8
    end = killed if kill else running
    return end(rng, leak, times, levels, since=Span(0, 0), parts=parts, started=started)


def _proportional(rng: Random, *, kill: bool) -> Case:
    """The noise is a share of the level, and grows with it."""
    leak = draw(rng)
    times = clock(rng, leak.hours * (1.1 if kill else 1))
    share = rng.uniform(0.005, 0.04) * min(1.0, leak.growth / leak.base)
    levels = [level * (1 + rng.gauss(0, share)) for level in add(flat(times, leak.base), ramp(times, leak.rate))]
    end = killed if kill else running
    return end(rng, leak, times, levels, since=Span(0, 0), parts=draw_parts(rng, leak.base))


def _slow(rng: Random) -> Case:
    """1 to 6 MB/h under a large program: a day or three of it."""
    rate, hours = log_uniform(rng, 1e6, 6e6), rng.uniform(30, 72)
    leak = Leak(rate, hours, rate * hours * rng.uniform(2, 8))
    times = clock(rng, hours, least=200)
    levels = add(flat(times, leak.base), ramp(times, rate), signal.white(rng, len(times), leak.growth * 0.05))
    return running(rng, leak, times, levels, since=Span(0, 0), started=rng.random() < 0.5)


def _fast(rng: Random) -> Case:
    """100 MB/h to 1 GB/h, watched for an hour or two."""
    rate, hours = log_uniform(rng, 1e8, 1e9), rng.uniform(1.0, 2.0)
    leak = Leak(rate, hours, rate * hours * log_uniform(rng, 0.3, 2))
    times = clock(rng, hours * 1.1)
    levels = add(flat(times, leak.base), ramp(times, rate), signal.white(rng, len(times), leak.growth * 0.02))
    return killed(rng, leak, times, levels, since=Span(0, 0))


def _collected(rng: Random, *, kill: bool) -> Case:
    """The floor of a garbage collector's saw rises. Killed where a tooth reaches the limit."""
    leak = draw(rng, least_hours=4)
    times = clock(rng, leak.hours * (1.2 if kill else 1), least=300)
    height = leak.growth * rng.uniform(0.1, 0.5)
    period = leak.hours * HOUR / rng.uniform(20, 60)
    noise = signal.white(rng, len(times), height * 0.05)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), signal.saw(rng, times, period, height), noise)
    parts = draw_parts(rng, leak.base)
    if kill:
        return killed(rng, leak, times, levels, since=Span(0, period), top=height * 0.8, parts=parts)
    return running(rng, leak, times, levels, since=Span(0, period), top=height, far=(1.0, 6.0), parts=parts)


def _generations(rng: Random) -> Case:
    """A small saw on a large one, and a floor that rises."""
    leak = draw(rng, least_hours=8)
    times = clock(rng, leak.hours, least=500, most=900)
    large, small = leak.growth * rng.uniform(0.15, 0.4), leak.growth * rng.uniform(0.03, 0.08)
    period = leak.hours * HOUR / rng.uniform(12, 20)
    saws = signal.saw(rng, times, period, large), signal.saw(rng, times, period / 9, small)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), *saws)
    return running(rng, leak, times, levels, since=Span(0, period), top=large + small, far=(1.5, 6.0))


def _daily(rng: Random, *, kill: bool) -> Case:
    """Under a load that comes and goes each day: by the end it has grown by more than the load moves."""
    hours = rng.uniform(72, 150)
    rate = log_uniform(rng, 1e6, 2e7)
    leak = Leak(rate, hours, rate * hours * log_uniform(rng, 0.3, 2))
    times = clock(rng, hours * (1.3 if kill else 1), interval=rng.choice((300.0, 600.0)))
    height = leak.growth * rng.uniform(0.2, 0.6)
    start = rng.uniform(0, 24)
    load = (
        signal.sine_day(times, 15, start_hour=start)
        if rng.random() < 0.5
        else signal.office_day(times, start_hour=start)
    )
    noise = signal.ar1(rng, len(times), height * 0.05)
    levels = add(flat(times, leak.base), ramp(times, rate), [level * height for level in load], noise)
    if kill:
        return killed(rng, leak, times, levels, since=Span(0, DAY / 2), top=height * 0.6)
    return running(rng, leak, times, levels, since=Span(0, DAY / 2), top=height, far=(1.5, 5.0))


def _by_request(rng: Random) -> Case:
    """Each request leaks: fast by day, hardly at night. No one slope is the true one."""
    hours = rng.uniform(72, 140)
    rate = log_uniform(rng, 1e6, 2e7)
    leak = Leak(rate, hours, rate * hours * log_uniform(rng, 0.2, 1))
    times = clock(rng, hours * 1.2, interval=600.0)
    load = [0.15 + level for level in signal.sine_day(times, 14, start_hour=rng.uniform(0, 24))]
    scale, level, levels = rate / HOUR * 600 / (sum(load) / len(load)), leak.base, []
    for now in load:
        level += now * scale
        levels.append(level + rng.gauss(0, leak.growth * 0.01))
    return killed(rng, leak, times, levels, since=Span(0, DAY / 2), steady=False)


def _mid_life(rng: Random, *, kill: bool) -> Case:
    """Flat for long, then it begins."""
    leak = draw(rng, least_hours=3, most_hours=48)
    calm = leak.hours * rng.uniform(0.4, 2.0)
    times = clock(rng, calm + leak.hours * (1.1 if kill else 1), least=250, most=900)
    noise = signal.white(rng, len(times), leak.growth * rng.uniform(0.005, 0.03))
    levels = add(flat(times, leak.base), ramp(times, leak.rate, since=calm * HOUR), noise)
    since = Span(calm * HOUR, calm * HOUR)
    end = killed if kill else running
    return end(rng, leak, times, levels, since=since, parts=draw_parts(rng, leak.base), started=rng.random() < 0.7)


def _after_warm_up(rng: Random) -> Case:
    """It leaks from the start on, hidden by the warm-up of caches: since when it shows is anywhere in that."""
    leak = draw(rng, least_hours=4)
    times = clock(rng, leak.hours, least=250, most=900)
    warm = leak.hours * HOUR * rng.uniform(0.02, 0.07)
    height = leak.base * rng.uniform(0.4, 0.7)
    noise = signal.white(rng, len(times), leak.growth * 0.02)
    levels = add(flat(times, leak.base - height), [level * height for level in signal.warm_up(times, warm)])
    return running(rng, leak, times, add(levels, ramp(times, leak.rate), noise), since=Span(0, 5 * warm))


def _after_step(rng: Random) -> Case:
    """A cache is loaded in one go while it leaks."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours, least=250, most=900)
    step = leak.growth * rng.uniform(0.1, 0.5)
    when = times[-1] * rng.uniform(0.1, 0.4)
    noise = signal.white(rng, len(times), leak.growth * 0.015)
    levels = add(flat(times, leak.base - step), ramp(times, leak.rate), signal.steps(times, [(when, step)]), noise)
    return running(rng, leak, times, levels, since=Span(0, when))


def _bursts(rng: Random, *, kill: bool) -> Case:
    """Many small steps, as bursts of requests come."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours, least=250, most=900)
    noise = signal.white(rng, len(times), leak.growth * 0.004)
    stairs = signal.stairs(rng, times, leak.rate, rng.randint(60, 150))
    levels = add(flat(times, leak.base), stairs, noise)
    end = killed if kill else running
    return end(rng, leak, times, levels, since=Span(0, leak.hours * HOUR * 0.05), parts=draw_parts(rng, leak.base))


def _part(rng: Random, *, grows: str, kill: bool) -> Case:
    """In tmpfs or in the kernel's own memory."""
    leak = draw(rng)
    times = clock(rng, leak.hours * (1.1 if kill else 1))
    noise = signal.white(rng, len(times), leak.growth * rng.uniform(0.003, 0.03))
    levels = add(flat(times, leak.base), ramp(times, leak.rate), noise)
    end = killed if kill else running
    return end(rng, leak, times, levels, since=Span(0, 0), parts=draw_parts(rng, leak.base, grows))


def _gaps(rng: Random, *, kill: bool) -> Case:
    """Up to half of it nobody saw."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours * (1.1 if kill else 1), least=250, most=900)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), signal.white(rng, len(times), leak.growth * 0.02))
    made = (killed if kill else running)(rng, leak, times, levels, since=Span(0, 0))
    origin = float(made.samples[0]["time"] or 0.0)
    gaps = draw_gaps(rng, times[-1], rng.randint(1, 5), rng.uniform(0.1, 0.5))
    return made._replace(samples=drop(made.samples, [gap.later(origin) for gap in gaps]))


def _capped(rng: Random) -> Case:
    """Held at the limit for a while, by reclaim of the last page cache, before the kill."""
    leak = draw(rng, least_hours=3)
    hours = leak.hours * rng.uniform(1.02, 1.12)
    times = clock(rng, hours, least=250)
    limit = leak.base + leak.growth
    noise = signal.white(rng, len(times), leak.growth * 0.01)
    bare = add(flat(times, leak.base), ramp(times, leak.rate), noise)
    levels = [min(level, limit * rng.uniform(0.992, 1.0)) for level in bare]
    samples = record(times, levels, limit=limit, killed=True, parts=draw_parts(rng, leak.base))
    return case(rng, samples, Truth(patterns=_LEAK, growth_bytes_per_hour=leak.rate, growth_since=Span(0, 0)))


def _spiked(rng: Random) -> Case:
    """Tall peaks of a sample or three that it survives, on a leak."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours, least=250)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), signal.white(rng, len(times), leak.growth * 0.015))
    for _ in range(rng.randint(2, 8)):
        begin = rng.randrange(len(times) - 12)
        for index in range(begin, begin + rng.randint(1, 3)):
            levels[index] += leak.growth * rng.uniform(0.3, 1.2)
    return running(rng, leak, times, levels, since=Span(0, 0))


def _resized(rng: Random) -> Case:
    """Its limit is raised in place meanwhile: it still ends, later."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), signal.white(rng, len(times), leak.growth * 0.02))
    before, after = (max(levels) + leak.growth * rng.uniform(*span) for span in ((0.05, 0.2), (0.8, 3.0)))
    when = times[-1] * rng.uniform(0.3, 0.8)
    limits = [before if at < when else after for at in times]
    to_limit = seconds_to(after, leak.base + leak.growth, leak.rate)
    truth = Truth(
        patterns=_LEAK,
        growth_bytes_per_hour=leak.rate,
        growth_since=Span(0, 0),
        seconds_to_limit=Span(to_limit, to_limit),
    )
    return case(rng, record(times, levels, limit=limits), truth)


def _quantised(rng: Random) -> Case:
    """In whole MiB: a staircase, by the reading."""
    leak = draw(rng)
    times = clock(rng, leak.hours)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), signal.white(rng, len(times), 0.3 * MIB))
    limit = leak.base + leak.growth * rng.uniform(1.5, 5)
    to_limit = seconds_to(limit, leak.base + leak.growth, leak.rate)
    truth = Truth(
        patterns=_LEAK,
        growth_bytes_per_hour=leak.rate,
        growth_since=Span(0, 0),
        seconds_to_limit=Span(to_limit, to_limit),
    )
    return case(rng, record(times, levels, limit=limit, quantum=MIB), truth)


def _unlimited(rng: Random) -> Case:
    """There is no limit to meet; it leaks all the same."""
    leak = draw(rng)
    times = clock(rng, leak.hours)
    levels = add(flat(times, leak.base), ramp(times, leak.rate), signal.white(rng, len(times), leak.growth * 0.02))
    truth = Truth(patterns=_LEAK, growth_bytes_per_hour=leak.rate, growth_since=Span(0, 0))
    return case(rng, record(times, levels, limit=None, parts=draw_parts(rng, leak.base)), truth)


_NOISES: tuple[tuple[str, Noise, float], ...] = (
    ("white noise", signal.white, 0.08),
    ("noise with a memory", signal.ar1, 0.05),
    ("heavy-tailed noise", signal.heavy, 0.04),
    ("one-sided noise", signal.one_sided, 0.06),
)


def _family(family: str, **makes: Callable[[Random], Case]) -> list[Shape]:
    return [Shape(family, name.replace("_", " "), make) for name, make in makes.items()]


SHAPES = [
    *(
        Shape("leak under noise", f"{name}, {'killed' if kill else 'far from its limit'}", make)
        for name, noise, share in _NOISES
        for kill in (True, False)
        for make in [partial(_noisy, noise=noise, share=share, kill=kill)]
    ),
    *_family(
        "leak under noise",
        proportional_noise_killed=partial(_proportional, kill=True),
        proportional_noise_running=partial(_proportional, kill=False),
        few_samples=partial(_noisy, noise=signal.white, share=0.04, kill=False, least=70, most=110),
        slow_in_a_large_program=_slow,
        fast=_fast,
    ),
    *_family(
        "leak under a saw",
        killed=partial(_collected, kill=True),
        running=partial(_collected, kill=False),
        two_generations=_generations,
    ),
    *_family(
        "leak under daily load",
        killed=partial(_daily, kill=True),
        running=partial(_daily, kill=False),
        of_each_request=_by_request,
    ),
    *_family(
        "leak that begins late",
        killed=partial(_mid_life, kill=True),
        running=partial(_mid_life, kill=False),
        after_a_warm_up=_after_warm_up,
        with_a_step=_after_step,
    ),
    *_family("leak in bursts", killed=partial(_bursts, kill=True), running=partial(_bursts, kill=False)),
    *_family(
        "leak of a part",
        tmpfs_killed=partial(_part, grows="shmem", kill=True),
        tmpfs_running=partial(_part, grows="shmem", kill=False),
        kernel_killed=partial(_part, grows="kernel", kill=True),
        kernel_running=partial(_part, grows="kernel", kill=False),
    ),
    *_family(
        "leak, disturbed",
        gaps_killed=partial(_gaps, kill=True),
        gaps_running=partial(_gaps, kill=False),
        held_at_the_limit=_capped,
        peaks_survived=_spiked,
        limit_raised=_resized,
        whole_mebibytes=_quantised,
        without_a_limit=_unlimited,
    ),
]
