"""
An hour in seconds: an event loop whose clock skips ahead to the next timer when all of its tasks wait.

Everything that talks has to run in this one loop, over loopback, and by addresses: a thread that looks up a name would
be waited for by nobody.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

Result = TypeVar("Result")

# What loopback carries may be left to another thread of the kernel.
_SETTLE_SECONDS = 0.0001


class _Clock:
    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        time.sleep(_SETTLE_SECONDS)
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None:
            self._clock.now += timeout
        return ready


def run(main: Coroutine[object, object, Result]) -> Result:
    """As asyncio.run(); time.monotonic() and the loop's time are the clock that skips."""
    clock = _Clock()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector(clock))) as runner, _patched(clock):
        return runner.run(main)


@contextmanager
def _patched(clock: _Clock) -> Iterator[None]:
    real, time.monotonic = time.monotonic, clock
    try:
        yield
    finally:
        time.monotonic = real
