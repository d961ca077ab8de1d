"""
The metric families with the names of pods, written as text: thousands of lines, which prometheus-client's own way takes
twenty times as long for.

A counter that begins at 1 is no increase to Prometheus. So a series shows for some time what it showed first: 0 where
it is new, and where a former process had it, the value that it had then. Containers with a limit have one at 0 from
their start, for the causes that a limit leads to; it has long been seen when it moves, and moves at once.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from collector.model import Cause
from collector.state.batch import MAX_SERIES, KillCount, KillSeries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set

    from collector.model import ContainerId
    from collector.state.batch import ContainerName


class Running(NamedTuple):
    """`limit_bytes`: as the API tells it; None: it tells none."""

    name: ContainerName
    id: ContainerId | None
    limit_bytes: int | None


class MemoryNow(NamedTuple):
    """As last sampled. `limit_bytes`: the lowest memory.max of container and pod; None: both have none."""

    working_set_bytes: int
    limit_bytes: int | None


class TrendNow(NamedTuple):
    """Of a steady phase. `seconds_to_limit`: where it grows on; None: it does not, or meets no limit."""

    growth_bytes_per_second: float
    seconds_to_limit: float | None


class _Family(NamedTuple):
    name: str
    kind: str
    help: str


_KILLS = _Family(
    "oom_container_kills_total",
    "counter",
    "Decisions of the kernel's OOM killer by the container of the victim, once its name is known;"
    " without names: never known, or no room.",
)
_LAST_KILL = _Family("oom_container_last_kill_timestamp_seconds", "gauge", "When the last of these kills happened.")
_WORKING_SET = _Family(
    "oom_container_memory_working_set_bytes",
    "gauge",
    "Memory usage less inactive file pages, as the kubelet has it; from the cgroup, as last sampled.",
)
_LIMIT = _Family(
    "oom_container_memory_limit_bytes", "gauge", "The lowest memory limit of the container and its pod, where any is."
)
_GROWTH = _Family(
    "oom_container_memory_growth_bytes_per_second",
    "gauge",
    "How fast the working set grows, where it grows steadily.",
)
_TO_LIMIT = _Family(
    "oom_container_memory_seconds_to_limit",
    "gauge",
    "In how long the working set meets the memory limit, if it grows on as it does; where it looks like a leak.",
)
FAMILIES = tuple(family.name for family in (_KILLS, _LAST_KILL, _WORKING_SET, _LIMIT, _GROWTH, _TO_LIMIT))
"""Each may be switched off."""

_CAUSES_OF_A_LIMIT = (str(Cause.CONTAINER_LIMIT), str(Cause.POD_LIMIT))


class ContainerSeries:
    """
    kills: as the journal has them. running, memory, trends: the containers of now; they are known only later than this
    is made. created, exemplars: tell when each counter began, and the incident of the last kill (OpenMetrics). now:
    seconds of a steady clock.
    """

    def __init__(
        self,
        *,
        kills: Callable[[], Mapping[KillSeries, KillCount]],
        hold_seconds: float,
        now: Callable[[], float],
        off: Set[str] = frozenset(),
        created: bool = False,
        exemplars: bool = False,
    ) -> None:
        self.running: Callable[[], Iterable[Running]] = tuple
        self.memory: Callable[[], Mapping[ContainerId, MemoryNow]] = dict
        self.trends: Callable[[], Mapping[ContainerId, TrendNow]] = dict
        self.told: Mapping[KillSeries, int] = {}
        """What the last render showed of the kills that the journal has."""
        self._kills = kills
        self._hold_seconds = hold_seconds
        self._now = now
        self._off = off
        self._created = created
        self._exemplars = exemplars
        self._restored = {series: count.shown for series, count in kills().items()}
        self._first: dict[KillSeries, tuple[int, float]] = {}
        """What each that is shown showed first, and until when: from its first scrape on, whenever that was."""
        self._labels: dict[ContainerName, str] = {}

    def render(self, *, openmetrics: bool) -> str:
        memory, trends = self.memory(), self.trends()
        limits: dict[ContainerName, int | None] = {}
        working_sets: dict[ContainerName, int] = {}
        growth: dict[ContainerName, float] = {}
        to_limit: dict[ContainerName, float | None] = {}
        for name, identity, limit_bytes in self.running():
            use = memory.get(identity) if identity is not None else None
            if use is None and limit_bytes is None:
                continue  # perhaps a former instance of one that is here too
            # The kernel enforces what is in the cgroup; crun has the limit one cgroup below the one that is sampled.
            limits[name] = limit_bytes if use is None or use.limit_bytes is None else use.limit_bytes
            if use is not None:
                working_sets[name] = use.working_set_bytes
            if identity is not None and (trend := trends.get(identity)) is not None:
                growth[name] = round(trend.growth_bytes_per_second, 1)
                left = trend.seconds_to_limit
                to_limit[name] = None if left is None else round(left, 1)
        kills = self._kills()
        shown = self._shown(kills, (name for name, limit in limits.items() if limit is not None))
        self.told = {series: shown[series] for series in kills}
        self._name(limits, kills)
        families = (
            (_KILLS, self._kill_lines(shown, kills, openmetrics=openmetrics)),
            (_LAST_KILL, self._gauge(_LAST_KILL.name, _last_kills(kills))),
            (_WORKING_SET, self._gauge(_WORKING_SET.name, working_sets)),
            (_LIMIT, self._gauge(_LIMIT.name, {name: limits[name] for name in working_sets})),
            (_GROWTH, self._gauge(_GROWTH.name, growth)),
            (_TO_LIMIT, self._gauge(_TO_LIMIT.name, to_limit)),
        )
        lines: list[str] = []
        for family, samples in families:
            if family.name not in self._off:
                # What the family of a counter is called is the one difference between both forms.
                called = family.name.removesuffix("_total") if openmetrics else family.name
                lines += (f"# HELP {called} {family.help}", f"# TYPE {called} {family.kind}", *samples)
        return "\n".join([*lines, ""])

    def _shown(self, kills: Mapping[KillSeries, KillCount], limited: Iterable[ContainerName]) -> dict[KillSeries, int]:
        """Zeros are the first to go where there are too many."""
        names = list(limited)
        zeros = (KillSeries(name, cause) for cause in _CAUSES_OF_A_LIMIT for name in names)
        room = max(MAX_SERIES - len(kills), 0)
        every = [*kills, *islice((series for series in zeros if series not in kills), room)]
        now, former, restored = self._now(), self._first, self._restored
        end = now + self._hold_seconds
        # A zero without a kill needs no hold: it has been seen when it moves.
        self._first = {
            series: former.get(series) or (restored.get(series, 0), end if series in kills else now) for series in every
        }
        self._restored = {}
        return {
            series: kills[series].kills if until <= now and series in kills else first
            for series, (first, until) in self._first.items()
        }

    def _name(self, limits: Iterable[ContainerName], kills: Iterable[KillSeries]) -> None:
        """Label strings for these, kept for as long as they are asked for."""
        former = self._labels
        names = [*limits, *(series.container for series in kills)]
        self._labels = {name: former.get(name) or _label_text(name) for name in names}

    def _kill_lines(
        self, shown: Mapping[KillSeries, int], kills: Mapping[KillSeries, KillCount], *, openmetrics: bool
    ) -> Iterator[str]:
        labels = self._labels
        for series, value in shown.items():
            text = f'{{{labels[series.container]},cause="{series.cause}"}}'
            count = kills.get(series) if openmetrics else None
            yield f"{_KILLS.name}{text} {value}{self._exemplar(count, value)}"
            # Of a zero it is not told: after a restart its beginning would be a later one.
            if self._created and value and count is not None:
                yield f"oom_container_kills_created{text} {count.since}"

    def _exemplar(self, count: KillCount | None, shown: int) -> str:
        """The last kill, unless it is still held back."""
        if not self._exemplars or count is None or count.last_id is None or shown < count.kills:
            return ""
        return f' # {{incident_id="{count.last_id}"}} 1 {count.last_at}'

    def _gauge(self, name: str, values: Mapping[ContainerName, float | None]) -> list[str]:
        labels = self._labels
        return [f"{name}{{{labels[of]}}} {value}" for of, value in values.items() if value is not None]


def _last_kills(kills: Mapping[KillSeries, KillCount]) -> dict[ContainerName, float]:
    last: dict[ContainerName, float] = {}
    for series, count in kills.items():
        last[series.container] = max(count.last_at, last.get(series.container, 0.0))
    return last


def _label_text(name: ContainerName) -> str:
    return ",".join(f'{label}="{_escape(value)}"' for label, value in name._asdict().items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
