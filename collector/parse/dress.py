"""
One line of a text log -> the kernel record in it, or None where the line is not the kernel's.

What stands before a message is a row of atoms, each of which may be missing, in this order:

    > 12: messages-1: <6> kern :info : Jun 20 03:23:46 host kern.info kernel: [  12.345678@0] [   C1] message
    quote  location  priority  level  stamp           host  level     tag     bracket         caller

The message begins right behind the last atom. It is never searched: whatever a workload gets into a log (its own
lines, a comm, a cgroup's name) stands behind the atoms that its log writer put there. So a line is not believed where
a tag names another program, and a line without atoms continues the one above it: it is as little the kernel's as that.

Sources of the forms: util-linux dmesg.c; systemd src/shared/logs-show.c; RFC 3164 and 5424; rsyslog's templates;
kernel/printk/printk.c (print_syslog, print_time, print_caller); busybox sysklogd; talosctl dmesg; netconsole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from collector.parse.kmsg import unescape

_USEC = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FACILITIES = {
    name: number
    for number, name in enumerate(
        ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
    )
} | {f"local{number}": 16 + number for number in range(8)}
_FACILITY = "|".join(_FACILITIES)
_LEVEL = "emerg|alert|crit|err(?:or)?|warn(?:ing)?|notice|info|debug"

# Month names begin so in English, German, French, Spanish, Portuguese, Italian, Dutch, Polish, Czech, Russian, ...
# A name that is not here leaves the time unknown, nothing else.
_MONTHS = tuple(
    tuple(names.split())
    for names in (
        "jan ene gen янв sty led січ oca sau tam",
        "feb fév fev fév lut úno фев лют şub hel",
        "mar mär mrt már бер мар bře maa",
        "apr avr abr kwi dub апр кві nis huh",
        "may mai mag mei maj máj kvě май мая тра tou",
        "jun juin giu cze čvn červn июн чер haz kes",
        "jul juil lug lip čvc červc июл лип tem hei",
        "aug aoû ago sie srp авг сер ağu elo",
        "sep set wrz zář сен вер eyl syy",
        "oct okt out ott paź říj окт жов eki lok",
        "nov noi lis ноя kas mar",
        "dec déc dez dic gru pro дек гру ara jou",
    )
)

_CLOCK = r"(?P<{0}hour>\d{{1,2}}):(?P<{0}minute>\d{{2}}):(?P<{0}second>\d{{2}})(?:[.,](?P<{0}fraction>\d{{1,9}}))?"
_WORD = r"[^\s\d:;,()\[\]<>=/#\"']{1,12}"
_MONTH = rf"(?:\d{{1,2}}[月월]|{_WORD})"
_ISO = (
    r"(?:(?P<weekday>"
    + _WORD
    + r") )?(?P<year>\d{4})[-/](?P<month>\d{2})[-/](?P<day>\d{2})[T ]"
    + _CLOCK.format("iso_")
    + r"(?: ?(?P<offset>Z|UTC|[+-]\d{2}:?\d{2})(?![\w:-])|(?(weekday) (?P<zone>[A-Z]{1,5}|[+-]\d{2})(?= )))?"
)
# `Jun 20 03:23:46`, `20 juin 03:23:46`, `二 9月  3 05:57:48 2024`: which word is what is found out in _read_date.
_CLASSIC = (
    rf"(?P<date>(?:{_WORD},? +)?(?:{_MONTH}\.? +\d{{1,2}}|\d{{1,2}}\.? +{_MONTH})(?:,? +\d{{4}})?) +"
    + _CLOCK.format("")
    + r"(?P<date_end>(?: +\d{4})?)(?: +(?P<classic_offset>UTC|[+-]\d{4}))?(?: +(?P<year_end>\d{4}))?(?=[ \]:]|$)"
)
_UNIX = r"(?P<unix>\d{9,11})\.(?P<unix_fraction>\d{6})(?= )"
_STAMP = rf"(?:{_ISO}|{_CLASSIC}|{_UNIX})"
# `kernel[1234]:` is a program that calls itself so: journald knows its pid.
_KERNEL = r"kernel(?:\[0\])?:(?: |$|(?=\[))"
# dmesg --show-delta
_DELTA = r"(?: *<\s*[\d.]+>)?"

_ATOMS: tuple[tuple[str, re.Pattern[str], frozenset[str]], ...] = tuple(
    (name, re.compile(pattern), frozenset(needs.split()))
    for name, pattern, needs in (
        ("quote", r"(?:[>|↪]|&gt;|[*+•:-] |`{1,3}|b?[\"']|\s)+", ""),
        # printed by the console of 3.x and 4.x in front of the next line, without a line feed
        ("dropped", r"\*\* \d+ printk messages dropped \*\* ?", ""),
        ("priority", r"<(?P<priority>\d{1,4})>", ""),
        ("kmsg", r"(?P<prio>\d{1,6}),(?P<sequence>\d{1,20}),(?P<usec>\d{1,20}),(?P<flags>[-c+])(?P<more>,[^;]*)?;", ""),
        ("version", r"1 (?=\S+ \S+ \S+ \S+ )", "priority"),
        ("level", rf"(?P<facility>{_FACILITY})\s*:\s*(?:{_LEVEL})\s*: ?", ""),
        ("stamp", rf"{_STAMP}(?: +|$)", ""),
        ("header", r"(?P<origin>\S+) (?P<app>\S+) \S+ \S+ (?:-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: \ufeff?|$)", "version"),
        ("remote", r"(?P<address>[\d.]+|\[?[\da-f:]+\]?):\d{1,5} +(?=\[ *\d+\.\d)", "stamp"),
        (
            "tag",
            rf"(?:(?P<host>\S*[^\s:])? +)??(?:(?P<tag_facility>{_FACILITY})\.(?:{_LEVEL}) +)?{_KERNEL}",
            "stamp",
        ),
        # vmware.log, of a guest that panicked
        ("guest", r"(?:\S+ )?vcpu-\d+ - Guest: <(?P<guest_priority>\d{1,4})>", "stamp"),
        ("bare tag", _KERNEL, ""),
        (
            "bracket",
            r"\[ *(?:(?P<seconds>\d{1,12})\.(?P<usec_part>\d{1,9})(?:@\d+)?" + _DELTA + r"|<\s*[\d.]+>|\+[\d.]+"
            rf"|{_WORD}\d{{1,2}} +\d{{2}}:\d{{2}})\] ?",
            "",
        ),
        ("date", rf"\[ *{_STAMP}{_DELTA}\](?:: ?| ?)", ""),
        ("origin", r"(?:(?P<host>\S*[^\s:]) )?kernel:(?: |$)", "bracket date"),
        ("caller", r"\[ *(?P<caller>[CT]\d+)\] ?", "bracket"),
    )
)
_DRESSED = frozenset(("priority", "kmsg", "level", "stamp", "tag", "bare tag", "bracket", "date"))
_KERNELS_OWN = _DRESSED - {"stamp"} | {"header"}
# What grep, editors and CSV templates put first; believed only where a stamp, a bracket or a priority follows it.
_LOCATION = re.compile(
    r"\s*(?:(?:[^\s,]{0,64},){2,8}kernel:?, ?|(?:[^\s:<\[]{1,200}?[:-])?(?:\d{1,9}[:-])?|\d{1,9}[.):|]?\s+)"
    rf"(?=<\d{{1,4}}>|\[ *\d+\.\d|{_ISO}|{_CLASSIC}|kernel:|\d,\d+,\d+,[-c+][,;])"
)
# The first line of a paste may begin anywhere inside its stamp or host.
_CUT_FRONT = re.compile(r"(?:\S*[^\s:] ){0,3}?\S*[^\s:] (?P<host>\S*[^\s:]) kernel: |\S*[^\s:] kernel: ")
_OTHER_TAG = re.compile(rf"(?:\S+ +)?(?:(?:{_FACILITY})\.(?:{_LEVEL}) +)?[^\s:\[]+(?:\[[^\]]*\])?:(?: |$)")
# journalctl prints the later lines of a program's message below its first, right of stamp and host.
_DEEPER = 8
# A stack frame is told from other messages by the blanks in front of it.
_FRAME = re.compile(r"\s(?:\[<[0-9a-f]+>\]|[?\s])*[\w.]{1,200}\+0x")
# A mail that was not decoded writes `=` as `=3D`; these words are too long for a comm.
_QUOTED_PRINTABLE = re.compile(r" invoked oom-killer: gfp_mask=3D0x|oom-kill:constraint=3DCONSTRAINT_")
_QUOTED_END = re.compile(r"(?<!=20)(?<!=0A)(?:=20|=0A)+(=?)$")
_COLOUR = re.compile(r"\x1b\[[\d;]*[mK]")
# The end of a line that stands in somebody's source or fence, by the quote mark that it began with.
_CLOSING = {mark: re.compile(rf"(?:\\n)?{mark}(?:,(?:\s*#.*)?|\s*\+)?$") for mark in "\"'`"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """
    A kernel record out of a log that people keep or paste. Fulfils model.KernelRecord.

    `bare`: nothing stood before the text, so stamp, time and host are those of the line above. `indented`: and it stood
    further right than that line, as dmesg and journalctl print the later lines of one record.
    `wall_seconds`: in a log without uptimes, the date as seconds of a clock that serves for differences only.
    """

    text: str
    facility: int | None = None
    sequence: int | None = None
    monotonic_usec: int | None = None
    time: datetime | None = None
    stamp: str = ""
    caller: str | None = None
    continuation: bool = False
    host: str | None = None
    boot_id: str | None = None
    bare: bool = False
    indented: bool = False
    wall_seconds: float | None = None

    @property
    def at(self) -> float | None:
        """Seconds on the steadiest clock that this form prints; None where it prints none."""
        return self.wall_seconds if self.monotonic_usec is None else self.monotonic_usec / _USEC


class Dress:
    """
    What is remembered of a log from line to line. One for each log.

    zone, year: what the log's stamps leave out; None: then their records have no time.
    """

    def __init__(self, *, zone: tzinfo | None = None, year: int | None = None) -> None:
        self._zone = zone
        self._year = year
        self._first_line = True
        self._above: LogRecord | None = None
        self._indent = 0
        self._foreign = False
        self._seen_dressed = False
        self._all_bare = True
        self._seen_kern = False
        self._seen_both_clocks = False
        self._quoted_printable = False
        self._stamp: re.Match[str] | None = None
        self._kernel_stamp: re.Match[str] | None = None

    def undress(self, line: bytes) -> LogRecord | None:
        """`line` without its line feed. Never raises."""
        text = line.decode("utf-8", "replace").strip("\0\r\n")
        if "\x1b" in text:
            text = _COLOUR.sub("", text)
        if self._first_line:
            text = text.removeprefix("\ufeff")
        if "=3D" in text or self._quoted_printable:
            text = self._decode_mail(text)
        atoms, at = _match_atoms(text, 0)
        if not _DRESSED & atoms.keys():
            atoms, at = self._match_behind_location(text, atoms, at)
        self._first_line = False
        if not _DRESSED & atoms.keys():
            return self._read_bare(text, at, atoms.get("quote"))
        indent = _width(atoms.get("quote"))
        if self._foreign and indent >= self._indent + _DEEPER:
            return None
        message = _unquote(text[at:], atoms.get("quote"))
        self._seen_dressed, self._all_bare = True, False
        self._indent = indent
        self._stamp = atoms.get("stamp") or atoms.get("date")
        foreign = _is_foreign(atoms, message)
        # Lines below one that names no program may be any program's.
        self._foreign = foreign or not _KERNELS_OWN & atoms.keys()
        record = None if foreign else self._read(atoms, message)
        self._above = None if self._foreign else record
        if record is not None:
            self._kernel_stamp = self._stamp
        return record

    def skipped(self) -> None:
        """Lines were left out: in a log with prefixes, whose a line without one is cannot be known any more."""
        self._foreign = self._seen_dressed
        self._all_bare = False
        self._above = None

    @property
    def idle_seconds(self) -> float | None:
        """How long the kernel has printed nothing, by the stamps of its last line and of the log's last line."""
        if self._stamp is None or self._kernel_stamp is None:
            return None
        return _wall_seconds(self._stamp) - _wall_seconds(self._kernel_stamp)

    def _match_behind_location(
        self, text: str, atoms: dict[str, re.Match[str]], at: int
    ) -> tuple[dict[str, re.Match[str]], int]:
        location = _LOCATION.match(text, at)
        if location is not None:
            return _match_atoms(text, location.end())
        if self._first_line:
            cut = _CUT_FRONT.match(text, at)
            if cut is not None:
                found, end = _match_atoms(text, cut.end())
                return {**found, "tag": cut}, end
        return atoms, at

    def _read_bare(self, text: str, at: int, quote: re.Match[str] | None) -> LogRecord | None:
        if self._foreign:
            return None
        if self._above is not None:
            return replace(self._above, text=_unquote(text[at:], quote), bare=True, indented=at > self._indent)
        # Blanks may be the message's own; in a log without any prefix, those of stack frames only.
        quoted = text[:at].strip() or (self._all_bare and _FRAME.match(text) is None)
        return LogRecord(text=_unquote(text[at:], quote) if quoted else text, bare=True)

    def _read(self, atoms: dict[str, re.Match[str]], message: str) -> LogRecord:
        if "kmsg" in atoms:
            return _read_kmsg(atoms["kmsg"], message)
        bracket, stamp = atoms.get("bracket"), self._stamp
        caller = atoms.get("caller")
        usec = _read_usec(bracket)
        self._seen_both_clocks = self._seen_both_clocks or (usec is not None and stamp is not None)
        if message.startswith("Memory cgroup stats for "):
            # How rsyslog writes the line feeds of this record.
            message = message.replace("#012", "\n")
        return LogRecord(
            text=message,
            facility=self._read_facility(atoms),
            monotonic_usec=usec,
            time=None if stamp is None else _read_time(stamp, self._zone, self._year),
            stamp=" ".join(atom[0].strip(" []:") for atom in (stamp, bracket) if atom is not None),
            caller=None if caller is None else caller["caller"],
            host=_read_host(atoms),
            wall_seconds=None if stamp is None or usec is not None or self._seen_both_clocks else _wall_seconds(stamp),
        )

    def _read_facility(self, atoms: dict[str, re.Match[str]]) -> int | None:
        if "priority" in atoms:
            return int(atoms["priority"]["priority"]) >> 3
        if "guest" in atoms:
            return int(atoms["guest"]["guest_priority"]) >> 3
        if "level" in atoms:
            return _FACILITIES[atoms["level"]["facility"]]
        name = atoms["tag"].groupdict().get("tag_facility") if "tag" in atoms else None
        self._seen_kern = self._seen_kern or name == "kern"
        # openlog(3) takes LOG_KERN, 0, for "none given": busybox klogd prints every kernel message as the user's.
        if name is None or (name == "user" and not self._seen_kern):
            return None
        return _FACILITIES[name]

    def _decode_mail(self, text: str) -> str:
        """Undo quoted-printable. The `=` of a soft line break stays: see parse/unwrap.py."""
        self._quoted_printable = self._quoted_printable or _QUOTED_PRINTABLE.search(text) is not None
        return _QUOTED_END.sub(r"\1", text.replace("=3D", "=")) if self._quoted_printable else text


