"""The command `analyze`: streams, exit status, and what is told once."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from collector.analyze import read_timezone, run_analyze
from collector.errors import ConfigError
from tests import lines
from tests.test_log_reader import journal, noise, syslog

SCHEMA = json.loads(files("collector").joinpath("schema/kill-record.schema.json").read_text())
REPOSITORY = Path(__file__).parents[1]
KERNEL_LOGS = REPOSITORY.parent / "shared" / "kernel-logs"
SCORE = REPOSITORY.parent / "shared" / "tools" / "score-kernel-logs"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TerminalInput(io.BytesIO):
    def isatty(self) -> bool:
        return True


def analyze(*names: object, output: str = "json", **kwargs: object) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    status = run_analyze(
        [str(name) for name in names],
        output=output,
        stdout=stdout,
        stderr=stderr,
        **kwargs,  # type: ignore[arg-type]
    )
    return status, stdout.getvalue(), stderr.getvalue()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "messages"
    path.write_bytes(noise(10) + syslog(lines.report()) + noise(10))
    return path


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    path = tmp_path / "quiet"
    path.write_bytes(noise(10))
    return path


def test_json_is_one_valid_document_a_line_and_nothing_else(log: Path) -> None:
    status, out, err = analyze(log)
    (document,) = (json.loads(line) for line in out.splitlines())
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(document)
    assert (status, err) == (0, "")
    assert document["victim"]["pid"] == 257
    assert document["node"] == "web-1"
    assert document["time"] is None


def test_text_begins_with_the_verdict(log: Path) -> None:
    status, out, err = analyze(log, output="text")
    assert (status, err) == (0, "")
    assert "reached its memory limit" in out.splitlines()[0]
    assert "\x1b" not in out


def test_two_incidents_stand_apart(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(syslog(lines.report()) + syslog(lines.report(pid=300), 100))
    _, out, _ = analyze(tmp_path / "log", output="text")
    assert out.count("\n\n") == 1
    assert out.endswith("\n")
    assert not out.endswith("\n\n")


def test_year_and_timezone_give_the_time(log: Path) -> None:
    _, out, _ = analyze(log, timezone="+02:00", year=2024)
    assert json.loads(out)["time"].startswith("2024-06-20T01:00:00")


@pytest.mark.parametrize(
    ("output", "told"), [pytest.param("text", (True, False), id="text"), pytest.param("json", (False, True), id="json")]
)
def test_nothing_found_is_an_answer(quiet: Path, output: str, told: tuple[bool, bool]) -> None:
    status, out, err = analyze(quiet, output=output)
    assert status == 0
    assert ("no OOM kill in 10 lines\n" in out, "no OOM kill in 10 lines\n" in err) == told
    assert not out or output == "text"


@pytest.mark.parametrize("names", [["-"], []])
def test_standard_input(log: Path, names: list[str]) -> None:
    log.write_bytes(gzip.compress(log.read_bytes()))
    with log.open("rb") as stdin:
        status, out, _ = analyze(*names, stdin=stdin)
    assert status == 0
    assert json.loads(out)["victim"]["pid"] == 257


def test_a_terminal_as_input_gets_the_usage() -> None:
    stderr = io.StringIO()
    assert run_analyze([], stdin=TerminalInput(), stdout=io.StringIO(), stderr=stderr) == 2
    assert stderr.getvalue().startswith("usage: oom-collector analyze")


def test_one_unreadable_file_of_several(log: Path, tmp_path: Path) -> None:
    status, out, err = analyze(tmp_path / "missing", log)
    assert status == 1
    assert json.loads(out)["victim"]["pid"] == 257
    assert f"{tmp_path / 'missing'}: No such file or directory" in err


def test_nothing_is_claimed_of_what_could_not_be_read(tmp_path: Path) -> None:
    status, out, err = analyze(tmp_path / "missing", output="text")
    assert (status, out) == (1, "")
    assert "no OOM kill" not in err


def test_what_stands_before_the_damage_is_told(log: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(log.read_bytes() + os.urandom(5000))[:-2000])
    status, out, err = analyze(tmp_path / "cut.gz")
    assert status == 1
    assert json.loads(out)["victim"]["pid"] == 257
    assert "damaged" in err


def test_forged_records_are_counted_and_not_told(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_bytes(lines.raw(lines.kill(), priority=12))
    status, out, err = analyze(tmp_path / "kmsg")
    assert (status, out) == (0, "")
    assert "1 record(s) ignored that tell of an OOM kill" in err


def test_a_kill_in_two_files_is_told_once(log: Path, tmp_path: Path) -> None:
    (tmp_path / "messages.1").write_bytes(noise(99) + log.read_bytes())
    _, out, _ = analyze(log, tmp_path / "messages.1")
    assert len(out.splitlines()) == 1


DMESG = "".join(f"[   12.{index:06d}] {text}\n" for index, text in enumerate(lines.report()) if "\n" not in text)
JOURNAL = "\n".join(json.dumps(entry) for entry in journal(lines.report()))


def test_a_kill_in_two_forms_of_one_boots_log_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "dmesg").write_text(DMESG)
    (tmp_path / "journal").write_text(JOURNAL)
    for order in (("dmesg", "journal"), ("journal", "dmesg")):
        _, out, _ = analyze(*(tmp_path / name for name in order))
        assert len(out.splitlines()) == 1


def test_equal_kills_of_two_boots_are_two(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text(JOURNAL)
    (tmp_path / "other").write_text(JOURNAL.replace("0123456789abcdef", "fedcba9876543210"))
    _, out, _ = analyze(tmp_path / "journal", tmp_path / "other")
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        pytest.param({}, True, id="terminal"),
        pytest.param({"NO_COLOR": "1"}, False, id="NO_COLOR"),
        pytest.param({"NO_COLOR": ""}, True, id="NO_COLOR, empty"),
    ],
)
def test_colour_on_a_terminal(
    log: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stdout = Terminal()
    run_analyze([str(log)], stdout=stdout, stderr=io.StringIO())
    assert ("\x1b[" in stdout.getvalue()) == coloured


def test_a_bar_is_shown_on_a_terminal_and_taken_away(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.analyze._PROGRESS_AFTER_SECONDS", 0)
    stdout, stderr = io.StringIO(), Terminal()
    run_analyze([str(log)], output="json", stdout=stdout, stderr=stderr)
    assert "100%" in stderr.getvalue()
    assert stderr.getvalue().endswith("\r\x1b[K")
    stderr = Terminal()
    monkeypatch.setattr("collector.analyze._PROGRESS_AFTER_SECONDS", 60)
    run_analyze([str(log)], output="json", stdout=stdout, stderr=stderr)
    assert stderr.getvalue() == ""


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reports = (syslog(lines.report(pid=pid), pid * 10) for pid in range(300, 900))
    (tmp_path / "log").write_bytes(b"".join(reports))
    with subprocess.Popen(
        [sys.executable, "-m", "collector", "analyze", "--output", "json", tmp_path / "log"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("name", "hours"), [("UTC", 0), ("+02:00", 2), ("-0330", -3.5)])
def test_timezones(name: str, hours: float) -> None:
    offset = read_timezone(name).utcoffset(None)
    assert offset is not None
    assert offset.total_seconds() == hours * 3600


@pytest.mark.parametrize("name", ["", "Nowhere/Atall", "/etc/passwd", "+99:00", "+2"])
def test_an_unknown_timezone_is_refused(name: str, log: Path) -> None:
    with pytest.raises(ConfigError, match="--timezone"):
        read_timezone(name)
    assert analyze(log, timezone=name)[0] == 2


# What is to be done


GOLDEN = Path(__file__).parent / "golden" / "analyze"


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("fixture", ["6.1-container-systemd", "6.1-node", "6.1-shmem"])
def test_what_a_capture_is_told_as(fixture: str, output: str) -> None:
    """Rewritten with OOM_COLLECTOR_UPDATE_GOLDEN=1."""
    status, out, err = analyze(REPOSITORY / "fixtures" / fixture / "kmsg", output=output)
    assert (status, err) == (0, "")
    if output == "json":
        (document,) = map(json.loads, out.splitlines())
        jsonschema.Draft202012Validator(SCHEMA).validate(document)
        out = json.dumps(document["diagnosis"], indent=1) + "\n"
    golden = GOLDEN / f"{fixture}.{'json' if output == 'json' else 'txt'}"
    if os.environ.get("OOM_COLLECTOR_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(out, encoding="utf-8")
    assert out == golden.read_text(encoding="utf-8")


def dmesg(*seconds: int, memcg: str = lines.CONTAINER) -> str:
    return "".join(
        f"[{at:5d}.{index:06d}] {text}\n"
        for pid, at in enumerate(seconds, start=300)
        for index, text in enumerate(lines.report(pid=pid, memcg=memcg))
        if "\n" not in text
    )


def repeats(*names: object, **kwargs: Any) -> list[int]:
    """Of each incident, in how many kills it is."""
    _, out, _ = analyze(*names, **kwargs)
    found = [json.loads(line)["diagnosis"]["findings"] for line in out.splitlines()]
    return [next((one["kills"] for one in findings if one["kind"] == "repeated"), 1) for findings in found]


def test_kills_that_come_again_are_told_as_such(tmp_path: Path) -> None:
    """Of one pod, whichever its container's id is by now."""
    again = f"{lines.POD}/cri-containerd-{'ab' * 32}.scope"
    (tmp_path / "log").write_text(dmesg(100, 400) + dmesg(900, memcg=again) + dmesg(950, memcg=lines.OTHER))
    assert repeats(tmp_path / "log") == [1, 2, 3, 1]


