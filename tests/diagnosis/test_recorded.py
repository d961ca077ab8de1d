"""What is said of real programs, whose ends are known: fixtures/histories, recorded in a virtual machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from collector.diagnose import diagnose_history, read_history
from collector.diagnosis.to_json import to_json

HISTORIES = Path(__file__).parents[2] / "fixtures/histories"
MOST_BYTES = 60 << 10

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """`dies`: it ends in a kill; else it asks for a forecast."""

    name: str
    pattern: str
    dies: bool = True


RECORDED = (
    Known("startup", "startup"),
    Known("python-cache-leak", "leak"),
    Known("python-slow-leak", "leak", dies=False),
    Known("python-garbage", "calm", dies=False),
    Known("node-leak", "leak"),
    Known("node-bounded", "calm", dies=False),
    Known("jvm-heap-at-limit", "startup"),
    Known("jvm-off-heap", "calm", dies=False),
    Known("jvm-off-heap-bursts", "limit_too_low"),
    Known("prefork", "limit_too_low"),
    Known("tmpfs", "leak"),
    Known("slab", "leak"),
    Known("reader", "calm", dies=False),
    Known("spike", "spike"),
)
LEAKS = [known for known in RECORDED if known.pattern == "leak"]
NO_LEAKS = [known for known in RECORDED if known.pattern != "leak"]


def rows_of(known: Known) -> list[Row]:
    return [json.loads(line) for line in (HISTORIES / f"{known.name}.jsonl").read_text().splitlines()]


def last_life(rows: list[Row]) -> list[Row]:
    start = max(index for index, row in enumerate(rows) if row.get("event") == "start")
    return rows[start:]


def told_of(rows: list[Row]) -> dict[str, Any]:
    return to_json(diagnose_history(read_history(map(json.dumps, rows))))


def pace(rows: list[Row]) -> float:
    """Bytes an hour, between a quarter of a life and its last sample."""
    first, last = rows[len(rows) // 4], rows[-2]
    return float((last["working_set_bytes"] - first["working_set_bytes"]) / (last["time"] - first["time"]) * 3600)


def ids(known: Known) -> str:
    return known.name


def test_every_recording_is_asked_about() -> None:
    assert {path.stem for path in HISTORIES.glob("*.jsonl")} == {known.name for known in RECORDED}


@pytest.mark.parametrize("known", RECORDED, ids=ids)
def test_it_was_recorded_as_it_says(known: Known) -> None:
    rows = rows_of(known)
    assert (HISTORIES / f"{known.name}.jsonl").stat().st_size <= MOST_BYTES
    assert rows[0]["event"] == "start"
    assert (rows[-1].get("event") == "oom_kill") is known.dies
    assert all(earlier["time"] < later["time"] for earlier, later in pairwise(rows))
    assert all(row["working_set_bytes"] <= row["limit_bytes"] for row in rows)


@pytest.mark.parametrize("known", RECORDED, ids=ids)
def test_pattern(known: Known) -> None:
    told = told_of(rows_of(known))
    assert told["pattern"] == known.pattern, told["reasons"]


@pytest.mark.parametrize("known", LEAKS, ids=ids)
def test_pace_of_a_leak(known: Known) -> None:
    rows = rows_of(known)
    assert told_of(rows)["growth_bytes_per_hour"] == pytest.approx(pace(last_life(rows)), rel=0.2)


@pytest.mark.parametrize("known", LEAKS, ids=ids)
def test_what_a_higher_limit_costs_is_said(known: Known) -> None:
    """Nobody is told to raise the limit of a leak without how long it lasts."""
    for advice in told_of(rows_of(known))["advice"]:
        if "limit_bytes" in advice:
            assert advice["lasts_seconds"] > 0
            assert advice["lasts_hours"] == pytest.approx(advice["lasts_seconds"] / 3600, abs=0.001)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("known", [known for known in LEAKS if known.dies], ids=ids)
def test_a_forecast_before_the_kill_comes_true(known: Known, share: float) -> None:
    """Silence is no mistake: these lives are short."""
    life = last_life(rows_of(known))
    seen = life[: round(len(life) * share)]
    told = told_of(seen)
    assert told["pattern"] in {"leak", "calm"}
    if told["pattern"] == "leak":
        left, lived = (life[-1]["time"] - moment["time"] for moment in (seen[-1], life[0]))
        # Garbage that waits for its collector is a twentieth of a life, near its end much of what is left.
        assert told["seconds_to_limit"] == pytest.approx(left, rel=0.3, abs=lived / 20)


@pytest.mark.parametrize("known", NO_LEAKS, ids=ids)
def test_no_false_forecast_at_any_time(known: Known) -> None:
    life = last_life(rows_of(known))
    alive = [row for row in life if row.get("event") != "oom_kill"]
    for tenth in range(1, 11):
        told = told_of(alive[: max(1, len(alive) * tenth // 10)])
        assert told["pattern"] in {"calm", "unknown"}, f"after {tenth} tenths"
