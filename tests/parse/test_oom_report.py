"""Records in, reports out: order, loss, foreign lines, interleaving, storms and groups."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from collector.model import Constraint, Evidence, OomReport, Scope
from collector.parse.kmsg import parse_kmsg_record
from collector.parse.oom_draft import SETTLE_SECONDS
from collector.parse.oom_report import MAX_LANES, OomReportAssembler
from tests import lines
from tests.lines import CONTAINER, OTHER, POD


def assemble(texts: Sequence[str], *, seconds_apart: float = 0.00001) -> list[OomReport]:
    """The settled reports of a log whose records come at an even pace."""
    return settled(OomReportAssembler(), texts, seconds_apart=seconds_apart)


def settled(assembler: OomReportAssembler, texts: Sequence[str], *, seconds_apart: float = 0.00001) -> list[OomReport]:
    reports: list[OomReport] = []
    for number, record in enumerate(lines.records(list(texts))):
        reports += assembler.push(record, number * seconds_apart)
    reports += assembler.flush(None)
    return [report for report in reports if report.settled]


def test_a_whole_report() -> None:
    (report,) = assemble(lines.report())
    assert report.victim.pid == 257
    assert report.victim.comm == "hog"
    assert (report.oom_memcg, report.task_memcg, report.constraint) == (CONTAINER, CONTAINER, Constraint.MEMCG)
    assert report.evidence == (Evidence.REPORT, Evidence.SUMMARY_LINE, Evidence.KILL_LINE)
    assert report.invoker is not None
    assert (report.invoker.comm, report.invoker.pid, report.invoker.oom_score_adj) == ("hog", 257, 978)
    assert report.memory is not None
    assert (report.memory.usage_bytes, report.memory.limit_bytes) == (49152 * 1024, 49152 * 1024)
    assert report.memory.stat == {"anon": 41914368, "file": 0, "kernel": 217088, "shmem": 0}
    assert [(task.pid, task.comm, task.rss_bytes) for task in report.tasks] == [
        (257, "hog", 10233 * 4096),
        (9000, "sleep", 20 * 4096),
    ]
    assert (report.page_size, report.page_size_known) == (4096, True)
    assert report.missing == ()
    assert report.contradictions == ()
    assert report.kill_moment.monotonic_usec == 1_000_000 + 10 * (len(lines.report()) - 1)


def test_told_at_once_and_again_when_settled() -> None:
    assembler = OomReportAssembler()
    texts = lines.report()
    *before, at_the_kill = [assembler.push(record, 5.0) for record in lines.records(texts)]
    assert not any(before)
    assert [report.settled for report in at_the_kill] == [False]
    assert assembler.busy
    assert assembler.flush(5.0 + SETTLE_SECONDS - 0.01) == []
    (settled_report,) = assembler.flush(5.0 + SETTLE_SECONDS)
    assert settled_report.settled
    assert settled_report.kill_moment == at_the_kill[0].kill_moment
    assert not assembler.busy


def test_page_size_from_the_victim() -> None:
    texts = [text.replace("total-vm:49380kB", f"total-vm:{12345 * 64}kB") for text in lines.report()]
    (report,) = assemble(texts)
    assert (report.page_size, report.page_size_known) == (65536, True)
    assert report.tasks[0].rss_bytes == 10233 * 65536


def test_two_reports_one_after_the_other() -> None:
    first, second = assemble([*lines.report("a", 11), *lines.report("b", 22, memcg=OTHER)])
    assert (first.victim.pid, first.oom_memcg) == (11, CONTAINER)
    assert (second.victim.pid, second.oom_memcg) == (22, OTHER)
    assert second.invoker is not None
    assert second.invoker.comm == "b"


def zipped(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, str]]:
    """Records of two printers, in turn."""
    out = []
    for number in range(max(len(first), len(second))):
        out += [(which, texts[number]) for which, texts in enumerate((first, second)) if number < len(texts)]
    return out


def check_two(reports: list[OomReport]) -> None:
    by_pid = {report.victim.pid: report for report in reports if report.settled}
    assert by_pid.keys() == {11, 22}
    for pid, comm, memcg in ((11, "a", CONTAINER), (22, "b", OTHER)):
        report = by_pid[pid]
        assert (report.victim.comm, report.oom_memcg, report.task_memcg) == (comm, memcg, memcg)
        assert report.invoker is not None
        assert (report.invoker.comm, report.invoker.pid) == (comm, pid)


def test_interleaved_from_two_cpus_with_callers() -> None:
    assembler = OomReportAssembler()
    reports: list[OomReport] = []
    for number, (which, text) in enumerate(zipped(lines.report("a", 11), lines.report("b", 22, memcg=OTHER))):
        record = parse_kmsg_record(lines.raw(text, number, 1000 + number, caller=f"T{which}"))
        reports += assembler.push(record, number / 1e6)
    reports += assembler.flush(None)
    check_two(reports)
    for report in reports:
        if report.settled:
            assert [task.pid for task in report.tasks] == [report.victim.pid, 9000]


def test_interleaved_from_two_cpus_without_callers() -> None:
    """Rows may end up in the other's dump, but no victim, memcg or invoker does."""
    texts = [text for _, text in zipped(lines.report("a", 11), lines.report("b", 22, memcg=OTHER))]
    check_two(assemble(texts))


