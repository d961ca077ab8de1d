"""
The socket of the proc connector: a filter in the kernel, and many datagrams with one system call.

pyroute2 only encodes the requests (imported when the socket is made: 10 MiB). Its receiving loop wakes up for each
event, and ends at a process name that is not UTF-8: any container could stop it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import select
import socket
import struct
import time
from enum import Enum

from collector.processes.events import (
    EXEC,
    EXIT,
    FIRST_OFFSET,
    FORK,
    NONE,
    STRIDE,
    WHAT_OFFSET,
    Event,
    parse_answer,
    parse_events,
)

BATCH = 256
_ANSWER_SECONDS = 0.3
_RECEIVE_BUFFER_BYTES = 8 << 20
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
# struct sockaddr_nl of what the kernel sends to the group. Its port is 0, which no process can have.
_KERNEL = struct.pack("=HHII", socket.AF_NETLINK, 0, 0, 1)

_libc = ctypes.CDLL(None, use_errno=True)


class Filter(Enum):
    ANSWERS = "answers"
    EXEC = "exec"
    PROCESSES = "processes"


class OverrunError(Exception):
    """The buffer was full: events were lost, nobody knows how many."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint))


class EventSocket:
    """`sender`: the address that is believed, for a test that has another socket."""

    def __init__(self, connector: socket.socket, *, sender: bytes = _KERNEL) -> None:
        self._socket = connector
        self._senders = sender * BATCH
        self._sender_size = len(sender)
        self._buffer = ctypes.create_string_buffer(BATCH * STRIDE)
        self._view = memoryview(self._buffer).cast("B")
        self._names = ctypes.create_string_buffer(len(self._senders))
        self._headers = (_Mmsghdr * BATCH)()
        buffer, names = ctypes.addressof(self._buffer), ctypes.addressof(self._names)
        self._iovecs = (_Iovec * BATCH)(*(_Iovec(buffer + index * STRIDE, STRIDE) for index in range(BATCH)))
        for index, header in enumerate(self._headers):
            header.header.name = names + index * len(sender)
            header.header.name_length = len(sender)
            header.header.iov = ctypes.pointer(self._iovecs[index])
            header.header.iov_length = 1

    @classmethod
    def open(cls) -> EventSocket:
        """
        Ask the kernel for events.

        Raises ConnectionRefusedError outside of the host's network namespace, PermissionError, and TimeoutError where
        the kernel does not answer, which it does not outside of the host's pid namespace.
        """
        connector = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _netlink_connector()
        )
        try:
            opened = cls(connector)
            opened.filter(Filter.ANSWERS)
            _enlarge_buffer(connector)
            connector.bind((0, 1))
            opened._subscribe()
        except BaseException:
            connector.close()
            raise
        return opened

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        # Up to 6.5 the kernel counts listeners, and does not notice when one goes.
        with contextlib.suppress(OSError):
            self._socket.send(_request(listen=False, ack=0, events=None))
        self._socket.close()

    def filter(self, kind: Filter) -> None:
        program = _PROGRAMS[kind]
        code = ctypes.create_string_buffer(program, len(program))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, ctypes.addressof(code))
        )

    def receive(self) -> list[Event]:
        """
        What is waiting, at most BATCH events; does not wait. Fewer than that is not yet all.

        Raises OverrunError.
        """
        count = _libc.recvmmsg(self._socket.fileno(), self._headers, BATCH, socket.MSG_DONTWAIT, None)
        if count < 0:
            error = ctypes.get_errno()
            if error in {errno.EAGAIN, errno.EINTR}:
                return []
            if error == errno.ENOBUFS:
                raise OverrunError
            raise OSError(error, os.strerror(error))
        events = list(parse_events(self._view[: count * STRIDE]))
        size = count * self._sender_size
        names = ctypes.string_at(self._names, size)
        if names == self._senders[:size]:
            return events
        # Another process with CAP_NET_ADMIN here can send to us, too.
        sender, step = self._senders[: self._sender_size], self._sender_size
        return [event for index, event in enumerate(events) if names[index * step : (index + 1) * step] == sender]

    def _subscribe(self) -> None:
        # The mask of events is known from Linux 6.6 on; a kernel before that does not answer a request of its length.
        for events in (FORK | EXEC | EXIT, None):
            ack = secrets.randbits(31)
            self._socket.send(_request(listen=True, ack=ack, events=events))
            error = self._answer(ack)
            if error == 0:
                return
            if error is not None:
                raise OSError(error, os.strerror(error))
        raise TimeoutError(errno.ETIMEDOUT, "no answer from the kernel")

    def _answer(self, ack: int) -> int | None:
        """Answers go to all that listen: others' are passed over."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        # Not select(): a node's cgroups take more descriptors than it can tell apart.
        answered = select.poll()
        answered.register(self._socket, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            answered.poll(left * 1000)
            try:
                datagram, (port, _) = self._socket.recvfrom(STRIDE)
            except BlockingIOError:
                continue
            answer = parse_answer(datagram)
            if port == 0 and answer is not None and answer[0] == ack:
                return answer[1]
        return None


def _enlarge_buffer(connector: socket.socket) -> None:
    try:
        connector.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        connector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def _netlink_connector() -> int:
    from pyroute2.netlink import NETLINK_CONNECTOR

    return int(NETLINK_CONNECTOR)


def _request(*, listen: bool, ack: int, events: int | None) -> bytes:
    """events: the mask of `struct proc_input`. None: the request without one, which all kernels know."""
    from pyroute2.netlink import NLMSG_DONE
    from pyroute2.netlink.connector import cn_proc

    class ProcInput(cn_proc.proc_event_control):  # type: ignore[misc] # without type information
        fields = (*cn_proc.proc_event_control.fields, ("event_type", "I"))

    message = cn_proc.proc_event_control() if events is None else ProcInput()
    message["action"] = cn_proc.PROC_CN_MCAST_LISTEN if listen else cn_proc.PROC_CN_MCAST_IGNORE
    if events is not None:
        message["event_type"] = events
    message["idx"], message["val"], message["ack"] = cn_proc.CN_IDX_PROC, cn_proc.CN_VAL_PROC, ack
    message["len"] = 4 if events is None else 8
    message["header"]["type"] = NLMSG_DONE
    message.encode()
    return bytes(message.data)


# Classic BPF (Documentation/networking/filter.rst). It loads words in network order, the connector writes them in the
# machine's: so the constants are turned round. Two loaded words compare in either order.

_LOAD, _TO_X, _IF_EQUAL, _IF_EQUAL_X, _RETURN = 0x20, 0x07, 0x15, 0x1D, 0x06
_ALL, _NOTHING = 0xFFFFFFFF, 0


def _instruction(code: int, value: int = 0, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _is(what: int, then: int, otherwise: int = 0) -> bytes:
    return _instruction(_IF_EQUAL, socket.htonl(what), then, otherwise)


def _only(what: int) -> bytes:
    return b"".join([
        _instruction(_LOAD, WHAT_OFFSET),
        _is(what, 0, 1),
        _instruction(_RETURN, _ALL),
        _instruction(_RETURN, _NOTHING),
    ])  # fmt: skip


# A thread's pid is not its tgid. In a fork they are the third and the fourth word, in an exit the first and the second.
_PROCESSES = b"".join([
    _instruction(_LOAD, WHAT_OFFSET),
    _is(FORK, 3),  # to 5
    _is(EXIT, 6),  # to 9
    _is(EXEC, 9),  # to 13
    _instruction(_RETURN, _NOTHING),
    _instruction(_LOAD, FIRST_OFFSET + 8),  # 5
    _instruction(_TO_X),
    _instruction(_LOAD, FIRST_OFFSET + 12),
    _instruction(_IF_EQUAL_X, 0, 4, 5),
    _instruction(_LOAD, FIRST_OFFSET),  # 9
    _instruction(_TO_X),
    _instruction(_LOAD, FIRST_OFFSET + 4),
    _instruction(_IF_EQUAL_X, 0, 0, 1),
    _instruction(_RETURN, _ALL),  # 13
    _instruction(_RETURN, _NOTHING),
])  # fmt: skip

_PROGRAMS = {Filter.ANSWERS: _only(NONE), Filter.EXEC: _only(EXEC), Filter.PROCESSES: _PROCESSES}
