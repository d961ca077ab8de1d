"""
Node pressure: who filled the node, why this victim, whether the kubelet was too late, and what the operator can do.

Nothing here concerns a kill at the victim's own limit, nor one that somebody asked for (sysrq-f). Names are as the log
and the API have them: whoever prints them escapes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.diagnosis.node.advice import advise_node
from collector.diagnosis.node.choice import find_choice
from collector.diagnosis.node.evictions import find_evictions
from collector.diagnosis.node.filled import find_filled
from collector.model import NODE_PRESSURE

if TYPE_CHECKING:
    from collector.diagnosis.model import Facts, Finding

__all__ = ["advise_node", "find_node"]


def find_node(facts: Facts) -> tuple[Finding, ...]:
    if facts.cause not in NODE_PRESSURE:
        return ()
    found = (find_filled(facts), find_choice(facts), find_evictions(facts))
    return tuple(finding for finding in found if finding is not None)
