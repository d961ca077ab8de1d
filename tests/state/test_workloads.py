"""What the journal keeps of workloads and of forecasts: over restarts, a full disk, and from one journal to another."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from collector.diagnosis.rollout import RevisionSeen
from collector.late import Late, to_json
from collector.model import Cause, Evidence, Names, NamesFrom, Verdict
from collector.state import workloads
from collector.state.batch import Batch, Later
from collector.state.workloads import FORECASTS_SECONDS, FormerKill
from tests.state.test_store import AT, batch, entry, opened

if TYPE_CHECKING:
    from pathlib import Path

    from collector.state.store import Store

WEB = "shop/Deployment/web/app"
HOUR = 3600.0


def revision(name: str = "41", *, workload: str = WEB, **changes: Any) -> RevisionSeen:
    return RevisionSeen(workload, name, "web:1", 1000.0, 2000.0, HOUR, 0.0)._replace(**changes)


def keep(store: Store, *seen: RevisionSeen, forecasts: tuple[str, ...] = (), at: float = 0.0) -> None:
    store.apply(Batch(at=AT + timedelta(seconds=at), revisions=seen, forecasts=forecasts))


# Revisions


def test_each_revision_has_one_row_that_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        keep(store, revision("41"), revision("42", workload="other"))
    with opened(tmp_path) as store:
        keep(store, revision("41", first_at=500.0, last_at=9000.0, observed_seconds=2 * HOUR, image=None))
        assert store.revisions(WEB) == [revision("41", first_at=500.0, last_at=9000.0, observed_seconds=2 * HOUR)]
        assert [one.revision for one in store.revisions("other")] == ["42"]
        assert store.revisions("none") == []


def test_the_longest_not_seen_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "MAX_REVISIONS", 3)
    with opened(tmp_path) as store:
        keep(store, *(revision(str(number), last_at=float(-number)) for number in range(5)))
        assert {one.revision for one in store.revisions(WEB)} == {"0", "1", "2"}


# Forecasts


def test_a_forecast_is_known_after_a_restart_and_forgotten_later(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert not store.was_forecast("a")
        keep(store, forecasts=("a",))
        keep(store, forecasts=("a",))
    with opened(tmp_path) as store:
        assert store.was_forecast("a")
        keep(store, forecasts=("b",), at=FORECASTS_SECONDS - 1)
        assert store.was_forecast("a")
        keep(store, forecasts=("c",), at=FORECASTS_SECONDS + 1)
        assert [store.was_forecast(key) for key in "abc"] == [False, True, True]


# From one journal to another


def test_what_was_kept_in_memory_comes_to_the_disk(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with opened(directory) as store:
        keep(store, revision("40"), revision("41"), forecasts=("before",))
    directory.rename(tmp_path / "aside")
    directory.write_text("")
    with opened(directory) as store:
        assert not store.persistent
        keep(store, revision("41", last_at=9000.0), revision("42"), forecasts=("meanwhile",))
        directory.unlink()
        (tmp_path / "aside").rename(directory)
        assert store.retry(AT)
        assert {one.revision: one.last_at for one in store.revisions(WEB)} == {"40": 2000.0, "41": 9000.0, "42": 2000.0}
        assert store.was_forecast("before")
        assert store.was_forecast("meanwhile")


def test_what_was_on_a_disk_that_is_full_is_taken_along(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        keep(store, revision("41"), forecasts=("a",))
        store._journal._db.execute("PRAGMA query_only = 1")
        keep(store, revision("42"), forecasts=("b",))
        assert not store.persistent
        assert {one.revision for one in store.revisions(WEB)} == {"41", "42"}
        assert store.was_forecast("a")
        assert store.was_forecast("b")


# Former kills


def name(store: Store, identity: str, *, workload: str | None = WEB, **known: Any) -> None:
    names = Names(source=NamesFrom.API, namespace="shop", pod=f"web-{identity}", container="app", **known)
    late = Later(
        id=identity,
        late=to_json(Late(names=names)),
        named=True,
        event_key=None,
        release=None,
        closed=False,
        workload=workload,
    )
    store.apply(batch(later=[late]))


def kill(store: Store, identity: str, at: float, *, counts: bool = True) -> None:
    verdict = Verdict(cause=Cause.CONTAINER_LIMIT, node_pressure=False, reason="", evidence=(Evidence.KILL_LINE,))
    store.apply(batch(entry(identity, counts=counts, verdict=verdict, time=AT + timedelta(seconds=at))))


def former(store: Store, at: float, limit: int = 10) -> list[tuple[float, str | None, int | None]]:
    """Seconds after AT, revision, limit."""
    before = (AT + timedelta(seconds=at)).timestamp()
    kills = store.former_kills(WEB, before=before, limit=limit)
    assert {kill.cause for kill in kills} <= {"container_limit"}
    return [(kill.at - AT.timestamp(), kill.revision, kill.limit_bytes) for kill in kills]


def test_former_kills_are_those_of_the_workload_whichever_the_pod(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for at, identity in enumerate(("a", "b", "c", "d", "e")):
            kill(store, identity, at, counts=identity != "e")
        name(store, "a", revision="41", limit_bytes=48 << 20)
        name(store, "b")
        name(store, "c", workload="other")
        name(store, "e", revision="42")
        assert former(store, 10) == [(1.0, None, None), (0.0, "41", 48 << 20)], (
            "the last first; d is nobody's, e is old"
        )
        assert former(store, 10, limit=1) == [(1.0, None, None)]
        assert former(store, 1) == [(0.0, "41", 48 << 20)], "not the one that is asked for"


def test_what_a_damaged_row_does_not_tell_is_not_known(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        kill(store, "a", 0)
        name(store, "a", revision="41")
        store._journal._db.execute("UPDATE incidents SET late = '{'")
        kills = store.former_kills(WEB, before=AT.timestamp() + 10, limit=10)
        assert kills == [FormerKill(AT.timestamp(), "container_limit", None, None)]
