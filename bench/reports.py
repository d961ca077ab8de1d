"""The parser: a report of 160 records and one of 2,000 tasks, raw records in, incidents out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.measure import Figure, best_cpu
from collector.parse.kmsg import KmsgRun, parse_kmsg_run
from collector.parse.oom_report import OomReportAssembler
from collector.pipeline import Pipeline
from collector.sources.kmsg import LOOK
from tests import lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.model import Incident, OomReport

VICTIM = 300
_STACK = [" dump_stack_lvl+0x44/0x5c", " oom_kill_process.cold+0xb/0x10"] + [" handle_mm_fault+0xdb/0x2d0"] * 17
_REGISTERS = ["RSP: 002b:00007ffe93080458 EFLAGS: 00000206", "RAX: 00007f2d5c000000 RBX: 0000000000000000"] * 4
_STAT = [f"{name}{kind} {4096 * size}" for size, name in enumerate(("anon", "file", "slab", "pgscan", "workingset"))
         for kind in ("", "_active", "_inactive", "_mapped", "_dirty", "_kswapd", "_direct", "_thp")]  # fmt: skip


def texts(tasks: int) -> list[str]:
    """A container's limit on a kernel since 6.12, which prints each line of memory.stat as a record of its own."""
    return [
        lines.header(),
        lines.cpu(pid=VICTIM),
        "Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2-debian-1.16.2-1 04/01/2014",
        "Call Trace:",
        " <TASK>",
        *_STACK,
        " </TASK>",
        *_REGISTERS,
        lines.usage(),
        "swap: usage 0kB, limit 0kB, failcnt 0",
        f"Memory cgroup stats for {lines.CONTAINER}:",
        *_STAT,
        "Tasks state (memory values in pages):",
        lines.DUMP_HEADER,
        *(lines.row(VICTIM + number) for number in range(tasks)),
        lines.summary(pid=VICTIM),
        lines.kill(pid=VICTIM),
    ]


def records(tasks: int) -> list[bytes]:
    return [lines.raw(text, number, 106_242_034 + number) for number, text in enumerate(texts(tasks))]


def runs(raws: list[bytes]) -> Iterator[KmsgRun]:
    """As the source hands them on."""
    for start in range(0, len(raws), LOOK):
        run = parse_kmsg_run(raws[start : start + LOOK])
        assert run is not None
        yield run


def parse(raws: list[bytes]) -> list[OomReport]:
    assembler = OomReportAssembler()
    return [report for run in runs(raws) for report in assembler.push(run, 100.0)] + assembler.flush(None)


def judge(raws: list[bytes]) -> list[Incident]:
    pipeline = Pipeline(boot_id="b")
    return [incident for run in runs(raws) for incident in pipeline.push(run, at=100.0)] + pipeline.flush(None)


def reference(raws: list[bytes]) -> None:
    """The least that reading a record in Python can be."""
    for raw in raws:
        raw.partition(b";")[2].decode()


def measure() -> Iterator[Figure]:
    for tasks, scale, unit, must, aim in ((80, 1e6, "us", 160, 110), (2000, 1e3, "ms", 3, 1.2)):
        raws = records(tasks)
        assert len(judge(raws)[-1].report.tasks) == len(parse(raws)[-1].tasks) == tasks
        full, judged, least = best_cpu(
            [partial(parse, raws), partial(judge, raws), partial(reference, raws)],
            rounds=60 if tasks < 1000 else 20,
            repeat=10 if tasks < 1000 else 1,
        )
        yield Figure(
            what=f"report of {len(raws):,} records with {tasks:,} tasks, all converted: CPU",
            value=full * scale,
            unit=unit,
            must=must,
            aim=aim,
            note=f"{full / least:.0f} times a loop that only splits and decodes the records;"
            f" {judged * scale:.3g} {unit} with its incident, judged at the kill and when it is settled",
        )
