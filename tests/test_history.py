"""The history shows what was put in, in order and in time, and survives the agent but neither damage nor a reboot."""

from __future__ import annotations

import struct
import zlib
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import history
from collector.errors import ParseError
from collector.history import BIN_SECONDS, Bin, Bounds, History, Key, Sample
from collector.model import MemcgPath

if TYPE_CHECKING:
    from collector.history import Life

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
KEY = Key(MemcgPath("/kubepods.slice/kubepods-pod1.slice/cri-containerd-\udce9.scope"), 4711)
BOOT = "00000000-0000-4000-8000-000000000001"


def sample(working_set: int = 100 * MIB, **parts: int | None) -> Sample:
    given = {"current": working_set + 8 * MIB, "anon": working_set, "file": 8 * MIB, "shmem": 0, "kernel": 0, "swap": 0}
    return Sample(**{"working_set": working_set, **given, **parts})  # type: ignore[arg-type]  # None only where allowed


def history_of(*samples: tuple[float, Sample], bounds: Bounds | None = None) -> History:
    made = History(boot_id=BOOT)
    for at, one in samples:
        made.add(KEY, one, at=at, bounds=bounds)
    return made


def life_of(made: History, key: Key = KEY) -> Life:
    life = made.get(key)
    assert life is not None
    return life


def bins_of(made: History) -> list[Bin]:
    return list(life_of(made).read_bins())


def test_they_are_read_back_as_they_were_put_in() -> None:
    put_in = [(1000.5 + 10 * n, sample(n * MIB, anon=n * 4096, kernel=None, swap=None)) for n in range(100)]
    assert list(life_of(history_of(*put_in)).read_samples()) == put_in


def test_the_sample_at_a_time_is_the_last_before_it() -> None:
    put_in = [(1000.5 + 10 * n, sample(n * MIB)) for n in range(100)]
    life = life_of(history_of(*put_in))
    assert [life.sample_at(at) for at in (999.0, 1000.5, 1010.4, 1499.9, 5000.0)] == [
        None, put_in[0], put_in[0], put_in[49], put_in[99],
    ]  # fmt: skip


def test_the_last_hour_stays() -> None:
    put_in = [(10.0 * n, sample(n * MIB)) for n in range(1000)]
    assert list(life_of(history_of(*put_in)).read_samples()) == put_in[-360:]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        pytest.param(4097, 4096, id="rounded down to a page"),
        pytest.param(0, 0, id="zero is not unknown"),
        pytest.param(16 * TIB - 4096, 16 * TIB - 3 * 4096, id="not taken for unknown"),
        pytest.param(20 * TIB, 16 * TIB - 3 * 4096, id="beyond what fits"),
    ],
)
def test_unit(size: int, shown: int) -> None:
    ((_, read),) = life_of(history_of((0, sample(kernel=size)))).read_samples()
    assert read.kernel == shown


def test_a_gap_stays_one() -> None:
    times = [0.0, 10.0, 7200.0, 7210.0]
    made = history_of(*((at, sample()) for at in times))
    assert [at for at, _ in life_of(made).read_samples()] == times
    assert [(one.at, one.samples) for one in life_of(made).read_bins()] == [(10.0, 2), (7210.0, 2)]


def test_peaks_and_floor_are_kept_and_of_the_rest_the_last() -> None:
    sizes = [100, 900, 50, 200]
    made = history_of(*((10.0 * n, sample(size * MIB, swap=n * MIB)) for n, size in enumerate(sizes)))
    assert bins_of(made) == [
        Bin(
            at=30.0,
            samples=4,
            most_current=908 * MIB,
            most_working_set=900 * MIB,
            least_working_set=50 * MIB,
            anon=200 * MIB,
            file=8 * MIB,
            shmem=0,
            kernel=0,
            swap=3 * MIB,
            bounds=None,
        )
    ]


