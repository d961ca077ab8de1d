"""
A pipe in packet mode stands for /dev/kmsg: each write is a record, each read returns one, poll(2) wakes.

What a pipe cannot give, EPIPE and EINVAL, comes from a scripted os.read; the device itself gives them only when its
ring is overrun, which the kernel tests do in a machine of their own.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from collector.errors import SourceError
from collector.parse.kmsg import KmsgRun
from collector.sources import kmsg
from collector.sources.base import Cursor
from collector.sources.kmsg import DEVICE, KmsgLog
from tests.sources.recording import RecordingSink, read_backlog, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOT = "b7c2"
HEADER = b"4,%d,100,-,caller=T310;hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
NOISE = b"6,%d,200,-;e1000: eth0 link up\n"
KILL = b"3,%d,300,-;Memory cgroup out of memory: Killed process 310 (hog) total-vm:56764kB\n"


class PacketPipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        # As many packets as the pipe has pages.
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.path = Path(f"/proc/self/fd/{self.read_end}")
        self.log = KmsgLog(boot_id=BOOT, path=self.path)

    def write(self, *records: bytes) -> None:
        for record in records:
            os.write(self.write_end, record)

    def close_write_end(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1


@pytest.fixture
def pipe() -> Iterator[PacketPipe]:
    made = PacketPipe()
    yield made
    made.close_write_end()
    os.close(made.read_end)


def at(sequence: int, *, boot_id: str = BOOT, source: str = "kmsg") -> Cursor:
    return Cursor(source=source, boot_id=boot_id, position=str(sequence))


async def test_noise_is_dropped_and_a_kill_is_pushed_with_its_fields(pipe: PacketPipe) -> None:
    pipe.write(NOISE % 1, b"3,2,106244102,-,caller=T310;Out of memory: Killed process 5 (x\\x0ay)\n", NOISE % 3)

    sink = await read_backlog(pipe.log)

    (record,) = sink.records
    assert (record.sequence, record.facility, record.monotonic_usec) == (2, 0, 106244102)
    assert (record.caller, record.text) == ("T310", "Out of memory: Killed process 5 (x\ny)")
    assert sink.cursor == at(3)


async def test_records_are_live_once_the_backlog_is_read(pipe: PacketPipe) -> None:
    sink = RecordingSink()
    pipe.write(KILL % 1)
    async with running(pipe.log, sink):
        await until(lambda: sink.caught_up_count == 1)
        pipe.write(KILL % 2)
        await until(lambda: len(sink.records) == 2)

    assert sink.live == [False, True]
    assert sink.caught_up_count == 1


async def test_an_empty_log_is_caught_up_at_once(pipe: PacketPipe) -> None:
    sink = RecordingSink()
    async with running(pipe.log, sink):
        await until(lambda: sink.caught_up_count == 1)


async def test_all_records_are_wanted_inside_a_report_even_when_it_opens_within_a_batch(pipe: PacketPipe) -> None:
    pipe.write(NOISE % 1, HEADER % 2, NOISE % 3, KILL % 4)
    sink = RecordingSink()

    async with running(pipe.log, sink):
        await until(lambda: sink.caught_up_count == 1)
        pipe.write(NOISE % 5)
        pipe.write(KILL % 6)
        await until(lambda: len(sink.records) == 3)

    header, run, kill = sink.records
    assert (header.sequence, kill.sequence) == (2, 6)
    assert isinstance(run, KmsgRun)
    assert [run.moment_of(index).sequence for index in range(len(run.texts))] == [3, 4]


async def test_a_report_that_is_open_before_the_batch_wants_all(pipe: PacketPipe) -> None:
    sink = RecordingSink(busy=True)
    pipe.write(NOISE % 1)
    async with running(pipe.log, sink):
        await until(lambda: len(sink.records) == 1)


async def test_other_work_has_its_turn_between_batches(pipe: PacketPipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmsg, "BATCH", 8)
    pipe.write(*(KILL % number for number in range(64)))
    seen: list[int] = []
    sink = RecordingSink()
    async with running(pipe.log, sink), asyncio.timeout(5):
        while not sink.caught_up_count:
            await asyncio.sleep(0)
            seen.append(len(sink.records))
        pipe.write(*(KILL % number for number in range(64)))
        while len(sink.records) < 128:
            await asyncio.sleep(0)
            seen.append(len(sink.records))

    assert set(range(8, 129, 8)) <= set(seen)


async def test_a_restart_goes_on_behind_the_cursor(pipe: PacketPipe) -> None:
    pipe.write(KILL % 7, NOISE % 8, KILL % 9)

    sink = await read_backlog(pipe.log, at(7))

    assert [record.sequence for record in sink.records] == [9]
    assert sink.missing == 0


async def test_what_the_ring_lost_during_the_downtime_is_counted(pipe: PacketPipe) -> None:
    pipe.write(NOISE % 20, KILL % 21)

    sink = await read_backlog(pipe.log, at(7))

    assert sink.missing == 12
    assert [record.sequence for record in sink.records] == [21]


async def test_a_restart_without_news_keeps_its_cursor(pipe: PacketPipe) -> None:
    pipe.write(KILL % 6, KILL % 7)

    sink = await read_backlog(pipe.log, at(7))

    assert sink.records == []
    assert sink.cursor == at(7)


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param(at(7, boot_id="other"), id="of another boot"),
        pytest.param(at(7, source="syslog"), id="of another source"),
        pytest.param(Cursor(source="kmsg", boot_id=BOOT, position="-"), id="unreadable"),
    ],
)
async def test_a_cursor_that_does_not_fit_means_from_the_oldest(pipe: PacketPipe, cursor: Cursor) -> None:
    pipe.write(KILL % 6, KILL % 7)

    sink = await read_backlog(pipe.log, cursor)

    assert [record.sequence for record in sink.records] == [6, 7]
    assert sink.missing == 0


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"Killed process 1 (x)\n", id="no header"),
        pytest.param(b"\xff\x00;Killed process 1 (x)", id="bytes"),
    ],
)
@pytest.mark.parametrize("cursor", [None, at(0)])
async def test_a_malformed_record_is_counted_and_reading_goes_on(
    pipe: PacketPipe, damaged: bytes, cursor: Cursor | None
) -> None:
    pipe.write(damaged, KILL % 1, damaged)

    sink = await read_backlog(pipe.log, cursor)

    assert [record.sequence for record in sink.records] == [1]
    assert len(sink.errors) == 2
    assert sink.cursor == at(1)


@pytest.mark.parametrize("number", [pytest.param(b"x", id="no number"), pytest.param(b"9" * 30, id="too long")])
@pytest.mark.parametrize("cursor", [None, at(0)])
async def test_a_damaged_sequence_number_moves_no_cursor(
    pipe: PacketPipe, number: bytes, cursor: Cursor | None
) -> None:
    damaged = b"3,%b,1,-;Killed process 1 (x)\n" % number
    pipe.write(damaged, KILL % 1, damaged)

    sink = await read_backlog(pipe.log, cursor)

    assert [record.sequence for record in sink.records] == [None, 1, None]
    assert sink.cursor == at(1)
    assert sink.missing == 0


async def test_key_value_lines_are_no_text(pipe: PacketPipe) -> None:
    pipe.write(b"3,1,2,-;oom in the driver\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:03.0\n")

    sink = await read_backlog(pipe.log)

    assert sink.texts == ["oom in the driver"]


async def test_the_end_of_the_log_is_an_error_behind_its_last_record(pipe: PacketPipe) -> None:
    sink = RecordingSink()
    pipe.write(KILL % 1)
    pipe.close_write_end()
    async with running(pipe.log, sink) as task:
        with pytest.raises(SourceError, match="end of file"):
            await task

    assert [record.sequence for record in sink.records] == [1]
    assert sink.cursor == at(1)


@pytest.mark.parametrize("error", [RuntimeError(), BrokenPipeError(), BlockingIOError()], ids=repr)
async def test_an_error_of_the_sink_is_not_taken_for_the_devices(pipe: PacketPipe, error: Exception) -> None:
    class Broken(RecordingSink):
        def push(self, record: object, *, live: bool) -> None:
            raise error

    sink = Broken()
    pipe.write(KILL % 1)
    async with running(pipe.log, sink) as task:
        with pytest.raises(type(error)):
            await task

    assert sink.cursors == []


class Script:
    """os.read as the device would answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: bytes | int) -> None:
        self._answers = list(answers)
        monkeypatch.setattr(os, "read", self._read)

    def _read(self, fd: int, size: int) -> bytes:
        answer = self._answers.pop(0) if self._answers else errno.EAGAIN
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    def run(self, cursor: Cursor | None = None) -> RecordingSink:
        """Wake up until there is nothing more to read."""
        sink = RecordingSink()
        reader = kmsg._Reader(-1, sink, boot_id=BOOT, cursor=cursor)
        while not sink.caught_up_count:
            reader.wake_up()
        return sink


