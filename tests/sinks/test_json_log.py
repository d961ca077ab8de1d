"""Lines on a real pipe."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from collector.sinks.json_log import JsonLog
from collector.text import to_line

if TYPE_CHECKING:
    from pathlib import Path


def test_a_line_is_ascii_and_gives_back_what_was_put_in() -> None:
    document = {"comm": "\x1b[2J\n\x7f\x9b\u202e\u2028 größe"}
    line = to_line(document)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == document


async def test_a_full_pipe_is_waited_for_without_blocking() -> None:
    reading, writing = os.pipe()
    out: list[tuple[str, bool]] = []
    log = JsonLog(writing, on_written=lambda identity, delivered: out.append((identity, delivered)))
    lines = [f'"{n}{"x" * 50_000}"' for n in range(5)]
    for n, line in enumerate(lines):
        log.write(str(n), line)
    await asyncio.sleep(0.05)
    assert out == [("0", True)]
    await log.drain(0.01)
    assert log.pending == 4
    received = b""
    os.set_blocking(reading, False)
    async with asyncio.timeout(5):
        while received.count(b"\n") < 5:
            with suppress(BlockingIOError):
                received += os.read(reading, 65536)
            await asyncio.sleep(0)
    await log.drain(1)
    assert received.decode().splitlines() == lines
    assert out == [(str(n), True) for n in range(5)]
    os.close(reading)
    os.close(writing)


async def test_a_reader_that_leaves_fails_what_is_and_will_be_given() -> None:
    reading, writing = os.pipe()
    out: list[tuple[str, bool]] = []
    log = JsonLog(writing, on_written=lambda identity, delivered: out.append((identity, delivered)))
    os.close(reading)
    log.write("a", "{}")
    log.write("b", "{}")
    await log.drain(1)
    log.write("c", "{}")
    assert log.failed
    assert out == [("a", False), ("b", False), ("c", False)]
    os.close(writing)


async def test_a_regular_file_is_written_at_once(tmp_path: Path) -> None:
    out: list[str] = []
    with (tmp_path / "out").open("wb") as file:
        log = JsonLog(file.fileno(), on_written=lambda identity, _: out.append(identity))
        log.write("a", '"' + "x" * 10_000 + '"')
        assert out == ["a"]
    assert len((tmp_path / "out").read_bytes()) == 10_003
