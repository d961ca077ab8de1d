"""What a single line says; the lines are those of real logs, from 2.6.32 to 7.2."""

from __future__ import annotations

import pytest

from collector.model import Scope
from collector.parse.oom_lines import (
    Chosen,
    CpuLine,
    DumpHeader,
    DumpRow,
    GroupKill,
    Header,
    Kill,
    NodeStat,
    NodeTotal,
    NoKill,
    OomFrame,
    StatBlock,
    StatEntry,
    StatLines,
    SummaryStart,
    Usage,
    parse_oom_line,
    tells_of_oom_kill,
)

KIB = 1024


@pytest.mark.parametrize(
    ("text", "comm", "order", "adj"),
    [
        pytest.param(
            "java invoked oom-killer: gfp_mask=0x6000c0(GFP_KERNEL), nodemask=(null), order=0, oom_score_adj=916",
            "java", 0, 916, id="4.18",
        ),
        pytest.param("hog invoked oom-killer: gfp_mask=0x201da, order=2, oom_score_adj=-17", "hog", 2, -17, id="3.10"),
        pytest.param("a invoked oom-killer: gfp_mask=0x280da, order=0, oom_adj=0", "a", 0, None, id="2.6.32"),
        pytest.param("sh invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|_0", "sh", None, None, id="cut"),
        pytest.param("runc:[2:INIT] invoked oom-killer: gfp_mask=0x500cc2(GFP_HIGHUSER|__GFP_ACCOUNT), order=0, oom_score_adj=0",
                     "runc:[2:INIT]", 0, 0, id="colon and brackets"),
        pytest.param("two\nlines invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=990",
                     "two\nlines", 0, 990, id="newline in the comm"),
        pytest.param("anon 5 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=1",
                     "anon 5", 0, 1, id="comm like a statistic"),
        pytest.param("bash invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=-1, oom_score_adj=0", "bash", -1, 0, id="sysrq"),
    ],
)  # fmt: skip
def test_header(text: str, comm: str, order: int | None, adj: int | None) -> None:
    line = parse_oom_line(text)
    assert isinstance(line, Header)
    assert (line.invoker.comm, line.invoker.order, line.invoker.oom_score_adj) == (comm, order, adj)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("kubelet[3044]: task app invoked oom-killer: gfp_mask=0xcc0", id="no comm is that long"),
        pytest.param("something invoked oom-killer", id="no colon"),
    ],
)
def test_no_header(text: str) -> None:
    assert not isinstance(parse_oom_line(text), Header)


