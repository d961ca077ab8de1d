"""What `check` says, on trees that are made for it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from collector.check import Row, check_machine, kernel_log_works, render

if TYPE_CHECKING:
    from pathlib import Path


def rows(tmp_path: Path, *, kernel_log: str = "kmsg", environ: dict[str, str] | None = None) -> dict[str, Row]:
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True, exist_ok=True)
    boot_id.write_text("74ab0d27-9555-4c6f-b9b7-2f2ea5ef371e\n")
    found = check_machine(
        kernel_log=kernel_log,
        kmsg_path=tmp_path / "kmsg",
        cgroup_root=tmp_path / "cgroup",
        proc_root=tmp_path / "proc",
        state_dir=tmp_path / "a/b/state",
        environ=environ or {},
    )
    return {row.what: row for row in found}


def test_no_kernel_log_is_the_one_failure(tmp_path: Path) -> None:
    found = rows(tmp_path)
    assert not found["kernel log kmsg"].works
    assert "No such file" in found["kernel log kmsg"].reason
    assert not kernel_log_works(tuple(found.values()))
    os.mkfifo(tmp_path / "kmsg")
    found = rows(tmp_path)
    assert found["kernel log kmsg"].works
    assert kernel_log_works(tuple(found.values()))


def test_a_proc_that_is_not_there_is_said(tmp_path: Path) -> None:
    row = check_machine(
        kernel_log="auto",
        kmsg_path=tmp_path,
        cgroup_root=tmp_path,
        proc_root=tmp_path / "none",
        state_dir=tmp_path,
        environ={},
    )[0]
    assert (row.works, row.fix) == (False, "mount the host's /proc and name it with --proc-root")


@pytest.mark.parametrize(
    ("made", "works", "reason"),
    [
        pytest.param("cgroup.controllers", True, "at ", id="v2"),
        pytest.param("memory/tasks", False, "is cgroup v1", id="v1"),
        pytest.param("other", False, "no cgroups at", id="neither"),
    ],
)
def test_cgroup_version(made: str, works: bool, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "cgroup" / made
    file.parent.mkdir(parents=True)
    file.touch()
    row = rows(tmp_path)["cgroup v2"]
    assert row.works is works
    assert reason in row.reason


def test_the_api_server_is_reached_or_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        assert rows(tmp_path, environ=environ)["Kubernetes API"].works
    refused = rows(tmp_path, environ=environ)["Kubernetes API"]
    assert not refused.works
    assert "Connection refused" in refused.reason
    assert "not in a pod" in rows(tmp_path)["Kubernetes API"].reason


def test_a_state_directory_that_will_be_made_and_one_that_cannot_be(tmp_path: Path) -> None:
    assert rows(tmp_path)["state directory"].reason.endswith("is writable, will be made")
    (tmp_path / "a").write_text("in the way")
    assert not rows(tmp_path)["state directory"].works


def test_every_no_that_can_be_mended_says_how_and_nothing_drives_the_terminal(tmp_path: Path) -> None:
    found = rows(tmp_path, kernel_log="auto")
    assert all(row.works or row.fix for row in found.values())
    text = render([Row(what="x", works=False, reason="\x1b[2J", fix="do"), Row(what="longer", works=True, reason="ok")])
    assert text.splitlines() == [r"x       no   \x1b[2J", "             fix: do", "longer  yes  ok"]
