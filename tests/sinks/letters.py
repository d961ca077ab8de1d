"""Letters, an outbox in memory, and the places that letters are sent to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web
from yarl import URL

from collector.document import to_document
from collector.model import (
    Attribution,
    AttributionMethod,
    Cause,
    Container,
    ContainerId,
    ContainerKind,
    MemcgPath,
    MemoryUse,
    NamesFrom,
    Pod,
    PodUid,
    Process,
    Verdict,
)
from collector.sinks.kube_event import event_key
from collector.sinks.letter import Letter
from tests.reports import KIB, MIB, incident, report

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KILLED_AT = datetime(2026, 11, 21, 10, 20, 16, 123456, tzinfo=UTC)
UID = "6f1f9f3e-0f0e-4f5b-9d2e-2a4c1a7a9b10"
NODE = "worker-1.example"
MEMCG = f"/kubepods/burstable/pod{UID}/{'a' * 64}"


def document(cause: Cause = Cause.CONTAINER_LIMIT, **changes: Any) -> dict[str, Any]:
    """What the journal has of a kill with names. changes: of its top level, where `x__y` is y within x."""
    victim = Process(pid=488, comm="hog", oom_score_adj=984, anon_rss_bytes=500 * MIB, file_rss_bytes=900 * KIB)
    memory = MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB)
    pod = Pod(uid=PodUid(UID), namespace="shop", name="web-7d4b9c-x2x9k")
    container = Container(
        id=ContainerId("a" * 64),
        name="app",
        kind=ContainerKind.APP,
        limit_bytes=512 * MIB,
        request_bytes=256 * MIB,
    )
    made = to_document(
        incident(
            report(victim=victim, memory=memory, oom_memcg=MemcgPath(MEMCG), task_memcg=MemcgPath(MEMCG)),
            attribution=Attribution(
                pod=pod, container=container, method=AttributionMethod.TASK_MEMCG, names_from=NamesFrom.API
            ),
            verdict=Verdict(cause=cause, node_pressure=None, reason="its own limit was hit", evidence=()),
            time=KILLED_AT,
            node=NODE,
            summary="Container app of pod shop/web-7d4b9c-x2x9k reached its memory limit of 512 MiB.",
        )
    )
    for path, value in changes.items():
        *parts, last = path.split("__")
        inner: Any = made
        for part in parts:
            inner = inner[part]
        inner[last] = value
    return made


def letter(made: dict[str, Any] | None = None, *, count: int = 1, at: datetime = KILLED_AT, **changes: Any) -> Letter:
    made = document() if made is None else made
    values: dict[str, Any] = {
        "ids": (str(made["id"]),),
        "key": event_key(made, at),
        "document": made,
        "count": count,
        "first_at": at,
        "last_at": at + timedelta(minutes=count - 1),
        "event_uid": UID,
    }
    return Letter(**{**values, **changes})


class MemoryOutbox:
    """As the store does it: equal keys are one letter with the absolute count; what is done goes and is counted."""

    def __init__(self) -> None:
        self.waiting: list[Letter] = []
        self.outcomes: list[tuple[str, str]] = []
        self.reads = 0
        self._counts: dict[str, int] = {}

    def put(self, *letters: Letter) -> None:
        for each in letters:
            self._counts[each.key] = self._counts.get(each.key, 0) + 1
            self.waiting.append(each)

    async def is_read(self) -> None:
        """Once more than until now."""
        before = self.reads
        await until(lambda: self.reads > before)

    def letters(self, sink: str, limit: int) -> list[Letter]:
        self.reads += 1
        folded: dict[str, Letter] = {}
        for each in self.waiting:
            before = folded.get(each.key)
            folded[each.key] = Letter(
                ids=each.ids if before is None else before.ids + each.ids,
                key=each.key,
                document=each.document,
                count=self._counts[each.key],
                first_at=each.first_at if before is None else before.first_at,
                last_at=each.last_at,
                event_uid=each.event_uid,
            )
        return list(folded.values())[:limit]

    def done(self, sink: str, ids: Sequence[str], outcome: str) -> None:
        self.waiting = [each for each in self.waiting if not set(each.ids) & set(ids)]
        self.outcomes += [(identity, outcome) for identity in ids]


@asynccontextmanager
async def served(app: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Its address, on a port of loopback."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        yield f"{'https' if tls else 'http'}://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def receiving(handle: Handler, path: str = "/{path:.*}") -> AsyncIterator[URL]:
    """The address of a place where `handle` gets whatever is sent to `path`."""
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", path, handle)
    async with served(app) as url:
        yield URL(url)


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (it is a state of many things, which announce nothing)
            await asyncio.sleep(0.002)
