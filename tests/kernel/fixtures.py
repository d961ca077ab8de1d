"""Raw captures of a run become fixtures: what the unit tests replay."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from .payload import SOURCE

FIXTURES = SOURCE / "fixtures"
LARGE_BYTES = 50_000  # gzipped from here on
EVERYWHERE = ("container-systemd", "container-crio", "group-kill", "pod-limit", "hostile-comm", "node")
CAPTURED = {
    "6.1": (
        *EVERYWHERE, "container-cgroupfs", "nested-limit", "kubepods-limit", "forged", "shmem", "system-unit", "swap",
        "sysrq", "burst",
    ),
}  # fmt: skip
# What made the container, where there is one: the runtime and its cgroup driver.
MADE_BY = {"container-crio": ("crun", "systemd"), "container-cgroupfs": ("runc", "cgroupfs")}
BARE = {"nested-limit": "cgroupfs", "hostile-comm": "cgroupfs", "burst": "cgroupfs", "system-unit": "systemd"}


def write(node: dict[str, Any], series: str, captures: Path) -> None:
    """
    Write fixtures/<kernel>-<scenario>/ for what was captured; `captures` holds one directory for each scenario.

    And fixtures/histories/, where `record` has run.
    """
    for history in (captures / "histories").glob("*.jsonl"):
        (FIXTURES / "histories" / history.name).write_bytes(history.read_bytes())
    for scenario in CAPTURED.get(series, EVERYWHERE):
        captured = captures / scenario / "kmsg"
        if not captured.exists():
            continue
        content, directory = captured.read_bytes(), FIXTURES / f"{series}-{scenario}"
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("kmsg*"):
            old.unlink()
        if len(content) < LARGE_BYTES:
            (directory / "kmsg").write_bytes(content)
        else:
            (directory / "kmsg.gz").write_bytes(gzip.compress(content, mtime=0))
        (directory / "meta.toml").write_text(meta(node, scenario))


def meta(node: dict[str, Any], scenario: str) -> str:
    """Both values as TOML strings: JSON's are."""
    if scenario in BARE:
        runtime, driver = "none", BARE[scenario]
    else:
        name, driver = MADE_BY.get(scenario, ("runc", "systemd"))
        runtime = f"{name} {node[name]}"
    return f"""\
kernel = "{node["release"]}"
kernel_version = "{node["version"]}"
distro = "Debian 12 (bookworm), Debian's kernel"
runtime = "{runtime}"
cgroup_driver = "{driver}"
page_size = {node["page_size"]}
made = "tests/kernel/run --fixtures, scenario {scenario}: QEMU, 2 CPUs, 2 GiB, cgroup v2"
trimmed = false
"""
