"""Hand-computed scores; the rows are from real dumps unless a case says otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from collector.badness import Badness, NotRecomputed, adj_tier, recompute, tell_choice
from collector.model import Constraint, NodeMemory, OomReport, Task
from tests.reports import KIB, MIB, dump, global_report, memcg_report, report

GIB = 1024 * MIB

# Debian 6.1, two containers of one pod at the pod's limit of 96 MiB: 24576 pages, a point of oom_score_adj weighs 24.
# hog 488: 16428 + 41 + 950 * 24 = 39269; hog 490: 8058 + 24 + 900 * 24 = 29682; sh 476: 23035; 487: 22808.
POD = """
[    455]     0   455      646      227    49152        0           900 sh
[    490]     0   490     8186     8058    98304        0           900 hog
[    476]     0   476      646      224    45056        0           950 sh
[    487]     0   487      506        1    28672        0           950 hog
[    488]     0   488    16890    16428   167936        0           950 hog
"""

# Debian 6.1, all pods at 300 MiB: 76800 pages, 76 a point.
KUBEPODS = """
[    564]     0   564    20986    20711   200704        0           800 burstable
[    540]     0   540    20986    20709   204800        0          -997 guaranteed
[    597]     0   597    35322    34963   319488        0          1000 besteffort
[    632]     0   632      728      222    40960        0          -998 sleep
"""

# Debian 6.1, three pods on a node of 262005 - 12919 pages.
NODE = """
[    123]     0   123     8255      758    77824        0          -250 systemd-journal
[    132]     0   132     5896      200    65536        0         -1000 systemd-udevd
[    138]   100   138     1982       93    57344        0          -900 dbus-daemon
[    154]     0   154     4327     1740    65536        0         -1000 python3
[    174]     0   174    38906    38663   348160        0          -997 guaranteed
[    200]     0   200    38906    38652   344064        0           800 burstable
[    230]     0   230   138746   138371  1150976        0          1000 besteffort
[    260]     0   260      728       22    45056        0          -998 sleep
"""
NODE_RAM = (262005 - 12919) * 4096

# Raspberry Pi, 6.12, swapping (two rows of it): 114688 pages of RAM and 425980 kB of swap are 221183, 221 a point.
# python 996: 30557 + 31936 + 289 = 62782; systemd 917: 72 + 544 + 19 + 100 * 221 = 22735.
SWAPPING = """
[    917]  1000   917     5709       72    77824      544           100 systemd
[    996]  1000   996   747929    30557  1183744    31936             0 python
"""

# Made up: which of them comes first depends on what a point of oom_score_adj weighs.
LARGE_OR_ADJ = """
[10] 0 10 9 30000 4096 0 0 a
[11] 0 11 5 1000 4096 0 900 b
"""


def recomputed(oom: OomReport) -> Badness:
    found = recompute(oom)
    assert isinstance(found, Badness)
    return found


def changed(rows: str, of: int, /, **fields: Any) -> tuple[Task, ...]:
    return tuple(task._replace(**fields) if task.pid == of else task for task in dump(rows))


@pytest.mark.parametrize(
    ("oom", "rank", "memory_rank", "adj_decided", "sentence"),
    [
        pytest.param(
            memcg_report(pid=488, tasks=POD, limit=96 * MIB),
            1,
            1,
            False,
            "largest of 5 tasks, by memory and by the kernel's score (64.3 MiB; next: hog 31.6 MiB)",
            id="pod limit",
        ),
        pytest.param(
            memcg_report(pid=488, tasks=POD, limit=96 * MIB, swap_limit=None),
            1,
            1,
            False,
            # With much swap, sh's 950 would come before hog's 900: the next one is not known, the first is.
            "largest of 5 tasks, by memory and by the kernel's score (64.3 MiB)",
            id="pod limit, unlimited swap of unknown size",
        ),
        pytest.param(
            memcg_report(pid=597, tasks=KUBEPODS, limit=300 * MIB),
            1,
            1,
            False,
            "largest of 4 tasks, by memory and by the kernel's score (136.9 MiB; next: burstable 81.1 MiB)",
            id="kubepods limit",
        ),
        pytest.param(
            global_report(pid=230, tasks=NODE, ram=NODE_RAM),
            1,
            1,
            False,
            "largest of 8 tasks, by memory and by the kernel's score (541.6 MiB; next: burstable 151.3 MiB)",
            id="node",
        ),
        pytest.param(
            global_report(pid=996, tasks=SWAPPING, ram=114688 * 4096, swap=425980 * KIB),
            1,
            1,
            False,
            "largest of 2 tasks, by memory and by the kernel's score (245.2 MiB; next: systemd 2.5 MiB)",
            id="node with swap",
        ),
        pytest.param(
            # python: 5000 + 289 = 5289, against systemd's 22735
            replace(
                global_report(pid=917, tasks=SWAPPING, ram=114688 * 4096, swap=425980 * KIB),
                tasks=changed(SWAPPING, 996, rss_bytes=5000 * 4096, swap_bytes=0),
            ),
            1,
            2,
            True,
            "not the largest: python (20.7 MiB) has oom_score_adj 0; "
            "systemd came first with oom_score_adj 100, which weighs 86.3 MiB",
            id="systemd's 100 decides (sizes of one row changed)",
        ),
        pytest.param(
            replace(
                global_report(pid=230, tasks=NODE, ram=NODE_RAM),
                tasks=changed(NODE, 230, rss_bytes=100 * 4096, pgtables_bytes=8192),
            ),
            1,
            7,
            True,
            "not the largest: guaranteed (151.4 MiB) is protected by oom_score_adj -997, and 5 more are larger; "
            "besteffort came first with oom_score_adj 1000, which weighs 972.7 MiB",
            id="a small BestEffort process before all others (sizes of one row changed)",
        ),
        pytest.param(
            replace(
                global_report(pid=230, tasks=NODE, ram=NODE_RAM),
                tasks=changed(NODE, 154, rss_bytes=GIB),
            ),
            1,
            2,
            True,
            "not the largest: python3 (1 GiB) cannot be killed (oom_score_adj -1000); "
            "besteffort was the largest of the rest",
            id="only an unkillable task is larger (sizes of one row changed)",
        ),
        pytest.param(
            memcg_report(pid=490, tasks=POD, limit=96 * MIB),
            2,
            2,
            False,
            "2nd of 5 killable tasks by the kernel's score; first: hog 64.3 MiB, oom_score_adj 950; "
            "the log does not tell why",
            id="another was first",
        ),
        pytest.param(
            memcg_report(pid=10, tasks="[10] 0 10 9 9 4096 0 0 a\n[11] 0 11 5 5 4096 0 0 b", limit=MIB),
            1,
            1,
            False,
            "largest of 2 tasks (40 KiB; next: b 24 KiB); all have the same oom_score_adj",
            id="one oom_score_adj for all",
        ),
        pytest.param(
            memcg_report(pid=10, tasks="[10] 0 10 9 9 4096 0 0 a", limit=MIB),
            1,
            1,
            False,
            "the only task in the dump (40 KiB)",
            id="alone",
        ),
        pytest.param(
            memcg_report(pid=10, tasks="[10] 0 10 9 9 4096 0 0 a\n[11] 0 11 5 5 4096 0 -1000 b", limit=MIB),
            1,
            1,
            False,
            "the only task of 2 that oom_score_adj -1000 does not protect",
            id="all others are protected",
        ),
        pytest.param(
            memcg_report(pid=11, tasks="[1] 0 1 9 900 4096 0 0 init\n[11] 0 11 5 100 4096 0 0 b", limit=MIB),
            1,
            2,
            True,
            "not the largest: init (3.5 MiB) is init; b was the largest of the rest",
            id="init is never chosen",
        ),
    ],
)
def test_choice(oom: OomReport, rank: int, memory_rank: int, adj_decided: bool, sentence: str) -> None:
    found = recomputed(oom)
    assert (found.rank, found.memory_rank, found.adj_decided) == (rank, memory_rank, adj_decided)
    assert tell_choice(found) == sentence


def test_who_would_have_died_instead() -> None:
    rows = changed(NODE, 230, rss_bytes=100 * 4096)
    found = recomputed(replace(global_report(pid=230, tasks=NODE, ram=NODE_RAM), tasks=rows))
    assert (found.largest.comm, found.protected_count) == ("guaranteed", 2)
    assert found.first is not None
    assert found.first.comm == "burstable"
    # 249086 pages / 1000, the rest dropped as the kernel drops it
    assert found.adj_point_bytes == 249 * 4096


@pytest.mark.parametrize(
    ("swap_limit", "rank"),
    [
        # a: 30000 + 1 pages; b: 1000 + 1 + 900 * step. The step is 10 without swap, 40 with 120000 kB of it.
        pytest.param(0, 2, id="no swap: memory decides"),
        pytest.param(120000 * KIB, None, id="the swap may not be there"),
        pytest.param(None, None, id="unlimited swap"),
    ],
)
def test_swap_of_a_memcg_is_a_range(swap_limit: int | None, rank: int | None) -> None:
    found = recomputed(memcg_report(pid=11, tasks=LARGE_OR_ADJ, limit=40000 * KIB, swap_limit=swap_limit))
    assert found.rank == rank
    if rank is None:
        assert found.adj_decided is None
        assert tell_choice(found) == (
            "2nd of 2 tasks by memory (3.9 MiB; largest: a 117.2 MiB); its rank by the kernel's score is unknown: "
            "how much oom_score_adj weighs here is not in the log"
        )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"node_memory": None}, id="no totals"),
        pytest.param({"node_memory": NodeMemory(ram_bytes=GIB)}, id="swap not told"),
        pytest.param({"constraint": Constraint.CPUSET}, id="only some NUMA nodes count"),
        pytest.param({"scope": None, "global_oom": False}, id="scope unknown"),
    ],
)
def test_total_unknown(changes: dict[str, Any]) -> None:
    found = recomputed(global_report(pid=11, tasks=LARGE_OR_ADJ, ram=GIB, **changes))
    assert (found.rank, found.adj_point_bytes) == (None, None)


def test_page_size_that_is_assumed_makes_the_weight_a_range() -> None:
    # b is first with 10 pages a point, as 4 KiB pages make it, and not with 0 pages, as 64 KiB pages do.
    rows = "[10] 0 10 9 5000 4096 0 0 a\n[11] 0 11 5 1000 4096 0 900 b"
    oom = memcg_report(pid=11, tasks=rows, limit=40000 * KIB)
    assert recomputed(oom).rank == 1
    assert recomputed(replace(oom, page_size_known=False)).rank is None


@pytest.mark.parametrize(
    ("column", "unknown"),
    [
        pytest.param("oom_score_adj", "the task dump does not tell oom_score_adj", id="oom_score_adj"),
        pytest.param("swap_bytes", "the task dump does not tell swap", id="swapents"),
        pytest.param("pgtables_bytes", "the task dump does not tell page tables", id="page tables"),
    ],
)
def test_column_that_the_dump_lacks(column: str, unknown: str) -> None:
    tasks = tuple(task._replace(**{column: None}) for task in dump(POD))  # type: ignore[arg-type]
    found = recomputed(replace(memcg_report(pid=488, tasks=POD, limit=96 * MIB), tasks=tasks))
    assert (found.rank, found.rank_unknown, found.memory_rank) == (None, unknown, 1)


@pytest.mark.parametrize(
    ("oom", "reason"),
    [
        pytest.param(report(), "the task dump is not in this log", id="no dump"),
        pytest.param(
            memcg_report(pid=1, tasks=POD, limit=MIB), "the victim is not in the task dump", id="victim not in the dump"
        ),
        pytest.param(
            replace(
                memcg_report(pid=488, tasks=POD, limit=MIB),
                tasks=tuple(task._replace(rss_bytes=None) for task in dump(POD)),
            ),
            "the task dump does not tell the resident memory",
            id="no rss",
        ),
        pytest.param(
            global_report(
                pid=488,
                tasks=POD,
                ram=GIB,
                kill_text="Out of memory (oom_kill_allocating_task): Killed process 488 (hog) total-vm:67560kB",
            ),
            "vm.oom_kill_allocating_task is set: whoever asks for memory is killed",
            id="oom_kill_allocating_task",
        ),
    ],
)
def test_not_recomputed(oom: OomReport, reason: str) -> None:
    assert recompute(oom) == NotRecomputed(reason=reason)
    assert tell_choice(NotRecomputed(reason=reason)) == f"unknown: {reason}"


def test_a_comm_is_not_a_sysctl() -> None:
    text = "Out of memory: Killed process 488 ((oom_kill_alloc) total-vm:67560kB (oom_kill_allocating_task)"
    assert recomputed(global_report(pid=488, tasks=POD, ram=GIB, kill_text=text)).rank == 1


def test_victim_by_its_thread_group() -> None:
    # The leader has exited: the dump prints another thread with the leader's tgid.
    tasks = changed(POD, 488, pid=499)
    found = recomputed(replace(memcg_report(pid=488, tasks=POD, limit=96 * MIB), tasks=tasks))
    assert (found.victim.pid, found.rank) == (499, 1)


@pytest.mark.parametrize(
    ("oom", "rule"),
    [
        pytest.param(
            # A Guaranteed pod at 1 GiB: -997 * 262 pages, far below 0 for both.
            memcg_report(
                pid=10, tasks="[10] 0 10 9 10 4096 0 -997 sh\n[11] 0 11 5 9000 4096 0 -997 app", limit=1 << 30
            ),
            "kernels before 5.9 count all scores below 1 as equal",
            id="negative scores",
        ),
        pytest.param(
            # root: 1000 + 1 less 3 % of it, 30, is 971; the victim's 990 + 1 stay.
            memcg_report(pid=11, tasks="[10] 0 10 9 1000 4096 0 0 a\n[11] 7 11 5 990 4096 0 0 b", limit=1 << 30),
            "kernels before 4.17 take 3 % off the memory of root's tasks, which makes it the first",
            id="root's 3 %",
        ),
        pytest.param(
            memcg_report(pid=11, tasks="[10] 0 10 9 1000 4096 0 0 a\n[11] 7 11 5 960 4096 0 0 b", limit=1 << 30),
            None,
            id="3 % would not do",
        ),
        pytest.param(
            memcg_report(
                pid=11,
                tasks="[10] 5 10 9 1000 4096 0 0 a\n[11] 7 11 5 90 4096 0 0 b",
                limit=1 << 30,
                kill_text="Killed process 11 (b) total-vm:20kB, anon-rss:1kB, file-rss:0kB",
            ),
            "such an old kernel may kill a child of the task that it chose",
            id="child in place of its parent",
        ),
    ],
)
def test_rules_of_older_kernels(oom: OomReport, rule: str | None) -> None:
    found = recomputed(oom)
    assert (found.rank, found.older_rule) == (2, rule)
    assert tell_choice(found).endswith(rule or "the log does not tell why")


def test_ties_share_a_rank() -> None:
    rows = "[10] 0 10 9 9 4096 0 0 a\n[11] 0 11 9 9 4096 0 0 b"
    oom = memcg_report(pid=11, tasks=rows, limit=MIB)
    found = recomputed(oom)
    assert (found.rank, found.memory_rank, found.largest.comm) == (1, 1, "b")


@pytest.mark.parametrize(
    ("adj", "tier"),
    [
        (-1000, "unkillable"),
        (-999, "node daemon"),
        (-998, "sandbox"),
        (-997, "Guaranteed or node-critical"),
        (-996, None),
        (-1, None),
        (0, "host process default"),
        (2, None),
        (3, "Burstable"),
        (999, "Burstable"),
        (1000, "BestEffort"),
    ],
)
def test_adj_tier(adj: int, tier: str | None) -> None:
    assert adj_tier(adj) == tier
