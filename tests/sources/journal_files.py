"""
Journal files for the tests, written by systemd's own systemd-journal-remote.

`python -m tests.sources.journal_files` writes journals/*.journal.xz anew; the tests only unpack these, so that they
need neither root nor a running journald.
"""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

JOURNALS = Path(__file__).parent / "journals"
BOOT_ID = "0f0e0d0c-0b0a-4908-8706-050403020100"
OTHER_BOOT_ID = "10101010-1010-4010-8010-101010101010"
KILL = "Memory cgroup out of memory: Killed process %d (hog) total-vm:56764kB, anon-rss:48940kB"

_MISSED = "e9bf28e6e834481bb6f48f548ad13606"
_BOOTED_USEC = {OTHER_BOOT_ID: 1_750_000_000_000_000, BOOT_ID: 1_760_000_000_000_000}


def entry(text: str, *, at: int, boot_id: str = BOOT_ID, **fields: str) -> bytes:
    """One entry in the export format, `at` microseconds after boot; a kernel record unless `fields` say else."""
    named = {"_TRANSPORT": "kernel", "SYSLOG_FACILITY": "0", "PRIORITY": "3", "SYSLOG_IDENTIFIER": "kernel"} | fields
    # journald reads a record a little later than the kernel prints it.
    lines = [f"__REALTIME_TIMESTAMP={_BOOTED_USEC[boot_id] + at + 7}", f"__MONOTONIC_TIMESTAMP={at + 7}"]
    lines += [f"_BOOT_ID={boot_id.replace('-', '')}", f"_SOURCE_MONOTONIC_TIMESTAMP={at}"]
    lines += [f"{name}={value}" for name, value in named.items()]
    message = text.encode()
    # The binary form of the export format, which a message with a newline needs.
    return "\n".join(lines).encode() + b"\nMESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n\n"


FIRST = (
    entry("Memory cgroup out of memory: Killed process 1 (old) of another boot", at=900_000_000, boot_id=OTHER_BOOT_ID),
    entry("e1000: eth0 link up", at=1_000_000),
    entry(KILL % 101, at=2_000_000),
    entry(KILL % 102, at=2_000_000, SYSLOG_FACILITY="1"),
    entry(KILL % 103, at=2_500_000, _TRANSPORT="syslog"),
    entry("Missed 42 kernel messages", at=3_000_000, _TRANSPORT="driver", MESSAGE_ID=_MISSED, SYSLOG_FACILITY="3"),
    entry(KILL.replace("hog", "a\nb") % 104, at=4_000_000),
)
SECOND = (entry("e1000: eth0 link down", at=5_000_000), entry(KILL % 201, at=6_000_000))

# As systemd words it: before it had prekill hooks, and since.
OOMD_PRESSURE = (
    "Killed %s due to memory pressure for /kubepods.slice being 65.15%% > 50.00%% for > 20s with reclaim activity"
)
OOMD_SWAP = "Killed %s due to memory used (15449980928) / total (16437264384) and swap used (14) / total (16) being more than 90.00%%"
OOMD_MARKED = (
    "Marked %s for killing due to memory pressure for / being 83.52%% > 80.00%% for > 20s with reclaim activity"
)


def oomd_entry(text: str, *, at: int, unit: str = "systemd-oomd.service", boot_id: str = BOOT_ID) -> bytes:
    """As its own log call makes it. Who is not in that unit may set all the rest."""
    named = {"_TRANSPORT": "journal", "SYSLOG_FACILITY": "3", "PRIORITY": "5", "SYSLOG_IDENTIFIER": "systemd-oomd"}
    return entry(text, at=at, boot_id=boot_id, _SYSTEMD_UNIT=unit, **named)


OOMD = (
    oomd_entry(OOMD_PRESSURE % "/before", at=900_000_000, boot_id=OTHER_BOOT_ID),
    oomd_entry("Considered 21 cgroups for killing, top candidates were:", at=1_000_000),
    oomd_entry(OOMD_PRESSURE % "/kubepods.slice/a b.scope", at=1_000_010),
    oomd_entry(OOMD_PRESSURE % "/forged", at=1_500_000, unit="cri-containerd-0.scope"),
    oomd_entry(OOMD_SWAP % "/system.slice/a.service", at=2_000_000),
)
OOMD_LATER = (
    entry(KILL % 401, at=2_500_000),
    oomd_entry(OOMD_MARKED % "/system.slice/b.service", at=3_000_000),
)


def find_journal_remote() -> str | None:
    return shutil.which("systemd-journal-remote", path=f"{os.environ['PATH']}:/lib/systemd:/usr/lib/systemd")


def append(path: Path, *entries: bytes) -> None:
    """Write to a journal file, which is made when it is not there."""
    remote = find_journal_remote()
    if remote is None:
        raise FileNotFoundError("systemd-journal-remote")
    # The oldest format, so that any libsystemd can read it.
    environment = os.environ | {"SYSTEMD_JOURNAL_COMPACT": "0", "SYSTEMD_JOURNAL_KEYED_HASH": "0"}
    command = [remote, "--split-mode=none", f"--output={path}", "-"]
    subprocess.run(command, input=b"".join(entries), env=environment, check=True, capture_output=True)


def unpack(name: str, directory: Path) -> None:
    """Put a ready journal file into `directory`, as a whole: rename(2) as a rotation does."""
    packed = (JOURNALS / f"{name}.journal.xz").read_bytes()
    made = directory / f"{name}.new"
    made.write_bytes(lzma.decompress(packed))
    made.rename(directory / f"{name}.journal")


def main() -> None:
    JOURNALS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name, entries in (("first", FIRST), ("second", SECOND), ("oomd", OOMD), ("oomd_later", OOMD_LATER)):
            path = Path(directory, f"{name}.journal")
            append(path, *entries)
            (JOURNALS / f"{name}.journal.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))


if __name__ == "__main__":
    main()