FOREIGN = [
    "audit: type=1400 audit(1700000000.1:5): apparmor=\"DENIED\"",
    " ? psi_group_change+0x123/0x2f0",
    "eth0: renamed from veth1",
    "anonymous 12",
    "[drm] initialized",
    "usb 1-1: new device",
    "CPU: 3 PID: 1 Comm: swapper/3 Not tainted 6.1.0 #1",
]  # fmt: skip


def test_foreign_lines_between() -> None:
    texts: list[str] = []
    for number, text in enumerate(lines.report()):
        texts += [text, FOREIGN[number % len(FOREIGN)]]
    (report,) = assemble(texts)
    (expected,) = assemble(lines.report())
    assert (report.victim, report.oom_memcg, report.invoker) == (expected.victim, expected.oom_memcg, expected.invoker)
    assert report.tasks == expected.tasks


def test_header_without_a_kill_is_none() -> None:
    assert assemble(lines.report()[:-2]) == []


def test_header_that_follows_a_kill_belongs_to_the_next() -> None:
    (report,) = assemble([lines.kill(), lines.header("containerd", adj=0)])
    assert report.invoker is None


def test_header_without_a_kill_does_not_lend_its_invoker() -> None:
    aborted = [
        lines.header("early"),
        lines.cpu("early", 5),
        lines.usage(),
        "Out of memory and no killable processes...",
    ]
    (report,) = assemble([*aborted, lines.summary(), lines.kill()])
    assert report.invoker is None


def test_kill_without_a_header() -> None:
    (report,) = assemble([lines.kill()])
    assert (report.victim.pid, report.scope, report.oom_memcg) == (257, Scope.MEMCG, None)
    assert "the summary line" in report.missing
    assert "the task dump" in report.missing


def test_storm_of_bare_kill_lines() -> None:
    texts = [*lines.report(), *(lines.kill(f"w{n}", 1000 + n) for n in range(200))]
    reports = assemble(texts)
    assert [report.victim.pid for report in reports] == [257, *range(1000, 1200)]
    assert all(report.oom_memcg is None for report in reports[1:])
    assert not any(report.also_killed for report in reports)


def test_storm_of_equal_lines_of_one_microsecond() -> None:
    assembler = OomReportAssembler()
    reports: list[OomReport] = []
    for pid in range(10, 20):
        reports += assembler.push(parse_kmsg_record(lines.raw(lines.kill(pid=pid), 1, 500)), 0.0005)
    reports += assembler.flush(None)
    assert [report.victim.pid for report in reports if report.settled] == list(range(10, 20))


def group_kill(members: Sequence[int] = (258, 259), *, victim: int = 257, again: bool = True) -> list[str]:
    return [
        lines.kill(pid=victim),
        lines.group(),
        *([lines.kill(pid=victim)] if again else []),
        *(lines.kill(pid=pid) for pid in members),
    ]


def test_group_kill_counts_each_process_once() -> None:
    (report,) = assemble([*lines.report()[:-1], *group_kill()])
    assert report.group_memcg == CONTAINER
    assert report.kill_lines == 4, "as often as the kernel counted"
    assert report.victim.pid == 257
    assert [process.pid for process in report.also_killed] == [258, 259]


def test_group_kill_of_one() -> None:
    (report,) = assemble([*lines.report()[:-1], *group_kill(())])
    assert (report.group_memcg, report.also_killed, report.kill_lines) == (CONTAINER, (), 2)


