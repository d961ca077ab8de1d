"""The agent as it ships: the installed command in a unit of its own, seen only from outside."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from .containers import sh
from .witness import Usage, usage

Document = dict[str, Any]
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)
KERNEL_LOGS = {"kmsg", "syslog", "journald"}
# The cgroups are read this often where nothing calls for it earlier.
PASS_SECONDS = 10.0
# A kill that only a counter tells settles after a pass; names are looked for 10 s at most.
SETTLE_SECONDS = 45.0


class Agent:
    """
    `oom-collector run` under systemd.

    `properties` restrict it as a pod's security context would: DevicePolicy=closed is what keeps /dev/kmsg from an
    unprivileged container. `flags` are its own; `wrapper` is a command that executes it.
    """

    ports = iter(range(9400, 9500))

    def __init__(self, name: str, *properties: str, flags: Sequence[str] = (), wrapper: Sequence[str] = ()) -> None:
        self.unit, self.port = f"agent-{name}.service", next(self.ports)
        directory = Path("/run/agent", name)
        directory.mkdir(parents=True)
        directory.chmod(0o777)  # one of them runs as nobody
        self.state_dir = str(directory / "state")
        self._stdout, self._stderr = directory / "stdout", directory / "stderr"
        output = f"StandardOutput=append:{self._stdout}", f"StandardError=append:{self._stderr}"
        settings = [f"--property={text}" for text in ("OOMScoreAdjust=-999", *output, *properties)]
        self._command = [
            "systemd-run", "--quiet", "--collect", f"--unit={self.unit}", *settings, *wrapper,
            "oom-collector", "run", "--state-dir", self.state_dir, "--listen", f"127.0.0.1:{self.port}", *flags,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start it, or start it again with what it had kept."""
        sh(*self._command)
        wait_until(
            lambda: self.status("/healthz") == 200, 90, lambda: f"{self.unit} is not healthy: {self.log()[-2000:]}"
        )

    def wait_ready(self) -> None:
        wait_until(lambda: self.status("/readyz") == 200, 90, lambda: f"not ready: {self.log()[-2000:]}")

    def get(self, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def status(self, path: str) -> int | None:
        try:
            return self.get(path)[0]
        except (OSError, HTTPException):
            return None

    def metrics(self, name: str) -> dict[str, float]:
        """The samples of one name, by their label text. It has to be there."""
        found = {
            labels: float(value) for found, labels, value in SAMPLE.findall(self.get("/metrics")[1]) if found == name
        }
        assert found, f"/metrics has no {name}"
        return found

    def total(self, name: str) -> float:
        return sum(self.metrics(name).values())

    def sources_up(self) -> set[str]:
        samples = self.metrics("oom_collector_source_up")
        return {labels.removeprefix('source="').rstrip('"') for labels, value in samples.items() if value == 1}

    def incidents(self) -> list[Document]:
        """What is on stdout, complete lines only; a line that is no JSON raises."""
        text = self._stdout.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def wait_for(self, count: int) -> list[Document]:
        """The incidents, once there are `count`; after a time, as many as there are."""
        until = time.monotonic() + SETTLE_SECONDS
        while self._stdout.read_bytes().count(b"\n") < count and time.monotonic() < until:
            time.sleep(0.2)
        return self.incidents()

    def log(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""

    def usage(self) -> Usage:
        return usage(int(sh("systemctl", "show", "--property=MainPID", "--value", self.unit)))

    def signal(self, name: str) -> None:
        sh("systemctl", "kill", f"--signal={name}", self.unit)

    def stop(self) -> float:
        """Stop it with SIGTERM; how long that took, in seconds."""
        started = time.monotonic()
        sh("systemctl", "stop", self.unit)
        return time.monotonic() - started


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.2)
