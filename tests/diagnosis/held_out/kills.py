"""Histories that end in a kill which is no leak's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from tests.diagnosis.held_out import signal
from tests.diagnosis.held_out.calm import flat
from tests.diagnosis.held_out.record import Parts, case, draw_parts, record
from tests.diagnosis.held_out.shape import HOUR, Case, Shape, Truth, only
from tests.diagnosis.held_out.signal import Levels, Noise, add, clock, log_uniform, size

_TOO_LOW = only("limit_too_low")
_SPIKE = only("spike")
_STARTUP = only("startup")
_PRESSURE = only("node_pressure")
PRESSURE_CAUSES = ("node", "node_allocatable", "node_numa")


def at_limit(
    rng: Random,
    times: Levels,
    levels: Levels,
    limit: float | Levels,
    truth: Truth,
    *,
    started: bool | None = None,
    parts: Parts | None = None,
) -> Case:
    """Killed where the levels end: the sample of the kill is at the limit."""
    last = limit if isinstance(limit, int | float) else limit[-1]
    ended = [*levels[:-1], last * rng.uniform(0.985, 1.0)]
    cause = rng.choice((None, None, "container_limit"))
    begun = rng.random() < 0.6 if started is None else started
    parts = parts or draw_parts(rng, max(0.0, min(levels)))
    return case(rng, record(times, ended, limit=limit, killed=True, started=begun, parts=parts, cause=cause), truth)


# The limit is too low


def _plateau(rng: Random, *, noise: Noise) -> Case:
    """Flat at 90 to 99 % of the limit, for hours; then one allocation too many."""
    times = clock(rng, rng.uniform(2, 48))
    limit = size(rng)
    share = rng.uniform(0.9, 0.99)
    return at_limit(
        rng, times, add(flat(times, limit * share), noise(rng, len(times), limit * (1 - share) / 4)), limit, _TOO_LOW
    )


def _after_warm_up(rng: Random) -> Case:
    """It warms up to just below the limit, stays there for long, and is killed."""
    constant = log_uniform(rng, 120, 3600)
    times = clock(rng, constant * rng.uniform(12, 40) / HOUR)
    limit = size(rng)
    top = limit * rng.uniform(0.92, 0.985)
    base = top * rng.uniform(0.3, 0.7)
    rise = [now * (top - base) for now in signal.warm_up(times, constant)]
    levels = add(flat(times, base), rise, signal.white(rng, len(times), (limit - top) / 4))
    return at_limit(rng, times, levels, limit, _TOO_LOW, started=True)


def _after_step(rng: Random) -> Case:
    """A step up to just below the limit, long ago."""
    times = clock(rng, rng.uniform(3, 48), least=200)
    limit = size(rng)
    top = limit * rng.uniform(0.92, 0.985)
    step = top * rng.uniform(0.15, 0.5)
    steps = signal.steps(times, [(times[-1] * rng.uniform(0.1, 0.6), step)])
    levels = add(flat(times, top - step), steps, signal.white(rng, len(times), (limit - top) / 4))
    return at_limit(rng, times, levels, limit, _TOO_LOW)


def _daily_peak(rng: Random) -> Case:
    """Each day's peak came close; today's reached it."""
    start, days = rng.uniform(0, 24), rng.randint(2, 4)
    peak = rng.uniform(12, 18)
    times = clock(rng, days * 24 + (peak - start) % 24, interval=rng.choice((300.0, 600.0)))
    limit = size(rng)
    height, top = rng.uniform(0.15, 0.5), rng.uniform(0.93, 0.98)
    load = signal.sine_day(times, peak, start_hour=start)
    levels = [limit * (top - height + height * now) * rng.uniform(0.997, 1.003) for now in load]
    return at_limit(rng, times, levels, limit, _TOO_LOW)


def _saw_peak(rng: Random) -> Case:
    """
    The teeth of a garbage collector's saw end just below the limit, each time; one went over.

    limit_too_low, as the peaks are flat near the limit; spike is not denied, since the floor is a calm baseline.
    """
    period = log_uniform(rng, 300, 7200)
    times = clock(rng, period * rng.randint(8, 40) / HOUR, least=300, most=900)
    limit = size(rng)
    height, top = rng.uniform(0.1, 0.4), rng.uniform(0.94, 0.985)
    tooth = signal.saw(rng, times, period, limit * height, jitter=0.05)
    return at_limit(rng, times, add(flat(times, limit * (top - height)), tooth), limit, only("limit_too_low", "spike"))


def _shrunk(rng: Random) -> Case:
    """The limit was lowered in place to just above what it uses; killed some time after."""
    times = clock(rng, rng.uniform(3, 48))
    after = size(rng)
    share = rng.uniform(0.93, 0.98)
    levels = add(flat(times, after * share), signal.white(rng, len(times), after * (1 - share) / 4))
    when = times[-1] * rng.uniform(0.3, 0.9)
    limits = [after * 1.8 if at < when else after for at in times]
    return at_limit(rng, times, levels, limits, _TOO_LOW)


def _filled(rng: Random) -> Case:
    """It filled a bounded cache in its first third, was flat near the limit ever since, and is killed."""
    times = clock(rng, rng.uniform(9, 72), least=250)
    limit = size(rng)
    top = limit * rng.uniform(0.93, 0.985)
    full = times[-1] * rng.uniform(0.1, 0.3)
    levels = [top * (0.4 + 0.6 * min(1.0, at / full)) for at in times]
    return at_limit(
        rng, times, add(levels, signal.white(rng, len(times), (limit - top) / 4)), limit, _TOO_LOW, started=True
    )


# A spike


def _baseline(rng: Random, times: Levels, limit: float) -> Levels:
    """At a sixth to two thirds of the limit: flat, a saw, or the load of the day."""
    level = limit * rng.uniform(0.15, 0.5)
    noise = signal.white(rng, len(times), level * 0.01)
    match rng.randrange(3):
        case 0:
            return add(flat(times, level), noise)
        case 1:
            return add(flat(times, level), signal.saw(rng, times, times[-1] / rng.uniform(8, 40), level * 0.3), noise)
        case _:
            return add(flat(times, level), signal.wander(rng, times, level * 0.05, times[-1] / 30))


def _jump(rng: Random, *, seen: bool) -> Case:
    """Between the last sample and the kill. seen: the kill's own sample is at the limit, or still says the baseline."""
    times = clock(rng, rng.uniform(1, 48))
    limit = size(rng)
    levels = _baseline(rng, times, limit)
    if seen:
        return at_limit(rng, times, levels, limit, _SPIKE)
    parts = draw_parts(rng, min(levels))
    return case(rng, record(times, levels, limit=limit, killed=True, started=rng.random() < 0.6, parts=parts), _SPIKE)


