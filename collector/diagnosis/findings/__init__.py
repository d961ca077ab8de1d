"""
What contributed to a kill: findings, each with its numbers and with what it rests on. Rules are independent of each
other; a fact that they need and do not have keeps them silent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collector.diagnosis.findings.jvm import jvm_heap
from collector.diagnosis.findings.memory import kernel_memory, page_cache, shared_memory, swap_full
from collector.diagnosis.findings.processes import (
    child_killed,
    fan_out,
    init_victim,
    neighbour,
    prefork,
    sidecar_victim,
)
from collector.diagnosis.findings.repeats import crash_loop, repeated, rollout
from collector.diagnosis.findings.runtime import go_memory_limit, nodejs_heap
from collector.diagnosis.findings.spec import limit_differs, no_limit, no_request
from collector.diagnosis.model import FindingKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.diagnosis.model import Facts, Finding, Judgement

    Rule = Callable[[Facts], Finding | None]

HOLDERS: tuple[Rule, ...] = (
    shared_memory,
    kernel_memory,
    page_cache,
    neighbour,
    jvm_heap,
    nodejs_heap,
    go_memory_limit,
    prefork,
    fan_out,
)
"""Who or what held the memory. Each has `percent` in its values: of what it explains."""
CIRCUMSTANCES: tuple[Rule, ...] = (
    rollout,
    limit_differs,
    swap_full,
    child_killed,
    sidecar_victim,
    init_victim,
    crash_loop,
    repeated,
    no_limit,
    no_request,
)


_PARTS = {
    FindingKind.SHARED_MEMORY: "shmem",
    FindingKind.KERNEL_MEMORY: "kernel",
    FindingKind.PAGE_CACHE: "file",
}


def find(facts: Facts, judgement: Judgement) -> tuple[Finding, ...]:
    """What explains most comes first. Names from logs and specs stand in the texts as they are."""
    held = [_weigh_growth(finding, judgement) for rule in HOLDERS if (finding := rule(facts)) is not None]
    held.sort(key=_explained, reverse=True)
    return (*held, *(finding for rule in CIRCUMSTANCES if (finding := rule(facts)) is not None))


def _weigh_growth(finding: Finding, judgement: Judgement) -> Finding:
    if judgement.grows is None or _PARTS.get(finding.kind) != judgement.grows:
        return finding
    return replace(
        finding,
        text=f"{finding.text}; it is what grows",
        values={**finding.values, "grows": True},
        evidence=(*finding.evidence, "history"),
    )


def _explained(finding: Finding) -> int:
    share = finding.values["percent"]
    return share if isinstance(share, int) else 0
