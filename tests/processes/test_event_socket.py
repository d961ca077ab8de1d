"""
Datagrams as the kernel lays them out, through a real socket and this kernel's own filter machine.

A local socket takes the same filters as the connector's, and needs no privileges.
"""

from __future__ import annotations

import fcntl
import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from collector.processes import event_socket
from collector.processes.event_socket import BATCH, EventSocket, Filter, _request
from collector.processes.events import EXEC, EXIT, FORK, NONE, Event, parse_answer

COMM = 0x00000200


def datagram(what: int, *numbers: int, nanoseconds: int = 5, ack: int = 0, comm: bytes = b"") -> bytes:
    """struct nlmsghdr, struct cn_msg, struct proc_event; 76 bytes as they were captured on Linux 6.18."""
    event = struct.pack("=IIQ", what, 0, nanoseconds) + struct.pack(f"={len(numbers)}I", *numbers) + comm
    event = event.ljust(40, b"\0")
    message = struct.pack("=IIIIHH", 1, 1, 0, ack, len(event), 0) + event
    return struct.pack("=IHHII", 16 + len(message), 3, 0, 0, 0) + message


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, EventSocket]]:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        ours.setblocking(False)
        yield kernel, EventSocket(ours, sender=b"")


EVENTS = {
    "fork": datagram(FORK, 10, 10, 11, 11),
    "fork by a thread": datagram(FORK, 12, 10, 11, 11),
    "new thread": datagram(FORK, 10, 10, 11, 10),
    "exec": datagram(EXEC, 11, 11),
    "exit": datagram(EXIT, 11, 11, 9, 17),
    "exit of a thread": datagram(EXIT, 11, 10, 0, 17),
    "new name": datagram(COMM, 11, 11, comm=b"ab\xff\xfe"),
    "answer": datagram(NONE, 0, ack=1),
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Filter.PROCESSES, {"fork", "fork by a thread", "exec", "exit"}),
        (Filter.EXEC, {"exec"}),
        (Filter.ANSWERS, {"answer"}),
    ],
)
def test_filter(pair: tuple[socket.socket, EventSocket], kind: Filter, expected: set[str]) -> None:
    kernel, events = pair
    events.filter(kind)
    passed = set()
    for name, raw in EVENTS.items():
        kernel.send(raw)
        if events.receive():
            passed.add(name)
    assert passed == expected


def test_receives_many_at_once_in_their_order(pair: tuple[socket.socket, EventSocket]) -> None:
    kernel, events = pair
    assert events.receive() == []
    kernel.send(datagram(FORK, 1, 2, 3, 4, nanoseconds=1 << 40))
    kernel.send(datagram(EXIT, 5, 6, 7, 8))
    assert events.receive() == [(FORK, 1 << 40, 1, 2, 3, 4), (EXIT, 5, 5, 6, 7, 8)]


def test_a_batch_is_bounded_and_the_rest_waits(pair: tuple[socket.socket, EventSocket]) -> None:
    kernel, events = pair
    kernel.setblocking(False)
    sent = 0
    received: list[Event] = []
    for _ in range(3 * BATCH):
        try:
            kernel.send(datagram(EXEC, sent, sent))
        except BlockingIOError:
            batch = events.receive()
            assert len(batch) <= BATCH
            received += batch
        else:
            sent += 1
    while batch := events.receive():
        received += batch
    assert [event[2] for event in received] == list(range(sent))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(datagram(NONE, 0, ack=78), (77, 0), id="granted"),
        pytest.param(datagram(NONE, 1, ack=78), (77, 1), id="refused with EPERM"),
        pytest.param(datagram(FORK, 1, 1, 2, 2), None, id="an event"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_answer(raw: bytes, expected: tuple[int, int] | None) -> None:
    assert parse_answer(raw) == expected


@pytest.mark.parametrize(("mask", "payload"), [(None, struct.pack("=I", 1)), (7, struct.pack("=II", 1, 7))])
def test_request(mask: int | None, payload: bytes) -> None:
    message = struct.pack("=IIIIHH", 1, 1, 0, 99, len(payload), 0) + payload
    header = struct.pack("=IHH", 16 + len(message), 3, 0)
    raw = _request(listen=True, ack=99, events=mask)
    assert (raw[:8], raw[16:]) == (header, message)


def test_a_descriptor_beyond_those_of_select_is_waited_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 containers take 1,500 descriptors, and they come first."""
    monkeypatch.setattr(event_socket, "_ANSWER_SECONDS", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("no more than 1,023 descriptors are to be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kernel, low = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with kernel, low, socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)) as high:
            high.setblocking(False)
            with pytest.raises(TimeoutError, match="no answer"):
                EventSocket(high)._subscribe()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
