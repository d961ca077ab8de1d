"""Node pressure: each statement goes with its evidence, and every number is that of the facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from collector.diagnosis.model import (
    Action,
    Advice,
    Facts,
    Finding,
    FindingKind,
    Life,
    MemoryHistory,
    Neighbour,
    NodeFacts,
    PodUse,
    Point,
)
from collector.diagnosis.node import advise_node, find_node
from collector.model import (
    Cause,
    ContainerKind,
    Incident,
    MemoryUse,
    NodeMemory,
    Pod,
    PodUid,
    Process,
    QosClass,
)
from tests.reports import dump
from tests.test_fixtures import FIXTURES, replay

MIB, GIB = 1 << 20, 1 << 30
DB, CART, BATCH, WEB = (PodUid(f"0f9c1d2e-3b4a-4c5d-8e6f-00000000000{n}") for n in range(1, 5))

# Sizes in pages of 4 KiB. db 8 GiB, Guaranteed; batch 1 GiB, BestEffort, is killed; host: kubelet, containerd, sshd.
ROWS = """
[100] 0 100 3000000 2097152 4194304 0 -997 postgres
[200] 0 200 400000 262144 1048576 0 1000 batch
[300] 0 300 900000 786432 1048576 0 700 cart
[400] 0 400 50000 25600 65536 0 -999 kubelet
[401] 0 401 50000 12800 65536 0 -999 containerd
[402] 0 402 50000 1280 65536 0 0 sshd
[500] 0 500 700 256 4096 0 0 unseen
"""


def container(name: str, used: int | None, request: int | None, **others: Any) -> Neighbour:
    known = {"kind": ContainerKind.APP, "limit_bytes": None, **others}
    return Neighbour(name=name, working_set_bytes=used, request_bytes=request, **known)


def pod(uid: str, name: str, qos: QosClass, used: int | None, request: int | None, **others: Any) -> PodUse:
    known = {"owner_kind": "Deployment", "owner_name": name, "containers": (container("app", used, request),), **others}
    return PodUse(
        uid=uid,
        namespace="shop",
        name=f"{name}-0",
        qos_class=qos,
        working_set_bytes=used,
        request_bytes=request,
        **known,
    )


PODS = (
    pod(DB, "db", QosClass.GUARANTEED, 8 * GIB, 9 * GIB),
    pod(CART, "cart", QosClass.BURSTABLE, 3 * GIB, 512 * MIB),
    pod(BATCH, "batch", QosClass.BEST_EFFORT, 600 * MIB, 0, owner_kind="Job"),
    pod(WEB, "web", QosClass.BURSTABLE, 100 * MIB, 64 * MIB),
)
NODE = NodeFacts(
    pods=PODS,
    pod_of_pid={100: DB, 200: BATCH, 300: CART, 400: "", 401: "", 402: ""},
    evictions=(),
    eviction_threshold="assumed default 100Mi",
    eviction_threshold_bytes=100 * MIB,
)
FACTS = Facts(
    cause=Cause.NODE,
    victim=Process(pid=200, comm="batch", oom_score_adj=1000),
    tasks=dump(ROWS),
    page_size=4096,
    node_memory=NodeMemory(ram_bytes=16 * GIB, swap_bytes=0, free_swap_bytes=0),
    pod=Pod(uid=BATCH, namespace="shop", name="batch-0", qos_class=QosClass.BEST_EFFORT),
    node=NODE,
    allocatable_bytes=16 * GIB - 100 * MIB,
)
KUBEPODS = {
    "cause": Cause.NODE_ALLOCATABLE,
    "oom_memcg": "/kubepods.slice",
    "node_memory": None,
    "memory": MemoryUse(
        usage_bytes=12 * GIB,
        limit_bytes=12 * GIB,
        swap_limit_bytes=0,
        stat={"anon": 11 * GIB, "file": GIB, "shmem": 900 * MIB, "kernel": 64 * MIB},
    ),
}
QOS = {**KUBEPODS, "cause": Cause.QOS_LIMIT, "oom_memcg": "/kubepods.slice/kubepods-burstable.slice"}


def facts(**changes: Any) -> Facts:
    return replace(FACTS, **changes)


def node(**changes: Any) -> NodeFacts:
    return replace(NODE, **changes)


def found(known: Facts, kind: FindingKind) -> Finding | None:
    return next((finding for finding in find_node(known) if finding.kind is kind), None)


def filled(known: Facts) -> Finding:
    finding = found(known, FindingKind.NODE_FILLED_BY)
    assert finding is not None
    return finding


def advised(known: Facts, action: Action) -> list[Advice]:
    return [advice for advice in advise_node(known, find_node(known)) if advice.action is action]


def values(of: Finding, prefix: str) -> Mapping[str, object]:
    return {name.removeprefix(prefix): value for name, value in of.values.items() if name.startswith(prefix)}


# Who filled it


def test_pods_by_use_over_request() -> None:
    finding = filled(FACTS)
    assert finding.text.startswith(
        "Who filled the node of 16 GiB: shop/cart-0 (Burstable) uses 3 GiB, 2.5 GiB over its request of 512 MiB; "
        "shop/batch-0 (BestEffort) uses 1 GiB and requests nothing; "
        "shop/web-0 (Burstable) uses 100 MiB, 36 MiB over its request of 64 MiB; 4 pods use 12.1 GiB together"
    )
    assert values(finding, "top1_") == {
        "pod": "shop/cart-0",
        "use_bytes": 3 * GIB,
        "over_bytes": 3 * GIB - 512 * MIB,
        "request_bytes": 512 * MIB,
        "qos_class": "Burstable",
        "owner": "Deployment/cart",
    }
    assert "top4_pod" not in finding.values  # db is below its request
    assert finding.values["pods_use_bytes"] == 12 * GIB + 100 * MIB


def test_ten_are_listed_and_three_named() -> None:
    many = tuple(pod(f"u{n}", f"p{n}", QosClass.BURSTABLE, (20 - n) * MIB, MIB) for n in range(12))
    finding = filled(facts(node=node(pods=many)))
    assert [finding.values.get(f"top{n}_pod") for n in (1, 10, 11)] == ["shop/p0-0", "shop/p9-0", None]
    assert "p2-0" in finding.text
    assert "p3-0" not in finding.text


def test_the_largest_task_counts_where_the_sample_is_older_than_the_growth() -> None:
    finding = filled(FACTS)
    assert values(finding, "top2_")["use_bytes"] == GIB  # sampled: 600 MiB
    assert "tasks" in finding.evidence
    small = dump(ROWS.replace("400000 262144", "4000 25600"))
    assert values(filled(facts(tasks=small)), "top2_")["use_bytes"] == 600 * MIB


def test_tasks_that_share_their_pages_are_not_summed() -> None:
    rows = ROWS + "".join(f"[{pid}] 0 {pid} 900000 786432 1048576 0 700 cart\n" for pid in range(310, 330))
    shared = node(pod_of_pid={**NODE.pod_of_pid, **dict.fromkeys(range(310, 330), CART)})
    assert values(filled(facts(tasks=dump(rows), node=shared)), "top1_")["use_bytes"] == 3 * GIB


def test_requests_that_are_not_known() -> None:
    unknown = tuple(replace(one, request_bytes=None) for one in PODS)
    finding = filled(facts(node=node(pods=unknown)))
    assert "the largest pods whose requests are not known are shop/db-0 8 GiB, shop/cart-0 3 GiB" in finding.text
    assert not [name for name in finding.values if name.endswith("over_bytes")]
    assert advised(facts(node=node(pods=unknown)), Action.SET_REQUESTS_OF_OTHERS) == []


def test_pods_within_their_requests() -> None:
    within = (PODS[0],)
    finding = filled(facts(node=node(pods=within)))
    assert "no pod uses more than it requests, 9 GiB together" in finding.text
    assert "top1_pod" not in finding.values
    assert advised(facts(node=node(pods=within)), Action.SET_REQUESTS_OF_OTHERS) == []


def test_host_processes() -> None:
    finding = filled(FACTS)
    assert "host processes outside the pods hold 155 MiB (largest: kubelet 100 MiB, containerd 50 MiB" in finding.text
    assert "of 1 MiB in 1 more it is not known whose it is" in finding.text
    assert finding.values["host_rss_bytes"] == 155 * MIB
    assert finding.values["host_top1_name"] == "kubelet"
    assert finding.values["unknown_rss_bytes"] == MIB
    assert "node.pod_of_pid" in finding.evidence


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"node": node(pod_of_pid={})}, id="no process index"),
        pytest.param({"tasks": ()}, id="no dump"),
        pytest.param({"node": None}, id="a log alone"),
        pytest.param(KUBEPODS, id="a limit of the pods, which the host does not fill"),
    ],
)
def test_no_host_processes_without_evidence(changes: dict[str, Any]) -> None:
    known = facts(**changes)
    assert "host_rss_bytes" not in filled(known).values
    assert advised(known, Action.SET_NODE_RESERVATION) == []


STAT = {
    "active_anon": 6 * GIB, "inactive_anon": 6 * GIB, "active_file": 512 * MIB, "inactive_file": 512 * MIB,
    "unevictable": 0, "slab_reclaimable": 256 * MIB, "slab_unreclaimable": 512 * MIB, "pagetables": 256 * MIB,
    "shmem": 128 * MIB, "free": 64 * MIB,
}  # fmt: skip


def test_kinds_of_memory_by_the_kernels_count() -> None:
    finding = filled(facts(node_memory=replace(FACTS.node_memory, stat=STAT)))  # type: ignore[type-var]
    assert "page cache 1 GiB, tmpfs and shared memory 128 MiB, kernel memory 1 GiB, free 64 MiB" in finding.text
    assert "1.9 GiB are in none of these: huge pages" in finding.text
    assert finding.values["unlisted_bytes"] == 16 * GIB - 14 * GIB - 64 * MIB
    assert "not_accounted_bytes" not in finding.values
    assert "node_memory.stat" in finding.evidence


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"cause": Cause.NODE_NUMA}, id="of the whole node, where some NUMA nodes were full"),
        pytest.param(
            {"cause": Cause.NODE_ALLOCATABLE, "memory": None}, id="of the whole node, where its pods had less"
        ),
        pytest.param({"memory": KUBEPODS["memory"], "node_memory": None}, id="of the pods, where the node was full"),
        pytest.param({"node_memory": NodeMemory(stat={"active_anon": GIB, "free": GIB})}, id="cut off"),
    ],
)
def test_kinds_of_memory_of_another_place(changes: dict[str, Any]) -> None:
    whole = NodeMemory(ram_bytes=16 * GIB, swap_bytes=0, stat=STAT)
    known = facts(**{"node_memory": whole, **changes})
    assert "page_cache_bytes" not in filled(known).values


def test_a_small_rest_is_not_talked_about() -> None:
    stat = {**STAT, "active_anon": 8 * GIB - 128 * MIB}
    finding = filled(facts(node_memory=replace(FACTS.node_memory, stat=stat)))  # type: ignore[type-var]
    assert finding.values["unlisted_bytes"] == 64 * MIB
    assert "none of these" not in finding.text


def test_what_is_not_accounted_for_is_said() -> None:
    finding = filled(FACTS)
    # 16 GiB less pods 12.1 GiB and, of the host and of nobody known, 156 MiB
    assert finding.values["not_accounted_bytes"] == 4 * GIB - 256 * MIB
    assert "3.8 GiB are not accounted for here" in finding.text
    assert "not_accounted_bytes" not in filled(facts(node_memory=None)).values


def test_a_log_alone_names_tasks_and_tiers() -> None:
    finding = filled(facts(node=None))
    assert (
        "by the task dump, postgres 8 GiB, cart 3 GiB, batch 1 GiB, of 12.2 GiB resident in all 7 tasks" in finding.text
    )
    assert "BestEffort 1 GiB, Burstable 3 GiB, Guaranteed or node-critical 8 GiB, host 156 MiB" in finding.text
    assert values(finding, "task_top1_") == {"name": "postgres", "rss_bytes": 8 * GIB, "count": 1}
    assert finding.values["tier_host_rss_bytes"] == 156 * MIB
    (step,) = advise_node(facts(node=None), find_node(facts(node=None)))
    assert (step.action, step.command) == (Action.OBSERVE, "kubectl top pods --all-namespaces --sort-by=memory")


def test_tiers_only_where_the_kubelet_gives_them() -> None:
    finding = filled(facts(node=None, pod=None))
    assert "BestEffort" not in finding.text
    assert values(finding, "tier_") == {}
    without = tuple(task._replace(oom_score_adj=None) for task in FACTS.tasks)
    assert values(filled(facts(node=None, tasks=without)), "tier_") == {}


def test_tasks_of_one_name_are_told_together() -> None:
    rows = ROWS + "[301] 0 301 900000 262144 1048576 0 700 cart\n"
    finding = filled(facts(node=None, tasks=dump(rows)))
    assert "cart 4 GiB in 2 tasks" in finding.text


def test_all_pods_at_their_limit() -> None:
    finding = filled(facts(**KUBEPODS))
    assert finding.text.startswith("Who filled the limit of 12 GiB that all pods have together: shop/cart-0")
    assert "page cache 124 MiB, tmpfs and shared memory 900 MiB, kernel memory 64 MiB" in finding.text
    alone = filled(facts(**KUBEPODS, node=None))
    assert "by the task dump, which has only tasks of these pods, postgres" in alone.text
    without = filled(facts(**{**KUBEPODS, "memory": MemoryUse(limit_bytes=12 * GIB)}))
    assert "page_cache_bytes" not in without.values


def test_a_qos_class_at_its_limit_is_filled_by_its_own_pods() -> None:
    finding = filled(facts(**QOS))
    assert finding.text.startswith("Who filled the limit of 12 GiB that the Burstable pods have together: shop/cart-0")
    assert [finding.values.get(f"top{n}_pod") for n in (1, 2, 3)] == ["shop/cart-0", "shop/web-0", None]


def test_numa_nodes_are_not_filled_by_what_pods_use_of_the_whole_node() -> None:
    known = facts(cause=Cause.NODE_NUMA, task_memcg="/kubepods.slice/a b")
    finding = filled(known)
    assert "top1_pod" not in finding.values
    assert "only tasks that may use these NUMA nodes" in finding.text
    (step,) = advise_node(known, find_node(known))
    assert step.action is Action.WIDEN_NUMA
    assert step.command == "cat '/sys/fs/cgroup/kubepods.slice/a b/cpuset.mems.effective'"
    assert found(known, FindingKind.EVICTION) is None


@pytest.mark.parametrize(
    "cause", sorted(set(Cause) - {Cause.NODE, Cause.NODE_ALLOCATABLE, Cause.NODE_NUMA, Cause.QOS_LIMIT})
)
def test_nothing_without_node_pressure(cause: Cause) -> None:
    assert find_node(facts(cause=cause)) == ()
    assert advise_node(facts(cause=cause), find_node(FACTS)) == ()


def test_nothing_from_nothing() -> None:
    bare = Facts(cause=Cause.NODE, victim=Process(pid=200, comm="batch"))
    assert find_node(bare) == ()
    assert advise_node(bare, ()) == ()


# Why this victim


def test_who_was_spared_for_its_tier() -> None:
    finding = found(FACTS, FindingKind.VICTIM_CHOICE)
    assert finding is not None
    assert finding.values == {
        "victim_bytes": GIB + MIB,
        "memory_rank": 3,
        "task_count": 7,
        "rank": 1,
        "adj_decided": True,
        "oom_score_adj": 1000,
        "tier": "BestEffort",
        "qos_class": "BestEffort",
        "spared_pid": 100,
        "spared_name": "postgres",
        "spared_bytes": 8 * GIB + 4 * MIB,
        "spared_oom_score_adj": -997,
        "spared_tier": "Guaranteed or node-critical",
        "spared_pod": "shop/db-0",
    }
    assert finding.text == (
        "batch was chosen: not the largest: postgres (8 GiB) is protected by oom_score_adj -997, and 1 more is larger; "
        "batch came first with oom_score_adj 1000, which weighs 16 GiB; oom_score_adj 1000 is that of BestEffort and "
        "-997, which protected postgres of pod shop/db-0, that of Guaranteed or node-critical"
    )


def test_nobody_is_spared_where_the_largest_dies() -> None:
    known = facts(victim=Process(pid=100, comm="postgres"), tasks=dump(ROWS.replace("-997", "1000")))
    finding = found(known, FindingKind.VICTIM_CHOICE)
    assert finding is not None
    assert finding.values["adj_decided"] is False
    assert values(finding, "spared_") == {}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tasks": ()}, id="no dump"),
        pytest.param({"victim": Process(pid=None, comm="batch")}, id="no pid"),
        pytest.param({"victim": Process(pid=77, comm="batch")}, id="not in the dump"),
    ],
)
def test_no_choice_without_evidence(changes: dict[str, Any]) -> None:
    assert found(facts(**changes), FindingKind.VICTIM_CHOICE) is None


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        pytest.param({"node": None}, {"spared_pod"}, id="no process index: no pod"),
        pytest.param({"pod": None}, {"tier", "qos_class", "spared_tier"}, id="not known to be a pod's: no tier"),
        pytest.param(
            {"tasks": tuple(task._replace(oom_score_adj=None) for task in FACTS.tasks)},
            {"rank", "adj_decided", "oom_score_adj", "tier", *(f"spared_{name}" for name in ("pid", "tier"))},
            id="a dump without oom_score_adj: no rank",
        ),
    ],
)
def test_what_goes_with_its_evidence(changes: dict[str, Any], gone: set[str]) -> None:
    assert gone & FACTS_CHOICE.values.keys() == gone
    finding = found(facts(**changes), FindingKind.VICTIM_CHOICE)
    assert finding is not None
    assert gone & finding.values.keys() == set()


FACTS_CHOICE = next(one for one in find_node(FACTS) if one.kind is FindingKind.VICTIM_CHOICE)


def test_how_much_a_point_weighs_must_be_known_for_a_rank() -> None:
    rows = "[10] 0 10 9 30000 4096 0 0 a\n[11] 0 11 5 1000 4096 0 900 b"
    known: dict[str, Any] = {"tasks": dump(rows), "victim": Process(pid=11, comm="b"), "node": None}
    by_node = found(facts(**known), FindingKind.VICTIM_CHOICE)
    assert by_node is not None
    assert by_node.values["rank"] == 1
    unknown = found(facts(**known, node_memory=None), FindingKind.VICTIM_CHOICE)
    assert unknown is not None
    assert {"rank", "spared_pid"} & unknown.values.keys() == set()
    of_numa = found(facts(**known, cause=Cause.NODE_NUMA), FindingKind.VICTIM_CHOICE)
    assert of_numa is not None
    assert "rank" not in of_numa.values
    tiny = {**KUBEPODS, "memory": MemoryUse(limit_bytes=MIB, swap_limit_bytes=0)}
    of_memcg = found(facts(**known, **tiny), FindingKind.VICTIM_CHOICE)
    assert of_memcg is not None
    assert of_memcg.values["rank"] == 2  # a point weighs nothing there


# The kubelet


def test_a_kubelet_that_was_too_late() -> None:
    finding = found(FACTS, FindingKind.EVICTION)
    assert finding is not None
    assert finding.text == (
        "The kubelet was too late: it evicted no pod for memory in the five minutes before the kill; it looks every "
        "10 s; its threshold: memory.available < assumed default 100Mi"
    )
    assert finding.values == {
        "evicted_before_count": 0,
        "evicted_after_count": 0,
        "threshold": "assumed default 100Mi",
        "threshold_bytes": 100 * MIB,
    }


def test_evictions_before_and_after() -> None:
    evictions = (("shop/a", 290.0), ("shop/b", 12.0), ("shop/c", -4.0), ("shop/old", 301.0))
    finding = found(facts(node=node(evictions=evictions)), FindingKind.EVICTION)
    assert finding is not None
    assert finding.text.startswith(
        "The kubelet evicted shop/b 12 s, shop/a 290 s before the kill, which did not free enough in time; "
        "it evicted shop/c 4 s after it; "
    )
    assert "shop/old" not in finding.text
    assert finding.values["last_eviction_seconds"] == 12.0


@pytest.mark.parametrize(
    ("reported", "seconds", "text"),
    [
        pytest.param(None, None, None, id="not known"),
        pytest.param(False, None, "it reported no MemoryPressure at the kill", id="not reported"),
        pytest.param(False, -12.4, "it reported MemoryPressure only 12 s after the kill", id="reported too late"),
        pytest.param(True, 31.2, "it had reported MemoryPressure 31 s before the kill", id="reported"),
        pytest.param(None, -12.4, "it reported MemoryPressure 12 s after the kill", id="reported after it"),
        pytest.param(True, 0.6, "it reported MemoryPressure in the second of the kill", id="in the second of the kill"),
        pytest.param(True, 7320.0, "it had reported MemoryPressure 2.0 h before the kill", id="for long"),
    ],
)
def test_the_memory_pressure_that_was_reported(reported: bool | None, seconds: float | None, text: str | None) -> None:
    known = facts(node=node(memory_pressure=reported, memory_pressure_seconds=seconds))
    finding = found(known, FindingKind.EVICTION)
    silent = found(FACTS, FindingKind.EVICTION)
    assert finding is not None
    assert silent is not None
    assert finding.text == silent.text + (f"; {text}" if text else "")
    told = {"memory_pressure": reported, "memory_pressure_seconds": seconds}
    assert finding.values == {**silent.values, **{name: value for name, value in told.items() if value is not None}}
    assert finding.evidence == (
        *silent.evidence,
        *(f"node.{name}" for name, value in told.items() if value is not None),
    )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"node": None}, id="a log alone"),
        pytest.param({"node": node(eviction_threshold=None, memory_pressure=False)}, id="nobody looked"),
        pytest.param(QOS, id="the kubelet does not look at a QoS class"),
    ],
)
def test_no_eviction_without_evidence(changes: dict[str, Any]) -> None:
    known = facts(**changes)
    assert found(known, FindingKind.EVICTION) is None
    assert advised(known, Action.SET_EVICTION_THRESHOLD) == []


# What to do


def test_requests_of_the_top_three() -> None:
    first, second, third = advised(FACTS, Action.SET_REQUESTS_OF_OTHERS)
    assert first.command == "kubectl set resources deployment/cart -n shop -c app --requests=memory=3Gi"
    assert first.text == (
        "Request 3Gi of memory for container app instead of 512Mi: shop/cart-0 uses 3 GiB, 2.5 GiB more than the "
        "scheduler counts for it"
    )
    assert first.values == {
        "pod": "shop/cart-0",
        "container": "app",
        "request_bytes": 3 * GIB,
        "present_request_bytes": 512 * MIB,
        "use_bytes": 3 * GIB,
        "over_bytes": 3 * GIB - 512 * MIB,
        "workload": "Deployment/cart",
        "namespace": "shop",
    }
    assert second.command is None  # a Job
    assert "(in the manifest of Job/batch)" in second.text
    assert "the victim's own pod" in second.text
    assert third.values["request_bytes"] == 104 * MIB


def test_replicas_are_one_workload() -> None:
    replicas = (PODS[1], replace(PODS[1], uid="2", name="cart-1"), PODS[3])
    steps = advised(facts(node=node(pods=replicas)), Action.SET_REQUESTS_OF_OTHERS)
    assert [step.values["workload"] for step in steps] == ["Deployment/cart", "Deployment/web"]


@pytest.mark.parametrize(
    ("containers", "requests"),
    [
        pytest.param(
            (container("app", 2 * GIB, 256 * MIB), container("proxy", GIB, 256 * MIB), container("log", 9 * MIB, MIB)),
            {"app": 2 * GIB, "proxy": GIB},
            id="each that is far over its request",
        ),
        pytest.param(
            (container("app", 2 * GIB + 1, 0, limit_bytes=2100 * MIB),), {"app": 2100 * MIB}, id="at most the limit"
        ),
        pytest.param(
            (container("setup", None, 4 * GIB, kind=ContainerKind.INIT), container("app", 100 * MIB, 0)),
            {"app": 3 * GIB},
            id="one that runs has what its pod has",
        ),
        pytest.param(None, {None: 3 * GIB}, id="containers not known: the pod"),
    ],
)
def test_which_container(containers: tuple[Neighbour, ...] | None, requests: dict[str, int]) -> None:
    known = facts(node=node(pods=(replace(PODS[1], containers=containers),)))
    steps = advised(known, Action.SET_REQUESTS_OF_OTHERS)
    assert {step.values.get("container"): step.values["request_bytes"] for step in steps} == requests
    assert all((step.command is None) == (containers is None) for step in steps)


def test_a_hostile_name_makes_no_command() -> None:
    hostile = replace(PODS[1], owner_name="x; rm -rf /")
    (step,) = advised(facts(node=node(pods=(hostile,))), Action.SET_REQUESTS_OF_OTHERS)
    assert step.command is None


def test_a_reservation_for_what_the_host_uses() -> None:
    (step,) = advised(FACTS, Action.SET_NODE_RESERVATION)
    # 155 MiB used, 100 MiB reserved
    assert step.values["more_bytes"] == 55 * MIB
    assert step.values["present_reservation_bytes"] == 100 * MIB
    assert step.text.startswith("Reserve 55Mi more memory for the host")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"allocatable_bytes": 15 * GIB}, id="enough is reserved"),
        pytest.param({"allocatable_bytes": None}, id="the limit of all pods is not known"),
        pytest.param({"node_memory": None}, id="the node's memory is not known"),
    ],
)
def test_no_reservation_without_evidence(changes: dict[str, Any]) -> None:
    assert advised(facts(**changes), Action.SET_NODE_RESERVATION) == []


def history(*sizes: int, seconds: float = 10.0) -> MemoryHistory:
    points = tuple(Point(place * seconds, size, size, size) for place, size in enumerate(sizes))
    return MemoryHistory(lives=(Life(points=points, started=True, killed=True),))


@pytest.mark.parametrize(
    ("changes", "threshold"),
    [
        pytest.param({}, 200 * MIB, id="twice as early"),
        # 20 MiB/s: 400 MiB in two looks, on top of the 100 MiB
        pytest.param({"history": history(0, 0, 200 * MIB, 210 * MIB)}, 504 * MIB, id="two looks of the kubelet"),
        pytest.param({"history": history(0, 10 * MIB)}, 200 * MIB, id="a slow victim"),
        pytest.param({"history": history(0, 0, 4 * GIB)}, 1664 * MIB, id="at most a tenth of the node"),
        pytest.param({"history": history(4 * GIB)}, 200 * MIB, id="one sample has no pace"),
        pytest.param(
            {"history": history(0, 200 * MIB, *[200 * MIB] * 31)}, 200 * MIB, id="what it did before the last minutes"
        ),
    ],
)
def test_an_earlier_eviction(changes: dict[str, Any], threshold: int) -> None:
    (step,) = advised(facts(**changes), Action.SET_EVICTION_THRESHOLD)
    assert step.values["threshold_bytes"] == threshold
    assert f'memory.available: "{threshold // MIB}Mi", nodefs.available' in str(step.values["kubelet_configuration"])


def test_a_threshold_rests_on_one_that_is_known() -> None:
    assert advised(facts(node=node(eviction_threshold_bytes=None)), Action.SET_EVICTION_THRESHOLD) == []


def test_each_step_rests_on_its_finding() -> None:
    findings = find_node(FACTS)
    for kind, actions in {
        FindingKind.NODE_FILLED_BY: {Action.SET_REQUESTS_OF_OTHERS, Action.SET_NODE_RESERVATION},
        FindingKind.EVICTION: {Action.SET_EVICTION_THRESHOLD},
    }.items():
        rest = tuple(finding for finding in findings if finding.kind is not kind)
        assert {step.action for step in advise_node(FACTS, findings)} >= actions
        assert not {step.action for step in advise_node(FACTS, rest)} & actions


def test_never_a_limit() -> None:
    for cause in Cause:
        known = facts(cause=cause)
        for step in advise_node(known, find_node(known)):
            assert step.action is not Action.SET_LIMIT
            assert "--limits" not in (step.command or "")
            assert "limit_bytes" not in step.values


# Real kernels


def facts_of(incident: Incident) -> Facts:
    report = incident.report
    return Facts(
        cause=incident.verdict.cause,
        memory=report.memory,
        node_memory=report.node_memory,
        victim=report.victim,
        tasks=report.tasks,
        oom_memcg=report.oom_memcg,
        task_memcg=report.task_memcg,
        page_size=report.page_size if report.page_size_known else None,
        pod=incident.attribution.pod,
    )


@pytest.mark.parametrize(
    "fixture", [path for path in FIXTURES if path.name.endswith("-node")], ids=lambda fixture: fixture.name
)
def test_a_node_of_a_real_kernel(fixture: Any) -> None:
    """2 GiB; three pods of 300 MiB, 300 MiB and, BestEffort, what is left: that one is killed."""
    (incident,) = replay(fixture)
    known = facts_of(incident)
    finding, choice = find_node(known)
    assert finding.values["task_top1_name"] == "besteffort"
    assert finding.values["tier_burstable_rss_bytes"] == finding.values["task_top2_rss_bytes"]
    listed = sum(known.node_memory.stat.values()) if known.node_memory else 0
    assert listed > 0
    assert isinstance(finding.values["unlisted_bytes"], int)
    assert 0 < finding.values["unlisted_bytes"] < 100 * MIB  # kernel stacks, per-CPU memory and the like
    assert (choice.values["rank"], choice.values["tier"]) == (1, "BestEffort")


def test_the_limit_of_all_pods_on_a_real_kernel() -> None:
    (fixture,) = (path for path in FIXTURES if path.name == "6.1-kubepods-limit")
    (incident,) = replay(fixture)
    finding, choice = find_node(facts_of(incident))
    assert finding.text.startswith(
        "Who filled the limit of 240 MiB that all pods have together: by the task dump, which"
    )
    assert finding.values["tier_guaranteed_rss_bytes"] == 63594496
    assert finding.values["kernel_bytes"] == 1028096
    assert choice.values["rank"] == 1
