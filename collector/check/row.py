"""A row of what `check` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that the agent can use. `fix` is there where `works` is False and something can be done."""

    what: str
    works: bool
    reason: str
    fix: str | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)
