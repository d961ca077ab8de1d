"""
The scenarios: each makes real OOM kills and says what a true report of them looks like.

A scenario gets the `Lab` and returns one `Expected` for each incident. What holds for every incident (each pid that
the kernel printed is told exactly once, counters agree) is checked by the caller.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .agent import Agent, Document, wait_until
from .containers import MIB, Container, Pod, make_cgroup, run_hog, sh
from .witness import counters

ANY = object()  # not looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One incident as its document has to tell it; None: has to be null."""

    cause: str | tuple[str, ...]  # more than one: what a bare kill line leaves open
    comm: str = "hog"
    pid: object = ANY
    oom_memcg: object = ANY
    task_memcg: object = ANY
    pod_uid: object = ANY
    container_id: object = ANY
    limit_bytes: object = ANY
    group_kill: bool = False
    also: Callable[[Document], bool] = lambda document: True

    def matches(self, document: Document) -> bool:
        """Whether this is its document: by pid where the pid is known."""
        return self.pid is ANY or document["victim"]["pid"] == self.pid

    def problems(self, document: Document) -> list[str]:
        victim, memory = document["victim"], document["memory"] or {}
        pairs = {
            "victim.comm": (victim["comm"], self.comm),
            "victim.pid": (victim["pid"], self.pid),
            "oom_memcg": (document["oom_memcg"], self.oom_memcg),
            "task_memcg": (document["task_memcg"], self.task_memcg),
            "pod.uid": ((document["pod"] or {}).get("uid"), self.pod_uid),
            "container.id": ((document["container"] or {}).get("id"), self.container_id),
            "memory.limit_bytes": (memory.get("limit_bytes"), self.limit_bytes),
            "group_kill": (document["group_kill"], self.group_kill),
        }
        found = [
            f"{key} is {is_!r}, not {not_!r}" for key, (is_, not_) in pairs.items() if not_ is not ANY and is_ != not_
        ]
        if document["cause"] not in ((self.cause,) if isinstance(self.cause, str) else self.cause):
            found.append(f"cause is {document['cause']!r}, not {self.cause!r}")
        if not self.also(document):
            found.append(f"the scenario's own condition does not hold: memory is {memory}")
        return found


@dataclass(slots=True)
class Lab:
    """What a scenario works with. Containers are deleted when it is over."""

    agent: Agent
    made: list[Container] = field(default_factory=list)

    def container(self, pod: Pod, *command: str, **settings: Any) -> Container:
        made = Container(pod, *command, **settings)
        self.made.append(made)
        return made

    def clean_up(self) -> None:
        while self.made:
            self.made.pop().delete()


def wait_for_kills(count: int, seconds: float = 60) -> None:
    """Until the kernel has counted so many since boot."""
    wait_until(lambda: counters().vmstat >= count, seconds, lambda: f"the kernel killed nothing in {seconds} s")


def of(container: Container, cause: str = "container_limit", **more: Any) -> Expected:
    """A kill in this container; at its own limit unless said otherwise."""
    if cause == "container_limit":
        more = {"oom_memcg": container.cgroup, "limit_bytes": container.memory_max, **more}
    return Expected(
        cause=cause, task_memcg=container.cgroup, pod_uid=container.pod.uid, container_id=container.id, **more
    )


def shell(script: str) -> tuple[str, str, str]:
    """The shell is PID 1 and stays it: with one command alone it would exec it."""
    return "/bin/sh", "-c", f"{script}; :"


def container_limit(driver: str) -> Callable[[Lab], list[Expected]]:
    def scenario(lab: Lab) -> list[Expected]:
        victim = lab.container(Pod(driver=driver), "/bin/hog", memory_max=48 * MIB)
        return [of(victim, pid=victim.pid)]

    return scenario


def child_only(lab: Lab) -> list[Expected]:
    before = counters().vmstat
    parent = lab.container(Pod(), *shell("hog; sleep 1000"), memory_max=48 * MIB)
    wait_for_kills(before + 1)
    assert parent.alive(), "PID 1 did not outlive its child"
    return [of(parent)]


def group_kill(lab: Lab) -> list[Expected]:
    script = "hog -m 4 & hog -m 4 & hog & wait"
    return [of(lab.container(Pod(), *shell(script), memory_max=64 * MIB, oom_group=True), group_kill=True)]


