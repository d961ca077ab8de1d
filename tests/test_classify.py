"""Whose limit was hit: a case for each row of the table of causes, and for each witness that disagrees."""

from __future__ import annotations

import pytest

from collector.model import Cause, Evidence, Incident
from collector.pipeline import Pipeline
from tests import lines
from tests.lines import CONTAINER, CONTAINER_ID, OTHER, POD

GLOBAL = "Out of memory: "
POD_UID = "0f9c1d2e-3b4a-4c5d-8e6f-000000000001"
KIND = f"/docker/{'ab' * 32}/kubepods/besteffort/pod{POD_UID}/{CONTAINER_ID}"


def judge(*texts: str) -> Incident:
    pipeline = Pipeline()
    incidents = []
    for record in lines.records(list(texts)):
        incidents += pipeline.push(record, at=0.0)
    (incident,) = [found for found in [*incidents, *pipeline.flush(None)] if found.settled]
    return incident


def memcg_kill(oom_memcg: str, task_memcg: str = CONTAINER, **changes: object) -> tuple[str, str]:
    return lines.summary(oom_memcg=oom_memcg, task_memcg=task_memcg, **changes), lines.kill()  # type: ignore[arg-type]


CASES = [
    pytest.param(memcg_kill(CONTAINER), Cause.CONTAINER_LIMIT, False, id="container"),
    pytest.param(memcg_kill(CONTAINER, constraint="CONSTRAINT_NONE"), Cause.CONTAINER_LIMIT, False, id="container, 5.0 prints NONE"),
    pytest.param(memcg_kill(f"/docker/{CONTAINER_ID}", f"/docker/{CONTAINER_ID}"), Cause.CONTAINER_LIMIT, False, id="plain docker"),
    pytest.param(memcg_kill(f"{POD}/crio-{CONTAINER_ID}.scope/container", f"{POD}/crio-{CONTAINER_ID}.scope/container"),
                 Cause.CONTAINER_LIMIT, False, id="CRI-O's own /container"),
    pytest.param(memcg_kill(f"{CONTAINER}/inner", f"{CONTAINER}/inner"), Cause.NESTED_LIMIT, False, id="below the container"),
    pytest.param(memcg_kill(POD), Cause.POD_LIMIT, False, id="pod"),
    pytest.param(memcg_kill("/kubepods.slice/kubepods-burstable.slice"), Cause.QOS_LIMIT, True, id="QoS class"),
    pytest.param(memcg_kill("/kubepods.slice"), Cause.NODE_ALLOCATABLE, True, id="kubepods, systemd"),
    pytest.param(memcg_kill("/kubepods", f"/kubepods/besteffort/pod{POD_UID}/{CONTAINER_ID}"), Cause.NODE_ALLOCATABLE, True, id="kubepods, cgroupfs"),
    pytest.param(memcg_kill("/system.slice/a.service", "/system.slice/a.service"), Cause.SYSTEM_LIMIT, False, id="unit"),
    pytest.param(memcg_kill("/liz", "/liz"), Cause.SYSTEM_LIMIT, False, id="hand-made cgroup"),
    pytest.param(memcg_kill(f"/docker/{'ab' * 32}", KIND), Cause.SYSTEM_LIMIT, False, id="a node in a container"),
    pytest.param((lines.summary(oom_memcg=None, constraint="CONSTRAINT_NONE"), lines.kill(prefix=GLOBAL)), Cause.NODE, True, id="global"),
    pytest.param((lines.kill(prefix=GLOBAL),), Cause.NODE, True, id="global, bare kill line"),
    pytest.param((lines.summary(oom_memcg=None, constraint="CONSTRAINT_CPUSET"), lines.kill(prefix=GLOBAL)), Cause.NODE_NUMA, True, id="cpuset"),
    pytest.param((lines.summary(oom_memcg=None, constraint="CONSTRAINT_MEMORY_POLICY"), lines.kill(prefix=GLOBAL)), Cause.NODE_NUMA, True, id="memory policy"),
    pytest.param((lines.header(order=-1), lines.summary(oom_memcg=None, constraint="CONSTRAINT_NONE"), lines.kill(prefix=GLOBAL)),
                 Cause.MANUAL, False, id="sysrq-f"),
    pytest.param((lines.kill(),), Cause.UNKNOWN, None, id="memcg, bare kill line"),
    pytest.param((lines.kill(prefix=""),), Cause.UNKNOWN, None, id="no prefix"),
    pytest.param((lines.summary(oom_memcg=None, constraint="CONSTRAINT_BPF"), lines.kill(prefix=GLOBAL)), Cause.UNKNOWN, None, id="a constraint of the future"),
    pytest.param(memcg_kill(f"{POD}/crio-conmon-{CONTAINER_ID}.scope", f"{POD}/crio-conmon-{CONTAINER_ID}.scope"), Cause.UNKNOWN, None, id="a pod's cgroup of no container"),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "cause", "pressure"), CASES)
