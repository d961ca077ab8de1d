"""The memory controller's files: what each kernel prints, and what no kernel would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ParseError
from collector.parse.memory_files import (
    MemoryEvents,
    StatParser,
    parse_amount,
    parse_limit,
    parse_memory_events,
    parse_pressure,
    parse_switch,
)

STAT_5_10 = b"""anon 118784
file 40960
kernel_stack 16384
percpu 480
sock 4096
shmem 8192
file_mapped 0
file_dirty 12288
file_writeback 0
anon_thp 0
inactive_anon 114688
active_anon 0
inactive_file 20480
active_file 1024
unevictable 512
slab_reclaimable 100
slab_unreclaimable 200
slab 300
workingset_refault_anon 0
pgfault 495
"""
STAT_6_12 = b"""anon 1
file 2
kernel 3000
kernel_stack 4
pagetables 5
sec_pagetables 6
percpu 7
sock 8
vmalloc 9
shmem 10
file_mapped 11
file_dirty 12
file_writeback 13
swapcached 14
anon_thp 15
file_thp 16
shmem_thp 17
inactive_anon 18
active_anon 19
inactive_file 20
active_file 21
unevictable 22
slab_reclaimable 23
slab_unreclaimable 24
slab 47
workingset_refault_anon 34
pgfault 12866
"""


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        pytest.param(b"low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\n", (1, 2, 3, 4, 5, None), id="5.10 has no oom_group_kill"),
        pytest.param(b"low 0\nhigh 0\nmax 49\noom 1\noom_kill 1\noom_group_kill 7\n", (0, 0, 49, 1, 1, 7), id="6.12"),
        pytest.param(
            b"low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\noom_group_kill 0\nsock_throttled 9\n", (0, 0, 0, 0, 2, 0), id="7.2"
        ),
        pytest.param(b"new -1 x\noom 4\noom_kill 5\nlow 1\nhigh 2\nmax 3\n", (1, 2, 3, 4, 5, None), id="other order, odd key"),
    ],
)  # fmt: skip
def test_memory_events(raw: bytes, events: tuple[int | None, ...]) -> None:
    assert parse_memory_events(raw) == events


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"low 0\nhigh 0\nmax 0\noom 0\n", id="no oom_kill"),
        pytest.param(b"low 0\nhigh 0\nmax 0\noom 0\noom_kill 12", id="torn in a number"),
        pytest.param(b"low 0\nhigh 0\nmax 0\noom x\noom_kill 0\n", id="no number"),
        pytest.param(b"low 0\nhigh 0\nmax 0\noom -1\noom_kill 0\n", id="negative"),
        pytest.param(b"low 0\nhigh 0\nmax 0\noom 1_0\noom_kill 0\n", id="python's own spelling"),
        pytest.param(
            b"low 0\nhigh 0\nmax 0\noom " + b"9" * 5000 + b"\noom_kill 0\n", id="more digits than 64 bits have"
        ),
        pytest.param(b"low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill\n", id="group kills without a number"),
    ],
)
def test_damaged_memory_events_are_refused(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse_memory_events(raw)


def test_stat_of_5_10_lacks_what_came_later() -> None:
    stat = StatParser().parse(STAT_5_10)
    assert (stat.anon, stat.file, stat.shmem, stat.file_dirty) == (118784, 40960, 8192, 12288)
    assert (stat.inactive_file, stat.active_file, stat.unevictable) == (20480, 1024, 512)
    assert (stat.percpu, stat.pagetables, stat.swapcached, stat.kernel) == (480, None, None, None)
    assert stat.kernel_and_sock == 300 + 16384 + 480 + 4096


def test_stat_of_6_12() -> None:
    stat = StatParser().parse(STAT_6_12)
    assert (stat.kernel_stack, stat.pagetables, stat.sock, stat.slab, stat.swapcached) == (4, 5, 8, 47, 14)
    assert stat.kernel_and_sock == 3008


def test_a_layout_is_learned_again_when_it_changes() -> None:
    parser = StatParser()
    assert parser.parse(STAT_6_12) == StatParser().parse(STAT_6_12)
    assert parser.parse(STAT_5_10) == StatParser().parse(STAT_5_10)
    changed = STAT_5_10.replace(b"anon 118784\n", b"anon 7\nnew_key 1\n")
    assert parser.parse(changed).anon == 7
    assert parser.parse(changed).slab == 300


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"anon 1\nfile 2\n", id="keys missing"),
        pytest.param(STAT_6_12[:-1], id="torn in the last number"),
        pytest.param(STAT_6_12[: STAT_6_12.index(b"slab 47") + 4], id="torn behind the last wanted key"),
        pytest.param(STAT_6_12.replace(b"anon 1\n", b"anon -1\n"), id="negative"),
    ],
)
def test_a_damaged_stat_is_refused_and_the_next_is_read(raw: bytes) -> None:
    parser = StatParser()
    parser.parse(STAT_6_12)
    with pytest.raises(ParseError):
        parser.parse(raw)
    assert parser.parse(STAT_6_12).slab == 47


def test_amounts_limits_switches_and_pressure() -> None:
    assert parse_amount(b"5308416\n") == 5308416
    assert parse_limit(b"52428800\n") == 52428800
    assert parse_limit(b"max\n") is None
    assert [parse_switch(b"0\n"), parse_switch(b"1\n")] == [False, True]
    raw = b"some avg10=0.00 avg60=0.12 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    assert parse_pressure(raw) == 1.5


@pytest.mark.parametrize(
    ("parse", "raw"),
    [
        pytest.param(parse_amount, b"53084", id="torn amount"),
        pytest.param(parse_amount, b"max\n", id="amount max"),
        pytest.param(parse_amount, b"\n", id="no amount"),
        pytest.param(parse_limit, b"ma", id="torn max"),
        pytest.param(parse_switch, b"2\n", id="switch 2"),
        pytest.param(parse_pressure, b"some avg10=0.00 avg60=0.00 avg300=0.00 total=15", id="torn pressure"),
        pytest.param(parse_pressure, b"full avg10=0.00 avg60=0.00 avg300=0.00 total=15\n", id="no `some` line"),
        pytest.param(parse_pressure, b"some avg10=0.00\n", id="no total"),
    ],
)
def test_damaged_values_are_refused(parse: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse(raw)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_parse_error(raw: bytes) -> None:
    parses = (parse_memory_events, StatParser().parse, parse_amount, parse_limit, parse_switch, parse_pressure)
    for parse in parses:
        try:
            parse(raw)
        except ParseError:
            continue


@given(st.lists(st.integers(0, 2**63 - 1), min_size=6, max_size=6), st.randoms())
def test_events_in_any_order_are_read_back(values: list[int], random: object) -> None:
    events = MemoryEvents(*values)
    lines = [f"{key} {value}\n" for key, value in events._asdict().items()]
    random.shuffle(lines)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    assert parse_memory_events("".join(lines).encode()) == events
