"""The journal and the store on real files; what a disk can do to them is done to them."""

from __future__ import annotations

import json
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collector.diagnosis.rollout import RevisionSeen
from collector.errors import CollectorError
from collector.ledger import Baseline
from collector.model import Attribution, AttributionMethod, Cause, Evidence, Incident, MemcgPath, Process, Verdict
from collector.reconcile import FromCounters, Told
from collector.state.batch import (
    DELIVERIES,
    EVICTIONS,
    KILLS,
    LOST,
    PROCESSES,
    UNATTRIBUTED,
    Batch,
    Entry,
    Later,
    Mail,
    Position,
    Retention,
)
from collector.state.schema import SCHEMA_VERSION, VERSIONS
from collector.state.store import FILE_NAME, Store, read_documents
from tests.reports import incident, report

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOT = "74ab0d27-9555-4c6f-b9b7-2f2ea5ef371e"
AT = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
NODE_KILL = (KILLS, "node")


def kill(identity: str, *, settled: bool = True, members: int = 0, evidence: int = 2, **changes: Any) -> Incident:
    witnesses = (Evidence.REPORT, Evidence.SUMMARY_LINE, Evidence.KILL_LINE)[:evidence]
    killed = report(settled=settled, also_killed=tuple(Process(pid=n, comm="m") for n in range(members)))
    verdict = Verdict(cause=Cause.NODE, node_pressure=True, reason="", evidence=witnesses)
    known = Attribution(method=AttributionMethod.TASK_MEMCG)
    return incident(killed, **{"id": identity, "boot_id": BOOT, "verdict": verdict, "attribution": known, **changes})


def entry(identity: str, *, counts: bool = True, live: bool = True, document: str = "{}", **changes: Any) -> Entry:
    return Entry(incident=kill(identity, **changes), counts=counts, live=live, document=document)


def batch(*entries: Entry, at: datetime = AT, **changes: Any) -> Batch:
    return Batch(at=at, entries=entries, **changes)


def release(*identities: str, sinks: tuple[str, ...] = (), **changes: Any) -> Batch:
    known: dict[str, Any] = {"late": "{}", "named": False, "event_key": None, "closed": True, **changes}
    return batch(later=[Later(id=identity, release=sinks, **known) for identity in identities])


def untold(store: Store) -> list[tuple[str, str]]:
    """All that was released and that stdout was not told."""
    return [(identity, document) for identity, document, _ in store.unprinted(1000)]


def mail_of(store: Store, sink: str, *, by_event: bool = False, named: bool = False) -> list[Mail]:
    return store.mail(sink, 100, by_event=by_event, named=named)


@contextmanager
def opened(directory: Path, *, boot_id: str = BOOT, at: datetime = AT, **retention: Any) -> Iterator[Store]:
    store = Store(directory, boot_id=boot_id, retention=Retention(**retention), at=at)
    try:
        yield store
    finally:
        store.close()


def test_all_of_a_batch_is_there_after_a_restart(tmp_path: Path) -> None:
    position = Position(source="kmsg", boot_id=BOOT, position="42")
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b", members=2), added={(LOST, "kmsg"): 7}, position=position))
        before = dict(store.counters)
    with opened(tmp_path) as store:
        assert store.persistent
        assert store.counters == before == {NODE_KILL: 2, (PROCESSES, "node"): 4, (LOST, "kmsg"): 7}
        assert store.position() == position


@pytest.mark.parametrize(
    ("told", "processes"),
    [
        pytest.param([entry("a"), entry("a")], 1, id="read twice"),
        pytest.param([entry("a", settled=False), entry("a", members=3)], 4, id="members between both looks"),
        pytest.param([entry("a", members=3), entry("a", settled=False)], 4, id="read again, less of it"),
    ],
)
def test_an_id_moves_the_counters_once(told: list[Entry], processes: int, tmp_path: Path) -> None:
    with opened(tmp_path / "one batch") as store:
        store.apply(batch(*told))
        assert store.counters == {NODE_KILL: 1, (PROCESSES, "node"): processes}
    for number, part in enumerate(told):
        with opened(tmp_path / "a restart between") as store:
            applied = store.apply(batch(part))
            assert applied.counted == (("a",) if number == 0 else ())
    with opened(tmp_path / "a restart between") as store:
        assert store.counters == {NODE_KILL: 1, (PROCESSES, "node"): processes}


