"""systemd-oomd's kills, from journal files that systemd wrote (journal_files.py), read by libsystemd."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from collector.sources import oomd
from collector.sources.oomd import UserspaceKill, follow_userspace_kills
from tests.sources.journal_files import BOOT_ID, OOMD_MARKED, append, find_journal_remote, oomd_entry, unpack
from tests.sources.recording import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BOOTED = datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)
FIRST = ["/kubepods.slice/a b.scope", "/system.slice/a.service"]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("systemd.journal", reason="systemd-python is not installed")
    monkeypatch.setattr(oomd, "LOOK_SECONDS", 0.01)
    unpack("oomd", tmp_path)
    return tmp_path


class Kills(list[UserspaceKill]):
    @property
    def memcgs(self) -> list[str]:
        return [kill.memcg for kill in self]


@asynccontextmanager
async def following(directory: Path, cursor: str | None = None, since: datetime = BOOTED) -> AsyncIterator[Kills]:
    kills = Kills()
    task = asyncio.create_task(
        follow_userspace_kills(directory, kills.append, cursor=cursor, since=since, boot_id=BOOT_ID)
    )
    try:
        yield kills
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            assert await task is None, "it gave up"


async def test_only_oomds_own_words_of_this_boot_are_believed(journal: Path) -> None:
    """The file also holds a kill of another boot, one that a container made up, and the candidates that oomd weighed."""
    async with following(journal) as kills:
        await until(lambda: len(kills) == 2)
    assert kills.memcgs == FIRST
    assert kills[0].killer == "systemd-oomd"
    assert kills[0].at == BOOTED + timedelta(microseconds=1_000_017)


async def test_what_is_older_than_the_first_start_is_not_told(journal: Path) -> None:
    async with following(journal, since=BOOTED + timedelta(seconds=1.5)) as kills:
        await until(lambda: len(kills) == 1)
    assert kills.memcgs == FIRST[1:]


@pytest.mark.parametrize("end", ["kept", "renamed", "removed"])
async def test_a_rotation_is_survived(journal: Path, end: str) -> None:
    async with following(journal) as kills:
        await until(lambda: len(kills) == 2)
        if end == "renamed":
            (journal / "oomd.journal").rename(journal / "archived@1.journal")
        unpack("oomd_later", journal)
        if end == "removed":
            (journal / "oomd.journal").unlink()
        await until(lambda: len(kills) == 3)
        await asyncio.sleep(0.1)
    assert kills.memcgs == [*FIRST, "/system.slice/b.service"]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(0, [FIRST[1], "/system.slice/b.service"], id="one told"),
        pytest.param(1, ["/system.slice/b.service"], id="two told"),
    ],
)
async def test_a_restart_goes_on_behind_the_cursor(journal: Path, told: int, expected: list[str]) -> None:
    async with following(journal) as kills:
        await until(lambda: len(kills) == 2)
    cursor = kills[told].cursor
    unpack("oomd_later", journal)
    # Later than all of them: it is the cursor that counts.
    async with following(journal, cursor, since=BOOTED + timedelta(days=1)) as kills:
        await until(lambda: len(kills) == len(expected))
        await asyncio.sleep(0.05)
    assert kills.memcgs == expected


async def test_a_cursor_whose_entry_is_gone_goes_on_with_what_is_later(journal: Path) -> None:
    async with following(journal) as kills:
        await until(lambda: len(kills) == 2)
    unpack("oomd_later", journal)
    (journal / "oomd.journal").unlink()
    async with following(journal, kills[1].cursor) as kills:
        await until(lambda: len(kills) == 1)
    assert kills.memcgs == ["/system.slice/b.service"]


async def test_a_damaged_cursor_is_no_error_of_ours(journal: Path) -> None:
    async with following(journal, "nonsense") as kills:
        await until(lambda: len(kills) == 2)


async def test_it_sleeps_when_nothing_happens(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from systemd import journal as library

    calls = 0
    original = library.Reader.get_next

    def get_next(reader: object, skip: int = 1) -> object:
        nonlocal calls
        calls += 1
        return original(reader, skip)

    monkeypatch.setattr(library.Reader, "get_next", get_next)
    async with following(journal) as kills:
        unpack("oomd_later", journal)
        await until(lambda: len(kills) == 3)
        await asyncio.sleep(0.05)
        before = calls
        await asyncio.sleep(0.2)
    assert calls == before


async def test_what_is_appended_is_told(journal: Path) -> None:
    if find_journal_remote() is None:
        pytest.skip("systemd-journal-remote is not installed")
    async with following(journal) as kills:
        await until(lambda: len(kills) == 2)
        append(journal / "oomd.journal", oomd_entry(OOMD_MARKED % "/c", at=4_000_000))
        await until(lambda: len(kills) == 3)


async def reason(directory: Path, boot_id: str = BOOT_ID) -> str:
    async with asyncio.timeout(1):
        return await follow_userspace_kills(directory, lambda _: None, cursor=None, since=BOOTED, boot_id=boot_id)


async def test_where_nothing_can_be_known_it_says_why(tmp_path: Path, journal: Path) -> None:
    assert "gone: No such file" in await reason(tmp_path / "gone")
    assert "holds nothing of this boot" in await reason(journal, "20202020-2020-4020-8020-202020202020")


async def test_without_systemd_python_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    assert "pip install 'oom-collector[journald]'" in await reason(tmp_path)
