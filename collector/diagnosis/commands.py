"""
What an advice is applied with: kubectl lines to paste, patches and objects for who keeps manifests.

Nothing here is run by us. Names come from objects and logs that other people wrote: one that the API would not take
makes no command, and every word is quoted for a shell all the same.

Sources: kubectl/pkg/cmd/set (set_resources.go takes init containers and sidecars too, from 1.22 on: k/k#101669);
pkg/apis/batch/validation (a Job's template cannot be changed); pkg/controller/cronjob/utils.go (names of its Jobs);
vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1/types.go.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from collector.model import ContainerKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collector.diagnosis.model import Facts

KIB, MIB, GIB = 2**10, 2**20, 2**30
_STEPS = ((64 * MIB, MIB), (512 * MIB, 8 * MIB), (2 * GIB, 32 * MIB))
_LARGEST_STEP = 128 * MIB

Object = dict[str, object]
"""A part of a manifest."""

# Kinds whose pods follow their template, at once or when they are made anew.
_TEMPLATED = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "CronJob"})
_UNDOABLE = frozenset({"Deployment", "StatefulSet", "DaemonSet"})
_API_VERSIONS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "ReplicationController": "v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
    "Pod": "v1",
}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
# A CronJob's Job is `<name>-<minutes since 1970>`; the bounds, 2019 and 2046, keep `-20261231` out.
_OF_CRON_JOB = re.compile(r"(?P<name>.+)-(?P<minutes>[0-9]{8})", re.ASCII)
_MINUTES = range(26_000_000, 40_000_000)


def quantity(size: int) -> str:
    """`640Mi`, `2Gi`: as Kubernetes prints it, exact; `1000` where nothing else is."""
    for unit, suffix in ((GIB, "Gi"), (MIB, "Mi"), (KIB, "Ki")):
        if size and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def tidy_up(size: float) -> int:
    """
    A number that people would write: the next multiple of 1 MiB up to 64 MiB, of 8 up to 512 MiB, of 32 up to 2 GiB, of
    128 above. From 8 MiB on, at most an eighth more than was asked for.
    """
    step = next((step for top, step in _STEPS if size <= top), _LARGEST_STEP)
    return max(1, ceil(size / step)) * step


def tidy_down(size: float) -> int:
    """As tidy_up(), but less rather than more; 0: there is no such number."""
    step = next((step for top, step in _STEPS if size < top), _LARGEST_STEP)
    return max(0, int(size // step)) * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """
    What has to be changed for a container to change: its pods' owner, or the pod itself.

    `kind` `Pod`: a bare pod, whose container can be resized. `Node`: a static pod, a file on its node.
    """

    namespace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def known(self) -> bool:
        """Its kind is one of Kubernetes' own; an operator would undo what others change."""
        return self.kind in _API_VERSIONS

    @property
    def templated(self) -> bool:
        return self.kind in _TEMPLATED


def workload_named(namespace: str, pod: str, owner_kind: str | None, owner_name: str | None) -> Workload:
    """owner_kind, owner_name: the pod's controller; None: it has none."""
    if owner_kind is None or owner_name is None:
        return Workload(namespace=namespace, kind="Pod", name=pod)
    if owner_kind == "Node":
        return Workload(namespace=namespace, kind="Node", name=pod)
    match = _OF_CRON_JOB.fullmatch(owner_name) if owner_kind == "Job" else None
    if match and int(match["minutes"]) in _MINUTES:
        return Workload(namespace=namespace, kind="CronJob", name=match["name"])
    return Workload(namespace=namespace, kind=owner_kind, name=owner_name)


def workload_of(facts: Facts) -> Workload | None:
    """None: not known. That a pod without an owner is a bare one is known only where the API gave the pod."""
    pod = facts.pod
    if pod is None or pod.namespace is None or pod.name is None:
        return None
    if pod.owner is not None:
        return workload_named(pod.namespace, pod.name, pod.owner.kind, pod.owner.name)
    return workload_named(pod.namespace, pod.name, None, None) if facts.memory_volumes is not None else None


# kubectl


def set_resources(
    workload: Workload,
    container: str,
    *,
    kind: ContainerKind | None = None,
    limit: int | None = None,
    request: int | None = None,
) -> str | None:
    """
    None: no line does it. A bare pod is resized in place: kubectl 1.32 and Kubernetes 1.33 can, but no init container.
    """
    if workload.kind == "Pod" and kind is not ContainerKind.INIT:
        spec = container_resources(container, kind=kind, limit=limit, request=request)
        return _on(workload, "patch", "--subresource", "resize", "--patch", _json({"spec": spec}), of=container)
    if not workload.templated:
        return None
    amounts = [("--limits", limit), ("--requests", request)]
    flags = [f"{flag}=memory={quantity(size)}" for flag, size in amounts if size is not None]
    return _on(workload, "set resources", "-c", container, *flags, of=container)


def set_env(workload: Workload, container: str, variable: str, value: str) -> str | None:
    """The line sets the whole variable. A pod's environment cannot be changed: None."""
    if not workload.templated or not _VARIABLE.fullmatch(variable):
        return None
    return _on(workload, "set env", "-c", container, f"{variable}={value}", of=container)


