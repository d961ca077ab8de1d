"""
A pod object of the API -> the little of it that a kill is told by. Environment, volumes and managedFields are left
behind: of a pod's 10 kB, less than 1 kB is kept.

Sources: k8s.io/api/core/v1/types.go; pkg/kubelet/pod/mirror_client.go (mirror pods);
k8s.io/apimachinery/pkg/api/resource/quantity.go; pkg/controller/deployment/sync.go (names of ReplicaSets).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice

from collector.errors import ParseError
from collector.json_fields import mapping, mappings, moment
from collector.model import ContainerId, ContainerKind, Owner, PodUid, QosClass

MAX_CONTAINERS = 256
"""A pod object may have tens of thousands: nobody who may make pods must be able to fill us."""
MAX_TEXT = 512
"""Longest name the API takes: 253. A longer image is left out, a longer message is cut."""


class RestartPolicy(StrEnum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Termination:
    """The end of one instance of a container, as the runtime told the kubelet: times are whole seconds, cut off."""

    container_id: ContainerId | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodContainer:
    """
    A container of the spec with its current instance.

    `id`: of the current instance, which may have ended. Limit and request: those in force, which differ from the spec's
    while a resize is under way. `image_digest`: its beginning, `sha256:0123456789ab`; None: of an image that came from
    no registry. `restart_policy` as it works for this container; None: it depends on the exit code.
    """

    name: str
    kind: ContainerKind
    image: str | None
    image_digest: str | None
    limit_bytes: int | None
    request_bytes: int | None
    declared_limit_bytes: int | None
    """In the spec: what a resize under way is to come to."""
    restart_policy: RestartPolicy | None
    id: ContainerId | None
    restart_count: int | None
    running_since: datetime | None
    waiting_reason: str | None
    terminated: Termination | None
    last: Termination | None
    """Of the instance before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRecord:
    """
    `uid` is the one in cgroup paths and log folders: a static pod's is the hash of its manifest, while the API knows
    its mirror by another, `api_uid`. `limit_bytes`, `request_bytes`: of pod-level resources, not the containers' sums.
    """

    uid: PodUid
    api_uid: str
    mirror: bool
    namespace: str
    name: str
    resource_version: int | None
    node_name: str | None
    qos_class: QosClass | None
    priority_class: str | None
    owner: Owner | None
    revision: str | None
    phase: str | None
    reason: str | None
    message: str | None
    deleting: bool
    disruption: str | None
    """Reason of the condition DisruptionTarget: TerminationByKubelet, PreemptionByScheduler, ..."""
    disrupted_at: datetime | None
    limit_bytes: int | None
    request_bytes: int | None
    memory_volumes: tuple[str, ...]
    """Names of the volumes that are emptyDirs in memory."""
    containers: tuple[PodContainer, ...]

    @property
    def event_uid(self) -> str:
        """What `kubectl describe pod` looks for Events by."""
        return self.uid if self.mirror else self.api_uid

    def container(self, name: str | None) -> PodContainer | None:
        return next((container for container in self.containers if container.name == name), None)


def parse_pod(document: Mapping[str, object]) -> PodRecord:
    """
    Read a v1 Pod. What is not known, or not of the type that it should be, counts as absent.

    Raises ParseError where uid, namespace or name are missing.
    """
    metadata, spec, status = (mapping(document.get(key)) for key in ("metadata", "spec", "status"))
    api_uid, namespace, name = (_text(metadata.get(key)) for key in ("uid", "namespace", "name"))
    if api_uid is None or namespace is None or name is None:
        raise ParseError("pod", str({"uid": api_uid, "namespace": namespace, "name": name}))
    annotations = mapping(metadata.get("annotations"))
    mirror = _text(annotations.get("kubernetes.io/config.mirror"))
    owner, revision = _owner(metadata)
    disruption = _condition(status, "DisruptionTarget")
    message = status.get("message")
    return PodRecord(
        uid=PodUid(mirror or _text(annotations.get("kubernetes.io/config.hash")) or api_uid),
        api_uid=api_uid,
        mirror=mirror is not None,
        namespace=sys.intern(namespace),
        name=name,
        resource_version=_version(metadata.get("resourceVersion")),
        node_name=_shared(spec.get("nodeName")),
        qos_class=_QOS_CLASSES.get(_text(status.get("qosClass"))),
        priority_class=_shared(spec.get("priorityClassName")),
        owner=owner,
        revision=revision,
        phase=_shared(status.get("phase")),
        reason=_shared(status.get("reason")),
        message=_text(message[:MAX_TEXT]) if isinstance(message, str) else None,
        deleting=metadata.get("deletionTimestamp") is not None,
        disruption=_shared(disruption.get("reason")),
        disrupted_at=moment(disruption.get("lastTransitionTime")),
        limit_bytes=_memory("limits", status, spec) or None,
        request_bytes=_memory("requests", status, spec),
        memory_volumes=_memory_volumes(spec),
        containers=tuple(islice(_containers(spec, status), MAX_CONTAINERS)),
    )


