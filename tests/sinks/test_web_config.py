"""The web config file: what it may say, and what is refused with a reason."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from collector.errors import ConfigError
from collector.sinks.web_config import load_web_config

if TYPE_CHECKING:
    from pathlib import Path

    from collector.sinks.web_config import WebConfig

TLS = "tls_server_config: {cert_file: tls.crt, key_file: tls.key, %s}"
CLIENTS = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt"
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web")
    authority = trustme.CA()
    certificate = authority.issue_cert("agent.test")
    certificate.cert_chain_pems[0].write_to_path(str(path / "tls.crt"))
    certificate.private_key_pem.write_to_path(str(path / "tls.key"))
    authority.issue_cert("other.test").private_key_pem.write_to_path(str(path / "other.key"))
    authority.cert_pem.write_to_path(str(path / "ca.crt"))
    return path


def load(directory: Path, text: str) -> WebConfig:
    path = directory / "web.yml"
    path.write_text(text)
    return load_web_config(path, {})


@pytest.mark.parametrize("text", ["", "{}", "tls_server_config:\nbasic_auth_users:\n"], ids=["empty", "{}", "sections"])
def test_nothing_said_is_plain_http_for_everybody(directory: Path, text: str) -> None:
    config = load(directory, text)
    assert (config.tls, config.users, config.headers) == (None, {}, {})


def test_tls_is_1_2_and_newer_unless_said_otherwise(directory: Path) -> None:
    tls = load(directory, TLS % "").tls
    assert tls is not None
    assert (tls.minimum_version, tls.maximum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert tls.verify_mode is ssl.CERT_NONE


def test_suites_are_named_as_go_names_them(directory: Path) -> None:
    suites = "cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]"
    tls = load(directory, TLS % suites).tls
    assert tls is not None
    assert [suite["name"] for suite in tls.get_ciphers() if suite["protocol"] == "TLSv1.2"] == [
        "ECDHE-RSA-AES128-GCM-SHA256"
    ]


def test_every_suite_of_the_format_is_one_of_openssl(directory: Path) -> None:
    suites = [
        f"TLS_ECDHE_{key}_WITH_{cipher}"
        for key in ("RSA", "ECDSA")
        for cipher in (
            "AES_128_CBC_SHA",
            "AES_256_CBC_SHA",
            "AES_128_GCM_SHA256",
            "AES_256_GCM_SHA384",
            "CHACHA20_POLY1305_SHA256",
        )
    ]
    tls = load(directory, TLS % f"cipher_suites: [{', '.join(suites)}]").tls
    assert tls is not None
    # TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 and its like are of TLS 1.2, CBC suites of 1.0.
    assert len([suite for suite in tls.get_ciphers() if suite["protocol"] != "TLSv1.3"]) == len(suites)


def test_everything_together(directory: Path) -> None:
    rest = f"{CLIENTS}, client_allowed_sans: [prometheus.test], curve_preferences: [CurveP256]"
    config = load(
        directory,
        f"""
        {TLS % f"{rest}, min_version: TLS13, prefer_server_cipher_suites: false"}
        http_server_config: {{http2: false, headers: {{X-Frame-Options: deny, Content-Security-Policy: ""}}}}
        basic_auth_users: {{alice: {HASH}}}
        """,
    )
    assert config.certificate_required
    assert config.allowed_sans == {"prometheus.test"}
    assert config.users == {"alice": HASH}
    assert config.headers == {"X-Frame-Options": "deny"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("a: [", "line 1: ", id="no YAML"),
        pytest.param("a: \0", "is not YAML", id="no text"),
        pytest.param("- a", "must be a mapping", id="a list"),
        pytest.param("basic_auth_user: {a: b}", "basic_auth_user: is not known", id="unknown section"),
        pytest.param(TLS % "cert_fil: x", "cert_fil: is not known", id="unknown key"),
        pytest.param("http_server_config: {port: 1}", "port: is not known", id="unknown key of HTTP"),
        pytest.param("rate_limit: {interval: 1s}", "rate_limit: .*not supported", id="not supported"),
        pytest.param("basic_auth_users: {}\nbasic_auth_users: {}", "given twice", id="doubled section"),
        pytest.param(f"basic_auth_users: {{a: {HASH}, a: {HASH}}}", "given twice", id="doubled user"),
        pytest.param("tls_server_config: {min_version: TLS13}", "both are needed", id="TLS without a certificate"),
        pytest.param("tls_server_config: {cert_file: tls.crt}", "both are needed", id="no key"),
        pytest.param(
            "tls_server_config: {cert_file: absent.crt, key_file: tls.key}", "No such file", id="no such file"
        ),
        pytest.param("tls_server_config: {cert_file: tls.crt, key_file: other.key}", "mismatch", id="another's key"),
        pytest.param("tls_server_config: {cert_file: web.yml, key_file: tls.key}", "web.yml, ", id="no certificate"),
        pytest.param("tls_server_config: {cert_file: 1, key_file: tls.key}", "must be a string", id="no string"),
        pytest.param(TLS % "min_version: TLS11", "must be one of TLS12, TLS13", id="too old a version"),
        pytest.param(TLS % "min_version: TLS13, max_version: TLS12", "above max_version", id="no version left"),
        pytest.param(TLS % "cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]", "RC4_128_SHA' is none of", id="bad suite"),
        pytest.param(TLS % "cipher_suites: TLS_AES_128_GCM_SHA256", "must be a list", id="suite, no list"),
        pytest.param(TLS % "cipher_suites: [TLS_AES_128_GCM_SHA256]", "none for TLS 1.2", id="suites of 1.3 only"),
        pytest.param(TLS % "curve_preferences: [CurveP256, CurveP384]", "must be one of", id="two curves"),
        pytest.param(TLS % "prefer_server_cipher_suites: 1", "true or false", id="no flag"),
        pytest.param(TLS % "client_auth_type: RequireAnyClientCert", "must be one of", id="nobody verifies"),
        pytest.param(TLS % "client_auth_type: RequireAndVerifyClientCert", "client_ca_file is needed", id="no CA"),
        pytest.param(TLS % "client_ca_file: ca.crt", "client_ca_file is needed where", id="CA without a use"),
        pytest.param(TLS % CLIENTS.replace("ca.crt", "tls.key"), "client_ca_file: ", id="a key as CA"),
        pytest.param(TLS % "client_allowed_sans: [a]", "RequireAndVerifyClientCert", id="names of nobody"),
        pytest.param("http_server_config: {headers: {Server: x}}", "Server: is not known", id="header"),
        pytest.param("http_server_config: {headers: {X-Frame-Options: x}}", "must be one of deny", id="header's value"),
        pytest.param(
            'http_server_config: {headers: {X-XSS-Protection: "a\\nb"}}', "must be one printable line", id="two headers"
        ),
        pytest.param("basic_auth_users: {a: secret}", "must be a password's bcrypt hash", id="plain password"),
        pytest.param(f"basic_auth_users: {{1: {HASH}}}", "must be a string", id="user's name"),
        pytest.param(f"basic_auth_users: {{a: {HASH.replace('zou', 'zoa')}}}", "bcrypt", id="half a byte of salt"),
    ],
)
def test_refused(directory: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        load(directory, text)
    assert "secret" not in str(caught.value)
    assert HASH[:28] not in str(caught.value)


def test_a_missing_file_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.yml: No such file"):
        load_web_config(tmp_path / "web.yml", {})


def test_an_encrypted_key_is_refused_and_no_terminal_is_asked(directory: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((directory / "tls.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (directory / "locked.key").write_bytes(encrypted)
    with pytest.raises(ConfigError, match=r"locked\.key: "):
        load(directory, "tls_server_config: {cert_file: tls.crt, key_file: locked.key}")
