"""
From the kill to the advice to the cure: a pod is killed, what is advised is applied to it, and the same load runs again.

Real programs, those of deploy/examples among them, whose lives are minutes instead of days.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from .agent import Document
from .containers import MIB, sh
from .end_to_end import LATE_SECONDS, Stage, stage
from .expected import ANY, Expected, of
from .kubelet import EXAMPLES_NAMESPACE, ConfigMaps, Life, Manifest, PodWorker, container, manifest
from .lab import OUT, Lab
from .runtimes import PYTHON
from .samples import Row, sample, sample_of_kill, write_history
from .witness import counters, events

EXAMPLES = Path("/lab/examples")
PAUSE = re.compile(r"(?<=\btime\.)sleep\(([0-9.]+)\)")
FASTER = {"leak": 8, "volume": 8, "sidecar": 8}
NAMES = ("startup", "leak", "jvm", "volume", "child", "sidecar")
SAMPLE_SECONDS = 0.5
DEATH_SECONDS = 1000  # within them each life ends
CALM_SECONDS = 60
LASTS_WITHIN = 0.20

Diagnosis = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """A pod, and the ConfigMaps that it mounts."""

    pod: Manifest
    config_maps: ConfigMaps = field(default_factory=dict)


def example(name: str, *, faster: float = 1.0) -> Load:
    """The pod of a Deployment in deploy/examples; faster: how much less its program sleeps."""
    text = PAUSE.sub(lambda found: f"sleep({float(found[1]) / faster})", (EXAMPLES / f"{name}.yaml").read_text())
    objects = [each for each in yaml.safe_load_all(text) if each]
    [deployment] = [each for each in objects if each["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    more = {key: spec[key] for key in ("initContainers", "volumes") if key in spec}
    pod = manifest(name, *spec["containers"], restart="Always", namespace=EXAMPLES_NAMESPACE, **more)
    return Load(pod, {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"})


def program(app: str, name: str, *arguments: str, limit_mib: int) -> Load:
    """One of programs/ in a pod of its own."""
    one = container("web", PYTHON, f"/srv/{name}.py", *arguments, limit=limit_mib * MIB, image="python:3-slim")
    return Load(manifest(app, one, restart="Always"))


@dataclass(slots=True)
class Run:
    """A pod of one container under observation."""

    on: Stage
    worker: PodWorker
    rows: list[Row] = field(default_factory=list)
    _seen: int = 0
    _kills: int = 0

    @property
    def lives(self) -> list[Life]:
        return self.worker.role().lives

    @property
    def kills(self) -> int:
        """Of its main process, or of a child that it outlives."""
        *ended, last = self.lives
        self._kills = max(self._kills, len(self.lives) if last.ended else len(ended))
        with suppress(OSError):  # its cgroup may be gone before its end is known
            self._kills = max(self._kills, len(ended) + events(last.cgroup)["oom_kill"])
        return self._kills

    def watch(self, seconds: float, kills: int) -> None:
        """Sample it for so long, or until it has been killed so many times."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.kills < kills:
            self.sample()
            time.sleep(SAMPLE_SECONDS)

    def sample(self) -> None:
        lives = len(self.lives)
        row = sample(self.lives[-1].cgroup, **({} if lives == self._seen else {"event": "start"}))
        if row is not None:
            self.rows.append(row)
            self._seen = lives

    def documents(self) -> list[Document]:
        """What the agent tells of its kills, the oldest first."""
        command = "oom-collector", "kills", "--output", "json", "--state-dir", self.on.agents[0].state_dir
        ids = {life.id for life in self.lives}
        told = [json.loads(line) for line in sh(*command).splitlines()]
        return sorted(
            (document for document in told if (document["container"] or {}).get("id") in ids),
            key=lambda document: float(document["monotonic_seconds"]),
        )

    def settled(self) -> list[Document]:
        """Those in their final state."""
        return [document for document in self.documents() if document["fate"]]

    def history(self) -> list[Row]:
        return sorted([*self.rows, *map(sample_of_kill, self.documents())], key=lambda row: float(row["time"]))

    def seconds(self) -> list[float]:
        """From each start to the first kill after it."""
        found, started = [], None
        for row in self.history():
            match row.get("event"):
                case "start":
                    started = float(row["time"])
                case "oom_kill" if started is not None:
                    found.append(float(row["time"]) - started)
                    started = None
                case _:
                    pass
        return found

    def expected(self) -> list[Expected]:
        lives = {life.id: life for life in self.lives}
        return [
            of(lives[document["container"]["id"]], comm=ANY, pid=document["victim"]["pid"])
            for document in self.documents()
        ]


