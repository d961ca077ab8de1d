"""The memory of a container as `oom-collector diagnose` takes it: one JSON object for each sample."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from collector.parse.memory_files import StatParser, parse_amount, parse_limit

from .agent import Document
from .witness import CGROUPS

Row = dict[str, Any]


def sample(cgroup: str, **event: str) -> Row | None:
    """What the agent's own reader makes of the cgroup's files; None: it is gone. `time` is CLOCK_MONOTONIC."""
    directory = CGROUPS / cgroup.lstrip("/")
    at = time.monotonic()
    try:
        current = parse_amount((directory / "memory.current").read_bytes())
        stat = StatParser().parse((directory / "memory.stat").read_bytes())
        limit = parse_limit((directory / "memory.max").read_bytes())
    except OSError:  # ENOENT; ENODEV where it goes while it is read
        return None
    return {
        "time": round(at, 2),
        "working_set_bytes": max(current - stat.inactive_file, 0),
        "limit_bytes": limit,
        "anon_bytes": stat.anon,
        "file_bytes": stat.file,
        "shmem_bytes": stat.shmem,
        "kernel_bytes": stat.kernel_and_sock,
        **event,
    }


def sample_of_kill(document: Document) -> Row:
    """What the kernel's report says of the cgroup whose limit was hit."""
    memory = document["memory"]
    stat = memory["stat"]
    return {
        "time": round(document["monotonic_seconds"], 2),
        "working_set_bytes": memory["usage_bytes"] - stat["inactive_file"],
        "limit_bytes": memory["limit_bytes"],
        "anon_bytes": stat["anon"],
        "file_bytes": stat["file"],
        "shmem_bytes": stat["shmem"],
        "kernel_bytes": stat.get("kernel", stat["slab"]) + stat["sock"],
        "event": "oom_kill",
    }


def write_history(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
