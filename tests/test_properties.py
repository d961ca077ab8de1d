"""What holds for every log: nothing raises, nothing is invented, nobody is blamed by a name."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector.errors import ParseError
from collector.model import Incident
from collector.parse.kmsg import parse_kmsg_record, parse_kmsg_run
from collector.pipeline import Pipeline
from tests import lines
from tests.lines import CONTAINER, OTHER, POD

GRAMMAR = [
    *lines.report(),
    lines.group(),
    lines.kill(pid=258),
    lines.header(order=-1),
    lines.summary(oom_memcg=None),
    "Out of memory: Kill process 19384 (firefox) score 71 or sacrifice child",
    "Killed process 33731 (Web Content) total-vm:1990252kB, anon-rss:106448kB, file-rss:0kB, shmem-rss:54348kB",
    f"Task in {CONTAINER} killed as a result of limit of {POD}",
    "Out of memory and no killable processes...",
    "Memory cgroup out of memory: OOM victim 3804877 (stress) is already exiting. Skip killing the task",
    "oom_reaper: reaped process 281482 (java), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
    "524158 pages RAM",
    "[drm] initialized",
    "anon 5",
]

NOISE = st.one_of(
    st.text(max_size=200),
    st.sampled_from([" oom_kill_process+0x1/0x2", "[ 5.5] x", "CPU: 3 PID: 1 Comm: swapper/3 Not tainted 6.1", "anon 5", "memory: usage"]),
)  # fmt: skip


def settled(texts: Sequence[str], *, pipeline: Pipeline | None = None) -> list[Incident]:
    pipeline = pipeline or Pipeline(boot_id="b")
    incidents = []
    for record in lines.records(list(texts)):
        incidents += pipeline.push(record, at=(record.monotonic_usec or 0) / 1e6)
    return [incident for incident in [*incidents, *pipeline.flush(None)] if incident.settled]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_parse_error(raw: bytes) -> None:
    try:
        record = parse_kmsg_record(raw)
    except ParseError:
        return
    assert isinstance(record.text, str)
    assert record.sequence is None or record.sequence >= 0


@given(
    st.lists(st.one_of(st.sampled_from(GRAMMAR), st.text(max_size=80)), max_size=40), st.randoms(use_true_random=False)
)
def test_any_texts_give_incidents_or_nothing(texts: list[str], chance: random.Random) -> None:
    cut = [text[: chance.randrange(len(text) + 1)] if chance.random() < 0.3 else text for text in texts]
    pipeline = Pipeline(boot_id="b")
    for incident in settled(cut, pipeline=pipeline):
        assert incident.summary
        assert incident.verdict.evidence
    assert not pipeline.busy


def pids_told(texts: Sequence[str]) -> set[int]:
    return {
        process.pid
        for incident in settled(texts)
        for process in (incident.report.victim, *incident.report.also_killed)
        if process.pid is not None
    }


STORY = [
    *lines.report("a", 11),
    *lines.report("b", 22, memcg=OTHER),
    *(lines.kill("w", pid) for pid in (31, 32)),
    *lines.report("c", 44)[:-1],
    lines.kill("c", 44),
    lines.group(),
    *(lines.kill("c", pid) for pid in (44, 45, 46)),
]
KILLED = {11, 22, 31, 32, 44, 45, 46}


@given(st.sets(st.integers(0, len(STORY) - 1)))
def test_dropping_records_never_invents_a_victim(dropped: set[int]) -> None:
    left = [text for number, text in enumerate(STORY) if number not in dropped]
    assert pids_told(left) <= KILLED
    assert pids_told(STORY) == KILLED


@given(st.sets(st.integers(0, len(STORY) - 1)))
@example({*range(11), 14, *range(25, 29), 32, 45})  # a report without rows and a kill that none expects, then a dump
def test_dropping_records_never_moves_a_blame(dropped: set[int]) -> None:
    """What is left may be less, never something else: each victim keeps its memcg and invoker, or has none."""
    true = {incident.report.victim.pid: incident.report for incident in settled(STORY)}
    members = {45: 44, 46: 44}
    left = [text for number, text in enumerate(STORY) if number not in dropped]
    for incident in settled(left):
        report = incident.report
        pid = report.victim.pid
        assert pid is not None
        expected = true[members.get(pid, pid)]
        assert report.task_memcg in (None, expected.task_memcg)
        assert report.oom_memcg in (None, expected.oom_memcg)
        assert report.victim.comm == expected.victim.comm


@given(st.lists(st.tuples(st.integers(0, len(STORY)), NOISE), max_size=30))
def test_foreign_records_change_nothing(slipped_in: list[tuple[int, str]]) -> None:
    texts = list(STORY)
    for place, text in sorted(slipped_in, key=lambda slip: slip[0], reverse=True):
        texts.insert(place, text)
    found, expected = settled(texts), settled(STORY)
    assert [incident.report.victim for incident in found] == [incident.report.victim for incident in expected]
    assert [incident.verdict.cause for incident in found] == [incident.verdict.cause for incident in expected]
    assert [incident.report.also_killed for incident in found] == [incident.report.also_killed for incident in expected]
    assert [incident.report.invoker for incident in found] == [incident.report.invoker for incident in expected]


@given(st.lists(st.integers(0, len(STORY)), max_size=6), st.sets(st.integers(0, len(STORY) - 1)))
def test_runs_of_any_length_are_as_one_by_one(cuts: list[int], dropped: set[int]) -> None:
    raws = [lines.raw(text, number, 1_000_000 + number) for number, text in enumerate(STORY) if number not in dropped]
    together, one_by_one = Pipeline(boot_id="b"), Pipeline(boot_id="b")
    found: list[Incident] = []
    for start, end in itertools.pairwise(sorted({0, *cuts, len(raws)})):
        run = parse_kmsg_run(raws[start:end]) if raws[start:end] else None
        if run is not None:
            found += together.push(run, at=1.0)
    expected: list[Incident] = []
    for raw in raws:
        expected += one_by_one.push(parse_kmsg_record(raw), at=1.0)
    assert found + together.flush(None) == expected + one_by_one.flush(None)


FIELDS = [
    ",pid=1",
    ",uid=0",
    ",task=",
    ",task_memcg=/",
    ",oom_memcg=/",
    ",global_oom",
    "(",
    ")",
    ") total-vm:1kB",
    "Killed",
    " ",
    "x",
    "\n",
    "\\",
    ",",
    "1",
]
COMMS = (
    st.lists(st.sampled_from(FIELDS), min_size=1, max_size=6).map("".join).map(lambda comm: comm[:15]).filter(str.strip)
)


@given(COMMS)
@settings(max_examples=300)
def test_a_comm_made_of_kernel_grammar_never_moves_a_field(comm: str) -> None:
    (incident,) = settled(lines.report(comm, 4242))
    report = incident.report
    assert (report.victim.pid, report.victim.comm, report.victim.uid) == (4242, comm, 0)
    assert (report.oom_memcg, report.task_memcg) == (CONTAINER, CONTAINER)
    assert report.victim.anon_rss_bytes == 40932 * 1024


COMPONENTS = st.lists(
    st.sampled_from(
        [*(field.replace("/", "") for field in FIELDS), "kubepods", "besteffort", "task_memcg=", "limit of"]
    ),
    min_size=1,
    max_size=5,
).map(lambda parts: "".join(parts).replace("\n", "") or "x")
NESTED = st.lists(COMPONENTS, max_size=5).map(lambda names: "".join(f"/{name}" for name in names))


@given(NESTED, st.sampled_from([POD, CONTAINER, None]))
@settings(max_examples=300)
def test_a_cgroup_made_of_kernel_grammar_never_moves_the_blame(below: str, oom_memcg: str | None) -> None:
    prefix = "Out of memory: " if oom_memcg is None else "Memory cgroup out of memory: "
    (incident,) = settled([lines.summary(oom_memcg=oom_memcg, task_memcg=CONTAINER + below), lines.kill(prefix=prefix)])
    assert incident.report.oom_memcg == oom_memcg
    assert incident.report.task_memcg == CONTAINER + below
    assert incident.attribution.container is not None
    assert incident.attribution.container.id == lines.CONTAINER_ID


@given(st.text(max_size=40))
def test_what_printk_escapes_is_undone_exactly(text: str) -> None:
    clean = text.encode("utf-8", "replace").decode("utf-8")
    assert parse_kmsg_record(lines.raw(clean)).text == clean
