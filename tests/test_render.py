"""Golden files are rewritten with OOM_COLLECTOR_UPDATE_GOLDEN=1, and then read in the diff like code."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.diagnosis.model import Action, Advice, Diagnosis, Finding, FindingKind, Judgement, Pattern
from collector.memory_stat import memory_shares
from collector.model import (
    Attribution,
    AttributionMethod,
    Cause,
    Container,
    ContainerId,
    ContainerKind,
    Incident,
    Invoker,
    MemcgPath,
    MemoryUse,
    Moment,
    NamesFrom,
    Pod,
    PodUid,
    Process,
    QosClass,
    Verdict,
)
from collector.render import render_text
from tests.reports import KIB, MIB, dump, global_report, incident, memcg_report, report
from tests.test_badness import NODE, NODE_RAM

GOLDEN = Path(__file__).parent / "golden"

POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f9c1d2e_3b4a_4c5d_8e6f_000000000001.slice"
CONTAINER_ID = "c0ffee" * 10 + "0001"
CONTAINER = MemcgPath(f"{POD}/cri-containerd-{CONTAINER_ID}.scope")
BOOTED = Moment(sequence=683, monotonic_usec=95_035_247)
BURSTABLE = Attribution(
    pod=Pod(
        uid=PodUid("0f9c1d2e-3b4a-4c5d-8e6f-000000000001"),
        namespace="shop",
        name="cart-7d9f8-x2x7p",
        qos_class=QosClass.BURSTABLE,
    ),
    container=Container(id=ContainerId(CONTAINER_ID), runtime="containerd", name="cart", kind=ContainerKind.APP),
    method=AttributionMethod.TASK_MEMCG,
    names_from=NamesFrom.API,
)


def container_limit() -> Incident:
    """A container with a tmpfs; a child asked for memory, the parent died."""
    oom = memcg_report(
        pid=488,
        limit=96 * MIB,
        tasks="""
            [    476]     0   476      646      224    45056        0           950 sh
            [    490]     0   490     8186     2058    98304        0           950 worker
            [    488]     0   488    16890    16428   167936        0           950 cart
        """,
        oom_memcg=CONTAINER,
        task_memcg=CONTAINER,
        kill_moment=BOOTED,
        memory=MemoryUse(
            usage_bytes=96 * MIB,
            limit_bytes=96 * MIB,
            swap_usage_bytes=0,
            swap_limit_bytes=0,
            stat={"anon": 76_000_000, "file": 21_000_000, "shmem": 20_000_000, "kernel": 3_600_000, "slab": 2_500_000},
        ),
        invoker=Invoker(comm="worker", pid=490, oom_score_adj=950, order=0),
    )
    victim = Process(
        pid=488,
        comm="cart",
        uid=0,
        oom_score_adj=950,
        total_vm_bytes=67560 * KIB,
        anon_rss_bytes=65468 * KIB,
        file_rss_bytes=244 * KIB,
        shmem_rss_bytes=0,
        pgtables_bytes=164 * KIB,
    )
    return incident(
        replace(oom, victim=victim),
        attribution=BURSTABLE,
        verdict=Verdict(
            cause=Cause.CONTAINER_LIMIT,
            node_pressure=False,
            reason="oom_memcg is the container's cgroup",
            evidence=oom.evidence,
        ),
        time=datetime(2025, 3, 11, 10, 16, 36, tzinfo=UTC),
        node="worker-1",
        summary="Container cart of pod shop/cart-7d9f8-x2x7p reached its memory limit of 96 MiB: the kernel killed "
        "cart (pid 488, using 64.2 MiB).",
    )


def node_with_adj_decision() -> Incident:
    """A global OOM in which a process dies for larger ones; its oom_score_adj contradicts the pod's class."""
    rows = tuple(task._replace(rss_bytes=20 * MIB) if task.pid == 230 else task for task in dump(NODE))
    oom = replace(
        global_report(pid=230, tasks=NODE, ram=NODE_RAM),
        tasks=rows,
        kill_moment=BOOTED,
        task_memcg=CONTAINER,
        invoker=Invoker(comm="systemd-journal", pid=123, oom_score_adj=-250),
    )
    return incident(
        replace(oom, victim=Process(pid=230, comm="besteffort", uid=0, oom_score_adj=1000, anon_rss_bytes=20 * MIB)),
        attribution=BURSTABLE,
        verdict=Verdict(
            cause=Cause.NODE,
            node_pressure=True,
            reason="global_oom in the summary line",
            evidence=oom.evidence,
            contradictions=("oom_score_adj 1000 is not what the kubelet gives Burstable containers (3 to 999)",),
        ),
        summary="The node ran out of memory: the kernel killed besteffort (pid 230, using 20 MiB).",
    )


