"""What is kept of a pod object."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import ParseError
from collector.model import ContainerKind, Owner, PodUid, QosClass
from collector.pods.record import (
    MAX_CONTAINERS,
    MAX_TEXT,
    PodContainer,
    RestartPolicy,
    Termination,
    parse_pod,
    parse_quantity,
)
from tests.pods.pods import MINIMAL, NAMES, at, container_id, pod_uid, read_object, read_pod

MIB = 1024**2


def test_pod_of_a_deployment() -> None:
    pod = read_pod("deployment")

    assert (pod.uid, pod.api_uid, pod.event_uid, pod.mirror) == (pod_uid(1), pod_uid(1), pod_uid(1), False)
    assert (pod.namespace, pod.name, pod.node_name) == ("shop", "cart-6c8f9d7b54-x7k2p", "node-1")
    assert (pod.qos_class, pod.phase, pod.resource_version) == (QosClass.BURSTABLE, "Running", 1001)
    assert (pod.reason, pod.message, pod.disruption, pod.deleting) == (None, None, None, False)
    assert pod.containers == (
        PodContainer(
            name="app",
            kind=ContainerKind.APP,
            image="registry.example/shop/cart:4.2.0",
            image_digest="sha256:abababababab",
            limit_bytes=512 * MIB,
            request_bytes=256 * MIB,
            declared_limit_bytes=512 * MIB,
            restart_policy=RestartPolicy.ALWAYS,
            id=container_id(0x11),
            restart_count=0,
            running_since=at("08:00:02"),
            waiting_reason=None,
            terminated=None,
            last=None,
        ),
    )


@pytest.mark.parametrize(
    ("image_id", "digest"),
    [
        pytest.param(f"registry.example/app@sha256:{'0123456789abcdef' * 4}", "sha256:0123456789ab", id="containerd"),
        pytest.param(f"docker-pullable://app@sha256:{'0' * 64}", "sha256:000000000000", id="dockerd"),
        pytest.param(f"sha256:{'0' * 64}", None, id="the image's own id, which no registry knows"),
        pytest.param(f"app@sha256:{'0' * 63}", None, id="cut off"),
        pytest.param(f"app@sha256:{'X' * 64}", None, id="no digest"),
        pytest.param(f"app@sha512:{'0' * 128}", None, id="another hash"),
        pytest.param("", None, id="not pulled yet"),
        pytest.param(7, None, id="no text"),
    ],
)
def test_image_digest(image_id: object, digest: str | None) -> None:
    status = {"containerStatuses": [{"name": "app", "imageID": image_id}]}
    pod = parse_pod({**MINIMAL, "spec": {"containers": [{"name": "app"}]}, "status": status})
    assert pod.containers[0].image_digest == digest


@pytest.mark.parametrize(
    ("name", "owner", "revision"),
    [
        pytest.param(
            "deployment", Owner(kind="Deployment", name="cart"), "6c8f9d7b54", id="Deployment, by its ReplicaSet"
        ),
        pytest.param("statefulset", Owner(kind="StatefulSet", name="db"), "db-7f8d9c6b5", id="StatefulSet"),
        pytest.param("daemonset", Owner(kind="DaemonSet", name="agent"), "79c6d9f4b8", id="DaemonSet"),
        pytest.param("job", Owner(kind="Job", name="report-29382045"), None, id="CronJob, shown as its Job"),
        pytest.param("mirror", Owner(kind="Node", name="node-1"), None, id="static pod"),
    ],
)
def test_owner(name: str, owner: Owner, revision: str | None) -> None:
    pod = read_pod(name)
    assert (pod.owner, pod.revision) == (owner, revision)


@pytest.mark.parametrize(
    ("owner", "labels", "expected"),
    [
        pytest.param("web-6c8f9d7b54", {}, Owner(kind="ReplicaSet", name="web-6c8f9d7b54"), id="no label"),
        pytest.param(
            "web", {"pod-template-hash": "6c8f9d7b54"}, Owner(kind="ReplicaSet", name="web"), id="named otherwise"
        ),
        pytest.param(
            "-6c", {"pod-template-hash": "6c"}, Owner(kind="ReplicaSet", name="-6c"), id="nothing but the hash"
        ),
    ],
)
def test_replica_set_that_is_no_deployments(owner: str, labels: dict[str, str], expected: Owner) -> None:
    references = [{"kind": "Node", "name": "no-controller"}, {"kind": "ReplicaSet", "name": owner, "controller": True}]
    pod = parse_pod(
        {"metadata": {"uid": "u", "namespace": "n", "name": "p", "labels": labels, "ownerReferences": references}}
    )
    assert pod.owner == expected


def test_static_pod_has_two_uids() -> None:
    pod = read_pod("mirror")
    assert (pod.uid, pod.api_uid) == ("3f1c0e9b7d5a48269e8f0a1b2c3d4e5f", pod_uid(5))
    assert pod.event_uid == pod.uid, "kubectl describe looks for a mirror pod's Events by the hash"


def test_static_pod_by_its_hash_alone() -> None:
    annotations = {"kubernetes.io/config.hash": "3f1c", "kubernetes.io/config.source": "file"}
    pod = parse_pod({"metadata": {"uid": "u", "namespace": "n", "name": "p", "annotations": annotations}})
    assert (pod.uid, pod.api_uid, pod.event_uid) == ("3f1c", "u", "u")


def test_kinds_of_containers() -> None:
    containers = {container.name: container for container in read_pod("sidecar-init-ephemeral").containers}

    assert {name: (one.kind, one.restart_policy) for name, one in containers.items()} == {
        "migrate": (ContainerKind.INIT, RestartPolicy.ON_FAILURE),
        "mesh": (ContainerKind.SIDECAR, RestartPolicy.ALWAYS),
        "app": (ContainerKind.APP, RestartPolicy.ALWAYS),
        "debugger-7x2vq": (ContainerKind.EPHEMERAL, RestartPolicy.NEVER),
    }
    assert [one.id for one in containers.values()] == [container_id(number) for number in (0x61, 0x62, 0x63, 0x64)]
    assert containers["migrate"].terminated == Termination(
        container_id=container_id(0x61), exit_code=0, signal=None, reason="Completed", finished_at=at("08:00:08")
    )


def test_rules_by_exit_code_leave_the_policy_open() -> None:
    container = {"name": "c", "restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]}
    pod = parse_pod({**MINIMAL, "spec": {"restartPolicy": "Always", "containers": [container]}})
    assert pod.containers[0].restart_policy is None


def test_crash_loop() -> None:
    (container,) = read_pod("crash-loop").containers
    assert (container.id, container.running_since, container.waiting_reason) == (
        container_id(0x75),
        None,
        "CrashLoopBackOff",
    )
    assert container.restart_count == 4
    assert container.last == Termination(
        container_id=container_id(0x75), exit_code=137, signal=None, reason="OOMKilled", finished_at=at("09:04:31")
    )


def test_limit_in_force_while_a_resize_is_pending() -> None:
    (container,) = read_pod("resize-pending").containers
    assert container.limit_bytes == 512 * MIB


def test_pod_level_limit() -> None:
    pod = read_pod("pod-level-resources")
    assert pod.limit_bytes == 1024 * MIB
    assert [container.limit_bytes for container in pod.containers] == [None, 300 * MIB]


def test_volumes_in_memory() -> None:
    assert read_pod("memory-volume").memory_volumes == ("scratch",)


def test_evicted() -> None:
    pod = read_pod("evicted")
    assert (pod.phase, pod.reason, pod.disruption) == ("Failed", "Evicted", "TerminationByKubelet")
    assert pod.disrupted_at == at("09:20:03")


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_kept(name: str) -> None:
    raw = json.dumps(read_object(name))
    kept = repr(asdict(read_pod(name)))
    for secret in ("not-to-be-kept", "f:metadata", "serviceAccountToken"):
        assert secret in raw
        assert secret not in kept


@pytest.mark.parametrize("key", ["uid", "namespace", "name"])
@pytest.mark.parametrize("value", [None, "", 7, "x" * (MAX_TEXT + 1)])
def test_no_pod_without_uid_and_name(key: str, value: object) -> None:
    with pytest.raises(ParseError):
        parse_pod({"metadata": {"uid": "u", "namespace": "n", "name": "p", key: value}})


def test_texts_and_lists_are_bounded() -> None:
    containers = [{"name": f"c{number}", "image": "i" * 10_000} for number in range(10_000)]
    pod = parse_pod({**MINIMAL, "spec": {"containers": containers}, "status": {"message": "m" * 10_000}})
    assert len(pod.containers) == MAX_CONTAINERS
    assert pod.containers[0].image is None, "half an image names another one"
    assert pod.message == "m" * MAX_TEXT


@pytest.mark.parametrize(
    ("quantity", "size"),
    [
        pytest.param("128Mi", 128 * MIB, id="binary"),
        pytest.param("0.5Gi", 512 * MIB, id="fraction"),
        pytest.param(".5Gi", 512 * MIB, id="no digit before the point"),
        pytest.param("1.Gi", 1024 * MIB, id="no digit behind the point"),
        pytest.param("100M", 100_000_000, id="decimal"),
        pytest.param("64k", 64_000, id="small k"),
        pytest.param("129e6", 129_000_000, id="exponent"),
        pytest.param("1E9", 1_000_000_000, id="large exponent sign"),
        pytest.param("5e-1", 1, id="half a byte, rounded up"),
        pytest.param("2E", 2 * 10**18, id="exa, no exponent"),
        pytest.param("128974848000m", 128_974_848, id="thousandths"),
        pytest.param("128974848001m", 128_974_849, id="thousandths, rounded up"),
        pytest.param("+1Ki", 1024, id="sign"),
        pytest.param("268435456", 256 * MIB, id="bytes"),
        pytest.param(268435456, 256 * MIB, id="number"),
        pytest.param("0", 0, id="zero"),
        pytest.param("", None, id="empty"),
        pytest.param(".", None, id="point"),
        pytest.param("Mi", None, id="unit alone"),
        pytest.param("-1Gi", None, id="negative"),
        pytest.param(-1, None, id="negative number"),
        pytest.param("1Kib", None, id="no such unit"),
        pytest.param("1K", None, id="large K is none"),
        pytest.param("1 Mi", None, id="blank"),
        pytest.param("1_0", None, id="underscore"),
        pytest.param("\u0661Mi", None, id="Arabic digit"),
        pytest.param("1e99", None, id="too large"),
        pytest.param("1e999999999", None, id="much too large"),
        pytest.param("9" * 5000, None, id="too long"),
        pytest.param(2**70, None, id="too large a number"),
        pytest.param(True, None, id="boolean"),
        pytest.param(1.5, None, id="float"),
        pytest.param(None, None, id="absent"),
    ],
)
def test_quantity(quantity: object, size: int | None) -> None:
    assert parse_quantity(quantity) == size


def test_limit_of_0_is_none() -> None:
    container = {"name": "c", "resources": {"limits": {"memory": "0"}, "requests": {"memory": "0"}}}
    (parsed,) = parse_pod({**MINIMAL, "spec": {"containers": [container]}}).containers
    assert (parsed.limit_bytes, parsed.request_bytes) == (None, 0)


@pytest.mark.parametrize("value", [True, 1.0, "1", 2**40, None])
def test_count_that_is_no_number_is_none(value: object) -> None:
    status = {"containerStatuses": [{"name": "c", "restartCount": value}]}
    (container,) = parse_pod({**MINIMAL, "spec": {"containers": [{"name": "c"}]}, "status": status}).containers
    assert container.restart_count is None


@pytest.mark.parametrize("value", ["2026-11-21", "2026-11-21T08:00:00", "yesterday", 7, None])
def test_time_without_offset_is_none(value: object) -> None:
    status = {"containerStatuses": [{"name": "c", "state": {"running": {"startedAt": value}}}]}
    (container,) = parse_pod({**MINIMAL, "spec": {"containers": [{"name": "c"}]}, "status": status}).containers
    assert container.running_since is None


TEXT = st.text(st.characters(), max_size=8)  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("key", ["uid", "namespace", "name"])
@pytest.mark.parametrize(
    "value", [pytest.param("x\ud800", id="lone surrogate"), pytest.param(json.loads("[" * 900 + "]" * 900), id="deep")]
)
def test_a_name_that_can_be_none_is_refused(key: str, value: object) -> None:
    with pytest.raises(ParseError, match=f"'{key}': None"):
        parse_pod({"metadata": {"uid": "u", "namespace": "shop", "name": "cart-0", key: value}})


def test_no_text_has_a_lone_surrogate() -> None:
    """No file, database or request takes one."""
    document = json.loads(re.sub(r'("\w+": ")(?!\d)', r"\1\\ud800", json.dumps(read_object("evicted"))))
    document["metadata"] |= MINIMAL["metadata"]
    assert "\ud800" in document["spec"]["nodeName"]
    assert repr(parse_pod(document)).count("ud800") == 0


@settings(deadline=None)
@given(document=JSON)
def test_any_json_is_a_pod_or_a_parse_error(document: object) -> None:
    with pytest.raises(ParseError):
        parse_pod(document if isinstance(document, dict) else {"metadata": document, "spec": document})


@settings(deadline=None)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_a_pod_with_anything_in_it_is_a_pod_or_a_parse_error(data: st.DataObject, name: str) -> None:
    document = read_object(name)
    _spoil(document, data)
    try:
        pod = parse_pod(document)
    except ParseError:
        return
    assert pod.uid == PodUid(pod.uid)
    assert hash(pod) == hash(parse_pod(document))
    assert json.dumps(asdict(pod), default=str, ensure_ascii=False).encode()


def _spoil(document: object, data: st.DataObject) -> None:
    """Put anything at one place of the document, which may be deep."""
    while True:
        keys: list[object] = list(document) if isinstance(document, dict) else list(range(len(document)))  # type: ignore[arg-type]
        key = data.draw(st.sampled_from(keys))
        inner = document[key]  # type: ignore[index]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 3)) == 0:
            document[key] = data.draw(JSON)  # type: ignore[index]
            return
        document = inner
