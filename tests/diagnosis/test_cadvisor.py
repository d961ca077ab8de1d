"""What Prometheus answers, and what is made of it. That it understands the question: tests/test_prometheus_history.py."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.diagnosis.cadvisor import (
    MAX_REVISIONS,
    NOWHERE,
    PODS_PER_REVISION,
    Past,
    Series,
    parse,
    pods_of_revisions,
    query,
    see,
)
from collector.diagnosis.model import Life, MemoryHistory, Pattern, Point
from collector.diagnosis.pattern import judge
from collector.diagnosis.rollout import LONG_AGO
from collector.errors import ParseError
from collector.model import Names, NamesFrom, Owner

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
HOUR = 3600.0
NOW = 1_800_000_000.0
OFFSET = 50_000.0 - NOW  # the history's clock is that of the machine, which booted a while ago
ID = "1234567890abcdef" * 4
OTHER_ID = "fedcba0987654321" * 4
POD = "cart-5d4f8c7b9d-x7k2p"
NAMES = Names(
    source=NamesFrom.API, namespace="shop", pod=POD, owner=Owner(kind="Deployment", name="cart"), container="cart"
)


def cgroup(container_id: str) -> str:
    return f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{container_id}.scope"


def series(
    size: Callable[[float], float],
    *,
    hours: tuple[float, float] = (-10, 0),
    pod: str = POD,
    path: str = cgroup(ID),
    has_anon: bool = True,
) -> Series:
    """size: MiB by hours; hours: from NOW."""
    points = []
    at = hours[0] * HOUR
    while at < hours[1] * HOUR:
        used = int(size(at / HOUR) * MIB)
        points.append(Point(NOW + at, used, used, used, anon=used - 20 * MIB if has_anon else None))
        at += 300
    return Series(pod, path, tuple(points))


def leaking(hour: float) -> float:
    return 900 + 40 * hour + (hour * 7919 % 1)


def local(size: Callable[[float], float], minutes: int, *, started: bool = False) -> MemoryHistory:
    """Sampled each 10 s up to a kill, all parts known."""
    points = []
    for second in range(-60 * minutes, 1, 10):
        used = int(size(second / HOUR) * MIB)
        parts = {"anon": used - 60 * MIB, "shmem": 30 * MIB, "kernel": 10 * MIB}
        points.append(Point(NOW + OFFSET + second, used, used, used, 900 * MIB, **parts))
    return MemoryHistory(lives=(Life(points=tuple(points), started=started, killed=True),))


def begin_earlier(history: MemoryHistory | None, *own: Series) -> MemoryHistory | None:
    return Past(own=own).begin_earlier(history, ID, until=NOW + OFFSET, offset=OFFSET)


# Before we saw it


@pytest.mark.parametrize("path", [cgroup(ID), ""], ids=["cgroup known", "cgroup dropped"])
@pytest.mark.parametrize(
    ("minutes", "has_anon"),
    [
        pytest.param(2, True, id="the agent has just begun"),
        pytest.param(120, True, id="the agent has seen most of the samples"),
        # Of these the working set counts only while it is all that is known of a fifth of them.
        pytest.param(2, False, id="no container_memory_rss"),
    ],
)
def test_a_leak_that_began_before_the_agent(minutes: int, has_anon: bool, path: str) -> None:
    history = begin_earlier(local(leaking, minutes), series(leaking, path=path, has_anon=has_anon))
    assert history is not None
    judgement = judge(history)
    assert judgement.pattern is Pattern.LEAK
    assert judgement.growth_bytes_per_hour == pytest.approx(40 * MIB, rel=0.05)
    assert judgement.growth_since == pytest.approx(NOW + OFFSET - 10 * HOUR, abs=0.5 * HOUR)


def test_a_kill_that_nobody_sampled() -> None:
    history = begin_earlier(None, series(leaking))
    assert history is not None
    assert history.last.killed
    assert not history.last.started
    assert history.last.points[-1].time == pytest.approx(NOW + OFFSET - 300)


def test_what_was_after_the_kill_is_left_out() -> None:
    history = begin_earlier(None, series(leaking, hours=(-1, 2)))
    assert history is not None
    assert history.last.points[-1].time < NOW + OFFSET


def test_page_cache_is_no_leak() -> None:
    """What cAdvisor tells of anonymous memory counts, as it does of what we sample."""
    flat = series(leaking)
    flat = flat._replace(points=tuple(point._replace(anon=300 * MIB) for point in flat.points))
    seen = local(leaking, 120)
    points = tuple(point._replace(anon=300 * MIB) for point in seen.last.points)
    history = begin_earlier(replace(seen, lives=(replace(seen.last, points=points),)), flat)
    assert history is not None
    assert len(history.last.points) > len(points)
    assert judge(history).pattern is not Pattern.LEAK


def test_what_cadvisor_does_not_tell_makes_no_step() -> None:
    history = begin_earlier(local(leaking, 20), series(leaking))
    assert history is not None
    assert {(point.shmem, point.kernel, point.limit) for point in history.last.points} == {
        (30 * MIB, 10 * MIB, 900 * MIB)
    }


def saw(hour: float) -> float:
    """A garbage collector's, each three hours."""
    return 200 + 250 * (hour % 3)


