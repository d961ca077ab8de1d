"""The matrix driver x QoS class x runtime x UID x prefix x nesting; odd forms, look-alikes and hostile names."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model import ContainerId, MemcgPath, PodUid, QosClass
from collector.parse.cgroup_path import CgroupDriver, Level, MemcgPlace, is_same_or_ancestor, parse_memcg_path

ID = "b0a75cb93a762d493de09588e0dae48e0efd946e6c8c7c5c8362031834091f20"
OTHER_ID = "31d2f7f43ec42be22400f7b8a5daf45cef874fe8b3e975e11d35900859585b94"
UID = "03b7fe6c-4c5e-40e5-a17d-e82f148d42f1"
OTHER_UID = "9d2f0e11-0000-4000-8000-00000000beef"

# name in the test's id -> (slices joined to the kubelet's names, what stands before them)
PREFIXES = {
    "no prefix": ("", ""),
    "kind in docker": ("kubelet-", f"/system.slice/docker-{OTHER_ID}.scope/kubelet.slice"),
    "kind in rootless podman": (
        "kubelet-",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{OTHER_ID}.scope/container/kubelet.slice",
    ),
    "minikube in docker": ("", f"/docker/{OTHER_ID}"),
    "lxc": ("", "/lxc.payload.node-1"),
    "nspawn": ("", r"/machine.slice/machine-oom\x2d97.scope/payload"),
    "cgroup-root a/b": ("a-b-", "/a.slice/a-b.slice"),
    "cgroup-root with kubepods in its name": ("my-kubepods-", "/my.slice/my-kubepods.slice"),
}
# name -> what the kubelet's two drivers make of it
QOS = {
    QosClass.GUARANTEED: None,
    QosClass.BURSTABLE: "burstable",
    QosClass.BEST_EFFORT: "besteffort",
}
UIDS = {
    "api": (UID, "03b7fe6c_4c5e_40e5_a17d_e82f148d42f1"),
    "static": ("8ba0d7b2f7a0e9e1e3f5d6c4b2a19087", "8ba0d7b2f7a0e9e1e3f5d6c4b2a19087"),
    "set in the manifest": ("kube-apiserver.Node1", "kube_apiserver.Node1"),
}
# driver -> name of the container's cgroup -> runtime that it tells
CONTAINERS: dict[CgroupDriver, dict[str, str | None]] = {
    CgroupDriver.SYSTEMD: {
        f"cri-containerd-{ID}.scope": "containerd",
        f"crio-{ID}.scope": "cri-o",
        f"docker-{ID}.scope": "docker",
        f"libpod-{ID}.scope": "podman",
    },
    CgroupDriver.CGROUPFS: {ID: None, f"crio-{ID}": "cri-o"},
}
# what the workload may make below its container
NESTED = [
    "init.scope",
    "system.slice/nginx.service",
    "container",
    "container/exec",
    "pod1",
    OTHER_ID,
    f"docker/{OTHER_ID}",
    f"cri-containerd-{OTHER_ID}.scope",
    f"kubepods/burstable/pod{OTHER_UID}/{OTHER_ID}",
    f"kubepods.slice/kubepods-pod{OTHER_UID}.slice/crio-{OTHER_ID}.scope",
    f"kubepods-besteffort-pod{OTHER_UID}.slice:cri-containerd:{OTHER_ID}",
    f"a,task_memcg=/kubepods/pod{OTHER_UID}/{OTHER_ID},task=x,pid=1,uid=0",
    "new\nline",
    "\x1b[31mred",
    "..",
]


def kubelet_paths(driver: CgroupDriver, qos: QosClass, prefix: str, uid: str) -> tuple[str, str]:
    """Return the path of kubepods and of the pod's cgroup, as the kubelet makes them."""
    joined, before = PREFIXES[prefix]
    plain, escaped = UIDS[uid]
    tier = QOS[qos]
    if driver is CgroupDriver.CGROUPFS:
        root = f"{before}/kubepods"
        return root, f"{root}/{tier}/pod{plain}" if tier else f"{root}/pod{plain}"
    root = f"{before}/{joined}kubepods.slice"
    if tier is None:
        return root, f"{root}/{joined}kubepods-pod{escaped}.slice"
    return root, f"{root}/{joined}kubepods-{tier}.slice/{joined}kubepods-{tier}-pod{escaped}.slice"