def _match_atoms(line: str, at: int) -> tuple[dict[str, re.Match[str]], int]:
    """The atoms that stand at `at`, and where the message begins."""
    atoms: dict[str, re.Match[str]] = {}
    for name, pattern, needs in _ATOMS:
        if needs and not needs & atoms.keys():
            continue
        match = pattern.match(line, at)
        if match is not None:
            atoms[name] = match
            at = match.end()
            if name == "kmsg":
                break
    return atoms, at


def _is_foreign(atoms: dict[str, re.Match[str]], message: str) -> bool:
    """Whether a log writer's own words say that the message is another program's."""
    if "header" in atoms:
        return atoms["header"]["app"] != "kernel"
    if "stamp" not in atoms or atoms.keys() & {"tag", "bracket", "date"}:
        return False
    # dmesg --time-format iso: the one form with a comma; what follows it is the message.
    if atoms["stamp"]["iso_fraction"] and "," in atoms["stamp"][0]:
        return False
    return _OTHER_TAG.match(message) is not None


def _width(quote: re.Match[str] | None) -> int:
    return 0 if quote is None else len(quote[0])


def _unquote(message: str, quote: re.Match[str] | None) -> str:
    closing = _CLOSING.get(quote[0].rstrip()[-1:]) if quote is not None else None
    return closing.sub("", message.rstrip()) if closing else message


