"""`analyze` on a large syslog file, against the grep that people use instead."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import reports
from bench.measure import MIB, Figure, run

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORTS = 100
_PATTERN = "oom|Killed process"
_ROUNDS = 3
# What a node writes all day. {n} differs from line to line.
_NOISE = (
    "systemd[1]: Started session-{n}.scope - Session {n} of User deploy.",
    "systemd[1]: run-containerd-runc-k8s.io-{n}.mount: Deactivated successfully.",
    "systemd[1]: apt-daily.service: Main process exited, code=exited, status=0/SUCCESS",
    "sshd[{n}]: Accepted publickey for deploy from 10.0.14.7 port 5{n} ssh2: ED25519 SHA256:Qm5pbm90YXJlYWxrZXk",
    "CRON[{n}]: (root) CMD (command -v debian-sa1 > /dev/null && debian-sa1 1 1)",
    'kubelet[812]: I1121 10:14:{n} 812 prober.go:107] "Probe failed" probeType="Readiness" pod="shop/cart-{n}"',
    'containerd[604]: time="2026-11-21T10:14:03Z" level=info msg="cleaning up dead shim {n}"',
    "kernel: [ {n}.514291] IPv6: ADDRCONF(NETDEV_CHANGE): veth{n}: link becomes ready",
    "kernel: [ {n}.702118] cni0: port {n}(veth{n}) entered forwarding state",
    "nginx[2210]: 10.0.3.9 - - GET /carts/{n}/items HTTP/1.1 200 5120 0.012",
)
_LINES_A_MINUTE = 10_000


def measure(size: int) -> Iterator[Figure]:
    """size: of the log, in bytes. It lies in the temporary directory (TMPDIR) meanwhile."""
    with tempfile.TemporaryDirectory(prefix="bench-analyze-") as directory:
        path = Path(directory) / "syslog"
        written = _write_log(path, size)
        command = [sys.executable, "-m", "collector", "analyze", "--output", "json", str(path)]
        runs = [
            (run(["grep", "-cE", _PATTERN, str(path)], environment={"LC_ALL": "C"}), run(command))
            for _ in range(_ROUNDS)
        ]
    grep = min(usage.cpu_seconds for usage, _ in runs)
    analyze = min(usage.cpu_seconds for _, usage in runs)
    what = f"analyze on {written / 1e9:.2g} GB of syslog with {REPORTS} reports"
    yield Figure(
        what=f"{what}: CPU against grep -cE '{_PATTERN.replace('|', chr(92) + '|')}'",
        value=analyze / grep,
        unit="x",
        must=5,
        aim=2,
        note=f"{analyze:.2f} s against {grep:.2f} s (LC_ALL=C), the file in the page cache; best of {_ROUNDS}",
    )
    peak = max(usage.peak_bytes for _, usage in runs)
    yield Figure(what=f"{what}: peak RSS", value=peak / MIB, unit="MiB", must=60, aim=60)


def _write_log(path: Path, size: int) -> int:
    """REPORTS reports, evenly spread; returns the size of the file."""
    noise = [
        f"Nov 21 @@:@@:%02d node-1 {_NOISE[n % len(_NOISE)].replace('{n}', str(n))}" for n in range(_LINES_A_MINUTE)
    ]
    minute = "".join(f"{text % (n * 60 // _LINES_A_MINUTE)}\n" for n, text in enumerate(noise)).encode()
    report = [f"Nov 21 @@:@@:59 node-1 kernel: [@@@@@.514291] {text}\n" for text in reports.texts(80)]
    text = "".join(report).encode()
    minutes = max(REPORTS, size // len(minute))
    with path.open("wb") as file:
        for number in range(minutes):
            clock = b"%02d:%02d" % (number // 60 % 24, number % 60)
            file.write(minute.replace(b"@@:@@", clock))
            # So that the reports are REPORTS in all.
            if number * REPORTS // minutes != (number + 1) * REPORTS // minutes:
                file.write(text.replace(b"@@:@@", clock).replace(b"@@@@@", b"%05d" % number))
        return file.tell()