def start(on: Stage, load: Load, lives: int) -> Run:
    return Run(on, on.kubelet.run(load.pod, lives=lives, config_maps=load.config_maps))


def killed(lab: Lab, on: Stage, name: str, load: Load, kills: int) -> Run:
    """Run it until it has been killed so many times, and all is told of them."""
    run = start(on, load, kills)
    run.watch(DEATH_SECONDS * kills, kills)
    assert run.kills >= kills, f"{name}: {run.kills} kills in {DEATH_SECONDS * kills} s"
    wait_for_fates(on, [run], kills)
    lab.figures[f"{name}: killed after"] = ", ".join(f"{seconds:.0f} s" for seconds in run.seconds())
    return run


def wait_for_fates(on: Stage, runs: Collection[Run], kills: int = 1) -> None:
    on.kubelet.wait(
        lambda: all(len(run.settled()) >= kills for run in runs), LATE_SECONDS, "a kill or a fate is missing"
    )


def diagnosed(lab: Lab, name: str, run: Run, patterns: Collection[str]) -> Diagnosis:
    """What the agent says of the last kill."""
    keep(run, OUT / name)
    found: Diagnosis = run.settled()[-1]["diagnosis"]
    lab.figures[f"{name}: diagnosis"] = f"{found['pattern']}, confidence {found['confidence']}"
    lab.figures |= {f"{name}: advice {n}": advice["text"] for n, advice in enumerate(found["advice"], start=1)}
    assert found["pattern"] in patterns, f"{name}: {found['pattern']}: {found['reasons']}"
    return found


def applied(load: Load, diagnosis: Diagnosis) -> Load:
    """The pod with the advised limit and flag, as the commands would leave it."""
    pod = copy.deepcopy(load.pod)
    pod["metadata"] |= {"name": f"{pod['metadata']['name']}-cured", "uid": str(uuid4())}
    [target] = pod["spec"]["containers"]
    for advice in diagnosis["advice"]:
        match advice["action"]:
            case "set_limit" | "do_not_raise_limit":
                amount = {"memory": str(advice["limit_bytes"])}
                target["resources"] = {"limits": amount, "requests": amount}
            case "set_runtime_flag":
                target["command"][target["command"].index(advice["replaces"])] = advice["flag"]
            case _:
                pass
    assert pod["spec"] != load.pod["spec"], "nothing that could be applied was advised"
    return Load(pod, load.config_maps)


def cure(lab: Lab, on: Stage, name: str, load: Load, *patterns: str, kills: int = 1) -> list[Expected]:
    """Killed, advised, applied: no kill while it would have been killed again."""
    sick = killed(lab, on, name, load, kills)
    diagnosis = diagnosed(lab, name, sick, patterns)
    on.kubelet.delete(sick.worker)
    calm = max(CALM_SECONDS, 1.2 * max(sick.seconds()))
    cured = start(on, applied(load, diagnosis), lives=1)
    cured.watch(calm, 1)
    write_history(OUT / name / "cured.jsonl", cured.history())
    assert not cured.kills, f"{name}: killed after {cured.seconds()} s under what was advised"
    lab.figures[f"{name}: cured"] = f"no kill in {calm:.0f} s"
    return sick.expected()


def lasts(lab: Lab, on: Stage, name: str, load: Load) -> list[Expected]:
    """A leak: the higher limit, which is not advised, lasts as long as was told."""
    sick = killed(lab, on, name, load, 1)
    diagnosis = diagnosed(lab, name, sick, ["leak"])
    on.kubelet.delete(sick.worker)
    [told] = [advice["lasts_seconds"] for advice in diagnosis["advice"] if "lasts_seconds" in advice]
    raised = start(on, applied(load, diagnosis), lives=1)
    raised.watch(2 * told, 1)
    assert raised.kills, f"{name}: told to last {told:.0f} s, and lasts twice as long"
    wait_for_fates(on, [raised])
    [lasted] = raised.seconds()
    write_history(OUT / name / "raised.jsonl", raised.history())
    said = f"told {told:.0f} s, lasted {lasted:.0f} s: {lasted / told - 1:+.1%}"
    lab.figures[f"{name}: lasts"] = said
    assert abs(lasted / told - 1) <= LASTS_WITHIN, f"{name}: {said}"
    return [*sick.expected(), *raised.expected()]