def _read_kmsg(match: re.Match[str], message: str) -> LogRecord:
    if "\\x" in message:
        message = unescape(message.encode()).decode("utf-8", "replace")
    _, found, rest = (match["more"] or "").partition(",caller=")
    return LogRecord(
        text=message,
        facility=int(match["prio"]) >> 3,
        sequence=int(match["sequence"]),
        monotonic_usec=int(match["usec"]),
        stamp=match["usec"],
        caller=rest.partition(",")[0] if found else None,
        continuation=match["flags"] != "-",
    )


def _read_host(atoms: dict[str, re.Match[str]]) -> str | None:
    for atom, group in (("header", "origin"), ("tag", "host"), ("origin", "host"), ("remote", "address")):
        if atom in atoms:
            return atoms[atom].groupdict().get(group) or None
    return None


def _read_usec(bracket: re.Match[str] | None) -> int | None:
    if bracket is None or bracket["seconds"] is None:
        return None
    return int(bracket["seconds"]) * _USEC + _fraction_usec(bracket["usec_part"])


def _fraction_usec(digits: str | None) -> int:
    return int(f"{digits[:6]:0<6}") if digits else 0


def _read_time(stamp: re.Match[str], zone: tzinfo | None, year: int | None) -> datetime | None:
    if stamp["unix"] is not None:
        return _EPOCH + timedelta(seconds=int(stamp["unix"]), microseconds=int(stamp["unix_fraction"]))
    offset = _read_offset(stamp["offset"] or stamp["zone"] or stamp["classic_offset"]) or zone
    if offset is None:
        return None
    year_printed, month, day = _read_date(stamp)
    year = year_printed or year
    if year is None or month is None:
        return None
    hour, minute, second, usec = _read_clock(stamp)
    try:
        # A leap second is printed as :60.
        moment = datetime(year, month, day, hour, minute, tzinfo=offset) + timedelta(seconds=second, microseconds=usec)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _wall_seconds(stamp: re.Match[str]) -> float:
    """Steady within a month; months count 31 days, so that no calendar is needed and no date is refused."""
    if stamp["unix"] is not None:
        return float(f"{stamp['unix']}.{stamp['unix_fraction']}")
    year, month, day = _read_date(stamp)
    hour, minute, second, usec = _read_clock(stamp)
    days = ((year or 0) * 12 + (month or 0)) * 31 + day
    return ((days * 24 + hour) * 60 + minute) * 60 + second + usec / _USEC


