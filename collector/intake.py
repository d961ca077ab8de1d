"""The intake: what sources tell goes through pipeline and reconciler into the journal, and moves the metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from collector.document import to_document
from collector.model import AttributionMethod
from collector.reconcile import NO_CGROUP, Taken, Told, victim_path
from collector.sinks.metrics import Metrics
from collector.state import batch
from collector.state.batch import Batch, Entry, Position
from collector.text import to_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from collector.errors import ParseError
    from collector.ledger import Ledger
    from collector.model import Incident, KernelRecord, MemcgPath
    from collector.pipeline import Pipeline
    from collector.reconcile import Reconciler
    from collector.sources.base import Cursor
    from collector.state.store import Store

# A report settles 2 s after its last record: this is how late that may be noticed.
TICK_SECONDS = 0.1
# A cursor is only written this often: what is read twice counts once.
CURSOR_SECONDS = 1.0
OPEN_REPORT_SECONDS = 60.0
STATE_RETRY_SECONDS = 60.0
# A kill line without a cgroup is counted within 2 s. Until then others, and the counters, may tell whose it was not.
BARE_DELAY = 1.5
LOST_SAID_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Intake:
    """
    Takes kernel records, and commits what they tell: journal, counters and cursor together.

    on_settled: is given the ids of incidents that the journal now has in full; None: look for all. Fulfils
    sources.base.RecordSink.
    """

    def __init__(
        self, pipeline: Pipeline, store: Store, metrics: Metrics, *, on_settled: Callable[[list[str] | None], None]
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._metrics = metrics
        self._counters: tuple[Ledger, Reconciler] | None = None
        self._on_settled = on_settled
        self._loop = asyncio.get_running_loop()
        self._incidents: list[Incident] = []
        self._bare: list[tuple[float, Incident]] = []
        self._counted_off: list[str] = []
        self._added: dict[batch.CounterKey, int] = {}
        self._arrival: tuple[float, datetime] | None = None
        self._in_backlog = False
        self._caught_up_at: datetime | None = None
        self._blind = False
        self._read_all = False
        self._forged = 0
        self._lost = 0
        self._lost_said = float("-inf")
        self._source: str | None = None
        self._position: Position | None = None
        self._position_due = 0.0
        self._histories: dict[MemcgPath, bytes | None] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._retrier: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        return self._pipeline.busy

    def push(self, record: KernelRecord, *, live: bool) -> None:
        self._in_backlog = not live
        if live:
            arrival = self._arrival
            if arrival is None:
                arrival = self._arrival = (time.monotonic(), datetime.now(UTC))
            incidents = self._pipeline.push(record, at=arrival[0], time=arrival[1])
        else:
            usec = record.monotonic_usec
            # A file may come from a machine that has run for longer than this one.
            at = None if usec is None else min(usec / 1_000_000, time.monotonic())
            incidents = self._pipeline.push(record, at=at)
        if incidents:
            self._incidents += incidents

    def lost(self, count: int) -> None:
        self._lost += count

    def malformed(self, error: ParseError) -> None:
        _log.log(logging.DEBUG if self._count(batch.MALFORMED) else logging.WARNING, "%s", error)

    def caught_up(self) -> None:
        self._in_backlog = False
        if self._caught_up_at is None:
            self._commit()
            self._caught_up_at = datetime.now(UTC)
            # At once: from here on, what is found in the log after a restart is no longer old.
            self._commit()
        self._keep_ticking()

    def end_of_batch(self, cursor: Cursor | None) -> None:
        self._arrival = None
        if cursor is not None:
            self._source = cursor.source
            self._position = Position(source=cursor.source, boot_id=cursor.boot_id, position=cursor.position)
        self._commit()
        self._keep_ticking()

    def source_is(self, name: str | None) -> None:
        """`name` None: no kernel log can be read."""
        self._source = name or self._source
        self._blind = name is None
        if self._blind:
            # Nothing more comes of a backlog that broke off; what the counters know is told.
            self._in_backlog = False
            self._keep_ticking()

    def reconcile(self, ledger: Ledger, reconciler: Reconciler) -> None:
        """Compare lines with counters from now on. The ledger has read all counters once."""
        self._counters = ledger, reconciler
        self._commit(with_counters=True)
        self._keep_ticking()

    def counters_moved(self) -> None:
        self._keep_ticking()

    def count(self, name: str, by: int) -> None:
        """Counted with the next commit."""
        self._count(name, by=by)

    def keep(self, histories: dict[MemcgPath, bytes | None]) -> None:
        """Commit these, and what of the counters moved without a kill."""
        self._histories |= histories
        self._commit(with_counters=True)

    def start(self) -> None:
        """Hand on what a former process counted and nobody was told of."""
        self._watch_state()
        self._on_settled(None)

    def stop(self) -> None:
        """
        A report that is still open is left for the next start, which reads it again, whole. Without a state on disk
        there is nothing to go on from: then what is known is told now.
        """
        if not self._store.persistent:
            self._incidents += self._pipeline.flush(None)
        self._commit(with_counters=True)
        for timer in (self._ticker, self._retrier):
            if timer is not None:
                timer.cancel()

    # Reports settle by time

    def _keep_ticking(self) -> None:
        bare = self._bare and not self._in_backlog
        if self._ticker is None and (self._pipeline.busy or bare or self._is_short()):
            self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)

    def _is_short(self) -> bool:
        return self._counters is not None and self._counters[1].is_short

    def _tick(self) -> None:
        # The loop calls readers before timers: what was waiting in the log is in the pipeline by now.
        self._ticker = None
        # Old records come with the times they were printed at: by today's clock, a report that a batch cut in two is
        # long settled, and its second half would be another incident.
        try:
            if not self._in_backlog:
                self._incidents += self._pipeline.flush(time.monotonic())
            self._commit(missing=self._tell_missing())
        finally:
            self._keep_ticking()

    def _tell_missing(self) -> list[Taken]:
        """What only the counters know, once the log has been read to its end, or there is none."""
        now = time.monotonic()
        if self._counters is None or not (self._blind or (self._caught_up_at and not self._in_backlog)):
            return []
        _, reconciler = self._counters
        # A group's members may still be printed: for a long time, on a slow console.
        patience = OPEN_REPORT_SECONDS if self._pipeline.busy else 0.0
        if self._incidents or self._bare or not reconciler.is_waiting(now - patience):
            return []
        taken, counted_off = reconciler.tell_missing(now, datetime.now(UTC))
        self._counted_off += counted_off
        return taken

    # Commit

    def _commit(self, *, missing: Iterable[Taken] = (), with_counters: bool = False) -> None:
        self._count(batch.FORGED, by=self._pipeline.forged - self._forged)
        self._forged = self._pipeline.forged
        if self._lost and self._source is not None:
            self._count(batch.LOST, self._source, by=self._lost)
            self._say_lost(self._source, self._lost)
            self._lost = 0
        read_all = self._caught_up_at is not None and not self._read_all and not self._pipeline.busy
        position_due = self._position is not None and self._is_at_rest() and time.monotonic() >= self._position_due
        missing, now = list(missing), datetime.now(UTC)
        waiting = self._incidents or any(self._is_due(due) for due, _ in self._bare)
        if not (waiting or missing or self._added or read_all or position_due or with_counters):
            return
        entries = [*self._take_all(now), *(self._entry(taken, counts=True) for taken in missing)]
        position = self._position if self._is_at_rest() else None
        baselines, gone = (None, []) if self._counters is None else self._counters[0].take_changes()
        applied = self._store.apply(
            Batch(
                at=now,
                entries=entries,
                added=self._added,
                position=position,
                read_all=read_all,
                baselines=baselines,
                gone=gone,
                counted_off=self._counted_off,
                histories=self._histories,
            )
        )
        self._added, self._counted_off, self._histories = {}, [], {}
        self._position = None if position is not None else self._position
        self._position_due = time.monotonic() + CURSOR_SECONDS
        self._read_all = self._read_all or read_all
        self._metrics.hold(applied.late)
        self._observe(entries, set(applied.counted))
        self._watch_state()
        settled = [entry.incident.id for entry in entries if entry.incident.settled]
        if read_all or settled:
            self._on_settled(None if read_all else settled)

    def _is_at_rest(self) -> bool:
        """
        Whether nothing that was read waits for more: an open report, and bare lines, came before the cursor, and have
        to be read again after a crash.
        """
        return not self._pipeline.busy and not self._bare

    def _say_lost(self, source: str, count: int) -> None:
        """A flood overruns the ring many times a second: the counter has them all, the log says that it goes on."""
        now = time.monotonic()
        if now >= self._lost_said + LOST_SAID_SECONDS:
            self._lost_said = now
            _log.warning("kernel log %s: at least %d records were overwritten before they were read", source, count)

    def _count(self, name: str, label: str = "", *, by: int = 1) -> int:
        """What the counter was before, in this process's eyes: committed and not yet."""
        key = (name, label)
        before = self._added.get(key, 0)
        if by:
            self._added[key] = before + by
        return before + self._store.counters.get(key, 0)

    def _take_all(self, now: datetime) -> list[Entry]:
        """
        Lines without a cgroup come last: once all others are counted off, the counters may tell whose they are. In the
        backlog, that is at its end; else a moment later.
        """
        others = [known for known in self._incidents if victim_path(known) is not None]
        self._bare += [(self._due_at(known, now), known) for known in self._incidents if victim_path(known) is None]
        bare = [known for due, known in self._bare if self._is_due(due)]
        self._bare = [(due, known) for due, known in self._bare if not self._is_due(due)]
        self._incidents = []
        told: dict[str, Told] = {}
        entries = []
        for incident in (*others, *bare):
            counts = self._counts_now(incident, now)
            taken = self._take(incident, told.get(incident.id) or self._store.told(incident.id), counts, now)
            if taken is None:
                self._count(batch.FOREIGN, by=int(counts and incident.settled))
                continue
            told[incident.id] = Told(taken.incident.id, abs(taken.kills))
            entries.append(self._entry(taken, counts=counts))
        return entries

    def _due_at(self, bare: Incident, now: datetime) -> float:
        """Seconds of the steady clock: the wall's may be set back by an hour."""
        age = BARE_DELAY if bare.time is None else max(0.0, (now - bare.time).total_seconds())
        return time.monotonic() + max(0.0, BARE_DELAY - age)

    def _is_due(self, due_at: float) -> bool:
        return not self._in_backlog and time.monotonic() >= due_at

    def _take(self, incident: Incident, told: Told | None, counts: bool, now: datetime) -> Taken | None:
        if self._counters is None:
            nowhere = incident.attribution.method is AttributionMethod.NONE
            return Taken(incident, incident.report.kill_lines, unattributed=NO_CGROUP if nowhere else None)
        killed_at = None
        if incident.time is not None:
            killed_at = time.monotonic() - (now - incident.time).total_seconds()
        return self._counters[1].take(incident, told, counts=counts, killed_at=killed_at)

    def _entry(self, taken: Taken, *, counts: bool) -> Entry:
        incident = taken.incident
        return Entry(
            incident=incident,
            document=to_line(to_document(incident)),
            counts=counts,
            live=self._is_live(incident),
            kills=taken.kills,
            line_id=taken.line_id,
            from_counters=taken.from_counters,
            unattributed=taken.unattributed,
        )

    def _is_live(self, incident: Incident) -> bool:
        return self._caught_up_at is not None and incident.time is not None and incident.time >= self._caught_up_at

    def _counts_now(self, incident: Incident, now: datetime) -> bool:
        since_start = self._is_since_first_start(incident.time, now)
        return self._is_live(incident) or self._store.read_all or since_start

    def _is_since_first_start(self, killed_at: datetime | None, now: datetime) -> bool:
        """What the log already held when the agent first came to this node is journalled, and not counted."""
        return killed_at is not None and self._store.first_start <= killed_at <= now

    def _observe(self, entries: list[Entry], counted: set[str]) -> None:
        now = datetime.now(UTC)
        for entry in entries:
            killed_at = entry.incident.time
            of_line = entry.from_counters is None
            if of_line and entry.live and killed_at is not None and entry.incident.id in counted:
                counted.remove(entry.incident.id)
                self._metrics.observe_kill(max(0.0, (now - killed_at).total_seconds()))

    # State on disk or in memory

    def _watch_state(self) -> None:
        self._metrics.state_persistent = self._store.persistent
        if not self._store.persistent and self._retrier is None:
            self._retrier = self._loop.call_later(STATE_RETRY_SECONDS, self._retry_state)

    def _retry_state(self) -> None:
        self._retrier = None
        if self._store.retry(datetime.now(UTC)):
            self._on_settled(None)
        self._watch_state()
