"""The Event `MemoryLimitForecast` on a pod: a steady growth will meet the limit of a container soon. Core: no I/O."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC
from typing import TYPE_CHECKING

from collector.sinks.kube_event import (
    CONTROLLER,
    NOTE_BYTES,
    event_name,
    field_path,
    instance,
    micro_time,
    node_reference,
    pod_reference,
)
from collector.sinks.words import cut, number, part, text
from collector.text import printable
from collector.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from collector.sinks.kube_event import Event
    from collector.sinks.letter import Letter
    from collector.sinks.words import Document

REASON = "MemoryLimitForecast"


def forecast_key(pod_uid: str, container: str, at: datetime) -> str:
    """The same for a day (UTC): there is one such Event a day for each container."""
    day = at.astimezone(UTC).strftime("%Y-%m-%d")
    return hashlib.sha256(json.dumps([REASON, pod_uid, container, day]).encode()).hexdigest()[:16]


def forecast_event(letter: Letter) -> Event:
    """
    letter.document: `pod` and `container` as in `oom-kill/1`, `node`, and the numbers of `forecast`.

    Raises KeyError where the pod has no name.
    """
    document = letter.document
    node = text(document, "node")
    event: Event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": event_name(str(document["pod"]["name"]), letter.key),
            "namespace": str(document["pod"]["namespace"]),
            "annotations": _annotations(part(document, "forecast")),
        },
        "eventTime": micro_time(letter.first_at),
        "type": "Warning",
        "reason": REASON,
        "action": "Forecast",
        "reportingController": CONTROLLER,
        "reportingInstance": instance(node),
        "note": cut(note(document), NOTE_BYTES),
        "regarding": pod_reference(letter) | field_path(part(document, "container")),
    }
    return event if node is None else event | {"related": node_reference(node)}


def note(document: Document) -> str:
    forecast, container = part(document, "forecast"), text(part(document, "container"), "name")
    growth, limit = number(forecast, "growth_bytes_per_hour") or 0, number(forecast, "limit_bytes") or 0
    used, left = number(forecast, "working_set_bytes") or 0, number(forecast, "seconds_to_limit") or 0
    observed = number(forecast, "observed_seconds") or 0
    return printable(
        f"Container {container} will reach its memory limit of {human_bytes(limit)} in about {human_seconds(left)}, if"
        f" it grows on as it has for {human_seconds(observed)}: {human_bytes(growth)} an hour, {human_bytes(used)} now."
        f" Take a heap profile while it runs: a restart loses what it would show. Each {human_bytes(growth)} that the"
        " limit is raised by buys one hour."
    )


def _annotations(forecast: Mapping[str, object]) -> dict[str, str]:
    return {f"{CONTROLLER}/{name.replace('_', '-')}": str(value) for name, value in forecast.items()}
