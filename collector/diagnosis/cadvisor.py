"""
What a Prometheus that scrapes the kubelets knows of a container: its memory before we saw it, and that of other pods of
its Deployment, which shows what each revision does.

Sources: the HTTP API of Prometheus, /api/v1/query_range; cAdvisor's metrics/prometheus.go and runc's libcontainer, by
which `container_memory_rss` is `anon` of memory.stat. Names of the pods of a Deployment: ComputeHash of Kubernetes'
pkg/controller/controller_utils.go, and k8s.io/apimachinery/pkg/util/rand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.model import Life, MemoryHistory, Point
from collector.diagnosis.pattern import judge
from collector.diagnosis.rollout import LONG_AGO, RevisionSeen, seen_now
from collector.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from collector.model import Names

RANGE_SECONDS = 86400
STEP_SECONDS = 300
"""For so long Prometheus repeats a sample that nothing followed."""
MAX_SAMPLES = 300
"""Of a series: as many as were asked for, and a few."""
PODS_PER_REVISION = 3
MAX_REVISIONS = 10

_WORKING_SET = "container_memory_working_set_bytes"
_ANON = "container_memory_rss"
_NO_SIZE = 1 << 62
"""From here on a size cannot be meant."""


class Series(NamedTuple):
    """
    A container of a pod, times of Unix. Never empty.

    `cgroup`: its path, which is another after each restart. "": a relabelling has dropped it, so that this may be many
    lives, one after the other.
    """

    pod: str
    cgroup: str
    points: tuple[Point, ...]

    @property
    def seconds(self) -> float:
        return self.points[-1].time - self.points[0].time


# Asking


def query(names: Names, container: str) -> str:
    """
    All lives of the container; and of each revision of its Deployment those that were watched for the longest, so that
    the answer stays small however many pods there are.

    Needs `@ end()`: Prometheus 2.33.
    """
    both = f'__name__=~"{_WORKING_SET}|{_ANON}"'
    of = f"namespace={_quote(names.namespace)},container={_quote(container)}"
    own = f"max by (__name__, pod, id) ({{{both},{of},pod={_quote(names.pod)}}})"
    pattern = _pods_of_deployment(names)
    if pattern is None:
        return own
    pods = _quote(pattern)
    watched = f"max by (pod, id) (count_over_time({_WORKING_SET}{{{of},pod=~{pods}}}[{RANGE_SECONDS}s] @ end()))"
    revised = f'label_replace({watched}, "revision", "$1", "pod", {pods})'
    longest = f"topk by (revision) ({PODS_PER_REVISION}, {revised})"
    return f"{own} or max by (__name__, pod, id) ({{{both},{of},pod=~{pods}}} and on (pod, id) {longest})"


def _pods_of_deployment(names: Names) -> str | None:
    """
    A pattern of their names, with the revision as its group. None: no Deployment; or a long name, which the API server
    has cut off.

    `web-db-x7k2p` is of another workload than `web-5d4f8c7b9d-x7k2p`: a pod-template-hash is made of ten digits at
    most, written in letters that spell nothing.
    """
    if names.owner is None or names.owner.kind != "Deployment":
        return None
    pattern = re.escape(names.owner.name) + "-([4-9bcdf]{6,10})-[a-z0-9]{5}"
    return pattern if re.fullmatch(pattern, names.pod) else None


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# Reading the answer


def parse(answer: object, *, since: float, until: float) -> list[Series]:
    """What json.loads gave; since, until: what was asked for. Raises ParseError."""
    sizes: dict[tuple[str, str], dict[str, dict[float, int]]] = {}
    try:
        if not isinstance(answer, dict) or answer["status"] != "success":
            raise ValueError("no success")
        for one in answer["data"]["result"]:
            labels: Mapping[str, object] = one["metric"]
            part = _ANON if labels.get("__name__") == _ANON else _WORKING_SET
            parts = sizes.setdefault((str(labels["pod"]), str(labels.get("id", ""))), {})
            if len(one["values"]) > MAX_SAMPLES:
                raise ValueError("more samples than were asked for")
            parts[part] = dict(_samples(one["values"], since, until))
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise ParseError("answer of Prometheus", str(answer)[:80]) from error
    made = (Series(pod, cgroup, tuple(_points(parts))) for (pod, cgroup), parts in sizes.items())
    return [one for one in made if one.points]


def _samples(values: Iterable[Sequence[float | str]], since: float, until: float) -> Iterator[tuple[float, int]]:
    """Neither NaN nor infinity is within bounds."""
    for at, value in values:
        time, size = float(at), float(value)
        if since <= time <= until and 0 <= size < _NO_SIZE:
            yield time, int(size)


def _points(parts: Mapping[str, Mapping[float, int]]) -> Iterator[Point]:
    anon = parts.get(_ANON, {})
    for at, size in sorted(parts.get(_WORKING_SET, {}).items()):
        yield Point(at, size, size, size, anon=anon.get(at))


# What it says of a container


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """`own`: of the container that was asked for and its namesakes in the same pod."""

    own: tuple[Series, ...] = ()
    revisions: tuple[RevisionSeen, ...] = ()

    def begin_earlier(
        self, history: MemoryHistory | None, container_id: str, *, until: float, offset: float
    ) -> MemoryHistory | None:
        """
        With what its last life was before we saw it: nothing, where we saw it begin. None: we never saw it.

        until: of the kill, by the history's clock; offset: what turns a time of Unix into that.
        """
        if history is None:
            points = self._before(container_id, None, until, offset)
            return MemoryHistory(lives=(Life(points=points, started=False, killed=True),)) if points else None
        last = history.last
        if last.started:
            return history
        first = last.points[0]
        points = self._before(container_id, first, min(first.time, until), offset)
        return replace(history, lives=(*history.lives[:-1], replace(last, points=(*points, *last.points))))

    def _before(self, container_id: str, first: Point | None, until: float, offset: float) -> tuple[Point, ...]:
        """Of what cAdvisor does not tell, as much as at `first`: without a step there, all growth is what it tells."""
        limit, shmem, kernel = (first.limit, first.shmem, first.kernel) if first else (None, None, None)
        series = next((one for one in self.own if container_id in one.cgroup.rpartition("/")[2]), None)
        if series is None and first is not None:
            series = next((one for one in self.own if not one.cgroup), None)
        if series is None:
            return ()
        points = tuple(
            point._replace(time=point.time + offset, limit=limit, shmem=shmem, kernel=kernel)
            for point in series.points
            if point.time + offset < until
        )
        return points if series.cgroup or not _falls((*points, first) if first else points) else ()


NOWHERE = Past()


def _falls(points: Sequence[Point]) -> bool:
    """By half from one to the next: a restart or a garbage collector, and without the cgroup nobody can tell which."""
    return any(later.working_set < one.working_set / 2 for one, later in pairwise(points))


# What it says of revisions


def pods_of_revisions(names: Names, series: Iterable[Series]) -> list[tuple[str, Series]]:
    """Those of the newest revisions that can be judged, with their revision."""
    pattern = _pods_of_deployment(names)
    if pattern is None:
        return []
    named = ((re.fullmatch(pattern, one.pod), one) for one in series if one.cgroup or not _falls(one.points))
    lives = sorted(
        ((match[1], one) for match, one in named if match and one.seconds > 0), key=lambda each: -each[1].seconds
    )
    pods: dict[str, list[Series]] = {}
    for revision, one in lives:
        pods.setdefault(revision, []).append(one)
    newest = sorted(pods, key=lambda revision: min(one.points[0].time for one in pods[revision]))[-MAX_REVISIONS:]
    return [(revision, one) for revision in newest for one in pods[revision][:PODS_PER_REVISION]]


def see(workload: str, revision: str, series: Series, *, since: float) -> RevisionSeen:
    """since: from when on was asked; what was there then is older, nobody knows how much."""
    judgement = judge(MemoryHistory(lives=(Life(points=series.points, started=False, killed=False),)))
    began = series.points[0].time
    return seen_now(
        workload,
        revision,
        None,
        started_at=began if began > since + 2 * STEP_SECONDS else LONG_AGO,
        now=series.points[-1].time,
        observed_seconds=series.seconds,
        growth_bytes_per_hour=judgement.growth_bytes_per_hour,
    )
