"""
systemd-oomd's kills, which the kernel's log and counters know nothing of: it sends SIGKILL to all of a cgroup.

    Killed /system.slice/a.service due to memory pressure for /system.slice being 65.15% > 50.00% for > 20s with ...
    Killed /system.slice/a.service due to memory used (...) / total (...) and swap used (...) / total (...) being ...
    Marked /system.slice/a.service for killing due to ...

The first two since systemd 247 (there `due to swap used`), the last since it has prekill hooks (260). None of them has
a message id. SD_MESSAGE_UNIT_OOMD_KILL, from systemd itself, is no better witness: it tells of units, and containers
are none where the runtime makes their cgroups itself. What a rule kills (OOMRules=, newer still) is said in other
words, and not seen.

What vouches for the words is _SYSTEMD_UNIT: journald takes it from the sender's cgroup, no sender may set it.

Source: systemd's src/oom/oomd-manager.c, monitor_swap_contexts_handler and monitor_memory_pressure_contexts_handler.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from collector.errors import SourceError
from collector.model import MemcgPath
from collector.sources.journald import import_systemd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KILLER = "systemd-oomd"
# All that any service logs wakes us; who logs much must not cost us more than one look in this time.
LOOK_SECONDS = 2.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KILLED = re.compile(rb"(?:Killed (?P<killed>/.*?)|Marked (?P<marked>/.*?) for killing) due to (?:memory|swap) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserspaceKill:
    """`memcg`: all in it was killed. `cursor`: where reading goes on behind this."""

    killer: str
    memcg: MemcgPath
    at: datetime
    cursor: str


async def follow_userspace_kills(
    directory: Path | None,
    on_kill: Callable[[UserspaceKill], None],
    *,
    cursor: str | None,
    since: datetime,
    boot_id: str,
) -> str:
    """
    Tell of each kill of this boot once, until cancelled; else why it cannot be known.

    directory: where the host's journal is mounted; None: this machine's own. cursor: of the last kill that was told;
    None: none was, then those since `since` are told.
    """
    try:
        journal = _Journal(directory, boot_id)
    except SourceError as error:
        return str(error)
    try:
        for kill in journal.kills_behind(cursor):
            if cursor is not None or kill.at >= since:
                on_kill(kill)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await _wait_until_readable(journal.fd, journal.timeout_seconds())
            for kill in journal.new_kills():
                on_kill(kill)
    except OSError as error:
        return f"{KILLER}: {directory or 'the journal'}: {error.strerror}"
    finally:
        journal.close()


async def _wait_until_readable(fd: int, timeout_seconds: float | None) -> None:
    """Level-triggered: nobody may wait for it while what it tells is not taken yet."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(timeout_seconds):
            await readable.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(fd)


class _Journal:
    """The entries of systemd-oomd in this boot. Raises OSError when the files can no longer be read."""

    def __init__(self, directory: Path | None, boot_id: str) -> None:
        """Raises SourceError when systemd-python, the journal or any entry of this boot is missing."""
        systemd = import_systemd()
        where = directory or "the journal"
        try:
            # Dates and UUIDs of fields that nobody reads would cost more than the reading.
            converters = dict.fromkeys([*systemd.DEFAULT_CONVERTERS, "MESSAGE"], _as_stored)
            self._reader = systemd.Reader(path=str(directory) if directory else None, converters=converters)
            # At once: it arms inotify. Asked for later, files rotated in between stay open for ever.
            self.fd: int = self._reader.fileno()
            # Beside ours lie those of containers that are machines of their own.
            self._reader.add_match(f"_BOOT_ID={boot_id.replace('-', '')}")
            is_empty = not self._reader.get_next()
        except OSError as error:
            raise SourceError(f"{KILLER}: {where}: {error.strerror}") from error
        if is_empty:
            self.close()
            raise SourceError(f"{KILLER}: {where} holds nothing of this boot that may be read")
        self._reader.add_match(f"_SYSTEMD_UNIT={KILLER}.service")
        self._reader.seek_head()

    def close(self) -> None:
        self._reader.close()

    def timeout_seconds(self) -> float | None:
        """Until when to look without being woken: journals on a network file system."""
        milliseconds: int = self._reader.get_timeout_ms()
        return None if milliseconds < 0 else milliseconds / 1000

    def kills_behind(self, cursor: str | None) -> Iterator[UserspaceKill]:
        """From there on. Where that entry is gone, what libsystemd has next is later: the oldest are removed first."""
        try:
            if cursor is not None:
                self._reader.seek_cursor(cursor)
        except ValueError:
            # How systemd-python says EINVAL: a cursor of another make.
            self._reader.seek_head()
        for kill in self._kills():
            if kill.cursor != cursor:
                yield kill

    def new_kills(self) -> Iterator[UserspaceKill]:
        # Without this the descriptor stays readable. Files that come and go need nothing more: libsystemd keeps its
        # place by time and number.
        self._reader.process()
        return self._kills()

    def _kills(self) -> Iterator[UserspaceKill]:
        while entry := self._reader.get_next():
            kill = _kill(entry)
            if kill is not None:
                yield kill


def _kill(entry: dict[str, Any]) -> UserspaceKill | None:
    text = entry.get("MESSAGE")
    match = _KILLED.match(text) if isinstance(text, bytes) else None
    if match is None:
        return None
    memcg = match["killed"] or match["marked"]
    return UserspaceKill(
        killer=KILLER,
        memcg=MemcgPath(memcg.decode("utf-8", "replace")),
        at=_EPOCH + timedelta(microseconds=entry["__REALTIME_TIMESTAMP"]),
        cursor=entry["__CURSOR"],
    )


def _as_stored(value: bytes) -> bytes:
    return value
