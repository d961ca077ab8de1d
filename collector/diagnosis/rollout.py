"""
What each revision of a workload has shown on this node: whether it grew, for how long it was seen, how often it was
killed. So that growth can be tied to the rollout that began it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from collector.diagnosis.model import Growth

FLAT_AFTER_SECONDS = 3600.0
"""A life without a trend that was watched for so long is called flat; before, nothing is known of it."""
LONG_SECONDS = 43200.0
"""A life that was watched for so long tells as much as any: no more than a day of it is kept."""
LONG_AGO = 0.0
"""Before all that is known; when, nobody knows."""
MAX_REVISIONS = 10
"""Of a workload, that are told."""


class RevisionSeen(NamedTuple):
    """
    One revision of one container of a workload (late.workload_of()), times of Unix.

    `first_at`: the first of its containers started, or LONG_AGO. `growth_bytes_per_hour`: of one life, which was
    watched for `observed_seconds`; 0.0: flat; None: watched too shortly to say. `number`, `rolled_out_at`: see Growth;
    only its owner knows them.
    """

    workload: str
    revision: str
    image: str | None
    first_at: float
    last_at: float
    observed_seconds: float
    growth_bytes_per_hour: float | None
    number: int | None = None
    rolled_out_at: float | None = None


def seen_now(
    workload: str,
    revision: str,
    image: str | None,
    *,
    started_at: float,
    now: float,
    observed_seconds: float,
    growth_bytes_per_hour: float | None,
) -> RevisionSeen:
    """From one container, as it is now. growth_bytes_per_hour None: it has no trend."""
    flat = 0.0 if observed_seconds >= FLAT_AFTER_SECONDS else None
    growth = flat if growth_bytes_per_hour is None else growth_bytes_per_hour
    return RevisionSeen(workload, revision, image, started_at, now, observed_seconds, growth)


def merge(former: RevisionSeen | None, new: RevisionSeen) -> RevisionSeen:
    """
    With what was known of it. A pod that has just begun says nothing against one that ran for a day; one that has run
    for long tells what is true now.
    """
    if former is None:
        return new
    told = new if new.observed_seconds >= min(former.observed_seconds, LONG_SECONDS) else former
    return _join(told, former, new)


def either(one: RevisionSeen | None, other: RevisionSeen) -> RevisionSeen:
    """Two of its containers at one time: that which grows tells more, then that which was watched for longer."""
    if one is None:
        return other
    told = max(one, other, key=lambda each: (each.growth_bytes_per_hour or 0.0, each.observed_seconds))
    return _join(told, one, other)


def _join(told: RevisionSeen, one: RevisionSeen, other: RevisionSeen) -> RevisionSeen:
    return told._replace(
        image=other.image or one.image,
        first_at=min(one.first_at, other.first_at),
        last_at=max(one.last_at, other.last_at),
        number=other.number or one.number,
        rolled_out_at=other.rolled_out_at or one.rolled_out_at,
    )


def growths(seen: Iterable[RevisionSeen], kills: Mapping[str, int]) -> tuple[Growth, ...]:
    """kills: by revision. The newest last: of what was rolled back to, the number tells that it is new again."""
    from collector.diagnosis.model import Growth  # with the rest of a diagnosis: see diagnosis_on_demand.py

    all_seen = list(seen)
    numbered = all(one.number is not None for one in all_seen)
    oldest = [one for one in all_seen if one.first_at == LONG_AGO]
    if not numbered and len(oldest) > 1:  # which of them came first, nobody knows
        all_seen = [one for one in all_seen if one.first_at != LONG_AGO]
    newest = sorted(all_seen, key=lambda one: (one.number or 0) if numbered else one.first_at)[-MAX_REVISIONS:]
    return tuple(
        Growth(
            revision=one.revision,
            image=one.image,
            number=one.number,
            rolled_out_at=one.rolled_out_at or one.first_at or None,
            growth_bytes_per_hour=one.growth_bytes_per_hour,
            observed_seconds=one.observed_seconds,
            kills=kills.get(one.revision, 0),
        )
        for one in newest
    )