def group_kill_with_missing_facts() -> Incident:
    """A storm: kill lines alone, and more members than are shown."""
    members = tuple(
        Process(pid=3804000 + n, comm="stress", anon_rss_bytes=n * 100 * MIB, file_rss_bytes=264 * KIB)
        for n in range(1, 13)
    )
    oom = report(
        victim=Process(pid=3803554, comm="stress"),
        also_killed=members,
        group_memcg=CONTAINER,
        kill_moment=Moment(stamp="Tue Mar 11 10:16:36 2025"),
        missing=("who called the OOM killer", "memory use and limit", "the task dump", "the summary line"),
    )
    return incident(
        oom, summary="A memory cgroup reached its limit, the log does not say which: the kernel killed stress."
    )


CASES = {
    "container_limit": container_limit,
    "node_with_adj_decision": node_with_adj_decision,
    "group_kill_with_missing_facts": group_kill_with_missing_facts,
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    text = render_text(CASES[name](), colour=False, width=100) + "\n"
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("OOM_COLLECTOR_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_colour_changes_no_word(name: str) -> None:
    oom = CASES[name]()
    coloured = render_text(oom, colour=True, width=100)
    assert "\x1b" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == render_text(oom, colour=False, width=100)


@pytest.mark.parametrize(("pressure", "style"), [(True, "1;31"), (False, "1;33"), (None, "1")])
def test_colour_of_the_headline_tells_who_is_paged(pressure: bool | None, style: str) -> None:
    oom = container_limit()
    oom = replace(oom, verdict=replace(oom.verdict, node_pressure=pressure))
    assert render_text(oom, colour=True).startswith(f"\x1b[{style}mContainer cart of")


# Why, and what to do


def diagnosis(pattern: Pattern = Pattern.LEAK, **changes: Any) -> Diagnosis:
    """With two findings and two steps."""
    judgement = Judgement(
        pattern=pattern, confidence=0.9, reasons=("its anon grew by 8 MiB/h, 112 MiB in 14 h", "and did not slow down")
    )
    findings = tuple(
        Finding(kind=kind, text=text, values={}, evidence=("x",))
        for kind, text in (
            (FindingKind.NO_REQUEST, "Container cart requests no memory: the scheduler keeps no room for it at all"),
            (FindingKind.REPEATED, "Killed 3 times in 2 hours"),
        )
    )
    advice = (
        Advice(
            action=Action.DO_NOT_RAISE_LIMIT,
            text="Do not raise the memory limit of container cart: it grows by 8 MiB an hour, so 120Mi lasts 3 h",
        ),
        Advice(action=Action.ROLL_BACK, text="Roll back", command="kubectl rollout undo -n shop deployment cart"),
    )
    return Diagnosis(**{"judgement": judgement, "findings": findings, "advice": advice, **changes})


def told(made: Diagnosis, width: int | None = None) -> list[str]:
    """The lines that the diagnosis adds."""
    facts = set(render_text(container_limit(), colour=False, width=width).splitlines())
    lines = render_text(container_limit(), made, colour=False, width=width).splitlines()
    return [line for line in lines if line not in facts]


def test_why_findings_and_steps() -> None:
    assert told(diagnosis(), width=80) == [
        "  why              leak: its anon grew by 8 MiB/h, 112 MiB in 14 h; and did not",
        "                   slow down",
        "  findings         - Container cart requests no memory: the scheduler keeps no",
        "                     room for it at all",
        "                   - Killed 3 times in 2 hours",
        "  what to do       1. Do not raise the memory limit of container cart: it grows",
        "                      by 8 MiB an hour, so 120Mi lasts 3 h",
        "                   2. Roll back",
        "                      kubectl rollout undo -n shop deployment cart",
    ]


def test_one_is_not_numbered() -> None:
    made = diagnosis()
    assert told(replace(made, findings=made.findings[1:], advice=made.advice[1:]))[1:] == [
        "  findings         Killed 3 times in 2 hours",
        "  what to do       Roll back",
        "                   kubectl rollout undo -n shop deployment cart",
    ]


WAIT = Advice(action=Action.OBSERVE, text="Let it be observed", values={"missing": "the history of its memory"})
UNKNOWN = Judgement(pattern=Pattern.UNKNOWN, confidence=0.0, missing=("the history of its memory",))


def test_what_is_not_known_takes_one_line() -> None:
    (step, *_) = diagnosis().advice
    made = Diagnosis(judgement=UNKNOWN, findings=(), advice=(step, WAIT))
    why, *steps = told(made)
    assert why.endswith("a leak, a spike or a limit too low: not known without the history of its memory")
    assert (len(steps), "Let it be observed" in steps[0]) == (1, False)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(Diagnosis(judgement=UNKNOWN, findings=(), advice=(WAIT,)), id="nothing can be advised"),
        pytest.param(diagnosis(Pattern.NODE_PRESSURE, findings=(), advice=()), id="the headline says it"),
        pytest.param(
            diagnosis(
                Pattern.NODE_PRESSURE,
                findings=(Finding(kind=FindingKind.VICTIM_CHOICE, text="x", values={}, evidence=("x",)),),
                advice=(),
            ),
            id="why this victim says it",
        ),
    ],
)
def test_nothing_known_nothing_said(made: Diagnosis) -> None:
    assert told(made) == []


