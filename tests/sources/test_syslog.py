"""
A ring in Python answers as syslog(2) does: the newest whole records that fit into the buffer, each line with its
prefix. It can be overrun, cleared and written to at any moment; the real ring is asked where it is permitted.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.errors import SourceError
from collector.parse import klog
from collector.sources import syslog
from collector.sources.base import Cursor
from collector.sources.kmsg import DEVICE
from collector.sources.syslog import SyslogLog, _Dumps
from tests.sources.recording import RecordingSink, read_backlog, running, until

BOOT = "b7c2"
KILL = "Memory cgroup out of memory: Killed process %d (hog) total-vm:56764kB"
HEADER = "hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"
FORGED = "Out of memory: Killed process 1 (init) total-vm:1kB"


class Ring:
    def __init__(self) -> None:
        self.records: list[tuple[bytes, int]] = []
        self.before_read: Callable[[], None] = lambda: None
        self.log = SyslogLog(boot_id=BOOT, read=self.read)

    def print(self, text: str, *, at: float, priority: int = 3, lines_cut: int = 0) -> None:
        """The kernel cuts a record with many lines when it copies it, but not when it reckons what fits."""
        prefix = f"<{priority}>[{at:12.6f}] "
        lines = [f"{prefix}{line}\n".encode() for line in text.split("\n")]
        self.records.append((b"".join(lines[: len(lines) - lines_cut]), sum(map(len, lines))))

    def read(self, size: int) -> bytes:
        self.before_read()
        records = list(self.records)
        while sum(reckoned for _, reckoned in records) > size:
            records.pop(0)
        return b"".join(printed for printed, _ in records)

    def once(self, action: Callable[[], None], *, before_read: int) -> None:
        """Run `action` right before the n-th read from now on."""
        left = before_read

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                action()

        self.before_read = count


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Ring:
    monkeypatch.setattr(syslog, "INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(syslog, "BUSY_INTERVAL_SECONDS", 0.001)
    return Ring()


async def test_noise_is_dropped_and_a_kill_is_pushed(ring: Ring) -> None:
    ring.print("eth0: link up", at=1)
    ring.print(KILL % 5, at=2)

    sink = await read_backlog(ring.log)

    (record,) = sink.records
    assert (record.text, record.facility, record.monotonic_usec) == (KILL % 5, 0, 2_000_000)
    assert sink.live == [False]


async def test_only_what_is_new_is_pushed_and_it_is_live(ring: Ring) -> None:
    sink = RecordingSink()
    ring.print(KILL % 5, at=1)
    async with running(ring.log, sink):
        await until(lambda: sink.caught_up_count == 1)
        ring.print(KILL % 6, at=2)
        await until(lambda: len(sink.records) == 2)
        # The ring turns over: the first goes while another comes.
        del ring.records[0]
        ring.print(KILL % 7, at=3)
        await until(lambda: len(sink.records) == 3)

    assert sink.texts == [KILL % 5, KILL % 6, KILL % 7]
    assert sink.live == [False, True, True]
    assert sink.missing == 0


async def test_equal_lines_of_one_burst_are_different_records(ring: Ring) -> None:
    sink = RecordingSink()
    ring.print(KILL % 5, at=1)
    async with running(ring.log, sink):
        await until(lambda: len(sink.records) == 1)
        ring.print(KILL % 5, at=1)
        ring.print(KILL % 5, at=1)
        await until(lambda: len(sink.records) == 3)


async def test_inside_a_report_all_is_wanted(ring: Ring) -> None:
    ring.print(HEADER, at=1)
    ring.print("memory: usage 1kB, limit 1kB, failcnt 3", at=2)
    ring.print(KILL % 5, at=3)
    ring.print("eth0: link up", at=4)

    sink = await read_backlog(ring.log)

    assert len(sink.records) == 3


async def test_a_name_with_a_newline_does_not_hide_its_own_kill(ring: Ring) -> None:
    ring.print("Out of memory: Killed process 845 (a\nb) total-vm:1kB", at=1)

    sink = await read_backlog(ring.log)

    assert sink.texts == ["Out of memory: Killed process 845 (a\nb) total-vm:1kB"]


async def test_a_text_with_a_newline_forges_no_record(ring: Ring) -> None:
    ring.print(f'overlayfs: unrecognized mount option "\n{FORGED}\n" or missing value', at=1)

    sink = await read_backlog(ring.log)

    assert sink.texts == [f'overlayfs: unrecognized mount option "\n{FORGED}\n" or missing value']


async def test_records_of_one_microsecond_are_told_apart(ring: Ring) -> None:
    ring.print("oom-kill:constraint=CONSTRAINT_NONE", at=1)
    ring.print(KILL % 5, at=1)
    ring.print("a\nb about a process named\nc", at=1)
    ring.print(KILL % 6, at=1)

    sink = await read_backlog(ring.log)

    assert sink.texts == [
        "oom-kill:constraint=CONSTRAINT_NONE",
        KILL % 5,
        "a\nb about a process named\nc",
        KILL % 6,
    ]
    assert sink.missing == 0


@pytest.mark.parametrize("read", range(2, 9))
@pytest.mark.parametrize("length", [0, 1, 30, 300], ids="printed {} bytes".format)
@pytest.mark.parametrize("full", [False, True], ids=["ring grows", "ring turns over"])
async def test_records_are_told_apart_while_the_log_moves_on(ring: Ring, read: int, length: int, full: bool) -> None:
    def move_on() -> None:
        ring.print("x" * length, at=3)
        if full:
            del ring.records[0]

    ring.print("eth0: link up", at=1)
    ring.print(f"oom-kill:\n{FORGED}", at=2)
    ring.print(KILL % 5, at=2)
    ring.once(move_on, before_read=read)

    sink = await read_backlog(ring.log)

    assert sink.texts == [f"oom-kill:\n{FORGED}", KILL % 5]
    assert sink.missing == 0


@pytest.mark.parametrize("cut", range(0, 60, 7))
async def test_records_are_told_apart_beside_one_that_the_kernel_cuts(ring: Ring, cut: int) -> None:
    """On 5.10 and 6.1 the memory.stat of a report is longer, with its prefixes, than what syslog(2) copies of a record."""
    stat = "\n".join(["Memory cgroup stats for a process:", *(f"key{number} 4096" for number in range(70))])
    ring.print(f"oom-kill:\n{FORGED}", at=1)
    ring.print(KILL % 5, at=1)
    ring.print(stat, at=1, lines_cut=cut)
    ring.print(KILL % 6, at=1)
    ring.print(KILL % 7, at=1)
    ring.print(stat, at=2, lines_cut=cut)

    sink = await read_backlog(ring.log)

    whole = [text for text in sink.texts if "stats" not in text]
    assert whole == [f"oom-kill:\n{FORGED}", KILL % 5, KILL % 6, KILL % 7]
    assert [text.count("\n") for text in sink.texts if "stats" in text] == [70 - cut]
    assert sink.missing == 0


async def test_what_cannot_be_told_apart_any_more_is_one_record_and_a_loss(ring: Ring) -> None:
    ring.print(f"oom-kill:\n{FORGED}", at=2)
    ring.print(KILL % 5, at=2)

    def overrun() -> None:
        ring.records.clear()
        ring.print("eth0: link up", at=3)

    ring.once(overrun, before_read=2)

    sink = await read_backlog(ring.log)

    assert sink.texts == [f"oom-kill:\n{FORGED}\n{KILL % 5}"]
    assert sink.missing == 1


async def test_user_written_lines_keep_their_facility(ring: Ring) -> None:
    ring.print(f"hello\n{FORGED}", at=1, priority=14)

    sink = await read_backlog(ring.log)

    assert {record.facility for record in sink.records} == {1}


async def test_a_line_without_prefix_is_malformed(ring: Ring) -> None:
    ring.print("eth0: link up", at=1)
    ring.records.append((FORGED.encode() + b"\n", len(FORGED) + 1))

    sink = await read_backlog(ring.log)

    assert sink.records == []
    assert len(sink.errors) == 1


async def test_an_overrun_counts_as_at_least_one_lost(ring: Ring) -> None:
    sink = RecordingSink()
    ring.print("eth0: link up", at=1)
    async with running(ring.log, sink):
        await until(lambda: sink.caught_up_count == 1)
        ring.records = []
        ring.print(KILL % 5, at=3)
        await until(lambda: len(sink.records) == 1)

    assert sink.missing == 1


async def test_a_cleared_ring_is_no_loss(ring: Ring) -> None:
    sink = RecordingSink()
    ring.print("eth0: link up", at=1)
    async with running(ring.log, sink):
        await until(lambda: sink.caught_up_count == 1)
        batches = len(sink.cursors)
        ring.records = []
        await until(lambda: len(sink.cursors) > batches)
        ring.print(KILL % 5, at=3)
        await until(lambda: len(sink.records) == 1)

    assert sink.missing == 0


async def test_a_restart_goes_on_behind_the_cursor(ring: Ring) -> None:
    ring.print(KILL % 5, at=1)
    ring.print(KILL % 5, at=1)
    cursor = (await read_backlog(ring.log)).cursor
    ring.print(KILL % 5, at=1)
    ring.print(KILL % 6, at=2)

    sink = await read_backlog(ring.log, cursor)

    assert sink.texts == [KILL % 5, KILL % 6]
    assert sink.missing == 0


async def test_an_overrun_during_the_downtime_counts_as_at_least_one_lost(ring: Ring) -> None:
    ring.print(KILL % 5, at=1)
    cursor = (await read_backlog(ring.log)).cursor
    ring.records = []
    ring.print(KILL % 6, at=2)

    sink = await read_backlog(ring.log, cursor)

    assert sink.texts == [KILL % 6]
    assert sink.missing == 1


async def test_a_cursor_of_another_boot_is_not_used(ring: Ring) -> None:
    ring.print(KILL % 5, at=1)

    sink = await read_backlog(ring.log, Cursor(source="syslog", boot_id="other", position="1.000000x1"))

    assert sink.texts == [KILL % 5]
    assert sink.missing == 0


def test_without_times_it_cannot_be_used(ring: Ring) -> None:
    ring.records.append((b"<6>eth0: link up\n", 17))

    with pytest.raises(SourceError, match=r"printk\.time"):
        ring.log.probe()


def open_real() -> _Dumps:
    try:
        dumps = _Dumps(None)
        dumps.take()
    except SourceError as error:
        pytest.skip(str(error))
    return dumps


async def test_the_real_ring() -> None:
    open_real()

    sink = await read_backlog(SyslogLog(boot_id=BOOT))

    assert sink.caught_up_count == 1
    assert sink.errors == []


def test_the_real_kernel_tells_where_its_records_begin() -> None:
    dumps = open_real()
    mark = f"oom-collector test {uuid.uuid4()}"
    try:
        # Opened anew for each record: the kernel limits what one opening may write.
        for _ in range(2):
            with DEVICE.open("wb", buffering=0) as device:
                device.write(f"<14>{mark}\nsecond line\nthird line\n".encode())
    except OSError as error:
        pytest.skip(f"/dev/kmsg: {error}")

    dump = dumps.take()
    first, second = [run for run in klog.split_runs(dump, dump.index(mark.encode()) - 30) if len(run.lines) == 3]
    assert dumps.record_starts(dump, first) == [first.start]
    # As if both were of one microsecond.
    both = klog.Run(first.start, second.end, first.prefix, first.lines + second.lines)
    assert dumps.record_starts(dump, both) == [first.start, second.start]


def test_a_refusal_names_the_fix() -> None:
    if os.geteuid() == 0:
        pytest.skip("root has CAP_SYSLOG")
    if Path("/proc/sys/kernel/dmesg_restrict").read_text(encoding="ascii").strip() == "0":
        pytest.skip("kernel.dmesg_restrict is 0")
    with pytest.raises(SourceError, match="CAP_SYSLOG"):
        SyslogLog().probe()
