"""The JSON form, against the schema that is shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from collector.diagnosis.diagnose import diagnose
from collector.diagnosis.model import (
    Action,
    Advice,
    Diagnosis,
    Facts,
    Finding,
    FindingKind,
    Judgement,
    Life,
    MemoryHistory,
    Pattern,
    Point,
)
from collector.diagnosis.to_json import to_json
from collector.model import NODE_PRESSURE, Cause, MemoryUse, Process

MIB = 2**20
SCHEMA = json.loads(files("collector").joinpath("schema/kill-record.schema.json").read_text())
VALIDATOR = Draft202012Validator({"$ref": "#/$defs/diagnosis", "$defs": SCHEMA["$defs"]})

LEAK = Judgement(
    pattern=Pattern.LEAK,
    confidence=0.9,
    growth_bytes_per_hour=8.0 * MIB,
    growth_since=60.0,
    seconds_to_limit=7200.0,
    limit_bytes=512 * MIB,
    reasons=("it grows",),
)
GROUP = Finding(kind=FindingKind.PREFORK, text="many", values={"processes": 8}, evidence=("tasks",))
RAISE = Advice(
    action=Action.SET_LIMIT, text="set it", values={"limit_bytes": 640 * MIB, "factor": 1.25}, command="kubectl"
)


def test_values_stand_flat() -> None:
    made = to_json(Diagnosis(judgement=LEAK, findings=(GROUP,), advice=(RAISE,)))
    assert made == {
        "pattern": "leak",
        "confidence": 0.9,
        "growth_bytes_per_hour": 8.0 * MIB,
        "growth_since": 60.0,
        "seconds_to_limit": 7200.0,
        "limit_bytes": 512 * MIB,
        "peak_bytes": None,
        "steady_bytes": None,
        "reasons": ["it grows"],
        "missing": [],
        "findings": [{"kind": "prefork", "text": "many", "evidence": ["tasks"], "processes": 8}],
        "advice": [
            {"action": "set_limit", "text": "set it", "command": "kubectl", "limit_bytes": 640 * MIB, "factor": 1.25}
        ],
    }
    VALIDATOR.validate(made)


def test_a_value_hides_nothing_that_all_have() -> None:
    finding = replace(GROUP, values={"text": "other", "kind": 1, "evidence": None, "percent": 3})
    advice = replace(RAISE, values={"command": "rm", "action": 1})
    made: Any = to_json(Diagnosis(judgement=LEAK, findings=(finding,), advice=(advice,)))
    assert made["findings"] == [{"kind": "prefork", "text": "many", "evidence": ["tasks"], "percent": 3}]
    assert made["advice"] == [{"action": "set_limit", "text": "set it", "command": "kubectl"}]


@pytest.mark.parametrize("number", [inf, -inf, nan])
def test_what_json_has_no_word_for_is_not_known(number: float) -> None:
    judgement = replace(LEAK, growth_bytes_per_hour=number, growth_since=number, seconds_to_limit=number)
    advice = replace(RAISE, values={"lasts_seconds": number})
    made: Any = to_json(Diagnosis(judgement=judgement, findings=(), advice=(advice,)))
    assert (made["growth_bytes_per_hour"], made["growth_since"], made["seconds_to_limit"]) == (None, None, None)
    assert made["advice"][0]["lasts_seconds"] is None
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"pattern": "other"}, id="pattern"),
        pytest.param({"confidence": 1.5}, id="confidence"),
        pytest.param({"findings": [{"kind": "prefork", "text": "", "evidence": []}]}, id="finding without evidence"),
        pytest.param({"findings": [{"kind": "other", "text": "", "evidence": ["a"]}]}, id="kind of finding"),
        pytest.param({"advice": [{"action": "other", "text": "", "command": None}]}, id="action"),
        pytest.param(
            {"advice": [{"action": "observe", "text": "", "command": None, "a": {}}]}, id="value of no scalar"
        ),
    ],
)
def test_the_schema_refuses(wrong: dict[str, object]) -> None:
    made = to_json(Diagnosis(judgement=LEAK, findings=(), advice=()))
    VALIDATOR.validate(made)
    assert not VALIDATOR.is_valid(made | wrong)


def test_the_schema_names_all_there_is() -> None:
    definitions = SCHEMA["$defs"]
    assert set(definitions["diagnosis"]["properties"]["pattern"]["enum"]) == set(Pattern)
    assert set(definitions["finding"]["properties"]["kind"]["enum"]) == set(FindingKind)
    assert set(definitions["advice"]["properties"]["action"]["enum"]) == set(Action)


# diagnose()

FACTS = Facts(
    cause=Cause.CONTAINER_LIMIT,
    victim=Process(pid=7, comm="app", oom_score_adj=900),
    memory=MemoryUse(usage_bytes=64 * MIB, limit_bytes=64 * MIB),
)


def test_a_log_alone_does_not_tell_the_pattern() -> None:
    diagnosis = diagnose(FACTS)
    assert diagnosis.judgement.pattern is Pattern.UNKNOWN
    assert diagnosis.judgement.missing
    assert [one.action for one in diagnosis.advice] == [Action.SET_LIMIT, Action.OBSERVE]
    assert diagnosis.advice[0].values["at_least"] is True


@pytest.mark.parametrize("cause", sorted(NODE_PRESSURE))
def test_a_log_alone_tells_node_pressure(cause: Cause) -> None:
    diagnosis = diagnose(replace(FACTS, cause=cause))
    assert diagnosis.judgement.pattern is Pattern.NODE_PRESSURE
    assert Action.SET_LIMIT not in {one.action for one in diagnosis.advice}


def growing(hours: int, start: int, step: int, *, killed: bool) -> MemoryHistory:
    """A sample a minute, with `step` MiB more each hour."""
    sizes = [(start * MIB + minute * step * MIB // 60) for minute in range(hours * 60)]
    points = tuple(Point(60.0 * minute, size, size, size, 512 * MIB, size) for minute, size in enumerate(sizes))
    return MemoryHistory(lives=(Life(points=points, started=True, killed=killed),))


def test_a_leak_from_its_history() -> None:
    facts = replace(
        FACTS,
        memory=MemoryUse(usage_bytes=512 * MIB, limit_bytes=512 * MIB),
        history=growing(20, 112, 20, killed=True),
    )
    diagnosis = diagnose(facts)
    assert diagnosis.judgement.pattern is Pattern.LEAK
    assert diagnosis.advice[0].action is Action.DO_NOT_RAISE_LIMIT
    # 20 h to 512 MiB, 128 MiB more at 20 an hour.
    assert diagnosis.advice[0].values["lasts_hours"] == pytest.approx(26.4, rel=0.05)
    VALIDATOR.validate(to_json(diagnosis))


def test_the_kernels_cause_counts_for_a_history_without() -> None:
    facts = replace(FACTS, cause=Cause.NODE, memory=None, history=growing(20, 112, 20, killed=True))
    assert diagnose(facts).judgement.pattern is Pattern.NODE_PRESSURE


def test_the_factor_reaches_the_advice() -> None:
    assert diagnose(FACTS, factor=2.0).advice[0].values["factor"] == 2.0


@given(
    cause=st.sampled_from(Cause),
    usage=st.none() | st.integers(0, 2**44),
    limit=st.none() | st.integers(0, 2**44),
    hours=st.none() | st.integers(1, 30),
    killed=st.booleans(),
)
def test_every_diagnosis_is_of_the_schema(
    cause: Cause, usage: int | None, limit: int | None, hours: int | None, killed: bool
) -> None:
    history = None if hours is None else growing(hours, 10, 3, killed=killed)
    facts = replace(FACTS, cause=cause, memory=MemoryUse(usage_bytes=usage, limit_bytes=limit), history=history)
    made = to_json(diagnose(facts))
    VALIDATOR.validate(json.loads(json.dumps(made, allow_nan=False)))
