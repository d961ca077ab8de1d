"""
Kills by container, as the journal keeps them.

A kill is counted before it has a name, and its container's counter cannot move before: it moves once, under the first
complete name, with the cause that was counted. What comes to be known later moves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.state.batch import MAX_SERIES, NOBODY, ContainerName, KillCount, KillSeries

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from collector.state.batch import Later


class ContainerKills:
    """Raises sqlite3.Error. Writes belong to the transaction of the journal that calls."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def read(self) -> dict[KillSeries, KillCount]:
        return {
            KillSeries(ContainerName(*names), cause): KillCount(kills, since, last_at)
            for *names, cause, kills, since, last_at in self._db.execute("SELECT * FROM container_kills")
        }

    def count(
        self, later: Iterable[Later], known: Mapping[KillSeries, KillCount], at: float
    ) -> tuple[dict[KillSeries, KillCount], int]:
        """What has changed of `known`, and how many kills found no room there. `at`: time of Unix."""
        changed: dict[KillSeries, KillCount] = {}
        without_room = 0
        for one in later:
            if one.container is None or (found := self._take(one.id)) is None:
                continue
            cause, killed_at = found
            series = KillSeries(one.container, cause)
            if not _has_room(series, known, changed):
                series = KillSeries(NOBODY, cause)
                without_room += 1
            former = changed.get(series) or known.get(series) or KillCount(0, at, killed_at)
            changed[series] = KillCount(former.kills + 1, former.since, max(former.last_at, killed_at))
        self._write(changed)
        return changed, without_room

    def _take(self, incident_id: str) -> tuple[str, float] | None:
        """Cause and time of an incident that is counted, and is not counted here yet."""
        row = self._db.execute(
            "SELECT cause, killed_at FROM incidents WHERE id = ? AND placed = 0 AND counted_processes IS NOT NULL",
            (incident_id,),
        ).fetchone()
        if row is None:
            return None
        self._db.execute("UPDATE incidents SET placed = 1 WHERE id = ?", (incident_id,))
        return row[0], row[1]

    def end(self, containers: Iterable[ContainerName]) -> None:
        self._db.executemany("DELETE FROM container_kills WHERE (namespace, pod, container) = (?, ?, ?)", containers)

    def replace(self, counts: Mapping[KillSeries, KillCount]) -> None:
        self._db.execute("DELETE FROM container_kills")
        self._write(counts)

    def _write(self, counts: Mapping[KillSeries, KillCount]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO container_kills VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(*series.container, series.cause, *count) for series, count in counts.items()],
        )


def _has_room(
    series: KillSeries, known: Mapping[KillSeries, KillCount], changed: Mapping[KillSeries, KillCount]
) -> bool:
    """Those of nobody are as few as there are causes."""
    if series.container == NOBODY or series in known or series in changed:
        return True
    return len(known.keys() | changed.keys()) < MAX_SERIES