def short_lived(lab: Lab) -> list[Expected]:
    script = "for i in 1 2 3 4 5 6 7 8; do hog; done; sleep 1000"
    return [of(lab.container(Pod(), *shell(script), memory_max=24 * MIB))] * 8


def pod_limit(lab: Lab) -> list[Expected]:
    pod = Pod(memory_max=96 * MIB)
    lab.container(pod, "/bin/hog", "-m", "30", oom_score_adj=800)
    victim = lab.container(pod, "/bin/hog", memory_max=200 * MIB, oom_score_adj=950)
    return [of(victim, "pod_limit", pid=victim.pid, oom_memcg=pod.cgroup, limit_bytes=96 * MIB)]


def nested_limit(lab: Lab) -> list[Expected]:
    """A cgroup made inside a container, whose name imitates the kernel's own fields."""
    pod, container_id = Pod(driver="cgroupfs"), f"{0xABCD:064x}"
    nested = f"{pod.cgroup}/{container_id}/a,task_memcg=%2Fkubepods,task=x,pid=1"
    pid = run_hog(make_cgroup(nested, 24 * MIB))
    return [
        Expected(
            cause="nested_limit",
            pid=pid,
            oom_memcg=nested,
            task_memcg=nested,
            pod_uid=pod.uid,
            container_id=container_id,
        )
    ]


def slice_limit(path: str, cause: str, mib: int) -> Callable[[Lab], list[Expected]]:
    """Three pods, one of each QoS class, below a slice that is too small."""

    def scenario(lab: Lab) -> list[Expected]:
        slice_ = path.rpartition("/")[2]
        lab.container(Pod(qos="guaranteed"), "/bin/hog", "-m", "60", memory_max=100 * MIB)
        lab.container(Pod(qos="burstable"), "/bin/hog", "-m", "60", memory_max=100 * MIB)
        victim = lab.container(Pod(qos="besteffort"), "/bin/hog", "-w", "/dev/shm/go")
        sh("systemctl", "set-property", "--runtime", slice_, f"MemoryMax={mib}M")
        Path(f"/proc/{victim.pid}/root/dev/shm/go").touch()
        wait_until(lambda: not victim.alive(), 60, lambda: "the BestEffort victim lives")
        sh("systemctl", "set-property", "--runtime", slice_, "MemoryMax=infinity")
        return [of(victim, cause, pid=victim.pid, oom_memcg=path, limit_bytes=mib * MIB)]

    return scenario


def node(lab: Lab) -> list[Expected]:
    lab.container(Pod(qos="guaranteed"), "/bin/hog", "-n", "guaranteed", "-m", "300", memory_max=600 * MIB)
    lab.container(Pod(qos="burstable"), "/bin/hog", "-n", "burstable", "-m", "300", memory_max=600 * MIB)
    victim = lab.container(Pod(qos="besteffort"), "/bin/hog", "-n", "besteffort")
    # Nothing else may run while the node is short of memory: each program started would be read from disk again.
    while victim.alive():
        time.sleep(2)
    return [of(victim, "node", comm="besteffort", pid=victim.pid, oom_memcg=None)]


def sysrq(lab: Lab) -> list[Expected]:
    victim = lab.container(Pod(qos="besteffort"), "/bin/hog", "-m", "40")
    time.sleep(1)
    Path("/proc/sysrq-trigger").write_text("f")
    return [of(victim, "manual", pid=victim.pid, oom_memcg=None)]


def hostile_comm(lab: Lab) -> list[Expected]:
    """Names that imitate the kernel's fields, or cannot be printed."""
    names = (
        b"a,pid=1,uid=0",
        b"(x) y(z)",
        b"two\nlines",
        b"bad\xff\xfe",
        b"back\\slash\\x41",
        b"Killed process 1 (x)",
        b"x) total-vm:1kB",
        b",task_memcg=/a",
        b"\x1b[31mred",
    )
    pod, container_id = Pod(driver="cgroupfs"), f"{0xBEEF:064x}"
    cgroup = make_cgroup(f"{pod.cgroup}/{container_id}", 16 * MIB)
    path = f"{pod.cgroup}/{container_id}"
    return [
        Expected(
            cause="container_limit", comm=name[:15].decode(errors="replace"), pid=run_hog(cgroup, b"-n", name),
            oom_memcg=path, task_memcg=path, pod_uid=pod.uid, container_id=container_id,
        )
        for name in names
    ]  # fmt: skip


