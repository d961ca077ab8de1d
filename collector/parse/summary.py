"""
The summary line: which memcg ran out, and whose task was picked.

    oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c1,mems_allowed=0,oom_memcg=/p,task_memcg=/p/c1,task=hog,pid=310,uid=0
    oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/p/c1,task=hog,pid=310,uid=0
    Task in /p/c1 killed as a result of limit of /p                                         (before 5.0)

The names in it (cpuset, both paths, comm) are chosen by workloads and may imitate the fields around them. What
they cannot do decides:
- a cgroup's name holds no "/", and both paths begin with one: the first `,oom_memcg=/` or `,global_oom,task_memcg=/`
  is the kernel's own;
- `task_memcg` is `oom_memcg` or below it: of several places to split the two paths, the first that makes this true
  is the kernel's, since a workload can only name cgroups below its own;
- a comm has at most 15 bytes, and the kill line and the task dump repeat it.

Source: mm/oom_kill.c dump_oom_summary() (since 5.0), mm/memcontrol.c mem_cgroup_print_oom_context().
"""

from __future__ import annotations

import re
from typing import NamedTuple

from collector.model import Constraint, MemcgPath, Scope
from collector.parse.cgroup_path import is_same_or_ancestor
from collector.parse.oom_lines import comm_fits

_CONSTRAINT = re.compile(r"oom-kill:constraint=CONSTRAINT_([A-Z_]+)(?=,|$)")
_CONSTRAINTS = {
    "NONE": Constraint.NONE,
    "MEMCG": Constraint.MEMCG,
    "CPUSET": Constraint.CPUSET,
    "MEMORY_POLICY": Constraint.MEMORY_POLICY,
}
_OOM_MEMCG = ",oom_memcg="
_GLOBAL = ",global_oom"
_TASK_MEMCG = ",task_memcg="
_TASK = ",task="
_LIMIT_OF = " killed as a result of limit of "
_TAIL = re.compile(r",pid=(\d{1,10}),uid=(\d{1,10})\s*\Z")
# With no comma in a name there is one way to split them: nearly every line.
_PLAIN_NAMES = re.compile(r"(/[^,]*)?,task_memcg=(/[^,]*),task=([^,]{1,15})", re.DOTALL)
_CUT_TAIL = re.compile(r",task=(.{1,60}?),pid=(\d{1,10}),")
# ",t", ",ta" ... ",task=ba": the path before it is whole. One character more is what a serial terminal leaves behind.
_CUT_TASK = re.compile(r",t(?:a(?:s(?:k(?:=[^,]{0,60})?)?)?)?[^,/]?\s*\Z")
_PIECES = tuple(
    f",{name}" for name in ("nodemask=", "cpuset=", "mems_allowed=", "oom_memcg=", "global_oom", "task_memcg=", "task=")
)
# Three records of 3.15 to 3.19: "Task in /a", " killed as a result of limit of ", "/b". Viewers trim the blanks.
_MAX_SPLITS = 8


class Summary(NamedTuple):
    """
    What a summary line says; None where it is cut before that, or damaged.

    `task_memcg_cut` is the part of task_memcg that is left of a line that ends inside it.
    """

    constraint: Constraint | None = None
    unknown_constraint: str | None = None
    global_oom: bool = False
    oom_memcg: MemcgPath | None = None
    task_memcg: MemcgPath | None = None
    task_memcg_cut: MemcgPath | None = None
    comm: str | None = None
    pid: int | None = None
    uid: int | None = None
    complete: bool = False

    @property
    def scope(self) -> Scope | None:
        if self.global_oom:
            return Scope.GLOBAL
        return Scope.MEMCG if self.oom_memcg is not None else None


def is_unfinished(text: str) -> bool:
    """Whether this summary line goes on in a later piece, or was cut."""
    if text.startswith("Task in "):
        return _LIMIT_OF not in text or text.rstrip().endswith(" limit of")
    return _TAIL.search(text) is None


def join_pieces(text: str, piece: str) -> str | None:
    """The summary line with one more piece of it; None: it is not one of this line's, or the line lacks nothing."""
    if not is_unfinished(text):
        return None
    if not text.startswith("Task in "):
        return text + piece if piece.startswith(_PIECES) else None
    begun, piece = text.rstrip(), piece.strip()
    next_words = {"of": "/", "killed": "as a result of limit of"}
    wanted = next_words.get(begun.rpartition(" ")[2], "killed as a result of limit of")
    return f"{begun} {piece}" if piece.startswith(wanted) else None


def parse_summary(text: str, *, comms: frozenset[str] = frozenset()) -> Summary:
    """
    Read a summary line, whole or cut anywhere.

    comms: what the kill line and the task dump call the victim; they decide where the comm begins in a line that
    can be read in two ways.
    """
    if text.startswith("Task in "):
        return _parse_task_in(text)
    found = _CONSTRAINT.match(text)
    constraint = _CONSTRAINTS.get(found[1]) if found else None
    unknown = found[1] if found and constraint is None else None
    start, global_oom = _find_scope(text)
    tail = _TAIL.search(text)
    if start is None:
        return _parse_without_memcg(text, tail, constraint, unknown, comms)
    if tail is None:
        return _parse_cut(text[start:], constraint, unknown, global_oom)
    oom_memcg, task_memcg, comm = _split_names(text[start : tail.start()], global_oom, comms)
    return Summary(
        constraint=constraint,
        unknown_constraint=unknown,
        global_oom=global_oom,
        oom_memcg=oom_memcg,
        task_memcg=task_memcg,
        comm=comm,
        pid=int(tail[1]),
        uid=int(tail[2]),
        complete=True,
    )


