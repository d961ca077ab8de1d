"""One JSON line per incident on standard output."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What a pipe takes without blocking whenever it polls writable (pipe(7)).
_CHUNK = 4096

_log = logging.getLogger(__name__)


class JsonLog:
    """
    Writes lines to a file descriptor without ever waiting for its reader.

    A container runtime that does not read would otherwise stop the agent. `on_written` is told an id and
    True when its line is out. A reader that is gone ends the sink: `failed`, and False for what was and will be given.
    """

    def __init__(self, fd: int, *, on_written: Callable[[str, bool], None]) -> None:
        self._fd = fd
        self._on_written = on_written
        self._lines: deque[tuple[str, bytes]] = deque()
        self._waits = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.failed = False

    @property
    def pending(self) -> int:
        return len(self._lines)

    def write(self, incident_id: str, line: str) -> None:
        if self.failed:
            self._on_written(incident_id, False)
            return
        self._lines.append((incident_id, line.encode("ascii") + b"\n"))
        self._idle.clear()
        if not self._waits:
            self._wait()

    async def drain(self, timeout_seconds: float) -> None:
        """Let the reader take what is written, for so long at most."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("stdout is not read: %d incidents are left for the next start", len(self._lines))

    def close(self) -> None:
        if self._waits:
            asyncio.get_running_loop().remove_writer(self._fd)
            self._waits = False

    def _wait(self) -> None:
        try:
            asyncio.get_running_loop().add_writer(self._fd, self._write_chunk)
            self._waits = True
        except PermissionError:
            # epoll refuses regular files: they never block.
            while self._lines:
                self._write_chunk()

    def _write_chunk(self) -> None:
        incident_id, rest = self._lines[0]
        try:
            written = os.write(self._fd, rest[:_CHUNK])
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if written < len(rest):
            self._lines[0] = (incident_id, rest[written:])
            return
        self._lines.popleft()
        if not self._lines:
            self.close()
            self._idle.set()
        self._on_written(incident_id, True)

    def _fail(self, error: OSError) -> None:
        _log.error("stdout cannot be written (%s): incidents stay in the journal and in the metrics", error.strerror)
        self.failed = True
        self.close()
        unwritten, self._lines = self._lines, deque()
        self._idle.set()
        for incident_id, _ in unwritten:
            self._on_written(incident_id, False)
