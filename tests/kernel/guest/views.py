"""What the agent may see: without a right, through a read-only mount, of a part of the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .agent import KERNEL_LOGS, Agent, wait_until
from .containers import MIB, BareContainer, Pod, make_cgroup
from .expected import Expected, of
from .lab import Lab, check_told, second_agent
from .once import bare
from .witness import CGROUPS


def refused(source: str, *properties: str) -> Callable[[Lab], list[Expected]]:
    """Make the scenario of an agent that may not open /dev/kmsg, as in a pod that is not privileged: another log does."""

    def scenario(lab: Lab) -> list[Expected]:
        with second_agent(source, "DevicePolicy=closed", *properties) as other:
            up = other.sources_up() & KERNEL_LOGS
            assert up == {source}, f"kernel logs up: {up}"
            return one_kill(other)

    return scenario


def one_kill(agent: Agent) -> list[Expected]:
    (container,) = bare(1)
    expected = [of(container, pid=container.kill())]
    check_told(agent, expected)
    return expected


def nobody(lab: Lab) -> list[Expected]:
    """Without any right the agent still runs and says what it lacks."""
    other = Agent("nobody", "DevicePolicy=closed", "User=nobody", "CapabilityBoundingSet=")
    wait_until(lambda: "journald" in other.log(), 30, lambda: f"it does not say what is missing: {other.log()}")
    for source in KERNEL_LOGS:
        assert source in other.log(), f"nothing is said of {source}: {other.log()}"
    assert not other.sources_up() & KERNEL_LOGS
    assert other.status("/readyz") == 503
    other.stop()
    return []


def read_only(lab: Lab) -> list[Expected]:
    """The cgroup tree is mounted read-only, as it should be in a pod."""
    with second_agent("read-only", "ProtectControlGroups=yes") as other:
        assert "cgroup" in other.sources_up(), f"sources up: {other.sources_up()}"
        return one_kill(other)


def namespaced(lab: Lab) -> list[Expected]:
    """An agent that shares the kernel's log with other nodes, and sees only its own node's cgroups, as in kind."""
    node, view = "/kind", Path("/run/view")
    ours = [BareContainer(Pod(driver="cgroupfs", below=f"{node}/kubelet"), 8 * MIB) for _ in range(2)]
    others = [
        *bare(1),
        BareContainer(Pod(driver="cgroupfs", below="/kind2/kubelet"), 8 * MIB),
    ]
    make_cgroup(f"{node}/agent")
    view.mkdir()
    enter = f'echo 0 >{CGROUPS}{node}/agent/cgroup.procs && exec unshare --cgroup "$@"'
    with second_agent(
        "namespaced", f"BindPaths={CGROUPS}{node}:{view}",
        flags=("--cgroup-root", str(view)), wrapper=("sh", "-c", enter, "sh"),
    ) as other:  # fmt: skip
        foreign = [of(container, pid=container.kill()) for container in (*others, others[0])]
        inside = [of(container, pid=container.kill()) for container in (*ours, ours[0])]
        check_told(other, inside)
        told = other.total("oom_collector_foreign_kills_total")
        assert told == len(foreign), f"{told} foreign kills counted, not {len(foreign)}"
    return foreign + inside
