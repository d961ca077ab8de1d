"""
What the memory of each pod and container has been: every sample of the last hour, ten minutes at a time for a day.

A sample is kept as it was read, in pages of 4 KiB and tenths of a second, both rounded down. A bin is ten minutes of
the monotonic clock, and keeps what a later look needs:

- the most of `current` and `working_set`, so that no sampled peak is lost: what spikes are found by, and limits sized;
- the least of `working_set`: the floor below a garbage collector's saw or a daily load, whose slope is the leak's;
- the last of all else: parts of one reading, which still add up and tell what kind of memory grew.

Nothing is made up: each has the time of its (last) sample, so that a time without samples shows as a step in time. A
cgroup that is made anew under its old path is another life (another inode). One that is gone is remembered for a while,
for kills that are told late. Times mean nothing in another boot, and no container outlives its boot: nor does this.

Ten minutes rather than five: a day of them must fit beside the samples even where nothing can be packed. How much it
takes: docs/benchmarks.md.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from itertools import accumulate, islice
from math import ceil
from operator import sub
from typing import TYPE_CHECKING, NamedTuple

from collector.errors import ParseError
from collector.model import MemcgPath
from collector.series import BLOCK, Series

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SAMPLES = 360
"""An hour at the sampling interval of 10 s."""
BINS = 144
BIN_SECONDS = 600
REMEMBERED_SECONDS = 600.0
"""How long a removed cgroup is. By then a kill has long been settled."""
MAX_LIVES = 1000
"""Pods and containers, removed ones included: 250 pods of two containers each leave a quarter for the removed."""

_VERSION = 1
_PAGE = 4096
_TICKS = 10  # in a second
_BIN_TICKS = BIN_SECONDS * _TICKS
_UNKNOWN = 2**32 - 1
_NO_LIMIT = 2**32 - 2
_MOST = 2**32 - 3
_HEADER = struct.Struct("=BQQHH")  # version, inode, ticks of the last sample, bytes of the boot id, of the path
_CHECKSUM = struct.Struct("=I")


class Sample(NamedTuple):
    """
    Bytes charged to a cgroup and all below it.

    `working_set`: current less inactive_file, as the kubelet has it. `file` includes shmem. 16 TiB less 12 KiB stands
    for all that is more.
    """

    current: int
    working_set: int
    anon: int
    file: int
    shmem: int
    kernel: int | None
    """None: memory.stat does not tell it (before 5.18)."""
    swap: int | None
    """None: no memory.swap.current."""


class Bounds(NamedTuple):
    """What is read less often. Bytes, and seconds to the millisecond."""

    limit: int | None
    """memory.max; None: "max"."""
    peak: int | None
    """memory.peak, over the cgroup's whole life; None: before 5.19."""
    stall_seconds: float | None
    """`some total` of memory.pressure, as counted since the cgroup was made, up to 49 days; None: no PSI."""


class Bin(NamedTuple):
    """Bytes. What was sampled in ten minutes: so far, for the newest."""

    at: float
    """Of the last sample."""
    samples: int
    most_current: int
    most_working_set: int
    least_working_set: int
    anon: int
    file: int
    shmem: int
    kernel: int | None
    swap: int | None
    bounds: Bounds | None
    """As last read in these ten minutes; None: not read in them."""


class Key(NamedTuple):
    path: MemcgPath
    inode: int


