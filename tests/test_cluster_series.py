"""Whose series there are: the containers that the API or the log folders show, and those of pods that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from collector import cluster
from collector.cluster import Cluster
from collector.config import read_config
from collector.model import Cause, Evidence, Verdict
from collector.sinks.container_series import Running
from collector.state.batch import Batch, ContainerName, Entry, Later, Retention
from collector.state.store import Store
from tests.reports import incident, report

if TYPE_CHECKING:
    from collector.kube.client import KubeClient
    from collector.sinks.metrics import Metrics

NOW = datetime.now(UTC)
ID = "ab" * 32
CART = ContainerName("shop", "cart-0", "cart")
RUNNING = {"running": {"startedAt": "2026-11-21T00:00:00Z"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff"}}
ENDED = {"terminated": {"exitCode": 0}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state", boot_id="b", retention=Retention(), at=NOW)
    yield made
    made.close()


def made(store: Store, logs: Path, *, api: bool) -> Cluster:
    metrics = cast("Metrics", SimpleNamespace(witness_up={}))
    client = cast("KubeClient", SimpleNamespace()) if api else None
    config = read_config({"pod_logs": str(logs), "sample_interval": "1"}, {})
    return Cluster(config, client, store, metrics, is_alive=lambda container_id: None)


def pod(state: dict[str, Any], *, limits: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    """changes: phase, init, whole (the limit of the pod)."""
    init = changes.get("init", False)
    resources = {"resources": {"limits": {"memory": changes["whole"]}}} if "whole" in changes else {}
    containers = [{"name": "cart", "resources": {"limits": limits or {}}}]
    statuses = [{"name": "cart", "containerID": f"containerd://{ID}", "state": state}]
    return {
        "metadata": {"name": "cart-0", "namespace": "shop", "uid": "u"},
        "spec": {"initContainers" if init else "containers": containers, **resources},
        "status": {
            "phase": changes.get("phase", "Running"),
            "initContainerStatuses" if init else "containerStatuses": statuses,
        },
    }


@pytest.mark.parametrize(
    ("shown", "limits"),
    [
        pytest.param(pod(RUNNING), [None], id="without a limit"),
        pytest.param(pod(RUNNING, limits={"memory": "48Mi"}), [48 << 20], id="its own"),
        pytest.param(pod(RUNNING, whole="32Mi"), [32 << 20], id="the pod's"),
        pytest.param(pod(RUNNING, limits={"memory": "48Mi"}, whole="32Mi"), [32 << 20], id="the lower of both"),
        pytest.param(pod(BACK_OFF), [None], id="waits for its restart"),
        pytest.param(pod(RUNNING, init=True, phase="Pending"), [None], id="init container"),
        pytest.param(pod(ENDED, init=True), [], id="init container that is done"),
        pytest.param(pod(ENDED, phase="Succeeded"), [], id="pod that is done"),
    ],
)
def test_a_container_that_runs_or_will_run_again(
    shown: dict[str, Any], limits: list[int | None], store: Store, tmp_path: Path
) -> None:
    nodes = made(store, tmp_path, api=True)
    nodes.state(True, None)
    nodes.put(shown)
    assert list(nodes.running()) == [Running(CART, ID, limit) for limit in limits]  # type: ignore[arg-type]  # ID
    nodes.delete(shown)
    assert list(nodes.running()) == []


def link(logs: Path) -> Path:
    made = logs / "containers" / f"cart-0_shop_cart-{ID}.log"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.symlink_to("/var/log/pods/shop_cart-0_u/cart/0.log")
    return made


@pytest.mark.parametrize("api", [pytest.param(False, id="no API"), pytest.param(True, id="an API that is down")])
def test_without_an_answer_of_the_api_the_log_folders_tell(api: bool, store: Store, tmp_path: Path) -> None:
    link(tmp_path / "log")
    nodes = made(store, tmp_path / "log", api=api)
    nodes.names(None, None)
    assert [(one.name, one.limit_bytes) for one in nodes.running()] == [(CART, None)]
    nodes.state(True, None)
    assert list(nodes.running()) == []


def count(store: Store) -> None:
    verdict = Verdict(cause=Cause.NODE, node_pressure=True, reason="", evidence=(Evidence.REPORT,))
    known = incident(report(), id="a", boot_id="b", verdict=verdict)
    later = Later(id="a", late="{}", named=True, event_key=None, release=(), closed=True, container=CART)
    store.apply(Batch(at=NOW, entries=[Entry(incident=known, document="{}")], later=[later]))


@pytest.mark.parametrize(
    ("api", "up", "shown", "kept"),
    [
        pytest.param(True, True, True, True, id="its pod is there"),
        pytest.param(True, True, False, False, id="its pod is gone"),
        pytest.param(True, False, False, True, id="nobody tells whether it is"),
        pytest.param(False, False, True, True, id="its log folder is there"),
        pytest.param(False, False, False, False, id="its log folder is gone"),
    ],
)
async def test_a_series_ends_some_time_after_its_pod(
    api: bool, up: bool, shown: bool, kept: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.state.series_life.KEPT_SECONDS", 0.3)
    monkeypatch.setattr(cluster, "PRUNE_SECONDS", 0.1)
    nodes = made(store, tmp_path / "log", api=api)
    nodes._config = cast("Any", SimpleNamespace(sample_interval=0.1))
    nodes.state(up, None)
    if shown and api:
        nodes.put(pod(RUNNING))
    elif shown:
        link(tmp_path / "log")
    count(store)
    task = asyncio.create_task(nodes._keep_fresh())
    await asyncio.sleep(0.15)
    assert len(store.container_kills) == 1
    await asyncio.sleep(0.6)
    task.cancel()
    assert len(store.container_kills) == kept
