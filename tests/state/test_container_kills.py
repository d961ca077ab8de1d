"""Kills by container: each moves once, under the first whole name, and for as long as anybody may look."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from collector.model import Cause, Evidence, Verdict
from collector.state import batch as words
from collector.state.batch import (
    KILLS,
    NOBODY,
    SERIES_DROPPED,
    Batch,
    ContainerName,
    KillCount,
    KillSeries,
    Later,
)
from collector.state.series_life import KEPT_SECONDS, SeriesLives
from collector.state.store import Store
from tests.state.test_store import AT, batch, entry, opened

CART = ContainerName("shop", "cart-0", "cart")
WEB = ContainerName("shop", "web-1", "web")
CART_KILLS = KillSeries(CART, "node")


def named(*identities: str, container: ContainerName | None = CART, **changes: Any) -> Batch:
    known: dict[str, Any] = {"late": "{}", "named": True, "event_key": None, "release": (), "closed": False}
    later = [Later(id=identity, container=container, **known) for identity in identities]
    return batch(later=later, **changes)


def counts(store: Store) -> dict[KillSeries, int]:
    return {series: count.kills for series, count in store.container_kills.items()}


def test_a_kill_moves_once_under_its_first_name_also_over_restarts(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b"), entry("c")))
        store.apply(named("a", container=None))
        assert counts(store) == {}
        store.apply(named("a", "a", "b"))
        store.apply(named("b", container=WEB))
        assert counts(store) == {CART_KILLS: 2}
    with opened(tmp_path) as store:
        store.apply(named("a", "b", container=WEB))
        assert counts(store) == {CART_KILLS: 2}
        store.apply(named("c"))
        before = dict(store.container_kills)
    with opened(tmp_path) as store:
        assert store.container_kills == before
        assert counts(store) == {CART_KILLS: 3}


def test_times_are_those_of_the_count_and_of_the_kill(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        late = AT - timedelta(hours=1)
        store.apply(batch(entry("a", time=AT), entry("b", time=late)))
        store.apply(named("a", at=AT + timedelta(seconds=2)))
        store.apply(named("b", at=AT + timedelta(seconds=9)))
        assert store.container_kills == {
            CART_KILLS: KillCount(kills=2, since=AT.timestamp() + 2, last_at=AT.timestamp(), last_id="a")
        }


def test_the_cause_is_the_one_that_was_counted(tmp_path: Path) -> None:
    better = Verdict(cause=Cause.POD_LIMIT, node_pressure=False, reason="", evidence=(Evidence.REPORT,) * 5)
    with opened(tmp_path) as store:
        store.apply(batch(entry("a")))
        store.apply(batch(entry("a", verdict=better)))
        store.apply(named("a"))
        assert counts(store) == {CART_KILLS: 1}
        assert store.counters[KILLS, "node"] == 1


def test_what_was_old_at_the_first_start_is_not_counted(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("old", counts=False)))
        store.apply(named("old", "never heard of"))
        assert counts(store) == {}


def test_beyond_the_cap_kills_are_counted_as_nobodys_and_lost_to_no_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.state.container_kills.MAX_SERIES", 2)
    with opened(tmp_path) as store:
        store.apply(batch(*(entry(str(number)) for number in range(5))))
        third = CART._replace(pod="cart-2")
        later = [*named("0").later, *named("1", container=WEB).later, *named("2", container=third).later]
        store.apply(batch(later=later))
        store.apply(named("3"))
        store.apply(named("4", container=NOBODY))
        assert counts(store) == {CART_KILLS: 2, KillSeries(WEB, "node"): 1, KillSeries(NOBODY, "node"): 2}
        assert store.counters[SERIES_DROPPED, ""] == 1
    with opened(tmp_path) as store:
        assert sum(counts(store).values()) == 5


def test_what_has_ended_is_forgotten_and_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.state.container_kills.MAX_SERIES", 1)
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b")))
        store.apply(named("a"))
        store.apply(batch(series_ended=[CART, WEB]))
        assert counts(store) == {}
        store.apply(named("a", "b", container=WEB))
        assert counts(store) == {KillSeries(WEB, "node"): 1}
    with opened(tmp_path) as store:
        assert counts(store) == {KillSeries(WEB, "node"): 1}


def test_they_go_to_memory_and_back_with_the_counters(tmp_path: Path) -> None:
    blocker = tmp_path / "state"
    blocker.write_text("")
    with opened(blocker) as store:
        store.apply(batch(entry("a"), entry("b")))
        store.apply(named("a"))
        blocker.unlink()
        assert store.retry(AT)
        store.apply(named("a", "b"))
        assert counts(store) == {CART_KILLS: 2}
    with opened(blocker) as store:
        store.apply(named("a", "b"))
        assert counts(store) == {CART_KILLS: 2}


def test_a_batch_that_fails_moves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a")))
        broken = named("a", delivered=[("only one",)])
        with pytest.raises(Exception, match="bindings"):
            store._journal.apply(broken)
        assert counts(store) == {}
        store.apply(named("a"))
        assert counts(store) == {CART_KILLS: 1}


# How long they are kept

GONE: frozenset[tuple[str, str]] = frozenset()
THERE = {("shop", "cart-0")}


def kills(count: int = 1, name: ContainerName = CART) -> dict[KillSeries, KillCount]:
    return {KillSeries(name, "node"): KillCount(count, 0.0, 0.0)}


def test_for_an_hour_after_the_pod() -> None:
    lives = SeriesLives()
    assert lives.ended(kills(), THERE, 0) == []
    assert lives.ended(kills(), THERE, 7200) == []
    assert lives.ended(kills(), GONE, 7200 + KEPT_SECONDS - 1) == []
    assert lives.ended(kills(), GONE, 7200 + KEPT_SECONDS) == [CART]


@pytest.mark.parametrize(
    ("counts", "pods"),
    [
        pytest.param(kills(), THERE, id="the pod is there again"),
        pytest.param(kills(2), GONE, id="a kill was told late"),
        pytest.param(kills() | {KillSeries(CART, "pod_limit"): KillCount(1, 0, 0)}, GONE, id="of another cause"),
    ],
)
def test_an_hour_begins_anew(counts: dict[KillSeries, KillCount], pods: set[tuple[str, str]]) -> None:
    lives = SeriesLives()
    lives.ended(kills(), GONE, 0)
    assert lives.ended(counts, pods, 3000) == []
    assert lives.ended(counts, GONE, KEPT_SECONDS) == []
    assert lives.ended(counts, GONE, KEPT_SECONDS + 3000) == [CART]


def test_nobodys_have_no_pod_to_end_with() -> None:
    lives = SeriesLives()
    lives.ended(kills(name=NOBODY), GONE, 0)
    assert lives.ended(kills(name=NOBODY), GONE, 10 * KEPT_SECONDS) == []
    assert words.MAX_SERIES == 1000
