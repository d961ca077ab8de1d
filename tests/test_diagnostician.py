"""From a document and what the agent has sampled to a diagnosis: whose memory is judged, and what is not forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from collector import diagnostician
from collector.cluster import Cluster
from collector.diagnosis.diagnose import judge_facts
from collector.diagnosis.model import Facts, Judgement, Life
from collector.diagnosis.rollout import RevisionSeen
from collector.diagnostician import Diagnostician
from collector.document import to_document
from collector.history import Bounds, History, Key, Sample
from collector.history import Life as Kept
from collector.late import Late, complete, to_json, workload_of
from collector.model import ContainerId, ContainerKind, Fate, MemcgPath, Names, NamesFrom, Owner, PodUid, Process
from collector.node_condition import NodeCondition
from collector.pods.index import Found, PodIndex
from collector.pods.record import parse_pod
from collector.prometheus_history import PrometheusHistory
from collector.rollouts import Rollouts
from collector.state.batch import Batch, Entry, Later, Retention
from collector.state.store import Store
from collector.witnesses import Witnesses
from tests import lines
from tests.test_classify import judge, memcg_kill

SCHEMA = json.loads(files("collector").joinpath("schema/kill-record.schema.json").read_text())
BOOT = "74ab0d27-9555-4c6f-b9b7-2f2ea5ef371e"
MIB = 1 << 20
UID = "0f9c1d2e-3b4a-4c5d-8e6f-000000000001"
BEFORE_ID = "abad1dea" * 8
SIDECAR_ID = "51deca12" * 8

NAMES = Names(
    source=NamesFrom.API,
    namespace="shop",
    pod="cart-7d9f8-x2x7p",
    owner=Owner(kind="Deployment", name="cart"),
    revision="7d9f8",
    container="cart",
    kind=ContainerKind.APP,
    limit_bytes=48 * MIB,
    lone=True,
)


def pod(*containers: tuple[str, str], before: str | None = None) -> dict[str, Any]:
    """containers: name and id; before: id of the first one's former instance."""
    last = {"terminated": {"containerID": f"containerd://{before}", "exitCode": 137}} if before else {}
    return {
        "metadata": {"name": "cart-7d9f8-x2x7p", "namespace": "shop", "uid": UID},
        "spec": {"containers": [{"name": name} for name, _ in containers]},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": name, "containerID": f"containerd://{id_}", "lastState": last if not index else {}}
                for index, (name, id_) in enumerate(containers)
            ],
        },
    }


class Seen:
    """Stands for Witnesses."""

    def __init__(self) -> None:
        self.history = History(boot_id=BOOT)
        self.hints: tuple[str, ...] | None = None
        self.began: set[int] = set()

    def hints_of(self, victim: Process, *, at: float) -> tuple[str, ...] | None:
        return self.hints

    def memcg_of(self, pid: int, comm: str, *, at: float) -> MemcgPath | None:
        return None

    def allocatable_bytes(self) -> int | None:
        return None

    def saw_begin(self, life: Kept) -> bool:
        return id(life) in self.began


class Known:
    """Stands for Cluster."""

    def __init__(self) -> None:
        self.index = PodIndex()

    def find(self, uid: PodUid | None, container_id: ContainerId | None) -> Found | None:
        return self.index.find(uid, container_id)

    def names(self, uid: PodUid | None, container_id: ContainerId | None) -> Names | None:
        return self.index.names(uid, container_id)

    def known(self) -> list[Any]:
        return list(self.index.known())


