"""Fields of JSON that somebody else wrote, as what they should be; else nothing."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NOTHING: Mapping[str, object] = {}


def mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else _NOTHING


def mappings(value: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, list):
        return ()
    return [cast("Mapping[str, object]", one) for one in value if isinstance(one, dict)]


def moment(value: object) -> datetime | None:
    """RFC 3339; None also where it says no zone."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo else None
