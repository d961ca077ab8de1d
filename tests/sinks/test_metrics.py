"""/metrics: the whole exposition as a golden file, and what a client may ask for."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from collector.model import ContainerId
from collector.sinks import metrics as exposition
from collector.sinks.container_series import FAMILIES, ContainerSeries, MemoryNow, Running, TrendNow
from collector.sinks.metrics import Metrics
from collector.state.batch import (
    DELIVERIES,
    EVICTIONS,
    FORGED,
    KILLS,
    LOST,
    NOBODY,
    PROCESSES,
    SERIES_DROPPED,
    UNATTRIBUTED,
    USERSPACE_KILLS,
    ContainerName,
    KillCount,
    KillSeries,
    LastKill,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

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
    (SERIES_DROPPED, ""): 1,
}
FIRST_START = 1_795_233_600.0
CART, WEB = ContainerName("shop", "cart-0", "cart"), ContainerName("shop", "web-1", "web")
CONTAINER_KILLS = {
    KillSeries(CART, "container_limit"): KillCount(
        3, FIRST_START + 60.5, FIRST_START + 600.25, last_id=f"{3:032x}", shown=3
    ),
    KillSeries(NOBODY, "unknown"): KillCount(1, FIRST_START + 90.0, FIRST_START + 90.0, shown=1),
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def metrics(
    counters: dict[CounterKey, int] | None = None,
    *,
    hold: float = 60.0,
    clock: Clock | None = None,
    pods: int = 1,
    created: float | None = None,
    last_kills: dict[str, LastKill] | None = None,
) -> Metrics:
    """pods: so many of a container each, and another one without a limit."""
    clock = clock or Clock()
    containers = ContainerSeries(
        kills=lambda: CONTAINER_KILLS,
        hold_seconds=hold,
        now=clock,
        created=created is not None,
        exemplars=last_kills is not None,
    )
    names = [CART, *(CART._replace(pod=f"cart-{number}") for number in range(1, pods))]
    ids = {name: ContainerId(name.pod) for name in [*names, WEB]}
    containers.running = lambda: [Running(name, ids[name], 50331648 if name in names else None) for name in ids]
    containers.memory = lambda: {ids[name]: MemoryNow(40000000, 50331648 if name in names else None) for name in ids}
    containers.trends = lambda: {ids[CART]: TrendNow(1165.1, 9000.0), ids[WEB]: TrendNow(-4.5, None)}
    counters = {} if counters is None else counters
    return Metrics(
        version="1.2.3",
        sources=("kmsg", "syslog", "journald"),
        sinks=("pod_event",),
        counters=lambda: counters,
        hold_seconds=hold,
        now=clock,
        containers=containers,
        created=created,
        last_kills=None if last_kills is None else lambda: last_kills,
    )


def text(shown: Metrics, accept: str = "") -> str:
    return shown.render(accept)[0].decode()


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
    families = {family.name for family in parse(rendered)}
    assert len(families) == 25
    assert families > {name.removesuffix("_total") for name in FAMILIES}


def test_start_timestamps_are_told_in_openmetrics_where_asked_for() -> None:
    shown = metrics(COUNTERS, created=FIRST_START)
    assert "_created" not in text(shown)
    rendered = text(shown, "application/openmetrics-text;version=1.0.0")
    families: Iterable[Metric] = parse_openmetrics(rendered)  # type: ignore[no-untyped-call]  # prometheus-client's own
    told = {
        (family.name, sample.labels.get("pod")): sample.value
        for family in families
        for sample in family.samples
        if sample.name.endswith("_created")
    }
    assert told == {
        ("oom_kills", None): FIRST_START,
        ("oom_killed_processes", None): FIRST_START,
        ("oom_container_kills", "cart-0"): FIRST_START + 60.5,
        ("oom_container_kills", ""): FIRST_START + 90,
    }
    assert "_created" not in text(shown)


LAST_KILLS = {"container_limit": LastKill("a" * 32, FIRST_START + 600.25), "unknown": LastKill("b" * 32, FIRST_START)}


def exemplars(shown: Metrics) -> dict[tuple[str, str | None, str], tuple[dict[str, str], float]]:
    """By name, pod and cause of the samples that have one."""
    families: Iterable[Metric] = parse_openmetrics(text(shown, "application/openmetrics-text"))  # type: ignore[no-untyped-call]  # prometheus-client's own
    return {
        (sample.name, sample.labels.get("pod"), sample.labels["cause"]): (
            sample.exemplar.labels,
            float(sample.exemplar.timestamp or 0),
        )
        for family in families
        for sample in family.samples
        if sample.exemplar is not None and sample.exemplar.value == 1
    }


def test_the_incident_of_each_cause_s_last_kill_stands_beside_it_in_openmetrics_where_asked_for() -> None:
    shown = metrics(COUNTERS, last_kills=LAST_KILLS)
    assert exemplars(shown) == {
        ("oom_kills_total", None, "container_limit"): ({"incident_id": "a" * 32}, FIRST_START + 600.25),
        ("oom_kills_total", None, "unknown"): ({"incident_id": "b" * 32}, FIRST_START),
        ("oom_container_kills_total", "cart-0", "container_limit"): (
            {"incident_id": f"{3:032x}"},
            FIRST_START + 600.25,
        ),
    }
    assert "incident_id" not in text(shown)
    assert exemplars(metrics(COUNTERS)) == {}


def test_a_kill_that_is_held_back_is_no_exemplar() -> None:
    clock = Clock()
    shown = metrics(dict(COUNTERS), clock=clock, last_kills=LAST_KILLS)
    shown.hold({(KILLS, "container_limit"): 1})
    assert ("oom_kills_total", None, "container_limit") not in exemplars(shown)
    clock.now += 60
    assert ("oom_kills_total", None, "container_limit") in exemplars(shown)


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
    clock.now += 3600
    counters[KILLS, "container_limit"] += 2
    shown.hold({(KILLS, "container_limit"): 2})
    counters[KILLS, "container_limit"] += 1
    assert 'oom_kills_total{cause="container_limit"} 4.0\n' in text(shown)
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
    body, told = metrics().render(accept)
    assert told.startswith(content_type)
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
async def test_gzip_only_when_asked_for(accept_encoding: str, compressed: bool) -> None:
    plain, _ = metrics().render("")
    body, headers, _ = await metrics().answer(accept="", accept_encoding=accept_encoding)
    assert (headers.get("Content-Encoding") == "gzip") is compressed
    assert (gzip.decompress(body) if compressed else body) == plain
    assert len(body) <= (2000 if compressed else len(plain))


async def test_an_answer_says_what_it_tells_of_kills() -> None:
    shown = metrics(COUNTERS)
    shown.hold({(KILLS, "container_limit"): 2})
    first, again = [await shown.answer(accept="", accept_encoding="gzip") for _ in range(2)]
    told = {key: value for key, value in COUNTERS.items() if key[0] in (KILLS, PROCESSES)}
    assert +Counter(first.shown.counters) == told | {(KILLS, "container_limit"): 1}
    assert first.shown.kills == {series: count.kills for series, count in CONTAINER_KILLS.items()}
    assert again.shown == first.shown


@pytest.mark.parametrize(("pods", "threads"), [pytest.param(1, 0, id="small"), pytest.param(500, 1, id="large")])
async def test_what_takes_long_to_compress_does_not_hold_up_the_loop(
    pods: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, others = threading.get_ident(), []
    compress = exposition._compress

    def watched(body: bytes) -> bytes:
        others.extend([thread] if (thread := threading.get_ident()) != loop else [])
        return compress(body)

    monkeypatch.setattr(exposition, "_compress", watched)
    shown = metrics(pods=pods)
    body, *_ = await shown.answer(accept="", accept_encoding="gzip")
    assert gzip.decompress(body) == shown.render("")[0]
    assert len(others) == threads


async def test_scrapers_that_come_together_do_not_hold_up_the_loop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, renders = metrics(pods=500), 0
    render = shown.render

    def counted(accept: str) -> tuple[bytes, str]:
        nonlocal renders
        renders += 1
        return render(accept)

    monkeypatch.setattr(shown, "render", counted)
    codings = ("gzip", "", "", "gzip")
    scrapes = [asyncio.create_task(shown.answer(accept="", accept_encoding=coding)) for coding in codings]
    in_a_turn = []
    while not all(scrape.done() for scrape in scrapes):
        before = renders
        await asyncio.sleep(0)
        in_a_turn.append(renders - before)
    assert (sum(in_a_turn), max(in_a_turn)) == (4, 1)
    packed, *plain, again = [scrape.result()[0] for scrape in scrapes]
    assert {gzip.decompress(packed), *plain, gzip.decompress(again)} == {render("")[0]}
