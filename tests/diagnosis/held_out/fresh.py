"""
Shapes made after the algorithm had been changed by what the others showed: unseen when it was last changed.

Thought of as somebody would who knows the contract of the command only, and not what the others are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from tests.diagnosis.held_out import signal
from tests.diagnosis.held_out.calm import done
from tests.diagnosis.held_out.kills import at_limit
from tests.diagnosis.held_out.leaks import Leak, draw, flat, killed, running
from tests.diagnosis.held_out.lives import Lives
from tests.diagnosis.held_out.record import Parts, case, draw_parts, drop, record
from tests.diagnosis.held_out.shape import CALM, DAY, HOUR, MB, Case, Sample, Shape, Span, Truth, only
from tests.diagnosis.held_out.signal import Levels, add, clock, log_uniform, ramp, size

_ENDING = only("calm", "unknown")
"""It grows ever slower, and has not stopped: that it levels off is likely, and not yet seen."""


def _end(kill: bool) -> Callable[..., Case]:
    return killed if kill else running


def _leaking(rng: Random, leak: Leak, times: Sequence[float], noise: float) -> Levels:
    """noise: against what it grows by."""
    return add(flat(times, leak.base), ramp(times, leak.rate), signal.white(rng, len(times), leak.growth * noise))


# Leaks, by the clock and by size


def _two_weeks(rng: Random, *, kill: bool) -> Case:
    """1 MB/h, sampled each ten minutes."""
    leak = Leak(1e6, 14 * 24, size(rng, 100, 1500))
    times = clock(rng, leak.hours * (1.1 if kill else 1), interval=600)
    return _end(kill)(rng, leak, times, _leaking(rng, leak, times, rng.uniform(0.003, 0.03)), since=Span(0, 0))


def _five_seconds(rng: Random, *, kill: bool) -> Case:
    """1 GB/h, sampled each five seconds."""
    leak = Leak(1e9, rng.uniform(1, 2), size(rng, 200, 2000))
    times = clock(rng, leak.hours * (1.1 if kill else 1), interval=5)
    return _end(kill)(rng, leak, times, _leaking(rng, leak, times, rng.uniform(0.002, 0.03)), since=Span(0, 0))


def _tiny(rng: Random) -> Case:
    """1 to 3 MB/h in a program of some ten MB."""
    leak = Leak(rng.uniform(1e6, 3e6), rng.uniform(10, 24), rng.uniform(8, 20) * MB)
    times = clock(rng, leak.hours * 1.1)
    return killed(rng, leak, times, _leaking(rng, leak, times, 0.015), since=Span(0, 0))


def _at_random_times(rng: Random, *, kill: bool) -> Case:
    """Sampled when somebody asked."""
    leak = draw(rng)
    mean, times = leak.hours * HOUR / rng.randint(200, 600), [0.0]
    while times[-1] < leak.hours * HOUR * (1.15 if kill else 1):
        times.append(times[-1] + rng.expovariate(1 / mean))
    leak = leak if kill else leak._replace(hours=times[-1] / HOUR)
    return _end(kill)(rng, leak, times, _leaking(rng, leak, times, rng.uniform(0.005, 0.03)), since=Span(0, 0))


def _day_and_hour() -> Levels:
    """A day each ten minutes, its last hour each ten seconds."""
    return [*(600.0 * index for index in range(138)), *(23 * HOUR + 10.0 * index for index in range(361))]


def _two_intervals(rng: Random) -> Case:
    times, rate = _day_and_hour(), log_uniform(rng, 2e6, 1e9)
    leak = Leak(rate, 24, rate * 24 * log_uniform(rng, 0.2, 4))
    return running(rng, leak, times, _leaking(rng, leak, times, rng.uniform(0.003, 0.03)), since=Span(0, 0))


def _end_unseen(rng: Random) -> Case:
    """Nobody looked in the last 5 to 15 % of the time; at the kill it is where the trend says."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours * 1.1, least=250)
    made = killed(rng, leak, times, _leaking(rng, leak, times, 0.01), since=Span(0, 0))
    origin, end = (float(made.samples[index]["time"] or 0.0) for index in (0, -1))
    gap = Span(end - (end - origin) * rng.uniform(0.05, 0.15), end)
    return made._replace(samples=drop(made.samples, [gap]))


# Leaks, by the pace


