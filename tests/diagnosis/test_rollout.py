"""What a revision of a workload has shown, from several looks at several containers."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.diagnosis.rollout import (
    FLAT_AFTER_SECONDS,
    LONG_SECONDS,
    MAX_REVISIONS,
    RevisionSeen,
    either,
    growths,
    merge,
    seen_now,
)

HOUR = 3600.0
MIB = 1 << 20


def seen(hours: float, growth: float | None = 0.0, *, at: float = 0.0, image: str | None = "web:1") -> RevisionSeen:
    return RevisionSeen("web", "41", image, at, at + 10, hours * HOUR, growth)


@pytest.mark.parametrize(
    ("observed", "growth", "shown"),
    [
        (FLAT_AFTER_SECONDS, None, 0.0),
        (FLAT_AFTER_SECONDS - 1, None, None),
        (60.0, 8.0 * MIB, 8.0 * MIB),
    ],
)
def test_without_a_trend_it_is_flat_once_it_was_watched_for_long(
    observed: float, growth: float | None, shown: float | None
) -> None:
    one = seen_now("web", "41", None, started_at=1.0, now=2.0, observed_seconds=observed, growth_bytes_per_hour=growth)
    assert (one.growth_bytes_per_hour, one.first_at, one.last_at) == (shown, 1.0, 2.0)


@pytest.mark.parametrize(
    ("former", "new", "told"),
    [
        pytest.param(seen(6, 8.0), seen(0.1, None), 8.0, id="a life that has just begun"),
        pytest.param(seen(6, 8.0), seen(2, 0.0), 8.0, id="a shorter one"),
        pytest.param(seen(6, 0.0), seen(7, 8.0), 8.0, id="a longer one"),
        pytest.param(seen(24, 0.0), seen(LONG_SECONDS / HOUR, 8.0), 8.0, id="long enough, it grows now"),
        pytest.param(seen(24, 8.0), seen(LONG_SECONDS / HOUR, 0.0), 0.0, id="long enough, it stopped"),
    ],
)
def test_the_former_look_and_the_new_one(former: RevisionSeen, new: RevisionSeen, told: float) -> None:
    assert merge(former, new).growth_bytes_per_hour == told


def test_what_both_know_is_kept() -> None:
    both = merge(seen(6, at=100.0), seen(1, at=50.0, image=None))
    assert (both.image, both.first_at, both.last_at) == ("web:1", 50.0, 110.0)
    assert merge(None, both) is either(None, both) is both


_SEEN = st.builds(seen, st.floats(0, 24), st.none() | st.floats(0, 1e9), at=st.floats(0, 1e9), image=st.just("web:1"))


@given(st.lists(_SEEN, min_size=2, max_size=3))
def test_containers_of_one_time_have_no_order(many: list[RevisionSeen]) -> None:
    shown = set()
    for order in permutations(many):
        one: RevisionSeen | None = None
        for each in order:
            one = either(one, each)
        assert one is not None
        shown.add((one.growth_bytes_per_hour or 0.0, one.observed_seconds, one.first_at, one.last_at))
    assert len(shown) == 1
    assert max(each.growth_bytes_per_hour or 0.0 for each in many) in {growth for growth, *_ in shown}


def test_the_newest_revisions_are_told_the_newest_last() -> None:
    rows = [seen(1, at=float(number))._replace(revision=str(number)) for number in range(MAX_REVISIONS + 3)]
    told = growths(reversed(rows), {"5": 2, "unknown": 7})
    assert [one.revision for one in told] == [str(number) for number in range(3, MAX_REVISIONS + 3)]
    assert {one.revision: one.kills for one in told if one.kills} == {"5": 2}
    assert [one.rolled_out_at for one in told] == [float(number) for number in range(3, MAX_REVISIONS + 3)]
