"""
Kills in pods that containerd runs, from the kernel's record to names, Events, fate and metrics.

A second agent follows an API server's double, which shows the pods as the tests' kubelet reports them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from .agent import Agent, Document, wait_until
from .api import Api, Event
from .containers import MIB, sh
from .cri import containerd
from .expected import Expected, of
from .kubelet import NAMESPACE, NODE_NAME, Kubelet, Life, PodWorker, Role, container, manifest, static
from .lab import OUT, Lab, check_told, second_agent, shell, wait_for_kills
from .witness import counters

KILL_SECONDS = 60
LATE_SECONDS = 90  # a fate comes within a minute; once the API is back, the agent waits for up to a minute
SHIM_SECONDS = 20  # so long the shim keeps an event that containerd does not take

WAITING_HOG = ("/bin/hog", "-w", "/go")
IDLE = ("/bin/sleep", "100000")
FIELDS = {"app": "containers", "init": "initContainers", "sidecar": "initContainers"}
FLAGS = ("--node-name", NODE_NAME, "--api-jitter", "0")
ANNOTATION = "oom-collector/{}".format


@dataclass(slots=True, kw_only=True)
class Kill:
    """One kill in a pod, and what has to be told of it. `fates`: one of these."""

    pod: PodWorker
    role: Role
    life: Life
    fates: tuple[str, ...]
    kind: str
    cause: str = "container_limit"
    group_kill: bool = False
    names_from: str = "api"  # when stdout was told

    @property
    def where(self) -> str:
        return f"{self.pod.name} {self.role.name}"

    def expected(self, names_from: str | None = None) -> Expected:
        """What stdout has of it."""
        source = names_from or self.names_from
        more = {} if self.cause == "container_limit" else {"oom_memcg": None}

        def named(document: Document) -> bool:
            return document["attribution"]["names_from"] == source and self.is_named(document)

        return of(self.life, self.cause, group_kill=self.group_kill, also=named, **more)

    def is_named(self, document: Document) -> bool:
        pod, container = document["pod"], document["container"]
        right: bool = (pod["namespace"], pod["name"], container["name"]) == (NAMESPACE, self.pod.name, self.role.name)
        if document["attribution"]["names_from"] == "api":
            right = right and container["kind"] == self.kind and pod["owner"] == self.pod.owner
        return right

    def problems(self, document: Document) -> Iterator[str]:
        """What is wrong with the final state of its document."""
        if document["fate"] not in self.fates:
            yield f"{self.where}: its fate is {document['fate']}, not {' or '.join(self.fates)}"
        if document["fate"] == "restarted" and document.get("restart_count") != 1:
            yield f"{self.where}: restarts: {document.get('restart_count')}"
        if not self.is_named(document):
            yield f"{self.where}: named {document['pod']}, {document['container']}, {document['attribution']}"
        told = document.get("contradictions", [])
        # A fate is unknown where the status came too late to be looked at.
        if document["fate"] != "unknown" and bool(told) != self.life.denies_oom:
            yield f"{self.where}: the runtime says {self.life.verdict}, the incident's contradictions are {told}"

    def event_problems(self, event: Event) -> Iterator[str]:
        # The log links do not tell what kind of container it is.
        path = f"spec.{FIELDS[self.kind]}{{{self.role.name}}}"
        if event["regarding"].get("fieldPath") not in {path, *((None,) if self.names_from == "log_links" else ())}:
            yield f"{self.where}: the Event's fieldPath is {event['regarding'].get('fieldPath')}"
        if event["reason"] != ("NodeOOMKill" if self.cause == "node" else "ContainerOOMKill"):
            yield f"{self.where}: the Event's reason is {event['reason']}"


@dataclass(slots=True)
class Stage:
    """A node with containerd, a kubelet and agents, and the API server; `kills` so far."""

    kubelet: Kubelet
    api: Api
    agents: list[Agent]
    kills: list[Kill] = field(default_factory=list)

    def kill(self, pod: PodWorker, *fates: str, name: str | None = None, kind: str = "app", **more: Any) -> Kill:
        """Let the waiting hog of a container go, and wait until the kernel has killed it."""
        role = pod.role(name)
        before = counters().vmstat
        self.kills.append(Kill(pod=pod, role=role, life=role.last, fates=fates, kind=kind, **more))
        (role.last.root / "go").touch()
        wait_for_kills(before + 1, KILL_SECONDS)
        return self.kills[-1]

    def check(self, lab: Lab) -> list[Expected]:
        """Check all that was and is told; return what the agent tells that has no API."""
        ended = [kill.life for kill in self.kills if "survived" not in kill.fates]
        self.kubelet.wait(lambda: all(life.ended for life in ended), KILL_SECONDS, "the kubelet sees no end")
        self.check_told()
        wait_until(self._is_final, LATE_SECONDS, lambda: "a fate or the API's names are missing")
        wait_until(self._is_delivered, LATE_SECONDS, lambda: f"Events tell {self._told()}, not {self._killed()}")
        time.sleep(2)  # what comes twice comes now
        shown = self._pod_events() + self.api.node_events()
        (OUT / f"events-{self.agents[0].unit}.json").write_text(json.dumps(shown, indent=2))
        documents = self._documents()
        problems = [problem for kill in self.kills for problem in kill.problems(documents[kill.life.id])]
        problems += self._event_problems({document["id"] for document in documents.values()})
        problems += self.api.problems()
        lab.figures["containerd said"] = dict(Counter(kill.life.verdict for kill in self.kills))
        assert not problems, "; ".join(problems[:10])
        return [kill.expected("log_links") for kill in self.kills]

    def check_told(self) -> None:
        for agent in self.agents:
            check_told(agent, [kill.expected() for kill in self.kills])

    def restart(self) -> None:
        """A new life of an agent sends nothing again."""
        (agent,) = self.agents
        agent.stop()
        agent.start()
        agent.wait_ready()
        time.sleep(5)
        assert self._told() == self._killed(), f"after a restart Events tell {self._told()}, not {self._killed()}"

    def _documents(self) -> dict[str, Document]:
        """What the journal says of our kills, by container id; it knows those from before as well."""
        lines = sh("oom-collector", "kills", "--output", "json", "--state-dir", self.agents[0].state_dir).splitlines()
        by_id = {(document["container"] or {}).get("id"): document for document in map(json.loads, lines)}
        return {kill.life.id: by_id[kill.life.id] for kill in self.kills}

    def _is_final(self) -> bool:
        documents = self._documents().values()
        return all(document["fate"] and document["attribution"]["names_from"] == "api" for document in documents)

    def _is_delivered(self) -> bool:
        done = [sum(self._deliveries(agent).values()) for agent in self.agents]
        return min(done) >= len(self.kills) and self._told() == self._killed()

    def _deliveries(self, agent: Agent) -> dict[str, float]:
        samples = agent.metrics("oom_collector_sink_deliveries_total")
        return {labels: value for labels, value in samples.items() if 'sink="pod_event"' in labels and value}

    def _pod_events(self) -> list[Event]:
        pods = {kill.pod.uid: kill.pod for kill in self.kills}
        return [event for pod in pods.values() for event in self.api.pod_events(pod)]

    def _told(self) -> Counter[tuple[str, str]]:
        """How many kills of each container the Events tell."""
        told: Counter[tuple[str, str]] = Counter()
        for event in self._pod_events():
            told[container_of(event)] += count_of(event)
        return told

    def _killed(self) -> Counter[tuple[str, str]]:
        return Counter((kill.pod.name, kill.role.name) for kill in self.kills)

    def _event_problems(self, ids: set[str]) -> Iterator[str]:
        events = self._pod_events()
        # One for each hour: a test may run across its end.
        keys = Counter((container_of(event), event["eventTime"][:13]) for event in events)
        yield from (f"{key}: {count} Events" for key, count in keys.items() if count > 1)
        if self._told() != self._killed():
            yield f"Events tell {self._told()}, not {self._killed()}"
        by_container = {(kill.pod.name, kill.role.name): kill for kill in self.kills}
        for event in events:
            yield from by_container[container_of(event)].event_problems(event)
            if event["metadata"]["annotations"][ANNOTATION("incident-id")] not in ids:
                yield f"{container_of(event)}: the Event has an id that no incident has"
        for agent in self.agents:
            sent = self._deliveries(agent)
            if list(sent.values()) != [len(self.kills)] or 'outcome="delivered"' not in str(sent):
                yield f"{agent.unit}: deliveries of {len(self.kills)} kills: {sent}"


def container_of(event: Event) -> tuple[str, str]:
    return event["regarding"]["name"], event["metadata"]["annotations"][ANNOTATION("container")]


def count_of(event: Event) -> int:
    return int(event.get("series", {}).get("count", 1))


@contextmanager
def stage(*agents: str) -> Iterator[Stage]:
    """agents: their names; each is one on this node."""
    runtime = containerd()
    with ExitStack() as stack:
        api = stack.enter_context(Api.running())
        kubelet = Kubelet(runtime, show=api.show, hide=api.hide)
        stack.callback(kubelet.close)
        running = [stack.enter_context(second_agent(name, *api.environment, flags=FLAGS)) for name in agents]
        yield Stage(kubelet, api, running)


def cri(lab: Lab) -> list[Expected]:
    """Each kind of container and of kill, under both cgroup drivers, and a runtime that saw nothing."""
    with stage("cri") as on:
        run, hog = on.kubelet.run, container("web", *WAITING_HOG)
        limit = run(manifest("limit", hog, restart="Always"))
        cgroupfs = run(manifest("cgroupfs", hog), driver="cgroupfs")
        child = run(manifest("child", container("web", *shell("hog -w /go; sleep 100000"))))
        script = "hog -m 4 & hog -m 4 & hog -w /go & wait"
        group = run(manifest("group", container("web", *shell(script), limit=64 * MIB)), group_kill=True)
        init = run(manifest("init", container("web", *IDLE), initContainers=[container("setup", *WAITING_HOG)]))
        proxy = container("proxy", *WAITING_HOG, restartPolicy="Always")
        sidecar = run(manifest("sidecar", container("web", *IDLE), initContainers=[proxy]))
        two = run(manifest("two", container("web", *IDLE), container("cache", *WAITING_HOG, limit=32 * MIB)))
        mount = {"name": "scratch", "mountPath": "/scratch"}
        filling = container("web", *WAITING_HOG, "-f", "/scratch/big", volumeMounts=[mount])
        scratch = {"name": "scratch", "emptyDir": {"medium": "Memory"}}
        volume = run(manifest("volume", filling, volumes=[scratch]))
        mirrored = run(static("static", hog))
        unseen = run(manifest("unseen", hog))

        on.kill(limit, "restarted")
        on.kill(child, "survived")
        on.kill(cgroupfs, "pod_failed")
        on.kill(group, "pod_failed", group_kill=True)
        on.kill(init, "pod_failed", name="setup", kind="init")
        on.kill(sidecar, "restarted", name="proxy", kind="sidecar")
        on.kill(two, "terminated", name="cache")
        on.kill(volume, "pod_failed")
        on.kill(mirrored, "pod_failed")
        on.kubelet.wait(lambda: len(limit.role().lives) == 2, KILL_SECONDS, "no restart")
        again = on.kill(limit, "restart_pending")
        on.kubelet.wait(lambda: again.life.ended, KILL_SECONDS, "the kubelet sees no end")
        with on.kubelet.paused(), containerd().stopped():
            on.kill(unseen, "pod_failed")
            time.sleep(SHIM_SECONDS)
        expected = on.check(lab)
        on.restart()
        return expected


def api_down(lab: Lab) -> list[Expected]:
    """The API goes, a pod is made and two are killed in; it comes back. Two agents on the node tell it once."""
    with stage("api-down", "replica") as on:
        run, hog = on.kubelet.run, container("web", *WAITING_HOG)
        known = run(manifest("known", hog))
        time.sleep(2)
        on.api.stop()
        fresh = run(manifest("fresh", hog))
        # Unknown where the agent reaches the API only after a minute.
        on.kill(known, "pod_failed", "unknown")
        on.kill(fresh, "pod_failed", "unknown", names_from="log_links")
        on.check_told()
        assert not on.api.pod_events(known) + on.api.pod_events(fresh)
        on.api.start()
        return on.check(lab)


def node_pressure(lab: Lab) -> list[Expected]:
    with stage("cri-node") as on:
        run = on.kubelet.run
        run(manifest("kept", container("web", "/bin/hog", "-m", "300", limit=600 * MIB)))
        victim = run(manifest("victim", container("web", *WAITING_HOG, limit=None)))
        # Nothing else may run while the node is short of memory: each program would be read from disk again.
        with on.kubelet.paused():
            on.kill(victim, "pod_failed", cause="node")
        expected = on.check(lab)
        (event,) = on.api.node_events()
        assert event["reason"] == "NodeOOMKill", event
        assert event["related"]["name"] == victim.name, event
        return expected