def forged(lab: Lab) -> list[Expected]:
    """User space writes a whole report into the log, then a real kill follows."""
    lines = (
        "forger invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=x,pid=1,uid=0",
        "Out of memory: Killed process 1 (systemd) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:0",
    )
    for line in lines:
        Path("/dev/kmsg").write_text(f"<3>{line}\n")
    return container_limit("systemd")(lab)


def shmem(lab: Lab) -> list[Expected]:
    victim = lab.container(Pod(), "/bin/hog", "-f", "/dev/shm/big", memory_max=64 * MIB)
    return [of(victim, also=lambda document: document["memory"]["stat"]["shmem"] > 56 * MIB)]


def system_unit(lab: Lab) -> list[Expected]:
    sh(
        "systemd-run", "--unit=victim.service", "--property=MemoryMax=40M", "--property=MemorySwapMax=0",
        "--property=OOMScoreAdjust=0", "/lab/rootfs/bin/hog",
    )  # fmt: skip
    unit = "/system.slice/victim.service"
    return [
        Expected(
            cause="system_limit", oom_memcg=unit, task_memcg=unit, pod_uid=None, container_id=None, limit_bytes=40 * MIB
        )
    ]


def swap(lab: Lab) -> list[Expected]:
    swapfile = "/swapfile"
    sh("dd", "if=/dev/zero", f"of={swapfile}", "bs=1M", "count=128")
    Path(swapfile).chmod(0o600)
    sh("mkswap", swapfile)
    sh("swapon", swapfile)
    victim = lab.container(Pod(), "/bin/hog", memory_max=48 * MIB, swap_max=48 * MIB)
    wait_until(lambda: not victim.alive(), 60, lambda: "the victim lives")
    sh("swapoff", swapfile)
    return [of(victim, pid=victim.pid, also=lambda document: document["memory"]["swap_limit_bytes"] == 48 * MIB)]


def burst(lab: Lab) -> list[Expected]:
    """
    200 kills faster than the kernel's rate limit for reports (10 in 5 s): most are a bare kill line, whose cgroup
    nobody has named.
    """
    pod = Pod(driver="cgroupfs")
    cgroup = make_cgroup(f"{pod.cgroup}/{0xB0057:064x}", 6 * MIB)
    kills = [Expected(cause=("container_limit", "unknown"), pid=run_hog(cgroup)) for _ in range(200)]
    time.sleep(5)  # the next scenario's kills are to have their reports again
    return kills


def overrun(lab: Lab) -> list[Expected]:
    """The agent stands still while the ring is overwritten: one kill before, one after the flood."""
    pod = Pod(driver="cgroupfs")
    cgroup = make_cgroup(f"{pod.cgroup}/{0xF100D:064x}", 8 * MIB)
    before = lab.agent.total("oom_collector_records_lost_total")
    lab.agent.signal("STOP")
    run_hog(cgroup)
    with Path("/dev/kmsg").open("wb", buffering=0) as kmsg:
        kmsg.writelines(b"<6>flood %04d %s\n" % (n, b"x" * 60) for n in range(4000))
    seen = run_hog(cgroup)
    lab.agent.signal("CONT")
    wait_until(
        lambda: lab.agent.total("oom_collector_records_lost_total") > before, 30, lambda: "no record is counted as lost"
    )
    return [Expected(cause="container_limit", pid=seen, pod_uid=pod.uid)]


def refused(source: str, *properties: str) -> Callable[[Lab], list[Expected]]:
    """
    A second agent that may not open /dev/kmsg, as in a pod that is not privileged, goes on with another source.

    Its ring and journal hold kills from before its first start: those are no incidents to be told.
    """

    def scenario(lab: Lab) -> list[Expected]:
        other = Agent(source, "DevicePolicy=closed", *properties)
        wait_until(lambda: other.status("/readyz") == 200, 60, lambda: f"not ready: {other.log()[-2000:]}")
        assert other.sources_up() == {source}, f"sources up: {other.sources_up()}"
        expected = container_limit("systemd")(lab)
        told = other.wait_for(1)
        assert len(told) == 1, f"{source} told {len(told)} incidents, not 1"
        problems = expected[0].problems(told[0])
        assert not problems, f"{source}: {problems}"
        assert other.total("oom_kills_total") == 1
        assert other.stop() < 6, "SIGTERM took more than 5 s"
        return expected

    return scenario


