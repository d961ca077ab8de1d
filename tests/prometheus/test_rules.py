"""
The alert rules, by Prometheus' own promtool, and what stands beside them: the chart's copy, runbooks, docs/alerts.md.

How each alert begins and ends is in rules/*.yaml, which `promtool test rules` takes as they are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import pytest
import yaml

from tests.deploy.chart import CHART, ROOT, objects, render

if TYPE_CHECKING:
    from tests.deploy.chart import Values

RULES = ROOT / "deploy/prometheus/rules.yaml"
DOCS = ROOT / "docs/alerts.md"
RUNBOOKS = ROOT / "docs/runbooks"
UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))

# Families of the agent, and one of kube-state-metrics; `up` is Prometheus' own.
CONTAINER_FAMILIES = {
    "oom_container_kills_total",
    "oom_container_memory_working_set_bytes",
    "oom_container_memory_limit_bytes",
    "oom_container_memory_growth_bytes_per_second",
    "oom_container_memory_seconds_to_limit",
}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)"
)


def groups(text: str) -> Any:
    return yaml.safe_load(text)["groups"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups(RULES.read_text()) for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]
NAMES = [alert["alert"] for alert in ALERTS]


def promtool(*arguments: str | Path, stdin: str | None = None) -> None:
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, check=False, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# By promtool


@needs_promtool
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_begin_and_end_as_they_should(path: Path) -> None:
    promtool("test", "rules", path)


@needs_promtool
def test_promtool_finds_nothing_in_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@needs_promtool
def test_promtool_finds_nothing_in_the_names_of_the_metrics() -> None:
    promtool("check", "metrics", stdin=(ROOT / "tests/golden/metrics.txt").read_text())


@needs_promtool
@pytest.mark.parametrize("name", ["prometheus-kubernetes", "prometheus-static"])
def test_the_examples_for_prometheus_are_valid(name: str, tmp_path: Path) -> None:
    text = (RULES.parent / f"{name}.yaml").read_text()
    # Debian builds Prometheus without the discovery of Kubernetes.
    text = text.replace("kubernetes_sd_configs: [{ role: pod }]", "static_configs: [{ targets: [n1] }]")
    (tmp_path / "prometheus.yaml").write_text(text)
    shutil.copy(RULES, tmp_path)
    promtool("check", "config", tmp_path / "prometheus.yaml")


@needs_promtool
def test_what_the_chart_makes_of_other_values_is_still_valid(tmp_path: Path) -> None:
    values = {
        name: {"threshold": 2.5, "for": "1m", "severity": "page"} for name in NAMES if name != "OOMCollectorAbsent"
    }
    made = tmp_path / "rules.yaml"
    made.write_text(yaml.safe_dump(rule_spec({"alerts": values})))
    promtool("check", "rules", "--lint=all", "--lint-fatal", made)


# What each alert has


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_what_how_much_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    page = ROOT / alert["annotations"]["runbook_url"]
    assert page == RUNBOOKS / f"{alert['alert']}.md"
    headings = re.findall(r"^#+ .*", page.read_text(), re.MULTILINE)
    assert headings == [f"# {alert['alert']}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
    assert "\n    " in page.read_text().partition("## Diagnosis")[2], "no command"


@pytest.mark.parametrize("name", NAMES)
def test_how_it_looks_in_the_pager_is_what_promtool_has_seen(name: str) -> None:
    expected = [
        alert["exp_annotations"]
        for path in UNIT_TESTS
        for group in yaml.safe_load(path.read_text())["tests"]
        for test in group.get("alert_rule_test", ())
        if test["alertname"] == name
        for alert in test["exp_alerts"]
    ]
    text = " ".join(DOCS.read_text().split())
    assert any(" ".join(f"{each['summary']} {each['description']}".split()) in text for each in expected)


def test_no_runbook_is_left_over() -> None:
    assert sorted(page.stem for page in RUNBOOKS.glob("*.md")) == sorted(NAMES)


def test_every_metric_is_one_of_the_agent_s() -> None:
    """A rule on a name that nobody exports is silent for ever."""
    exported = set(re.findall(r"^# TYPE (\w+)", (ROOT / "tests/golden/metrics.txt").read_text(), re.MULTILINE))
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    text = "".join(rule["expr"] + str(rule.get("annotations", "")) for rule in rules())
    used = set(re.findall(r"(?:\w+:)?\boom_\w+(?::\w+)?", text))
    assert used - recorded <= exported | CONTAINER_FAMILIES
    assert used >= CONTAINER_FAMILIES


@pytest.mark.parametrize("name", ["prometheus-kubernetes", "prometheus-static"])
def test_the_examples_are_in_the_docs(name: str) -> None:
    text = (RULES.parent / f"{name}.yaml").read_text()
    jobs = text[text.index("scrape_configs:") :]
    assert "".join(f"    {line}\n" for line in jobs.splitlines()) in DOCS.read_text()


# The chart


def rule_spec(values: Values) -> Any:
    [rule] = [
        each
        for each in objects(render({"prometheusRule": {"enabled": True, **values}}))
        if each["kind"] == "PrometheusRule"
    ]
    return rule["spec"]


def alert_of(values: Values, name: str) -> Any:
    [found] = [rule for group in rule_spec(values)["groups"] for rule in group["rules"] if rule.get("alert") == name]
    return found


def test_the_chart_has_the_rules_as_they_are() -> None:
    # Helm reads no file outside of its chart.
    if os.environ.get("OOM_COLLECTOR_UPDATE_GOLDEN"):
        (CHART / "rules.yaml").write_text(RULES.read_text())
    assert (CHART / "rules.yaml").read_text() == RULES.read_text()
    assert rule_spec({})["groups"] == groups(RULES.read_text())


def test_thresholds_are_values() -> None:
    values = {"alerts": {"ContainerMemoryNearLimit": {"threshold": 0.9, "for": "10m"}, "NodeOOMKill": {"threshold": 5}}}
    near = alert_of(values, "ContainerMemoryNearLimit")
    assert near["expr"] == alert_of({}, "ContainerMemoryNearLimit")["expr"].replace("> 0.85", "> 0.9")
    assert near["for"] == "10m"
    assert alert_of(values, "NodeOOMKill")["expr"].endswith(" > 5")
    assert alert_of(values, "ContainerMemoryLimitForecast") == alert_of({}, "ContainerMemoryLimitForecast")


def test_severity_labels_and_runbooks_are_values() -> None:
    values = {
        "runbookBase": "https://git.example/runbooks",
        "alerts": {"NodeOOMKill": {"severity": "page", "labels": {"team": "platform"}}},
    }
    alert = alert_of(values, "NodeOOMKill")
    assert alert["labels"] == {"severity": "page", "team": "platform"}
    assert alert["annotations"]["runbook_url"] == "https://git.example/runbooks/NodeOOMKill.md"


def test_an_alert_can_be_left_out() -> None:
    spec = rule_spec({"alerts": {"OOMKillsUnattributed": {"enabled": False}}})
    made = [rule["alert"] for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    assert made == [name for name in NAMES if name != "OOMKillsUnattributed"]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"alerts": {"NodeOOMKilled": {"enabled": False}}}, id="unknown alert"),
        pytest.param({"alerts": {"NodeOOMKill": {"treshold": 3}}}, id="misspelt field"),
        pytest.param({"alerts": {"NodeOOMKill": {"for": "soon"}}}, id="no duration"),
        pytest.param({"alerts": {"OOMCollectorAbsent": {"threshold": 1}}}, id="alert without a threshold"),
        pytest.param({"runbookBase": "docs/runbooks"}, id="runbooks that no pager can open"),
    ],
)
def test_values_that_are_refused(values: Values) -> None:
    with pytest.raises(helm_python.HelmError):
        rule_spec(values)


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_knows_every_alert(name: str) -> None:
    assert alert_of({"alerts": {name: {"severity": "page"}}}, name)["labels"]["severity"] == "page"
