"""What of the cluster tests needs no cluster: their manifests, their helpers, and their questions put to the double."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # without type information
import pytest

from collector.state.store import read_documents
from tests import lines
from tests.cluster import killers
from tests.cluster.audit import outside, requests_of
from tests.cluster.installation import (
    Installation,
    NodeWitness,
    image_values,
    namespace,
    printed,
    privileged_pod,
    values,
)
from tests.cluster.killers import Killer
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.told import Patience, check_kill, container_status, event_uid, incidents, samples, until
from tests.deploy.chart import objects, render
from tests.test_agent_in_cluster import NODE, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.cluster.told import Document

IMAGE = "oom-collector:1"
KINDS = killers.killers("shop", NODE, IMAGE)
STATIC = killers.static_pod("shop", NODE, IMAGE)
PLACER = killers.placer(STATIC, "shop", NODE, IMAGE, "/etc/kubernetes/manifests")
OTHERS = [make("shop", NODE, IMAGE) for make in (killers.evicted, killers.unhealthy, killers.terminated_later)]
MANIFESTS = [*(killer.manifest for killer in KINDS.values()), STATIC.manifest, PLACER, *OTHERS]
QUICK = Patience(killed=10, told=10, pause=0.05)


# Manifests


@pytest.mark.parametrize("version", ["1.30", "1.36", "1.37"])
@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(made, id=made["metadata"]["name"])
        for made in [*MANIFESTS, privileged_pod("shop", IMAGE), namespace("n")]
    ],
)
def test_manifests_are_valid(manifest: killers.Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", [pytest.param(made, id=made["metadata"]["name"]) for made in MANIFESTS])
def test_no_container_can_take_the_node_along(manifest: killers.Manifest) -> None:
    spec = manifest["spec"]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        assert container["resources"]["limits"] == {"memory": "64Mi"}
        compile(container["command"][2], container["name"], "exec")


def test_a_static_pod_has_nothing_that_only_a_server_could_resolve() -> None:
    assert not STATIC.manifest["spec"].keys() & {"nodeName", "serviceAccountName", "automountServiceAccountToken"}


def test_a_placer_takes_the_manifest_back(tmp_path: Path) -> None:
    (container,) = PLACER["spec"]["containers"]
    program = container["command"][2].replace("/manifests/", f"{tmp_path}/")
    environment = os.environ | {each["name"]: each["value"] for each in container["env"]}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    placed = tmp_path / f"{killers.NAMES_FILE}.json"
    try:
        until(placed.exists, "the manifest", seconds=10, pause=0.02)
        assert json.loads(placed.read_text()) == STATIC.manifest
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "lives"),
    [
        *((kind, (0, 0)) for kind in ("limit", "job", "group", "child", "init", "memory-volume", "evicted")),
        ("later", (0, 143)),
    ],
)
def test_programs_do_not_fail_where_nothing_kills_them(tmp_path: Path, kind: str, lives: tuple[int, int]) -> None:
    """Their first life and their next; in a directory, without waiting, and with little memory."""
    made = KINDS[kind].manifest if kind in KINDS else OTHERS[[each["metadata"]["name"] for each in OTHERS].index(kind)]
    first, *_ = made["spec"].get("initContainers", made["spec"]["containers"])
    program = first["command"][2]
    for mount in ("/once/", "/memory/", "/cache/", "/sys/fs/cgroup/"):
        program = program.replace(mount, f"{tmp_path}/")
    program = program.replace("time.sleep(3)", "").replace("time.sleep(86400)", "raise SystemExit").replace("256", "2")
    group = tmp_path / "memory.oom.group"
    group.write_text("1")
    program = program.replace('open("/proc/self/cgroup")', '["0::/"]').replace(
        "sys/fs/cgroup{own[0]}", f"{tmp_path}{{own[0]}}"
    )
    for life in lives:
        assert subprocess.run([sys.executable, "-c", program], check=False, timeout=20).returncode == life
    assert group.read_text() == ("0" if kind == "child" else "1")


def test_the_chart_takes_the_values_of_the_tests() -> None:
    found = objects(
        render(values("registry/oom-collector:1", "kmsg", "oom-collector-test-1"), name="oom-collector-test-1")
    )
    assert {each["metadata"]["name"] for each in found} == {"oom-collector-test-1"}
    assert {each["metadata"]["labels"]["oom-collector-test"] for each in found} == {"oom-collector-test-1"}
    assert {"ClusterRole", "ClusterRoleBinding", "DaemonSet"} <= {each["kind"] for each in found}


# Helpers


@pytest.mark.parametrize(
    ("image", "repository", "tag", "digest"),
    [
        ("oom-collector", "oom-collector", "", ""),
        ("localhost:5000/a/oom-collector", "localhost:5000/a/oom-collector", "", ""),
        ("localhost:5000/oom-collector:0.1", "localhost:5000/oom-collector", "0.1", ""),
        (f"r/oom-collector:0.1@sha256:{'0' * 64}", "r/oom-collector", "0.1", f"sha256:{'0' * 64}"),
    ],
)
def test_image_values(image: str, repository: str, tag: str, digest: str) -> None:
    assert image_values(image) == {"repository": repository, "tag": tag, "digest": digest}


def test_incidents_are_told_from_the_agent_s_other_lines() -> None:
    log = 'time=2026-11-21T00:00:00.000Z level=info logger=a msg="{}"\n{"schema":"oom-kill/1","id":"a"}\n'
    assert [line["id"] for line in printed(log)] == ["a"]


def test_samples() -> None:
    text = '# TYPE a counter\na_total{b="c d"} 2.0\nc 1\n'
    assert samples(text) == {'a_total{b="c d"}': 2.0, "c": 1.0}


AGENT = "system:serviceaccount:monitoring:oom-collector"


def entry(
    verb: str, resource: str, *, user: str = AGENT, stage: str = "ResponseComplete", code: int = 200, **about: str
) -> str:
    """A line of an audit log."""
    return (
        json.dumps(
            {
                "kind": "Event",
                "apiVersion": "audit.k8s.io/v1",
                "auditID": f"{verb} {resource} {about}",
                "stage": stage,
                "requestURI": f"/{resource}",
                "verb": verb,
                "user": {"username": user},
                "objectRef": {"resource": resource, "apiVersion": "v1", **about},
                "responseStatus": {"code": code},
            }
        )
        + "\n"
    )


def test_an_audit_log_is_held_against_the_rules() -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]
    inside = [
        entry("watch", "pods", stage="ResponseStarted"),
        entry("watch", "pods"),
        entry("create", "events", apiGroup="events.k8s.io", namespace="shop"),
    ]
    wrong = [
        entry("create", "events", namespace="shop"),
        entry("get", "pods", name="a"),
        entry("list", "pods", subresource="log"),
        json.dumps({"auditID": "v", "verb": "get", "requestURI": "/version", "user": {"username": AGENT}}) + "\n",
    ]
    log = [*inside, *wrong, entry("delete", "pods", user="somebody else"), entry("delete", "pods").rstrip()]
    requests = requests_of(AGENT, log)
    assert [request["stage"] for request in requests[:2]] == ["ResponseComplete", "ResponseComplete"]
    assert outside(rules, requests) == ["create /events", "get /pods", "list /pods", "get /version"]


class Unwilling(Installation):
    """Nothing can be removed from this cluster."""

    def __init__(self) -> None:
        super().__init__(Kubectl(), image=IMAGE, mode="kmsg")
        self.tried: list[str] = []

    def _stop_placer(self) -> None:
        self.tried.append("placer")
        raise KubectlError("no placer")

    def _uninstall(self) -> None:
        self.tried.append("release")
        raise KubectlError("no release")

    def _delete(self) -> None:
        self.tried.append("namespace")


def test_all_is_removed_that_can_be() -> None:
    installation = Unwilling()
    with pytest.raises(KubectlError, match="no placer"):
        installation.remove()
    assert installation.tried == ["placer", "release", "namespace"]


# Their questions, put to the double


class DoubleWitness(NodeWitness):
    """Its agent is no pod: it is asked without the API server."""

    def __init__(self, node: World) -> None:
        super().__init__(
            Kubectl("--kubeconfig", "/dev/null", "--server", node.api.url),
            namespace="shop",
            node=NODE,
            agent="",
            port=0,
        )
        self._world = node

    def printed(self) -> list[Document]:
        return self._world.agents[-1].incidents

    def journal(self) -> list[Document]:
        return list(read_documents(self._world.directory / "state"))

    def counters(self) -> Mapping[str, float]:
        return samples(self._world.agents[-1].get("/metrics")[1])


class Kubelet:
    """Runs a killer's pod as far as the API shows it. number: of the pod on its node."""

    def __init__(self, killer: Killer, number: int) -> None:
        self.killer = killer
        self.uid = f"0f9c1d2e-3b4a-4c5d-8e6f-{number:012d}"
        self.id = f"{number:064x}"
        self.memcg = f"/kubepods/burstable/pod{self.uid}/{self.id}"

    def report(self, pid: int) -> list[str]:
        return [text.replace("49152kB", "65536kB") for text in lines.report(pid=pid, memcg=self.memcg)]

    def pod(self, *, died: bool) -> dict[str, Any]:
        made = copy.deepcopy(self.killer.manifest)
        made["metadata"] |= {"name": self.killer.name, "uid": self.uid}
        made["spec"]["nodeName"] = NODE
        if self.killer is STATIC:
            made["metadata"] |= {"uid": "mirror", "annotations": {"kubernetes.io/config.mirror": self.uid}}
        failed = died and "pod_failed" in self.killer.fates
        status = {
            "name": self.killer.container,
            "containerID": f"containerd://{'f' * 64 if died and not failed else self.id}",
            "restartCount": int(died and not failed),
            "state": {"running": {"startedAt": _stamp(5 if died else -60)}},
        }
        end = {
            "terminated": {
                "containerID": f"containerd://{self.id}",
                "exitCode": 137,
                "reason": "OOMKilled",
                "finishedAt": _stamp(1),
            }
        }
        if died:
            status["state" if failed else "lastState"] = end
        kept = "containerStatuses" if self.killer.kind == "app" else "initContainerStatuses"
        made["status"] = {"phase": "Failed" if failed else "Running", "qosClass": "Burstable", kept: [status]}
        return made


