"""What an agent has to tell of a kill: the same questions to a real cluster and to the double."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.cluster.killers import Killer

Document = dict[str, Any]
T = TypeVar("T")


class Witness(Protocol):
    """What can be learned of one node."""

    namespace: str

    def pod(self, name: str) -> dict[str, Any] | None:
        """As the API shows it now."""

    def printed(self) -> list[Document]:
        """The agent's standard output."""

    def journal(self) -> list[Document]: ...
    def counters(self) -> Mapping[str, float]:
        """Samples of /metrics."""

    def events(self) -> list[dict[str, Any]]:
        """Of events.k8s.io/v1, in the namespace, by the agent."""


class Patience(NamedTuple):
    """Seconds. killed: from a pod's creation, image included. told: from when the journal has the kill."""

    killed: float = 240.0
    told: float = 60.0
    pause: float = 1.0


PATIENCE = Patience()
_REASONS = {"container_limit": "ContainerOOMKill", "pod_limit": "PodOOMKill"}


def until(ask: Callable[[], T | None], what: str, *, seconds: float, pause: float = 1.0) -> T:
    """The first answer that is one."""
    give_up = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds:.0f} s: {what}; the last answer was {answer!r}")
        time.sleep(pause)


def samples(exposition: str) -> dict[str, float]:
    """Of /metrics, by name and labels as they stand there."""
    lines = (line.rpartition(" ") for line in exposition.splitlines() if line and not line.startswith("#"))
    return {sample: float(value) for sample, _, value in lines}


def refused(counters: Mapping[str, float]) -> dict[str, float]:
    """Deliveries that a server would not take, where there were any."""
    return {sample: value for sample, value in counters.items() if 'outcome="refused"' in sample and value}


def incidents(documents: list[Document], pod: Mapping[str, Any]) -> list[Document]:
    uids = {pod["metadata"]["uid"], event_uid(pod)}
    return [document for document in documents if document["pod"] is not None and document["pod"]["uid"] in uids]


def event_uid(pod: Mapping[str, Any]) -> str:
    """Under which `kubectl describe pod` looks for Events, and under which a static pod is in cgroups."""
    metadata = pod["metadata"]
    return str(metadata.get("annotations", {}).get("kubernetes.io/config.mirror", metadata["uid"]))


def container_status(pod: Mapping[str, Any], name: str) -> dict[str, Any]:
    status = pod.get("status", {})
    found = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    return next((each for each in found if each["name"] == name), {})


def check_kill(witness: Witness, killer: Killer, patience: Patience = PATIENCE) -> Document:
    """Its first kill, in the journal, on standard output, as an Event, in the counters, with its fate. The document."""

    def wait(ask: Callable[[], T | None], what: str, seconds: float) -> T:
        return until(ask, f"{killer.name}: {what}", seconds=seconds, pause=patience.pause)

    def first() -> Document | None:
        """The journal has the newest first."""
        pod = witness.pod(killer.name)
        found = incidents(witness.journal(), pod) if pod else []
        return found[-1] if found else None

    wait(first, "an incident in the journal", patience.killed)
    seen = time.monotonic()

    def left() -> float:
        return patience.told - (time.monotonic() - seen)

    def named() -> Document | None:
        document = first()
        return document if document and document["fate"] and document["attribution"]["names_from"] == "api" else None

    document = wait(named, "names and fate in the journal", left())
    pod = witness.pod(killer.name)
    assert pod is not None
    assert (document["pod"]["namespace"], document["pod"]["name"]) == (witness.namespace, killer.name)
    assert (document["container"]["name"], document["container"]["kind"]) == (killer.container, killer.kind)
    assert document["cause"] in killer.causes, document["reason"]
    assert document["container"]["limit_bytes"] == 64 << 20
    assert document["fate"] in killer.fates, document

    def on_stdout() -> list[Document]:
        return [line for line in witness.printed() if line["id"] == document["id"]]

    (line,) = wait(on_stdout, "the incident on standard output", left())
    assert line["fate"] is None
    assert (line["pod"]["name"], line["container"]["name"]) == (killer.name, killer.container)
    wait(lambda: _event(witness, killer, pod, _REASONS[document["cause"]]), "the Event", left())
    sample = f'oom_kills_total{{cause="{document["cause"]}"}}'
    ours = sum(each["cause"] == document["cause"] for each in incidents(witness.journal(), pod))
    wait(lambda: witness.counters()[sample] >= ours, "the kill in the counters", left())
    return document


def _event(witness: Witness, killer: Killer, pod: Mapping[str, Any], reason: str) -> dict[str, Any] | None:
    """None: there is none yet."""
    found = [
        event
        for event in witness.events()
        if event["regarding"].get("uid") == event_uid(pod) and event["reason"] == reason
    ]
    if not found:
        return None
    # A repeat is a series on the first, unless an hour has passed by in between.
    event = found[0]
    assert (event["type"], event["action"], event["regarding"]["name"]) == ("Warning", "Killed", killer.name)
    assert event["regarding"]["fieldPath"] == killer.field_path()
    assert killer.container in event["note"]
    return event
