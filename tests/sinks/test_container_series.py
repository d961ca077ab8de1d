"""Series with the names of pods: how each begins, goes on and ends, and that both parsers read them back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from collector.model import ContainerId
from collector.sinks.container_series import FAMILIES, ContainerSeries, MemoryNow, Running, TrendNow
from collector.state.batch import MAX_SERIES, NOBODY, ContainerName, KillCount, KillSeries

if TYPE_CHECKING:
    from collections.abc import Callable

MEBIBYTE = 1 << 20
CART = ContainerName("shop", "cart-0", "cart")
WEB = ContainerName("shop", "web-1", "web")
LIMIT_KILL = KillSeries(CART, "container_limit")
NODE_KILL = KillSeries(CART, "node")
KILLS = "oom_container_kills_total"


class Node:
    """`kills` as the journal has them, those of its making shown by a former process; `running` as the API does."""

    def __init__(self, kills: dict[KillSeries, int] | None = None, *, hold: float = 60.0) -> None:
        self.now = 1000.0
        self.kills: dict[KillSeries, KillCount] = {}
        for series, count in (kills or {}).items():
            self.kill(series, count)
            self.kills[series] = self.kills[series]._replace(shown=count)
        self.series = self.restarted(hold=hold)

    def restarted(self, *, hold: float = 60.0, **changes: object) -> ContainerSeries:
        made = ContainerSeries(kills=lambda: self.kills, hold_seconds=hold, now=lambda: self.now, **changes)  # type: ignore[arg-type]  # two flags
        made.running = lambda: self.running
        made.memory = lambda: self.memory
        self.running: list[Running] = []
        made.trends = lambda: self.trends
        self.memory: dict[ContainerId, MemoryNow] = {}
        self.trends: dict[ContainerId, TrendNow] = {}
        self.series = made
        return made

    def kill(self, series: KillSeries, count: int = 1, *, at: float = 1_795_233_600.5) -> None:
        former = self.kills.get(series, KillCount(0, at, at))
        self.kills[series] = former._replace(kills=former.kills + count, last_at=at, last_id=f"id-{at:.0f}")

    def run(self, *names: ContainerName, limit: int | None = 48 * MEBIBYTE) -> None:
        self.running += [Running(name, ContainerId(name.pod), limit) for name in names]

    def shown(self, name: str = KILLS) -> dict[KillSeries, float]:
        return {
            KillSeries(ContainerName(*(sample.labels[label] for label in ContainerName._fields)), cause): sample.value
            for family in parse_text(self.series.render(openmetrics=False))
            for sample in family.samples
            if sample.name == name
            for cause in [sample.labels.get("cause", "")]
        }


def gauge(node: Node, name: str) -> dict[ContainerName, float]:
    return {series.container: value for series, value in node.shown(name).items()}


# How a series begins


def test_a_container_with_a_limit_begins_at_0_and_its_first_kill_is_an_increase_at_once() -> None:
    node = Node()
    node.run(CART)
    node.run(WEB, limit=None)
    assert node.shown() == {LIMIT_KILL: 0, KillSeries(CART, "pod_limit"): 0}
    node.kill(LIMIT_KILL)
    assert node.shown() == {LIMIT_KILL: 1, KillSeries(CART, "pod_limit"): 0}


@pytest.mark.parametrize(
    "running", [pytest.param(True, id="of a pod that runs"), pytest.param(False, id="and is gone")]
)
def test_a_series_that_was_never_shown_is_0_for_the_hold_whenever_it_is_first_looked_at(running: bool) -> None:
    node = Node()
    node.kill(LIMIT_KILL)
    if running:
        node.run(CART)
    node.now += 3600
    assert node.shown()[LIMIT_KILL] == 0
    node.now += 30
    node.kill(LIMIT_KILL)
    assert node.shown()[LIMIT_KILL] == 0
    node.now += 30
    assert node.shown()[LIMIT_KILL] == 2
    node.kill(LIMIT_KILL)
    assert node.shown()[LIMIT_KILL] == 3


def test_a_cause_that_no_limit_leads_to_is_sparse_and_held() -> None:
    node = Node()
    node.run(CART)
    assert NODE_KILL not in node.shown()
    node.kill(NODE_KILL)
    assert node.shown()[NODE_KILL] == 0
    node.now += 60
    assert node.shown()[NODE_KILL] == 1


@pytest.mark.parametrize("when", ["before the end of the former process", "in the downtime"])
def test_after_a_restart_it_is_what_was_shown_and_the_kills_that_were_not_come_after_the_hold(when: str) -> None:
    node = Node({LIMIT_KILL: 3})
    assert node.shown()[LIMIT_KILL] == 3
    if when != "in the downtime":
        node.kill(LIMIT_KILL, 2)
    node.restarted()
    if when == "in the downtime":
        node.kill(LIMIT_KILL, 2)
    assert node.shown()[LIMIT_KILL] == 3
    node.now += 59
    assert node.shown()[LIMIT_KILL] == 3
    node.now += 1
    assert node.shown()[LIMIT_KILL] == 5


def test_one_that_no_scrape_saw_before_the_end_of_its_process_begins_at_0() -> None:
    node = Node()
    node.kill(NODE_KILL)
    assert node.shown()[NODE_KILL] == node.series.told[NODE_KILL] == 0
    node.restarted()
    assert node.shown()[NODE_KILL] == 0
    node.now += 60
    assert node.shown()[NODE_KILL] == node.series.told[NODE_KILL] == 1


def test_only_kills_are_kept_as_told() -> None:
    node = Node({LIMIT_KILL: 3})
    node.run(CART, WEB)
    assert len(node.shown()) == 4
    assert node.series.told == {LIMIT_KILL: 3}


def test_without_a_hold_nothing_is_held() -> None:
    node = Node(hold=0)
    node.kill(NODE_KILL)
    assert node.shown() == {NODE_KILL: 1}


def test_two_scrapers_read_the_same() -> None:
    node = Node({LIMIT_KILL: 3})
    node.run(CART, WEB)
    node.kill(NODE_KILL)
    for _ in range(8):
        assert node.series.render(openmetrics=False) == node.series.render(openmetrics=False)
        node.now += 15


# How it ends


def test_zeros_go_with_their_container_and_kills_stay() -> None:
    node = Node({LIMIT_KILL: 1})
    node.run(CART, WEB)
    assert len(node.shown()) == 4
    node.running.clear()
    assert node.shown() == {LIMIT_KILL: 1}


def test_one_that_ended_begins_anew() -> None:
    node = Node({LIMIT_KILL: 3})
    assert node.shown() == {LIMIT_KILL: 3}
    node.kills.clear()
    assert node.shown() == {}
    node.kill(LIMIT_KILL)
    assert node.shown() == {LIMIT_KILL: 0}
    node.now += 60
    assert node.shown() == {LIMIT_KILL: 1}


def test_zeros_make_room_for_kills() -> None:
    pods = [ContainerName("shop", f"pod-{number}", "app") for number in range(MAX_SERIES)]
    node = Node({KillSeries(name, "node"): 1 for name in pods[:100]})
    node.run(*pods)
    shown = node.shown()
    assert len(shown) == MAX_SERIES
    assert all(shown[series] == 1 for series in node.kills)
    # The cause that a limit mostly leads to is the last to go.
    assert {series.cause for series in shown} == {"node", "container_limit"}
    for name in pods:
        node.kill(KillSeries(name, "container_limit"))
    assert len(node.shown()) == MAX_SERIES + 100


# Gauges


def test_memory_is_that_of_the_cgroup() -> None:
    node = Node()
    node.run(CART)
    node.run(WEB, limit=None)
    node.memory = {
        ContainerId("cart-0"): MemoryNow(30 * MEBIBYTE, 32 * MEBIBYTE),
        ContainerId("web-1"): MemoryNow(MEBIBYTE, None),
        ContainerId("pause"): MemoryNow(1, None),
    }
    assert gauge(node, "oom_container_memory_working_set_bytes") == {CART: 30 * MEBIBYTE, WEB: MEBIBYTE}
    assert gauge(node, "oom_container_memory_limit_bytes") == {CART: 32 * MEBIBYTE}


@pytest.mark.parametrize(
    ("in_cgroup", "shown"),
    [
        pytest.param(None, 48 * MEBIBYTE, id="crun: the limit is one cgroup below"),
        pytest.param(64 * MEBIBYTE, 64 * MEBIBYTE, id="resized: the kernel's word counts"),
    ],
)
def test_the_limit_is_the_apis_where_the_cgroup_tells_none(in_cgroup: int | None, shown: int) -> None:
    node = Node()
    node.run(CART)
    node.memory = {ContainerId("cart-0"): MemoryNow(MEBIBYTE, in_cgroup)}
    assert gauge(node, "oom_container_memory_limit_bytes") == {CART: shown}


def test_a_container_that_only_the_log_folders_know_has_a_zero_by_its_cgroups_limit() -> None:
    node = Node()
    running = Running(CART, ContainerId("now"), None)
    node.running = [running, running._replace(id=ContainerId("former"))]
    node.memory = {ContainerId("now"): MemoryNow(MEBIBYTE, 48 * MEBIBYTE)}
    assert node.shown()[LIMIT_KILL] == 0
    assert gauge(node, "oom_container_memory_limit_bytes") == {CART: 48 * MEBIBYTE}


def test_the_last_kill_is_that_of_any_cause() -> None:
    node = Node()
    node.kill(LIMIT_KILL, at=1_795_233_600.25)
    node.kill(NODE_KILL, at=1_795_233_500.0)
    assert gauge(node, "oom_container_last_kill_timestamp_seconds") == {CART: 1_795_233_600.25}


def test_the_trend_is_that_of_the_container_as_far_as_there_is_one() -> None:
    node = Node()
    node.run(CART, WEB)
    node.trends = {
        ContainerId("cart-0"): TrendNow(1234.5678, 86_400.04),
        ContainerId("web-1"): TrendNow(-0.25, None),
        ContainerId("pause"): TrendNow(1.0, 1.0),
    }
    assert gauge(node, "oom_container_memory_growth_bytes_per_second") == {CART: 1234.6, WEB: -0.2}
    assert gauge(node, "oom_container_memory_seconds_to_limit") == {CART: 86_400}


# The text


@pytest.mark.parametrize("off", FAMILIES)
def test_each_family_can_be_switched_off(off: str) -> None:
    node = Node({LIMIT_KILL: 1})
    series = node.restarted(off={off})
    node.run(CART)
    node.memory = {ContainerId("cart-0"): MemoryNow(1, None)}
    families = [family.name for family in parse_text(series.render(openmetrics=False))]
    assert families == [name.removesuffix("_total") for name in FAMILIES if name != off]


def test_when_a_counter_began_is_told_in_openmetrics_where_asked_for() -> None:
    node = Node({LIMIT_KILL: 1})
    series = node.restarted(created=True)
    node.run(CART)
    node.kill(LIMIT_KILL, at=1_795_239_999.0)
    assert "_created" not in series.render(openmetrics=False)
    text = series.render(openmetrics=True)
    labels = 'namespace="shop",pod="cart-0",container="cart",cause="container_limit"'
    assert f"{KILLS}{{{labels}}} 1\noom_container_kills_created{{{labels}}} 1795233600.5\n" in text
    assert text.count("_created") == 1
    assert read_back(text + "# EOF\n", parse_openmetrics)[LIMIT_KILL] == 1


def test_the_incident_of_the_last_kill_stands_beside_it_in_openmetrics_where_asked_for() -> None:
    node = Node({LIMIT_KILL: 1})
    node.kills[KillSeries(WEB, "node")] = KillCount(1, 0.0, 0.0, None, 1)
    series = node.restarted(exemplars=True, created=True)
    node.run(CART)
    node.kill(NODE_KILL)
    assert "incident_id" not in series.render(openmetrics=False)
    told = {
        (sample.labels["pod"], sample.labels["cause"]): (sample.exemplar.labels, float(sample.exemplar.timestamp or 0))
        for family in parse_openmetrics(series.render(openmetrics=True) + "# EOF\n")  # type: ignore[no-untyped-call]  # prometheus-client's own
        for sample in family.samples
        if sample.exemplar
    }
    # Not of a zero, nor of a kill that is held back, nor where the id is not known.
    assert told == {("cart-0", "container_limit"): ({"incident_id": "id-1795233600"}, 1_795_233_600.5)}
    node.now += 60
    assert series.render(openmetrics=True).count("incident_id") == 2
    assert "incident_id" not in node.restarted().render(openmetrics=True)


def read_back(text: str, parse: Callable[[str], Iterable[object]]) -> dict[KillSeries, float]:
    return {
        KillSeries(ContainerName(*(sample.labels[label] for label in ContainerName._fields)), sample.labels["cause"]): (
            sample.value
        )
        for family in parse(text)
        for sample in family.samples  # type: ignore[attr-defined]  # a Metric
        if sample.name == KILLS
    }


@given(st.builds(ContainerName, *[st.text(st.characters(exclude_categories=["Cs"]))] * 3), st.integers(0, 2**53))
def test_any_name_is_read_back_by_both_parsers(name: ContainerName, value: int) -> None:
    node = Node({KillSeries(name, "node"): value, KillSeries(NOBODY, "unknown"): 7})
    expected = {series: count.kills for series, count in node.kills.items()}
    assert read_back(node.series.render(openmetrics=False), parse_text) == expected
    assert read_back(node.series.render(openmetrics=True) + "# EOF\n", parse_openmetrics) == expected
