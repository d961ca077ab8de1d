"""Several lives of one container: the last is judged, and those before it are no part of its curve."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from tests.diagnosis.held_out import signal
from tests.diagnosis.held_out.calm import flat
from tests.diagnosis.held_out.leaks import Leak, draw
from tests.diagnosis.held_out.record import case, record, seconds_to, until
from tests.diagnosis.held_out.shape import CALM, HOUR, Case, Sample, Shape, Span, Truth, only
from tests.diagnosis.held_out.signal import add, clock, log_uniform, size

_REVISIONS = ("5d78c9869d", "6c8f9d7b54", "79c4b8d5f6", "85b7d6c8f4", "98f6b5c7d4")


class Lives:
    """Appends one life after the other, with the wait of a restart between them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.samples: list[Sample] = []
        self.ended = 0.0

    def add(
        self,
        times: list[float],
        levels: list[float],
        limit: float,
        *,
        killed: bool = False,
        revision: str | None = None,
    ) -> float:
        """When it began."""
        began = self.ended + self.rng.uniform(2, 60) if self.samples else 0.0
        later = [began + at for at in times]
        self.samples += record(later, levels, limit=limit, killed=killed, revision=revision)
        self.ended = later[-1]
        return began


class _Curve(NamedTuple):
    times: list[float]
    levels: list[float]


def _leaking(rng: Random, leak: Leak, limit: float | None, *, samples: int) -> _Curve:
    """limit: cut where it is reached."""
    times = clock(rng, leak.hours * (1.2 if limit else 1), least=samples, most=samples + 100)
    noise = signal.white(rng, len(times), leak.growth * 0.015)
    levels = add(flat(times, leak.base), signal.ramp(times, leak.rate), noise)
    if limit is None:
        return _Curve(times, levels)
    count = until(levels, limit)
    return _Curve(times[:count], [*levels[: count - 1], limit * rng.uniform(0.985, 1)])


def _steady(rng: Random, level: float, hours: float) -> _Curve:
    times = clock(rng, hours, least=100, most=250)
    warm = [-0.3 * level * (1 - now) for now in signal.warm_up(times, 60)]
    return _Curve(times, add(flat(times, level), warm, signal.white(rng, len(times), level * 0.01)))


def _leak_truth(leak: Leak, began: float, limit: float | None) -> Truth:
    left = None if limit is None else seconds_to(limit, leak.base + leak.growth, leak.rate)
    return Truth(
        patterns=frozenset({"leak"}),
        growth_bytes_per_hour=leak.rate,
        growth_since=Span(began, began),
        seconds_to_limit=None if left is None else Span(left, left),
    )


def _leak_again(rng: Random, *, killed: bool) -> Case:
    """Each life leaks to its kill, the same way. killed: the last too, else it is on its way."""
    lives, leak, began = Lives(rng), draw(rng, least_hours=3), 0.0
    limit = leak.base + leak.growth
    for _ in range(rng.randint(1, 4)):
        began = lives.add(*_leaking(rng, leak, limit, samples=120), limit, killed=True)
    if not killed:
        leak = leak._replace(hours=leak.hours * rng.uniform(0.5, 0.85))
        began = lives.add(*_leaking(rng, leak, None, samples=150), limit)
    return case(rng, lives.samples, _leak_truth(leak, began, None if killed else limit))


def _leak_deployed(rng: Random) -> Case:
    """Deploys restart it before the limit is met: each life leaks all the same."""
    lives, leak, began = Lives(rng), draw(rng, least_hours=4), 0.0
    limit = leak.base + leak.growth * rng.uniform(1.2, 3)
    for number in range(rng.randint(2, 4)):
        part = leak._replace(hours=leak.hours * rng.uniform(0.4, 0.8))
        lives.add(*_leaking(rng, part, None, samples=120), limit, revision=_REVISIONS[number])
    began = lives.add(*_leaking(rng, leak, None, samples=150), limit, revision=_REVISIONS[4])
    return case(rng, lives.samples, _leak_truth(leak, began, limit))


def _leak_of_new_revision(rng: Random) -> Case:
    """The old revisions were flat, the last one leaks."""
    lives, leak, began = Lives(rng), draw(rng, least_hours=4), 0.0
    limit = leak.base + leak.growth * rng.uniform(1.2, 3)
    for number in range(rng.randint(1, 3)):
        lives.add(*_steady(rng, leak.base, leak.hours * rng.uniform(0.3, 1)), limit, revision=_REVISIONS[number])
    began = lives.add(*_leaking(rng, leak, None, samples=150), limit, revision=_REVISIONS[4])
    return case(rng, lives.samples, _leak_truth(leak, began, limit))


