"""Memory that is no process's: page cache, tmpfs, kernel memory, what is free, and what is left over."""

from __future__ import annotations

from collector.diagnosis.model import Facts, Value
from collector.diagnosis.node.part import LEAST_SHARE, Part
from collector.diagnosis.node.processes import resident
from collector.diagnosis.node.use import HOST, Use
from collector.memory_stat import KERNEL_PARTS, memory_shares
from collector.model import Cause
from collector.units import human_bytes


def kinds_of_node(facts: Facts) -> Part | None:
    """By the kernel's own count of the whole node (`Mem-Info`), where shmem is in the anon lists."""
    node = facts.node_memory
    if facts.cause is not Cause.NODE or node is None or not node.stat.keys() >= _LISTED:
        return None
    stat = node.stat
    kernel = sum(stat.get(name, 0) for name in _KERNEL)
    cache, free = stat["active_file"] + stat["inactive_file"], stat["free"] + stat.get("free_pcp", 0)
    values: dict[str, Value] = {
        "page_cache_bytes": cache,
        "shmem_bytes": stat["shmem"],
        "kernel_bytes": kernel,
        "free_bytes": free,
    }
    text = f"{_kinds(cache, stat['shmem'], kernel)}, free {human_bytes(free)}"
    if node.ram_bytes is not None:
        listed = sum(stat.get(name, 0) for name in (*_LISTS, *_KERNEL, "free", "free_pcp"))
        unlisted = max(0, node.ram_bytes - listed)
        values["unlisted_bytes"] = unlisted
        if unlisted * LEAST_SHARE >= node.ram_bytes:
            text += (
                f"; {human_bytes(unlisted)} are in none of these: huge pages that were set aside, "
                "drivers, or kernel memory that is not counted here"
            )
    return Part(text=text, values=values, evidence=("node_memory.stat",))


_LISTS = (
    "active_anon",
    "inactive_anon",
    "isolated_anon",
    "active_file",
    "inactive_file",
    "isolated_file",
    "unevictable",
)
_KERNEL = ("slab_reclaimable", "slab_unreclaimable", "pagetables", "sec_pagetables")
_LISTED = {
    "active_anon", "inactive_anon", "active_file", "inactive_file", "unevictable", "slab_reclaimable",
    "slab_unreclaimable", "pagetables", "shmem", "free",
}  # fmt: skip


def kinds_of_pods(facts: Facts) -> Part | None:
    """By memory.stat of the cgroup of all pods, or of a QoS class."""
    memory = facts.memory
    if facts.cause not in (Cause.NODE_ALLOCATABLE, Cause.QOS_LIMIT) or memory is None:
        return None
    shares = memory_shares(memory.stat)
    cache, shmem = shares.get("file", shares.get("cache")), shares.get("shmem")
    if cache is None or shmem is None:
        return None
    kernel = sum(shares.get(name, 0) for name in ("kernel", *KERNEL_PARTS))
    values: dict[str, Value] = {"page_cache_bytes": cache, "shmem_bytes": shmem, "kernel_bytes": kernel}
    return Part(text=_kinds(cache, shmem, kernel), values=values, evidence=("memory.stat",))


def _kinds(cache: int, shmem: int, kernel: int) -> str:
    return (
        f"page cache {human_bytes(cache)}, tmpfs and shared memory {human_bytes(shmem)}, "
        f"kernel memory {human_bytes(kernel)}"
    )


def left_over(facts: Facts, uses: list[Use]) -> Part | None:
    """What is the node's and nobody's whom the facts name. Pages that tasks share count for each: a lower bound."""
    node = facts.node_memory
    if facts.cause is not Cause.NODE or node is None or node.ram_bytes is None or not (uses or facts.tasks):
        return None
    whose = facts.node.pod_of_pid if facts.node else {}
    outside = [task for task in facts.tasks if whose.get(task.pid, HOST) == HOST] if uses else facts.tasks
    left = node.ram_bytes - sum(use.bytes for use in uses) - resident(outside)
    if left * LEAST_SHARE < node.ram_bytes:
        return None
    others = "page cache, tmpfs, kernel memory or free pages"
    if not facts.tasks:
        others = f"host processes, {others}"
    text = f"{human_bytes(left)} are not accounted for here: {others}"
    return Part(
        text=text,
        values={"not_accounted_bytes": left},
        evidence=("node_memory.ram_bytes", *(("node.pods",) if uses else ()), *(("tasks",) if facts.tasks else ())),
    )
