"""The diagnosis is loaded with the first container or kill, and once."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from collector.diagnosis_on_demand import DiagnosisOnDemand
from collector.late import Late
from collector.model import Names, NamesFrom

if TYPE_CHECKING:
    from collector.late import Document

NAMES = Names(source=NamesFrom.API, namespace="shop", pod="cart-0")


class Told:
    def is_ready(self, names: Names | None, node_pressure_at: float | None) -> bool:
        return names is NAMES and node_pressure_at == 5.0

    def diagnose(self, document: Document, late: Late, killed_at: float) -> dict[str, Any] | None:
        return {"document": document, "killed_at": killed_at}


def test_an_agent_that_starts_does_without() -> None:
    """Its memory is bounded (docs/benchmarks.md), and most of this would only be needed later."""
    script = (
        "import collector.agent, sys; print([name for name in sys.modules if name.startswith('collector.diagnosis.')])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['collector.diagnosis.rollout']"


def test_it_is_made_once_and_asked() -> None:
    made: list[Told] = []

    def make() -> Told:
        made.append(Told())
        return made[-1]

    diagnosis = DiagnosisOnDemand(make)
    assert made == []
    assert diagnosis.is_ready(NAMES, 5.0)
    assert diagnosis.diagnose({"id": "a"}, Late(), 5.0) == {"document": {"id": "a"}, "killed_at": 5.0}
    assert diagnosis.load() is made[0]
    assert len(made) == 1
