"""A leak: what a higher limit would buy, the way back to the revision that had none, and the cure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.diagnosis.advice.limits import holder_of
from collector.diagnosis.advice.sizes import lasting, present_limit
from collector.diagnosis.advice.words import Given, Values, hours, lasting_values, outlives
from collector.diagnosis.commands import quantity, roll_back, tidy_up
from collector.diagnosis.model import Action, Advice
from collector.model import Cause
from collector.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.diagnosis.model import Growth


def advise_not_to_raise(given: Given) -> Iterator[Advice]:
    """Nothing, where its cost in hours is not known: a nested limit is not what the history is measured against."""
    facts, judgement, target = given.facts, given.judgement, given.judged
    present, growth = present_limit(facts, judgement), judgement.growth_bytes_per_hour
    if present is None or growth is None or facts.cause is Cause.NESTED_LIMIT:
        return
    limit = tidy_up(max(judgement.peak_bytes or 0, present) * given.factor)
    lasts = lasting(facts, judgement, limit)
    if lasts is None:
        return
    yield Advice(
        action=Action.DO_NOT_RAISE_LIMIT,
        text=f"Do not raise the memory limit of {target}: it grows by {human_bytes(round(growth))} an hour, so that "
        f"{quantity(limit)} lasts {hours(lasts)} from a start",
        values={
            **target.values,
            "limit_bytes": limit,
            "present_limit_bytes": present,
            "growth_bytes_per_hour": round(growth),
            "at_least": lasts.at_least,
            **lasting_values(lasts),
        },
    )


def advise_roll_back(given: Given) -> Iterator[Advice]:
    """To the newest revision that was seen long enough to be called flat, if this one grows."""
    target = given.target
    *former, current = given.facts.revisions or (None,)
    if current is None or not (current.growth_bytes_per_hour or 0) > 0:
        return
    revision = next((one for one in reversed(former) if one.growth_bytes_per_hour == 0), None)
    if revision is None:
        return
    grows = human_bytes(round(current.growth_bytes_per_hour or 0))
    # Without a number it goes to the one before, which this node need not have seen.
    undo = None
    if target.workload is not None and revision.number is not None:
        undo = roll_back(target.workload, revision.number)
    unnumbered = "" if revision.number is not None else "; its number is not known: see kubectl rollout history"
    values: Values = {
        **target.values,
        "revision": revision.revision,
        "revision_number": revision.number,
        "image": revision.image,
        "growing_revision": current.revision,
        "growth_bytes_per_hour": round(current.growth_bytes_per_hour or 0),
    }
    yield Advice(
        action=Action.ROLL_BACK,
        text=f"Roll back to revision {_called(revision)}, which was flat for "
        f"{human_seconds(revision.observed_seconds)}: {_called(current)} grows by {grows} an hour{unnumbered}",
        values=values,
        command=undo,
    )


def _called(revision: Growth) -> str:
    return revision.revision if revision.number is None else str(revision.number)


_WORDS = {
    "anon": "its anon memory",
    "shmem": "its shared memory",
    "kernel": "the kernel's memory for it",
}


def advise_fix(given: Given) -> Advice:
    judgement, target = given.judgement, given.judged
    grows = _WORDS.get(judgement.grows or "", "its memory")
    if judgement.grows == "shmem" and outlives(given):
        grows += " (files in a tmpfs)"
    growth = judgement.growth_bytes_per_hour
    pace = "" if growth is None else f" by {human_bytes(round(growth))} an hour"
    return Advice(
        action=Action.FIX_LEAK,
        text=f"Fix the leak in {target}: {grows} grows{pace} and does not level off; no limit is high enough"
        f"{_which(given)}",
        values={
            **target.values,
            "growth_bytes_per_hour": None if growth is None else round(growth),
            "growth_since": judgement.growth_since,
            "grows": judgement.grows,
        },
    )


def _which(given: Given) -> str:
    """Who holds most need not be who grows."""
    if not given.judged.whole:
        return ""
    holder = holder_of(given.facts, given.target, given.judgement.peak_bytes).container
    most = "" if holder is None else f"; {holder} held most"
    return f"; which of its containers it is, is not known here{most}"
