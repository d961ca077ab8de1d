"""The command `analyze`: kernel logs in, what was OOM-killed and why out."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from datetime import UTC, timedelta, tzinfo
from datetime import timezone as fixed_zone
from typing import TYPE_CHECKING, BinaryIO, TextIO
from zoneinfo import ZoneInfo

from collector.diagnosis.diagnose import diagnose
from collector.diagnosis.facts import facts_of_document
from collector.diagnosis.model import Diagnosis, Former
from collector.diagnosis.to_json import to_json
from collector.document import to_document
from collector.errors import ConfigError, SourceError
from collector.log_file import LogFile, open_log
from collector.log_reader import LogReader
from collector.pipeline import Pipeline
from collector.render import render_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from collector.model import Cause, Incident

    _Tell = Callable[[Incident, dict[str, object], Diagnosis], None]

USAGE = "usage: oom-collector analyze [--output text|json] [--timezone TZ] [--year N] [FILE... | -]"

# A log's clock is its own: what comes late in a file is known to come, so waiting costs nothing.
_KILL_LINE_SECONDS = 60.0
_PROGRESS_AFTER_SECONDS = 1.0
_PROGRESS_EVERY_SECONDS = 0.1
_BAR_WIDTH = 30
MAX_FORMER = 50
"""Kills of one cgroup that are remembered."""


def run_analyze(
    files: Sequence[str],
    *,
    output: str = "text",
    timezone: str | None = None,
    year: int | None = None,
    stdin: BinaryIO | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """
    Tell the incidents of these logs, `-` or none being standard input; returns the exit status.

    output: `text` or `json`. timezone (a tz database name or `+02:00`), year: what the logs' stamps leave out.
    """
    stdin, stdout, stderr = stdin or sys.stdin.buffer, stdout or sys.stdout, stderr or sys.stderr
    if not files and stdin.isatty():
        stderr.write(f"{USAGE}\n")
        return 2
    try:
        zone = None if timezone is None else read_timezone(timezone)
    except ConfigError as error:
        stderr.write(f"{error}\n")
        return 2
    analysis = _Analysis(_teller(output, stdout), zone, year, stderr)
    unreadable = [name for name in files or ("-",) if not analysis.read(name, stdin)]
    analysis.conclude(stdout if output == "text" else stderr)
    return 1 if unreadable else 0


def read_timezone(name: str) -> tzinfo:
    """Raises ConfigError where there is no such time zone."""
    offset = re.fullmatch(r"([+-])(\d{2}):?(\d{2})", name)
    try:
        if offset:
            delta = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
            return fixed_zone(-delta if offset[1] == "-" else delta)
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"--timezone: no time zone {name!r} here; write it as +02:00") from error


class _Analysis:
    """What is known across the files of one call."""

    def __init__(self, tell: _Tell, zone: tzinfo | None, year: int | None, stderr: TextIO) -> None:
        self._tell = tell
        self._zone, self._year = zone, year
        self._stderr = stderr
        self._seen = _Seen()
        self._former = _Former()
        self._lines = 0
        self._incidents = 0
        self._files_read = 0

    def read(self, name: str, stdin: BinaryIO) -> bool:
        """False: it could not be read, or not to its end; what was readable is told."""
        self._former.begin_log()
        pipeline = Pipeline(kill_line_seconds=_KILL_LINE_SECONDS)
        reader = LogReader(pipeline, zone=self._zone, year=self._year)
        error: SourceError | None = None
        try:
            with open_log(name, stdin) as log:
                progress = _Progress(log, self._stderr)
                for block in log.blocks():
                    self._tell_new(reader.feed(block), progress)
                    progress.show()
                progress.clear()
        except SourceError as caught:
            error = caught
            self._stderr.write(f"oom-collector: {error}\n")
        self._tell_new(reader.close())
        self._lines += reader.lines
        self._files_read += error is None
        self._note(
            name, pipeline.forged, "record(s) ignored that tell of an OOM kill but were not written by the kernel"
        )
        self._note(name, reader.cut_lines, "line(s) too long and cut")
        return error is None

    def conclude(self, to: TextIO) -> None:
        if not self._incidents and self._files_read:
            to.write(f"no OOM kill in {self._lines} lines\n")

    def _tell_new(self, incidents: Iterable[Incident], progress: _Progress | None = None) -> None:
        for incident in incidents:
            if incident.settled and self._seen.is_new(incident):
                if progress is not None:
                    progress.clear()
                self._incidents += 1
                document = to_document(incident)
                self._tell(incident, document, self._former.diagnose(incident, document))

    def _note(self, name: str, count: int, what: str) -> None:
        if count:
            self._stderr.write(f"oom-collector: {'standard input' if name == '-' else name}: {count} {what}\n")


class _Seen:
    """
    Which incidents were told already.

    One kill in two logs of different forms has two ids, for each form carries something else of it. The kill line's
    words and its microsecond since boot prove that it is the same, unless boot or host differ.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._kills: dict[tuple[int, str], list[tuple[str | None, str | None]]] = {}

    def is_new(self, incident: Incident) -> bool:
        if incident.id in self._ids:
            return False
        self._ids.add(incident.id)
        moment = incident.report.kill_moment
        if moment.monotonic_usec is None:
            return True
        origin = (incident.boot_id, moment.host)
        kills = self._kills.setdefault((moment.monotonic_usec, incident.report.kill_text), [])
        known = any(_agree(origin[0], other[0]) and _agree(origin[1], other[1]) for other in kills)
        kills.append(origin)
        return not known


