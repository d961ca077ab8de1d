"""
`tests/kernel/run --scenario record --fixtures`: real programs in containers with a limit, and what their memory is, for fixtures/histories.

All of them run at once, each in a pod of its own. What is killed is started again, later each time, as the kubelet does
it. The sample of a kill is what the kernel printed of it, as the agent told it. Times are real: nothing is scaled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .agent import Document
from .containers import MIB, Container, Pod
from .expected import ANY, Expected, of
from .lab import OUT, Lab
from .runtimes import JAVA, NODE, PYTHON, programs_root
from .samples import Row, sample, sample_of_kill, write_history
from .witness import counters

RECORD_SECONDS = 2000
SAMPLE_SECONDS = 5.0
TICK_SECONDS = 0.2
BACK_OFF_SECONDS, MOST_BACK_OFF_SECONDS = 10.0, 300.0  # the kubelet's
DATA = Path("/var/lib/data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    name: str
    command: Sequence[str]
    limit_mib: int
    dies: bool = True
    every: float = SAMPLE_SECONDS


def python(program: str, *arguments: str) -> tuple[str, ...]:
    return PYTHON, f"/srv/{program}.py", *arguments


HEAP_128 = ("-Xmx128m", "-XX:+UseSerialGC", "-cp", "/srv", "Shop")
PROGRAMS = (
    Program(name="startup", command=python("startup", "100000000"), limit_mib=50, every=0.2),
    Program(name="python-cache-leak", command=python("cache_leak", "85"), limit_mib=96),
    Program(name="python-slow-leak", command=python("cache_leak", "60"), limit_mib=512, dies=False),
    Program(name="python-garbage", command=python("garbage", "40"), limit_mib=96, dies=False),
    Program(name="node-leak", command=(NODE, "--max-old-space-size=512", "/srv/leak.js", "80"), limit_mib=128),
    Program(
        name="node-bounded",
        command=(NODE, "--max-old-space-size=96", "/srv/bounded.js", "40"),
        limit_mib=192,
        dies=False,
    ),
    Program(name="jvm-heap-at-limit", command=(JAVA, *HEAP_128, "48", "8"), limit_mib=128, every=1.0),
    Program(name="jvm-off-heap", command=(JAVA, "-Xms128m", *HEAP_128, "60", "5"), limit_mib=160, dies=False),
    Program(name="jvm-off-heap-bursts", command=(JAVA, "-Xms128m", *HEAP_128, "60", "6"), limit_mib=158),
    Program(name="prefork", command=python("prefork", "4", "12", "0.9"), limit_mib=62),
    Program(name="tmpfs", command=python("uploads", "/dev/shm", "150"), limit_mib=96),
    Program(name="slab", command=python("sessions", "/dev/shm", "50"), limit_mib=48),
    Program(name="reader", command=python("reader", "/mnt/large"), limit_mib=96, dies=False),
    Program(name="spike", command=python("report", "16", "200", "800"), limit_mib=96),
)


@dataclass(slots=True)
class Recorder:
    """One program's lives."""

    program: Program
    rows: list[Row] = field(default_factory=list)
    lives: list[Container] = field(default_factory=list)
    _alive: bool = False
    _due: float = 0.0

    def tick(self, now: float) -> None:
        if now < self._due:
            return
        if not self._alive:
            self._start()
        elif self.lives[-1].alive():
            self._sample()
        else:
            self._alive = False
            back_off = min(BACK_OFF_SECONDS * 2 ** (len(self.lives) - 1), MOST_BACK_OFF_SECONDS)
            self._due = now + back_off
            return
        self._due = now + self.program.every

    def finish(self, documents: Sequence[Document]) -> list[Row]:
        """All samples, with those of the kills; what came after the last kill of a program that dies is left out."""
        ids = {life.id for life in self.lives}
        kills = [sample_of_kill(document) for document in documents if document["container"]["id"] in ids]
        rows = sorted([*self.rows, *kills], key=lambda row: float(row["time"]))
        if self.program.dies and kills:
            rows = rows[: rows.index(kills[-1]) + 1]
        return rows

    def _start(self) -> None:
        if self.lives:
            self.lives[-1].delete()
        limit, root = self.program.limit_mib * MIB, programs_root()
        container = Container(Pod(), *self.program.command, memory_max=limit, root=root, mounts={"/mnt": DATA})
        self.lives.append(container)
        self._alive = True
        self._sample(event="start")

    def _sample(self, **event: str) -> None:
        if (row := sample(self.lives[-1].cgroup, **event)) is not None:
            self.rows.append(row)


def record(lab: Lab) -> list[Expected]:
    DATA.mkdir()
    with (DATA / "large").open("wb") as file:
        file.truncate(256 * MIB)
    programs_root()
    recorders = [Recorder(program) for program in PROGRAMS]
    before = counters().vmstat
    until = time.monotonic() + RECORD_SECONDS
    while (now := time.monotonic()) < until:
        for recorder in recorders:
            recorder.tick(now)
        time.sleep(TICK_SECONDS)
    killed = counters().vmstat - before
    for recorder in recorders:
        recorder.lives[-1].delete()
    documents = lab.told(killed)
    for recorder in recorders:
        rows = recorder.finish(documents)
        write_history(OUT / "histories" / f"{recorder.program.name}.jsonl", rows)
        ends = sum(row.get("event") == "oom_kill" for row in rows)
        lab.figures[recorder.program.name] = f"{len(rows)} samples, {ends} kills, {len(recorder.lives)} lives"
    by_id = {life.id: life for recorder in recorders for life in recorder.lives}
    return [of(by_id[document["container"]["id"]], comm=ANY) for document in documents]
