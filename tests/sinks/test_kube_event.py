"""What an Event says, and that a server takes it whatever a workload calls itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.document import to_document
from collector.late import Late, complete
from collector.model import NODE_PRESSURE, Cause, Names, NamesFrom
from collector.sinks.kube_event import (
    concerns_node,
    concerns_pod,
    event_key,
    event_name,
    node_event,
    note,
    pod_event,
    series_patch,
)
from collector.sinks.words import cut
from collector.text import printable
from tests import lines
from tests.kube.events_api import create_errors
from tests.sinks.letters import KILLED_AT, MEMCG, NODE, UID, document, letter
from tests.test_classify import judge, memcg_kill

HOSTILE = 'x\n\x1b[2J"\u202e\x00'


def _event(**changes: Any) -> dict[str, Any]:
    return pod_event(letter(document(**changes)))


def test_an_event_on_the_pod() -> None:
    event: dict[str, Any] = pod_event(letter())
    assert event["metadata"]["namespace"] == "shop"
    assert event["metadata"]["name"].startswith("web-7d4b9c-x2x9k.")
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "shop",
        "name": "web-7d4b9c-x2x9k",
        "uid": UID,
        "fieldPath": "spec.containers{app}",
    }
    assert event["related"] == {"apiVersion": "v1", "kind": "Node", "name": NODE}
    assert event["eventTime"] == "2026-11-21T10:20:16.123456Z"
    assert (event["type"], event["reason"], event["action"]) == ("Warning", "ContainerOOMKill", "Killed")
    assert event["reportingController"] == "oom-collector"
    assert event["reportingInstance"] == f"oom-collector-{NODE}"
    assert "series" not in event


def test_an_event_on_the_node_is_about_something_without_a_namespace() -> None:
    event: dict[str, Any] = node_event(letter(document(Cause.NODE)), "node-uid")
    assert event["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "node-uid"}
    assert event["metadata"]["namespace"] == "default"
    assert event["related"]["name"] == "web-7d4b9c-x2x9k"
    assert event["related"]["uid"] == UID
    assert event["metadata"]["name"].startswith(f"{NODE}.")


def test_a_node_event_of_a_process_outside_the_pods_has_no_related() -> None:
    event = node_event(letter(document(Cause.NODE, pod=None, container=None)), "node-uid")
    assert "related" not in event
    assert not create_errors(event)


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (Cause.CONTAINER_LIMIT, "ContainerOOMKill"),
        (Cause.NESTED_LIMIT, "ContainerOOMKill"),
        (Cause.MANUAL, "ContainerOOMKill"),
        (Cause.UNKNOWN, "ContainerOOMKill"),
        (Cause.SYSTEM_LIMIT, "ContainerOOMKill"),
        (Cause.POD_LIMIT, "PodOOMKill"),
        (Cause.NODE, "NodeOOMKill"),
        (Cause.NODE_ALLOCATABLE, "NodeOOMKill"),
        (Cause.NODE_NUMA, "NodeOOMKill"),
        (Cause.QOS_LIMIT, "NodeOOMKill"),
    ],
)
def test_reasons_and_whom_they_concern(cause: Cause, reason: str) -> None:
    made = document(cause)
    assert pod_event(letter(made))["reason"] == reason
    assert concerns_node(made) is (reason == "NodeOOMKill")


@pytest.mark.parametrize(
    ("lone", "told", "helps"),
    [
        pytest.param(True, "(at the pod's cgroup)", "a leak outgrows any", id="its only container's"),
        pytest.param(False, "Pod shop/cart-0 reached", "share this limit", id="the pod's"),
    ],
)
def test_a_limit_is_the_pods_or_its_only_containers(lone: bool, told: str, helps: str) -> None:
    names = Names(
        source=NamesFrom.API, namespace="shop", pod="cart-0", container="cart", limit_bytes=48 << 20, lone=lone
    )
    kill = to_document(judge(*memcg_kill(lines.POD)))
    kill["memory"] = {"limit_bytes": 48 << 20}
    said = note(complete(kill, Late(names=names)))
    assert told in said
    assert helps in said
    assert ("share this limit" in said) is not lone


def test_a_pod_without_a_name_gets_no_event() -> None:
    assert concerns_pod(document())
    assert not concerns_pod(document(pod__name=None))
    assert not concerns_pod(document(pod=None))


@pytest.mark.parametrize(
    ("kind", "field_path"),
    [
        ("app", "spec.containers{app}"),
        ("init", "spec.initContainers{app}"),
        pytest.param("sidecar", "spec.initContainers{app}", id="a sidecar is an init container that stays"),
        ("ephemeral", "spec.ephemeralContainers{app}"),
        pytest.param("sandbox", None, id="the sandbox stands in no spec"),
        pytest.param(None, None, id="the log folders do not tell the kind"),
    ],
)
def test_field_path(kind: str | None, field_path: str | None) -> None:
    event = _event(container__kind=kind)
    assert event["regarding"].get("fieldPath") == field_path


def test_field_path_needs_a_container() -> None:
    assert "fieldPath" not in _event(container=None)["regarding"]


@pytest.mark.parametrize("uid", ["8d6f7a2f0c1b4e5d9a3b2c1d0e9f8a7b", UID])
def test_the_uid_is_the_one_that_kubectl_looks_for(uid: str) -> None:
    event: dict[str, Any] = pod_event(letter(event_uid=uid))
    assert event["regarding"]["uid"] == uid


def test_the_key_is_the_same_for_whoever_tells_it() -> None:
    key = event_key(document(), KILLED_AT)
    assert key == event_key(json.loads(json.dumps(document())), KILLED_AT)
    # The hour of the kill is UTC's, also where the offset is half an hour.
    assert key == event_key(document(), KILLED_AT.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert key == event_key(document(id="f" * 16, victim__pid=7), KILLED_AT + timedelta(minutes=39))
    # It names Events on real clusters: a change doubles each that is there during an upgrade.
    assert key == "a9966e46a3f5faef"


@pytest.mark.parametrize(
    ("made", "at"),
    [
        pytest.param(document(pod__uid="another"), KILLED_AT, id="pod"),
        pytest.param(document(container__name="sidecar"), KILLED_AT, id="container"),
        pytest.param(document(Cause.POD_LIMIT), KILLED_AT, id="cause"),
        pytest.param(document(), KILLED_AT + timedelta(minutes=40), id="hour"),
        pytest.param(document(), KILLED_AT + timedelta(days=1), id="day"),
        pytest.param(document(pod=None, container=None), KILLED_AT, id="outside the pods"),
    ],
)
def test_the_key_differs_by(made: dict[str, Any], at: datetime) -> None:
    assert event_key(made, at) != event_key(document(), KILLED_AT)


def test_outside_the_pods_the_node_and_the_cgroup_are_the_key() -> None:
    here = document(Cause.NODE, pod=None, container=None)
    assert event_key(here, KILLED_AT) != event_key({**here, "node": "other"}, KILLED_AT)
    assert event_key(here, KILLED_AT) != event_key({**here, "task_memcg": "/system.slice/b"}, KILLED_AT)


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ("web-0", "web-0.0123456789abcdef"),
        pytest.param("a" * 253, "a" * 236 + ".0123456789abcdef", id="cut"),
        pytest.param("a" * 235 + ".b", "a" * 235 + ".0123456789abcdef", id="no empty label where it is cut"),
        pytest.param("a" * 235 + "-b", "a" * 235 + ".0123456789abcdef", id="no hyphen before the dot"),
        pytest.param("Web_0", "web-0.0123456789abcdef", id="no name of Kubernetes, but a valid one"),
        pytest.param("...", "0123456789abcdef", id="nothing left"),
    ],
)
def test_the_name_is_readable_and_valid(about: str, name: str) -> None:
    assert event_name(about, "0123456789abcdef") == name
    assert not create_errors({**pod_event(letter()), "metadata": {"name": name, "namespace": "shop"}})


def test_the_note_gives_verdict_numbers_and_help() -> None:
    assert note(document()) == (
        "Container app of pod shop/web-7d4b9c-x2x9k reached its memory limit of 512 MiB. "
        "Limited cgroup: usage 512 MiB, limit 512 MiB. Victim: anon 500 MiB, file 900 KiB, oom_score_adj 984. "
        "Container: limit 512 MiB, request 256 MiB. "
        "See how its use grew before raising the limit: a leak outgrows any. "
        "The evidence is in this Event's annotations."
    )


def test_what_is_not_known_is_not_in_the_note() -> None:
    made = document(Cause.UNKNOWN, memory=None, container=None, victim={"pid": None, "comm": None})
    assert note(made) == (
        "Container app of pod shop/web-7d4b9c-x2x9k reached its memory limit of 512 MiB. "
        "The annotations name what is known. The evidence is in this Event's annotations."
    )


@pytest.mark.parametrize("cause", sorted(NODE_PRESSURE))
def test_under_node_pressure_nobody_is_told_to_raise_a_limit(cause: Cause) -> None:
    words = note(document(cause, summary="."))
    assert "raise" not in words.lower()
    assert "raising" not in words.lower()
    assert "Not the victim's own limit" in words


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_its_help(cause: Cause) -> None:
    assert note(document(cause, summary="."))


def test_a_hostile_name_stays_on_its_line() -> None:
    event = _event(summary=f"The kernel killed {HOSTILE}.", victim__comm=HOSTILE)
    assert event["note"].startswith('The kernel killed x\\x0a\\x1b[2J"\\u202e\\x00. ')
    assert event["metadata"]["annotations"]["oom-collector/comm"] == 'x\\x0a\\x1b[2J"\\u202e\\x00'


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("e" * 1024, "e" * 1024),
        ("e" * 1025, "e" * 1021 + "..."),
        pytest.param("é" * 600, "é" * 510 + "...", id="no half of a character of two bytes"),
        pytest.param("🙂" * 256, "🙂" * 256, id="bytes, not characters: just fits"),
        pytest.param("🙂" * 257, "🙂" * 255 + "...", id="no part of a character of four bytes"),
    ],
)
def test_a_long_text_is_cut_between_characters(words: str, shown: str) -> None:
    assert cut(words, 1024) == shown


def test_annotations_carry_the_data() -> None:
    annotations = _event(evidence=["report", "kill_line"])["metadata"]["annotations"]
    assert annotations["oom-collector/incident-id"] == "0" * 16
    assert annotations["oom-collector/cause"] == "container_limit"
    assert annotations["oom-collector/pid"] == "488"
    assert annotations["oom-collector/oom-memcg"] == MEMCG
    assert annotations["oom-collector/limit-bytes"] == "536870912"
    assert annotations["oom-collector/usage-bytes"] == "536870912"
    assert annotations["oom-collector/evidence"] == "report; kill_line"
    assert annotations["oom-collector/group-kill"] == "false"
    assert annotations["oom-collector/processes"] == "1"
    assert "oom-collector/fate" not in annotations


def test_each_annotation_is_bounded() -> None:
    annotations = _event(oom_memcg="/ü" * 200_000)["metadata"]["annotations"]
    assert len(annotations["oom-collector/oom-memcg"].encode()) <= 1024


def test_a_repeat_counts_absolutely_and_takes_away_what_the_newest_kill_does_not_have() -> None:
    patch: dict[str, Any] = series_patch(letter(document(victim__pid=None, fate="restarted"), count=3))
    assert patch["series"] == {"count": 3, "lastObservedTime": "2026-11-21T10:22:16.123456Z"}
    assert patch["metadata"]["annotations"]["oom-collector/pid"] is None
    assert patch["metadata"]["annotations"]["oom-collector/fate"] == "restarted"
    assert set(patch) == {"metadata", "series"}
    assert set(patch["metadata"]) == {"annotations"}


def test_an_event_made_late_is_a_series_from_the_start() -> None:
    event: dict[str, Any] = pod_event(letter(count=3))
    assert event["series"]["count"] == 3
    assert event["eventTime"] == "2026-11-21T10:20:16.123456Z"


def test_a_whole_second_has_its_six_decimals() -> None:
    event = pod_event(letter(at=datetime(2026, 11, 21, 10, tzinfo=UTC)))
    assert event["eventTime"] == "2026-11-21T10:00:00.000000Z"


def test_the_instance_is_cut_to_what_a_server_takes() -> None:
    event = _event(node="n" * 253)
    assert len(event["reportingInstance"]) == 128


_TEXT = st.text(max_size=300) | st.just("") | st.none()
_NAME = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True)


@given(
    cause=st.sampled_from(Cause),
    summary=st.text(max_size=2000),
    comm=_TEXT,
    memcg=_TEXT,
    pod=_NAME,
    node=_NAME,
    usage=st.integers(0, 2**63) | st.none(),
    count=st.integers(1, 2**31 - 1),
)
def test_a_server_takes_what_any_workload_makes_of_it(
    cause: Cause, summary: str, comm: str | None, memcg: str | None, pod: str, node: str, usage: int | None, count: int
) -> None:
    made = document(
        cause,
        summary=summary,
        victim__comm=comm,
        oom_memcg=memcg,
        pod__name=pod,
        node=node,
        memory__usage_bytes=usage,
    )
    told = letter(made, last_at=KILLED_AT, count=count)
    for event in (pod_event(told), node_event(told, "uid")):
        assert not create_errors(event)
        assert json.dumps(event, ensure_ascii=False).encode()
        assert printable(str(event["note"])) == event["note"]


@pytest.mark.parametrize("event", [pod_event(letter(count=2)), node_event(letter(document(Cause.NODE)), "uid")])
def test_the_published_schema_knows_every_field(event: dict[str, Any]) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(event, "1.36", strict=True)


@pytest.mark.parametrize(
    ("shmem", "told", "advised"),
    [
        pytest.param(48 << 20, True, True, id="all of it"),
        pytest.param(16 << 20, True, False, id="a third"),
        pytest.param(1 << 20, False, False, id="hardly any"),
    ],
)
def test_files_in_memory_are_told_of(shmem: int, told: bool, advised: bool) -> None:
    made = document(Cause.CONTAINER_LIMIT, memory__usage_bytes=48 << 20, memory__stat={"shmem": shmem})
    words = note(made)
    assert ("of it shmem" in words, "sizeLimit" in words) == (told, advised)
