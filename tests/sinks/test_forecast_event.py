"""The Event of a container that grows towards its limit: what it says, and that a server takes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.sinks.forecast_event import forecast_event, forecast_key, note
from collector.sinks.kube_events import ForecastEvents
from collector.sinks.letter import Letter
from collector.text import printable
from tests.kube.events_api import create_errors
from tests.sinks.letters import NODE, UID, served
from tests.sinks.test_kube_events import Server, connected

AT = datetime(2026, 11, 21, 10, 20, 16, 123456, tzinfo=UTC)
POD = "web-7d4b9c-x2x9k"
MIB = 1 << 20
FORECAST = {
    "working_set_bytes": 400 * MIB,
    "limit_bytes": 512 * MIB,
    "growth_bytes_per_hour": 50 * MIB,
    "observed_seconds": 6 * 3600,
    "seconds_to_limit": 8064,
}


def letter(**changes: Any) -> Letter:
    """changes: of pod, container, forecast and node."""
    document = {
        "node": changes.pop("node", NODE),
        "pod": {"uid": UID, "namespace": "shop", "name": changes.pop("pod", POD)},
        "container": {"id": "a" * 64, "name": changes.pop("container", "app"), "kind": changes.pop("kind", "app")},
        "forecast": {**FORECAST, **changes},
    }
    key = forecast_key(UID, "app", AT)
    return Letter(ids=(key,), key=key, document=document, count=1, first_at=AT, last_at=AT, event_uid=UID)


def test_an_event_on_the_pod() -> None:
    assert forecast_event(letter()) == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{POD}.{forecast_key(UID, 'app', AT)}",
            "namespace": "shop",
            "annotations": {
                "oom-collector/working-set-bytes": "419430400",
                "oom-collector/limit-bytes": "536870912",
                "oom-collector/growth-bytes-per-hour": "52428800",
                "oom-collector/observed-seconds": "21600",
                "oom-collector/seconds-to-limit": "8064",
            },
        },
        "eventTime": "2026-11-21T10:20:16.123456Z",
        "type": "Warning",
        "reason": "MemoryLimitForecast",
        "action": "Forecast",
        "reportingController": "oom-collector",
        "reportingInstance": f"oom-collector-{NODE}",
        "note": note(letter().document),
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "shop",
            "name": POD,
            "uid": UID,
            "fieldPath": "spec.containers{app}",
        },
        "related": {"apiVersion": "v1", "kind": "Node", "name": NODE},
    }


def test_the_note_gives_the_limit_the_time_the_growth_and_what_to_do() -> None:
    assert note(letter().document) == (
        "Container app will reach its memory limit of 512 MiB in about 2.2 h, if it grows on as it has for 6.0 h: "
        "50 MiB an hour, 400 MiB now. Take a heap profile while it runs: a restart loses what it would show. "
        "Each 50 MiB that the limit is raised by buys one hour."
    )


def test_without_the_nodes_name_there_is_no_related() -> None:
    event = forecast_event(letter(node=None))
    assert "related" not in event
    assert not create_errors(event)


def test_the_key_is_that_of_a_container_and_a_day() -> None:
    key = forecast_key(UID, "app", AT)
    east = AT.astimezone(timezone(timedelta(hours=14)))
    assert east.date() != AT.date()
    assert key == forecast_key(UID, "app", AT.replace(hour=23)) == forecast_key(UID, "app", east)
    others = (
        forecast_key("another", "app", AT),
        forecast_key(UID, "sidecar", AT),
        forecast_key(UID, "app", AT + timedelta(days=1)),
    )
    assert len({key, *others}) == 4
    # It names Events on real clusters: a change doubles each that is there during an upgrade.
    assert key == "6160ef94646c4101"


_NAME = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True)
_SIZE = st.integers(0, 2**63)


@given(
    pod=_NAME,
    node=_NAME | st.none(),
    container=st.text(max_size=300),
    sizes=st.fixed_dictionaries(dict.fromkeys(FORECAST, _SIZE)),
)
def test_a_server_takes_whatever_it_is_called(
    pod: str, node: str | None, container: str, sizes: dict[str, int]
) -> None:
    event = forecast_event(letter(pod=pod, node=node, container=container, **sizes))
    assert not create_errors(event)
    assert json.dumps(event, ensure_ascii=False).encode()
    assert printable(str(event["note"])) == event["note"]


def test_a_note_is_cut_to_what_a_server_takes() -> None:
    event = forecast_event(letter(container="\u202e" * 300))
    assert not create_errors(event)
    assert len(str(event["note"]).encode()) <= 1024


def test_the_published_schema_knows_every_field() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(forecast_event(letter()), "1.36", strict=True)


async def test_describe_pod_shows_it_and_a_repeat_changes_nothing() -> None:
    server = Server()
    async with served(server.app) as url, connected(url) as client:
        for _ in range(2):
            await ForecastEvents(client).send(letter())
    assert server.asked == [("POST", 201), ("POST", 409)]
    (event,) = server.api.describe_pod("shop", POD, UID)
    assert event["reason"] == "MemoryLimitForecast"
    assert not server.api.warnings, "no field that the server drops"
