"""
Forms met in published logs of many kernels, distributions and mail archives, told with lines made for the test.

Each case is one text as somebody pasted it; what is asked is the kill, found once and read rightly.
"""

from __future__ import annotations

import time

import pytest

from collector.log_reader import LogReader
from collector.model import Cause, Incident
from collector.parse.dress import LogRecord
from collector.parse.oom_lines import parse_oom_line
from collector.pipeline import Pipeline
from tests import lines

GLOBAL_SUMMARY = lines.summary(oom_memcg=None, constraint="CONSTRAINT_NONE")
GLOBAL_KILL = lines.kill(prefix="Out of memory: ")
CHOSEN = "Out of memory: Kill process 257 (hog) score 900 or sacrifice child"
KILLED = "Killed process 257 (hog) total-vm:49380kB, anon-rss:40932kB, file-rss:0kB"


def analyze(text: str) -> list[Incident]:
    reader = LogReader(Pipeline(kill_line_seconds=60.0))
    told = reader.feed(text.encode()) + reader.close()
    return list({incident.id: incident for incident in told if incident.settled}.values())


def only(text: str) -> Incident:
    (incident,) = analyze(text)
    return incident


def under(prefix: str, *records: str) -> str:
    return "".join(f"{prefix}{record}\n" for record in records)


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(" ", id="git log"),
        pytest.param("\t", id="tab"),
        pytest.param("    ", id="code block"),
        pytest.param(": [   12.5] ", id="mail quote of colons"),
        pytest.param("&gt; [   12.5] ", id="quote mark left escaped by HTML"),
        pytest.param("** 3 printk messages dropped ** [   12.5] ", id="console of 3.x and 4.x that lost records"),
        pytest.param("Jan  1 00:12:11 (none) user.warn kernel: [   12.5] ", id="busybox klogd"),
        pytest.param("2026-08-11T17:20:38.5Z,HOST1,4,1,kernel:, [   12.5] ", id="CSV template"),
        pytest.param("Feb  3 19:57:08 ** kernel: ", id="host blackened"),
        pytest.param("[2026-08-11 17:20:38 UTC] kernel: ", id="date in brackets, tag"),
    ],
)
def test_prefixes(prefix: str) -> None:
    incident = only(
        under(prefix, lines.header(), lines.cpu(), lines.DUMP_HEADER, lines.row(), GLOBAL_SUMMARY, GLOBAL_KILL)
    )
    assert (incident.report.victim.pid, incident.verdict.cause) == (257, Cause.NODE)
    assert incident.report.task_memcg == lines.CONTAINER
    assert [task.pid for task in incident.report.tasks] == [257]
    assert incident.report.invoker is not None
    assert incident.report.invoker.pid == 257


@pytest.mark.parametrize("stamp", ["", "[   12.5] ", "6,1,12500000,-;"], ids=["bare", "dmesg", "raw"])
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        pytest.param('\t\t"', '",', id="Go"),
        pytest.param('b"', '\\n",  # noqa: E501', id="Python"),
        pytest.param("    '", "\\n' +", id="JavaScript"),
        pytest.param("`", "`", id="code"),
    ],
)
def test_in_the_source_of_a_test(begin: str, end: str, stamp: str) -> None:
    records = (lines.header(), lines.DUMP_HEADER, lines.row(), GLOBAL_SUMMARY, GLOBAL_KILL)
    report = only("".join(f"{begin}{stamp}{record}{end}\n" for record in records)).report
    assert report.task_memcg == lines.CONTAINER
    assert [task.comm for task in report.tasks] == ["hog"]
    assert report.invoker is not None


def test_a_stack_frame_in_a_log_without_prefixes_is_told_by_its_blanks() -> None:
    text = under("", lines.cpu(pid=31), " oom_kill_process+0x1a/0x2b", GLOBAL_SUMMARY, GLOBAL_KILL)
    invoker = only(text).report.invoker
    assert invoker is not None
    assert invoker.pid == 31


def test_user_records_are_forged_where_the_log_shows_the_kernels_own() -> None:
    prefix = "Sat Dec 27 16:53:40 2025 {}.err kernel: [ 5851.6] "
    assert analyze(under(prefix.format("kern"), "eth0: link up") + under(prefix.format("user"), GLOBAL_KILL)) == []


def test_a_line_without_uptime_does_not_end_the_report_that_it_stands_in() -> None:
    bracket, bare = "Aug  6 18:26:51 web-1 kernel: [ 2685.7] ", "Aug  6 18:26:51 web-1 kernel: "
    text = under(bracket, lines.header(), lines.DUMP_HEADER, lines.row())
    text += under(bare, " active_file:96 inactive_file:137 isolated_file:0") + under(bracket, GLOBAL_KILL)
    assert [task.pid for task in only(text).report.tasks] == [257]


def test_a_program_behind_facility_and_level_is_not_the_kernel() -> None:
    assert analyze(under("Jan  1 00:12:11 (none) daemon.info app[7]: ", GLOBAL_KILL)) == []