def _pauses(rng: Random, *, kill: bool) -> Case:
    """
    It stands still for an hour, once or twice: a ninth of the time at most.

    Whether it will again until it meets the limit nobody knows: the time to it is right with such pauses and without.
    """
    leak = draw(rng, least_hours=8, most_hours=40)
    begins = [share * leak.hours * HOUR for share in ((0.3,) if leak.hours < 16 else (0.25, 0.6))]
    times = clock(rng, len(begins) + leak.hours * (1.1 if kill else 1), least=250)
    active = [at - sum(min(max(at - begin, 0.0), HOUR) for begin in begins) for at in times]
    levels = add(flat(times, leak.base), ramp(active, leak.rate), signal.white(rng, len(times), leak.growth * 0.01))
    made = _end(kill)(rng, leak, times, levels, since=Span(0, begins[-1] + HOUR))
    left = made.truth.seconds_to_limit
    if left is None:
        return made
    paused = Span(left.least, left.most * (1 + len(begins) / leak.hours))
    return made._replace(truth=replace(made.truth, seconds_to_limit=paused))


def _changed_pace(rng: Random, *, factors: tuple[float, float]) -> Case:
    """
    factors: of the pace before against the pace now.

    The slope is that of the last steady phase, by the contract; since when, of this phase or of all.
    """
    leak = draw(rng, least_hours=6)
    leak = leak._replace(base=leak.base + leak.growth)
    times = clock(rng, leak.hours, least=250)
    change, factor = times[-1] * rng.uniform(0.3, 0.6), rng.uniform(*factors)
    before = [(min(at, change) - change) / HOUR * leak.rate * factor for at in times]
    after = [max(0.0, at - change) / HOUR * leak.rate for at in times]
    at_change = leak.base + leak.growth - after[-1]
    levels = add(flat(times, at_change), before, after, signal.white(rng, len(times), leak.growth * 0.01))
    return running(rng, leak, times, levels, since=Span(0, change), parts=draw_parts(rng, min(levels)))


def _accelerating(rng: Random) -> Case:
    """Three times as fast at its end as at its start: no one slope is true."""
    leak = draw(rng, least_hours=4)
    times = clock(rng, leak.hours * 1.1)
    parts = [at / HOUR / leak.hours for at in times]
    levels = [leak.base + leak.growth * (part + part * part) / 2 for part in parts]
    noise = signal.white(rng, len(times), leak.growth * 0.01)
    return killed(rng, leak, times, add(levels, noise), since=Span(0, times[-1] / 2), steady=False)


def _by_chance(rng: Random, *, kill: bool) -> Case:
    """From sample to sample it grows by a little or by much, as requests come."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours, least=250)
    level, levels = leak.base, [leak.base]
    gains = [rng.expovariate(1) for _ in times[1:]]
    for gain in gains:
        level += gain / sum(gains) * leak.growth * (1.001 if kill else 1)
        levels.append(level)
    return _end(kill)(rng, leak, times, levels, since=Span(0, times[-1] * 0.05), parts=draw_parts(rng, leak.base))


def _each_hour(rng: Random) -> Case:
    """A job leaks once an hour, for a day to three."""
    hours, rate = rng.uniform(24, 72), log_uniform(rng, 1e6, 3e8)
    leak = Leak(rate, hours, rate * hours * log_uniform(rng, 0.2, 4))
    times = clock(rng, hours, interval=rng.choice((60.0, 120.0, 300.0)))
    phase = rng.random()
    levels = [leak.base + int(at / HOUR + phase) * rate + rng.gauss(0, rate * 0.1) for at in times]
    return running(rng, leak, times, levels, since=Span(0, HOUR), top=rate)


# Leaks, under what else memory does


def _dips(rng: Random, *, kill: bool) -> Case:
    """Now and then a sample right after a collection: far lower, and back with the next one."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours * (1.1 if kill else 1), least=200)
    depth = 0.25 * min(leak.growth, leak.base)
    dips = [-depth * rng.uniform(0.2, 1) if rng.random() < 0.03 else 0.0 for _ in times]
    levels = add(_leaking(rng, leak, times, rng.uniform(0.005, 0.04)), dips)
    return _end(kill)(rng, leak, times, levels, since=Span(0, 0))


