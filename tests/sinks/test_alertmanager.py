"""Alerts, on a double of Alertmanager's v2 API that keeps the rules of its openapi.yaml and of its alerts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from collector.model import NODE_PRESSURE, Cause
from collector.sinks.alertmanager import Alertmanager
from collector.sinks.delivery import RefusedError, UnavailableError
from tests.sinks.letters import KILLED_AT, NODE, document, letter, receiving

if TYPE_CHECKING:
    import aiohttp

FIVE_MINUTES = 300.0
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Manager:
    """Alerts with equal labels are one; those whose end is over when they come notify nobody."""

    def __init__(self) -> None:
        self.now = KILLED_AT
        self.status: int | None = None
        self.alerts: dict[frozenset[tuple[str, str]], dict[str, Any]] = {}
        self.notified: list[dict[str, Any]] = []
        self.url = URL()

    async def post(self, request: web.Request) -> web.Response:
        if self.status is not None:
            return web.Response(status=self.status)
        for alert in await request.json():
            why = _refusal(alert)
            if why is not None:
                return web.json_response(why, status=400)
            identity = frozenset(alert["labels"].items())
            if identity not in self.alerts and datetime.fromisoformat(alert["endsAt"]) > self.now:
                self.notified.append(alert)
            self.alerts[identity] = alert
        return web.Response()


def _refusal(alert: dict[str, Any]) -> str | None:
    if set(alert) - {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}:
        return "unknown field"
    if not alert["labels"].get("alertname") or not all(map(_LABEL_NAME.fullmatch, alert["labels"])):
        return "at least one label pair required"
    if not all(isinstance(value, str) for part in ("labels", "annotations") for value in alert[part].values()):
        return "a value is no string"
    if datetime.fromisoformat(alert["endsAt"]) < datetime.fromisoformat(alert["startsAt"]):
        return "start time must be before end time"
    return None


@pytest_asyncio.fixture
async def manager() -> AsyncIterator[Manager]:
    made = Manager()
    async with receiving(made.post, "/am/api/v2/alerts") as url:
        made.url = url / "am"
        yield made


def _sink(manager: Manager, session: aiohttp.ClientSession) -> Alertmanager:
    return Alertmanager(session, manager.url, resolve_after=FIVE_MINUTES, now=lambda: manager.now)


async def test_a_kill_at_its_own_limit(manager: Manager, session: aiohttp.ClientSession) -> None:
    await _sink(manager, session).send(letter())
    assert manager.notified == [
        {
            "labels": {
                "alertname": "ContainerOOMKill",
                "severity": "warning",
                "cause": "container_limit",
                "node": NODE,
                "namespace": "shop",
                "pod": "web-7d4b9c-x2x9k",
                "container": "app",
            },
            "annotations": {
                "summary": "Container app of pod shop/web-7d4b9c-x2x9k reached its memory limit of 512 MiB.",
                "description": "Limited cgroup: usage 512 MiB, limit 512 MiB. Victim: anon 500 MiB, file 900 KiB, "
                "oom_score_adj 984. Container: limit 512 MiB, request 256 MiB. "
                "See how its use grew before raising the limit: a leak outgrows any.",
                "incident_id": "0" * 16,
            },
            "startsAt": "2026-11-21T10:20:16.123456Z",
            "endsAt": "2026-11-21T10:25:16.123456Z",
        }
    ]


@pytest.mark.parametrize("cause", Cause)
async def test_node_pressure_pages(manager: Manager, session: aiohttp.ClientSession, cause: Cause) -> None:
    await _sink(manager, session).send(letter(document(cause)))
    labels = manager.notified[0]["labels"]
    pages = ("NodeOOMKill", "critical") if cause in NODE_PRESSURE else ("ContainerOOMKill", "warning")
    assert (labels["alertname"], labels["severity"]) == pages
    assert labels["cause"] == cause


async def test_what_is_not_known_is_no_label(manager: Manager, session: aiohttp.ClientSession) -> None:
    await _sink(manager, session).send(letter(document(Cause.NODE, pod=None, container=None, node=None)))
    assert set(manager.notified[0]["labels"]) == {"alertname", "severity", "cause"}


async def test_an_alert_that_waited_for_an_hour_still_notifies(
    manager: Manager, session: aiohttp.ClientSession
) -> None:
    manager.now = KILLED_AT + timedelta(hours=1)
    await _sink(manager, session).send(letter())
    assert manager.notified[0]["startsAt"] == "2026-11-21T10:20:16.123456Z"
    assert manager.notified[0]["endsAt"] == "2026-11-21T11:25:16.123456Z"


async def test_another_kill_of_the_container_extends_the_alert(
    manager: Manager, session: aiohttp.ClientSession
) -> None:
    sink = _sink(manager, session)
    await sink.send(letter())
    manager.now += timedelta(minutes=2)
    await sink.send(letter(document(id="f" * 16, victim__pid=9), at=manager.now))
    (alert,) = manager.alerts.values()
    assert alert["endsAt"] == "2026-11-21T10:27:16.123456Z"
    assert len(manager.notified) == 1


async def test_a_hostile_name_is_escaped(manager: Manager, session: aiohttp.ClientSession) -> None:
    await _sink(manager, session).send(letter(document(summary="a\nb\x1b[2J", container__name="x\ny")))
    alert = manager.notified[0]
    assert alert["annotations"]["summary"] == "a\\x0ab\\x1b[2J"
    assert alert["labels"]["container"] == "x\\x0ay"


async def test_400_is_final(manager: Manager, session: aiohttp.ClientSession) -> None:
    manager.status = 400
    with pytest.raises(RefusedError):
        await _sink(manager, session).send(letter())


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_what_may_pass_is_waited_for(manager: Manager, session: aiohttp.ClientSession, status: int) -> None:
    manager.status = status
    with pytest.raises(UnavailableError):
        await _sink(manager, session).send(letter())


@pytest.mark.parametrize("slash", ["", "/"])
async def test_an_address_with_a_path_keeps_it(manager: Manager, session: aiohttp.ClientSession, slash: str) -> None:
    sink = Alertmanager(session, URL(str(manager.url) + slash), resolve_after=FIVE_MINUTES, now=lambda: manager.now)
    await sink.send(letter())
    assert manager.alerts
