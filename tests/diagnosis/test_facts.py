"""Facts of documents: of real kernels, of a storm's bare lines, and of whatever JSON may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.diagnosis.facts import facts_of_document
from collector.diagnosis.findings import find
from collector.diagnosis.model import FindingKind, Judgement, Pattern
from collector.document import to_document
from collector.late import Late, complete
from collector.model import (
    Cause,
    ContainerId,
    ContainerKind,
    Evidence,
    Fate,
    Incident,
    MemoryUse,
    Names,
    NamesFrom,
    NodeMemory,
    Owner,
    Pod,
    PodUid,
    QosClass,
)
from collector.text import printable
from tests.diagnosis.findings import MIB, NO_JUDGEMENT
from tests.test_fixtures import FIXTURES, replay

GROWING = [
    Judgement(pattern=Pattern.LEAK, confidence=1.0, grows=grows) for grows in ("anon", "shmem", "kernel", "file")
]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)
def test_of_real_kills(fixture: Path) -> None:
    """What the document keeps comes back as it was, and whatever is found in it can be shown."""
    for incident in replay(fixture):
        facts = facts_of_document(json.loads(json.dumps(to_document(incident))))
        report, attribution = incident.report, incident.attribution
        assert facts.cause is incident.verdict.cause
        assert (facts.victim, facts.also_killed, facts.tasks) == (report.victim, report.also_killed, report.tasks)
        assert facts.memory == report.memory
        assert (facts.oom_memcg, facts.task_memcg) == (report.oom_memcg, report.task_memcg)
        assert facts.oom_group == (report.group_memcg is not None)
        assert (facts.pod, facts.container) == (attribution.pod, attribution.container)
        assert not facts.memory_is_sampled
        for judgement in (NO_JUDGEMENT, *GROWING):
            for finding in find(facts, judgement):
                assert finding.evidence
                assert len(finding.text) < 300
                assert "None" not in finding.text
                assert printable(finding.text).isprintable()
                json.dumps(dict(finding.values))


def _found(name: str) -> list[tuple[FindingKind, object]]:
    fixture = next(fixture for fixture in FIXTURES if fixture.name == name)
    facts = facts_of_document(to_document(replay(fixture)[0]))
    return [(finding.kind, finding.values.get("percent")) for finding in find(facts, NO_JUDGEMENT)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("6.1-shmem", [(FindingKind.SHARED_MEMORY, 100)]),
        ("6.1-swap", [(FindingKind.SWAP_FULL, None)]),
        ("6.1-container-systemd", []),
        ("6.1-group-kill", []),
        ("6.1-pod-limit", []),
        ("6.1-node", []),
    ],
)
def test_findings_of_real_kills(name: str, expected: list[tuple[FindingKind, object]]) -> None:
    assert _found(name) == expected


def test_of_the_memory_as_last_sampled() -> None:
    document = to_document(replay(next(fixture for fixture in FIXTURES if fixture.name == "6.1-shmem"))[0])
    document["evidence"] = [str(Evidence.KILL_LINE), str(Evidence.MEMORY_EVENTS)]
    facts = facts_of_document(document)
    assert facts.memory_is_sampled
    assert "when last sampled" in find(facts, NO_JUDGEMENT)[0].text


def test_with_names_and_fate() -> None:
    incident: Incident = replay(next(fixture for fixture in FIXTURES if fixture.name == "6.1-container-systemd"))[0]
    names = Names(
        source=NamesFrom.API,
        namespace="shop",
        pod="web-1",
        qos_class=QosClass.BURSTABLE,
        owner=Owner(kind="Deployment", name="web"),
        revision="5b7",
        container="web",
        kind=ContainerKind.SIDECAR,
        image="web:1",
        limit_bytes=48 * MIB,
        request_bytes=16 * MIB,
    )
    late = Late(names=names, fate=Fate.RESTARTED, restart_count=3)
    facts = facts_of_document(complete(json.loads(json.dumps(to_document(incident))), late))
    assert facts.pod == Pod(
        uid=facts.pod.uid if facts.pod else PodUid(""),
        namespace="shop",
        name="web-1",
        qos_class=QosClass.BURSTABLE,
        owner=Owner(kind="Deployment", name="web"),
        revision="5b7",
    )
    assert facts.container is not None
    assert facts.container.id is not None
    assert (facts.container.name, facts.container.kind, facts.container.image) == ("web", "sidecar", "web:1")
    assert (facts.container.limit_bytes, facts.container.request_bytes) == (48 * MIB, 16 * MIB)
    assert (facts.fate, facts.restart_count) == (Fate.RESTARTED, 3)


def test_what_is_not_there_is_not_known() -> None:
    facts = facts_of_document({"cause": "unknown", "victim": {"pid": None, "comm": None}})
    assert (facts.memory, facts.pod, facts.container, facts.fate, facts.tasks) == (None, None, None, None, ())
    assert find(facts, NO_JUDGEMENT) == ()


def test_words_of_a_later_version_are_not_known() -> None:
    document: dict[str, Any] = {
        "cause": "node",
        "victim": {},
        "fate": "reborn",
        "container": {"id": "c", "kind": "new"},
    }
    facts = facts_of_document(document)
    assert facts.fate is None
    assert facts.container is not None
    assert (facts.container.id, facts.container.kind) == (ContainerId("c"), None)
    with pytest.raises(ValueError, match="plague"):
        facts_of_document({"cause": "plague"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
STAT = st.dictionaries(
    st.sampled_from(["anon", "file", "shmem", "kernel", "slab", "sock", "file_dirty", "inactive_file", "cache", "rss"]),
    st.integers(0, 1 << 40),
)
SIZES = st.none() | st.integers(0, 1 << 40)
MEMORY = st.fixed_dictionaries(
    {},
    optional={
        "usage_bytes": SIZES,
        "limit_bytes": SIZES,
        "swap_usage_bytes": SIZES,
        "swap_limit_bytes": SIZES,
        "stat": STAT,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"cause": st.sampled_from([str(cause) for cause in Cause])},
    optional={
        "memory": VALUES | MEMORY,
        "victim": VALUES | st.fixed_dictionaries({"comm": st.text(max_size=5), "anon_rss_bytes": SIZES}),
        "tasks": st.lists(
            VALUES | st.fixed_dictionaries({"pid": st.integers(), "comm": st.text(max_size=2), "rss_bytes": SIZES})
        ),
        "also_killed": VALUES,
        "evidence": VALUES,
        "pod": VALUES,
        "container": VALUES
        | st.fixed_dictionaries({"kind": st.sampled_from(["app", "init"]), "name": st.text(max_size=3)}),
        "fate": VALUES,
        "restart_count": VALUES,
        "group_kill": VALUES,
        "node_memory": VALUES,
    },
)


@given(DOCUMENTS)
def test_any_document_is_read(document: dict[str, object]) -> None:
    for finding in find(facts_of_document(document), NO_JUDGEMENT):
        assert finding.evidence


def test_of_the_node() -> None:
    known = {"ram_bytes": 8 << 30, "swap_bytes": 0, "free_swap_bytes": None, "stat": {"shmem": 5}}
    facts = facts_of_document({"cause": "node", "node_memory": known, "page_size": 65536})
    assert facts.node_memory == NodeMemory(ram_bytes=8 << 30, swap_bytes=0, stat={"shmem": 5})
    assert facts.page_size == 65536


def test_memory_without_statistics() -> None:
    facts = facts_of_document({"cause": "container_limit", "memory": {"limit_bytes": 5}, "evidence": ["report"]})
    assert facts.memory == MemoryUse(limit_bytes=5)
