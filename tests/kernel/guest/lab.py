"""What a scenario works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .agent import PASS_SECONDS, Agent, Document, wait_until
from .containers import Container, Pod
from .expected import Expected, differences
from .witness import counters, killed_pids, ring

OUT = Path("/lab/out")  # comes back to the host
# The kernel prints ten reports in so many seconds, then kill lines alone.
RATE_LIMIT_SECONDS = 5
RATE_LIMIT_REPORTS = 10


@dataclass(slots=True)
class Lab:
    """One scenario's view of the node. `figures` are printed with its result; containers are deleted when it is over."""

    agent: Agent
    figures: dict[str, object] = field(default_factory=dict)
    made: list[Container] = field(default_factory=list)
    _before: int = field(init=False)

    def __post_init__(self) -> None:
        self._before = len(self.agent.incidents())

    def told(self, count: int) -> list[Document]:
        """What the agent has told since the scenario began, once there are `count`."""
        return self.agent.wait_for(self._before + count)[self._before :]

    def container(self, pod: Pod, *command: str, **settings: Any) -> Container:
        made = Container(pod, *command, **settings)
        self.made.append(made)
        return made

    def clean_up(self) -> None:
        while self.made:
            self.made.pop().delete()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`lossy`: records are meant to be lost, so that the log cannot be compared kill by kill."""

    name: str
    run: Callable[[Lab], list[Expected]]
    lossy: bool = False


@dataclass(slots=True)
class Cost:
    """What the agent took over a span of time."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def share(self) -> float:
        """Of one core."""
        return self.cpu_seconds / self.seconds

    def __str__(self) -> str:
        return f"{self.share:.1%} of a core over {self.seconds:.0f} s"


@contextmanager
def cost_of(agent: Agent) -> Iterator[Cost]:
    """Measure the body; /metrics should not be read in it."""
    cost, started, before = Cost(), time.monotonic(), agent.usage()
    yield cost
    cost.seconds = time.monotonic() - started
    cost.cpu_seconds = agent.usage().cpu_seconds - before.cpu_seconds


@contextmanager
def second_agent(name: str, *properties: str, **settings: Sequence[str]) -> Iterator[Agent]:
    """
    One more agent beside the first, in its own way; stopped at the end.

    The ring and the counters hold kills from before its first start: those are no incidents to be told.
    """
    agent = Agent(name, *properties, **settings)
    try:
        agent.wait_ready()
        yield agent
    finally:
        seconds = agent.stop()
    assert seconds < 6, f"SIGTERM took {seconds:.1f} s"


@contextmanager
def process_events(lab: Lab) -> Iterator[None]:
    """Note what the proc connector missed meanwhile, for a full buffer or to bound its CPU."""
    names = ("lost", "shed")

    def now() -> dict[str, float]:
        return {name: lab.agent.total(f"oom_collector_process_events_{name}_total") for name in names}

    before = now()
    yield
    lab.figures |= {f"process events {name}": f"{count - before[name]:.0f}" for name, count in now().items()}


def check_told(agent: Agent, expected: Sequence[Expected]) -> list[Document]:
    """
    Check all that a second agent has told: each incident, counted once; a repeat on stdout carries the same id.

    Waits for as long as another source may still tell the same kills a second time.
    """
    agent.wait_for(len(expected))
    time.sleep(PASS_SECONDS + 2)
    documents = list({document["id"]: document for document in agent.incidents()}.values())
    problems = differences(expected, documents)
    if (counted := agent.total("oom_kills_total")) != len(expected):
        problems.append(f"oom_kills_total is {counted:.0f}, not {len(expected)}")
    assert not problems, f"{agent.unit}: " + "; ".join(problems[:5])
    return documents


def wait_for_kills(count: int, seconds: float = 60) -> None:
    """Until the kernel has counted so many since boot."""
    wait_until(lambda: counters().vmstat >= count, seconds, lambda: f"the kernel killed nothing in {seconds} s")


def flood() -> None:
    """Overwrite the ring: it holds no kill afterwards."""
    with Path("/dev/kmsg").open("wb", buffering=0) as kmsg:
        kmsg.writelines(b"<6>flood %04d %s\n" % (n, b"x" * 60) for n in range(4000))
    assert not killed_pids(ring()), "the ring still holds kills"


def shell(script: str) -> tuple[str, str, str]:
    """The shell is PID 1 and stays it: with one command alone it would exec it."""
    return "/bin/sh", "-c", f"{script}; :"
