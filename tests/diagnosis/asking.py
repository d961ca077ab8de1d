"""The three ways to ask: in this process, about each beginning of a history, and as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from collector.diagnose import diagnose_history, read_history
from collector.diagnosis.model import Judgement
from collector.diagnosis.pattern import judge
from collector.diagnosis.timeline import Timeline
from collector.diagnosis.to_json import to_json
from tests.diagnosis.held_out.shape import Sample
from tests.diagnosis.scores import Told


def ask(samples: Sequence[Sample]) -> Told:
    return _told(judge(read_history(_lines(samples))))


def ask_prefixes(samples: Sequence[Sample], ends: Sequence[int]) -> Iterator[Told]:
    """What is told where only the first `end` samples are known, for each of the rising `ends`."""
    timeline, known = Timeline(), 0
    for end in ends:
        for sample in samples[known:end]:
            timeline.add(sample)
        known = end
        history = timeline.history()
        assert history is not None
        yield _told(judge(history))


def diagnose(samples: Sequence[Sample]) -> dict[str, Any]:
    """The object that the command prints."""
    told: dict[str, Any] = to_json(diagnose_history(read_history(_lines(samples))))
    return told


def ask_command(samples: Sequence[Sample], file: Path) -> dict[str, Any]:
    """`oom-collector diagnose --output json`. Raises CalledProcessError unless it exits with 0."""
    file.write_text("\n".join(_lines(samples)) + "\n")
    command = [sys.executable, "-m", "collector", "diagnose", "--output", "json", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def told_of(document: dict[str, Any]) -> Told:
    return Told(*(document[name] for name in Told._fields))


def _lines(samples: Sequence[Sample]) -> Iterator[str]:
    return (json.dumps(sample) for sample in samples)


def _told(judgement: Judgement) -> Told:
    return Told(
        pattern=judgement.pattern.value,
        confidence=judgement.confidence,
        growth_bytes_per_hour=judgement.growth_bytes_per_hour,
        growth_since=judgement.growth_since,
        seconds_to_limit=judgement.seconds_to_limit,
    )
