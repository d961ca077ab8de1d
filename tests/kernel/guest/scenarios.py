"""
The scenarios: each makes real OOM kills and says what a true report of them looks like.

A scenario gets the `Lab` and returns one `Expected` for each incident. What holds for every incident (each pid that
the kernel printed is told exactly once, counters agree) is checked by the caller. Here are those of who was killed,
whose limit was hit and why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from .advice import advice_50mi, advice_jvm, advice_minutes, examples, walkthrough
from .agent import PASS_SECONDS, Document, wait_until
from .containers import MIB, BareContainer, Pod, make_cgroup, reap, sh, start_hog
from .end_to_end import api_down, cri, node_pressure
from .expected import ANY, Expected, in_storm, of
from .lab import RATE_LIMIT_REPORTS, RATE_LIMIT_SECONDS, Lab, Scenario, shell, wait_for_kills
from .load import churn, fork_storm, max_storm
from .once import bare, burst, downtime, group_of_90, kill_9, overrun, vanish
from .record import record
from .views import namespaced, nobody, read_only, refused
from .witness import counters


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
    container = BareContainer(Pod(driver="cgroupfs"))
    nested = f"{container.cgroup}/a,task_memcg=%2Fkubepods,task=x,pid=1"
    pid = reap(start_hog(make_cgroup(nested, 24 * MIB)))
    return [of(container, "nested_limit", pid=pid, oom_memcg=nested, task_memcg=nested)]


def slice_limit(path: str, cause: str, mib: int) -> Callable[[Lab], list[Expected]]:
    """Three pods, one of each QoS class, below a slice that is too small."""

    def scenario(lab: Lab) -> list[Expected]:
        slice_ = path.rpartition("/")[2]
        lab.container(Pod(qos="guaranteed"), "/bin/hog", "-m", "60", memory_max=100 * MIB)
        lab.container(Pod(qos="burstable"), "/bin/hog", "-m", "60", memory_max=100 * MIB)
        victim = lab.container(Pod(qos="besteffort"), "/bin/hog", "-w", "/dev/shm/go")
        sh("systemctl", "set-property", "--runtime", slice_, f"MemoryMax={mib}M")
        (victim.shared / "go").touch()
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
    container = BareContainer(Pod(driver="cgroupfs"), 16 * MIB)
    return [of(container, comm=name[:15].decode(errors="replace"), pid=container.kill(b"-n", name)) for name in names]


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


def collateral(lab: Lab) -> list[Expected]:
    """PID 1 of a pid namespace is killed at its limit; the kernel ends the rest with it, and prints nothing of them."""
    # By its path: what busybox's shell finds by name it executes as itself, and takes the name later.
    script = "for i in 1 2 3 4 5; do /bin/sleep 1000 & done; exec hog -w /dev/shm/go"
    victim = lab.container(Pod(), *shell(script), memory_max=48 * MIB)
    wait_until(lambda: len(victim.processes()) == 6, 30, lambda: f"its processes: {victim.processes()}")
    children = sorted(set(victim.processes()) - {victim.pid})
    time.sleep(PASS_SECONDS)
    (victim.shared / "go").touch()

    def lists_children(document: Document) -> bool:
        told = sorted((process["pid"], process["comm"]) for process in document.get("collateral", ()))
        return told == [(pid, "sleep") for pid in children]

    return [of(victim, pid=victim.pid, also=lists_children)]


def bare_cause(lab: Lab) -> list[Expected]:
    """The kernel has printed its ten reports and leaves the next two kills with one line each: whose limit was it?"""
    pod = Pod(driver="cgroupfs", memory_max=8 * MIB)
    in_pod, (in_container, *others) = BareContainer(pod, 64 * MIB), bare(RATE_LIMIT_REPORTS + 3)
    time.sleep(RATE_LIMIT_SECONDS)  # the first of these begins a new span
    hogs = {container.start(): container for container in others}
    reports = [in_storm(container, reap(pid)) for pid, container in hogs.items()]
    where = "process_index", "proc", "memory_events"

    def no_report(document: Document) -> bool:
        return not {"report", "summary_line"} & set(document["evidence"])

    return [
        *reports,
        of(in_pod, "pod_limit", pid=in_pod.kill(), method=where, also=no_report),
        of(in_container, pid=in_container.kill(), oom_memcg=ANY, limit_bytes=ANY, method=where, also=no_report),
    ]


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
    Scenario(name="collateral", run=collateral),
    Scenario(name="bare-cause", run=bare_cause),
    Scenario(name="group-90", run=group_of_90),
    Scenario(name="burst", run=burst),
    # systemd keeps the capabilities of a root service that are in its bounding set.
    Scenario(name="refused-syslog", run=refused("syslog", "CapabilityBoundingSet=CAP_SYSLOG")),
    Scenario(name="refused-journald", run=refused("journald", "CapabilityBoundingSet=")),
    Scenario(name="refused-all", run=nobody),
    Scenario(name="read-only", run=read_only),
    Scenario(name="namespaced", run=namespaced),
    Scenario(name="vanish", run=vanish),
    Scenario(name="churn", run=churn),
    Scenario(name="max-storm", run=max_storm),
    Scenario(name="fork-storm", run=fork_storm),
    Scenario(name="kill-9", run=kill_9),
    Scenario(name="downtime", run=downtime),
    Scenario(name="overrun", run=overrun, lossy=True),
    Scenario(name="node", run=node),
    Scenario(name="cri", run=cri),
    Scenario(name="cri-api-down", run=api_down),
    Scenario(name="cri-node", run=node_pressure),
    Scenario(name="examples", run=examples),
    Scenario(name="advice-50mi", run=advice_50mi),
    Scenario(name="advice-jvm", run=advice_jvm),
    Scenario(name="advice-minutes", run=advice_minutes),
)
# These are no tests: they run where they are asked for.
ON_REQUEST = (
    Scenario(name="record", run=record),
    Scenario(name="walkthrough", run=walkthrough),
)
