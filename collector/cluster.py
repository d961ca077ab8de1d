"""The pods of this node: their names, from the API or the kubelet's log folders, their fates, their evictions."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from collector import __version__
from collector.errors import ConfigError, ParseError
from collector.model import ContainerId, ContainerKind, Names, PodUid
from collector.pods.eviction import eviction
from collector.pods.fate import Judged, Kill, fate_of
from collector.pods.index import Found, PodIndex
from collector.pods.log_links import LogLinks
from collector.pods.record import PodContainer, PodRecord, parse_pod
from collector.sinks.container_series import Running
from collector.state import batch
from collector.state.batch import Batch, ContainerName
from collector.state.series_life import SeriesLives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from collector.config import Config
    from collector.kube.client import KubeClient
    from collector.sinks.metrics import Metrics
    from collector.state.store import Store

PRUNE_SECONDS = 60.0
# Names asked for a moment ago are not there yet: so often the log folders are read again.
LINKS_FRESH_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Cluster:
    """
    Fulfils kube.reflector.PodSink and announcer.Registry. Without a client, the log folders are all there is.

    is_alive: whether there are processes in a container's cgroup, None where that cannot be told.
    """

    def __init__(
        self,
        config: Config,
        client: KubeClient | None,
        store: Store,
        metrics: Metrics,
        *,
        is_alive: Callable[[ContainerId], bool | None],
    ) -> None:
        self._config = config
        self._client = client
        self._store = store
        self._metrics = metrics
        self._is_alive = is_alive
        self._on_change: Callable[[], None] | None = None
        self._index = PodIndex()
        self._links = LogLinks(config.pod_logs)
        self._links_at = float("-inf")
        self._listing: list[PodRecord] | None = None
        self._evicted: set[str] = set()
        self._series = SeriesLives()
        self._up = False
        if client is not None:
            metrics.witness_up["pods"] = False

    @property
    def has_api(self) -> bool:
        return self._client is not None

    @property
    def is_behind(self) -> bool:
        return self._client is not None and not self._up

    async def run(self, on_change: Callable[[], None]) -> None:
        """Until cancelled. on_change: names or fates may be known that were not before."""
        self._on_change = on_change
        async with asyncio.TaskGroup() as tasks:
            if self._client is not None:
                tasks.create_task(self._follow(self._client), name="pods")
            tasks.create_task(self._keep_fresh(), name="pod logs")

    async def _follow(self, client: KubeClient) -> None:
        from collector.kube.reflector import PodReflector, Timing

        timing = Timing(start_jitter=self._config.api_jitter)
        await PodReflector(client, self._config.node_name or "", self, timing=timing).run()

    async def _keep_fresh(self) -> None:
        while True:
            now = time.monotonic()
            self._index.prune(now)
            if not self._up:
                self._refresh_links(now)
            self._end_series(now)
            await asyncio.sleep(PRUNE_SECONDS if self._up else self._config.sample_interval)

    def _refresh_links(self, now: float) -> None:
        self._links_at = now
        self._links.refresh(now)

    def _end_series(self, now: float) -> None:
        if self.is_behind:  # no pod is known to be gone
            return
        pods = {(pod.namespace, pod.name) for pod in self._index.live()} if self.has_api else self._links.pods()
        ended = self._series.ended(self._store.container_kills, pods, now)
        if ended:
            self._store.apply(Batch(at=datetime.now(UTC), series_ended=ended))

    # Names and fates

    def running(self) -> Iterator[Running]:
        """The containers that run or are to run again; while there is no API, also such as have run."""
        if not self._up:
            for container_id, names in self._links.containers():
                name = ContainerName(names.namespace, names.pod, names.container or "")
                yield Running(name, container_id, None)
        for pod in self._index.live():
            for container in pod.containers:
                if _runs(pod, container):
                    limits = [limit for limit in (container.limit_bytes, pod.limit_bytes) if limit is not None]
                    name = ContainerName(pod.namespace, pod.name, container.name)
                    yield Running(name, container.id, min(limits, default=None))

    def names(self, pod_uid: PodUid | None, container_id: ContainerId | None) -> Names | None:
        known = self._index.names(pod_uid, container_id)
        if known is not None and (known.container is not None or container_id is None):
            return known
        now = time.monotonic()
        if now >= self._links_at + LINKS_FRESH_SECONDS:
            self._refresh_links(now)
        linked = self._links.names(pod_uid, container_id)
        if known is None or linked is None:
            return known or linked
        # The kubelet makes the folder before the API shows the container's id.
        return self._index.names(pod_uid, container_id, container_name=linked.container)

    def find(self, pod_uid: PodUid | None, container_id: ContainerId | None) -> Found | None:
        """What the API tells of them, or told a while ago; None: nothing."""
        return self._index.find(pod_uid, container_id)

    def known(self) -> list[PodRecord] | None:
        """All pods that the API has told, those that are gone for a short time too; None: it tells none now."""
        return list(self._index.known()) if self._up else None

    def fate(self, kill: Kill) -> Judged | None:
        found = self._index.find(kill.pod_uid, kill.container_id)
        return fate_of(
            kill,
            found,
            deleted=found.deleted if found is not None else self._up and self._links.names(kill.pod_uid, None) is None,
            cgroup_alive=None if kill.container_id is None else self._is_alive(kill.container_id),
            now=datetime.now(UTC),
        )

    # What the API tells

    def begin_list(self) -> None:
        self._listing = []

    def put(self, pod: Mapping[str, object]) -> None:
        record = self._read(pod)
        if record is None:
            return
        if self._listing is not None:
            self._listing.append(record)
        self._index.put(record, time.monotonic())
        self._count_eviction(record)
        self._changed()

    def end_list(self) -> None:
        listed, self._listing = self._listing or [], None
        self._index.replace(listed, time.monotonic())
        self._evicted &= {record.api_uid for record in listed}
        self._changed()

    def delete(self, pod: Mapping[str, object]) -> None:
        record = self._read(pod)
        if record is None:
            return
        now = time.monotonic()
        if self._listing is not None:
            self._listing = [known for known in self._listing if known.api_uid != record.api_uid]
        self._index.put(record, now)  # its last state is in the event
        self._index.delete(record.api_uid, now)
        self._count_eviction(record)
        self._evicted.discard(record.api_uid)
        self._changed()

    def state(self, up: bool, reason: str | None) -> None:  # noqa: ARG002 - the reflector says it
        self._up = up
        self._metrics.witness_up["pods"] = up

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _read(self, pod: Mapping[str, object]) -> PodRecord | None:
        try:
            return parse_pod(pod)
        except ParseError as error:
            added = {(batch.MALFORMED_PODS, ""): 1}
            self._store.apply(Batch(at=datetime.now(UTC), added=added))
            _log.warning("%s", error)
            return None

    def _count_eviction(self, record: PodRecord) -> None:
        """A pod that was evicted stays in the API for as long as its garbage collector lets it."""
        if record.api_uid in self._evicted or (evicted := eviction(record)) is None:
            return
        self._evicted.add(record.api_uid)
        # A status has whole seconds, cut off.
        first_start = self._store.first_start - timedelta(seconds=1)
        since_start = self._listing is None if evicted.at is None else evicted.at >= first_start
        if since_start:
            self._store.apply(Batch(at=datetime.now(UTC), evictions=[(record.api_uid, str(evicted.resource))]))


def _runs(pod: PodRecord, container: PodContainer) -> bool:
    """A container that waits for its restart does: it is the one whose next kill is to be seen."""
    returns = container.id is not None and container.kind is not ContainerKind.INIT and pod.phase == "Running"
    return container.running_since is not None or returns


def open_client(config: Config) -> KubeClient | None:
    """None: this is no pod with a service account, and no kubeconfig is given. Raises ConfigError."""
    is_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    if config.kubernetes == "off" or not (config.kubeconfig or is_pod):
        return None
    from collector.kube.access import from_kubeconfig, in_cluster
    from collector.kube.client import KubeClient

    load = from_kubeconfig(config.kubeconfig) if config.kubeconfig else in_cluster(os.environ)
    if load is None:
        _log.warning("no token of a service account is mounted: the API is not asked for this node's pods")
        return None
    if config.node_name is None and config.kubeconfig:
        raise ConfigError("--node-name (NODE_NAME): is needed to ask the API for this node's pods")
    if config.node_name is None:
        _log.warning("NODE_NAME is not set (downward API: spec.nodeName): the API is not asked for this node's pods")
        return None
    return KubeClient(load, user_agent=f"oom-collector/{__version__} ({config.node_name})")
