"""What follows a kill: a real journal and a real pipe; names and fates come from a stand-in for the cluster."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from collector.announce import announcer
from collector.announce.announcer import Announcer
from collector.document import to_document
from collector.late import Late
from collector.model import ContainerId, ContainerKind, Fate, Incident, Names, NamesFrom, PodUid
from collector.pods.fate import Judged, Kill
from collector.state.batch import KILLS, NOBODY, Batch, ContainerName, Entry, KillSeries, Retention
from collector.state.store import Store, read_documents
from collector.text import to_line
from tests import lines
from tests.test_classify import judge

NOW = datetime.now(UTC)
LINKED = Names(source=NamesFrom.LOG_LINKS, namespace="shop", pod="cart-0", container="cart")
NAMED = replace(LINKED, source=NamesFrom.API, kind=ContainerKind.APP, event_uid="u")


class Registry:
    """Tells what it is told to."""

    def __init__(self, *, has_api: bool = True) -> None:
        self.has_api = has_api
        self.is_behind = False
        self.known: Names | None = None
        self.judged: Judged | None = None
        self.asked: list[Kill] = []

    def names(self, pod_uid: PodUid | None, container_id: ContainerId | None) -> Names | None:
        return self.known

    def fate(self, kill: Kill) -> Judged | None:
        self.asked.append(kill)
        return self.judged


class Diagnosis:
    """Tells what it is told to, of documents as they were given."""

    def __init__(self) -> None:
        self.ready = True
        self.asked: list[tuple[Names | None, float | None]] = []
        self.told: dict[str, Any] | None = None
        self.documents: list[dict[str, Any]] = []

    def is_ready(self, names: Names | None, node_pressure_at: float | None) -> bool:
        self.asked.append((names, node_pressure_at))
        return self.ready

    def diagnose(self, document: dict[str, Any], late: Late, killed_at: float) -> dict[str, Any] | None:
        self.documents.append(document)
        return self.told


class World:
    def __init__(self, directory: Path, registry: Registry, stdout: int, reading: int, **changes: Any) -> None:
        self.directory = directory
        self.store = Store(directory, boot_id="b", retention=Retention(), at=NOW)
        self.released = 0
        self.reading = reading
        self.diagnosis = Diagnosis()
        self.announcer = Announcer(
            self.store,
            registry,
            self.diagnosis,
            stdout=stdout,
            outlets=lambda document: ("webhook",),
            on_released=self._count,
            max_age=changes.get("max_age", 3600.0),
        )

    def _count(self) -> None:
        self.released += 1

    def kill(self, *texts: str, identity: str = "a", counts: bool = True, **changes: Any) -> None:
        incident = replace(judge(*(texts or lines.report())), id=identity, time=datetime.now(UTC), **changes)
        self.store.apply(Batch(at=NOW, entries=[entry(incident, counts=counts)]))
        self.announcer.look([identity])

    @property
    def printed(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in os.read(self.reading, 1 << 16).splitlines()]
        except BlockingIOError:
            return []

    @property
    def document(self) -> dict[str, Any]:
        (document,) = read_documents(self.directory)
        return document

    @property
    def counted(self) -> dict[ContainerName, int]:
        return {series.container: count.kills for series, count in self.store.container_kills.items()}

    @property
    def mailed(self) -> list[tuple[str, ...]]:
        return [mail.ids for mail in self.store.mail("webhook", 9, by_event=False, named=False)]


def entry(incident: Incident, *, counts: bool = True) -> Entry:
    return Entry(incident=incident, document=to_line(to_document(incident)), counts=counts)


@contextmanager
def world(directory: Path, registry: Registry, **changes: Any) -> Iterator[World]:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    made = World(directory, registry, writing, reading, **changes)
    try:
        yield made
    finally:
        made.store.close()
        os.close(reading)
        os.close(writing)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, seconds in {
        "NAMES_SECONDS": 0.3,
        "FATE_SECONDS": 0.6,
        "TICK_SECONDS": 0.02,
        "SLOW_TICK_SECONDS": 0.02,
    }.items():
        monkeypatch.setattr(announcer, name, seconds)
    return Registry()


@pytest.mark.parametrize("has_api", [True, False])
async def test_a_kill_waits_for_what_others_know_of_its_workload(
    tmp_path: Path, registry: Registry, has_api: bool
) -> None:
    """But not for long."""
    registry.has_api, registry.known = has_api, NAMED if has_api else LINKED
    with world(tmp_path, registry) as made:
        made.diagnosis.ready = False
        made.kill()
        await asyncio.sleep(0.1)
        assert made.printed == []
        made.diagnosis.ready = True
        await asyncio.sleep(0.1)
        assert len(made.printed) == 1
        made.diagnosis.ready = False
        made.kill(identity="b")
        await asyncio.sleep(0.2)
        assert made.printed == []
        await asyncio.sleep(0.2)
        assert len(made.printed) == 1


GLOBAL = (
    lines.summary(oom_memcg=None, task_memcg=lines.CONTAINER, constraint="CONSTRAINT_NONE"),
    lines.kill(prefix="Out of memory: "),
)
OF_THE_HOST = (lines.summary(oom_memcg=None, task_memcg="/system.slice/a.service"), lines.kill())


@pytest.mark.parametrize("has_api", [True, False])
@pytest.mark.parametrize("texts", [GLOBAL, OF_THE_HOST], ids=["in a pod", "of the host"])
async def test_a_kill_under_node_pressure_waits_for_what_the_node_reported(
    texts: tuple[str, ...], has_api: bool, tmp_path: Path, registry: Registry
) -> None:
    """But not for long, and whether or not it has names."""
    registry.has_api, registry.known = has_api, NAMED if texts is GLOBAL and has_api else None
    with world(tmp_path, registry) as made:
        made.diagnosis.ready = False
        made.kill(*texts)
        await asyncio.sleep(0.1)
        assert made.printed == []
        made.diagnosis.ready = True
        await asyncio.sleep(0.1)
        assert len(made.printed) == 1
        at = datetime.fromisoformat(made.document["time"]).timestamp()
        names, asked = made.diagnosis.asked[-1]
        assert (names, asked) == (registry.known, at)
        made.diagnosis.ready = False
        made.kill(*texts, identity="b")
        await asyncio.sleep(0.2)
        assert made.printed == []
        await asyncio.sleep(0.2)
        assert len(made.printed) == 1


async def test_the_node_is_asked_while_names_are_waited_for(tmp_path: Path, registry: Registry) -> None:
    with world(tmp_path, registry) as made:
        made.kill(*GLOBAL)
        await asyncio.sleep(0.1)
        assert made.printed == []
        assert {names for names, _ in made.diagnosis.asked} == {None}
        registry.known = NAMED
        await asyncio.sleep(0.1)
        assert len(made.printed) == 1
        assert made.diagnosis.asked[-1][0] is NAMED


@pytest.mark.parametrize(
    "texts",
    [
        lines.report(),
        (lines.summary(task_memcg="/a", oom_memcg="/a"), lines.kill()),
        (lines.summary(oom_memcg="/kubepods.slice/kubepods-burstable.slice"), lines.kill()),
    ],
    ids=["pod", "host", "QoS class"],
)
async def test_nothing_is_asked_of_the_node_for_another_kill(
    texts: tuple[str, ...], tmp_path: Path, registry: Registry
) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill(*texts)
        await asyncio.sleep(0.05)
        assert len(made.printed) == 1
        assert all(asked is None for _, asked in made.diagnosis.asked)


async def test_names_that_are_known_go_out_with_the_kill(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.05)
        (told,) = made.printed
        assert (told["pod"]["name"], told["fate"], told["attribution"]["names_from"]) == ("cart-0", None, "api")
        assert made.mailed == [("a",)]
        assert made.released


async def test_names_are_waited_for_but_not_for_ever_and_then_still_taken(tmp_path: Path, registry: Registry) -> None:
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.1)
        assert (made.printed, made.mailed) == ([], [])
        await asyncio.sleep(0.4)
        (told,) = made.printed
        assert told["pod"]["name"] is None
        assert made.mailed == [("a",)]
        registry.known, registry.judged = NAMED, Judged(fate=Fate.RESTARTED, restart_count=2)
        await asyncio.sleep(0.1)
        assert (made.document["pod"]["name"], made.document["container"]["name"]) == ("cart-0", "cart")
        assert made.printed == []
        assert made.mailed == [("a",)]


async def test_a_kill_is_diagnosed_with_its_names_when_it_is_told_and_anew_with_what_comes_later(
    tmp_path: Path, registry: Registry
) -> None:
    with world(tmp_path, registry) as made:
        made.diagnosis.told = {"pattern": "leak"}
        made.kill()
        await asyncio.sleep(0.1)
        assert made.diagnosis.documents == []  # names are waited for
        registry.known = NAMED
        await asyncio.sleep(0.1)
        (told,) = made.printed
        assert told["diagnosis"] == {"pattern": "leak"}
        assert [document["pod"]["name"] for document in made.diagnosis.documents] == ["cart-0"]
        registry.judged = Judged(fate=Fate.RESTARTED, restart_count=2)
        made.diagnosis.told = {"pattern": "startup"}
        await asyncio.sleep(0.1)
        assert made.document["diagnosis"] == {"pattern": "startup"}
        assert [document["fate"] for document in made.diagnosis.documents] == [None, "restarted"]
        await asyncio.sleep(0.2)
        assert len(made.diagnosis.documents) == 2  # nothing new, nothing done


async def test_a_better_document_is_diagnosed_anew(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill(lines.kill())
        await asyncio.sleep(0.05)
        made.kill()
        await asyncio.sleep(0.05)
        assert [document["memory"] is None for document in made.diagnosis.documents] == [True, False]


async def test_a_kill_without_a_diagnosis_is_told_all_the_same(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.05)
        assert "diagnosis" not in made.printed[0]
        assert made.mailed == [("a",)]


async def test_the_log_folders_serve_until_the_api_answers(tmp_path: Path, registry: Registry) -> None:
    registry.known = LINKED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.5)
        (told,) = made.printed
        assert told["attribution"]["names_from"] == "log_links"
        registry.known = NAMED
        await asyncio.sleep(0.1)
        assert made.document["attribution"]["names_from"] == "api"
        registry.known = LINKED  # the pod is gone from the API: what it said stands
        await asyncio.sleep(0.1)
        assert made.document["attribution"]["names_from"] == "api"


async def test_an_event_waits_for_better_names_while_the_api_is_down(tmp_path: Path, registry: Registry) -> None:
    """It cannot be sent anyway, and the log folders do not tell what kind of container it was."""
    registry.known, registry.is_behind = LINKED, True
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.5)
        assert len(made.printed) == 1
        assert made.store.mail("webhook", 9, by_event=False, named=True) == []
        registry.is_behind = False  # and it does not know this pod
        await asyncio.sleep(0.1)
        assert len(made.store.mail("webhook", 9, by_event=False, named=True)) == 1


async def test_a_fate_that_comes_after_an_outage_is_taken(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.9)
        assert made.document["fate"] == "unknown"
        registry.judged = Judged(fate=Fate.RESTARTED, contradiction="x says y")
        await asyncio.sleep(0.1)
        assert (made.document["fate"], made.document["contradictions"]) == ("restarted", ["x says y"])
        assert made.store.pending() == []


async def test_without_an_api_nobody_waits(tmp_path: Path, registry: Registry) -> None:
    registry.has_api = False
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.05)
        assert len(made.printed) == 1


async def test_a_host_process_has_no_names_and_no_fate(tmp_path: Path, registry: Registry) -> None:
    registry.known, registry.judged = NAMED, Judged(fate=Fate.GONE)
    with world(tmp_path, registry) as made:
        made.kill(*OF_THE_HOST)
        await asyncio.sleep(0.05)
        assert len(made.printed) == 1
        assert made.store.pending() == []
        assert made.document["fate"] is None
        assert registry.asked == []


async def test_the_fate_is_added_and_moves_no_counter(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.05)
        before = dict(made.store.counters)
        assert made.store.pending() == ["a"]
        registry.judged = Judged(fate=Fate.SURVIVED, contradiction="x says y")
        await asyncio.sleep(0.1)
        assert (made.document["fate"], made.document["contradictions"]) == ("survived", ["x says y"])
        assert made.store.pending() == []
        kills = {key: value for key, value in made.store.counters.items() if key[0] == KILLS}
        assert kills == {key: value for key, value in before.items() if key[0] == KILLS}
        assert registry.asked[-1].container_name == "cart"
        assert len(made.printed) == 1


async def test_a_fate_that_nobody_knows_in_time_is_unknown(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.9)
        assert made.document["fate"] == "unknown"


async def test_the_next_process_goes_on_where_this_one_ended(tmp_path: Path, registry: Registry) -> None:
    with world(tmp_path, registry) as made:
        made.kill()
        await made.announcer.stop()
        assert made.printed == []
    registry.known, registry.judged = NAMED, Judged(fate=Fate.RESTARTED)
    with world(tmp_path, registry) as made:
        made.announcer.look()
        await asyncio.sleep(0.1)
        assert [told["pod"]["name"] for told in made.printed] == ["cart-0"]
        assert made.document["fate"] == "restarted"
    with world(tmp_path, registry) as made:
        made.announcer.look()
        await asyncio.sleep(0.1)
        assert made.printed == []
        assert made.mailed == [("a",)]


async def test_what_was_old_at_the_first_start_is_told_nobody(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill(counts=False)
        await asyncio.sleep(0.1)
        assert (made.printed, made.mailed, made.store.pending()) == ([], [], [])


async def test_an_old_kill_gets_no_names_any_more(tmp_path: Path, registry: Registry) -> None:
    with world(tmp_path, registry, max_age=0.0) as made:
        made.kill()
        await asyncio.sleep(0.9)
        assert made.store.pending() == []


async def test_a_late_line_that_names_the_pod_is_told_again_with_its_names(tmp_path: Path, registry: Registry) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        made.kill(*lines.report()[-1:])
        await asyncio.sleep(0.05)
        made.kill()
        await asyncio.sleep(0.05)
        first, second = made.printed
        assert (first["pod"], second["pod"]["name"]) == (None, "cart-0")
        assert made.mailed == [("a",)]


async def test_more_cases_than_are_kept_are_told_as_they_are(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer, "MAX_CASES", 2)
    monkeypatch.setattr(announcer, "NAMES_SECONDS", 60.0)
    with world(tmp_path, registry) as made:
        for number in range(5):
            made.kill(identity=str(number))
        await asyncio.sleep(0.1)
        assert [told["id"] for told in made.printed] == ["0", "1", "2"]
        assert made.store.pending() == ["3", "4"]


@pytest.mark.parametrize("document", ["{", "[]", '{"pod":{}}'])
async def test_a_damaged_row_ends_nothing(
    document: str, tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.known = NAMED
    with world(tmp_path, registry) as made:
        bad = replace(judge(*lines.report()), id="bad", time=NOW - timedelta(seconds=1))
        made.store.apply(Batch(at=NOW, entries=[Entry(incident=bad, document=document)]))
        made.announcer.look(["bad"])
        made.kill()
        await asyncio.sleep(0.1)
        assert "incident bad is damaged" in caplog.text
        assert b'"id":"a"' in os.read(made.reading, 1 << 16)


# Counted by container

CART = ContainerName("shop", "cart-0", "cart")


async def test_a_kill_is_counted_for_its_container_once_when_its_name_is_whole(
    tmp_path: Path, registry: Registry
) -> None:
    registry.known = replace(NAMED, container=None)
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.4)
        assert made.mailed == [("a",)]
        assert made.counted == {}
        registry.known = NAMED
        await asyncio.sleep(0.05)
        assert made.store.container_kills.keys() == {KillSeries(CART, "container_limit")}
        registry.known, registry.judged = replace(NAMED, container="web"), Judged(fate=Fate.RESTARTED)
        made.kill()
        await asyncio.sleep(0.1)
        assert made.counted == {CART: 1}
    with world(tmp_path, registry) as made:
        made.announcer.look()
        await asyncio.sleep(0.1)
        assert made.counted == {CART: 1}


async def test_the_names_of_the_log_folders_are_the_same_and_nobody_waits_for_the_api(
    tmp_path: Path, registry: Registry
) -> None:
    registry.is_behind, registry.known = True, LINKED
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.05)
        assert made.counted == {CART: 1}


@pytest.mark.parametrize(
    ("has_api", "names", "expected"),
    [
        pytest.param(True, replace(NAMED, container=None), CART._replace(container=""), id="the pod alone is known"),
        pytest.param(False, None, NOBODY, id="there is nobody to ask"),
        pytest.param(True, None, None, id="an API that is down may still tell"),
    ],
)
async def test_what_is_not_whole_in_a_minute_is_counted_as_it_is(
    has_api: bool, names: Names | None, expected: ContainerName | None, tmp_path: Path, registry: Registry
) -> None:
    registry.has_api, registry.known = has_api, names
    registry.judged = Judged(fate=Fate.RESTARTED) if names else None
    with world(tmp_path, registry) as made:
        made.kill()
        await asyncio.sleep(0.4)
        if registry.judged is None:
            assert made.counted == {}
        await asyncio.sleep(0.5)
        assert made.counted == ({} if expected is None else {expected: 1})


async def test_what_is_never_named_is_counted_as_nobodys_in_the_end(tmp_path: Path, registry: Registry) -> None:
    with world(tmp_path, registry, max_age=0.8) as made:
        made.kill()
        await asyncio.sleep(0.6)
        assert made.counted == {}
        await asyncio.sleep(0.5)
        assert made.counted == {NOBODY: 1}


@pytest.mark.parametrize(
    ("task_memcg", "expected"),
    [
        pytest.param("/system.slice/sshd.service", {}, id="a process of the host"),
        pytest.param(f"/docker/{'ab' * 32}", {NOBODY: 1}, id="a container that Kubernetes does not know"),
    ],
)
async def test_who_is_in_no_pod(
    task_memcg: str, expected: dict[ContainerName, int], tmp_path: Path, registry: Registry
) -> None:
    with world(tmp_path, registry) as made:
        made.kill(lines.summary(oom_memcg=task_memcg, task_memcg=task_memcg), lines.kill())
        await asyncio.sleep(0.1)
        assert made.counted == expected
