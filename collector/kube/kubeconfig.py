"""
The child process that reads a kubeconfig, exec plugins included: `python -m collector.kube.kubeconfig [PATH]`.

Prints the fields of Access as JSON. What goes wrong is one line on stderr, and exit code 1.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

# A token that lives shorter than that is still used for as long before the plugin is asked again.
_LEAST_SECONDS = 60.0


def main(path: str | None) -> int:
    try:
        from kubernetes.client import Configuration
        from kubernetes.config import kube_config
    except ImportError as error:
        sys.stderr.write(f"the Python package `kubernetes` reads kubeconfig files: {error}\n")
        return 1
    configuration = Configuration()
    try:
        # All of it is untyped.
        merged = kube_config.KubeConfigMerger(path or kube_config.KUBE_CONFIG_DEFAULT_LOCATION).config  # type: ignore[no-untyped-call]
        if merged is None:
            sys.stderr.write("no such file, or nothing in it\n")
            return 1
        # None: paths in a file are relative to that file.
        loader = kube_config.KubeConfigLoader(config_dict=merged, config_base_path=None)  # type: ignore[no-untyped-call]
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    # Plugins, YAML, base64 and files of any kind: whatever it is, the agent has no access.
    except Exception as error:  # noqa: BLE001
        sys.stderr.write(f"{error}".replace("\n", " ") + "\n")
        return 1
    expiry = getattr(loader, "expiry", None)
    json.dump(
        {
            "server": configuration.host,
            "authorization": configuration.api_key.get("BearerToken"),
            "verify": bool(configuration.verify_ssl),
            "ca_pem": _read(configuration.ssl_ca_cert),
            "cert_pem": _read(configuration.cert_file),
            "key_pem": _read(configuration.key_file),
            "tls_server_name": configuration.tls_server_name,
            "proxy": configuration.proxy,
            "stale_after_seconds": _seconds_to(expiry) if isinstance(expiry, datetime) else None,
        },
        sys.stdout,
    )
    return 0


def _read(path: str | None) -> str | None:
    return Path(path).read_text(encoding="utf-8") if path else None


def _seconds_to(expiry: datetime) -> float:
    if expiry.tzinfo is None:
        expiry = expiry.replace(tzinfo=UTC)
    return max(_LEAST_SECONDS, (expiry - datetime.now(UTC)).total_seconds() - _LEAST_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
