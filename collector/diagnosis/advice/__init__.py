"""
What to do: first what stops the bleeding, then what cures, each step with its reason. We never do it ourselves.

Which steps there are hangs on the pattern; each says nothing where what it rests on is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.diagnosis.advice.leak import advise_fix, advise_not_to_raise, advise_roll_back
from collector.diagnosis.advice.limits import advise_limit, advise_request
from collector.diagnosis.advice.profiling import advise_profile
from collector.diagnosis.advice.runtime import advise_runtime
from collector.diagnosis.advice.sizes import own_limit, present_limit, size_limit
from collector.diagnosis.advice.victim import advise_victim
from collector.diagnosis.advice.volumes import advise_volume
from collector.diagnosis.advice.words import Given, target_of
from collector.diagnosis.model import Action, Advice, FindingKind, Pattern
from collector.diagnosis.node import advise_node
from collector.diagnosis.robust import median
from collector.model import NODE_PRESSURE, Cause
from collector.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from collector.diagnosis.model import Facts, Finding, Judgement, Value

FACTOR = 1.25
"""A limit is that many times the peak."""


def advise(
    facts: Facts, judgement: Judgement, findings: tuple[Finding, ...], *, factor: float = FACTOR
) -> tuple[Advice, ...]:
    """factor: above 1."""
    target = target_of(facts)
    return tuple(_advise(Given(facts=facts, judgement=judgement, findings=findings, target=target, factor=factor)))


def _advise(given: Given) -> Iterator[Advice]:
    facts, pattern = given.facts, given.judgement.pattern
    if facts.cause in NODE_PRESSURE or pattern is Pattern.NODE_PRESSURE:
        node = advise_node(facts, given.findings)
        yield from node
        yield from advise_victim(given, node)
    elif facts.cause is Cause.SYSTEM_LIMIT:
        yield _system(facts)
    elif facts.cause is not Cause.MANUAL:
        steps = list(_STEPS[pattern](given))
        yield from steps
        if given.found(FindingKind.NO_REQUEST) and all(one.values.get("request_bytes") is None for one in steps):
            yield from advise_request(given)


def _leak(given: Given) -> Iterator[Advice]:
    limit = present_limit(given.facts, given.judgement)
    yield from advise_not_to_raise(given)
    yield advise_profile(given)
    yield from advise_volume(given, limit)
    yield from advise_runtime(given, own_limit(given.facts, given.judgement), new=False)
    if given.judgement.grows == "kernel":
        yield from _kernel_memory(given)
    yield from advise_roll_back(given)
    yield advise_fix(given)


def _too_low(given: Given) -> Iterator[Advice]:
    raised = list(advise_limit(given))
    yield from raised
    new = next((one.values for one in raised if one.action in _CHANGE_LIMIT), {})
    own = new.get("limit_bytes") if _is_of_victim(new, given) else None
    yield from advise_runtime(given, _size(own) or own_limit(given.facts, given.judgement), new=own is not None)
    # A volume is the pod's, and so is its limit.
    limit = _size(new.get("pod_limit_bytes", new.get("limit_bytes")))
    yield from advise_volume(given, limit or present_limit(given.facts, given.judgement))
    yield from _kernel_memory(given)
    yield from _fan_out(given)


_CHANGE_LIMIT = frozenset({Action.SET_LIMIT, Action.CHANGE_NESTED_LIMIT})


def _is_of_victim(new: Mapping[str, Value], given: Given) -> bool:
    """At a pod's limit it may be another container's that is raised, or the pod's."""
    return new.get("scope") != "pod" and new.get("container", given.target.container) == given.target.container


def _size(value: Value) -> int | None:
    return value if isinstance(value, int) else None


def _spike(given: Given) -> Iterator[Advice]:
    yield from _too_low(given)
    yield _bound_load(given)


def _unknown(given: Given) -> Iterator[Advice]:
    yield from _too_low(given)
    yield from _observe(given)


def _calm(_: Given) -> Iterator[Advice]:
    return iter(())


_STEPS: dict[Pattern, Callable[[Given], Iterator[Advice]]] = {
    Pattern.STARTUP: _too_low,
    Pattern.LIMIT_TOO_LOW: _too_low,
    Pattern.SPIKE: _spike,
    Pattern.LEAK: _leak,
    Pattern.UNKNOWN: _unknown,
    Pattern.CALM: _calm,
}


def _bound_load(given: Given) -> Advice:
    size, before = size_limit(given.facts, given.judgement, given.factor), _just_before(given)
    jump = size.peak_bytes - before if size is not None and before is not None and size.peak_bytes > before else None
    what = "" if jump is None else f": it took {human_bytes(jump)} more than just before"
    return Advice(
        action=Action.BOUND_LOAD,
        text=f"Bound what arrives at once (concurrency, queues, request and batch sizes) or scale out{what}",
        values={**given.target.values, "jump_bytes": jump},
    )


def _just_before(given: Given) -> int | None:
    """What it used before the rise; where no samples are known, as usual."""
    history = given.facts.history
    sizes = [point.working_set for point in history.last.points[-1 - _BEFORE : -1]] if history else []
    return round(median(sizes)) if sizes else given.judgement.steady_bytes


_BEFORE = 10
"""Samples."""
_KERNEL_CURES = {
    "slab": "look for files, directories and sockets that are opened and never closed",
    "sock": "bound connections and socket buffers",
    "pagetables": "fewer processes, or huge pages, for what maps much memory",
    "kernel_stack": "fewer threads",
    "percpu": "fewer cgroups and maps",
}


def _kernel_memory(given: Given) -> Iterator[Advice]:
    finding = given.found(FindingKind.KERNEL_MEMORY)
    if finding is None:
        return
    part = finding.values.get("part")
    cure = _KERNEL_CURES.get(str(part), "bound what the kernel keeps for it: files, sockets, threads, mappings")
    yield Advice(
        action=Action.REDUCE_KERNEL_MEMORY,
        text=f"Reduce the kernel memory of {given.target}, which no heap profile shows: {cure}",
        values={**given.target.values, "part": part},
    )


def _fan_out(given: Given) -> Iterator[Advice]:
    if given.found(FindingKind.PROCESS_FAN_OUT):
        yield Advice(
            action=Action.BOUND_LOAD,
            text=f"Bound how many processes {given.target} runs at once: together they filled the limit, not one alone",
            values=given.target.values,
        )


def _observe(given: Given) -> Iterator[Advice]:
    if not given.judgement.missing:
        return
    missing = ", ".join(given.judgement.missing)
    yield Advice(
        action=Action.OBSERVE,
        text=f"Let it be observed until the next kill: whether it leaks cannot be told yet ({missing})",
        values={"missing": missing},
    )


def _system(facts: Facts) -> Advice:
    present = facts.memory.limit_bytes if facts.memory else None
    limit = "" if present is None else f" ({human_bytes(present)})"
    return Advice(
        action=Action.OBSERVE,
        text=f"No pod's limit was hit, but that of a cgroup of the host{limit}: raise it in its unit, or in "
        "kubeReserved or systemReserved, if its use is meant",
        values={"cgroup": facts.oom_memcg, "present_limit_bytes": present},
    )
