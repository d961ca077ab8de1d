"""What the journal is given at once, and the names of its counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collector.diagnosis.rollout import RevisionSeen
    from collector.ledger import Baseline
    from collector.model import Incident, MemcgPath
    from collector.reconcile import FromCounters

# (name, label value): the counters are few and closed sets, so the whole of them is kept in memory too.
CounterKey = tuple[str, str]

KILLS = "kills"
PROCESSES = "processes"
UNATTRIBUTED = "unattributed"
FORGED = "forged"
MALFORMED = "malformed"
LOST = "lost"
DELIVERIES = "deliveries"
FOREIGN = "foreign"
PROCESS_EVENTS_LOST = "process_events_lost"
PROCESS_EVENTS_SHED = "process_events_shed"
EXPIRED = "expired"  # an outcome of DELIVERIES, as sinks.delivery has it
EVICTIONS = "evictions"
MALFORMED_PODS = "malformed_pods"
USERSPACE_KILLS = "userspace_kills"
SERIES_DROPPED = "series_dropped"


class ContainerName(NamedTuple):
    """Values of labels: "" is what Prometheus takes for none, where there is no name, or none that is known."""

    namespace: str
    pod: str
    container: str


NOBODY = ContainerName("", "", "")
"""Under whom kills are counted that were never named, or for which there was no room."""


MAX_SERIES = 1000
"""Label sets: what a metric with the names of pods may cost a Prometheus, for each node."""


class KillSeries(NamedTuple):
    container: ContainerName
    cause: str


class KillCount(NamedTuple):
    """
    `since`: the first of them was counted, `last_at`: the last one happened; times of Unix. `last_id`: its incident's;
    None: an earlier version counted it. `shown`: how many of them a scrape has told.
    """

    kills: int
    since: float
    last_at: float
    last_id: str | None = None
    shown: int = 0


class LastKill(NamedTuple):
    """The last incident of a cause. `at`: time of Unix."""

    id: str
    at: float


class Shown(NamedTuple):
    """What a scrape has told: of the node's kills and killed processes, and of kills by container."""

    counters: Mapping[CounterKey, int]
    kills: Mapping[KillSeries, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of the journal is kept. The ids of the current boot are kept anyway: its log can be read again."""

    count: int = 1000
    age: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A source's cursor, as sources.base.Cursor has it."""

    source: str
    boot_id: str | None
    position: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    `counts` False: journalled only. `document`: one line of JSON. `live`: killed while this process was reading.
    `kills`, `line_id`, `from_counters`, `unattributed`: see reconcile.Taken.
    """

    incident: Incident
    document: str
    counts: bool = True
    live: bool = True
    kills: int = 1
    line_id: str | None = None
    from_counters: FromCounters | None = None
    unattributed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """
    What became known of a journalled incident, or was decided on it.

    `late`: late.to_json(). `named`: namespace and name of its pod are among it. `event_key`: kills with the same make
    one Event; None: as before. `release`: from now on it is told, on stdout and to these sinks; None: not yet, or as
    before. `closed`: nothing more will come. `expired`: these sinks are not told any more. `container`: whose kill it
    is counted as from now on, and no other's later; None: not decided yet, or no container's. `workload`:
    late.workload_of().
    """

    id: str
    late: str
    named: bool
    event_key: str | None
    release: tuple[str, ...] | None
    closed: bool
    expired: tuple[str, ...] = ()
    container: ContainerName | None = None
    workload: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """
    What changes together.

    `added`: counters that no incident moves. `printed`: ids that stdout took. `read_all`: see Journal.apply().
    `baselines`, `gone`: of the ledger; None: it keeps none. `counted_off`: ids of bare lines that stand for a kill
    which the counters have. `histories`: what the history of a cgroup is restored from, None: it is over.
    `delivered`: sink and id, off the outbox. `evictions`: pod uid and resource, each counted once.
    `userspace_cursor`: where reading of userspace killers goes on. `series_ended`: containers whose kills are no longer
    counted by name. `revisions`: what workloads show now. `forecasts`: keys of those that were told.
    """

    at: datetime
    entries: Sequence[Entry] = ()
    added: Mapping[CounterKey, int] = field(default_factory=dict)
    printed: Sequence[str] = ()
    position: Position | None = None
    read_all: bool = False
    baselines: Sequence[Baseline] | None = None
    gone: Sequence[MemcgPath] = ()
    counted_off: Sequence[str] = ()
    histories: Mapping[MemcgPath, bytes | None] = field(default_factory=dict)
    later: Sequence[Later] = ()
    delivered: Sequence[tuple[str, str]] = ()
    evictions: Sequence[tuple[str, str]] = ()
    userspace_cursor: str | None = None
    series_ended: Sequence[ContainerName] = ()
    revisions: Sequence[RevisionSeen] = ()
    forecasts: Sequence[str] = ()


class Case(NamedTuple):
    """An incident in the journal that names or fate may still come for: document and late as JSON, times of Unix."""

    id: str
    document: str
    late: str | None
    released: bool
    killed_at: float


class Mail(NamedTuple):
    """
    Incidents of one key that a sink has not been told of: the newest one's document.

    `total`, `first_at`, `last_at`: of all counted kills with this key, times of Unix.
    """

    ids: tuple[str, ...]
    key: str
    document: str
    late: str | None
    total: int
    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a batch did to the counters: those of kills that happened while nobody read stand apart."""

    counted: tuple[str, ...]
    late: Mapping[CounterKey, int]
