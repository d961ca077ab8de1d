"""How much memory: the arithmetic behind limits, requests and how long a leak would last."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from collector.diagnosis.commands import tidy_up
from collector.diagnosis.model import Pattern
from collector.model import Cause, QosClass

if TYPE_CHECKING:
    from collector.diagnosis.model import Facts, Judgement

# The limit that was hit is that of the cgroup whose memory was sampled and reported.
_OWN_LIMIT = frozenset({Cause.CONTAINER_LIMIT, Cause.POD_LIMIT})


class Basis(StrEnum):
    """What the peak is known from. Only PEAK is the peak; with the others a limit is a lower bound."""

    PEAK = "peak"
    GROWTH = "growth"
    """Cut off: what it grew by, above its steady state, is taken once more."""
    DOUBLING = "doubling"
    """Cut off, and no steady state below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """
    A limit that fits. `peak_bytes`: seen; `wanted_bytes`: what it is taken to be. `present_bytes`: the limit as it is;
    None: not known.
    """

    limit_bytes: int
    peak_bytes: int
    wanted_bytes: int
    basis: Basis
    present_bytes: int | None
    factor: float

    @property
    def at_least(self) -> bool:
        return self.basis is not Basis.PEAK


def present_limit(facts: Facts, judgement: Judgement) -> int | None:
    """Of what hit its limit; the kernel's word counts before the sampled one, and the spec's last."""
    reported = facts.memory.limit_bytes if facts.memory and facts.cause in _OWN_LIMIT else None
    declared = facts.container.limit_bytes if facts.container and facts.cause is not Cause.POD_LIMIT else None
    return reported or judgement.limit_bytes or declared or None


def own_limit(facts: Facts, judgement: Judgement) -> int | None:
    """What the victim's own process has to fit into; at a pod's limit that of its container, where that has one."""
    if facts.cause is Cause.NESTED_LIMIT:
        return facts.memory.limit_bytes if facts.memory else None
    if facts.cause is not Cause.POD_LIMIT or facts.lone:
        return present_limit(facts, judgement)
    own, of_pod = facts.container.limit_bytes if facts.container else None, present_limit(facts, judgement)
    return None if own is None or own == of_pod else own


def size_limit(facts: Facts, judgement: Judgement, factor: float) -> Size | None:
    """
    The peak times `factor`, tidy. Whoever was killed at a limit wanted more than was seen: then the peak is estimated,
    and the limit is a lower bound.
    """
    present = present_limit(facts, judgement)
    reported = facts.memory.usage_bytes if facts.memory and facts.cause in _OWN_LIMIT else None
    at_limit = present if killed_at_limit(facts, judgement) else None
    peak = max(filter(None, (judgement.peak_bytes, reported, at_limit)), default=None)
    if peak is None:
        return None
    cut = judgement.peak_is_cut or at_limit is not None
    wanted, basis = _estimate(judgement, peak) if cut else (peak, Basis.PEAK)
    limit = tidy_up(max(wanted * factor, peak + 1))
    return Size(
        limit_bytes=limit, peak_bytes=peak, wanted_bytes=wanted, basis=basis, present_bytes=present, factor=factor
    )


def _estimate(judgement: Judgement, peak: int) -> tuple[int, Basis]:
    steady = judgement.steady_bytes
    # Who dies while it starts has no steady state yet.
    if steady is None or not 0 < steady < peak or judgement.pattern is Pattern.STARTUP:
        return 2 * peak, Basis.DOUBLING
    return peak + (peak - steady), Basis.GROWTH


def killed_at_limit(facts: Facts, judgement: Judgement) -> bool:
    if facts.cause in _OWN_LIMIT:
        return True
    of_history = facts.history is not None and facts.history.last.killed
    return facts.cause is Cause.UNKNOWN and of_history and judgement.pattern is not Pattern.NODE_PRESSURE


def size_request(facts: Facts, judgement: Judgement, limit: int | None) -> int | None:
    """
    The steady state, tidy: never less than what is requested today, which only the owner may lower, and never more than
    the limit. A Guaranteed pod's is its limit. None: nothing to say.
    """
    if facts.pod is not None and facts.pod.qos_class is QosClass.GUARANTEED:
        return limit
    steady = judgement.steady_bytes
    # Who dies while it starts has none yet; and at a pod's limit it is that of all containers together.
    of_pod = facts.cause is Cause.POD_LIMIT and not facts.lone
    if not steady or judgement.pattern is Pattern.STARTUP or of_pod:
        return None
    in_force = facts.container.request_bytes if facts.container else None
    request = max(tidy_up(steady), in_force or 0, facts.spec_request_bytes or 0)
    return request if limit is None else min(request, limit)


# How long a limit lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """From a start of the container to its kill, with a certain limit. `at_least`: no start was ever seen."""

    seconds: float
    at_least: bool


def lasting(facts: Facts, judgement: Judgement, limit: int) -> Lasting | None:
    """
    The life up to the present limit, and the rest at the pace of the leak: so a warm-up, or calm hours before the
    growth began, count as they were. None: without growth, limit or history there is no telling.
    """
    growth, present = judgement.growth_bytes_per_hour, present_limit(facts, judgement)
    if growth is None or growth < 1 or present is None:
        return None
    first, at_least = _life_to_limit(facts, judgement)
    seconds = first + (limit - present) / growth * 3600
    return Lasting(seconds=seconds, at_least=at_least) if seconds > 0 else None


def _life_to_limit(facts: Facts, judgement: Judgement) -> tuple[float, bool]:
    if judgement.life_seconds is not None:
        return judgement.life_seconds, False
    if facts.history is None:
        return judgement.seconds_to_limit or 0.0, True
    *former, last = facts.history.lives
    if last.started or not any(life.started and life.killed for life in former):
        to_come = 0.0 if last.killed else judgement.seconds_to_limit or 0.0
        return last.seconds + to_come, not last.started
    return next(life.seconds for life in reversed(former) if life.started and life.killed), False


def lasting_if_leak(facts: Facts, judgement: Judgement, limit: int) -> Lasting | None:
    """Where nobody can tell whether it leaks: how long it would last at the average pace of the last life."""
    steadily = lasting(facts, judgement, limit)
    present = present_limit(facts, judgement)
    if steadily is not None or facts.history is None or present is None:
        return steadily
    last = facts.history.last
    risen = (present if last.killed else last.points[-1].working_set) - last.points[0].working_set
    room = limit - last.points[0].working_set
    if risen <= 0 or room <= 0 or last.seconds <= 0:
        return None
    return Lasting(seconds=last.seconds * room / risen, at_least=not last.started)
