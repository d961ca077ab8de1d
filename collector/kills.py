"""The journal as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_NOT_KNOWN = "-"


def table(documents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Lines: a head, then one incident per line, in the order given."""
    head = f"{'TIME':<20}  {'CAUSE':<16}  SUMMARY"
    empty = True
    for incident in documents:
        if empty:
            yield head
            empty = False
        time = incident["time"]
        moment = _NOT_KNOWN if time is None else f"{time[:19]}Z"
        yield printable(f"{moment:<20}  {incident['cause']:<16}  {incident['summary']}")
    if empty:
        yield "no OOM kill in the journal"
