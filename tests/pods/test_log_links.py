"""Names from the kubelet's folders of logs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.model import ContainerId, Names, NamesFrom, PodUid
from collector.pods.log_links import KEPT_SECONDS, LogLinks
from tests.pods.pods import container_id, pod_uid

STATIC = PodUid("3f1c0e9b7d5a48269e8f0a1b2c3d4e5f")


class VarLog:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pods").mkdir(parents=True)
        (root / "containers").mkdir()

    def run(self, namespace: str, pod: str, uid: str, container: str, number: int) -> None:
        """As the kubelet does; the log itself is in a place that is not mounted here."""
        folder = f"{namespace}_{pod}_{uid}"
        (self.root / "pods" / folder / container).mkdir(parents=True, exist_ok=True)
        self.link(
            f"{pod}_{namespace}_{container}-{container_id(number)}.log", f"/var/log/pods/{folder}/{container}/0.log"
        )

    def link(self, name: str, target: str) -> None:
        (self.root / "containers" / name).symlink_to(target)

    def read(self, *, capacity: int = 100) -> LogLinks:
        links = LogLinks(self.root, capacity=capacity)
        links.refresh(0.0)
        return links


@pytest.fixture
def var_log(tmp_path: Path) -> VarLog:
    return VarLog(tmp_path)


@pytest.fixture
def node(var_log: VarLog) -> VarLog:
    var_log.run("shop", "cart-6c8f9d7b54-x7k2p", pod_uid(1), "app", 1)
    var_log.run("shop", "cart-6c8f9d7b54-x7k2p", pod_uid(1), "mesh-proxy", 2)
    var_log.run("kube-system", "etcd-node-1.example", STATIC, "etcd", 3)
    return var_log


def names(namespace: str, pod: str, container: str | None, uid: str | None) -> Names:
    return Names(source=NamesFrom.LOG_LINKS, namespace=namespace, pod=pod, container=container, event_uid=uid)


CART = names("shop", "cart-6c8f9d7b54-x7k2p", None, pod_uid(1))
ASKED = pytest.mark.parametrize(
    ("uid", "container", "expected"),
    [
        pytest.param(pod_uid(1), 1, names("shop", "cart-6c8f9d7b54-x7k2p", "app", pod_uid(1)), id="container"),
        pytest.param(
            pod_uid(1), 2, names("shop", "cart-6c8f9d7b54-x7k2p", "mesh-proxy", pod_uid(1)), id="dash in its name"
        ),
        pytest.param(pod_uid(1), 9, CART, id="container not known"),
        pytest.param(pod_uid(1), 3, CART, id="container of another pod"),
        pytest.param(pod_uid(1), None, CART, id="pod alone"),
        pytest.param(STATIC, 3, names("kube-system", "etcd-node-1.example", "etcd", STATIC), id="static pod"),
        pytest.param(None, 3, names("kube-system", "etcd-node-1.example", "etcd", STATIC), id="no uid"),
        pytest.param(pod_uid(7), None, None, id="pod not known"),
        pytest.param(pod_uid(7), 1, None, id="neither agrees"),
        pytest.param(None, 9, None, id="container not known, no uid"),
        pytest.param(None, None, None, id="nothing asked"),
    ],
)


@ASKED
def test_names(node: VarLog, uid: PodUid | None, container: int | None, expected: Names | None) -> None:
    links = node.read()
    assert links.names(uid, container_id(container) if container else None) == expected
    assert links.problem is None


@ASKED
def test_links_alone(node: VarLog, uid: PodUid | None, container: int | None, expected: Names | None) -> None:
    (node.root / "pods").rename(node.root / "elsewhere")
    assert node.read().names(uid, container_id(container) if container else None) == expected


def test_folders_alone_name_the_pod(node: VarLog) -> None:
    (node.root / "containers").rename(node.root / "elsewhere")
    links = node.read()
    assert links.names(pod_uid(1), container_id(1)) == CART
    assert links.names(None, container_id(1)) is None
    assert links.problem is None


def test_neither_is_there(tmp_path: Path) -> None:
    links = LogLinks(tmp_path / "log")
    links.refresh(0.0)
    assert links.names(pod_uid(1), container_id(1)) is None
    assert links.problem is not None
    assert "pods: No such file" in links.problem
    assert "containers: No such file" in links.problem


def test_links_of_docker_lead_elsewhere(var_log: VarLog) -> None:
    identifier = container_id(1)
    var_log.link(f"cart_shop_app-{identifier}.log", f"/var/lib/docker/containers/{identifier}/{identifier}-json.log")
    links = var_log.read()
    assert links.names(None, identifier) == names("shop", "cart", "app", None)
    assert links.names(pod_uid(1), identifier) == names("shop", "cart", "app", pod_uid(1))

    (var_log.root / "pods" / f"shop_other_{pod_uid(1)}").mkdir()
    links.refresh(1.0)
    assert links.names(pod_uid(1), identifier) == names("shop", "other", None, pod_uid(1)), "its folder knows better"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"cart_shop_app-{'1' * 63}.log", id="id too short"),
        pytest.param(f"cart_shop_app-{'G' * 64}.log", id="id not hexadecimal"),
        pytest.param(f"cart_shop_app-{container_id(1)}", id="no .log"),
        pytest.param(f"cart_shop-{container_id(1)}.log", id="two parts"),
        pytest.param(f"a_cart_shop_app-{container_id(1)}.log", id="four parts"),
        pytest.param(f"CART_shop_app-{container_id(1)}.log", id="capitals"),
        pytest.param(f"cart\n_shop_app-{container_id(1)}.log", id="newline"),
        pytest.param(f"cart_shop\x1b[31m_app-{container_id(1)}.log", id="escape"),
        pytest.param(f"cart_shop_app.x-{container_id(1)}.log", id="dot in the container's name"),
        pytest.param(f"cart_shop.x_app-{container_id(1)}.log", id="dot in the namespace"),
        pytest.param(f"-cart_shop_app-{container_id(1)}.log", id="dash first"),
        pytest.param(f"cart-_shop_app-{container_id(1)}.log", id="dash last"),
        pytest.param(f"cart..x_shop_app-{container_id(1)}.log", id="two dots"),
        pytest.param(f"cart_{'n' * 64}_app-{container_id(1)}.log", id="namespace too long"),
        pytest.param(f"c\u00e4rt_shop_app-{container_id(1)}.log", id="umlaut"),
        pytest.param(f"cart_shop_app-{container_id(1)}.log\n", id="newline at the end"),
    ],
)
def test_hostile_links_are_refused(var_log: VarLog, name: str) -> None:
    var_log.link(name, f"/var/log/pods/shop_cart_{pod_uid(1)}/app/0.log")
    assert len(var_log.read()) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"shop_{pod_uid(1)}", id="two parts"),
        pytest.param(f"Shop_cart_{pod_uid(1)}", id="capitals"),
        pytest.param(f"shop_cart\n_{pod_uid(1)}", id="newline"),
        pytest.param("shop_cart_", id="no uid"),
        pytest.param("shop_cart_a b", id="blank in the uid"),
        pytest.param(f"shop_{'x' * 120}..{'x' * 60}_{pod_uid(1)}", id="two dots"),
    ],
)
def test_hostile_folders_are_refused(var_log: VarLog, name: str) -> None:
    (var_log.root / "pods" / name).mkdir()
    assert len(var_log.read()) == 0


def test_undecodable_names_are_refused(var_log: VarLog) -> None:
    os.mkdir(os.fsencode(var_log.root / "pods") + b"/shop_c\xffrt_uid")  # noqa: PTH102 - bytes
    assert len(var_log.read()) == 0


def test_a_link_that_contradicts_its_name_is_refused(var_log: VarLog) -> None:
    var_log.link(f"cart_shop_app-{container_id(1)}.log", f"/var/log/pods/kube-system_etcd_{STATIC}/etcd/0.log")
    assert len(var_log.read()) == 0


def test_two_links_that_claim_one_container_name_none(var_log: VarLog) -> None:
    var_log.run("shop", "cart", pod_uid(1), "app", 1)
    var_log.run("shop", "evil", pod_uid(2), "app", 1)
    links = var_log.read()
    assert links.names(None, container_id(1)) is None
    assert links.names(pod_uid(1), container_id(1)) == names("shop", "cart", "app", pod_uid(1)), "the uid decides"


def test_files_and_linked_folders_are_no_pods(var_log: VarLog, tmp_path: Path) -> None:
    (var_log.root / "containers" / f"cart_shop_app-{container_id(1)}.log").write_text("no link")
    (var_log.root / "pods" / f"shop_file_{pod_uid(1)}").write_text("no folder")
    (var_log.root / "pods" / f"shop_link_{pod_uid(2)}").symlink_to(tmp_path)
    assert len(var_log.read()) == 0


def test_links_are_not_followed(var_log: VarLog) -> None:
    """A link to a pipe that nobody writes to: opening it would wait for ever."""
    folder = var_log.root / "pods" / f"shop_cart_{pod_uid(1)}" / "app"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "0.log")
    var_log.link(f"cart_shop_app-{container_id(1)}.log", str(folder / "0.log"))
    assert var_log.read().names(pod_uid(1), container_id(1)) == names("shop", "cart", "app", pod_uid(1))


def test_a_folder_that_leads_out_of_the_log_folder_is_not_read(tmp_path: Path) -> None:
    outside = VarLog(tmp_path / "outside")
    outside.run("shop", "cart", pod_uid(1), "app", 1)
    root = tmp_path / "log"
    root.mkdir()
    (root / "pods").symlink_to(outside.root / "pods")
    (root / "containers").symlink_to(outside.root / "containers")
    links = LogLinks(root)
    links.refresh(0.0)
    assert len(links) == 0
    assert links.problem is not None
    assert "leads out" in links.problem


def test_vanished_names_are_kept_for_a_while(node: VarLog) -> None:
    links = node.read()
    for link in (node.root / "containers").iterdir():
        link.unlink()
    (node.root / "pods").rename(node.root / "elsewhere")

    links.refresh(KEPT_SECONDS)
    assert links.names(pod_uid(1), container_id(1)) == names("shop", "cart-6c8f9d7b54-x7k2p", "app", pod_uid(1))
    links.refresh(KEPT_SECONDS + 0.1)
    assert links.names(pod_uid(1), container_id(1)) is None
    assert len(links) == 0


def test_vanished_longest_ago_make_room(var_log: VarLog) -> None:
    for number in range(3):
        (var_log.root / "pods" / f"shop_p{number}_{pod_uid(number)}").mkdir()
    links = var_log.read(capacity=3)
    (var_log.root / "pods" / f"shop_p1_{pod_uid(1)}").rmdir()
    links.refresh(1.0)
    (var_log.root / "pods" / f"shop_p3_{pod_uid(3)}").mkdir()
    (var_log.root / "pods" / f"shop_p4_{pod_uid(4)}").mkdir()
    links.refresh(2.0)

    known = {number for number in range(5) if links.names(pod_uid(number), None)}
    assert len(links) == 3
    assert known >= {0, 2}, "those that are there are not pushed out"
    assert 1 not in known
    assert links.shed == 1


LABELS = st.from_regex("[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


@settings(deadline=None)
@given(namespace=LABELS, pod=st.lists(LABELS, min_size=1, max_size=3).map(".".join), container=LABELS)
def test_any_name_that_kubernetes_allows(
    tmp_path_factory: pytest.TempPathFactory, namespace: str, pod: str, container: str
) -> None:
    var_log = VarLog(tmp_path_factory.mktemp("log") / "log")
    var_log.run(namespace, pod, pod_uid(1), container, 1)
    expected = names(namespace, pod, container, pod_uid(1))
    assert var_log.read().names(pod_uid(1), ContainerId(container_id(1))) == expected
