"""
One raw /dev/kmsg record.

    6,462,106242034,-,caller=T310;memory: usage 49152kB, limit 49152kB, failcnt 265

Source: Documentation/ABI/testing/dev-kmsg; kernel/printk/printk.c (msg_add_ext_text writes bytes below 32, from 127 on
and the backslash itself as \\xNN, so that undoing it once is exact).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from collector.errors import ParseError
from collector.model import Moment

_PRIORITY_DIGITS = 6
# A priority of one digit is a level of facility 0: nearly every record.
_KERNEL_FACILITY = {f"{level},": 0 for level in range(8)}
_CALLER = ",caller="
_HEADER = re.compile(r"(\d{1,6}),(\d{1,20}),(\d{1,20}),([-c+])(?:,|\Z)", re.ASCII)
# Of facility 0, no fragment, and without a caller, which would stand between the flag and the message.
_PLAIN_RECORD = re.compile(r"^[0-7],[^-]*-;(.*)", re.MULTILINE)
# Records of one run come with one time.
_RUN_USEC = 100_000
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")


class KmsgRecord:
    """
    A record whose numbers are only read when somebody asks: most records of a report are wanted for their text alone.

    Fulfils model.KernelRecord.
    """

    __slots__ = ("caller", "facility", "header", "text")

    header: str
    facility: int
    caller: str | None
    text: str
    # This form carries no wall time, host or boot id: the reader knows them.
    time: datetime | None = None
    host: str | None = None
    boot_id: str | None = None

    @property
    def sequence(self) -> int | None:
        return _number_in(self.header, 2)

    @property
    def monotonic_usec(self) -> int | None:
        return _number_in(self.header, 3)

    @property
    def continuation(self) -> bool:
        match = _HEADER.match(self.header)
        return match is not None and match[4] != "-"

    @property
    def stamp(self) -> str:
        return self.header

    @property
    def moment(self) -> Moment:
        return _read_moment(self.header)

    def __repr__(self) -> str:
        return f"KmsgRecord({self.header!r}, {self.text!r})"


class KmsgRun(KmsgRecord):
    """
    Successive records of the kernel, decoded at once: a third of the price of one by one. Stands for the first of them.

    texts: of all, that of the first included.
    """

    __slots__ = ("_raws", "texts")

    texts: Sequence[str]
    _raws: Sequence[bytes]

    def moment_of(self, index: int) -> Moment:
        return _read_moment(_header(self._raws[index]))


def parse_kmsg_record(raw: bytes) -> KmsgRecord:
    """
    Read a record as one read(2) of /dev/kmsg returns it; its ` KEY=value` lines are left out.

    Raises ParseError when it does not begin with a priority and a header. The numbers behind the priority are None
    where they are damaged.
    """
    # Undecoded bytes would do for half of this, but `in` and partition() are several times faster on str.
    try:
        header, separator, message = raw.decode().partition(";")
    except UnicodeDecodeError:
        header, separator, message = raw.decode("utf-8", "replace").partition(";")
    facility = _KERNEL_FACILITY.get(header[:2])
    if facility is None or not separator:
        facility = _read_facility(raw, header, separator)
    text = message.partition("\n")[0]
    if "\\" in text:
        text = unescape(raw.partition(b";")[2].partition(b"\n")[0]).decode("utf-8", "replace")
    # Attribute by attribute: a call of __init__ would take a fifth of the time of all this.
    record = KmsgRecord()
    record.header = header
    record.facility = facility
    record.caller = _read_caller(header) if _CALLER in header else None
    record.text = text
    return record


def parse_kmsg_run(raws: Sequence[bytes]) -> KmsgRun | None:
    """raws: at least one. None: not all are plain records of the kernel, of one moment; they are read one by one."""
    block = b"".join(raws)
    texts: list[str] = _PLAIN_RECORD.findall(block.decode("utf-8", "replace"))
    if len(texts) != len(raws):
        return None
    if b"\\" in block:
        texts = [unescape(text.encode()).decode("utf-8", "replace") if "\\" in text else text for text in texts]
    run = KmsgRun()
    run.texts, run._raws = texts, raws
    run.header, run.facility, run.caller, run.text = _header(raws[0]), 0, None, texts[0]
    begin, end = run.monotonic_usec, _number_in(_header(raws[-1]), 3)
    return run if begin is not None and end is not None and 0 <= end - begin <= _RUN_USEC else None


def _header(raw: bytes) -> str:
    return raw.partition(b";")[0].decode("ascii", "replace")


def _number_in(header: str, field: int) -> int | None:
    match = _HEADER.match(header)
    return None if match is None else int(match[field])


def _read_moment(header: str) -> Moment:
    match = _HEADER.match(header)
    return Moment(stamp=header) if match is None else Moment(int(match[2]), int(match[3]), None, header)


def _read_facility(raw: bytes, header: str, separator: str) -> int:
    priority = header.partition(",")[0]
    if not (separator and priority.isascii() and priority.isdigit()) or len(priority) > _PRIORITY_DIGITS:
        raise ParseError("/dev/kmsg", raw.decode("utf-8", "replace"))
    return int(priority) >> 3


def _read_caller(header: str) -> str:
    return header.partition(_CALLER)[2].partition(",")[0]


def unescape(message: bytes) -> bytes:
    r"""Undo printk's `\xNN`, once."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), message)


def is_wanted(raw: bytes) -> bool:
    """
    Whether a reader that is not inside a report has to look at this record.

    Every line that opens a report or tells of a kill holds one of these. Plain `in`: faster here than any regex.
    """
    return b"oom" in raw or b" process " in raw or b" as a result of limit of" in raw
