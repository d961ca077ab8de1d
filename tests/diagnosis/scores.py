"""What was told against what is true, case by case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from tests.diagnosis.held_out.shape import Case, Sample, Shape, Span

GROWTH_TOLERANCE = 0.2
TO_LIMIT_TOLERANCE = 0.2
SINCE_TOLERANCE = 0.15
"""Of the time that it has leaked, and two samples at least."""


class Told(NamedTuple):
    """What the diagnosis says of one history: its keys of the same names."""

    pattern: str
    confidence: float
    growth_bytes_per_hour: float | None
    growth_since: float | None
    seconds_to_limit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """
    expected: the patterns that are right, as one word. The figures are of leaks that were told as such; None: nothing
    to compare. growth_off: against the true slope, 0.1 is a tenth too steep. *_right: within the tolerance.
    """

    family: str
    name: str
    seed: int
    expected: str
    told: str
    right: bool
    growth_off: float | None = None
    since_right: bool | None = None
    to_limit_right: bool | None = None
    lead_hours: float | None = None
    """Of a leak that was killed: how long before the kill it was told for good."""
    lead_share: float | None = None
    """The same against the time from its onset to its kill."""

    @property
    def shape(self) -> str:
        return f"{self.family}: {self.name}"

    @property
    def growth_right(self) -> bool | None:
        return None if self.growth_off is None else abs(self.growth_off) <= GROWTH_TOLERANCE


def score(shape: Shape, seed: int, case: Case, told: Told) -> Score:
    truth = case.truth
    bare = Score(
        family=shape.family,
        name=shape.name,
        seed=seed,
        expected=" or ".join(sorted(truth.patterns)),
        told=told.pattern,
        right=told.pattern in truth.patterns,
    )
    if told.pattern != "leak" or truth.growth_since is None:
        return bare
    rate = truth.growth_bytes_per_hour
    return replace(
        bare,
        growth_off=None if rate is None else (told.growth_bytes_per_hour or 0.0) / rate - 1,
        since_right=_since_right(case.samples, truth.growth_since, told.growth_since),
        to_limit_right=_to_limit_right(truth.seconds_to_limit, told.seconds_to_limit),
    )


def _since_right(samples: Sequence[Sample], truth: Span, told: float | None) -> bool:
    times = [seconds(sample) for sample in samples]
    tolerance = max(SINCE_TOLERANCE * (times[-1] - truth.most), 2 * max(b - a for a, b in pairwise(times[-100:])))
    return told is not None and truth.least - tolerance <= told <= truth.most + tolerance


def _to_limit_right(truth: Span | None, told: float | None) -> bool | None:
    if truth is None:
        return None
    within = truth.least * (1 - TO_LIMIT_TOLERANCE), truth.most * (1 + TO_LIMIT_TOLERANCE)
    return told is not None and within[0] <= told <= within[1]


def seconds(sample: Sample) -> float:
    time = sample["time"]
    assert isinstance(time, int | float)
    return time


# In sum


def precision(scores: Iterable[Score]) -> float:
    """Of all that was told to be a leak, how much is one. 1.0 where nothing was."""
    told = [score.right for score in scores if score.told == "leak"]
    return sum(told) / len(told) if told else 1.0


def recall(scores: Iterable[Score]) -> float:
    """Of all leaks, how many were told."""
    leaks = [score.right for score in scores if score.expected == "leak"]
    return sum(leaks) / len(leaks)


def share(values: Iterable[bool | None]) -> float | None:
    """Of those that are known, how many are True."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def quantile(values: Iterable[float], at: float) -> float:
    """nan: of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(at * len(ordered)))] if ordered else float("nan")
