"""Every dress that a kernel line is found in, and the dresses that are not the kernel's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.parse.dress import Dress, LogRecord

KILL = "Out of memory: Killed process 5 (x) total-vm:4kB"
NOTHING: dict[str, object] = {}


def undress(line: str, **kwargs: object) -> LogRecord | None:
    dress = Dress(zone=kwargs.get("zone"), year=kwargs.get("year"))  # type: ignore[arg-type]
    return dress.undress(line.encode())


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        pytest.param("", NOTHING, id="journalctl -o cat"),
        pytest.param("[   12.345678] ", {"monotonic_usec": 12345678, "stamp": "12.345678"}, id="dmesg"),
        pytest.param("[ 1234.567] ", {"monotonic_usec": 1234567000}, id="milliseconds"),
        pytest.param("[20219668.716979] ", {"monotonic_usec": 20219668716979}, id="up for 234 days"),
        pytest.param("[36822.664529@2] ", {"monotonic_usec": 36822664529}, id="CPU behind the uptime"),
        pytest.param("[ 3239.597118][    C1] ", {"monotonic_usec": 3239597118, "caller": "C1"}, id="caller CPU"),
        pytest.param("[    0.000000][  T123] ", {"monotonic_usec": 0, "caller": "T123"}, id="caller task"),
        pytest.param("<4>[   12.345678] ", {"facility": 0, "monotonic_usec": 12345678}, id="dmesg -r"),
        pytest.param("<14>[   12.345678] ", {"facility": 1}, id="dmesg -r, user facility"),
        pytest.param("<6>", {"facility": 0}, id="priority alone"),
        pytest.param("kern  :err   : [   12.345678] ", {"facility": 0, "monotonic_usec": 12345678}, id="dmesg -x"),
        pytest.param("user  :warn  : [   12.345678] ", {"facility": 1}, id="dmesg -x, user facility"),
        pytest.param("local7:info  : [   12.345678] ", {"facility": 23}, id="dmesg -x, last facility"),
        pytest.param("[Tue Mar 11 10:16:36 2025] ", {"stamp": "Tue Mar 11 10:16:36 2025"}, id="dmesg -T"),
        pytest.param("[二 9月  3 05:57:48 2024] ", {"stamp": "二 9月  3 05:57:48 2024"}, id="dmesg -T, Chinese"),
        pytest.param("[Вт мар 11 10:16:36 2025] ", {"stamp": "Вт мар 11 10:16:36 2025"}, id="dmesg -T, Russian"),
        pytest.param("[di. mars 11 10:16:36 2025] ", {"stamp": "di. mars 11 10:16:36 2025"}, id="dmesg -T, French"),
        pytest.param("kern  :err   : [Tue Mar 11 10:16:36 2025] ", {"facility": 0}, id="dmesg -xT"),
        pytest.param("[Mar11 10:16] ", {"stamp": "Mar11 10:16"}, id="dmesg reltime, minute"),
        pytest.param("[  +0.000012] ", {"monotonic_usec": None}, id="dmesg reltime, step"),
        pytest.param("[<    0.000012>] ", {"monotonic_usec": None}, id="dmesg delta"),
        pytest.param("[   12.345678 <    0.000012>] ", {"monotonic_usec": 12345678}, id="dmesg -d"),
        pytest.param(
            "2026-08-11T17:20:38,123456+02:00 ",
            {"time": datetime(2026, 8, 11, 15, 20, 38, 123456, UTC)},
            id="dmesg --time-format iso",
        ),
        pytest.param("\x1b[32m[   12.345678] \x1b[0m\x1b[33m", {"monotonic_usec": 12345678}, id="dmesg --color=always"),
        pytest.param("Jun 20 03:23:46 web-1 kernel: ", {"host": "web-1", "stamp": "Jun 20 03:23:46"}, id="syslog"),
        pytest.param("Jun  2 03:23:46 web-1 kernel: [   12.345678] ", {"host": "web-1"}, id="syslog with uptime"),
        pytest.param("jun 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="syslog, small month"),
        pytest.param("févr. 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="syslog, month with a full stop"),
        pytest.param("20 jun 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="syslog, day first"),
        pytest.param("6月 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="syslog, Japanese"),
        pytest.param("Apr 18 00:37:34   kernel: [14.5] ", {"host": None, "monotonic_usec": 14500000}, id="no host"),
        pytest.param("Jun 20 03:23:46 2024 web-1 kernel: ", {"host": "web-1"}, id="syslog with year"),
        pytest.param("Jun 20 03:23:46 kernel kernel: ", {"host": "kernel"}, id="a host called kernel"),
        pytest.param("Jun 20 03:23:46 fe80::1 kernel: ", {"host": "fe80::1"}, id="a host that is an address"),
        pytest.param("Jun 20 03:23:46 web-1 kernel[0]: ", {"host": "web-1"}, id="tag with pid 0"),
        pytest.param("<6>Jun 20 03:23:46 web-1 kernel: ", {"facility": 0, "host": "web-1"}, id="RFC 3164"),
        pytest.param("<14>Jun 20 03:23:46 web-1 kernel: ", {"facility": 1}, id="RFC 3164, user facility"),
        pytest.param(
            "<6>1 2024-06-20T03:23:46.123456+02:00 web-1 kernel - - - ",
            {"facility": 0, "host": "web-1", "time": datetime(2024, 6, 20, 1, 23, 46, 123456, UTC)},
            id="RFC 5424",
        ),
        pytest.param(
            '<14>1 2024-06-20T03:23:46Z web-1 kernel - - [a@1 k="\\]"][b@1] ',
            {"facility": 1, "host": "web-1"},
            id="RFC 5424 with data, user facility",
        ),
        pytest.param(
            "2024-06-20T03:23:46.123456-05:30 web-1 kernel: [   12.345678] ",
            {"host": "web-1", "time": datetime(2024, 6, 20, 8, 53, 46, 123456, UTC), "monotonic_usec": 12345678},
            id="rsyslog ISO",
        ),
        pytest.param(
            "2024-06-20T03:23:46+0200 web-1 kernel: ",
            {"time": datetime(2024, 6, 20, 1, 23, 46, tzinfo=UTC)},
            id="journalctl -o short-iso",
        ),
        pytest.param("2024-06-20 03:23:46 web-1 kernel: ", {"time": None, "host": "web-1"}, id="ISO without offset"),
        pytest.param(
            "Thu 2024-06-20 03:23:46 UTC web-1 kernel: ",
            {"time": datetime(2024, 6, 20, 3, 23, 46, tzinfo=UTC), "host": "web-1"},
            id="journalctl -o short-full",
        ),
        pytest.param("Thu 2024-06-20 03:23:46 CEST web-1 kernel: ", {"time": None, "host": "web-1"}, id="zone by name"),
        pytest.param(
            "1718853826.123456 web-1 kernel: ",
            {"time": datetime(2024, 6, 20, 3, 23, 46, 123456, UTC), "host": "web-1"},
            id="journalctl -o short-unix",
        ),
        pytest.param("[   12.345678] web-1 kernel: ", {"host": "web-1"}, id="journalctl -o short-monotonic"),
        pytest.param("Jun 20 03:23:46.123456 web-1 kernel: ", {"host": "web-1"}, id="journalctl -o short-precise"),
        pytest.param("Jun 20 03:23:46 web-1 kern.err kernel: [   12.345678] ", {"facility": 0}, id="busybox syslogd"),
        pytest.param(
            "Tue Mar 11 10:16:36 2025 kern.err kernel: [   12.345678] ", {"facility": 0}, id="OpenWrt logread"
        ),
        pytest.param(
            "kern:     err: [2026-08-11T17:20:38.5Z]: ",
            {"facility": 0, "time": datetime(2026, 8, 11, 17, 20, 38, 500000, UTC)},
            id="talosctl dmesg",
        ),
        pytest.param(
            "2016-12-17 21:36:56 192.168.17.23:6665 [ 1276.828639] ",
            {"host": "192.168.17.23", "monotonic_usec": 1276828639},
            id="netconsole",
        ),
        pytest.param(
            "2023-12-04T10:49:30.127Z In(05) vcpu-5 - Guest: <3>[39291577.009543] ",
            {"facility": 0, "monotonic_usec": 39291577009543},
            id="vmware.log",
        ),
        pytest.param(
            "[2026-09-12 10:14:02 UTC] kernel: ", {"time": datetime(2026, 9, 12, 10, 14, 2, tzinfo=UTC)}, id="date, tag"
        ),
        pytest.param(" kernel:[340648.118967] ", {"monotonic_usec": 340648118967}, id="wall broadcast"),
        pytest.param(
            "6,462,106242034,-,caller=T310;",
            {"facility": 0, "sequence": 462, "monotonic_usec": 106242034, "caller": "T310"},
            id="/dev/kmsg",
        ),
        pytest.param("12,10,1000,-;", {"facility": 1, "sequence": 10}, id="/dev/kmsg, user facility"),
        pytest.param("6,462,106242034,c;", {"continuation": True}, id="/dev/kmsg, continuation"),
        pytest.param("> > [   12.345678] ", {"monotonic_usec": 12345678}, id="mail quote"),
        pytest.param("* [   12.345678] ", {"monotonic_usec": 12345678}, id="bullet"),
        pytest.param("```[   12.345678] ", {"monotonic_usec": 12345678}, id="code fence"),
        pytest.param("    Jun 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="indented"),
        pytest.param("166235 Jun 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="editor line number"),
        pytest.param("12:[   12.345678] ", {"monotonic_usec": 12345678}, id="grep -n"),
        pytest.param("messages-20240620:Jun 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="grep in files"),
        pytest.param("/var/log/kern.log-12-Jun 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="grep -nA"),
        pytest.param("messages-2024-06-20T03:23:46Z web-1 kernel: ", {"host": "web-1"}, id="grep -A, ISO"),
        pytest.param("13:25:03 web-1 kernel: ", {"host": "web-1"}, id="first line cut in its stamp"),
        pytest.param("eb-1 kernel: ", {"host": None}, id="first line cut in its host"),
        pytest.param("\ufeffJun 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="byte order mark"),
        pytest.param("\0\0\0Jun 20 03:23:46 web-1 kernel: ", {"host": "web-1"}, id="NUL after a crash"),
    ],
)
def test_the_message_begins_right_behind_the_prefix(prefix: str, expected: dict[str, object]) -> None:
    record = undress(prefix + KILL)
    assert record is not None
    assert record.text == KILL
    assert {name: getattr(record, name) for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(f"Jun 20 03:23:46 web-1 kubelet[3044]: {KILL}", id="another program"),
        pytest.param(f"Jun 20 03:23:46 web-1 kernel[3044]: {KILL}", id="a program that calls itself kernel"),
        pytest.param(f"Jun 20 03:23:46 web-1 app: Jun 20 03:23:46 web-1 kernel: {KILL}", id="a line in a line"),
        pytest.param(f"Jun 20 03:23:46 web-1 app: [   12.345678] {KILL}", id="an uptime in a line"),
        pytest.param(f"Jun 20 03:23:46 web-1 app: kernel: {KILL}", id="a second tag"),
        pytest.param(f"Jun 20 03:23:46 kubelet[3044]: {KILL}", id="another program, no host"),
        pytest.param(f"2024-06-20T03:23:46.123456+02:00 web-1 app: {KILL}", id="ISO"),
        pytest.param(f"<6>1 2024-06-20T03:23:46Z web-1 app 12 - - {KILL}", id="RFC 5424"),
        pytest.param(f"<6>1 2024-06-20T03:23:46Z web-1 app 12 - - kernel: {KILL}", id="RFC 5424 and a tag"),
        pytest.param(f"1718853826.123456 web-1 app[1]: {KILL}", id="unix"),
        pytest.param(f"Tue Mar 11 10:16:36 2025 daemon.err app[1]: {KILL}", id="OpenWrt"),
        pytest.param(f"messages:Jun 20 03:23:46 web-1 app[1]: {KILL}", id="grep"),
    ],
)
def test_what_names_another_program_is_not_the_kernels(line: str) -> None:
    assert undress(line) is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(f"Jun 20 03:23:46 web-1 [   12.345678] {KILL}", id="an empty tag"),
        pytest.param(f"[   12.345678] web-1 kubelet[3044]: {KILL}", id="short-monotonic"),
        pytest.param(f"2024-06-20T03:23:46.123456789Z stdout F {KILL}", id="a container's output"),
        pytest.param(f"INFO {KILL}", id="a word before"),
        pytest.param(f"dmesg.txt:{KILL}", id="a name before"),
    ],
)
def test_a_message_is_never_searched(line: str) -> None:
    record = undress(line)
    assert record is None or not record.text.startswith("Out of memory")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(KILL, id="at the margin"),
        pytest.param(" " * 22 + KILL, id="indented, as journalctl prints it"),
        pytest.param(" " * 22 + f"[   12.345678] {KILL}", id="with an uptime"),
        pytest.param(" " * 22 + f"Jun 20 03:23:46 web-1 kernel: {KILL}", id="with a whole prefix"),
        pytest.param(" " * 22 + f"<6>{KILL}", id="with a priority"),
    ],
)
def test_a_later_line_of_another_programs_message_is_as_little_the_kernels(line: str) -> None:
    dress = Dress()
    dress.undress(b"Jun 20 03:23:45 web-1 kernel: eth0: link up")
    dress.undress(b"Jun 20 03:23:45 web-1 app[12]: first line")
    assert dress.undress(line.encode()) is None
    assert dress.undress(b"Jun 20 03:23:46 web-1 kernel: eth0: link down") is not None


def test_a_later_line_of_a_kernel_record_has_its_stamp() -> None:
    dress = Dress()
    first = dress.undress(b"[   12.345678] Memory cgroup stats for /a:")
    second = dress.undress(b"               anon 1234")
    assert first is not None
    assert second is not None
    assert (second.text, second.bare, second.indented) == ("anon 1234", True, True)
    assert (second.monotonic_usec, second.stamp) == (first.monotonic_usec, first.stamp)


def test_lines_after_a_gap_are_not_believed_without_a_prefix() -> None:
    dress = Dress()
    dress.undress(b"[   12.345678] usb 1-1: new device")
    dress.skipped()
    assert dress.undress(KILL.encode()) is None
    bare = Dress()
    bare.undress(b"usb 1-1: new device")
    bare.skipped()
    assert bare.undress(KILL.encode()) is not None


def test_only_the_first_line_may_be_cut_at_the_front() -> None:
    dress = Dress()
    dress.undress(b"[   12.345678] usb 1-1: new device")
    record = dress.undress(f"13:25:03 web-1 kernel: {KILL}".encode())
    assert record is None or record.text != KILL


@pytest.mark.parametrize(
    ("line", "zone", "year", "expected"),
    [
        pytest.param("Jun 20 03:23:46 h kernel: x", UTC, 2024, (2024, 6, 20, 3, 23, 46), id="both given"),
        pytest.param("Jun 20 03:23:46 h kernel: x", None, 2024, None, id="no zone"),
        pytest.param("Jun 20 03:23:46 h kernel: x", UTC, None, None, id="no year"),
        pytest.param("Feb 30 03:23:46 h kernel: x", UTC, 2024, None, id="no such day"),
        pytest.param("[Tue Mar 11 10:16:36 2025] x", UTC, None, (2025, 3, 11, 10, 16, 36), id="the year is printed"),
        pytest.param("[Tue Mar 11 10:16:36 2025] x", UTC, 1999, (2025, 3, 11, 10, 16, 36), id="printed beats given"),
        pytest.param("[mar mar 11 10:16:36 2025] x", UTC, None, (2025, 3, 11, 10, 16, 36), id="weekday like a month"),
        pytest.param("[二 9月  3 05:57:48 2024] x", UTC, None, (2024, 9, 3, 5, 57, 48), id="Chinese"),
        pytest.param("[Xy Foo 11 10:16:36 2025] x", UTC, None, None, id="unknown month"),
        pytest.param(
            "Dec 31 23:30:00 h kernel: x", timezone(-timedelta(hours=2)), 2024, (2025, 1, 1, 1, 30, 0), id="zone"
        ),
        pytest.param("2024-06-20T03:23:46+02:00 h kernel: x", UTC, 1, (2024, 6, 20, 1, 23, 46), id="printed offset"),
        pytest.param("Jun 30 23:59:60 h kernel: x", UTC, 2015, (2015, 7, 1, 0, 0, 0), id="leap second"),
    ],
)
def test_time_is_known_where_year_and_offset_are(
    line: str, zone: timezone | None, year: int | None, expected: tuple[int, ...] | None
) -> None:
    record = undress(line, zone=zone, year=year)
    assert record is not None
    assert record.time == (None if expected is None else datetime(*expected, tzinfo=UTC))  # type: ignore[arg-type, misc]


def test_escapes_are_undone_in_raw_kmsg_only() -> None:
    raw, printed = undress(r"6,1,2,-;a\x0ab\x5cx2d"), undress(r"[   12.345678] /machine-a\x2db")
    assert raw is not None
    assert printed is not None
    assert (raw.text, printed.text) == ("a\nb\\x2d", r"/machine-a\x2db")


def test_line_feeds_of_rsyslog_are_undone_in_the_statistics_only() -> None:
    stat = undress("Jun 20 03:23:46 h kernel: Memory cgroup stats for /a:#012anon 1#012file 2")
    other = undress("Jun 20 03:23:46 h kernel: Killed process 1 (a#012b) total-vm:1kB")
    assert stat is not None
    assert other is not None
    assert stat.text == "Memory cgroup stats for /a:\nanon 1\nfile 2"
    assert "(a#012b)" in other.text


def test_quote_marks_around_a_line_are_taken_off_both_ends() -> None:
    record = undress(f'"[   12.345678] {KILL}"')
    assert record is not None
    assert record.text == KILL


def test_the_clock_is_the_uptime_where_it_is_printed() -> None:
    uptime, wall, later = (
        undress(f"Jun 20 03:23:{rest} x") for rest in ("46 h kernel: [   12.5]", "46 h kernel:", "48 h kernel:")
    )
    assert uptime is not None
    assert wall is not None
    assert later is not None
    assert uptime.at == 12.5
    assert wall.at is not None
    assert later.at == wall.at + 2


def test_lines_of_other_programs_tell_how_long_the_kernel_is_silent() -> None:
    dress = Dress()
    dress.undress(b"Jun 20 03:23:46 h kernel: [   12.345678] x")
    assert dress.idle_seconds == 0
    dress.undress(b"Jun 20 03:24:46 h app[1]: x")
    assert dress.idle_seconds == 60


@given(st.binary(max_size=300), st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_are_read(line: bytes, above: list[bytes]) -> None:
    dress = Dress(zone=UTC, year=2024)
    for before in above:
        dress.undress(before)
    dress.undress(line)


@given(
    st.sampled_from(
        [
            "[   12.345678] ",
            "Jun 20 03:23:46 web-1 kernel: [   12.345678] ",
            "2024-06-20T03:23:46.123456+02:00 web-1 kernel: ",
            "<6>1 2024-06-20T03:23:46Z web-1 kernel - - - ",
            "[Tue Mar 11 10:16:36 2025] ",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\x1b"), min_size=1).filter(
        lambda text: not text[0].isspace() and text[0] not in "[k<" and "kernel:" not in text
    ),
)
def test_any_message_comes_out_as_it_went_in(prefix: str, message: str) -> None:
    record = undress(prefix + message)
    assert record is not None
    assert record.text == message
