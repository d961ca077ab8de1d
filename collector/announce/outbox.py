"""The journal's outbox, as the deliveries to remote sinks see it: fulfils sinks.delivery.Outbox."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from collector.late import complete, from_json
from collector.sinks.delivery import Letter, Outcome
from collector.state import batch
from collector.state.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collector.state.batch import Mail
    from collector.state.store import Store

POD_EVENT = "pod_event"
NODE_EVENT = "node_event"
WEBHOOK = "webhook"
ALERTMANAGER = "alertmanager"
FORECAST_EVENT = "forecast_event"
"""Has an outbox of its own: forecasts.py."""

_log = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """What a sink needs; see FollowUps.mail()."""

    by_event: bool
    named: bool


_KINDS = {
    POD_EVENT: _Kind(by_event=True, named=True),
    NODE_EVENT: _Kind(by_event=True, named=False),
    WEBHOOK: _Kind(by_event=False, named=False),
    ALERTMANAGER: _Kind(by_event=False, named=False),
}
NEED_NAMES = tuple(sink for sink, kind in _KINDS.items() if kind.named)
_DAMAGED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)


class StoreOutbox:
    def __init__(self, store: Store) -> None:
        self._store = store

    def letters(self, sink: str, limit: int) -> list[Letter]:
        """Their documents are without the task dump, which may be larger than all the rest a thousand times."""
        while True:
            mails = self._store.mail(sink, limit, **_KINDS[sink]._asdict())
            letters = [letter for mail in mails if (letter := self._letter(sink, mail)) is not None]
            if letters or not mails:
                return letters

    def whole(self, letter: Letter) -> Letter:
        """With the task dump. Raises KeyError, TypeError or ValueError where the row is gone or damaged."""
        found = self._store.whole(letter.ids[-1])
        if found is None:
            raise KeyError(letter.ids[-1])
        return replace(letter, document=complete(json.loads(found[0]), from_json(found[1])))

    def done(self, sink: str, ids: Sequence[str], outcome: str) -> None:
        self._store.apply(
            Batch(
                at=datetime.now(UTC),
                added={(batch.DELIVERIES, f"{sink} {outcome}"): len(ids)},
                delivered=[(sink, known) for known in ids],
            )
        )

    def expire_abandoned(self, sinks: tuple[str, ...], before: datetime) -> None:
        """What is left of sinks that are switched off, once it is too old for them."""
        for sink, known in self._store.abandoned(sinks, before):
            self.done(sink, [known], Outcome.EXPIRED)

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
        except _DAMAGED as error:
            _log.error("journal: incident %s is damaged, %s is not told: %r", mail.ids[-1], sink, error)
            self.done(sink, mail.ids, Outcome.REFUSED)
            return None