def pod_place(driver: CgroupDriver, qos: QosClass, prefix: str, uid: str, level: Level = Level.POD) -> MemcgPlace:
    root, pod = kubelet_paths(driver, qos, prefix, uid)
    return MemcgPlace(
        level=level,
        pod_uid=PodUid(UIDS[uid][0]),
        qos_class=qos,
        driver=driver,
        kubepods=MemcgPath(root),
        pod_path=MemcgPath(pod),
    )


def container_place(pod: MemcgPlace, name: str, runtime: str | None, level: Level = Level.CONTAINER) -> MemcgPlace:
    return MemcgPlace(
        level=level,
        pod_uid=pod.pod_uid,
        qos_class=pod.qos_class,
        container_id=ContainerId(ID),
        runtime=runtime,
        driver=pod.driver,
        kubepods=pod.kubepods,
        pod_path=pod.pod_path,
        container_path=MemcgPath(f"{pod.pod_path}/{name}"),
    )


PODS = [
    pytest.param(driver, qos, prefix, uid, id=f"{driver}, {qos}, {uid} uid, {prefix}")
    for driver, qos, prefix, uid in product(CgroupDriver, QOS, PREFIXES, UIDS)
]


@pytest.mark.parametrize(("driver", "qos", "prefix", "uid"), PODS)
def test_pod_and_its_containers(driver: CgroupDriver, qos: QosClass, prefix: str, uid: str) -> None:
    pod = pod_place(driver, qos, prefix, uid)
    assert parse_memcg_path(str(pod.pod_path)) == pod
    for name, runtime in CONTAINERS[driver].items():
        assert parse_memcg_path(f"{pod.pod_path}/{name}") == container_place(pod, name, runtime)


@pytest.mark.parametrize(("driver", "qos", "prefix", "uid"), PODS)
def test_nothing_below_a_container_moves_blame(driver: CgroupDriver, qos: QosClass, prefix: str, uid: str) -> None:
    pod = pod_place(driver, qos, prefix, uid)
    for (name, runtime), nested in product(CONTAINERS[driver].items(), NESTED):
        crun = nested == "container" and driver is CgroupDriver.SYSTEMD
        expected = container_place(pod, name, runtime, Level.CONTAINER if crun else Level.NESTED)
        assert parse_memcg_path(f"{pod.pod_path}/{name}/{nested}") == expected


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"crio-conmon-{ID}.scope", id="conmon, systemd"),
        pytest.param(f"crio-conmon-{ID}", id="conmon, cgroupfs"),
        pytest.param(f"kata_{ID}", id="kata sandbox"),
        pytest.param(f"kata_{ID}/vcpu", id="below a kata sandbox"),
        pytest.param(f"x/{ID}", id="id one level too deep"),
        pytest.param(f"x/kubepods/pod{OTHER_UID}/{OTHER_ID}", id="imitated kubelet"),
        pytest.param(ID[:-1], id="63 digits"),
        pytest.param(f"{ID}0", id="65 digits"),
        pytest.param(ID.upper(), id="upper case"),
        pytest.param(f"{ID}\n", id="newline"),
        pytest.param(f"-{ID}.scope", id="no runtime"),
        pytest.param(f"{ID}.scope", id="bare id as a scope"),
        pytest.param(f"xcrio-{ID}.scope", id="unknown runtime"),
        pytest.param(f"cri-containerd-{ID}.scope ", id="trailing blank"),
        pytest.param(f"cri-containerd-{ID[:8]}", id="cut id"),
        pytest.param("crio", id="a runtime's name alone"),
    ],
)
@pytest.mark.parametrize("driver", CgroupDriver)
def test_child_of_a_pod_that_is_no_container(driver: CgroupDriver, name: str) -> None:
    pod = pod_place(driver, QosClass.BURSTABLE, "no prefix", "api", Level.POD_CHILD)
    assert parse_memcg_path(f"{pod.pod_path}/{name}") == pod


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("driver", CgroupDriver)
def test_kubepods_and_qos_levels(driver: CgroupDriver, prefix: str) -> None:
    joined, before = PREFIXES[prefix]
    root = f"{before}/kubepods" if driver is CgroupDriver.CGROUPFS else f"{before}/{joined}kubepods.slice"
    expected = MemcgPlace(level=Level.KUBEPODS, driver=driver, kubepods=MemcgPath(root))
    assert parse_memcg_path(root) == expected
    for qos, tier in QOS.items():
        if tier is not None:
            name = tier if driver is CgroupDriver.CGROUPFS else f"{joined}kubepods-{tier}.slice"
            assert parse_memcg_path(f"{root}/{name}") == MemcgPlace(
                level=Level.QOS, qos_class=qos, driver=driver, kubepods=MemcgPath(root)
            )