class World:
    """A kill was a minute ago."""

    def __init__(self, directory: Path) -> None:
        self.seen, self.known = Seen(), Known()
        self.store = Store(directory, boot_id=BOOT, retention=Retention(), at=datetime.now(UTC))
        self.at = time.monotonic() - 60
        self.condition = NodeCondition(None, None)
        self.made = self.diagnostician()
        self.judged: list[Facts] = []

    def diagnostician(self, elsewhere: PrometheusHistory | None = None) -> Diagnostician:
        cluster = cast("Cluster", self.known)
        return Diagnostician(
            cast("Witnesses", self.seen),
            cluster,
            self.store,
            Rollouts(cluster, self.store),
            elsewhere,
            condition=self.condition,
            boot_id=BOOT,
            factor=1.25,
            sample_interval=10.0,
        )

    def sampled(
        self,
        path: str,
        sizes: dict[float, int],
        *,
        inode: int = 1,
        limit: int | None = 48 * MIB,
        saw_begin: bool = True,
    ) -> None:
        """sizes: by the seconds before the kill."""
        key = Key(MemcgPath(path), inode)
        for before, size in sizes.items():
            sample = Sample(size, size, size, 0, 0, 0, 0)
            bounds = Bounds(limit=limit, peak=None, stall_seconds=None)
            self.seen.history.add(key, sample, at=self.at - before, bounds=bounds)
        life = self.seen.history.get(key)
        if saw_begin:
            self.seen.began.add(id(life))

    def killed(self, *texts: str, **changes: Any) -> dict[str, Any]:
        document = to_document(replace(judge(*(texts or lines.report())), boot_id=BOOT))
        return {**json.loads(json.dumps(document)), **changes}

    def diagnose(self, document: dict[str, Any], late: Late | None = None) -> dict[str, Any]:
        late = late or Late(names=NAMES)
        unix = time.time() - (time.monotonic() - self.at)
        found = self.made.diagnose(complete(document, late), late, unix)
        assert found is not None
        jsonschema.validate(complete(document, replace(late, diagnosis=found)), SCHEMA)
        return found

    @property
    def lives(self) -> tuple[Life, ...]:
        """Of the history that was judged last."""
        history = self.judged[-1].history
        return history.lives if history else ()

    def was_killed(self, before: float, *, revision: str = "7d9f8") -> None:
        """Another kill of the same container, in the journal."""
        killed_at = datetime.fromtimestamp(time.time() - (time.monotonic() - self.at) - before, UTC)
        kill = replace(judge(*lines.report(pid=int(before))), id=f"k{before}", time=killed_at, boot_id=BOOT)
        late = Late(names=replace(NAMES, revision=revision))
        entry = Entry(incident=kill, document=json.dumps(to_document(kill)), counts=True)
        later = Later(
            id=kill.id,
            late=to_json(late),
            named=True,
            event_key=None,
            release=(),
            closed=True,
            workload=workload_of(late),
        )
        self.store.apply(Batch(at=killed_at, entries=[entry]))
        self.store.apply(Batch(at=killed_at, later=[later]))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)

    def note(facts: Facts) -> Judgement:
        made.judged.append(facts)
        return judge_facts(facts)

    monkeypatch.setattr(diagnostician, "judge_facts", note)
    yield made
    made.store.close()


