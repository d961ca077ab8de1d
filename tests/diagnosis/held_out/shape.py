"""What a generated history is: its samples, as `oom-collector diagnose` takes them, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple, TypeAlias

Sample: TypeAlias = "dict[str, int | float | str | None]"
HOUR = 3600.0
DAY = 86400.0
MB = 1_000_000.0
MIB = float(1 << 20)


class Span(NamedTuple):
    """Seconds; whatever lies between is right. Before record.case() has drawn the clock, since the first sample."""

    least: float
    most: float

    def later(self, seconds: float) -> Span:
        return Span(self.least + seconds, self.most + seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """
    patterns: each is right; more than one where the words of the patterns leave both open. The rest is of leaks, None
    where nothing exact can be said: growth_since before any tolerance, seconds_to_limit since the last sample.
    """

    patterns: frozenset[str]
    growth_bytes_per_hour: float | None = None
    growth_since: Span | None = None
    seconds_to_limit: Span | None = None

    def at(self, origin: float) -> Truth:
        return self if self.growth_since is None else replace(self, growth_since=self.growth_since.later(origin))


class Case(NamedTuple):
    samples: list[Sample]
    truth: Truth


class Shape(NamedTuple):
    """family: what its failures are counted under. make: the same case for the same state of the generator."""

    family: str
    name: str
    make: Callable[[Random], Case]

    def case(self, seed: int) -> Case:
        return self.make(Random(f"{self.family}/{self.name}/{seed}"))


def only(*patterns: str) -> Truth:
    return Truth(patterns=frozenset(patterns))


CALM = only("calm")