@pytest.mark.parametrize("uid", UIDS)
@pytest.mark.parametrize(("qos", "tier"), QOS.items())
@pytest.mark.parametrize("joined", ["", "a-b-"])
@pytest.mark.parametrize(
    "before",
    ["", "/system.slice/containerd.service", "/kubepods.slice", "/kubepods"],
)
def test_kubelet_systemd_and_runtime_cgroupfs(
    before: str, joined: str, qos: QosClass, tier: str | None, uid: str
) -> None:
    plain, escaped = UIDS[uid]
    name = f"{joined}kubepods-{tier}-pod{escaped}" if tier else f"{joined}kubepods-pod{escaped}"
    path = f"{before}/{name}.slice:cri-containerd:{ID}"
    for nested, level in {"": Level.CONTAINER, "/container": Level.NESTED, f"/{OTHER_ID}": Level.NESTED}.items():
        assert parse_memcg_path(path + nested) == MemcgPlace(
            level=level,
            pod_uid=PodUid(plain),
            qos_class=qos,
            container_id=ContainerId(ID),
            runtime="containerd",
            driver=CgroupDriver.SYSTEMD,
            container_path=MemcgPath(path),
        )


def test_another_kubelets_root_above_is_not_the_pods_own() -> None:
    place = parse_memcg_path(f"/kubepods.slice/kubelet-kubepods-pod{UIDS['static'][1]}.slice")
    assert (place.pod_uid, place.kubepods) == (UIDS["static"][0], None)


def test_slice_is_understood_where_a_cgroup_namespace_hides_its_ancestors() -> None:
    pod = "/../../kubepods-burstable-pod03b7fe6c_4c5e_40e5_a17d_e82f148d42f1.slice"
    assert parse_memcg_path(f"{pod}/crio-{ID}.scope") == MemcgPlace(
        level=Level.CONTAINER,
        pod_uid=PodUid(UID),
        qos_class=QosClass.BURSTABLE,
        container_id=ContainerId(ID),
        runtime="cri-o",
        driver=CgroupDriver.SYSTEMD,
        pod_path=MemcgPath(pod),
        container_path=MemcgPath(f"{pod}/crio-{ID}.scope"),
    )