def _garbage(rng: Random, times: Sequence[float], period: float, height: float) -> Levels:
    """It piles up evenly and is collected at random times: `height` is of a tooth of `period`, others are others."""
    levels, collected, upcoming = [], 0.0, rng.uniform(0.4, 1.6) * period
    for at in times:
        while at >= upcoming:
            collected, upcoming = upcoming, upcoming + rng.uniform(0.4, 1.6) * period
        levels.append((at - collected) / period * height)
    return levels


def _uneven_saw(rng: Random, *, kill: bool) -> Case:
    """Gaussian noise, and teeth of which one is four times another."""
    leak = draw(rng, least_hours=4)
    times = clock(rng, leak.hours * (1.2 if kill else 1), least=300)
    period, height = leak.hours * HOUR / rng.uniform(20, 60), leak.growth * rng.uniform(0.05, 0.25)
    levels = add(_leaking(rng, leak, times, 0.01), _garbage(rng, times, period, height))
    far = {} if kill else {"far": (1.0, 5.0)}
    return _end(kill)(rng, leak, times, levels, since=Span(0, 2 * period), top=height * 1.2, **far)


def _weekdays(times: Sequence[float], start_hour: float, first: int) -> Levels:
    """Office hours; a fifth of them on Saturday and Sunday. first: the weekday of time 0, Monday is 0."""
    load = signal.office_day(times, start_hour=start_hour)
    quiet = (int(first + (at / HOUR + start_hour) / 24) % 7 >= 5 for at in times)
    return [now * (0.2 if weekend else 1.0) for now, weekend in zip(load, quiet, strict=True)]


def _weekly(rng: Random) -> Case:
    """Under a load of weekdays, for two weeks or three. Since when it shows may be after the first weekend."""
    hours, rate = rng.uniform(14, 21) * 24, log_uniform(rng, 1e6, 1e7)
    leak = Leak(rate, hours, rate * hours * log_uniform(rng, 0.3, 2))
    times, height = clock(rng, hours, interval=1800), leak.growth * rng.uniform(0.15, 0.5)
    load = [now * height for now in _weekdays(times, rng.uniform(0, 24), rng.randrange(7))]
    levels = add(_leaking(rng, leak, times, 0.01), load)
    return running(rng, leak, times, levels, since=Span(0, 2 * DAY), top=height, far=(1.5, 5.0))


def _released_at_night(rng: Random, *, kill: bool) -> Case:
    """A third to a half of what a day has leaked is given back in the night. No one slope is the true one."""
    hours, rate, share = rng.uniform(6, 9) * 24, log_uniform(rng, 1e6, 2e7), rng.uniform(0.3, 0.5)
    leak = Leak(rate, hours, rate * hours * log_uniform(rng, 0.2, 1.5))
    times, start = clock(rng, hours * (1.25 if kill else 1), interval=600), rng.uniform(0, 24)
    gain = rate * 24 / (1 - share)
    level, levels = leak.base, []
    for at in times:
        levels.append(level + rng.gauss(0, gain * 0.02))
        hour = (at / HOUR + start) % 24
        level += gain / 12 / 6 if 8 <= hour < 20 else -gain * share / 2 / 6 if 2 <= hour < 4 else 0.0
    since = Span(0, DAY)
    if kill:
        return killed(rng, leak, times, levels, since=since, steady=False)
    truth = Truth(patterns=frozenset({"leak"}), growth_since=since)
    return case(rng, record(times, levels, limit=max(levels) + leak.growth * rng.uniform(0.2, 3)), truth)


def _apart(samples: list[Sample], active: Sequence[float], kernel: Sequence[float]) -> list[Sample]:
    """Their parts; what is neither active page cache nor the kernel's own is anon."""
    for sample, file, own in zip(samples, active, kernel, strict=True):
        anon = max(0.0, int(sample["working_set_bytes"] or 0) - file - own)
        sample |= {"anon_bytes": int(anon), "file_bytes": int(file), "shmem_bytes": 0, "kernel_bytes": int(own)}
    return samples


def _all_parts_move(rng: Random) -> Case:
    """anon leaks, the page cache comes and goes, the page tables grow with the rest."""
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours, least=200)
    small = min(leak.base, leak.growth)
    file = [abs(now) for now in signal.wander(rng, times, small * 0.05, times[-1] / 30)]
    levels = add(_leaking(rng, leak, times, 0.01), file)
    made = running(rng, leak, times, levels, since=Span(0, 0), top=small * 0.05)
    return made._replace(samples=_apart(made.samples, file, [level * 0.02 for level in levels]))


