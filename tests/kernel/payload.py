"""What a virtual machine is handed: the installed agent, the guest's half of the tests, a root for the containers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent
CACHE = Path(
    os.environ.get("OOM_LAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "oom-collector-lab")
)
GUEST_PYTHON = "3.11"  # Debian bookworm's
PACKAGES = f"usr/local/lib/python{GUEST_PYTHON}/dist-packages"
BINARY_FOR_GUEST = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", GUEST_PYTHON] + [
    option for glibc in ("2_17", "2_28", "2_34") for option in ("--platform", f"manylinux_{glibc}_x86_64")
]


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def install_dependencies() -> Path:
    """The locked dependencies, as the guest's Python would have them; kept until the lock changes."""
    lock = SOURCE / "requirements/runtime.txt"
    packages = CACHE.expanduser() / f"packages-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not packages.exists():
        unfinished = packages.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        pip("install", "--require-hashes", "--no-deps", *BINARY_FOR_GUEST, "--target", unfinished, "-r", lock)
        unfinished.rename(packages)
    return packages


def install_agent(work: Path) -> Path:
    """
    Build the wheel and install it.

    From a copy: setuptools leaves a build directory behind, and takes modules from it that are long deleted.
    """
    copy, packages = work / "source", work / "agent"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, copy)
    shutil.copytree(SOURCE / "collector", copy / "collector", ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work, copy)
    pip("install", "--no-deps", "--target", packages, *work.glob("*.whl"))
    return packages


def build(work: Path, scenarios: list[str]) -> Path:
    """Pack it all; takes seconds, so that a change of the agent needs no new image."""
    hog = work / "hog"
    subprocess.run(["gcc", "-O1", "-static", "-Wall", "-o", hog, HERE / "guest/hog.c"], check=True)
    agent, payload = install_agent(work), work / "payload.tar"
    command = (agent / "bin/oom-collector").read_bytes().split(b"\n", 1)[1]
    with tarfile.open(payload, "w") as tar:
        for packages in (install_dependencies(), agent):
            for path in packages.iterdir():
                if path.name != "bin":
                    tar.add(path, f"{PACKAGES}/{path.name}")
        add(tar, "usr/local/bin/oom-collector", b"#!/usr/bin/python3\n" + command, mode=0o755)
        add(tar, "lab/scenarios", "\n".join(scenarios).encode())
        for path in (*(HERE / "guest").glob("*.py"), HERE / "guest/cri.proto"):
            tar.add(path, f"lab/guest/{path.name}")
        for path in (HERE / "guest/programs").iterdir():
            tar.add(path, f"lab/programs/{path.name}")
        tar.add(SOURCE / "deploy/examples", "lab/examples")
        for name in ("api_server.py", "events_api.py"):
            tar.add(SOURCE / "tests/kube" / name, f"lab/tests/kube/{name}")
        tar.add(hog, "lab/rootfs/bin/hog")
        tar.add("/bin/busybox", "lab/rootfs/bin/busybox")
        for applet in ("sh", "sleep"):
            add(tar, f"lab/rootfs/bin/{applet}", link="busybox")
        for directory in ("proc", "dev"):
            add(tar, f"lab/rootfs/{directory}", mode=0o755, kind=tarfile.DIRTYPE)
    return payload


def add(
    tar: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    *,
    mode: int = 0o644,
    link: str = "",
    kind: bytes = tarfile.REGTYPE,
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.linkname = len(content), mode, link
    member.type = tarfile.SYMTYPE if link else kind
    tar.addfile(member, BytesIO(content))
