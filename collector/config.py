"""The settings of the agent: each a flag and an environment variable, the flag wins. Checked once, at the start."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from collector.errors import ConfigError
from collector.sinks.container_series import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "OOM_COLLECTOR_"
DEFAULT_PORT = 19137


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What `run` works with. Field names are the flags'."""

    listen: Address
    kernel_log: str
    kmsg_path: Path
    cgroup_root: Path
    proc_root: Path
    state_dir: Path
    retention_count: int
    retention_days: timedelta
    metrics_hold: float
    metrics_off: frozenset[str]
    start_timestamps: str
    exemplars: str
    sample_interval: float
    proc_connector: str
    userspace_kills: str
    journal_dir: Path | None
    kubernetes: str
    kubeconfig: Path | None
    api_jitter: float
    pod_logs: Path
    node_name: str | None
    events: str
    event_max_age: float
    owner_details: str
    webhook_url: str | None
    webhook_secret_file: Path | None
    alertmanager_url: str | None
    alertmanager_resolve_after: float
    web_config_file: Path | None
    limit_factor: float
    forecast_horizon: float
    prometheus_url: str | None
    prometheus_token_file: Path | None
    log_level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`parse` raises ValueError with the rest of a sentence that begins with the value."""

    flag: str
    metavar: str
    default: str
    parse: Callable[[str], object]
    help: str

    @property
    def field(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        return PREFIX + self.field.upper()


def parse_address(text: str) -> Address:
    """`HOST:PORT`, with IPv6 in brackets. Port 0: any free one."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("must be HOST:PORT, IPv6 as [::1]:PORT")
    return Address(match[1] or match[2], int(match[3]))


def _kernel_log(text: str) -> str:
    kind, _, path = text.partition(":")
    if text in ("auto", "kmsg", "syslog", "journald") or (kind == "file" and path):
        return text
    raise ValueError("must be auto, kmsg, syslog, journald or file:PATH")


def _path(text: str) -> Path:
    if not text:
        raise ValueError("must be a path")
    return Path(text)


def _optional_path(text: str) -> Path | None:
    return Path(text) if text else None


