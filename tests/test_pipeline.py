"""The stages together: what counts when, under which id, and as which document."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import jsonschema
import pytest

from collector.document import to_document
from collector.model import Cause, Incident
from collector.parse.kmsg import parse_kmsg_record
from collector.pipeline import Pipeline
from tests import lines

SCHEMA = json.loads(files("collector").joinpath("schema/kill-record.schema.json").read_text())
BOOT = datetime(2026, 11, 1, tzinfo=UTC)


def run(pipeline: Pipeline, texts: list[str], *, start_usec: int = 1_000_000) -> list[Incident]:
    incidents = []
    for record in lines.records(texts, start_usec=start_usec):
        incidents += pipeline.push(record, at=(record.monotonic_usec or 0) / 1e6)
    return incidents


def test_a_proven_kill_counts_at_once_and_keeps_its_id() -> None:
    pipeline = Pipeline(boot_id="b0071d", node="n1", boot_time=BOOT)
    (early,) = run(pipeline, lines.report())
    (late,) = pipeline.flush(None)
    assert (early.settled, late.settled) == (False, True)
    assert early.id == late.id
    assert early.verdict.cause is late.verdict.cause is Cause.CONTAINER_LIMIT
    assert not pipeline.busy


@pytest.mark.parametrize("prefix", ["Memory cgroup out of memory: ", "Out of memory: "])
def test_a_bare_kill_line_counts_when_it_is_settled(prefix: str) -> None:
    pipeline = Pipeline()
    assert run(pipeline, [lines.kill(prefix=prefix)]) == []
    (incident,) = pipeline.flush(None)
    assert incident.settled


def test_processes_of_a_group_are_added() -> None:
    pipeline = Pipeline()
    (early,) = run(pipeline, [*lines.report(), lines.group(), lines.kill(pid=258)])
    (late,) = pipeline.flush(None)
    assert (early.process_count, late.process_count) == (1, 2)


def test_id_of_a_live_kill_is_that_of_boot_time_and_pid() -> None:
    def first_id(boot_id: str | None, start_usec: int, pid: int) -> str:
        pipeline = Pipeline(boot_id=boot_id)
        run(pipeline, [lines.kill(pid=pid)], start_usec=start_usec)
        return pipeline.flush(None)[0].id

    base = first_id("aa-bb", 1000, 5)
    assert base == first_id("aa-bb", 1000, 5) == first_id("aabb", 1000, 5)
    assert len({base, first_id("aa-cc", 1000, 5), first_id("aa-bb", 1001, 5), first_id("aa-bb", 1000, 6)}) == 4


def test_ids_of_a_log_file() -> None:
    """The same log read twice gives the same ids; equal lines in one log are told apart by their ordinal."""
    texts = [lines.kill(pid=7), lines.header(), lines.summary(pid=8), lines.kill(pid=8)]
    ids = [[incident.id for incident in [*run(pipeline, texts), *pipeline.flush(None)] if incident.settled]
           for pipeline in (Pipeline(), Pipeline())]  # fmt: skip
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    pipeline = Pipeline()
    equal = []
    for _ in range(3):
        equal += pipeline.push(parse_kmsg_record(lines.raw(lines.kill(), 1, 500)), at=None)
        equal += pipeline.flush(None)
    assert len({incident.id for incident in equal}) == 3


def test_time_of_a_live_kill_is_its_arrival() -> None:
    pipeline = Pipeline(boot_id="b", boot_time=BOOT)
    arrival = BOOT + timedelta(hours=5)
    early = []
    for record in lines.records(lines.report()):
        early += pipeline.push(record, at=1.0, time=arrival)
    (late,) = pipeline.flush(None)
    assert early[0].time == late.time == arrival


def test_time_of_an_old_kill_is_counted_from_boot() -> None:
    pipeline = Pipeline(boot_id="b", boot_time=BOOT)
    run(pipeline, [lines.kill()], start_usec=90_000_000)
    assert pipeline.flush(None)[0].time == BOOT + timedelta(seconds=90)


def test_time_is_unknown_without_a_clock() -> None:
    pipeline = Pipeline()
    run(pipeline, [lines.kill()])
    assert pipeline.flush(None)[0].time is None


@pytest.mark.parametrize("priority", [11, 14, 30])
def test_only_the_kernels_facility_is_believed(priority: int) -> None:
    pipeline = Pipeline()
    for number, text in enumerate([*lines.report(), "[drm] initialized", "memory: usage 1kB, limit 1kB"]):
        assert pipeline.push(parse_kmsg_record(lines.raw(text, number, priority=priority)), at=0.0) == []
    assert pipeline.flush(None) == []
    assert pipeline.forged == 3  # the header, the summary line and the kill line


def test_forged_records_in_a_true_report_change_nothing() -> None:
    pipeline, expected = Pipeline(), Pipeline()
    run(expected, lines.report())
    for record in lines.records(lines.report()):
        pipeline.push(record, at=0.0)
        for text in (lines.summary("init", 1), lines.kill("init", 1), lines.row(1, "init"), lines.header("init")):
            pipeline.push(parse_kmsg_record(lines.raw(text, 1, priority=14)), at=0.0)
    assert [incident.report for incident in pipeline.flush(None)] == [
        incident.report for incident in expected.flush(None)
    ]


DOCUMENTS = [
    pytest.param(lines.report(), id="whole report"),
    pytest.param([lines.kill()], id="bare kill line"),
    pytest.param([lines.summary()], id="summary line alone"),
    pytest.param([*lines.report(), lines.group(), lines.kill(pid=258)], id="group"),
    pytest.param([lines.summary(oom_memcg=None), lines.kill(prefix="Out of memory: ", adj=0)], id="contradictions"),
    pytest.param([f"Task in {lines.CONTAINER} killed as a result of limit of {lines.POD}"], id="no pid"),
]


@pytest.mark.parametrize("texts", DOCUMENTS)
def test_document_is_as_the_schema_says(texts: list[str]) -> None:
    pipeline = Pipeline(boot_id="b", node="n", boot_time=BOOT)
    for incident in [*run(pipeline, texts), *pipeline.flush(None)]:
        document = json.loads(json.dumps(to_document(incident)))
        jsonschema.validate(document, SCHEMA, format_checker=jsonschema.FormatChecker())
        assert document["fate"] is None
        assert document["summary"].endswith(".")


def test_document_of_a_whole_report() -> None:
    pipeline = Pipeline(boot_id="b", node="n", boot_time=BOOT)
    run(pipeline, lines.report())
    document = to_document(pipeline.flush(None)[0])
    assert document["time"] == "2026-11-01T00:00:01.000140Z"
    assert document["monotonic_seconds"] == 1.00014
    assert (document["cause"], document["constraint"], document["group_kill"]) == ("container_limit", "memcg", False)
    assert document["attribution"] == {"method": "task_memcg", "names_from": "none"}
    assert document["evidence"] == ["report", "summary_line", "kill_line", "oom_score_adj"]
