"""
The name of an incident: the same kill read twice, by whatever source, has the same id.

Where boot id and monotonic time are known (kmsg, syslog(2), journald), they and the pid make it. A log file without
them is known by the kill record's own text and time, and its ordinal among equal ones.
"""

from __future__ import annotations

import hashlib

from collector.model import OomReport


def live_id(boot_id: str, monotonic_usec: int, pid: int | None) -> str:
    return _digest("boot", boot_id.replace("-", ""), str(monotonic_usec), str(pid))


def counter_id(boot_id: str, inode: int, value: int) -> str:
    """A kill that only a cgroup's `oom_kill` told, when it reached `value`."""
    return _digest("memory.events", boot_id.replace("-", ""), str(inode), str(value))


def file_id(report: OomReport, ordinal: int) -> str:
    """ordinal: how many incidents of this log with the same text and time came before, from 0."""
    moment = report.kill_moment
    return _digest("file", report.kill_text, time_key(report), str(ordinal), moment.host or "")


def time_key(report: OomReport) -> str:
    """The kill record's time in the most exact clock that its form carries."""
    moment = report.kill_moment
    if moment.monotonic_usec is not None:
        return f"monotonic {moment.monotonic_usec}"
    return f"stamp {moment.stamp}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
