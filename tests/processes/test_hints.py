"""Memory flags are kept by an allow-list; everything else in a command line or an environment is somebody's secret."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.processes.hints import HEAD_BYTES, INCOMPLETE, MAX_HINTS, is_go, memory_hints


def nul(*words: str) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


@pytest.mark.parametrize(
    ("cmdline", "environ", "expected"),
    [
        pytest.param(
            nul(
                "/usr/lib/jvm/bin/java",
                "-Xmx512m",
                "-Xms64M",
                "-XX:MaxRAMPercentage=75.0",
                "-Dpassword=hunter2",
                "Main",
            ),
            b"",
            ("runtime=java", "-Xmx512m", "-Xms64M", "-XX:MaxRAMPercentage=75.0"),
            id="java",
        ),
        pytest.param(
            nul(
                "java",
                "-XX:MaxRAM=1g",
                "-XX:MaxDirectMemorySize=64m",
                "-XX:MaxMetaspaceSize=128m",
                "-XX:-UseContainerSupport",
            ),
            b"",
            (
                "runtime=java",
                "-XX:MaxRAM=1g",
                "-XX:MaxDirectMemorySize=64m",
                "-XX:MaxMetaspaceSize=128m",
                "-XX:-UseContainerSupport",
            ),
            id="the JVM's other memory",
        ),
        pytest.param(
            nul("java", "-Xmx1g", "-jar", "a.jar", "-Xmx2g"),
            b"",
            ("runtime=java", "-Xmx1g"),
            id="behind -jar is the program's",
        ),
        pytest.param(
            nul("node", "--max-old-space-size=4096", "server.js"),
            b"",
            ("runtime=node", "--max-old-space-size=4096"),
            id="node",
        ),
        pytest.param(
            nul("node", "--max_semi_space_size", "16", "server.js"),
            b"",
            ("runtime=node", "--max-semi-space-size=16"),
            id="V8's other spelling",
        ),
        pytest.param(nul("nodejs", "--max-old-space-size", "secret"), b"", ("runtime=node",), id="no number follows"),
        pytest.param(
            nul("/opt/app"),
            nul("GOMEMLIMIT=400MiB", "GOGC=off", "API_TOKEN=t0ps3cret"),
            ("GOMEMLIMIT=400MiB", "GOGC=off"),
            id="go",
        ),
        pytest.param(
            nul("sh"),
            nul(
                "A=b",
                "JAVA_TOOL_OPTIONS=-javaagent:/a.jar=key=hunter2 -Xmx1g",
                "NODE_OPTIONS=--require x --max-old-space-size=99",
            ),
            ("JAVA_TOOL_OPTIONS: -Xmx1g", "NODE_OPTIONS: --max-old-space-size=99"),
            id="flags in variables",
        ),
        pytest.param(
            nul("/usr/bin/python3.11", "/usr/local/bin/gunicorn", "-w", "4", "--bind", "x"),
            b"",
            ("runtime=python", "--workers=4"),
            id="gunicorn",
        ),
        pytest.param(nul("uwsgi", "--processes=8"), b"", ("--workers=8",), id="uwsgi"),
        pytest.param(nul("curl", "-w", "4", "-p", "5"), b"", (), id="another program's -w"),
        pytest.param(
            nul("x"),
            nul("WEB_CONCURRENCY=3", "MALLOC_ARENA_MAX=2"),
            ("WEB_CONCURRENCY=3", "MALLOC_ARENA_MAX=2"),
            id="variables",
        ),
        pytest.param(nul("x"), nul("MYGOGC=50", "XGOMEMLIMIT=1"), (), id="names that only end so"),
        pytest.param(nul("x"), nul("PASSWORD=GOGC=50"), (), id="a value that looks like a variable"),
        pytest.param(
            nul("x"),
            nul("GOGC=hunter2", "GOMEMLIMIT=1GiB;curl", "WEB_CONCURRENCY=" + "9" * 30),
            (),
            id="values that are none",
        ),
        pytest.param(nul("sh", "-c", "java -Xmx1g -Dtoken=x"), b"", (), id="a shell's script"),
        pytest.param(nul("java", "-Xmx1g\n", "-Xmx٣g"), b"", ("runtime=java",), id="line breaks and foreign digits"),
        pytest.param(b"\xff\xfe\0-Xmx1g\0\xff", b"\xff\0GOGC=5", ("-Xmx1g", "GOGC=5"), id="not UTF-8"),
        pytest.param(b"", b"", (), id="a zombie"),
        pytest.param(b"java", b"", ("runtime=java",), id="cut before its end"),
        pytest.param(nul("javac"), b"", (), id="a name that only begins so"),
        pytest.param(
            nul("java", "-cp", "a:b", "-Xmx1g", "--add-opens", "x/y=z", "-Xss2m", "Main", "-Xmx2g"),
            b"",
            ("runtime=java", "-Xmx1g", "-Xss2m"),
            id="behind the main class is the program's",
        ),
        pytest.param(
            nul("java", "-Xmx1g", "-Xmx2g", "-Xmx1g", "-m", "x/y", "-Xmx3g"),
            b"",
            ("runtime=java", "-Xmx2g", "-Xmx1g"),
            id="repeated: the last one counts",
        ),
        pytest.param(
            nul("java", "-XX:MaxRAMFraction=1", "@/etc/jvm.options", "Main"),
            b"",
            ("runtime=java", "-XX:MaxRAMFraction=1", INCOMPLETE),
            id="a file of more flags",
        ),
        pytest.param(
            nul("java", "Main", "@x"),
            nul("JAVA_TOOL_OPTIONS=-Xss1m -XX:Flags=/f", "NODE_OPTIONS=@y"),
            ("runtime=java", "JAVA_TOOL_OPTIONS: -Xss1m", INCOMPLETE),
            id="a file named in a variable",
        ),
        pytest.param(
            nul("node", "--max-old-space-size-percentage=60", "--max_heap_size", "900", "x.js"),
            b"",
            ("runtime=node", "--max-old-space-size-percentage=60", "--max-heap-size=900"),
            id="V8's other bounds",
        ),
    ],
)
def test_hints(cmdline: bytes, environ: bytes, expected: tuple[str, ...]) -> None:
    assert memory_hints(cmdline, environ) == expected


def test_bounded() -> None:
    hints = memory_hints(nul("java", *(f"-Xmx{size}m" for size in range(1000))), b"")
    assert len(hints) == MAX_HINTS
    assert hints[-1] == INCOMPLETE
    assert all(len(hint) < 100 for hint in hints)


def test_what_could_not_be_read_may_hold_flags() -> None:
    assert memory_hints(nul("java", "-Xmx1g"), b"", complete=False) == ("runtime=java", "-Xmx1g", INCOMPLETE)
    assert memory_hints(nul("sh"), b"", complete=False) == ()


def elf(*segments: tuple[int, bytes]) -> bytes:
    """The first page of a 64-bit executable with these program headers, type and content."""
    table = 64
    at = table + 56 * len(segments)
    headers, contents = b"", b""
    for kind, content in segments:
        headers += struct.pack("<IIQQQQQQ", kind, 4, at + len(contents), 0, 0, len(content), len(content), 4)
        contents += content
    return struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0, table, 0, 0, 64, 56, len(segments), 0, 0, 0
    ) + (headers + contents)


GO_NOTE = struct.pack("<III", 4, 8, 4) + b"Go\0\0" + b"build-id"
GNU_NOTE = struct.pack("<III", 4, 8, 3) + b"GNU\0" + b"build-id"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(elf((6, b"x" * 56), (4, GO_NOTE)), True, id="linked by go"),
        pytest.param(elf((4, GNU_NOTE + GO_NOTE)), True, id="linked by gcc, with cgo"),
        pytest.param(elf((4, GNU_NOTE)), False, id="not go"),
        pytest.param(elf((1, GO_NOTE)), False, id="the same bytes, but no note"),
        pytest.param(elf((4, GO_NOTE))[:100], False, id="cut"),
        pytest.param(elf((4, GO_NOTE))[:40], False, id="cut in its header"),
        pytest.param(b"\x7fELF\1\1" + elf((4, GO_NOTE))[6:], False, id="32 bits"),
        pytest.param(b"#!/bin/sh\n" + GO_NOTE, False, id="a script"),
        pytest.param(b"", False, id="not read"),
    ],
)
def test_go_is_proven_by_its_note(head: bytes, expected: bool) -> None:
    assert is_go(head) is expected
    assert memory_hints(nul("app"), b"", head=head) == (("runtime=go",) if expected else ())


def test_python_is_not_go() -> None:
    assert not is_go(Path(sys.executable).read_bytes()[:HEAD_BYTES])


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_head_is_read(rest: bytes, note: bytes) -> None:
    is_go(b"\x7fELF\2\1" + rest)
    is_go(elf((4, note)))


SECRET = "hunter2-S3CRET"
NAMES = st.sampled_from(["GOMEMLIMIT", "GOGC", "JAVA_TOOL_OPTIONS", "NODE_OPTIONS", "PASSWORD", "GUNICORN_CMD_ARGS"])
AROUND = st.sampled_from(
    ["", " ", "=", "-Xmx1g", "-Xmx", "--max-old-space-size=", "-XX:MaxRAM=", "\n", "5", "--workers="]
)


@given(st.lists(st.tuples(NAMES, AROUND, AROUND), max_size=8))
def test_no_secret_gets_through(parts: list[tuple[str, str, str]]) -> None:
    words = [f"{before}{SECRET}{after}" for _, before, after in parts]
    environ = nul(*(f"{name}={word}" for (name, _, _), word in zip(parts, words, strict=True)))
    assert not any("hunter2" in hint or "S3CRET" in hint for hint in memory_hints(nul("gunicorn", *words), environ))
