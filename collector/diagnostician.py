"""Why it came to a kill: what the agent knows beside its document is gathered here, and the core decides."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from collector.diagnosis.cadvisor import NOWHERE, Past
from collector.diagnosis.diagnose import diagnose, judge_facts
from collector.diagnosis.facts import facts_of_document
from collector.diagnosis.model import (
    Facts,
    Former,
    Judgement,
    Life,
    MemoryHistory,
    Neighbour,
    NodeFacts,
    Pattern,
    Point,
)
from collector.diagnosis.timeline import from_life
from collector.diagnosis.to_json import to_json
from collector.history import REMEMBERED_SECONDS
from collector.late import workload_of
from collector.model import NODE_PRESSURE, Cause
from collector.node_facts import gather_node_facts
from collector.parse.cgroup_path import parse_memcg_path

if TYPE_CHECKING:
    from collector.cluster import Cluster
    from collector.history import Key
    from collector.history import Life as _Kept
    from collector.late import Document, Late
    from collector.model import Names, Pod, PodUid
    from collector.node_condition import NodeCondition
    from collector.pods.index import Found
    from collector.prometheus_history import PrometheusHistory
    from collector.rollouts import Rollouts
    from collector.state.store import Store
    from collector.state.workloads import FormerKill
    from collector.witnesses import Witnesses

MAX_LIVES = 10
"""Of one container, that are looked at."""
MAX_FORMER = 50
_LAST_POINTS = 32
"""Of a life, that are looked at when it has been judged: five minutes at the sampling interval of 10 s."""
MAX_SEEN = 64
"""Kills whose witnesses are remembered: of a node with 110 pods it is 50 kB each."""

# The limits whose hit the history of a container or pod explains. That of a cgroup inside a container is not sampled,
# and where nobody knows whose limit it was, the container's own says nothing.
_OF_THE_WORKLOAD = frozenset({Cause.CONTAINER_LIMIT, Cause.POD_LIMIT})
_JUDGED = _OF_THE_WORKLOAD | NODE_PRESSURE
_OF_WITNESSES = ("hints", "history", "neighbours", "node.")
"""What evidence that does not last begins with."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """
    What is soon forgotten: by a minute after a kill its process, by ten the memory of its cgroup, and with a restart
    all of it. As in Facts; `history`: of each life the first point and the last ones, `judgement`: of all of it.
    """

    hints: tuple[str, ...] | None = None
    history: MemoryHistory | None = None
    judgement: Judgement | None = None
    neighbours: tuple[Neighbour, ...] | None = None
    node: NodeFacts | None = None

    def or_else(self, other: _Seen) -> _Seen:
        first = self if self.history is not None else other
        return _Seen(
            hints=self.hints or other.hints,
            history=first.history,
            judgement=first.judgement,
            neighbours=self.neighbours or other.neighbours,
            node=self.node or other.node,
        )


class Diagnostician:
    """Fulfils announcer.Diagnosis. `factor`: a new limit is that many times the peak."""

    def __init__(
        self,
        witnesses: Witnesses,
        cluster: Cluster,
        store: Store,
        rollouts: Rollouts,
        elsewhere: PrometheusHistory | None,
        *,
        condition: NodeCondition | None,
        boot_id: str,
        factor: float,
        sample_interval: float,
    ) -> None:
        self._witnesses = witnesses
        self._cluster = cluster
        self._store = store
        self._rollouts = rollouts
        self._elsewhere = elsewhere
        self._condition = condition
        self._boot_id = boot_id
        self._factor = factor
        self._stale_seconds = 2 * sample_interval
        """A sample that was so old at a kill is of what had ended by then."""
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def is_ready(self, names: Names | None, node_pressure_at: float | None) -> bool:
        known = self._condition is None or node_pressure_at is None or self._condition.is_known(node_pressure_at)
        asked = [known]
        if names is not None:
            asked += self._rollouts.is_ready(names), self._elsewhere is None or self._elsewhere.is_ready(names)
        return all(asked)

    def diagnose(self, document: Document, late: Late, killed_at: float) -> dict[str, Any] | None:
        """
        document: with the names put in; killed_at: time of Unix. As Late keeps it; None: it could not be made.

        What an earlier diagnosis of the same kill rested on is not lost with its witnesses.
        """
        try:
            return self._diagnose(document, late, killed_at)
        except Exception:  # noqa: BLE001 - a kill is told whatever happens here
            _log.exception("incident %s gets no diagnosis", document.get("id"))
            return late.diagnosis

    def _diagnose(self, document: Document, late: Late, killed_at: float) -> dict[str, Any]:
        facts = facts_of_document(document)
        uid = facts.pod.uid if facts.pod else None
        container_id = facts.container.id if facts.container else None
        found = self._cluster.find(uid, container_id) if uid or container_id else None
        spec = found.container if found else None
        elsewhere = self._elsewhere.past(late.names) if self._elsewhere and late.names else NOWHERE
        workload = workload_of(late)
        kills = self._store.former_kills(workload, before=killed_at, limit=MAX_FORMER) if workload else []
        killed = (facts.revision, *(kill.revision for kill in kills))
        facts = replace(
            facts,
            pod=self._with_cron_job(facts.pod),
            lone=late.names is not None and late.names.lone,
            memory_volumes=found.pod.memory_volumes if found else None,
            spec_limit_bytes=spec.declared_limit_bytes if spec else None,
            spec_request_bytes=spec.request_bytes if spec else None,
            former=tuple(_former(kill, killed_at) for kill in kills),
            revisions=self._rollouts.of(workload, killed, elsewhere.revisions) if workload else (),
            allocatable_bytes=self._witnesses.allocatable_bytes(),
        )
        is_new = document["id"] not in self._seen
        seen = self._see(document, facts, found, elsewhere, killed_at)
        # Another process looked when it was killed: what it saw of the node, or of what is gone, is gone.
        blind = seen.judgement is None or (is_new and facts.cause in NODE_PRESSURE)
        if blind and late.diagnosis is not None and _rests_on_witnesses(late.diagnosis):
            return late.diagnosis
        facts = replace(facts, hints=seen.hints, history=seen.history, neighbours=seen.neighbours, node=seen.node)
        return to_json(diagnose(facts, factor=self._factor, judgement=seen.judgement))

    def _with_cron_job(self, pod: Pod | None) -> Pod | None:
        """A Job cannot be changed, what makes it can."""
        if pod is None or pod.namespace is None or pod.owner is None:
            return pod
        return replace(pod, owner=self._rollouts.owner_of(pod.namespace, pod.owner))

    # Witnesses

    def _see(self, document: Document, facts: Facts, found: Found | None, elsewhere: Past, killed_at: float) -> _Seen:
        former = self._seen.get(document["id"], _Seen())
        if document["boot_id"] != self._boot_id:
            return former
        # Not the log's own stamp: printk's clock drifts by seconds a day, and kills by counters alone have none.
        ago = time.time() - killed_at
        seen = self._look(facts, found, elsewhere, at=time.monotonic() - ago, killed_at=killed_at)
        # The other containers may have begun another life since the first look.
        seen = replace(seen, neighbours=former.neighbours or seen.neighbours)
        seen = seen.or_else(former) if ago < REMEMBERED_SECONDS else former.or_else(seen)
        self._seen[document["id"]] = seen
        self._seen.move_to_end(document["id"])
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return seen

    def _look(self, facts: Facts, found: Found | None, elsewhere: Past, *, at: float, killed_at: float) -> _Seen:
        """at: of the kill, by CLOCK_MONOTONIC."""
        history = self._history(facts, at)
        container_id = facts.container.id if facts.container else None
        if container_id is not None and _judged_part(facts) == container_id:
            history = elsewhere.begin_earlier(history, container_id, until=at, offset=at - killed_at)
        if history is not None:
            judged = _up_to_the_kill(history.last, facts, at)
            history = replace(history, lives=(*history.lives[:-1], judged), cause=facts.cause)
        return _Seen(
            hints=self._witnesses.hints_of(facts.victim, at=at),
            history=_ends_of(history) if history else None,
            judgement=_in_unix_time(judge_facts(replace(facts, history=history)), killed_at - at) if history else None,
            neighbours=self._neighbours(facts, found, at),
            node=self._node_facts(facts, at, killed_at) if facts.cause in NODE_PRESSURE else None,
        )

    def _node_facts(self, facts: Facts, at: float, killed_at: float) -> NodeFacts:
        node = gather_node_facts(
            facts.tasks,
            at=at,
            killed_at=datetime.fromtimestamp(killed_at, UTC),
            history=self._witnesses.history,
            pods=self._cluster.known(),
            find=lambda task: self._witnesses.memcg_of(task.pid, task.comm, at=at),
            stale_seconds=self._stale_seconds,
        )
        if self._condition is None:
            return node
        pressure = self._condition.memory_pressure(killed_at)
        return replace(node, memory_pressure=pressure.at_kill, memory_pressure_seconds=pressure.seconds)

    def _neighbours(self, facts: Facts, found: Found | None, at: float) -> tuple[Neighbour, ...] | None:
        """The other containers of the pod, with their last samples before the kill."""
        if found is None or facts.pod is None:
            return None
        own = facts.container.name if facts.container else None
        return tuple(
            Neighbour(
                name=one.name,
                kind=one.kind,
                working_set_bytes=self._working_set(one.id, at) if one.id else None,
                limit_bytes=one.limit_bytes,
                request_bytes=one.request_bytes,
            )
            for one in found.pod.containers
            if one.name != own
        )

    def _working_set(self, container_id: str, at: float) -> int | None:
        for _, life in self._witnesses.history.of_part(container_id):
            sampled = life.sample_at(at)
            if sampled is not None and sampled[0] >= at - self._stale_seconds:
                return sampled[1].working_set
        return None

    # Histories: a container's cgroup is another after each restart

    def _history(self, facts: Facts, at: float) -> MemoryHistory | None:
        """None: of what was hit nothing was sampled."""
        judged = _judged_part(facts)
        own = self._lives_of(judged, at) if judged else []
        if not own:
            return None
        key, last = own[-1]
        former = own[:-1]
        if facts.container is not None and judged == facts.container.id:
            former = [*self._instances_before(facts, key, last.began), *former]
        kills = [at - kill.seconds_before for kill in facts.former]
        lives = [
            from_life(one, started=self._witnesses.saw_begin(one), killed=self._ended_with_one_of(kills, one))
            for _, one in former[1 - MAX_LIVES :]
        ]
        # Where it outlived a kill before, what was killed now is not what was started then.
        started = self._witnesses.saw_begin(last) and not any(kill > last.began for kill in kills)
        judged_life = from_life(last, started=started, killed=True, until=max(at, last.began))
        return MemoryHistory(lives=(*lives, judged_life))

    def _lives_of(self, name: str, at: float) -> list[tuple[Key, _Kept]]:
        """Of the cgroup of this name, which may have been made anew, up to the one that was there at the kill."""
        found = [one for one in self._witnesses.history.of_part(name) if name in one[0].path.rpartition("/")[2]]
        found.sort(key=lambda one: one[1].began)
        # The first sample of the only one may have come a moment after the kill.
        return [one for one in found if one[1].began <= at] or found[:1]

    def _instances_before(self, facts: Facts, own: Key, began: float) -> list[tuple[Key, _Kept]]:
        """Of the same container of the same pod, oldest first."""
        name, pod = facts.container.name if facts.container else None, facts.pod
        if name is None or pod is None:
            return []
        beside = self._witnesses.history.of_part(f"{own.path.rpartition('/')[0]}/")
        same = [
            (key, life)
            for key, life in beside
            if key.path != own.path and life.last_at < began and self._name(pod.uid, key) == name
        ]
        return sorted(same, key=lambda one: one[1].began)

    def _name(self, pod_uid: PodUid, key: Key) -> str | None:
        names = self._cluster.names(pod_uid, parse_memcg_path(key.path).container_id)
        return names.container if names else None

    def _ended_with_one_of(self, kills: list[float], life: _Kept) -> bool:
        return any(abs(kill - life.last_at) <= self._stale_seconds for kill in kills)


def _former(kill: FormerKill, killed_at: float) -> Former:
    return Former(killed_at - kill.at, Cause(kill.cause), kill.revision, kill.limit_bytes)


def _judged_part(facts: Facts) -> str | None:
    """A part of the path of the cgroup whose memory explains the kill: the container's, or that of a whole pod."""
    if facts.cause not in _JUDGED:
        return None
    if facts.cause is Cause.POD_LIMIT and not facts.lone and facts.oom_memcg is not None:
        return facts.oom_memcg.rpartition("/")[2] or None
    return facts.container.id if facts.container else None


