"""The examples of the walkthrough: what they ask of a cluster, and that each has its cure."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # without type information
import pytest

from tests.deploy.chart import ROOT, objects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.chart import Manifest

EXAMPLES = ROOT / "deploy/examples"
NAMESPACE = EXAMPLES / "namespace.yaml"
DYING = sorted(set(EXAMPLES.glob("*.yaml")) - {NAMESPACE})
CURED = sorted((EXAMPLES / "cured").glob("*.yaml"))
ALL = [NAMESPACE, *DYING, *CURED]
API_VERSIONS = ("1.29", "1.32", "1.36", "1.37")  # 1.29: sidecars
UNITS = {"Mi": 2**20, "Gi": 2**30}


def example(path: Path) -> Any:
    return pytest.param(path, id=str(path.relative_to(EXAMPLES)))


def deployment(path: Path) -> Manifest:
    [found] = [each for each in objects(path.read_text()) if each["kind"] == "Deployment"]
    return found


def containers(path: Path) -> Iterator[Manifest]:
    pod = deployment(path)["spec"]["template"]["spec"]
    yield from (*pod.get("initContainers", ()), *pod["containers"])


def size(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def limit(container: Manifest) -> int:
    return size(container["resources"]["limits"]["memory"])


def test_there_is_one_for_each_way_of_dying() -> None:
    assert [path.stem for path in DYING] == ["child", "jvm", "leak", "sidecar", "startup", "volume"]
    assert [path.name for path in CURED] == [path.name for path in DYING]


@pytest.mark.parametrize("version", API_VERSIONS)
@pytest.mark.parametrize("path", [example(path) for path in ALL])
def test_manifests_are_valid(path: Path, version: str) -> None:
    for manifest in objects(path.read_text()):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("path", [example(path) for path in ALL])
def test_all_is_in_a_namespace_of_its_own(path: Path) -> None:
    for manifest in objects(path.read_text()):
        metadata = manifest["metadata"]
        where = metadata["name"] if manifest["kind"] == "Namespace" else metadata.get("namespace")
        assert where == "oom-examples", manifest


@pytest.mark.parametrize("path", [example(path) for path in (*DYING, *CURED)])
def test_every_container_is_bounded(path: Path) -> None:
    """And has what the namespace's quota and its Pod Security level ask for."""
    pod = deployment(path)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(path):
        assert 0 < size(container["resources"]["requests"]["memory"]) <= limit(container) <= 320 * 2**20
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_all_fit_into_the_quota_at_once() -> None:
    [quota] = [each for each in objects(NAMESPACE.read_text()) if each["kind"] == "ResourceQuota"]
    wanted = sum(limit(container) for path in CURED for container in containers(path))
    assert wanted <= size(quota["spec"]["hard"]["limits.memory"])


@pytest.mark.parametrize("path", [example(path) for path in (*DYING, *CURED)])
def test_images_are_short_names_with_a_tag(path: Path) -> None:
    for container in containers(path):
        name, _, tag = container["image"].partition(":")
        assert tag not in {"", "latest"}
        assert "/" not in name


@pytest.mark.parametrize("path", [example(path) for path in (*DYING, *CURED)])
def test_python_programs_compile(path: Path) -> None:
    for container in containers(path):
        for script in container.get("args", ()):
            ast.parse(script)


@pytest.mark.parametrize("path", [example(path) for path in DYING])
def test_a_cure_changes_nothing_but_its_subject(path: Path) -> None:
    """Applied over the other it is a rollout of the same Deployment: limits, arguments and volumes at most."""
    sick, cured = deployment(path), deployment(EXAMPLES / "cured" / path.name)
    assert sick != cured
    for each in (sick, cured):
        pod = each["spec"]["template"]["spec"]
        pod.pop("volumes", None)
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            for key in ("args", "command", "resources"):
                container.pop(key, None)
    assert sick == cured
