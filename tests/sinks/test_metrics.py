"""/metrics: the whole exposition as a golden file, and what a client may ask for."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from collector.sinks.metrics import Metrics
from collector.state.batch import DELIVERIES, EVICTIONS, FORGED, KILLS, LOST, PROCESSES, UNATTRIBUTED, USERSPACE_KILLS

if TYPE_CHECKING:
    from collector.state.batch import CounterKey

GOLDEN = Path(__file__).parent.parent / "golden"

COUNTERS: dict[CounterKey, int] = {
    (KILLS, "container_limit"): 3,
    (PROCESSES, "container_limit"): 8,
    (KILLS, "unknown"): 1,
    (PROCESSES, "unknown"): 1,
    (UNATTRIBUTED, "no_cgroup"): 1,
    (LOST, "kmsg"): 2665,
    (FORGED, ""): 2,
    (DELIVERIES, "stdout delivered"): 4,
    (DELIVERIES, "pod_event refused"): 1,
    (EVICTIONS, "memory"): 2,
    (USERSPACE_KILLS, "systemd-oomd"): 3,
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def metrics(
    counters: dict[CounterKey, int] | None = None, *, hold: float = 60.0, clock: Clock | None = None
) -> Metrics:
    counters = {} if counters is None else counters
    return Metrics(
        version="1.2.3",
        sources=("kmsg", "syslog", "journald"),
        sinks=("pod_event",),
        counters=lambda: counters,
        hold_seconds=hold,
        now=clock or Clock(),
    )


def text(shown: Metrics, accept: str = "") -> str:
    return shown.render(accept=accept, accept_encoding="")[0].decode()


@pytest.mark.parametrize(
    ("name", "accept"),
    [("metrics.txt", "text/plain"), ("metrics.openmetrics.txt", "application/openmetrics-text;version=1.0.0")],
)
def test_the_whole_exposition(name: str, accept: str) -> None:
    shown = metrics(COUNTERS)
    shown.source_up = {"kmsg": True}
    shown.witness_up = {
        "cgroup": True,
        "process_index": True,
        "proc_connector": False,
        "pods": True,
        "systemd_oomd": True,
    }
    shown.observe_kill(0.0007)
    shown.observe_kill(0.004)
    shown.observe_kill(2.04)
    rendered = text(shown, accept)
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(rendered)
    assert rendered == (GOLDEN / name).read_text()
    assert "_created" not in rendered
    parse = parse_openmetrics if "openmetrics" in name else parse_text
    assert len(list(parse(rendered))) == 18


def test_every_cause_is_there_from_the_first_answer() -> None:
    rendered = text(metrics())
    for family in ("oom_kills_total", "oom_killed_processes_total"):
        assert rendered.count(f"\n{family}{{") == 10
        assert rendered.count(f"\n{family}{{") == sum(
            line.endswith("} 0.0") for line in rendered.splitlines() if line.startswith(family)
        )


def test_kills_of_the_downtime_are_shown_when_the_hold_is_over() -> None:
    clock = Clock()
    counters = dict(COUNTERS)
    shown = metrics(counters, clock=clock)
    counters[KILLS, "container_limit"] += 2
    shown.hold({(KILLS, "container_limit"): 2})
    counters[KILLS, "container_limit"] += 1
    clock.now += 59
    assert 'oom_kills_total{cause="container_limit"} 4.0\n' in text(shown)
    clock.now += 1
    assert 'oom_kills_total{cause="container_limit"} 6.0\n' in text(shown)
    shown.hold({(KILLS, "container_limit"): 1})
    assert 'oom_kills_total{cause="container_limit"} 6.0\n' in text(shown)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("", "text/plain; version=0.0.4", id="nothing asked"),
        pytest.param("*/*", "text/plain; version=0.0.4", id="a browser, curl"),
        pytest.param(
            "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
            "application/openmetrics-text; version=1.0.0",
            id="Prometheus",
        ),
        pytest.param("application/openmetrics-text;version=;q=1", "application/openmetrics-text", id="no version"),
        pytest.param("application/openmetrics-text;version=x.y", "text/plain; version=0.0.4", id="no number"),
        pytest.param("text/plain;version=99999999999999999999.0", "text/plain", id="a version of the future"),
    ],
)
def test_the_form_is_negotiated(accept: str, content_type: str) -> None:
    body, headers = metrics().render(accept=accept, accept_encoding="")
    assert headers["Content-Type"].startswith(content_type)
    assert body.endswith(b"# EOF\n") == content_type.startswith("application/openmetrics")


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q = 0.000, identity", False),
        ("*", True),
    ],
)
def test_gzip_only_when_asked_for(accept_encoding: str, compressed: bool) -> None:
    plain, _ = metrics().render(accept="", accept_encoding="")
    body, headers = metrics().render(accept="", accept_encoding=accept_encoding)
    assert (headers.get("Content-Encoding") == "gzip") is compressed
    assert (gzip.decompress(body) if compressed else body) == plain
    assert len(body) <= (1500 if compressed else len(plain))
