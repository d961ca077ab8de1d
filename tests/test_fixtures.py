"""
Captures of real kernels, and the verdicts on them.

fixtures/<kernel>-<what>/ holds `kmsg` (or `kmsg.gz`), `meta.toml` and `expected.jsonl`, an incident a line. The expected
files are written by OOM_COLLECTOR_UPDATE_GOLDEN=1 and read in the diff like code.
"""

from __future__ import annotations

import gzip
import json
import os
import tomllib
from dataclasses import asdict
from pathlib import Path

import jsonschema
import pytest

from collector.document import to_document
from collector.model import Incident
from collector.parse.kmsg import parse_kmsg_record
from collector.pipeline import Pipeline
from tests.test_pipeline import SCHEMA

FIXTURES = sorted(path.parent for path in (Path(__file__).parents[1] / "fixtures").glob("*/meta.toml"))
META_KEYS = {"kernel", "distro", "runtime", "cgroup_driver", "page_size", "made", "trimmed"}


def read_kmsg(fixture: Path) -> list[bytes]:
    packed = fixture / "kmsg.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else (fixture / "kmsg").read_bytes()
    return data.splitlines(keepends=True)


def replay(fixture: Path) -> list[Incident]:
    pipeline = Pipeline()
    incidents = []
    for raw in read_kmsg(fixture):
        record = parse_kmsg_record(raw)
        incidents += pipeline.push(record, at=(record.monotonic_usec or 0) / 1e6)
    return [incident for incident in [*incidents, *pipeline.flush(None)] if incident.settled]


def verdict_on(incident: Incident) -> dict[str, object]:
    """The document without what is long: the dump and the statistics are counted."""
    document = to_document(incident)
    report = incident.report
    document["tasks"] = len(report.tasks)
    if report.node_memory is not None:
        document["node_memory"] = {**asdict(report.node_memory), "stat": len(report.node_memory.stat)}
    if report.memory is not None:
        document["memory"] = {
            "usage_bytes": report.memory.usage_bytes,
            "limit_bytes": report.memory.limit_bytes,
            "stat": len(report.memory.stat),
        }
    document["also_killed"] = [f"{process.pid} {process.comm}" for process in report.also_killed]
    document["missing"] = list(report.missing)
    return document


def test_there_are_fixtures_of_several_kernels() -> None:
    assert len({fixture.name.partition("-")[0] for fixture in FIXTURES}) >= 4


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)
def test_capture(fixture: Path) -> None:
    incidents = replay(fixture)
    for incident in incidents:
        document = json.loads(json.dumps(to_document(incident)))
        jsonschema.validate(document, SCHEMA, format_checker=jsonschema.FormatChecker())
    found = [json.loads(json.dumps(verdict_on(incident))) for incident in incidents]
    expected = fixture / "expected.jsonl"
    if os.environ.get("OOM_COLLECTOR_UPDATE_GOLDEN"):
        expected.write_text("".join(f"{json.dumps(verdict)}\n" for verdict in found))
    assert found == [json.loads(line) for line in expected.read_text().splitlines()]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)
def test_meta(fixture: Path) -> None:
    meta = tomllib.loads((fixture / "meta.toml").read_text())
    assert meta.keys() >= META_KEYS
    assert fixture.name.startswith(".".join(meta["kernel"].split(".")[:2]) + "-")
