"""The command `diagnose`: the history of a container's memory in, why it was killed or whether it will be out."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, TextIO

from collector.diagnosis.diagnose import diagnose
from collector.diagnosis.lives import growths_of
from collector.diagnosis.model import Diagnosis, Facts, Judgement, MemoryHistory, Pattern
from collector.diagnosis.pattern import NEAR
from collector.diagnosis.timeline import Timeline
from collector.diagnosis.to_json import to_json
from collector.errors import SourceError
from collector.log_file import open_log
from collector.model import Cause, Process
from collector.text import printable, to_line
from collector.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

USAGE = "usage: oom-collector diagnose [--output text|json] [--limit BYTES] [HISTORY.jsonl | -]"

_LONGEST_LINE = 1 << 20
_CALENDAR = range(946_684_800, 4_102_444_800)
"""Seconds that are taken for a time of Unix: from 2000 to 2100."""


def run_diagnose(
    name: str | None,
    *,
    output: str = "text",
    limit_bytes: int | None = None,
    stdin: BinaryIO | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """
    Tell what a history shows, `-` or none being standard input; returns the exit status.

    output: `text` or `json`. limit_bytes: of the container, whatever its samples say.
    """
    stdin, stdout, stderr = stdin or sys.stdin.buffer, stdout or sys.stdout, stderr or sys.stderr
    if name is None and stdin.isatty():
        stderr.write(f"{USAGE}\n")
        return 2
    name = name or "-"
    shown = "standard input" if name == "-" else name
    reader = _Reader(Timeline(limit_bytes=limit_bytes))
    try:
        with open_log(name, stdin) as log:
            for line in _lines(log.blocks()):
                reader.read(line)
        history = reader.history(shown)
    except SourceError as error:
        stderr.write(f"oom-collector: {printable(str(error))}\n")
        return 1
    for notice in reader.notices():
        stderr.write(f"oom-collector: {printable(shown)}: {notice}\n")
    diagnosis = diagnose_history(history)
    if output == "json":
        stdout.write(to_line(to_json(diagnosis)) + "\n")
    else:
        width = shutil.get_terminal_size().columns if stdout.isatty() else None
        stdout.write("\n".join(_text(history, diagnosis, width)) + "\n")
    stdout.flush()
    return 0


def read_history(lines: Iterable[str | bytes], *, limit_bytes: int | None = None) -> MemoryHistory:
    """Raises SourceError where there is none in them."""
    reader = _Reader(Timeline(limit_bytes=limit_bytes))
    for line in lines:
        reader.read(line)
    return reader.history("history")


def diagnose_history(history: MemoryHistory) -> Diagnosis:
    """What a history alone tells: nothing is known of the process that was killed."""
    cause, victim = history.cause or Cause.UNKNOWN, Process(pid=None, comm=None)
    revisions = tuple(
        # "Rolled out at" is a time that people know.
        growth if int(growth.rolled_out_at or 0) in _CALENDAR else replace(growth, rolled_out_at=None)
        for growth in growths_of(history)
    )
    return diagnose(Facts(cause=cause, victim=victim, history=history, revisions=revisions))


class _Reader:
    """Lines in, a history out."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._lines = 0
        self._bad = 0
        self._first_bad = ""
        self._last_is_bad = False

    def read(self, line: str | bytes) -> None:
        line = line.strip()
        if not line:
            return
        self._lines += 1
        try:
            row = json.loads(line)
            reason = "no object" if not isinstance(row, dict) else "" if self._timeline.add(row) else "no sample"
        except (ValueError, RecursionError) as error:
            reason = f"no JSON: {error}"
        self._last_is_bad = bool(reason)
        if reason:
            self._bad += 1
            self._first_bad = self._first_bad or f"line {self._lines} is {reason}"

    def history(self, name: str) -> MemoryHistory:
        """Raises SourceError where most lines are no samples: then it is something else."""
        history = self._timeline.history()
        if not self._lines:
            raise SourceError(f"{name}: empty: one sample a line is wanted, as JSON")
        if history is None or self._bad * 2 > self._lines:
            raise SourceError(f"{name}: no history: {self._first_bad or 'no sample with a time and working_set_bytes'}")
        if self._timeline.disordered * 2 > self._timeline.samples:
            raise SourceError(f"{name}: its times run backwards: sort it by `time`")
        return history

    def notices(self) -> Iterator[str]:
        if self._bad == 1 and self._last_is_bad:
            yield f"its last line is left out, as it was cut: {self._first_bad}"
        elif self._bad:
            yield f"{self._bad} of {self._lines} lines left out: {self._first_bad}"
        if self._timeline.disordered:
            yield f"{self._timeline.disordered} samples left out: their times run backwards"


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Raises SourceError for a line that cannot be a sample."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        if len(rest) > _LONGEST_LINE:
            raise SourceError("a line of more than 1 MiB is no sample")
    yield rest


