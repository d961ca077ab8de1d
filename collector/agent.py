"""The agent: builds source, pipeline, store and sinks, runs them in one TaskGroup, and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from collector import __version__, journal
from collector.document import to_document
from collector.errors import ConfigError
from collector.journal import Batch, Entry, Position, Retention
from collector.pipeline import Pipeline
from collector.sinks.http import Server
from collector.sinks.json_log import JsonLog, to_line
from collector.sinks.metrics import DELIVERED, FAILED, STDOUT, Metrics
from collector.sources.base import Cursor
from collector.sources.kernel_log import follow, kernel_logs
from collector.store import Store
from collector.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from collector.config import Config
    from collector.errors import ParseError
    from collector.model import Incident, KernelRecord
    from collector.sources.kernel_log import SourceState

# A report settles 2 s after its last record: this is how late that may be noticed.
TICK_SECONDS = 0.1
# A cursor is only written this often: what is read twice counts once.
CURSOR_SECONDS = 1.0
STATE_RETRY_SECONDS = 60.0
DRAIN_SECONDS = 2.0
LOST_SAID_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Intake:
    """
    Takes kernel records, and commits what they tell: journal, counters and cursor first, then metrics, then stdout.

    Fulfils sources.base.RecordSink.
    """

    def __init__(self, pipeline: Pipeline, store: Store, metrics: Metrics, *, stdout: int) -> None:
        self._pipeline = pipeline
        self._store = store
        self._metrics = metrics
        self._json_log = JsonLog(stdout, on_written=self._written)
        self._loop = asyncio.get_running_loop()
        self._incidents: list[Incident] = []
        self._added: dict[journal.CounterKey, int] = {}
        self._arrival: tuple[float, datetime] | None = None
        self._in_backlog = False
        self._caught_up_at: datetime | None = None
        self._read_all = False
        self._forged = 0
        self._lost = 0
        self._lost_said = float("-inf")
        self._source: str | None = None
        self._position: Position | None = None
        self._position_due = 0.0
        self._in_flight: set[str] = set()
        self._printed: list[str] = []
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
        _log.log(logging.DEBUG if self._count(journal.MALFORMED) else logging.WARNING, "%s", error)

    def caught_up(self) -> None:
        self._in_backlog = False
        if self._caught_up_at is None:
            self._commit()
            self._caught_up_at = datetime.now(UTC)
            # At once: from here on, what is found in the log after a restart is no longer old.
            self._commit()

    def end_of_batch(self, cursor: Cursor | None) -> None:
        self._arrival = None
        if cursor is not None:
            self._source = cursor.source
        # An open report began before this cursor; after a crash its records have to be read again.
        if cursor is not None and not self._pipeline.busy:
            self._position = Position(source=cursor.source, boot_id=cursor.boot_id, position=cursor.position)
        self._commit()
        self._keep_ticking()

    def source_is(self, name: str | None) -> None:
        self._source = name or self._source

    def start(self) -> None:
        """Print what a former process counted and could not print."""
        self._watch_state()
        self._print()

    async def stop(self) -> None:
        """
        A report that is still open is left for the next start, which reads it again, whole. Without a state on disk
        there is nothing to go on from: then what is known is told now.
        """
        if not self._store.persistent:
            self._incidents += self._pipeline.flush(None)
        self._position_due = 0.0
        self._commit()
        await self._json_log.drain(DRAIN_SECONDS)
        self._json_log.close()
        self._note_printed()
        for timer in (self._ticker, self._retrier):
            if timer is not None:
                timer.cancel()

    # Reports settle by time

    def _keep_ticking(self) -> None:
        if self._ticker is None and self._pipeline.busy:
            self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        # The loop calls readers before timers: what was waiting in the log is in the pipeline by now.
        self._ticker = None
        # Old records come with the times they were printed at: by today's clock, a report that a batch cut in two is
        # long settled, and its second half would be another incident.
        if not self._in_backlog:
            self._incidents += self._pipeline.flush(time.monotonic())
        self._commit()
        self._keep_ticking()

    # Commit

    def _commit(self) -> None:
        self._count(journal.FORGED, by=self._pipeline.forged - self._forged)
        self._forged = self._pipeline.forged
        if self._lost and self._source is not None:
            self._count(journal.LOST, self._source, by=self._lost)
            self._say_lost(self._source, self._lost)
            self._lost = 0
        read_all = self._caught_up_at is not None and not self._read_all and not self._pipeline.busy
        position_due = self._position is not None and time.monotonic() >= self._position_due
        if not (self._incidents or self._added or read_all or position_due):
            return
        now = datetime.now(UTC)
        entries = [self._entry(incident, now) for incident in self._incidents]
        applied = self._store.apply(
            Batch(at=now, entries=entries, added=self._added, position=self._position, read_all=read_all)
        )
        self._incidents, self._added, self._position = [], {}, None
        self._position_due = time.monotonic() + CURSOR_SECONDS
        self._read_all = self._read_all or read_all
        self._metrics.hold(applied.late)
        self._observe(entries, set(applied.counted))
        self._watch_state()
        if read_all or any(entry.incident.settled for entry in entries):
            self._print()

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

    def _entry(self, incident: Incident, now: datetime) -> Entry:
        killed_at = incident.time
        live = self._caught_up_at is not None and killed_at is not None and killed_at >= self._caught_up_at
        return Entry(
            incident=incident,
            document=to_line(to_document(incident)),
            counts=live or self._store.read_all or self._is_since_first_start(killed_at, now),
            live=live,
        )

    def _is_since_first_start(self, killed_at: datetime | None, now: datetime) -> bool:
        """What the log already held when the agent first came to this node is journalled, and not counted."""
        return killed_at is not None and self._store.first_start <= killed_at <= now

    def _observe(self, entries: list[Entry], counted: set[str]) -> None:
        now = datetime.now(UTC)
        for entry in entries:
            killed_at = entry.incident.time
            if entry.live and killed_at is not None and entry.incident.id in counted:
                counted.remove(entry.incident.id)
                self._metrics.observe_kill(max(0.0, (now - killed_at).total_seconds()))

    # State on disk or in memory

    def _watch_state(self) -> None:
        self._metrics.state_persistent = self._store.persistent
        if not self._store.persistent and self._retrier is None:
            self._retrier = self._loop.call_later(STATE_RETRY_SECONDS, self._retry_state)

    def _retry_state(self) -> None:
        self._retrier = None
        self._store.retry(datetime.now(UTC))
        self._watch_state()

    # stdout

    def _print(self) -> None:
        if self._json_log.failed or self._in_flight:
            return
        lines = self._store.unprinted()
        self._in_flight.update(incident_id for incident_id, _ in lines)
        for incident_id, line in lines:
            self._json_log.write(incident_id, line)

    def _written(self, incident_id: str, delivered: bool) -> None:
        self._in_flight.discard(incident_id)
        self._count(journal.DELIVERIES, f"{STDOUT} {DELIVERED if delivered else FAILED}")
        if delivered:
            self._printed.append(incident_id)
        if not self._in_flight:
            self._note_printed()
            self._loop.call_soon(self._print)

    def _note_printed(self) -> None:
        if self._printed or self._added:
            self._store.apply(Batch(at=datetime.now(UTC), added=self._added, printed=self._printed))
            self._printed, self._added = [], {}


class Watch:
    """Which kernel log is read: says so in the log, in the gauge and in /readyz."""

    def __init__(self, metrics: Metrics, intake: Intake) -> None:
        self._metrics = metrics
        self._intake = intake
        self._last: SourceState | None = None

    def not_ready(self) -> str | None:
        state = self._last
        if state is None:
            return "the kernel log is not read to its end yet"
        if state.up:
            return None
        if state.source is not None:
            return f"kernel log {state.source} died: {state.reason}"
        return "no kernel log can be read: " + "; ".join(f"{name}: {reason}" for name, reason in state.refused)

    def changed(self, state: SourceState) -> None:
        last, self._last = self._last, state
        self._intake.source_is(state.source)
        if state == last:
            return
        for name, reason in state.refused:
            if last is None or (name, reason) not in last.refused:
                _log.warning("kernel log %s: not usable: %s", name, reason)
        if state.source is None:
            self._metrics.source_up = {name: False for name, _ in state.refused}
            _log.error("no kernel log can be read: OOM kills are not seen; `oom-collector check` tells what to do")
            return
        self._metrics.source_up = {state.source: state.up}
        if state.up:
            _log.info("kernel log %s: read to its end, waiting for kills", state.source)
        else:
            _log.error("kernel log %s: died, is opened again: %s", state.source, state.reason)


async def run_agent(config: Config, *, stdout: int) -> None:
    """
    Run until SIGTERM or SIGINT.

    Raises ConfigError when a setting cannot be used on this machine.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    boot_id = _read_boot_id(config.proc_root)
    logs = kernel_logs(config.kernel_log, boot_id=boot_id, kmsg_path=config.kmsg_path)
    now = datetime.now(UTC)
    retention = Retention(count=config.retention_count, age=config.retention_days)
    store = Store(config.state_dir, boot_id=boot_id, retention=retention, at=now)
    metrics = Metrics(
        version=__version__,
        sources=tuple(log.name for log in logs),
        counters=lambda: store.counters,
        hold_seconds=config.metrics_hold,
        now=time.monotonic,
    )
    metrics.add_process_metrics()
    # printk's clock stands still in suspend, as CLOCK_MONOTONIC does.
    boot_time = now - timedelta(seconds=time.clock_gettime(time.CLOCK_MONOTONIC))
    pipeline = Pipeline(node=config.node_name, boot_id=boot_id, boot_time=boot_time)
    intake = Intake(pipeline, store, metrics, stdout=stdout)
    watch = Watch(metrics, intake)
    server = Server(metrics, version=__version__, not_ready=watch.not_ready)
    try:
        host, port = await server.start(*config.listen)
        _announce(config, store, host, port)
        intake.start()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(
                follow(logs, intake, watch.changed, cursor=_cursor(store)), name=f"kernel log {config.kernel_log}"
            )
            # What was imported stays: full collections need not look at it again.
            gc.freeze()
            await stop.wait()
            _log.info("stopping")
            reading.cancel()
        await intake.stop()
        await server.stop()
    finally:
        store.close()


def _announce(config: Config, store: Store, host: str, port: int) -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    _log.info("oom-collector %s: metrics at http://%s:%d/metrics", __version__, shown, port)
    if store.persistent:
        _log.info("state in %s", config.state_dir)
    if config.node_name is None:
        _log.info("node name not known: documents have none; --node-name or NODE_NAME sets it")


def _cursor(store: Store) -> Cursor | None:
    position = store.position()
    if position is None:
        return None
    return Cursor(source=position.source, boot_id=position.boot_id, position=position.position)


def _read_boot_id(proc_root: Path) -> str:
    path = proc_root / "sys/kernel/random/boot_id"
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"--proc-root (OOM_COLLECTOR_PROC_ROOT): {path}: {error.strerror}") from error


class LogFormatter(logging.Formatter):
    """`time=... level=... logger=... msg="..."`: one line, nothing in it that a terminal acts on."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'time={stamp} level={record.levelname.lower()} logger={record.name} msg="{printable(quoted)}"'


def configure_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level == "DEBUG":
        # The event loop's own debugging is not ours.
        logging.getLogger("asyncio").setLevel(logging.INFO)