@pytest.mark.parametrize(
    ("text", "pid", "comm", "scope", "uid", "adj", "vm", "anon", "file", "shmem", "pgtables"),
    [
        pytest.param(
            "Memory cgroup out of memory: Killed process 988370 (python) total-vm:9783776kB, anon-rss:95724kB, "
            "file-rss:3268kB, shmem-rss:0kB, UID:0 pgtables:240kB oom_score_adj:995",
            988370, "python", Scope.MEMCG, 0, 995, 9783776, 95724, 3268, 0, 240, id="5.4 and later",
        ),
        pytest.param(
            "Out of memory: Killed process 19227 (entry) total-vm:1656kB, anon-rss:120kB, file-rss:4kB, shmem-rss:0kB",
            19227, "entry", Scope.GLOBAL, None, None, 1656, 120, 4, 0, None, id="5.0",
        ),
        pytest.param("Killed process 12417 (python) total-vm:2467220kB, anon-rss:1794532kB, file-rss:256kB",
                     12417, "python", None, None, None, 2467220, 1794532, 256, None, None, id="3.13"),
        pytest.param("Killed process 18992, UID 48, (httpd.worker) total-vm:3355660kB, anon-rss:1615472kB, file-rss:10664kB",
                     18992, "httpd.worker", None, 48, None, 3355660, 1615472, 10664, None, None, id="RHEL 6"),
        pytest.param("Killed process 14663 (node /opt/www/p), UID 80, total-vm:987kB, anon-rss:5kB, file-rss:6kB, shmem-rss:7kB",
                     14663, "node /opt/www/p", None, 80, None, 987, 5, 6, 7, None, id="RHEL 7.6"),
        pytest.param("Out of Memory: Killed process 2592 (oracle).", 2592, "oracle", Scope.GLOBAL,
                     None, None, None, None, None, None, None, id="2.6.18"),
        pytest.param("Killed process 77 (x) vsz:12kB, anon-rss:3kB, file-rss:4kB", 77, "x", None,
                     None, None, 12, 3, 4, None, None, id="2.6.34"),
        pytest.param("Out of memory: Killed process 679 ((sd-pam)) total-vm:14880kB, anon-rss:2584kB, file-rss:0kB, "
                     "shmem-rss:0kB, UID:0 pgtables:44kB oom_score_ad0", 679, "(sd-pam)", Scope.GLOBAL,
                     0, None, 14880, 2584, 0, 0, 44, id="right edge overwritten: adj is not 0"),
        pytest.param("Out of memory: Killed process 5 () total-vm:1kB) total-vm:999kB, anon-rss:8kB, file-rss:0kB, shmem-rss:0kB",
                     5, ") total-vm:1kB", Scope.GLOBAL, None, None, 999, 8, 0, 0, None, id="comm that imitates the sizes"),
        pytest.param("Memory cgroup out of memory: Killed process 825 (x) y(z) total-vm:4kB, anon-rss:1kB, file-rss:0kB",
                     825, "x) y(z", Scope.MEMCG, None, None, 4, 1, 0, None, None, id="comm with brackets"),
        pytest.param("Memory cgroup out of memory: Killed process 825 (two\nlines) total-vm:4kB, anon-rss:1kB",
                     825, "two\nlines", Scope.MEMCG, None, None, 4, 1, None, None, None, id="comm with a newline"),
        pytest.param("Memory cgroup out of memory: Killed process 825 (pyth", 825, None, Scope.MEMCG,
                     None, None, None, None, None, None, None, id="cut in the comm: no comm"),
        pytest.param("Memory cgroup out of memory: Killed process 825 (python) total-vm:9783776kB, anon-rs", 825, "python",
                     Scope.MEMCG, None, None, 9783776, None, None, None, None, id="cut in the sizes"),
        pytest.param("Memory cgroup out of memory: Killed process 825 (python) total-vm:97837", 825, "python",
                     Scope.MEMCG, None, None, None, None, None, None, None, id="cut in a number"),
        pytest.param("Out of memory (oom_kill_allocating_task): Killed process 9 (a) total-vm:4kB, anon-rss:1kB", 9, "a",
                     Scope.GLOBAL, None, None, 4, 1, None, None, None, id="oom_kill_allocating_task"),
    ],
)  # fmt: skip
def test_kill_line(
    text: str, pid: int, comm: str | None, scope: Scope | None, uid: int | None, adj: int | None,
    vm: int | None, anon: int | None, file: int | None, shmem: int | None, pgtables: int | None,
) -> None:  # fmt: skip
    line = parse_oom_line(text)
    assert isinstance(line, Kill)
    process = line.process
    assert (process.pid, process.comm, line.scope, process.uid, process.oom_score_adj) == (pid, comm, scope, uid, adj)
    sizes = (process.total_vm_bytes, process.anon_rss_bytes, process.file_rss_bytes, process.shmem_rss_bytes,
             process.pgtables_bytes)  # fmt: skip
    assert sizes == tuple(None if kib is None else kib * KIB for kib in (vm, anon, file, shmem, pgtables))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Killed process [3002]: segfault at 0 ip 0000000000401136 sp 00007ffd error 6", id="a comm of that name"),
        pytest.param("Out of memory: Killed process 3001 [garbled]", id="no comm"),
        pytest.param('EXT4-fs (vda): Unrecognized mount option "x of memory: Killed process 1 (fake) total-vm:1kB"', id="quoted"),
        pytest.param("oom_reaper: reaped process 281482 (java), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB", id="reaper"),
        pytest.param("Memory cgroup out of memory: OOM victim 3804877 (stress) is already exiting. Skip killing the task", id="exiting"),
        pytest.param("lowmemorykiller: Killing 'externalstorage' (21742), adj 1000,", id="Android"),
        pytest.param("NVRM: nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051)", id="GPU"),
        pytest.param("TCP: out of memory -- consider tuning tcp_mem", id="TCP"),
        pytest.param("systemd-oomd killed some process(es) in this unit.", id="systemd-oomd"),
        pytest.param("", id="empty"),
        pytest.param("[", id="bracket"),
        pytest.param("oom-killer", id="word"),
    ],
)  # fmt: skip
def test_tells_of_no_kill(text: str) -> None:
    assert not tells_of_oom_kill(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Out of memory: Kill process 19384 (firefox) score 71 or sacrifice child", Chosen(19384, "firefox", Scope.GLOBAL), id="4.x"),
        pytest.param("Memory cgroup out of memory: Kill process 8308 (java) score 1894 or sacrifice child", Chosen(8308, "java", Scope.MEMCG), id="memcg"),
        pytest.param("Out of memory: kill process 4563 (a b) score 7 or a child", Chosen(4563, "a b", Scope.GLOBAL), id="2.6.32"),
        pytest.param("Out of memory: Kill process 4563 (fire", Chosen(4563, None, Scope.GLOBAL), id="cut"),
        pytest.param("CPU: 8 PID: 8291 Comm: runc:[2:INIT] Tainted: G        W I E     5.8.2", CpuLine(8291, "runc:[2:INIT]"), id="cpu"),
        pytest.param("CPU: 0 UID: 0 PID: 550 Comm: cron Tainted: G         C         6.12.62", CpuLine(550, "cron"), id="cpu, 6.12"),
        pytest.param("CPU: 31 PID: 164878 Comm: java Kdump: loaded Tainted: G", CpuLine(164878, "java"), id="cpu, RHEL"),
        pytest.param("Pid: 1234, comm: java Not tainted 2.6.32-431.el6.x86_64 #1", CpuLine(1234, "java"), id="cpu, 2.6.32"),
        pytest.param(" oom_kill_process.cold+0x8/0x8d", OomFrame(), id="frame"),
        pytest.param(" handle_mm_fault+0xe2/0x2c0", None, id="other frame"),
        pytest.param("memory: usage 49152kB, limit 524288kB, failcnt 77", Usage("memory", 49152 * KIB, 524288 * KIB), id="usage"),
        pytest.param("swap: usage 0kB, limit 9007199254740988kB, failcnt 0", Usage("swap", 0, None), id="no limit"),
        pytest.param("memory+swap: usage 4kB, limit 18014398509481983kB, failcnt 0", Usage("memory+swap", 4 * KIB, None), id="no limit, 3.13"),
        pytest.param("Memory cgroup stats for /kubepods/x:", StatBlock("/kubepods/x", {}), id="stats of 6.12"),
        pytest.param("Memory cgroup stats for /x:\nanon 1\nfile 2", StatBlock("/x", {"anon": 1, "file": 2}), id="stats in one record"),
        pytest.param("Memory cgroup stats for /docker/ab: cache:72KB rss:524216KB", StatBlock("/docker/ab", {"cache": 72 * KIB, "rss": 524216 * KIB}), id="stats of v1"),
        pytest.param("anon 50114560", StatEntry("anon", 50114560), id="statistic"),
        pytest.param("anon 50114560\nfile 0\nkernel 217088", StatLines({"anon": 50114560, "file": 0, "kernel": 217088}), id="statistics"),
        pytest.param("524158 pages RAM", NodeTotal("RAM_pages", 524158), id="RAM"),
        pytest.param("22064 pages reserved", NodeTotal("reserved_pages", 22064), id="reserved"),
        pytest.param("Total swap = 425980kB", NodeTotal("Total_swap_bytes", 425980 * KIB), id="swap"),
        pytest.param("Free swap  = 0kB", NodeTotal("Free_swap_bytes", 0), id="free swap"),
        pytest.param("active_anon:1429 inactive_anon:482033 isolated_anon:0\n slab_reclaimable:3158\n free:13076", NodeStat({"active_anon": 1429, "inactive_anon": 482033, "isolated_anon": 0, "slab_reclaimable": 3158, "free": 13076}), id="Mem-Info in one record"),
        pytest.param(" free:159849484 free_pcp:73 free_cma:0", NodeStat({"free": 159849484, "free_pcp": 73, "free_cma": 0}), id="a line of Mem-Info"),
        pytest.param("unevictable:0 dirty:0 writeback:0 unstable:0", NodeStat({"unevictable": 0, "dirty": 0, "writeback": 0, "unstable": 0}), id="Mem-Info of 3.x, without the blank"),
        pytest.param("Node 0 active_anon:5716kB inactive_anon:1928132kB active_file:84kB", None, id="of one NUMA node"),
        pytest.param("free: 12", None, id="no count"),
        pytest.param("[ pid ]   uid  tgid total_vm      rss nr_ptes name", DumpHeader(("uid", "tgid", "total_vm", "rss", "nr_ptes", "name")), id="dump header"),
        pytest.param("[28234]     0 28234     1109       48       7        0           666 sh", DumpRow("[28234]     0 28234     1109       48       7        0           666 sh"), id="row"),
        pytest.param("Tasks in /test1 are going to be killed due to memory.oom.group set", GroupKill("/test1"), id="group"),
        pytest.param("Out of memory and no killable processes...", NoKill(), id="no killable process"),
        pytest.param("Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled", NoKill(), id="panic"),
        pytest.param("Task in /a killed as a result of limit of /a", SummaryStart("Task in /a killed as a result of limit of /a"), id="before 5.0"),
        pytest.param("oom-kill:constr", SummaryStart("oom-kill:constr"), id="summary line, cut at once"),
    ],
)  # fmt: skip
def test_other_lines(text: str, expected: object) -> None:
    line = parse_oom_line(text)
    assert line == expected
    assert type(line) is type(expected)