def patch(workload: Workload, pod_spec: Object) -> str | None:
    """Of a pod template: nothing but resources can be changed in a pod, and nothing in a Job's template."""
    if not workload.templated:
        return None
    return _on(workload, "patch", "--patch", _json(strategic_merge_patch(workload.kind, pod_spec)))


def patch_with_file(workload: Workload) -> str | None:
    """The line that applies patch_file(), whatever that is called."""
    if workload.kind == "Pod":
        return _on(workload, "patch", "--subresource", "resize", "--patch-file", "FILE")
    return _on(workload, "patch", "--patch-file", "FILE") if workload.templated else None


def roll_back(workload: Workload, to_revision: int | None) -> str | None:
    """to_revision None: to the one before, whichever that is."""
    if workload.kind not in _UNDOABLE:
        return None
    return _on(workload, "rollout undo", *([] if to_revision is None else [f"--to-revision={to_revision}"]))


def in_container(namespace: str, pod: str, container: str, *arguments: str) -> str | None:
    if not _are_names(namespace, pod, container):
        return None
    return shlex.join(["kubectl", "exec", "-n", namespace, pod, "-c", container, "--", *arguments])


def forward(namespace: str, pod: str, port: int) -> str | None:
    return (
        shlex.join(["kubectl", "port-forward", "-n", namespace, pod, str(port)]) if _are_names(namespace, pod) else None
    )


def _on(workload: Workload, verb: str, *arguments: str, of: str | None = None) -> str | None:
    names = [workload.namespace, workload.name] if of is None else [workload.namespace, workload.name, of]
    if not _are_names(*names):
        return None
    target = f"{workload.kind.lower()}/{workload.name}"
    return shlex.join(["kubectl", *verb.split(), target, "-n", workload.namespace, *arguments])


def _are_names(*names: str) -> bool:
    return all(_NAME.fullmatch(name) for name in names)


# Objects


def container_resources(
    container: str, *, kind: ContainerKind | None = None, limit: int | None = None, request: int | None = None
) -> Object:
    """A pod spec that sets the container's memory."""
    resources = _memory(limit=limit, request=request)
    section = "initContainers" if kind in (ContainerKind.INIT, ContainerKind.SIDECAR) else "containers"
    return {section: [{"name": container, "resources": resources}]}


def pod_limit(limit: int, request: int | None = None) -> Object:
    """A pod spec with pod-level resources (Kubernetes 1.34)."""
    return {"resources": _memory(limit=limit, request=request)}


def _memory(*, limit: int | None, request: int | None) -> Object:
    amounts = {"limits": limit, "requests": request}
    return {name: {"memory": quantity(size)} for name, size in amounts.items() if size is not None}


def volume_size(volume: str, size: int) -> Object:
    return {"volumes": [{"name": volume, "emptyDir": {"medium": "Memory", "sizeLimit": quantity(size)}}]}


def strategic_merge_patch(kind: str, pod_spec: Object) -> Object:
    """`pod_spec` where an object of this kind has it: for `kubectl patch`, or as a kustomize patch with a target."""
    if kind == "Pod":
        return {"spec": pod_spec}
    template: Object = {"spec": {"template": {"spec": pod_spec}}}
    return {"spec": {"jobTemplate": template}} if kind == "CronJob" else template


def patch_file(workload: Workload, pod_spec: Object) -> Object | None:
    """The patch with the name of what it is for, as kustomize takes it. None: of a kind that we do not know."""
    version = _API_VERSIONS.get(workload.kind)
    if version is None:
        return None
    return {
        "apiVersion": version,
        "kind": workload.kind,
        "metadata": {"name": workload.name, "namespace": workload.namespace},
        **strategic_merge_patch(workload.kind, pod_spec),
    }


def vpa_recommendation(
    workload: Workload,
    container: str,
    *,
    limit: int,
    request: int | None,
    peak: int | None = None,
    steady: int | None = None,
) -> Object | None:
    """
    As a VerticalPodAutoscaler would hold it, for what reads such objects: `target` is the request, `upperBound` the
    limit, `lowerBound` the steady state and `uncappedTarget` the peak that was seen. Never to be applied as it is: the
    status is the recommender's. None: no VPA can point to this kind.
    """
    version = _API_VERSIONS.get(workload.kind)
    if version is None or workload.kind == "Pod":
        return None
    target = limit if request is None else request
    bounds = {
        "target": target,
        "lowerBound": target if steady is None else min(steady, target),
        "upperBound": limit,
        "uncappedTarget": target if peak is None else peak,
    }
    recommendation = {name: {"memory": quantity(size)} for name, size in bounds.items()}
    return {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": workload.name, "namespace": workload.namespace},
        "spec": {
            "targetRef": {"apiVersion": version, "kind": workload.kind, "name": workload.name},
            "updatePolicy": {"updateMode": "Off"},
        },
        "status": {"recommendation": {"containerRecommendations": [{"containerName": container, **recommendation}]}},
    }


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
