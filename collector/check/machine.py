"""What this machine and these privileges allow, with the fix for each "no"."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from collector.check.api import check_api
from collector.check.row import Row
from collector.errors import CollectorError
from collector.processes.connector import probe
from collector.sources.kernel_log import kernel_logs
from collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collector.config import Config

KERNEL_LOG_ROW = "kernel log"

# include/linux/proc_ns.h: PROC_PID_INIT_INO.
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC


def check_machine(config: Config) -> tuple[Row, ...]:
    return (
        *_kernel_logs(config.kernel_log, config.kmsg_path, config.proc_root),
        _cgroup_version(config.cgroup_root),
        _inotify(),
        _pid_namespace(config.proc_root),
        _proc_connector(config.proc_root),
        *check_api(config),
        _pod_logs(config.pod_logs),
        _state_dir(config.state_dir),
    )


def kernel_log_works(rows: Sequence[Row]) -> bool:
    return any(row.works for row in rows if row.what.startswith(KERNEL_LOG_ROW))


def render(rows: Sequence[Row]) -> str:
    width = max(len(row.what) for row in rows)
    lines = []
    for row in rows:
        lines.append(printable(f"{row.what:<{width}}  {'yes' if row.works else 'no':<3}  {row.reason}"))
        if row.fix is not None:
            lines.append(printable(f"{'':<{width}}       fix: {row.fix}"))
    return "\n".join(lines)


def _kernel_logs(kernel_log: str, kmsg_path: Path, proc_root: Path) -> list[Row]:
    try:
        boot_id = (proc_root / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError as error:
        fix = "mount the host's /proc and name it with --proc-root"
        return [Row(what=KERNEL_LOG_ROW, works=False, reason=f"boot id: {error.strerror}", fix=fix)]
    fixes = {
        "kmsg": "privileged container with /dev/kmsg mounted; on a host: root, or CAP_SYSLOG and read access",
        "syslog": "capability SYSLOG (containers: securityContext.capabilities.add)",
        "journald": "pip install 'oom-collector[journald]'; mount /var/log/journal and /run/log/journal read-only",
        "file": "make the file readable",
    }
    rows = []
    for log in kernel_logs(kernel_log, boot_id=boot_id, kmsg_path=kmsg_path):
        what = f"{KERNEL_LOG_ROW} {log.name}"
        try:
            log.probe()
        except CollectorError as error:
            rows.append(Row(what=what, works=False, reason=str(error), fix=fixes[log.name]))
        else:
            rows.append(Row(what=what, works=True, reason="readable"))
    return rows


def _cgroup_version(root: Path) -> Row:
    if (root / "cgroup.controllers").exists():
        return Row(what="cgroup v2", works=True, reason=f"at {root}")
    if (root / "memory").is_dir():
        reason = f"{root} is cgroup v1: kills are told from the kernel log alone"
    else:
        reason = f"no cgroups at {root}"
    return Row(what="cgroup v2", works=False, reason=reason, fix="boot with cgroup v2; --cgroup-root names its mount")


def _inotify() -> Row:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0:
        reason = os.strerror(ctypes.get_errno())
        fix = "raise sysctl fs.inotify.max_user_instances"
        return Row(what="inotify", works=False, reason=reason, fix=fix)
    os.close(fd)
    return Row(what="inotify", works=True, reason="an instance could be made")


def _pid_namespace(proc_root: Path) -> Row:
    what = "host's process ids"
    try:
        inode = (proc_root / "self/ns/pid").stat().st_ino
    except OSError as error:
        return Row(what=what, works=False, reason=f"pid namespace: {error.strerror}", fix="mount /proc")
    if inode == _INITIAL_PID_NAMESPACE:
        return Row(what=what, works=True, reason="in the initial pid namespace")
    reason = "in a pid namespace of its own: a victim's pid cannot be looked up"
    return Row(what=what, works=False, reason=reason, fix="hostPID: true")


def _proc_connector(proc_root: Path) -> Row:
    what = "proc connector"
    problem = probe(proc_root)
    if problem is None:
        return Row(what=what, works=True, reason="the kernel answered")
    reason, _, fix = problem.partition(": needs ")
    return Row(what=what, works=False, reason=reason, fix=fix or None)


def _pod_logs(root: Path) -> Row:
    what = "names without the API"
    if (root / "pods").is_dir() or (root / "containers").is_dir():
        return Row(what=what, works=True, reason=f"the kubelet's log folders are in {root}")
    reason = f"no pods/ and no containers/ in {root}"
    return Row(what=what, works=False, reason=reason, fix="mount the host's /var/log read-only; --pod-logs names it")


def _state_dir(directory: Path) -> Row:
    what = "state directory"
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        note = "" if existing == directory else ", will be made"
        return Row(what=what, works=True, reason=f"{directory} is writable{note}")
    reason = f"{directory} cannot be written: a restart forgets counters and journal"
    return Row(what=what, works=False, reason=reason, fix="--state-dir with a writable directory (hostPath)")
