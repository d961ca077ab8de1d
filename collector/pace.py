"""Long work on the event loop, in pieces."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """To be asked after each step: lets others have the event loop once the steps since then took `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._rest_at = time.monotonic() + seconds

    async def rest(self) -> None:
        if time.monotonic() >= self._rest_at:
            await asyncio.sleep(0)
            self._rest_at = time.monotonic() + self._seconds
