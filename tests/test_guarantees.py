"""docs/guarantees.md names tests: they exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "guarantees.md").read_text()


def test_each_named_test_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 50
    missing = [f"{file}::{test}" for file, test in named if not _defines(TESTS / file, test)]
    assert missing == []


def test_each_named_scenario_exists() -> None:
    scenarios = set(re.findall(r'name="([\w-]+)"', (TESTS / "kernel" / "guest" / "scenarios.py").read_text()))
    named = {name for line in TEXT.splitlines() if line.startswith("| ") for name in re.findall(r"\*([\w-]+)\*", line)}
    assert len(named) > 10
    assert named <= scenarios


def _defines(file: Path, test: str) -> bool:
    return file.exists() and re.search(rf"^(async )?def {test}\(", file.read_text(), re.MULTILINE) is not None
