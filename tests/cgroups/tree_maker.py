"""
A plain directory in place of /sys/fs/cgroup: what the kubelet, the runtimes and the kernel would make.

Unlike the kernel's, a removed file can still be read through an open descriptor.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from collector.model import MemcgPath, QosClass
from collector.parse.cgroup_path import CgroupDriver

UID = "0f9c1d2e-3b4a-4c5d-8e6f-%012d"
CONTAINER_ID = "%064x"
EVENTS = {"low": 0, "high": 0, "max": 0, "oom": 0, "oom_kill": 0, "oom_group_kill": 0}
STAT = {
    "anon": 5033984, "file": 12288, "kernel": 262144, "kernel_stack": 16384, "pagetables": 98304,
    "sec_pagetables": 0, "percpu": 480, "sock": 4096, "vmalloc": 0, "shmem": 8192, "file_mapped": 0, "file_dirty": 0,
    "file_writeback": 0, "swapcached": 0, "anon_thp": 0, "file_thp": 0, "shmem_thp": 0, "inactive_anon": 5029888,
    "active_anon": 4096, "inactive_file": 4096, "active_file": 0, "unevictable": 0, "slab_reclaimable": 60000,
    "slab_unreclaimable": 40000, "slab": 100000,
    **{f"workingset_{name}": 0 for name in ("refault_anon", "refault_file", "activate_anon", "activate_file")},
    **{f"pg{name}": 4711 for name in ("scan", "steal", "fault", "majfault", "refill", "activate", "deactivate")},
    **{f"thp_{name}": 0 for name in ("fault_alloc", "collapse_alloc", "swpout", "swpout_fallback")},
    **{f"numa_{name}": 0 for name in ("pages_migrated", "pte_updates", "hint_faults")},
}  # fmt: skip
_QOS_NAMES = {QosClass.GUARANTEED: "", QosClass.BURSTABLE: "burstable", QosClass.BEST_EFFORT: "besteffort"}


def make_root(root: Path) -> Path:
    """The root of the whole hierarchy: it has no memory.events."""
    root.mkdir(exist_ok=True)
    (root / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    return root


def make_cgroup(root: Path, path: str, *, limit: int | None = None) -> MemcgPath:
    """With all cgroups above it."""
    directory = root
    for name in path.strip("/").split("/"):
        directory /= name
        if not directory.exists():
            directory.mkdir()
            _fill(directory)
    if limit is not None:
        write(directory / "memory.max", f"{limit}\n")
    return MemcgPath(path)


def make_pod(
    root: Path,
    uid: str,
    *,
    driver: CgroupDriver = CgroupDriver.SYSTEMD,
    qos: QosClass = QosClass.BURSTABLE,
    prefix: str = "",
) -> MemcgPath:
    """prefix: a slice's name with the systemd driver, as in `kubelet` or `a-b`; else a path, as in `/a/b`."""
    name = _QOS_NAMES[qos]
    if driver is CgroupDriver.CGROUPFS:
        return make_cgroup(root, f"{prefix}/kubepods/{name + '/' if name else ''}pod{uid}")
    parts = [*prefix.split("-"), "kubepods"] if prefix else ["kubepods"]
    parts += [name] if name else []
    parts.append("pod" + uid.replace("-", "_"))
    return make_cgroup(root, "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts))))


def make_container(root: Path, pod: MemcgPath, container_id: str, *, limit: int | None = None) -> MemcgPath:
    name = f"cri-containerd-{container_id}.scope" if pod.endswith(".slice") else container_id
    return make_cgroup(root, f"{pod}/{name}", limit=limit)


def bump(root: Path, path: MemcgPath, *, local: bool = True, **added: int) -> None:
    """Count in memory.events of a cgroup and of all above it; `local`: `oom` in its own memory.events.local too."""
    names = path.split("/")
    for count in range(len(names), 1, -1):
        _bump(root / "/".join(names[1:count]) / "memory.events", added)
    if local and "oom" in added:
        _bump(root / path[1:] / "memory.events.local", {"oom": added["oom"]})


def remove(root: Path, path: MemcgPath) -> None:
    shutil.rmtree(root / path[1:])


def write(path: Path, text: str) -> None:
    """In place, and to a reader all at once as long as it does not become shorter."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, text.encode(), 0)
        os.ftruncate(fd, len(text))
    finally:
        os.close(fd)


def flat(values: dict[str, int]) -> str:
    return "".join(f"{key} {value}\n" for key, value in values.items())


def make_node(root: Path, *, containers: int, in_pod: int = 2) -> list[MemcgPath]:
    """A node full of pods, and the services that every node has."""
    make_root(root)
    for number in range(60):
        make_cgroup(root, f"/system.slice/service-{number}.service")
    made: list[MemcgPath] = []
    for number in range(containers // in_pod):
        pod = make_pod(root, UID % number)
        made += [make_container(root, pod, CONTAINER_ID % (1000 * number + index)) for index in range(in_pod)]
    return made


def live_and_die(root: Path, lives: int, *, seconds: float = 0.0) -> None:
    """Containers that come and go, each killed once; every tenth takes its pod along."""
    for number in range(lives):
        pod = make_pod(root, UID % (999_000 + number // 10))
        container = make_container(root, pod, CONTAINER_ID % (1_000_000 + number))
        bump(root, container, oom=1, oom_kill=1)
        time.sleep(seconds)
        remove(root, container if number % 10 < 9 and number < lives - 1 else pod)


def _fill(directory: Path) -> None:
    for name, text in {
        "cgroup.procs": "",
        "memory.current": "5308416\n",
        "memory.stat": flat(STAT),
        "memory.max": "max\n",
        "memory.peak": "6291456\n",
        "memory.swap.current": "0\n",
        "memory.oom.group": "0\n",
        "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        "memory.events.local": flat(EVENTS),
        "memory.events": flat(EVENTS),
    }.items():
        # The kernel's files are never seen empty.
        (directory / ".new").write_text(text)
        (directory / ".new").rename(directory / name)


def _bump(path: Path, added: dict[str, int]) -> None:
    values = {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
    for key, more in added.items():
        values[key] += more
    write(path, flat(values))