def test_two_rate_limited_group_kills() -> None:
    """The second victim's kill line looks like one more member, until the line that says whose group it begins."""
    first, second = assemble([*group_kill((258, 259)), *group_kill((301, 302), victim=300)])
    assert [process.pid for process in first.also_killed] == [258, 259]
    assert (second.victim.pid, [process.pid for process in second.also_killed]) == (300, [301, 302])


def test_group_line_with_the_first_kill_line_lost() -> None:
    (report,) = assemble([lines.group("/test1"), lines.kill("systemd", 1)])
    assert (report.group_memcg, report.oom_memcg, report.victim.pid) == ("/test1", "/test1", 1)


def test_group_in_a_deeper_memcg_does_not_prove_the_limit() -> None:
    (report,) = assemble([lines.group(CONTAINER), lines.kill("x", 1)])
    assert report.oom_memcg is None


def test_summary_line_cut_by_a_pager_is_completed_by_the_group_line() -> None:
    cut = lines.summary(oom_memcg=None, constraint="CONSTRAINT_NONE")[:200] + ">"
    prefix = "Out of memory: "
    (report,) = assemble([cut, lines.kill(prefix=prefix), lines.group(), lines.kill(prefix=prefix)])
    assert (report.task_memcg, report.global_oom, report.victim.pid) == (CONTAINER, True, 257)


def test_a_reused_pid_is_a_new_kill() -> None:
    reports = assemble([lines.kill(), lines.header(), lines.summary(), lines.kill()])
    assert [report.victim.pid for report in reports] == [257, 257]


def test_a_reused_pid_after_a_while_is_a_new_kill() -> None:
    reports = assemble([lines.kill(), "noise", lines.kill()], seconds_apart=SETTLE_SECONDS)
    assert [report.victim.pid for report in reports] == [257, 257]


def test_already_exiting_is_no_kill() -> None:
    exiting = "Memory cgroup out of memory: OOM victim 258 (hog) is already exiting. Skip killing the task"
    (report,) = assemble([*lines.report()[:-1], lines.kill(), lines.group(), exiting, lines.kill(pid=259)])
    assert [process.pid for process in report.also_killed] == [259]


def test_sacrificed_child_is_the_victim() -> None:
    (report,) = assemble([
        lines.header(), lines.DUMP_HEADER, lines.row(100, "parent"),
        "Out of memory: Kill process 100 (parent) score 71 or sacrifice child",
        "Killed process 101 (child) total-vm:1990252kB, anon-rss:106448kB, file-rss:0kB",
    ])  # fmt: skip
    assert (report.victim.pid, report.victim.comm, report.scope) == (101, "child", Scope.GLOBAL)


def test_chosen_and_killed_three_seconds_apart() -> None:
    texts = [
        "Out of memory: Kill process 4775 (a.out) score 924 or sacrifice child",
        "Killed process 4775 (a.out) total-vm:16781892kB, anon-rss:88kB, file-rss:0kB, shmem-rss:3443560kB",
    ]
    (report,) = assemble(texts, seconds_apart=3.1)
    assert report.victim.shmem_rss_bytes == 3443560 * 1024


@pytest.mark.parametrize(
    ("text", "pid"),
    [
        pytest.param("Memory cgroup out of memory: Kill process 8308 (java) score 1894 or sacrifice child", 8308, id="chosen"),
        pytest.param(lines.summary("ruby", 10506), 10506, id="summary line"),
        pytest.param(f"Task in {CONTAINER} killed as a result of limit of {POD}", None, id="Task in"),
    ],
)  # fmt: skip
def test_a_decision_alone_is_enough(text: str, pid: int | None) -> None:
    (report,) = assemble([text])
    assert report.victim.pid == pid


def test_a_kill_line_that_comes_late_completes_what_was_told() -> None:
    assembler = OomReportAssembler()
    summary, kill = lines.records([lines.summary(), lines.kill()])
    assembler.push(summary, 0.0)
    (told,) = assembler.flush(3.0)
    (completed,) = assembler.push(kill, 5.0)
    assert (told.settled, completed.settled) == (True, True)
    assert told.kill_moment == completed.kill_moment
    assert (told.victim.anon_rss_bytes, completed.victim.anon_rss_bytes) == (None, 40932 * 1024)
    assert assembler.flush(None) == []


