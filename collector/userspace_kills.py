"""Kills by systemd-oomd, counted beside the kernel's: no OOM kills, and told in no kernel log."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from collector.sinks.metrics import SYSTEMD_OOMD, Metrics
from collector.state import batch
from collector.state.batch import Batch

if TYPE_CHECKING:
    from collector.config import Config
    from collector.sources.oomd import UserspaceKill
    from collector.state.store import Store

RETRY_SECONDS = 600.0

_log = logging.getLogger(__name__)


def _runs() -> bool:
    return Path("/run/systemd/oom").is_dir()  # its RuntimeDirectory


async def count_userspace_kills(config: Config, store: Store, metrics: Metrics, *, boot_id: str) -> None:
    """Until cancelled; returns where systemd-oomd does not run: the journal's library takes more than 1 MiB."""
    if config.userspace_kills == "off" or (config.userspace_kills == "auto" and not _runs()):
        return
    from collector.sources.oomd import follow_userspace_kills

    cursor = store.userspace_cursor()

    def count(kill: UserspaceKill) -> None:
        nonlocal cursor
        cursor = kill.cursor
        _log.info("%s killed all processes of %s", kill.killer, kill.memcg)
        added = {(batch.USERSPACE_KILLS, kill.killer): 1}
        store.apply(Batch(at=datetime.now(UTC), added=added, userspace_cursor=kill.cursor))

    while True:
        metrics.witness_up[SYSTEMD_OOMD] = True
        reason = await follow_userspace_kills(
            config.journal_dir, count, cursor=cursor, since=store.first_start, boot_id=boot_id
        )
        metrics.witness_up[SYSTEMD_OOMD] = False
        _log.warning("kills by systemd-oomd are not counted: %s", reason)
        await asyncio.sleep(RETRY_SECONDS)