@pytest.mark.parametrize(
    ("answers", "cursor", "missing", "sequences"),
    [
        pytest.param((KILL % 5, errno.EPIPE, NOISE % 2670, KILL % 2671), None, 2664, [5, 2671], id="overrun"),
        pytest.param((NOISE % 5, errno.EPIPE, KILL % 9), None, 3, [9], id="overrun behind noise"),
        pytest.param((KILL % 5, errno.EPIPE, KILL % 6), None, 0, [5, 6], id="overrun that lost nothing"),
        pytest.param((KILL % 5, errno.EPIPE, errno.EPIPE, KILL % 9), None, 3, [5, 9], id="overrun while overrun"),
        pytest.param((errno.EPIPE, KILL % 9), None, 0, [9], id="overrun before the first record"),
        pytest.param((errno.EPIPE, KILL % 9), at(5), 3, [9], id="overrun before the first record after a restart"),
        pytest.param((KILL % 5, errno.EINVAL, KILL % 7), None, 1, [5, 7], id="record longer than the buffer"),
        pytest.param((KILL % 5, errno.EINVAL, errno.EPIPE, KILL % 9), None, 3, [5, 9], id="long, then overrun"),
        pytest.param((KILL % 5, errno.EPIPE, errno.EINVAL, KILL % 7), None, 1, [5, 7], id="overrun, then long"),
        pytest.param((errno.EINVAL, KILL % 7), at(5), 1, [7], id="long after a restart"),
    ],
)
def test_loss_is_the_gap_in_the_sequence(
    monkeypatch: pytest.MonkeyPatch,
    answers: tuple[bytes | int, ...],
    cursor: Cursor | None,
    missing: int,
    sequences: list[int],
) -> None:
    sink = Script(monkeypatch, *answers).run(cursor)

    assert sink.missing == missing
    assert [record.sequence for record in sink.records] == sequences