def test_who_filled_a_node_by_kinds() -> None:
    text = "Who filled the node of 2 GiB: by the task dump, hog 1 GiB; page cache 2 MiB, free 3 MiB"
    filled = Finding(kind=FindingKind.NODE_FILLED_BY, text=text, values={}, evidence=("tasks",))
    assert told(diagnosis(Pattern.NODE_PRESSURE, findings=(filled,), advice=())) == [
        "  who filled it    by the task dump, hog 1 GiB",
        "                   page cache 2 MiB, free 3 MiB",
    ]


def test_without_width_nothing_is_wrapped() -> None:
    assert render_text(container_limit(), colour=False).splitlines()[0] == container_limit().summary


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_paths_ids_and_sizes_stay_whole(width: int) -> None:
    text = render_text(container_limit(), colour=False, width=width)
    for whole in (CONTAINER, CONTAINER_ID, "64.2 MiB", "96 MiB:"):
        assert whole in text
    sentences = [line for line in text.splitlines() if "kubepods" not in line and CONTAINER_ID not in line]
    assert max(map(len, sentences)) <= max(width, 70)


@pytest.mark.parametrize(
    ("stat", "shares"),
    [
        pytest.param({"anon": 9, "file": 7, "shmem": 5}, {"anon": 9, "file": 2, "shmem": 5}, id="file holds shmem"),
        pytest.param({"file": 4, "shmem": 5}, {"file": 0, "shmem": 5}, id="read at two instants"),
        pytest.param({"rss": 9, "cache": 7, "shmem": 5}, {"rss": 9, "cache": 2, "shmem": 5}, id="cgroup v1"),
        pytest.param({"rss": 9, "cache": 7}, {"rss": 9, "cache": 7}, id="cgroup v1 before shmem was printed"),
        pytest.param({"anon": 9, "rss": 9, "file": 1, "cache": 1}, {"anon": 9, "file": 1}, id="keys of both versions"),
        pytest.param({"slab_reclaimable": 2, "slab_unreclaimable": 3}, {"slab": 5}, id="slab in two halves"),
        pytest.param(
            {"slab": 5, "slab_reclaimable": 2, "slab_unreclaimable": 3, "kernel": 9, "pagetables": 1, "sock": 2},
            {"slab": 5, "kernel": 3, "pagetables": 1, "sock": 2},
            id="kernel holds slab and page tables, not sock",
        ),
        pytest.param({"pgfault": 26156, "inactive_anon": 9, "file_mapped": 4}, {}, id="counts and parts of parts"),
    ],
)
def test_shares_do_not_overlap(stat: dict[str, int], shares: dict[str, int]) -> None:
    assert memory_shares(stat) == shares