def _leak_cured(rng: Random) -> Case:
    """Lives that leaked to their kill; the new revision is flat, for about as long."""
    lives, leak = Lives(rng), draw(rng, least_hours=3, most_hours=24)
    limit = leak.base + leak.growth
    for _ in range(rng.randint(1, 3)):
        lives.add(*_leaking(rng, leak, limit, samples=100), limit, killed=True, revision=_REVISIONS[0])
    lives.add(*_steady(rng, leak.base, leak.hours * rng.uniform(0.8, 2)), limit, revision=_REVISIONS[1])
    return case(rng, lives.samples, CALM)


def _deploys(rng: Random) -> Case:
    """Restarts without a kill, each with its own level, rising from life to life: flat within each."""
    lives, level = Lives(rng), size(rng)
    limit = level * rng.uniform(2.5, 4)
    for number in range(rng.randint(3, 5)):
        lives.add(*_steady(rng, level * (1 + 0.15 * number), rng.uniform(3, 12)), limit, revision=_REVISIONS[number])
    return case(rng, lives.samples, CALM)


def _warm_ups(rng: Random) -> Case:
    """Restarted often, and each time its caches warm up: the last life is as long as the others."""
    lives, level = Lives(rng), size(rng)
    limit, constant = level * rng.uniform(1.2, 3), log_uniform(rng, 120, 1800)
    for _ in range(rng.randint(3, 6)):
        times = clock(rng, constant * rng.uniform(5, 10) / HOUR, least=100, most=200)
        rise = [level * (0.4 + 0.6 * now) for now in signal.warm_up(times, constant)]
        lives.add(times, add(rise, signal.white(rng, len(times), level * 0.005)), limit)
    return case(rng, lives.samples, CALM)


def _startup_then_calm(rng: Random) -> Case:
    """It did not start, some times; then the limit was raised, and it runs."""
    lives, level = Lives(rng), size(rng)
    for _ in range(rng.randint(2, 5)):
        step = rng.uniform(1, 5)
        lives.add(
            [index * step for index in range(8)],
            [level * (0.2 + 0.08 * index) for index in range(8)],
            level * 0.8,
            killed=True,
        )
    lives.add(*_steady(rng, level, rng.uniform(4, 24)), level * rng.uniform(1.2, 2))
    return case(rng, lives.samples, CALM)


def _too_low_again(rng: Random) -> Case:
    """Lives of differing length, flat near the limit, each killed."""
    lives, limit = Lives(rng), size(rng)
    level = limit * rng.uniform(0.92, 0.98)
    for _ in range(rng.randint(2, 4)):
        times, levels = _steady(rng, level, rng.uniform(2, 20))
        noise = signal.white(rng, len(times), (limit - level) / 5)
        flat_life = [min(limit * 0.998, now) for now in add(levels, noise)]
        lives.add(times, [*flat_life[:-1], limit * rng.uniform(0.985, 1)], limit, killed=True)
    return case(rng, lives.samples, only("limit_too_low"))


def _spike_after_leak(rng: Random) -> Case:
    """An earlier life leaked; the last was calm for hours, and jumped."""
    lives, leak = Lives(rng), draw(rng, least_hours=3, most_hours=24)
    limit = leak.base + leak.growth
    level = limit * rng.uniform(0.2, 0.55)
    lives.add(*_leaking(rng, leak, limit, samples=120), limit, killed=True, revision=_REVISIONS[0])
    times, levels = _steady(rng, level, leak.hours * rng.uniform(0.8, 2))
    lives.add(times, [*levels[:-1], limit * rng.uniform(0.985, 1)], limit, killed=True, revision=_REVISIONS[1])
    return case(rng, lives.samples, only("spike"))


def _family(family: str, **makes: Callable[[Random], Case]) -> list[Shape]:
    return [Shape(family, name.replace("_", " "), make) for name, make in makes.items()]


SHAPES = [
    *_family(
        "leak over several lives",
        all_killed=partial(_leak_again, killed=True),
        the_last_on_its_way=partial(_leak_again, killed=False),
        restarted_by_deploys=_leak_deployed,
        of_the_new_revision=_leak_of_new_revision,
    ),
    *_family(
        "several lives, no leak",
        cured_by_the_new_revision=_leak_cured,
        deploys=_deploys,
        warm_ups=_warm_ups,
        startup_kills_then_calm=_startup_then_calm,
        limit_too_low_each_time=_too_low_again,
        spike_after_a_leak=_spike_after_leak,
    ),
]
