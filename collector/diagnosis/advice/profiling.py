"""How to see what holds the memory, by runtime. A restart loses it: so this comes before all that restarts."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from collector.diagnosis.advice.limits import holder_of
from collector.diagnosis.advice.words import outlives
from collector.diagnosis.commands import forward, in_container
from collector.diagnosis.model import Action, Advice, Finding, FindingKind

if TYPE_CHECKING:
    from collector.diagnosis.advice.words import Given, Target
    from collector.diagnosis.model import Facts


class Runtime(StrEnum):
    JVM = "java"
    NODEJS = "node"
    GO = "go"
    PYTHON = "python"


_OF_FINDING = {
    FindingKind.JVM_HEAP: Runtime.JVM,
    FindingKind.NODEJS_HEAP: Runtime.NODEJS,
    FindingKind.GO_MEMORY_LIMIT: Runtime.GO,
}
_OF_COMM = (
    (re.compile(r"java"), Runtime.JVM),
    (re.compile(r"node|nodejs"), Runtime.NODEJS),
    (re.compile(r"python[0-9.]*|gunicorn|uwsgi|uvicorn|celery"), Runtime.PYTHON),
)
_WARNING = "Before any restart or rollback, which lose the evidence:"
_PPROF_PORT = 6060


class _How(NamedTuple):
    text: str
    arguments: tuple[str, ...]


_HOW = {
    Runtime.JVM: _How(
        "dump the heap (jcmd of a JDK, else jmap; pid 1 is java's where no shell wraps it; needs as much room in /tmp)",
        ("jcmd", "1", "GC.heap_dump", "/tmp/heap.hprof"),
    ),
    # SIGUSR2 would end a node that was not started with --heapsnapshot-signal; SIGUSR1 opens the inspector in any.
    Runtime.NODEJS: _How(
        "open the inspector (port 9229), take heap snapshots through kubectl port-forward; or start it with "
        "--heapsnapshot-signal=SIGUSR2 and send kill -USR2",
        ("kill", "-USR1", "1"),
    ),
    Runtime.PYTHON: _How(
        "see what runs (py-spy in the image, SYS_PTRACE); what allocates, tracemalloc tells from the next start on "
        "(PYTHONTRACEMALLOC=10)",
        ("py-spy", "dump", "--pid", "1"),
    ),
}


_NOT_OF_A_HEAP = {
    "shmem": _How(
        "See which tmpfs fills (then, with what: ls): its files stay until they are removed or the pod is", ("df", "-h")
    ),
    "kernel": _How(
        f"{_WARNING} see which part of the kernel's memory grows (slab, sock, pagetables, kernel_stack, ...): no heap "
        "profile shows it",
        ("cat", "/sys/fs/cgroup/memory.stat"),
    ),
}
"""By what grows."""


def advise_profile(given: Given) -> Advice:
    target, runtime = given.target, runtime_of(given.facts, given.findings)
    if given.judged.whole:
        holder = holder_of(given.facts, target, given.judgement.peak_bytes)
        if holder != target:  # of what runs there nothing is known
            target, runtime = given.judged if holder.container is None else holder, None
    text, command = f"{_WARNING} profile the memory of {target} while it is high, twice, and compare", None
    if other := _not_of_a_heap(given):
        runtime, text, command = None, other.text, _exec(target, *other.arguments)
    elif runtime is Runtime.GO:
        text = f"{_WARNING} read the heap profile, if the program serves net/http/pprof (here on port {_PPROF_PORT})"
        command = _pprof(target)
    elif runtime is not None:
        how = _HOW[runtime]
        text, command = f"{_WARNING} {how.text}", _exec(target, *how.arguments)
    return Advice(
        action=Action.PROFILE,
        text=text,
        values={**target.values, "runtime": None if runtime is None else str(runtime), "pod": target.pod},
        command=command,
    )


def _not_of_a_heap(given: Given) -> _How | None:
    grows = given.judgement.grows
    if grows == "shmem" and not outlives(given):  # a mapping, which is the process's own
        return None
    return _NOT_OF_A_HEAP.get(grows or "")


def runtime_of(facts: Facts, findings: tuple[Finding, ...]) -> Runtime | None:
    """By the executable's name, else by a finding, else by what the process calls itself: enough for a suggestion."""
    hints = facts.hints or ()
    told = next((hint.removeprefix("runtime=") for hint in hints if hint.startswith("runtime=")), None)
    if told in set(Runtime):
        return Runtime(told)
    found = next((_OF_FINDING[one.kind] for one in findings if one.kind in _OF_FINDING), None)
    comm = facts.victim.comm or ""
    return found or next((runtime for pattern, runtime in _OF_COMM if pattern.fullmatch(comm)), None)


def _exec(target: Target, *arguments: str) -> str | None:
    if target.namespace is None or target.pod is None or target.container is None:
        return None
    return in_container(target.namespace, target.pod, target.container, *arguments)


def _pprof(target: Target) -> str | None:
    if target.namespace is None or target.pod is None:
        return None
    line = forward(target.namespace, target.pod, _PPROF_PORT)
    if line is None:
        return None
    return f"{line} & sleep 2; go tool pprof http://localhost:{_PPROF_PORT}/debug/pprof/heap; kill $!"
