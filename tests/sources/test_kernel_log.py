from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from collector.errors import ConfigError, SourceError
from collector.parse.dress import LogRecord
from collector.sources.base import Cursor
from collector.sources.kernel_log import MAX_DELAY_SECONDS, SourceState, follow, kernel_logs
from tests.sources.recording import RecordingSink, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from collector.sources.base import KernelLog, RecordSink


class ScriptedLog:
    """A log that does at its n-th opening what the n-th step says; the last step is repeated."""

    def __init__(self, name: str, *steps: Callable[[RecordSink], None]) -> None:
        self.name = name
        self._steps = list(steps)
        self.opened_at: list[Cursor | None] = []

    def probe(self) -> None:
        raise NotImplementedError

    async def run(self, sink: RecordSink, cursor: Cursor | None) -> None:
        self.opened_at.append(cursor)
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        step(sink)
        await asyncio.Event().wait()


def refuse(sink: RecordSink) -> None:
    raise SourceError("not permitted")


def work(sink: RecordSink) -> None:
    sink.caught_up()


def deliver_and_die(position: str) -> Callable[[RecordSink], None]:
    def step(sink: RecordSink) -> None:
        sink.push(LogRecord(text=position), live=False)
        sink.caught_up()
        sink.end_of_batch(cursor_at(position))
        raise SourceError("end of file")

    return step


def cursor_at(position: str) -> Cursor:
    return Cursor(source="kmsg", boot_id="b7c2", position=position)


class Following:
    def __init__(self) -> None:
        self.sink = RecordingSink()
        self.states: list[SourceState] = []
        self.delays: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def following(*logs: KernelLog, cursor: Cursor | None = None) -> AsyncIterator[Following]:
    seen = Following()
    task = asyncio.create_task(follow(logs, seen.sink, seen.states.append, cursor=cursor, sleep=seen.sleep))
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def up(source: str, **refused: str) -> SourceState:
    return SourceState(source=source, up=True, refused=tuple(refused.items()))


def down(source: str | None, reason: str | None = None, **refused: str) -> SourceState:
    return SourceState(source=source, up=False, reason=reason, refused=tuple(refused.items()))


async def test_the_first_that_works_is_taken_and_the_others_say_why_not() -> None:
    logs = ScriptedLog("kmsg", refuse), ScriptedLog("syslog", work), ScriptedLog("journald", work)
    async with following(*logs) as seen:
        await until(lambda: bool(seen.states))

    assert seen.states == [up("syslog", kmsg="not permitted")]
    assert logs[2].opened_at == []


async def test_when_none_works_it_says_so_and_tries_again() -> None:
    logs = ScriptedLog("kmsg", refuse, refuse, work), ScriptedLog("syslog", refuse)
    async with following(*logs) as seen:
        await until(lambda: len(seen.states) == 3)

    none = down(None, kmsg="not permitted", syslog="not permitted")
    assert seen.states == [none, none, up("kmsg")]


async def test_a_log_that_dies_is_reported_and_opened_again_behind_what_it_gave() -> None:
    log = ScriptedLog("kmsg", deliver_and_die("7"), deliver_and_die("9"), work)
    async with following(log, cursor=cursor_at("3")) as seen:
        await until(lambda: len(log.opened_at) == 3)

    assert log.opened_at == [cursor_at("3"), cursor_at("7"), cursor_at("9")]
    assert seen.states[:2] == [up("kmsg"), down("kmsg", "end of file")]
    assert seen.sink.texts == ["7", "9"]


async def test_when_the_log_in_use_dies_the_choice_starts_over() -> None:
    kmsg, syslog = ScriptedLog("kmsg", deliver_and_die("7"), refuse, work), ScriptedLog("syslog", deliver_and_die("s"))
    async with following(kmsg, syslog) as seen:
        await until(lambda: len(seen.states) == 5)

    assert [(state.source, state.up) for state in seen.states] == [
        ("kmsg", True),
        ("kmsg", False),
        ("syslog", True),
        ("syslog", False),
        ("kmsg", True),
    ]


async def test_the_cursor_is_given_to_its_own_log_only() -> None:
    kmsg, syslog = ScriptedLog("kmsg", refuse), ScriptedLog("syslog", work)
    async with following(kmsg, syslog, cursor=cursor_at("3")) as seen:
        await until(lambda: bool(seen.states))

    assert (kmsg.opened_at, syslog.opened_at) == ([cursor_at("3")], [None])


async def test_delays_double_up_to_their_bound_with_jitter() -> None:
    async with following(ScriptedLog("kmsg", refuse)) as seen:
        await until(lambda: len(seen.delays) >= 40)

    for number, delay in enumerate(seen.delays):
        bound = min(2**number, MAX_DELAY_SECONDS)
        assert bound / 2 <= delay <= bound
    assert len({round(delay, 6) for delay in seen.delays[8:]}) > 1


async def test_a_long_life_resets_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    start, age = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: start() + age)

    def live_long(sink: RecordSink) -> None:
        nonlocal age
        sink.caught_up()
        age += MAX_DELAY_SECONDS
        raise SourceError("end of file")

    async with following(ScriptedLog("kmsg", refuse, refuse, refuse, refuse, live_long, refuse)) as seen:
        # No timeout: it would run on the same clock.
        while len(seen.delays) < 6:  # noqa: ASYNC110
            await asyncio.sleep(0)

    assert seen.delays[3] >= 4
    assert seen.delays[4] <= 1


async def test_an_error_that_is_no_death_of_a_log_is_not_swallowed() -> None:
    def break_down(sink: RecordSink) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        await follow([ScriptedLog("kmsg", break_down)], RecordingSink(), lambda state: None)


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("auto", ["kmsg", "syslog", "journald"]),
        ("kmsg", ["kmsg"]),
        ("syslog", ["syslog"]),
        ("journald", ["journald"]),
        ("file:/var/log/kern.log", ["file"]),
    ],
)
def test_settings(setting: str, names: list[str]) -> None:
    assert [log.name for log in kernel_logs(setting, boot_id="b7c2")] == names


@pytest.mark.parametrize("setting", ["", "dmesg", "file", "file:", "auto:x"])
def test_an_unknown_setting_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="must be auto, kmsg"):
        kernel_logs(setting, boot_id="b7c2", kmsg_path=Path("/nonexistent"))
