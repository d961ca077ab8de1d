"""Measures, prints the table, and with --write keeps it in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench import agent, analyze, cgroups, diagnosis, exposition, kernel_log, kubernetes, processes, reports
from bench.measure import HEAD, Figure, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Measure = Callable[[], Iterator[Figure | Skipped]]

DOCUMENT = Path("docs/benchmarks.md")
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_TEXT = """\
# Speed and memory

Measured by `make bench` and not promised: read the ratios, which hold from machine to machine, before the times. A
figure is the best of its rounds, since whatever else runs on a machine can only add to it; peaks and the latency are
not. *must* and *aim* are what the project has set itself. All CPU is user and system time together; an interpreter
built without profile-guided optimisation takes more than Debian's.

{table}

{machine}
"""


def main() -> int:
    options = _options()
    chosen: dict[str, Measure] = {
        "kernel-log": lambda: kernel_log.measure(write=options.write_kmsg),
        "reports": reports.measure,
        "analyze": lambda: analyze.measure(options.size),
        "agent": lambda: agent.measure_idle(options.idle_seconds),
        "latency": agent.measure_latency,
        "cgroups": cgroups.measure,
        "processes": processes.measure,
        "exposition": exposition.measure,
        "kubernetes": kubernetes.measure,
        "diagnosis": diagnosis.measure,
    }
    print(_machine(), HEAD, sep="\n\n")
    rows = [HEAD]
    for name in options.only or chosen:
        for figure in chosen[name]():
            rows.append(figure.row())
            print(rows[-1], flush=True)
    if options.write:
        DOCUMENT.write_text(_TEXT.format(table="\n".join(rows), machine=_machine()))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    names = (
        *("kernel-log", "reports", "analyze", "agent", "latency", "cgroups", "processes", "exposition", "kubernetes"),
        "diagnosis",
    )
    parser.add_argument("--only", action="append", choices=names, help="this part; may be repeated")
    parser.add_argument(
        "--size",
        type=_size,
        default=os.environ.get("BENCH_SIZE", "1G"),
        help="of the log that analyze reads, as 200M (BENCH_SIZE; default 1G)",
    )
    parser.add_argument(
        "--idle-seconds", type=float, default=30, help="how long the idle agent is watched (default 30)"
    )
    parser.add_argument(
        "--write-kmsg", action="store_true", help="allow to write a report into this machine's kernel log (root)"
    )
    parser.add_argument("--write", action="store_true", help=f"keep the table in {DOCUMENT}")
    return parser.parse_args()


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kMG]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 200M")
    return int(match[1]) * _UNITS[match[2]]


def _machine() -> str:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores of {cpu[1] if cpu else platform.machine()}; "
        f"Linux {platform.release()}; Python {sys.version}; "
        f"load {load} (1, 5, 15 minutes)."
    )


if __name__ == "__main__":
    sys.exit(main())
