"""Parts that a curve of memory is put together from. Times in seconds since the first sample, levels in bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from tests.diagnosis.held_out.shape import DAY, HOUR, MB

Levels: TypeAlias = "list[float]"
Noise: TypeAlias = Callable[[Random, int, float], Levels]
_INTERVALS = (1, 2, 5, 10, 15, 20, 30, 60, 90, 120, 180, 300, 420, 600, 900)


def log_uniform(rng: Random, least: float, most: float) -> float:
    return math.exp(rng.uniform(math.log(least), math.log(most)))


def size(rng: Random, least_mb: float = 30, most_mb: float = 4000) -> float:
    return log_uniform(rng, least_mb, most_mb) * MB


def clock(rng: Random, hours: float, *, least: int = 150, most: int = 700, interval: float | None = None) -> Levels:
    """Sampled evenly, by an interval that somebody would choose; `least` to `most` samples or some more."""
    if interval is None:
        wanted = hours * HOUR / rng.randint(least, most)
        interval = max((nice for nice in _INTERVALS if nice <= wanted), default=1)
        interval = max(interval, hours * HOUR / 1500)
    return [index * interval for index in range(int(hours * HOUR / interval) + 1)]


def add(*curves: Sequence[float]) -> Levels:
    return [sum(levels) for levels in zip(*curves, strict=True)]


# Noise: of standard deviation sigma, or nearly


def white(rng: Random, count: int, sigma: float) -> Levels:
    return [rng.gauss(0, sigma) for _ in range(count)]


def ar1(rng: Random, count: int, sigma: float) -> Levels:
    """Remembers 2 to 5 samples."""
    keep = rng.uniform(0.6, 0.82)
    fresh = sigma * math.sqrt(1 - keep * keep)
    level, levels = rng.gauss(0, sigma), []
    for _ in range(count):
        level = keep * level + rng.gauss(0, fresh)
        levels.append(level)
    return levels


def heavy(rng: Random, count: int, sigma: float) -> Levels:
    """Student's t of three degrees of freedom, cut at 12 sigma: each hundredth sample or so lies far out."""

    def draw() -> float:
        chi2 = sum(rng.gauss(0, 1) ** 2 for _ in range(3))
        return rng.gauss(0, 1) / math.sqrt(max(chi2, 1e-3) / 3) * sigma / math.sqrt(3)

    return [max(-12 * sigma, min(12 * sigma, draw())) for _ in range(count)]


def one_sided(rng: Random, count: int, sigma: float) -> Levels:
    """Requests on top of a floor: never below it."""
    return [rng.expovariate(1 / sigma) for _ in range(count)]


def wander(rng: Random, times: Sequence[float], sigma: float, seconds: float) -> Levels:
    """Ornstein-Uhlenbeck: a walk that comes back within about `seconds`."""
    level, before, levels = rng.gauss(0, sigma), times[0], []
    for at in times:
        keep = math.exp((before - at) / seconds)
        level = keep * level + rng.gauss(0, sigma * math.sqrt(1 - keep * keep))
        before = at
        levels.append(level)
    return levels


# Curves


def ramp(times: Sequence[float], bytes_per_hour: float, *, since: float = 0.0) -> Levels:
    return [max(0.0, at - since) / HOUR * bytes_per_hour for at in times]


def saw(rng: Random, times: Sequence[float], period: float, height: float, *, jitter: float = 0.1) -> Levels:
    """A garbage collector's: up evenly, then down at once. Each tooth a bit longer or shorter, as the load goes."""
    levels, began, length = [], -rng.random() * period, period
    for at in times:
        while at >= began + length:
            began += length
            length = period * max(0.3, rng.gauss(1, jitter))
        levels.append((at - began) / length * height)
    return levels


def sine_day(times: Sequence[float], peak_hour: float, *, start_hour: float) -> Levels:
    """0 at night to 1 at peak_hour. start_hour: the hour of day of time 0."""
    return [0.5 + 0.5 * math.cos(2 * math.pi * (at / DAY + (start_hour - peak_hour) / 24)) for at in times]


def office_day(times: Sequence[float], *, start_hour: float, steep: float = 1.0) -> Levels:
    """Up from about 7 to 10, busy, down from about 17 to 20. steep: hours that most of the way up takes."""

    def level(hour: float) -> float:
        return 1 / (1 + math.exp((8.5 - hour) * 2 / steep)) - 1 / (1 + math.exp((18.5 - hour) * 2 / steep))

    return [max(0.0, level((at / HOUR + start_hour) % 24)) for at in times]


def warm_up(times: Sequence[float], seconds: float, *, since: float = 0.0) -> Levels:
    """0 to 1, with this time constant."""
    return [0.0 if at < since else 1 - math.exp((since - at) / seconds) for at in times]


def steps(times: Sequence[float], changes: Sequence[tuple[float, float]]) -> Levels:
    """changes: (when, by how much)."""
    return [sum(height for when, height in changes if when <= at) for at in times]


def stairs(rng: Random, times: Sequence[float], bytes_per_hour: float, count: int) -> Levels:
    """Grows by `count` steps of differing height at random times: as fast on the whole."""
    total = times[-1] / HOUR * bytes_per_hour
    heights = [rng.uniform(0.3, 1.7) for _ in range(count)]
    scale = total / sum(heights)
    changes = sorted((rng.uniform(times[0], times[-1]), height * scale) for height in heights)
    levels, level, upcoming = [], 0.0, iter([*changes, (math.inf, 0.0)])
    when, height = next(upcoming)
    for at in times:
        while when <= at:
            level += height
            when, height = next(upcoming)
        levels.append(level)
    return levels