def _stamp(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def test_all_kinds_against_the_double(node: World) -> None:
    """But the child: that it survived is known half a minute later."""
    kinds = [*(killer for name, killer in KINDS.items() if name != "child"), STATIC]
    kubelets = [Kubelet(killer, number) for number, killer in enumerate(kinds, start=1)]
    for each in kubelets:
        node.api.create(each.pod(died=False))
    agent = await node.start_agent()
    await node.until(lambda: agent.metric('oom_collector_source_up{source="pods"}') == 1)
    for number, each in enumerate(kubelets):
        node.log.write(each.report(pid=300 + number))
    await node.until(lambda: agent.kills() == len(kubelets))
    for each in kubelets:
        node.api.update(each.pod(died=True))
    witness = DoubleWitness(node)
    for each in kubelets:
        document = await asyncio.to_thread(check_kill, witness, each.killer, QUICK)
        assert document["pod"]["uid"] == each.uid
        pod = await asyncio.to_thread(witness.pod, each.killer.name)
        assert pod is not None
        assert event_uid(pod) == each.uid
        assert incidents(await asyncio.to_thread(witness.journal), pod) == [document]
        assert container_status(pod, each.killer.container)["name"] == each.killer.container
        assert container_status(pod, "no such") == {}


async def test_a_kill_that_is_not_told_is_missed(node: World) -> None:
    """The questions can fail: no Event, and a wrong container."""
    each = Kubelet(KINDS["two"], 1)
    node.api.create(each.pod(died=False))
    await node.start_agent()
    node.log.write(each.report(pid=300))
    node.api.update(each.pod(died=True))
    witness = DoubleWitness(node)
    await asyncio.to_thread(check_kill, witness, each.killer, QUICK)
    other = Killer(name="two", manifest={}, container="quiet")
    with pytest.raises(AssertionError):
        await asyncio.to_thread(check_kill, witness, other, QUICK)
    node.events.expire()
    with pytest.raises(AssertionError, match="two: the Event"):
        await asyncio.to_thread(check_kill, witness, each.killer, QUICK._replace(told=1))