def _squeezed(rng: Random) -> Case:
    """
    anon leaks, and page cache gives way to it: for the last third the working set stands at the limit, till the kill.

    leak, as anon says; limit_too_low is not denied, as the working set is flat near the limit.
    """
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours, least=250)
    anon = _leaking(rng, leak, times, 0.005)
    limit = leak.base + leak.growth
    cache = leak.growth * rng.uniform(0.2, 0.4)
    levels = [min(now + cache, limit * rng.uniform(0.985, 0.998)) for now in anon]
    samples = record(times, [*levels[:-1], limit], limit=limit, killed=True)
    file = [max(0.0, level - now) for level, now in zip(levels, anon, strict=True)]
    return case(rng, _apart(samples, file, flat(times, 0.0)), only("leak", "limit_too_low"))


# Leaks, of the last of several lives


def _deployed(rng: Random, *, kill: bool) -> Case:
    """A deploy in the middle: another revision, another limit, and it leaks from then on."""
    lives, leak = Lives(rng), draw(rng, least_hours=4)
    limit = leak.base + leak.growth * (1 if kill else rng.uniform(1.2, 4))
    before = clock(rng, leak.hours * rng.uniform(0.5, 2), least=120, most=300)
    level = flat(before, leak.base * rng.uniform(0.7, 1.1))
    lives.add(before, add(level, signal.white(rng, len(before), leak.base * 0.01)), limit * 0.8, revision="41")
    times = clock(rng, leak.hours, least=150, most=500)
    levels = _leaking(rng, leak, times, 0.01)
    began = lives.add(times, [*levels[:-1], limit] if kill else levels, limit, killed=kill, revision="42")
    left = Span(*[(limit - leak.base - leak.growth) / leak.rate * HOUR] * 2)
    truth = Truth(
        patterns=frozenset({"leak"}),
        growth_bytes_per_hour=leak.rate,
        growth_since=Span(began, began),
        seconds_to_limit=None if kill else left,
    )
    return case(rng, lives.samples, truth)


def _storm(rng: Random, lives: Lives, level: float, limit: float) -> None:
    """Restarts within minutes, none of them a kill: a probe that fails, a node that comes up."""
    for _ in range(rng.randint(4, 12)):
        times = [10.0 * index for index in range(rng.randint(2, 10))]
        lives.add(times, [level * min(1.0, 0.3 + 0.1 * index) for index in range(len(times))], limit)


def _storm_and_leak(rng: Random) -> Case:
    lives, leak = Lives(rng), draw(rng, least_hours=3)
    limit = leak.base + leak.growth * rng.uniform(1.2, 4)
    _storm(rng, lives, leak.base, limit)
    times = clock(rng, leak.hours, least=200, most=500)
    began = lives.add(times, _leaking(rng, leak, times, 0.015), limit)
    left = (limit - leak.base - leak.growth) / leak.rate * HOUR
    truth = Truth(
        patterns=frozenset({"leak"}),
        growth_bytes_per_hour=leak.rate,
        growth_since=Span(began, began),
        seconds_to_limit=Span(left, left),
    )
    return case(rng, lives.samples, truth)


# Calm: cycles


def _triangle(rng: Random, *, hours: tuple[float, float], cycles: tuple[float, float]) -> Case:
    """hours: of one cycle. Up and down evenly."""
    period = rng.uniform(*hours) * HOUR
    times, level = clock(rng, period * rng.uniform(*cycles) / HOUR, least=300, most=900), size(rng)
    phase, height = rng.random(), level * rng.uniform(0.1, 1.5)
    wave = [abs(2 * ((at / period + phase) % 1) - 1) * height for at in times]
    return done(rng, times, add(flat(times, level), wave, signal.white(rng, len(times), level * 0.01)))


def _square(rng: Random, *, hours: tuple[float, float]) -> Case:
    """A job that comes by the clock, holds its memory, and ends. Each a bit larger or smaller, longer or shorter."""
    period = rng.uniform(*hours) * HOUR
    times, level = clock(rng, period * rng.uniform(6, 30) / HOUR, least=400, most=1000), size(rng)
    duty, height, phase = rng.uniform(0.15, 0.6), level * rng.uniform(0.2, 3), rng.random()
    jobs = [(duty * rng.uniform(0.8, 1.2), height * rng.uniform(0.9, 1.1)) for _ in range(33)]
    levels = []
    for at in times:
        number, part = divmod(at / period + phase, 1)
        length, tall = jobs[int(number)]
        levels.append(level + (tall if part < length else 0.0))
    return done(rng, times, add(levels, signal.white(rng, len(times), level * 0.01)))


