"""Every command is run: see real_kubectl.py."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.diagnosis.commands import (
    MIB,
    Workload,
    container_resources,
    forward,
    in_container,
    patch,
    patch_file,
    pod_limit,
    quantity,
    roll_back,
    set_env,
    set_resources,
    strategic_merge_patch,
    tidy_down,
    tidy_up,
    volume_size,
    vpa_recommendation,
    workload_named,
    workload_of,
)
from collector.diagnosis.model import Facts
from collector.model import Cause, ContainerKind, Owner, Pod, PodUid, Process
from collector.pods.record import parse_quantity
from tests.diagnosis.real_kubectl import KUBECTL, apply, manifest, memory_of

if TYPE_CHECKING:
    from pathlib import Path

LIMIT, REQUEST = 640 * MIB, 512 * MIB
TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "CronJob")


def workload(kind: str, name: str = "web") -> Workload:
    return Workload(namespace="shop", kind=kind, name=name)


_BEFORE: dict[str, tuple[str | None, str | None]] = {
    "app": ("100Mi", None),
    "app-proxy": ("30Mi", None),
    "migrate": ("50Mi", None),
    "mesh": (None, None),
}


@pytest.mark.parametrize("kind", [*TEMPLATED, "Pod"])
def test_limit_and_request_of_one_container_and_of_no_other(kind: str, tmp_path: Path) -> None:
    spec = apply(set_resources(workload(kind), "app", limit=LIMIT, request=REQUEST), kind, tmp_path)
    assert memory_of(spec) == {**_BEFORE, "app": ("640Mi", "512Mi")}
    assert spec["containers"][0]["resources"]["limits"]["cpu"] == "1"


@pytest.mark.parametrize(
    ("kind", "container", "container_kind"),
    [
        pytest.param("Deployment", "migrate", ContainerKind.INIT, id="init container"),
        pytest.param("Deployment", "mesh", ContainerKind.SIDECAR, id="sidecar"),
        pytest.param("Deployment", "app-proxy", ContainerKind.APP, id="second container"),
        pytest.param("Pod", "mesh", ContainerKind.SIDECAR, id="sidecar of a bare pod"),
    ],
)
def test_any_container_is_found_by_its_name(
    kind: str, container: str, container_kind: ContainerKind, tmp_path: Path
) -> None:
    command = set_resources(workload(kind), container, kind=container_kind, limit=LIMIT)
    assert memory_of(apply(command, kind, tmp_path)) == {**_BEFORE, container: ("640Mi", None)}


def test_a_request_alone(tmp_path: Path) -> None:
    command = set_resources(workload("Deployment"), "app", request=REQUEST)
    assert memory_of(apply(command, "Deployment", tmp_path)) == {**_BEFORE, "app": ("100Mi", "512Mi")}


def test_a_bare_pod_is_resized_in_place() -> None:
    command = set_resources(workload("Pod"), "app", limit=LIMIT)
    assert command is not None
    assert shlex.split(command)[:7] == ["kubectl", "patch", "pod/web", "-n", "shop", "--subresource", "resize"]


@pytest.mark.parametrize(
    ("kind", "container_kind"),
    [
        pytest.param("Job", ContainerKind.APP, id="a Job's template cannot be changed"),
        pytest.param("Node", ContainerKind.APP, id="a static pod is a file"),
        pytest.param("Kafka", ContainerKind.APP, id="an operator undoes it"),
        pytest.param("Pod", ContainerKind.INIT, id="an init container cannot be resized"),
    ],
)
def test_no_command_where_none_would_work(kind: str, container_kind: ContainerKind) -> None:
    assert set_resources(workload(kind), "app", kind=container_kind, limit=LIMIT) is None


@pytest.mark.parametrize("kind", ["Job", "Pod", "Node", "Kafka"])
def test_neither_environment_nor_volumes_of_what_cannot_be_changed(kind: str) -> None:
    assert set_env(workload(kind), "app", "GOMEMLIMIT", "480MiB") is None
    assert patch(workload(kind), volume_size("cache", 64 * MIB)) is None


def test_a_variable_is_set_and_the_others_stay(tmp_path: Path) -> None:
    command = set_env(workload("Deployment"), "app", "JAVA_TOOL_OPTIONS", "-Xss1m -XX:MaxRAMPercentage=75")
    app, proxy = apply(command, "Deployment", tmp_path)["containers"]
    assert {one["name"]: one["value"] for one in app["env"]} == {
        "JAVA_TOOL_OPTIONS": "-Xss1m -XX:MaxRAMPercentage=75",
        "MODE": "fast",
    }
    assert "env" not in proxy


@pytest.mark.parametrize("kind", TEMPLATED)
def test_a_volume_is_bounded_and_stays_in_memory(kind: str, tmp_path: Path) -> None:
    spec = apply(patch(workload(kind), volume_size("cache", 64 * MIB)), kind, tmp_path)
    volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    assert volumes == {"cache": {"medium": "Memory", "sizeLimit": "64Mi"}, "data": {}}
    assert memory_of(spec) == _BEFORE


def test_the_limit_of_a_pod(tmp_path: Path) -> None:
    spec = apply(patch(workload("Deployment"), pod_limit(1024 * MIB)), "Deployment", tmp_path)
    assert spec["resources"] == {"limits": {"memory": "1Gi"}}
    assert memory_of(spec) == _BEFORE


@pytest.mark.parametrize(
    ("kind", "container_kind"),
    [
        ("Deployment", ContainerKind.APP),
        ("Deployment", ContainerKind.INIT),
        ("CronJob", ContainerKind.APP),
        ("Job", ContainerKind.APP),
        ("Pod", ContainerKind.APP),
    ],
)
def test_a_patch_for_a_manifest(kind: str, container_kind: ContainerKind, tmp_path: Path) -> None:
    container = "app" if container_kind is ContainerKind.APP else "migrate"
    change = container_resources(container, kind=container_kind, limit=LIMIT, request=REQUEST)
    command = shlex.join(
        ["kubectl", "patch", f"{kind.lower()}/web", "-n", "shop", "-p", json.dumps(strategic_merge_patch(kind, change))]
    )
    assert memory_of(apply(command, kind, tmp_path)) == {**_BEFORE, container: ("640Mi", "512Mi")}


@pytest.mark.parametrize("kind", [*TEMPLATED, "Job"])
def test_a_patch_file_is_what_kustomize_takes(kind: str, tmp_path: Path) -> None:
    change = patch_file(workload(kind), container_resources("app", limit=LIMIT))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(kind)))
    (tmp_path / "patch.json").write_text(json.dumps(change))
    (tmp_path / "kustomization.yaml").write_text("resources: [manifest.json]\npatches: [{path: patch.json}]\n")
    built = subprocess.run([KUBECTL, "kustomize", str(tmp_path)], capture_output=True, text=True, check=True)
    assert "memory: 640Mi" in built.stdout
    assert "memory: 100Mi" not in built.stdout
    assert "memory: 30Mi" in built.stdout


def test_no_patch_file_for_a_kind_that_we_do_not_know() -> None:
    assert patch_file(workload("Kafka"), container_resources("app", limit=LIMIT)) is None


@pytest.mark.parametrize(
    ("kind", "revision", "expected"),
    [
        ("Deployment", 41, "kubectl rollout undo deployment/web -n shop --to-revision=41"),
        ("StatefulSet", None, "kubectl rollout undo statefulset/web -n shop"),
        ("DaemonSet", 3, "kubectl rollout undo daemonset/web -n shop --to-revision=3"),
        ("ReplicaSet", 3, None),
        ("CronJob", None, None),
        ("Pod", None, None),
    ],
)
def test_roll_back(kind: str, revision: int | None, expected: str | None) -> None:
    assert roll_back(workload(kind), revision) == expected


@pytest.mark.parametrize("command", ["rollout undo", "exec", "port-forward", "set resources", "set env", "patch"])
def test_kubectl_knows_the_verbs_and_flags(command: str) -> None:
    text = subprocess.run([KUBECTL, *command.split(), "--help"], capture_output=True, text=True, check=True).stdout
    wanted = {
        "rollout undo": "--to-revision",
        "exec": "--container",
        "patch": "--subresource",
        "port-forward": "[LOCAL",
    }
    assert wanted.get(command, "--containers") in text


# Names


_HOSTILE = ["web; rm -rf /", "$(id)", "-f", "--all", "a b", "", "web\n", "Web", "w'eb", "x" * 300]


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_name_that_no_object_has_makes_no_command(name: str) -> None:
    hostile = workload("Deployment", name)
    assert set_resources(hostile, "app", limit=LIMIT) is None
    assert set_resources(workload("Deployment"), name, limit=LIMIT) is None
    assert set_env(hostile, "app", "GOMEMLIMIT", "1MiB") is None
    assert set_env(workload("Deployment"), "app", name, "1MiB") is None or name == "Web"
    assert roll_back(hostile, None) is None
    assert patch(hostile, pod_limit(LIMIT)) is None
    assert in_container("shop", name, "app", "true") is None
    assert forward(name, "web", 6060) is None


@given(value=st.text(), volume=st.text())
def test_every_word_reaches_kubectl_as_it_is(value: str, volume: str) -> None:
    command = set_env(workload("Deployment"), "app", "NODE_OPTIONS", value)
    assert command is not None
    assert shlex.split(command)[-1] == f"NODE_OPTIONS={value}"
    patched = patch(workload("Deployment"), volume_size(volume, MIB))
    assert patched is not None
    assert json.loads(shlex.split(patched)[-1]) == strategic_merge_patch("Deployment", volume_size(volume, MIB))


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        pytest.param(("Deployment", "web"), "Deployment/web", id="deployment"),
        pytest.param(("Job", "report-29734560"), "CronJob/report", id="job of a cron job, by its minutes"),
        pytest.param(("Job", "report-20261231"), "Job/report-20261231", id="a date is no such minute"),
        pytest.param(("Job", "migrate"), "Job/migrate", id="job"),
        pytest.param(("Node", "node-7"), "Node/web-x", id="static pod: its own name"),
        pytest.param((None, None), "Pod/web-x", id="bare pod"),
    ],
)
def test_what_has_to_be_changed(owner: tuple[str | None, str | None], expected: str) -> None:
    assert str(workload_named("shop", "web-x", *owner)) == expected


def test_a_pod_is_bare_only_where_the_api_says_so() -> None:
    pod = Pod(uid=PodUid("1"), namespace="shop", name="web-x")
    facts = Facts(cause=Cause.CONTAINER_LIMIT, victim=Process(pid=1, comm="a"), pod=pod)
    assert workload_of(facts) is None
    known = Facts(cause=Cause.CONTAINER_LIMIT, victim=Process(pid=1, comm="a"), pod=pod, memory_volumes=())
    assert str(workload_of(known)) == "Pod/web-x"
    owned = Pod(uid=PodUid("1"), namespace="shop", name="web-x", owner=Owner(kind="DaemonSet", name="web"))
    facts = Facts(cause=Cause.CONTAINER_LIMIT, victim=Process(pid=1, comm="a"), pod=owned)
    assert str(workload_of(facts)) == "DaemonSet/web"


# Quantities


@given(st.integers(min_value=0, max_value=2**62))
def test_a_quantity_is_exact(size: int) -> None:
    assert parse_quantity(quantity(size)) == size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param(1, "1Mi", id="never less than 1 MiB"),
        pytest.param(63 * MIB + 1, "64Mi", id="up to 64 MiB by 1"),
        pytest.param(64 * MIB, "64Mi", id="64 MiB is tidy"),
        pytest.param(64 * MIB + 1, "72Mi", id="above by 8"),
        pytest.param(504 * MIB + 1, "512Mi", id="up to 512 MiB"),
        pytest.param(512 * MIB, "512Mi", id="512 MiB is tidy"),
        pytest.param(512 * MIB + 1, "544Mi", id="above by 32"),
        pytest.param(640 * MIB, "640Mi", id="640 MiB is tidy"),
        pytest.param(992 * MIB + 1, "1Gi", id="a round GiB is said so"),
        pytest.param(2048 * MIB, "2Gi", id="2 GiB is tidy"),
        pytest.param(2048 * MIB + 1, "2176Mi", id="above by 128"),
    ],
)
def test_tidy(size: int, expected: str) -> None:
    assert quantity(tidy_up(size)) == expected


@given(st.integers(min_value=1, max_value=2**45))
def test_tidy_numbers_are_near_and_stay(size: int) -> None:
    up, down = tidy_up(size), tidy_down(size)
    assert down <= size <= up
    assert up - size < max(MIB, size / 8 + 1)
    assert tidy_up(up) == up
    assert tidy_down(up) == up
    assert parse_quantity(quantity(up)) == up


# A recommendation


def test_a_recommendation_as_a_vertical_pod_autoscaler_holds_it() -> None:
    made = vpa_recommendation(
        workload("Deployment"), "app", limit=LIMIT, request=REQUEST, peak=600 * MIB, steady=500 * MIB
    )
    assert made == {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "updatePolicy": {"updateMode": "Off"},
        },
        "status": {
            "recommendation": {
                "containerRecommendations": [
                    {
                        "containerName": "app",
                        "target": {"memory": "512Mi"},
                        "lowerBound": {"memory": "500Mi"},
                        "upperBound": {"memory": "640Mi"},
                        "uncappedTarget": {"memory": "600Mi"},
                    }
                ]
            }
        },
    }


@pytest.mark.parametrize("kind", ["Pod", "Kafka", "Node"])
def test_no_recommendation_for_what_no_autoscaler_can_point_to(kind: str) -> None:
    assert vpa_recommendation(workload(kind), "app", limit=LIMIT, request=None) is None
