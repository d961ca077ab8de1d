"""Flags and variables: who wins, what is refused, and that a refusal names both."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from collector.config import DEFAULT_PORT, SETTINGS, Address, Config, read_config
from collector.errors import ConfigError
from collector.sinks.container_series import FAMILIES


def test_defaults() -> None:
    config = read_config({}, {})
    assert config == Config(
        listen=Address("0.0.0.0", DEFAULT_PORT),
        kernel_log="auto",
        kmsg_path=Path("/dev/kmsg"),
        cgroup_root=Path("/sys/fs/cgroup"),
        proc_root=Path("/proc"),
        state_dir=Path("/var/lib/oom-collector"),
        retention_count=1000,
        retention_days=timedelta(days=30),
        metrics_hold=60.0,
        metrics_off=frozenset(),
        start_timestamps="off",
        exemplars="off",
        sample_interval=10.0,
        proc_connector="auto",
        userspace_kills="auto",
        journal_dir=None,
        kubernetes="auto",
        kubeconfig=None,
        api_jitter=5.0,
        pod_logs=Path("/var/log"),
        node_name=None,
        events="on",
        event_max_age=3600.0,
        owner_details="off",
        webhook_url=None,
        webhook_secret_file=None,
        alertmanager_url=None,
        alertmanager_resolve_after=300.0,
        web_config_file=None,
        limit_factor=1.25,
        forecast_horizon=21600.0,
        prometheus_url=None,
        prometheus_token_file=None,
        log_level="INFO",
    )


def test_every_setting_is_a_flag_and_a_variable() -> None:
    assert {setting.field for setting in SETTINGS} == set(Config.__dataclass_fields__)
    assert {setting.variable for setting in SETTINGS} == {
        f"OOM_COLLECTOR_{setting.field.upper()}" for setting in SETTINGS
    }


@pytest.mark.parametrize(
    ("flags", "environ", "name"),
    [
        pytest.param({}, {"NODE_NAME": "downward"}, "downward", id="the downward API's usual name"),
        pytest.param({}, {"NODE_NAME": "n", "OOM_COLLECTOR_NODE_NAME": "ours"}, "ours", id="our variable before it"),
        pytest.param({"node_name": "flag"}, {"OOM_COLLECTOR_NODE_NAME": "ours"}, "flag", id="the flag wins"),
        pytest.param({"node_name": None}, {}, None, id="not known"),
    ],
)
def test_the_flag_wins(flags: dict[str, str | None], environ: dict[str, str], name: str | None) -> None:
    assert read_config(flags, environ).node_name == name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:9796", Address("::1", 9796)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("node.example:65535", Address("node.example", 65535)),
    ],
)
def test_listen(text: str, address: Address) -> None:
    assert read_config({"listen": text}, {}).listen == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("listen", "9796"),
        ("listen", "::1:9796"),
        ("listen", "host:65536"),
        ("listen", "host:"),
        ("kernel_log", "dmesg"),
        ("kernel_log", "file:"),
        ("state_dir", ""),
        ("metrics_hold", "-1"),
        ("metrics_hold", "nan"),
        ("metrics_off", "oom_kills_total"),
        ("start_timestamps", "yes"),
        ("exemplars", "true"),
        ("event_max_age", "1h"),
        ("retention_count", "0"),
        ("retention_count", "1.5"),
        ("retention_days", "0"),
        ("log_level", "loud"),
    ],
)
def test_a_refusal_names_the_flag_and_the_variable(field: str, text: str) -> None:
    flag, variable = f"--{field.replace('_', '-')}", f"OOM_COLLECTOR_{field.upper()}"
    with pytest.raises(ConfigError) as by_flag:
        read_config({field: text}, {})
    assert str(by_flag.value).startswith(f"{flag} ({variable}): {text!r} must be ")
    with pytest.raises(ConfigError) as by_variable:
        read_config({}, {variable: text})
    assert str(by_variable.value).startswith(f"{variable} ({flag}): {text!r} must be ")


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("", set()),
        (" oom_container_kills_total, ", {"oom_container_kills_total"}),
        (",".join(FAMILIES), set(FAMILIES)),
    ],
)
def test_families_are_switched_off_by_name(text: str, off: set[str]) -> None:
    assert read_config({"metrics_off": text}, {}).metrics_off == off
