"""The journal as a table, and what it advises as manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collector.diagnosis.patches import newest_changes, patches, recommendations
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


def manifests(documents: Iterable[Mapping[str, Any]], kind: str, workload: str | None) -> Iterator[str]:
    """
    YAML documents, of the newest advice on each container.

    documents: the newest first. kind: patch or vpa. workload: `namespace/kind/name`, of this one alone.
    """
    import yaml

    changes = newest_changes(documents)
    if workload is not None:
        changes = [one for one in changes if f"{one.place.workload.namespace}/{one.place.workload}" == workload]
    for manifest in patches(changes) if kind == "patch" else recommendations(changes):
        yield "---"
        for comment in manifest.comments:
            yield f"# {printable(comment)}"
        yield yaml.safe_dump(manifest.content, sort_keys=False, allow_unicode=False).rstrip("\n")
