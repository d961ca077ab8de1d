"""One throw-away virtual machine: boot, hand it a tar file, stream what it prints, take a tar file back."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BOOT_SECONDS = 90  # a boot takes 10 to 20 under emulation
RUN_SECONDS = 7200
OUTPUT_BYTES = 256 << 20


class VmError(Exception):
    """No virtual machine came up, or it gave no answer."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a virtual machine of one kernel series boots from."""

    series: str
    release: str  # as uname -r prints it
    kernel: Path
    initrd: Path
    root: Path
    programs: Path


def build_images(series: list[str]) -> list[Image]:
    """Build what is missing; the first time takes minutes. Raises VmError."""
    built = subprocess.run([HERE / "images", *series], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        raise VmError("the images could not be built")
    rows = [line.split() for line in built.stdout.splitlines()]
    return [Image(row[0], row[1], *map(Path, row[2:])) for row in rows]


def accelerator() -> str:
    """
    Name what QEMU should run the guest with.

    /dev/kvm alone proves nothing: under some nested hypervisors it opens, and an unmodified kernel then hangs at its
    first instruction. The CPU flags tell.
    """
    has_flags = re.search(r"\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text())
    return "kvm" if has_flags and os.access("/dev/kvm", os.W_OK) else "tcg"


def qemu_command(image: Image, *, payload: Path, output: Path, console: Path) -> list[str]:
    """
    Build the command line.

    Disks: a the root (never written: snapshot=on), b the payload, c the output, d the programs. Serial ports: the kernel's console to a
    file, the tests' output to stdout. All of this works in every series without a module beyond virtio_blk.
    """
    kvm = accelerator() == "kvm"
    return [
        "qemu-system-x86_64", "-machine", "q35", "-m", "2048", "-smp", "2",
        "-nodefaults", "-no-reboot", "-display", "none",
        # Emulated: without tb-size the translation cache grows to 1 GiB. arch-capabilities: some nested hypervisors
        # refuse to set its MSR.
        "-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=256", "-cpu", "host,-arch-capabilities" if kvm else "max",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", "console=ttyS0 loglevel=4 panic=-1 mitigations=off systemd.show_status=0"
        " systemd.unified_cgroup_hierarchy=1 systemd.unit=kernel-tests.service",
        "-drive", f"file={image.root},if=virtio,format=raw,snapshot=on",
        "-drive", f"file={payload},if=virtio,format=raw,readonly=on",
        "-drive", f"file={output},if=virtio,format=raw",
        "-drive", f"file={image.programs},if=virtio,format=raw,readonly=on",
        "-serial", f"file:{console}", "-serial", "stdio",
    ]  # fmt: skip


def run(image: Image, payload: Path, into: Path, on_line: Callable[[str], None]) -> None:
    """
    Boot, run the payload's tests and unpack what they left to `into`; a boot that hangs is tried once more, and said.

    Raises VmError.
    """
    for attempt in (1, 2):
        try:
            return boot(image, payload, into, on_line)
        except VmError as error:
            if attempt == 2 or "boot" not in str(error):
                raise
            on_line(f"{error}; trying once more")
    raise AssertionError


def boot(image: Image, payload: Path, into: Path, on_line: Callable[[str], None]) -> None:
    """Do what `run` does, once. Raises VmError."""
    into.mkdir(parents=True, exist_ok=True)
    console = into / "console.log"
    with tempfile.TemporaryDirectory(dir=image.root.parent, prefix="run-") as directory:
        output = Path(directory, "output.tar")
        with output.open("wb") as file:
            file.truncate(OUTPUT_BYTES)
        command = qemu_command(image, payload=payload, output=output, console=console)
        started = time.monotonic()
        # snapshot=on keeps what the guest writes in TMPDIR.
        qemu = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": directory}
        )
        overdue = threading.Timer(BOOT_SECONDS, qemu.kill)
        overdue.start()
        booted = None
        try:
            assert qemu.stdout is not None
            for raw in qemu.stdout:
                line = raw.decode(errors="backslashreplace").rstrip()
                if line.startswith("booted "):
                    booted = time.monotonic() - started
                    overdue.cancel()
                    overdue = threading.Timer(RUN_SECONDS, qemu.kill)
                    overdue.start()
                    line = (
                        f"booted in {booted:.0f} s ({accelerator()}), systemd up at {line.split()[1]} s of guest time"
                    )
                on_line(line)
            qemu.wait()
        finally:
            overdue.cancel()
            qemu.kill()
            qemu.wait()
        if booted is None:
            raise VmError(f"kernel {image.series} did not boot in {BOOT_SECONDS} s; its console: {console}")
        unpacked = subprocess.run(
            ["tar", "-C", into, "--no-same-owner", "-xf", output], stderr=subprocess.PIPE, text=True, check=False
        )
        if unpacked.returncode:
            raise VmError(
                f"kernel {image.series} handed nothing back ({unpacked.stderr.strip()}); its console: {console}"
            )
