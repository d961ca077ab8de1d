"""containerd as Debian ships it, called through the Container Runtime Interface."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from .agent import wait_until
from .containers import ROOT, sh

IMAGE = "localhost/lab:1"  # busybox and hog; for sandboxes too, where it sleeps
SOCKET = "/run/containerd/containerd.sock"
HANDLERS = {"systemd": "true", "cgroupfs": "false"}  # runtime handler -> SystemdCgroup
WORK = Path("/run/cri")
CALL_SECONDS = 120  # emulated, a container takes seconds
START_SECONDS = 60

# native: the overlay module is not on the root disk.
CONFIG = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "systemd"
"""
HANDLER = """\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
SystemdCgroup = {systemd}
"""


class Cri:
    """The RuntimeService: messages as dictionaries, with the field names of cri.proto."""

    def __init__(self) -> None:
        grpc: Any = importlib.import_module("grpc")  # in the guest only
        self._error: type[Exception] = grpc.RpcError
        sh("protoc", f"--proto_path={Path(__file__).parent}", f"--python_out={WORK}", "cri.proto")
        sys.path.append(str(WORK))
        self._messages: Any = importlib.import_module("cri_pb2")
        self._json: Any = importlib.import_module("google.protobuf.json_format")
        self._channel = grpc.insecure_channel(f"unix://{SOCKET}")
        self._wait_ready()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Containers go on meanwhile."""
        sh("systemctl", "stop", "containerd")
        yield
        sh("systemctl", "start", "containerd")
        self._wait_ready()

    def call(self, method: str, **fields: Any) -> dict[str, Any]:
        """Raises grpc.RpcError."""
        request = self._json.ParseDict(fields, getattr(self._messages, f"{method}Request")())
        reply = getattr(self._messages, f"{method}Response")
        ask = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return dict(
            self._json.MessageToDict(
                ask(request, timeout=CALL_SECONDS, wait_for_ready=True),
                preserving_proto_field_name=True,
                including_default_value_fields=True,
            )
        )

    def _wait_ready(self) -> None:
        """For systemd it has started before it takes calls."""

        def answers() -> bool:
            try:
                return bool(self.call("Version"))
            except self._error:
                return False

        wait_until(answers, START_SECONDS, lambda: "containerd takes no calls")


@cache
def containerd() -> Cri:
    """Start it once a boot, with the image in its store."""
    WORK.mkdir()
    for name in ("hosts", "resolv.conf"):  # containerd copies them into each sandbox
        Path("/etc", name).touch()
    handlers = [HANDLER.format(name=name, systemd=systemd) for name, systemd in HANDLERS.items()]
    Path("/etc/containerd/config.toml").write_text(CONFIG.format(image=IMAGE) + "".join(handlers))
    sh("systemctl", "start", "containerd")
    image = WORK / "image.tar"
    write_image(image)
    sh("ctr", "--namespace", "k8s.io", "images", "import", "--snapshotter", "native", str(image))
    return Cri()


def write_image(path: Path) -> None:
    """One layer with /lab/rootfs in it, in the format of `docker save`."""
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(ROOT, "")
    layer = packed.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    files: Mapping[str, bytes] = {
        "layer.tar": layer,
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
