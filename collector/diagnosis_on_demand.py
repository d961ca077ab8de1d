"""The diagnosis, loaded when there is something to diagnose: an agent without containers saves the 2 MiB for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.announce.announcer import Diagnosis
    from collector.late import Document, Late
    from collector.model import Names


class DiagnosisOnDemand:
    """Fulfils announcer.Diagnosis."""

    def __init__(self, make: Callable[[], Diagnosis]) -> None:
        self._make = make
        self._made: Diagnosis | None = None

    def load(self) -> Diagnosis:
        """To be called with the first container: at its kill the node may be too short of memory to read files."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def is_ready(self, names: Names | None, node_pressure_at: float | None) -> bool:
        return self.load().is_ready(names, node_pressure_at)

    def diagnose(self, document: Document, late: Late, killed_at: float) -> dict[str, Any] | None:
        return self.load().diagnose(document, late, killed_at)
