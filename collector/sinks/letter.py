"""What a remote sink is told. Core: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """
    All that waits in the outbox under one key.

    `document`: the newest; `count`: absolute, of all incidents of the key that were ever counted; `event_uid`: under
    which `kubectl describe pod` looks for Events.
    """

    ids: tuple[str, ...]
    key: str
    document: Mapping[str, Any]
    count: int
    first_at: datetime
    last_at: datetime
    event_uid: str | None = None