class Life:
    """
    The history of one cgroup. `samples` and `bins` are in stored units: see read_samples() and read_bins().

    The first column of both is the time since the row before, so their times are found from the last one backwards.
    """

    __slots__ = ("bins", "changed", "last", "samples")

    def __init__(self, *, last: int = 0, stagger: int = 0) -> None:
        """last: ticks of the last sample. stagger: any number; packing is spread over the passes by it."""
        first_block = BLOCK - stagger % (BLOCK // 2)
        self.samples = Series(columns=8, capacity=SAMPLES, first_block=first_block)
        self.bins = Series(columns=13, capacity=BINS, first_block=first_block)
        self.last = last
        self.changed = False
        """Since it was last taken to be saved."""

    def add(self, sample: Sample, bounds: Bounds | None, at: float) -> None:
        previous, self.last = self.last, max(int(at * _TICKS), self.last)
        # Of the first row it does not count.
        step = self.last - previous if len(self.samples) else 0
        current, working_set, *parts = map(_pages, sample)
        self.samples.append((step, current, working_set, *parts))
        self.changed = True
        row = self.bins.last
        if row is None or previous // _BIN_TICKS != self.last // _BIN_TICKS:
            self.bins.append((step, 1, current, working_set, working_set, *parts, *_store_bounds(bounds)))
            return
        before, count, most_current, most, least, *_ = row
        peaks = max(most_current, current), max(most, working_set), min(least, working_set)
        last_bounds = _store_bounds(bounds) if bounds else row[-3:]
        self.bins.replace_last((before + step, count + 1, *peaks, *parts, *last_bounds))

    @property
    def began(self) -> float:
        """When it was first sampled; where that is more than an hour ago, to ten minutes, and a day ago at most."""
        return min(times[0] for series in (self.samples, self.bins) if (times := self.times(series)))

    @property
    def last_at(self) -> float:
        """Of the last sample."""
        return self.last / _TICKS

    def times(self, series: Series) -> list[float]:
        """Of the rows of `samples` or `bins`."""
        steps = series.column(0)
        backwards = accumulate(reversed(steps[1:]), sub, initial=self.last)
        return [ticks / _TICKS for ticks in backwards][::-1] if steps else []

    def read_samples(self) -> Iterator[tuple[float, Sample]]:
        """With their times, oldest first."""
        for at, row in zip(self.times(self.samples), self.samples.rows(), strict=True):
            yield at, _load_sample(row)

    def sample_at(self, at: float) -> tuple[float, Sample] | None:
        """The last sample of the last hour that was not taken after `at`, with its time."""
        ticks = self.last
        for row in self.samples.newest_first():
            if ticks <= at * _TICKS:
                return ticks / _TICKS, _load_sample(row)
            ticks -= row[0]
        return None

    def read_bins(self) -> Iterator[Bin]:
        """Oldest first. They reach up to the last sample: the newest are there as samples too."""
        for at, row in zip(self.times(self.bins), self.bins.rows(), strict=True):
            _, samples, *sizes, kernel, swap, limit, peak, stall = row
            most_current, most_working_set, least_working_set, anon, file, shmem = (size * _PAGE for size in sizes)
            yield Bin(
                at=at,
                samples=samples,
                most_current=most_current,
                most_working_set=most_working_set,
                least_working_set=least_working_set,
                anon=anon,
                file=file,
                shmem=shmem,
                kernel=_bytes(kernel),
                swap=_bytes(swap),
                bounds=_load_bounds(limit, peak, stall),
            )


class History:
    """The lives of all cgroups that are sampled. `at` is CLOCK_MONOTONIC, in seconds."""

    def __init__(self, *, boot_id: str, max_lives: int = MAX_LIVES) -> None:
        self.refused = 0
        """Samples for which there was no room."""
        self._boot_id = boot_id
        self._max_lives = max_lives
        self._lives: OrderedDict[Key, Life] = OrderedDict()  # the longest not saved first
        self._removed: OrderedDict[Key, float] = OrderedDict()  # the longest removed first
        self._newest: dict[MemcgPath, Key] = {}
        self._forgotten: set[MemcgPath] = set()

    def __len__(self) -> int:
        return len(self._lives)

    def add(self, key: Key, sample: Sample, *, at: float, bounds: Bounds | None = None) -> None:
        life = self._lives.get(key) or self._begin(key)
        if life is None:
            self.refused += 1
            return
        self._removed.pop(key, None)
        life.add(sample, bounds, at)

    def remove(self, key: Key, *, at: float) -> None:
        """The cgroup is gone: forgotten some time later."""
        if key in self._lives:
            self._removed.setdefault(key, at)

    def prune(self, at: float) -> None:
        """Forget what was removed long ago."""
        while self._removed and next(iter(self._removed.values())) <= at - REMEMBERED_SECONDS:
            self._forget_one()

    def get(self, key: Key) -> Life | None:
        return self._lives.get(key)

    def find(self, path: MemcgPath, *, at: float) -> tuple[Key, Life] | None:
        """Who had this path at that time: the last life that was first sampled before it, else the first."""
        lives = sorted((life.began, key) for key, life in self._lives.items() if key.path == path)
        if not lives:
            return None
        before = [key for began, key in lives if began <= at]
        key = before[-1] if before else lives[0][1]
        return key, self._lives[key]

    def of_part(self, part: str) -> list[tuple[Key, Life]]:
        """All whose path has this in it, as the id of a container, removed ones that are remembered among them."""
        return [(key, life) for key, life in self._lives.items() if part in key.path]

    def take_unsaved(self, share: int) -> dict[MemcgPath, bytes | None]:
        """
        What to change in what is saved: for each path what restore() takes; None: forgotten.

        Of all lives the next of `share` parts, the longest not looked at first, as far as they have changed. Called at
        each pass of 10 s, share=30 saves each life every five minutes; share=1 saves all. Of the lives of one path only
        the newest is saved.
        """
        unsaved: dict[MemcgPath, bytes | None] = dict.fromkeys(self._forgotten)
        self._forgotten.clear()
        for key in list(islice(self._lives, ceil(len(self._lives) / share))):
            self._lives.move_to_end(key)
            life = self._lives[key]
            if life.changed and self._newest[key.path] == key:
                life.changed = False
                unsaved[key.path] = self.snapshot(key)
        return unsaved

    def snapshot(self, key: Key) -> bytes:
        """Raises KeyError for an unknown key."""
        life = self._lives[key]
        boot, path = self._boot_id.encode(), key.path.encode(errors="surrogateescape")
        header = _HEADER.pack(_VERSION, key.inode, life.last, len(boot), len(path))
        content = b"".join((header, boot, path, life.samples.to_bytes(), life.bins.to_bytes()))
        return content + _CHECKSUM.pack(zlib.crc32(content))

    def restore(self, saved: bytes, *, at: float) -> Key | None:
        """
        Take back what snapshot() gave an earlier process. None, and nothing taken: of another boot, or no room.

        The life counts as removed at `at` until it is sampled again. Raises ParseError for what is damaged or of
        another version.
        """
        boot_id, key, last, series = _open(saved)
        if boot_id != self._boot_id or key in self._lives:
            return None
        life = Life(last=last)
        if life.bins.read(life.samples.read(series)) or not len(life.samples):
            raise ParseError("saved memory history", f"that of {key.path!r}")
        if len(self._lives) >= self._max_lives:
            return None
        self._lives[key] = life
        self._newest.setdefault(key.path, key)
        self._removed[key] = at
        return key

    def _begin(self, key: Key) -> Life | None:
        if len(self._lives) >= self._max_lives:
            if not self._removed:
                return None
            self._forget_one()
        self._newest[key.path] = key
        self._forgotten.discard(key.path)
        life = self._lives[key] = Life(stagger=key.inode)
        return life

    def _forget_one(self) -> None:
        key, _ = self._removed.popitem(last=False)
        del self._lives[key]
        if self._newest[key.path] == key:
            del self._newest[key.path]
            self._forgotten.add(key.path)


def _open(saved: bytes) -> tuple[str, Key, int, memoryview]:
    """Boot id, key, ticks of the last sample, and the bytes of the series. Raises ParseError."""
    content = memoryview(saved)[: -_CHECKSUM.size]
    try:
        (checksum,) = _CHECKSUM.unpack_from(saved, len(content))
        version, inode, last, boot_size, path_size = _HEADER.unpack_from(content)
        if checksum != zlib.crc32(content) or version != _VERSION:
            raise ValueError("damaged, or of another version")
        boot_end = _HEADER.size + boot_size
        boot_id = bytes(content[_HEADER.size : boot_end]).decode()
        path = bytes(content[boot_end : boot_end + path_size]).decode(errors="surrogateescape")
    except (struct.error, ValueError) as error:
        raise ParseError("saved memory history", f"{len(saved)} bytes beginning {saved[:16].hex()}") from error
    return boot_id, Key(MemcgPath(path), inode), last, content[boot_end + path_size :]


def _pages(size: int | None) -> int:
    return _UNKNOWN if size is None else min(max(size, 0) // _PAGE, _MOST)


def _bytes(pages: int) -> int | None:
    return None if pages == _UNKNOWN else pages * _PAGE


def _load_sample(row: Sequence[int]) -> Sample:
    _, *sizes, kernel, swap = row
    current, working_set, anon, file, shmem = (size * _PAGE for size in sizes)
    return Sample(current, working_set, anon, file, shmem, _bytes(kernel), _bytes(swap))


def _store_bounds(bounds: Bounds | None) -> tuple[int, int, int]:
    if bounds is None:
        return _UNKNOWN, _UNKNOWN, _UNKNOWN
    stall = _UNKNOWN if bounds.stall_seconds is None else min(round(bounds.stall_seconds * 1000), _MOST)
    return _NO_LIMIT if bounds.limit is None else _pages(bounds.limit), _pages(bounds.peak), stall


def _load_bounds(limit: int, peak: int, stall: int) -> Bounds | None:
    if limit == _UNKNOWN:
        return None
    return Bounds(
        limit=None if limit == _NO_LIMIT else limit * _PAGE,
        peak=_bytes(peak),
        stall_seconds=None if stall == _UNKNOWN else stall / 1000,
    )
