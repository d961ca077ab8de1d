"""`diagnose` as a shell sees it: any history is answered, anything else refused with its reason."""

from __future__ import annotations

import gzip
import io
import json
import math
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, cast

import pytest

from collector.cli import main
from collector.diagnose import read_history, run_diagnose
from collector.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
BEGIN = 1_760_000_000


def lines(count: int = 300, *, rate: float = 2.0, kill: bool = False, begin: float = BEGIN) -> list[str]:
    """A leak of so many MiB a minute."""
    rows: list[dict[str, object]] = [
        {
            "time": begin + 60 * at,
            "working_set_bytes": int((100 + rate * at + math.sin(at)) * MIB),
            "limit_bytes": 700 * MIB,
        }
        for at in range(count)
    ]
    rows[0]["event"] = "start"
    if kill:
        rows[-1]["event"] = "oom_kill"
    return [json.dumps(row) for row in rows]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "history.jsonl"
    found.write_text("\n".join(lines()) + "\n")
    return found


def run(content: bytes | str, **options: int | str) -> tuple[int, str, str]:
    content = content.encode() if isinstance(content, str) else content
    out, err = io.StringIO(), io.StringIO()
    with TemporaryFile() as stdin:
        stdin.write(content)
        stdin.seek(0)
        status = run_diagnose(
            "-",
            output=str(options.get("output", "json")),
            limit_bytes=cast("int | None", options.get("limit_bytes")),
            stdin=cast("BinaryIO", stdin),
            stdout=out,
            stderr=err,
        )
    return status, out.getvalue(), err.getvalue()


def test_json_is_one_object_with_the_promised_keys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--output", "json", str(file)]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    promised = {"pattern", "confidence", "growth_bytes_per_hour", "growth_since", "seconds_to_limit", "findings"}
    assert promised | {"advice"} <= set(told)
    assert (told["pattern"], told["growth_since"]) == ("leak", BEGIN)
    assert told["growth_bytes_per_hour"] == pytest.approx(120 * MIB, rel=0.02)
    assert told["seconds_to_limit"] == pytest.approx(60, rel=1)
    assert all({"action", "text"} <= set(step) for step in told["advice"])
    assert (shown.out.count("\n"), shown.err) == (1, "")


