"""What came before: earlier kills, restarts, and the rollout since which it is so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from collector.diagnosis.findings.use import evidence, same_limit
from collector.diagnosis.model import Finding, FindingKind
from collector.model import Cause, Fate
from collector.units import human_bytes

if TYPE_CHECKING:
    from collector.diagnosis.model import Facts, Growth

CRASH_LOOP_SECONDS = 3600.0
CRASH_LOOP_KILLS = 3
"""Within an hour: the kubelet waits up to 5 minutes between restarts, so a loop makes at least 10 a hour."""
OBSERVED_SECONDS = 3600.0
"""A revision that was watched for less is not called flat, nor free of kills."""

_MAX_IMAGE = 60


def repeated(facts: Facts) -> Finding | None:
    if not facts.former:
        return None
    count = 1 + len(facts.former)
    span = max(former.seconds_before for former in facts.former)
    same_cause = all(former.cause is facts.cause for former in facts.former)
    revisions = {former.revision for former in facts.former} | {facts.revision}
    same_revision = None if None in revisions else len(revisions) == 1
    same = _same_limit(facts) if same_cause else None
    words = ["each for the same cause" if same_cause else "not always for the same cause"]
    if same is not None:
        words.append("with the same limit" if same else "though the limit has changed")
    if same_revision is not None:
        words.append("in the same revision" if same_revision else f"in {len(revisions)} revisions")
    return Finding(
        kind=FindingKind.REPEATED,
        text=f"Killed {count} times in {span_words(span)}, {', '.join(words)}",
        values={
            "kills": count,
            "span_seconds": span,
            "same_cause": same_cause,
            "same_limit": same,
            "same_revision": same_revision,
        },
        evidence=evidence(
            "former",
            None if same is None else "memory.limit_bytes",
            None if same_revision is None else "pod.revision",
        ),
    )


def _same_limit(facts: Facts) -> bool | None:
    """Of former kills it is the container's that is known; None: another's was hit, or it is not known."""
    is_own = facts.cause is Cause.CONTAINER_LIMIT or (facts.cause is Cause.POD_LIMIT and facts.lone)
    limits = [former.limit_bytes for former in facts.former]
    known = [limit for limit in limits if limit is not None]
    now = facts.memory.limit_bytes if facts.memory else None
    if not is_own or now is None or len(known) < len(limits):
        return None
    return all(same_limit(limit, now) for limit in known)


def crash_loop(facts: Facts) -> Finding | None:
    """CrashLoopBackOff itself, or as many kills as only a loop makes. Restarts alone may have had another cause."""
    pending = facts.fate is Fate.RESTART_PENDING
    recent = 1 + sum(former.seconds_before <= CRASH_LOOP_SECONDS for former in facts.former)
    looping = recent >= CRASH_LOOP_KILLS and (facts.restart_count or 0) >= CRASH_LOOP_KILLS - 1
    if not (pending or looping):
        return None
    kills = f", killed {recent} times within an hour" if recent > 1 else ""
    restarts = f" after {facts.restart_count} restarts" if facts.restart_count else ""
    return Finding(
        kind=FindingKind.CRASH_LOOP,
        text=f"The container waits for its next start (CrashLoopBackOff){restarts}{kills}"
        if pending
        else f"The container is in a loop of kills and restarts{kills}{restarts}",
        values={"restarts": facts.restart_count, "kills_within_hour": recent},
        evidence=evidence(
            "fate" if pending else None,
            "former" if recent > 1 else None,
            "restart_count" if facts.restart_count else None,
        ),
    )


def rollout(facts: Facts) -> Finding | None:
    """A revision that grows, or is killed, after one that was watched long enough and did not, or was not."""
    pair = _revisions(facts)
    if pair is None:
        return None
    before, now = pair
    if before.observed_seconds < OBSERVED_SECONDS:
        return None
    growth = now.growth_bytes_per_hour
    if growth and growth > 0 and before.growth_bytes_per_hour == 0:
        return _since(f"Grows {human_bytes(round(growth))}/h since", "was flat", now, before, facts)
    if now.kills and not before.kills and before.observed_seconds >= now.observed_seconds:
        times = f"Killed {now.kills} times" if now.kills > 1 else "Killed"
        return _since(f"{times} since", "was not", now, before, facts)
    return None


def _revisions(facts: Facts) -> tuple[Growth, Growth] | None:
    """The victim's revision, and the one before it."""
    revisions = facts.revisions
    at = next((index for index, one in enumerate(revisions) if one.revision == facts.revision), None)
    return (revisions[at - 1], revisions[at]) if at else None


def _since(what: str, was: str, now: Growth, before: Growth, facts: Facts) -> Finding:
    details = []
    if now.image is not None:
        details.append(f"image {_short(now.image)}")
    if now.rolled_out_at is not None:
        details.append(f"rolled out {datetime.fromtimestamp(now.rolled_out_at, UTC):%Y-%m-%d %H:%M} UTC")
    detail = f" ({', '.join(details)})" if details else ""
    changed = None if None in (now.image, before.image) else now.image != before.image
    same = "; the image is the same" if changed is False else ""
    return Finding(
        kind=FindingKind.ROLLOUT,
        text=f"{what} {_named(now)}{detail}; {_named(before)} {was}, in {span_words(before.observed_seconds)}{same}",
        values={
            "revision": now.revision,
            "revision_number": now.number,
            "image": now.image,
            "rolled_out_at": now.rolled_out_at,
            "growth_bytes_per_hour": now.growth_bytes_per_hour,
            "kills": now.kills,
            "former_revision": before.revision,
            "former_revision_number": before.number,
            "former_image": before.image,
            "former_observed_seconds": before.observed_seconds,
        },
        evidence=("revisions", "history" if facts.pod is None else "pod.revision"),
    )


def _named(revision: Growth) -> str:
    return f"revision {revision.revision if revision.number is None else revision.number}"


def _short(image: str) -> str:
    """Without registry and path: `app:3e4f891`, `app@sha256:0123456789ab...`."""
    name = image.rpartition("/")[2]
    return name if len(name) <= _MAX_IMAGE else f"{name[: _MAX_IMAGE - 3]}..."


def span_words(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} seconds"
