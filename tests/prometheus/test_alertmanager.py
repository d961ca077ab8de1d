"""The example for Alertmanager: who is told of what, by amtool; who is not, by a real Alertmanager."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.deploy.chart import ROOT
from tests.prometheus import servers
from tests.prometheus.servers import ALERTMANAGER, call, needs, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = ROOT / "deploy/prometheus/alertmanager.yaml"

needs_amtool = needs("amtool", ALERTMANAGER)


def amtool(*arguments: str | Path) -> str:
    done = subprocess.run(["amtool", *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_amtool
def test_the_example_is_valid() -> None:
    amtool("check-config", CONFIG)


@needs_amtool
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        pytest.param("alertname=NodeOOMKill cause=node node=n1", "platform-pager", id="node"),
        pytest.param(
            "alertname=NodeOOMKill node=n1 namespace=shop pod=p", "platform-pager", id="node, pushed by agent"
        ),
        pytest.param("alertname=ContainerOOMKill namespace=shop pod=p node=n1", "shop-tickets", id="team's container"),
        pytest.param("alertname=ContainerOOMKill namespace=shop-eu pod=p", "shop-tickets", id="team's other namespace"),
        pytest.param("alertname=ContainerOOMKillRepeated namespace=shop pod=p", "shop-pager", id="again and again"),
        pytest.param("alertname=ContainerMemoryNearLimit namespace=shop pod=p", "shop-tickets", id="near its limit"),
        pytest.param("alertname=ContainerMemoryLimitForecast namespace=shop pod=p", "shop-tickets", id="forecast"),
        pytest.param(
            "alertname=ContainerOOMKill namespace=shopping pod=p", "platform-tickets", id="nobody's namespace"
        ),
        pytest.param("alertname=ContainerOOMKill node=n1", "platform-tickets", id="container without a name"),
        pytest.param("alertname=SystemServiceOOMKill node=n1", "platform-tickets", id="service of the node"),
        pytest.param("alertname=OOMCollectorBlind node=n1", "platform-tickets", id="blind"),
        pytest.param("alertname=OOMCollectorAbsent", "platform-tickets", id="absent"),
        pytest.param("alertname=OOMEventsFailing node=n1 sink=webhook", "platform-tickets", id="not told"),
    ],
)
def test_routes(labels: str, receiver: str) -> None:
    assert amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels.split()).strip() == receiver


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """With the example; its receivers' hosts do not exist, and nothing is sent within the test."""
    with servers.alertmanager(CONFIG, tmp_path) as url:
        yield url


@needs(ALERTMANAGER)
def test_tickets_wait_while_a_page_tells_more(alertmanager: str) -> None:
    cart = {"cluster": "eu", "namespace": "shop", "pod": "cart-0", "container": "cart"}
    alerts = [
        {"alertname": "NodeOOMKill", "cluster": "eu", "node": "n1", "cause": "node"},
        {"alertname": "ContainerOOMKill", "node": "n1", **cart, "pod": "on-that-node"},
        {"alertname": "ContainerOOMKill", "node": "n2", **cart, "pod": "on-another-node"},
        {"alertname": "ContainerOOMKill", "node": "n1", **cart, "pod": "in-another-cluster", "cluster": "us"},
        {"alertname": "ContainerOOMKillRepeated", **cart},
        {"alertname": "ContainerOOMKill", "node": "n2", **cart},
        {"alertname": "ContainerMemoryNearLimit", "node": "n2", **cart},
        {"alertname": "ContainerMemoryNearLimit", "node": "n2", **cart, "pod": "cart-1"},
    ]
    starts_at = datetime.now(UTC).isoformat()
    call(f"{alertmanager}/api/v2/alerts", [{"labels": labels, "startsAt": starts_at} for labels in alerts])

    def inhibited() -> set[tuple[str, str]]:
        return {
            (found["labels"]["alertname"], found["labels"]["pod"])
            for found in call(f"{alertmanager}/api/v2/alerts?inhibited=true&active=false")
        }

    expected = {
        ("ContainerOOMKill", "on-that-node"),
        ("ContainerOOMKill", "cart-0"),
        ("ContainerMemoryNearLimit", "cart-0"),
    }
    wait_for(lambda: len(call(f"{alertmanager}/api/v2/alerts")) == len(alerts) and inhibited() == expected)
