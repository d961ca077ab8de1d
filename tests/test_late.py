"""What Kubernetes tells later is put into the document of the kill, whenever that is read."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from collector.document import to_document
from collector.late import Late, complete, from_json, to_json
from collector.model import ContainerKind, Fate, Names, NamesFrom, Owner, QosClass
from tests import lines
from tests.test_classify import judge, memcg_kill

SCHEMA = json.loads(files("collector").joinpath("schema/kill-record.schema.json").read_text())

NAMES = Names(
    source=NamesFrom.API,
    namespace="shop",
    pod="cart-7d9f8-x2x7p",
    qos_class=QosClass.BURSTABLE,
    owner=Owner(kind="Deployment", name="cart"),
    revision="7d9f8",
    container="cart",
    kind=ContainerKind.APP,
    image="cart:1.2",
    limit_bytes=48 << 20,
    request_bytes=16 << 20,
    event_uid="u",
)


def document(*texts: str) -> dict[str, Any]:
    """As the journal gives it back."""
    told: dict[str, Any] = json.loads(json.dumps(to_document(judge(*texts))))
    return told


def test_names_and_fate() -> None:
    late = Late(names=NAMES, fate=Fate.RESTARTED, restart_count=3, confirmed=True, contradiction="x says y")
    told = complete(document(*lines.report()), late)
    jsonschema.validate(told, SCHEMA)
    assert (told["pod"]["namespace"], told["pod"]["name"], told["pod"]["owner"]) == (
        "shop",
        "cart-7d9f8-x2x7p",
        {"kind": "Deployment", "name": "cart"},
    )
    assert (told["container"]["name"], told["container"]["kind"], told["container"]["request_bytes"]) == (
        "cart",
        "app",
        16 << 20,
    )
    assert told["summary"] == (
        "Container cart of pod shop/cart-7d9f8-x2x7p reached its memory limit of 48 MiB:"
        " the kernel killed hog (pid 257, using 40 MiB)."
    )
    assert told["attribution"]["names_from"] == "api"
    assert (told["fate"], told["restart_count"]) == ("restarted", 3)
    assert "pod_status" in told["evidence"]
    assert told["contradictions"][-1] == "x says y"


def test_stdout_does_not_wait_for_the_fate() -> None:
    told = complete(document(*lines.report()), Late(names=NAMES, fate=Fate.RESTARTED), fate=False)
    assert (told["fate"], told["pod"]["name"]) == (None, "cart-7d9f8-x2x7p")


@pytest.mark.parametrize(
    ("names", "start"),
    [
        pytest.param(
            replace(NAMES, lone=True),
            "Container cart of pod shop/cart-7d9f8-x2x7p reached its memory limit of 48 MiB (at the pod's cgroup):",
            id="the only container",
        ),
        pytest.param(NAMES, "Pod shop/cart-7d9f8-x2x7p reached its memory limit of 48 MiB:", id="one of several"),
        pytest.param(
            replace(NAMES, lone=True, limit_bytes=32 << 20),
            "Pod shop/cart-7d9f8-x2x7p reached its memory limit of 48 MiB:",
            id="another limit than the container's",
        ),
        pytest.param(
            replace(NAMES, container=None, lone=True),
            "Pod shop/cart-7d9f8-x2x7p reached its memory limit of 48 MiB:",
            id="container not named",
        ),
    ],
)
def test_whose_limit_a_pods_limit_is(names: Names, start: str) -> None:
    kill = document(
        *memcg_kill(lines.POD),
    )
    kill["memory"] = {"limit_bytes": 48 << 20}
    assert complete(kill, Late(names=names))["summary"].startswith(start)


def test_a_qos_class_that_the_path_does_not_have_is_a_contradiction() -> None:
    told = complete(document(*lines.report()), Late(names=replace(NAMES, qos_class=QosClass.GUARANTEED)))
    assert told["contradictions"] == ["the cgroup path says Burstable, the API says Guaranteed"]
    assert told["pod"]["qos_class"] == "Burstable"


def test_a_host_process_gets_no_names() -> None:
    kill = document(lines.summary(oom_memcg=None, task_memcg="/system.slice/a.service"), lines.kill())
    assert complete(kill, Late(names=NAMES)) == kill


@pytest.mark.parametrize(
    "late",
    [
        Late(),
        Late(names=NAMES),
        Late(names=Names(source=NamesFrom.LOG_LINKS, namespace="a", pod="b")),
        Late(names=NAMES, fate=Fate.SURVIVED, contradiction="c", confirmed=True, restart_count=1),
    ],
)
def test_it_survives_the_journal(late: Late) -> None:
    assert from_json(to_json(late)) == late


def test_nothing_is_known_at_first() -> None:
    assert from_json(None) == Late()


def test_a_diagnosis_is_kept_as_it_was_made() -> None:
    made = {"pattern": "leak", "confidence": 0.9, "growth_since": None, "findings": [], "advice": [{"command": None}]}
    late = Late(names=NAMES, diagnosis=made)
    assert from_json(to_json(late)) == late
    assert complete(document(*lines.report()), late, fate=False)["diagnosis"] == made
    assert "diagnosis" not in complete(document(*lines.report()), Late(names=NAMES))