def test_text_is_the_verdict_and_its_numbers(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(file)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "It leaks: its memory grows steadily and does not level off (confidence 60%)"
    told = {line[2:17].strip(): line[17:] for line in shown[1:] if line[2:17].strip()}
    assert told["since"] == "2025-10-09 08:53:20 UTC, 5.0 h before the last sample"
    assert told["growth"].startswith(("120", "119"))
    assert told["limit met in"] == "65 s" or told["limit met in"].endswith("s")
    assert told["what to do"].startswith("1. ")


def test_a_clock_that_is_no_calendar_gives_no_date() -> None:
    _, out, _ = run("\n".join(lines(begin=5)), output="text")
    assert "5.0 h before the last sample" in out
    assert "UTC" not in out


@pytest.mark.parametrize("limit", [900 * MIB, 4000 * MIB])
def test_the_limit_may_be_given(limit: int) -> None:
    _, out, _ = run("\n".join(lines()), limit_bytes=limit)
    told = json.loads(out)
    assert told["limit_bytes"] == limit
    assert told["seconds_to_limit"] == pytest.approx((limit / MIB - 700) / 2 * 60, rel=0.02)


def test_standard_input_and_gzip(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "history.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert main(["diagnose", "--output", "json", str(packed)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(run(file.read_bytes())[1])


TORN = '{"time": 1760018000, "working_set_by'


@pytest.mark.parametrize(
    ("content", "notice"),
    [
        pytest.param("\n".join(lines()), "", id="no end of line"),
        pytest.param("\r\n".join(lines()) + "\r\n\r\n", "", id="of another system"),
        pytest.param("\ufeff" + "\n".join(lines()), "", id="with a byte-order mark"),
        pytest.param("\n".join([*lines(), TORN]), "its last line is left out, as it was cut", id="torn"),
        pytest.param("\n".join([TORN, *lines(), "[]", "1"]), "3 of 303 lines left out: line 1 is no JSON", id="bad"),
        pytest.param("\n".join([*lines(), lines()[7]]), "1 samples left out: their times run", id="an old sample"),
        pytest.param("\n".join([*lines(), '{"time": NaN, "working_set_bytes": 1}']), "last line", id="NaN"),
        pytest.param("\n".join([*lines(), "[" * 99999]), "last line", id="deep"),
        pytest.param("\n".join([*lines(), '{"time": ' + "9" * 9999 + "}"]), "last line", id="a huge number"),
    ],
)
def test_what_is_readable_is_told(content: str, notice: str) -> None:
    status, out, err = run(content)
    assert (status, json.loads(out)["pattern"]) == (0, "leak")
    assert (notice in err) if notice else not err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("\n\n", "empty", id="blank"),
        pytest.param("hello\n", "line 1 is no JSON", id="text"),
        pytest.param("{}\n", "line 1 is no sample", id="no sample"),
        pytest.param("[]\n", "line 1 is no object", id="no object"),
        pytest.param('{"event": "start", "time": 1}', "no sample", id="an event alone"),
        pytest.param("\n".join([*["x"] * 20, *lines(10)]), "line 1 is no JSON", id="mostly something else"),
        pytest.param("\n".join(reversed(lines())), "sort it by `time`", id="the last one first"),
        pytest.param(b"\x00" * 3_000_000, "no sample", id="one endless line"),
        pytest.param(b"\x28\xb5\x2f\xfd....", "zstd", id="zstd"),
    ],
)
def test_what_is_no_history_is_refused_with_its_reason(content: bytes | str, reason: str) -> None:
    status, out, err = run(content)
    assert (status, out) == (1, "")
    assert err.startswith("oom-collector: ")
    assert reason in err
    assert "Traceback" not in err


def test_no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "/nowhere/\x1b[2J"]) == 1
    assert capsys.readouterr().err == "oom-collector: /nowhere/\\x1b[2J: No such file or directory\n"


@pytest.mark.parametrize("limit", ["0", "-1", "1Gi", "", str(1 << 62)])
def test_a_limit_is_a_number_of_bytes(limit: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", f"--limit={limit}", str(file)])
    assert ended.value.code == 2
    assert "bytes" in capsys.readouterr().err


def test_names_in_a_history_drive_no_terminal() -> None:
    rows = [json.loads(line) | {"revision": "\x1b[2J\u202e"} for line in lines(kill=True)]
    _, out, _ = run("\n".join(map(json.dumps, rows)), output="text")
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_a_history_is_read_from_lines() -> None:
    assert len(read_history(lines(20)).last.points) == 20
    with pytest.raises(SourceError, match="empty"):
        read_history([])


@pytest.mark.parametrize("begin", [BEGIN, 5.0], ids=["time of Unix", "another clock"])
def test_growth_is_tied_to_the_revision_that_began_it(begin: float) -> None:
    flat = [json.loads(line) | {"revision": "41"} for line in lines(600, rate=0, begin=begin)]
    leaking = [json.loads(line) | {"revision": "42"} for line in lines(290, kill=True, begin=begin + 36_000)]
    status, out, _ = run("\n".join(map(json.dumps, flat + leaking)))
    (found,) = [one for one in json.loads(out)["findings"] if one["kind"] == "rollout"]
    assert status == 0
    assert (found["revision"], found["former_revision"]) == ("42", "41")
    assert found["growth_bytes_per_hour"] == pytest.approx(120 * MIB, rel=0.05)
    assert (found["evidence"], found["kills"]) == (["revisions", "history"], 1)
    assert found["rolled_out_at"] == (begin + 36_000 if begin == BEGIN else None)

    _, out, _ = run("\n".join(map(json.dumps, leaking)))
    assert [one for one in json.loads(out)["findings"] if one["kind"] == "rollout"] == []
