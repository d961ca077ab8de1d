"""Which containers are about to reach their limits: the forecast pass, its figures for metrics, its Events."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from collector.pace import Pace
from collector.sinks.container_series import TrendNow
from collector.sinks.delivery import Letter
from collector.sinks.forecast_event import forecast_key
from collector.state import batch
from collector.state.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from collector.cluster import Cluster
    from collector.diagnosis.forecast import Trend
    from collector.model import ContainerId
    from collector.rollouts import Rollouts
    from collector.state.store import Store
    from collector.witnesses import Watched

PASS_SECONDS = 60.0
# Then the pass ends, and the next one goes on from there.
PASS_CPU_SECONDS = 0.04
# For so long at a time others wait for the event loop, and for one look more.
SLICE_SECONDS = 0.001
# So long each look has to see a trend before anybody is told.
STEADY_SECONDS = 300.0

# Of the statistics: a container that they stumble over must not end the agent.
_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_log = logging.getLogger(__name__)


class _Look(NamedTuple):
    """`at`, `grows_since`: by the clock of the histories. `grows_since`: since when each look has seen a trend."""

    container: Watched
    at: float
    trend: Trend | None
    grows_since: float | None

    def seconds_to_limit(self, now: float) -> float | None:
        if self.trend is None or self.trend.seconds_to_limit is None:
            return None
        return max(0.0, self.trend.seconds_to_limit - (now - self.at))


class Forecasts:
    """
    watched: all containers that run. horizon: who reaches the limit within so many seconds gets an Event; 0: nobody.

    Fulfils sinks.delivery.Outbox for these Events. They are made anew in each pass: what could not be sent says what is
    true now, and what is not true any more is not said. What an agent has not sent the next one sees by itself.
    """

    def __init__(
        self,
        watched: Callable[[], Iterable[Watched]],
        cluster: Cluster,
        store: Store,
        rollouts: Rollouts,
        *,
        node: str | None,
        horizon: float,
        on_containers: Callable[[], object] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_containers: there are some, so that there may be something to diagnose. clock: that of the histories."""
        self._watched = watched
        self._cluster = cluster
        self._store = store
        self._rollouts = rollouts
        self._node = node
        self._horizon = horizon
        self._now = now
        self._clock = clock
        self._looks: dict[ContainerId, _Look] = {}  # the oldest first
        self._letters: dict[str, Letter] = {}
        self._failed = False
        self._on_containers = on_containers

    def trends(self) -> Mapping[ContainerId, TrendNow]:
        """Of the containers that grow steadily."""
        now = self._clock()
        return {
            container: TrendNow(seen.trend.growth_bytes_per_second, seen.seconds_to_limit(now))
            for container, seen in self._looks.items()
            if seen.trend is not None
        }

    async def run(self, on_letters: Callable[[], None]) -> None:
        """Until cancelled. on_letters: there are Events to be sent."""
        if any(True for _ in self._watched()):
            self._on_containers()
        while True:
            await asyncio.sleep(PASS_SECONDS)
            await self.look()
            if self._letters:
                on_letters()

    async def look(self) -> None:
        """One pass: at those containers first that were not looked at for the longest time."""
        watched = {container.id: container for container in self._watched()}
        self._looks = {container: seen for container, seen in self._looks.items() if container in watched}
        if watched:
            self._on_containers()
        new = [container for container in watched if container not in self._looks]
        pace, spent = Pace(SLICE_SECONDS), 0.0
        for container in (*new, *self._looks):
            began = time.thread_time()
            self._look_at(watched[container])
            spent += time.thread_time() - began
            if spent >= PASS_CPU_SECONDS:
                break
            await pace.rest()
        try:
            await self._rollouts.note([(seen.container, seen.trend) for seen in self._looks.values()])
        except _FAILURES:
            self._say("revisions: what they show is not noted")
        self._write_letters()

    def _look_at(self, container: Watched) -> None:
        now = self._clock()
        former = self._looks.pop(container.id, None)
        since = now if former is None or former.grows_since is None else former.grows_since
        trend = self._trend(container, now)
        self._looks[container.id] = _Look(container, now, trend, None if trend is None else since)

    def _trend(self, container: Watched, now: float) -> Trend | None:
        from collector.diagnosis.forecast import look  # as late as the rest of a diagnosis: see agent.py

        try:
            return look(container.life, limit=container.limit_bytes, now=now)
        except _FAILURES:
            self._say(f"container {container.id}: no forecast")
            return None

    def _say(self, failure: str) -> None:
        if not self._failed:
            self._failed = True
            _log.exception("%s; said of the first such failure only", failure)

    # Events

    def _write_letters(self) -> None:
        letters = {letter.key: letter for seen in self._near_the_limit() if (letter := self._letter(seen)) is not None}
        for letter in letters.values():
            if letter.key not in self._letters:
                pod, container = letter.document["pod"], letter.document["container"]
                _log.info(
                    "container %s of pod %s/%s grows towards its limit",
                    *(container["name"], pod["namespace"], pod["name"]),
                )
        self._letters = letters

    def _near_the_limit(self) -> Iterator[_Look]:
        if not self._horizon:
            return
        for seen in self._looks.values():
            left = seen.seconds_to_limit(self._clock())
            steady = seen.grows_since is not None and seen.at - seen.grows_since >= STEADY_SECONDS
            if steady and left is not None and left <= self._horizon:
                yield seen

    def _letter(self, seen: _Look) -> Letter | None:
        """None: it was told today, or there is nobody to tell it to."""
        container, trend = seen.container, seen.trend
        found = self._cluster.find(None, container.id)
        if trend is None or found is None or found.container is None or found.deleted:
            return None
        now = self._now()
        key = forecast_key(found.pod.uid, found.container.name, now)
        if self._store.was_forecast(key):
            return None
        return Letter(
            ids=(key,),
            key=key,
            count=1,
            first_at=now,
            last_at=now,
            event_uid=found.pod.event_uid,
            document={
                "node": self._node,
                "pod": {"uid": found.pod.uid, "namespace": found.pod.namespace, "name": found.pod.name},
                "container": {"id": container.id, "name": found.container.name, "kind": str(found.container.kind)},
                "forecast": {
                    "working_set_bytes": container.working_set_bytes,
                    "limit_bytes": container.limit_bytes,
                    "growth_bytes_per_hour": round(trend.growth_bytes_per_second * 3600),
                    "observed_seconds": round(trend.observed_seconds),
                    "seconds_to_limit": round(seen.seconds_to_limit(self._clock()) or 0),
                },
            },
        )

    def letters(self, sink: str, limit: int) -> list[Letter]:  # noqa: ARG002 - there is one sink
        return list(self._letters.values())[:limit]

    def done(self, sink: str, ids: Sequence[str], outcome: str) -> None:
        for key in ids:
            self._letters.pop(key, None)
        added = {(batch.DELIVERIES, f"{sink} {outcome}"): len(ids)}
        self._store.apply(Batch(at=self._now(), added=added, forecasts=list(ids)))
