"""From the journal's advice to manifests: the newest word on each container, applied by the real kubectl."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from collector.diagnosis.advice import advise
from collector.diagnosis.model import Action, Diagnosis, Finding, FindingKind, Judgement, Pattern
from collector.diagnosis.patches import newest_changes, patches, recommendations
from collector.diagnosis.to_json import to_json
from collector.kills import manifests
from collector.model import Cause, Container, ContainerId, ContainerKind, Owner, Pod, PodUid, Process
from tests.diagnosis.real_kubectl import KUBECTL, manifest, memory_of, pod_spec
from tests.test_cli import journal

if TYPE_CHECKING:
    from pathlib import Path

    from collector.diagnosis.model import Facts

MIB = 2**20
KINDS = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "CronJob"]


def step(
    action: str, *, workload: str = "Deployment/web", container: str | None = "app", **values: Any
) -> dict[str, Any]:
    place = {"namespace": "shop", "workload": workload, "container": container}
    return {"action": action, "text": f"why {action}", "command": "kubectl ...", **place, **values}


def set_limit(mib: int, **values: Any) -> dict[str, Any]:
    return step("set_limit", limit_bytes=mib * MIB, **values)


def gomemlimit(value: str, **values: Any) -> dict[str, Any]:
    return step("set_runtime_flag", variable="GOMEMLIMIT", value=value, **values)


def kill(pattern: str, *advice: dict[str, Any], **diagnosis: Any) -> dict[str, Any]:
    return {
        "id": "1-2",
        "time": "2026-11-21T14:23:05.000001Z",
        "cause": "container_limit",
        "summary": "Container app of pod shop/web-0 reached its limit.",
        "container": {"name": "app"},
        "diagnosis": {"pattern": pattern, "confidence": 0.93, "advice": list(advice), **diagnosis},
    }


def made(*documents: dict[str, Any]) -> list[dict[str, Any]]:
    return [each.content for each in patches(newest_changes(documents))]


def memory(*documents: dict[str, Any]) -> list[Any]:
    """Of the patches: name of the container or "pod", resources."""
    specs = [patch["spec"]["template"]["spec"] for patch in made(*documents)]
    parts = [part for spec in specs for part in (*spec.get("containers", []), {"name": "pod", **spec})]
    return [(part["name"], part["resources"]) for part in parts if "resources" in part]


# Applied


@pytest.mark.parametrize("kind", [*KINDS, "Job", "Pod"])
def test_kubectl_and_kustomize_take_a_patch(kind: str, tmp_path: Path) -> None:
    workload = f"{kind}/web"
    document = kill(
        "limit_too_low",
        set_limit(640, workload=workload, request_bytes=512 * MIB),
        set_limit(48, workload=workload, container="mesh", container_kind="sidecar"),
    )
    text = "\n".join(manifests([document], "patch", None))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(kind)))
    (tmp_path / "patch.yaml").write_text(text)
    (tmp_path / "kustomization.yaml").write_text("resources: [manifest.json]\npatches: [{path: patch.yaml}]\n")
    built = subprocess.run([KUBECTL, "kustomize", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    flags = ["--patch-file", str(tmp_path / "patch.yaml"), "-f", str(tmp_path / "manifest.json"), "--local"]
    patched = subprocess.run(
        [KUBECTL, "patch", *flags, "-o", "yaml"], capture_output=True, text=True, check=True
    ).stdout
    for changed in (built, patched):
        assert memory_of(pod_spec(yaml.safe_load(changed))) == {
            "migrate": ("50Mi", None),
            "mesh": ("48Mi", None),
            "app": ("640Mi", "512Mi"),
            "app-proxy": ("30Mi", None),
        }


@pytest.mark.parametrize("kind", KINDS)
def test_the_line_above_a_patch_applies_it(kind: str, tmp_path: Path) -> None:
    text = "\n".join(manifests([kill("limit_too_low", set_limit(640, workload=f"{kind}/web"))], "patch", None))
    assert text.splitlines()[:3] == [
        "---",
        f"# kubectl patch {kind.lower()}/web -n shop --patch-file FILE",
        "# Kill 1-2 2026-11-21T14:23:05Z, container_limit, limit_too_low (confidence 0.93): Container app of pod "
        "shop/web-0 reached its limit.",
    ]
    assert text.splitlines()[3] == "# why set_limit"
    words = shlex.split(text.splitlines()[1].removeprefix("# "))
    words = [
        KUBECTL,
        *[str(tmp_path / "patch") if word == "FILE" else word for word in words[1:] if "/web" not in word],
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(kind)))
    (tmp_path / "patch").write_text(text)
    words += ["-f", str(tmp_path / "manifest.json"), "--local", "-o", "json"]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert memory_of(pod_spec(json.loads(ran.stdout)))["app"][0] == "640Mi"


def test_a_variable_is_set_beside_the_others(tmp_path: Path) -> None:
    [patch] = made(kill("limit_too_low", set_limit(640), gomemlimit("480MiB")))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest("Deployment")))
    command = [
        KUBECTL,
        "patch",
        "-p",
        json.dumps(patch),
        "-f",
        str(tmp_path / "manifest.json"),
        "--local",
        "-o",
        "json",
    ]
    changed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {one["name"]: one["value"] for one in pod_spec(changed)["containers"][0]["env"]} == {
        "JAVA_TOOL_OPTIONS": "-Xmx80m",
        "MODE": "fast",
        "GOMEMLIMIT": "480MiB",
    }


# Which word counts


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        pytest.param([], [], id="no kill"),
        pytest.param([{"summary": "of a former version"}, {"diagnosis": None}], [], id="no diagnosis"),
        pytest.param(
            [kill("limit_too_low", set_limit(200)), kill("limit_too_low", set_limit(100))],
            [("app", {"limits": {"memory": "200Mi"}})],
            id="the newest",
        ),
        pytest.param(
            [kill("limit_too_low", set_limit(200)), kill("spike", set_limit(50, container="proxy"))],
            [("app", {"limits": {"memory": "200Mi"}}), ("proxy", {"limits": {"memory": "50Mi"}})],
            id="of each container",
        ),
        pytest.param(
            [
                kill("leak", step("do_not_raise_limit", limit_bytes=900 * MIB, lasts_hours=3)),
                kill("spike", set_limit(100)),
            ],
            [],
            id="a leak is not raised, not even by an older word",
        ),
        pytest.param([kill("leak", step("fix_leak")), kill("spike", set_limit(100))], [], id="a leak without its pace"),
        pytest.param(
            [kill("leak", step("fix_leak")), kill("spike", set_limit(100, scope="pod"))], [], id="nor its pod's limit"
        ),
        pytest.param([kill("leak", set_limit(100), step("fix_leak"))], [], id="whatever a leak's advice says"),
        pytest.param(
            [kill("unknown", set_limit(300)), kill("leak", step("fix_leak"))],
            [],
            id="not known whether it is still a leak",
        ),
        pytest.param(
            [kill("unknown", set_limit(300)), kill("spike", set_limit(200)), kill("leak", step("fix_leak"))],
            [("app", {"limits": {"memory": "300Mi"}})],
            id="the leak was before a surer word",
        ),
        pytest.param(
            [kill("limit_too_low", set_limit(300)), kill("leak", step("fix_leak"))],
            [("app", {"limits": {"memory": "300Mi"}})],
            id="it leaks no longer",
        ),
        pytest.param(
            [kill("node_pressure", step("set_request", request_bytes=80 * MIB)), kill("spike", set_limit(100))],
            [("app", {"limits": {"memory": "100Mi"}, "requests": {"memory": "80Mi"}})],
            id="a newer request",
        ),
        pytest.param(
            [kill("node_pressure", step("set_request", request_bytes=180 * MIB)), kill("spike", set_limit(100))],
            [("app", {"requests": {"memory": "180Mi"}})],
            id="a newer request that an older limit has no room for",
        ),
        pytest.param([kill("spike", set_limit(100, workload="Kafka/web"))], [], id="kind that is not known"),
        pytest.param([kill("spike", {"action": "set_limit", "limit_bytes": 9})], [], id="nobody's"),
        pytest.param(
            [kill("spike", set_limit(0)), kill("spike", step("set_limit", limit_bytes="9"))], [], id="no numbers"
        ),
    ],
)
def test_the_newest_word_on_a_container_counts(documents: list[dict[str, Any]], expected: object) -> None:
    assert memory(*documents) == expected


def test_the_flag_of_a_limit_that_is_no_longer_advised_is_gone_too() -> None:
    older = kill("limit_too_low", set_limit(640), gomemlimit("480MiB"))
    assert made(kill("leak", step("fix_leak")), older) == []
    [patch] = made(kill("leak", step("fix_leak"), gomemlimit("75MiB")), older)
    assert patch["spec"]["template"]["spec"] == {
        "containers": [{"name": "app", "env": [{"name": "GOMEMLIMIT", "value": "75MiB"}]}]
    }


def test_a_pods_own_limit() -> None:
    [patch] = made(kill("limit_too_low", set_limit(640, scope="pod")))
    assert patch["spec"]["template"]["spec"] == {"resources": {"limits": {"memory": "640Mi"}}}
    assert list(recommendations(newest_changes([kill("limit_too_low", set_limit(640, scope="pod"))]))) == []


def test_a_bare_pod_takes_only_what_a_command_can_change() -> None:
    bare = {"workload": "Pod/web"}
    steps = [set_limit(640, **bare), {**gomemlimit("480MiB", **bare), "command": None}]
    [patch] = made(kill("limit_too_low", *steps))
    assert patch["spec"] == {"containers": [{"name": "app", "resources": {"limits": {"memory": "640Mi"}}}]}


def test_recommendations_of_one_workload_are_one_object() -> None:
    document = kill(
        "limit_too_low",
        set_limit(640, request_bytes=512 * MIB, peak_bytes=600 * MIB),
        set_limit(50, container="proxy"),
        set_limit(70, container="migrate", container_kind="init"),
        steady_bytes=500 * MIB,
    )
    [recommendation] = [each.content for each in recommendations(newest_changes([document]))]
    status: Any = recommendation["status"]
    assert status["recommendation"]["containerRecommendations"] == [
        {
            "containerName": "app",
            "target": {"memory": "512Mi"},
            "lowerBound": {"memory": "500Mi"},
            "upperBound": {"memory": "640Mi"},
            "uncappedTarget": {"memory": "600Mi"},
        },
        {
            "containerName": "proxy",
            **{bound: {"memory": "50Mi"} for bound in ("target", "lowerBound", "upperBound", "uncappedTarget")},
        },
    ]


@pytest.mark.parametrize("pattern", list(Pattern))
@pytest.mark.parametrize("kind", [ContainerKind.APP, ContainerKind.SIDECAR])
def test_what_is_advised_today_is_understood(pattern: Pattern, kind: ContainerKind, facts: Facts) -> None:
    """The two ends of the JSON: a change there that is not followed here makes no patch, or one of a leak."""
    judgement = Judgement(
        pattern=pattern, confidence=0.95, peak_bytes=100 * MIB, limit_bytes=100 * MIB, growth_bytes_per_hour=2.0 * MIB
    )
    document = kill("") | {
        "diagnosis": to_json(Diagnosis(judgement=judgement, findings=(), advice=advise(facts, judgement, ())))
    }
    found = made(document)
    raised = pattern in {Pattern.STARTUP, Pattern.LIMIT_TOO_LOW, Pattern.SPIKE, Pattern.UNKNOWN}
    assert [list(patch["spec"]["template"]["spec"]) for patch in found] == (
        [["initContainers" if kind is ContainerKind.SIDECAR else "containers"]] if raised else []
    )


@pytest.mark.parametrize("kind", [ContainerKind.APP])
def test_the_flag_that_is_advised_today_is_a_variable_of_the_patch(facts: Facts) -> None:
    judgement = Judgement(
        pattern=Pattern.LIMIT_TOO_LOW, confidence=0.95, peak_bytes=100 * MIB, limit_bytes=100 * MIB, peak_is_cut=True
    )
    finding = Finding(kind=FindingKind.GO_MEMORY_LIMIT, text="", values={}, evidence=("hints",))
    advice = advise(facts, judgement, (finding,))
    [patch] = made(kill("") | {"diagnosis": to_json(Diagnosis(judgement=judgement, findings=(), advice=advice))})
    [container] = patch["spec"]["template"]["spec"]["containers"]
    [limit] = [one.values["limit_bytes"] for one in advice if one.action is Action.SET_LIMIT]
    assert isinstance(limit, int)
    assert container["env"] == [{"name": "GOMEMLIMIT", "value": f"{int(limit * 0.75) // MIB}MiB"}]


@pytest.fixture
def facts(kind: ContainerKind) -> Facts:
    from collector.diagnosis.model import Facts

    return Facts(
        cause=Cause.CONTAINER_LIMIT,
        victim=Process(pid=7, comm="app"),
        pod=Pod(uid=PodUid("u"), namespace="shop", name="web-0", owner=Owner(kind="StatefulSet", name="web")),
        container=Container(id=ContainerId("c"), name="app", kind=kind, limit_bytes=100 * MIB),
    )


# Names that others chose

_HOSTILE = 'a: [b]\n--- #\u2028"\x1b[2J'


def test_names_stay_names_and_comments_comments() -> None:
    document = kill("spike", set_limit(64, workload=f"Deployment/{_HOSTILE}", container=_HOSTILE, text=_HOSTILE))
    document["summary"] = f"it \x85- {_HOSTILE}"
    text = "\n".join(manifests([document], "patch", None))
    assert [character for character in text if not character.isprintable()] == ["\n"] * text.count("\n")
    [patch] = list(yaml.safe_load_all(text))
    assert patch["metadata"] == {"name": _HOSTILE, "namespace": "shop"}
    assert patch["spec"]["template"]["spec"]["containers"][0]["name"] == _HOSTILE
    assert "kubectl" not in text, "no line to paste for a name that is none"


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from collector.cli import main

    documents = [kill("spike", set_limit(64)), kill("spike", set_limit(32, workload="Job/once"))]
    journal(tmp_path, *documents)
    for output, kind in (("patch", "Deployment"), ("vpa", "VerticalPodAutoscaler")):
        assert main(["kills", "--output", output, "--state-dir", str(tmp_path)]) == 0
        assert len(list(yaml.safe_load_all(capsys.readouterr().out))) == 2
        only = ["--workload", "shop/Deployment/web"]
        assert main(["kills", "--output", output, *only, "--state-dir", str(tmp_path)]) == 0
        told = capsys.readouterr()
        assert yaml.safe_load(told.out)["kind"] == kind
        assert told.err == ""


@pytest.mark.parametrize("output", ["patch", "vpa"])
def test_no_advice_is_no_failure(output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from collector.cli import main

    journal(tmp_path, kill("leak", step("fix_leak")))
    assert main(["kills", "--output", output, "--state-dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "oom-collector: no kill in the journal advises other memory settings\n")
