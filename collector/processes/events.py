"""
Datagrams of the proc connector, as the kernel lays them out.

    struct nlmsghdr    16 bytes
    struct cn_msg      20 bytes: idx, val, seq, ack @28, len, flags
    struct proc_event  what @36, cpu @40, timestamp_ns @44 (CLOCK_MONOTONIC), then from @52 on
                         fork  parent_pid, parent_tgid, child_pid, child_tgid
                         exec  process_pid, process_tgid
                         exit  process_pid, process_tgid, exit_code, exit_signal, parent_pid, parent_tgid
                         none  err: the answer to a request, whose ack it carries plus 1

76 bytes, whatever the event. Sources: include/uapi/linux/cn_proc.h, connector.h; drivers/connector/cn_proc.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE = 0x00000000
FORK = 0x00000001
EXEC = 0x00000002
EXIT = 0x80000000

WHAT_OFFSET = 36
FIRST_OFFSET = 52  # then 56, 60, 64
STRIDE = 128
"""The distance at which datagrams lie in one buffer."""

Event = tuple[int, int, int, int, int, int]
"""what, timestamp in nanoseconds, and the first four numbers of the event."""

_EVENT = struct.Struct("=36xI4xQIIII60x")
_ANSWER = struct.Struct("=28xI4xI12xI")


def parse_events(datagrams: bytes | bytearray | memoryview) -> Iterator[Event]:
    """Datagrams at a distance of STRIDE; the length must be a multiple of it."""
    return _EVENT.iter_unpack(datagrams)


def parse_answer(datagram: bytes) -> tuple[int, int] | None:
    """The `ack` of the request that is answered, and an errno (0: granted); None: no answer."""
    if len(datagram) < _ANSWER.size:
        return None
    acknowledged, what, error = _ANSWER.unpack_from(datagram)
    return (acknowledged - 1, error) if what == NONE else None