def parse_quantity(value: object) -> int | None:
    """
    Read an amount of bytes: `128Mi`, `0.5Gi`, `100M`, `129e6`, `128974848000m`. Parts of a byte are rounded up, as the
    kubelet does. None where it is no such amount.
    """
    if type(value) is int:
        return value if 0 <= value <= _MOST else None
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or not (match["whole"] or match["part"]):
        return None
    whole, part = match["whole"], match["part"] or ""
    amount, divisor = int(whole + part), 10 ** len(part)
    exponent = int(match["exponent"] or 0)
    if exponent < 0:
        divisor *= 10**-exponent
    else:
        amount *= 10**exponent
    factor, fraction = _SUFFIXES[match["suffix"] or ""]
    size = -(-amount * factor // (divisor * fraction))
    return size if size <= _MOST else None


_MOST = 2**63 - 1  # where quantities end too
_QUANTITY = re.compile(
    r"\+?(?P<whole>[0-9]{0,30})(?:\.(?P<part>[0-9]{0,30}))?"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,2})|(?P<suffix>[KMGTPE]i|[numkMGTPE]))?",
    re.ASCII,
)
_SUFFIXES = {
    "": (1, 1),
    "n": (1, 10**9),
    "u": (1, 10**6),
    "m": (1, 1000),
    **{suffix: (1000**power, 1) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": (1024**power, 1) for power, suffix in enumerate("KMGTPE", start=1)},
}
_QOS_CLASSES: Mapping[str | None, QosClass] = {str(member): member for member in QosClass}
_POLICIES: Mapping[str | None, RestartPolicy] = {str(member): member for member in RestartPolicy}
_LISTS = (
    ("initContainers", "initContainerStatuses", ContainerKind.INIT),
    ("containers", "containerStatuses", ContainerKind.APP),
    ("ephemeralContainers", "ephemeralContainerStatuses", ContainerKind.EPHEMERAL),
)


def _owner(metadata: Mapping[str, object]) -> tuple[Owner | None, str | None]:
    """
    The controller and its revision, from the pod alone: a Deployment's ReplicaSet is `<name>-<pod-template-hash>`.
    """
    labels = mapping(metadata.get("labels"))
    template = _shared(labels.get("pod-template-hash"))
    revision = template or _shared(labels.get("controller-revision-hash"))
    for reference in mappings(metadata.get("ownerReferences")):
        kind, name = _shared(reference.get("kind")), _shared(reference.get("name"))
        if reference.get("controller") is not True or kind is None or name is None:
            continue
        if kind == "ReplicaSet" and template is not None:
            deployment = name.removesuffix(f"-{template}")
            if deployment not in {name, ""}:
                return Owner(kind="Deployment", name=sys.intern(deployment)), revision
        return Owner(kind=kind, name=name), revision
    return None, None


def _containers(spec: Mapping[str, object], status: Mapping[str, object]) -> Iterator[PodContainer]:
    pod_policy = _POLICIES.get(_text(spec.get("restartPolicy")))
    for spec_key, status_key, kind in _LISTS:
        declared = spec.get(spec_key)
        if not declared:
            continue
        statuses = {_text(one.get("name")): one for one in mappings(status.get(status_key))}
        for container in mappings(declared):
            name = _shared(container.get("name"))
            if name is not None:
                yield _container(name, kind, container, statuses.get(name, {}), pod_policy)


def _container(
    name: str,
    kind: ContainerKind,
    spec: Mapping[str, object],
    status: Mapping[str, object],
    pod_policy: RestartPolicy | None,
) -> PodContainer:
    if kind is ContainerKind.INIT and spec.get("restartPolicy") == "Always":
        kind = ContainerKind.SIDECAR
    state = mapping(status.get("state"))
    return PodContainer(
        name=name,
        kind=kind,
        image=_shared(spec.get("image")),
        image_digest=_digest(status.get("imageID")),
        limit_bytes=_memory("limits", status, spec) or None,  # 0 is the kubelet's word for none
        request_bytes=_memory("requests", status, spec),
        declared_limit_bytes=_memory("limits", spec) or None,
        restart_policy=_restart_policy(kind, spec, pod_policy),
        id=_container_id(status.get("containerID")),
        restart_count=_number(status.get("restartCount")),
        running_since=moment(mapping(state.get("running")).get("startedAt")),
        waiting_reason=_shared(mapping(state.get("waiting")).get("reason")),
        terminated=_termination(state.get("terminated")),
        last=_termination(mapping(status.get("lastState")).get("terminated")),
    )


def _restart_policy(
    kind: ContainerKind, spec: Mapping[str, object], pod_policy: RestartPolicy | None
) -> RestartPolicy | None:
    if kind is ContainerKind.EPHEMERAL:
        return RestartPolicy.NEVER
    if spec.get("restartPolicyRules"):  # by exit code, from 1.34
        return None
    own = _POLICIES.get(_text(spec.get("restartPolicy")))
    policy = own or pod_policy
    if kind is ContainerKind.INIT and policy is RestartPolicy.ALWAYS:
        return RestartPolicy.ON_FAILURE  # it is repeated until it succeeds
    return policy


def _termination(value: object) -> Termination | None:
    if not isinstance(value, dict):
        return None
    terminated = mapping(value)
    return Termination(
        container_id=_container_id(terminated.get("containerID")),
        exit_code=_number(terminated.get("exitCode")),
        signal=_number(terminated.get("signal")),
        reason=_shared(terminated.get("reason")),
        finished_at=moment(terminated.get("finishedAt")),
    )


def _memory(what: str, *sources: Mapping[str, object]) -> int | None:
    """As the first of these tells that has it."""
    for source in sources:
        size = parse_quantity(mapping(mapping(source.get("resources")).get(what)).get("memory"))
        if size is not None:
            return size
    return None


def _memory_volumes(spec: Mapping[str, object]) -> tuple[str, ...]:
    in_memory = (
        _shared(volume.get("name"))
        for volume in mappings(spec.get("volumes"))
        if mapping(volume.get("emptyDir")).get("medium") == "Memory"
    )
    return tuple(name for name in islice(in_memory, MAX_CONTAINERS) if name is not None)


def _condition(status: Mapping[str, object], kind: str) -> Mapping[str, object]:
    for condition in mappings(status.get("conditions")):
        if condition.get("type") == kind and condition.get("status") == "True":
            return condition
    return {}


def _container_id(value: object) -> ContainerId | None:
    """`containerd://0d1f...` -> `0d1f...`"""
    text = _text(value)
    return ContainerId(text.rpartition("://")[2]) or None if text else None


def _digest(value: object) -> str | None:
    """`registry.example/app@sha256:0d1f...` -> `sha256:0d1f...`, shortened: what tells two images apart is enough."""
    match = _DIGEST.search(_text(value) or "")
    return sys.intern(match[1]) if match else None


_DIGEST = re.compile(r"@(sha256:[0-9a-f]{12})[0-9a-f]{52}\Z", re.ASCII)


def _version(value: object) -> int | None:
    """Resource versions are numbers that grow, and may be compared (stated so from Kubernetes 1.35 on)."""
    text = _text(value)
    return int(text) if text and len(text) <= 20 and text.isascii() and text.isdigit() else None


def _number(value: object) -> int | None:
    return value if type(value) is int and abs(value) < 2**31 else None


def _text(value: object) -> str | None:
    """JSON can name lone surrogates, which no file, database or request takes."""
    if type(value) is not str or not 0 < len(value) <= MAX_TEXT:
        return None
    return value if value.isascii() or not _SURROGATE.search(value) else None


_SURROGATE = re.compile("[\ud800-\udfff]")


def _shared(value: object) -> str | None:
    """A text that many records have: kept once."""
    text = _text(value)
    return None if text is None else sys.intern(text)