def _read_clock(stamp: re.Match[str]) -> tuple[int, int, int, int]:
    if stamp["hour"] is None:
        hour, minute, second, fraction = stamp.group("iso_hour", "iso_minute", "iso_second", "iso_fraction")
    else:
        hour, minute, second, fraction = stamp.group("hour", "minute", "second", "fraction")
    return int(hour), int(minute), int(second), _fraction_usec(fraction)


def _read_date(stamp: re.Match[str]) -> tuple[int | None, int | None, int]:
    """Year, month and day, whatever order the locale prints them in; a weekday is the word before the month's."""
    if stamp["year"] is not None:
        return int(stamp["year"]), int(stamp["month"]), int(stamp["day"])
    year: int | None = None
    month: int | None = None
    day = 0
    for word in f"{stamp['date']} {stamp['date_end']} {stamp['year_end'] or ''}".replace(",", " ").split():
        number = word.rstrip(".")
        if not number.isdecimal():
            month = _month_of(word) or month
        elif len(number) == 4:
            year = int(number)
        else:
            day = int(number)
    return year, month, day


@lru_cache(maxsize=64)
def _month_of(word: str) -> int | None:
    word = word.lower()
    digits = word.rstrip("月월")
    if digits != word and digits.isdecimal():
        return int(digits)
    return next((number for number, names in enumerate(_MONTHS, 1) if word.startswith(names)), None)


def _read_offset(offset: str | None) -> tzinfo | None:
    if offset in ("Z", "UTC", "GMT"):
        return UTC
    if offset is None or offset[0] not in "+-":
        return None
    delta = timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:]) if len(offset) > 3 else 0)
    try:
        return timezone(-delta if offset[0] == "-" else delta)
    except ValueError:
        return None
