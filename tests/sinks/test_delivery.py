"""What is sent, in which order, how often, and what becomes of what cannot be sent."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from collector.sinks.delivery import Delivery, RefusedError, Timing, UnavailableError
from collector.sinks.letter import Letter
from collector.sinks.limits import Limits, TokenBucket
from tests.sinks.letters import KILLED_AT, MemoryOutbox, document, letter, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FAST = Timing(first_pause=0.001, longest_pause=0.004, aside=0.05, send=0.5)
ROOMY = timedelta(hours=1)


class Place:
    """
    answers: which error a letter of a key meets, and how often, -1 for ever. down: what the first tries meet, up to the
    one that is `up_from`, counted from 1.
    """

    name = "place"

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.counts: list[int] = []
        self.tries: list[str] = []
        self.answers: dict[str, tuple[Exception, int]] = {}
        self.down: Exception = UnavailableError("connection refused")
        self.up_from = 0
        self.hangs = False

    def object_of(self, letter: Letter) -> str:
        return letter.key.partition("/")[0]

    async def send(self, letter: Letter) -> None:
        self.tries.append(letter.key)
        is_down = len(self.tries) < self.up_from
        if self.hangs:
            await asyncio.sleep(3600)
        await asyncio.sleep(0)
        if is_down:
            raise self.down
        if letter.key in self.answers:
            error, times = self.answers[letter.key]
            self.answers[letter.key] = error, times - 1
            if times:
                raise error
        self.taken.append(letter.key)
        self.counts.append(letter.count)


def note(key: str, *, at: datetime = KILLED_AT, **changes: Any) -> Letter:
    return replace(letter(at=at), key=key, ids=(f"{key} {at.isoformat()} {changes.pop('n', '')}",), **changes)


@asynccontextmanager
async def running(
    place: Place,
    outbox: MemoryOutbox,
    *,
    limits: Limits | None = None,
    timing: Timing = FAST,
    now: datetime = KILLED_AT,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Delivery]:
    options: dict[str, Any] = {} if clock is None else {"clock": clock}
    delivery = Delivery(
        place, outbox, max_age=ROOMY, limits=limits, timing=timing, now=lambda: now, jitter=lambda: 1.0, **options
    )
    task = asyncio.create_task(delivery.run())
    try:
        yield delivery
        assert not task.done(), "run() ends by cancellation alone"
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is not None:
            raise AssertionError from task.exception()


async def test_in_order_and_each_removed_once() -> None:
    place, outbox = Place(), MemoryOutbox()
    keys = [str(n) for n in range(45)]  # more than a window
    outbox.put(*map(note, keys))
    async with running(place, outbox):
        await until(lambda: not outbox.waiting)
    assert place.taken == keys
    assert [outcome for _, outcome in outbox.outcomes] == ["delivered"] * 45


async def test_sleeps_until_something_is_released() -> None:
    place, outbox = Place(), MemoryOutbox()
    async with running(place, outbox) as delivery:
        await until(lambda: outbox.reads)
        await asyncio.sleep(0.02)
        assert outbox.reads == 1
        outbox.put(note("a"))
        delivery.wake()
        await until(lambda: place.taken)


async def test_what_is_released_while_a_letter_is_under_way_is_seen() -> None:
    place, outbox = Place(), MemoryOutbox()
    outbox.put(note("a"))
    async with running(place, outbox) as delivery:
        await until(lambda: place.tries)
        outbox.put(note("b"))
        delivery.wake()
        await until(lambda: place.taken == ["a", "b"])


async def test_an_outage_keeps_the_order_and_tells_of_it_once(caplog: pytest.LogCaptureFixture) -> None:
    place, outbox = Place(), MemoryOutbox()
    place.up_from = 40
    outbox.put(*map(note, "abcde"))
    with caplog.at_level(logging.INFO, "collector"):
        async with running(place, outbox) as delivery:
            await until(lambda: len(place.tries) > 20)
            assert not place.taken
            assert delivery.failing == "connection refused"
            await until(lambda: not outbox.waiting)
            assert delivery.failing is None
    assert place.tries[:14] == [*"aaaaaaa", *"ab", *"ac", *"ad", "a"], "one letter alone, then another beside it"
    assert place.taken == list("abcde")
    assert [record.message for record in caplog.records] == [
        "place: connection refused; what is to be sent waits in the outbox",
        "place: delivers again",
    ]


async def test_where_an_outage_ends_between_two_tries_one_letter_is_early() -> None:
    """The price of not being held up. The first letter comes right after it."""
    place, outbox = Place(), MemoryOutbox()
    place.up_from = 41
    outbox.put(*map(note, "abcde"))
    async with running(place, outbox):
        await until(lambda: not outbox.waiting)
    assert place.taken == list("bacde")


@pytest.mark.parametrize("key", ["a", "c"])
async def test_a_letter_that_never_goes_through_holds_up_no_other(key: str) -> None:
    place, outbox, clock = Place(), MemoryOutbox(), [0.0]
    place.answers[key] = UnavailableError("500"), -1
    outbox.put(*map(note, "abcde"))
    async with running(place, outbox, timing=replace(FAST, aside=600.0), clock=lambda: clock[0]) as delivery:
        await until(lambda: len(place.taken) == 4)
        assert place.taken == sorted(set("abcde") - {key})
        # A short outage changes no order: it was tried alone at first.
        first_passed = next(n for n, tried in enumerate(place.tries) if tried > key)
        assert place.tries[:first_passed].count(key) == 8
        assert place.tries.count(key) == 9, "once more, when another went through"
        for _ in range(5):
            delivery.wake()
            await outbox.is_read()
        assert place.tries.count(key) == 9, "set aside"
        clock[0] += 601
        delivery.wake()
        await until(lambda: place.tries.count(key) > 9)
        place.answers.clear()
        await until(lambda: not outbox.waiting)
    assert place.taken[-1] == key


async def test_two_letters_that_never_go_through_hold_up_no_other() -> None:
    place, outbox = Place(), MemoryOutbox()
    for key in "ab":
        place.answers[key] = UnavailableError("500"), -1
    outbox.put(*map(note, "abcde"))
    async with running(place, outbox, timing=replace(FAST, aside=5.0)):
        await until(lambda: sorted(place.taken) == list("cde"))


async def test_a_letter_that_was_set_aside_expires() -> None:
    place, outbox = Place(), MemoryOutbox()
    place.answers["a"] = UnavailableError("500"), -1
    outbox.put(note("a"), note("b"))
    now = [KILLED_AT]
    delivery = Delivery(place, outbox, max_age=ROOMY, timing=FAST, now=lambda: now[0], jitter=lambda: 1.0)
    task = asyncio.create_task(delivery.run())
    await until(lambda: place.taken == ["b"])
    now[0] += timedelta(hours=2)
    await until(lambda: not outbox.waiting)
    task.cancel()
    assert [outcome for _, outcome in outbox.outcomes] == ["delivered", "expired"]


async def test_a_place_that_does_not_answer_is_given_up_for_now() -> None:
    place, outbox = Place(), MemoryOutbox()
    place.hangs = True
    outbox.put(note("a"))
    async with running(place, outbox, timing=replace(FAST, send=0.01)) as delivery:
        await until(lambda: len(place.tries) == 2)
        assert delivery.failing == "no answer within 0 s"
        place.hangs = False
        await until(lambda: place.taken == ["a"])


async def test_a_refused_letter_is_final_and_the_next_goes() -> None:
    place, outbox = Place(), MemoryOutbox()
    place.answers["a"] = RefusedError("403 Forbidden", "no"), -1
    outbox.put(*map(note, "ab"))
    async with running(place, outbox):
        await until(lambda: not outbox.waiting)
    assert [outcome for _, outcome in outbox.outcomes] == ["refused", "delivered"]
    assert place.tries == ["a", "b"]


async def test_a_thousand_refusals_are_two_lines_of_log(caplog: pytest.LogCaptureFixture) -> None:
    place, outbox = Place(), MemoryOutbox()
    clock = [0.0]
    for n in range(1000):
        place.answers[str(n)] = RefusedError("403 Forbidden", f'events "{n}" is forbidden'), -1
        outbox.put(note(str(n)))
    async with running(place, outbox, clock=lambda: clock[0]) as delivery:
        await until(lambda: not outbox.waiting)
        clock[0] += 601
        place.answers["last"] = RefusedError("403 Forbidden", 'events "last" is forbidden'), -1
        outbox.put(note("last"))
        delivery.wake()
        await until(lambda: not outbox.waiting)
    assert [record.message for record in caplog.records] == [
        'place: refused, not sent again: 403 Forbidden: events "0" is forbidden',
        'place: refused, not sent again: 403 Forbidden: events "last" is forbidden'
        " (and 999 more like it since the last such line)",
    ]


@pytest.mark.parametrize("error", [KeyError("cause"), ValueError("no cause"), TypeError("x"), AttributeError("y")])
async def test_a_document_that_cannot_be_put_into_words_does_not_end_the_agent(error: Exception) -> None:
    place, outbox = Place(), MemoryOutbox()
    place.answers["a"] = error, -1
    outbox.put(*map(note, "ab"))
    async with running(place, outbox):
        await until(lambda: not outbox.waiting)
    assert [outcome for _, outcome in outbox.outcomes] == ["refused", "delivered"]


async def test_what_is_too_old_is_given_up_and_counted() -> None:
    place, outbox = Place(), MemoryOutbox()
    outbox.put(
        note("old", at=KILLED_AT - timedelta(hours=1, seconds=1)), note("new", at=KILLED_AT - timedelta(minutes=59))
    )
    async with running(place, outbox):
        await until(lambda: not outbox.waiting)
    assert place.taken == ["new"]
    assert [outcome for _, outcome in outbox.outcomes] == ["expired", "delivered"]


async def test_a_letter_is_as_old_as_its_newest_kill() -> None:
    place, outbox = Place(), MemoryOutbox()
    outbox.put(note("a", at=KILLED_AT - timedelta(hours=2)), note("a", at=KILLED_AT))
    async with running(place, outbox):
        await until(lambda: not outbox.waiting)
    assert place.counts == [2]
    assert [outcome for _, outcome in outbox.outcomes] == ["delivered", "delivered"]


async def test_repeats_beyond_the_tokens_of_an_object_wait_and_are_folded() -> None:
    place, outbox, clock = Place(), MemoryOutbox(), [0.0]
    limits = Limits(per_object=(5, 300.0))
    async with running(place, outbox, limits=limits, clock=lambda: clock[0]) as delivery:
        for n in range(20):
            outbox.put(note("web/app", n=n))
            delivery.wake()
            await outbox.is_read()
            await asyncio.sleep(0.002)
        assert place.counts == [1, 2, 3, 4, 5]
        clock[0] += 300
        delivery.wake()
        await until(lambda: not outbox.waiting)
    assert place.counts == [1, 2, 3, 4, 5, 20]


async def test_an_object_without_tokens_holds_up_no_other() -> None:
    place, outbox = Place(), MemoryOutbox()
    limits = Limits(per_object=(1, 300.0))
    # More of them than a window holds.
    outbox.put(*(note(f"web/{n}") for n in range(100)), note("db/0"))
    async with running(place, outbox, limits=limits):
        await until(lambda: "db/0" in place.taken)
        assert place.taken == ["web/0", "db/0"]
        await asyncio.sleep(0.05)
        assert outbox.reads < 20, "waits for a token without asking again and again"


async def test_the_node_has_its_own_bucket_and_two_sinks_share_it() -> None:
    limits = Limits(per_object=(5, 300.0), per_node=(3, 60.0))
    places, boxes = (Place(), Place()), (MemoryOutbox(), MemoryOutbox())
    for box in boxes:
        box.put(*(note(f"{n}/x") for n in range(4)))
    async with running(places[0], boxes[0], limits=limits), running(places[1], boxes[1], limits=limits):
        await asyncio.sleep(0.05)
    assert len(places[0].taken) + len(places[1].taken) == 3


async def test_a_token_comes_in_time_by_itself() -> None:
    place, outbox = Place(), MemoryOutbox()
    outbox.put(note("web/1"), note("web/2"))
    async with running(place, outbox, limits=Limits(per_object=(1, 0.05))):
        await until(lambda: place.taken == ["web/1", "web/2"])


async def test_a_try_that_failed_costs_no_token() -> None:
    place, outbox = Place(), MemoryOutbox()
    place.answers["web/1"] = UnavailableError("500"), 6
    outbox.put(note("web/1"))
    async with running(place, outbox, limits=Limits(per_object=(1, 300.0))):
        await until(lambda: place.taken == ["web/1"])


async def test_retry_after_is_kept_to_and_bounded() -> None:
    place, outbox = Place(), MemoryOutbox()
    place.answers["a"] = UnavailableError("429", retry_after=86400.0), 1
    outbox.put(note("a"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running(place, outbox, timing=replace(FAST, longest_retry_after=0.1)):
        await until(lambda: place.taken)
    assert 0.1 <= loop.time() - began < 1


async def test_the_pause_grows_to_its_ceiling_with_full_jitter() -> None:
    delivery = Delivery(Place(), MemoryOutbox(), max_age=ROOMY, jitter=lambda: 0.5)
    error = UnavailableError("x")
    assert [delivery._pause(error) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


async def test_after_a_success_the_pause_is_short_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place, outbox = Place(), MemoryOutbox()
    place.answers = {"a": (UnavailableError("x"), 5), "b": (UnavailableError("x"), 1)}
    outbox.put(note("a"), note("b"))
    pauses: list[float] = []

    def noted(delivery: Delivery, error: UnavailableError) -> float:
        pauses.append(pause(delivery, error))
        return 0.0

    pause = Delivery._pause
    monkeypatch.setattr(Delivery, "_pause", noted)
    async with running(place, outbox):
        await until(lambda: not outbox.waiting)
    assert pauses == [0.001, 0.002, 0.004, 0.004, 0.004, 0.001]


async def test_a_cut_off_request_leaves_its_letter_in_the_outbox() -> None:
    place, outbox = Place(), MemoryOutbox()
    place.hangs = True
    outbox.put(note("a"))
    async with running(place, outbox):
        await until(lambda: place.tries)
    assert not outbox.outcomes
    assert [each.key for each in outbox.waiting] == ["a"]


async def test_waking_does_not_cut_a_pause_short() -> None:
    place, outbox = Place(), MemoryOutbox()
    place.down, place.up_from = UnavailableError("503", retry_after=0.1), 1000
    outbox.put(note("a"))
    async with running(place, outbox) as delivery:
        await until(lambda: place.tries)
        for _ in range(20):
            delivery.wake()
            await asyncio.sleep(0)
        assert len(place.tries) == 1


async def test_kinds_of_refusals_without_end_are_said_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """A server may put anything into the reason of its Status."""
    place, outbox = Place(), MemoryOutbox()
    notes = [note(f"{n}") for n in range(300)]
    place.answers = {each.key: (RefusedError(f"403 {each.key}", "no"), -1) for each in notes}
    outbox.put(*notes)
    async with running(place, outbox) as delivery:
        await until(lambda: not outbox.waiting)
    assert len(caplog.records) == delivery._quiet.KINDS + 1
    assert len(delivery._quiet._said) + len(delivery._quiet._unsaid) <= 2 * (delivery._quiet.KINDS + 1)


def test_a_bucket() -> None:
    bucket = TokenBucket(2, 10.0)
    for _ in range(2):
        assert bucket.wait(100.0) == 0.0
        bucket.take()
    assert bucket.wait(100.0) == 10.0
    assert bucket.wait(107.0) == pytest.approx(3.0)
    assert bucket.wait(110.0) == 0.0
    bucket.take()
    assert bucket.wait(10_000.0) == 0.0
    assert bucket.tokens == 2, "no more than the burst"


def test_a_bucket_never_asks_for_a_wait_that_brings_nothing() -> None:
    bucket, now = TokenBucket(5, 300.0), 0.1
    for _ in range(200):
        while wait := bucket.wait(now):
            assert wait > 1e-6
            now += wait
        bucket.take()


def test_buckets_of_objects_that_rest_are_forgotten() -> None:
    limits = Limits(per_object=(5, 300.0), per_node=(10_000, 0.001))
    for n in range(500):
        limits.take(f"pod {n}", now=n * 10.0)
    assert limits.objects <= 31


def test_the_letter_under_test_is_a_real_one() -> None:
    assert letter().document == document()
