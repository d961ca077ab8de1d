"""The agent as it ships, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests import lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATIENCE_SECONDS = 10


class Log:
    """A kernel log in a file: raw records, numbered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sequence = 0
        path.touch()

    def write(self, texts: Sequence[str], *, priority: int = 6) -> None:
        with self.path.open("ab") as file:
            for text in texts:
                self._sequence += 1
                file.write(lines.raw(text, self._sequence, 1_000_000 + self._sequence * 10, priority=priority))


class AgentProcess:
    def __init__(self, *arguments: str, stdout: IO[bytes] | int | None = None, directory: Path) -> None:
        self._out = directory / "stdout"
        self._err = directory / "stderr"
        with self._out.open("ab") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "collector", "run", "--listen", "127.0.0.1:0", *arguments],
                stdout=out if stdout is None else stdout,
                stderr=err,
                env={key: value for key, value in os.environ.items() if not key.startswith("OOM_COLLECTOR_")},
            )
        self.url = self._wait_for_address()

    def _wait_for_address(self) -> str:
        self.until(lambda: "metrics at " in self.log or self._process.poll() is not None)
        found = re.search(r"metrics at (https?://[^/]+)/metrics", self.log)
        assert found is not None, self.log
        return found[1]

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._err.read_text()

    @property
    def incidents(self) -> list[dict[str, Any]]:
        """All that processes with this directory have printed."""
        return [json.loads(line) for line in self._out.read_text().splitlines()]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, sample: str) -> float:
        text = self.get("/metrics")[1]
        return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.rpartition(" ")[0] == sample)

    def kills(self, cause: str = "container_limit") -> float:
        return self.metric(f'oom_kills_total{{cause="{cause}"}}')

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def until(self, condition: Callable[[], bool], *, patience: float = _PATIENCE_SECONDS) -> None:
        give_up = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < give_up, self.log
            time.sleep(0.02)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> float:
        """SIGTERM; the seconds until it is gone."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(_PATIENCE_SECONDS) == 0, self.log
        return time.monotonic() - began