@pytest.mark.parametrize(
    "own",
    [
        pytest.param((), id="nothing is known"),
        pytest.param((series(leaking, path=cgroup(OTHER_ID)),), id="the instance before"),
        pytest.param((series(saw, path=""),), id="restarts or a collector, nobody knows"),
        pytest.param((series(lambda _: 2000, path=""),), id="it fell to what we see"),
        pytest.param((series(leaking, hours=(-0.2, 0)),), id="nothing from before"),
    ],
)
def test_not_made_longer(own: tuple[Series, ...]) -> None:
    history = local(leaking, 20)
    assert begin_earlier(history, *own) == history


def test_a_collector_in_one_life_stays_whole() -> None:
    history = begin_earlier(local(saw, 20), series(saw))
    assert history is not None
    assert history.last.points[0].time == NOW + OFFSET - 10 * HOUR


def test_a_life_that_we_saw_begin_is_ours() -> None:
    history = local(leaking, 20, started=True)
    assert begin_earlier(history, series(leaking)) == history


@pytest.mark.parametrize("path", [cgroup(OTHER_ID), ""], ids=["another's", "cgroup dropped"])
def test_nothing_is_known_of_what_nobody_sampled(path: str) -> None:
    assert begin_earlier(None, series(leaking, path=path)) is None
    assert begin_earlier(None) is None


def test_nowhere() -> None:
    history = local(leaking, 20)
    assert NOWHERE.begin_earlier(history, ID, until=NOW, offset=OFFSET) == history


# Revisions


@pytest.mark.parametrize(
    ("pod", "revision"),
    [
        pytest.param("cart-6799fc88d8-x7k2p", "6799fc88d8", id="of the Deployment"),
        pytest.param("cart-5d4f8c7b9d-2wq9m", "5d4f8c7b9d", id="of its own revision"),
        pytest.param("cart-db-x7k2p", None, id="of a DaemonSet that is called like it"),
        pytest.param("cart-api-6799fc88d8-x7k2p", None, id="of a Deployment that is called like it"),
        pytest.param("cart-0", None, id="of a StatefulSet"),
        pytest.param("shopping-cart-6799fc88d8-x7k2p", None, id="of another that ends so"),
    ],
)
def test_whose_pod_it_is(pod: str, revision: str | None) -> None:
    found = pods_of_revisions(NAMES, [series(leaking, pod=pod)])
    assert [name for name, _ in found] == ([] if revision is None else [revision])


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(replace(NAMES, owner=None), id="no owner"),
        pytest.param(replace(NAMES, owner=Owner(kind="StatefulSet", name="cart"), pod="cart-0"), id="StatefulSet"),
        pytest.param(replace(NAMES, owner=Owner(kind="Deployment", name="c" * 60), pod="c" * 58 + "x7k2p"), id="cut"),
    ],
)
def test_who_has_no_revisions_to_be_asked_for(names: Names) -> None:
    assert " or " not in query(names, "cart")
    assert pods_of_revisions(names, [series(leaking)]) == []


def test_of_a_revision_one_life_at_a_time_is_judged() -> None:
    """Without its cgroup a series that falls may be many lives, of which the last may look like a leak."""
    assert pods_of_revisions(NAMES, [series(saw, path="")]) == []
    assert pods_of_revisions(NAMES, [series(saw)])


def test_the_longest_lives_of_each_revision() -> None:
    revisions = ["6799fc88d8", "5d4f8c7b9d"]  # the older one first
    many = [
        series(leaking, hours=(-20 + 5 * index, -19 + 5 * index + 0.1 * pod), pod=f"cart-{revision}-x7k2{pod}")
        for index, revision in enumerate(revisions)
        for pod in range(9)
    ]
    found = [(revision, one.pod[-1]) for revision, one in pods_of_revisions(NAMES, reversed(many))]
    assert found == [(revision, pod) for revision in revisions for pod in "876"]
    assert PODS_PER_REVISION == 3


def test_no_more_revisions_than_are_told() -> None:
    letters = "456789bcdf"
    many = [
        series(leaking, hours=(-20 + index, 0), pod=f"cart-{letters[index % 10]}{letters[index // 10]}5555-x7k2p")
        for index in range(15)
    ]
    found = [revision for revision, _ in pods_of_revisions(NAMES, many)]
    assert len(found) == MAX_REVISIONS
    assert found[-1] == f"{letters[4]}{letters[1]}5555"


