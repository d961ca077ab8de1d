"""
What scrapes have told of the node's kills and killed processes, as the journal keeps it.

A process shows at first what the one before it showed at last, not what that had counted: in between, a kill would be
part of the first value that Prometheus reads, and no increase.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from collector.state.batch import KILLS, PROCESSES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container, Mapping

    from collector.state.batch import CounterKey

NEWS = timedelta(days=1)
"""For so long after a kill of a cause, those of it that no scrape has told are news to the next process's first one."""


class ShownCounters:
    """Raises sqlite3.Error. Writes belong to the transaction of the journal that calls."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.values: Mapping[CounterKey, int] = {}

    def read(self, recent: Container[str]) -> None:
        """recent: causes; kills of any other count as shown."""
        rows = self._db.execute(
            "SELECT name, label, value, shown FROM counters WHERE name IN (?, ?)", (KILLS, PROCESSES)
        )
        self.values = {(name, label): shown if label in recent else value for name, label, value, shown in rows}

    def unseen(self, counters: Mapping[CounterKey, int]) -> dict[CounterKey, int]:
        of_kills = {key: value for key, value in counters.items() if key[0] in (KILLS, PROCESSES)}
        return {key: value - self.values.get(key, 0) for key, value in self.news(of_kills).items()}

    def news(self, told: Mapping[CounterKey, int]) -> dict[CounterKey, int]:
        """Counters only grow: an answer that took longer to send than a later one is none."""
        return {key: value for key, value in told.items() if value > self.values.get(key, 0)}

    def write(self, values: Mapping[CounterKey, int]) -> None:
        self._db.executemany(
            "UPDATE counters SET shown = ? WHERE (name, label) = (?, ?)",
            [(value, *key) for key, value in values.items()],
        )
