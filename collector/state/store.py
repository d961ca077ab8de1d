"""
What survives a restart, on disk wherever that is possible: see journal.py for what is kept.

A disk that is full, read-only or not there degrades to memory, loudly. A damaged file, or one of a newer version, is
set aside.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from collector.errors import CollectorError
from collector.late import Document, complete, from_json
from collector.state.batch import (
    Applied,
    Batch,
    Case,
    CounterKey,
    KillCount,
    KillSeries,
    LastKill,
    Mail,
    Position,
    Retention,
    Shown,
)
from collector.state.journal import DOCUMENTS, Journal, UnusableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from collector.diagnosis.rollout import RevisionSeen
    from collector.ledger import Baseline
    from collector.model import MemcgPath
    from collector.reconcile import FromCounters, Told
    from collector.state.workloads import FormerKill

_T = TypeVar("_T")

FILE_NAME = "state.db"
LOCK_NAME = "lock"

_log = logging.getLogger(__name__)


class Store:
    """
    The journal on disk, or in memory for as long as the disk cannot be used. Nothing that a disk does raises.

    `problem` says why it is not on disk; retry() tries again.
    """

    def __init__(self, directory: Path, *, boot_id: str | None, retention: Retention, at: datetime) -> None:
        self._directory = directory
        self._boot_id = boot_id
        self._retention = retention
        self._lock: int | None = None
        self._since_pruned = 0
        self.problem: str | None = None
        try:
            self._journal = self._open(at)
        except (OSError, sqlite3.Error, UnusableError) as error:
            self._journal = self._in_memory(at)
            self._degraded(error)
        else:
            self._prune(at)

    @property
    def persistent(self) -> bool:
        return self.problem is None

    @property
    def counters(self) -> Mapping[CounterKey, int]:
        """As of the last commit."""
        return self._journal.counters

    @property
    def container_kills(self) -> Mapping[KillSeries, KillCount]:
        """As of the last commit."""
        return self._journal.container_kills

    @property
    def last_kills(self) -> Mapping[str, LastKill]:
        """By cause, as of the last commit."""
        return self._journal.last_kills

    @property
    def first_start(self) -> datetime:
        return self._journal.first_start

    @property
    def read_all(self) -> bool:
        return self._journal.read_all

    def position(self) -> Position | None:
        try:
            return self._journal.position()
        except sqlite3.Error as error:
            _log.warning("cursor unreadable, the log is read from its oldest record: %s", error)
            return None

    def unseen(self) -> Mapping[CounterKey, int]:
        """What of the counters former processes counted, in the last day or before a kill of it, and showed nobody."""
        return self._journal.unseen()

    def keep_shown(self, shown: Shown, at: datetime) -> None:
        """The next process goes on from what a scrape has told. Nothing is written for what was told before."""
        self._write(lambda journal: journal.keep_shown(shown), at)

    def apply(self, batch: Batch) -> Applied:
        applied = self._write(lambda journal: journal.apply(batch), batch.at)
        self._since_pruned += len(batch.entries)
        if self._since_pruned >= 64:
            self._prune(batch.at)
        return applied

    def told(self, incident_id: str) -> Told | None:
        return self._read(lambda: self._journal.told(incident_id), None)

    def baselines(self) -> dict[MemcgPath, Baseline] | None:
        """See Journal. The following are read once, at the start, from what has just been opened and checked."""
        return self._journal.baselines()

    def from_counters(self) -> list[FromCounters]:
        return self._journal.from_counters()

    def unplaced(self) -> list[tuple[str, int]]:
        return self._journal.unplaced()

    def histories(self) -> dict[MemcgPath, bytes]:
        return self._journal.histories()

    def userspace_cursor(self) -> str | None:
        return self._read(self._journal.userspace_cursor, None)

    def pending(self) -> list[str]:
        return self._read(self._journal.followups.pending, [])

    def case(self, incident_id: str) -> Case | None:
        return self._read(lambda: self._journal.followups.case(incident_id), None)

    def unprinted(self, limit: int = 8) -> list[tuple[str, str, str | None]]:
        return self._read(lambda: self._journal.followups.unprinted(limit), [])

    def mail(self, sink: str, limit: int, *, by_event: bool, named: bool) -> list[Mail]:
        return self._read(lambda: self._journal.followups.mail(sink, limit, by_event=by_event, named=named), [])

    def whole(self, incident_id: str) -> tuple[str, str | None] | None:
        return self._read(lambda: self._journal.followups.whole(incident_id), None)

    def abandoned(self, sinks: tuple[str, ...], before: datetime) -> list[tuple[str, str]]:
        return self._read(lambda: self._journal.followups.abandoned(sinks, before.timestamp()), [])

    def former_kills(self, workload: str, *, before: float, limit: int) -> list[FormerKill]:
        return self._read(lambda: self._journal.workloads.former_kills(workload, before, limit), [])

    def revisions(self, workload: str) -> list[RevisionSeen]:
        return self._read(lambda: self._journal.workloads.revisions(workload), [])

    def was_forecast(self, key: str) -> bool:
        return self._read(lambda: self._journal.workloads.was_forecast(key), False)

    def retry(self, at: datetime) -> bool:
        """Move from memory to the disk. The counters go on as they were shown: they never jump to an older state's."""
        try:
            journal = self._open(at)
        except (OSError, sqlite3.Error, UnusableError) as error:
            self.problem = _describe(error)
            return False
        try:
            self._journal.copy_to(journal, documents=True)
        except sqlite3.Error as error:
            journal.close()
            self.problem = _describe(error)
            return False
        self._journal.close()
        self._journal = journal
        self.problem = None
        _log.warning("state is on disk again: %s", self._directory)
        return True

    def close(self) -> None:
        self._journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, change: Callable[[Journal], _T], at: datetime) -> _T:
        try:
            return change(self._journal)
        except sqlite3.Error as error:
            if not self.persistent:
                raise
            self._degrade(error, at)
            return change(self._journal)

    def _read(self, query: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return query()
        except sqlite3.Error as error:
            _log.warning("journal unreadable: %s", error)
            return otherwise

    def _open(self, at: datetime) -> Journal:
        """Raises OSError or sqlite3.Error when the directory cannot be used."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        path = self._directory / FILE_NAME
        try:
            return self._connect(path, at)
        except UnusableError as error:
            aside = _set_aside(path, error.kind, at)
            _log.error("state file %s is unusable (%s): set aside as %s, starting anew", path, error, aside)
            return self._connect(path, at)

    def _take_lock(self) -> None:
        """Two agents on one directory would each count what the other has counted."""
        if self._lock is not None:
            return
        lock = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise OSError(error.errno, "another agent uses this state directory") from error
        except OSError:
            os.close(lock)
            raise
        self._lock = lock

    def _connect(self, path: Path, at: datetime) -> Journal:
        # What dmesg_restrict keeps from other users is not given to them here.
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, isolation_level=None, timeout=0.2)
        try:
            return Journal(connection, at=at, boot_id=self._boot_id)
        except BaseException:
            connection.close()
            raise

    def _in_memory(self, at: datetime) -> Journal:
        return Journal(sqlite3.connect(":memory:", isolation_level=None), at=at, boot_id=self._boot_id)

    def _degrade(self, error: sqlite3.Error, at: datetime) -> None:
        """A full disk can still be read: the ids of what was counted are taken along."""
        failed = self._journal
        self._journal = self._in_memory(at)
        try:
            failed.copy_to(self._journal, documents=False)
        except sqlite3.Error as unreadable:
            _log.warning("journal unreadable, only its counters are kept: %s", unreadable)
            self._journal.take_counters(failed)
        failed.close()
        self._degraded(error)

    def _degraded(self, error: Exception) -> None:
        self.problem = _describe(error)
        _log.error(
            "state directory %s cannot be used (%s): state is in memory, a restart forgets counters and journal",
            self._directory,
            self.problem,
        )

    def _prune(self, at: datetime) -> None:
        self._since_pruned = 0
        try:
            self._journal.prune(self._retention, at)
        except sqlite3.Error as error:
            _log.warning("old incidents could not be removed: %s", error)


def read_documents(directory: Path) -> Iterator[Document]:
    """
    The journal's documents as they are known now, newest first, beside an agent that may be running.

    Raises CollectorError when there is none, or it cannot be read.
    """
    path = (directory / FILE_NAME).absolute()
    if not path.exists():
        raise CollectorError(f"no journal in {directory}: has the agent run with this --state-dir?")
    try:
        # A database in WAL mode cannot be read without writing its -shm file, except when told that nobody writes.
        in_use = path.with_name(f"{FILE_NAME}-wal").exists() or os.access(directory, os.W_OK)
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro{'' if in_use else '&immutable=1'}", uri=True)
        for identity, document, late in connection.execute(DOCUMENTS):
            if (told := _read_document(identity, document, late)) is not None:
                yield told
        connection.close()
    except sqlite3.Error as error:
        raise CollectorError(f"{path}: {error}") from error


def _read_document(identity: str, document: str, late: str | None) -> Document | None:
    """Without what became known later, where another version knew it by other words; None: damaged."""
    try:
        told: Document = json.loads(document)
        return complete(told, from_json(late))
    except (KeyError, TypeError, ValueError) as error:
        _log.warning("journal: incident %s: %r", identity, error)
    try:
        return dict(json.loads(document))
    except (TypeError, ValueError):
        return None


def _set_aside(path: Path, kind: str, at: datetime) -> Path:
    aside = path.with_name(f"{path.name}.{kind}-{at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
