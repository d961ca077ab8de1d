"""
From a line in the kernel log to the pager, and to the all-clear: real agents, the real Prometheus, the real Alertmanager.

What is shipped is taken as it is, save addresses and time: in what follows a minute takes half a second. So the story of half
an hour is lived through once, by four machines at once; each test looks at one thing in it.
"""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from tests.deploy.chart import ROOT
from tests.prometheus import servers
from tests.prometheus.machine import Machine
from tests.prometheus.servers import ALERTMANAGER, PROMETHEUS, Receiver, needs, query, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [needs(PROMETHEUS), needs(ALERTMANAGER)]

SHIPPED = ROOT / "deploy/prometheus"
SPEED = 120
# After 60, pytest's faulthandler_timeout would end the whole run.
STORY_SECONDS = 55.0
TRANSPORTS = ["plain", "tls"]

# Ranges in PromQL, and what the three formats of configuration call a time.
_DURATION = re.compile(r"(?P<before>\[|\b(?:for|group_wait|\w+_interval): )(?P<count>\d+)(?P<unit>[smh])\b")
_MILLISECONDS = {"s": 1000, "m": 60_000, "h": 3_600_000}


def sped_up(name: str) -> str:
    """A shipped file in which nothing but durations differs."""
    text = (SHIPPED / name).read_text()
    made = _DURATION.sub(lambda found: f"{found['before']}{_scaled(int(found['count']), found['unit'])}ms", text)
    blank = r"\g<before>"
    assert re.sub(_DURATION.pattern.replace("[smh]", "ms"), blank, made) == _DURATION.sub(blank, text)
    return made


def _scaled(count: int, unit: str) -> int:
    return count * _MILLISECONDS[unit] // SPEED


