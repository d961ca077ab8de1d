"""Where the API server is and how it is spoken to: from inside the cluster, or from a kubeconfig."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from collector.errors import CollectorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# The kubelet renews a bound token when 80 % of its hour is over.
REREAD_SECONDS = 60.0
# Exec plugins may ask a cloud for the token.
KUBECONFIG_TIMEOUT_SECONDS = 60.0

Load: TypeAlias = "Callable[[], Awaitable[Access]]"


class AccessError(CollectorError):
    """Credentials that cannot be read or used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Secrets are left out of repr()."""

    server: str  # scheme, host and port; no slash at the end
    authorization: str | None = field(default=None, repr=False)  # the header's value, scheme included
    verify: bool = True
    ca_pem: str | None = None  # None: the system's
    cert_pem: str | None = field(default=None, repr=False)
    key_pem: str | None = field(default=None, repr=False)
    tls_server_name: str | None = None
    proxy: str | None = field(default=None, repr=False)
    stale_after_seconds: float | None = None  # to be loaded again then; None: when the server refuses it

    @property
    def tls(self) -> tuple[object, ...]:
        """What a TLS context is made of."""
        return (self.verify, self.ca_pem, self.cert_pem, self.key_pem)

    def tls_context(self) -> ssl.SSLContext:
        """Raises AccessError for a certificate or key that cannot be read."""
        try:
            # Bundles name their authorities in comments, and OpenSSL takes ASCII alone.
            context = ssl.create_default_context(cadata=self.ca_pem and self.ca_pem.encode("ascii", "replace").decode())
            # Python 3.13 switches it on; CAs made by older cluster installers lack the key identifiers that it demands.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert_pem and self.key_pem:
                _load_client_certificate(context, self.cert_pem, self.key_pem)
        except (OSError, ValueError) as error:
            raise AccessError(f"certificates for {self.server}: {error}") from error
        return context


def _load_client_certificate(context: ssl.SSLContext, cert_pem: str, key_pem: str) -> None:
    # OpenSSL's interface here takes files only. This one has no name and is on no disk.
    with os.fdopen(os.memfd_create("client-certificate", os.MFD_CLOEXEC), "w", encoding="ascii") as file:
        file.write(f"{cert_pem}\n{key_pem}\n")
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def in_cluster(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Load | None:
    """None: not in a pod that has a service account's token."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (directory / "token").is_file():
        return None
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    async def load() -> Access:
        return read_service_account(server, directory)

    return load


def read_service_account(server: str, directory: Path) -> Access:
    """Raises AccessError."""
    token = _read(directory / "token").strip()
    if not token:
        raise AccessError(f"{directory / 'token'}: empty")
    return Access(
        server=server,
        authorization=f"Bearer {token}",
        ca_pem=_read(directory / "ca.crt"),
        stale_after_seconds=REREAD_SECONDS,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise AccessError(f"{path}: {error}") from error


def from_kubeconfig(path: Path | None, *, timeout_seconds: float = KUBECONFIG_TIMEOUT_SECONDS) -> Load:
    """
    path: None: where kubectl looks for it.

    A child process reads it: the `kubernetes` package, which knows exec plugins and all else that may stand there,
    takes 22 MiB that this agent would keep for good. The loader raises AccessError.
    """

    async def load() -> Access:
        command = (sys.executable, "-m", "collector.kube.kubeconfig", *([str(path)] if path else []))
        name = str(path or "kubeconfig")
        try:
            child = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        # A node without memory or pids to spare. RuntimeError: nor a thread, to wait for the child.
        except (OSError, RuntimeError) as error:
            raise AccessError(f"{name}: no process can be started to read it: {error}") from error
        try:
            async with asyncio.timeout(timeout_seconds):
                stdout, stderr = await child.communicate()
        except TimeoutError as error:
            raise AccessError(f"{name}: not read within {timeout_seconds:g} s") from error
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # with the plugin that it waits for
                await child.wait()
        if child.returncode != 0:
            lines = stderr.decode(errors="replace").strip().splitlines()
            raise AccessError(f"{name}: {lines[-1] if lines else f'exit code {child.returncode}'}")
        return Access(**json.loads(stdout))

    return load
