"""The journal's incidents as lines on standard output: each until it is out, at least once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from collector.late import complete, from_json
from collector.sinks.json_log import JsonLog
from collector.sinks.metrics import DELIVERED, FAILED, STDOUT
from collector.state import batch
from collector.state.batch import Batch
from collector.text import to_line

if TYPE_CHECKING:
    from collector.state.store import Store

NOTE_SECONDS = 0.25
DRAIN_SECONDS = 2.0


class Printer:
    """Prints what the journal has released, some lines at a time, and notes there what is out."""

    def __init__(self, store: Store, stdout: int) -> None:
        self._store = store
        self._json_log = JsonLog(stdout, on_written=self._written)
        self._in_flight: set[str] = set()
        self._printed: list[str] = []
        self._outcomes: dict[batch.CounterKey, int] = {}
        self._noting: asyncio.TimerHandle | None = None

    def print(self) -> None:
        if self._json_log.failed or self._in_flight:
            return
        unprinted = self._store.unprinted()
        self._in_flight.update(incident_id for incident_id, _, _ in unprinted)
        for incident_id, document, late in unprinted:
            self._json_log.write(incident_id, _line(document, late))

    async def stop(self) -> None:
        """What its reader does not take in time is left to the next start."""
        self.print()
        await self._json_log.drain(DRAIN_SECONDS)
        self._json_log.close()
        self._note()

    def _written(self, incident_id: str, delivered: bool) -> None:
        self._in_flight.discard(incident_id)
        key = batch.DELIVERIES, f"{STDOUT} {DELIVERED if delivered else FAILED}"
        self._outcomes[key] = self._outcomes.get(key, 0) + 1
        if delivered:
            self._printed.append(incident_id)
        loop = asyncio.get_running_loop()
        if not self._in_flight:
            self._note()
            loop.call_soon(self.print)
        elif self._noting is None:
            self._noting = loop.call_later(NOTE_SECONDS, self._note)

    def _note(self) -> None:
        if self._noting is not None:
            self._noting.cancel()
            self._noting = None
        if self._printed or self._outcomes:
            self._store.apply(Batch(at=datetime.now(UTC), added=self._outcomes, printed=self._printed))
            self._printed, self._outcomes = [], {}


def _line(document: str, late: str | None) -> str:
    if late is None:
        return document
    try:
        return to_line(complete(json.loads(document), from_json(late), fate=False))
    except (AttributeError, LookupError, TypeError, ValueError):  # damaged: as it is
        return document