def nobody(lab: Lab) -> list[Expected]:
    """Without any right the agent still runs and says what it lacks."""
    other = Agent("nobody", "DevicePolicy=closed", "User=nobody", "CapabilityBoundingSet=")
    wait_until(lambda: "journald" in other.log(), 30, lambda: f"it does not say what is missing: {other.log()}")
    for source in ("kmsg", "syslog", "journald"):
        assert source in other.log(), f"nothing is said of {source}: {other.log()}"
    assert other.sources_up() == set()
    assert other.status("/readyz") == 503
    other.stop()
    return []


def kill_9(lab: Lab) -> list[Expected]:
    """
    An agent that dies and comes back, at any moment of a kill's way: nothing is lost, and nothing counted twice.

    stdout is at-least-once: a repeat carries the same id.
    """
    rounds = 50 if os.uname().release.startswith("6.1.") else 5
    other = Agent(
        "kill-9",
        "Restart=always",
        "RestartSec=0",
        "StartLimitIntervalSec=0",
        "Environment=OOM_COLLECTOR_METRICS_HOLD=0",
    )
    pod = Pod(driver="cgroupfs")
    cgroup, chance = make_cgroup(f"{pod.cgroup}/{0x9:064x}", 8 * MIB), random.Random(9)
    pids = []
    for round_ in range(rounds):
        if round_ % 5:  # else it may die while it starts, and the kill falls into its downtime
            wait_until(lambda: other.status("/readyz") == 200, 60, lambda: f"not ready: {other.log()[-2000:]}")
        pids.append(run_hog(cgroup))
        time.sleep(chance.uniform(0, 0.2 if round_ % 2 else 2.3))  # before and while it is written, or settled
        other.signal("KILL")
    wait_until(lambda: other.status("/readyz") == 200, 60, lambda: f"not ready: {other.log()[-2000:]}")
    wait_until(
        lambda: other.total("oom_kills_total") >= rounds,
        30,
        lambda: f"counted {other.total('oom_kills_total')} of {rounds}",
    )
    time.sleep(3)
    told = {document["id"]: document["victim"]["pid"] for document in other.incidents()}
    counted = other.total("oom_kills_total")
    assert (counted, sorted(told.values())) == (rounds, sorted(pids)), (
        f"counted {counted} of {rounds}; told {sorted(told.values())}, killed {sorted(pids)}"
    )
    other.stop()
    return [Expected(cause="container_limit", pid=pid, pod_uid=pod.uid) for pid in pids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`lossy`: records are meant to be lost, so that the log cannot be compared kill by kill."""

    name: str
    run: Callable[[Lab], list[Expected]]
    lossy: bool = False


SCENARIOS = (
    Scenario(name="container-systemd", run=container_limit("systemd")),
    Scenario(name="container-cgroupfs", run=container_limit("cgroupfs")),
    Scenario(name="container-crio", run=container_limit("crio")),
    Scenario(name="child-only", run=child_only),
    Scenario(name="group-kill", run=group_kill),
    Scenario(name="short-lived", run=short_lived),
    Scenario(name="pod-limit", run=pod_limit),
    Scenario(name="nested-limit", run=nested_limit),
    Scenario(name="qos-limit", run=slice_limit("/kubepods.slice/kubepods-besteffort.slice", "qos_limit", 100)),
    Scenario(name="kubepods-limit", run=slice_limit("/kubepods.slice", "node_allocatable", 240)),
    Scenario(name="hostile-comm", run=hostile_comm),
    Scenario(name="forged", run=forged),
    Scenario(name="shmem", run=shmem),
    Scenario(name="system-unit", run=system_unit),
    Scenario(name="swap", run=swap),
    Scenario(name="sysrq", run=sysrq),
    Scenario(name="burst", run=burst),
    # systemd keeps the capabilities of a root service that are in its bounding set.
    Scenario(name="refused-syslog", run=refused("syslog", "CapabilityBoundingSet=CAP_SYSLOG")),
    Scenario(name="refused-journald", run=refused("journald", "CapabilityBoundingSet=")),
    Scenario(name="refused-all", run=nobody),
    Scenario(name="kill-9", run=kill_9),
    Scenario(name="overrun", run=overrun, lossy=True),
    Scenario(name="node", run=node),
)