def test_cause(texts: tuple[str, ...], cause: Cause, pressure: bool | None) -> None:
    verdict = judge(*texts).verdict
    assert (verdict.cause, verdict.node_pressure) == (cause, pressure)


def test_every_cause_has_a_case() -> None:
    assert {case.values[1] for case in CASES} == set(Cause)


def test_limit_known_from_the_statistics_when_the_summary_line_is_lost() -> None:
    texts = [text for text in lines.report(memcg=POD) if not text.startswith("oom-kill:")]
    incident = judge(*texts)
    assert (incident.verdict.cause, incident.report.oom_memcg, incident.report.task_memcg) == (
        Cause.POD_LIMIT,
        POD,
        None,
    )
    assert incident.attribution.pod is not None
    assert (incident.attribution.pod.uid, incident.attribution.container) == (POD_UID, None)


def test_attribution_and_limit_of_a_container() -> None:
    incident = judge(*lines.report())
    pod, container = incident.attribution.pod, incident.attribution.container
    assert pod is not None
    assert container is not None
    assert (pod.uid, pod.qos_class, pod.name) == (POD_UID, "Burstable", None)
    assert (container.id, container.runtime, container.limit_bytes) == (CONTAINER_ID, "containerd", 49152 * 1024)


def test_limit_of_the_pod_is_not_the_containers() -> None:
    texts = [text.replace(f"oom_memcg={CONTAINER},", f"oom_memcg={POD},") for text in lines.report()]
    container = judge(*texts).attribution.container
    assert container is not None
    assert container.limit_bytes is None


def test_cpuset_of_the_invoker_is_not_the_victims_container() -> None:
    summary = lines.summary(
        oom_memcg=None, task_memcg="/system.slice/a.service", cpuset=f"cri-containerd-{CONTAINER_ID}.scope"
    )
    incident = judge(summary, lines.kill(prefix=GLOBAL))
    assert incident.attribution.container is None


def test_cut_path_still_names_the_pod_above_the_cut() -> None:
    whole = lines.summary(oom_memcg=None, constraint="CONSTRAINT_NONE")
    cut = whole[: whole.index("cri-containerd-", whole.index("task_memcg=")) + 40]
    incident = judge(cut, lines.kill(prefix=GLOBAL))
    assert incident.attribution.pod is not None
    assert (incident.attribution.pod.uid, incident.attribution.container) == (POD_UID, None)


BEST_EFFORT = CONTAINER.replace("burstable", "besteffort")


@pytest.mark.parametrize(
    ("memcg", "adj", "count"),
    [
        pytest.param(CONTAINER, 978, 0, id="Burstable"),
        pytest.param(CONTAINER, -997, 0, id="node-critical"),
        pytest.param(CONTAINER, -998, 0, id="sandbox"),
        pytest.param(CONTAINER, 1000, 1, id="Burstable with BestEffort's value"),
        pytest.param(CONTAINER, 0, 1, id="Burstable with a host process's value"),
    ],
)
def test_oom_score_adj_against_the_qos_class(memcg: str, adj: int, count: int) -> None:
    verdict = judge(lines.summary(oom_memcg=memcg, task_memcg=memcg), lines.kill(adj=adj)).verdict
    assert len(verdict.contradictions) == count
    assert Evidence.OOM_SCORE_ADJ in verdict.evidence
    assert verdict.cause is Cause.CONTAINER_LIMIT


def test_a_best_effort_container_has_no_limit() -> None:
    verdict = judge(lines.summary(oom_memcg=BEST_EFFORT, task_memcg=BEST_EFFORT), lines.kill(adj=1000)).verdict
    assert len(verdict.contradictions) == 1


def test_a_nested_cgroup_cannot_move_the_blame() -> None:
    hostile = f"{CONTAINER}/kubepods/besteffort/pod{POD_UID[:-1]}9/{'f' * 64}"
    incident = judge(*memcg_kill(hostile, hostile))
    assert incident.attribution.pod is not None
    assert incident.attribution.container is not None
    assert (incident.attribution.pod.uid, incident.attribution.container.id) == (POD_UID, CONTAINER_ID)
    assert incident.verdict.cause is Cause.NESTED_LIMIT


def test_other_pods_are_told_apart() -> None:
    pods = {judge(*memcg_kill(memcg, memcg)).attribution.pod for memcg in (CONTAINER, OTHER)}
    assert len(pods) == 2