def _short_ramp(rng: Random) -> Case:
    """Seen in the last two to five samples, of minutes in all."""
    times = clock(rng, rng.uniform(1, 12), interval=rng.choice((10.0, 15.0, 30.0, 60.0)))[-1500:]
    times = [at - times[0] for at in times]
    limit = size(rng)
    levels = _baseline(rng, times, limit)
    length = rng.randint(2, 5)
    begin = levels[-length - 1]
    for index in range(length):
        levels[index - length] = begin + (limit - begin) * (index + 1) / length * rng.uniform(0.85, 1.0)
    return at_limit(rng, times, levels, limit, _SPIKE)


def _last_of_many(rng: Random) -> Case:
    """Peaks like the last one it survived before, each below the limit."""
    times = clock(rng, rng.uniform(3, 48), least=250)
    limit = size(rng)
    levels = _baseline(rng, times, limit)
    for _ in range(rng.randint(1, 4)):
        begin = rng.randrange(10, len(levels) - 20)
        for index in range(begin, begin + rng.randint(1, 3)):
            levels[index] = limit * rng.uniform(0.6, 0.85)
    return at_limit(rng, times, levels, limit, _SPIKE)


def _coarse(rng: Random) -> Case:
    """Sampled each ten minutes: the jump took seconds."""
    times = clock(rng, rng.uniform(12, 72), interval=600.0)
    limit = size(rng)
    return at_limit(rng, times, _baseline(rng, times, limit), limit, _SPIKE)


# At the start


def _startup_life(rng: Random, limit: float, began: float, *, jump: bool) -> tuple[Levels, Levels]:
    seconds = log_uniform(rng, 8, 200)
    count = rng.randint(2, 4) if jump else rng.randint(5, 25)
    times = [began + seconds * index / (count - 1) for index in range(count)]
    share = rng.uniform(0.05, 0.3)
    if jump:
        return times, [limit * share] * count
    return times, [limit * min(1.0, share + (1 - share) * (at - began) / seconds) for at in times]


def _startup(rng: Random, *, lives: tuple[int, int], jump: bool = False) -> Case:
    """Killed within its first minutes: a ramp, or faster than it was sampled. Waits of a CrashLoopBackOff between."""
    limit, began, samples = size(rng), 0.0, []
    for number in range(rng.randint(*lives)):
        times, levels = _startup_life(rng, limit, began, jump=jump)
        levels[-1] = limit * rng.uniform(0.985, 1.0)
        samples += record(times, levels, limit=limit, killed=True, parts=None)
        began = times[-1] + min(300.0, 10.0 * 2**number)
    return case(rng, samples, _STARTUP)


