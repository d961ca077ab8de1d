"""Nothing is lost and nothing told twice: storms, an agent that is away, a ring that is overwritten."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path

from .agent import PASS_SECONDS, Document, wait_until
from .containers import MIB, BareContainer, Parent, Pod, reap
from .expected import Expected, by_counter, in_storm, of, rightly_attributed
from .lab import Lab, check_told, flood, process_events, second_agent
from .witness import events

LIMIT = 8 * MIB


def bare(count: int, *, to_a_pod: int = 1) -> list[BareContainer]:
    """So many containers, each with the same small limit of its own."""
    pods = [Pod(driver="cgroupfs") for _ in range(count // to_a_pod)]
    return [BareContainer(pod, LIMIT) for pod, _ in product(pods, range(to_a_pod))]


def are_gone(pids: Iterable[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def burst(lab: Lab) -> list[Expected]:
    """
    200 kills of children in 20 containers, faster than the kernel's rate limit for reports: most are a bare kill line,
    whose cgroup nobody has named. A second agent has to do without the proc connector.
    """
    containers, killed = bare(20, to_a_pod=2), dict[int, BareContainer]()
    parents = [(Parent(container), container) for container in containers]
    with second_agent("no-connector", flags=("--proc-connector", "off")) as other, process_events(lab):
        time.sleep(PASS_SECONDS)
        started = time.monotonic()
        for _ in range(10):
            hogs = {parent.fork(): container for parent, container in parents}
            wait_until(partial(are_gone, hogs), 30, lambda: "not killed")
            killed |= hogs
        lab.figures["kills a second"] = round(len(killed) / (time.monotonic() - started), 1)
        expected = [in_storm(container, pid) for pid, container in killed.items()]
        documents = lab.told(len(killed))
        others = check_told(other, expected)
    right = rightly_attributed(documents, killed)
    lab.figures["bare kill lines"] = sum("report" not in document["evidence"] for document in documents)
    lab.figures["right container"] = f"{right} of {len(killed)}"
    lab.figures["without the proc connector"] = f"{rightly_attributed(others, killed)} of {len(killed)}"
    for parent, _ in parents:
        parent.end()
    assert right >= 0.99 * len(killed), f"{right} of {len(killed)} with the right container"
    return expected


def group_of_90(lab: Lab) -> list[Expected]:
    container = BareContainer(Pod(driver="cgroupfs"), 64 * MIB, oom_group=True)
    others = [container.start("-m", "0") for _ in range(89)]
    pid = container.kill()
    for other in others:
        reap(other)

    def all_members(document: Document) -> bool:
        return sorted(process["pid"] for process in document["also_killed"]) == sorted(others)

    return [of(container, pid=pid, group_kill=True, also=all_members)]


def overrun(lab: Lab) -> list[Expected]:
    """
    The agent stands still while kills are overwritten in the ring: in a container that lives on, in one that goes, in
    one that it has never seen. One more kill comes after the flood.
    """
    stays, goes = bare(2)
    before = lab.agent.total("oom_collector_records_lost_total")
    lab.agent.signal("STOP")
    for container in (stays, goes) * 3:
        container.kill()
    goes.remove()
    (new,) = bare(1)
    new.kill(), new.kill()
    flood()
    seen = stays.kill()
    lab.agent.signal("CONT")
    wait_until(
        lambda: lab.agent.total("oom_collector_records_lost_total") > before, 30, lambda: "no record is counted as lost"
    )
    return [
        of(stays, pid=seen), *[by_counter(stays)] * 3, *[by_counter(goes, gone=True)] * 3, *[by_counter(new)] * 2
    ]  # fmt: skip


def downtime(lab: Lab) -> list[Expected]:
    """The agent is away while ten processes are killed, twice: the ring still has them; it has them no more."""
    containers = bare(5)
    with second_agent("downtime", flags=("--metrics-hold", "0")) as other:
        other.stop()
        in_ring = [in_storm(container, container.kill()) for container in containers * 2]
        other.start()
        check_told(other, in_ring)
        lost = other.total("oom_collector_records_lost_total")
        other.stop()
        lost_kills = [in_storm(container, container.kill()) for container in containers * 2]
        lab.told(20)  # the first agent has them before they are overwritten
        flood()
        other.start()
        check_told(other, [*in_ring, *(by_counter(container) for container in containers * 2)])
        assert other.total("oom_collector_records_lost_total") > lost, "no record is counted as lost"
    return in_ring + lost_kills


def vanish(lab: Lab) -> list[Expected]:
    """Containers that are killed and removed at once, each the last of its pod, which goes too."""
    killed, spans = dict[int, BareContainer](), []
    with process_events(lab):
        for _ in range(20):
            pod = Pod(driver="cgroupfs")
            started = time.monotonic()
            container = BareContainer(pod, 2 * MIB)
            killed[container.kill()] = container
            container.remove()
            pod.remove()
            spans.append(time.monotonic() - started)
        documents = lab.told(len(killed))
    right = rightly_attributed(documents, killed)
    lab.figures["made, killed and removed in ms"] = (
        f"{min(spans) * 1000:.0f} to {max(spans) * 1000:.0f}, median {statistics.median(spans) * 1000:.0f}"
    )
    lab.figures["bare kill lines"] = sum("report" not in document["evidence"] for document in documents)
    lab.figures["right pod"] = f"{right} of {len(killed)}"
    # The first ten are printed with their path. Of the rest, which live for 40 ms and more, a bare line tells the pid alone.
    assert right >= 15, f"{right} of {len(killed)} with the right pod"
    return [in_storm(container, pid) for pid, container in killed.items()]


def kill_9(lab: Lab) -> list[Expected]:
    """An agent that dies and comes back, at any moment of a kill's way: nothing is lost, and nothing counted twice."""
    rounds = 50 if os.uname().release.startswith("6.1.") else 5
    (container,), chance, pids = bare(1), random.Random(9), []
    always = "Restart=always", "RestartSec=0", "StartLimitIntervalSec=0"
    with second_agent("kill-9", *always, flags=("--metrics-hold", "0")) as other:
        for round_ in range(rounds):
            if round_ % 5:  # else it may die while it starts, and the kill falls into its downtime
                other.wait_ready()
            pids.append(container.kill())
            time.sleep(chance.uniform(0, 0.2 if round_ % 2 else 2.3))  # before and while it is written, or settled
            other.signal("KILL")
        other.wait_ready()
        expected = [in_storm(container, pid) for pid in pids]
        check_told(other, expected)
    counted = events(container.pod.cgroup)["oom_kill"]
    assert counted == rounds, f"the pod's counter moved by {counted}, not {rounds}"
    return expected
