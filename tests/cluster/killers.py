"""
Pods that get themselves OOM-killed, one of each kind, and pods that end in ways which are easily taken for that.

Each needs an image with python3. A killer is killed once: its next life finds a file in the volume `once`. Where no
limit holds it, it gives up at 256 MiB: it must not take the node along.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]

NAMES_FILE = "oom-collector-test"
_LIMIT = "64Mi"
_EITHER = frozenset({"container_limit", "pod_limit"})

# The sleep: as a program that works for a while, so that its container is in the API when it dies.
_HOG = """
time.sleep(3)
held = [b"x" * (1 << 20) for _ in range(256)]
"""
_ONCE = """
import os, signal, sys, time
if os.path.exists("/once/done"):
    {again}
open("/once/done", "w").close()
"""
_SLEEP = "time.sleep(86400)"
_LIMITED = _ONCE.format(again=_SLEEP) + _HOG

# Children that the group takes along.
_GROUP = (
    _ONCE.format(again=_SLEEP)
    + """
for _ in range(2):
    if os.fork() == 0:
        held = b"x" * (8 << 20)
        time.sleep(86400)
"""
    + _HOG
)
# The kubelet kills whole containers on cgroup v2 (memory.oom.group): this one, privileged, wants it otherwise.
_CHILD = (
    _ONCE.format(again=_SLEEP)
    + """
own = [line.strip().split("::")[1] for line in open("/proc/self/cgroup") if line.startswith("0::")]
group = f"/sys/fs/cgroup{own[0]}/memory.oom.group" if own else ""
if os.path.exists(group):
    open(group, "w").write("0")
child = os.fork()
if child == 0:
    open("/proc/self/oom_score_adj", "w").write("1000")
"""
    + "".join(f"    {line}\n" for line in _HOG.strip().splitlines())
    + """
    sys.exit(1)
os.waitpid(child, 0)
time.sleep(86400)
"""
)
_INTO_MEMORY_VOLUME = """
import os, time
if os.path.exists("/once/done"):
    os.path.exists("/memory/file") and os.unlink("/memory/file")
    time.sleep(86400)
open("/once/done", "w").close()
time.sleep(3)
with open("/memory/file", "wb") as file:
    for _ in range(256):
        file.write(b"x" * (1 << 20))
"""
_PLACER = f"""
import os, signal, sys
hidden, path = "/manifests/.{NAMES_FILE}", "/manifests/{NAMES_FILE}.json"
def leave(*_):
    os.path.exists(path) and os.unlink(path)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
open(hidden, "w").write(os.environ["MANIFEST"])
os.rename(hidden, path)
while True:
    signal.pause()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killer:
    """
    A pod in which the kernel kills in one container, and what is to be told of that.

    causes, fates: any of them. Where all of a pod's limit is one container's, either level is reached first: the
    sandbox's own memory is on the pod's account.
    """

    name: str
    manifest: Manifest = field(repr=False)
    container: str = "app"
    kind: str = "app"
    causes: frozenset[str] = frozenset({"container_limit"})
    fates: frozenset[str] = frozenset({"restarted"})

    def field_path(self) -> str:
        return f"spec.{'containers' if self.kind == 'app' else 'initContainers'}{{{self.container}}}"


def container(name: str, program: str, image: str, **more: object) -> Manifest:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", program],
        "resources": {"requests": {"cpu": "10m", "memory": _LIMIT}, "limits": {"memory": _LIMIT}},
        "volumeMounts": [{"name": "once", "mountPath": "/once"}],
        **more,
    }


def pod(name: str, namespace: str, node: str, *containers: Manifest, **spec: Any) -> Manifest:
    """Bound to the node, whatever its taints."""
    volumes = [{"name": "once", "emptyDir": {}}, *spec.pop("volumes", [])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 2,
            "containers": list(containers),
            "volumes": volumes,
            **spec,
        },
    }