@pytest.mark.parametrize(
    ("path", "runtime", "driver"),
    [
        (f"/docker/{ID}", "docker", CgroupDriver.CGROUPFS),
        (f"/system.slice/docker-{ID}.scope", "docker", CgroupDriver.SYSTEMD),
        (f"/ecstasks.slice/ecstasks-0123.slice/docker-{ID}.scope", "docker", CgroupDriver.SYSTEMD),
        (f"/system.slice/nerdctl-{ID}.scope", "containerd", CgroupDriver.SYSTEMD),
        (f"/system.slice/crio-{ID}.scope", "cri-o", CgroupDriver.SYSTEMD),
        (f"/machine.slice/libpod-{ID}.scope", "podman", CgroupDriver.SYSTEMD),
        (f"/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope", "podman", CgroupDriver.SYSTEMD),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            "podman",
            CgroupDriver.SYSTEMD,
        ),
        (f"/libpod_parent/libpod-{ID}", "podman", CgroupDriver.CGROUPFS),
        (f"/system.slice/web.service/libpod-payload-{ID}", "podman", CgroupDriver.CGROUPFS),
    ],
)
def test_container_outside_kubernetes(path: str, runtime: str, driver: CgroupDriver) -> None:
    def expected(level: Level) -> MemcgPlace:
        return MemcgPlace(
            level=level,
            container_id=ContainerId(ID),
            runtime=runtime,
            driver=driver,
            container_path=MemcgPath(path),
        )

    assert parse_memcg_path(path) == expected(Level.CONTAINER)
    crun = Level.CONTAINER if driver is CgroupDriver.SYSTEMD else Level.NESTED
    assert parse_memcg_path(f"{path}/container") == expected(crun)
    for nested in (f"docker/{OTHER_ID}", f"docker-{OTHER_ID}.scope", "init.scope", "container/container"):
        assert parse_memcg_path(f"{path}/{nested}") == expected(Level.NESTED)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/system.slice/containerd.service", id="a node's daemon"),
        pytest.param("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x-433443.scope", id="a desktop"),
        pytest.param("/machine.slice", id="a slice"),
        pytest.param(r"/machine.slice/machine-oom\x2d9706e99d.scope/payload", id="nspawn"),
        pytest.param("/podruntime/kubelet", id="talos"),
        pytest.param(f"/kata_overhead/{ID}", id="kata overhead"),
        pytest.param(f"/machine.slice/libpod-conmon-{ID}.scope", id="podman's conmon"),
        pytest.param(f"/{ID}", id="bare id without docker above"),
        pytest.param(f"/docker/x/{ID}", id="bare id not directly in docker"),
        pytest.param(f"/docker/{ID[:-1]}", id="63 digits"),
        pytest.param(f"/docker/{ID.upper()}", id="upper case"),
        pytest.param(f"/dockerx/{ID}", id="dockerx"),
        pytest.param(f"/kubepodsx/burstable/pod{UID}/{ID}", id="kubepodsx"),
        pytest.param(f"/xkubepods/burstable/pod{UID}/{ID}", id="xkubepods"),
        pytest.param(f"/Kubepods/burstable/pod{UID}/{ID}", id="Kubepods"),
        pytest.param(f"/burstable/pod{UID}/{ID}", id="no kubepods"),
        pytest.param(f"/pod{UID}/{ID}", id="a pod alone"),
        pytest.param("/xkubepods.slice", id="xkubepods.slice"),
        pytest.param("/system.slice/kubepods-pod.slice", id="slice without uid"),
        pytest.param("/kubepods-burstable-pod.slice", id="qos slice without uid"),
        pytest.param("/kubepods-guaranteed-podx.slice", id="no such qos slice"),
        pytest.param("/kubepods-podx.slice\n", id="newline after the slice"),
        pytest.param("/kubepods-pod\x1b[31m.slice", id="escape in the uid"),
        pytest.param("/kubepods-poda,task_memcg=.slice", id="comma in the uid"),
        pytest.param(f"/kubepods.slice:cri-containerd:{ID}", id="driver mismatch without a pod"),
        pytest.param(f"/kubepods-podx.slice:cri-containerd:{ID[:-1]}", id="driver mismatch, 63 digits"),
        pytest.param(f"/kubepods-podx.service/{ID}", id="no slice"),
        pytest.param("", id="empty"),
        pytest.param("//", id="two slashes"),
        pytest.param(" /", id="blank"),
        pytest.param(f"kubepods/burstable/pod{UID}/{ID}", id="no leading slash"),
        pytest.param(f"/kubepods/burstable/pod{UID}/{ID}/", id="trailing slash"),
        pytest.param(f"/kubepods/burstable//pod{UID}/{ID}", id="empty component"),
    ],
)
def test_refused(path: str) -> None:
    assert parse_memcg_path(path) == MemcgPlace(level=Level.OTHER)


@pytest.mark.parametrize(
    ("path", "kubepods"),
    [
        pytest.param(f"/kubepods/guaranteed/pod{UID}/{ID}", "/kubepods", id="no such qos level"),
        pytest.param(f"/kubepods/burstable/x/pod{UID}/{ID}", "/kubepods", id="a level between qos and pod"),
        pytest.param("/kubepods/burstable/pod/x", "/kubepods", id="pod without uid"),
        pytest.param("/kubepods/pod a/x", "/kubepods", id="blank in the uid"),
        pytest.param("/kubepods/podx\n", "/kubepods", id="newline after the uid"),
        pytest.param("/kubepods.slice/x.service", "/kubepods.slice", id="service in kubepods.slice"),
    ],
)
def test_not_a_pod_but_in_kubepods(path: str, kubepods: str) -> None:
    assert parse_memcg_path(path) == MemcgPlace(level=Level.OTHER, kubepods=MemcgPath(kubepods))