@pytest.mark.parametrize(
    ("mark", "indent"),
    [
        pytest.param("=", "", id="quoted-printable"),
        pytest.param("", " ↪", id="arrows"),
        pytest.param("", "> ", id="quotes"),
    ],
)
@pytest.mark.parametrize("width", [50, 60, 76])
def test_a_report_wrapped_at_a_width(mark: str, indent: str, width: int) -> None:
    """Mail clients that break anywhere mark the break; the others break at blanks, so a path stays whole."""
    records = [lines.header(), lines.cpu(), GLOBAL_SUMMARY, GLOBAL_KILL]
    prefix = "" if mark or indent == " ↪" else indent
    if mark:
        records = [record.replace("=", "=3D") for record in records]
    wrapped = []
    for record in (f"[ 1527.5] {record}" for record in records):
        rest = record
        while len(rest) > width:
            end = width if mark else rest.rfind(" ", 12, width)
            if end < 0:
                break
            wrapped.append(f"{rest[:end]}{mark}")
            rest = rest[end:] if mark else f"{indent}{rest[end + 1 :]}"
        wrapped.append(rest)
    report = only(under(prefix, *wrapped)).report
    assert report.task_memcg == lines.CONTAINER
    assert report.victim.anon_rss_bytes == 40932 * 1024
    assert report.invoker is not None
    assert report.invoker.pid == 257


def test_a_line_broken_behind_a_sign_of_equality_keeps_it() -> None:
    text = under("> ", "[ 12.5] " + GLOBAL_SUMMARY.replace(",task=", ",task=\n> "), "[ 12.6] " + GLOBAL_KILL)
    assert only(text).report.task_memcg == lines.CONTAINER


def test_a_comm_that_looks_like_quoted_printable_stays() -> None:
    assert (
        only(under("[ 12.5] ", lines.summary("3Dprinter").replace("task=", "task="))).report.victim.comm == "3Dprinter"
    )


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(
            "kworker/0:2 invoked oom-killer: gfp_mask=0x14000c0(GFP_KERNEL), nodemask=(null),  order=-1, oom_score_adj=0",
            id="4.10 to 4.17",
        ),
        pytest.param(
            "kworker/0:2 invoked oom-killer: order=-1, oom_score_adj=0, gfp_mask=0x24000c0(GFP_KERNEL)", id="4.6-next"
        ),
    ],
)
def test_sysrq_f(header: str) -> None:
    incident = only(under("[ 139.6] ", header, CHOSEN, KILLED))
    assert incident.verdict.cause is Cause.MANUAL


@pytest.mark.parametrize("cpuset", ["", "cpuset=/,mems_allowed=0,"])
def test_summary_of_a_kernel_without_memcg(cpuset: str) -> None:
    summary = f"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),{cpuset}task=a,b,pid=120,uid=1000"
    victim = only(under("[   85.1] ", summary)).report.victim
    assert (victim.pid, victim.comm, victim.uid) == (120, "a,b", 1000)


@pytest.mark.parametrize("blank", ["", " "])
def test_task_in_as_three_records(blank: str) -> None:
    text = under("[15447.0] ", "Task in /lxc/a/b", f"{blank}killed as a result of limit of{blank}", "/lxc/a", KILLED)
    report = only(text).report
    assert (report.task_memcg, report.oom_memcg, report.victim.pid) == ("/lxc/a/b", "/lxc/a", 257)


def test_a_piece_pasted_twice_is_told_once() -> None:
    piece = under("[14808.063986] ", "Task in /docker/a killed as a result of limit of /docker/a")
    assert only(piece + piece + under("[14808.0641] ", f"Memory cgroup o{CHOSEN[1:]}", KILLED)).report.victim.pid == 257


def test_two_messages_in_one_line() -> None:
    assert only(f"Killed process 19271 (applet){CHOSEN}\n").report.victim.comm in ("applet", None)


@pytest.mark.parametrize("earlier", [GLOBAL_SUMMARY, CHOSEN], ids=["summary", "chosen"])
def test_newest_first(earlier: str) -> None:
    kill = KILLED if earlier is CHOSEN else GLOBAL_KILL
    incident = only(under("Jun 20 03:23:46 web-1 kernel: ", kill, earlier))
    assert (incident.report.victim.pid, incident.verdict.cause) == (257, Cause.NODE)


@pytest.mark.parametrize(
    "record",
    [
        pytest.param("Killed process {} (x) total-vm:4kB", id="pid"),
        pytest.param("Killed process 5 (x) total-vm:{}kB", id="size"),
        pytest.param("Killed process 5, UID {}, (x) total-vm:4kB", id="uid"),
        pytest.param("Kill process {} (x) score 5 or sacrifice child", id="chosen"),
        pytest.param("x invoked oom-killer: gfp_mask=0x0, order={}, oom_score_adj=0", id="order"),
        pytest.param("x invoked oom-killer: gfp_mask=0x0, order=0, oom_score_adj={}", id="adj"),
        pytest.param("CPU: 0 PID: {} Comm: x Not tainted", id="invoker"),
        pytest.param("memory: usage 5kB, limit {}kB, failcnt 0", id="limit"),
        pytest.param("Memory cgroup stats for /a: cache:{}KB", id="statistics of cgroup v1"),
        pytest.param("anon {}", id="statistic"),
        pytest.param(lines.summary().replace("257", "{}"), id="summary"),
    ],
)
def test_a_number_of_5000_digits(record: str) -> None:
    pipeline = Pipeline()
    for text in (lines.header(), lines.usage(), "Memory cgroup stats for /a:", record.format("9" * 5000)):
        pipeline.push(LogRecord(text=text), at=None)
    pipeline.flush(None)


def test_a_long_line_costs_no_time() -> None:
    texts = [
        "Memory cgroup stats for /a: b:1KB ",
        "oom-kill:constraint=",
        "Killed process 1 (",
        "Task in /a",
        "[ 1]",
        " ",
    ]
    start = time.process_time()
    for text in texts:
        for filling in ("x", " ", ")", ": ", "1 ", ",task=", "=20"):
            parse_oom_line(text + filling * (30_000 // len(filling)))
    assert time.process_time() - start < 1
