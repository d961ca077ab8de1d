from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ParseError
from collector.parse.klog import (
    find_position,
    has_stamps,
    is_user_written,
    overlap,
    parse_klog_record,
    position_after,
    split_runs,
)

A, B, C = (b"<6>[    1.00000%d] eth0: link up\n" % number for number in (1, 2, 3))


def test_a_record_with_all_its_fields() -> None:
    record = parse_klog_record(b"<3>[  106.244102][  T310] Out of memory: Killed process 310 (hog)\n")

    assert (record.facility, record.monotonic_usec, record.stamp) == (0, 106_244_102, "106.244102")
    assert (record.caller, record.text) == ("T310", "Out of memory: Killed process 310 (hog)")


@pytest.mark.parametrize(
    ("raw", "facility", "caller", "text"),
    [
        pytest.param(b"<6>[    0.000000] Linux version 6.12\n", 0, None, "Linux version 6.12", id="boot"),
        pytest.param(b"<14>[12345678.000001] written by a user\n", 1, None, "written by a user", id="user facility"),
        pytest.param(b"<6>[    1.000000][    C1] in an interrupt\n", 0, "C1", "in an interrupt", id="cpu"),
        pytest.param(b"<6>[    1.000000] [ T12] no caller\n", 0, None, "[ T12] no caller", id="text like a caller"),
        pytest.param(b"<6>[    1.000000] \n", 0, None, "", id="empty"),
        pytest.param(
            b"<6>[    1.000000] <3>[    2.000000] x\n", 0, None, "<3>[    2.000000] x", id="text like a prefix"
        ),
        pytest.param(
            b"<6>[    1.000000] anon 1\n<6>[    1.000000] file 2\n", 0, None, "anon 1\nfile 2", id="two lines"
        ),
        pytest.param(b"<6>[    1.000000] \\x0a\n", 0, None, "\\x0a", id="nothing is escaped in this form"),
    ],
)
def test_record_forms(raw: bytes, facility: int, caller: str | None, text: str) -> None:
    record = parse_klog_record(raw)

    assert (record.facility, record.caller, record.text) == (facility, caller, text)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"Out of memory: Killed process 1 (init)\n", id="no prefix"),
        pytest.param(b"<3>Out of memory: Killed process 1 (init)\n", id="no time"),
        pytest.param(b"[    1.000000] Out of memory: Killed process 1 (init)\n", id="no priority"),
        pytest.param(b"<3>[    1.000000]Out of memory: Killed process 1 (init)\n", id="no blank"),
        pytest.param(b" <3>[    1.000000] Out of memory: Killed process 1 (init)\n", id="not at the beginning"),
        pytest.param(b"<3>[    1.000000] a\nOut of memory: Killed process 1 (init)\n", id="second line without prefix"),
        pytest.param(b"<3>[    1.000000] a\n<3>[    1.000001] b\n", id="two prefixes"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_no_kernel_prints_is_no_record(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse_klog_record(raw)


@given(st.binary(max_size=80))
def test_any_bytes_give_runs_and_a_record_or_an_error(raw: bytes) -> None:
    assert b"".join(line for run in split_runs(raw, 0) for line in run.lines) == raw
    for run in split_runs(raw, 0):
        assert raw[run.start : run.end] == b"".join(run.lines)
        try:
            parse_klog_record(b"".join(run.lines))
        except ParseError:
            assert not run.prefix or b"\r" in raw


def test_runs_are_neighbours_with_one_prefix() -> None:
    dump = A + B + B.replace(b"up", b"down") + b"odd\n" + b"odd\n" + C

    assert [(run.prefix, len(run.lines)) for run in split_runs(dump, len(A))] == [
        (b"<6>[    1.000002] ", 2),
        (b"", 1),
        (b"", 1),
        (b"<6>[    1.000003] ", 1),
    ]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [(b"<6>[    1.000000] ", False), (b"<7>[    1.0", True), (b"<14>[    1.000000] ", True), (b"", True)],
)
def test_only_facility_0_is_the_kernel(prefix: bytes, expected: bool) -> None:
    assert is_user_written(prefix) is expected


@pytest.mark.parametrize(
    ("previous", "current", "kept"),
    [
        pytest.param(b"", A, b"", id="first dump"),
        pytest.param(A, A, A, id="no news"),
        pytest.param(A, A + B, A, id="one more"),
        pytest.param(A + B, B + C, B, id="one gone, one more"),
        pytest.param(A + B, C, b"", id="all gone"),
        pytest.param(A + B, b"", b"", id="cleared"),
        pytest.param(A, A + A, A, id="an equal one more"),
        pytest.param(A + A, A + A + A, A + A, id="a third equal one"),
        pytest.param(A + B + A, A + B + A + B, A + B + A, id="the longest of several"),
        pytest.param(C + A + A, A + A + A, A + A, id="equal ones with one gone"),
        pytest.param(b"x" + A, A + B, b"", id="not at a line's beginning"),
        pytest.param(A + B + A + C, A + C + B, A + C, id="the first line occurs before its place"),
    ],
)
def test_overlap(previous: bytes, current: bytes, kept: bytes) -> None:
    assert overlap(previous, current) == len(kept)


@given(
    lines=st.lists(st.sampled_from([A, B, C]), max_size=12),
    more=st.lists(st.sampled_from([A, B, C]), max_size=6),
    gone=st.integers(min_value=0, max_value=12),
)
def test_overlap_never_takes_what_it_has_for_news(lines: list[bytes], more: list[bytes], gone: int) -> None:
    current = b"".join(lines[gone:] + more)

    kept = overlap(b"".join(lines), current)

    assert kept >= len(b"".join(lines[gone:]))
    assert b"".join(lines).endswith(current[:kept])


def test_a_position_is_found_again() -> None:
    twice = A + B + B

    assert position_after(twice) == "1.000002x2"
    assert find_position(twice + B + C, "1.000002x2") == len(twice)
    assert find_position(B + C, "1.000002x2") == len(B), "one of the two has left the ring"
    assert find_position(C, "1.000002x2") is None


@pytest.mark.parametrize("position", ["", "x", "1.000002", "1.000002xx", "(x1"])
def test_a_damaged_position_is_no_error(position: str) -> None:
    assert find_position(A, position) is None


def test_an_empty_dump_has_no_position() -> None:
    assert position_after(b"") is None


@pytest.mark.parametrize(
    ("dump", "expected"), [(A, True), (b"", True), (b"<6>eth0: link up\n", False), (b"<6>[drm] loaded\n" + A, False)]
)
def test_printk_time_off_is_noticed(dump: bytes, expected: bool) -> None:
    assert has_stamps(dump) is expected
