"""What the memory consisted of, where it was not simply the memory of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.diagnosis.findings.use import TELLING_SHARE, evidence, limit_of, percent, use_of
from collector.diagnosis.model import Finding, FindingKind
from collector.memory_stat import KERNEL_PARTS
from collector.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collector.diagnosis.findings.use import Use
    from collector.diagnosis.model import Facts, Value

MOST_SHARE = 0.5
"""Of something: it is mainly that."""
SWAP_FULL_SHARE = 0.99
"""The kernel swaps in clusters, and leaves the last few pages free."""

_MOST_NAMES = 3


def shared_memory(facts: Facts) -> Finding | None:
    """
    shmem is all that has no file on a disk: files in a tmpfs, /dev/shm, memfd, SysV and anonymous shared memory.

    It is charged to whoever wrote it first, and lives as long as the file or the mapping: what is in a volume or in
    /dev/shm, which is the pod's, does not end with the container.
    """
    use = use_of(facts)
    size = use.parts.get("shmem") if use else None
    if use is None or size is None or size < TELLING_SHARE * use.usage_bytes:
        return None
    mapped = facts.victim.shmem_rss_bytes
    is_mapped = mapped is not None and mapped >= MOST_SHARE * size
    what = f"shared memory that {_victim(facts)} has mapped" if is_mapped else _in_a_tmpfs(facts.memory_volumes)
    volumes = facts.memory_volumes
    values: dict[str, Value] = {
        **_share(size, use),
        "mapped_by_victim_bytes": mapped,
        "volume": volumes[0] if volumes and len(volumes) == 1 and not is_mapped else None,
        # Files, as far as can be told: of other processes' mappings nothing is known.
        "outlives_container": True if mapped is not None and not is_mapped else None,
    }
    return Finding(
        kind=FindingKind.SHARED_MEMORY,
        text=f"{_share_words(size, use)} is {what}",
        values=values,
        evidence=evidence(
            use.evidence,
            "victim.shmem_rss_bytes" if is_mapped else None,
            "memory_volumes" if volumes is not None and not is_mapped else None,
        ),
    )


def _in_a_tmpfs(volumes: tuple[str, ...] | None) -> str:
    match volumes:
        case None:
            where = "a memory-backed volume, /dev/shm"
        case ():
            where = "/dev/shm; no volume of the pod is in memory"
        case (name,):
            where = f"the pod's memory-backed volume {name}, or /dev/shm"
        case _:
            names = ", ".join(volumes[:_MOST_NAMES]) + (", ..." if len(volumes) > _MOST_NAMES else "")
            where = f"the pod's memory-backed volumes {names}, or /dev/shm"
    return f"files in a tmpfs ({where}) or shared memory; files outlive the container, and a restart does not free them"


def kernel_memory(facts: Facts) -> Finding | None:
    use = use_of(facts)
    if use is None:
        return None
    parts = {name: size for name, size in use.parts.items() if name in _KERNEL and size}
    total = sum(parts.values())
    if total < TELLING_SHARE * use.usage_bytes or not total:
        return None
    largest = max(parts, key=lambda name: parts[name])
    reclaimable = use.stat.get("slab_reclaimable") if largest == "slab" else None
    freeable = f", {human_bytes(reclaimable)} of it reclaimable" if reclaimable else ""
    detail = f", mostly {_KERNEL[largest]} ({largest} {human_bytes(parts[largest])}{freeable})"
    return Finding(
        kind=FindingKind.KERNEL_MEMORY,
        text=f"{_share_words(total, use)} is the kernel's own{detail if largest != 'kernel' else ''}",
        values={
            **_share(total, use),
            "part": None if largest == "kernel" else largest,
            **{f"{name}_bytes": size for name, size in parts.items()},
        },
        evidence=evidence(use.evidence),
    )


_KERNEL = {
    "slab": "small objects of it: open files, cached names and inodes, connections",
    "sock": "buffers of sockets: data that one end has not read yet, many connections",
    "pagetables": "page tables: many processes, or much sparsely used or shared address space",
    "sec_pagetables": "page tables of virtual machines",
    "kernel_stack": "stacks of threads: there are very many",
    "percpu": "per-CPU counters: of cgroups, network interfaces, BPF maps",
    "vmalloc": "vmalloc: BPF maps and programs, packet filters, modules' tables",
    "kernel": "of no kind that memory.stat tells",
}
assert _KERNEL.keys() >= set(KERNEL_PARTS)


def page_cache(facts: Facts) -> Finding | None:
    """
    Cache is what the kernel frees first. Where there is much of it at a kill, it could not, in the time that it had.

    What was sampled before the pressure says nothing of that.
    """
    use = use_of(facts)
    if use is None or use.sampled:
        return None
    # Where shmem is not told apart (cgroup v1 in old kernels), `cache` includes it.
    size = use.parts.get("file", use.parts.get("cache")) if "shmem" in use.parts else None
    if not size or size < TELLING_SHARE * use.usage_bytes:
        return None
    why, words = _why_kept(use.stat, size)
    return Finding(
        kind=FindingKind.PAGE_CACHE,
        text=f"{_share_words(size, use)} is page cache, which the kernel frees first, and could not: {words}",
        values={**_share(size, use), "why": why, "why_bytes": None if why is None else _kept(use.stat, why)},
        evidence=evidence(use.evidence),
    )


_KEPT = {
    "dirty": (("file_dirty", "file_writeback"), "waits to be written: the disk is slower than the writer"),
    "unevictable": (("unevictable",), "is locked in memory (mlock)"),
    "active": (("active_file",), "is in constant use, as programs and mapped files are"),
    "inactive": (
        ("inactive_file",),
        "was unused and could have been freed: odd, unless memory.min protects it or the disk was stuck",
    ),
}


def _kept(stat: Mapping[str, int], why: str) -> int:
    return sum(stat.get(key, 0) for key in _KEPT[why][0])


def _why_kept(stat: Mapping[str, int], size: int) -> tuple[str | None, str]:
    """The first that is most of it: what is dirty or locked is on one of the other lists too."""
    for why, (_, words) in _KEPT.items():
        kept = _kept(stat, why)
        if kept >= MOST_SHARE * size:
            return why, f"{human_bytes(kept)} {words}"
    return None, "the report does not tell why"


def swap_full(facts: Facts) -> Finding | None:
    memory, limit = facts.memory, limit_of(facts)
    if memory is None or limit is None or facts.memory_is_sampled:
        return None
    used, most = memory.swap_usage_bytes, memory.swap_limit_bytes
    if not used or not most or used < SWAP_FULL_SHARE * most:
        return None
    return Finding(
        kind=FindingKind.SWAP_FULL,
        text=f"Swap was used up too, {human_bytes(used)} of {human_bytes(most)}: together with the memory limit of "
        f"{human_bytes(limit.size)}, {human_bytes(limit.size + most)} were not enough",
        values={"swap_bytes": used, "swap_limit_bytes": most, "together_bytes": limit.size + most},
        evidence=evidence("memory.swap_usage_bytes", "memory.swap_limit_bytes", limit.evidence),
    )


def _share(size: int, use: Use) -> dict[str, Value]:
    return {"size_bytes": size, "usage_bytes": use.usage_bytes, "percent": percent(size, use.usage_bytes)}


def _share_words(size: int, use: Use) -> str:
    when = "when last sampled" if use.sampled else "in use"
    return f"{human_bytes(size)} of the {human_bytes(use.usage_bytes)} {when} ({percent(size, use.usage_bytes)} %)"


def _victim(facts: Facts) -> str:
    return facts.victim.comm or "the victim"
