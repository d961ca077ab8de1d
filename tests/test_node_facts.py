"""A node's pods, tasks and evictions, from a history, pod objects and a process index."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from collector.diagnosis.model import Facts, FindingKind, NodeFacts, PodUse
from collector.diagnosis.node import find_node
from collector.history import History, Key, Sample
from collector.model import Cause, ContainerKind, MemcgPath, NodeMemory, Owner, Process, QosClass, Task
from collector.node_facts import MOST_TASKS, gather_node_facts, request_of
from collector.pods.index import PodIndex
from collector.pods.record import PodContainer, PodRecord
from collector.processes.watch import ProcessWatch
from tests.pods.pods import CONTAINER, at, container_id, ended, make_pod, pod_uid, read_pod
from tests.processes.fake_proc import FakeProc

MIB = 1 << 20
KILL = 1000.0
POD = MemcgPath(f"/kubepods/burstable/pod{pod_uid(1)}")
BEST_EFFORT = MemcgPath(f"/kubepods/besteffort/pod{pod_uid(2)}")
APP = MemcgPath(f"{POD}/{container_id(1)}")


def sample(mebibytes: int) -> Sample:
    size = mebibytes * MIB
    return Sample(current=size, working_set=size, anon=size, file=0, shmem=0, kernel=0, swap=0)


def history(samples: Mapping[tuple[str, float], int]) -> History:
    made = History(boot_id="b")
    for (path, sampled_at), size in samples.items():
        made.add(Key(MemcgPath(path), 1), sample(size), at=sampled_at)
    return made


HISTORY: Mapping[tuple[str, float], int] = {
    (POD, 985.0): 100, (POD, 995.0): 300, (POD, 1005.0): 1,
    (APP, 995.0): 290, (APP, 1005.0): 0,
    (BEST_EFFORT, 995.0): 50,
}  # fmt: skip
RECORD = replace(
    make_pod(replace(CONTAINER, request_bytes=64 * MIB, limit_bytes=512 * MIB)),
    qos_class=QosClass.BURSTABLE,
    owner=Owner(kind="StatefulSet", name="cart"),
    priority_class="high",
)


def gather(
    samples: Mapping[tuple[str, float], int] = HISTORY,
    *,
    pods: Iterable[PodRecord] | None = (RECORD,),
    tasks: tuple[Task, ...] = (),
    found: Mapping[int, str] | None = None,
) -> NodeFacts:
    paths = found or {}
    return gather_node_facts(
        tasks,
        at=KILL,
        killed_at=at("09:20:30"),
        history=history(samples),
        pods=pods,
        find=lambda task: MemcgPath(paths[task.pid]) if task.pid in paths else None,
    )


def of(facts: NodeFacts, number: int) -> PodUse:
    return next(pod for pod in facts.pods if pod.uid == pod_uid(number))


def test_what_pods_and_containers_used_before_the_kill() -> None:
    facts = gather()
    pod = of(facts, 1)
    assert (pod.namespace, pod.name, pod.working_set_bytes, pod.request_bytes) == (
        "shop",
        "cart-0",
        300 * MIB,
        64 * MIB,
    )
    assert (pod.owner_kind, pod.owner_name, pod.priority_class) == ("StatefulSet", "cart", "high")
    assert pod.containers is not None
    (container,) = pod.containers
    assert (container.name, container.working_set_bytes) == ("app", 290 * MIB)
    assert (container.request_bytes, container.limit_bytes) == (64 * MIB, 512 * MIB)


def test_a_pod_that_the_api_has_not_told() -> None:
    pod = of(gather(pods=None), 1)
    assert (pod.name, pod.qos_class, pod.request_bytes, pod.containers) == (None, QosClass.BURSTABLE, None, None)
    assert of(gather(), 2).request_bytes == 0  # BestEffort


def test_a_pod_too_new_to_be_sampled() -> None:
    new = make_pod(CONTAINER, number=3)
    assert of(gather(pods=[new]), 3).working_set_bytes is None
    assert [pod.uid for pod in gather({}, pods=[replace(new, phase="Succeeded")]).pods] == []


def test_cgroups_that_were_gone_by_then() -> None:
    assert gather({(POD, 969.0): 300}, pods=()).pods == ()
    assert [pod.uid for pod in gather({(POD, 971.0): 300}, pods=()).pods] == [pod_uid(1)]


def test_containers_outside_of_their_pods_cgroup() -> None:
    """A runtime that does not follow the kubelet's cgroup driver."""
    slice_of = "/system.slice/containerd.service/kubepods-burstable-pod{}.slice:cri-containerd:{}"
    uid = pod_uid(1).replace("-", "_")
    apart = {(slice_of.format(uid, container_id(number)), 995.0): 100 * number for number in (1, 2)}
    assert of(gather({(POD, 995.0): 0, **apart}), 1).working_set_bytes == 300 * MIB