@given(st.lists(st.tuples(st.integers(0, 5 * BIN_SECONDS), st.integers(0, GIB // 4096)), min_size=1))
def test_every_sample_is_in_the_bin_of_its_ten_minutes(told: list[tuple[int, int]]) -> None:
    told.sort(key=lambda one: one[0])
    bins = bins_of(history_of(*((at, sample(pages * 4096)) for at, pages in told)))
    assert [one.at // BIN_SECONDS for one in bins] == sorted({at // BIN_SECONDS for at, _ in told})
    for one in bins:
        sizes = [pages * 4096 for at, pages in told if at // BIN_SECONDS == one.at // BIN_SECONDS]
        assert (one.samples, one.most_working_set, one.least_working_set) == (len(sizes), max(sizes), min(sizes))
        assert one.anon == sizes[-1]


def test_a_day_of_them_stays() -> None:
    made = history_of(*((60.0 * n, sample(n * MIB)) for n in range(2 * 24 * 60)))
    bins = bins_of(made)
    assert len(bins) == 24 * 6
    assert bins[-1].at - bins[0].at == 24 * 3600 - BIN_SECONDS
    assert life_of(made).began == bins[0].at


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(None, id="not read"),
        pytest.param(Bounds(None, None, None), id="no limit, no peak and no PSI"),
        pytest.param(Bounds(512 * MIB, 511 * MIB, 2.3), id="all"),
        pytest.param(Bounds(0, 0, 0.0), id="zeros"),
    ],
)
def test_bounds(bounds: Bounds | None) -> None:
    made = history_of((0, sample()), bounds=bounds)
    made.add(KEY, sample(), at=10)
    made.add(KEY, sample(), at=BIN_SECONDS)
    assert [one.bounds for one in bins_of(made)] == [bounds, None], "not claimed of minutes in which it was not read"


def test_a_cgroup_made_anew_is_another_life() -> None:
    made = history_of((0, sample()))
    later = Key(KEY.path, KEY.inode + 1)
    made.remove(KEY, at=5)
    made.add(later, sample(), at=20)
    for at, key in [(-1.0, KEY), (7.0, KEY), (20.0, later), (99.0, later)]:
        found = made.find(KEY.path, at=at)
        assert found is not None
        assert found == (key, made.get(key)), at
    assert made.find(MemcgPath("/other"), at=0) is None


def test_a_removed_one_is_remembered_for_a_while() -> None:
    made = history_of((0, sample()))
    made.remove(KEY, at=100)
    made.remove(KEY, at=400)
    made.prune(at=699)
    assert made.get(KEY)
    made.prune(at=700)
    assert (made.get(KEY), len(made)) == (None, 0)


def test_one_that_is_sampled_again_stays() -> None:
    made = history_of((0, sample()))
    made.remove(KEY, at=100)
    made.add(KEY, sample(), at=110)
    made.prune(at=10_000)
    assert made.get(KEY)


def test_removing_what_was_never_sampled_is_nothing() -> None:
    made = History(boot_id=BOOT)
    made.remove(KEY, at=0)
    made.prune(at=10_000)
    assert made.take_unsaved(1) == {}


def test_their_number_is_bounded_and_the_longest_removed_makes_room() -> None:
    made = History(boot_id=BOOT, max_lives=2)
    first, second, third, fourth = (Key(KEY.path, inode) for inode in range(4))
    made.add(first, sample(), at=0)
    made.add(second, sample(), at=0)
    made.remove(second, at=1)
    made.remove(first, at=2)
    made.add(third, sample(), at=3)
    assert (made.get(second), made.refused) == (None, 0)
    made.add(first, sample(), at=4)
    made.add(fourth, sample(), at=4)
    assert (made.get(fourth), made.refused, len(made)) == (None, 1, 2)


def test_churn_leaves_nothing_behind() -> None:
    made = History(boot_id=BOOT)
    for inode in range(3000):
        key = Key(MemcgPath(f"/{inode}"), inode)
        made.add(key, sample(), at=inode)
        made.remove(key, at=inode)
        made.prune(at=inode)
        made.take_unsaved(30)
    assert len(made) == history.REMEMBERED_SECONDS
    made.prune(at=10_000)
    saved = made.take_unsaved(30)
    assert len(saved) == history.REMEMBERED_SECONDS
    assert set(saved.values()) == {None}
    assert made.take_unsaved(1) == {}


@given(st.integers(0, 800), st.integers(0, 50))
def test_a_restart_is_not_seen(before: int, after: int) -> None:
    put_in = [(10.0 * n, sample(n * n * KIB, kernel=None)) for n in range(1 + before + after)]
    bounds = Bounds(GIB, None, 0.001)
    saved = history_of(*put_in[: 1 + before], bounds=bounds).snapshot(KEY)
    restored = History(boot_id=BOOT)
    assert restored.restore(saved, at=10.0 * before) == KEY
    for at, one in put_in[1 + before :]:
        restored.add(KEY, one, at=at, bounds=bounds)
    never_stopped = history_of(*put_in, bounds=bounds)
    assert list(life_of(restored).read_samples()) == list(life_of(never_stopped).read_samples())
    assert bins_of(restored) == bins_of(never_stopped)


def test_a_history_without_a_sample_is_refused() -> None:
    saved = history_of((0, sample())).snapshot(KEY)
    path = KEY.path.encode(errors="surrogateescape")
    empty = saved[: saved.index(path) + len(path)] + b"\x08\x00" + b"\x0d\x00"
    with pytest.raises(ParseError):
        History(boot_id=BOOT).restore(empty + struct.pack("=I", zlib.crc32(empty)), at=0)


def test_one_that_is_not_seen_again_is_forgotten() -> None:
    restored = History(boot_id=BOOT)
    restored.restore(history_of((0, sample())).snapshot(KEY), at=100)
    restored.prune(at=699)
    assert restored.take_unsaved(1) == {}
    restored.prune(at=700)
    assert restored.take_unsaved(1) == {KEY.path: None}


def test_another_boot_or_a_life_that_goes_on_is_not_overwritten() -> None:
    made = history_of((0, sample()), (10, sample()))
    saved = made.snapshot(KEY)
    assert History(boot_id=BOOT.replace("1", "2")).restore(saved, at=0) is None
    made.add(KEY, sample(), at=20)
    assert made.restore(saved, at=20) is None
    assert len(life_of(made).samples) == 3


def test_more_than_there_is_room_for_is_not_taken() -> None:
    assert History(boot_id=BOOT, max_lives=0).restore(history_of((0, sample())).snapshot(KEY), at=0) is None


def test_in_turns_every_life_is_saved_once() -> None:
    made = History(boot_id=BOOT)
    keys = [Key(MemcgPath(f"/{number}"), number) for number in range(100)]
    for key in keys:
        made.add(key, sample(), at=0)
    turns = [list(made.take_unsaved(30)) for _ in range(30)]
    assert list(chain.from_iterable(turns)) == [key.path for key in keys]
    assert max(map(len, turns)) == 4
    assert made.take_unsaved(1) == {}
    made.add(keys[7], sample(), at=10)
    assert made.take_unsaved(1) == {keys[7].path: made.snapshot(keys[7])}


def test_of_one_path_the_newest_life_is_saved() -> None:
    made = history_of((0, sample()))
    made.remove(KEY, at=0)
    later = Key(KEY.path, KEY.inode + 1)
    made.add(later, sample(), at=10)
    assert made.take_unsaved(1) == {KEY.path: made.snapshot(later)}
    made.prune(at=10_000)
    assert len(made) == 1
    assert made.take_unsaved(1) == {}, "what is saved is not the forgotten one's"


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(saved: bytes) -> None:
    with pytest.raises(ParseError):
        History(boot_id=BOOT).restore(saved, at=0)


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    saved = bytearray(history_of(*((n, sample(n * MIB)) for n in range(100))).snapshot(KEY))
    place = data.draw(st.integers(0, len(saved) - 1))
    saved[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ParseError):
        History(boot_id=BOOT).restore(bytes(saved), at=0)
    with pytest.raises(ParseError):
        History(boot_id=BOOT).restore(bytes(saved[:place]), at=0)


@given(st.data())
def test_whatever_has_a_true_checksum_gives_a_history_or_an_error(data: st.DataObject) -> None:
    """As another version, or a bug in it, may have written it."""
    saved = bytearray(history_of(*((n, sample(n * MIB)) for n in range(100))).snapshot(KEY)[:-4])
    begin = data.draw(st.integers(0, len(saved)))
    saved[begin : begin + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    made = History(boot_id=BOOT)
    try:
        key = made.restore(bytes(saved) + struct.pack("=I", zlib.crc32(saved)), at=0)
    except ParseError:
        return
    if key is not None:
        assert made.find(key.path, at=0) == (key, made.get(key))
        assert len(list(life_of(made, key).read_samples())) == len(life_of(made, key).samples)
        assert len(list(life_of(made, key).read_bins())) == len(life_of(made, key).bins)
