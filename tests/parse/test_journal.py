"""Entries of journald in its JSON and export forms."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.parse.journal import MAX_FIELD, ExportEntries, JsonEntries, parse_journal_fields

TEXT = "Out of memory: Killed process 5 (x) total-vm:4kB"
FIELDS = {
    "__CURSOR": "s=1;i=2",
    "__REALTIME_TIMESTAMP": "1718853826123456",
    "__MONOTONIC_TIMESTAMP": "12399999",
    "_BOOT_ID": "0123456789abcdef0123456789abcdef",
    "_TRANSPORT": "kernel",
    "PRIORITY": "3",
    "SYSLOG_FACILITY": "0",
    "SYSLOG_IDENTIFIER": "kernel",
    "_SOURCE_MONOTONIC_TIMESTAMP": "12345678",
    "_HOSTNAME": "web-1",
    "MESSAGE": TEXT,
}
FORGED = {**FIELDS, "SYSLOG_FACILITY": "1", "MESSAGE": "forged"}
OTHER = {**FIELDS, "_TRANSPORT": "stdout", "MESSAGE": "other"}


def export(*entries: dict[str, str], binary: str = "MESSAGE") -> bytes:
    out = b""
    for entry in entries:
        for name, value in entry.items():
            data = value.encode("utf-8", "surrogateescape")
            if name == binary:
                out += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
            else:
                out += name.encode() + b"=" + data + b"\n"
        out += b"\n"
    return out


def test_an_entry_is_a_record() -> None:
    record = parse_journal_fields(FIELDS)
    assert record is not None
    assert record.text == TEXT
    assert record.facility == 0
    assert record.monotonic_usec == 12345678
    assert record.time == datetime(2024, 6, 20, 3, 23, 46, 123456, UTC)
    assert record.host == "web-1"
    assert record.boot_id == FIELDS["_BOOT_ID"]


def test_the_time_of_arrival_stands_in_for_the_kernels_own() -> None:
    record = parse_journal_fields({name: FIELDS[name] for name in FIELDS if name != "_SOURCE_MONOTONIC_TIMESTAMP"})
    assert record is not None
    assert record.monotonic_usec == 12399999


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"_TRANSPORT": "syslog"}, id="another transport"),
        pytest.param({"_TRANSPORT": None}, id="no transport"),
        pytest.param({"SYSLOG_FACILITY": None}, id="no facility"),
        pytest.param({"SYSLOG_FACILITY": "x"}, id="facility is no number"),
        pytest.param({"MESSAGE": None}, id="no message"),
    ],
)
def test_what_is_not_proved_to_be_the_kernels_is_none(changes: dict[str, str | None]) -> None:
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if value is not None}
    assert parse_journal_fields(fields) is None


def test_what_user_space_wrote_to_kmsg_keeps_its_facility() -> None:
    record = parse_journal_fields(FORGED)
    assert record is not None
    assert record.facility == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps(FIELDS), id="json"),
        pytest.param(json.dumps(FIELDS, separators=(",", ":")), id="compact json"),
        pytest.param(json.dumps(FIELDS, indent="\t"), id="json-pretty"),
        pytest.param(f"data: {json.dumps(FIELDS)}\n", id="json-sse"),
        pytest.param(f"\x1e{json.dumps(FIELDS)}", id="json-seq"),
        pytest.param(json.dumps({**FIELDS, "MESSAGE": list(TEXT.encode())}), id="message as bytes"),
        pytest.param(json.dumps({**FIELDS, "MESSAGE": [TEXT, "second"]}), id="repeated field"),
        pytest.param("\t}\n{\n" + json.dumps(FIELDS, indent="\t"), id="begins inside an entry"),
    ],
)
def test_json_forms(text: str) -> None:
    entries = JsonEntries()
    records = [record for line in text.split("\n") if (record := entries.read(line.encode()))]
    assert [record.text for record in records] == [TEXT]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"_TRANSPORT":"kernel"', id="cut"),
        pytest.param(b'["kernel"]', id="an array"),
        pytest.param(b'{"kernel":null}', id="another object"),
        pytest.param(json.dumps({**FIELDS, "MESSAGE": None}).encode(), id="message too long for journalctl"),
        pytest.param(json.dumps({**FIELDS, "MESSAGE": {"a": 1}}).encode(), id="message of another type"),
        pytest.param(json.dumps(OTHER).encode(), id="another program"),
        pytest.param(b'{"kernel":' * 5000, id="deep"),
    ],
)
def test_json_that_is_no_kernel_entry_is_passed_over(line: bytes) -> None:
    assert JsonEntries().read(line) is None


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    entry = json.dumps({**FIELDS, "MESSAGE": list(b"Killed process 5 (\xff)")})
    record = JsonEntries().read(entry.encode())
    assert record is not None
    assert record.text == "Killed process 5 (\ufffd)"


@given(st.lists(st.integers(1, 200), max_size=30), st.sampled_from(["MESSAGE", "_HOSTNAME", ""]))
def test_an_export_stream_may_come_in_pieces_of_any_size(sizes: list[int], binary: str) -> None:
    data = export(
        FIELDS, OTHER, FORGED, {**FIELDS, "MESSAGE": "a\n\nb" if binary == "MESSAGE" else "ab"}, binary=binary
    )
    entries = ExportEntries()
    records, at = [], 0
    for size in [*sizes, len(data)]:
        records += entries.feed(data[at : at + size])
        at += size
    records += entries.close()
    assert [(record.text, record.facility) for record in records] == [
        (TEXT, 0),
        ("forged", 1),
        ("a\n\nb" if binary == "MESSAGE" else "ab", 0),
    ]


def test_a_message_that_looks_like_an_entry_is_no_entry() -> None:
    inner = export(FIELDS, binary="").decode()
    data = export({**OTHER, "MESSAGE": f"\n\n{inner}\n\n"}, FIELDS)
    assert [record.text for record in ExportEntries().feed(data)] == [TEXT]


@pytest.mark.parametrize("piece", [100, 1 << 20])
def test_a_long_field_is_skipped(piece: int) -> None:
    data = export({**OTHER, "COREDUMP": "x\n" * MAX_FIELD}, FIELDS, binary="COREDUMP")
    entries = ExportEntries()
    records = [record for at in range(0, len(data), piece) for record in entries.feed(data[at : at + piece])]
    assert [record.text for record in records] == [TEXT]


def test_the_last_entry_needs_no_empty_line() -> None:
    entries = ExportEntries()
    assert entries.feed(export(FIELDS).removesuffix(b"\n")) == []
    assert [record.text for record in entries.close()] == [TEXT]


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_any_bytes_are_read(pieces: list[bytes]) -> None:
    export_entries, json_entries = ExportEntries(), JsonEntries()
    for piece in pieces:
        export_entries.feed(piece)
        json_entries.read(piece)
    export_entries.close()