class Story:
    """Two machines that run out of memory, and two with a container at its limit: one of each behind TLS."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._until = time.monotonic() + STORY_SECONDS
        self._authority = trustme.CA()
        self._machines: dict[str, Machine] = {}
        stack.callback(self._stop)
        for number, (what, transport) in enumerate([(a, b) for a in ("node", "container") for b in TRANSPORTS], 1):
            machine = Machine(
                directory / f"{what}-{transport}",
                f"127.0.0.{number}",
                {"plain": "shop", "tls": "shop-tls"}[transport],
                self._authority if transport == "tls" else None,
                *("--metrics-hold", str(60 / SPEED)),
            )
            self._machines[f"{what}-{transport}"] = machine
        self.receiver = stack.enter_context(Receiver())
        alertmanager = stack.enter_context(servers.alertmanager(self._alertmanager_config(), directory))
        self.prometheus = stack.enter_context(
            servers.prometheus(
                self._prometheus_config(alertmanager),
                directory,
                f"--query.lookback-delta={_scaled(5, 'm')}ms",
                f"--rules.alert.resend-delay={_scaled(1, 'm')}ms",
            )
        )

    def _stop(self) -> None:
        for machine in self._machines.values():
            machine.agent.kill()

    def _alertmanager_config(self) -> Path:
        path = self._directory / "alertmanager.yaml"
        path.write_text(re.sub(r"http://(\w+)\.example", rf"{self.receiver.url}/\1", sped_up("alertmanager.yaml")))
        return path

    def _prometheus_config(self, alertmanager: str) -> Path:
        """The example for machines without Kubernetes; its job a second time, with TLS."""
        (self._directory / "rules.yaml").write_text(sped_up("rules.yaml"))
        config = yaml.safe_load(sped_up("prometheus-static.yaml"))
        (shipped,) = config["scrape_configs"]
        client = self._authority.issue_cert("prometheus")
        client.private_key_and_cert_chain_pem.write_to_path(str(self._directory / "client.pem"))
        self._authority.cert_pem.write_to_path(str(self._directory / "ca.pem"))
        tls = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.pem"}
        behind_tls = {**shipped, "job_name": "oom-collector-tls", "scheme": "https", "tls_config": tls}
        config["scrape_configs"] = [
            {**shipped, "static_configs": self._targets("plain")},
            {**behind_tls, "static_configs": self._targets("tls")},
        ]
        static = [{"targets": [alertmanager.removeprefix("http://")]}]
        config["alerting"] = {"alertmanagers": [{"static_configs": static}]}
        path = self._directory / "prometheus.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _targets(self, transport: str) -> list[dict[str, list[str]]]:
        return [{"targets": [machine.address for name, machine in self._machines.items() if transport in name]}]

    def machine(self, what: str, transport: str) -> Machine:
        return self._machines[f"{what}-{transport}"]

    def told(self, receiver: str, alertname: str, host: str) -> list[dict[str, Any]]:
        """What a receiver was told of an alert of a machine, in order."""
        return [
            alert
            for path, notification in self.receiver.told
            for alert in notification["alerts"]
            if path == receiver and alert["labels"]["alertname"] == alertname and alert["labels"]["node"] == host
        ]

    def pages(self, transport: str) -> list[dict[str, Any]]:
        return self.told("/pager/platform", "NodeOOMKill", self.machine("node", transport).host)

    def tickets(self, transport: str) -> list[dict[str, Any]]:
        return self.told("/tickets/shop", "ContainerOOMKill", self.machine("container", transport).host)

    def live(self) -> None:
        self._until_prometheus_has('count(oom_kills_total{cause="node"} == 0)')
        self._until_prometheus_has('count(oom_collector_source_up{source="file"} == 1)')
        self._run_out_of_memory()
        for transport in TRANSPORTS:
            self.machine("container", transport).reach_the_limit()
        self._until_told(pages=1, tickets=1)
        self._restart_all()
        self._until_told(pages=2, tickets=2)
        self._restart_all()
        self.alerts_after_restart = query(self.prometheus, "ALERTS")
        self.pages_after_restart = {transport: len(self.pages(transport)) for transport in TRANSPORTS}
        self._run_out_of_memory()
        self._until_told(pages=3, tickets=2)

    def _run_out_of_memory(self) -> None:
        for transport in TRANSPORTS:
            self.machine("node", transport).run_out_of_memory()

    def _restart_all(self) -> None:
        """Returns when Prometheus has seen the new processes for twice as long as these hold back what is new."""
        for machine in self._machines.values():
            machine.restart()
        seen = time.time() + 2 * _scaled(1, "m") / 1000
        self._until_prometheus_has(f'count(timestamp(oom_kills_total{{cause="node"}}) > {seen})')

    def _until_prometheus_has(self, count: str) -> None:
        wait_for(
            lambda: [sample["value"][1] for sample in query(self.prometheus, count)] == [str(len(self._machines))],
            lambda: query(self.prometheus, "{job!=''}"),
            until=self._until,
        )

    def _until_told(self, *, pages: int, tickets: int) -> None:
        """At least so much for each transport."""
        wait_for(
            lambda: all(len(self.pages(each)) >= pages and len(self.tickets(each)) >= tickets for each in TRANSPORTS),
            lambda: self.receiver.told,
            until=self._until,
        )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with ExitStack() as stack:
        made = Story(tmp_path_factory.mktemp("story"), stack)
        made.live()
        yield made


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_first_kill_ever_pages_once_and_is_resolved_and_so_does_the_next(story: Story, transport: str) -> None:
    scheme = {"plain": "http", "tls": "https"}[transport]
    assert story.machine("node", transport).agent.url.startswith(f"{scheme}://")
    assert [page["status"] for page in story.pages(transport)] == ["firing", "resolved", "firing"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_page_says_what_how_much_and_what_to_do(story: Story, transport: str) -> None:
    machine = story.machine("node", transport)
    number = "1 OOM kill in 15 minutes (cause node); no victim was at a limit of its own. Killed: "
    for page in story.pages(transport):
        assert page["labels"] == {
            "alertname": "NodeOOMKill",
            "cause": "node",
            "node": machine.host,
            "severity": "critical",
        }
        assert page["annotations"]["summary"] == f"Node {machine.host} ran out of memory"
        assert page["annotations"]["description"].startswith(number)
        assert page["annotations"]["runbook_url"] == "docs/runbooks/NodeOOMKill.md"
    # A name comes when the report is settled, two seconds after its last line: in this story, minutes after the page.
    resolved = story.pages(transport)[1]
    assert resolved["annotations"]["description"].startswith(f"{number}{machine.namespace}/cart-0 cart (1). Largest")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_team_that_owns_the_namespace_has_one_ticket(story: Story, transport: str) -> None:
    machine = story.machine("container", transport)
    assert [ticket["status"] for ticket in story.tickets(transport)] == ["firing", "resolved"]
    ticket = story.tickets(transport)[0]
    assert ticket["labels"] == {
        "alertname": "ContainerOOMKill",
        "cause": "container_limit",
        "namespace": machine.namespace,
        "pod": "cart-0",
        "container": "cart",
        "node": machine.host,
        "severity": "warning",
    }
    assert ticket["annotations"] == {
        "summary": f"Container cart of pod {machine.namespace}/cart-0 was OOM-killed",
        "description": f"1 OOM kill in 15 minutes on node {machine.host} (cause container_limit). The memory limit is 48MiB.",
        "runbook_url": "docs/runbooks/ContainerOOMKill.md",
    }


def test_agents_that_are_killed_and_start_again_raise_no_alarm(story: Story) -> None:
    """While the alerts are firing it would be one more page or ticket above; this is after their end."""
    assert story.alerts_after_restart == []
    assert story.pages_after_restart == dict.fromkeys(TRANSPORTS, 2)


def test_nobody_else_is_told_of_anything(story: Story) -> None:
    assert {path for path, _ in story.receiver.told} == {"/pager/platform", "/tickets/shop"}


def test_promtool_finds_nothing_in_what_a_running_agent_shows(story: Story) -> None:
    status, text = story.machine("container", "plain").agent.get("/metrics")
    assert status == 200
    done = subprocess.run(["promtool", "check", "metrics"], check=False, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