def _new_revision(rng: Random) -> Case:
    """The old revision ran for hours; the new one does not get past its start."""
    limit = size(rng)
    times = clock(rng, rng.uniform(2, 24))
    levels = add(flat(times, limit * rng.uniform(0.4, 0.7)), signal.white(rng, len(times), limit * 0.01))
    samples = record(times, levels, limit=limit, revision="6c8f9d7b54")
    began = times[-1] + 20
    for number in range(rng.randint(1, 4)):
        life, ramp = _startup_life(rng, limit, began, jump=False)
        samples += record(life, ramp, limit=limit, killed=True, revision="79c4b8d5f6")
        began = life[-1] + 10.0 * 2**number
    return case(rng, samples, _STARTUP)


# The node's memory


def _pressure(rng: Random, *, limited: bool, saw: bool = False) -> Case:
    """Far below its limit, or without any: `cause` says that the node ran out."""
    times = clock(rng, rng.uniform(2, 48))
    level = size(rng)
    levels = add(flat(times, level), signal.white(rng, len(times), level * 0.01))
    if saw:
        levels = add(levels, signal.saw(rng, times, times[-1] / rng.uniform(8, 40), level * 0.5))
    limit = max(levels) * rng.uniform(1.2, 4) if limited else None
    cause, parts = rng.choice(PRESSURE_CAUSES), draw_parts(rng, min(levels))
    return case(rng, record(times, levels, limit=limit, killed=True, parts=parts, cause=cause), _PRESSURE)


def _pressure_short(rng: Random) -> Case:
    """A handful of samples: the cause says enough."""
    times = [10.0 * index for index in range(rng.randint(2, 8))]
    level = size(rng)
    limit = level * rng.uniform(1.3, 4)
    cause = rng.choice(PRESSURE_CAUSES)
    return case(rng, record(times, flat(times, level), limit=limit, killed=True, cause=cause), _PRESSURE)


def _pressure_of_growth(rng: Random) -> Case:
    """
    It grows, without a limit, until the node runs out.

    node_pressure, as `cause` says; leak is not denied, since by its growth it may be what filled the node.
    """
    times = clock(rng, rng.uniform(4, 48))
    level = size(rng)
    growth = signal.ramp(times, level * rng.uniform(0.5, 3) / times[-1] * HOUR)
    levels = add(flat(times, level), growth, signal.white(rng, len(times), level * 0.01))
    truth = only("node_pressure", "leak")
    return case(rng, record(times, levels, limit=None, killed=True, cause=rng.choice(PRESSURE_CAUSES)), truth)


# Too little seen


def _unseen(rng: Random) -> Case:
    """The kill's own sample, and nothing before it."""
    limit = size(rng)
    return case(rng, record([0.0], [limit], limit=limit, killed=True, started=False), only("unknown"))


def _hardly_seen(rng: Random) -> Case:
    """
    A minute before the kill, of a container whose start nobody saw.

    unknown, as what came before is not; a jump right before the kill is a spike all the same, by the contract.
    """
    times = [10.0 * index for index in range(rng.randint(3, 6))]
    limit = size(rng)
    return at_limit(
        rng, times, flat(times, limit * rng.uniform(0.2, 0.6)), limit, only("unknown", "spike"), started=False
    )


def _family(family: str, **makes: Callable[[Random], Case]) -> list[Shape]:
    return [Shape(family, name.replace("_", " "), make) for name, make in makes.items()]


SHAPES = [
    *_family(
        "limit too low",
        flat=partial(_plateau, noise=signal.white),
        flat_with_a_memory=partial(_plateau, noise=signal.ar1),
        after_a_warm_up=_after_warm_up,
        after_a_step=_after_step,
        bounded_cache=_filled,
        at_the_peak_of_the_day=_daily_peak,
        at_the_peak_of_a_saw=_saw_peak,
        limit_lowered=_shrunk,
    ),
    *_family(
        "spike",
        unseen=partial(_jump, seen=False),
        at_the_kill=partial(_jump, seen=True),
        in_the_last_samples=_short_ramp,
        one_of_several=_last_of_many,
        each_ten_minutes=_coarse,
    ),
    *_family(
        "startup",
        once=partial(_startup, lives=(1, 1)),
        again_and_again=partial(_startup, lives=(2, 8)),
        too_fast_to_see=partial(_startup, lives=(2, 5), jump=True),
        of_a_new_revision=_new_revision,
    ),
    *_family(
        "node pressure",
        below_its_limit=partial(_pressure, limited=True),
        without_a_limit=partial(_pressure, limited=False),
        under_a_saw=partial(_pressure, limited=True, saw=True),
        hardly_seen=_pressure_short,
        while_it_grew=_pressure_of_growth,
    ),
    *_family("short", only_the_kill=_unseen, a_minute_before_the_kill=_hardly_seen),
]
