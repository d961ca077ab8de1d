"""What the lives of a history show of the revisions that they ran: of a history by hand, which is all that is known."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from collector.diagnosis.model import Growth, Life, MemoryHistory
from collector.diagnosis.pattern import judge
from collector.diagnosis.rollout import either, growths, seen_now

if TYPE_CHECKING:
    from collector.diagnosis.rollout import RevisionSeen


def growths_of(history: MemoryHistory) -> tuple[Growth, ...]:
    """What the lives of a history show of their revisions, the newest last; times are the history's."""
    seen: dict[str, RevisionSeen] = {}
    kills: Counter[str] = Counter()
    for life in history.lives:
        if life.revision is not None:
            seen[life.revision] = either(seen.get(life.revision), _seen_in(life, life.revision))
            kills[life.revision] += life.killed
    return growths(seen.values(), kills)


def _seen_in(life: Life, revision: str) -> RevisionSeen:
    began, ended = life.points[0].time, life.points[-1].time
    return seen_now(
        "",
        revision,
        None,
        started_at=began,
        now=ended,
        observed_seconds=ended - began,
        growth_bytes_per_hour=judge(MemoryHistory(lives=(life,))).growth_bytes_per_hour,
    )