def _up_to_the_kill(life: Life, facts: Facts, at: float) -> Life:
    """
    The moment of the kill is the last point: with what the kernel's report says of it, else as much as the limit that
    was hit. What was sampled may be from before the rise, or from after the kill.
    """
    if facts.cause not in _OF_THE_WORKLOAD:
        return life
    memory = None if facts.memory_is_sampled else facts.memory
    limit = facts.memory.limit_bytes if facts.memory else None
    points = [point if point.limit else point._replace(limit=limit) for point in life.points]
    limit, last = limit or points[-1].limit, max(at, points[-1].time)
    if memory is not None and memory.usage_bytes is not None:
        used = max(0, memory.usage_bytes - memory.stat.get("inactive_file", 0))
        parts = {name: memory.stat.get(name) for name in ("anon", "file", "shmem", "kernel")}
        points.append(Point(last, used, used, used, limit, **parts))
    elif limit is not None:
        points.append(Point(last, limit, limit, limit, limit))
    return replace(life, points=tuple(points))


def _in_unix_time(judgement: Judgement, offset: float) -> Judgement:
    """What a document tells is read long after this boot."""
    since = judgement.growth_since
    return judgement if since is None else replace(judgement, growth_since=since + offset)


def _ends_of(history: MemoryHistory) -> MemoryHistory:
    """What is left to findings and advice when it has been judged."""
    lives = (replace(life, points=(*life.points[:1], *life.points[1:][-_LAST_POINTS:])) for life in history.lives)
    return replace(history, lives=tuple(lives))


def _rests_on_witnesses(diagnosis: dict[str, Any]) -> bool:
    evidence = [one for finding in diagnosis["findings"] for one in finding["evidence"]]
    by_history = diagnosis["pattern"] not in (Pattern.UNKNOWN, Pattern.NODE_PRESSURE)
    return by_history or any(one.startswith(_OF_WITNESSES) for one in evidence)
