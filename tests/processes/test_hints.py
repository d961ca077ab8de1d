"""Memory flags are kept by an allow-list; everything else in a command line or an environment is somebody's secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.processes.hints import MAX_HINTS, memory_hints


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
    ],
)
def test_hints(cmdline: bytes, environ: bytes, expected: tuple[str, ...]) -> None:
    assert memory_hints(cmdline, environ) == expected


def test_bounded() -> None:
    hints = memory_hints(nul("java", *(f"-Xmx{size}m" for size in range(1000))), b"")
    assert len(hints) == MAX_HINTS
    assert all(len(hint) < 100 for hint in hints)


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