def _nightly_restart(rng: Random) -> Case:
    """Workers fill up all day, and are made anew each night: a saw of days, of which three to five are seen."""
    times, level = clock(rng, rng.uniform(3.2, 5.5) * 24, interval=rng.choice((300.0, 600.0))), size(rng)
    start, height = rng.uniform(0, 24), level * rng.uniform(0.2, 1.5)
    fill = [(at / HOUR + start) % 24 / 24 * height for at in times]
    return done(rng, times, add(flat(times, level), fill, signal.white(rng, len(times), level * 0.01)))


def _batches(rng: Random) -> Case:
    """One job after the other, each of its own size and length."""
    times, level = clock(rng, rng.uniform(12, 72), least=300, most=900), size(rng)
    mean, until, now, levels = times[-1] / rng.uniform(25, 80), 0.0, 0.0, []
    for at in times:
        if at >= until:
            until, now = at + rng.expovariate(1 / mean), level * rng.uniform(0, 1.2)
        levels.append(level + now)
    return done(rng, times, add(levels, signal.white(rng, len(times), level * 0.01)))


def _three_weeks(rng: Random) -> Case:
    times, level = clock(rng, rng.uniform(14, 22) * 24, interval=1800), size(rng)
    height = level * rng.uniform(0.2, 1.2)
    load = [now * height for now in _weekdays(times, rng.uniform(0, 24), rng.randrange(7))]
    return done(rng, times, add(flat(times, level), load, signal.ar1(rng, len(times), level * 0.015)))


# Calm: noise


def _strong_memory(rng: Random) -> Case:
    """AR(1) that forgets within 25 to 65 samples, of a thousand or more."""
    count, keep, level = rng.randint(1000, 1500), rng.uniform(0.96, 0.985), size(rng)
    interval = rng.choice((10.0, 30.0, 60.0, 300.0))
    times = [interval * index for index in range(count)]
    sigma, now, levels = level * rng.uniform(0.01, 0.05), 0.0, []
    for _ in times:
        now = keep * now + rng.gauss(0, sigma * math.sqrt(1 - keep * keep))
        levels.append(level + now)
    return done(rng, times, levels)


def _louder(rng: Random) -> Case:
    """Its noise grows, its mean does not."""
    times, level = clock(rng, rng.uniform(6, 72), least=250), size(rng)
    sigma = level * rng.uniform(0.01, 0.05)
    return done(rng, times, [level + rng.gauss(0, sigma * (0.2 + at / times[-1])) for at in times])


def _drift_in_noise(rng: Random) -> Case:
    """A drift of less than what one could tell from noise at all."""
    times, level = clock(rng, rng.uniform(6, 72)), size(rng)
    sigma = level * rng.uniform(0.005, 0.04)
    drift = sigma * rng.uniform(0, 2) / math.sqrt(len(times))
    return done(rng, times, [level + drift * at / times[-1] + rng.gauss(0, sigma) for at in times])


def _jitter_at_97(rng: Random) -> Case:
    """97 % of the limit and 2.5 to either side, evenly spread, with all parts."""
    times, limit = clock(rng, rng.uniform(1, 72)), size(rng)
    levels = [limit * rng.uniform(0.945, 0.995) for _ in times]
    return done(rng, times, levels, limit=limit, parts=draw_parts(rng, min(levels), always=True))


def _half_a_day(rng: Random) -> Case:
    """Each ten minutes, for half a day."""
    times, level = clock(rng, 12, interval=600), size(rng)
    return done(rng, times, add(flat(times, level), signal.white(rng, len(times), level * rng.uniform(0.005, 0.06))))


def _calm_at_two_intervals(rng: Random) -> Case:
    times, level = _day_and_hour(), size(rng)
    tooth = signal.saw(rng, times, log_uniform(rng, 900, 3 * HOUR), level * rng.uniform(0.1, 1))
    return done(rng, times, add(flat(times, level), tooth, signal.white(rng, len(times), level * 0.01)))


