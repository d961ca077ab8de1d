"""The chart, installed by Helm's own engine into a namespace of its own, and what its agent on one node tells."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any

import helm_python

from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.told import samples, until
from tests.deploy.chart import CHART

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.cluster.told import Document

LABEL = "oom-collector-test"
_ROLLOUT_SECONDS = 240
_NEEDED = (
    ("create", "namespaces"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("create", "daemonsets.apps"),
    ("create", "secrets"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("get", "pods/log"),
    ("get", "pods/proxy"),
    ("list", "events.events.k8s.io"),
)


def image_values(image: str) -> dict[str, str]:
    """`name[:tag][@digest]` as the chart's values. A colon before the last slash is a port."""
    found = re.fullmatch(r"(?P<name>.+?)(:(?P<tag>[^:/@]+))?(@(?P<digest>sha256:[0-9a-f]{64}))?", image)
    if found is None:
        raise ValueError(f"IMAGE: {image!r} is not NAME[:TAG][@DIGEST]")
    return {"repository": found["name"], "tag": found["tag"] or "", "digest": found["digest"] or ""}


def values(image: str, mode: str, name: str) -> dict[str, Any]:
    """Quick, where the defaults are gentle; a state directory that no other agent uses, and that a boot clears."""
    return {
        "mode": mode,
        "image": image_values(image),
        "commonLabels": {LABEL: name},
        "kubernetes": {"jitterSeconds": 0},
        "metrics": {"holdSeconds": 0},
        "state": {"hostPath": f"/run/{name}"},
        "minReadySeconds": 0,
        "criticalPodsQuota": True,
    }