def test_summary_line_that_other_records_split() -> None:
    whole = lines.summary("hog", 257, oom_memcg=POD)
    first, second = whole.index(",cpuset="), whole.index(",task_memcg=")
    (report,) = assemble([whole[:first], "noise", whole[first:second], "noise", whole[second:], lines.kill()])
    assert (report.oom_memcg, report.task_memcg, report.victim.pid) == (POD, CONTAINER, 257)


def test_invoker_from_its_stack_where_the_header_is_cut_off() -> None:
    (report,) = assemble([lines.cpu("exe", 12983), " oom_kill_process+0x201/0x360", lines.summary(), lines.kill()])
    assert report.invoker is not None
    assert (report.invoker.comm, report.invoker.pid) == ("exe", 12983)


def test_stack_of_something_else_is_no_invoker() -> None:
    (report,) = assemble([lines.cpu("exe", 12983), " handle_mm_fault+0xe2/0x2c0", lines.summary(), lines.kill()])
    assert report.invoker is None


def test_rows_without_a_header() -> None:
    row = "[2002099]   104 2002099  3168592  2620316 21450752        0             0 mdsd"
    (report,) = assemble(
        [row, lines.summary("mdsd", 2002099), "Killed process 2002099 (mdsd) total-vm:12674368kB, anon-rss:5kB"]
    )
    (task,) = report.tasks
    assert (task.pid, task.uid, task.rss_bytes, task.swap_bytes, task.oom_score_adj) == (
        2002099,
        104,
        2620316 * 4096,
        None,
        0,
    )
    assert (report.victim.uid, report.victim.oom_score_adj) == (0, 0)


COLUMNS = [
    pytest.param("[ pid ]   uid  tgid total_vm      rss cpu oom_adj oom_score_adj name",
                 "[18968]    48 18968   838915   406534   3       0           -17 httpd.worker", None, None, -17, id="2.6.36"),
    pytest.param("[ pid ]   uid  tgid total_vm      rss cpu oom_adj name", "[18968]    48 18968   838915   406534   3      -5 httpd.worker",
                 None, None, None, id="2.6.32"),
    pytest.param("[ pid ]   uid  tgid total_vm      rss nr_ptes swapents oom_score_adj name",
                 "[18968]    48 18968   838915   406534    1011       7           666 httpd.worker", 1011 * 4096, 7 * 4096, 666, id="3.13"),
    pytest.param("[ pid ]   uid  tgid total_vm      rss nr_ptes nr_pmds swapents oom_score_adj name",
                 "[18968]    48 18968   838915   406534    1011      16       7           666 httpd.worker", 1027 * 4096, 7 * 4096, 666, id="4.1"),
    pytest.param("[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name",
                 "[  18968]    48 18968   838915   406534   122880        7           666 httpd.worker", 122880, 7 * 4096, 666, id="4.16"),
    pytest.param("[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name",
                 "[  18968]    48 18968   838915   406534   400000     6534         0   122880        7           666 httpd.worker",
                 122880, 7 * 4096, 666, id="6.8"),
    pytest.param("[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents  vendor oom_score_adj name",
                 "[  18968]    48 18968   838915   406534   122880        7     3           666 httpd.worker", 122880, 7 * 4096, 666, id="vendor"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "row", "pgtables", "swap", "adj"), COLUMNS)
def test_task_dump_is_read_by_its_header(
    columns: str, row: str, pgtables: int | None, swap: int | None, adj: int | None
) -> None:
    (report,) = assemble([lines.header(), columns, row, lines.kill("httpd.worker", 18968)])
    (task,) = report.tasks
    assert (task.pid, task.tgid, task.uid, task.comm) == (18968, 18968, 48, "httpd.worker")
    assert (task.total_vm_bytes, task.rss_bytes) == (838915 * 4096, 406534 * 4096)
    assert (task.pgtables_bytes, task.swap_bytes, task.oom_score_adj) == (pgtables, swap, adj)


def test_names_in_the_dump() -> None:
    names = ["Web Content", "(sd-pam)", "a] b", "1 2 3", "runc:[2:INIT]", "name", "pid name", "  blanks ", ""]
    texts = [
        lines.header(),
        lines.DUMP_HEADER,
        *(lines.row(10 + n, name) for n, name in enumerate(names)),
        lines.kill(pid=10),
    ]
    (report,) = assemble(texts)
    assert [task.comm for task in report.tasks] == names


