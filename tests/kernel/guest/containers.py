"""Pods and containers as the kubelet, containerd and CRI-O make them, without any of the three."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from .witness import CGROUPS

MIB = 1 << 20
ROOT = Path("/lab/rootfs")  # busybox and hog
HOG = ROOT / "bin/hog"
BUNDLES = Path("/run/lab")
CAPABILITIES = ["CAP_KILL", "CAP_SYS_RESOURCE"]

Qos = Literal["guaranteed", "burstable", "besteffort"]
ADJ: dict[Qos, int] = {"guaranteed": -997, "burstable": 900, "besteffort": 1000}  # as the kubelet would set it


@dataclass(frozen=True, slots=True)
class Driver:
    """A container runtime with one way to name cgroups."""

    command: tuple[str, ...]
    prefix: str | None  # of the scope; None: the cgroupfs driver


DRIVERS = {
    "systemd": Driver(("runc", "--systemd-cgroup"), "cri-containerd"),
    "cgroupfs": Driver(("runc",), None),
    "crio": Driver(("crun", "--systemd-cgroup"), "crio"),
}


def sh(*command: str) -> str:
    """Run a command that has to succeed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}"
    return done.stdout


class Pod:
    """A pod's cgroup. `cgroup` is its path as the kernel prints it; `below`: of another cgroup than the root."""

    made = 0

    def __init__(
        self,
        *,
        driver: str = "systemd",
        qos: Qos = "burstable",
        memory_max: int | None = None,
        below: str = "",
        uid: str | None = None,
    ) -> None:
        Pod.made += 1
        self.driver, self.qos = DRIVERS[driver], qos
        self.uid = uid or f"5d1f6a0e-27b4-4c39-9a18-{Pod.made:012x}"
        self.slice = ""
        tier = () if qos == "guaranteed" else (qos,)
        if self.driver.prefix:
            self.slice = "-".join(("kubepods", *tier, f"pod{self.uid.replace('-', '_')}.slice"))
            self.cgroup = "/".join(("", "kubepods.slice", *(f"kubepods-{name}.slice" for name in tier), self.slice))
            sh("systemctl", "start", self.slice)
            if memory_max:
                sh("systemctl", "set-property", "--runtime", self.slice, f"MemoryMax={memory_max}")
        else:
            self.cgroup = "/".join((f"{below}/kubepods", *tier, f"pod{self.uid}"))
            make_cgroup(self.cgroup, memory_max)

    def remove(self) -> None:
        """Only where it was made by hand."""
        (CGROUPS / self.cgroup.lstrip("/")).rmdir()

    def container_cgroup(self, container_id: str) -> tuple[str, str]:
        """The container's cgroup, and the cgroupsPath that the runtime is given for it."""
        if not self.driver.prefix:
            return f"{self.cgroup}/{container_id}", f"{self.cgroup}/{container_id}"
        scope = f"{self.cgroup}/{self.driver.prefix}-{container_id}.scope"
        if self.driver.prefix == "crio":
            scope += "/container"  # crun puts the processes one level down
        return scope, f"{self.slice}:{self.driver.prefix}:{container_id}"


def make_cgroup(path: str, memory_max: int | None = None) -> Path:
    """Make a cgroup and its parents by hand, as the cgroupfs driver does."""
    directory = CGROUPS
    for name in path.strip("/").split("/"):
        if "memory" not in (directory / "cgroup.subtree_control").read_text():
            (directory / "cgroup.subtree_control").write_text("+memory +pids")
        directory /= name
        directory.mkdir(exist_ok=True)
    if memory_max:
        (directory / "memory.max").write_text(str(memory_max))
        (directory / "memory.swap.max").write_text("0")
    return directory


