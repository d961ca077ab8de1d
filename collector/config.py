"""The settings of the agent: each a flag and an environment variable, the flag wins. Checked once, at the start."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from collector.errors import ConfigError

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
    event_max_age: float
    sample_interval: float
    proc_connector: str
    node_name: str | None
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


def _auto_or_off(text: str) -> str:
    if text not in ("auto", "off"):
        raise ValueError("must be auto or off")
    return text


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
        help="for how long after a start the counters show their former values, without the kills of the downtime:"
        " at least a scrape interval, so that increase() sees these",
    ),
    Setting(
        flag="--event-max-age",
        metavar="SECONDS",
        default="3600",
        parse=_seconds,
        help="kills that are older than this make no Kubernetes Events",
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
        flag="--node-name",
        metavar="NAME",
        default="",
        parse=_name,
        help="the node as documents name it; NODE_NAME serves as well",
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
