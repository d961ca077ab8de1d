"""Which pod and container a cgroup path's ids belong to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.model import ContainerId, ContainerKind, NamesFrom, Owner, PodUid, QosClass
from collector.pods.index import KEPT_SECONDS, REMEMBERED_IDS, Found, PodIndex
from collector.pods.record import PodContainer, PodRecord
from tests.pods.pods import CONTAINER, NAMES, container_id, ended, make_pod, pod_uid, read_pod

MIB = 1024**2
STATIC = PodUid("3f1c0e9b7d5a48269e8f0a1b2c3d4e5f")


def index_of(*pods: PodRecord) -> PodIndex:
    index = PodIndex()
    index.replace(pods, 0.0)
    return index


def name_of(index: PodIndex, uid: PodUid | None, container: ContainerId | None) -> tuple[str, str | None] | None:
    found = index.find(uid, container)
    return (found.pod.name, found.container.name if found.container else None) if found else None


def found_in(index: PodIndex, uid: PodUid, container: ContainerId | None) -> Found:
    found = index.find(uid, container)
    assert found is not None
    return found


@pytest.fixture
def node() -> PodIndex:
    return index_of(*map(read_pod, NAMES))


@pytest.mark.parametrize(
    ("uid", "container", "expected"),
    [
        pytest.param(pod_uid(1), 0x11, ("cart-6c8f9d7b54-x7k2p", "app"), id="container"),
        pytest.param(pod_uid(6), 0x61, ("web-57d9c4f8b6-q2w3e", "migrate"), id="init container"),
        pytest.param(pod_uid(6), 0x62, ("web-57d9c4f8b6-q2w3e", "mesh"), id="sidecar"),
        pytest.param(pod_uid(6), 0x64, ("web-57d9c4f8b6-q2w3e", "debugger-7x2vq"), id="ephemeral container"),
        pytest.param(pod_uid(8), 0x81, ("worker-6f5d4c3b2a-z1x2c", "app"), id="instance before"),
        pytest.param(pod_uid(1), 0xEE, ("cart-6c8f9d7b54-x7k2p", None), id="container not known yet"),
        pytest.param(pod_uid(1), 0x21, ("cart-6c8f9d7b54-x7k2p", None), id="container of another pod"),
        pytest.param(pod_uid(1), None, ("cart-6c8f9d7b54-x7k2p", None), id="pod alone"),
        pytest.param(STATIC, 0x51, ("etcd-node-1", "etcd"), id="static pod, as in cgroup paths"),
        pytest.param(pod_uid(5), 0x51, ("etcd-node-1", "etcd"), id="static pod, as in the API"),
        pytest.param(None, 0x51, ("etcd-node-1", "etcd"), id="no uid: a runtime with another cgroup driver"),
        pytest.param(PodUid("set-by-hand"), 0x51, ("etcd-node-1", "etcd"), id="uid changed by the systemd driver"),
        pytest.param(pod_uid(99), 0xEE, None, id="neither known"),
        pytest.param(None, 0xEE, None, id="container not known, no uid"),
        pytest.param(None, None, None, id="nothing asked"),
    ],
)
def test_find(
    node: PodIndex, uid: PodUid | None, container: int | None, expected: tuple[str, str | None] | None
) -> None:
    assert name_of(node, uid, container_id(container) if container else None) == expected


def test_names(node: PodIndex) -> None:
    names = node.names(pod_uid(1), container_id(0x11))
    assert names is not None
    assert (names.source, names.namespace, names.pod) == (NamesFrom.API, "shop", "cart-6c8f9d7b54-x7k2p")
    assert (names.qos_class, names.owner, names.revision) == (
        QosClass.BURSTABLE,
        Owner(kind="Deployment", name="cart"),
        "6c8f9d7b54",
    )
    assert (names.container, names.kind, names.image) == ("app", ContainerKind.APP, "registry.example/shop/cart:4.2.0")
    assert (names.limit_bytes, names.request_bytes) == (512 * MIB, 256 * MIB)
    assert names.lone
    assert names.event_uid == pod_uid(1)


def test_names_of_a_pod_alone_say_nothing_of_a_container(node: PodIndex) -> None:
    names = node.names(pod_uid(1), container_id(0xEE))
    assert names is not None
    assert (names.pod, names.container, names.limit_bytes, names.lone) == ("cart-6c8f9d7b54-x7k2p", None, None, False)


def test_container_that_only_the_log_folders_know_yet(node: PodIndex) -> None:
    names = node.names(pod_uid(1), container_id(0xEE), container_name="app")
    assert names is not None
    assert (names.source, names.container, names.limit_bytes) == (NamesFrom.API, "app", 512 * MIB)
    stranger = node.names(pod_uid(1), container_id(0xEE), container_name="stranger")
    assert stranger is not None
    assert stranger.container is None


@pytest.mark.parametrize(
    ("number", "container", "lone"),
    [
        pytest.param(1, 0x11, True, id="the only one"),
        pytest.param(6, 0x63, False, id="beside a sidecar"),
        pytest.param(6, 0x61, False, id="init container: the pod's limit is made for those that follow"),
        pytest.param(11, 0xB1, False, id="one of two"),
    ],
)
def test_lone(node: PodIndex, number: int, container: int, lone: bool) -> None:
    names = node.names(pod_uid(number), container_id(container))
    assert names is not None
    assert names.lone is lone


@pytest.mark.parametrize(
    ("containers", "lone"),
    [
        pytest.param([replace(CONTAINER, limit_bytes=MIB)], True, id="with its own limit"),
        pytest.param([CONTAINER], False, id="under the pod's limit alone"),
        pytest.param(
            [replace(CONTAINER, limit_bytes=MIB), replace(CONTAINER, name="x", kind=ContainerKind.EPHEMERAL, id=None)],
            False,
            id="beside a debug container, which fills the pod's cgroup too",
        ),
        pytest.param(
            [replace(CONTAINER, limit_bytes=MIB), replace(CONTAINER, name="x", kind=ContainerKind.INIT, id=None)],
            True,
            id="after an init container",
        ),
    ],
)
def test_whose_the_limit_of_the_pod_is(containers: list[PodContainer], lone: bool) -> None:
    index = PodIndex()
    index.put(replace(make_pod(*containers), limit_bytes=2 * MIB), 0.0)
    names = index.names(pod_uid(1), container_id(1))
    assert names is not None
    assert names.lone is lone


def test_limit_is_the_lower_of_container_and_pod(node: PodIndex) -> None:
    limits = [node.names(pod_uid(11), container_id(number)) for number in (0xB1, 0xB2)]
    assert [names.limit_bytes for names in limits if names] == [1024 * MIB, 300 * MIB]


def test_events_of_a_mirror_pod_carry_the_hash(node: PodIndex) -> None:
    names = node.names(STATIC, container_id(0x51))
    assert names is not None
    assert names.event_uid == STATIC


def test_former_instances_still_map_to_their_container() -> None:
    index = PodIndex()
    for restart in range(40):
        index.put(make_pod(replace(CONTAINER, id=container_id(restart), restart_count=restart)), float(restart))
    assert {name_of(index, pod_uid(1), container_id(restart)) for restart in range(40)} == {("cart-0", "app")}
    found = found_in(index, pod_uid(1), container_id(3))
    assert found.container is not None
    assert found.container.restart_count == 39, "its container as it is now"


def test_former_ids_are_bounded_and_the_current_ones_stay() -> None:
    index = PodIndex()
    sidecar = replace(CONTAINER, name="mesh", id=container_id(255))
    for restart in range(200):
        index.put(make_pod(replace(CONTAINER, id=container_id(restart)), sidecar), float(restart))
        assert name_of(index, None, container_id(255)) == ("cart-0", "mesh")
    known = [number for number in range(200) if name_of(index, None, container_id(number))]
    assert known == list(range(200 - (REMEMBERED_IDS - 1), 200))


def test_deleted_pod_is_kept_for_a_while() -> None:
    index = index_of(make_pod(CONTAINER))
    index.delete(pod_uid(1), 100.0)
    index.delete(pod_uid(1), 200.0)

    index.prune(100.0 + KEPT_SECONDS)
    found = found_in(index, pod_uid(1), container_id(1))
    assert found.deleted
    assert list(index.live()) == []

    index.prune(100.1 + KEPT_SECONDS)
    assert index.find(pod_uid(1), container_id(1)) is None


def test_live_pods_are_kept_for_ever() -> None:
    index = index_of(make_pod(CONTAINER))
    index.prune(1e9)
    assert name_of(index, pod_uid(1), container_id(1)) == ("cart-0", "app")


def test_pod_made_anew_under_its_name_is_another() -> None:
    index = index_of(make_pod(replace(CONTAINER, id=container_id(1)), number=1))
    index.delete(pod_uid(1), 1.0)
    index.put(make_pod(replace(CONTAINER, id=container_id(2)), number=2), 2.0)

    old, new = found_in(index, pod_uid(1), container_id(1)), found_in(index, pod_uid(2), container_id(2))
    assert (old.pod.api_uid, old.deleted, new.pod.api_uid, new.deleted) == (pod_uid(1), True, pod_uid(2), False)
    assert found_in(index, pod_uid(2), container_id(1)).container is None


def test_mirror_pod_made_anew_keeps_uid_and_containers() -> None:
    index = index_of(make_pod(CONTAINER, number=1, uid=STATIC))
    index.delete(pod_uid(1), 1.0)
    index.put(make_pod(CONTAINER, number=2, uid=STATIC), 2.0)
    index.delete(pod_uid(2), 3.0)
    index.put(make_pod(CONTAINER, number=3, uid=STATIC), 4.0)
    assert found_in(index, STATIC, None).pod.api_uid == pod_uid(3)
    index.delete(pod_uid(3), 5.0)
    assert found_in(index, STATIC, container_id(1)).pod.api_uid == pod_uid(3), "the last one"


def test_a_claimed_uid_hides_no_pod() -> None:
    """Anybody who may make pods may write the annotation of a mirror pod."""
    victim = make_pod(CONTAINER, number=1)
    index = index_of(make_pod(replace(CONTAINER, name="evil", id=container_id(9)), number=2, uid=pod_uid(1)), victim)
    assert found_in(index, pod_uid(1), container_id(1)).pod is victim
    assert found_in(index, pod_uid(1), None).pod is victim


def test_two_that_claim_one_static_uid_are_told_apart_by_the_container() -> None:
    true = make_pod(CONTAINER, number=1, uid=STATIC)
    false = make_pod(replace(CONTAINER, id=container_id(9)), number=2, uid=STATIC)
    index = index_of(true, false)
    assert found_in(index, STATIC, container_id(1)).pod is true
    assert index.find(STATIC, None) is None
    assert index.find(STATIC, container_id(7)) is None


def test_relist_deletes_what_it_does_not_have() -> None:
    index = index_of(make_pod(number=1), make_pod(number=2))
    index.replace([make_pod(number=2), make_pod(number=3)], 10.0)
    assert {pod.api_uid for pod in index.live()} == {pod_uid(2), pod_uid(3)}
    found = found_in(index, pod_uid(1), None)
    assert found.deleted


def test_relist_brings_back_what_a_lagging_list_did_not_have() -> None:
    index = index_of(make_pod(number=1, version=100))
    index.replace([], 10.0)
    index.put(make_pod(number=1, version=100), 11.0)
    assert [pod.api_uid for pod in index.live()] == [pod_uid(1)]


def test_a_lagging_list_does_not_set_an_ended_container_running_again() -> None:
    over = replace(CONTAINER, running_since=None, terminated=ended(1))
    index = index_of(make_pod(over, version=120))
    index.replace([make_pod(CONTAINER, version=90)], 10.0)
    found = found_in(index, pod_uid(1), container_id(1))
    assert found.container == over


def test_lower_versions_for_long_are_a_restored_etcd() -> None:
    index = index_of(make_pod(replace(CONTAINER, restart_count=7), version=9_000))
    index.replace([make_pod(replace(CONTAINER, restart_count=8), version=120)], 600.0)
    assert [pod.resource_version for pod in index.live()] == [120]


def test_deleted_longest_ago_make_room() -> None:
    index = PodIndex(capacity=3)
    for number in (1, 2, 3):
        index.put(make_pod(number=number), 0.0)
    index.delete(pod_uid(2), 1.0)
    index.delete(pod_uid(1), 2.0)
    index.put(make_pod(number=4), 3.0)
    assert [name_of(index, pod_uid(number), None) is None for number in (1, 2, 3, 4)] == [False, True, False, False]

    index.put(make_pod(number=5), 4.0)
    index.put(make_pod(number=6), 5.0)
    assert (len(index), index.shed) == (3, 1)
    assert index.find(pod_uid(6), None) is None


PODS = st.builds(
    lambda number, version, restart: make_pod(
        replace(CONTAINER, id=container_id(version % 256), restart_count=version, last=ended(restart)),
        number=number,
        version=version,
    ),
    number=st.integers(1, 8),
    version=st.integers(1, 400),
    restart=st.integers(0, 255),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PODS),
        st.tuples(st.just("delete"), st.integers(1, 8)),
        st.tuples(st.just("replace"), st.lists(PODS, max_size=8, unique_by=lambda pod: pod.api_uid)),
        st.tuples(st.just("prune"), st.none()),
    ),
    max_size=30,
)


def take(index: PodIndex, steps: list[tuple[str, object]], *, start: float = 0.0, pace: float = 1.0) -> float:
    now = start
    for what, argument in steps:
        now += pace
        match what, argument:
            case "put", PodRecord():
                index.put(argument, now)
            case "delete", int():
                index.delete(pod_uid(argument), now)
            case "replace", list():
                index.replace(argument, now)
            case _:
                index.prune(now)
    return now


@settings(deadline=None)
@given(steps=STEPS, capacity=st.integers(1, 6))
def test_index_never_exceeds_its_bounds(steps: list[tuple[str, object]], capacity: int) -> None:
    index = PodIndex(capacity=capacity)
    take(index, steps, pace=100.0)
    assert len(index) <= capacity
    assert len(list(index.live())) <= len(index)
    for pod in index.live():
        known = [number for number in range(256) if index.find(PodUid(pod.api_uid), container_id(number))]
        assert known
        named = [
            n for n in range(256) if (found := index.find(PodUid(pod.api_uid), container_id(n))) and found.container
        ]
        assert len(named) <= REMEMBERED_IDS


@settings(deadline=None)
@given(steps=STEPS, pods=st.lists(PODS, max_size=8, unique_by=lambda pod: pod.api_uid))
def test_after_a_list_the_view_is_the_list(steps: list[tuple[str, object]], pods: list[PodRecord]) -> None:
    index = PodIndex()
    now = take(index, steps)
    index.replace(pods, now + 1000.0)
    assert {pod.api_uid: pod for pod in index.live()} == {pod.api_uid: pod for pod in pods}


@settings(deadline=None)
@given(pods=st.lists(PODS, max_size=12, unique_by=lambda pod: (pod.api_uid, pod.resource_version)), data=st.data())
def test_the_newest_version_counts_in_whatever_order(pods: list[PodRecord], data: st.DataObject) -> None:
    views = []
    for order in (pods, data.draw(st.permutations(pods))):
        index = PodIndex()
        take(index, [("put", pod) for pod in order])
        views.append({pod.api_uid: pod for pod in index.live()})
    newest = {pod.api_uid: pod for pod in sorted(pods, key=lambda pod: pod.resource_version or 0)}
    assert views == [newest, newest]


@settings(deadline=None)
@given(numbers=st.permutations(range(1, 9)), gone=st.sets(st.integers(1, 8)))
def test_watched_or_listed_the_view_is_the_same(numbers: list[int], gone: set[int]) -> None:
    pods = {
        number: make_pod(replace(CONTAINER, id=container_id(number)), number=number, version=number)
        for number in numbers
    }
    watched, listed = PodIndex(), PodIndex()
    for number in numbers:
        watched.put(pods[number], 0.0)
        if number in gone:
            watched.delete(pod_uid(number), 1.0)
    listed.replace([pods[number] for number in numbers], 0.0)
    listed.replace([pods[number] for number in sorted(set(numbers) - gone)], 1.0)
    for number in numbers:
        found = watched.find(None, container_id(number))
        assert found == listed.find(None, container_id(number))
        assert found is not None
        assert found.deleted is (number in gone)
