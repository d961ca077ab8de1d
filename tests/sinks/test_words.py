"""A diagnosis in the words of Events and alerts: what a person sees first, in as much room as there is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model import Cause
from collector.sinks.kube_event import NOTE_BYTES, note, pod_event, series_patch
from collector.sinks.words import help_line
from tests.kube.events_api import create_errors
from tests.sinks.letters import document, letter

COMMAND = "kubectl set resources -n shop deployment web -c app --limits=memory=1280Mi"
LEAK = "its anon grew by 8 MiB/h (7 MiB to 9 MiB), 112 MiB in 14 h, and did not slow down"
RAISE = "Set the memory limit of container app to at least 1280Mi: cut off at 512 MiB, so doubled, x 1.25"


def diagnosed(cause: Cause = Cause.CONTAINER_LIMIT, **changes: Any) -> dict[str, Any]:
    diagnosis = {
        "pattern": "leak",
        "confidence": 0.9,
        "reasons": [LEAK, "that is 30 times the spread about its line"],
        "missing": [],
        "findings": [{"kind": "no_request", "text": "Container app requests no memory", "evidence": ["x"]}],
        "advice": [{"action": "set_limit", "text": RAISE, "command": COMMAND}],
    }
    return document(cause) | {"diagnosis": diagnosis | changes}


def test_why_and_the_first_advice_with_its_command() -> None:
    assert help_line(diagnosed()) == f"Leak: {LEAK}. Advice: {RAISE}. Run: {COMMAND}"


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        pytest.param({"pattern": "limit_too_low"}, "Limit too low: its anon grew", id="two words"),
        pytest.param({"pattern": "unknown"}, "Container app requests no memory. Advice:", id="a finding instead"),
        pytest.param(
            {"pattern": "node_pressure"}, "Container app requests no memory. Advice:", id="the verdict says it"
        ),
        pytest.param({"pattern": "unknown", "findings": []}, "Advice: Set the memory", id="nothing is known"),
        pytest.param({"advice": []}, f"Leak: {LEAK}. See how its use grew", id="no advice: by the cause"),
    ],
)
def test_what_is_known_of_why(changes: dict[str, Any], begins: str) -> None:
    assert help_line(diagnosed(**changes)).startswith(begins)


@pytest.mark.parametrize("changes", [{"advice": "x"}, {"advice": [1], "findings": [2]}, {"reasons": 7}])
def test_another_versions_diagnosis_stops_nothing(changes: dict[str, Any]) -> None:
    assert help_line(diagnosed(**changes))


def test_a_note_has_verdict_numbers_why_advice_and_command() -> None:
    told = note(diagnosed())
    parts = ["reached its memory limit of 512 MiB", "usage 512 MiB, limit 512 MiB", "Leak: ", "Advice: ", COMMAND]
    places = [told.index(part) for part in parts]
    assert places == sorted(places)
    assert told.endswith("annotations.")


@pytest.mark.parametrize(
    ("letters", "kept", "left_out"),
    [
        (500, ("Limited cgroup", "Victim", "Leak", "Advice", "Run"), ("annotations",)),
        (600, ("Limited cgroup", "Leak", "Advice", "Run"), ("Victim", "Container:")),
        (690, ("Limited cgroup", "Advice", "Run"), ("Leak",)),
    ],
)
def test_what_helps_least_gives_way(letters: int, kept: tuple[str, ...], left_out: tuple[str, ...]) -> None:
    advice = [{"action": "set_limit", "text": RAISE + "e" * letters, "command": COMMAND}]
    told = note(diagnosed(advice=advice))
    assert len(told.encode()) <= NOTE_BYTES
    assert not told.endswith("...")
    assert [word for word in kept if word not in told] == []
    assert [word for word in left_out if word in told] == []


@given(st.text(max_size=900), st.text(max_size=400), st.text(max_size=900))
def test_any_words_make_an_event_that_a_server_takes(text: str, command: str, reason: str) -> None:
    advice = [{"action": "set_limit", "text": text, "command": command}]
    event = pod_event(letter(diagnosed(advice=advice, reasons=[reason])))
    assert create_errors(event) == []
    assert not set(str(event["note"])) & set("\n\r\x1b\x00\u202e")


def test_annotations_have_what_is_advised_now() -> None:
    made: Any = series_patch(letter(diagnosed()))["metadata"]
    annotations = made["annotations"]
    assert annotations["oom-collector/pattern"] == "leak"
    assert (annotations["oom-collector/advice"], annotations["oom-collector/command"]) == (RAISE, COMMAND)


def test_half_a_command_is_not_to_be_pasted() -> None:
    long = [{"action": "set_limit", "text": RAISE, "command": "kubectl " + "x" * NOTE_BYTES}]
    made: Any = series_patch(letter(diagnosed(advice=long)))["metadata"]
    assert made["annotations"]["oom-collector/command"] is None
    assert "kubectl" not in note(diagnosed(advice=long))
