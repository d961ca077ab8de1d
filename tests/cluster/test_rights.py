"""After all kinds of kills: nothing was asked for that the chart's ClusterRole does not allow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.audit import outside, requests_of
from tests.cluster.told import check_kill, refused
from tests.deploy.chart import objects, render

if TYPE_CHECKING:
    from tests.cluster.installation import Installation, NodeWitness
    from tests.cluster.killers import Killer

pytestmark = pytest.mark.cluster


def test_the_cluster_has_the_rules_of_the_chart(installation: Installation) -> None:
    rendered = objects(render(installation.values, name=installation.name, namespace=installation.name))
    (role,) = [each for each in rendered if each["kind"] == "ClusterRole"]
    assert installation.rules() == role["rules"]


def test_nothing_was_refused(node: NodeWitness, killed: dict[str, Killer]) -> None:
    check_kill(node, killed["limit"])
    assert refused(node.counters()) == {}
    assert [line for line in node.log().splitlines() if line.startswith("time=") and "forbidden" in line.lower()] == []


def test_the_audit_log(installation: Installation, node: NodeWitness, killed: dict[str, Killer]) -> None:
    path = os.environ.get("AUDIT_LOG")
    if not path:
        pytest.skip("AUDIT_LOG names no file")
    check_kill(node, killed["limit"])
    user = f"system:serviceaccount:{installation.name}:{installation.name}"
    with Path(path).open(encoding="utf-8") as lines:
        requests = requests_of(user, lines)
    assert {"create", "watch"} <= {request["verb"] for request in requests}, (
        "this log does not have the agent's requests"
    )
    assert outside(installation.rules(), requests) == []
    assert [each for each in requests if each.get("responseStatus", {}).get("code") in (401, 403)] == []