def advice_50mi(lab: Lab) -> list[Expected]:
    with stage("advice-50mi") as on:
        return cure(lab, on, "advice-50mi", example("startup"), "startup", kills=3)


def advice_jvm(lab: Lab) -> list[Expected]:
    with stage("advice-jvm") as on:
        return cure(lab, on, "advice-jvm", example("jvm"), "limit_too_low", "startup", kills=2)


def advice_minutes(lab: Lab) -> list[Expected]:
    """Three at once, as their lives are long: what dies within ten minutes may have died of its start."""
    low = program("low", "report", "58", "12", "270", limit_mib=68)
    spike = program("spike", "report", "16", "80", "270", limit_mib=64)
    with stage("advice-minutes") as on, ThreadPoolExecutor() as pool:
        running = [
            pool.submit(cure, lab, on, "advice-limit", low, "limit_too_low"),
            pool.submit(cure, lab, on, "advice-spike", spike, "spike"),
            pool.submit(lasts, lab, on, "advice-leak", program("leak", "cache_leak", "75", limit_mib=64)),
        ]
        problems = [str(error) for each in running if (error := each.exception()) is not None]
        assert not problems, "; ".join(problems)
        return [item for each in running for item in each.result()]


def examples(lab: Lab) -> list[Expected]:
    """The pods of deploy/examples die, and their cured twins live."""
    return examples_at("examples", FASTER)


def walkthrough(lab: Lab) -> list[Expected]:
    """The same at their own pace, which takes 20 minutes: what is left in OUT is what docs/walkthrough.md shows."""
    return examples_at("walkthrough", {})


def examples_at(name: str, faster: Mapping[str, float]) -> list[Expected]:
    before = counters().vmstat
    with stage(name) as on:
        sick = {each: start(on, example(each, faster=faster.get(each, 1)), lives=2) for each in NAMES}
        watch_all(sick.values(), DEATH_SECONDS)
        alive = [each for each, run in sick.items() if not run.kills]
        assert not alive, f"not killed in {DEATH_SECONDS} s: {alive}"
        wait_for_fates(on, sick.values())
        for each, run in sick.items():
            keep(run, OUT / name / each)
            told = {document["container"]["name"] for document in run.settled()}
            assert told == {run.worker.role().name}, f"{each}: {told}"
        fates = {document["fate"] for document in sick["child"].settled()}
        assert fates == {"survived"}, f"child: {fates}"
        agent = on.agents[0]
        (OUT / name / "kills.txt").write_text(sh("oom-collector", "kills", "--state-dir", agent.state_dir))
        (OUT / name / "metrics.txt").write_text(agent.get("/metrics")[1])
        for run in sick.values():
            on.kubelet.delete(run.worker)
        kills = counters().vmstat - before  # a child may have been killed since we looked last
        on.kubelet.wait(
            lambda: sum(len(run.documents()) for run in sick.values()) == kills, LATE_SECONDS, f"not {kills} kills told"
        )
        expected = [item for run in sick.values() for item in run.expected()]
        cured = {each: start(on, example(f"cured/{each}", faster=faster.get(each, 1)), lives=1) for each in NAMES}
        watch_all(cured.values(), CALM_SECONDS)
        killed_again = [each for each, run in cured.items() if run.kills]
        assert not killed_again, f"cured, and killed: {killed_again}"
        return expected


def watch_all(runs: Collection[Run], seconds: float) -> None:
    """Sample them for so long, or until each has been killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not all(run.kills for run in runs):
        for run in runs:
            run.sample()
        time.sleep(SAMPLE_SECONDS)


def keep(run: Run, directory: Path) -> None:
    """What the outputs of its last kill are."""
    kill = run.settled()[-1]
    until = float(sample_of_kill(kill)["time"])
    write_history(directory / "history.jsonl", [row for row in run.history() if float(row["time"]) <= until])
    (directory / "kill.json").write_text(json.dumps(kill, indent=2))
    (directory / "events.json").write_text(json.dumps(run.on.api.pod_events(run.worker), indent=2))
    text = sh("oom-collector", "diagnose", str(directory / "history.jsonl"))
    (directory / "diagnosis.txt").write_text(text)
