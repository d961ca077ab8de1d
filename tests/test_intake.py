"""The agent's intake, fed by hand: what a batch cuts in two is one incident."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collector.intake import TICK_SECONDS, Intake
from collector.pipeline import Pipeline
from collector.sinks.metrics import Metrics
from collector.sources.base import Cursor
from collector.state.batch import KILLS, LOST, Retention
from collector.state.store import Store, read_documents
from tests import lines


@contextmanager
def opened(directory: Path) -> Iterator[tuple[Intake, Store]]:
    now = datetime.now(UTC)
    store = Store(directory, boot_id="b", retention=Retention(), at=now)
    metrics = Metrics(
        version="0", sources=("kmsg",), counters=lambda: store.counters, hold_seconds=0, now=time.monotonic
    )
    try:
        yield Intake(Pipeline(boot_id="b", boot_time=now), store, metrics, on_settled=lambda ids: None), store
    finally:
        store.close()


async def test_a_report_of_the_backlog_that_a_batch_cuts_in_two_is_one_incident(tmp_path: Path) -> None:
    """By today's clock it was settled long ago; its second half is still to be read."""
    with opened(tmp_path) as (intake, store):
        intake.caught_up()  # not the first start: what follows counts
        *first, kill = lines.records(lines.report())
        for record in first:
            intake.push(record, live=False)
        intake.end_of_batch(Cursor(source="kmsg", boot_id="b", position="1"))
        await asyncio.sleep(3 * TICK_SECONDS)
        intake.push(kill, live=False)
        intake.end_of_batch(Cursor(source="kmsg", boot_id="b", position="2"))
        intake.caught_up()
        await asyncio.sleep(3 * TICK_SECONDS)
        assert sum(count for (name, _), count in store.counters.items() if name == KILLS) == 1
        assert len(list(read_documents(tmp_path))) == 1
        intake.stop()


async def test_lost_records_are_counted_each_and_said_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as (intake, store):
        for _ in range(3):
            intake.lost(7)
            intake.end_of_batch(Cursor(source="kmsg", boot_id="b", position="1"))
        assert store.counters[LOST, "kmsg"] == 21
        assert len([record for record in caplog.records if "7 records were overwritten" in record.message]) == 1
        intake.stop()


async def test_bare_lines_of_the_backlog_hold_the_cursor_back_until_they_are_told(tmp_path: Path) -> None:
    """Whose they are may show when all else is read; a crash before that has to find them again."""
    with opened(tmp_path) as (intake, store):
        intake.caught_up()  # not the first start
        for record in lines.records([lines.kill(pid=pid) for pid in range(100, 103)]):
            intake.push(record, live=False)
        intake.end_of_batch(Cursor(source="kmsg", boot_id="b", position="7"))
        assert store.position() is None
        intake.caught_up()
        await asyncio.sleep(3)
        assert sum(count for (name, _), count in store.counters.items() if name == KILLS) == 3
        intake.stop()
        position = store.position()
        assert position is not None
        assert position.position == "7"
