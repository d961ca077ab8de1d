"""
What follows a kill, as the journal keeps it: late knowledge, what stdout and remote sinks are still to be told.

The queries of journal.Journal for it; raises sqlite3.Error as they do.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from collector.state.batch import DELIVERIES, EVICTIONS, EXPIRED, Batch, Case, CounterKey, Later, Mail

if TYPE_CHECKING:
    import sqlite3


# Without its longest list: a task dump may be larger than all the rest a thousand times.
_SLIM = "CASE WHEN json_valid(document) THEN json_remove(document, '$.tasks') ELSE document END"


class FollowUps:
    """Writes belong to the transaction of the journal that calls."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def keep(self, later: Later) -> Counter[CounterKey]:
        """What the counters gain."""
        self._db.execute(
            "UPDATE incidents SET late = ?, named = ?, event_key = coalesce(?, event_key), pending = ?,"
            " workload = coalesce(?, workload) WHERE id = ?",
            (later.late, later.named, later.event_key, not later.closed, later.workload, later.id),
        )
        if later.release is not None:
            self._address(later.id, later.release)
        expired: Counter[CounterKey] = Counter()
        for sink in later.expired:
            gone = self._db.execute("DELETE FROM outbox WHERE sink = ? AND id = ?", (sink, later.id)).rowcount
            expired[DELIVERIES, f"{sink} {EXPIRED}"] += gone
        return +expired

    def _address(self, incident_id: str, sinks: tuple[str, ...]) -> None:
        """Each sink once: a better document of the same kill may concern more of them, and is not sent again."""
        row = self._db.execute("SELECT sinks FROM incidents WHERE id = ?", (incident_id,)).fetchone()
        if row is None:
            return
        former = tuple(filter(None, row[0].split(",")))
        new = [sink for sink in sinks if sink not in former]
        self._db.execute(
            "UPDATE incidents SET released = 1, sinks = ? WHERE id = ?", (",".join((*former, *new)), incident_id)
        )
        self._db.executemany("INSERT OR IGNORE INTO outbox VALUES (?, ?)", [(sink, incident_id) for sink in new])

    def count_evictions(self, batch: Batch) -> Counter[CounterKey]:
        new: Counter[CounterKey] = Counter()
        for pod_uid, resource in batch.evictions:
            row = (pod_uid, batch.at.timestamp())
            new[EVICTIONS, resource] += self._db.execute("INSERT OR IGNORE INTO evictions VALUES (?, ?)", row).rowcount
        return +new

    def forget_sent(self, other: FollowUps) -> None:
        """Take out of another's outbox what has left this one; what was old to this one never was in it."""
        kept = set(self._db.execute("SELECT sink, id FROM outbox"))
        known = {row[0] for row in self._db.execute("SELECT id FROM incidents WHERE counted_processes IS NOT NULL")}
        sent = [row for row in other._db.execute("SELECT sink, id FROM outbox") if row[1] in known and row not in kept]
        other._db.executemany("DELETE FROM outbox WHERE sink = ? AND id = ?", sent)

    def pending(self) -> list[str]:
        """Ids of settled incidents that names or fate may still come for, oldest first."""
        return [
            row[0]
            for row in self._db.execute("SELECT id FROM incidents WHERE pending = 1 AND settled = 1 ORDER BY seq")
        ]

    def case(self, incident_id: str) -> Case | None:
        """None: nothing more will come of it, or it is not settled yet."""
        row = self._db.execute(
            f"SELECT id, {_SLIM}, late, released, killed_at FROM incidents JOIN documents USING (id)"
            " WHERE id = ? AND pending = 1 AND settled = 1",
            (incident_id,),
        ).fetchone()
        return None if row is None else Case(*row)

    def unprinted(self, limit: int) -> list[tuple[str, str, str | None]]:
        """Id, document and late of incidents that may be told and that stdout has not, oldest first."""
        return self._db.execute(
            "SELECT id, document, late FROM incidents JOIN documents USING (id)"
            " WHERE printed = 0 AND settled = 1 AND released = 1 ORDER BY seq LIMIT ?",
            (limit,),
        ).fetchall()

    def mail(self, sink: str, limit: int, *, by_event: bool, named: bool) -> list[Mail]:
        """
        What a sink is to be told, oldest first, at most `limit` keys; documents without their longest list.

        by_event: kills of one event key go out as one. named: only of pods whose names are known.
        """
        waiting: dict[str, list[str]] = {}
        for incident_id, key in self._db.execute(
            "SELECT id, event_key FROM outbox JOIN incidents USING (id) WHERE sink = ? AND named >= ? ORDER BY seq",
            (sink, named),
        ):
            waiting.setdefault(key if by_event and key else incident_id, []).append(incident_id)
        return [self._mail(key, ids) for key, ids in islice(waiting.items(), limit)]

    def _mail(self, key: str, ids: list[str]) -> Mail:
        document, late, killed_at = self._db.execute(
            f"SELECT {_SLIM}, late, killed_at FROM incidents LEFT JOIN documents USING (id) WHERE id = ?", (ids[-1],)
        ).fetchone()
        total, first, last = 1, killed_at, killed_at
        if key != ids[-1]:
            total, first, last = self._db.execute(
                "SELECT count(*), min(killed_at), max(killed_at) FROM incidents"
                " WHERE event_key = ? AND counted_processes IS NOT NULL",
                (key,),
            ).fetchone()
        return Mail(tuple(ids), key, document or "", late, total, first, last)

    def whole(self, incident_id: str) -> tuple[str, str | None] | None:
        """Document and late."""
        row = self._db.execute(
            "SELECT document, late FROM incidents JOIN documents USING (id) WHERE id = ?", (incident_id,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def abandoned(self, sinks: tuple[str, ...], before: float) -> list[tuple[str, str]]:
        """Sink and id of what is addressed to others than these sinks, of kills before that time."""
        marks = ", ".join("?" * len(sinks))
        return self._db.execute(
            f"SELECT sink, id FROM outbox JOIN incidents USING (id) WHERE killed_at < ? AND sink NOT IN ({marks})",
            (before, *sinks),
        ).fetchall()
