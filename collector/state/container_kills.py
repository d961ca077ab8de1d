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
    from collections.abc import Container, Iterable, Mapping

    from collector.state.batch import Later


class ContainerKills:
    """Raises sqlite3.Error. Writes belong to the transaction of the journal that calls."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def read(self, recent: Container[str]) -> dict[KillSeries, KillCount]:
        """recent: causes; kills of any other count as shown."""
        return {
            KillSeries(ContainerName(*names), cause): KillCount(
                kills, since, last_at, last_id, shown if cause in recent else kills
            )
            for *names, cause, kills, since, last_at, last_id, shown in self._db.execute(
                "SELECT namespace, pod, container, cause, kills, since, last_at, last_id, shown FROM container_kills"
            )
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
            count = changed.get(series) or known.get(series) or KillCount(0, at, killed_at)
            if killed_at >= count.last_at:
                count = count._replace(last_at=killed_at, last_id=one.id)
            changed[series] = count._replace(kills=count.kills + 1)
        self.write(changed)
        return changed, without_room

    def news(
        self, told: Mapping[KillSeries, int], known: Mapping[KillSeries, KillCount]
    ) -> dict[KillSeries, KillCount]:
        """What a scrape has told that none had told before. A series may have ended since, or begun anew."""
        return {
            series: count._replace(shown=value)
            for series, value in told.items()
            if (count := known.get(series)) is not None and count.shown < value <= count.kills
        }

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
        self.write(counts)

    def write(self, counts: Mapping[KillSeries, KillCount]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO container_kills VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*series.container, series.cause, *count) for series, count in counts.items()],
        )


def _has_room(
    series: KillSeries, known: Mapping[KillSeries, KillCount], changed: Mapping[KillSeries, KillCount]
) -> bool:
    """Those of nobody are as few as there are causes."""
    if series.container == NOBODY or series in known or series in changed:
        return True
    return len(known.keys() | changed.keys()) < MAX_SERIES
