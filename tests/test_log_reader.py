"""The search in a log: whatever it passes over, the incidents are those of reading every line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector import log_reader
from collector.errors import SourceError
from collector.log_file import open_log
from collector.log_reader import LogReader
from collector.pipeline import Pipeline
from tests import lines

if TYPE_CHECKING:
    from collector.model import Incident

NOISE = b"Jun 20 03:23:46 web-1 app[12]: GET /kill/oom 200, Killed it, will process 5 of 7\n"


def syslog(texts: list[str], second: int = 0) -> bytes:
    stamp = f"Jun 20 {3 + second // 3600:02}:{second // 60 % 60:02}:{second % 60:02} web-1"
    return "".join(
        f"{stamp} kernel: [{second:5d}.{index:06d}] {text}\n"
        for index, text in enumerate(line for text in texts for line in text.split("\n"))
    ).encode()


def noise(count: int, second: int = 0) -> bytes:
    return NOISE.replace(b"03:23:46", b"%02d:%02d:%02d" % (3 + second // 3600, second // 60 % 60, second % 60)) * count


def read(log: bytes, *, block_size: int = 1 << 20, head_size: int = 0) -> list[Incident]:
    reader = LogReader(Pipeline(), head_size=head_size)
    told = []
    for at in range(0, len(log), block_size):
        told += reader.feed(log[at : at + block_size])
    return [incident for incident in [*told, *reader.close()] if incident.settled]


def pids(incidents: list[Incident]) -> list[int | None]:
    return [incident.report.victim.pid for incident in incidents]


SMALL = {"CONTEXT_SIZE": 6000, "HEADER_CONTEXT_SIZE": 500, "AFTERMATH_SIZE": 700, "MAX_LINE": 1500, "_SAMPLE_SIZE": 100}


BETWEEN = (b"", noise(1), b"\n", b"\0" * 20 + b"\n", b"x" * 4000 + b"\n")
PARTS = (slice(None), slice(-1, None), slice(10, None), slice(0, 5), slice(0, -1))


class Episode(NamedTuple):
    """Other lines, then a report or a part of one with lines between its lines."""

    noise_lines: int
    pause_seconds: int
    neighbours: int
    part: int
    between: int
    line_end: bytes


def build(episodes: list[Episode], noise_lines: int) -> bytes:
    log, second = b"", 0
    for pid, episode in enumerate(episodes, 100):
        second += episode.pause_seconds
        texts = lines.report("hog", pid, neighbours=episode.neighbours)[PARTS[episode.part]]
        log += noise(episode.noise_lines, second)
        log += BETWEEN[episode.between].join(syslog([text], second) for text in texts)
        log = log.removesuffix(b"\n") + episode.line_end
    return log + noise(noise_lines, second + 100)


EPISODES = st.builds(
    Episode,
    noise_lines=st.sampled_from([0, 1, 30, 200]),
    pause_seconds=st.sampled_from([0, 1, 3, 100]),
    neighbours=st.sampled_from([0, 3, 30]),
    part=st.integers(0, len(PARTS) - 1),
    between=st.integers(0, len(BETWEEN) - 1),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(EPISODES, max_size=4), st.sampled_from([0, 200]), st.sampled_from([1, 7, 333, 1024, 4099, 1 << 20]))
def test_wherever_the_blocks_end_the_incidents_are_those_of_every_line(
    episodes: list[Episode], noise_lines: int, block_size: int
) -> None:
    log = build(episodes, noise_lines)
    if len(log) > 20_000:
        block_size = max(block_size, 333)
    with mock.patch.dict(vars(log_reader), SMALL):
        every_line = read(log, head_size=len(log) + 1)
        found = read(log, block_size=block_size)
    assert [incident.id for incident in found] == [incident.id for incident in every_line]
    assert [incident.summary for incident in found] == [incident.summary for incident in every_line]


def test_a_dump_without_its_header_is_found_before_the_hit() -> None:
    report = lines.report(neighbours=100)[10:]
    (incident,) = read(noise(5000) + syslog(report) + noise(5000))
    assert len(incident.report.tasks) == 101


def test_a_long_dump_behind_the_header_is_read_to_its_end() -> None:
    (incident,) = read(noise(5000) + syslog(lines.report(neighbours=8000)) + noise(5000))
    assert len(incident.report.tasks) == 8001


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param("Killed process 5 (x) total-vm:4kB, anon-rss:4kB, file-rss:0kB", id="killed"),
        pytest.param("Out of memory: Kill process 5 (x) score 9 or sacrifice child", id="chosen"),
        pytest.param("Task in /docker/a killed as a result of limit of /docker/a", id="task in"),
        pytest.param(lines.summary(), id="summary"),
    ],
)
def test_each_line_that_tells_of_a_kill_is_a_hit(kill: str) -> None:
    assert len(read(noise(5000) + syslog([kill]) + noise(5000))) == 1


def test_most_of_a_log_is_passed_over() -> None:
    with mock.patch("collector.parse.dress.Dress.undress", return_value=None) as undress:
        read(noise(20_000) + syslog([lines.kill()]) + noise(20_000))
    assert undress.call_count < 2_000


def test_a_later_line_of_another_programs_message_is_not_believed_however_far_it_is_from_its_beginning() -> None:
    forged = b"                      x\n" * 10_000 + b"                      " + lines.kill().encode() + b"\n"
    assert read(noise(5000) + forged + noise(5)) == []


@pytest.mark.parametrize(
    ("log", "count"),
    [
        pytest.param(b"", 0, id="empty"),
        pytest.param(b"a", 1, id="no line feed"),
        pytest.param(b"a\nb\n", 2, id="line feeds"),
        pytest.param(b"a\n\nb", 3, id="empty line"),
        pytest.param(noise(500), 500, id="many blocks"),
    ],
)
@pytest.mark.parametrize("block_size", [1, 4096])
def test_lines_are_counted(log: bytes, count: int, block_size: int) -> None:
    reader = LogReader(Pipeline())
    for at in range(0, len(log), block_size):
        reader.feed(log[at : at + block_size])
    reader.close()
    assert reader.lines == count


@pytest.mark.parametrize("line_feed", [b"", b"\n"])
def test_a_line_without_end_is_cut_in_constant_memory(line_feed: bytes) -> None:
    reader = LogReader(Pipeline())
    block = b"x" * (1 << 20)
    reader.feed(syslog([lines.kill()]))
    tracemalloc.start()
    for _ in range(10):
        reader.feed(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    told = [*reader.feed(line_feed + syslog([lines.kill(pid=7)], 100)), *reader.close()]
    assert peak < 4 << 20
    assert reader.cut_lines == 1
    assert [incident.report.victim.pid for incident in told if incident.settled] == ([257, 7] if line_feed else [257])


def test_memory_does_not_grow_with_the_log() -> None:
    reader = LogReader(Pipeline())
    block = noise(13_000)
    reader.feed(block)
    tracemalloc.start()
    for _ in range(10):
        reader.feed(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


def test_a_reboot_settles_what_was_open() -> None:
    log = syslog([lines.kill(pid=5)], 5000) + syslog([lines.kill(pid=6)], 10)
    incidents = read(log)
    assert pids(incidents) == [5, 6]
    assert [incident.process_count for incident in incidents] == [1, 1]


def journal(texts: list[str], *, transport: str = "kernel", facility: int = 0) -> list[dict[str, str]]:
    return [
        {
            "__CURSOR": f"s={index}",
            "_BOOT_ID": "0123456789abcdef0123456789abcdef",
            "_TRANSPORT": transport,
            "SYSLOG_FACILITY": str(facility),
            "_SOURCE_MONOTONIC_TIMESTAMP": str(12_000_000 + index),
            "MESSAGE": text,
        }
        for index, text in enumerate(texts)
    ]


@pytest.mark.parametrize("form", ["json", "json-pretty", "export"])
@pytest.mark.parametrize("block_size", [1000, 1 << 20])
def test_journals(form: str, block_size: int) -> None:
    entries = [
        *journal(["noise"], transport="stdout") * 2000,
        *journal(lines.report()),
        *journal([lines.kill(pid=1)], facility=1),
        *journal([lines.kill(pid=2)], transport="stdout"),
        *journal(["noise"], transport="stdout") * 2000,
    ]
    if form == "export":
        text = "".join(
            "".join(f"{name}={value}\n" for name, value in entry.items() if "\n" not in value) + "\n"
            for entry in entries
        )
    else:
        indent = "\t" if form == "json-pretty" else None
        text = "\n".join(json.dumps(entry, indent=indent) for entry in entries)
    assert pids(read(text.encode(), block_size=block_size)) == [257]


def test_a_message_that_json_writes_as_bytes_is_a_hit() -> None:
    entries: list[dict[str, object]] = [{**journal(["noise"], transport="stdout")[0]}] * 2000
    (kill,) = journal([lines.kill("x")])
    entries.append({**kill, "MESSAGE": list(lines.kill("x").encode().replace(b"(x)", b"(\xff)"))})
    log = "\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries).encode()
    (incident,) = read(log)
    assert incident.report.victim.comm == "\ufffd"


# Files


def content(path: Path, stdin: BinaryIO | None = None) -> bytes:
    with open_log(str(path), stdin or io.BytesIO()) as log:
        return b"".join(log.blocks())


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(lambda data: data, id="plain"),
        pytest.param(gzip.compress, id="gz"),
        pytest.param(lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]), id="gz in two members"),
        pytest.param(lzma.compress, id="xz"),
        pytest.param(bz2.compress, id="bz2"),
        pytest.param(lambda data: data.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be"), id="UTF-16, big endian"),
        pytest.param(lambda data: gzip.compress(data.decode().encode("utf-16")), id="UTF-16 in gz"),
    ],
)
def test_a_file_is_known_by_its_content_not_by_its_name(tmp_path: Path, packed: object) -> None:
    assert callable(packed)
    data = noise(30_000)
    (tmp_path / "messages").write_bytes(packed(data))
    assert content(tmp_path / "messages") == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(gzip.compress(NOISE * 100)[:-20], "damaged", id="cut gz"),
        pytest.param(lzma.compress(NOISE * 100)[:-20], "damaged", id="cut xz"),
        pytest.param(b"\x1f\x8b\x00\x00garbage", "gzipped|method", id="gz in its first bytes only"),
        pytest.param(b"\x28\xb5\x2f\xfd0123", "zstd", id="zstd"),
        pytest.param(b"LPKSHHRH0123", "journalctl", id="binary journal"),
        pytest.param(b"\xff\xfea", "damaged", id="half a UTF-16 character"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(SourceError, match=reason) as caught:
        content(tmp_path / "log")
    assert str(tmp_path / "log") in str(caught.value)


@pytest.mark.parametrize("name", ["", "missing", "a\0b"])
def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"directory|null"):
        content(tmp_path / name)


def test_a_pipe_is_read_as_it_comes() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as writer, os.fdopen(reading, "rb") as pipe:
        writer.write(b"first\n")
        with open_log("-", pipe) as log:
            assert log.size is None
            blocks = log.blocks()
            assert next(blocks) == b"first\n"
            writer.write(b"second\n")
            assert next(blocks) == b"second\n"