@pytest.mark.parametrize(
    ("one", "growth", "first_at"),
    [
        pytest.param(series(leaking), 40 * MIB, NOW - 10 * HOUR, id="grows"),
        pytest.param(series(lambda hour: 500 + hour * 7919 % 5), 0.0, NOW - 10 * HOUR, id="flat"),
        pytest.param(series(saw), 0.0, NOW - 10 * HOUR, id="a garbage collector"),
        pytest.param(series(leaking, hours=(-0.5, 0)), None, NOW - 0.5 * HOUR, id="too short"),
        pytest.param(series(lambda _: 500, hours=(-24, 0)), 0.0, LONG_AGO, id="older than the answer"),
    ],
)
def test_what_a_revision_does(one: Series, growth: float | None, first_at: float) -> None:
    seen = see("shop/Deployment/cart/cart", "5d4f8c7b9d", one, since=NOW - 24 * HOUR)
    assert seen.growth_bytes_per_hour == (growth if not growth else pytest.approx(growth, rel=0.05))
    assert seen.first_at == first_at
    assert seen.observed_seconds == one.seconds


# Answers


def answer(*results: dict[str, Any]) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "matrix", "result": list(results)}}


def result(values: list[Any], name: str = "container_memory_working_set_bytes", **labels: str) -> dict[str, Any]:
    return {"metric": {"__name__": name, "pod": POD, "id": cgroup(ID), **labels}, "values": values}


def test_an_answer() -> None:
    (one,) = parse(
        answer(
            result([[NOW, "1000"], [NOW + 300, "2e3"]]),
            result([[NOW + 300, "900"]], name="container_memory_rss"),
        ),
        since=NOW,
        until=NOW + 300,
    )
    assert one == Series(POD, cgroup(ID), (Point(NOW, 1000, 1000, 1000), Point(NOW + 300, 2000, 2000, 2000, anon=900)))


@pytest.mark.parametrize(
    "value",
    ["NaN", "+Inf", "-Inf", "-1", "1e300"],
)
def test_a_value_that_is_no_size_is_left_out(value: str) -> None:
    (one,) = parse(answer(result([[NOW, "1000"], [NOW + 300, value]])), since=NOW, until=NOW + 300)
    assert [point.working_set for point in one.points] == [1000]


def test_in_the_order_of_time_and_within_what_was_asked_for() -> None:
    values = [[NOW + 900, "4"], [NOW + 600, "3"], [NOW + 300, "1"], [NOW, "0"], [NOW + 300, "2"], [float("nan"), "5"]]
    (one,) = parse(answer(result(values)), since=NOW + 300, until=NOW + 600)
    assert [(point.time, point.working_set) for point in one.points] == [(NOW + 300, 2), (NOW + 600, 3)]


def test_without_the_label_of_the_cgroup() -> None:
    bare = {"metric": {"pod": POD}, "values": [[NOW, "1000"]]}
    (one,) = parse(answer(bare), since=NOW, until=NOW)
    assert (one.pod, one.cgroup) == (POD, "")


def test_nothing_is_known() -> None:
    assert parse(answer(), since=NOW, until=NOW) == []
    assert parse(answer(result([], name="container_memory_rss")), since=NOW, until=NOW) == []


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="a list"),
        pytest.param({}, id="empty"),
        pytest.param({"status": "error", "error": "out of memory"}, id="an error"),
        pytest.param({"status": "success"}, id="no data"),
        pytest.param({"status": "success", "data": {"result": 5}}, id="no list"),
        pytest.param(answer({"metric": {}, "values": []}), id="no pod"),
        pytest.param(answer({"metric": {"pod": POD}}), id="no values"),
        pytest.param(answer(result([[NOW]])), id="no value"),
        pytest.param(answer(result([[NOW, None]])), id="a value of null"),
        pytest.param(answer(result([[NOW, "many"]])), id="a word"),
        pytest.param(answer(result(["ab"])), id="text for a sample"),
    ],
)
def test_an_answer_that_cannot_be_read(broken: object) -> None:
    with pytest.raises(ParseError, match="answer of Prometheus"):
        parse(broken, since=NOW, until=NOW + 300)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["metric", "values", "pod", "id", "x"]), inner)
    ),
)


@settings(max_examples=50)
@given(st.lists(JSON))
def test_any_answer_is_read_or_refused(results: list[Any]) -> None:
    try:
        found = parse(json.loads(json.dumps(answer(*results))), since=0, until=NOW)
    except ParseError:
        return
    assert all(one.points for one in found)
