"""As much of a kubelet as the tests need: it runs manifests through the CRI, keeps the log folders, reports statuses."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from .agent import wait_until
from .containers import ADJ, MIB, Pod, Qos, sh
from .cri import IMAGE, Cri
from .runtimes import program_mounts
from .witness import CGROUPS

Manifest = dict[str, Any]
ConfigMaps = Mapping[str, Mapping[str, str]]  # by name, then by file

NODE_NAME = "node"
NAMESPACE = "shop"
EXAMPLES_NAMESPACE = "oom-examples"
LOGS = Path("/var/log")
VOLUMES = Path("/var/lib/kubelet/pods")
SYNC_SECONDS = 0.5
LIVES = 2  # the third waits in CrashLoopBackOff for longer than a test takes
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
HOST_NETWORK = {"network": "NODE", "pid": "CONTAINER"}
TEMPLATE_HASH = "7d4b9c6f5"


def container(name: str, *command: str, limit: int | None = 48 * MIB, **more: Any) -> Manifest:
    """Build what stands in a pod's `containers`; `limit` is its memory limit, and its request."""
    resources = {"limits": {"memory": str(limit)}, "requests": {"memory": str(limit)}} if limit else {}
    return {"name": name, "image": IMAGE, "command": list(command), "resources": resources} | more


def manifest(
    name: str, *containers: Manifest, restart: str = "Never", namespace: str = NAMESPACE, **spec: Any
) -> Manifest:
    """Build a pod of the Deployment `name`."""
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-{TEMPLATE_HASH}", "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{TEMPLATE_HASH}-x2v5k",
            "namespace": namespace,
            "uid": str(uuid4()),
            "labels": {"app": name, "pod-template-hash": TEMPLATE_HASH},
            "ownerReferences": [owner],
        },
        "spec": {
            "nodeName": NODE_NAME,
            "restartPolicy": restart,
            "hostNetwork": True,
            "containers": list(containers),
            **spec,
        },
    }


def static(name: str, *containers: Manifest) -> Manifest:
    """Build what the API shows of a static pod: its mirror, under a uid of its own."""
    pod, uid = manifest(name, *containers), uuid4().hex
    pod["metadata"] |= {
        "name": f"{name}-{NODE_NAME}",
        "labels": {"app": name},
        "annotations": {f"kubernetes.io/config.{key}": uid for key in ("hash", "mirror")},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": NODE_NAME, "controller": True}],
    }
    return pod


def quantity(text: str) -> int:
    """`50Mi` or `52428800` -> bytes."""
    unit = UNITS.get(text[-2:])
    return int(text) if unit is None else int(text[:-2]) * unit


def rfc3339(seconds: float) -> str:
    """Whole seconds, as the API keeps times."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(slots=True)
class Life:
    """A container of the runtime: one of the lives that a container of the manifest has. `status` is the CRI's."""

    pod: Pod
    id: str
    memory_max: int | None
    cgroup: str
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return bool(self.status.get("state") == "CONTAINER_EXITED")

    @property
    def pid(self) -> int:
        """Its first process. Raises IndexError when it has none."""
        return self.processes()[0]

    def processes(self) -> list[int]:
        return [int(pid) for pid in (CGROUPS / self.cgroup.lstrip("/") / "cgroup.procs").read_text().split()]

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    @property
    def verdict(self) -> str:
        """What the runtime says of it, in words."""
        if not self.ended:
            return "runs"
        return f"{self.status['reason']} with exit code {self.status['exit_code']}"

    @property
    def denies_oom(self) -> bool:
        """Whether the runtime gives the end that a killed container has, and another reason."""
        return self.ended and self.status["exit_code"] == 137 and self.status["reason"] != "OOMKilled"

    def terminated(self) -> dict[str, Any]:
        """Show its end as a pod status does."""
        return {
            "containerID": f"containerd://{self.id}",
            "exitCode": self.status["exit_code"],
            "reason": self.status["reason"],
            "startedAt": rfc3339(int(self.status["started_at"]) / 1e9),
            "finishedAt": rfc3339(int(self.status["finished_at"]) / 1e9),
        }


