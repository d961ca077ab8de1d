"""
Takes letters out of the outbox to one remote place, one at a time and in order, for as long as it takes.

The outbox is on disk: what is not delivered when the agent ends is there at its next start. A letter is removed when
its end is known (`Outcome`); a request that was cut off is repeated, so each sink must bear a repeat.

What waits: a letter whose object, or whose node, has no token now (others pass it); everything while the place does
not answer. No letter holds up the others for ever: see `_Patience`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

from collector.errors import CollectorError
from collector.sinks.letter import Letter
from collector.sinks.limits import Limits

__all__ = [
    "Delivery",
    "Letter",
    "Limits",
    "Outbox",
    "Outcome",
    "RefusedError",
    "RemoteSink",
    "Timing",
    "UnavailableError",
]

_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    DELIVERED = "delivered"
    REFUSED = "refused"
    EXPIRED = "expired"


class RefusedError(CollectorError):
    """The place will never take this letter. `kind` is equal where the cause is (`403 Forbidden`): logged once."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class UnavailableError(CollectorError):
    """Not now: try again, after `retry_after` seconds where the place says so."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Outbox(Protocol):
    def letters(self, sink: str, limit: int) -> list[Letter]:
        """Those that may go, oldest first; equal keys are one letter."""

    def done(self, sink: str, ids: Sequence[str], outcome: str) -> None:
        """Remove and count them, in one transaction."""


class RemoteSink(Protocol):
    @property
    def name(self) -> str: ...

    def object_of(self, letter: Letter) -> str:
        """What its tokens belong to. Raises nothing, whatever the document."""

    async def send(self, letter: Letter) -> None:
        """
        Bears a repeat of what was delivered already.

        Raises RefusedError or UnavailableError.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds."""

    first_pause: float = 1.0
    longest_pause: float = 60.0
    longest_retry_after: float = 600.0
    """A place that asks for more is asked again: a typo there must not silence the node for a day."""
    send: float = 60.0
    """For one letter, beyond the time-outs of the requests that it takes."""
    aside: float = 600.0
    quiet: float = 600.0
    """A refusal of one kind is logged once in so long."""


class _Patience:
    """
    Which letter is at fault, when one fails again and again?

    No answer tells: a place that is down and a place that stumbles over one letter both give 500 or a timeout. So the
    first letter is tried first each time, which keeps the order through an outage; from its `TRIES`th failure on,
    another is tried right after it. Where that one goes through and the first still does not, the first is at fault
    and is set aside for a while.
    """

    TRIES = 8

    def __init__(self, aside_seconds: float) -> None:
        self._aside_seconds = aside_seconds
        self._failures: dict[str, int] = {}
        self._aside: dict[str, float] = {}

    def wait(self, letter: Letter, now: float) -> float:
        """Seconds for which it stays set aside; 0.0: it is not."""
        return max(0.0, self._aside.get(letter.key, 0.0) - now)

    def failed(self, letter: Letter) -> None:
        self._failures[letter.key] = self._failures.get(letter.key, 0) + 1

    def ended(self, letter: Letter) -> None:
        self._failures.pop(letter.key, None)
        self._aside.pop(letter.key, None)

    def probe(self, head: Letter, others: Sequence[Letter]) -> Letter | None:
        """Another to try now; a different one each time, as there may be more than one that never goes through."""
        beyond = self._failures.get(head.key, 0) - self.TRIES
        return others[beyond % len(others)] if others and beyond >= 0 else None

    def set_aside(self, letter: Letter, now: float) -> None:
        self._aside[letter.key] = now + self._aside_seconds


class _Quiet:
    """
    Says the first of a kind, then how many more there were, once in a while. A server may name kinds without end:
    beyond `KINDS`, all others are one.
    """

    KINDS = 32

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def say(self, sink: str, kind: str, message: str, error: BaseException | None = None) -> bool:
        """Whether it was said."""
        now = self._clock()
        if kind not in self._said and len(self._said) >= self.KINDS:
            kind = "others"
        if now - self._said.get(kind, -self._seconds) < self._seconds:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return False
        self._said[kind] = now
        unsaid = self._unsaid.pop(kind, 0)
        more = f" (and {unsaid} more like it since the last such line)" if unsaid else ""
        _log.warning("%s: %s%s", sink, message, more, exc_info=error)
        return True


_WINDOW = 20
_WIDEST_WINDOW = 640

# Of a document that this version cannot put into words: an older agent wrote it, or here is a bug. Raised further it
# would end the agent at each start, as the letter stays in the outbox.
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError)


class Delivery:
    """
    `max_age`: a letter whose newest kill is older than that is not worth sending any more. `limits`: none for sinks
    where one kill is one message.

    run() ends only by cancellation; no letter is lost or marked by that. `failing`: why the place does not take letters
    at this time; None: it does, or was not asked yet.
    """

    def __init__(
        self,
        sink: RemoteSink,
        outbox: Outbox,
        *,
        max_age: timedelta,
        limits: Limits | None = None,
        timing: Timing | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """jitter: a factor from 0 to 1, new at each call."""
        self._sink = sink
        self._outbox = outbox
        self._max_age = max_age
        self._limits = limits
        self._timing = timing or Timing()
        self._now = now
        self._clock = clock
        self._jitter = jitter
        self._released = asyncio.Event()
        self._patience = _Patience(self._timing.aside)
        self._quiet = _Quiet(self._timing.quiet, clock)
        self._pauses = 0
        self._window = _WINDOW
        self._failure_said = False
        self.failing: str | None = None

    def wake(self) -> None:
        """Something was put into the outbox. Does not cut a pause short: the place asked for it."""
        self._released.set()

    async def run(self) -> None:
        while True:
            self._released.clear()
            try:
                idle_for = await self._round()
            except UnavailableError as error:
                await asyncio.sleep(self._pause(error))
                continue
            try:
                async with asyncio.timeout(idle_for):
                    await self._released.wait()
            except TimeoutError:
                pass

    async def _round(self) -> float | None:
        """
        Send what may go now. Returns the seconds until something of the rest may; None: nothing is left.

        Raises UnavailableError.
        """
        letters = self._outbox.letters(self._sink.name, self._window)
        waiting = [letter for letter in letters if not self._expire(letter)]
        waits = []
        for index, letter in enumerate(waiting):
            wait = self._wait(letter)
            if wait > 0:
                waits.append(wait)
                continue
            try:
                await self._send(letter)
            except UnavailableError as error:
                await self._blame(letter, waiting[index + 1 :], error)
                return 0.0
        if len(waits) < len(letters):
            self._window = _WINDOW
            return 0.0
        if len(letters) == self._window < _WIDEST_WINDOW:
            # All of these wait for tokens; others behind them may have some.
            self._window *= 2
            return 0.0
        return min(waits, default=None)

    def _wait(self, letter: Letter) -> float:
        now = self._clock()
        aside = self._patience.wait(letter, now)
        if self._limits is None:
            return aside
        return max(aside, self._limits.wait(self._sink.object_of(letter), now))

    def _expire(self, letter: Letter) -> bool:
        if self._now() - letter.last_at <= self._max_age:
            return False
        self._quiet.say(self._sink.name, "expired", f"not delivered within {self._max_age}, given up: {letter.ids[-1]}")
        self._end(letter, Outcome.EXPIRED)
        return True

    async def _blame(self, head: Letter, others: Sequence[Letter], error: UnavailableError) -> None:
        """Set the head aside if it is at fault. Raises UnavailableError where it is not, or where that is open."""
        probe = self._patience.probe(head, [other for other in others if self._wait(other) <= 0])
        if probe is None:
            raise error
        await self._send(probe)
        if self.failing is not None or self._wait(head) > 0:
            raise error
        try:
            await self._send(head)
        except UnavailableError:
            self._patience.set_aside(head, self._clock())
            message = f"set aside for {self._timing.aside:.0f} s, as others are taken: {head.ids[-1]}"
            self._quiet.say(self._sink.name, "aside", message)
            self._recover()

    async def _send(self, letter: Letter) -> None:
        """Raises UnavailableError."""
        name = self._sink.object_of(letter)
        if self._limits is not None:
            self._limits.take(name, self._clock())
        outcome = Outcome.DELIVERED
        try:
            await self._ask(letter)
            self._recover()
        except RefusedError as error:
            outcome = Outcome.REFUSED
            self._recover()
            self._quiet.say(self._sink.name, error.kind, f"refused, not sent again: {error}")
        except UnavailableError as error:
            if self._limits is not None:
                self._limits.give_back(name)
            self._patience.failed(letter)
            self._fail(str(error))
            raise
        except _UNREADABLE as error:
            outcome = Outcome.REFUSED
            message = f"incident {letter.ids[-1]} cannot be put into words, not sent: {error!r}"
            self._quiet.say(self._sink.name, "unreadable", message, error)
        self._end(letter, outcome)

    async def _ask(self, letter: Letter) -> None:
        try:
            async with asyncio.timeout(self._timing.send):
                await self._sink.send(letter)
        except TimeoutError as error:
            raise UnavailableError(f"no answer within {self._timing.send:.0f} s") from error

    def _end(self, letter: Letter, outcome: Outcome) -> None:
        self._patience.ended(letter)
        self._outbox.done(self._sink.name, letter.ids, outcome)

    def _fail(self, reason: str) -> None:
        if self.failing is None:
            message = f"{reason}; what is to be sent waits in the outbox"
            self._failure_said = self._quiet.say(self._sink.name, "failing", message)
        self.failing = reason

    def _recover(self) -> None:
        if self.failing is not None and self._failure_said:
            _log.info("%s: delivers again", self._sink.name)
        self.failing = None
        self._pauses = 0

    def _pause(self, error: UnavailableError) -> float:
        """Full jitter: agents that an outage stopped together must not come back together."""
        ceiling = min(self._timing.longest_pause, self._timing.first_pause * 2.0 ** min(self._pauses, 32))
        self._pauses += 1
        asked = min(error.retry_after or 0.0, self._timing.longest_retry_after)
        return asked + self._jitter() * ceiling