def test_another_log_without_a_boot_id_may_be_another_machines(tmp_path: Path) -> None:
    service = "/system.slice/app.service"
    (tmp_path / "one").write_text(dmesg(100, 200, memcg=service))
    (tmp_path / "two").write_text(dmesg(300, memcg=service))
    assert repeats(tmp_path / "one", tmp_path / "two") == [1, 2, 1]


def test_seconds_since_boot_are_compared_within_a_boot(tmp_path: Path) -> None:
    """A syslog goes over reboots. With a year its own clock counts."""
    (tmp_path / "syslog").write_bytes(syslog(lines.report()) + syslog(lines.report(pid=300), 100))
    assert repeats(tmp_path / "syslog") == [1, 1]
    assert repeats(tmp_path / "syslog", timezone="UTC", year=2024) == [1, 2]


@pytest.mark.skipif(not SCORE.exists(), reason="the labelled kernel logs are not here")
def test_labelled_kernel_logs(tmp_path: Path) -> None:
    command = tmp_path / "analyze"
    command.write_text(
        f'#!/bin/sh\ncd "{REPOSITORY}" && exec "{sys.executable}" -m collector analyze --output json "$@"\n'
    )
    command.chmod(0o755)
    score = subprocess.run(
        [sys.executable, SCORE, KERNEL_LOGS, "--command", command, "-v"], capture_output=True, text=True, check=False
    )
    assert score.returncode == 0, score.stdout
