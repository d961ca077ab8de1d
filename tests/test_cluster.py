"""When the API is asked, and what is said where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.cluster import open_client
from collector.config import Config, read_config
from collector.errors import ConfigError
from collector.kube import access


def config(**flags: str) -> Config:
    return read_config(dict(flags), {})


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As a container sees it; the token is yet to be mounted."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(access.in_cluster, "__defaults__", (tmp_path,))
    return tmp_path


def test_no_cluster_no_client() -> None:
    assert open_client(config(node_name="n")) is None


async def test_a_pod_with_a_service_account_asks(pod: Path) -> None:
    (pod / "token").write_text("t")
    client = open_client(config(node_name="n"))
    assert client is not None
    await client.close()


def test_switched_off_it_does_not(pod: Path) -> None:
    (pod / "token").write_text("t")
    assert open_client(config(node_name="n", kubernetes="off")) is None


def test_a_pod_without_a_token_goes_on_without_the_api(pod: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert open_client(config(node_name="n")) is None
    assert "no token" in caplog.text


def test_a_pod_that_does_not_know_its_node_goes_on_without_the_api(pod: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pod / "token").write_text("t")
    assert open_client(config()) is None
    assert "NODE_NAME" in caplog.text


def test_who_names_a_kubeconfig_has_to_name_the_node() -> None:
    with pytest.raises(ConfigError, match="--node-name"):
        open_client(config(kubeconfig="x"))
