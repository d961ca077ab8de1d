"""Pod objects: those in fixtures/pods, as an API server of 1.34 to 1.36 shows them, and small ones made to measure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from collector.model import ContainerId, ContainerKind, PodUid
from collector.pods.record import PodContainer, PodRecord, RestartPolicy, Termination, parse_pod

FIXTURES = Path(__file__).parents[2] / "fixtures" / "pods"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def read_object(name: str) -> dict[str, object]:
    document: dict[str, object] = json.loads((FIXTURES / f"{name}.json").read_text())
    return document


def read_pod(name: str) -> PodRecord:
    return parse_pod(read_object(name))


def container_id(number: int) -> ContainerId:
    """As the fixtures have them: the byte, 32 times."""
    return ContainerId(f"{number:02x}" * 32)


def pod_uid(number: int) -> PodUid:
    return PodUid(f"0f9c1d2e-3b4a-4c5d-8e6f-{number:012d}")


def at(text: str) -> datetime:
    """`09:04:31` of the day of the fixtures."""
    return datetime.fromisoformat(f"2026-11-21T{text}").replace(tzinfo=UTC)


CONTAINER = PodContainer(
    name="app",
    kind=ContainerKind.APP,
    image=None,
    image_digest=None,
    limit_bytes=None,
    request_bytes=None,
    declared_limit_bytes=None,
    restart_policy=RestartPolicy.ALWAYS,
    id=container_id(1),
    restart_count=0,
    running_since=at("08:00:00"),
    waiting_reason=None,
    terminated=None,
    last=None,
)

MINIMAL: Mapping[str, object] = {"metadata": {"uid": pod_uid(1), "namespace": "shop", "name": "cart-0"}}


def make_pod(
    *containers: PodContainer,
    number: int = 1,
    uid: PodUid | None = None,
    version: int | None = None,
    deleting: bool = False,
    phase: str = "Running",
) -> PodRecord:
    return replace(
        parse_pod(MINIMAL),
        uid=uid or pod_uid(number),
        api_uid=pod_uid(number),
        mirror=uid is not None,
        resource_version=version,
        deleting=deleting,
        phase=phase,
        containers=containers,
    )


def ended(
    number: int, *, code: int | None = 137, reason: str | None = "Error", finished: str | None = "09:00:00"
) -> Termination:
    return Termination(
        container_id=container_id(number),
        exit_code=code,
        signal=None,
        reason=reason,
        finished_at=at(finished) if finished else None,
    )
