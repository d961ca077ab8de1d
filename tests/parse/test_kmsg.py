"""Raw /dev/kmsg records: headers, escapes, the lines behind the message, and the filter."""

from __future__ import annotations

import pytest

from collector.errors import ParseError
from collector.parse.kmsg import is_wanted, parse_kmsg_record, parse_kmsg_run
from collector.parse.oom_lines import tells_of_oom_kill
from tests import lines


def test_plain_record() -> None:
    record = parse_kmsg_record(b"6,462,106242034,-;memory: usage 49152kB, limit 49152kB, failcnt 265\n")
    assert (record.facility, record.sequence, record.monotonic_usec) == (0, 462, 106242034)
    assert (record.text, record.continuation, record.caller) == (
        "memory: usage 49152kB, limit 49152kB, failcnt 265",
        False,
        None,
    )


@pytest.mark.parametrize(
    ("raw", "facility", "caller", "continuation", "text"),
    [
        pytest.param(b"4,1,2,-,caller=T310;x\n", 0, "T310", False, "x", id="caller"),
        pytest.param(b"4,1,2,c,caller=C1;x\n", 0, "C1", True, "x", id="continuation"),
        pytest.param(b"4,1,2,+;x\n", 0, None, True, "x", id="continuation, before 4.9"),
        pytest.param(b"30,1,2,-;systemd[1]: x\n", 3, None, False, "systemd[1]: x", id="user space"),
        pytest.param(b"12,1,2,-;x\n", 1, None, False, "x", id="two digits of priority are not the kernel's"),
        pytest.param(b"6,1,2,-;usb 1-1: x\n SUBSYSTEM=usb\n DEVICE=+usb:1-1\n", 0, None, False, "usb 1-1: x", id="dictionary"),
        pytest.param(b"6,1,2,-;no newline", 0, None, False, "no newline", id="no newline"),
        pytest.param(b"6,1,2,-;a;b;c\n", 0, None, False, "a;b;c", id="semicolons"),
        pytest.param(b"6,1,2,-;\n", 0, None, False, "", id="empty"),
        pytest.param(rb"6,1,2,-;a\x0ab" + b"\n", 0, None, False, "a\nb", id="newline in the message"),
        pytest.param(rb"6,1,2,-;machine-oom\x5cx2d97.scope" + b"\n", 0, None, False, r"machine-oom\x2d97.scope", id="undone once"),
        pytest.param(rb"6,1,2,-;caf\xc3\xa9 bad\xff" + b"\n", 0, None, False, "café bad\ufffd", id="not ASCII"),
    ],
)  # fmt: skip
def test_record(raw: bytes, facility: int, caller: str | None, continuation: bool, text: str) -> None:
    record = parse_kmsg_record(raw)
    assert (record.facility, record.caller, record.continuation, record.text) == (facility, caller, continuation, text)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"no header",
        b";text",
        b"x,1,2,-;text",
        b"-6,1,2,-;text",
        b"6,1,2,-",
        b" SUBSYSTEM=usb",
        b"12345678,1,2,-;x",
    ],
)
def test_damaged_records_are_refused(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse_kmsg_record(raw)


def test_damaged_numbers_are_unknown() -> None:
    record = parse_kmsg_record(b"6,1x,2,-;text\n")
    assert (record.facility, record.sequence, record.monotonic_usec, record.text) == (0, None, None, "text")


@pytest.mark.parametrize(
    "text",
    [
        *lines.report()[-2:],
        lines.header(),
        lines.group(),
        "Out of memory: Kill process 19384 (firefox) score 71 or sacrifice child",
        "Out of Memory: Killed process 2592 (oracle).",
        "Task in /a killed as a result of limit of /a",
    ],
)
def test_the_filter_of_an_idle_reader_wants_every_line_that_decides(text: str) -> None:
    assert is_wanted(lines.raw(text))


def test_the_filter_refuses_most_of_a_log() -> None:
    noise = ["usb 1-1: new high-speed USB device number 2", "eth0: renamed from veth1", "audit: type=1400 audit(1.2:3)"]
    assert not any(is_wanted(lines.raw(text)) for text in noise)
    assert not any(tells_of_oom_kill(text) for text in noise)


def test_a_run_reads_as_one_by_one() -> None:
    raws = [
        lines.raw(text, number, 1_000_000 + number)
        for number, text in enumerate(["a;b", "", "x\\y\nz", "[1] caf\u00e9"])
    ]
    raws[1] += b" SUBSYSTEM=usb\n DEVICE=c189:1\n"
    run = parse_kmsg_run(raws)
    assert run is not None
    single = [parse_kmsg_record(raw) for raw in raws]
    assert list(run.texts) == [record.text for record in single]
    assert [run.moment_of(index).sequence for index in range(4)] == [0, 1, 2, 3]
    assert (run.text, run.facility, run.sequence, run.caller) == (single[0].text, 0, 0, None)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"14,2,1,-;Out of memory: Killed process 1 (x) total-vm:1kB\n", id="user space"),
        pytest.param(b"9,2,1,-;x\n", id="user space, one digit"),
        pytest.param(b"6,2,1,-,caller=T1;x\n", id="caller"),
        pytest.param(b"6,2,1,-\n", id="no message"),
        pytest.param(b"\n", id="empty"),
        pytest.param(b"6,2,1,-;x\n6,3,1,-;y\n", id="two in one"),
        pytest.param(b"6,2,2000000,-;x\n", id="a second later"),
        pytest.param(b"6,2;x\n", id="no time"),
    ],
)
def test_no_run(raw: bytes) -> None:
    assert parse_kmsg_run([b"6,1,1,-;x\n", raw]) is None
