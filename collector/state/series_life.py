"""How long the kills of a container are counted by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.state.batch import NOBODY

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from collector.state.batch import ContainerName, KillCount, KillSeries

KEPT_SECONDS = 3600.0
"""After its pod: whoever looks at an hour's increase() still finds it."""


class SeriesLives:
    """`at`: seconds of a clock that does not go back. What a former process counted lives as if seen at the start."""

    def __init__(self) -> None:
        self._seen: dict[KillSeries, tuple[int, float]] = {}

    def ended(
        self, counts: Mapping[KillSeries, KillCount], pods: Set[tuple[str, str]], at: float
    ) -> list[ContainerName]:
        """Those whose pods have long been gone, and that no kill was counted for since. pods: namespace and name."""
        former, self._seen = self._seen, {}
        for series, count in counts.items():
            name = series.container
            known = former.get(series)
            is_there = name == NOBODY or (name.namespace, name.pod) in pods
            if known is None or is_there or known[0] != count.kills:
                known = count.kills, at
            self._seen[series] = known
        alive = {series.container for series, (_, seen) in self._seen.items() if seen > at - KEPT_SECONDS}
        return list({series.container: None for series in self._seen if series.container not in alive})