def _seconds(text: str) -> float:
    value = _number(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError("must be seconds, 0 or more")
    return value


def _interval(text: str) -> float:
    value = _number(text)
    if not 1 <= value <= 300:
        raise ValueError("must be seconds, 1 to 300")
    return value


def _factor(text: str) -> float:
    value = _number(text)
    if not 1 < value <= 10:
        raise ValueError("must be more than 1, and 10 at most")
    return value


def _auto_or_off(text: str) -> str:
    if text not in ("auto", "off"):
        raise ValueError("must be auto or off")
    return text


def _auto_on_or_off(text: str) -> str:
    if text not in ("auto", "on", "off"):
        raise ValueError("must be auto, on or off")
    return text


def _on_or_off(text: str) -> str:
    if text not in ("on", "off"):
        raise ValueError("must be on or off")
    return text


def _families(text: str) -> frozenset[str]:
    families = frozenset(filter(None, text.replace(" ", "").split(",")))
    if not families <= set(FAMILIES):
        raise ValueError(f"must be of {', '.join(FAMILIES)}")
    return families


def _days(text: str) -> timedelta:
    value = _number(text)
    if not 0 < value <= 36500:
        raise ValueError("must be days, more than 0")
    return timedelta(days=value)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise ValueError("must be a whole number from 1 to 1000000")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _name(text: str) -> str | None:
    return text or None


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warning or error")
    return text.upper()


LISTEN = Setting(
    flag="--listen",
    metavar="HOST:PORT",
    default=f"0.0.0.0:{DEFAULT_PORT}",
    parse=parse_address,
    help="where /metrics, /healthz and /readyz are served",
)
KERNEL_LOG = Setting(
    flag="--kernel-log",
    metavar="SOURCE",
    default="auto",
    parse=_kernel_log,
    help="auto, kmsg, syslog, journald or file:PATH; auto takes the first that works",
)
KMSG_PATH = Setting(
    flag="--kmsg-path", metavar="PATH", default="/dev/kmsg", parse=_path, help="the kernel's log device"
)
CGROUP_ROOT = Setting(
    flag="--cgroup-root", metavar="DIR", default="/sys/fs/cgroup", parse=_path, help="where cgroups are mounted"
)
PROC_ROOT = Setting(flag="--proc-root", metavar="DIR", default="/proc", parse=_path, help="where proc is mounted")
STATE_DIR = Setting(
    flag="--state-dir",
    metavar="DIR",
    default="/var/lib/oom-collector",
    parse=_path,
    help="where incidents, counters and the read position outlive a restart",
)
SETTINGS = (
    LISTEN,
    KERNEL_LOG,
    KMSG_PATH,
    CGROUP_ROOT,
    PROC_ROOT,
    STATE_DIR,
    Setting(
        flag="--retention-count", metavar="N", default="1000", parse=_count, help="how many incidents the journal keeps"
    ),
    Setting(flag="--retention-days", metavar="DAYS", default="30", parse=_days, help="for how long it keeps them"),
    Setting(
        flag="--metrics-hold",
        metavar="SECONDS",
        default="60",
        parse=_seconds,
        help="for how long after a start the counters show their former values, without the kills of the downtime, and"
        " those of a container 0 before its first kill: at least a scrape interval, so that increase() sees these",
    ),
    Setting(
        flag="--metrics-off",
        metavar="LIST",
        default="",
        parse=_families,
        help="metric families of containers that are not shown, with commas between: " + ", ".join(FAMILIES),
    ),
    Setting(
        flag="--start-timestamps",
        metavar="on|off",
        default="off",
        parse=_on_or_off,
        help="whether OpenMetrics tells since when each counter of kills counts; doubles their lines",
    ),
    Setting(
        flag="--exemplars",
        metavar="on|off",
        default="off",
        parse=_on_or_off,
        help="whether OpenMetrics tells the incident of the last kill beside each counter of kills",
    ),
    Setting(
        flag="--sample-interval",
        metavar="SECONDS",
        default="10",
        parse=_interval,
        help="how often the memory of pods and containers is sampled, and their cgroups and processes looked through",
    ),
    Setting(
        flag="--proc-connector",
        metavar="auto|off",
        default="auto",
        parse=_auto_or_off,
        help="whether the kernel's process events are followed, which tell whose a short-lived victim was",
    ),
    Setting(
        flag="--userspace-kills",
        metavar="auto|on|off",
        default="auto",
        parse=_auto_on_or_off,
        help="whether systemd-oomd's kills are counted, from the journal; auto: where its /run/systemd/oom is seen",
    ),
    Setting(
        flag="--journal-dir",
        metavar="DIR",
        default="",
        parse=_optional_path,
        help="where the host's journal is; without it, where systemd looks for it",
    ),
    Setting(
        flag="--kubernetes",
        metavar="auto|off",
        default="auto",
        parse=_auto_or_off,
        help="whether pods are named and Events are made; auto: in a cluster, or with --kubeconfig",
    ),
    Setting(
        flag="--kubeconfig",
        metavar="PATH",
        default="",
        parse=_optional_path,
        help="how the API is reached from outside a cluster; KUBECONFIG is not read, an agent runs for long",
    ),
    Setting(
        flag="--api-jitter",
        metavar="SECONDS",
        default="5",
        parse=_seconds,
        help="the first request to the API waits for a random part of this, so that nodes do not ask all at once",
    ),
    Setting(
        flag="--pod-logs",
        metavar="DIR",
        default="/var/log",
        parse=_path,
        help="where the kubelet keeps containers/ and pods/, which name pods while the API cannot be reached",
    ),
    Setting(
        flag="--node-name",
        metavar="NAME",
        default="",
        parse=_name,
        help="the node as Kubernetes and documents name it; NODE_NAME serves as well",
    ),
    Setting(
        flag="--events",
        metavar="on|off",
        default="on",
        parse=_on_or_off,
        help="whether kills become Kubernetes Events",
    ),
    Setting(
        flag="--event-max-age",
        metavar="SECONDS",
        default="3600",
        parse=_seconds,
        help="kills that are older than this are sent nowhere any more, and counted as expired",
    ),
    Setting(
        flag="--owner-details",
        metavar="on|off",
        default="off",
        parse=_on_or_off,
        help="whether ReplicaSets, ControllerRevisions and Jobs are read, one at a time, for the numbers and times of"
        " revisions and the CronJobs of Jobs; needs the right to get them",
    ),
    Setting(
        flag="--webhook-url",
        metavar="URL",
        default="",
        parse=_name,
        help="where each kill is posted as a CloudEvent",
    ),
    Setting(
        flag="--webhook-secret-file",
        metavar="PATH",
        default="",
        parse=_optional_path,
        help="the key that signs what is posted (HMAC-SHA256)",
    ),
    Setting(
        flag="--alertmanager-url",
        metavar="URL",
        default="",
        parse=_name,
        help="an Alertmanager that is told of kills at once, instead of by a rule of Prometheus",
    ),
    Setting(
        flag="--alertmanager-resolve-after",
        metavar="SECONDS",
        default="300",
        parse=_seconds,
        help="after which time it takes such an alert for resolved",
    ),
    Setting(
        flag="--web-config-file",
        metavar="PATH",
        default="",
        parse=_optional_path,
        help="TLS and authentication of --listen, in the format of Prometheus exporters",
    ),
    Setting(
        flag="--limit-factor",
        metavar="FACTOR",
        default="1.25",
        parse=_factor,
        help="a memory limit that is advised is so many times the peak",
    ),
    Setting(
        flag="--forecast-horizon",
        metavar="SECONDS",
        default="21600",
        parse=_seconds,
        help="a container that grows steadily and will reach its limit within this time gets an Event, one a day at"
        " most; 0: none does",
    ),
    Setting(
        flag="--prometheus-url",
        metavar="URL",
        default="",
        parse=_name,
        help="a Prometheus with cAdvisor's metrics: diagnoses use its history of other nodes and of before the agent",
    ),
    Setting(
        flag="--prometheus-token-file",
        metavar="PATH",
        default="",
        parse=_optional_path,
        help="a bearer token for that Prometheus, read anew for each question: such tokens are renewed",
    ),
    Setting(flag="--log-level", metavar="LEVEL", default="info", parse=_level, help="debug, info, warning or error"),
)


def read_config(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Config:
    """flags: by field name, None where not given. Raises ConfigError that names the flag or variable at fault."""
    return Config(**{setting.field: read_setting(setting, flags, environ) for setting in SETTINGS})  # type: ignore[arg-type]  # each parses its field


def read_setting(setting: Setting, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> object:
    text, origin = flags.get(setting.field), setting.flag
    if text is None:
        text, origin = environ.get(setting.variable), setting.variable
    if text is None and setting.field == "node_name":
        text, origin = environ.get("NODE_NAME"), "NODE_NAME"
    if text is None:
        text = setting.default
    try:
        return setting.parse(text)
    except ValueError as error:
        other = setting.variable if origin == setting.flag else setting.flag
        raise ConfigError(f"{origin} ({other}): {text!r} {error}") from error