def task(pid: int, rss: int = 1, comm: str = "java") -> Task:
    return Task(pid, pid, 0, comm, rss * MIB, rss * MIB, 0, 0, 0)


def test_whose_a_task_is() -> None:
    tasks = (task(1), task(2), task(3), task(4))
    found = {1: APP, 2: "/system.slice/sshd.service", 3: f"/docker/{container_id(9)}"}
    assert gather(tasks=tasks, found=found).pod_of_pid == {1: pod_uid(1), 2: "", 3: ""}


def test_only_the_largest_tasks_are_looked_up() -> None:
    tasks = tuple(task(pid, rss=pid) for pid in range(1, 200))
    found = gather(tasks=tasks, found=dict.fromkeys(range(1, 200), "/init.scope")).pod_of_pid
    assert sorted(found) == list(range(200 - MOST_TASKS, 200))


def test_tasks_by_the_process_index(tmp_path: Path) -> None:
    """Also of one that is dead by now, and of one outside of the pods, which no pass has seen."""
    proc = FakeProc(tmp_path)
    proc.add(10, APP)
    proc.add(11, "/system.slice/sshd.service", comm=b"sshd")
    proc.list(APP, 10)
    watch = ProcessWatch(proc.root, proc.cgroups, connector=False)
    watch.start()
    if not watch.index_state.up:
        pytest.skip("in a pid namespace of its own")
    watch.pass_over([APP], time.monotonic())
    proc.remove(10)

    def find(row: Task) -> MemcgPath | None:
        known = watch.find(row.pid, comm=row.comm, at=time.monotonic())
        return known.memcg if known else None

    facts = gather_node_facts(
        (task(10), task(11, comm="sshd"), task(12)),
        at=KILL,
        killed_at=at("09:20:30"),
        history=history({}),
        pods=(),
        find=find,
    )
    assert facts.pod_of_pid == {10: pod_uid(1), 11: ""}


# Evictions


def test_evictions_with_their_time_and_threshold() -> None:
    evicted = read_pod("evicted")  # at 09:20:03
    facts = gather(pods=[evicted])
    name = f"{evicted.namespace}/{evicted.name}"
    assert facts.evictions == ((name, 27.0),)
    assert facts.eviction_threshold == f"100Mi (status of pod {name})"
    assert facts.eviction_threshold_bytes == 100 * MIB


def test_evicted_pods_that_are_deleted_count() -> None:
    index = PodIndex()
    evicted = read_pod("evicted")
    index.put(evicted, 0.0)
    index.delete(evicted.api_uid, 1.0)
    assert len(gather(pods=index.known()).evictions) == 1


@pytest.mark.parametrize(
    ("pods", "threshold"),
    [
        pytest.param((), "assumed default 100Mi", id="none"),
        pytest.param(None, None, id="no API: nobody looked"),
        pytest.param(
            (replace(read_pod("evicted"), message="The node was low on resource: inodes."),),
            "assumed default 100Mi",
            id="for something else",
        ),
        pytest.param(
            (replace(read_pod("evicted"), disrupted_at=None, containers=()),),
            None,
            id="nobody knows when: nothing said",
        ),
    ],
)
def test_no_evictions(pods: tuple[PodRecord, ...] | None, threshold: str | None) -> None:
    facts = gather(pods=pods)
    assert (facts.evictions, facts.eviction_threshold) == ((), threshold)
    assert facts.eviction_threshold_bytes == (None if threshold is None else 100 * MIB)


