"""What scrapes have told of kills, as the state file keeps it: where the next process goes on."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from collector.state.batch import KILLS, PROCESSES, KillSeries, LastKill, Shown
from collector.state.schema import VERSIONS
from collector.state.shown import NEWS
from collector.state.store import FILE_NAME, Store
from tests.state.test_container_kills import CART, CART_KILLS, WEB, named
from tests.state.test_store import AT, BOOT, NODE_KILL, batch, entry, full_disk, opened

if TYPE_CHECKING:
    from pathlib import Path

    from collector.state.batch import CounterKey

NODE_PROCESSES = (PROCESSES, "node")


def show(store: Store, counters: dict[CounterKey, int], kills: dict[KillSeries, int] | None = None) -> None:
    store.keep_shown(Shown(counters, kills or {}), AT)


def shown(store: Store) -> dict[KillSeries, int]:
    return {series: count.shown for series, count in store.container_kills.items()}


def writes(store: Store) -> int:
    return store._journal._db.total_changes


def test_what_no_scrape_has_told_is_unseen_by_the_next_process(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b", members=2)))
        store.apply(named("a", "b"))
        show(store, {NODE_KILL: 1, NODE_PROCESSES: 1}, {CART_KILLS: 1})
    with opened(tmp_path) as store:
        assert store.unseen() == {NODE_KILL: 1, NODE_PROCESSES: 3}
        assert shown(store) == {CART_KILLS: 1}
        show(store, {NODE_KILL: 2, NODE_PROCESSES: 4}, {CART_KILLS: 2})
    with opened(tmp_path) as store:
        assert store.unseen() == {}
        assert shown(store) == {CART_KILLS: 2}


def test_a_kill_that_follows_leaves_alone_what_was_told(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b")))
        store.apply(named("a"))
        show(store, {NODE_KILL: 2, NODE_PROCESSES: 2}, {CART_KILLS: 1})
        store.apply(named("b"))
        assert shown(store) == {CART_KILLS: 1}
    with opened(tmp_path) as store:
        assert shown(store) == {CART_KILLS: 1}


def test_only_news_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b")))
        store.apply(named("a"))
        show(store, {NODE_KILL: 2, (KILLS, "pod_limit"): 0}, {CART_KILLS: 1})
        before = writes(store)
        show(store, {NODE_KILL: 2, (KILLS, "pod_limit"): 0}, {CART_KILLS: 1})
        # An answer that was made before that one and took longer; a series that has ended; one that began anew.
        show(store, {NODE_KILL: 1}, {CART_KILLS: 0, KillSeries(WEB, "node"): 7})
        show(store, {}, {CART_KILLS: 3})
        assert writes(store) == before
    with opened(tmp_path) as store:
        assert store.unseen() == {NODE_PROCESSES: 2}
        assert shown(store) == {CART_KILLS: 1}


@pytest.mark.parametrize(
    ("later", "is_news"),
    [pytest.param(NEWS, True, id="of the last day"), pytest.param(NEWS + timedelta(seconds=1), False, id="older")],
)
def test_what_nobody_looked_at_for_long_is_no_news(later: timedelta, is_news: bool, tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        # When it was counted is what matters: the agent may have been away for long.
        store.apply(batch(entry("a", time=AT - timedelta(days=3))))
        store.apply(named("a"))
    with opened(tmp_path, at=AT + later) as store:
        assert store.unseen() == ({NODE_KILL: 1, NODE_PROCESSES: 1} if is_news else {})
        assert shown(store) == {CART_KILLS: 0 if is_news else 1}


def test_a_file_of_a_version_that_did_not_know_counts_as_told(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE_NAME)
    for statements in VERSIONS[:4]:
        db.executescript(statements)
    db.execute("INSERT INTO meta VALUES ('first_start', ?), ('read_all', '1')", (AT.isoformat(),))
    db.execute(
        "INSERT INTO incidents (id, boot_id, journalled_at, killed_at, cause, counted_processes, evidence, settled,"
        " printed, released, placed) VALUES ('a', ?, ?, ?, 'node', 1, 2, 1, 1, 1, 1)",
        (BOOT, AT.timestamp(), AT.timestamp()),
    )
    db.execute("INSERT INTO counters VALUES ('kills', 'node', 3), ('processes', 'node', 5)")
    db.execute("INSERT INTO container_kills VALUES (?, ?, ?, 'node', 3, 1.5, 2.5)", CART)
    db.execute("PRAGMA user_version = 4")
    db.commit()
    db.close()
    with opened(tmp_path) as store:
        assert store.unseen() == {}
        assert shown(store) == {CART_KILLS: 3}
        assert store.container_kills[CART_KILLS].last_id is None
        store.apply(batch(entry("b")))
        store.apply(named("b"))
    with opened(tmp_path) as store:
        assert store.unseen() == {NODE_KILL: 1, NODE_PROCESSES: 1}
        assert shown(store) == {CART_KILLS: 3}


def test_it_goes_to_memory_and_back_with_the_counters(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b")))
        store.apply(named("a"))
        show(store, {NODE_KILL: 1}, {CART_KILLS: 1})
        with full_disk(0):
            show(store, {NODE_KILL: 2})
            assert not store.persistent
            assert store.unseen() == {NODE_PROCESSES: 2}
            assert shown(store) == {CART_KILLS: 1}
        assert store.retry(AT)
    with opened(tmp_path) as store:
        assert store.unseen() == {NODE_PROCESSES: 2}
        assert shown(store) == {CART_KILLS: 1}


def test_without_a_disk_it_lasts_as_long_as_the_process(tmp_path: Path) -> None:
    blocker = tmp_path / "state"
    blocker.write_text("")
    with opened(blocker) as store:
        store.apply(batch(entry("a")))
        show(store, {NODE_KILL: 1, NODE_PROCESSES: 1})
        assert store.unseen() == {}
        assert not store.persistent


def test_the_last_incident_of_each_cause_is_known_also_over_restarts(tmp_path: Path) -> None:
    def at(seconds: int) -> datetime:
        return AT + timedelta(seconds=seconds)

    with opened(tmp_path) as store:
        store.apply(batch(entry("old", time=at(99), counts=False)))
        assert store.last_kills == {}
        store.apply(batch(entry("b", time=at(2)), entry("a", time=at(1))))
        store.apply(batch(entry("b", time=at(9))))  # read again
        assert store.last_kills == {"node": LastKill("b", at(2).timestamp())}
    with opened(tmp_path) as store:
        assert store.last_kills == {"node": LastKill("b", at(2).timestamp())}
        store.apply(named("a", "b"))
        assert store.container_kills[CART_KILLS].last_id == "b"
