"""
The web config file: TLS, client certificates, basic auth and headers, in the format that Prometheus exporters share.

Source: prometheus/exporter-toolkit, docs/web-configuration.md. As there, an unknown or doubled key is an error and
relative paths start at the file's directory. What the format has and this server cannot keep is refused, not ignored:
inline certificates, rate_limit, TLS below 1.2, client certificates that nobody verifies, X25519
or several curves as the curves. `http2` has no
effect: HTTP/1.1 is spoken.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import yaml

from collector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Stamp = tuple[int, int, int]
T = TypeVar("T")

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    # In the handshake optional, so that the kubelet's probes, which have none, get through to the guard.
    "RequireAndVerifyClientCert": ssl.CERT_OPTIONAL,
}
_TLS12_SUITES = {
    f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for name, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
}
# Always on where TLS 1.3 is.
_TLS13_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
# Without a choice OpenSSL takes X25519 first; to be set by the ssl module, it is none.
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1"}
_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
# $2y$10$, then 16 bytes of salt in 22 characters, and 31 characters of hash.
_BCRYPT = re.compile(r"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """
    tls: None: plain HTTP. certificate_required: the client has to show one, which the handshake has verified.
    allowed_sans: one of its subject alternative names has to be among these; empty: any will do.
    users: name -> bcrypt hash. headers: added to every response.
    """

    tls: ssl.SSLContext | None
    certificate_required: bool
    allowed_sans: frozenset[str]
    users: Mapping[str, str]
    headers: Mapping[str, str]


def load_web_config(path: Path, stamps: dict[Path, Stamp | None]) -> WebConfig:
    """
    Read the file and what it names.

    stamps: filled with what the result depends on, also where there is none; None: not to be read.

    Raises ConfigError, in which no hash and no key is quoted.
    """
    top = _Section(_read_yaml(path, stamps), str(path))
    tls = top.section("tls_server_config")
    # Made before `tls` is read out.
    certificate_required = tls.given.get("client_auth_type") == "RequireAndVerifyClientCert"
    allowed_sans = frozenset(tls.texts("client_allowed_sans"))
    if allowed_sans and not certificate_required:
        raise tls.error("client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
    config = WebConfig(
        tls=_tls_context(tls, path.parent, stamps) if tls.given else None,
        certificate_required=certificate_required,
        allowed_sans=allowed_sans,
        users=_users(top.section("basic_auth_users")),
        headers=_headers(top.section("http_server_config")),
    )
    top.end()
    return config


def stamp_of(path: Path) -> Stamp | None:
    """Changes when the file does: rewritten, replaced, or behind another symbolic link (a Secret's volume)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class _Section:
    """A mapping whose keys are taken one by one, so that what is left is known to be unknown."""

    def __init__(self, value: object, where: str) -> None:
        self._where = where
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{where}: must be a mapping")
        self.given: dict[object, object] = value or {}
        self._left = dict(self.given)

    def error(self, key: object, reason: str) -> ConfigError:
        return ConfigError(f"{self._where}: {key}: {reason}")

    def section(self, key: str) -> _Section:
        return _Section(self._left.pop(key, None), f"{self._where}: {key}")

    def text(self, key: str) -> str | None:
        value = self._left.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value or None

    def texts(self, key: str) -> list[str]:
        value = self._left.pop(key, None) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "must be a list of strings")
        return value

    def flag(self, key: str) -> bool:
        value = self._left.pop(key, True)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, T], default: str) -> T:
        value = self.text(key) or default
        if value not in choices:
            raise self.error(key, f"must be one of {', '.join(choices)}")
        return choices[value]

    def end(self) -> None:
        for key in self._left:
            raise self.error(key, "is not known, or not supported by this server")


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """As the parent, which lets the last of several equal keys win."""
        if len({str(key.value) for key, _ in node.value}) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        mapping: dict[object, object] = super().construct_mapping(node, deep=deep)
        return mapping