def test_root() -> None:
    assert parse_memcg_path("/") == MemcgPlace(level=Level.ROOT)


def test_cluster_in_a_pod_is_the_outer_pods_doing() -> None:
    outer = pod_place(CgroupDriver.SYSTEMD, QosClass.GUARANTEED, "no prefix", "api")
    inner_root = f"{outer.pod_path}/crio-{ID}.scope/kubepods"
    expected = container_place(outer, f"crio-{ID}.scope", "cri-o", Level.NESTED)
    for inner in (inner_root, f"{inner_root}/burstable", f"{inner_root}/burstable/pod{OTHER_UID}/{OTHER_ID}"):
        assert parse_memcg_path(inner) == expected


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/kubepods" * 200_000, id="kubepods"),
        pytest.param("/kubepods-burstable.slice" * 100_000, id="qos slices"),
        pytest.param("/docker" * 200_000, id="docker"),
        pytest.param(f"/kubepods/podx/{ID}" + "/kubepods/podx" * 100_000, id="nested pods"),
        pytest.param("/" + "kubepods-" * 200_000, id="one name of kubepods-"),
        pytest.param("/" + "kubepods-pod" * 100_000 + ".slice", id="one name of kubepods-pod"),
        pytest.param("/kubepods-pod" + ".slice" * 200_000 + ":a:", id="one name of .slice"),
        pytest.param("/kubepods/pod" + "a" * 1_000_000, id="long uid"),
        pytest.param("/docker-" + "0" * 1_000_000 + ".scope", id="long id"),
    ],
)
def test_length_costs_linear_time(path: str) -> None:
    """A quadratic step would take minutes on any of these."""
    parse_memcg_path(path)


COMPONENT = st.text(st.characters(exclude_characters="/"), min_size=1) | st.sampled_from(
    [*"/".join(NESTED).split("/"), "kubepods", "burstable", "kubepods.slice", f"pod{UID}", ID]
)
HARMLESS = st.from_regex(r"[a-z@][a-z0-9@.]{0,8}(\.slice|\.scope)?", fullmatch=True).filter(
    lambda name: name not in ("docker", "kubepods", "kubepods.slice")
)


@given(st.text() | st.lists(COMPONENT).map(lambda names: "/" + "/".join(names)))
def test_never_raises_and_paths_are_prefixes(path: str) -> None:
    place = parse_memcg_path(path)
    for part in (place.kubepods, place.pod_path, place.container_path):
        assert part is None or is_same_or_ancestor(part, path)
    assert place.pod_path is None or place.pod_uid is not None
    assert (place.container_id is not None) == (place.level in (Level.CONTAINER, Level.NESTED))


@given(
    st.sampled_from(CgroupDriver),
    st.sampled_from(list(QOS)),
    st.sampled_from(list(UIDS)),
    st.lists(HARMLESS),
    st.lists(COMPONENT, min_size=1),
)
def test_names_before_and_below_change_neither_pod_nor_container(
    driver: CgroupDriver, qos: QosClass, uid: str, before: list[str], below: list[str]
) -> None:
    _, pod = kubelet_paths(driver, qos, "no prefix", uid)
    path = "".join(f"/{name}" for name in before) + pod
    for name in CONTAINERS[driver]:
        place = parse_memcg_path("/".join([path, name, *below]))
        assert (place.pod_uid, place.qos_class, place.container_id) == (UIDS[uid][0], qos, ID)
        assert (place.pod_path, place.container_path) == (path, f"{path}/{name}")


@pytest.mark.parametrize(
    ("ancestor", "path", "expected"),
    [
        ("/", "/", True),
        ("/", "/kubepods", True),
        ("/kubepods", "/kubepods", True),
        ("/kubepods", "/kubepods/burstable/podx", True),
        ("/kubepods/burstable", "/kubepods", False),
        ("/kubepods", "/kubepods.slice", False),
        ("/kubepods/podx", "/kubepods/podxy", False),
        ("/kubepods", "/docker/kubepods", False),
        ("/", "", False),
    ],
)
def test_is_same_or_ancestor(ancestor: str, path: str, expected: bool) -> None:
    assert is_same_or_ancestor(ancestor, path) is expected
