"""What remote sinks are given: as much of a document as they need, and nothing of a damaged one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collector.announce.outbox import POD_EVENT, WEBHOOK, StoreOutbox
from collector.document import to_document
from collector.late import Late, to_json
from collector.model import Names, NamesFrom
from collector.state.batch import DELIVERIES, Batch, Entry, Later, Retention
from collector.state.store import Store
from collector.text import to_line
from tests import lines
from tests.test_classify import judge

NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
NAMES = Names(source=NamesFrom.API, namespace="shop", pod="cart-0", container="cart", event_uid="u")


@contextmanager
def outbox(directory: Path, *documents: str) -> Iterator[tuple[StoreOutbox, Store]]:
    store = Store(directory, boot_id="b", retention=Retention(), at=NOW)
    try:
        for number, document in enumerate(documents):
            incident = replace(judge(*lines.report(neighbours=5)), id=str(number), time=NOW)
            store.apply(Batch(at=NOW, entries=[Entry(incident=incident, document=document)]))
            later = Later(
                id=str(number),
                late=to_json(Late(names=NAMES)),
                named=True,
                event_key=f"key {number}",
                release=(POD_EVENT, WEBHOOK),
                closed=True,
            )
            store.apply(Batch(at=NOW, later=[later]))
        yield StoreOutbox(store), store
    finally:
        store.close()


def whole() -> str:
    return to_line(to_document(judge(*lines.report(neighbours=5))))


def test_a_letter_has_the_names_and_not_the_task_dump(tmp_path: Path) -> None:
    with outbox(tmp_path, whole()) as (made, _):
        (letter,) = made.letters(POD_EVENT, 10)
        assert (letter.key, letter.count, letter.event_uid, letter.last_at) == ("key 0", 1, "u", NOW)
        assert letter.document["pod"]["name"] == "cart-0"
        assert "tasks" not in letter.document
        assert letter.document["memory"]["limit_bytes"] == 48 << 20
        assert len(made.whole(letter).document["tasks"]) == 6


@pytest.mark.parametrize("damaged", ["{", "[]", '{"pod":{}}'])
def test_a_damaged_one_is_counted_and_holds_nothing_up(damaged: str, tmp_path: Path) -> None:
    with outbox(tmp_path, damaged, damaged, whole()) as (made, store):
        (letter,) = made.letters(WEBHOOK, 1)
        assert letter.ids == ("2",)
        assert store.counters[DELIVERIES, "webhook refused"] == 2


def test_what_is_done_is_counted_by_incident(tmp_path: Path) -> None:
    with outbox(tmp_path, whole()) as (made, store):
        made.done(WEBHOOK, ["0"], "delivered")
        assert made.letters(WEBHOOK, 10) == []
        assert len(made.letters(POD_EVENT, 10)) == 1
        assert store.counters[DELIVERIES, "webhook delivered"] == 1
