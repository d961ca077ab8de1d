"""/metrics: what the journal has committed, what the agent knows of itself, and the families of container_series.py."""

from __future__ import annotations

import asyncio
import gzip
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from collector.model import Cause
from collector.pods.eviction import Resource
from collector.reconcile import UNATTRIBUTED_REASONS
from collector.sinks.delivery import Outcome
from collector.state import batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from collector.sinks.container_series import ContainerSeries
    from collector.state.batch import CounterKey, LastKill

SYSTEMD_OOMD = "systemd_oomd"
STDOUT = "stdout"
DELIVERED = "delivered"
FAILED = "failed"

# So much is compressed in less time than a thread is asked for; ten times as much would hold up the event loop.
_COMPRESSED_AT_ONCE_BYTES = 32 << 10
_OPENMETRICS_END = b"# EOF\n"
_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Answer(NamedTuple):
    """`shown`: what Prometheus knows once it has read the body."""

    body: bytes
    headers: dict[str, str]
    shown: batch.Shown


class Metrics:
    """
    Renders /metrics.

    Every scrape reads the counters as of the last commit, so that two scrapers agree and a burst is never half seen.
    counters: returns them. sources: the kernel logs that may be read. sinks: the remote ones. now: seconds of a steady
    clock. created: since when the counters count, time of Unix, and last_kills: by cause, for exemplars; both are told
    in OpenMetrics, None: they are not.
    """

    def __init__(
        self,
        *,
        version: str,
        sources: Sequence[str],
        sinks: Sequence[str] = (),
        counters: Callable[[], Mapping[CounterKey, int]],
        hold_seconds: float,
        now: Callable[[], float],
        containers: ContainerSeries | None = None,
        created: float | None = None,
        last_kills: Callable[[], Mapping[str, LastKill]] | None = None,
    ) -> None:
        self._version = version
        self._sources = tuple(sources)
        self._sinks = tuple(sinks)
        self._counters = counters
        self._now = now
        self._containers = containers
        self._created = created
        self._last_kills = last_kills
        self._openmetrics = False
        self._turn = asyncio.Lock()
        self._hold_seconds = hold_seconds
        self._hold_until: float | None = None
        self._held: dict[CounterKey, int] = {}
        self._latencies = [0] * (len(_LATENCY_BUCKETS) + 1)
        self._latency_sum = 0.0
        self._told: dict[CounterKey, int] = {}
        self.source_up: Mapping[str, bool] = dict.fromkeys(sources, False)
        self.witness_up: dict[str, bool] = {}
        """What tells more than the kernel log does: cgroup, process_index, proc_connector."""
        self.state_persistent = True
        self.web_config_failure: Callable[[], str | None] = lambda: None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self))

    def add_process_metrics(self) -> None:
        """CPU, memory and descriptors of this process, under prometheus-client's own names."""
        ProcessCollector(registry=self._registry)

    def hold(self, late: Mapping[CounterKey, int]) -> None:
        """
        Show the counters without these until the hold is over, so that increase() sees kills that nobody was shown.

        The hold begins with the first scrape: a new target may wait for that for longer than a scrape interval.
        """
        if self._hold_until is None or self._now() < self._hold_until:
            for key, value in late.items():
                self._held[key] = self._held.get(key, 0) + value

    def observe_kill(self, seconds: float) -> None:
        """From a kill record's arrival to its commit."""
        self._latencies[bisect_left(_LATENCY_BUCKETS, seconds)] += 1
        self._latency_sum += seconds

    async def answer(self, *, accept: str, accept_encoding: str) -> Answer:
        """In the best form that the client takes, compressed where it takes that."""
        # Scrapers that come together would hold up the event loop together: others have their turn in between.
        async with self._turn:
            body, content_type = self.render(accept)
            shown = batch.Shown(self._told, {} if self._containers is None else self._containers.told)
            await asyncio.sleep(0)
            headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
            if _takes_gzip(accept_encoding):
                headers["Content-Encoding"] = "gzip"
                is_small = len(body) <= _COMPRESSED_AT_ONCE_BYTES
                body = _compress(body) if is_small else await asyncio.to_thread(_compress, body)
        return Answer(body, headers, shown)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Text and content type: all of one moment, whatever is committed while it is sent."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:
            # prometheus-client 0.26 compares a version that is no number with one that is.
            encode, content_type = choose_encoder("")
        self._openmetrics = openmetrics = content_type.startswith("application/openmetrics-text")
        if self._hold_until is None:
            self._hold_until = self._now() + self._hold_seconds
        body = encode(self._registry)
        if self._containers is not None:
            text = self._containers.render(openmetrics=openmetrics).encode()
            body = body.removesuffix(_OPENMETRICS_END) + text + (_OPENMETRICS_END if openmetrics else b"")
        return body, content_type

    def collect(self) -> Iterator[Metric]:
        shown = self._shown()
        # In the plain form it would be a family of its own for each counter.
        created = self._created if self._openmetrics else None
        kills = {str(cause): shown(batch.KILLS, cause) for cause in Cause}
        processes = {str(cause): shown(batch.PROCESSES, cause) for cause in Cause}
        self._told = {(batch.KILLS, cause): value for cause, value in kills.items()}
        self._told |= {(batch.PROCESSES, cause): value for cause, value in processes.items()}
        yield _counter(
            "oom_kills",
            "Decisions of the kernel's OOM killer on this node, from its log and memory.events; a group kill is one.",
            "cause",
            kills,
            created=created,
            exemplars=self._exemplars(),
        )
        yield _counter(
            "oom_killed_processes",
            "Processes that the kernel's OOM killer killed, members of group kills included.",
            "cause",
            processes,
            created=created,
        )
        yield _counter(
            "oom_collector_unattributed_kills",
            "Kills whose pod or container nothing tells, or several may be.",
            "reason",
            {reason: shown(batch.UNATTRIBUTED, reason) for reason in UNATTRIBUTED_REASONS},
        )
        if self._containers is not None:
            yield _plain_counter(
                "oom_collector_series_dropped",
                "Kills that are not counted by the name of their container: there are too many series.",
                shown(batch.SERIES_DROPPED, ""),
            )
        up = GaugeMetricFamily(
            "oom_collector_source_up",
            "1: delivers; a kernel log, when it was read to its end.",
            labels=("source",),
        )
        for source, is_up in (*self.source_up.items(), *self.witness_up.items()):
            up.add_metric((source,), float(is_up))
        yield up
        yield _counter(
            "oom_collector_records_lost",
            "Kernel records that were overwritten before they were read; a gap of unknown size counts as 1.",
            "source",
            {source: shown(batch.LOST, source) for source in self._sources},
        )
        yield _plain_counter(
            "oom_collector_malformed_records",
            "Records of the kernel log that could not be read.",
            shown(batch.MALFORMED, ""),
        )
        yield _plain_counter(
            "oom_collector_forged_records",
            "Records with the words of an OOM kill that user space wrote into the kernel log; they are not believed.",
            shown(batch.FORGED, ""),
        )
        yield _plain_counter(
            "oom_collector_foreign_kills",
            "Kills of other nodes that share this kernel (kind, LXC); they are left alone.",
            shown(batch.FOREIGN, ""),
        )
        yield _plain_counter(
            "oom_collector_process_events_lost",
            "Times that the kernel had to drop process events, because they were not read in time.",
            shown(batch.PROCESS_EVENTS_LOST, ""),
        )
        yield _plain_counter(
            "oom_collector_process_events_shed",
            "Process events, or spans of them, that were left unread in a storm of forks to save CPU.",
            shown(batch.PROCESS_EVENTS_SHED, ""),
        )
        if "pods" in self.witness_up:
            yield _counter(
                "oom_evictions",
                "Pods of this node that the kubelet evicted, by the resource that it was short of: no OOM kills.",
                "resource",
                {str(resource): shown(batch.EVICTIONS, str(resource)) for resource in Resource},
            )
            yield _plain_counter(
                "oom_collector_malformed_pods",
                "Pod objects of the API that could not be read.",
                shown(batch.MALFORMED_PODS, ""),
            )
        if SYSTEMD_OOMD in self.witness_up:
            yield _counter(
                "oom_userspace_kills",
                "Kills by systemd-oomd, from the journal: each of a whole cgroup. No OOM kills of the kernel.",
                "killer",
                {"systemd-oomd": shown(batch.USERSPACE_KILLS, "systemd-oomd")},
            )
        deliveries = CounterMetricFamily(
            "oom_collector_sink_deliveries", "Incidents handed to a sink.", labels=("sink", "outcome")
        )
        outcomes = [
            (STDOUT, DELIVERED),
            (STDOUT, FAILED),
            *((sink, str(end)) for sink in self._sinks for end in Outcome),
        ]
        for sink, outcome in outcomes:
            deliveries.add_metric((sink, outcome), shown(batch.DELIVERIES, f"{sink} {outcome}"))
        yield deliveries
        yield HistogramMetricFamily(
            "oom_collector_kill_to_metric_seconds",
            "From the arrival of a kill's record to its place in the counters; live kills only.",
            buckets=self._buckets(),
            sum_value=self._latency_sum,
        )
        yield GaugeMetricFamily(
            "oom_collector_state_persistent",
            "1: incidents and counters are on disk; 0: in memory, a restart forgets them.",
            value=float(self.state_persistent),
        )
        yield GaugeMetricFamily(
            "oom_collector_web_config_valid",
            "1: the web config file is in force, or none is given; 0: its last change cannot be used.",
            value=float(self.web_config_failure() is None),
        )
        yield InfoMetricFamily("oom_collector_build", "The version of the agent.", value={"version": self._version})

    def _shown(self) -> Callable[[str, str], int]:
        if self._held and self._hold_until is not None and self._now() >= self._hold_until:
            self._held.clear()
        counters, held = self._counters(), self._held

        def value(name: str, label: str) -> int:
            return counters.get((name, label), 0) - held.get((name, label), 0)

        return value

    def _exemplars(self) -> dict[str, Exemplar]:
        """The last incident of each cause, unless its kill is still held back."""
        if self._last_kills is None or not self._openmetrics:
            return {}
        return {
            cause: Exemplar({"incident_id": last.id}, 1, last.at)
            for cause, last in self._last_kills().items()
            if (batch.KILLS, cause) not in self._held
        }

    def _buckets(self) -> list[tuple[str, float]]:
        limits = [*(str(limit) for limit in _LATENCY_BUCKETS), "+Inf"]
        return list(zip(limits, map(float, accumulate(self._latencies)), strict=True))


class _Families(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def _counter(
    name: str,
    help_text: str,
    label: str,
    values: Mapping[str, int],
    *,
    created: float | None = None,
    exemplars: Mapping[str, Exemplar] | None = None,
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count, created=created, exemplar=(exemplars or {}).get(value))
    return family


def _plain_counter(name: str, help_text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(name, help_text, value=value)


def _compress(body: bytes) -> bytes:
    # Level 1: level 9 takes five times its CPU for a sixth less.
    return gzip.compress(body, 1, mtime=0)


def _takes_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.split(","):
        coding, *parameters = (word.strip().lower() for word in part.split(";"))
        if coding in ("gzip", "*"):
            return not any(word.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for word in parameters)
    return False
