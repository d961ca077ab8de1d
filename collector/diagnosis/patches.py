"""
What the kills of a journal advise to change in manifests: for each container, the word of the newest kill that has one.

The journal may be of a former version or damaged: what is not as it should be says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from collector.diagnosis.commands import (
    Object,
    Workload,
    container_resources,
    patch_file,
    patch_with_file,
    pod_limit,
    vpa_recommendation,
)
from collector.diagnosis.model import Action, Pattern
from collector.model import ContainerKind

_OF_THE_LIMIT = frozenset({Action.SET_LIMIT, Action.SET_RUNTIME_FLAG, Action.DO_NOT_RAISE_LIMIT, Action.FIX_LEAK})
_SHOWN = frozenset({Action.SET_LIMIT, Action.SET_REQUEST, Action.SET_RUNTIME_FLAG})


class Manifest(NamedTuple):
    """A YAML document, and the lines above it, not yet printable: how it is applied, for which kill, why."""

    comments: tuple[str, ...]
    content: Object


class Place(NamedTuple):
    """`container` None: the pod as a whole, for pod-level resources."""

    workload: Workload
    container: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`of_limit`: the kill said something of the limit, if only that it must stay; else of the request alone."""

    place: Place
    kind: ContainerKind | None = None
    of_limit: bool = False
    limit_bytes: int | None = None
    request_bytes: int | None = None
    peak_bytes: int | None = None
    steady_bytes: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    comments: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return self.limit_bytes is None and self.request_bytes is None and not self.variables

    def before(self, older: Change) -> Change:
        """What both say together: a flag belongs to the limit that it was made for, a request may be newer."""
        fits = older.limit_bytes is None or (self.request_bytes or 0) <= older.limit_bytes
        if self.of_limit or not older.of_limit or not fits:
            return self
        return replace(older, request_bytes=self.request_bytes, comments=(*self.comments, *older.comments))


def newest_changes(documents: Iterable[Mapping[str, Any]]) -> list[Change]:
    """
    documents: the newest first. The limit of what was ever judged a leak is raised only by a newer judgement, never by
    a kill whose pattern is not known.
    """
    changes: dict[Place, Change] = {}
    unsure: set[Place] = set()
    for document in documents:
        diagnosis = document.get("diagnosis")
        if not isinstance(diagnosis, dict):
            continue
        pattern = diagnosis.get("pattern")
        for place, steps in _steps(diagnosis, pattern).items():
            new = _change(place, steps, document, diagnosis)
            if place in unsure and pattern == Pattern.LEAK:
                changes[place] = new
            elif place in changes:
                changes[place] = changes[place].before(new)
            else:
                changes[place] = new
                unsure.add(place)
            if pattern != Pattern.UNKNOWN:
                unsure.discard(place)
    return [change for change in changes.values() if not change.is_empty]


def patches(changes: Iterable[Change]) -> Iterator[Manifest]:
    """One a workload: a strategic merge patch, for `kubectl patch --patch-file` and kustomize."""
    for workload, of_it in _by_workload(changes).items():
        made = patch_file(workload, _pod_spec(of_it))
        if made is not None:
            line = patch_with_file(workload)
            yield Manifest((*([line] if line else ()), *_comments(of_it)), made)


def recommendations(changes: Iterable[Change]) -> Iterator[Manifest]:
    """One a workload, as a VerticalPodAutoscaler holds them; of limits only."""
    for of_it in _by_workload(changes).values():
        made = [(change, one) for change in of_it if (one := _recommendation(change)) is not None]
        if made:
            first, containers = made[0][1], [_container_of(one) for _, one in made]
            status: Object = {"recommendation": {"containerRecommendations": containers}}
            yield Manifest(_comments([change for change, _ in made]), {**first, "status": status})


# From documents


def _steps(diagnosis: Mapping[str, Any], pattern: object) -> dict[Place, list[Mapping[str, Any]]]:
    steps: dict[Place, list[Mapping[str, Any]]] = defaultdict(list)
    advice = diagnosis.get("advice")
    for step in advice if isinstance(advice, list) else ():
        place = _place(step) if isinstance(step, dict) else None
        action = step.get("action") if place is not None else None
        if place is None or not isinstance(action, str) or action not in _OF_THE_LIMIT | _SHOWN:
            continue
        if pattern == Pattern.LEAK:
            if action == Action.SET_LIMIT:
                continue
            steps[place._replace(container=None)] += []  # nor is its pod's limit raised
        # A pod that runs takes only what a command can do.
        if action not in _SHOWN or place.workload.kind != "Pod" or step.get("command"):
            steps[place].append(step)
    return steps


