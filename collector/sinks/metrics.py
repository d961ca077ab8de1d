"""/metrics: what the journal has committed, what the agent knows of itself, and the families of container_series.py."""

from __future__ import annotations

import asyncio
import gzip
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from collector.model import Cause
from collector.pods.eviction import Resource
from collector.reconcile import UNATTRIBUTED_REASONS
from collector.sinks.delivery import Outcome
from collector.state import batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from collector.sinks.container_series import ContainerSeries
    from collector.state.batch import CounterKey

SYSTEMD_OOMD = "systemd_oomd"
STDOUT = "stdout"
DELIVERED = "delivered"
FAILED = "failed"

# So much is compressed in less time than a thread is asked for; ten times as much would hold up the event loop.
_COMPRESSED_AT_ONCE_BYTES = 32 << 10
_OPENMETRICS_END = b"# EOF\n"
_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """
    Renders /metrics.

    Every scrape reads the counters as of the last commit, so that two scrapers agree and a burst is never half seen.
    counters: returns them. sources: the kernel logs that may be read. sinks: the remote ones. now: seconds of a steady
    clock. created: since when the counters count, time of Unix, to be told in OpenMetrics; None: it is not.
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
    ) -> None:
        self._version = version
        self._sources = tuple(sources)
        self._sinks = tuple(sinks)
        self._counters = counters
        self._now = now
        self._containers = containers
        self._created = created
        self._created_shown: float | None = None
        self._turn = asyncio.Lock()
        self._hold_until = now() + hold_seconds
        self._held: dict[CounterKey, int] = {}
        self._latencies = [0] * (len(_LATENCY_BUCKETS) + 1)
        self._latency_sum = 0.0
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
        """Show the counters without these until the hold is over, so that increase() sees the kills of a downtime."""
        if self._now() < self._hold_until:
            for key, value in late.items():
                self._held[key] = self._held.get(key, 0) + value

    def observe_kill(self, seconds: float) -> None:
        """From a kill record's arrival to its commit."""
        self._latencies[bisect_left(_LATENCY_BUCKETS, seconds)] += 1
        self._latency_sum += seconds

    async def answer(self, *, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """Body and headers, in the best form that the client takes, compressed where it takes that."""
        # Scrapers that come together would hold up the event loop together: others have their turn in between.
        async with self._turn:
            body, content_type = self.render(accept)
            await asyncio.sleep(0)
            headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
            if _takes_gzip(accept_encoding):
                headers["Content-Encoding"] = "gzip"
                is_small = len(body) <= _COMPRESSED_AT_ONCE_BYTES
                body = _compress(body) if is_small else await asyncio.to_thread(_compress, body)
        return body, headers

    def render(self, accept: str) -> tuple[bytes, str]:
        """Text and content type: all of one moment, whatever is committed while it is sent."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:
            # prometheus-client 0.26 compares a version that is no number with one that is.
            encode, content_type = choose_encoder("")
        openmetrics = content_type.startswith("application/openmetrics-text")
        # In the plain form it would be a family of its own for each counter.
        self._created_shown = self._created if openmetrics else None
        body = encode(self._registry)
        if self._containers is not None:
            text = self._containers.render(openmetrics=openmetrics).encode()
            body = body.removesuffix(_OPENMETRICS_END) + text + (_OPENMETRICS_END if openmetrics else b"")
        return body, content_type

    def collect(self) -> Iterator[Metric]:
        shown, created = self._shown(), self._created_shown
        causes = tuple(str(cause) for cause in Cause)
        yield _counter(
            "oom_kills",
            "Decisions of the kernel's OOM killer on this node, from its log and memory.events; a group kill is one.",
            "cause",
            {cause: shown(batch.KILLS, cause) for cause in causes},
            created,
        )
        yield _counter(
            "oom_killed_processes",
            "Processes that the kernel's OOM killer killed, members of group kills included.",
            "cause",
            {cause: shown(batch.PROCESSES, cause) for cause in causes},
            created,
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
        if self._held and self._now() >= self._hold_until:
            self._held.clear()
        counters, held = self._counters(), self._held

        def value(name: str, label: str) -> int:
            return counters.get((name, label), 0) - held.get((name, label), 0)

        return value

    def _buckets(self) -> list[tuple[str, float]]:
        limits = [*(str(limit) for limit in _LATENCY_BUCKETS), "+Inf"]
        return list(zip(limits, map(float, accumulate(self._latencies)), strict=True))


class _Families(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def _counter(
    name: str, help_text: str, label: str, values: Mapping[str, int], created: float | None = None
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count, created=created)
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
