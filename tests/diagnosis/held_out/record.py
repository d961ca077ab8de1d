"""From levels to the samples of a file: what the limit does to them, which parts they have, which clock they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.diagnosis.held_out.shape import HOUR, Case, Sample, Span, Truth

_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """
    What does not grow, in bytes; the rest of the working set is of `grows`: anon, shmem, kernel or file.

    inactive: page cache beside the working set.
    """

    grows: str = "anon"
    anon: float = 0.0
    active: float = 0.0
    kernel: float = 0.0
    inactive: float = 0.0

    def split(self, working_set: float) -> Sample:
        kept = {"anon": self.anon, "file": self.active, "kernel": self.kernel, "shmem": 0.0}
        kept[self.grows] = max(0.0, working_set - sum(value for name, value in kept.items() if name != self.grows))
        return {
            "anon_bytes": _pages(kept["anon"]),
            "file_bytes": _pages(kept["file"] + kept["shmem"] + self.inactive),
            "shmem_bytes": _pages(kept["shmem"]),
            "kernel_bytes": _pages(kept["kernel"]),
        }


def draw_parts(rng: Random, least: float, grows: str = "anon", *, always: bool = False) -> Parts | None:
    """least: the lowest level of the history. None in half of them: the file has working sets only."""
    if not always and grows == "anon" and rng.random() < 0.5:
        return None
    return Parts(
        grows=grows,
        anon=least * (0.0 if grows == "anon" else rng.uniform(0.3, 0.7)),
        active=least * rng.uniform(0.02, 0.2),
        kernel=least * rng.uniform(0.01, 0.05),
        inactive=least * rng.uniform(0.0, 0.5),
    )


def record(
    times: Sequence[float],
    levels: Sequence[float],
    *,
    limit: float | Sequence[float] | None,
    started: bool = True,
    killed: bool = False,
    parts: Parts | None = None,
    cause: str | None = None,
    revision: str | None = None,
    quantum: float = _PAGE,
) -> list[Sample]:
    """The samples of one life. A level above the limit is held at the limit: the kernel reclaims, or kills."""
    limits = [limit] * len(times) if limit is None or isinstance(limit, int | float) else limit
    samples: list[Sample] = []
    for at, level, most in zip(times, levels, limits, strict=True):
        held = max(float(_PAGE), level if most is None else min(level, most))
        sample: Sample = {"time": at, "working_set_bytes": int(held // quantum * quantum)}
        sample["limit_bytes"] = None if most is None else _pages(most)
        if parts:
            sample |= parts.split(held)
        if revision:
            sample["revision"] = revision
        samples.append(sample)
    if started:
        samples[0]["event"] = "start"
    if killed:
        samples[-1]["event"] = "oom_kill"
        if cause:
            samples[-1]["cause"] = cause
    return samples


def case(rng: Random, samples: list[Sample], truth: Truth) -> Case:
    """On one of the clocks that a file may have: seconds since 1970, or since a boot, whole or not."""
    origin = rng.choice((0.0, rng.uniform(10, 5e5), 1.7e9 + rng.uniform(0, 1e8), float(rng.randint(1, 10**6))))
    times = [origin + float(sample["time"] or 0.0) for sample in samples]
    whole = rng.random() < 0.3 and len({round(at) for at in times}) == len(times)
    for sample, at in zip(samples, times, strict=True):
        sample["time"] = round(at) if whole else round(at, 3)
    return Case(samples, truth.at(origin))


def drop(samples: list[Sample], gaps: Sequence[Span]) -> list[Sample]:
    """What is left when nobody looked in the gaps. The first and the last sample stay."""
    inner = [
        sample
        for sample in samples[1:-1]
        if not any(gap.least <= float(sample["time"] or 0.0) < gap.most for gap in gaps)
    ]
    return [samples[0], *inner, samples[-1]]


def draw_gaps(rng: Random, seconds: float, count: int, share: float) -> list[Span]:
    """`count` gaps that are `share` of all together, unless they overlap."""
    lengths = [seconds * share / count * rng.uniform(0.5, 1.5) for _ in range(count)]
    return [Span(begin, begin + length) for length in lengths for begin in [rng.uniform(0.05, 0.85) * seconds]]


def until(levels: Sequence[float], limit: float) -> int:
    """How many samples there are up to the one that reaches the limit."""
    return next((index + 1 for index, level in enumerate(levels) if level >= limit), len(levels))


def seconds_to(limit: float, level: float, bytes_per_hour: float) -> float:
    return max(0.0, (limit - level) / bytes_per_hour * HOUR)


def _pages(level: float) -> int:
    return int(level // _PAGE * _PAGE)
