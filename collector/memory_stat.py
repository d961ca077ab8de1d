"""What the memory of a cgroup consists of, from its memory.stat."""

from __future__ import annotations

from collections.abc import Mapping

KERNEL_PARTS = ("slab", "pagetables", "sec_pagetables", "kernel_stack", "percpu", "vmalloc")
"""Keys that the counter `kernel` includes; it has zswap too, which is what processes have swapped out."""

_PARTS = frozenset({"anon", "rss", "file", "cache", "shmem", "sock", "hugetlb", "kernel", "zswap", *KERNEL_PARTS})


def memory_shares(stat: Mapping[str, int]) -> dict[str, int]:
    """
    memory.stat as parts that do not overlap: `file` without its shmem, `kernel` without what has a key of its own.

    cgroup v2 says anon and file where v1 says rss and cache; newer kernels print v2's keys for v1 too.
    """
    parts = {key: size for key, size in stat.items() if key in _PARTS}
    if "anon" in parts:
        parts.pop("rss", None)
        parts.pop("cache", None)
    if "slab" not in parts and "slab_unreclaimable" in stat:
        parts["slab"] = stat["slab_unreclaimable"] + stat.get("slab_reclaimable", 0)
    for whole, members in (("file", ("shmem",)), ("cache", ("shmem",)), ("kernel", (*KERNEL_PARTS, "zswap"))):
        if whole in parts:
            # The counters are not read at one instant: the difference may be off by a little.
            parts[whole] = max(0, parts[whole] - sum(parts.get(member, 0) for member in members))
    return parts
