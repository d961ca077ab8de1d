"""
The calm fleet that false alarms are counted on: containers that run for days and meet no limit.

An agent sees each of them from its start on (or from its own), and looks again and again; so the first morning of a
daily load and the middle of a warm-up count, as does a Monday after a weekend.
"""

from __future__ import annotations

from random import Random

from tests.diagnosis.held_out import signal
from tests.diagnosis.held_out.record import case, draw_parts, record
from tests.diagnosis.held_out.shape import CALM, DAY, HOUR, Sample
from tests.diagnosis.held_out.signal import Levels, add, log_uniform, size

_KINDS = {"steady": 25, "saw": 20, "daily": 25, "warm": 12, "steps": 8, "peaks": 10}
"""How many of a hundred containers are of a kind. Most have a trace of others too."""


def life(seed: int, days: int) -> list[Sample]:
    """One container, sampled each five minutes, on any clock, first sample at its start or not."""
    rng = Random(f"calm days/{seed}")
    times = [300.0 * index for index in range(days * 288)]
    level = size(rng)
    levels = add(_curve(rng, times, level), signal.ar1(rng, len(times), level * log_uniform(rng, 0.002, 0.04)))
    limit = max(levels) * (1 + log_uniform(rng, 0.05, 2))
    parts = draw_parts(rng, max(0.0, min(levels)))
    return case(rng, record(times, levels, limit=limit, started=rng.random() < 0.7, parts=parts), CALM).samples


def _curve(rng: Random, times: Levels, level: float) -> Levels:
    base = [level] * len(times)
    (kind,) = rng.choices(list(_KINDS), weights=list(_KINDS.values()))
    match kind:
        case "saw":
            period = log_uniform(rng, 600, 8 * HOUR)
            return add(base, signal.saw(rng, times, period, level * rng.uniform(0.1, 1.2)))
        case "daily":
            start, height = rng.uniform(0, 24), level * rng.uniform(0.05, 0.8)
            if rng.random() < 0.5:
                load = signal.sine_day(times, rng.uniform(11, 20), start_hour=start)
            else:
                load = signal.office_day(times, start_hour=start, steep=rng.uniform(0.8, 2))
            return add(base, [now * height for now in load])
        case "warm":
            height, constant = level * rng.uniform(0.2, 2), log_uniform(rng, 300, 8 * HOUR)
            return add(base, [now * height for now in signal.warm_up(times, constant)])
        case "steps":
            heights = [level * rng.uniform(-0.3, 0.5) for _ in range(rng.randint(1, 4))]
            return add(base, signal.steps(times, [(rng.uniform(0, times[-1]), height) for height in heights]))
        case "peaks":
            return add(base, _peaks(rng, times, level))
        case _:
            return add(base, signal.wander(rng, times, level * rng.uniform(0, 0.05), rng.uniform(1800, 4 * HOUR)))


def _peaks(rng: Random, times: Levels, level: float) -> Levels:
    """Jobs of minutes to hours, a few a day."""
    levels = [0.0] * len(times)
    for _ in range(int(times[-1] / DAY * rng.uniform(1, 8)) + 1):
        begin, height = rng.randrange(len(times)), level * rng.uniform(0.1, 1)
        for index in range(begin, min(len(times), begin + rng.randint(1, 30))):
            levels[index] = height
    return levels