def killers(namespace: str, node: str, image: str) -> dict[str, Killer]:
    """One of each kind; a static one: static_pod()."""
    hungry = container("app", _LIMITED, image)
    quiet = container("quiet", f"import time\n{_SLEEP}", image)
    once = {"name": "once", "mountPath": "/once"}
    memory = [once, {"name": "memory", "mountPath": "/memory"}]
    made = [
        Killer(name="limit", manifest=pod("limit", namespace, node, hungry), causes=_EITHER),
        Killer(
            name="job",
            causes=_EITHER,
            manifest=pod("job", namespace, node, hungry, restartPolicy="Never"),
            fates=frozenset({"pod_failed"}),
        ),
        Killer(
            name="group",
            causes=_EITHER,
            manifest=pod("group", namespace, node, container("app", _GROUP, image)),
        ),
        Killer(
            name="child",
            causes=_EITHER,
            manifest=pod(
                "child", namespace, node, container("app", _CHILD, image, securityContext={"privileged": True})
            ),
            # systemd may end a scope in which a process was killed.
            fates=frozenset({"survived", "restarted"}),
        ),
        Killer(
            name="init",
            causes=_EITHER,
            manifest=pod(
                "init",
                namespace,
                node,
                quiet,
                initContainers=[container("prepare", _ONCE.format(again="sys.exit(0)") + _HOG, image)],
            ),
            container="prepare",
            kind="init",
        ),
        Killer(
            name="sidecar",
            manifest=pod(
                "sidecar",
                namespace,
                node,
                quiet,
                initContainers=[container("proxy", _LIMITED, image, restartPolicy="Always")],
            ),
            container="proxy",
            kind="sidecar",
        ),
        Killer(
            name="two",
            manifest=pod("two", namespace, node, quiet, hungry | {"name": "hungry"}),
            container="hungry",
        ),
        Killer(
            name="memory-volume",
            manifest=pod(
                "memory-volume",
                namespace,
                node,
                container("app", _INTO_MEMORY_VOLUME, image, volumeMounts=memory),
                quiet,
                volumes=[{"name": "memory", "emptyDir": {"medium": "Memory"}}],
            ),
            # What was written stays, on the pod's account: the next life may find no room.
            fates=frozenset({"restarted", "restart_pending"}),
        ),
    ]
    return {killer.name: killer for killer in made}


def static_pod(namespace: str, node: str, image: str) -> Killer:
    """Its manifest is for a kubelet's directory; the API shows its mirror, under a name that ends in the node's."""
    manifest = pod("static", namespace, node, container("app", _LIMITED, image))
    for server_s in ("nodeName", "automountServiceAccountToken"):
        del manifest["spec"][server_s]
    return Killer(name=f"static-{node}", manifest=manifest, causes=_EITHER)


def placer(static: Killer, namespace: str, node: str, image: str, directory: str) -> Manifest:
    """A pod that puts a static pod's manifest into the kubelet's directory, for as long as it lives."""
    return pod(
        "placer",
        namespace,
        node,
        container(
            "app",
            _PLACER,
            image,
            env=[{"name": "MANIFEST", "value": json.dumps(static.manifest)}],
            securityContext={"privileged": True},
            volumeMounts=[{"name": "manifests", "mountPath": "/manifests"}],
        ),
        volumes=[{"name": "manifests", "hostPath": {"path": directory, "type": "Directory"}}],
        terminationGracePeriodSeconds=20,
    )


def evicted(namespace: str, node: str, image: str) -> Manifest:
    """The kubelet evicts it, within minutes, for a volume that holds more than it may."""
    program = 'import time\nopen("/cache/file", "wb").write(b"x" * (8 << 20))\n' + _SLEEP
    mounts = [{"name": "cache", "mountPath": "/cache"}]
    cache = {"name": "cache", "emptyDir": {"sizeLimit": "1Mi"}}
    app = container("app", program, image, volumeMounts=mounts)
    return pod("evicted", namespace, node, app, volumes=[cache], restartPolicy="Never")


def unhealthy(namespace: str, node: str, image: str) -> Manifest:
    """A probe has it killed: exit code 137, as after an OOM kill."""
    probe = {
        "exec": {"command": ["python3", "-c", "raise SystemExit(1)"]},
        "periodSeconds": 2,
        "timeoutSeconds": 10,
        "failureThreshold": 1,
        "terminationGracePeriodSeconds": 1,
    }
    program = f"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{_SLEEP}"
    # Room for the probe's own Python: two of them are no OOM.
    return pod("unhealthy", namespace, node, container("app", program, image, livenessProbe=probe))


def terminated_later(namespace: str, node: str, image: str) -> Manifest:
    """OOM-killed once; then it exits with 143, over and over, while its status may go on saying OOMKilled."""
    return pod("later", namespace, node, container("app", _ONCE.format(again="sys.exit(143)") + _HOG, image))
