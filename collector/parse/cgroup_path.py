r"""
A memory cgroup's path, as the kernel prints it -> pod UID, QoS class, container ID, runtime, cgroup driver.

    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope   systemd
    /kubepods/burstable/pod<uid>/<id>                                                                      cgroupfs
    /system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<id>      the two mixed
    /docker/<id>, /system.slice/docker-<id>.scope, /machine.slice/libpod-<id>.scope/container        not Kubernetes

Anything may stand before: kind, minikube, LXC, `--cgroup-root` (which the systemd driver also joins into the names of
its slices: `a-b-kubepods-burstable.slice`). Anything may stand behind a container, and there the workload chooses the
names. Therefore the outermost pod counts, then its own child as the container, and nothing deeper is believed: a nested
`kubepods/burstable/pod<uid>/<id>` moves no blame, and a whole cluster in a pod is that pod's, for this node's kubelet.
(An agent in the inner cluster cuts its own kubepods' prefix off first.) Whoever may make cgroups outside the pods, a
docker container or a user's systemd, can still imitate a kubelet: `MemcgPlace.kubepods` tells whose pod it is.

Sources: kubelet pkg/kubelet/cm/cgroup_manager_linux.go and pod_container_manager_linux.go; containerd
internal/cri/server/helpers.go; CRI-O internal/config/cgmgr; podman libpod/container_internal_linux.go; crun
src/libcrun/cgroup-systemd.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from collector.model import ContainerId, MemcgPath, PodUid, QosClass


class Level(StrEnum):
    """What the last component of a path is."""

    ROOT = "root"
    KUBEPODS = "kubepods"
    QOS = "qos"
    POD = "pod"
    POD_CHILD = "pod_child"  # in a pod, but in no container that the path names: CRI-O's conmon, a Kata sandbox
    CONTAINER = "container"  # also a pod's sandbox (pause): the path does not tell them apart
    NESTED = "nested"  # below a container, made by the workload
    OTHER = "other"


class CgroupDriver(StrEnum):
    SYSTEMD = "systemd"
    CGROUPFS = "cgroupfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemcgPlace:
    """What a path tells; None is what it does not tell. The three paths are `path` itself or begin it."""

    level: Level
    # As in the pod API, or a static pod's 32-hex config hash. The systemd driver writes "-" as "_": undone here, so
    # that driver loses the "_" of a UID set by hand in a manifest.
    pod_uid: PodUid | None = None
    qos_class: QosClass | None = None  # of the pod, or of the QoS level's own cgroup
    container_id: ContainerId | None = None
    runtime: str | None = None  # containerd, cri-o, docker, podman; the cgroupfs driver mostly leaves a bare id
    driver: CgroupDriver | None = None  # the kubelet's; outside kubepods the runtime's
    # Which kubelet's pod this is: a node also sees the kills of the clusters that run in its containers. None where the
    # path leaves it out: a runtime that does not follow the kubelet's driver, `/../` of a private cgroup namespace.
    kubepods: MemcgPath | None = None
    pod_path: MemcgPath | None = None
    container_path: MemcgPath | None = None  # without crun's `/container`


@lru_cache(maxsize=64)  # one judgement asks for the same two paths several times
def parse_memcg_path(path: str) -> MemcgPlace:
    r"""
    Tell pod and container of a path in the kernel's spelling (`\xNN` of kmsg undone, systemd's `\x2d` as it is).

    Never raises: what is no such path is OTHER. A path cut by the log must lose its last component first, else
    the rest of a UID may pass for a UID.
    """
    if path == "/":
        return MemcgPlace(level=Level.ROOT)
    names = path.split("/")
    if names[0] or "" in names[1:]:
        return MemcgPlace(level=Level.OTHER)
    kubelet = _find_kubelet_part(names)
    if kubelet is None:
        return _outside_pods(names, kubepods=None)
    if kubelet.pod_uid is not None:
        return _in_pod(names, kubelet)
    kubepods = _path(names, kubelet.root)
    if kubelet.last + 1 < len(names):
        return _outside_pods(names, kubepods=kubepods)
    return MemcgPlace(
        level=Level.KUBEPODS if kubelet.qos_class is None else Level.QOS,
        qos_class=kubelet.qos_class,
        driver=kubelet.driver,
        kubepods=kubepods,
    )


def is_same_or_ancestor(ancestor: str, path: str) -> bool:
    """Whether a limit of `ancestor` holds for `path`: the same cgroup or one above it, by whole components."""
    return path == ancestor or path.startswith("/" if ancestor == "/" else f"{ancestor}/")


class _KubeletPart(NamedTuple):
    """The components that the kubelet named. Indexes, not paths: joining at each step would be quadratic."""

    driver: CgroupDriver
    root: int | None
    last: int
    qos_class: QosClass | None  # None: kubepods itself
    pod_uid: PodUid | None
    container: _Container | None = None  # named in the pod's own component


class _Container(NamedTuple):
    id: ContainerId
    runtime: str | None


# What stands before the id in the name of a container's cgroup. Helpers such as `crio-conmon-<id>.scope` are not in it.
_RUNTIMES = {
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "docker": "docker",
    "libpod": "podman",
    "libpod-payload": "podman",  # --cgroups=split, the default of quadlets: <unit>.service/libpod-payload-<id>
}
_QOS_CLASSES = {"burstable": QosClass.BURSTABLE, "besteffort": QosClass.BEST_EFFORT}

# All of these runtimes use 64 digits. So do Kata's kata_<id> and /kata_overhead/<id>, but that id is a sandbox's.
_CONTAINER_ID = re.compile("[0-9a-f]{64}")
# Any UID that a manifest may set, not only the API server's: the kubelet alone makes cgroups in kubepods.
_CGROUPFS_POD = re.compile(r"pod(?P<uid>[0-9A-Za-z._-]+)")
# kubelet-kubepods-burstable-pod0f9c1d2e_3b4a_4c5d_8e6f_000000000001.slice:cri-containerd:<id>
_SLICE = re.compile(
    r"""
    (?P<root> (?: [^:]* - )? kubepods )
    (?: - (?P<qos> burstable | besteffort ) )?
    (?: - pod (?P<uid> [0-9A-Za-z_.]+ ) )?
    \.slice
    (?: : (?P<runtime> [a-z-]+ ) : (?P<id> [0-9a-f]{64} ) )?
    """,
    re.VERBOSE,
)


def _find_kubelet_part(names: list[str]) -> _KubeletPart | None:
    """Return the outermost pod, else the innermost kubepods or QoS cgroup."""
    found = None
    for index, name in enumerate(names):
        part = _cgroupfs_part(names, index) if name == "kubepods" else _systemd_part(names, index, found)
        if part is not None:
            found = part
            if part.pod_uid is not None:
                break
    return found


def _cgroupfs_part(names: list[str], root: int) -> _KubeletPart:
    below = [*names[root + 1 : root + 3], "", ""]  # "" is no component
    qos_class = _QOS_CLASSES.get(below[0])
    last = root if qos_class is None else root + 1
    pod = _CGROUPFS_POD.fullmatch(below[last - root])
    if pod is None:
        return _KubeletPart(CgroupDriver.CGROUPFS, root, last, qos_class, None)
    return _KubeletPart(CgroupDriver.CGROUPFS, root, last + 1, qos_class or QosClass.GUARANTEED, PodUid(pod["uid"]))


def _systemd_part(names: list[str], index: int, above: _KubeletPart | None) -> _KubeletPart | None:
    """Read one slice: its name repeats all its ancestors, so it is understood without them."""
    match = _SLICE.fullmatch(names[index])
    if match is None:
        return None
    qos_class = _QOS_CLASSES.get(match["qos"] or "")
    root = above.root if above else None
    if root is not None and names[root] != f"{match['root']}.slice":
        root = None
    if match["uid"] is None:
        if match["id"] is not None:
            return None
        return _KubeletPart(CgroupDriver.SYSTEMD, root if qos_class else index, index, qos_class, None)
    uid = PodUid(match["uid"].replace("_", "-"))
    container = None
    if match["id"] is not None:
        container = _Container(ContainerId(match["id"]), _RUNTIMES.get(match["runtime"]))
        root = None
    return _KubeletPart(CgroupDriver.SYSTEMD, root, index, qos_class or QosClass.GUARANTEED, uid, container)


def _in_pod(names: list[str], pod: _KubeletPart) -> MemcgPlace:
    at = pod.last
    container = pod.container
    if container is None and at + 1 < len(names):
        at += 1
        container = _read_container(names[at], bare=True)
    if container is not None:
        level = _level_in_container(names, at)
    else:
        level = Level.POD if at == pod.last else Level.POD_CHILD
    return MemcgPlace(
        level=level,
        pod_uid=pod.pod_uid,
        qos_class=pod.qos_class,
        container_id=container and container.id,
        runtime=container and container.runtime,
        driver=pod.driver,
        kubepods=_path(names, pod.root),
        pod_path=None if pod.container else _path(names, pod.last),
        container_path=_path(names, at) if container else None,
    )


def _outside_pods(names: list[str], *, kubepods: MemcgPath | None) -> MemcgPlace:
    """Find the outermost container that docker, podman or a CRI runtime left to itself has made."""
    for at in range(1, len(names)):
        in_docker = names[at - 1] == "docker"
        container = _read_container(names[at], bare=in_docker)
        if container is not None:
            return MemcgPlace(
                level=_level_in_container(names, at),
                container_id=container.id,
                runtime=container.runtime or "docker",
                driver=CgroupDriver.SYSTEMD if names[at].endswith(".scope") else CgroupDriver.CGROUPFS,
                kubepods=kubepods,
                container_path=_path(names, at),
            )
    return MemcgPlace(level=Level.OTHER, kubepods=kubepods)


def _read_container(name: str, *, bare: bool) -> _Container | None:
    """Read `cri-containerd-<id>.scope`, `crio-<id>` or, if `bare`, `<id>`."""
    prefix, _, identifier = name.removesuffix(".scope").rpartition("-")
    if _CONTAINER_ID.fullmatch(identifier) is None:
        return None
    if name == identifier:
        return _Container(ContainerId(identifier), None) if bare else None
    runtime = _RUNTIMES.get(prefix)
    return None if runtime is None else _Container(ContainerId(identifier), runtime)


def _level_in_container(names: list[str], at: int) -> Level:
    below = names[at + 1 :]
    # crun puts the container, and its limit, one level below the scope that systemd gives it (cgroup v2; no longer the
    # default since May 2025). The path cannot tell it from a workload under runc that makes a cgroup of that name.
    if not below or (below == ["container"] and names[at].endswith(".scope")):
        return Level.CONTAINER
    return Level.NESTED


def _path(names: list[str], last: int | None) -> MemcgPath | None:
    return None if last is None else MemcgPath("/".join(names[: last + 1]))
