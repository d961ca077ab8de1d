"""Against journal files that systemd wrote (journal_files.py), read by libsystemd."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from collector.errors import SourceError
from collector.sources.base import Cursor
from collector.sources.journald import JournaldLog
from tests.sources.journal_files import BOOT_ID, KILL, append, entry, find_journal_remote, unpack
from tests.sources.recording import RecordingSink, read_backlog, running, until

if TYPE_CHECKING:
    from pathlib import Path

FIRST = [KILL % 101, KILL.replace("hog", "a\nb") % 104]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    pytest.importorskip("systemd.journal", reason="systemd-python is not installed")
    unpack("first", tmp_path)
    return tmp_path


async def test_only_the_kernels_own_records_of_this_boot_are_believed(journal: Path) -> None:
    """The files also hold a kill of another boot, one written through /dev/kmsg by a user, and one of syslog(3)."""
    sink = await read_backlog(JournaldLog(boot_id=BOOT_ID, path=journal))

    assert sink.texts == FIRST
    assert sink.live == [False, False]
    record = sink.records[0]
    assert (record.facility, record.monotonic_usec, record.boot_id) == (0, 2_000_000, BOOT_ID)
    assert record.time == datetime(2025, 10, 9, 8, 53, 22, 7, tzinfo=UTC)
    assert record.sequence is None


async def test_what_journald_itself_missed_is_lost(journal: Path) -> None:
    sink = await read_backlog(JournaldLog(boot_id=BOOT_ID, path=journal))

    assert sink.missing == 42


async def test_inside_a_report_all_is_wanted(journal: Path) -> None:
    sink = RecordingSink(busy=True)
    async with running(JournaldLog(boot_id=BOOT_ID, path=journal), sink):
        await until(lambda: sink.caught_up_count == 1)

    assert sink.texts == ["e1000: eth0 link up", *FIRST]


async def test_a_file_that_a_rotation_brings_is_read_and_live(journal: Path) -> None:
    sink = RecordingSink()
    async with running(JournaldLog(boot_id=BOOT_ID, path=journal), sink):
        await until(lambda: sink.caught_up_count == 1)
        unpack("second", journal)
        await until(lambda: len(sink.records) == 3)

    assert sink.texts == [*FIRST, KILL % 201]
    assert sink.live == [False, False, True]


async def test_the_file_in_use_may_be_renamed(journal: Path) -> None:
    sink = RecordingSink()
    async with running(JournaldLog(boot_id=BOOT_ID, path=journal), sink):
        await until(lambda: sink.caught_up_count == 1)
        (journal / "first.journal").rename(journal / "archived@1.journal")
        unpack("second", journal)
        await until(lambda: len(sink.records) == 3)

    assert sink.texts == [*FIRST, KILL % 201]


async def test_the_file_in_use_may_be_removed(journal: Path) -> None:
    sink = RecordingSink()
    async with running(JournaldLog(boot_id=BOOT_ID, path=journal), sink):
        await until(lambda: sink.caught_up_count == 1)
        unpack("second", journal)
        (journal / "first.journal").unlink()
        await until(lambda: len(sink.records) == 3)

    assert sink.texts == [*FIRST, KILL % 201]


async def test_it_sleeps_when_nothing_happens(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without process() the descriptor would stay readable."""
    from systemd import journal as library

    calls = 0
    original = library.Reader.get_next

    def get_next(reader: object, skip: int = 1) -> object:
        nonlocal calls
        calls += 1
        return original(reader, skip)

    monkeypatch.setattr(library.Reader, "get_next", get_next)
    sink = RecordingSink()
    async with running(JournaldLog(boot_id=BOOT_ID, path=journal), sink):
        unpack("second", journal)
        await until(lambda: len(sink.records) == 3)
        before = calls
        await asyncio.sleep(0.1)

    assert calls - before <= 3


async def test_a_restart_goes_on_behind_the_cursor(journal: Path) -> None:
    log = JournaldLog(boot_id=BOOT_ID, path=journal)
    cursor = (await read_backlog(log)).cursor
    unpack("second", journal)

    sink = await read_backlog(log, cursor)

    assert sink.texts == [KILL % 201]
    assert sink.missing == 0


async def test_a_cursor_that_was_vacuumed_away_means_from_the_start_and_a_loss(journal: Path) -> None:
    log = JournaldLog(boot_id=BOOT_ID, path=journal)
    cursor = (await read_backlog(log)).cursor
    unpack("second", journal)
    (journal / "first.journal").unlink()

    sink = await read_backlog(log, cursor)

    assert sink.texts == [KILL % 201]
    assert sink.missing == 1


async def test_a_damaged_cursor_is_no_error_of_ours(journal: Path) -> None:
    cursor = Cursor(source="journald", boot_id=BOOT_ID, position="nonsense")

    sink = await read_backlog(JournaldLog(boot_id=BOOT_ID, path=journal), cursor)

    assert sink.texts == FIRST


async def test_what_is_appended_is_read_through_a_rotation(journal: Path) -> None:
    if find_journal_remote() is None:
        pytest.skip("systemd-journal-remote is not installed")
    sink = RecordingSink()
    async with running(JournaldLog(boot_id=BOOT_ID, path=journal), sink):
        await until(lambda: sink.caught_up_count == 1)
        append(journal / "first.journal", entry(KILL % 301, at=7_000_000))
        await until(lambda: len(sink.records) == 3)
        append(journal / "first.journal", entry("noise", at=8_000_000), entry(KILL % 302, at=8_000_001))
        await until(lambda: len(sink.records) == 4)
        # As journald rotates: the old file under another name, a new one under its own.
        (journal / "first.journal").rename(journal / "archived@1.journal")
        append(journal / "first.journal", entry(KILL % 303, at=9_000_000))
        await until(lambda: len(sink.records) == 5)
        (journal / "archived@1.journal").unlink()
        append(journal / "first.journal", entry(KILL % 304, at=9_500_000))
        await until(lambda: len(sink.records) == 6)

    assert sink.texts == [*FIRST, *(KILL % pid for pid in (301, 302, 303, 304))]


def test_a_journal_without_this_boot_cannot_be_used(journal: Path) -> None:
    with pytest.raises(SourceError, match="no kernel record of this boot"):
        JournaldLog(boot_id="20202020-2020-4020-8020-202020202020", path=journal).probe()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    pytest.importorskip("systemd.journal", reason="systemd-python is not installed")
    with pytest.raises(SourceError, match="gone"):
        JournaldLog(boot_id=BOOT_ID, path=tmp_path / "gone").probe()


def test_without_systemd_python_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    with pytest.raises(SourceError, match=r"pip install 'oom-collector\[journald\]'"):
        JournaldLog(boot_id=BOOT_ID).probe()
