"""The journal's outbox, as the deliveries to remote sinks see it: fulfils sinks.delivery.Outbox."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from collector import batch
from collector.batch import Batch
from collector.late import complete, from_json
from collector.sinks.delivery import Letter, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collector.batch import Mail
    from collector.store import Store

POD_EVENT = "pod_event"
NODE_EVENT = "node_event"
WEBHOOK = "webhook"
ALERTMANAGER = "alertmanager"

_log = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """What a sink needs; see FollowUps.mail(). `most`: letters at a time."""

    by_event: bool
    named: bool
    whole: bool
    most: int


_KINDS = {
    POD_EVENT: _Kind(by_event=True, named=True, whole=False, most=1000),
    NODE_EVENT: _Kind(by_event=True, named=False, whole=False, most=1000),
    WEBHOOK: _Kind(by_event=False, named=False, whole=True, most=4),
    ALERTMANAGER: _Kind(by_event=False, named=False, whole=False, most=100),
}
SINKS = tuple(_KINDS)


class StoreOutbox:
    def __init__(self, store: Store) -> None:
        self._store = store

    def letters(self, sink: str, limit: int) -> list[Letter]:
        kind = _KINDS[sink]
        mails = self._store.mail(
            sink, min(limit, kind.most), by_event=kind.by_event, named=kind.named, whole=kind.whole
        )
        return [letter for mail in mails if (letter := self._letter(sink, mail)) is not None]

    def done(self, sink: str, ids: Sequence[str], outcome: str) -> None:
        self._store.apply(
            Batch(
                at=datetime.now(UTC),
                added={(batch.DELIVERIES, f"{sink} {outcome}"): len(ids)},
                delivered=[(sink, known) for known in ids],
            )
        )

    def _letter(self, sink: str, mail: Mail) -> Letter | None:
        try:
            late = from_json(mail.late)
            return Letter(
                ids=mail.ids,
                key=mail.key,
                document=complete(json.loads(mail.document), late),
                count=mail.total,
                first_at=datetime.fromtimestamp(mail.first_at, UTC),
                last_at=datetime.fromtimestamp(mail.last_at, UTC),
                event_uid=late.names.event_uid if late.names else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            _log.error("journal: incident %s is damaged, %s is not told: %r", mail.ids[-1], sink, error)
            self.done(sink, mail.ids, Outcome.REFUSED)
            return None