def _place(step: Mapping[str, Any]) -> Place | None:
    texts = [step.get(name) for name in ("namespace", "workload", "container")]
    if not all(isinstance(text, str) and text for text in texts[:2]):
        return None
    namespace, workload, container = cast("list[str]", texts)
    kind, _, name = workload.partition("/")
    whole = step.get("scope") == "pod" or not isinstance(container, str)
    return Place(Workload(namespace=namespace, kind=kind, name=name), None if whole else container)


def _change(
    place: Place, steps: Sequence[Mapping[str, Any]], document: Mapping[str, Any], diagnosis: Mapping[str, Any]
) -> Change:
    """steps: in their order, the first that says a number counts. None at all: of a leak."""
    container = document.get("container")
    victim = container.get("name") if isinstance(container, dict) else None
    changing = [step for step in steps if step["action"] in _SHOWN]
    kinds = [kind for step in steps if isinstance(kind := step.get("container_kind"), str)]
    return Change(
        place=place,
        kind=next((ContainerKind(kind) for kind in kinds if kind in set(ContainerKind)), None),
        of_limit=not steps or any(step["action"] in _OF_THE_LIMIT for step in steps),
        limit_bytes=_size(changing, "limit_bytes"),
        request_bytes=_size(changing, "request_bytes"),
        peak_bytes=_size(changing, "peak_bytes"),
        steady_bytes=_size([diagnosis], "steady_bytes") if place.container == victim else None,
        variables={str(step["variable"]): str(step["value"]) for step in changing if _sets_variable(step)},
        comments=(_kill(document, diagnosis), *(str(step.get("text")) for step in changing)) if changing else (),
    )


def _size(steps: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return next((step[name] for step in steps if type(step.get(name)) is int and step[name] > 0), None)


def _sets_variable(step: Mapping[str, Any]) -> bool:
    return isinstance(step.get("variable"), str) and isinstance(step.get("value"), str)


def _kill(document: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> str:
    time, confidence = document.get("time"), diagnosis.get("confidence")
    when = f"{time[:19]}Z" if isinstance(time, str) else "at an unknown time"
    sure = f" (confidence {confidence:.2f})" if isinstance(confidence, int | float) and 0 <= confidence <= 1 else ""
    judged = f"{document.get('cause')}, {diagnosis.get('pattern')}{sure}"
    return f"Kill {document.get('id')} {when}, {judged}: {document.get('summary')}"


# To manifests


def _by_workload(changes: Iterable[Change]) -> dict[Workload, list[Change]]:
    found: dict[Workload, list[Change]] = defaultdict(list)
    for change in changes:
        found[change.place.workload].append(change)
    return found


def _comments(changes: Iterable[Change]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(comment for change in changes for comment in change.comments))


def _pod_spec(changes: Iterable[Change]) -> Object:
    spec: dict[str, Any] = {}
    for change in changes:
        limit, container = change.limit_bytes, change.place.container
        if container is None:
            spec |= pod_limit(limit, change.request_bytes) if limit is not None else {}
            continue
        made: Any = container_resources(container, kind=change.kind, limit=limit, request=change.request_bytes)
        [(section, [part])] = made.items()
        if not part["resources"]:
            del part["resources"]
        if change.variables:
            part["env"] = [{"name": name, "value": value} for name, value in change.variables.items()]
        spec.setdefault(section, []).append(part)
    return spec


def _recommendation(change: Change) -> Object | None:
    container = change.place.container
    if container is None or change.limit_bytes is None or change.kind is ContainerKind.INIT:
        return None
    return vpa_recommendation(
        change.place.workload,
        container,
        limit=change.limit_bytes,
        request=change.request_bytes,
        peak=change.peak_bytes,
        steady=change.steady_bytes,
    )


def _container_of(recommendation: Any) -> object:
    return recommendation["status"]["recommendation"]["containerRecommendations"][0]
