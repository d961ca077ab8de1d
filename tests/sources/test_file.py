# ruff: noqa: ASYNC240 - the files of these tests are in a temporary directory
from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from collector.errors import SourceError
from collector.sources import file
from collector.sources.file import FileLog
from tests.sources.recording import RecordingSink, read_backlog, running, until

NOISE = "6,%d,100,-;e1000: eth0 link up\n"
KILL = "3,%d,300,-;Out of memory: Killed process 310 (hog)\n"


@pytest.fixture
def log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file, "POLL_SECONDS", 0.001)
    return tmp_path / "kern.log"


def write(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as output:
        output.writelines(lines)


def sequences(sink: RecordingSink) -> list[int | None]:
    return [record.sequence for record in sink.records]


async def test_what_is_there_is_backlog_and_what_comes_is_live(log_file: Path) -> None:
    sink = RecordingSink()
    write(log_file, NOISE % 1, KILL % 2)
    async with running(FileLog(log_file), sink):
        await until(lambda: sink.caught_up_count == 1)
        write(log_file, NOISE % 3, KILL % 4)
        await until(lambda: len(sink.records) == 2)

    assert sequences(sink) == [2, 4]
    assert sink.live == [False, True]


async def test_a_line_is_taken_when_it_is_whole(log_file: Path) -> None:
    sink = RecordingSink()
    write(log_file, KILL % 1, (KILL % 2)[:30])
    async with running(FileLog(log_file), sink):
        await until(lambda: sink.caught_up_count == 1)
        assert sequences(sink) == [1]
        write(log_file, (KILL % 2)[30:])
        await until(lambda: len(sink.records) == 2)

    assert sink.texts[0] == sink.texts[1]


async def test_a_truncated_file_is_read_from_its_start(log_file: Path) -> None:
    sink = RecordingSink()
    write(log_file, NOISE % 1, KILL % 2)
    async with running(FileLog(log_file), sink):
        await until(lambda: sink.caught_up_count == 1)
        log_file.write_text(KILL % 3, encoding="utf-8")
        await until(lambda: len(sink.records) == 2)

    assert sequences(sink) == [2, 3]


async def test_a_rotated_file_is_read_to_its_end_and_then_its_successor(log_file: Path) -> None:
    sink = RecordingSink()
    write(log_file, KILL % 1)
    async with running(FileLog(log_file), sink):
        await until(lambda: sink.caught_up_count == 1)
        with log_file.open("a", encoding="utf-8") as old:
            log_file.rename(log_file.with_suffix(".1"))
            # No line end: the writer was stopped in mid-line.
            old.write((KILL % 2).rstrip("\n"))
        write(log_file, KILL % 3)
        await until(lambda: len(sink.records) == 3)
        write(log_file, KILL % 4)
        await until(lambda: len(sink.records) == 4)

    assert sequences(sink) == [1, 2, 3, 4]


async def test_a_removed_file_is_waited_for(log_file: Path) -> None:
    sink = RecordingSink()
    write(log_file, KILL % 1)
    async with running(FileLog(log_file), sink):
        await until(lambda: sink.caught_up_count == 1)
        log_file.unlink()
        write(log_file, KILL % 2)
        await until(lambda: len(sink.records) == 2)


async def test_a_restart_goes_on_behind_the_last_whole_line(log_file: Path) -> None:
    write(log_file, KILL % 1, "3,2,")
    cursor = (await read_backlog(FileLog(log_file))).cursor
    write(log_file, "300,-;Out of memory: Killed process 310 (hog)\n")

    sink = await read_backlog(FileLog(log_file), cursor)

    assert sequences(sink) == [2]


async def test_a_cursor_of_another_file_is_not_used(log_file: Path) -> None:
    write(log_file, KILL % 1)
    cursor = (await read_backlog(FileLog(log_file))).cursor
    other = log_file.with_name("other.log")
    write(other, KILL % 1)

    sink = await read_backlog(FileLog(other), cursor)

    assert sequences(sink) == [1]


async def test_any_dress_is_understood(log_file: Path) -> None:
    write(
        log_file,
        "<4>[  106.244102] Out of memory: Killed process 310 (hog)\n",
        "Jun 20 03:23:46 host kernel: [  107.000000] Out of memory: Killed process 311 (hog)\n",
        "Jun 20 03:23:46 host sshd[12]: Out of memory: Killed process 1 (init)\n",
    )

    sink = await read_backlog(FileLog(log_file))

    assert [record.monotonic_usec for record in sink.records] == [106_244_102, 107_000_000]


async def test_key_value_lines_are_no_records(log_file: Path) -> None:
    write(log_file, "3,1,2,-;oom in the driver\n", " DEVICE=oom\n", KILL % 2)

    sink = await read_backlog(FileLog(log_file))

    assert sequences(sink) == [1, 2]


async def test_an_overlong_line_is_counted_and_left_out(log_file: Path) -> None:
    write(log_file, KILL % 1, "x" * 200_000 + "\n", KILL % 2)

    sink = await read_backlog(FileLog(log_file))

    assert sequences(sink) == [1, 2]
    assert sink.errors


async def test_a_fifo_outlives_its_writers(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    sink = RecordingSink()
    async with running(FileLog(path), sink):
        await until(lambda: sink.caught_up_count == 1)
        for number in (1, 2):
            path.write_text(KILL % number, encoding="utf-8")
            await until(lambda: bool(sink.records) and sink.records[-1].sequence == number)  # noqa: B023

        batches = len(sink.cursors)
        await asyncio.sleep(0.05)
        # A pipe that all writers have left is readable for ever.
        assert len(sink.cursors) == batches

    assert sequences(sink) == [1, 2]
    assert sink.live == [True, True]


async def test_a_pipe_in_packet_mode() -> None:
    read_end, write_end = os.pipe2(os.O_DIRECT)
    sink = RecordingSink()
    try:
        async with running(FileLog(Path(f"/proc/self/fd/{read_end}")), sink):
            for number in (1, 2, 3):
                os.write(write_end, (KILL % number).encode())
            await until(lambda: len(sink.records) == 3)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/nonexistent/log", "No such file"), ("/", "neither a file nor a pipe"), ("/dev/null", "neith")],
)
def test_what_cannot_be_read_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        FileLog(Path(path)).probe()
