"""The commands as a shell sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from collector import __version__
from collector.cli import main
from collector.config import SETTINGS
from collector.state.batch import Batch, Entry, Retention
from collector.state.store import Store
from tests.reports import incident, report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AT = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)


def journal(directory: Path, *documents: Mapping[str, object]) -> None:
    store = Store(directory, boot_id="boot", retention=Retention(), at=AT)
    entries = [
        Entry(incident=incident(report(), id=str(number)), document=json.dumps(document))
        for number, document in enumerate(documents)
    ]
    store.apply(Batch(at=AT, entries=entries))
    store.close()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"oom-collector {__version__}\n"


@pytest.mark.parametrize("command", ["run", "analyze", "diagnose", "check", "kills", "version"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"oom-collector {command}" in out
    if command == "run":
        assert all(setting.flag in out and setting.variable in out for setting in SETTINGS)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["diagnose", "--limit", "1Gi"],
        ["run", "--no-such-flag"],
        ["run", "--list", "x:1"],
        ["analyze", "--year", "26"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: oom-collector" in capsys.readouterr().err


def test_a_wrong_setting_is_2_and_names_flag_and_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OOM_COLLECTOR_METRICS_HOLD", "soon\x1b[2J")
    assert main(["run"]) == 2
    expected = r"oom-collector: OOM_COLLECTOR_METRICS_HOLD (--metrics-hold): 'soon\x1b[2J' must be seconds, 0 or more"
    assert capsys.readouterr().err == expected + "\n"


def test_kills_is_a_table_newest_first_in_which_nothing_drives_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"time": None, "cause": "unknown", "summary": "Something \x1b[2J\nwas killed."}
    new = {"time": "2026-11-21T04:00:00.123456Z", "cause": "container_limit", "summary": "java was killed."}
    journal(tmp_path, old, new)
    assert main(["kills", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "TIME                  CAUSE             SUMMARY",
        "2026-11-21T04:00:00Z  container_limit   java was killed.",
        r"-                     unknown           Something \x1b[2J\x0awas killed.",
    ]
    assert main(["kills", "--output", "json", "--state-dir", str(tmp_path)]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [new, old]


def test_an_empty_journal_is_an_answer_and_none_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OOM_COLLECTOR_STATE_DIR", str(tmp_path))
    assert main(["kills"]) == 1
    assert "has the agent run with this --state-dir?" in capsys.readouterr().err
    journal(tmp_path)
    assert main(["kills"]) == 0
    assert capsys.readouterr().out == "no OOM kill in the journal\n"


def test_check_is_1_without_a_kernel_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--kernel-log", "kmsg", "--kmsg-path", str(tmp_path / "none"), "--output", "json"]
    assert main(arguments) == 1
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["what"], first["works"]) == ("kernel log kmsg", False)


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    journal(tmp_path, *[{"time": None, "cause": "unknown", "summary": "x" * 500} for _ in range(500)])
    command = [sys.executable, "-m", "collector", "kills", "--state-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(10) == 0


def test_analyze_needs_neither_server_nor_event_loop() -> None:
    code = (
        "import sys, io; from collector.cli import main; status = main(['analyze', '/dev/null']);"
        "print(status, [name for name in ('aiohttp', 'prometheus_client', 'asyncio', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []"
