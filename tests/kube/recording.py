"""A sink that remembers, and what waits for it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from collector.kube.reflector import PodReflector, Timing
from tests.kube.api_server import metadata_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from collector.kube.client import KubeClient

NODE = "node-1"
# Everything that waits waits less; nothing else differs.
QUICK = Timing(start_jitter=0, idle=5, list_end=5, healthy=10, backoff_first=0.002, backoff_most=0.02)


class RecordingSink:
    """Pods by name, as whoever follows the calls must have them, and the calls."""

    def __init__(self) -> None:
        self.pods: dict[str, Mapping[str, object]] = {}
        self.calls: list[str] = []
        self.states: list[tuple[bool, str | None]] = []
        self._listed: set[str] | None = None

    @property
    def names(self) -> list[str]:
        return sorted(self.pods)

    @property
    def lists(self) -> int:
        return self.calls.count("end_list")

    @property
    def up(self) -> bool:
        return bool(self.states) and self.states[-1][0]

    def begin_list(self) -> None:
        self.calls.append("begin_list")
        self._listed = set()

    def put(self, pod: Mapping[str, object]) -> None:
        name = _name(pod)
        self.calls.append(f"put {name}")
        self.pods[name] = pod
        if self._listed is not None:
            self._listed.add(name)

    def end_list(self) -> None:
        self.calls.append("end_list")
        assert self._listed is not None
        self.pods = {name: pod for name, pod in self.pods.items() if name in self._listed}
        self._listed = None

    def delete(self, pod: Mapping[str, object]) -> None:
        name = _name(pod)
        self.calls.append(f"delete {name}")
        self.pods.pop(name, None)

    def state(self, up: bool, reason: str | None) -> None:
        self.states.append((up, reason))


def _name(pod: Mapping[str, object]) -> str:
    return str(metadata_of(dict(pod))["name"])


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.002)


@asynccontextmanager
async def reflecting(client: KubeClient, *, node: str = NODE, timing: Timing = QUICK) -> AsyncIterator[RecordingSink]:
    sink = RecordingSink()
    task = asyncio.create_task(PodReflector(client, node, sink, timing=timing).run())
    try:
        yield sink
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