def test_an_eviction_without_a_condition_is_of_its_last_container() -> None:
    containers = tuple(
        replace(CONTAINER, name=name, terminated=ended(1, finished=finished))
        for name, finished in (("a", "09:20:10"), ("b", "09:20:40"))
    )
    ((_, seconds),) = gather(pods=[replace(read_pod("evicted"), disrupted_at=None, containers=containers)]).evictions
    assert seconds == -10.0


# Requests


def asks(kind: ContainerKind, mebibytes: int | None) -> PodContainer:
    return replace(CONTAINER, kind=kind, request_bytes=None if mebibytes is None else mebibytes * MIB)


INIT, SIDECAR, APP_KIND, DEBUG = (
    ContainerKind.INIT,
    ContainerKind.SIDECAR,
    ContainerKind.APP,
    ContainerKind.EPHEMERAL,
)


@pytest.mark.parametrize(
    ("containers", "changes", "mebibytes"),
    [
        pytest.param([(APP_KIND, None)], {}, 0, id="none"),
        pytest.param([(APP_KIND, 10), (APP_KIND, 20)], {}, 30, id="the sum"),
        pytest.param([(SIDECAR, 5), (APP_KIND, 10)], {}, 15, id="sidecars too"),
        pytest.param([(INIT, 50), (APP_KIND, 10)], {}, 50, id="an init container that needs more"),
        pytest.param([(INIT, 8), (INIT, 9), (APP_KIND, 10)], {}, 10, id="init containers run one by one"),
        pytest.param([(SIDECAR, 5), (INIT, 50), (APP_KIND, 10)], {}, 55, id="beside the sidecars before it"),
        pytest.param([(INIT, 50), (SIDECAR, 5), (APP_KIND, 10)], {}, 50, id="not beside those behind it"),
        pytest.param([(APP_KIND, 10), (DEBUG, 99)], {}, 10, id="debug containers request nothing"),
        pytest.param([(APP_KIND, 10)], {"request_bytes": 40 * MIB}, 40, id="pod-level resources"),
    ],
)
def test_requests_of_a_pod(
    containers: list[tuple[ContainerKind, int | None]], changes: dict[str, Any], mebibytes: int
) -> None:
    made = make_pod(*(asks(kind, size) for kind, size in containers))
    assert request_of(replace(made, **changes)) == mebibytes * MIB


def test_of_real_pods() -> None:
    assert read_pod("pod-level-resources").request_bytes is not None
    assert read_pod("deployment").request_bytes is None


# Together


def test_from_what_was_sampled_to_who_filled_the_node() -> None:
    node = gather(tasks=(task(1, 400), task(2, 60, "kubelet")), found={1: APP, 2: "/system.slice/kubelet.service"})
    facts = Facts(
        cause=Cause.NODE,
        victim=Process(pid=1, comm="java"),
        tasks=(task(1, 400), task(2, 60, "kubelet")),
        node_memory=NodeMemory(ram_bytes=1024 * MIB, swap_bytes=0),
        node=node,
    )
    filled = next(finding for finding in find_node(facts) if finding.kind is FindingKind.NODE_FILLED_BY)
    assert filled.values["top1_pod"] == "shop/cart-0"
    assert filled.values["top1_over_bytes"] == (400 - 64) * MIB
    assert filled.values["host_rss_bytes"] == 60 * MIB


def test_times_of_evictions_are_utc() -> None:
    evicted = read_pod("evicted")
    assert evicted.disrupted_at is not None
    facts = gather_node_facts(
        (),
        at=KILL,
        killed_at=evicted.disrupted_at - timedelta(seconds=5),
        history=history({}),
        pods=[evicted],
        find=lambda _: None,
    )
    assert facts.evictions[0][1] == -5.0
