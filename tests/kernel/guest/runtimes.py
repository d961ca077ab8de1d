"""Real programs in containers: a root file system with a JDK, Node.js and Python, and programs/ in its /srv."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .containers import sh

DISK = "/dev/vdd"
ROOT = Path("/programs")
SOURCES = Path("/lab/programs")
PYTHON, NODE, JAVA = "/usr/bin/python3", "/usr/bin/node", "/usr/bin/java"


@cache
def programs_root() -> Path:
    """Mount it, once a boot, and compile what has to be."""
    ROOT.mkdir()
    sh("mount", "-o", "ro", DISK, str(ROOT))
    sh("mount", "-t", "tmpfs", "tmpfs", str(ROOT / "srv"))
    sh("cp", "-r", f"{SOURCES}/.", str(ROOT / "srv"))
    sh("mount", "--bind", "/proc", str(ROOT / "proc"))  # the JVM looks there
    # Without the optimising compiler, which costs more than it saves here, and has crashed in emulation.
    sh("chroot", str(ROOT), "javac", "-J-XX:TieredStopAtLevel=1", "-d", "/srv", "/srv/Shop.java")
    sh("umount", str(ROOT / "proc"))
    return ROOT


def program_mounts() -> dict[str, Path]:
    """What turns a container of busybox into one that has them; by where it sees what."""
    root = programs_root()
    java = [f"etc/{path.name}" for path in (root / "etc").glob("java-*")]
    mounts = {f"/{name}": root / name for name in ("usr", "srv", "etc/alternatives", *java)}
    return {**mounts, "/lib": root / "usr/lib", "/lib64": root / "usr/lib64"}
