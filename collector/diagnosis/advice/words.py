"""What the steps have in common: whose they are, and how their numbers are said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from collector.diagnosis.commands import Workload, workload_of
from collector.diagnosis.model import FindingKind, Value
from collector.model import Cause, ContainerKind

if TYPE_CHECKING:
    from collector.diagnosis.advice.sizes import Lasting
    from collector.diagnosis.model import Facts, Finding, Judgement

Values = dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    The container that a step is for; `whole`: all of the pod, where nobody knows which. `pod`, `namespace`: where it
    runs now.
    """

    workload: Workload | None
    container: str | None
    kind: ContainerKind | None
    namespace: str | None
    pod: str | None
    whole: bool = False

    def __str__(self) -> str:
        if self.whole:
            return "the pod"
        return "the container" if self.container is None else f"container {self.container}"

    @property
    def values(self) -> Values:
        values: Values = {"scope": "pod"} if self.whole else {}
        if self.container is not None:
            values["container"] = self.container
        if self.kind is not None and self.kind is not ContainerKind.APP:
            values["container_kind"] = str(self.kind)
        if self.workload is not None:
            values |= {"workload": str(self.workload), "namespace": self.workload.namespace}
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What every step may rest on. `factor`: a limit is that many times the peak; above 1."""

    facts: Facts
    judgement: Judgement
    findings: tuple[Finding, ...]
    target: Target
    factor: float

    def found(self, kind: FindingKind) -> Finding | None:
        return next((finding for finding in self.findings if finding.kind is kind), None)

    @property
    def judged(self) -> Target:
        """Whose memory the history is: at a pod's limit that of all its containers, not the victim's."""
        if not of_whole_pod(self.facts):
            return self.target
        return replace(self.target, container=None, kind=None, whole=True)


def outlives(given: Given) -> bool:
    """Its shared memory is files, not what the victim itself has mapped."""
    finding = given.found(FindingKind.SHARED_MEMORY)
    return finding is not None and finding.values.get("outlives_container") is True


def of_whole_pod(facts: Facts) -> bool:
    """The limit that was hit is that of several containers together."""
    return facts.cause is Cause.POD_LIMIT and not facts.lone


def target_of(facts: Facts) -> Target:
    container, pod = facts.container, facts.pod
    return Target(
        workload=workload_of(facts),
        container=container.name if container else None,
        kind=container.kind if container else None,
        namespace=pod.namespace if pod else None,
        pod=pod.name if pod else None,
    )


def how(workload: Workload | None, *, resize: bool = False) -> str:
    """How it is applied, where no command does it alone: " (...)" or "". resize: a pod's resources can be changed."""
    if workload is None:
        return ""
    match workload.kind:
        case "Node":
            return " (a static pod: edit its manifest on the node)"
        case "Job":
            return " (a Job cannot be changed: edit its manifest and create it anew)"
        case "Pod" if resize:
            return " (in place from Kubernetes 1.33 on, else create the pod anew)"
        case "Pod":
            return " (a pod cannot be changed: create it anew)"
        case "ReplicaSet" | "ReplicationController":
            return " (its pods take it when they are made anew)"
        case _:
            pass
    return "" if workload.known else f" (in the {workload.kind} that owns the pod: its operator undoes other changes)"


def lasting_values(lasting: Lasting) -> Values:
    return {"lasts_seconds": round(lasting.seconds, 1), "lasts_hours": round(lasting.seconds / 3600, 3)}


def hours(lasting: Lasting) -> str:
    """`0.25 h`, `9.5 h`, `66 h`, `1200 h`: what a leak buys is compared in one unit."""
    count = lasting.seconds / 3600
    number = f"{count:.2g}" if count < 1 else f"{count:.1f}".removesuffix(".0") if count < 100 else f"{count:.0f}"
    return f"{'at least ' if lasting.at_least else ''}{number} h"