class Container:
    """A running container. `cgroup` is the path of its processes as the kernel prints it, `pid` the host's."""

    made = 0

    def __init__(
        self,
        pod: Pod,
        *command: str,
        memory_max: int | None = None,
        swap_max: int = 0,
        oom_group: bool = False,
        oom_score_adj: int | None = None,
        root: Path = ROOT,
        mounts: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        """mounts: directories and files of the node, by where the container sees them."""
        Container.made += 1
        self.pod, self.memory_max = pod, memory_max
        self.id = f"{0xC0FFEE0000 + Container.made:064x}"
        self.cgroup, cgroups_path = pod.container_cgroup(self.id)
        bundle = BUNDLES / self.id
        bundle.mkdir(parents=True)
        adj = ADJ[pod.qos] if oom_score_adj is None else oom_score_adj
        resources: dict[str, object] = {
            "unified": {"memory.swap.max": str(swap_max), "memory.oom.group": str(int(oom_group))}
        }
        if memory_max:
            resources["memory"] = {"limit": memory_max}
        config = oci_config(list(command), adj, cgroups_path, resources, root, mounts)
        (bundle / "config.json").write_text(json.dumps(config))
        # Not a pipe: the container keeps the log open for as long as it lives.
        with (bundle / "log").open("wb") as log:
            started = subprocess.run(
                [*pod.driver.command, "run", "--detach", "--bundle", bundle, "--pid-file", bundle / "pid", self.id],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
            )  # fmt: skip
        assert started.returncode == 0, (bundle / "log").read_text()
        self.pid = int((bundle / "pid").read_text())

    @property
    def shared(self) -> Path:
        """Its /dev/shm, as the host sees it."""
        return Path(f"/proc/{self.pid}/root/dev/shm")

    def alive(self) -> bool:
        try:
            return "\nState:\tZ" not in Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
            return False

    def processes(self) -> list[int]:
        return [int(pid) for pid in (CGROUPS / self.cgroup.lstrip("/") / "cgroup.procs").read_text().split()]

    def delete(self) -> None:
        sh(*self.pod.driver.command, "delete", "--force", self.id)


def oci_config(
    args: list[str],
    adj: int,
    cgroups_path: str,
    resources: dict[str, object],
    root: Path,
    mounts: Mapping[str, Path],
) -> dict[str, object]:
    """Build a config.json of the OCI runtime specification: as little as runc and crun both take."""

    def mount(where: str, kind: str, *options: str) -> dict[str, object]:
        return {"destination": where, "type": kind, "source": kind, "options": list(options)}

    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/bin:/bin"],
            "oomScoreAdj": adj,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        },
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "mode=755", "size=1m"),
            mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "size=512m"),
            *(
                {"destination": where, "source": str(source), "options": ["rbind", "ro"]}
                for where, source in mounts.items()
            ),
        ],
        "linux": {
            "cgroupsPath": cgroups_path,
            "resources": resources,
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
        },
    }


class BareContainer:
    """A container's cgroup under the cgroupfs driver's names, without a runtime: pids are known, and it takes no time."""

    made = 0

    def __init__(self, pod: Pod, memory_max: int | None = None, *, oom_group: bool = False) -> None:
        BareContainer.made += 1
        self.pod, self.memory_max = pod, memory_max
        self.id = f"{0xBA4E000000 + BareContainer.made:064x}"
        self.cgroup = f"{pod.cgroup}/{self.id}"
        self.directory = make_cgroup(self.cgroup, memory_max)
        if oom_group:
            (self.directory / "memory.oom.group").write_text("1")

    def start(self, *options: str | bytes) -> int:
        """Start one hog; its pid."""
        return start_hog(self.directory, *options)

    def kill(self, *options: str | bytes) -> int:
        """Start one hog, and wait until it has been killed; its pid."""
        return reap(self.start(*options))

    def remove(self) -> None:
        self.directory.rmdir()


class Parent:
    """The main process of a container: its children eat, and it lives on."""

    def __init__(self, container: BareContainer) -> None:
        here, self._orders = os.pipe()
        self._pids, there = os.pipe()
        self.pid = start_hog(container.directory, "-p", files={0: here, 1: there})
        os.close(here)
        os.close(there)

    def fork(self) -> int:
        """Let it make one hog; the hog's pid."""
        os.write(self._orders, b".")
        return int(os.read(self._pids, 16))

    def end(self) -> None:
        os.close(self._orders)
        os.waitpid(self.pid, 0)
        os.close(self._pids)


def start_hog(cgroup: Path, *options: str | bytes, files: Mapping[int, int] | None = None) -> int:
    """Start one hog in a cgroup, without a runtime; its pid. files: which of ours shall be which of its descriptors."""
    pid = os.fork()
    if pid == 0:
        try:
            for theirs, ours in (files or {}).items():
                os.dup2(ours, theirs)
            (cgroup / "cgroup.procs").write_text("0")
            # The tests run at -1000; a memcg OOM that finds nobody to kill would go on for ever.
            Path("/proc/self/oom_score_adj").write_text("900")
            os.execv(HOG, ["hog", *options])
        finally:
            os._exit(99)
    return pid


def reap(pid: int) -> int:
    """Wait until this hog has been killed; its pid."""
    status = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"hog {pid} ended with status {status}"
    return pid