def _parse_without_memcg(
    text: str,
    tail: re.Match[str] | None,
    constraint: Constraint | None,
    unknown: str | None,
    comms: frozenset[str],
) -> Summary:
    """Kernels without CONFIG_MEMCG print `...,mems_allowed=0,task=hog,pid=310,uid=0`; or the paths are cut off."""
    if tail is None or _OOM_MEMCG in text or _TASK_MEMCG in text:
        return Summary(constraint=constraint, unknown_constraint=unknown)
    _, comm = _split_comm(text[: tail.start()], comms)
    return Summary(
        constraint=constraint,
        unknown_constraint=unknown,
        comm=comm,
        pid=int(tail[1]),
        uid=int(tail[2]),
        complete=True,
    )


def _find_scope(text: str) -> tuple[int | None, bool]:
    """Where the paths begin (at `oom_memcg`'s value or at `,task_memcg=`), and whether the OOM is global."""
    memcg = text.find(f"{_OOM_MEMCG}/")
    at = text.find(_GLOBAL)
    while at >= 0 and (memcg < 0 or at < memcg):
        rest = text[at + len(_GLOBAL) :].rstrip()
        if rest.startswith(f"{_TASK_MEMCG}/") or f"{_TASK_MEMCG}/".startswith(rest):
            return at + len(_GLOBAL), True
        at = text.find(_GLOBAL, at + 1)
    return (None, False) if memcg < 0 else (memcg + len(_OOM_MEMCG), False)


def _split_names(
    names: str, global_oom: bool, comms: frozenset[str]
) -> tuple[MemcgPath | None, MemcgPath | None, str | None]:
    """`/p,task_memcg=/p/c1,task=hog` -> oom_memcg, task_memcg, comm."""
    plain = _PLAIN_NAMES.fullmatch(names)
    if plain is not None:
        return None if global_oom else MemcgPath(plain[1]), MemcgPath(plain[2]), plain[3]
    paths, comm = _split_comm(names, comms)
    if comm is None:
        return None, None, None
    if global_oom:
        return None, MemcgPath(paths.removeprefix(_TASK_MEMCG)), comm
    oom_memcg, task_memcg = _split_paths(paths)
    return oom_memcg, task_memcg, comm


def _split_comm(names: str, comms: frozenset[str]) -> tuple[str, str | None]:
    splits = [at for at in _find_all(names, _TASK) if comm_fits(names[at + len(_TASK) :])]
    at = next((at for at in splits if names[at + len(_TASK) :] in comms), splits[0] if splits else None)
    return (names, None) if at is None else (names[:at], names[at + len(_TASK) :])


def _split_paths(paths: str) -> tuple[MemcgPath | None, MemcgPath | None]:
    splits = [(paths[:at], paths[at + len(_TASK_MEMCG) :]) for at in _find_all(paths, f"{_TASK_MEMCG}/")]
    if not splits:
        # Shortened by hand: the kernel prints both.
        return MemcgPath(paths), None
    oom_memcg, task_memcg = next((pair for pair in splits if is_same_or_ancestor(pair[0], pair[1])), splits[0])
    return MemcgPath(oom_memcg), MemcgPath(task_memcg)


def _parse_cut(names: str, constraint: Constraint | None, unknown: str | None, global_oom: bool) -> Summary:
    """A line that ends early: only a name that is followed by the next field is whole."""
    oom_memcg: str | None = None
    if global_oom:
        rest = names.removeprefix(_TASK_MEMCG)
    else:
        oom_memcg, found, rest = names.partition(f"{_TASK_MEMCG}/")
        if not found:
            return Summary(constraint=constraint, unknown_constraint=unknown)
        rest = f"/{rest}"
    named = _CUT_TAIL.search(rest)
    end = named or _CUT_TASK.search(rest)
    path = rest[: end.start()] if end else None
    cut = rest.partition(_TASK)[0].rstrip().rstrip(">,")
    return Summary(
        constraint=constraint,
        unknown_constraint=unknown,
        global_oom=global_oom,
        oom_memcg=None if oom_memcg is None else MemcgPath(oom_memcg),
        task_memcg=MemcgPath(path) if path and path.startswith("/") else None,
        task_memcg_cut=None if path or not cut.startswith("/") else MemcgPath(cut),
        comm=named[1] if named else None,
        pid=int(named[2]) if named else None,
    )


def _parse_task_in(text: str) -> Summary:
    body = text.removeprefix("Task in ").rstrip()
    splits = [(body[:at], body[at + len(_LIMIT_OF) :]) for at in _find_all(body, _LIMIT_OF)[:_MAX_SPLITS]]
    if not splits:
        return Summary()
    for task_memcg, oom_memcg in splits:
        # An editor's soft wrap leaves blanks inside an id; without them the limit's path must be the task's or above.
        for candidate in (oom_memcg, re.sub(r"\s+", "", oom_memcg)):
            if is_same_or_ancestor(candidate, task_memcg):
                return Summary(
                    constraint=Constraint.MEMCG,
                    oom_memcg=MemcgPath(candidate),
                    task_memcg=MemcgPath(task_memcg),
                    complete=True,
                )
    # The limit's path is cut: it no longer ends where a component of the task's path does.
    return Summary(constraint=Constraint.MEMCG, task_memcg=MemcgPath(splits[0][0]))


def _find_all(text: str, piece: str) -> list[int]:
    found = []
    at = text.find(piece)
    while at >= 0:
        found.append(at)
        at = text.find(piece, at + len(piece))
    return found
