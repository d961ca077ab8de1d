"""
The node's condition MemoryPressure: what the kubelet had reported when a kill came. Asked for after each kill under
node pressure, where the agent may read its node.

Source: pkg/kubelet/nodestatus/setters.go: MemoryPressureCondition() looks every 10 s, and lastTransitionTime changes
with the status alone; pkg/controller/nodelifecycle: of a kubelet that is silent the status is Unknown.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from collector.json_fields import mapping, mappings, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collector.kube.client import KubeClient

# A storm of kills costs one request in so many seconds. Its last kill waits for as long and for the answer: together
# that is as long as a kill waits for names.
ASK_SECONDS = 5.0
ANSWER_SECONDS = 5.0
RETRY_SECONDS = 60.0
REFUSED_SECONDS = 3600.0
# What became true later has to do with something else.
LATE_SECONDS = 300.0
MAX_KEPT = 8

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)

_STATUSES = {"True": True, "False": False, "Unknown": None}

_log = logging.getLogger(__name__)


class Pressure(NamedTuple):
    """
    `at_kill`: whether it was reported then; None: not known. `seconds`: how long before the kill it became true,
    negative: after it; None: it did not, or it is not known. Of the kubelet's whole seconds.
    """

    at_kill: bool | None = None
    seconds: float | None = None


class Status(NamedTuple):
    """`is_true` None: Unknown, of a kubelet that is silent. `since`: time of Unix."""

    is_true: bool | None
    since: float


class NodeCondition:
    """client None: nothing is asked, nothing is known. Times of kills are times of Unix."""

    def __init__(self, client: KubeClient | None, node: str | None) -> None:
        self._client = client
        self._path = f"/api/v1/nodes/{node}" if node and len(node) <= 253 and _NAME.fullmatch(node) else None
        self._seen: deque[tuple[Status, float]] = deque(maxlen=MAX_KEPT)
        """What lasted until when it was asked for, the last at the end."""
        self._answered = float("-inf")
        """When what was answered last had been asked for: it tells of all kills before."""
        self._silent_until = float("-inf")
        self._refused = False
        self._wanted = asyncio.Event()

    def is_known(self, killed_at: float) -> bool:
        """False: it is being asked for. True also where nothing will be known."""
        on = self._client is not None and self._path is not None and time.monotonic() >= self._silent_until
        if not on or killed_at <= self._answered:
            return True
        self._wanted.set()
        return False

    def memory_pressure(self, killed_at: float) -> Pressure:
        """As far as it is known by now."""
        then = next((status for status, until in self._seen if status.since <= killed_at <= until), None)
        at_kill = None if then is None else then.is_true
        after = (status for status, _ in self._seen if status.since > killed_at)
        became = then if at_kill else min(after, key=lambda status: status.since, default=None)
        if became is None or not became.is_true or became.since > killed_at + LATE_SECONDS:
            return Pressure(at_kill=at_kill)
        return Pressure(at_kill=at_kill, seconds=killed_at - became.since)

    async def run(self) -> None:
        """Until cancelled."""
        while self._client is not None and self._path is not None:
            await self._wanted.wait()
            began = time.monotonic()
            await self._ask(self._client, self._path)
            # Whoever was killed since then asks again.
            self._wanted.clear()
            await asyncio.sleep(max(0.0, began + ASK_SECONDS - time.monotonic()))

    async def _ask(self, client: KubeClient, path: str) -> None:
        from collector.errors import CollectorError
        from collector.kube.client import ApiError

        asked = time.time()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                # resourceVersion=0: from the server's cache, not from etcd.
                node = await client.get(path, {"resourceVersion": "0"})
        except (CollectorError, TimeoutError) as error:
            problem = str(error) or "no answer in time"
            is_refusal = isinstance(error, ApiError) and error.is_status and error.status == 403
            self._silent_until = time.monotonic() + (REFUSED_SECONDS if is_refusal else RETRY_SECONDS)
            level = logging.WARNING if is_refusal and not self._refused else logging.DEBUG
            self._refused |= is_refusal
            _log.log(level, "node's condition: %s; kills are told without MemoryPressure", problem)
            return
        self._answered = asked
        status = parse(node)
        if status is None or status.since > time.time():  # it is this node's clock that it is of
            return
        if self._seen and self._seen[-1][0] == status:
            self._seen.pop()
        self._seen.append((status, asked))


def parse(node: Mapping[str, object]) -> Status | None:
    """None: there is no such condition, or it is not as it should be."""
    for condition in mappings(mapping(node.get("status")).get("conditions")):
        if condition.get("type") == "MemoryPressure":
            status, since = condition.get("status"), moment(condition.get("lastTransitionTime"))
            if isinstance(status, str) and status in _STATUSES and since is not None and since.timestamp() > 0:
                return Status(_STATUSES[status], since.timestamp())
    return None