def test_torn_rows_are_left_out() -> None:
    texts = [
        lines.header(),
        lines.DUMP_HEADER,
        lines.row(1, "a"),
        "[     99]     0",
        "[   98] 0 98 x 5 1 1 1 b",
        "[   97] 0 97 5 5 1 1 tmux: server",
        "[   96] 0 96 5 5 1 1 1",
        "[  9 5] 0 95 5 5 1 1 1 b",
        lines.kill(pid=1),
    ]
    (report,) = assemble(texts)
    assert [task.pid for task in report.tasks] == [1]


def test_memory_and_swap_of_cgroup_v1() -> None:
    (report,) = assemble([
        lines.header(), "memory: usage 33421628kB, limit 33554432kB, failcnt 0",
        "memory+swap: usage 35651584kB, limit 35651584kB, failcnt 61602", lines.row(), lines.kill(),
    ])  # fmt: skip
    assert report.memory is not None
    assert (report.memory.swap_usage_bytes, report.memory.swap_limit_bytes) == (2229956 * 1024, 2097152 * 1024)


def test_memory_of_the_node() -> None:
    (report,) = assemble([
        lines.header(), "Mem-Info:", "Free swap  = 0kB", "Total swap = 425980kB", "524158 pages RAM",
        "22064 pages reserved", lines.summary(oom_memcg=None), lines.kill(prefix="Out of memory: "),
    ])  # fmt: skip
    assert report.node_memory is not None
    assert report.node_memory.ram_bytes == (524158 - 22064) * 4096
    assert (report.node_memory.swap_bytes, report.node_memory.free_swap_bytes) == (425980 * 1024, 0)
    assert report.memory is None


def test_what_the_memory_of_the_node_was_used_for() -> None:
    in_one = "active_anon:1 inactive_anon:2 isolated_anon:0\n active_file:3\n free:4 free_pcp:5"
    for texts in ([in_one], in_one.split("\n")):
        (report,) = assemble([
            lines.header(), "Mem-Info:", *texts, lines.summary(oom_memcg=None), lines.kill(prefix="Out of memory: "),
        ])  # fmt: skip
        assert report.node_memory is not None
        assert report.node_memory.ram_bytes is None
        assert {name: size // 4096 for name, size in report.node_memory.stat.items()} == {
            "active_anon": 1, "inactive_anon": 2, "isolated_anon": 0, "active_file": 3, "free": 4, "free_pcp": 5,
        }  # fmt: skip


def test_two_reports_in_turns_have_each_a_count_of_the_node() -> None:
    reports = assemble([
        lines.header(comm="a"), lines.header(comm="b"), "active_anon:1", "active_anon:2",
        lines.summary(oom_memcg=None, pid=1), lines.summary(oom_memcg=None, pid=2),
        lines.kill(pid=1, prefix="Out of memory: "), lines.kill(pid=2, prefix="Out of memory: "),
    ])  # fmt: skip
    assert sorted(report.node_memory.stat["active_anon"] for report in reports if report.node_memory) == [4096, 8192]


def test_other_counts_of_the_node_belong_to_no_report() -> None:
    """A failed allocation and sysrq-m print them too."""
    assert assemble(["Mem-Info:", "active_anon:1 inactive_anon:2 isolated_anon:0"]) == []


def test_witnesses_that_disagree_are_told() -> None:
    (report,) = assemble([lines.summary(), lines.kill(prefix="Out of memory: ")])
    assert len(report.contradictions) == 1


def test_lanes_are_bounded_and_nothing_is_lost_by_it() -> None:
    assembler = OomReportAssembler()
    reports: list[OomReport] = []
    count = MAX_LANES * 3
    for number in range(count):
        reports += assembler.push(
            parse_kmsg_record(lines.raw(lines.summary(pid=number + 1), number, caller=f"T{number}")), 1.0
        )
    assert len(reports) == count - MAX_LANES
    reports += assembler.flush(None)
    assert sorted(report.victim.pid or 0 for report in reports if report.settled) == list(range(1, count + 1))


@pytest.mark.parametrize("step", [1, 7])
def test_fed_with_flushes_between_or_at_once(step: int) -> None:
    texts = [*lines.report("a", 11), *lines.report("b", 22, memcg=OTHER), *group_kill()]
    assembler = OomReportAssembler()
    reports: list[OomReport] = []
    for number, record in enumerate(lines.records(texts)):
        reports += assembler.push(record, number / 1e5)
        if number % step == 0:
            reports += assembler.flush(number / 1e5)
    reports += assembler.flush(None)
    assert [report for report in reports if report.settled] == assemble(texts)