def _read_yaml(path: Path, stamps: dict[Path, Stamp | None]) -> object:
    stamps[path] = stamp_of(path)
    try:
        with path.open("rb") as file:
            value: object = yaml.load(file, _StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" line {error.problem_mark.line + 1}:"
        raise ConfigError(f"{path}:{line} {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML") from error
    return value


def _tls_context(section: _Section, base: Path, stamps: dict[Path, Stamp | None]) -> ssl.SSLContext:
    def file(key: str) -> Path | None:
        name = section.text(key)
        if name is None:
            return None
        stamps[base / name] = stamp_of(base / name)
        return base / name

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = section.choice("min_version", _VERSIONS, "TLS12")
    context.maximum_version = section.choice("max_version", _VERSIONS, "TLS13")
    if context.minimum_version > context.maximum_version:
        raise section.error("min_version", "is above max_version")
    _set_suites(context, section)
    certificate, key = file("cert_file"), file("key_file")
    if certificate is None or key is None:
        raise section.error("cert_file, key_file", "both are needed")
    try:
        # A password, even none, keeps OpenSSL from asking the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise section.error("cert_file, key_file", f"{certificate}, {key}: {_reason(error)}") from error
    _set_client_authorities(context, section, file("client_ca_file"))
    section.end()
    return context


def _set_suites(context: ssl.SSLContext, section: _Section) -> None:
    suites = section.texts("cipher_suites")
    for suite in suites:
        if suite not in _TLS12_SUITES and suite not in _TLS13_SUITES:
            raise section.error("cipher_suites", f"{suite!r} is none of {', '.join((*_TLS12_SUITES, *_TLS13_SUITES))}")
    old = [_TLS12_SUITES[suite] for suite in suites if suite in _TLS12_SUITES]
    if old:
        context.set_ciphers(":".join(old))
    elif suites and context.minimum_version < ssl.TLSVersion.TLSv1_3:
        raise section.error("cipher_suites", "has none for TLS 1.2, so min_version: TLS13 is needed")
    if not section.flag("prefer_server_cipher_suites"):
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    curves = section.texts("curve_preferences")
    if curves:
        if len(curves) > 1 or curves[0] not in _CURVES:
            raise section.error("curve_preferences", f"must be one of {', '.join(_CURVES)}")
        context.set_ecdh_curve(_CURVES[curves[0]])


def _set_client_authorities(context: ssl.SSLContext, section: _Section, authorities: Path | None) -> None:
    verify = section.choice("client_auth_type", _VERIFY, "NoClientCert")
    if (verify is ssl.CERT_NONE) is not (authorities is None):
        raise section.error("client_auth_type", "client_ca_file is needed where clients are verified, and only there")
    if authorities is None:
        return
    try:
        context.load_verify_locations(authorities)
    except (OSError, ValueError) as error:
        raise section.error("client_ca_file", f"{authorities}: {_reason(error)}") from error
    context.verify_mode = verify
    # What the file holds is trusted, also an intermediate without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _users(section: _Section) -> dict[str, str]:
    users: dict[str, str] = {}
    for name, hashed in section.given.items():
        if not isinstance(name, str) or ":" in name:
            raise section.error(name, "a user's name must be a string without a colon")
        if not isinstance(hashed, str) or not _BCRYPT.fullmatch(hashed):
            raise section.error(name, "must be a password's bcrypt hash ($2y$...)")
        users[name] = hashed
    return users


def _headers(section: _Section) -> dict[str, str]:
    section.flag("http2")
    given = section.section("headers")
    section.end()
    headers: dict[str, str] = {}
    for name, allowed in _HEADERS.items():
        value = given.text(name)
        if value is None:
            continue
        if (allowed and value not in allowed) or not value.isprintable():
            raise given.error(name, f"must be one of {', '.join(allowed)}" if allowed else "must be one printable line")
        headers[name] = value
    given.end()
    return headers


def _reason(error: Exception) -> str:
    """Of an SSLError, OpenSSL's own words; its strerror has a line of C code in it."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
