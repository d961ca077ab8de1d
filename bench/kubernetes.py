"""The agent beside an API server: the double of the tests, in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from bench import skipping
from bench.api_process import NODE, ApiProcess
from bench.fleet import Fleet
from bench.measure import MIB, Figure, cpu_seconds, peak_rss_bytes, rss_bytes
from bench.pods import NAMESPACE, container_name, make_pod
from collector.kube.access import from_kubeconfig
from tests.agent_process import AgentProcess
from tests.cgroups import tree_maker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collector.kube.access import Access

_IN_MEMORY = Path("/dev/shm")
_PASS_SECONDS = 10
_NEVER = "300"
_EVENTS = 300
_PER_SECOND = 100
_ROUNDS = 5
_HOURS = 100


class _World(NamedTuple):
    directory: Path
    api: ApiProcess


def measure() -> Iterator[Figure]:
    yield from _measure_memory()
    for streamed in (True, False):
        yield _measure_listing(streamed=streamed)
    yield from _measure_events()
    yield from _measure_requests()


def _measure_memory(pods: int = 110) -> Iterator[Figure]:
    with _world(pods=pods) as world:
        with _agent(world, "--kubernetes", "off") as agent:
            alone = _settle(agent)
        with _agent(world, *_api(world)) as agent:
            agent.until(lambda: _is_up(agent))
            rss = _settle(agent)
    yield Figure(
        what=f"whole agent, {pods} pods: RSS idle",
        value=rss / MIB,
        unit="MiB",
        must=64,
        aim=52,
        note=f"all but the proc connector; {pods} containers, pods of 9.4 kB, streamed; {alone / MIB:.1f} MiB without"
        " the API",
    )


def _measure_listing(pods: int = 250, *, streamed: bool) -> Figure:
    with _world(pods=pods, streamed=streamed) as world, _agent(world, *_api(world)) as agent:
        agent.until(lambda: _is_up(agent))
        idle, peak = _settle(agent), peak_rss_bytes(agent.pid)
    return Figure(
        what=f"{pods} pods listed, {'streamed' if streamed else 'as one list'}: peak RSS against RSS idle",
        value=peak / idle,
        unit="x",
        must=1.15,
        aim=1.05,
        note=f"{peak / MIB:.1f} MiB at most, of the whole start; {idle / MIB:.1f} MiB idle",
    )


def _measure_events(pods: int = 250) -> Iterator[Figure]:
    """What the agent does of itself meanwhile is left in."""
    with _world(pods=pods) as world, _agent(world, *_api(world), "--sample-interval", _NEVER) as agent:
        agent.until(lambda: _is_up(agent))
        with _bare_reader(world.api) as bare:
            time.sleep(3)
            at_once = _cpu_per_event(world.api, agent.pid, bare, per_second=None)
            paced = _cpu_per_event(world.api, agent.pid, bare, per_second=_PER_SECOND)
    what = f"watch event, {pods} pods"
    yield Figure(
        what=f"{what}: CPU",
        value=at_once.agent * 1e6,
        unit="us",
        must=100,
        aim=60,
        note=f"9.4 kB each over TLS, {_EVENTS} at once; a process that does nothing but read and decode such lines"
        f" takes {at_once.bare * 1e6:.0f} us; best of {_ROUNDS}",
    )
    yield Figure(
        what=f"{what}, one at a time: CPU",
        value=paced.agent * 1e6,
        unit="us",
        note=f"{_PER_SECOND} a second: each wakes a process whose memory is out of the caches by then; that other"
        f" process {paced.bare * 1e6:.0f} us",
    )


class _PerEvent(NamedTuple):
    """Seconds of CPU."""

    agent: float
    bare: float


def _cpu_per_event(api: ApiProcess, agent: int, bare: int, *, per_second: float | None) -> _PerEvent:
    best = _PerEvent(math.inf, math.inf)
    for _ in range(_ROUNDS):
        before = cpu_seconds(agent), cpu_seconds(bare)
        api.change(_EVENTS, per_second=per_second)
        time.sleep(0.5)
        best = _PerEvent(
            min(best.agent, (cpu_seconds(agent) - before[0]) / _EVENTS),
            min(best.bare, (cpu_seconds(bare) - before[1]) / _EVENTS),
        )
    return best


@contextmanager
def _bare_reader(api: ApiProcess) -> Iterator[int]:
    """Another watch, by nothing but blocking reads and json.loads(). Its pid."""
    command = [sys.executable, "-m", "bench.kubernetes", str(api.kubeconfig)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


async def _read_access(kubeconfig: Path) -> Access:
    return await from_kubeconfig(kubeconfig)()


def _read_barely(kubeconfig: Path) -> None:
    access = asyncio.run(_read_access(kubeconfig))
    address = urlsplit(access.server)
    connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=access.tls_context())
    query = f"fieldSelector=spec.nodeName={NODE}&watch=true&resourceVersion=0"
    connection.request("GET", f"/api/v1/pods?{query}", headers={"Authorization": access.authorization or ""})
    response = connection.getresponse()
    print(flush=True)
    for line in response:
        json.loads(line)


def _measure_requests() -> Iterator[Figure]:
    for streamed in (True, False):
        with _world(pods=110, streamed=streamed) as world, _agent(world, *_api(world)) as agent:
            agent.until(lambda: _is_up(agent))
            time.sleep(2)
            counts = world.api.counts()
        yield Figure(
            what=f"API requests of an agent's start, {'streamed list' if streamed else 'a server that cannot stream'}",
            value=sum(counts.values()),
            unit="",
            must=3,
            aim=2,
            note=", ".join(f"{request} ({count})" for request, count in counts.items()),
        )
    hours = skipping.run(_idle_hour(_HOURS))
    yield Figure(
        what="API requests of an idle hour",
        value=max(hours),
        unit="",
        must=20,
        aim=15,
        note=f"the most of {_HOURS} reflectors, {sum(hours) / len(hours):.1f} on average; with the timing they ship"
        " with, at the double, on a clock that skips ahead whenever all of them wait",
    )


async def _idle_hour(nodes: int) -> list[int]:
    fleet = Fleet(nodes, pods=1)
    async with fleet.running():
        await asyncio.sleep(60)
        assert all(node.is_up for node in fleet.nodes)
        before = [node.requests for node in fleet.nodes]
        await asyncio.sleep(3600)
        return [node.requests - known for node, known in zip(fleet.nodes, before, strict=True)]


# A node


@contextmanager
def running_agent(*, pods: int) -> Iterator[AgentProcess]:
    """Beside the API server, with all pods known."""
    with _world(pods=pods) as world, _agent(world, *_api(world)) as agent:
        agent.until(lambda: _is_up(agent))
        yield agent


@contextmanager
def _world(*, pods: int, streamed: bool = True) -> Iterator[_World]:
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as name:
        directory = Path(name)
        tree_maker.make_node(directory / "cgroup", containers=pods, in_pod=1)
        _make_logs(directory / "log", pods)
        with ApiProcess(directory, pods=pods, streamed=streamed) as api:
            yield _World(directory, api)


def _make_logs(logs: Path, pods: int) -> None:
    (logs / "containers").mkdir(parents=True)
    container = container_name()
    for number in range(pods):
        pod = make_pod(number, NODE)["metadata"]
        folder = logs / "pods" / f"{NAMESPACE}_{pod['name']}_{pod['uid']}" / container
        folder.mkdir(parents=True)
        container_id = tree_maker.CONTAINER_ID % (1000 * number)
        link = logs / "containers" / f"{pod['name']}_{NAMESPACE}_{container}-{container_id}.log"
        link.symlink_to(folder / "0.log")


def _agent(world: _World, *arguments: str) -> AgentProcess:
    directory = world.directory
    state = Path(tempfile.mkdtemp(dir=directory))
    return AgentProcess(
        *("--state-dir", str(state), "--cgroup-root", str(directory / "cgroup"), "--pod-logs", str(directory / "log")),
        *("--node-name", NODE, "--proc-connector", "off", *arguments),
        directory=state,
    )


def _api(world: _World) -> tuple[str, ...]:
    return "--kubeconfig", str(world.api.kubeconfig), "--api-jitter", "0"


def _is_up(agent: AgentProcess) -> bool:
    return agent.metric('oom_collector_source_up{source="pods"}') == 1


def _settle(agent: AgentProcess) -> int:
    """RSS after the first passes and a scrape."""
    agent.get("/metrics")
    time.sleep(_PASS_SECONDS + 2)
    return rss_bytes(agent.pid)


if __name__ == "__main__":
    _read_barely(Path(sys.argv[1]))
