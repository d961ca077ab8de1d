"""
The journal of incidents, the counters, and where reading goes on: one SQLite database.

Exactly once rests on two things: an incident's id is the same whenever its records are read again, and the journal row,
the counters and the cursor of a batch change in one transaction. docs/decisions/0004-state-and-exactly-once.md.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from collector.errors import CollectorError
from collector.ledger import Baseline
from collector.reconcile import MAX_OPEN, FromCounters, Told
from collector.state.batch import (
    KILLS,
    PROCESSES,
    SERIES_DROPPED,
    UNATTRIBUTED,
    Applied,
    Batch,
    CounterKey,
    Entry,
    LastKill,
    Position,
    Retention,
    Shown,
)
from collector.state.container_kills import ContainerKills
from collector.state.followups import FollowUps
from collector.state.schema import SCHEMA_VERSION, VERSIONS
from collector.state.shown import NEWS, ShownCounters
from collector.state.workloads import Workloads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from collector.model import MemcgPath

_OF_ONE_BOOT = ("cgroups", "from_counters", "histories")
_BESIDE_INCIDENTS = ("aliases", "outbox", "evictions", "forecasts")

MAX_EVICTIONS = 10_000
DOCUMENTS = "SELECT id, document, late FROM incidents JOIN documents USING (id) ORDER BY seq DESC"
_COLUMNS = (
    *("id", "boot_id", "journalled_at", "killed_at", "cause", "counted_processes", "evidence", "kills", "settled"),
    *("printed", "released", "named", "pending", "late", "event_key", "sinks", "placed", "workload"),
)
_INSERT = f"INSERT INTO incidents ({', '.join(_COLUMNS)}) VALUES (:{', :'.join(_COLUMNS)})"
_UNTOLD = "SELECT id FROM incidents WHERE printed = 0 OR pending = 1 UNION SELECT id FROM outbox"

# Troubles of the disk or of our rights, which say nothing against the content of the file.
_NOT_THE_FILES_FAULT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


class UnusableError(CollectorError):
    """This file holds no state that this version can read."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Journal:
    """One SQLite database. Its methods raise sqlite3.Error and have then changed nothing."""

    def __init__(self, connection: sqlite3.Connection, *, at: datetime, boot_id: str | None) -> None:
        """Raises UnusableError, or sqlite3.Error where the disk or our rights are the cause."""
        self._db = connection
        self.followups = FollowUps(connection)
        self.workloads = Workloads(connection)
        self._containers = ContainerKills(connection)
        self._shown = ShownCounters(connection)
        self._boot_id = boot_id
        self._opened_at = at
        try:
            self._prepare(at)
            counters = self._db.execute("SELECT name, label, value FROM counters")
            self.counters: Counter[CounterKey] = Counter({(name, label): value for name, label, value in counters})
            recent = self._causes_since(at - NEWS)
            self._shown.read(recent)
            self.container_kills = self._containers.read(recent)
            self.last_kills = self._last_kills()
            meta = dict(self._db.execute("SELECT key, value FROM meta"))
            self.first_start = datetime.fromisoformat(meta["first_start"])
            self.read_all: bool = meta["read_all"] == "1"
            self._counters_boot = meta.get("counters_boot")
        except sqlite3.Error as error:
            if _primary_code(error) in _NOT_THE_FILES_FAULT:
                raise
            raise UnusableError("damaged", str(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            raise UnusableError("damaged", f"unexpected content: {error!r}") from error

    def _prepare(self, at: datetime) -> None:
        db = self._db
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise UnusableError("newer", f"has schema version {version}, this program knows {SCHEMA_VERSION}")
        damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise UnusableError("damaged", " ".join(damage.split()))
        db.execute("PRAGMA journal_mode = WAL")
        # NORMAL: a commit is a write without fsync. A killed process loses nothing, the kernel has its pages; losing
        # power may take the last commits, never consistency. FULL would let the event loop wait for a disk that
        # thrashes in an OOM.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -512")
        if version < SCHEMA_VERSION:
            with self._transaction():
                for statements in VERSIONS[version:]:
                    for statement in statements.split(";\n"):
                        db.execute(statement)
                if version == 0:
                    db.execute("INSERT INTO meta VALUES ('first_start', ?), ('read_all', '0')", (_iso(at),))
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk makes SQLite roll back by itself.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._db.close()

    def _causes_since(self, at: datetime) -> set[str]:
        rows = self._db.execute("SELECT DISTINCT cause FROM incidents WHERE journalled_at >= ?", (at.timestamp(),))
        return {cause for (cause,) in rows}

    def _last_kills(self) -> dict[str, LastKill]:
        rows = self._db.execute(
            # SQLite takes the bare column from the row that has the maximum.
            "SELECT cause, id, max(killed_at) FROM incidents WHERE counted_processes IS NOT NULL GROUP BY cause"
        )
        return {cause: LastKill(identity, at) for cause, identity, at in rows}

    def position(self) -> Position | None:
        row = self._db.execute("SELECT source, boot_id, position FROM cursor").fetchone()
        return None if row is None else Position(source=row[0], boot_id=row[1], position=row[2])

    def apply(self, batch: Batch) -> Applied:
        """
        Write a batch, whole or not at all.

        `read_all`: what the log held at the start was read, and no report is open. From now on a kill is news; and what
        a former process saw only the beginning of will not get any better.
        """
        moved = Counter(batch.added)
        late: Counter[CounterKey] = Counter()
        counted: list[str] = []
        with self._transaction():
            if batch.baselines is not None:
                self._begin_boot()
            for entry in batch.entries:
                deltas = self._take(entry, batch.at, counted)
                moved.update(deltas)
                if not entry.live:
                    late.update(deltas)
            moved.update(self.followups.count_evictions(batch))
            self._db.executemany("UPDATE incidents SET printed = 1 WHERE id = ?", [(known,) for known in batch.printed])
            if batch.position is not None:
                self._set_position(batch.position)
            if batch.baselines is not None:
                self._keep_counters(batch)
            self._keep_histories(batch.histories)
            for later in batch.later:
                moved.update(self.followups.keep(later))
            placed, dropped = self._containers.count(batch.later, self.container_kills, batch.at.timestamp())
            self._containers.end(batch.series_ended)
            self.workloads.keep(batch.revisions, batch.forecasts, batch.at.timestamp())
            if dropped:
                moved[SERIES_DROPPED, ""] += dropped
            self._db.executemany("DELETE FROM outbox WHERE sink = ? AND id = ?", batch.delivered)
            self._add(moved)
            if batch.userspace_cursor is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO meta VALUES ('userspace_cursor', ?)", (batch.userspace_cursor,)
                )
            if batch.read_all:
                self._db.execute("UPDATE meta SET value = '1' WHERE key = 'read_all'")
                self._db.execute(
                    "UPDATE incidents SET settled = 1 WHERE settled = 0 AND journalled_at < ?",
                    (self._opened_at.timestamp(),),
                )
        self.counters.update(moved)
        self.container_kills.update(placed)
        ended = [series for series in self.container_kills if series.container in batch.series_ended]
        for series in ended:
            del self.container_kills[series]
        self.read_all = self.read_all or batch.read_all
        if batch.baselines is not None:
            self._counters_boot = self._boot_id
        self._note_last(batch, counted)
        return Applied(counted=tuple(counted), late=late)

    def _take(self, entry: Entry, at: datetime, counted: list[str]) -> dict[CounterKey, int]:
        """What the counters gain."""
        incident = entry.incident
        if entry.line_id is not None:
            self._db.execute("INSERT OR IGNORE INTO aliases VALUES (?, ?)", (entry.line_id, incident.id))
            self._db.execute("DELETE FROM from_counters WHERE id = ?", (incident.id,))
        if entry.from_counters is not None:
            self._db.execute("INSERT OR IGNORE INTO from_counters VALUES (?, ?, ?, ?)", entry.from_counters)
        row = self._db.execute(
            "SELECT cause, counted_processes, evidence, settled FROM incidents WHERE id = ?", (incident.id,)
        ).fetchone()
        if row is None:
            self._insert(entry, at)
            if not entry.counts:
                return {}
            counted.append(incident.id)
            return _first_count(entry)
        cause, processes, evidence, settled = row
        # Read again, a report may have lost its head to the ring, and must not replace what was seen whole.
        if not settled or len(incident.verdict.evidence) > evidence:
            self._db.execute(
                "UPDATE incidents SET evidence = ?, settled = ?, pending = counted_processes IS NOT NULL,"
                " printed = counted_processes IS NULL WHERE id = ?",
                (len(incident.verdict.evidence), incident.settled or settled, incident.id),
            )
            self._db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (incident.id, entry.document))
        self._db.execute("UPDATE incidents SET kills = max(kills, ?) WHERE id = ?", (entry.kills, incident.id))
        if processes is None or incident.process_count <= processes:
            return {}
        self._db.execute(
            "UPDATE incidents SET counted_processes = ? WHERE id = ?", (incident.process_count, incident.id)
        )
        return {(PROCESSES, cause): incident.process_count - processes}

    def _insert(self, entry: Entry, at: datetime) -> None:
        incident = entry.incident
        row = {
            "id": incident.id,
            "boot_id": incident.boot_id,
            "journalled_at": at.timestamp(),
            "killed_at": (incident.time or at).timestamp(),
            "cause": str(incident.verdict.cause),
            "counted_processes": incident.process_count if entry.counts else None,
            "evidence": len(incident.verdict.evidence),
            "kills": entry.kills,
            "settled": incident.settled,
            "printed": not entry.counts,
            "released": not entry.counts,
            "named": False,
            "pending": entry.counts,
            "late": None,
            "event_key": None,
            "sinks": "",
            "placed": False,
            "workload": None,
        }
        self._db.execute(_INSERT, row)
        self._db.execute("INSERT INTO documents VALUES (?, ?)", (incident.id, entry.document))

    def _add(self, moved: Mapping[CounterKey, int]) -> None:
        self._db.executemany(
            "INSERT INTO counters (name, label, value) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [(*key, value) for key, value in moved.items()],
        )

    def _note_last(self, batch: Batch, counted: list[str]) -> None:
        for incident in (entry.incident for entry in batch.entries):
            last = LastKill(incident.id, (incident.time or batch.at).timestamp())
            former = self.last_kills.get(incident.verdict.cause)
            if incident.id in counted and (former is None or last.at >= former.at):
                self.last_kills[str(incident.verdict.cause)] = last

    # What scrapes have told

    def unseen(self) -> dict[CounterKey, int]:
        """Kills and killed processes that no scrape has told."""
        return self._shown.unseen(self.counters)

    def keep_shown(self, shown: Shown) -> None:
        counters = self._shown.news(shown.counters)
        kills = self._containers.news(shown.kills, self.container_kills)
        if not (counters or kills):
            return
        with self._transaction():
            self._shown.write(counters)
            self._containers.write(kills)
        self._shown.values = {**self._shown.values, **counters}
        self.container_kills.update(kills)

    def _set_position(self, position: Position) -> None:
        self._db.execute("DELETE FROM cursor")
        self._db.execute("INSERT INTO cursor VALUES (?, ?, ?)", (position.source, position.boot_id, position.position))

    # Counters of this boot's cgroups

    def told(self, incident_id: str) -> Told | None:
        """What is journalled under this id, or under the one that the counters had given before its line came."""
        row = self._db.execute(
            "SELECT id, kills FROM incidents WHERE id = coalesce((SELECT id FROM aliases WHERE line_id = ?), ?)",
            (incident_id, incident_id),
        ).fetchone()
        return None if row is None else Told(id=row[0], kills=abs(row[1]))

    def baselines(self) -> dict[MemcgPath, Baseline] | None:
        """None: no agent has read this node's counters yet. Those of another boot say that all begins at 0."""
        if self._counters_boot is None:
            return None
        return {row[0]: Baseline(*row) for row in self._of_this_boot("SELECT * FROM cgroups")}

    def from_counters(self) -> list[FromCounters]:
        return [FromCounters(*row) for row in self._of_this_boot("SELECT * FROM from_counters ORDER BY at")]

    def unplaced(self) -> list[tuple[str, int]]:
        """Ids of bare lines that do not yet stand for a kill which the counters have, and how many each stands for."""
        return self._of_this_boot("SELECT id, -kills FROM incidents WHERE kills < 0 AND boot_id = ?", self._boot_id)

    def histories(self) -> dict[MemcgPath, bytes]:
        return dict(self._of_this_boot("SELECT path, history FROM histories"))

    def _of_this_boot(self, query: str, *parameters: object) -> list[Any]:
        return self._db.execute(query, parameters).fetchall() if self._counters_boot == self._boot_id else []

    def _begin_boot(self) -> None:
        if self._counters_boot != self._boot_id:
            for table in _OF_ONE_BOOT:
                self._db.execute(f"DELETE FROM {table}")
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('counters_boot', ?)", (self._boot_id,))

    def _keep_counters(self, batch: Batch) -> None:
        db = self._db
        db.executemany("DELETE FROM cgroups WHERE path = ?", [(path,) for path in batch.gone])
        db.executemany("INSERT OR REPLACE INTO cgroups VALUES (?, ?, ?, ?, ?, ?)", batch.baselines or ())
        db.executemany(
            "UPDATE incidents SET kills = abs(kills) WHERE id = ?", [(known,) for known in batch.counted_off]
        )

    def _keep_histories(self, histories: Mapping[MemcgPath, bytes | None]) -> None:
        for path, history in histories.items():
            if history is None:
                self._db.execute("DELETE FROM histories WHERE path = ?", (path,))
            else:
                self._db.execute("INSERT OR REPLACE INTO histories VALUES (?, ?)", (path, history))

    def userspace_cursor(self) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'userspace_cursor'").fetchone()
        return None if row is None else row[0]

    def prune(self, retention: Retention, at: datetime) -> None:
        old = "(seq <= (SELECT max(seq) FROM incidents) - ? OR journalled_at < ?)"
        past = f"printed = 1 AND id NOT IN (SELECT id FROM outbox) AND {old}"
        limits = (retention.count, (at - retention.age).timestamp())
        with self._transaction():
            self._db.execute(f"DELETE FROM documents WHERE id IN (SELECT id FROM incidents WHERE {past})", limits)
            self._db.execute(f"DELETE FROM incidents WHERE {past} AND boot_id IS NOT ?", (*limits, self._boot_id))
            self._db.execute("DELETE FROM aliases WHERE id NOT IN (SELECT id FROM incidents)")
            self._db.execute(
                "DELETE FROM from_counters WHERE id NOT IN (SELECT id FROM from_counters ORDER BY at DESC LIMIT ?)",
                (MAX_OPEN,),
            )
            self._db.execute(
                "DELETE FROM evictions WHERE pod_uid NOT IN"
                " (SELECT pod_uid FROM evictions ORDER BY counted_at DESC LIMIT ?)",
                (MAX_EVICTIONS,),
            )

    def copy_to(self, other: Journal, *, documents: bool) -> None:
        """
        Hand over all that a successor has to know. The counters are set, not added.

        documents False: of incidents that were printed only the id is taken along.
        """
        rows = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM incidents ORDER BY seq").fetchall()
        taken = "" if documents else f"WHERE id IN ({_UNTOLD})"
        told = self._db.execute(
            f"SELECT id, document, counted_processes IS NULL FROM documents JOIN incidents USING (id) {taken}"
        )
        position = self.position()
        counters = {table: self._of_this_boot(f"SELECT * FROM {table}") for table in _OF_ONE_BOOT}
        others = {table: self._db.execute(f"SELECT * FROM {table}").fetchall() for table in _BESIDE_INCIDENTS}
        with other._transaction():
            # What was old to one that had no state to begin with, another may have counted: that one knows more.
            other._db.executemany(
                f"{_INSERT} ON CONFLICT (id) DO UPDATE SET counted_processes = excluded.counted_processes,"
                " evidence = max(evidence, excluded.evidence), settled = max(settled, excluded.settled),"
                " printed = max(printed, excluded.printed), kills = max(kills, excluded.kills),"
                " released = max(released, excluded.released), pending = excluded.pending,"
                " late = coalesce(excluded.late, late), named = max(named, excluded.named),"
                " event_key = coalesce(excluded.event_key, event_key), sinks = excluded.sinks,"
                " placed = max(placed, excluded.placed), workload = coalesce(excluded.workload, workload)"
                " WHERE excluded.counted_processes IS NOT NULL",
                [dict(zip(_COLUMNS, row, strict=True)) for row in rows],
            )
            for identity, document, was_old in told:
                either = "IGNORE" if was_old else "REPLACE"
                other._db.execute(f"INSERT OR {either} INTO documents VALUES (?, ?)", (identity, document))
            self.followups.forget_sent(other.followups)
            for table, kept in others.items():
                other._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", kept)
            other.workloads.keep(self.workloads.all_revisions(), (), self._opened_at.timestamp())
            if (cursor := self.userspace_cursor()) is not None:
                other._db.execute("INSERT OR REPLACE INTO meta VALUES ('userspace_cursor', ?)", (cursor,))
            if self._counters_boot == self._boot_id:
                other._begin_boot()
                for table, known in counters.items():
                    other._db.execute(f"DELETE FROM {table}")
                    for row in known:
                        other._db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
                other._counters_boot = self._boot_id
            if position is not None:
                other._set_position(position)
            other._set_counters(self)
        other._opened_at = self._opened_at

    def take_counters(self, former: Journal) -> None:
        """Go on from the counters of a journal that cannot be read any more."""
        with self._transaction():
            self._set_counters(former)
        self._opened_at = former._opened_at

    def _set_counters(self, former: Journal) -> None:
        self._db.execute("DELETE FROM counters")
        self._add(former.counters)
        self._shown.write(former._shown.values)
        self._containers.replace(former.container_kills)
        first_start = min(self.first_start, former.first_start)
        read_all = self.read_all or former.read_all
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'first_start'", (_iso(first_start),))
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'read_all'", (str(int(read_all)),))
        self.counters, self.first_start, self.read_all = Counter(former.counters), first_start, read_all
        self.container_kills = dict(former.container_kills)
        self._shown.values, self.last_kills = former._shown.values, dict(former.last_kills)


def _first_count(entry: Entry) -> dict[CounterKey, int]:
    cause = str(entry.incident.verdict.cause)
    deltas = {(KILLS, cause): 1, (PROCESSES, cause): entry.incident.process_count}
    if entry.unattributed is not None:
        deltas[UNATTRIBUTED, entry.unattributed] = 1
    return deltas


def _primary_code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return sqlite3.SQLITE_ERROR if code is None else int(code) & 0xFF


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")