def test_processes_that_come_later_are_counted_under_the_cause_that_was_counted(tmp_path: Path) -> None:
    other = Verdict(cause=Cause.POD_LIMIT, node_pressure=False, reason="", evidence=(Evidence.KILL_LINE,))
    with opened(tmp_path) as store:
        store.apply(batch(entry("a", settled=False)))
        store.apply(batch(entry("a", members=1, verdict=other)))
        assert store.counters == {NODE_KILL: 1, (PROCESSES, "node"): 2}


def test_what_was_old_at_the_first_start_is_journalled_only(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("old", counts=False, settled=False, document="{}")))
        store.apply(batch(entry("old", counts=False, members=2, document='{"whole":1}')))
        # Read again by another source, which does not know that it was old.
        store.apply(batch(entry("old", members=5, evidence=3)))
        assert store.counters == {}
        assert untold(store) == []
    assert list(read_documents(tmp_path)) == [{}]


def test_kills_of_the_downtime_stand_apart(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        applied = store.apply(batch(entry("late", live=False), entry("live")))
        assert applied.late == {NODE_KILL: 1, (PROCESSES, "node"): 1}


def test_a_kill_that_nobody_knows_the_place_of_counts_as_unattributed_once(tmp_path: Path) -> None:
    nowhere = Entry(incident=kill("a"), document="{}", unattributed="no_cgroup")
    with opened(tmp_path) as store:
        store.apply(batch(nowhere, entry("b")))
        store.apply(batch(nowhere))
        assert store.counters[UNATTRIBUTED, "no_cgroup"] == 1


POD = MemcgPath("/kubepods/pod0f9c1d2e-3b4a-4c5d-8e6f-000000000001")
BASELINE = Baseline(path=POD, inode=77, told=3, groups_told=1, oom=5, local_oom=None)
FROM_COUNTERS = FromCounters(id="c", path=POD, at=12.5, after=None)


def test_the_counters_of_cgroups_are_those_of_this_boot(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.baselines() is None, "nobody has read this node's counters yet"
        told = Entry(incident=kill("c"), document="{}", kills=4, from_counters=FROM_COUNTERS)
        bare = Entry(incident=kill("bare"), document="{}", kills=-2)
        store.apply(batch(told, bare, baselines=[BASELINE], histories={POD: b"h"}))
    with opened(tmp_path) as store:
        assert store.baselines() == {POD: BASELINE}
        assert store.from_counters() == [FROM_COUNTERS]
        assert store.unplaced() == [("bare", 2)]
        assert store.histories() == {POD: b"h"}
        store.apply(batch(baselines=[], gone=[POD], counted_off=["bare"], histories={POD: None}))
        assert (store.baselines(), store.unplaced(), store.histories()) == ({}, [], {})
        store.apply(batch(baselines=[BASELINE], histories={POD: b"h"}))
    with opened(tmp_path, boot_id="another") as store:
        assert store.baselines() == {}, "after a boot all counters begin at 0"
        assert (store.from_counters(), store.unplaced(), store.histories()) == ([], [], {})
        store.apply(batch(baselines=[]))
    with opened(tmp_path, boot_id="another") as store:
        assert store.baselines() == {}


def test_a_line_that_comes_late_completes_the_incident_of_the_counters(tmp_path: Path) -> None:
    first = Entry(incident=kill("c", evidence=1), document='{"by":"counter"}', kills=1, from_counters=FROM_COUNTERS)
    line = Entry(incident=kill("c", evidence=3), document='{"by":"line"}', kills=1, line_id="of the line")
    with opened(tmp_path) as store:
        store.apply(batch(first, printed=["c"], baselines=[]))
        store.apply(release("c"))
        store.apply(batch(line))
        assert store.counters[NODE_KILL] == 1
        assert untold(store) == [("c", '{"by":"line"}')]
        assert store.from_counters() == []
    with opened(tmp_path) as store:
        assert store.told("of the line") == store.told("c") == Told(id="c", kills=1)
        assert store.told("unknown") is None


def test_what_counters_told_goes_to_memory_and_back_with_the_rest(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        told = Entry(incident=kill("c"), document="{}", kills=4, from_counters=FROM_COUNTERS)
        line = Entry(incident=kill("d"), document="{}", line_id="of d")
        store.apply(batch(told, line, baselines=[BASELINE]))
        before = store.baselines(), store.from_counters(), store.told("c"), store.told("of d")
        with full_disk(200_000):
            for n in range(200):
                store.apply(batch(entry(f"{n}", document="x" * 2000)))
            assert not store.persistent
            assert (store.baselines(), store.from_counters(), store.told("c"), store.told("of d")) == before
            moved = BASELINE._replace(told=4)
            store.apply(batch(baselines=[moved]))
        assert store.retry(AT)
        assert (store.baselines(), store.told("of d")) == ({POD: moved}, before[3])


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_file_of_a_former_version_is_brought_up(version: int, tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE_NAME)
    for statements in VERSIONS[:version]:
        db.executescript(statements)
    db.execute("INSERT INTO meta VALUES ('first_start', ?), ('read_all', '1')", (AT.isoformat(),))
    columns, values = (
        "id, boot_id, journalled_at, cause, counted_processes, evidence, settled, printed",
        "0, 'node', 1, 1, 1, 0",
    )
    if version < 3:
        columns, values = f"{columns}, document", f"{values}, '{{}}'"
    else:
        columns, values = f"{columns}, killed_at, released", f"{values}, 0, 1"
        db.execute("INSERT INTO documents VALUES ('a', '{}')")
    db.execute(f"INSERT INTO incidents ({columns}) VALUES ('a', ?, {values})", (BOOT,))
    db.execute("INSERT INTO counters (name, label, value) VALUES ('kills', 'node', 1)")
    db.execute(f"PRAGMA user_version = {version}")
    db.commit()
    db.close()
    with opened(tmp_path) as store:
        assert store.persistent
        assert store.told("a") == Told(id="a", kills=1)
        assert store.counters[NODE_KILL] == 1
        assert store.baselines() is None
        assert untold(store) == [("a", "{}")]
        assert store.pending() == []
        # Tables and columns that came later.
        store.apply(batch(forecasts=["told"], revisions=[RevisionSeen("web", "41", None, 1.0, 2.0, 3.0, None)]))
        store.apply(release("a", workload="web"))
        assert store.persistent
        assert store.was_forecast("told")
        assert [one.revision for one in store.revisions("web")] == ["41"]
        assert len(store.former_kills("web", before=AT.timestamp(), limit=2)) == 1


def test_only_settled_incidents_are_printed_and_each_until_it_is_out(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a", settled=False), entry("b", document='{"b":1}')))
        assert untold(store) == []
        store.apply(release("a", "b"))
        assert untold(store) == [("b", '{"b":1}')]
    with opened(tmp_path) as store:
        assert untold(store) == [("b", '{"b":1}')]
        store.apply(batch(printed=["b"], added={(DELIVERIES, "stdout delivered"): 1}))
    with opened(tmp_path) as store:
        assert untold(store) == []


def test_a_poorer_reading_does_not_replace_the_document_and_a_richer_one_is_told_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a", document='{"it":"whole"}'), printed=["a"]))
        store.apply(release("a"))
        store.apply(batch(entry("a", evidence=1, document='{"it":"tail only"}')))
        assert list(read_documents(tmp_path)) == [{"it": "whole"}]
        assert untold(store) == []
        store.apply(batch(entry("a", evidence=3, document='{"it":"and its kill line"}')))
        assert untold(store) == [("a", '{"it":"and its kill line"}')]


def test_a_report_that_a_crash_cut_is_told_once_nothing_more_can_come(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("cut", settled=False, document='{"cut":1}')))
        store.apply(release("cut"))
    with opened(tmp_path, at=AT + timedelta(minutes=1)) as store:
        store.apply(batch(entry("new", settled=False), at=AT + timedelta(minutes=1)))
        assert untold(store) == []
        store.apply(batch(read_all=True))
        assert untold(store) == [("cut", '{"cut":1}')]


def test_retention_keeps_the_ids_of_this_boot(tmp_path: Path) -> None:
    with opened(tmp_path, boot_id="former boot") as store:
        store.apply(batch(*[entry(f"former {n}", boot_id="former boot") for n in range(5)]))
        store.apply(batch(*[entry(f"this {n}") for n in range(5)]))
        store.apply(batch(printed=[f"{boot} {n}" for boot in ("former", "this") for n in range(5)]))
    with opened(tmp_path, count=2) as store:
        assert len(list(read_documents(tmp_path))) == 2
        again = store.apply(batch(*[entry(f"this {n}") for n in range(5)]))
        assert again.counted == ()
        assert store.counters[NODE_KILL] == 10
        forgotten = store.apply(batch(entry("former 0", boot_id="former boot")))
        assert forgotten.counted == ("former 0",)


def test_retention_by_age_leaves_what_nobody_was_told_of(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("told", boot_id="former"), entry("untold", boot_id="former")))
        store.apply(release("told", "untold"))
        store.apply(batch(printed=["told"]))
    with opened(tmp_path, at=AT + timedelta(days=31)) as store:
        assert [identity for identity, _ in untold(store)] == ["untold"]
        assert len(list(read_documents(tmp_path))) == 1


# What follows a kill


def test_what_is_released_waits_in_the_outbox_of_each_sink_and_leaves_it_once(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b")))
        assert store.pending() == ["a", "b"]
        store.apply(release("a", sinks=("webhook", "pod_event"), closed=False))
        store.apply(release("a", sinks=("webhook",)))  # told again of what was released: nothing new
        assert [mail.ids for mail in mail_of(store, "webhook")] == [("a",)]
        store.apply(batch(delivered=[("webhook", "a")]))
        assert store.pending() == ["b"]
    with opened(tmp_path) as store:
        assert mail_of(store, "webhook") == []
        assert [mail.ids for mail in mail_of(store, "pod_event")] == [("a",)]
        store.apply(release("a", sinks=("webhook",)))
        assert mail_of(store, "webhook") == []


def test_kills_of_one_event_key_are_one_letter_with_all_that_were_counted(tmp_path: Path) -> None:
    def at(minute: int) -> dict[str, Any]:
        return {"time": AT + timedelta(minutes=minute)}

    with opened(tmp_path) as store:
        store.apply(batch(entry("a", **at(0)), entry("b", **at(1)), entry("c", **at(2)), entry("d", **at(3))))
        store.apply(batch(entry("old", counts=False, **at(4))))
        store.apply(release("a", "b", "d", sinks=("pod_event",), event_key="k", named=True))
        store.apply(release("c", sinks=("pod_event",), event_key="other", named=True))
        first, second = mail_of(store, "pod_event", by_event=True)
        assert (first.ids, first.key, first.total) == (("a", "b", "d"), "k", 3)
        assert (first.first_at, first.last_at) == (AT.timestamp(), (AT + timedelta(minutes=3)).timestamp())
        assert second.ids == ("c",)
        store.apply(batch(delivered=[("pod_event", identity) for identity in first.ids]))
        store.apply(batch(entry("e", **at(9))))
        store.apply(release("e", sinks=("pod_event",), event_key="k", named=True))
        assert [(mail.ids, mail.total) for mail in mail_of(store, "pod_event", by_event=True)] == [
            (("c",), 1),
            (("e",), 4),
        ]


def test_an_event_waits_for_the_name_of_its_pod(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a")))
        store.apply(release("a", sinks=("pod_event",), closed=False))
        assert mail_of(store, "pod_event", named=True) == []
        store.apply(batch(later=[Later(id="a", late="{}", named=True, event_key="k", release=None, closed=True)]))
        assert [mail.ids for mail in mail_of(store, "pod_event", named=True)] == [("a",)]


def test_retention_leaves_what_is_in_the_outbox(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a", boot_id="former"), printed=["a"]))
        store.apply(release("a", sinks=("webhook",)))
    with opened(tmp_path, at=AT + timedelta(days=31)) as store:
        assert [mail.ids for mail in mail_of(store, "webhook")] == [("a",)]


def test_an_eviction_is_counted_once_whoever_lists_it_again(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as store:
            store.apply(batch(evictions=[("u", "memory"), ("u", "memory"), ("v", "pids")]))
            assert store.counters == {(EVICTIONS, "memory"): 1, (EVICTIONS, "pids"): 1}


def test_what_follows_goes_to_memory_and_back_with_the_rest(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a"), entry("b"), evictions=[("u", "memory")], userspace_cursor="s=1"))
        store.apply(release("a", sinks=("webhook",), closed=False, late='{"fate":"gone"}'))
        with full_disk(0):
            store.apply(batch(entry("c")))
            assert not store.persistent
            assert (store.pending(), [mail.ids for mail in mail_of(store, "webhook")]) == (["a", "b", "c"], [("a",)])
            store.apply(batch(delivered=[("webhook", "a")], evictions=[("u", "memory")]))
            assert store.counters[EVICTIONS, "memory"] == 1
            assert store.userspace_cursor() == "s=1"
        assert store.retry(AT)
    with opened(tmp_path) as store:
        assert store.persistent
        assert mail_of(store, "webhook") == []
        case = store.case("a")
        assert case is not None
        assert case.late == '{"fate":"gone"}'


# What a disk can do


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(b"no database at all" * 500, "damaged", id="not a database"),
        pytest.param("truncated", "damaged", id="truncated"),
        pytest.param("overwritten", "damaged", id="overwritten in its middle"),
        pytest.param("other tables", "damaged", id="another program's database"),
        pytest.param("newer", "newer", id="newer schema"),
    ],
)
def test_an_unusable_file_is_set_aside(
    content: bytes | str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE_NAME
    _spoil(path, content)
    spoilt = path.read_bytes()
    with opened(tmp_path) as store:
        assert store.persistent
        assert store.counters == {}
        store.apply(batch(entry("a")))
    aside = [entry for entry in tmp_path.iterdir() if f"{FILE_NAME}.{kind}-20261121T04" in entry.name]
    assert aside[0].read_bytes() == spoilt
    assert aside[0].name in caplog.text
    with opened(tmp_path) as store:
        assert store.counters[NODE_KILL] == 1


def _spoil(path: Path, how: bytes | str) -> None:
    if isinstance(how, bytes):
        path.write_bytes(how)
        return
    if how == "other tables":
        db = sqlite3.connect(path)
        db.executescript("PRAGMA journal_mode = WAL; CREATE TABLE counters (x); PRAGMA user_version = 1")
        db.close()
        return
    with opened(path.parent) as store:
        store.apply(batch(*[entry(f"{n}", document="x" * 3000) for n in range(50)]))
    if how == "newer":
        db = sqlite3.connect(path)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        db.close()
        return
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "truncated" else _overwrite(content))


def _overwrite(content: bytes) -> bytes:
    middle = len(content) // 2 // 4096 * 4096
    return content[:middle] + b"\xaa" * 8192 + content[middle + 8192 :]


def test_a_directory_that_cannot_be_made_means_memory_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "state"
    place.write_text("in the way")
    with opened(place) as store:
        assert not store.persistent
        assert "state is in memory" in caplog.text
        store.apply(batch(entry("a"), read_all=True, position=Position(source="kmsg", boot_id=BOOT, position="9")))
        assert not store.retry(AT)
        place.unlink()
        assert store.retry(AT)
        assert store.persistent
        store.apply(batch(entry("b")))
    with opened(place) as store:
        assert store.counters[NODE_KILL] == 2
        assert store.read_all
        assert store.position() is not None
        assert len(list(read_documents(place))) == 2


def test_counters_never_jump_to_those_of_a_state_that_becomes_readable(tmp_path: Path) -> None:
    """Prometheus would take 50 old kills for new ones."""
    with opened(tmp_path / "state") as store:
        store.apply(batch(*[entry(f"{n}") for n in range(50)]))
    (tmp_path / "state").rename(tmp_path / "away")
    (tmp_path / "state").write_text("in the way")
    with opened(tmp_path / "state") as store:
        store.apply(batch(entry("new")))
        (tmp_path / "state").unlink()
        (tmp_path / "away").rename(tmp_path / "state")
        assert store.retry(AT)
        assert store.counters[NODE_KILL] == 1
        assert store.apply(batch(entry("7"))).counted == ()
    with opened(tmp_path / "state") as store:
        assert store.counters[NODE_KILL] == 1


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size`: what a write to a full disk looks like to SQLite, without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)


def test_a_disk_that_fills_up_loses_and_doubles_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("before", document='{"x":1}')))
        with full_disk(200_000):
            for n in range(200):
                store.apply(batch(entry(f"{n}", document=json.dumps({"x": "y" * 2000}))))
            assert not store.persistent
            assert caplog.text.count("state is in memory") == 1
            # Read again while the disk is full.
            store.apply(batch(*[entry(f"{n}") for n in range(200)], entry("before")))
            assert store.counters[NODE_KILL] == 201
        assert store.retry(AT)
    with opened(tmp_path) as store:
        assert store.counters == {NODE_KILL: 201, (PROCESSES, "node"): 201}
        assert len(list(read_documents(tmp_path))) == 201
        assert len(store.pending()) == 201


def test_two_agents_do_not_share_a_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as first, opened(tmp_path) as second:
        assert first.persistent
        assert not second.persistent
        assert "another agent uses this state directory" in caplog.text
        first.apply(batch(entry("a")))
        first.close()
        assert second.retry(AT)


_KILLED = """
import sys
from pathlib import Path
from tests.state.test_store import AT, Position, batch, entry, opened
with opened(Path(sys.argv[1])) as store:
    print("ready", flush=True)
    position = store.position()
    n = 0 if position is None else int(position.position) + 1
    while True:
        # As after a crash in earnest: the last kill is in the log again, and a group member comes late.
        again = [entry(f"kill {n - 1}", members=1)] if n else []
        store.apply(batch(*again, entry(f"kill {n}"), position=Position(source="kmsg", boot_id=None, position=str(n))))
        n += 1
"""


def test_killed_at_any_instant_the_state_is_that_of_a_whole_number_of_batches(tmp_path: Path) -> None:
    kills = 0
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0.0, 0.04))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with opened(tmp_path) as store:
            assert store.persistent
            position = store.position()
            kills = 0 if position is None else int(position.position) + 1
            documents = len(list(read_documents(tmp_path)))
            assert documents == kills
            assert store.counters.get(NODE_KILL, 0) == kills
            assert store.counters.get((PROCESSES, "node"), 0) == max(0, 2 * kills - 1)
    assert kills > 8


def test_the_first_start_is_remembered(tmp_path: Path) -> None:
    for later in range(3):
        with opened(tmp_path, at=AT + timedelta(hours=later)) as store:
            assert store.first_start == AT
            assert not store.read_all


def test_what_the_log_may_not_tell_other_users_the_state_does_not_either(tmp_path: Path) -> None:
    with opened(tmp_path / "made") as store:
        store.apply(batch(entry("a")))
        modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "made").iterdir()}
        assert modes == dict.fromkeys(modes, 0)


# The journal read from outside


def test_the_journal_is_read_beside_a_running_agent_newest_first(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply(batch(entry("a", document='{"n":1}'), entry("b", document='{"n":2}')))
        assert list(read_documents(tmp_path)) == [{"n": 2}, {"n": 1}]


def test_a_journal_that_is_not_a_database_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"x" * 5000)
    with pytest.raises(CollectorError, match="not a database"):
        list(read_documents(tmp_path))


def test_no_journal_is_said(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="no journal in"):
        list(read_documents(tmp_path))
