"""What follows a journalled kill: names are waited for, stdout and the remote sinks are told, the fate is added."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from collector import batch
from collector.batch import Batch, Later
from collector.late import Late, complete, from_json, to_json
from collector.model import ContainerId, Fate, Names, NamesFrom, PodUid
from collector.pods.fate import Judged, Kill
from collector.sinks.json_log import JsonLog
from collector.sinks.kube_event import event_key
from collector.sinks.metrics import DELIVERED, FAILED, STDOUT
from collector.text import to_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from collector.store import Store

# Counted from when a kill is settled, or from the start of this process: so long it waits for names before it is told,
NAMES_SECONDS = 10.0
# and so long for a fate. It settles up to 5 s after the kill.
FATE_SECONDS = 55.0
TICK_SECONDS = 0.25
SLOW_TICK_SECONDS = 2.0
DRAIN_SECONDS = 2.0
# Beyond so many that wait, the oldest are told as they are, and nothing more comes of them.
MAX_CASES = 1000

_log = logging.getLogger(__name__)


class Registry(Protocol):
    """Who knows names and fates: cluster.py."""

    @property
    def has_api(self) -> bool:
        """Whether the API is asked, so that better names than now may come."""

    def names(self, pod_uid: PodUid | None, container_id: ContainerId | None) -> Names | None: ...
    def fate(self, kill: Kill) -> Judged | None:
        """None: not known yet."""


@dataclass(slots=True)
class _Case:
    """`kill` None: of no pod. `since`, `until`: seconds of the steady clock; then no names are looked for any more."""

    id: str
    kill: Kill | None
    killed_at: datetime
    since: float
    until: float
    late: Late
    released: bool


class Announcer:
    """
    A kill is counted before it comes here, and nothing that happens here changes a counter of kills.

    outlets: the remote sinks that a document concerns. on_released: they may have something to do.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        stdout: int,
        outlets: Callable[[dict[str, Any]], tuple[str, ...]],
        on_released: Callable[[], None],
        max_age: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._outlets = outlets
        self._on_released = on_released
        self._max_age = max_age
        self._json_log = JsonLog(stdout, on_written=self._written)
        self._loop = asyncio.get_running_loop()
        self._cases: dict[str, _Case] = {}
        self._in_flight: set[str] = set()
        self._printed: list[str] = []
        self._outcomes: dict[batch.CounterKey, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._noting: asyncio.TimerHandle | None = None

    def look(self, settled: Iterable[str] | None = None) -> None:
        """Take up what the journal has settled now; None: all that it has."""
        taken = []
        for incident_id in self._store.pending() if settled is None else settled:
            self._cases.pop(incident_id, None)  # it may have a new document
            if (case := self._open(incident_id)) is not None:
                self._cases[incident_id] = case
                taken.append(case)
        excess = len(self._cases) - MAX_CASES
        self._go_on(taken)
        if excess > 0:
            self._go_on(list(self._cases.values())[:excess], at_once=True)
        self._print()

    def poke(self) -> None:
        """Names or states of pods have changed."""
        if self._cases and self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    async def stop(self) -> None:
        """What still waits for names is left to the next start, if that can know of it."""
        if not self._store.persistent:
            self._go_on(list(self._cases.values()), at_once=True)
        await self._json_log.drain(DRAIN_SECONDS)
        self._json_log.close()
        self._note_printed()
        if self._timer is not None:
            self._timer.cancel()

    # Cases

    def _open(self, incident_id: str) -> _Case | None:
        found = self._store.case(incident_id)
        if found is None:
            return None
        now, killed_at = time.monotonic(), datetime.fromtimestamp(found.killed_at, UTC)
        kill, late = None, Late()
        try:
            kill, late = _kill(json.loads(found.document), killed_at), from_json(found.late)
        except (KeyError, TypeError, ValueError) as error:
            _log.error("journal: incident %s is damaged, it gets no names: %r", incident_id, error)
        return _Case(
            id=incident_id,
            kill=kill,
            killed_at=killed_at,
            since=now,
            until=now + self._max_age - (datetime.now(UTC) - killed_at).total_seconds(),
            late=late,
            released=bool(found.released),
        )

    def _tick(self) -> None:
        self._timer = None
        self._go_on(list(self._cases.values()))

    def _go_on(self, cases: Iterable[_Case], *, at_once: bool = False) -> None:
        now = time.monotonic()
        later = [changed for case in cases if (changed := self._advance(case, now, at_once=at_once)) is not None]
        if later:
            self._store.apply(Batch(at=datetime.now(UTC), later=later))
            for change in later:
                if change.closed:
                    del self._cases[change.id]
            self._on_released()
            self._print()
        if self._cases and self._timer is None:
            waits = any(not case.released for case in self._cases.values())
            self._timer = self._loop.call_later(TICK_SECONDS if waits else SLOW_TICK_SECONDS, self._tick)

    def _advance(self, case: _Case, now: float, *, at_once: bool) -> Later | None:
        """None: nothing new."""
        late, kill, age = case.late, case.kill, now - case.since
        final = True
        if kill is not None:
            late = self._with_names(late, kill)
            if late.fate is None:
                late = self._with_fate(late, kill, age)
            named = late.names is not None and (late.names.source is NamesFrom.API or not self._registry.has_api)
            final = late.fate is not None and (named or now >= case.until)
        release = not case.released and (at_once or self._may_be_told(kill, late, age))
        closed = (case.released or release) and (final or at_once)
        if late == case.late and not release and not closed:
            return None
        renamed = late.names != case.late.names
        case.late, case.released = late, case.released or release
        key, sinks = self._address(case) if release or renamed else (None, ())
        return Later(
            id=case.id,
            late=to_json(late),
            named=late.names is not None,
            event_key=key,
            release=sinks if release else None,
            closed=closed,
        )

    def _may_be_told(self, kill: Kill | None, late: Late, age: float) -> bool:
        if kill is None or age >= NAMES_SECONDS or not self._registry.has_api:
            return True
        names = late.names
        if names is None or names.source is not NamesFrom.API:
            return False
        return names.container is not None or kill.container_id is None

    def _with_names(self, late: Late, kill: Kill) -> Late:
        names = self._registry.names(kill.pod_uid, kill.container_id)
        if names is None or (late.names is not None and _rank(names) <= _rank(late.names)):
            return late
        return replace(late, names=names)

    def _with_fate(self, late: Late, kill: Kill, age: float) -> Late:
        judged = self._registry.fate(kill._replace(container_name=late.names.container if late.names else None))
        if judged is None:
            return replace(late, fate=Fate.UNKNOWN) if age >= FATE_SECONDS else late
        return replace(
            late,
            fate=judged.fate,
            restart_count=judged.restart_count,
            contradiction=judged.contradiction,
            confirmed=judged.confirmed,
        )

    def _address(self, case: _Case) -> tuple[str | None, tuple[str, ...]]:
        """Event key and remote sinks; of a damaged incident there are none."""
        found = self._store.case(case.id)
        if found is None:
            return None, ()
        try:
            document = complete(json.loads(found.document), case.late)
            return event_key(document, case.killed_at), self._outlets(document)
        except (KeyError, TypeError, ValueError):  # said in _open()
            return None, ()

    # stdout

    def _print(self) -> None:
        if self._json_log.failed or self._in_flight:
            return
        unprinted = self._store.unprinted()
        self._in_flight.update(incident_id for incident_id, _, _ in unprinted)
        for incident_id, document, late in unprinted:
            self._json_log.write(incident_id, _line(document, late))

    def _written(self, incident_id: str, delivered: bool) -> None:
        self._in_flight.discard(incident_id)
        key = batch.DELIVERIES, f"{STDOUT} {DELIVERED if delivered else FAILED}"
        self._outcomes[key] = self._outcomes.get(key, 0) + 1
        if delivered:
            self._printed.append(incident_id)
        if not self._in_flight:
            self._note_printed()
            self._loop.call_soon(self._print)
        elif self._noting is None:
            self._noting = self._loop.call_later(TICK_SECONDS, self._note_printed)

    def _note_printed(self) -> None:
        if self._noting is not None:
            self._noting.cancel()
            self._noting = None
        if self._printed or self._outcomes:
            self._store.apply(Batch(at=datetime.now(UTC), added=self._outcomes, printed=self._printed))
            self._printed, self._outcomes = [], {}


def _kill(document: dict[str, Any], killed_at: datetime) -> Kill | None:
    pod, container = document["pod"], document["container"]
    if pod is None:
        return None
    return Kill(PodUid(pod["uid"]), container and container["id"], None, killed_at)


def _line(document: str, late: str | None) -> str:
    if late is None:
        return document
    try:
        return to_line(complete(json.loads(document), from_json(late), fate=False))
    except (KeyError, TypeError, ValueError):  # damaged, said in _open(): as it is
        return document


def _rank(names: Names) -> tuple[bool, bool]:
    """The API knows more than the log folders; and a container is more than its pod alone."""
    return names.source is NamesFrom.API, names.container is not None
