"""
What follows a journalled kill: names are waited for, it is diagnosed, stdout and the remote sinks are told, the fate is
added.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from collector.announce.outbox import NEED_NAMES
from collector.announce.printer import Printer
from collector.late import Late, complete, from_json, to_json, workload_of
from collector.model import Cause, ContainerId, Fate, Names, NamesFrom, PodUid
from collector.pods.fate import Judged, Kill
from collector.sinks.kube_event import event_key
from collector.state.batch import NOBODY, Batch, ContainerName, Later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from collector.state.store import Store

# Counted from when a kill is settled, or from the start of this process: so long it waits for names before it is told,
NAMES_SECONDS = 10.0
# and so long for a fate. It settles up to 5 s after the kill.
FATE_SECONDS = 55.0
TICK_SECONDS = 0.25
SLOW_TICK_SECONDS = 2.0
# For so long at a time others wait for the event loop.
SLICE_SECONDS = 0.005
# Beyond so many that wait, the oldest are told as they are, and nothing more comes of them.
MAX_CASES = 1000

# The limits of QoS classes and single NUMA nodes the kubelet does not look at.
_OF_THE_NODE = (Cause.NODE, Cause.NODE_ALLOCATABLE)
_DAMAGED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)

_log = logging.getLogger(__name__)


class Registry(Protocol):
    """Who knows names and fates: cluster.py."""

    @property
    def has_api(self) -> bool:
        """Whether the API is asked, so that better names than now may come."""

    @property
    def is_behind(self) -> bool:
        """Whether the API is asked, and does not answer now."""

    def names(self, pod_uid: PodUid | None, container_id: ContainerId | None) -> Names | None: ...
    def fate(self, kill: Kill) -> Judged | None:
        """None: not known yet."""


class Diagnosis(Protocol):
    """Why it came to a kill: diagnostician.py."""

    def is_ready(self, names: Names | None, node_pressure_at: float | None) -> bool:
        """
        False: what others know of the workload, or of the node, is being asked for.

        names: None: not known yet, or there are none. node_pressure_at: time of Unix of a kill that came of it.
        """

    def diagnose(self, document: dict[str, Any], late: Late, killed_at: float) -> dict[str, Any] | None: ...


@dataclass(slots=True)
class _Case:
    """
    `kill` None: of no pod. `in_container`: of a pod or a container. `asks_node`: the state of the node tells more of
    it. `since`, `until`: seconds of the steady clock; then no names are looked for any more. `changed`: it has another
    document than it was told with. `counted`: as a kill of its container.
    """

    id: str
    kill: Kill | None
    in_container: bool
    asks_node: bool
    killed_at: datetime
    since: float
    until: float
    late: Late
    released: bool
    named: bool
    changed: bool
    counted: bool = False


class Announcer:
    """
    A kill is counted before it comes here, and nothing that happens here changes a counter of the node's kills: only
    those of containers wait for names.

    outlets: the remote sinks that a document concerns. on_released: they may have something to do.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        diagnosis: Diagnosis,
        *,
        stdout: int,
        outlets: Callable[[dict[str, Any]], tuple[str, ...]],
        on_released: Callable[[], None],
        max_age: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._diagnosis = diagnosis
        self._outlets = outlets
        self._on_released = on_released
        self._max_age = max_age
        self._printer = Printer(store, stdout)
        self._loop = asyncio.get_running_loop()
        self._cases: dict[str, _Case] = {}
        self._due: dict[str, bool] = {}  # ids that are to be looked at; True: they have a new document
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.Handle | None = None

    def look(self, settled: Iterable[str] | None = None) -> None:
        """Take up what the journal has settled now; None: all that it has."""
        if settled is None:
            self._due |= {incident_id: False for incident_id in self._store.pending() if incident_id not in self._cases}
        else:
            self._due |= dict.fromkeys(settled, True)
        if self._rest is None:
            self._work()

    def poke(self) -> None:
        """Names or states of pods have changed."""
        self._arm(TICK_SECONDS)

    async def stop(self) -> None:
        """What still waits for names is left to the next start, if that can know of it."""
        if not self._store.persistent:
            now = time.monotonic()
            self._commit([self._advance(case, now, at_once=True) for case in list(self._cases.values())])
        await self._printer.stop()
        for handle in (self._timer, self._rest):
            if handle is not None:
                handle.cancel()

    # Cases

    def _tick(self) -> None:
        self._timer = None
        self._due = dict.fromkeys(self._cases, False) | self._due
        if self._rest is None:
            self._work()

    def _work(self) -> None:
        """A slice of what is due, and the rest when others had their turn."""
        self._rest = None
        try:
            self._commit(self._look_at_some(time.monotonic()))
            self._printer.print()
        finally:
            if self._due:
                self._rest = self._loop.call_soon(self._work)
            elif self._cases:
                waits = any(not case.released for case in self._cases.values())
                self._arm(TICK_SECONDS if waits else SLOW_TICK_SECONDS)

    def _arm(self, seconds: float) -> None:
        """Look at all cases in so many seconds, if not before."""
        if self._timer is not None and self._timer.when() <= self._loop.time() + seconds:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._tick)

    def _look_at_some(self, now: float) -> Iterator[Later | None]:
        while self._due and time.monotonic() < now + SLICE_SECONDS:
            incident_id = next(iter(self._due))
            case = self._take(incident_id, changed=self._due.pop(incident_id))
            if case is not None:
                yield self._advance(case, now)
            if len(self._cases) > MAX_CASES:
                yield self._advance(next(iter(self._cases.values())), now, at_once=True)

    def _take(self, incident_id: str, *, changed: bool) -> _Case | None:
        former = self._cases.get(incident_id)
        if former is not None and not changed:
            return former
        case = self._open(incident_id)
        if case is None:
            self._cases.pop(incident_id, None)
            return None
        case.changed = changed
        case.since = case.since if former is None else former.since
        self._cases[incident_id] = case
        return case

    def _open(self, incident_id: str) -> _Case | None:
        found = self._store.case(incident_id)
        if found is None:
            return None
        now, killed_at = time.monotonic(), datetime.now(UTC)
        kill, in_container, asks_node, late = None, False, False, Late()
        try:
            killed_at = datetime.fromtimestamp(found.killed_at, UTC)
            document = json.loads(found.document)
            in_container = document["pod"] is not None or document["container"] is not None
            asks_node = document["cause"] in _OF_THE_NODE
            kill, late = _kill(document, killed_at), from_json(found.late)
        except _DAMAGED as error:
            _log.error("journal: incident %s is damaged, it gets no names: %r", incident_id, error)
        age = max(0.0, (datetime.now(UTC) - killed_at).total_seconds())
        return _Case(
            id=incident_id,
            kill=kill,
            in_container=in_container,
            asks_node=asks_node,
            killed_at=killed_at,
            since=now,
            until=now + self._max_age - age,
            late=late,
            released=bool(found.released),
            named=False,
            changed=False,
        )

    def _commit(self, changes: Iterable[Later | None]) -> None:
        later = [change for change in changes if change is not None]
        if later:
            self._store.apply(Batch(at=datetime.now(UTC), later=later))
            self._on_released()

    def _advance(self, case: _Case, now: float, *, at_once: bool = False) -> Later | None:
        """None: nothing new. A case that is closed is forgotten."""
        late, kill, age = case.late, case.kill, now - case.since
        named, final = False, True
        if kill is not None:
            late = self._with_names(late, kill)
            if late.fate is None or late.fate is Fate.UNKNOWN:
                late = self._with_fate(late, kill, age)
            is_best = late.names is not None and (late.names.source is NamesFrom.API or not self._registry.has_api)
            final = now >= case.until or (is_best and late.fate not in (None, Fate.UNKNOWN))
            # Better names than the log folders' are worth waiting for, as long as nothing can be sent anyway.
            named = late.names is not None and (is_best or final or not self._registry.is_behind)
        release = not case.released and (at_once or self._may_be_told(case, late, age))
        told_again = case.released and case.changed
        if release or told_again or (case.released and late != case.late):
            late = self._with_diagnosis(case, late)
        closed = (case.released or release) and (final or at_once)
        if closed:
            self._cases.pop(case.id, None)
        container = self._whose(case, late, age, closed=closed)
        nothing_decided = container is None and not (release or told_again or closed)
        if late == case.late and named == case.named and nothing_decided:
            return None
        newly_named = named and not case.named
        case.late, case.named, case.released, case.changed = late, named, case.released or release, False
        case.counted = case.counted or container is not None
        key: str | None = None
        sinks: tuple[str, ...] = ()
        if release or told_again or newly_named:
            key, sinks = self._address(case, rename=release)
        return Later(
            id=case.id,
            late=to_json(late),
            named=named,
            event_key=key,
            release=sinks if release or told_again else None,
            closed=closed,
            expired=NEED_NAMES if closed and not named else (),
            container=container,
            workload=workload_of(late),
        )

    def _whose(self, case: _Case, late: Late, age: float, *, closed: bool) -> ContainerName | None:
        """
        The container that the kill is to be counted for. None: it is counted, it is no container's, or better names may
        come: those of the log folders are the API's, but a pod without its container's name is worth waiting for.
        """
        names, kill = late.names, case.kill
        whole = names is not None and kill is not None and (names.container is not None or kill.container_id is None)
        waited = age >= FATE_SECONDS and (names is not None or not self._registry.has_api)
        if case.counted or not case.in_container or not (whole or waited or closed):
            return None
        return NOBODY if names is None else ContainerName(names.namespace, names.pod, names.container or "")

    def _may_be_told(self, case: _Case, late: Late, age: float) -> bool:
        if age >= NAMES_SECONDS:
            return True
        has_names = case.kill is None or not self._registry.has_api or _is_whole(late.names, case.kill)
        # Of the node is asked meanwhile.
        return self._is_ready(case, late.names if has_names else None) and has_names

    def _is_ready(self, case: _Case, names: Names | None) -> bool:
        if names is None and not case.asks_node:
            return True
        try:
            return self._diagnosis.is_ready(names, case.killed_at.timestamp() if case.asks_node else None)
        except Exception:  # noqa: BLE001 - a kill is told whatever happens there
            _log.exception("incident %s: told without what others know of it", case.id)
            return True

    def _with_names(self, late: Late, kill: Kill) -> Late:
        names = self._registry.names(kill.pod_uid, kill.container_id)
        if names is None or (late.names is not None and _rank(names) <= _rank(late.names)):
            return late
        return replace(late, names=names)

    def _with_fate(self, late: Late, kill: Kill, age: float) -> Late:
        judged = self._registry.fate(kill._replace(container_name=late.names.container if late.names else None))
        if judged is None:
            # For the time being: an API that comes back after an outage may still tell.
            return replace(late, fate=Fate.UNKNOWN) if age >= FATE_SECONDS else late
        return replace(
            late,
            fate=judged.fate,
            restart_count=judged.restart_count,
            contradiction=judged.contradiction,
            confirmed=judged.confirmed,
        )

    def _with_diagnosis(self, case: _Case, late: Late) -> Late:
        found = self._store.whole(case.id)
        try:
            document = complete(json.loads(found[0]), late) if found else None
        except _DAMAGED:  # said in _open()
            return late
        if document is None:
            return late
        return replace(late, diagnosis=self._diagnosis.diagnose(document, late, case.killed_at.timestamp()))

    def _address(self, case: _Case, *, rename: bool) -> tuple[str | None, tuple[str, ...]]:
        """
        Event key and remote sinks; of a damaged incident there are none.

        An Event of the node does not wait for names: under a key that these change, its repeat would be another Event.
        """
        found = self._store.case(case.id)
        if found is None:
            return None, ()
        try:
            document = complete(json.loads(found.document), case.late)
            key = event_key(document, case.killed_at) if rename or not document["node_pressure"] else None
            return key, self._outlets(document)
        except _DAMAGED:  # said in _open()
            return None, ()


def _kill(document: dict[str, Any], killed_at: datetime) -> Kill | None:
    pod, container = document["pod"], document["container"]
    if pod is None:
        return None
    return Kill(PodUid(pod["uid"]), container and container["id"], None, killed_at)


def _is_whole(names: Names | None, kill: Kill) -> bool:
    if names is None or names.source is not NamesFrom.API:
        return False
    return names.container is not None or kill.container_id is None


def _rank(names: Names) -> tuple[bool, bool]:
    """The API knows more than the log folders; and a container is more than its pod alone."""
    return names.source is NamesFrom.API, names.container is not None