def _saw_without_limit(rng: Random) -> Case:
    times, level = clock(rng, rng.uniform(4, 48), least=300, most=900), size(rng)
    levels = add(flat(times, level), _garbage(rng, times, times[-1] / rng.uniform(12, 50), level * 0.4))
    return case(rng, record(times, levels, limit=None, started=rng.random() < 0.5, parts=None), CALM)


# Calm: growth that ends, or is none


def _logarithm(rng: Random) -> Case:
    times, level = clock(rng, rng.uniform(12, 120), least=250), size(rng)
    knee, height = times[-1] / rng.uniform(20, 60), level * rng.uniform(0.1, 0.5)
    rise = [height * math.log1p(at / knee) for at in times]
    levels = [now * rng.gauss(1, 0.005) for now in add(flat(times, level), rise)]
    return done(rng, times, levels, truth=_ENDING, started=True)


def _doublings(rng: Random) -> Case:
    """Tables that double: a step of about the same height each time that it has lived for twice as long."""
    times, level = clock(rng, rng.uniform(8, 72), least=250), size(rng)
    last, height = rng.uniform(0.35, 0.55), level * rng.uniform(0.05, 0.2)
    changes = [(times[-1] * last / 2**number, height * rng.uniform(0.8, 1.2)) for number in range(6)]
    levels = add(flat(times, level), signal.steps(times, changes), signal.white(rng, len(times), level * 0.005))
    return done(rng, times, levels, truth=_ENDING, started=True)


def _back_again(rng: Random) -> Case:
    """Load goes away, and in the last third comes back to what it was: no higher."""
    times, level = clock(rng, rng.uniform(12, 72), least=250), size(rng)
    depth, third = level * rng.uniform(0.2, 0.5), times[-1] / 3
    dip = [-depth * min(1.0, at / third, max(0.1, (times[-1] - at) / third)) for at in times]
    return done(rng, times, add(flat(times, level), dip, signal.white(rng, len(times), level * 0.01)), started=False)


def _files(rng: Random) -> Case:
    """Files are read, for days: the page cache grows, anon is flat. Reclaimable."""
    times, anon = clock(rng, rng.uniform(12, 96), least=200), size(rng)
    file = [now * anon * rng.uniform(0.995, 1.005) for now in ramp(times, rng.uniform(0.5, 3) * HOUR / times[-1])]
    levels = add(flat(times, anon * 1.02), file, signal.white(rng, len(times), anon * 0.005))
    parts = Parts(grows="file", anon=anon, kernel=anon * 0.02)
    return done(rng, times, levels, limit=max(levels) * rng.uniform(1.1, 3), parts=parts)


def _storm_and_calm(rng: Random) -> Case:
    lives, level = Lives(rng), size(rng)
    limit = level * rng.uniform(1.1, 3)
    _storm(rng, lives, level, limit)
    times = clock(rng, rng.uniform(4, 48))
    lives.add(times, add(flat(times, level), signal.ar1(rng, len(times), level * 0.02)), limit)
    return case(rng, lives.samples, CALM)


# Kills that are no leak's


def _saturated(rng: Random, *, top: tuple[float, float], constants: tuple[float, float], truth: Truth) -> Case:
    """top: where it would level off, against the limit. constants: how many time constants till the kill, at most."""
    constant, limit = log_uniform(rng, 600, 4 * HOUR), size(rng)
    times, level = clock(rng, constant * rng.uniform(*constants) / HOUR), limit * rng.uniform(*top)
    base = level * rng.uniform(0.2, 0.5)
    rise = [base + (level - base) * now for now in signal.warm_up(times, constant)]
    count = next((index + 1 for index, now in enumerate(rise) if now >= limit), len(rise))
    noisy = [min(limit * 0.9995, now + rng.gauss(0, limit * 0.001)) for now in rise[:count]]
    return at_limit(rng, times[:count], noisy, limit, truth, started=True)