def test_victim_is_shown_wherever_it_ranks() -> None:
    rows = "".join(f"[{n}] 0 {n} 9 {100 - n} 4096 0 0 task{n}\n" for n in range(10, 30))
    text = render_text(incident(memcg_report(pid=29, tasks=rows, limit=MIB)), colour=False)
    assert "6 of 20" in text
    assert re.search(r"^ +> +284 KiB +0 +29  task29$", text, re.MULTILINE)


def test_swap_is_a_column_where_some_is_used() -> None:
    rows = "[10] 0 10 9 9 4096 256 0 a"
    assert re.search(
        r"36 KiB +1 MiB +0 +10  a", render_text(incident(memcg_report(pid=10, tasks=rows, limit=MIB)), colour=False)
    )


def test_tier_is_only_said_of_pods() -> None:
    oom = report(victim=Process(pid=7, comm="gnome-shell", oom_score_adj=200))
    assert "Burstable" not in render_text(incident(oom), colour=False)
    assert "oom_score_adj 200 (Burstable)" in render_text(incident(oom, attribution=BURSTABLE), colour=False)


@pytest.mark.parametrize(
    ("invoker", "told"),
    [
        pytest.param(Invoker(comm="hog", pid=488), False, id="the victim itself"),
        pytest.param(Invoker(comm="hog"), False, id="the victim's name, no pid"),
        pytest.param(Invoker(comm="hog", pid=489), True, id="another pid of the same name"),
        pytest.param(Invoker(comm="Thread-2"), True, id="another name, no pid"),
    ],
)
def test_invoker_that_is_not_the_victim(invoker: Invoker, told: bool) -> None:
    assert ("called by" in render_text(incident(report(invoker=invoker)), colour=False)) is told


HOSTILE = st.text(st.characters(), max_size=15) | st.sampled_from(
    ["\x1b[2J", "\x9b31m", "a\nb", "\r", "\u202egnp", "\u2028", "\x7f", "x\u2066y", "\x00", "\ud800"]
)


@given(HOSTILE, st.sampled_from([None, 60]))
def test_hostile_text_reaches_no_terminal(evil: str, width: int | None) -> None:
    oom = replace(
        node_with_adj_decision().report,
        victim=Process(pid=230, comm=evil),
        also_killed=(Process(pid=231, comm=evil),),
        invoker=Invoker(comm=evil),
        oom_memcg=MemcgPath(evil),
        task_memcg=MemcgPath(evil + "2"),
        group_memcg=MemcgPath(evil),
        kill_moment=Moment(stamp=evil),
        missing=(evil,),
    )
    oom = replace(oom, tasks=tuple(task._replace(comm=evil) for task in oom.tasks))
    told = incident(
        oom,
        attribution=Attribution(
            pod=Pod(uid=PodUid(evil), namespace=evil, name=evil),
            container=Container(id=ContainerId(evil), runtime=evil, name=evil, kind=ContainerKind.APP),
        ),
        verdict=Verdict(cause=Cause.UNKNOWN, node_pressure=None, reason=evil, contradictions=(evil,)),
        node=evil,
        summary=evil,
    )
    said = diagnosis(
        findings=(Finding(kind=FindingKind.NODE_FILLED_BY, text=f"x: {evil}", values={}, evidence=("x",)),) * 2,
        advice=(Advice(action=Action.SET_LIMIT, text=evil, command=evil),) * 2,
    )
    text = render_text(told, said, colour=False, width=width)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", text)
    calm = replace(told, summary="x")
    lines = [render_text(one, said, colour=False).count("\n") for one in (calm, told)]
    assert lines[0] == lines[1]
