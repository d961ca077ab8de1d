"""The agent: builds source, pipeline, store and sinks, runs them in one TaskGroup, and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from collector import __version__
from collector.announce.announcer import Announcer
from collector.announce.outlets import Outlets
from collector.cluster import Cluster, open_client
from collector.diagnosis_on_demand import DiagnosisOnDemand
from collector.errors import ConfigError
from collector.forecasts import Forecasts
from collector.intake import Intake
from collector.owner_details import OwnerDetails
from collector.pipeline import Pipeline
from collector.rollouts import Rollouts
from collector.sinks.container_series import ContainerSeries
from collector.sinks.http import Server
from collector.sinks.metrics import Metrics
from collector.sources.base import Cursor
from collector.sources.kernel_log import follow, kernel_logs
from collector.state.batch import Retention
from collector.state.store import Store
from collector.text import printable
from collector.userspace_kills import count_userspace_kills
from collector.witnesses import Witnesses

if TYPE_CHECKING:
    from pathlib import Path

    from collector.config import Config
    from collector.diagnostician import Diagnostician
    from collector.kube.client import KubeClient
    from collector.node_condition import NodeCondition
    from collector.prometheus_history import PrometheusHistory
    from collector.sources.kernel_log import SourceState

_log = logging.getLogger(__name__)


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
    client = open_client(config)
    now = datetime.now(UTC)
    store = _store(config, boot_id, now)
    outlets = Outlets(config, client, store)
    containers = _container_series(config, store)
    metrics = _metrics(config, store, containers, sources=tuple(log.name for log in logs), sinks=outlets.names)
    # printk's clock stands still in suspend, as CLOCK_MONOTONIC does.
    boot_time = now - timedelta(seconds=time.clock_gettime(time.CLOCK_MONOTONIC))
    witnesses = Witnesses(config, store, metrics, boot_id=boot_id)
    cluster = Cluster(config, client, store, metrics, is_alive=witnesses.is_alive)
    rollouts = Rollouts(cluster, store, OwnerDetails(client if config.owner_details == "on" else None))
    elsewhere = _open_prometheus(config, metrics)
    condition = _open_condition(config, client)
    diagnosis = _diagnosis(
        config,
        witnesses=witnesses,
        cluster=cluster,
        store=store,
        rollouts=rollouts,
        elsewhere=elsewhere,
        condition=condition,
        boot_id=boot_id,
    )
    forecasts = Forecasts(
        *(witnesses.watched, cluster, store, rollouts),
        node=config.node_name,
        horizon=config.forecast_horizon,
        on_containers=diagnosis.load,
    )
    outlets.carry(forecasts)
    containers.running, containers.memory, containers.trends = cluster.running, witnesses.memory_now, forecasts.trends
    announcer = Announcer(
        store,
        cluster,
        diagnosis,
        stdout=stdout,
        outlets=outlets.concerned,
        on_released=outlets.wake,
        max_age=config.event_max_age,
    )
    pipeline = Pipeline(node=config.node_name, boot_id=boot_id, boot_time=boot_time, sight=witnesses.sight)
    intake = Intake(pipeline, store, metrics, on_settled=announcer.look)
    watch = Watch(metrics, intake)
    server = Server(
        metrics,
        version=__version__,
        not_ready=watch.not_ready,
        on_shown=lambda shown: store.keep_shown(shown, datetime.now(UTC)),
        web_config=config.web_config_file,
    )
    metrics.web_config_failure = lambda: server.web_config_failure
    try:
        host, port = await server.start(*config.listen)
        _announce(config, store, f"{server.scheme}://{_shown(host)}:{port}", in_cluster=client is not None)
        intake.start()
        witnesses.start(intake)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    follow(logs, intake, watch.changed, cursor=_cursor(store)), name=f"kernel log {config.kernel_log}"
                ),
                group.create_task(witnesses.run(), name="cgroups"),
                group.create_task(cluster.run(announcer.poke), name="cluster"),
                group.create_task(outlets.run(), name="outlets"),
                group.create_task(rollouts.run(), name="owner details"),
                *([group.create_task(condition.run(), name="node's condition")] if condition else []),
                group.create_task(forecasts.run(outlets.wake), name="forecasts"),
                group.create_task(
                    count_userspace_kills(config, store, metrics, boot_id=boot_id), name="userspace kills"
                ),
            ]
            # What was imported stays: full collections need not look at it again.
            gc.freeze()
            await stop.wait()
            _log.info("stopping")
            for task in tasks:
                task.cancel()
        witnesses.stop()
        intake.stop()
        await announcer.stop()
        await server.stop()
    finally:
        await outlets.close()
        if elsewhere is not None:
            await elsewhere.close()
        if client is not None:
            await client.close()
        store.close()


def _open_prometheus(config: Config, metrics: Metrics) -> PrometheusHistory | None:
    """None: no address is given. Raises ConfigError for one that is none."""
    if config.prometheus_url is None:
        return None
    from collector.prometheus_history import PrometheusHistory

    def show(up: bool) -> None:
        metrics.witness_up["prometheus"] = up

    return PrometheusHistory(
        config.prometheus_url,
        token_file=config.prometheus_token_file,
        user_agent=f"oom-collector/{__version__}",
        on_state=show,
    )


def _open_condition(config: Config, client: KubeClient | None) -> NodeCondition | None:
    """None: it is not asked for."""
    if client is None or config.events != "on":
        return None
    from collector.node_condition import NodeCondition

    return NodeCondition(client, config.node_name)


def _diagnosis(
    config: Config,
    *,
    witnesses: Witnesses,
    cluster: Cluster,
    store: Store,
    rollouts: Rollouts,
    elsewhere: PrometheusHistory | None,
    condition: NodeCondition | None,
    boot_id: str,
) -> DiagnosisOnDemand:
    def make() -> Diagnostician:
        from collector.diagnostician import Diagnostician

        return Diagnostician(
            *(witnesses, cluster, store, rollouts, elsewhere),
            condition=condition,
            boot_id=boot_id,
            factor=config.limit_factor,
            sample_interval=config.sample_interval,
        )

    return DiagnosisOnDemand(make)


def _store(config: Config, boot_id: str, now: datetime) -> Store:
    retention = Retention(count=config.retention_count, age=config.retention_days)
    return Store(config.state_dir, boot_id=boot_id, retention=retention, at=now)


def _container_series(config: Config, store: Store) -> ContainerSeries:
    return ContainerSeries(
        kills=lambda: store.container_kills,
        hold_seconds=config.metrics_hold,
        now=time.monotonic,
        off=config.metrics_off,
        created=config.start_timestamps == "on",
        exemplars=config.exemplars == "on",
    )


def _metrics(
    config: Config, store: Store, containers: ContainerSeries, *, sources: tuple[str, ...], sinks: tuple[str, ...]
) -> Metrics:
    metrics = Metrics(
        version=__version__,
        sources=sources,
        sinks=sinks,
        counters=lambda: store.counters,
        hold_seconds=config.metrics_hold,
        now=time.monotonic,
        containers=containers,
        created=store.first_start.timestamp() if config.start_timestamps == "on" else None,
        last_kills=(lambda: store.last_kills) if config.exemplars == "on" else None,
    )
    metrics.hold(store.unseen())
    metrics.add_process_metrics()
    return metrics


def _shown(host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{shown}]" if ":" in shown else shown


def _announce(config: Config, store: Store, url: str, *, in_cluster: bool) -> None:
    _log.info("oom-collector %s: metrics at %s/metrics", __version__, url)
    if store.persistent:
        _log.info("state in %s", config.state_dir)
    if not in_cluster:
        _log.info("no Kubernetes API: pods are named by %s, and no Events are made", config.pod_logs)
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
