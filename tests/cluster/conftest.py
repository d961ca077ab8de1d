from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster.installation import Installation
from tests.cluster.killers import Killer, evicted, killers, placer, static_pod, terminated_later, unhealthy
from tests.cluster.kubectl import Kubectl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.installation import NodeWitness


@pytest.fixture(scope="session")
def image() -> str:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if not os.environ.get("IMAGE"):
        pytest.skip("IMAGE names no image of the agent that the cluster's nodes have or can pull")
    return os.environ["IMAGE"]


@pytest.fixture(scope="session")
def workload_image(image: str) -> str:
    return os.environ.get("WORKLOAD_IMAGE") or image


@pytest.fixture(scope="session")
def installation(image: str) -> Iterator[Installation]:
    mode = os.environ.get("MODE") or "kmsg"
    made = Installation(Kubectl(), image=image, mode=mode)
    if missing := made.missing():
        pytest.skip(missing)
    try:
        made.make_namespace()
        if mode == "kmsg" and (refusal := made.privileged_refusal()):
            pytest.skip(f"{refusal} (MODE=syslog or MODE=journald needs none)")
        made.install()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def node(installation: Installation) -> NodeWitness:
    """One node is enough: all pods of these tests are bound to it."""
    return installation.witness()


@pytest.fixture(scope="session")
def killed(installation: Installation, node: NodeWitness, workload_image: str) -> dict[str, Killer]:
    """All kinds, by name, created at once: they die side by side, each in its own limits."""
    made = killers(installation.name, node.node, workload_image)
    if installation.privileged_refusal() is not None:
        del made["child"]
    if installation.minor_version() < 29:
        del made["sidecar"]
    installation.kubectl.apply(*(killer.manifest for killer in made.values()))
    return made


@pytest.fixture(scope="session")
def static(installation: Installation, node: NodeWitness, workload_image: str) -> Killer:
    directory = node.kubelet().get("staticPodPath")
    if not directory:
        pytest.skip(f"node {node.node} has no directory for static pods, or its configuration may not be read")
    if refusal := installation.privileged_refusal():
        pytest.skip(refusal)
    killer = static_pod(installation.name, node.node, workload_image)
    installation.kubectl.apply(placer(killer, installation.name, node.node, workload_image, directory))
    return killer


@pytest.fixture(scope="session")
def ended_otherwise(installation: Installation, node: NodeWitness, workload_image: str) -> None:
    """Pods that end in ways that are no OOM kills."""
    makers = (evicted, unhealthy, terminated_later)
    installation.kubectl.apply(*(make(installation.name, node.node, workload_image) for make in makers))