@dataclass(slots=True)
class Role:
    """A container of the manifest, with its lives."""

    spec: Manifest
    initial: bool
    restart: str
    most_lives: int
    lives: list[Life] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def sidecar(self) -> bool:
        return self.initial and self.spec.get("restartPolicy") == "Always"

    @property
    def last(self) -> Life:
        return self.lives[-1]

    def is_due(self) -> bool:
        """Whether it has to be started now."""
        return not self.lives or (self.is_waiting() and len(self.lives) < self.most_lives)

    def is_waiting(self) -> bool:
        """Whether it has ended and will be started again."""
        if not self.lives or not self.last.ended:
            return False
        failed = self.last.status["exit_code"] != 0
        always = self.sidecar or (self.restart == "Always" and not self.initial)
        return always or (failed and self.restart != "Never")

    def is_over(self) -> bool:
        return bool(self.lives) and self.last.ended and not self.is_waiting()

    def lets_others_start(self) -> bool:
        """Whether what comes after it in the manifest may start."""
        return not self.initial or self.sidecar or (self.is_over() and self.last.status["exit_code"] == 0)

    def status(self) -> dict[str, Any]:
        """Build its entry in containerStatuses."""
        shown: dict[str, Any] = {
            "name": self.name,
            "image": IMAGE,
            "imageID": "",
            "ready": False,
            "started": False,
            "restartCount": max(len(self.lives) - 1, 0),
            "state": {"waiting": {"reason": "PodInitializing"}},
            "lastState": {},
        }
        if not self.lives:
            return shown
        ends = [life.terminated() for life in self.lives if life.ended]
        shown["containerID"] = f"containerd://{self.last.id}"
        if not self.last.ended:
            running = {"startedAt": rfc3339(int(self.last.status["started_at"]) / 1e9)}
            shown |= {"ready": True, "started": True, "state": {"running": running}}
            shown["lastState"] = {"terminated": ends[-1]} if ends else {}
        elif self.is_waiting():
            shown["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed"}}
            shown["lastState"] = {"terminated": ends[-1]}
        else:
            shown["state"] = {"terminated": ends[-1]}
            shown["lastState"] = {"terminated": ends[-2]} if ends[1:] else {}
        return shown


class PodWorker:
    """One pod from its sandbox to its end."""

    def __init__(
        self, cri: Cri, pod: Manifest, *, driver: str, group_kill: bool, lives: int, config_maps: ConfigMaps
    ) -> None:
        self._cri, self._driver, self._group_kill = cri, driver, group_kill
        spec, metadata = pod["spec"], pod["metadata"]
        self.name, self.namespace = metadata["name"], metadata["namespace"]
        self.owner = {"kind": "Deployment", "name": metadata["labels"]["app"]}
        self.uid = str(metadata["uid"])  # the kubelet's: in cgroups, log folders and for `kubectl describe`
        if mirror := metadata.get("annotations", {}).get("kubernetes.io/config.mirror"):
            self.owner, self.uid = {"kind": "Node", "name": NODE_NAME}, str(mirror)
        has_request = any(container["resources"] for container in spec["containers"])
        self.qos: Qos = "burstable" if has_request else "besteffort"
        self.cgroup = Pod(driver=driver, qos=self.qos, uid=self.uid)
        self.roles = [
            Role(container, key == "initContainers", spec["restartPolicy"], lives)
            for key in ("initContainers", "containers")
            for container in spec.get(key, ())
        ]
        self._manifest = pod
        self._labels = {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": self.namespace,
            "io.kubernetes.pod.uid": self.uid,
        }
        self._logs = LOGS / "pods" / f"{self.namespace}_{self.name}_{self.uid}"
        self._logs.mkdir(parents=True)
        for volume in spec.get("volumes", ()):
            self._fill(volume, config_maps)
        self._sandbox_config = {
            "metadata": {"name": self.name, "uid": self.uid, "namespace": self.namespace, "attempt": 0},
            "log_directory": str(self._logs),
            "labels": self._labels,
            "annotations": {"kubernetes.io/config.source": "api"},
            "linux": {
                "cgroup_parent": self.cgroup.cgroup,
                "security_context": {"namespace_options": HOST_NETWORK},
            },
        }
        sandbox = cri.call("RunPodSandbox", config=self._sandbox_config, runtime_handler=driver)
        self.sandbox = sandbox["pod_sandbox_id"]

    def role(self, name: str | None = None) -> Role:
        return next(role for role in self.roles if name in (None, role.name))

    def sync(self) -> None:
        """Look at every container, and start what is due."""
        for role in self.roles:
            if role.lives and not role.last.ended:
                role.last.status = self._cri.call("ContainerStatus", container_id=role.last.id)["status"]
        for role in self.roles:
            if role.is_due():
                self._start(role)
            if not role.lets_others_start():
                break

    def object(self) -> Manifest:
        """Show the pod as the API does."""
        shown = copy.deepcopy(self._manifest)
        init, app = ([role for role in self.roles if role.initial is initial] for initial in (True, False))
        shown["status"] = {
            "phase": phase(init, app),
            "qosClass": {"burstable": "Burstable", "besteffort": "BestEffort"}[self.qos],
            "initContainerStatuses": [role.status() for role in init],
            "containerStatuses": [role.status() for role in app],
        }
        return shown

    def delete(self) -> None:
        self._cri.call("StopPodSandbox", pod_sandbox_id=self.sandbox)
        self._cri.call("RemovePodSandbox", pod_sandbox_id=self.sandbox)
        for link in self._links():
            link.unlink()
        sh("rm", "-r", str(self._logs))
        for volume in self._manifest["spec"].get("volumes", ()):
            if "emptyDir" in volume:
                sh("umount", str(self._volume(volume["name"])))

    def _links(self) -> Iterator[Path]:
        yield from (LOGS / "containers").glob(f"{self.name}_{self.namespace}_*.log")

    def _fill(self, volume: Manifest, config_maps: ConfigMaps) -> None:
        directory = self._volume(volume["name"])
        directory.mkdir(parents=True)
        if "configMap" in volume:
            for name, text in config_maps[volume["configMap"]["name"]].items():
                (directory / name).write_text(text)
        else:
            limit = volume["emptyDir"].get("sizeLimit")
            options = ("-o", f"size={quantity(limit)}") if limit else ()
            sh("mount", "-t", "tmpfs", *options, "tmpfs", str(directory))

    def _volume(self, name: str) -> Path:
        return VOLUMES / self.uid / "volumes" / "kubernetes.io~empty-dir" / name

    def _start(self, role: Role) -> None:
        name, attempt = role.name, len(role.lives)
        log = f"{name}/{attempt}.log"
        (self._logs / name).mkdir(exist_ok=True)
        limit = role.spec["resources"].get("limits", {}).get("memory")
        resources: dict[str, Any] = {
            "oom_score_adj": ADJ[self.qos],
            "unified": {"memory.oom.group": str(int(self._group_kill)), "memory.swap.max": "0"},
        }
        if limit:
            resources["memory_limit_in_bytes"] = quantity(limit)
        mounts = {mount["mountPath"]: self._volume(mount["name"]) for mount in role.spec.get("volumeMounts", ())}
        if role.spec["image"] != IMAGE:  # any other stands for the programs of its name
            mounts |= program_mounts()
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": IMAGE},
            "command": [*role.spec["command"], *role.spec.get("args", ())],
            "mounts": [{"container_path": where, "host_path": str(what)} for where, what in mounts.items()],
            "labels": {**self._labels, "io.kubernetes.container.name": name},
            "annotations": {"io.kubernetes.container.restartCount": str(attempt)},
            "log_path": log,
            "linux": {"resources": resources, "security_context": {"namespace_options": HOST_NETWORK}},
        }
        made = self._cri.call(
            "CreateContainer", pod_sandbox_id=self.sandbox, config=config, sandbox_config=self._sandbox_config
        )
        container_id = made["container_id"]
        self._cri.call("StartContainer", container_id=container_id)
        cgroup, _ = self.cgroup.container_cgroup(container_id)
        life = Life(self.cgroup, container_id, quantity(limit) if limit else None, cgroup)
        life.status = self._cri.call("ContainerStatus", container_id=container_id)["status"]
        link = LOGS / "containers" / f"{self.name}_{self.namespace}_{name}-{container_id}.log"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(self._logs / log)
        role.lives.append(life)