RISING: dict[float, int] = {3600.0 - 10 * n: (10 + n // 10) * MIB for n in range(360)}
STEADY: dict[float, int] = {3600.0 - 10 * n: 10 * MIB for n in range(360)}


def test_the_containers_own_life_is_judged_up_to_what_the_report_says(world: World) -> None:
    world.sampled(lines.CONTAINER, RISING | {-5.0: 1 * MIB, -15.0: 2 * MIB})
    world.sampled(lines.POD, STEADY, inode=9)
    found = world.diagnose(world.killed())
    assert found["pattern"] == "leak"
    assert 34 * MIB < found["growth_bytes_per_hour"] < 38 * MIB
    (life,) = world.lives
    assert (life.started, life.killed) == (True, True)
    assert (life.points[-1].working_set, life.points[-1].limit, life.points[-1].anon) == (48 * MIB, 48 * MIB, 41914368)
    assert life.points[-1].time == pytest.approx(world.at, abs=0.01)
    assert life.points[-2].working_set == 45 * MIB


def test_the_kills_time_is_this_machines_not_that_of_printk(world: World) -> None:
    """After weeks they are minutes apart."""
    world.sampled(lines.CONTAINER, RISING)
    assert world.diagnose(world.killed(monotonic_seconds=world.at - 1800))["pattern"] == "leak"


def test_a_kill_that_counters_alone_tell_ends_at_the_limit(world: World) -> None:
    world.sampled(lines.CONTAINER, RISING)
    document = world.killed(monotonic_seconds=None, evidence=["memory_events"])
    document["memory"] |= {"usage_bytes": 1 * MIB}
    assert world.diagnose(document)["pattern"] == "leak"
    assert world.lives[-1].points[-1].working_set == 48 * MIB


def test_the_working_set_is_what_the_kubelet_calls_it(world: World) -> None:
    world.sampled(lines.CONTAINER, STEADY)
    document = world.killed()
    document["memory"]["stat"] |= {"inactive_file": 3 * MIB}
    world.diagnose(document)
    assert world.lives[-1].points[-1].working_set == 45 * MIB


def test_a_life_shorter_than_the_sampling_interval(world: World) -> None:
    world.sampled(lines.CONTAINER, {4.0: 0})
    found = world.diagnose(world.killed())
    assert found["pattern"] == "startup"
    assert found["advice"][0]["action"] == "set_limit"


def test_the_first_sample_may_come_a_moment_after_the_kill(world: World) -> None:
    world.sampled(lines.CONTAINER, {-0.2: 0})
    world.diagnose(world.killed())
    times = [point.time for point in world.lives[-1].points]
    assert times == sorted(times)


def test_a_container_that_outlived_a_kill_was_not_killed_at_its_start(world: World) -> None:
    world.sampled(lines.CONTAINER, {180.0 - 10 * n: 2 * MIB for n in range(18)})
    assert world.diagnose(world.killed())["pattern"] == "startup"
    world.was_killed(60)
    assert world.diagnose(world.killed(id="another"))["pattern"] == "spike"


def test_a_life_that_was_there_before_the_agent_may_be_older(world: World) -> None:
    world.sampled(lines.CONTAINER, {40.0 - 10 * n: n * MIB for n in range(4)}, saw_begin=False)
    assert world.diagnose(world.killed())["pattern"] != "startup"


def test_former_instances_of_the_same_container_are_looked_at(world: World) -> None:
    """And no other container of the pod; which of them were killed, the journal knows."""
    world.known.index.put(parse_pod(pod(("cart", lines.CONTAINER_ID), ("proxy", SIDECAR_ID), before=BEFORE_ID)), 0.0)
    world.sampled(f"{lines.POD}/cri-containerd-{BEFORE_ID}.scope", {100.0: 0, 90.0: 5 * MIB})
    world.sampled(f"{lines.POD}/cri-containerd-{SIDECAR_ID}.scope", {99.0: 0, 89.0: 5 * MIB}, inode=2)
    world.sampled(lines.CONTAINER, {20.0: 0, 10.0: 5 * MIB}, inode=3)
    world.was_killed(85.0)
    found = world.diagnose(world.killed())
    assert [(life.killed, len(life.points)) for life in world.lives] == [(True, 2), (True, 3)]
    assert found["pattern"] == "startup"
    assert found["confidence"] > 0.9


def test_a_restart_that_was_no_kill_is_none(world: World) -> None:
    world.known.index.put(parse_pod(pod(("cart", lines.CONTAINER_ID), before=BEFORE_ID)), 0.0)
    world.sampled(f"{lines.POD}/cri-containerd-{BEFORE_ID}.scope", {100.0: 0, 90.0: 5 * MIB})
    world.sampled(lines.CONTAINER, {20.0: 0, 10.0: 5 * MIB}, inode=3)
    world.was_killed(3600.0)
    world.diagnose(world.killed())
    assert [life.killed for life in world.lives] == [False, True]


def test_a_cgroup_made_anew_under_its_path_is_another_life(world: World) -> None:
    world.sampled(lines.CONTAINER, {20.0: 7 * MIB, 10.0: 8 * MIB}, inode=2)
    world.sampled(lines.CONTAINER, {3000.0: 1 * MIB, 2990.0: 2 * MIB}, inode=1)
    world.sampled(lines.CONTAINER, {-20.0: 3 * MIB}, inode=3)  # after the kill
    world.diagnose(world.killed())
    assert [life.points[0].working_set for life in world.lives] == [1 * MIB, 7 * MIB]


@pytest.mark.parametrize(("lone", "judged"), [pytest.param(True, 10 * MIB, id="alone"), (False, 20 * MIB)])
def test_at_a_pods_limit_the_pod_is_judged_unless_it_is_its_one_containers(
    world: World, lone: bool, judged: int
) -> None:
    world.sampled(lines.CONTAINER, STEADY)
    world.sampled(lines.POD, {before: 2 * size for before, size in STEADY.items()}, inode=2)
    document = world.killed(*memcg_kill(lines.POD))
    world.diagnose(document, Late(names=replace(NAMES, lone=lone)))
    (life,) = world.lives
    assert life.points[0].working_set == judged


@pytest.mark.parametrize("cause", ["nested_limit", "manual", "unknown", "system_limit"])
def test_a_history_that_does_not_explain_the_kill_is_not_judged(world: World, cause: str) -> None:
    world.sampled(lines.CONTAINER, STEADY)
    found = world.diagnose(world.killed(cause=cause))
    assert found["pattern"] == "unknown"


def test_a_neighbour_that_ended_long_before_holds_nothing(world: World) -> None:
    world.known.index.put(parse_pod(pod(("cart", lines.CONTAINER_ID), ("proxy", SIDECAR_ID))), 0.0)
    world.sampled(lines.POD, STEADY, inode=2)
    late = Late(names=replace(NAMES, lone=False))
    document = world.killed(*memcg_kill(lines.POD))
    document["memory"] = {"usage_bytes": 48 * MIB, "limit_bytes": 48 * MIB, "stat": {}}
    world.sampled(f"{lines.POD}/cri-containerd-{SIDECAR_ID}.scope", {300.0: 40 * MIB}, inode=3)
    assert "neighbour" not in kinds(world.diagnose(document, late))
    world.sampled(f"{lines.POD}/cri-containerd-{SIDECAR_ID}.scope", {9.0: 40 * MIB}, inode=3)
    world.made = world.diagnostician()
    assert "neighbour" in kinds(world.diagnose(document, late))


def test_neighbours_are_those_of_the_first_look(world: World) -> None:
    """By the time of the fate they may have another cgroup, of which nothing was sampled at the kill."""
    world.known.index.put(parse_pod(pod(("cart", lines.CONTAINER_ID), ("proxy", SIDECAR_ID))), 0.0)
    world.sampled(lines.POD, STEADY, inode=2)
    world.sampled(f"{lines.POD}/cri-containerd-{SIDECAR_ID}.scope", {9.0: 40 * MIB}, inode=3)
    document = world.killed(*memcg_kill(lines.POD))
    document["memory"] = {"usage_bytes": 48 * MIB, "limit_bytes": 48 * MIB, "stat": {}}
    late = Late(names=replace(NAMES, lone=False))
    first = world.diagnose(document, late)
    world.known.index.put(parse_pod(pod(("cart", lines.CONTAINER_ID), ("proxy", "ab" * 32))), 1.0)
    assert "neighbour" in kinds(world.diagnose(document, replace(late, fate=Fate.RESTARTED, diagnosis=first)))


def kinds(found: dict[str, Any]) -> set[str]:
    return {finding["kind"] for finding in found["findings"]}


def test_a_fate_makes_it_new(world: World) -> None:
    world.sampled(lines.CONTAINER, RISING)
    world.was_killed(700.0)
    world.was_killed(1400.0)
    document = world.killed()
    first = world.diagnose(document)
    assert "crash_loop" not in kinds(first)
    late = Late(names=NAMES, fate=Fate.RESTART_PENDING, restart_count=3, diagnosis=first)
    assert "crash_loop" in kinds(world.diagnose(document, late))


def test_what_witnesses_have_forgotten_since_is_not_lost(world: World) -> None:
    """The process index forgets after a minute, the history after ten; names may come after an hour."""
    world.sampled(lines.CONTAINER, RISING)
    world.seen.hints = ("runtime=java", "-Xmx46m")
    document = world.killed(victim={**world.killed()["victim"], "anon_rss_bytes": 40 * MIB})
    first = world.diagnose(document, Late())
    assert {first["pattern"], *kinds(first)} >= {"leak", "jvm_heap"}
    assert first["advice"][0].get("container") is None
    world.seen.hints, world.seen.history = None, History(boot_id=BOOT)
    named = world.diagnose(document, Late(names=NAMES, diagnosis=first))
    assert {named["pattern"], *kinds(named)} >= {"leak", "jvm_heap"}
    assert named["advice"][0]["workload"] == "Deployment/cart"
    assert named["growth_bytes_per_hour"] == first["growth_bytes_per_hour"]
    # Not even over a restart of the agent; then nothing is added either.
    world.made = world.diagnostician()
    assert world.diagnose(document, Late(names=NAMES, fate=Fate.RESTARTED, diagnosis=named)) == named


def test_without_any_witness_a_fate_still_counts(world: World) -> None:
    document = world.killed()
    first = world.diagnose(document)
    assert first["pattern"] == "unknown"
    world.was_killed(700.0)
    world.was_killed(1400.0)
    late = Late(names=NAMES, fate=Fate.RESTART_PENDING, restart_count=3, diagnosis=first)
    world.made = world.diagnostician()
    assert "crash_loop" in kinds(world.diagnose(document, late))


def test_a_kill_of_another_boot_knows_nothing_of_this_one(world: World) -> None:
    world.sampled(lines.CONTAINER, RISING)
    assert world.diagnose(world.killed(boot_id="another"))["pattern"] == "unknown"


def test_no_failure_gets_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    document, former = world.killed(), {"pattern": "leak"}
    cast("Any", world.seen).hints_of = None
    assert world.made.diagnose(document, Late(diagnosis=former), time.time()) == former
    assert "gets no diagnosis" in caplog.text


def test_memory_of_it_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostician, "MAX_SEEN", 3)
    for number in range(9):
        world.diagnose(world.killed(id=f"k{number}"))
    assert len(world.made._seen) == 3


def test_a_diagnosis_is_cheap(world: World) -> None:
    """Once a second is the worst that a storm does for long: 20 ms is what is allowed, this machine may be busy."""
    world.sampled(lines.CONTAINER, {86400.0 - 10 * n: (10 + n % 7) * MIB for n in range(8640)})
    document = world.killed()
    spent = []
    for number in range(5):
        began = time.thread_time()
        world.diagnose({**document, "id": str(number)})
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.06


def test_the_kill_itself_counts_among_those_of_its_revision(world: World) -> None:
    late = Late(names=replace(NAMES, revision="7d9f8"))
    workload = workload_of(late)
    assert workload is not None
    now = time.time()
    seen = [
        RevisionSeen(workload, revision, None, now - age, now, age, 0.0)
        for revision, age in (("7d9f8", 9e3), ("5c2", 9e4))
    ]
    world.store.apply(Batch(at=datetime.now(UTC), revisions=seen))
    world.sampled(lines.CONTAINER, STEADY)
    world.was_killed(60)
    world.diagnose(world.killed(), late)
    assert [(one.revision, one.kills) for one in world.judged[-1].revisions] == [("5c2", 0), ("7d9f8", 2)]