def _heap_committed(rng: Random) -> Case:
    """A heap, or workers, committed in steps in the first minutes; then near the limit for hours, with all parts."""
    times, limit = clock(rng, rng.uniform(3, 24), least=300, most=900), size(rng, 200)
    top, count = limit * rng.uniform(0.93, 0.98), rng.randint(4, 12)
    committed = times[-1] * rng.uniform(0.03, 0.1)
    changes = [(committed * number / count, top * 0.7 / count) for number in range(1, count + 1)]
    levels = add(flat(times, top * 0.3), signal.steps(times, changes), signal.one_sided(rng, len(times), limit * 0.003))
    levels = [min(level, limit * 0.998) for level in levels]
    parts = draw_parts(rng, top * 0.3, always=True)
    return at_limit(rng, times, levels, limit, only("limit_too_low"), started=True, parts=parts)


def _each_day(rng: Random) -> Case:
    """
    Killed at the peak of each day, and started anew under the same load: the last life falls, and rises to the limit.

    limit_too_low; unknown is not denied, as one cycle of a life is all that there is.
    """
    lives, limit = Lives(rng), size(rng)
    top, height = limit * rng.uniform(0.95, 0.99), limit * rng.uniform(0.2, 0.5)
    for _ in range(rng.randint(2, 4)):
        times = clock(rng, 24, interval=300)
        load = signal.sine_day(times, 15, start_hour=15)
        levels = [top - height + height * now + rng.gauss(0, limit * 0.003) for now in load]
        lives.add(times, [*levels[:-1], limit], limit, killed=True)
    return case(rng, lives.samples, only("limit_too_low", "unknown"))


def _page_cache_at_limit(rng: Random) -> Case:
    """
    Page cache has filled the limit long ago, anon is flat; then a kill.

    limit_too_low, as the working set is flat at the limit; spike, as only more of something else can have killed it.
    """
    times, limit = clock(rng, rng.uniform(6, 48), least=200), size(rng)
    anon, full = limit * rng.uniform(0.3, 0.6), times[-1] * rng.uniform(0.1, 0.4)
    levels = [min(limit * rng.uniform(0.985, 0.998), anon + (limit - anon) * at / full) for at in times]
    parts = Parts(grows="file", anon=anon * 0.97, kernel=anon * 0.03)
    return at_limit(rng, times, levels, limit, only("limit_too_low", "spike"), started=True, parts=parts)