def phase(init: Sequence[Role], app: Sequence[Role]) -> str:
    if any(role.is_over() and role.last.status["exit_code"] != 0 for role in init if not role.sidecar):
        return "Failed"
    if all(role.is_over() for role in app):
        return "Failed" if any(role.last.status["exit_code"] != 0 for role in app) else "Succeeded"
    return "Running" if any(role.lives for role in app) else "Pending"


class Kubelet:
    """Runs pods; `show` is called with each pod object that has changed, `hide` with each that is deleted."""

    def __init__(self, cri: Cri, *, show: Callable[[Manifest], None], hide: Callable[[Manifest], None]) -> None:
        self._cri, self._show, self._hide = cri, show, hide
        self._workers: list[PodWorker] = []
        self._shown: dict[str, Manifest] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def run(
        self,
        pod: Manifest,
        *,
        driver: str = "systemd",
        group_kill: bool = False,
        lives: int = LIVES,
        config_maps: ConfigMaps = MappingProxyType({}),
    ) -> PodWorker:
        with self._lock:
            worker = PodWorker(
                self._cri, pod, driver=driver, group_kill=group_kill, lives=lives, config_maps=config_maps
            )
            self._workers.append(worker)
            self._sync(worker)
        return worker

    def delete(self, worker: PodWorker) -> None:
        with self._lock:
            self._workers.remove(worker)
            worker.delete()
            self._hide(self._shown.pop(worker.uid))

    def wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        def checked() -> bool:
            if self._failure:
                raise self._failure
            return holds()

        wait_until(checked, seconds, lambda: what)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody looks at containers meanwhile."""
        with self._lock:
            yield

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for worker in self._workers:
            worker.delete()
            if worker.uid in self._shown:
                self._hide(self._shown[worker.uid])

    def _sync(self, worker: PodWorker) -> None:
        worker.sync()
        shown = worker.object()
        if shown != self._shown.get(worker.uid):
            self._shown[worker.uid] = shown
            self._show(shown)

    def _loop(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            try:
                with self._lock:
                    for worker in self._workers:
                        self._sync(worker)
            except BaseException as error:  # noqa: BLE001  told where the test waits
                self._failure = error
                return
