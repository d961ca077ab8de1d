"""Which revision of a workload grows: noted from the forecast pass, kept in the journal."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from collector.diagnosis.rollout import RevisionSeen, either, growths, seen_now
from collector.late import workload_of_pod
from collector.model import Owner
from collector.owner_details import OwnerDetails
from collector.pace import Pace
from collector.state.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from collector.cluster import Cluster
    from collector.diagnosis.forecast import Trend
    from collector.diagnosis.model import Growth
    from collector.model import Names
    from collector.pods.record import PodContainer, PodRecord
    from collector.state.store import Store
    from collector.witnesses import Watched

# Growth of hours is not written each minute.
NOTE_SECONDS = 600.0
SLICE_SECONDS = 0.002
MAX_NUMBERED = 4
"""Revisions of a workload that are asked for when it was killed: it is rolled back to one of the last."""


class Rollouts:
    """clock: that of the histories."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        details: OwnerDetails | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._details = details or OwnerDetails(None)
        self._now = now
        self._clock = clock
        self._note_at = float("-inf")

    async def note(self, containers: Iterable[tuple[Watched, Trend | None]]) -> None:
        """What they show now, with their trends as last seen; every ten minutes."""
        pods = self._cluster.known()
        if pods is None or self._clock() < self._note_at:
            return
        self._note_at = self._clock() + NOTE_SECONDS
        places = {container.id: (pod, container) for pod in pods for container in pod.containers}
        seen: dict[tuple[str, str], RevisionSeen] = {}
        pace = Pace(SLICE_SECONDS)
        for container, trend in containers:
            pod, spec = places.get(container.id, (None, None))
            if pod is not None and spec is not None and pod.revision is not None:
                one = self._seen(container, trend, pod, spec, pod.revision)
                key = one.workload, one.revision
                seen[key] = either(seen.get(key), one)
            await pace.rest()
        if seen:
            for one in seen.values():
                self._ask(one)
                await pace.rest()
            self._store.apply(Batch(at=self._now(), revisions=[self._with_details(one) for one in seen.values()]))

    def _seen(
        self, container: Watched, trend: Trend | None, pod: PodRecord, spec: PodContainer, revision: str
    ) -> RevisionSeen:
        now, life = self._now().timestamp(), container.life
        began = life.times(life.bins)[0]
        started_at = spec.running_since.timestamp() if spec.running_since else now - (self._clock() - began)
        return seen_now(
            workload_of_pod(pod.namespace, pod.owner, pod.name, spec.name),
            revision,
            _image(spec),
            started_at=started_at,
            now=now,
            observed_seconds=life.last_at - began,
            growth_bytes_per_hour=None if trend is None else trend.growth_bytes_per_second * 3600,
        )

    async def run(self) -> None:
        """Until cancelled: what owners know is asked for."""
        await self._details.run()

    def is_ready(self, names: Names) -> bool:
        """False: what the revisions of the workload are called, or whose a Job is, is being asked for."""
        owner = names.owner
        if not self._details.on or owner is None or names.container is None:
            return True
        workload = workload_of_pod(names.namespace, owner, names.pod, names.container)
        seen = sorted(self._store.revisions(workload), key=lambda one: one.first_at)[-MAX_NUMBERED:]
        revisions = {names.revision, *(one.revision for one in seen)}
        known = [self._details.is_known(names.namespace, owner, one, for_kill=True) for one in revisions]
        return all(known)

    def owner_of(self, namespace: str, owner: Owner) -> Owner:
        """The CronJob of a Job, where that is known."""
        above = self._details.of(namespace, owner, None).owner if owner.kind == "Job" else None
        return above if above is not None and above.kind == "CronJob" else owner

    def of(self, workload: str, kills: Iterable[str | None], elsewhere: Iterable[RevisionSeen]) -> tuple[Growth, ...]:
        """What its revisions have shown, here and elsewhere, the newest last. kills: of which revision each was."""
        seen = {one.revision: one for one in self._store.revisions(workload)}
        for one in elsewhere:
            seen[one.revision] = either(seen.get(one.revision), one)
        told = [self._with_details(one) for one in seen.values()]
        return growths(told, Counter(revision for revision in kills if revision is not None))

    def _ask(self, one: RevisionSeen) -> None:
        """For the next kill; after a restart not again."""
        namespace, owner = _owner(one.workload)
        if not self._details.on or self._details.of(namespace, owner, one.revision).number is not None:
            return
        former = self._store.revisions(one.workload)
        if not any(each.revision == one.revision and each.number for each in former):
            self._details.is_known(namespace, owner, one.revision)

    def _with_details(self, one: RevisionSeen) -> RevisionSeen:
        """A number that a rollback has taken away no other revision gets: kubectl would refuse it."""
        detail = self._details.of(*_owner(one.workload), one.revision)
        return one._replace(number=detail.number or one.number, rolled_out_at=detail.created_at or one.rolled_out_at)


def _owner(workload: str) -> tuple[str, Owner]:
    """With its namespace."""
    namespace, kind, name, _ = workload.split("/", 3)
    return namespace, Owner(kind=kind, name=name)


def _image(spec: PodContainer) -> str | None:
    """`app:3e4f891@sha256:0123456789ab`: a tag may be moved."""
    image, digest = spec.image, spec.image_digest
    return image if image is None or digest is None or "@" in image else f"{image}@{digest}"
