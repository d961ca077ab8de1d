"""A part of what filled the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.diagnosis.model import Value

MOST_NAMED = 3
MOST_LISTED = 10
LEAST_SHARE = 20
"""What is below a twentieth of the node's memory explains nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """As in a Finding."""

    text: str
    values: Mapping[str, Value]
    evidence: tuple[str, ...]