# Words


def _text(history: MemoryHistory, diagnosis: Diagnosis, width: int | None) -> Iterator[str]:
    judgement = diagnosis.judgement
    yield from _wrap(f"{_VERDICTS[judgement.pattern]} (confidence {judgement.confidence:.0%})", width)
    for label, text in _figures(history, diagnosis):
        yield f"  {label:<15}{text}"
    sections = (
        ("why", judgement.reasons),
        ("missing", judgement.missing),
        ("findings", [finding.text for finding in diagnosis.findings]),
    )
    for label, texts in sections:
        yield from _section(label, texts, width)
    for number, advice in enumerate(diagnosis.advice, start=1):
        yield from _section("what to do" if number == 1 else "", [f"{number}. {advice.text}"], width)
        if advice.command:
            yield from (f"{'':<20}{printable(line)}" for line in advice.command.splitlines())


_VERDICTS = {
    Pattern.STARTUP: "Killed at its start: the limit never fitted",
    Pattern.LIMIT_TOO_LOW: "Killed without growth: its limit is too low for what it always uses",
    Pattern.LEAK: "It leaks: its memory grows steadily and does not level off",
    Pattern.SPIKE: "Killed by a jump far above what it used before",
    Pattern.NODE_PRESSURE: "Killed because the node, or what its pods may use together, was full",
    Pattern.CALM: "Calm: no growth that would meet the limit",
    Pattern.UNKNOWN: "Not known: the history does not show it",
}


def _figures(history: MemoryHistory, diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    judgement = diagnosis.judgement
    last = history.last.points[-1]
    if judgement.growth_bytes_per_hour is not None:
        yield "growth", f"{human_bytes(round(judgement.growth_bytes_per_hour))}/h"
    if judgement.growth_since is not None:
        yield "since", _when(judgement.growth_since, last.time)
    if judgement.seconds_to_limit is not None and not history.last.killed:
        yield "limit met in", human_seconds(judgement.seconds_to_limit)
    if judgement.limit_bytes is not None:
        yield "limit", human_bytes(judgement.limit_bytes)
    if judgement.steady_bytes is not None:
        yield "usual use", human_bytes(judgement.steady_bytes)
    if judgement.peak_bytes is not None:
        yield "peak", _peak(judgement)


def _peak(judgement: Judgement) -> str:
    peak, limit = judgement.peak_bytes or 0, judgement.limit_bytes
    if not judgement.peak_is_cut:
        return human_bytes(peak)
    if limit is None or peak >= NEAR * limit:
        return f"{human_bytes(peak)}, cut off by the limit"
    return f"{human_bytes(limit)}, cut off by the limit; {human_bytes(peak)} in the samples"


def _when(at: float, last: float) -> str:
    before = f"{human_seconds(last - at)} before the last sample"
    if int(at) not in _CALENDAR:
        return before
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC, {before}"


def _section(label: str, texts: Iterable[str], width: int | None) -> Iterator[str]:
    for text in texts:
        first, *more = _wrap(printable(text), None if width is None else width - 17)
        yield f"  {label:<15}{first}"
        yield from (f"{'':<17}{line}" for line in more)
        label = ""


def _wrap(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width, 24)) or [text]
