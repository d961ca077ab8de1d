"""In the guest: prepare the node, start the agent, run every scenario, print one JSON line for each."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from . import latency
from .agent import PASS_SECONDS, Agent, Document
from .containers import BUNDLES, sh
from .expected import Expected, differences
from .lab import OUT, RATE_LIMIT_REPORTS, RATE_LIMIT_SECONDS, Lab, Scenario, wait_for_kills
from .scenarios import ON_REQUEST, SCENARIOS
from .witness import Counters, KernelLog, counters, killed_pids

KILL_SECONDS = 300


def emit(kind: str, **fields: Any) -> None:
    print(json.dumps({"kind": kind, **fields}), flush=True)


def prepare_node() -> None:
    for name, value in (("dmesg_restrict", "1"), ("printk_devkmsg", "on"), ("printk", "1")):
        Path("/proc/sys/kernel", name).write_text(f"{value}\n")
    BUNDLES.mkdir()
    sh("systemctl", "start", "kubepods.slice")  # started, it keeps its counters when the last pod goes


def describe_node() -> dict[str, Any]:
    name = os.uname()
    versions = {
        runtime: sh(runtime, "--version").splitlines()[0].removeprefix(f"{runtime} version ")
        for runtime in ("runc", "crun")
    }
    versions["containerd"] = sh("containerd", "--version").split()[2]
    return {"release": name.release, "version": name.version, "page_size": os.sysconf("SC_PAGE_SIZE"), **versions}


def told_pids(documents: list[Document]) -> list[int]:
    return [process["pid"] for document in documents for process in (document["victim"], *document["also_killed"])]


def check(
    scenario: Scenario, expected: list[Expected], documents: list[Document], printed: list[int], counted: Counters
) -> list[str]:
    """What is wrong with the agent's answer, and with the kernel's own numbers."""
    problems = differences(expected, documents)
    if scenario.lossy:
        if not len(told_pids(documents)) == counted.vmstat == counted.memory_events:
            problems.append(f"{len(documents)} incidents told, but the kernel counted {counted}")
    else:
        if sorted(told_pids(documents)) != sorted(set(printed)):
            problems.append(f"pids told {sorted(told_pids(documents))}, printed by the kernel {sorted(set(printed))}")
        if not len(printed) == counted.vmstat == counted.memory_events:
            problems.append(f"the kernel printed {len(printed)} kill lines but counted {counted}")
    return problems


def metric_problems(before: dict[str, float], after: dict[str, float], documents: list[Document]) -> list[str]:
    moved = {labels: after[labels] - before.get(labels, 0) for labels in after}
    told = Counter(f'cause="{document["cause"]}"' for document in documents)
    moved = {labels: value for labels, value in moved.items() if value}
    return [] if moved == told else [f"oom_kills_total moved by {moved}, told were {dict(told)}"]


def run(scenario: Scenario, log: KernelLog, agent: Agent) -> int:
    """Print its result; how many incidents the agent told."""
    lab = Lab(agent)
    started, position, before = time.monotonic(), log.position(), counters()
    kills, processes = agent.metrics("oom_kills_total"), agent.total("oom_killed_processes_total")
    documents: list[Document] = []
    try:
        expected = scenario.run(lab)
        wait_for_kills(before.vmstat + len(expected), KILL_SECONDS)
        documents = lab.told(len(expected))
        problems = check(scenario, expected, documents, killed_pids(log.since(position)), counters() - before)
        problems += metric_problems(kills, agent.metrics("oom_kills_total"), documents)
        if agent.total("oom_killed_processes_total") - processes != len(told_pids(documents)):
            problems.append("oom_killed_processes_total moved by another number than there are processes told")
    except Exception as error:  # noqa: BLE001  a broken scenario is a failed one; the rest still runs
        problems = [str(error) if isinstance(error, AssertionError) else traceback.format_exc()]
        agent.signal("CONT")
        time.sleep(5)  # what it killed is told before the next one begins
        documents = lab.told(0)
    finally:
        lab.clean_up()
    records, counted = log.since(position), counters() - before
    directory = OUT / scenario.name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kmsg").write_bytes(b"".join(records))
    (directory / "incidents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    emit(
        "scenario", name=scenario.name, problems=problems[:10], vmstat=counted.vmstat,
        memory_events=counted.memory_events, lines=len(killed_pids(records)), processes=len(told_pids(documents)),
        incidents=len(documents), seconds=round(time.monotonic() - started, 1),
        figures={name: str(value) for name, value in lab.figures.items()},
    )  # fmt: skip
    if counted.vmstat > RATE_LIMIT_REPORTS / 2:
        time.sleep(RATE_LIMIT_SECONDS)  # the next scenario's kills are to have their reports
    return len(documents)


def totals(agent: Agent, told: int) -> None:
    """Over the whole boot: every incident once, every counter equal to what was told. A late double would come now."""
    time.sleep(PASS_SECONDS + 2)
    documents, problems = agent.incidents(), []
    if len(documents) != told:
        problems.append(f"{len(documents)} incidents told, {told} of them in a scenario")
    if len({document["id"] for document in documents}) != len(documents):
        problems.append("an incident id comes twice")
    if agent.total("oom_kills_total") != len(documents):
        problems.append(f"oom_kills_total is {agent.total('oom_kills_total')}, told were {len(documents)}")
    if (seconds := agent.stop()) > 6:
        problems.append(f"SIGTERM took {seconds:.1f} s")
    emit("scenario", name="totals", problems=problems, incidents=len(documents), processes=len(told_pids(documents)))


def main() -> None:
    prepare_node()
    wanted = sys.argv[1:] or [scenario.name for scenario in SCENARIOS]
    log = KernelLog()
    agent = Agent("main")
    told = 0
    emit("node", **describe_node(), agent_sources=sorted(agent.sources_up()))
    for scenario in (*SCENARIOS, *ON_REQUEST):
        if scenario.name == "node":  # from here on the node's caches are cold
            emit("latency", **latency.measure(log, agent))
            told = len(agent.wait_for(int(agent.total("oom_kills_total"))))
        if scenario.name in wanted:
            told += run(scenario, log, agent)
    totals(agent, told)
    for name in ("stdout", "stderr"):
        for path in Path("/run/agent").glob(f"*/{name}"):
            (OUT / f"agent-{path.parent.name}-{name}").write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