def _survived_once(rng: Random) -> Case:
    """A spike to the very limit that reclaim survives; hours later one that it does not."""
    times, limit = clock(rng, rng.uniform(4, 48), least=250), size(rng)
    level = limit * rng.uniform(0.2, 0.5)
    levels = add(flat(times, level), signal.white(rng, len(times), level * 0.02))
    begin = rng.randrange(len(times) // 5, len(times) * 3 // 4)
    for index in range(begin, begin + rng.randint(1, 4)):
        levels[index] = limit * rng.uniform(0.97, 1.0)
    return at_limit(rng, times, levels, limit, only("spike"), parts=draw_parts(rng, level * 0.8, always=True))


def _spike_on_leak(rng: Random) -> Case:
    """
    It leaks, has not half filled its limit, and jumps to it.

    spike, as the contract says of a jump before the kill; leak is not denied, for it would have come to that.
    """
    leak = draw(rng, least_hours=3)
    times = clock(rng, leak.hours, least=200)
    limit = (leak.base + leak.growth) * rng.uniform(2, 4)
    return at_limit(rng, times, _leaking(rng, leak, times, 0.01), limit, only("spike", "leak"))


def _end_of_calm_unseen(rng: Random) -> Case:
    """
    Calm at a third; nobody looked in the last hour; killed at the limit.

    spike, as the contract says of a jump between the last sample and the kill; unknown, as an hour is long.
    """
    times, limit = clock(rng, rng.uniform(6, 48), least=200), size(rng)
    level = limit * rng.uniform(0.2, 0.5)
    levels = add(flat(times, level), signal.white(rng, len(times), level * 0.01))
    made = at_limit(rng, times, levels, limit, only("spike", "unknown"))
    end = float(made.samples[-1]["time"] or 0.0)
    return made._replace(samples=drop(made.samples, [Span(end - HOUR, end)]))


def _no_limit_no_cause(rng: Random) -> Case:
    """
    Flat, without a limit, killed; nobody says of what.

    unknown; spike is not denied, as something must have jumped. node_pressure needs the cause, by the contract.
    """
    times, level = clock(rng, rng.uniform(3, 48)), size(rng)
    levels = add(flat(times, level), signal.white(rng, len(times), level * 0.01))
    return case(rng, record(times, levels, limit=None, killed=True), only("unknown", "spike"))


def _starts(rng: Random, *, seconds: tuple[float, float], lives: tuple[int, int]) -> Case:
    """Killed on its way up, each time; the limit is not the same twice: somebody tries."""
    limit, began, samples = size(rng), 0.0, []
    for number in range(rng.randint(*lives)):
        now = limit * rng.uniform(0.85, 1.15)
        length = rng.uniform(*seconds)
        count = rng.randint(6, 30)
        times = [began + length * index / (count - 1) for index in range(count)]
        levels = [now * (0.1 + 0.88 * index / (count - 1)) * rng.uniform(0.98, 1.02) for index in range(count)]
        samples += record(times, [*levels[:-1], now], limit=now, killed=True)
        began = times[-1] + min(300.0, 10.0 * 2**number)
    return case(rng, samples, only("startup"))


def _family(family: str, **makes: Callable[[Random], Case]) -> list[Shape]:
    return [Shape(family, name.replace("_", " "), make) for name, make in makes.items()]


def _both(family: str, **makes: Callable[..., Case]) -> list[Shape]:
    """Each killed, and running."""
    return [
        Shape(family, f"{name.replace('_', ' ')}, {'killed' if kill else 'running'}", partial(make, kill=kill))
        for name, make in makes.items()
        for kill in (True, False)
    ]


SHAPES = [
    *_both("leak, as sampled", two_weeks=_two_weeks, each_five_seconds=_five_seconds, at_random_times=_at_random_times),
    *_family("leak, as sampled", tiny=_tiny, day_and_last_hour=_two_intervals, its_end_unseen=_end_unseen),
    *_both("leak, by its pace", pauses=_pauses, by_chance=_by_chance),
    *_family(
        "leak, by its pace",
        slower_lately=partial(_changed_pace, factors=(1.7, 2.2)),
        faster_lately=partial(_changed_pace, factors=(0.4, 0.6)),
        ever_faster=_accelerating,
        each_hour=_each_hour,
    ),
    *_both("leak under more", dips=_dips, uneven_saw=_uneven_saw, partly_released_at_night=_released_at_night),
    *_family("leak under more", weekdays=_weekly, all_parts_move=_all_parts_move, page_cache_squeezed=_squeezed),
    *_both("leak of a last life", deployed=_deployed),
    *_family("leak of a last life", after_a_restart_storm=_storm_and_leak),
    *_family(
        "calm, cycles",
        triangles=partial(_triangle, hours=(0.5, 8), cycles=(5, 25)),
        triangles_of_a_day=partial(_triangle, hours=(24, 24), cycles=(2.2, 5)),
        hourly_jobs=partial(_square, hours=(1, 1)),
        jobs_of_hours=partial(_square, hours=(2, 8)),
        restarted_each_night=_nightly_restart,
        batches=_batches,
        weekdays=_three_weeks,
    ),
    *_family(
        "calm, noise",
        long_memory=_strong_memory,
        ever_louder=_louder,
        drift_in_noise=_drift_in_noise,
        at_97_percent=_jitter_at_97,
        half_a_day=_half_a_day,
        day_and_last_hour=_calm_at_two_intervals,
        saw_without_a_limit=_saw_without_limit,
    ),
    *_family(
        "calm, no growth to fear",
        logarithm=_logarithm,
        doublings=_doublings,
        back_again=_back_again,
        files_read=_files,
        after_a_restart_storm=_storm_and_calm,
    ),
    *_family(
        "killed, no leak",
        saturated_below_the_limit=partial(
            _saturated, top=(0.97, 0.995), constants=(6, 12), truth=only("limit_too_low")
        ),
        saturated_at_the_limit=partial(
            _saturated, top=(1.005, 1.03), constants=(8, 8), truth=only("limit_too_low", "unknown")
        ),
        heap_committed=_heap_committed,
        at_the_peak_of_each_day=_each_day,
        page_cache_at_the_limit=_page_cache_at_limit,
        spike_survived_before=_survived_once,
        spike_on_a_leak=_spike_on_leak,
        last_hour_unseen=_end_of_calm_unseen,
        without_limit_and_cause=_no_limit_no_cause,
        startup_under_changing_limits=partial(_starts, seconds=(15, 120), lives=(2, 6)),
        slow_starter=partial(_starts, seconds=(120, 290), lives=(2, 4)),
    ),
]
