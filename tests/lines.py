"""Kernel lines for the tests, as 6.1 prints them; tests change one thing at a time."""

from __future__ import annotations

from collector.parse.kmsg import KmsgRecord, parse_kmsg_record

POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f9c1d2e_3b4a_4c5d_8e6f_000000000001.slice"
CONTAINER_ID = "c0ffee" * 10 + "0001"
CONTAINER = f"{POD}/cri-containerd-{CONTAINER_ID}.scope"
OTHER_ID = "decade" * 10 + "0002"
OTHER = f"{POD.replace('0001.slice', '0002.slice')}/cri-containerd-{OTHER_ID}.scope"


def header(comm: str = "hog", *, order: int = 0, adj: int = 978) -> str:
    return f"{comm} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order={order}, oom_score_adj={adj}"


def cpu(comm: str = "hog", pid: int = 257) -> str:
    return f"CPU: 1 PID: {pid} Comm: {comm} Not tainted 6.1.0-53-cloud-amd64 #1  Debian 6.1.187-1"


def usage(usage_kib: int = 49152, limit_kib: int = 49152) -> str:
    return f"memory: usage {usage_kib}kB, limit {limit_kib}kB, failcnt 265"


DUMP_HEADER = "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name"


def row(pid: int = 257, comm: str = "hog", *, total_vm: int = 12345, rss: int = 10233, adj: int = 978) -> str:
    return f"[{pid:7d}]     0 {pid:5d} {total_vm:8d} {rss:8d}   122880        0 {adj:13d} {comm}"


def summary(
    comm: str = "hog",
    pid: int = 257,
    *,
    oom_memcg: str | None = CONTAINER,
    task_memcg: str = CONTAINER,
    constraint: str = "CONSTRAINT_MEMCG",
    cpuset: str = "x",
) -> str:
    scope = "global_oom" if oom_memcg is None else f"oom_memcg={oom_memcg}"
    return (
        f"oom-kill:constraint={constraint},nodemask=(null),cpuset={cpuset},mems_allowed=0,{scope},"
        f"task_memcg={task_memcg},task={comm},pid={pid},uid=0"
    )


def kill(
    comm: str = "hog",
    pid: int = 257,
    *,
    prefix: str = "Memory cgroup out of memory: ",
    total_vm: int = 12345,
    adj: int = 978,
) -> str:
    return (
        f"{prefix}Killed process {pid} ({comm}) total-vm:{total_vm * 4}kB, anon-rss:40932kB, file-rss:0kB, "
        f"shmem-rss:0kB, UID:0 pgtables:120kB oom_score_adj:{adj}"
    )


def group(memcg: str = CONTAINER) -> str:
    return f"Tasks in {memcg} are going to be killed due to memory.oom.group set"


def report(comm: str = "hog", pid: int = 257, *, memcg: str = CONTAINER, neighbours: int = 1) -> list[str]:
    """A whole report of a container limit."""
    return [
        header(comm),
        cpu(comm, pid),
        "Call Trace:",
        " dump_stack_lvl+0x44/0x5c",
        " oom_kill_process.cold+0xb/0x10",
        usage(),
        "swap: usage 0kB, limit 0kB, failcnt 0",
        f"Memory cgroup stats for {memcg}:",
        "anon 41914368\nfile 0\nkernel 217088\nshmem 0",
        "Tasks state (memory values in pages):",
        DUMP_HEADER,
        row(pid, comm),
        *(row(9000 + n, "sleep", total_vm=600, rss=20) for n in range(neighbours)),
        summary(comm, pid, oom_memcg=memcg, task_memcg=memcg),
        kill(comm, pid),
    ]


def raw(text: str, sequence: int = 1, usec: int = 1_000_000, *, priority: int = 6, caller: str | None = None) -> bytes:
    """A /dev/kmsg record as the kernel writes it: see printk's escapes."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte != 0x5C else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
    tail = "" if caller is None else f",caller={caller}"
    return f"{priority},{sequence},{usec},-{tail};{escaped}\n".encode("ascii")


def records(texts: list[str], *, caller: str | None = None, start_usec: int = 1_000_000) -> list[KmsgRecord]:
    return [
        parse_kmsg_record(raw(text, sequence, start_usec + sequence * 10, caller=caller))
        for sequence, text in enumerate(texts)
    ]
