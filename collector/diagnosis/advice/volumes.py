"""Memory-backed volumes: their files count as the pod's memory, up to the size of the volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.diagnosis.advice.sizes import present_limit
from collector.diagnosis.advice.words import Given, Values, how, outlives
from collector.diagnosis.commands import patch, quantity, tidy_down, volume_size
from collector.diagnosis.model import Action, Advice, FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.diagnosis.model import Facts, Judgement


def advise_volume(given: Given, limit: int | None) -> Iterator[Advice]:
    """A size that leaves what else the limit has to hold, times the factor. limit: the one advised, or the present."""
    facts, target = given.facts, given.target
    finding, volumes = given.found(FindingKind.SHARED_MEMORY), facts.memory_volumes
    # What is no volume has no size to set.
    if finding is None or volumes == () or not outlives(given):
        return
    told = finding.values.get("volume")
    volume = None
    if volumes is not None:
        volume = told if isinstance(told, str) and told in volumes else volumes[0] if len(volumes) == 1 else None
    size = _size(facts, given.judgement, limit, given.factor)
    values: Values = {**target.values, "volume": volume, "size_bytes": size}
    amount = "below the limit" if size is None else f"of {quantity(size)}"
    which = "memory-backed volume that the files are in"
    if volumes is not None:
        which = f"memory-backed volume {volume}" if volume is not None else "memory-backed volumes together"
    command = None
    if volume is not None and size is not None and target.workload is not None:
        command = patch(target.workload, volume_size(volume, size))
    yield Advice(
        action=Action.BOUND_VOLUME,
        text=f"Give the {which} a sizeLimit {amount}: what is written there counts as memory; a full volume fails the "
        f"write instead of killing{how(target.workload)}",
        values=values,
        command=command,
    )


def _size(facts: Facts, judgement: Judgement, limit: int | None, factor: float) -> int | None:
    """None: not known what else there is, or it leaves no room."""
    memory = facts.memory
    shared = memory.stat.get("shmem") if memory else None
    used = (memory.usage_bytes if memory else None) or judgement.peak_bytes or present_limit(facts, judgement)
    if limit is None or shared is None or used is None:
        return None
    return tidy_down(limit - max(0, used - shared) * factor) or None
