"""
What the journal knows of a workload whatever its pods are called: its kills, what its revisions have shown; and which
forecasts were told.

The queries of journal.Journal for it; raises sqlite3.Error as they do.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from collector.diagnosis.rollout import RevisionSeen, merge
from collector.model import Cause

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

MAX_REVISIONS = 2000
"""On a node, of all workloads: the longest not seen go first."""
FORECASTS_SECONDS = 2 * 86400.0
"""Their keys are those of a day."""

_CAUSES = frozenset(Cause)
"""Another may be a newer version's."""
_COLUMNS = ", ".join(RevisionSeen._fields)


class FormerKill(NamedTuple):
    """`at`: time of Unix. `revision`: of the workload, `limit_bytes`: in its spec; as far as they were known."""

    at: float
    cause: str
    revision: str | None
    limit_bytes: int | None


class Workloads:
    """Writes belong to the transaction of the journal that calls."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def keep(self, seen: Sequence[RevisionSeen], forecasts: Sequence[str], at: float) -> None:
        """forecasts: keys of those that were told. at: time of Unix."""
        self._db.executemany("INSERT OR IGNORE INTO forecasts VALUES (?, ?)", [(key, at) for key in forecasts])
        marks = ", ".join("?" * len(RevisionSeen._fields))
        self._db.executemany(
            f"INSERT OR REPLACE INTO revisions ({_COLUMNS}) VALUES ({marks})",
            [merge(self._revision(one.workload, one.revision), one) for one in seen],
        )
        if seen or forecasts:
            self._prune(at)

    def _prune(self, at: float) -> None:
        self._db.execute("DELETE FROM forecasts WHERE told_at < ?", (at - FORECASTS_SECONDS,))
        self._db.execute(
            "DELETE FROM revisions WHERE (workload, revision) IN"
            " (SELECT workload, revision FROM revisions ORDER BY last_at DESC LIMIT -1 OFFSET ?)",
            (MAX_REVISIONS,),
        )

    def former_kills(self, workload: str, before: float, limit: int) -> list[FormerKill]:
        """Those that were counted, the last first."""
        rows = self._db.execute(
            f"SELECT killed_at, cause, {_of_names('revision')}, {_of_names('limit_bytes')}"
            " FROM incidents WHERE workload = ? AND killed_at < ? AND counted_processes IS NOT NULL"
            " ORDER BY killed_at DESC LIMIT ?",
            (workload, before, limit),
        )
        return [
            FormerKill(
                at, cause, revision if isinstance(revision, str) else None, limit if isinstance(limit, int) else None
            )
            for at, cause, revision, limit in rows
            if cause in _CAUSES
        ]

    def revisions(self, workload: str) -> list[RevisionSeen]:
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM revisions WHERE workload = ?", (workload,))
        return list(_undamaged(rows))

    def all_revisions(self) -> list[RevisionSeen]:
        return list(_undamaged(self._db.execute(f"SELECT {_COLUMNS} FROM revisions")))

    def was_forecast(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM forecasts WHERE key = ?", (key,)).fetchone() is not None

    def _revision(self, workload: str, revision: str) -> RevisionSeen | None:
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM revisions WHERE (workload, revision) = (?, ?)", (workload, revision)
        )
        return next(_undamaged(rows), None)


def _undamaged(rows: Iterable[tuple[Any, ...]]) -> Iterator[RevisionSeen]:
    """A column of SQLite takes any type, and what is compared must be a number."""
    for one in (RevisionSeen(*row) for row in rows):
        numbers = one.first_at, one.last_at, one.observed_seconds, one.growth_bytes_per_hour or 0.0
        if all(map(_is_number, (*numbers, one.number or 0, one.rolled_out_at or 0.0))):
            yield one


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _of_names(key: str) -> str:
    return f"CASE WHEN json_valid(late) THEN json_extract(late, '$.names.{key}') END"
