"""Which kernel log is read, and what happens when it dies."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from collector.errors import ConfigError, SourceError
from collector.sources.file import FileLog
from collector.sources.journald import JournaldLog
from collector.sources.kmsg import DEVICE, KmsgLog
from collector.sources.syslog import SyslogLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from collector.sources.base import Cursor, KernelLog, RecordSink

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """
    What is known of the kernel log after a change.

    `source` None: none works. `reason`: why this one is down. `refused`: name and reason of those tried before it.
    """

    source: str | None
    up: bool
    reason: str | None = None
    refused: tuple[tuple[str, str], ...] = ()


def kernel_logs(
    setting: str, *, boot_id: str, kmsg_path: Path = DEVICE, journal_path: Path | None = None
) -> tuple[KernelLog, ...]:
    """
    The logs that `--kernel-log` allows, in the order in which they are tried.

    Raises ConfigError for a word that is none of them.
    """
    kind, _, path = setting.partition(":")
    if kind == "file" and path:
        return (FileLog(Path(path)),)
    # kmsg is numbered and wakes its reader; syslog(2) is polled; journald may be another reader's losses late.
    by_name: dict[str, KernelLog] = {
        "kmsg": KmsgLog(boot_id=boot_id, path=kmsg_path),
        "syslog": SyslogLog(boot_id=boot_id),
        "journald": JournaldLog(boot_id=boot_id, path=journal_path),
    }
    if setting == "auto":
        return tuple(by_name.values())
    if setting in by_name:
        return (by_name[setting],)
    raise ConfigError(f"--kernel-log {setting}: must be auto, kmsg, syslog, journald or file:PATH")


async def follow(
    logs: Sequence[KernelLog],
    sink: RecordSink,
    on_state: Callable[[SourceState], None],
    *,
    cursor: Cursor | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """
    Read the first log that works until it dies, then start over with the first; until cancelled.

    `cursor`: where a former process stopped. A log that is opened again goes on behind what it has already given.
    `on_state` is called when a log has delivered all that it held (up), when it dies, and when none works.
    """
    cursors = {} if cursor is None else {cursor.source: cursor}
    delay = FIRST_DELAY_SECONDS
    while True:
        refused: list[tuple[str, str]] = []
        for log in logs:
            up = SourceState(source=log.name, up=True, refused=tuple(refused))
            opening = _Opening(sink, cursors, on_caught_up=partial(on_state, up))
            reason = await _run(log, opening, cursors.get(log.name))
            if opening.up_since is not None:
                on_state(SourceState(source=log.name, up=False, reason=reason))
                if asyncio.get_running_loop().time() - opening.up_since >= MAX_DELAY_SECONDS:
                    delay = FIRST_DELAY_SECONDS
                break
            refused.append((log.name, reason))
        else:
            on_state(SourceState(source=None, up=False, refused=tuple(refused)))
        # Half of it at random: a thousand nodes must not come back in one breath.
        await sleep(delay * random.uniform(0.5, 1.0))
        delay = min(delay * 2, MAX_DELAY_SECONDS)


async def _run(log: KernelLog, sink: RecordSink, cursor: Cursor | None) -> str:
    """Why it ended."""
    try:
        await log.run(sink, cursor)
    except SourceError as error:
        return str(error)
    return f"{log.name}: ended"


class _Opening:
    """The sink as one opening of a log sees it: keeps how far it came, and whether it ever delivered."""

    def __init__(self, sink: RecordSink, cursors: dict[str, Cursor], *, on_caught_up: Callable[[], None]) -> None:
        self._sink = sink
        self._cursors = cursors
        self._on_caught_up = on_caught_up
        self.up_since: float | None = None
        self.push = sink.push
        self.lost = sink.lost
        self.malformed = sink.malformed

    @property
    def busy(self) -> bool:
        return self._sink.busy

    def caught_up(self) -> None:
        self._sink.caught_up()
        self.up_since = asyncio.get_running_loop().time()
        self._on_caught_up()

    def end_of_batch(self, cursor: Cursor | None) -> None:
        if cursor is not None:
            self._cursors[cursor.source] = cursor
        self._sink.end_of_batch(cursor)
