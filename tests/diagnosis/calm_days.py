"""False alarms: calm containers looked at again and again, as an agent does, and at the end of each of their days."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from collector import history
from collector.diagnosis import forecast
from tests.diagnosis.asking import ask_prefixes
from tests.diagnosis.held_out import days
from tests.diagnosis.held_out.shape import DAY, HOUR, Sample, Shape
from tests.diagnosis.poisson import upper_bound
from tests.diagnosis.scores import seconds

DAYS = 3
"""That one container lives."""
FEW_LOOKS = (1, 2, 3, 4, 6, 8, 12, 24, 48, 72)
_NEAR_SECONDS = 6 * HOUR
"""How near the limit must be for the agent to announce it: its default."""


def looks(whole_days: int) -> Sequence[int]:
    """At what age, in hours. Most false alarms are of the first ones, when a morning is not yet known to be one."""
    return (*range(1, 12), *range(12, 24 * whole_days + 1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """
    At one calm container, `hour` hours old: whatever is told is false.

    leak: the confidence with which `diagnose` tells it to leak, however far its limit; None: it does not. agent: the
    agent tells its growth, as metrics; announced: and that it meets its limit within six hours, as an Event.
    """

    container: str
    hour: int
    leak: float | None
    agent: bool
    announced: bool

    @property
    def day(self) -> int:
        return (self.hour - 1) // 24

    @property
    def leak_at_the_end_of_a_day(self) -> bool:
        return self.leak is not None and self.hour % 24 == 0


def look(container: int, hours: Sequence[int]) -> list[Look]:
    """At one of the calm fleet."""
    return _look(str(container), days.life(container, DAYS), hours)


def look_at_shape(shape: Shape, seeds: Sequence[int]) -> list[Look]:
    """At the whole days of those that are calm for one at least, in one life: the lives before may be no calm ones."""
    told = []
    for seed in seeds:
        samples, truth = shape.case(seed)
        whole_days = int((seconds(samples[-1]) - seconds(samples[0])) // DAY)
        if whole_days and "calm" in truth.patterns and all(sample.get("event") != "start" for sample in samples[1:]):
            told += _look(f"{shape.family}: {shape.name}, seed {seed}", samples, looks(whole_days))
    return told


def _look(container: str, samples: Sequence[Sample], hours: Sequence[int]) -> list[Look]:
    ages = [seconds(sample) - seconds(samples[0]) for sample in samples]
    ends = [bisect_right(ages, hour * HOUR + 1) for hour in hours]
    kept, told_of = _Kept(samples), []
    for hour, end, told in zip(hours, ends, ask_prefixes(samples, ends), strict=True):
        trend = kept.look(end)
        left = None if trend is None else trend.seconds_to_limit
        told_of.append(
            Look(
                container=container,
                hour=hour,
                leak=told.confidence if told.pattern == "leak" else None,
                agent=trend is not None,
                announced=left is not None and left <= _NEAR_SECONDS,
            )
        )
    return told_of


class _Kept:
    """
    The same samples in the agent's own history, which forgets, and its own forecast.

    They come as the file has them, not each ten seconds: of the last hour it has fewer, of the time before it more.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._life = history.Life()
        self._known = 0

    def look(self, end: int) -> forecast.Trend | None:
        """When the first `end` samples are known."""
        for sample in self._samples[self._known : end]:
            self._life.add(*_reading(sample), seconds(sample))
        self._known = end
        last = self._samples[end - 1]
        return forecast.look(self._life, limit=_limit(last), now=seconds(last))


def _reading(sample: Sample) -> tuple[history.Sample, history.Bounds]:
    """What a file lacks is anon."""
    used = _count(sample["working_set_bytes"])
    anon, file, shmem = (_count(sample.get(f"{name}_bytes")) for name in ("anon", "file", "shmem"))
    read = history.Sample(
        current=used + file, working_set=used, anon=anon or used, file=file, shmem=shmem, kernel=0, swap=0
    )
    return read, history.Bounds(limit=_limit(sample), peak=None, stall_seconds=None)


def _limit(sample: Sample) -> int | None:
    limit = sample["limit_bytes"]
    assert limit is None or isinstance(limit, int)
    return limit


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def container_days(told: Iterable[Look]) -> int:
    return len({(one.container, one.day) for one in told})


def per_thousand(told: Sequence[Look], alarm: Callable[[Look], bool]) -> tuple[float, float]:
    """
    Of container-days with such an alarm at any of their looks, in a thousand.

    As counted, and the upper bound at 95 % confidence.
    """
    spoilt, scale = container_days(filter(alarm, told)), 1000 / container_days(told)
    return spoilt * scale, upper_bound(spoilt) * scale