def test_any_other_error_ends_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="Input/output error"):
        Script(monkeypatch, KILL % 1, errno.EIO).run()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param("/nonexistent/kmsg", "No such file", id="missing"),
        pytest.param("/dev/null", "not the kernel's log device", id="another device"),
        pytest.param("/", "not the kernel's log device", id="directory"),
    ],
)
def test_what_is_not_the_log_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        KmsgLog(path=Path(path)).probe()


def test_a_forbidden_device_names_the_fix(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    forbidden = tmp_path / "kmsg"
    forbidden.touch(mode=0)
    with pytest.raises(SourceError, match="CAP_SYSLOG"):
        KmsgLog(path=forbidden).probe()


async def test_the_real_device() -> None:
    log = KmsgLog(boot_id=BOOT)
    try:
        log.probe()
        device = os.open(DEVICE, os.O_WRONLY)
    except (SourceError, OSError) as error:
        pytest.skip(f"/dev/kmsg: {error}")
    mark = f"oom-collector test {uuid.uuid4()}"
    sink = RecordingSink()
    try:
        async with running(log, sink):
            await until(lambda: sink.caught_up_count == 1)
            before = int(sink.cursor.position)
            os.write(device, f"<14>{mark}\n".encode())
            await until(lambda: mark in sink.texts)
    finally:
        os.close(device)

    record = sink.records[-1]
    assert sink.live[-1]
    # User space may write here; that it is not the kernel is for the pipeline to see.
    assert record.facility == 1
    assert record.sequence is not None
    assert record.sequence > before
    assert sink.missing == 0
