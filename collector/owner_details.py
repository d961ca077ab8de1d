"""
What a pod's owner alone knows: the number of a revision, when it was rolled out, the CronJob of a Job. It is asked
where the Role allows it: once for each revision, and again for a kill, since a rollback gives a revision a new number.

Sources: pkg/controller/deployment/util/deployment_util.go (names, the annotation and its change by a rollback);
pkg/controller/history/controller_history.go (names of ControllerRevisions: a DaemonSet's pods have the hash as their
label, a StatefulSet's the whole name).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from collector.json_fields import mapping, mappings, moment
from collector.model import Owner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collector.kube.client import KubeClient

# Requests are saved up, one in so many seconds: kills may spend them at once, and when there are none they are told
# without. What no kill waits for is asked while nothing is spent.
REFILL_SECONDS = 5.0
MAX_SAVED = 12
FRESH_SECONDS = 3600.0
RETRY_SECONDS = 300.0
REFUSED_SECONDS = 3600.0
ANSWER_SECONDS = 5.0
MAX_KEPT = 1000

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}", re.ASCII)

_log = logging.getLogger(__name__)


class Detail(NamedTuple):
    """`created_at`: time of Unix. `owner`: its controller."""

    number: int | None = None
    created_at: float | None = None
    owner: Owner | None = None


class _Answer(NamedTuple):
    at: float
    detail: Detail
    failed: bool


class OwnerDetails:
    """client None: nothing is asked, nothing is known."""

    def __init__(self, client: KubeClient | None) -> None:
        self._client = client
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._queue: OrderedDict[str, bool] = OrderedDict()  # paths; True: a kill waits
        self._work = asyncio.Event()
        self._refused: dict[str, float] = {}
        self._saved, self._saved_at = float(MAX_SAVED), time.monotonic()

    @property
    def on(self) -> bool:
        return self._client is not None

    def of(self, namespace: str, owner: Owner, revision: str | None) -> Detail:
        """As far as it is known by now."""
        answer = self._answers.get(_path(namespace, owner, revision) or "")
        return Detail() if answer is None else answer.detail

    def is_known(self, namespace: str, owner: Owner, revision: str | None, *, for_kill: bool = False) -> bool:
        """False: it is being asked for. True also where nothing will be known."""
        path, now = _path(namespace, owner, revision), time.monotonic()
        if self._client is None or path is None or now < self._refused.get(_resource(path), now):
            return True
        answer = self._answers.get(path)
        kept = FRESH_SECONDS if for_kill else float("inf")
        if answer is not None and now < answer.at + (RETRY_SECONDS if answer.failed else kept):
            return True
        return not self._enqueue(path, for_kill=for_kill)

    def _enqueue(self, path: str, *, for_kill: bool) -> bool:
        if for_kill and not self._queue.get(path):
            if self._balance() < 1:
                return False
            self._saved -= 1
            self._queue[path] = True
            self._queue.move_to_end(path, last=False)
        elif len(self._queue) < MAX_KEPT:
            self._queue.setdefault(path, False)
        self._work.set()
        return path in self._queue

    def _balance(self) -> float:
        now = time.monotonic()
        self._saved = min(MAX_SAVED, self._saved + (now - self._saved_at) / REFILL_SECONDS)
        self._saved_at = now
        return self._saved

    async def run(self) -> None:
        """Until cancelled."""
        while self._client is not None:
            await self._work.wait()
            path, for_kill = next(iter(self._queue.items()))
            if not for_kill and (spent := MAX_SAVED - self._balance()) > 0:
                self._work.clear()  # until a kill asks
                with suppress(TimeoutError):
                    async with asyncio.timeout(spent * REFILL_SECONDS):
                        await self._work.wait()
                self._work.set()
                continue
            self._saved -= not for_kill
            await self._ask(self._client, path)
            self._queue.pop(path, None)
            if not self._queue:
                self._work.clear()

    async def _ask(self, client: KubeClient, path: str) -> None:
        from collector.errors import CollectorError
        from collector.kube.client import ApiError

        former, failed, problem = self._answers.pop(path, None), False, ""
        detail = former.detail if former else Detail()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                detail = parse(await client.get(path))
        except (CollectorError, TimeoutError) as error:
            failed, problem = True, str(error) or "no answer in time"
            if isinstance(error, ApiError) and error.is_status and error.status == 404:
                failed, detail = False, Detail()
            if isinstance(error, ApiError) and error.is_status and error.status == 403:
                self._refuse(_resource(path), problem)
        if failed:
            _log.debug("owner details: %s: %s", path, problem)
        self._answers[path] = _Answer(time.monotonic(), detail, failed)
        while len(self._answers) > MAX_KEPT:
            self._answers.popitem(last=False)

    def _refuse(self, resource: str, problem: str) -> None:
        if resource not in self._refused:
            _log.warning("owner details: %s; told without what these know", problem)
        self._refused[resource] = time.monotonic() + REFUSED_SECONDS
        self._queue = OrderedDict((path, kill) for path, kill in self._queue.items() if _resource(path) != resource)


def _path(namespace: str, owner: Owner, revision: str | None) -> str | None:
    """Where the object is; None: there is none for such an owner. A Job has no revision."""
    match owner.kind:
        case "Deployment" if revision:
            api, resource, name = "apps/v1", "replicasets", f"{owner.name}-{revision}"
        case "StatefulSet" | "DaemonSet" if revision:
            prefix = f"{owner.name}-"
            api, resource, name = "apps/v1", "controllerrevisions", prefix + revision.removeprefix(prefix)
        case "Job":
            api, resource, name = "batch/v1", "jobs", owner.name
        case _:
            return None
    are_names = _NAME.fullmatch(namespace) and _NAME.fullmatch(name)
    return f"/apis/{api}/namespaces/{namespace}/{resource}/{name}" if are_names else None


def _resource(path: str) -> str:
    return path.split("/")[-2]


def parse(document: Mapping[str, object]) -> Detail:
    """A ReplicaSet, a ControllerRevision or a Job."""
    metadata = mapping(document.get("metadata"))
    annotation = mapping(metadata.get("annotations")).get("deployment.kubernetes.io/revision")
    number = document.get("revision", annotation)
    created_at = moment(metadata.get("creationTimestamp"))
    text = str(number) if type(number) in (int, str) else ""
    return Detail(
        number=int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 19 and int(text) > 0 else None,
        created_at=None if created_at is None else created_at.timestamp(),
        owner=_controller(metadata.get("ownerReferences")),
    )


def _controller(references: object) -> Owner | None:
    for reference in mappings(references):
        kind, name = reference.get("kind"), reference.get("name")
        if reference.get("controller") is True and isinstance(kind, str) and isinstance(name, str):
            return Owner(kind=kind, name=name)
    return None
