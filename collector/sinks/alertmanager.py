"""
Each kill as an alert of Alertmanager's v2 API, for clusters that do not want to wait for a scrape and a rule.

A kill is a moment, an alert has a span: it resolves by itself `resolve_after` seconds after it was sent. Alerts with
equal labels are one in Alertmanager: another kill of the container extends it.

Source: api/v2/openapi.yaml of prometheus/alertmanager.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from collector.model import NODE_PRESSURE
from collector.sinks.http_post import post
from collector.sinks.kube_event import micro_time
from collector.sinks.words import cause_of, help_line, numbers, part, text, verdict
from collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp
    from yarl import URL

    from collector.sinks.letter import Letter
    from collector.sinks.words import Document

ALERTMANAGER = "alertmanager"

_HEADERS = {"Content-Type": "application/json"}


class Alertmanager:
    """target: where its web page is; the path of the API is added."""

    name = ALERTMANAGER

    def __init__(
        self,
        session: aiohttp.ClientSession,
        target: URL,
        *,
        resolve_after: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._target = target / "api/v2/alerts"
        self._resolve_after = timedelta(seconds=resolve_after)
        self._now = now

    def object_of(self, letter: Letter) -> str:
        return letter.key

    async def send(self, letter: Letter) -> None:
        # From now on, not from the kill: what is resolved when it arrives is never told to anybody.
        ends_at = max(letter.last_at, self._now()) + self._resolve_after
        body = json.dumps([alert(letter, ends_at)], separators=(",", ":")).encode("ascii")
        await post(self._session, self._target, body, _HEADERS)


def alert(letter: Letter, ends_at: datetime) -> dict[str, object]:
    document = letter.document
    description = " ".join(filter(None, (numbers(document), help_line(document))))
    return {
        "labels": _labels(document),
        "annotations": {
            "summary": verdict(document),
            "description": description,
            "incident_id": str(document["id"]),
        },
        "startsAt": micro_time(letter.last_at),
        "endsAt": micro_time(ends_at),
    }


def _labels(document: Document) -> dict[str, str]:
    """Nothing that differs from kill to kill, like a pid: each set of labels is an alert of its own."""
    is_pressure = cause_of(document) in NODE_PRESSURE
    pod, container = part(document, "pod"), part(document, "container")
    labels = {
        "alertname": "NodeOOMKill" if is_pressure else "ContainerOOMKill",
        "severity": "critical" if is_pressure else "warning",
        "cause": str(cause_of(document)),
        "node": text(document, "node"),
        "namespace": text(pod, "namespace"),
        "pod": text(pod, "name"),
        "container": text(container, "name"),
    }
    return {name: printable(value) for name, value in labels.items() if value is not None}
