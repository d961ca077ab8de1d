"""Files of /proc: what hostile names make of them, other namespaces, and processes that vanish."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from collector.model import MemcgPath
from collector.processes.hints import INCOMPLETE
from collector.processes.proc_files import (
    ProcessFiles,
    absolute_memcg,
    list_processes,
    namespace_root_from,
    parse_is_init,
    parse_memcg,
    parse_stat,
)
from tests.processes.fake_proc import A, FakeProc
from tests.processes.test_hints import GO_NOTE, elf

ROOT = MemcgPath("/")
REST = b" S 7 845 845 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"


@pytest.mark.parametrize(
    ("comm", "expected"),
    [
        pytest.param(b"java", "java", id="plain"),
        pytest.param(b"a) R 1 (b", "a) R 1 (b", id="imitates the fields behind it"),
        pytest.param(b") S 1 1 1 1 1 ", ") S 1 1 1 1 1 ", id="ends as a comm ends"),
        pytest.param(b"a\nb c", "a\nb c", id="line break"),
        pytest.param(b"ab\xff\xfe", "ab\ufffd\ufffd", id="not UTF-8, as the kernel log's record is decoded"),
        pytest.param(b"", "", id="empty"),
        pytest.param("nöde".encode(), "nöde", id="UTF-8"),
    ],
)
def test_stat(comm: bytes, expected: str) -> None:
    assert parse_stat(b"845 (" + comm + b")" + REST) == (expected, b"S", 7, 4242)


@pytest.mark.parametrize("stat", [b"", b"845 (java", b"845 (java) S 1", b") (", b"845"])
def test_stat_that_is_none(stat: bytes) -> None:
    with pytest.raises(ProcessLookupError):
        parse_stat(stat)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(b"Name:\tx\nNSpid:\t845\t1\nNSpgid:\t1\t9\n", True, id="container's PID 1"),
        pytest.param(b"Name:\tx\nNSpid:\t845\t12\n", False, id="container's other process"),
        pytest.param(b"Name:\tx\nNSpid:\t1\n", False, id="the host's init"),
        pytest.param(b"Name:\tx\nNSpid:\t845\t12\t1\n", True, id="PID 1 of a pod in a pod"),
        pytest.param(b"Name:\tx\\nNSpid:\t845\t1\nNSpid:\t845\n", False, id="a name that imitates the line"),
        pytest.param(b"Name:\tx\nPid:\t845\n", None, id="a kernel that does not say"),
    ],
)
def test_is_init(status: bytes, expected: bool | None) -> None:
    assert parse_is_init(status) is expected


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        pytest.param(b"0::/kubepods/x\n", "/kubepods/x", id="v2"),
        pytest.param(b"0::/kubepods/x (deleted)\n", "/kubepods/x", id="removed meanwhile"),
        pytest.param(b"9:name=systemd:/s\n4:memory:/m\n0::/u\n", "/m", id="v1: the memory controller's"),
        pytest.param(b"4:memory:/\n0::/u\n", None, id="v1: exiting, or in no cgroup"),
        pytest.param(b"0::/\n", "/", id="v2: in no cgroup"),
        pytest.param(b"9:name=systemd:/s\n0::/u\n", "/u", id="hybrid without it"),
        pytest.param(b"0::/a:b:c\n", "/a:b:c", id="colons, as containerd's mixed drivers write"),
        pytest.param(b"0::/\xff\n", "/\udcff", id="not UTF-8, as the directory is named"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"0::\n", None, id="no path"),
    ],
)
def test_memcg(cgroup: bytes, expected: str | None) -> None:
    assert parse_memcg(cgroup, ROOT) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/", "/kubepods/besteffort/pod1/agent", id="our own"),
        pytest.param("/below", "/kubepods/besteffort/pod1/agent/below", id="below our own"),
        pytest.param("/../other", "/kubepods/besteffort/pod1/other", id="beside us"),
        pytest.param("/../../../burstable/pod2/c", "/kubepods/burstable/pod2/c", id="another pod"),
        pytest.param("/../../../..", "/", id="the root"),
    ],
)
def test_memcg_from_a_private_cgroup_namespace(path: str, expected: str) -> None:
    assert absolute_memcg(path, MemcgPath("/kubepods/besteffort/pod1/agent")) == expected
    assert absolute_memcg(path, None) is None


@pytest.mark.parametrize(
    ("own", "seen", "expected"),
    [
        ("/k/pod1/agent", "/", "/k/pod1/agent"),
        ("/k/pod1/agent", "/agent", "/k/pod1"),
        ("/k", "/k", "/"),
        ("/k/a", "/b", None),
    ],
)
def test_namespace_root(own: str, seen: str, expected: str | None) -> None:
    assert namespace_root_from(MemcgPath(own), seen) == expected


def test_own_process() -> None:
    with ProcessFiles("/proc", os.getpid()) as ourselves:
        sight, ended = ourselves.sight(A)
    assert not ended
    assert sight.comm == Path("/proc/self/comm").read_text().removesuffix("\n")
    assert sight.parent == os.getppid()
    assert time.monotonic() - 3600 < sight.born < time.monotonic()


def test_zombie_and_reaped() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with ProcessFiles("/proc", child.pid) as process:
        assert process.sight(A)[1]
        process.memcg(ROOT)
        assert process.hints() == ()
        child.wait()
        with pytest.raises(OSError, match="No such process"):
            process.sight(A)
    with pytest.raises(FileNotFoundError):
        ProcessFiles("/proc", child.pid)


def test_only_flags_leave_the_command_line_and_the_environment() -> None:
    environment = {"GOMEMLIMIT": "64MiB", "TOKEN": "hunter2"}
    child = subprocess.Popen(["sleep", "60"], env=environment | {"PATH": os.environ["PATH"]})
    try:
        deadline = time.monotonic() + 10
        with ProcessFiles("/proc", child.pid) as process:
            while not (hints := process.hints()) and time.monotonic() < deadline:
                time.sleep(0.01)
        assert hints == ("GOMEMLIMIT=64MiB",)
    finally:
        child.kill()
        child.wait()


def test_go_is_told_by_its_executable(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.add(7, A, cmdline=b"/app\0", environ=b"A=b\0")
    (proc.root / "7/exe").write_bytes(elf((4, GO_NOTE)) + bytes(10_000))
    with ProcessFiles(proc.root, 7) as process:
        assert process.hints() == ("runtime=go",)


def test_flags_in_an_environment_that_cannot_be_read_are_not_ruled_out(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.add(7, A, cmdline=b"java\0-Xmx1g\0", environ=b"A=b\0")
    with ProcessFiles(proc.root, 7) as process:
        assert process.hints() == ("runtime=java", "-Xmx1g")
        (proc.root / "7/environ").unlink()
        assert process.hints() == ("runtime=java", "-Xmx1g", INCOMPLETE)


def test_long_environment_is_read_in_pieces(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.add(7, A, environ=b"SERVICE_HOST=x\0" * 5000 + b"GOGC=50\0")
    with ProcessFiles(proc.root, 7) as process:
        assert process.hints() == ("GOGC=50",)


def test_processes_of_nested_cgroups_and_of_none(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.list(A, 1, 0, 2)
    proc.list(f"{A}/init.scope", 3)
    proc.list(f"{A}/system.slice/x.service", *range(10_000, 12_000))
    (proc.cgroups / A[1:] / "system.slice/cgroup.procs").write_text("")
    found = dict(list_processes(str(proc.cgroups) + A))
    assert found.keys() == {"", "/init.scope", "/system.slice", "/system.slice/x.service"}
    assert (found[""], found["/init.scope"], len(found["/system.slice/x.service"])) == ([1, 0, 2], [3], 2000)
    assert list(list_processes(f"{proc.cgroups}/gone")) == []
