"""A machine with one container and an agent as it ships: it is told of kills by the kernel log alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trustme

from tests import lines
from tests.agent_process import AgentProcess, Log
from tests.cgroups import tree_maker

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 48 << 20
_WEB_CONFIG = """
tls_server_config:
  cert_file: tls.crt
  key_file: tls.key
  client_ca_file: ca.crt
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [prometheus]
"""


class Machine:
    """`host`: an address of loopback. authority: of its certificate and its clients'; None: plain HTTP."""

    def __init__(self, directory: Path, host: str, namespace: str, authority: trustme.CA | None, *flags: str) -> None:
        directory.mkdir()
        self.host = host
        self.namespace = namespace
        self._directory = directory
        self._kernel_log = Log(directory / "kernel.log")
        self._next_pid = 257
        self._flags = [
            *("--kernel-log", f"file:{directory / 'kernel.log'}", "--state-dir", str(directory / "state")),
            *("--cgroup-root", str(directory / "cgroup"), "--sample-interval", "1", "--proc-connector", "off"),
            *("--kubernetes", "off", "--pod-logs", str(directory / "log"), "--node-name", host, *flags),
        ]
        tree_maker.make_cgroup(tree_maker.make_root(directory / "cgroup"), lines.CONTAINER, limit=LIMIT)
        links = directory / "log/containers"
        links.mkdir(parents=True)
        (links / f"cart-0_{namespace}_cart-{lines.CONTAINER_ID}.log").symlink_to("0.log")
        if authority is not None:
            self._certify(authority)
        self.agent = self._start(f"{host}:0")
        self.address = self.agent.url.rpartition("/")[2]

    def _certify(self, authority: trustme.CA) -> None:
        certificate = authority.issue_cert(self.host)
        certificate.cert_chain_pems[0].write_to_path(str(self._directory / "tls.crt"))
        certificate.private_key_pem.write_to_path(str(self._directory / "tls.key"))
        authority.cert_pem.write_to_path(str(self._directory / "ca.crt"))
        web_config = self._directory / "web.yml"
        web_config.write_text(_WEB_CONFIG)
        self._flags += ("--web-config-file", str(web_config))

    def _start(self, address: str) -> AgentProcess:
        return AgentProcess(*self._flags, "--listen", address, directory=self._directory)

    def restart(self) -> None:
        """kill -9, and again with the same state at the same address."""
        self.agent.kill()
        self.agent = self._start(self.address)

    def run_out_of_memory(self) -> None:
        """The whole machine; the victim is the container's."""
        summary = lines.summary(oom_memcg=None, constraint="CONSTRAINT_NONE", pid=self._next_pid)
        self._kernel_log.write([summary, lines.kill(prefix="Out of memory: ", pid=self._next_pid)])
        self._next_pid += 1

    def reach_the_limit(self) -> None:
        """The container's own."""
        self._kernel_log.write(lines.report(pid=self._next_pid))
        self._next_pid += 1
