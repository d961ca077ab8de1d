"""
The promises of the diagnosis, on histories that its rules were not written by.

Fewer seeds than docs/diagnosis.md is written from (`python -m tests.diagnosis.matrix`), of the same shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.diagnosis import matrix
from tests.diagnosis.asking import ask, ask_command, diagnose, told_of
from tests.diagnosis.calm_days import DAYS, FEW_LOOKS, Look, container_days, per_thousand
from tests.diagnosis.held_out import FRESH, SHAPES, days
from tests.diagnosis.held_out.shape import Shape
from tests.diagnosis.scores import Score, precision, recall, share

SEEDS = range(1000, 1008)
CONTAINERS = range(10_000, 10_000 + 3000 // DAYS)
LEAKS = [shape for shape in (*SHAPES, *FRESH) if shape.family.startswith("leak")]


@pytest.fixture(scope="module", params=[SHAPES, FRESH], ids=["first", "fresh"])
def scores(request: pytest.FixtureRequest) -> list[Score]:
    return matrix.score_all(request.param, SEEDS)


@pytest.fixture(scope="module")
def calm() -> list[Look]:
    return matrix.look_at_all(CONTAINERS, FEW_LOOKS)


def test_there_are_as_many_shapes_as_promised() -> None:
    both = (*SHAPES, *FRESH)
    assert len({(shape.family, shape.name) for shape in both}) == len(both)
    assert len(SHAPES) >= 60
    assert len(FRESH) >= 20


def test_a_seed_makes_the_same_history_again() -> None:
    for shape in (*SHAPES, *FRESH)[::10]:
        assert shape.case(3) == shape.case(3)
        assert shape.case(3) != shape.case(4)


def test_what_is_called_a_leak_is_one(scores: list[Score]) -> None:
    of_told = precision(scores)
    assert of_told >= 0.98, matrix.failures(scores)


def test_leaks_are_found(scores: list[Score]) -> None:
    of_leaks = recall(scores)
    assert of_leaks >= 0.95, matrix.failures(scores)


def test_slope_onset_and_time_to_the_limit(scores: list[Score]) -> None:
    for figures in zip(
        *((score.growth_right, score.since_right, score.to_limit_right) for score in scores), strict=True
    ):
        assert (share(figures) or 0.0) >= 0.9


def test_each_pattern_is_told_apart(scores: list[Score]) -> None:
    for expected in sorted({score.expected for score in scores} - {"leak"}):
        assert (share(score.right for score in scores if score.expected == expected) or 0.0) >= 0.9, expected


def test_the_agent_forecasts_nothing_of_the_calm_fleet(calm: list[Look]) -> None:
    assert container_days(calm) >= 3000
    _, bound = per_thousand(calm, lambda look: look.agent)
    assert bound <= 1.0


def test_a_day_of_the_calm_fleet_is_not_told_to_be_a_leak(calm: list[Look]) -> None:
    _, bound = per_thousand(calm, lambda look: look.leak_at_the_end_of_a_day)
    assert bound <= 1.0


def test_what_is_told_of_the_first_hours_of_the_calm_fleet_is_not_sure(calm: list[Look]) -> None:
    assert max(look.leak or 0.0 for look in calm if look.hour <= 12) <= 0.6


# Through the command


@pytest.mark.parametrize(
    "shape", (*SHAPES, *FRESH)[::11], ids=lambda shape: f"{shape.family}, {shape.name}".replace(" ", "-")
)
def test_the_command_says_the_same(shape: Shape, tmp_path: Path) -> None:
    samples = shape.case(2000).samples
    document = ask_command(samples, tmp_path / "history.jsonl")
    told, here = told_of(document), ask(samples)
    assert told.pattern == here.pattern
    for figure, same in zip(told[1:], here[1:], strict=True):
        assert figure == (None if same is None else pytest.approx(same, rel=1e-3, abs=0.1))
    assert told.pattern == "leak" or told.seconds_to_limit is None
    assert isinstance(document["findings"], list)
    assert all({"action", "text"} <= set(step) for step in document["advice"])


def test_the_command_and_a_calm_container(tmp_path: Path) -> None:
    document = ask_command(days.life(20_000, 2), tmp_path / "history.jsonl")
    assert document["seconds_to_limit"] is None
    assert 0 <= document["confidence"] <= 1


@pytest.mark.parametrize("shape", LEAKS, ids=lambda shape: f"{shape.family}, {shape.name}".replace(" ", "-"))
def test_no_more_memory_for_a_leak_without_its_cost_in_hours(shape: Shape) -> None:
    for seed in range(3000, 3005):
        samples = shape.case(seed).samples
        document = diagnose(samples)
        if document["pattern"] == "leak":
            steps = [step for step in document["advice"] if _gives_more(step, samples[-1]["limit_bytes"])]
            assert [step for step in steps if not step.get("lasts_hours")] == []
            assert document["advice"] != []


def _gives_more(step: dict[str, Any], limit: object) -> bool:
    """limit: None: there is none, and any that is named is less."""
    return step["action"] == "set_limit" or (isinstance(limit, int) and (step.get("limit_bytes") or 0) > limit)