def _agree(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


class _Former:
    """The kills that were told already, for those that come again; a log has no other history."""

    def __init__(self) -> None:
        self._kills: dict[tuple[object, ...], list[tuple[float, Cause, int | None]]] = {}
        self._of_this_log: set[tuple[object, ...]] = set()

    def begin_log(self) -> None:
        """Where no boot id tells, another log may be of another machine."""
        for whose in self._of_this_log:
            del self._kills[whose]
        self._of_this_log.clear()

    def diagnose(self, incident: Incident, document: Mapping[str, object]) -> Diagnosis:
        """And remember it. Once for each incident, in the order of the log."""
        facts = facts_of_document(document)
        at, whose = _moment(incident), _whose(incident)
        if at is None or whose is None:
            return diagnose(facts)
        kills = self._kills.setdefault(whose, [])
        if incident.boot_id is None:
            self._of_this_log.add(whose)
        former = [Former(at - then, cause, None, limit) for then, cause, limit in reversed(kills) if then <= at]
        kills.append((at, incident.verdict.cause, facts.memory.limit_bytes if facts.memory else None))
        del kills[:-MAX_FORMER]
        return diagnose(replace(facts, former=tuple(former)))


def _moment(incident: Incident) -> float | None:
    """Of one clock for all that _whose() calls the same; None: the log has no such clock."""
    moment = incident.report.kill_moment
    # What names its host is collected, and goes over reboots: there seconds since boot are of any of them.
    if moment.monotonic_usec is not None and (incident.boot_id is not None or moment.host is None):
        return moment.monotonic_usec / 1_000_000
    return incident.time.timestamp() if incident.time else None


def _whose(incident: Incident) -> tuple[object, ...] | None:
    """The same for kills of one cgroup in one boot: a container has another id after its restart, its pod has not."""
    pod, origin = incident.attribution.pod, (incident.boot_id, incident.report.kill_moment.host)
    path = incident.report.oom_memcg if pod is None else pod.uid
    return None if path is None else (*origin, path, incident.report.victim.comm)


def _teller(output: str, stdout: TextIO) -> _Tell:
    if output == "json":

        def tell_json(_: Incident, document: dict[str, object], diagnosis: Diagnosis) -> None:
            document["diagnosis"] = to_json(diagnosis)
            stdout.write(json.dumps(document, separators=(",", ":")) + "\n")
            stdout.flush()

        return tell_json

    colour = stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size().columns if stdout.isatty() else None
    gap = ""

    def tell_text(incident: Incident, _: dict[str, object], diagnosis: Diagnosis) -> None:
        nonlocal gap
        stdout.write(f"{gap}{render_text(incident, diagnosis, colour=colour, width=width)}\n")
        stdout.flush()
        gap = "\n"

    return tell_text


class _Progress:
    """A bar on a terminal, for a log that takes longer than a second."""

    def __init__(self, log: LogFile, stderr: TextIO) -> None:
        self._log, self._stderr = log, stderr
        self._size = log.size if stderr.isatty() else None
        self._next = time.monotonic() + _PROGRESS_AFTER_SECONDS
        self._shown = False

    def show(self) -> None:
        now = time.monotonic()
        if not self._size or now < self._next:
            return
        self._next, self._shown = now + _PROGRESS_EVERY_SECONDS, True
        done = min(1.0, self._log.position / self._size)
        bar = "#" * int(done * _BAR_WIDTH)
        self._stderr.write(f"\r[{bar:<{_BAR_WIDTH}}] {done:4.0%} of {self._size / 2**20:.0f} MiB")
        self._stderr.flush()

    def clear(self) -> None:
        if self._shown:
            self._stderr.write("\r\x1b[K")
            self._shown = False