def namespace(name: str) -> dict[str, Any]:
    labels = {LABEL: name, "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def privileged_pod(where: str, image: str) -> dict[str, Any]:
    """Only ever tried."""
    container = {"name": "app", "image": image, "securityContext": {"privileged": True}}
    metadata = {"name": "tried", "namespace": where}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def printed(log: str) -> list[Document]:
    """The incidents in a container's log, where standard output and standard error are one."""
    return [json.loads(line) for line in log.splitlines() if line.startswith('{"schema":')]


class Installation:
    """
    make_namespace() and install() are followed by remove(), whatever became of them.

    name: of namespace, release and all that is made; also the label of what has no namespace.
    """

    def __init__(self, kubectl: Kubectl, *, image: str, mode: str) -> None:
        self.kubectl = kubectl
        self.name = f"oom-collector-test-{secrets.token_hex(4)}"
        self.values = values(image, mode, self.name)
        self._image = image

    def missing(self) -> str | None:
        """What the cluster does not let this user do; None: nothing."""
        refusals = [self.kubectl.refusal(verb, resource, self.name) for verb, resource in _NEEDED]
        refused = ", ".join(filter(None, refusals))
        return f"this user may not: {refused}" if refused else None

    def make_namespace(self) -> None:
        """Until pods can be made there."""
        self.kubectl.apply(namespace(self.name))
        words = ("get", "serviceaccount", "default", "--namespace", self.name, "--ignore-not-found", "-o", "name")
        until(lambda: self.kubectl.run(*words), "the namespace's service account", seconds=30)

    def install(self) -> None:
        with self._helm() as config:
            config.install(str(CHART), self.name, self.values, namespace=self.name, timeout=60)
        words = ("rollout", "status", f"daemonset/{self.name}", "--namespace", self.name)
        try:
            self.kubectl.run(*words, f"--timeout={_ROLLOUT_SECONDS}s", seconds=_ROLLOUT_SECONDS + 10)
        except KubectlError as error:
            raise AssertionError(f"{error}\n{self._why()}") from error

    def privileged_refusal(self) -> str | None:
        """Why the cluster takes no privileged pods; None: it does."""
        try:
            self.kubectl.apply(privileged_pod(self.name, self._image), server_dry_run=True)
        except KubectlError as error:
            if "forbidden" not in str(error).lower() and "denied" not in str(error):
                raise
            return str(error)
        return None

    def remove(self) -> None:
        """All of it is tried; then the first error is raised."""
        errors = []
        for step in (self._stop_placer, self._uninstall, self._delete):
            try:
                step()
            except (KubectlError, helm_python.HelmError) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def witness(self) -> NodeWitness:
        """Of a node whose agent is ready."""
        agent = self._agents()[0]
        (port,) = agent["spec"]["containers"][0]["ports"]
        return NodeWitness(
            self.kubectl,
            namespace=self.name,
            node=agent["spec"]["nodeName"],
            agent=agent["metadata"]["name"],
            port=port["containerPort"],
        )

    def _helm(self) -> helm_python.Config:
        """For the cluster that kubectl means: KUBECONFIG may be a list of files."""
        kubeconfig = self.kubectl.run("config", "view", "--raw", "--flatten", "--minify")
        return helm_python.Config(kubeconfig_content=kubeconfig, namespace=self.name)

    def _agents(self) -> list[dict[str, Any]]:
        """The ready ones."""
        selector = f"app.kubernetes.io/instance={self.name}"
        pods = json.loads(
            self.kubectl.run("get", "pods", "--namespace", self.name, "--selector", selector, "-o", "json")
        )
        found: list[dict[str, Any]] = pods["items"]
        return [pod for pod in found if all(each["ready"] for each in pod["status"].get("containerStatuses", []))]

    def minor_version(self) -> int:
        """Of the server. Some add a plus to theirs."""
        return int(re.sub(r"\D", "", self.kubectl.read("/version")["minor"]))

    def rules(self) -> list[Mapping[str, list[str]]]:
        """As the cluster has them."""
        role = json.loads(self.kubectl.run("get", "clusterrole", self.name, "-o", "json"))
        found: list[Mapping[str, list[str]]] = role["rules"]
        return found

    def _stop_placer(self) -> None:
        """First, and with its grace period: it takes the static pod's manifest back."""
        self.kubectl.run("delete", "pod", "placer", "--namespace", self.name, "--ignore-not-found", "--timeout=60s")

    def _uninstall(self) -> None:
        with self._helm() as config:
            config.uninstall(self.name, ignore_not_found=True, timeout=60)

    def _delete(self) -> None:
        kinds = "clusterrolebindings,clusterroles"
        self.kubectl.run("delete", kinds, "--selector", f"{LABEL}={self.name}", "--ignore-not-found")
        self.kubectl.run("delete", "namespace", self.name, "--ignore-not-found", "--timeout=110s")

    def _why(self) -> str:
        words = (("describe", "pods"), ("logs", f"daemonset/{self.name}", "--tail=50"))
        return "\n".join(self._try(*each, "--namespace", self.name) for each in words)

    def _try(self, *words: str) -> str:
        try:
            return self.kubectl.run(*words)
        except KubectlError as error:
            return str(error)


class NodeWitness:
    """told.Witness, of a real node. agent: the name of the agent's pod there, in the same namespace."""

    def __init__(self, kubectl: Kubectl, *, namespace: str, node: str, agent: str, port: int) -> None:
        self.namespace = namespace
        self.node = node
        self._kubectl = kubectl
        self._agent = agent
        self._port = port

    def pod(self, name: str) -> dict[str, Any] | None:
        try:
            return self._kubectl.read(f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        except KubectlError as error:
            if "(NotFound)" not in str(error):
                raise
            return None

    def log(self) -> str:
        return self._kubectl.run("logs", self._agent, "--namespace", self.namespace)

    def printed(self) -> list[Document]:
        return printed(self.log())

    def journal(self) -> list[Document]:
        words = ("exec", self._agent, "--namespace", self.namespace, "--", "oom-collector", "kills", "--output", "json")
        return [json.loads(line) for line in self._kubectl.run(*words).splitlines()]

    def counters(self) -> Mapping[str, float]:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self._agent}:{self._port}/proxy/metrics"
        return samples(self._kubectl.raw(path))

    def events(self) -> list[dict[str, Any]]:
        answer = self._kubectl.read(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")
        found: list[dict[str, Any]] = answer["items"]
        return [event for event in found if event.get("reportingController") == "oom-collector"]

    def described(self, pod: str) -> str:
        return self._kubectl.run("describe", "pod", pod, "--namespace", self.namespace)

    def kubelet(self) -> Mapping[str, Any]:
        """Its configuration; empty where it may not be read."""
        try:
            answer = self._kubectl.read(f"/api/v1/nodes/{self.node}/proxy/configz")
        except KubectlError:
            return {}
        found: Mapping[str, Any] = answer.get("kubeletconfig", {})
        return found
